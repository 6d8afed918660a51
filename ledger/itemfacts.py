"""What one event says about one thing, and the fold of such facts into the thing's state: pure, no I/O."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from core.epcis.vocabulary import local_name
from core.errors import Rejected
from core.identifiers import canonical
from core.identifiers import class_of as _class_of
from ledger.followers import LoggedEvent

class_of = lru_cache(maxsize=100_000)(_class_of)
PARENT, INPUT, INPUT_QUANTITY, LOT, CHILD = 1, 2, 3, 4, 7
ITEM_ROLES = frozenset({1, 2, 3, 4, 6, 7, 8, 9, 10, 11})
# Looking at goods does not take custody of them.
LOOKING = frozenset(
    {"inspecting", "sampling", "cycle_counting", "stock_taking", "sensor_reporting", "entering_exiting"}
)
ENDING = frozenset({"decommissioning", "destroying"})
SOLD = frozenset({"retail_sold", "dispensed"})
GONE = frozenset({"inactive", "destroyed", "disposed"})


@dataclass(frozen=True, order=True)
class When:
    """The order of facts: device time, then leaf index, then event number."""

    device_ms: int
    leaf: int
    event: int


@dataclass(frozen=True)
class Fact:
    """What one event says about one thing.

    Attributes:
        roles: the roles in which the event names it.
        parent: the container named by the event, None for none.
        voids: the event is an error declaration of the event with this (org, eventID).
        event_id: the event's own eventID, "" when it has none.
        persistent: persistent dispositions set and unset.
        sensors: type -> {"value", "uom", "time", "min", "max"} as text.
    """

    when: When
    type: str
    action: str
    step: str
    disposition: str
    org: str
    roles: tuple[int, ...]
    place: str | None = None
    parent: str | None = None
    lot: str | None = None
    owner: str | None = None
    event_id: str = ""
    voids: bool = False
    persistent: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    sensors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def encode(self) -> str:
        """JSON text for the store."""
        value = {name: getattr(self, name) for name in _STORED}
        return json.dumps({k: v for k, v in value.items() if v}, ensure_ascii=False, separators=(",", ":"))


_STORED = (
    "type", "action", "step", "disposition", "org", "roles", "place", "parent", "lot", "owner", "event_id", "voids",
    "persistent", "sensors",
)  # fmt: skip


@dataclass(frozen=True)
class ItemState:
    """Where a thing is and how it stands, by all evidence logged so far.

    Attributes:
        place: the last place named (business location, else read point).
        custodian: the organisation that last handled it.
        container: the unit it is packed in, None when it stands free.
        sensors: per measurement the last value with its lowest and highest, as text.
        first_ms: device time of its first event, unix ms. last: place in order of its newest event.
        events: how many events name it.
    """

    id: str
    product: str | None
    lot: str | None
    place: str | None
    custodian: str | None
    owner: str | None
    container: str | None
    biz_step: str | None
    disposition: str | None
    is_sold: bool
    is_recalled: bool
    is_decommissioned: bool
    first_ms: int
    last: When
    events: int
    sensors: Mapping[str, Mapping[str, str]]


def decode(when: When, text: str) -> Fact:
    """The fact in its stored text."""
    value = json.loads(text)
    value["roles"] = tuple(value.get("roles", ()))
    if "persistent" in value:
        value["persistent"] = tuple(tuple(part) for part in value["persistent"])
    for name in ("type", "action", "step", "disposition", "org"):
        value.setdefault(name, "")
    return Fact(when=when, **value)


def facts_of(event: LoggedEvent) -> dict[str, Fact]:
    """What an event says about each thing it names."""
    body, clear = event.event, event.clear
    parents = event.names(PARENT)
    lots = {class_of(lot): lot for lot in event.names(LOT)}
    declaration = clear.get("errorDeclaration")
    base = Fact(
        when=When(event.device_ms, event.leaf, event.number),
        type=str(clear.get("type", "")),
        action=str(clear.get("action", "")),
        step=local_name(str(clear.get("bizStep", "")), "bizStep"),
        disposition=local_name(str(clear.get("disposition", "")), "disposition"),
        org=event.org,
        roles=(),
        place=_place(body),
        owner=_party(body.get("destinationList"), "owning_party"),
        event_id=str(body.get("eventID", "")),
        voids=isinstance(declaration, Mapping),
        persistent=_persistent(body.get("persistentDisposition")),
        sensors=_sensors(body, str(clear.get("eventTime", ""))),
    )
    found: dict[str, Fact] = {}
    for item in event.items:
        if item.role not in ITEM_ROLES:
            continue
        before = found.get(item.id)
        roles = (item.role,) if before is None else (*before.roles, item.role)
        parent = parents[0] if parents and item.role == CHILD and parents[0] != item.id else None
        found[item.id] = replace(
            base, roles=roles, parent=parent or (before.parent if before else None), lot=lots.get(class_of(item.id))
        )
    return found


def fold(item_id: str, facts: Iterable[Fact]) -> ItemState | None:
    """The state after all facts, whatever order they came in; None when all of them are void."""
    ordered = sorted(facts, key=lambda fact: fact.when)
    void = {(fact.org, fact.event_id) for fact in ordered if fact.voids and fact.event_id}
    state: ItemState | None = None
    for fact in ordered:
        if not fact.voids and (fact.org, fact.event_id) not in void:
            state = advance(item_id, state, fact)
    return state


def advance(item_id: str, state: ItemState | None, fact: Fact) -> ItemState:
    """The state after one more fact, newer than all before."""
    product = class_of(item_id)
    before = state or ItemState(
        id=item_id,
        product=None if product == item_id else product,
        lot=item_id if product and _is_lot(item_id) else None,
        place=None,
        custodian=None,
        owner=None,
        container=None,
        biz_step=None,
        disposition=None,
        is_sold=False,
        is_recalled=False,
        is_decommissioned=False,
        first_ms=fact.when.device_ms,
        last=fact.when,
        events=0,
        sensors={},
    )
    set_now, unset_now = fact.persistent
    is_recalled = before.is_recalled or fact.disposition == "recalled" or "recalled" in set_now
    if "recalled" in unset_now:
        is_recalled = False
    is_consumed = INPUT in fact.roles
    custodian = before.custodian if fact.step in LOOKING and before.custodian else fact.org
    return replace(
        before,
        lot=fact.lot or before.lot,
        place=fact.place or before.place,
        custodian=custodian,
        owner=fact.owner or before.owner or custodian,
        container=_container(before, fact),
        biz_step=fact.step or before.biz_step,
        disposition=fact.disposition or before.disposition,
        is_sold=_is_sold(before, fact),
        is_recalled=is_recalled,
        is_decommissioned=before.is_decommissioned or is_consumed or _is_ended(fact),
        last=fact.when,
        events=before.events + 1,
        sensors=_merge(before.sensors, fact.sensors),
    )


def _container(before: ItemState, fact: Fact) -> str | None:
    if fact.type != "AggregationEvent" or CHILD not in fact.roles:
        return before.container
    if fact.action == "DELETE":
        return None if fact.parent in (None, before.container) else before.container
    return fact.parent or before.container


def _is_sold(before: ItemState, fact: Fact) -> bool:
    if fact.disposition == "returned" or fact.disposition == "sellable_accessible":
        return False
    return before.is_sold or fact.step == "retail_selling" or fact.disposition in SOLD


def _is_ended(fact: Fact) -> bool:
    if not set(fact.roles) - {PARENT, LOT}:
        return fact.step in ENDING and LOT not in fact.roles
    gone = fact.step in ENDING or (fact.disposition in GONE and fact.action == "DELETE")
    return gone or (fact.type == "ObjectEvent" and fact.action == "DELETE")


def _is_lot(item_id: str) -> bool:
    return "/10/" in item_id


def _place(body: Mapping[str, Any]) -> str | None:
    for name in ("bizLocation", "readPoint"):
        place = body.get(name)
        if isinstance(place, Mapping) and isinstance(place.get("id"), str):
            try:
                return canonical(place["id"])
            except Rejected:
                return str(place["id"])
    return None


def _party(ends: Any, kind: str) -> str | None:
    for end in ends if isinstance(ends, list) else []:
        if isinstance(end, Mapping) and local_name(str(end.get("type", "")), "sourceDest") == kind:
            text = str(end.get("destination", ""))
            try:
                return _organisation(canonical(text))
            except Rejected:
                return text or None
    return None


def _organisation(identifier: str) -> str:
    # A party is written as PGLN (417) or, in older data, as a location (414): one GLN, one organisation.
    return identifier.replace("/414/", "/417/").split("/254/")[0]


def _persistent(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(value, Mapping):
        return ((), ())
    parts = []
    for name in ("set", "unset"):
        words = value.get(name)
        parts.append(tuple(local_name(str(word), "disposition") for word in words) if isinstance(words, list) else ())
    return (parts[0], parts[1])


def _sensors(body: Mapping[str, Any], event_time: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for element in body.get("sensorElementList") or []:
        if not isinstance(element, Mapping):
            continue
        metadata = element.get("sensorMetadata")
        time = metadata.get("time", event_time) if isinstance(metadata, Mapping) else event_time
        for report in element.get("sensorReport") or []:
            if not isinstance(report, Mapping) or "type" not in report:
                continue
            values = [report[name] for name in ("value", "minValue", "maxValue") if _is_number(report.get(name))]
            if values:
                reading = {
                    "value": str(values[0]), "uom": str(report.get("uom", "")), "time": str(report.get("time", time)),
                    "min": str(min(values)), "max": str(max(values)),
                }  # fmt: skip
                found = _merge(found, {local_name(str(report["type"]), "measurement"): reading})
    return found


def _is_number(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | str | list | dict)


def _merge(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    merged = {name: dict(reading) for name, reading in before.items()}
    for name, reading in now.items():
        old = merged.get(name)
        if old is None or old["uom"] != reading["uom"]:
            merged[name] = dict(reading)
            continue
        merged[name] = dict(reading) | {
            "min": str(min(Decimal(old["min"]), Decimal(reading["min"]))),
            "max": str(max(Decimal(old["max"]), Decimal(reading["max"]))),
        }
    return merged
