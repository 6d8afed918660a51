"""The rules about one thing: a fold over its events by device time, then log order. Pure, no I/O."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from math import asin, cos, radians, sin, sqrt
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from ledger.findings_facts import (
    CHILD,
    CHILD_QUANTITY,
    EPC,
    INPUT,
    INPUT_QUANTITY,
    OUTPUT,
    OUTPUT_QUANTITY,
    PARENT,
    QUANTITY,
    EventFact,
    Where,
    site_of,
)
from ledger.findings_policy import FindingPolicy
from ledger.itemfacts import ENDING, GONE, SOLD, class_of

EARTH_KM: Final = 6371.0088  # mean radius, IUGG
LEAVING: Final = frozenset({"shipping", "departing", "consigning", "retail_selling", "dispensing"})
_RETURNED: Final = frozenset({"returned", "sellable_accessible"})
LOTS_SHOWN_MAX: Final = 10  # our own figure: enough to know what to look for
When = tuple[int, int]


class Found(NamedTuple):
    """A finding about a thing: its code, the event that shows it, what it contradicts, and figures for people."""

    code: str
    ev: int
    others: tuple[int, ...]
    org: str
    details: dict[str, Any]


class Leaving(NamedTuple):
    """An event by which a unit left a place, with all that was inside."""

    ms: int
    ev: int
    day: int
    org: str

    @property
    def when(self) -> When:
        """Its place in the order of rules."""
        return self.ms, self.ev


class Around(Protocol):
    """What the rules about one thing ask of other things."""

    def emptied(self, unit: str) -> Sequence[When]:
        """When everything was taken out of a unit at once."""

    def leavings(self, unit: str, after_day: int) -> Sequence[Leaving]:
        """When a unit left a place later than this day, alone or inside another, in order."""

    def lot_expires(self, lot: str) -> int | None:
        """The expiry date of a lot as a whole, as an ordinal."""


class ThingState:
    """Where the rules stand with a thing after its newest event.

    ``lot`` and ``keeps`` (the last day by the product's shelf life) stand in for ``expires``. ``soonest`` is no later
    than the first day on which anything that was ever inside, at any depth, expires: before it nobody need look inside.
    """

    __slots__ = (
        "birth", "container", "emptied", "end", "expires", "held", "is_consumed", "is_told", "keeps", "last", "lot",
        "made", "mode", "packed", "place", "seen", "sold", "soonest", "stowed", "voids", "where",
    )  # fmt: skip

    def __init__(self) -> None:
        self.last: When = (-(2**62), -1)
        self.birth: int | None = None
        self.end: int | None = None
        self.is_consumed = False
        # Which codes this episode has told already: one finding each, however much follows.
        self.is_told: list[str] = []
        self.sold: int | None = None
        self.container: str | None = None
        self.packed: When = (0, -1)
        self.seen: When | None = None
        self.place: str | None = None
        self.where: Where | None = None
        self.mode = ""
        self.expires: int | None = None
        self.held: dict[str, str] = {}
        self.emptied: list[When] = []
        self.voids: list[tuple[str, str]] = []
        self.made: dict[str, str] = {}
        self.stowed: dict[str, str] = {}
        self.lot: str | None = None
        self.keeps: int | None = None
        self.soonest: int | None = None

    def encode(self) -> str:
        """JSON text for the store."""
        return _encode([getattr(self, name) for name in self.__slots__]).decode()

    @classmethod
    def decode(cls, text: str) -> "ThingState":
        """The state in its stored text."""
        state = cls.__new__(cls)
        for name, value in zip(cls.__slots__, _decode(text), strict=True):
            setattr(state, name, value)
        for name in ("last", "packed", "seen", "where"):
            value = getattr(state, name)
            setattr(state, name, None if value is None else tuple(value))
        state.emptied = [(one[0], one[1]) for one in state.emptied]
        state.voids = [(one[0], one[1]) for one in state.voids]
        return state


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def is_lot(item_id: str) -> bool:
    """Whether an id names a lot as a whole."""
    return "/10/" in item_id and "/21/" not in item_id


def role_of(item_id: str, fact: EventFact) -> int | None:
    """The role in which an event says something about a thing; None for the lot of other things' data."""
    kind = fact.kind
    if is_lot(item_id):
        return next((row[0] for row in fact.amounts if row[1] == item_id), None)
    if kind == "A" or kind == "S":
        return PARENT if item_id == fact.parent else CHILD
    if kind == "T":
        return INPUT if item_id in fact.inputs else OUTPUT
    return EPC


def standing(facts: Iterable[EventFact]) -> tuple[list[EventFact], list[tuple[str, str]]]:
    """The events that no error declaration takes back, by device time, and the names of those that one does."""
    ordered = sorted(facts, key=lambda fact: fact.when)
    voids = {fact.name for fact in ordered if fact.voids and fact.event_id}
    return [fact for fact in ordered if not fact.voids and fact.name not in voids], sorted(voids)


def fold(
    item_id: str, facts: Iterable[EventFact], around: Around, policy: FindingPolicy
) -> tuple[ThingState, list[Found]]:
    """State and findings after all facts about a thing, whatever order they came in."""
    good, voids = standing(facts)
    own = {fact.ev for fact in good}
    state = ThingState()
    found: list[Found] = []
    state.voids = voids
    for fact in good:
        _carried(state, fact.when, own, around, found)
        found += advance(item_id, state, fact, around, policy)
    _carried(state, None, own, around, found)
    return state, found


def advance(item_id: str, state: ThingState, fact: EventFact, around: Around, policy: FindingPolicy) -> list[Found]:
    """Take one more fact, newer than all before; gives what it shows."""
    state.last = fact.when
    role = role_of(item_id, fact)
    if role is None or fact.kind == "X":
        return []
    found: list[Found] = []
    if role in _BY_QUANTITY:
        _quantity(item_id, state, fact, role, around, found)
        return found
    if fact.kind == "A":
        packing(state, fact, role, around, found)
    _life(state, fact, role, found)
    if role in (EPC, OUTPUT):
        _dates(item_id, state, fact)
    if fact.step in LEAVING:
        _expired(state, fact, around, found)
    if fact.place is not None and fact.disposition != "recalled":
        _move(state, fact, policy, found)
    return found


def expires_first(state: ThingState, around: Around) -> int | None:
    """The first day on which a thing, or a lot packed in it by quantity, expires."""
    own = _expires(state, around)
    if not state.held:
        return own
    days = [day for _, day in _held_lots(state, around)]
    return min(days if own is None else [own, *days], default=None)


def _expires(state: ThingState, around: Around) -> int | None:
    """The date that the thing's own events give, else its lot's, else what the product's shelf life leaves."""
    if state.expires is not None:
        return state.expires
    of_lot = None if state.lot is None else around.lot_expires(state.lot)
    return state.keeps if of_lot is None else of_lot


def _held_lots(state: ThingState, around: Around) -> list[tuple[str, int]]:
    """The lots that are packed in a unit by quantity, and the days on which they expire."""
    names = {key.rpartition("|")[0] for key, held in state.held.items() if Decimal(held) > 0}
    found = [(name, around.lot_expires(name)) for name in sorted(names) if is_lot(name)]
    return [(name, day) for name, day in found if day is not None]


def _dates(item_id: str, state: ThingState, fact: EventFact) -> None:
    if fact.expires is not None:
        state.expires = fact.expires if state.expires is None else min(state.expires, fact.expires)
    if fact.lots:
        product = class_of(item_id)
        state.lot = next((lot for lot in fact.lots if class_of(lot) == product), state.lot)
    if fact.shelf and state.keeps is None:
        days = fact.shelf.get(class_of(item_id) or "")
        state.keeps = None if days is None else fact.day + days


_BY_QUANTITY: Final = frozenset({INPUT_QUANTITY, QUANTITY, CHILD_QUANTITY, OUTPUT_QUANTITY})


def _life(state: ThingState, fact: EventFact, role: int, found: list[Found]) -> None:
    is_born = (fact.kind == "O" and fact.action == "ADD") or (fact.kind == "T" and role == OUTPUT)
    is_ending = fact.step in ENDING or (fact.kind == "O" and fact.action == "DELETE") or role == INPUT
    if fact.kind == "A" and role == CHILD:
        is_ending = False
    if is_born and state.birth is not None:
        found.append(_found("commissioned_twice", fact, state.birth))
    elif state.end is not None and not is_ending:
        _once(state, "observed_after_consumption" if state.is_consumed else "observed_after_decommissioning", fact,
              state.end, found)  # fmt: skip
    if is_born and state.birth is None:
        state.birth = fact.ev
    if is_ending or (fact.disposition in GONE and fact.action == "DELETE" and fact.kind == "O"):
        is_first = state.end is None
        state.end = fact.ev if state.end is None or state.is_consumed else state.end
        state.is_consumed = role == INPUT if is_first else state.is_consumed and role == INPUT
    _sale(state, fact, is_ending, found)


def _sale(state: ThingState, fact: EventFact, is_ending: bool, found: list[Found]) -> None:
    is_sale = fact.step == "retail_selling" or fact.disposition in SOLD
    if fact.disposition in _RETURNED:
        state.sold = None
        state.is_told = [code for code in state.is_told if code not in ("sold_twice", "observed_after_sale")]
        return
    if state.sold is not None:
        if fact.step == "retail_selling":
            _once(state, "sold_twice", fact, state.sold, found)
        elif not is_ending and not is_sale and fact.disposition != "recalled":
            _once(state, "observed_after_sale", fact, state.sold, found)
    elif is_sale:
        state.sold = fact.ev


def packing(state: ThingState, fact: EventFact, role: int, around: Around, found: list[Found]) -> None:
    """Take an aggregation: where the thing is inside afterwards, or what it holds."""
    if role == PARENT:
        _contents(state, fact, found)
        return
    inside = state.container
    if inside is not None and any(state.packed < one <= fact.when for one in around.emptied(inside)):
        inside = None
    if fact.action == "ADD":
        if inside is not None and inside != fact.parent:
            found.append(_found("packed_while_packed", fact, state.packed[1], inside=inside))
        state.container, state.packed = fact.parent, fact.when
    elif fact.action == "DELETE":
        if inside is None or (fact.parent is not None and inside != fact.parent):
            found.append(_found("unpacked_not_inside", fact, None if inside is None else state.packed[1]))
        if fact.parent is None or inside is None or inside == fact.parent:
            state.container = None
    elif fact.parent is not None and inside != fact.parent:
        # OBSERVE says that it is inside, whoever packed it.
        state.container, state.packed = fact.parent, fact.when


def _contents(state: ThingState, fact: EventFact, found: list[Found]) -> None:
    """What a unit holds of each class, from the quantities packed and unpacked."""
    if fact.empties:
        state.held, state.emptied = {}, [*state.emptied, fact.when]
        return
    for role, name, quantity, uom in fact.amounts:
        if role != CHILD_QUANTITY or fact.action == "OBSERVE":
            continue
        key = f"{name}|{uom}"
        held = Decimal(state.held.get(key, "0"))
        after = held + Decimal(quantity) if fact.action == "ADD" else held - Decimal(quantity)
        if after < 0:
            amounts = {"taken": quantity, "held": str(held), "uom": uom}
            found.append(_found("unpacked_more_than_packed", fact, None, **amounts))
        state.held[key] = str(max(after, Decimal(0)))


def _quantity(item_id: str, state: ThingState, fact: EventFact, role: int, around: Around, found: list[Found]) -> None:
    """A lot as a whole: what was made of it and how much of it was packed."""
    rows = [row for row in fact.amounts if row[0] == role and row[1] == item_id]
    if fact.expires is not None and role in (QUANTITY, OUTPUT_QUANTITY):
        state.expires = fact.expires if state.expires is None else min(state.expires, fact.expires)
    if fact.step in LEAVING:
        _expired(state, fact, around, found)
    is_made = role == OUTPUT_QUANTITY or (fact.kind == "O" and fact.action == "ADD")
    for _, _, quantity, uom in rows:
        if is_made:
            state.birth = fact.ev if state.birth is None else state.birth
            state.made[uom] = str(Decimal(state.made.get(uom, "0")) + Decimal(quantity))
        if role != CHILD_QUANTITY or fact.action == "OBSERVE":
            continue
        change = Decimal(quantity) if fact.action == "ADD" else -Decimal(quantity)
        stowed = Decimal(state.stowed.get(uom, "0")) + change
        state.stowed[uom] = str(stowed)
        if fact.action == "ADD" and uom in state.made and stowed > Decimal(state.made[uom]):
            amounts = {"packed": str(stowed), "made": state.made[uom], "uom": uom}
            found.append(_found("packed_more_than_made", fact, state.birth, **amounts))


def _expired(state: ThingState, fact: EventFact, around: Around, found: list[Found]) -> None:
    details = _overdue(state, fact.day, around)
    if details is not None:
        found.append(_found("expired_shipped", fact, state.birth, **details))


def _carried(state: ThingState, until: When | None, own: set[int], around: Around, found: list[Found]) -> None:
    """What the thing's container did between its newest event and the next one, with the thing inside."""
    if state.container is None or state.end is not None:
        return
    first = expires_first(state, around)
    if first is None:
        return
    emptied = min((one for one in around.emptied(state.container) if one > state.packed), default=None)
    ends = [one for one in (until, emptied) if one is not None]
    for one in around.leavings(state.container, first):
        if one.when <= state.last or one.ev in own or any(one.when >= end for end in ends):
            continue
        details = _overdue(state, one.day, around)
        if details is not None:
            others = () if state.birth is None else (state.birth,)
            found.append(Found("expired_shipped", one.ev, others, one.org, details | {"inside": state.container}))


def _overdue(state: ThingState, day: int, around: Around) -> dict[str, Any] | None:
    """By how many days what leaves on this day has expired, itself or the lots packed in it; None for not at all."""
    own = _expires(state, around)
    if own is not None and day > own:
        return {"days": day - own}
    late = [(name, day - last) for name, last in _held_lots(state, around) if day > last] if state.held else []
    if not late:
        return None
    return {"days": max(days for _, days in late), "lots": [name for name, _ in late][:LOTS_SHOWN_MAX]}


def _move(state: ThingState, fact: EventFact, policy: FindingPolicy, found: list[Found]) -> None:
    place, where = fact.place, fact.where
    if state.seen is not None and state.place is not None and place is not None and place != state.place:
        gap_s = (fact.ms - state.seen[0]) / 1000
        if where is not None and state.where is not None:
            _speed(state, fact, gap_s, distance_km(state.where, where), policy, found)
        elif gap_s == 0 and where is None and state.where is None and _are_apart(place, state.place):
            found.append(_found("two_places_at_once", fact, state.seen[1]))
    state.seen, state.place, state.where, state.mode = fact.when, place, where, fact.mode


def _speed(
    state: ThingState, fact: EventFact, gap_s: float, way_km: float, policy: FindingPolicy, found: list[Found]
) -> None:
    ceiling = policy.speed_kmh[fact.mode or state.mode or "unknown"]
    beyond_km = way_km - policy.slack_km
    if state.seen is None or beyond_km <= ceiling * (gap_s + policy.skew_s) / 3600:
        return
    if gap_s <= policy.at_once_s:
        found.append(_found("two_places_at_once", fact, state.seen[1], km=round(way_km)))
        return
    speed = round(way_km / gap_s * 3600)
    figures = {"km": round(way_km), "s": round(gap_s), "kmh": speed, "most": round(ceiling)}
    found.append(_found("implausible_speed", fact, state.seen[1], **figures))


def _are_apart(one: str, other: str) -> bool:
    """Whether two places without coordinates are of different sites; only GS1 locations tell."""
    return "/414/" in one and "/414/" in other and site_of(one) != site_of(other)


def distance_km(one: Where, other: Where) -> float:
    """The great circle between two points in kilometres, by the haversine formula."""
    north, east = radians(other[0] - one[0]), radians(other[1] - one[1])
    part = sin(north / 2) ** 2 + cos(radians(one[0])) * cos(radians(other[0])) * sin(east / 2) ** 2
    return 2 * EARTH_KM * asin(min(1.0, sqrt(part)))


def _once(state: ThingState, code: str, fact: EventFact, other: int, found: list[Found]) -> None:
    if code not in state.is_told:
        state.is_told = [*state.is_told, code]
        found.append(_found(code, fact, other))


def _found(code: str, fact: EventFact, other: int | None, **details: Any) -> Found:
    return Found(code, fact.ev, () if other is None else (other,), fact.org, details)
