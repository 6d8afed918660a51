"""What the rules need of an event, and how it is kept: pure, no I/O."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from core.epcis.vocabulary import local_name
from core.errors import Rejected
from core.identifiers import canonical
from ledger.followers import LoggedEvent
from ledger.itemfacts import class_of
from ledger.massbalance import PIECES, Amount, amounts_of
from ledger.queryindex import event_key

PARENT, INPUT, INPUT_QUANTITY, LOT, TRANSFORMATION, EPC, CHILD, OUTPUT = 1, 2, 3, 4, 5, 6, 7, 8
QUANTITY, CHILD_QUANTITY, OUTPUT_QUANTITY = 9, 10, 11
_KINDS: Final = {
    "ObjectEvent": "O", "AggregationEvent": "A", "TransformationEvent": "T", "TransactionEvent": "X",
    "AssociationEvent": "S",
}  # fmt: skip
_LISTS: Final = {"quantityList": 9, "childQuantityList": 10, "inputQuantityList": 3, "outputQuantityList": 11}
# UN/ECE Recommendation 19, code list for modes of transport, and the words that people write.
_MODES: Final = {
    "1": "sea", "2": "rail", "3": "road", "4": "air", "8": "inland_water", "maritime": "sea", "sea": "sea",
    "rail": "rail", "road": "road", "air": "air", "inland_water": "inland_water", "inland water": "inland_water",
}  # fmt: skip
UNITS: Final = "*"
_SINGLE: Final = frozenset({EPC, CHILD, OUTPUT})
Where = tuple[float, float]
Locate = Callable[[str, int], Where | None]
Net = Callable[[str, int], tuple[str, str] | None]
Shelf = Callable[[str, int], int | None]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_step = lru_cache(maxsize=4_096)(lambda text: local_name(text, "bizStep"))
_disposition = lru_cache(maxsize=4_096)(lambda text: local_name(text, "disposition"))


class EventFact(NamedTuple):
    """An event as the rules see it.

    Attributes:
        ev: leaf and number in one number, log order. ms: device time. day: its date where it happened, as an ordinal.
        kind: O, A, T, X or S, the first letter of the event type (S for association, X for transaction).
        voids: it is an error declaration of the event of its organisation with this ``event_id``.
        place: where it was read, canonical. where: latitude and longitude, as known when the event was logged.
        mode: means of transport, "" unless stated.
        expires: the expiry date that it gives its goods, as an ordinal.
        parent: the unit that an aggregation is about. group: the transformationID.
        empties: it takes everything out of its parent without naming it.
        amounts: (role, id of the class, quantity, unit) of its quantity lists. inputs: single items that were used up.
        counts: number of single items named, by product: observed, packed or put out; units without a product as UNITS.
        nets: net content of one piece of the products concerned: value and unit.
        lots: the lots that it puts its new single items in. shelf: by product, how many days new items keep.
    """

    ev: int
    ms: int
    day: int
    kind: str
    action: str
    step: str
    disposition: str
    org: str
    event_id: str
    voids: bool
    place: str | None
    where: Where | None
    mode: str
    expires: int | None
    parent: str | None
    group: str | None
    empties: bool
    amounts: list[list[Any]]
    inputs: list[str]
    counts: dict[str, int]
    nets: dict[str, list[str]]
    lots: list[str]
    shelf: dict[str, int]

    @property
    def when(self) -> tuple[int, int]:
        """Its place in the order of rules: device time, then log order."""
        return self.ms, self.ev

    @property
    def name(self) -> tuple[str, str]:
        """Who speaks and the event's own id."""
        return self.org, self.event_id

    def encode(self) -> str:
        """JSON text for the store."""
        return _encode(self[2:]).decode()

    @staticmethod
    def decode(ev: int, ms: int, text: str) -> "EventFact":
        """The fact in its stored text."""
        values = _decode(text)
        where = values[9]
        values[9] = None if where is None else (where[0], where[1])
        return EventFact(ev, ms, *values)


