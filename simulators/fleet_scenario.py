"""Fleet scenarios: a TOML file becomes a cast of thousands and, per device, a source of events."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from core.crypto import P256Private
from core.errors import Rejected
from core.records import ROLES
from simulators.cast import CITIES, Cast, DeviceSpec, Organisation, Place, Product
from simulators.keys import URN, Gtin, Key, place
from simulators.randomness import Drbg
from simulators.scribe import Event, Ledger, Scribe, decimal
from simulators.signals import Room, Route, cycle, daily, door_openings

FOLDER = Path(__file__).parent / "fleets"
DEVICES_MAX = 20_000
_KINDS = {
    "machine": ("production", ("commissioning",)),
    "room": ("warehouse", ("sensor_reporting",)),
    "truck": ("logistics", ("transporting",)),
    "counter": ("warehouse", ("cycle_counting",)),
    "till": ("retail", ()),
}
_NAME = re.compile(r"[a-z0-9-]{1,18}\Z")  # 18: a GIAI has at most 30 characters
_TYPES: dict[str, tuple[type, ...]] = {
    "<class 'str'>": (str,), "<class 'int'>": (int,), "<class 'float'>": (int, float), "tuple[str, ...]": (tuple,),
}  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Devices that are alike.

    Attributes:
        kind: machine, room, truck, counter or till.
        count: how many; every_s: seconds between messages of one device.
        events_per_message: how many events share a message.
        product: handle of what it makes, counts or sells.
        period_s, duty: length of a machine's cycle and the busy share of it.
        mass_kg: what one piece weighs; stock: pieces that a counter watches.
        set_point, leak, door_gain, openings_per_day: a cooled room or load space; limit: above it, an alarm.
        route, speed_km_h: cities a truck drives through, there and back.
        step, disposition: what a till reports.
    """

    name: str
    org: str
    kind: str
    count: int
    every_s: int
    place: str = ""
    events_per_message: int = 1
    product: str = ""
    period_s: int = 3_600
    duty: float = 1.0
    mass_kg: float = 0.0
    stock: int = 20
    set_point: float = 20.0
    leak: float = 0.2
    door_gain: float = 0.0
    openings_per_day: int = 0
    limit: float = 1_000.0
    route: tuple[str, ...] = ()
    speed_km_h: float = 60.0
    step: str = "retail_selling"
    disposition: str = "retail_sold"


Source = Callable[[int], list[Event]]
"""The events of one device's message at a time (unix seconds); empty when it has nothing to say."""


@dataclass(frozen=True)
class FleetDevice:
    """One device of a fleet: its handle, group, key and source of events."""

    name: str
    group: Group
    key: P256Private
    source: Source


@dataclass(frozen=True)
class FleetPlan:
    """A whole fleet: whom to enrol (``cast``, with each device's key) and what each device says."""

    name: str
    cast: Cast
    devices: tuple[FleetDevice, ...]

    @property
    def messages_per_s(self) -> float:
        """How many messages a second the fleet makes at most at its natural pace."""
        return sum(1 / device.group.every_s for device in self.devices)


