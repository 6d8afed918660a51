"""How a thing stood at a moment, by what was known at a moment: two times, both free.

``at`` is device time: events whose eventTime is not later count. ``known`` is record time: messages received later are
unknown, and so is everything that follows from them: error declarations, ends of keys, ownership records. An error
declaration counts whenever it is known, whatever ``at`` says, because it speaks about its event and not about a moment.
Left out, each means now. Nothing is kept for this: each answer is folded from the thing's own events again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from core.errors import Rejected
from core.identifiers import class_of
from core.prefixmap import map_key
from core.records import read_record
from ledger.chains import suspects_at
from ledger.database import Tx, fetch
from ledger.followers import LoggedEvent, LoggedMessage, read_messages
from ledger.history import CHILD, PARENT, Stay, Travelled, is_within, narrowed, stays
from ledger.itemfacts import LOT, Fact, ItemState, When, advance, facts_of
from ledger.naming import messages_naming
from ledger.state import Standing
from ledger.tables import entries, item_facts, item_steps, key_ends, keys, masters, records, suspects

DEPTH_MAX: Final = 10
THINGS_MAX: Final = 5_000  # ours: things whose events one answer may read
STEPS_MAX: Final = 20_000  # ours: messages that one reading may take
_PART: Final = 500
_OF_LOT: Final = (
    "SELECT leaf FROM item_facts WHERE id = ? AND fact NOT LIKE ? UNION "
    "SELECT s.leaf FROM item_steps s JOIN suspects x ON x.leaf = s.leaf WHERE s.key64 = ?"
)


@dataclass(frozen=True)
class Moment:
    """A moment in two times, unix ms; None means now."""

    at_ms: int | None = None
    known_ms: int | None = None

    @property
    def is_now(self) -> bool:
        """Whether it is the present by both times."""
        return self.at_ms is None and self.known_ms is None


NOW: Final = Moment()


@dataclass(frozen=True)
class Later:
    """What the answer leaves out: events not received by ``known``, events after ``at``, and later corrections."""

    unknown: int
    after: int
    corrections: int


class Book:
    """The events of things as one moment saw them; loads each thing once, many things in one reading."""

    def __init__(self, tx: Tx, moment: Moment = NOW) -> None:
        self._tx = tx
        self.moment = moment
        self._events: dict[str, list[LoggedEvent]] = {}
        self._later: dict[str, Later] = {}
        self._facts: dict[str, list[Fact]] = {}

    @property
    def size(self) -> int:
        """How many things were read."""
        return len(self._events)

    def want(self, ids: Iterable[str]) -> None:
        """Read the events of things that are not here yet."""
        missing = [name for name in dict.fromkeys(ids) if name not in self._events]
        for start in range(0, len(missing), _PART):
            self._read(missing[start : start + _PART])

    def events(self, item_id: str) -> list[LoggedEvent]:
        """The events that name a thing, known and not later, in log order."""
        self.want([item_id])
        return self._events[item_id]

    def later(self, item_id: str) -> Later:
        """What of a thing this moment leaves out."""
        self.want([item_id])
        return self._later[item_id]

    def good(self, item_id: str) -> list[LoggedEvent]:
        """The events that are evidence and were not declared wrong, by device time, then leaf."""
        found = self.events(item_id)
        wrong = withdrawn(found)
        kept = [one for one in found if one.suspect is None and not is_declaration(one) and name_of(one) not in wrong]
        return sorted(kept, key=lambda one: (one.device_ms, one.leaf, one.number))

    def facts(self, item_id: str) -> list[Fact]:
        """What the evidence says about a thing, error declarations among it."""
        found = self._facts.get(item_id)
        if found is None:
            read = (facts_of(one).get(item_id) for one in self.events(item_id) if one.suspect is None)
            found = self._facts[item_id] = [fact for fact in read if fact is not None]
        return found

    def parents(self, item_id: str) -> list[str]:
        """The units that a thing was ever put into."""
        found = (fact.parent for fact in self.facts(item_id) if fact.type == "AggregationEvent" and not fact.voids)
        return list(dict.fromkeys(parent for parent in found if parent))

    def state(self, item_id: str) -> ItemState | None:
        """The state by the thing's own events and by those that emptied a unit it was in."""
        parents = self.parents(item_id)
        self.want(parents)
        emptied = [fact for parent in parents for fact in self._emptied(parent)]
        return _fold(item_id, self.facts(item_id), emptied)

    def _emptied(self, parent: str) -> list[Fact]:
        found = []
        for event in self.good(parent):
            clear = event.clear
            if clear.get("type") != "AggregationEvent" or clear.get("action") != "DELETE" or event.names(CHILD):
                continue
            if PARENT in event.roles_of(parent):
                fact = facts_of(event)[parent]
                found.append(replace(fact, roles=(CHILD,), parent=parent, sensors={}))
        return found

    def of_lot(self, lot: str) -> list[LoggedEvent]:
        """The events about a lot as a whole, by device time, then leaf; not those that name it for single items alone.

        Every item of a lot steps the lot's key, so the events are chosen by their stored facts before they are read.
        """
        rows = fetch(self._tx, _OF_LOT, (lot, f'%"roles":[{LOT}]%', _key64(lot)))
        found = self._load(self._judged(leaf for (leaf,) in rows), {map_key("item", lot): lot})[0][lot]
        found = [event for event in found if set(event.roles_of(lot)) != {LOT}]
        return sorted(found, key=lambda one: (one.device_ms, one.leaf, one.number))

    def is_recalled(self, item_id: str) -> bool:
        """Whether a lot or product is recalled by its own events; read from stored facts, for it may have very many."""
        text = item_facts.c.fact
        telling = sa.or_(text.like("%recalled%"), text.like('%"voids":true%'))
        leaves = set(
            self._tx.execute(sa.select(item_facts.c.leaf).where(item_facts.c.id == item_id, telling)).scalars()
        )
        query = sa.select(item_steps.c.leaf).join(suspects, suspects.c.leaf == item_steps.c.leaf)
        if self.moment.known_ms is not None:
            # What an end record has taken back since was still evidence then.
            leaves |= set(self._tx.execute(query.where(item_steps.c.key64 == _key64(item_id))).scalars())
        if not leaves:
            return False
        events = self._load(self._judged(leaves), {map_key("item", item_id): item_id})[0][item_id]
        facts = [facts_of(one).get(item_id) for one in events if one.suspect is None]
        state = _fold(item_id, [fact for fact in facts if fact is not None], [])
        return state is not None and state.is_recalled

    def _read(self, ids: Sequence[str]) -> None:
        by_key = {map_key("item", name): name for name in ids}
        found = messages_naming(self._tx, [_key64(name) for name in ids], limit=STEPS_MAX)
        if found is None:
            raise Rejected(f"More than {STEPS_MAX} messages name this; ask for a part of it.", code="too_many_events")
        reasons = {message.leaf: reason for message, reason in found}
        named, later = self._chosen([message for message, _ in found], reasons, by_key)
        self._events |= named
        self._later |= later

    def _load(
        self, reasons: Mapping[int, str | None], by_key: Mapping[bytes, str]
    ) -> tuple[dict[str, list[LoggedEvent]], dict[str, Later]]:
        """The events at these leaves that name these things, judged and chosen as the moment saw them."""
        return self._chosen(list(read_messages(self._tx, list(reasons)).values()), reasons, by_key)

    def _chosen(
        self, messages: Sequence[LoggedMessage], judged: Mapping[int, str | None], by_key: Mapping[bytes, str]
    ) -> tuple[dict[str, list[LoggedEvent]], dict[str, Later]]:
        named: dict[str, list[LoggedEvent]] = {name: [] for name in by_key.values()}
        unknown, after, corrections = (dict.fromkeys(named, 0) for _ in range(3))
        ended = self._ended([leaf for leaf, reason in judged.items() if reason == "after_last"])
        known = self.moment.known_ms
        for message in sorted(messages, key=lambda one: one.leaf):
            reason = judged.get(message.leaf)
            if known is not None and ended.get(message.leaf, 0) > known:
                reason = None
            for number, items in enumerate(message.items):
                names = {by_key[item.key] for item in items if item.key in by_key}
                if not names:
                    continue
                event = message.events[number]
                for name in names:
                    if known is not None and message.received_ms > known:
                        unknown[name] += 1
                        corrections[name] += is_declaration(event)
                    elif self._is_after(event):
                        after[name] += 1
                    else:
                        named[name].append(replace(event, suspect=reason) if reason else event)
        return named, {name: Later(unknown[name], after[name], corrections[name]) for name in named}

    def _judged(self, leaves: Iterable[int]) -> dict[int, str | None]:
        found: dict[int, str | None] = dict.fromkeys(leaves)
        if not found:
            return found
        return found | suspects_at(self._tx, list(found))

    def _is_after(self, event: LoggedEvent) -> bool:
        at_ms = self.moment.at_ms
        return at_ms is not None and event.device_ms > at_ms and not is_declaration(event)

    def _ended(self, leaves: Sequence[int]) -> dict[int, int]:
        """When the ``end`` record that makes a message suspect was received."""
        if not leaves or self.moment.known_ms is None:
            return {}
        query = (
            sa.select(suspects.c.leaf, records.c.received_ms)
            .join(keys, keys.c.key_no == suspects.c.key_no)
            .join(key_ends, key_ends.c.kid == keys.c.kid)
            .join(records, records.c.arrival == key_ends.c.arrival)
            .where(suspects.c.leaf.in_(list(leaves)))
        )
        return {row.leaf: row.received_ms for row in self._tx.execute(query)}