def fact_of(event: LoggedEvent, locate: Locate, net: Net, shelf: Shelf) -> EventFact:
    """What the rules need of an event.

    Args:
        locate: coordinates of a place as known at a leaf. net: net content of a product as known at a leaf.
        shelf: days that a product keeps from when it is made, as known at a leaf.
    """
    clear, body = event.clear, event.event
    kind = _KINDS.get(str(clear.get("type", "")), "O")
    action = str(clear.get("action", ""))
    place = place_of(body)
    ilmd = body.get("ilmd")
    parents: Sequence[str] = ()
    groups: Sequence[str] = ()
    inputs: Sequence[str] = ()
    lots: Sequence[str] = ()
    nets: dict[str, list[str]] = {}
    days: dict[str, int] = {}
    amounts = _amounts(body)
    counts: dict[str, int] = {}
    for item in event.items:
        if item.role in _SINGLE:
            product = class_of(item.id) or UNITS
            counts[product] = counts.get(product, 0) + 1
    if counts and (kind == "T" or (kind == "O" and action == "ADD")):
        lots = event.names(LOT)
        days = {name: kept for name in counts if (kept := shelf(name, event.leaf)) is not None}
    if kind != "O":
        parents, groups = event.names(PARENT), event.names(TRANSFORMATION)
        if kind == "T":
            inputs = event.names(INPUT)
            nets = _nets(event.leaf, net, [*counts, *inputs, *(row[1] for row in amounts)])
    return EventFact(
        event_key(event.leaf, event.number),
        event.device_ms,
        _day(event.device_ms, str(clear.get("eventTimeZoneOffset", ""))),
        kind,
        action,
        _step(str(clear.get("bizStep", ""))),
        _disposition(str(clear.get("disposition", ""))),
        event.org,
        str(body.get("eventID", "")),
        "errorDeclaration" in clear,
        place,
        None if place is None else _geo(place) or locate(place, event.leaf),
        _mode(body),
        _expiry(ilmd) if isinstance(ilmd, Mapping) else None,
        parents[0] if kind == "A" and parents else None,
        groups[0] if groups else None,
        kind == "A" and action == "DELETE" and not event.names(CHILD, CHILD_QUANTITY),
        amounts,
        list(inputs),
        counts,
        nets,
        list(lots),
        days,
    )  # fmt: skip


def place_of(body: Mapping[str, Any]) -> str | None:
    """Where an event was read, else where the goods are afterwards; None when neither is disclosed."""
    for name in ("readPoint", "bizLocation"):
        place = body.get(name)
        if isinstance(place, Mapping) and isinstance(place.get("id"), str):
            return _canonical(place["id"])
    return None


def site_of(place: str) -> str:
    """The place without its part inside the site."""
    return place.partition("/254/")[0]


@lru_cache(maxsize=10_000)
def _canonical(text: str) -> str:
    try:
        return canonical(text)
    except Rejected:
        return text


def _amounts(body: Mapping[str, Any]) -> list[list[Any]]:
    found: list[list[Any]] = []
    for name, role in _LISTS.items():
        if name in body:
            for one in amounts_of(body, (), name):
                common = one.common()
                if common.quantity is not None:
                    found.append([role, one.id, str(common.quantity), common.uom])
    return found


def amount_of(row: list[Any]) -> Amount:
    """The amount of a row of ``amounts``."""
    return Amount(row[1], Decimal(row[2]), row[3])


def pieces(name: str, count: int = 1) -> Amount:
    """So many single items."""
    return Amount(name, Decimal(count), PIECES)


def _nets(leaf: int, net: Net, names: list[str]) -> dict[str, list[str]]:
    found = {}
    for product in {class_of(name) or name for name in names}:
        content = net(product, leaf)
        if content is not None:
            found[product] = list(content)
    return dict(sorted(found.items()))


def _geo(place: str) -> Where | None:
    """The coordinates of a geo URI (RFC 5870)."""
    if not place.startswith("geo:"):
        return None
    parts = place[4:].partition(";")[0].split(",")
    return point(parts[0], parts[1]) if len(parts) >= 2 else None


def point(latitude: object, longitude: object) -> Where | None:
    """Coordinates in degrees, None where they are none."""
    try:
        found = float(str(latitude)), float(str(longitude))
    except ValueError:
        return None
    return found if abs(found[0]) <= 90 and abs(found[1]) <= 180 else None


def _mode(body: Mapping[str, Any]) -> str:
    for name, value in body.items():
        if ":" in name and name.rpartition(":")[2] in ("transportMode", "modeOfTransport"):
            return _MODES.get(str(value).lower(), "")
    return ""


def _expiry(ilmd: Mapping[str, Any]) -> int | None:
    days = []
    for name, value in ilmd.items():
        if name.rpartition(":")[2] in ("itemExpirationDate", "expirationDate") and isinstance(value, str):
            try:
                days.append(date.fromisoformat(value[:10]).toordinal())
            except ValueError:
                continue
    return min(days, default=None)


_UNIX_DAY: Final = date(1970, 1, 1).toordinal()


def last_day(ms: int) -> int:
    """The latest date that it may be anywhere at a moment, as an ordinal; UTC+14 is the earliest zone."""
    return ms // 86_400_000 + _UNIX_DAY + 1


def _day(ms: int, offset: str) -> int:
    try:
        sign = -1 if offset[:1] == "-" else 1
        minutes = sign * (int(offset[1:3]) * 60 + int(offset[4:6]))
    except ValueError:
        minutes = 0
    return (ms + minutes * 60_000) // 86_400_000 + _UNIX_DAY
