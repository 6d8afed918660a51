"""Where goods came from and what became of them: through transformations, lots, packing and association.

Backward: from a thing to the lot it belongs to, to the inputs of the transformation that put it out, and so on; from a
unit to what is packed in it. Forward: from a lot to its items, to the outputs it went into, and to the units that carry
them; a unit found on the way is followed outward only, because its other contents are other goods. Starting from a
unit, what it ever held is followed. Events declared wrong or without evidence are listed, so marked, and not followed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Literal

from core.identifiers import class_of, parse
from ledger import masterdata
from ledger.asof import Book, is_declaration, name_of, standing, withdrawn
from ledger.database import Tx
from ledger.followers import LoggedEvent
from ledger.history import CHILD, INPUTS, OUTPUTS, PARENT
from ledger.itemfacts import LOT
from ledger.massbalance import Amount, Balance, amounts_of, balances, net_contents

Direction = Literal["forward", "back"]

DEPTH_MAX: Final = 50
THINGS_MAX: Final = 5_000
EVERY_ROLE: Final = frozenset(range(1, 12))
_TRANSFORMATION: Final = 5
_ITEMS: Final = (6, 8)
_CHILD_QUANTITY: Final = 10
_NESTING: Final = {"AggregationEvent": "packing", "AssociationEvent": "association"}


@dataclass(frozen=True)
class Thing:
    """A thing of the trace and how it was reached; ``is_carrier``: found as a unit around goods, not as goods."""

    id: str
    kind: str
    depth: int
    is_carrier: bool
    made: Amount | None = None
    used: Amount | None = None


@dataclass(frozen=True)
class Link:
    """One step between two things, always from earlier to later goods, by one event.

    Attributes:
        kind: transformation, lot, packing, unpacking, association or disassociation.
        is_withdrawn: its organisation declared the event wrong; shown, not followed.
        is_suspect: the message is no evidence; shown, not followed.
    """

    kind: str
    source: str
    target: str
    leaf: int
    number: int
    at_ms: int
    org: str
    is_withdrawn: bool = False
    is_suspect: bool = False


@dataclass(frozen=True)
class Transformation:
    """All good events of one transformation (leaf and number of each), with its balance."""

    id: str
    events: tuple[tuple[int, int], ...]
    leaf: int
    number: int
    at_ms: int
    org: str
    inputs: tuple[Amount, ...]
    outputs: tuple[Amount, ...]
    balance: tuple[Balance, ...]


@dataclass(frozen=True)
class Holding:
    """Goods of the trace with one holder in one place and state."""

    org: str
    place: str
    state: str
    products: tuple[str, ...]
    lots: tuple[str, ...]
    items: tuple[str, ...]
    amounts: tuple[Amount, ...]

    @property
    def count(self) -> int:
        """How many things."""
        return len(self.items)


@dataclass(frozen=True)
class Trace:
    """The whole of a trace as far as its bounds let it go.

    Attributes:
        truncated: why it is not the whole, "" when it is: ``depth`` or ``size``.
        unexplored: things that were found and not followed.
        hidden: links that the reader may not see.
    """

    start: str
    direction: Direction
    things: tuple[Thing, ...]
    links: tuple[Link, ...]
    transformations: tuple[Transformation, ...]
    truncated: str
    unexplored: int
    hidden: int


def trace(
    tx: Tx,
    book: Book,
    start: str,
    direction: Direction,
    *,
    depth_max: int = DEPTH_MAX,
    things_max: int = THINGS_MAX,
    roles: frozenset[int] = EVERY_ROLE,
) -> Trace:
    """The trace of a thing, breadth first, by the book's moment.

    Args:
        roles: roles in which a neighbour must be named to be followed and shown; what is left out is counted.
    """
    found: dict[str, tuple[int, bool]] = {start: (0, False)}
    links: dict[tuple[str, str, int, int], Link] = {}
    hidden: set[tuple[str, str, int, int]] = set()
    level, depth, truncated = [start], 0, ""
    while level:
        if depth == depth_max:
            truncated = "depth"
            break
        book.want(level)
        after: dict[str, bool] = {}
        for name in level:
            is_carrier = found[name][1]
            for link, near, nears_carrier, role in _steps(book, name, direction, is_carrier=is_carrier):
                if role not in roles:
                    hidden.add((link.source, link.target, link.leaf, link.number))
                    continue
                links.setdefault((link.source, link.target, link.leaf, link.number), link)
                if not (link.is_withdrawn or link.is_suspect) and near not in found:
                    after[near] = after.get(near, True) and nears_carrier
        room = things_max - len(found)
        level = sorted(after)[:room]
        depth += 1
        found |= {name: (depth, after[name]) for name in level}
        if len(after) > room:
            truncated = "size"
            break
    unexplored = len(level) if truncated == "depth" else 0
    if truncated == "size":
        unexplored = len(after) - room
    done = _transformations(tx, book, found)
    things = tuple(_thing(book, name, at, is_carrier, done) for name, (at, is_carrier) in found.items())
    walked = {(one.leaf, one.number) for one in links.values() if one.kind == "transformation"}
    mine = tuple(one for one in done if not walked.isdisjoint(one.events))
    order = sorted(links.values(), key=lambda one: (one.at_ms, one.leaf, one.number, one.source, one.target))
    return Trace(start, direction, things, tuple(order), mine, truncated, unexplored, len(hidden))


def holdings(tx: Tx, book: Book, found: Trace) -> list[Holding]:
    """Who holds the goods of a trace, most first: items one by one, lots only where no items of theirs were found."""
    serialised = {link.source for link in found.links if link.kind == "lot"}
    spent = {link.source for link in found.links if link.kind == "transformation"}
    groups: dict[tuple[str, str, str], list[Thing]] = {}
    for thing in found.things:
        if thing.is_carrier or thing.kind == "sscc" or thing.id in serialised or thing.kind == "uri":
            continue
        stood = standing(book, thing.id, tx)
        if stood is None:
            continue
        state = "held"
        if stood.is_sold:
            state = "sold"
        elif stood.is_decommissioned:
            state = "gone"
        elif thing.id in spent:
            state = "used"
        groups.setdefault((stood.custodian or "", stood.place or "", state), []).append(thing)
    rows = [_holding(book, *key, things) for key, things in groups.items()]
    return sorted(rows, key=lambda row: (-row.count, row.org, row.place, row.state))


def transformation_events(book: Book, event: LoggedEvent) -> list[LoggedEvent]:
    """The event with all others of the same transformationID, whose inputs and outputs belong together."""
    names = event.names(_TRANSFORMATION)
    if not names:
        return [event]
    book.want(names)
    return [one for name in names for one in book.good(name)] or [event]


def _steps(book: Book, name: str, direction: Direction, *, is_carrier: bool) -> Iterator[tuple[Link, str, bool, int]]:
    """The links of one thing in a direction, with the neighbour and whether it is reached as a carrier."""
    events = book.events(name)
    wrong = withdrawn(events)
    for event in events:
        if is_declaration(event):
            continue
        marks = {"is_withdrawn": name_of(event) in wrong and bool(name_of(event)[1]), "is_suspect": bool(event.suspect)}
        roles = set(event.roles_of(name))
        if is_carrier:
            yield from _nested(event, name, roles, marks, direction, is_unit=False)
            continue
        if event.clear.get("type") == "TransformationEvent":
            yield from _transformed(book, event, name, roles, marks, direction)
        if direction == "back" and not roles.isdisjoint((*_ITEMS, CHILD)) and LOT not in roles:
            for lot in event.names(LOT):
                if class_of(lot) == class_of(name):
                    yield _link("lot", lot, name, event, marks), lot, False, LOT
        if direction == "forward" and LOT in roles:
            for item in event.names(*_ITEMS):
                if class_of(item) == class_of(name) and item != name:
                    yield _link("lot", name, item, event, marks), item, False, event.roles_of(item)[-1]
        yield from _nested(event, name, roles, marks, direction, is_unit=True)


def _transformed(
    book: Book, event: LoggedEvent, name: str, roles: set[int], marks: dict[str, bool], direction: Direction
) -> Iterator[tuple[Link, str, bool, int]]:
    whole = transformation_events(book, event) if not any(marks.values()) else [event]
    if direction == "back" and not roles.isdisjoint(OUTPUTS):
        for one in whole:
            for source in one.names(*INPUTS):
                yield _link("transformation", source, name, one, marks), source, False, one.roles_of(source)[0]
    if direction == "forward" and not roles.isdisjoint(INPUTS):
        for one in whole:
            for target in one.names(*OUTPUTS):
                yield _link("transformation", name, target, one, marks), target, False, one.roles_of(target)[-1]


def _nested(
    event: LoggedEvent, name: str, roles: set[int], marks: dict[str, bool], direction: Direction, *, is_unit: bool
) -> Iterator[tuple[Link, str, bool, int]]:
    """Into the unit that carries a thing (forward), or to what a unit held."""
    kind = _NESTING.get(str(event.clear.get("type", "")))
    if kind is None:
        return
    is_out = event.clear.get("action") == "DELETE"
    word = {"packing": "unpacking", "association": "disassociation"}[kind] if is_out else kind
    if direction == "forward" and not roles.isdisjoint((CHILD, _CHILD_QUANTITY)):
        for parent in event.names(PARENT):
            source, target = (parent, name) if is_out else (name, parent)
            yield _link(word, source, target, event, marks), parent, True, PARENT
    if is_unit and PARENT in roles:
        for child in event.names(CHILD, _CHILD_QUANTITY):
            source, target = (name, child) if is_out else (child, name)
            yield _link(word, source, target, event, marks), child, False, event.roles_of(child)[-1]


def _link(kind: str, source: str, target: str, event: LoggedEvent, marks: dict[str, bool]) -> Link:
    return Link(kind, source, target, event.leaf, event.number, event.device_ms, event.org, **marks)


def _transformations(tx: Tx, book: Book, found: Iterable[str]) -> list[Transformation]:
    """Every good transformation that touches the things found, each once, by time."""
    done: dict[tuple[int, int], Transformation] = {}
    seen: set[tuple[int, int]] = set()
    for name in list(found):
        for event in book.good(name):
            if event.clear.get("type") != "TransformationEvent" or (event.leaf, event.number) in seen:
                continue
            whole = transformation_events(book, event)
            seen |= {(one.leaf, one.number) for one in [event, *whole]}
            made = _transformation(whole)
            done[made.leaf, made.number] = made
    rows = sorted(done.values(), key=lambda one: (one.at_ms, one.leaf, one.number))
    gtins = {class_of(amount.id) or amount.id for row in rows for amount in (*row.inputs, *row.outputs)}
    net = net_contents(masterdata.facts_of(tx, gtins, "product"))
    return [replace(row, balance=balances(row.inputs, row.outputs, net)) for row in rows]


def _transformation(events: Sequence[LoggedEvent]) -> Transformation:
    first = min(events, key=lambda one: (one.device_ms, one.leaf, one.number))
    inputs: list[Amount] = []
    outputs: list[Amount] = []
    for event in events:
        inputs += amounts_of(event.event, event.names(INPUTS[0]), "inputQuantityList")
        outputs += amounts_of(event.event, event.names(OUTPUTS[0]), "outputQuantityList")
    names = first.names(_TRANSFORMATION)
    return Transformation(
        id=names[0] if names else "",
        events=tuple((one.leaf, one.number) for one in events),
        leaf=first.leaf,
        number=first.number,
        at_ms=first.device_ms,
        org=first.org,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        balance=(),
    )


def _thing(book: Book, name: str, depth: int, is_carrier: bool, done: Sequence[Transformation]) -> Thing:
    outputs = [amount for row in done for amount in row.outputs if amount.id == name]
    made = outputs or [amount for event in book.good(name) for amount in _added(event, name)][:1]
    used = [amount for row in done for amount in row.inputs if amount.id == name]
    return Thing(name, parse(name).kind, depth, is_carrier, _sum(name, made), _sum(name, used))


def _added(event: LoggedEvent, name: str) -> list[Amount]:
    if event.clear.get("type") != "ObjectEvent" or event.clear.get("action") != "ADD":
        return []
    epcs = [item for item in event.names(_ITEMS[0]) if item == name]
    return [amount for amount in amounts_of(event.event, epcs, "quantityList") if amount.id == name]


def _sum(name: str, amounts: Sequence[Amount]) -> Amount | None:
    """The amounts of one thing together; None without any, or where their units do not add up."""
    common = [amount.common() for amount in amounts if amount.quantity is not None]
    if not common or len({amount.uom for amount in common}) != 1:
        return None
    total = sum((amount.quantity for amount in common if amount.quantity is not None), Decimal(0))
    return Amount(name, total, common[0].uom)


def _holding(book: Book, org: str, place: str, state: str, things: Sequence[Thing]) -> Holding:
    lots, products = set(), set()
    totals: dict[str, Decimal] = {}
    for thing in things:
        own = book.state(thing.id)
        if own is not None:
            lots |= {own.lot} if own.lot else set()
            products |= {own.product} if own.product else set()
        amount = thing.made or Amount(thing.id, Decimal(1))
        if amount.quantity is not None:
            totals[amount.uom] = totals.get(amount.uom, Decimal(0)) + amount.quantity
    return Holding(
        org=org,
        place=place,
        state=state,
        products=tuple(sorted(products)),
        lots=tuple(sorted(lots)),
        items=tuple(sorted(thing.id for thing in things)),
        amounts=tuple(Amount("", total, uom) for uom, total in sorted(totals.items())),
    )