def standing(book: Book, item_id: str, tx: Tx) -> Standing | None:
    """How a thing stood at the book's moment, seen through its containers, its lot and its product."""
    product = class_of(item_id)
    own = book.state(item_id)
    if own is None:
        return None
    containers: list[ItemState] = []
    inner = own
    while inner.container is not None and len(containers) < DEPTH_MAX:
        outer = book.state(inner.container)
        if outer is None or outer.id in {item_id, *(one.id for one in containers)}:
            break
        containers.append(outer)
        inner = outer
    newest = max([own, *containers], key=lambda one: one.last)
    above = {name for name in (own.lot, product) if name and name != item_id}
    return Standing(
        own=own,
        place=newest.place or own.place,
        custodian=newest.custodian,
        owner=_owner(tx, item_id, book.moment) or own.owner,
        containers=tuple(one.id for one in containers),
        is_sold=own.is_sold or any(one.is_sold for one in containers),
        is_recalled=own.is_recalled or any(book.is_recalled(name) for name in above),
        is_decommissioned=own.is_decommissioned,
        last_ms=newest.last.device_ms,
    )


def contents(book: Book, item_id: str, *, limit: int = 1_000) -> tuple[list[str], bool]:
    """What was packed in a unit, in order of id, and whether more was left out than ``limit``."""
    packed = {
        child for event in book.good(item_id) if PARENT in event.roles_of(item_id) for child in event.names(CHILD)
    }
    wanted = sorted(packed)[:limit]
    book.want(wanted)
    book.want([parent for child in wanted for parent in book.parents(child)])
    inside = [child for child in wanted if (state := book.state(child)) is not None and state.container == item_id]
    return inside, len(packed) > limit