def scenarios() -> list[str]:
    """The names of the scenarios that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_fleet(scenario: str | Path, *, seed: int | str, start: int, devices: int | None = None) -> FleetPlan:
    """The fleet of a scenario.

    Args:
        scenario: a name out of ``scenarios()`` or a TOML file.
        seed: equal seeds give equal keys, serial numbers and readings.
        start: unix seconds at which the fleet starts.
        devices: scale all groups to about so many devices; None for the file's own numbers.

    Raises:
        Rejected: ``bad_scenario`` with what is wrong; ``too_many_devices``.
    """
    path = scenario if isinstance(scenario, Path) else FOLDER / f"{scenario}.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Rejected(
            f"There is no scenario {scenario}; there are {', '.join(scenarios())}.", code="bad_scenario"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected(f"The scenario is no TOML: {error}", code="bad_scenario") from error
    organisations = {each.name: each for each in _organisations(document)}
    groups = _scaled(list(_groups(document)), devices)
    products = tuple(_products(document, organisations))
    places = tuple(_places(document, organisations))
    specs = [_spec(group, number) for group in groups for number in range(group.count)]
    cast = Cast(tuple(organisations.values()), places, products, tuple(specs))
    _check(groups, cast)
    drbg = Drbg.of(seed, "fleet", str(document.get("name", path.stem)))
    ledger = Ledger(cast, drbg.child("ids"))
    made = []
    for group in groups:
        for number in range(group.count):
            spec = _spec(group, number)
            own = drbg.child(spec.name)
            key = P256Private.from_secret(own.child("key").take(32))
            scribe = ledger.scribe(spec.name)
            made.append(FleetDevice(spec.name, group, key, _source(group, cast, scribe, own, start)))
    return FleetPlan(str(document.get("name", path.stem)), cast, tuple(made))


def _source(group: Group, cast: Cast, scribe: Scribe, drbg: Drbg, start: int) -> Source:
    gtin = cast.product(group.product).gtin if group.product else None
    site = cast.place(group.place).key if group.place else None
    if group.kind == "room":
        return _room(group, scribe, drbg, start, site)
    if group.kind == "truck":
        return _truck(group, scribe, drbg, start)
    if gtin is None:
        raise Rejected(f"The group {group.name} names no product.", code="bad_scenario", pointer=group.name)
    if group.kind == "machine":
        return _machine(group, scribe, drbg, gtin, site)
    if group.kind == "counter":
        return _counter(group, scribe, drbg, gtin, site)
    return _till(group, scribe, drbg, gtin, site)


def _machine(group: Group, scribe: Scribe, drbg: Drbg, gtin: Gtin, site: Key | None) -> Source:
    """A machine works in cycles; while it works it makes one numbered piece per event."""
    phase = drbg.below(group.period_s)

    def source(at: int) -> list[Event]:
        load = cycle(at + phase, period_s=group.period_s, idle=0.0, busy=1.0, duty=group.duty)
        if not load:
            return []
        power = {"type": "Power", "value": decimal(7.5 * load + drbg.noise(0.4), 2), "uom": "KWT"}
        reports: list[dict[str, Any]] = [power]
        if group.mass_kg:
            mass = decimal(group.mass_kg * (1 + drbg.noise(0.004)), 1)
            reports.append({"type": "Mass", "value": mass, "uom": "KGM"})
        ilmd = {"cbvmda:lotNumber": f"L{at // 86_400}"}
        return [
            scribe.object(
                at, "commissioning", "active", action="ADD", items=[gtin.item(drbg.serial())], ilmd=ilmd,
                location=site, sensorElementList=scribe.reading(reports, end=at),
            )
            for _ in range(group.events_per_message)
        ]  # fmt: skip

    return source


def _room(group: Group, scribe: Scribe, drbg: Drbg, start: int, site: Key | None) -> Source:
    """A cooled room: the day outside, and its own doors, drawn day by day."""
    doors: dict[int, tuple[int, ...]] = {}

    def source(at: int) -> list[Event]:
        events = []
        step = group.every_s // group.events_per_message
        for late in range(group.events_per_message - 1, -1, -1):
            moment = at - late * step
            day = moment // 86_400
            if day not in doors:
                doors.clear()
                begin = day * 86_400
                opened = drbg.child("doors", str(day))
                doors[day] = door_openings(opened, start=begin, end=begin + 86_400, per_day=group.openings_per_day)
            room = Room(group.set_point, group.leak, group.door_gain, 900, doors[day])
            value = room.temperature(moment, outdoor=daily(moment, low=12, high=31)) + drbg.noise(0.1)
            humidity = {"type": "RelativeHumidity", "value": decimal(55 + drbg.noise(3), 1), "uom": "P1"}
            look = scribe.reading([_celsius(value, group.limit), humidity], end=moment)
            events.append(
                scribe.object(moment, "sensor_reporting", "in_progress", sensorElementList=look, location=site)
            )
        return events

    return source


def _truck(group: Group, scribe: Scribe, drbg: Drbg, start: int) -> Source:
    """A truck with one logistic unit on board drives there and back, with a rest of two hours at each end."""
    route = Route(tuple(CITIES[city] for city in group.route), group.speed_km_h)
    turn = route.duration_s + 7_200
    begin = start - drbg.below(turn)
    number = drbg.below(10**9)

    def source(at: int) -> list[Event]:
        leg, seconds = divmod(at - begin, turn)
        driven = min(seconds, route.duration_s)
        latitude, longitude = route.at(route.duration_s - driven if leg % 2 else driven)
        value = group.set_point + group.leak * (daily(at, low=12, high=31) - group.set_point) + drbg.noise(0.2)
        look = scribe.reading([_celsius(value, group.limit)], end=at)
        cargo = scribe.unit(3, (number + leg) % 10**9)
        point = f"geo:{latitude:.4f},{longitude:.4f}"
        return [scribe.object(at, "transporting", "in_transit", items=[cargo], point=point, sensorElementList=look)]

    return source


def _counter(group: Group, scribe: Scribe, drbg: Drbg, gtin: Gtin, site: Key | None) -> Source:
    """A hand scanner counts the same pieces again and again; now and then one is not found."""
    stock = [gtin.item(drbg.serial()) for _ in range(group.stock)]

    def source(at: int) -> list[Event]:
        seen = [item for item in stock if not drbg.chance(0.005)] or stock[:1]
        total = {"type": "Mass", "value": decimal(group.mass_kg * len(seen), 1), "uom": "KGM"}
        more: dict[str, Any] = {"sensorElementList": scribe.reading([total], end=at)} if group.mass_kg else {}
        return [scribe.object(at, "cycle_counting", "in_progress", items=seen, location=site, **more)]

    return source


def _till(group: Group, scribe: Scribe, drbg: Drbg, gtin: Gtin, site: Key | None) -> Source:
    """A till sells or gives one piece per event between 8 and 21 o'clock, Chinese time."""

    def source(at: int) -> list[Event]:
        if not 8 <= (at // 3_600 + 8) % 24 < 21:
            return []
        return [
            scribe.object(at, group.step, group.disposition, items=[gtin.item(drbg.serial())], location=site)
            for _ in range(group.events_per_message)
        ]

    return source


def _celsius(value: float, limit: float) -> dict[str, Any]:
    report: dict[str, Any] = {"type": "Temperature", "value": decimal(value, 1), "uom": "CEL"}
    return report | ({"exception": "ALARM_CONDITION"} if report["value"] > Decimal(str(limit)) else {})


def _spec(group: Group, number: int) -> DeviceSpec:
    kind, steps = _KINDS[group.kind]
    name = f"{group.name}-{number + 1:05d}"
    # The GIAI holds the group's name: two groups of one organisation must not meet.
    reference = f"{group.name.upper()}{number + 1:05d}"
    return DeviceSpec(name, group.org, reference, kind, group.place, name, name, steps or (group.step,))


def _scaled(groups: list[Group], devices: int | None) -> list[Group]:
    total = sum(group.count for group in groups)
    if devices is not None:
        groups = [_replace(group, max(1, group.count * devices // max(1, total))) for group in groups]
        total = sum(group.count for group in groups)
    if total > DEVICES_MAX:
        raise Rejected(f"A fleet has at most {DEVICES_MAX} devices.", code="too_many_devices", pointer="count")
    return groups


def _replace(group: Group, count: int) -> Group:
    return Group(**{**{each.name: getattr(group, each.name) for each in fields(Group)}, "count": count})


def _check(groups: list[Group], cast: Cast) -> None:
    handles = {
        "org": {each.name for each in cast.organisations},
        "place": {each.name for each in cast.places} | {""},
        "product": {each.name for each in cast.products} | {""},
    }
    for group in groups:
        for member, known in handles.items():
            if getattr(group, member) not in known:
                raise _bad(f"group {group.name}: there is no {member} {getattr(group, member)!r}", group.name)
        if group.kind not in _KINDS:
            raise _bad(f"group {group.name}: kind is one of {', '.join(_KINDS)}", group.name)
        numbers = (group.count, group.every_s, group.events_per_message, group.period_s, group.stock)
        if min(numbers) < 1 or group.speed_km_h <= 0 or not 0 <= group.duty <= 1:
            raise _bad(f"group {group.name}: counts, seconds and speed are above zero, duty from 0 to 1", group.name)
        if group.kind == "truck" and (len(group.route) < 2 or not set(group.route) <= set(CITIES)):
            raise _bad(f"group {group.name}: a route has two or more of {', '.join(CITIES)}", group.name)
    names = [group.name for group in groups]
    if not groups or len(names) != len(set(names)):
        raise _bad("there is at least one group, and each has its own name", "group")


def _groups(document: Mapping[str, Any]) -> Iterator[Group]:
    for table in _tables(document, "group"):
        group = _build(Group, table, "group")
        for each in fields(Group):
            value = getattr(group, each.name)
            if type(value) not in _TYPES[str(each.type)]:
                raise _bad(f"group {group.name}: {each.name} is no {each.type}", each.name)
        if not _NAME.match(group.name) or group.kind not in _KINDS:
            raise _bad(f"group {group.name}: name it a-z, 0-9 and -; kind is one of {', '.join(_KINDS)}", group.name)
        yield group


def _organisations(document: Mapping[str, Any]) -> Iterator[Organisation]:
    for table in _tables(document, "organisation"):
        organisation = _build(Organisation, {"spelling": URN, **table}, "organisation")
        if not re.match(r"952[0-9]{4}\Z", str(organisation.prefix)) or organisation.role not in ROLES:
            raise _bad("an organisation has a prefix 952.... for demonstrations and a known role", "organisation")
        yield organisation


def _products(document: Mapping[str, Any], organisations: Mapping[str, Organisation]) -> Iterator[Product]:
    for table in _tables(document, "product"):
        org = _of(organisations, table, "product")
        rest = {name: value for name, value in table.items() if name != "reference"}
        yield _build(Product, {**rest, "gtin": Gtin(org.prefix, int(table.get("reference", 1)))}, "product")


def _places(document: Mapping[str, Any], organisations: Mapping[str, Organisation]) -> Iterator[Place]:
    for table in _tables(document, "place"):
        org = _of(organisations, table, "place")
        if table.get("city") not in CITIES:
            raise _bad(f"a place lies in one of {', '.join(CITIES)}", "place")
        rest = {name: value for name, value in table.items() if name != "reference"}
        key = place(org.prefix, int(table.get("reference", 1)))
        yield _build(Place, {"address": f"{table['city']} (demo)", **rest, "key": key}, "place")


def _of(organisations: Mapping[str, Organisation], table: Mapping[str, Any], what: str) -> Organisation:
    if table.get("org") not in organisations:
        raise _bad(f"a {what} belongs to an organisation of the file", what)
    return organisations[table["org"]]


def _tables(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _bad(f"write [[{name}]], once for each", name)
    return tables


def _build(kind: type[T], table: Mapping[str, Any], what: str) -> T:
    members = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    try:
        return kind(**members)
    except TypeError as error:
        raise _bad(f"a {what} has other members: {error}", what) from error


def _bad(why: str, pointer: str) -> Rejected:
    return Rejected(f"The scenario is wrong: {why}.", code="bad_scenario", pointer=pointer)