def journey(book: Book, item_id: str) -> list[Travelled]:
    """The thing's own events and those of its containers for the time inside, by device time, then leaf.

    One reading for each level of containers, however many there are.
    """
    found: dict[tuple[int, int], Travelled] = {}
    for event in book.events(item_id):
        found[event.leaf, event.number] = Travelled(event, None)
    level: list[tuple[str, Stay | None]] = [(item_id, None)]
    for _ in range(DEPTH_MAX):
        open_stays = [(stay, within) for name, within in level for stay in stays(book.good(name), name)]
        book.want([stay.container for stay, _ in open_stays])
        level = []
        for stay, within in open_stays:
            part = narrowed(cut(stay, book.good(stay.container)), within)
            if part is None:
                continue
            for event in book.events(stay.container):
                if is_within(event, part):
                    found.setdefault((event.leaf, event.number), Travelled(event, stay.container))
            level.append((stay.container, part))
        if not level or book.size > THINGS_MAX:
            break
    return sorted(found.values(), key=lambda one: (one.event.device_ms, one.event.leaf, one.event.number))


def cut(stay: Stay, of_container: Sequence[LoggedEvent]) -> Stay:
    """The stay as far as the first event that empties its container, a DELETE that names no children."""
    for event in of_container:
        is_emptied = event.clear.get("type") == "AggregationEvent" and event.clear.get("action") == "DELETE"
        if is_emptied and not event.names(CHILD) and PARENT in event.roles_of(stay.container):
            if event.device_ms < stay.from_ms or (stay.to_ms is not None and event.device_ms >= stay.to_ms):
                continue
            to_leaf = max(event.leaf, stay.from_leaf)
            return replace(stay, to_ms=event.device_ms, to_leaf=to_leaf)
    return stay


def withdrawn(events: Iterable[LoggedEvent]) -> set[tuple[str, str]]:
    """Organisation and eventID of the events that evidence of the same organisation declared wrong."""
    return {name_of(event) for event in events if event.suspect is None and is_declaration(event) and name_of(event)[1]}


def is_declaration(event: LoggedEvent) -> bool:
    """Whether an event is an error declaration of another."""
    return "errorDeclaration" in event.clear


def name_of(event: LoggedEvent) -> tuple[str, str]:
    """Who speaks and the event's own id, "" where it has none."""
    return event.org, str(event.event.get("eventID", ""))


def _fold(item_id: str, facts: Sequence[Fact], emptied: Sequence[Fact]) -> ItemState | None:
    void = {(fact.org, fact.event_id) for fact in facts if fact.voids and fact.event_id}
    own = {fact.when for fact in facts}
    derived = {fact.when for fact in emptied if fact.when not in own}
    state: ItemState | None = None
    seen: set[When] = set()
    for fact in sorted([*facts, *(one for one in emptied if one.when in derived)], key=lambda one: one.when):
        if fact.voids or (fact.org, fact.event_id) in void or fact.when in seen:
            continue
        if fact.when in derived and (state is None or state.container != fact.parent):
            continue  # it was not inside when the unit was emptied
        seen.add(fact.when)
        state = advance(item_id, state, fact)
    return state


def _owner(tx: Tx, item_id: str, moment: Moment) -> str | None:
    """The owner of the newest ownership record that was known; it holds from the time that it states."""
    query = (
        sa.select(records.c.raw, masters.c.value)
        .join(entries, entries.c.leaf == masters.c.leaf)
        .join(records, records.c.arrival == entries.c.arrival)
        .where(masters.c.subject == item_id, masters.c.fact == "ownership")
        .order_by(masters.c.leaf.desc())
    )
    if moment.known_ms is not None:
        query = query.where(records.c.received_ms <= moment.known_ms)
    for raw, value in tx.execute(query.limit(100)):
        if moment.at_ms is None or int(read_record(bytes(raw)).payload["iat"]) * 1000 <= moment.at_ms:
            return str(json.loads(value)["owner"])
    return None


def _key64(item_id: str) -> int:
    return int.from_bytes(map_key("item", item_id)[:8], signed=True)
