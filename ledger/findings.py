"""The follower that finds what cannot be: rules over the log, in log order. They never refuse anything.

Each thing's rules are a fold over its events by device time, then log order. An event newer than all before moves the
fold on; a late one, an error declaration, an ended key or an erasure folds the thing again from its events. What no
longer follows is withdrawn with its cause and kept. So what stands open depends on the events alone, not on the order
in which they came, and the whole on the log alone, not on where runs begin and end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from core.canonical import sha256
from core.errors import Unavailable
from core.prefixmap import map_key
from ledger.chains import AFTER_LAST, suspects_at
from ledger.database import Database, Tx, fetch, fetch_among, run_many
from ledger.findings_book import Rows, insert
from ledger.findings_facts import CHILD, CHILD_QUANTITY, EPC, OUTPUT, PARENT, EventFact, fact_of
from ledger.findings_groups import Stocks, balance
from ledger.findings_inside import Contents
from ledger.findings_places import Places
from ledger.findings_policy import FindingPolicy
from ledger.findings_policy import policy as current_policy
from ledger.findings_rules import LEAVING, ThingState, When, advance, fold, is_lot
from ledger.findings_tables import TABLES
from ledger.followers import LIMIT, Entry, LoggedEvent, LoggedMessage, LoggedRecord, NamedItem, cursor, read_messages
from ledger.followers import run_once as follow_once
from ledger.history import VIEWS
from ledger.queryindex import EVENTS_PER_LEAF, event_key
from ledger.queryindex import without as without_members
from ledger.tables import followers as cursors

FINDINGS: Final = "findings"
_SINGLE: Final = frozenset({1, 2, 6, 7, 8})
_BY_QUANTITY: Final = frozenset({3, 9, 10, 11})
_THINGS_UPSERT: Final = (
    "INSERT INTO finding_things (key, state) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET state = excluded.state"
)
_OF_THING: Final = (
    "SELECT f.ev, f.device_ms, f.fact FROM item_steps s JOIN finding_events f ON f.ev = s.leaf * 1024 + s.event "
    "WHERE s.key64 = ? AND f.is_cut = 0"
)


class Findings:
    """Keeps ``findings``. It needs the history index (cursor ``views``) to have passed its entries."""

    name = FINDINGS

    def __init__(self, policy: FindingPolicy | None = None) -> None:
        self._policy = policy or current_policy()
        self._places = Places()
        self._next = -1

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Judge new events in log order.

        Raises:
            Unavailable: ``history_behind``: the history index has not come that far.
        """
        if cursor(tx, VIEWS) <= entries[-1].leaf:
            raise Unavailable("The history index is still behind the log; try again.", code="history_behind")
        if entries[0].leaf != self._next:
            # Another process ran on in between, or a run was rolled back: what is remembered may be old.
            self._places = Places()
        self._next = -1
        book = _Book(tx, entries, self._policy, self._places)
        for entry in entries:
            if isinstance(entry, LoggedMessage):
                book.take(entry)
            elif isinstance(entry, LoggedRecord):
                book.record(entry)
        book.write()
        self._next = entries[-1].leaf + 1


def run_once(database: Database, follower: Findings, limit: int = LIMIT) -> int:
    """Let the rules take the next entries, as far as the history index has come; returns how many."""
    with database.reading() as tx:
        room = cursor(tx, VIEWS) - cursor(tx, FINDINGS)
    return follow_once(database, follower, min(room, limit)) if room > 0 else 0


def run_all(database: Database, follower: Findings | None = None, limit: int = LIMIT) -> int:
    """Run the rules until they have seen all that the history index has; returns the number of entries taken."""
    mine, total = follower or Findings(), 0
    while taken := run_once(database, mine, limit):
        total += taken
    return total


def forget_all(tx: Tx) -> None:
    """Drop every finding and begin again: the next runs make them anew from the log, for a changed policy."""
    for table in TABLES:
        tx.execute(table.delete())
    tx.execute(cursors.delete().where(cursors.c.name == FINDINGS))


class _Book:
    """What one run touches, loaded at once and written at once."""

    def __init__(self, tx: Tx, entries: Sequence[Entry], policy: FindingPolicy, places: Places) -> None:
        self._tx, self._policy, self._places = tx, policy, places
        self._rows = Rows(tx)
        messages = [entry for entry in entries if isinstance(entry, LoggedMessage)]
        judged = suspects_at(tx, [message.leaf for message in messages])
        self._suspects = {leaf for leaf, reason in judged.items() if reason != AFTER_LAST}
        places.begin(tx)
        self._facts: dict[int, EventFact] = {}
        self._states: dict[bytes, ThingState] = {}
        self._known: dict[bytes, list[EventFact]] = {}
        self._touched: set[bytes] = set()
        self._taken: dict[bytes, list[EventFact]] = {}
        self._fresh: dict[int, EventFact] = {}
        self._cut: set[int] = set()
        self._stocks = Stocks(tx, self._rows)
        self._contents = Contents(self._state, self._good, self._touched.add)
        self._inside: set[bytes] = set()
        self._absent: set[bytes] = set()
        self._events: dict[int, list[tuple[LoggedEvent, EventFact, list[NamedItem]]]] = {}
        keys = self._read(entries)
        self._want(keys)
        near = {name for state in self._states.values() for name in (state.container, state.lot) if name is not None}
        near |= {lot for events in self._events.values() for _, fact, _ in events for lot in fact.lots}
        self._want({map_key("item", name) for name in near} - keys)

    def _read(self, entries: Sequence[Entry]) -> set[bytes]:
        """Read the events of the run, ask for their stocks at once, and give the keys of the things they name."""
        for entry in entries:
            if isinstance(entry, LoggedRecord) and entry.record.t == "master":
                self._places.learn(entry.leaf, entry.record.payload)
        keys: set[bytes] = set()
        where, net, shelf = self._places.where, self._places.net, self._places.shelf
        for entry in entries:
            if not isinstance(entry, LoggedMessage) or entry.leaf in self._suspects:
                continue
            mine = self._events[entry.leaf] = []
            for event in entry.events:
                if event.clear.get("type") != "TransactionEvent":
                    things = _things(event)
                    keys.update([item.key for item in things])
                    fact = fact_of(event, where, net, shelf)
                    self._stocks.read(fact)
                    mine.append((event, fact, things))
        self._stocks.ask()
        return keys

    def take(self, message: LoggedMessage) -> None:
        """One message, in log order."""
        for event, fact, things in self._events.get(message.leaf, ()):
            self._event(event, fact, things)

    def record(self, entry: LoggedRecord) -> None:
        """A record that changes what counts."""
        payload, kind = entry.record.payload, entry.record.t
        if kind == "end":
            self._end(str(payload["kid"]), entry.leaf)
        elif kind == "erasure":
            self._erase(payload, entry.leaf)

    def write(self) -> None:
        """Store new facts, states and findings."""
        self._stocks.write()
        rows = [(ev, fact.ms, int(ev in self._cut), fact.encode()) for ev, fact in sorted(self._fresh.items())]
        insert(self._tx, "finding_events", ("ev", "device_ms", "is_cut", "fact"), rows)
        states = [(key, self._states[key].encode()) for key in sorted(self._touched)]
        run_many(self._tx, _THINGS_UPSERT, states)
        self._rows.write()

    def _event(self, event: LoggedEvent, fact: EventFact, things: list[NamedItem]) -> None:
        self._fresh[fact.ev] = fact
        known, taken, last = self._known, self._taken, b""
        for item in event.items:
            key = item.key
            if key != last:
                last = key
                facts = taken.get(key)
                if facts is None:
                    taken[key] = [fact]
                elif facts[-1] is not fact:
                    facts.append(fact)
                if known and key in known and known[key][-1] is not fact:
                    known[key].append(fact)
        if fact.voids:
            self._declared_wrong(event, fact)
            return
        for item in things:
            self._thing(item, fact)
        if fact.kind == "T":
            self._balance(event, fact, "late_event", fact.ev, event.leaf)
        if self._stocks.concerns(fact) and not self._is_declared(event, fact):
            self._stocks.take(fact)

    def _thing(self, item: NamedItem, fact: EventFact) -> None:
        state = self._states.get(item.key)
        if state is None:
            state = self._states[item.key] = ThingState()
        if fact.event_id and fact.name in state.voids:
            return
        if fact.when <= state.last:
            self._refold(item, fact.ev // EVENTS_PER_LEAF, "late_event", fact.ev)
            return
        self._touched.add(item.key)
        emptied, unit, expires, leaf = list(state.emptied), state.container, state.expires, fact.ev // EVENTS_PER_LEAF
        for found in advance(item.id, state, fact, self._contents, self._policy):
            self._rows.raise_one(item.key, item.id, found, leaf)
        if unit is not None or state.container is not None:
            self._in_unit(item, state, fact, unit)
        is_due = fact.step in LEAVING and state.soonest is not None and state.soonest < fact.day
        if is_due or len(state.emptied) != len(emptied):
            since = min(state.emptied[len(emptied) :], default=None)
            self._refold_inside(item, since, leaf, "late_event", fact.ev)
        if state.expires != expires and is_lot(item.id):
            self._of_lot(item, leaf, "late_event", fact.ev)

    def _in_unit(self, item: NamedItem, state: ThingState, fact: EventFact, before: str | None) -> None:
        """A thing's newest event, when it is in a unit, or was until then: does it change what left with the unit?"""
        day = self._contents.first_day(state)
        if day is None:
            return
        if state.container is not None:
            self._contents.lower(state.container, day)
        for unit in {before, state.container}:
            if unit is not None and self._contents.may_have_left(unit, fact.when, day):
                self._refold(item, fact.ev // EVENTS_PER_LEAF, "late_event", fact.ev)
                return

    def _refold(self, item: NamedItem, leaf: int, cause: str, cause_ev: int) -> None:
        old = self._states.get(item.key)
        before, expires = ([], None) if old is None else (old.emptied, old.expires)
        state, found = fold(item.id, self._good(item.key), self._contents, self._policy)
        state.soonest = None if old is None else old.soonest
        self._states[item.key] = state
        self._touched.add(item.key)
        self._rows.settle(item.key, item.id, found, leaf, cause, cause_ev)
        day = self._contents.first_day(state)
        if day is not None:
            for unit in self._contents.units_of(item.id, state, item.key):
                self._contents.lower(unit, day)
        since = min(set(before) ^ set(state.emptied), default=None)
        if since is not None or (state.soonest is not None and state.soonest < self._contents.reach(item.id)):
            self._refold_inside(item, since, leaf, cause, cause_ev)
        if state.expires != expires and is_lot(item.id):
            self._of_lot(item, leaf, cause, cause_ev)

    def _refold_inside(self, unit: NamedItem, since: When | None, leaf: int, cause: str, cause_ev: int) -> None:
        """What was ever packed in a unit, after its ways or, from ``since`` on, its emptying changed."""
        if unit.key in self._inside:
            return
        self._inside.add(unit.key)
        packed = [fact for fact in self._facts_of(unit.key) if fact.parent == unit.id and fact.action != "DELETE"]
        inside = self._named_in(packed, CHILD)
        reach = self._contents.reach(unit.id)
        for key, item in sorted(inside.items()):
            state = self._states.get(key)
            if state is None:
                continue
            # Only what happened to it since then, and what may have left when it had expired, can look different now.
            day = self._contents.first_day(state)
            if (since is not None and state.last > since) or (day is not None and day < reach):
                self._refold(item, leaf, cause, cause_ev)
        self._inside.discard(unit.key)

    def _of_lot(self, lot: NamedItem, leaf: int, cause: str, cause_ev: int) -> None:
        """What is of a lot, or holds some of it, after the lot's expiry date changed."""
        facts = self._facts_of(lot.key)
        made = [fact for fact in facts if lot.id in fact.lots]
        stowed = [fact for fact in facts if any(row[:2] == [CHILD_QUANTITY, lot.id] for row in fact.amounts)]
        found = self._named_in(made, EPC, OUTPUT) | self._named_in(stowed, PARENT)
        for key, item in sorted(found.items()):
            if key in self._states:
                self._refold(item, leaf, cause, cause_ev)

    def _named_in(self, facts: Sequence[EventFact], *roles: int) -> dict[bytes, NamedItem]:
        """The things that events name in these roles, with their states loaded."""
        messages = read_messages(self._tx, [fact.ev // EVENTS_PER_LEAF for fact in facts])
        found: dict[bytes, NamedItem] = {}
        for fact in facts:
            leaf, number = divmod(fact.ev, EVENTS_PER_LEAF)
            found |= {item.key: item for item in messages[leaf].items[number] if item.role in roles}
        self._want(found)
        return found

    def _declared_wrong(self, event: LoggedEvent, fact: EventFact) -> None:
        if not fact.event_id:
            return
        cause, name_key = "declared_in_error", _name_key(fact)
        if not _things(event):
            self._want([name_key])
            self._states.setdefault(name_key, ThingState())
            self._touched.add(name_key)
        for item in _things(event):
            self._refold(item, event.leaf, cause, fact.ev)
        for other in self._same_name(event, fact):
            if not other.voids:
                self._stocks.drop(other, event.leaf, cause, fact.ev)
        if fact.kind == "T":
            self._balance(event, fact, cause, fact.ev, event.leaf)

    def _balance(self, event: LoggedEvent, fact: EventFact, cause: str, cause_ev: int, leaf: int) -> None:
        key, subject = _group(event, fact)
        if fact.group is not None:
            facts = [one for one in self._facts_of(map_key("item", fact.group)) if one.group == fact.group]
        else:
            facts = [] if fact.voids or self._is_declared(event, fact) else [fact]
        good = [one for one in facts if one.kind == "T" and one.ev not in self._cut]
        found = balance(good, self._policy)
        self._rows.settle(key, subject, found, leaf, cause, cause_ev, is_linked=True)

    def _same_name(self, event: LoggedEvent, fact: EventFact) -> list[EventFact]:
        """The events that carry the same organisation and eventID, among those that name the same first thing."""
        if not event.items or not fact.event_id:
            return [fact]
        return [one for one in self._facts_of(event.items[0].key) if one.name == fact.name and one.ev not in self._cut]

    def _is_declared(self, event: LoggedEvent, fact: EventFact) -> bool:
        """Whether an error declaration logged before this event says that it is wrong."""
        if not fact.event_id:
            return False
        for item in _things(event):
            return item.key in self._states and fact.name in self._states[item.key].voids
        self._want([_name_key(fact)])
        return _name_key(fact) in self._states

    def _end(self, kid: str, leaf: int) -> None:
        """Messages that an ended key's last good one does not reach are no evidence any more."""
        leaves = [row[0] for row in fetch(self._tx, _AFTER_LAST, (AFTER_LAST, kid, leaf))]
        messages = sorted(read_messages(self._tx, leaves).values(), key=lambda one: one.leaf)
        events = [event for message in messages for event in message.events]
        # All of them first: what one of them explained must not stand for a moment because another was taken earlier.
        self._cut.update([event_key(event.leaf, event.number) for event in events])
        run_many(self._tx, _CUT, [(event_key(event.leaf, event.number),) for event in events])
        for event in events:
            fact = self._stored(event)
            if fact is None:
                continue
            self._stocks.drop(fact, leaf, "key_ended", fact.ev)
            for item in _things(event):
                self._refold(item, leaf, "key_ended", fact.ev)
            if fact.kind == "T":
                self._balance(event, fact, "key_ended", fact.ev, leaf)

    def _erase(self, payload: Mapping[str, Any], leaf: int) -> None:
        """Forget what an event said in erased members; what rested on them falls."""
        message = read_messages(self._tx, [payload["leaf"]]).get(payload["leaf"])
        if message is None:
            return
        event = message.events[payload["event"]]
        old = self._stored(event)
        if old is None or old.ev in self._cut:
            return
        left = without_members(event.event, payload["names"])
        new = fact_of(replace(event, event=left), self._places.where, self._places.net, self._places.shelf)
        self._stocks.drop(old, leaf, "erased", old.ev)
        if old.ev in self._fresh:
            self._fresh[old.ev] = new
        run_many(self._tx, "UPDATE finding_events SET fact = ? WHERE ev = ?", [(new.encode(), new.ev)])
        self._known.clear()
        self._taken = {
            key: [new if fact.ev == new.ev else fact for fact in facts] for key, facts in self._taken.items()
        }
        self._stocks.read(new)
        self._stocks.ask()
        self._stocks.take(new)
        for item in _things(event):
            self._refold(item, leaf, "erased", new.ev)
        if old.kind == "T":
            self._balance(event, new, "erased", new.ev, leaf)

    def _stored(self, event: LoggedEvent) -> EventFact | None:
        ev = event_key(event.leaf, event.number)
        if ev in self._fresh:
            return self._fresh[ev]
        rows = fetch(self._tx, "SELECT ev, device_ms, fact FROM finding_events WHERE ev = ?", (ev,))
        return EventFact.decode(*rows[0]) if rows else None

    def _facts_of(self, key: bytes) -> list[EventFact]:
        """All that is known about a thing so far, stored or of this run; what was cut off is left out or marked."""
        found = self._known.get(key)
        if found is None:
            mine = self._taken.get(key, [])
            taken = {fact.ev for fact in mine}
            rows = fetch(self._tx, _OF_THING, (int.from_bytes(key[:8], signed=True),))
            stored = [EventFact.decode(*row) for row in rows]
            found = self._known[key] = [fact for fact in stored if fact.ev not in taken] + list(mine)
        return found

    def _good(self, key: bytes) -> list[EventFact]:
        return [fact for fact in self._facts_of(key) if fact.ev not in self._cut]

    def _state(self, key: bytes) -> ThingState | None:
        if key not in self._states:
            self._want([key])
        return self._states.get(key)

    def _want(self, keys: Iterable[bytes]) -> None:
        missing = sorted(set(keys) - self._states.keys() - self._absent)
        for key, text in fetch_among(self._tx, "SELECT key, state FROM finding_things WHERE key AMONG", missing):
            self._states[bytes(key)] = ThingState.decode(text)
        self._absent.update([key for key in missing if key not in self._states])


_CUT: Final = "UPDATE finding_events SET is_cut = 1 WHERE ev = ?"
_AFTER_LAST: Final = (
    "SELECT s.leaf FROM suspects s JOIN keys k ON k.key_no = s.key_no WHERE s.reason = ? AND k.kid = ? AND s.leaf < ?"
)


def _is_judged(item: NamedItem) -> bool:
    """Whether rules about one thing concern it: single things, and lots where their quantity is told."""
    if item.role in _SINGLE:
        return True
    return item.role in _BY_QUANTITY and is_lot(item.id)


def _things(event: LoggedEvent) -> list[NamedItem]:
    found = [item for item in event.items if _is_judged(item)]
    if len(found) > 1 and len({item.key for item in found}) < len(found):
        return list({item.key: item for item in reversed(found)}.values())[::-1]
    return found


def _name_key(fact: EventFact) -> bytes:
    return sha256(f"name\x00{fact.org}\x00{fact.event_id}".encode())


def _group(event: LoggedEvent, fact: EventFact) -> tuple[bytes, str]:
    """Key and name of what a transformation belongs to: its transformationID, else its own name, else its place."""
    if fact.group is not None:
        return map_key("item", fact.group), fact.group
    if fact.event_id:
        return b"event" + f"{fact.org}\x00{fact.event_id}".encode(), ""
    return b"event" + fact.ev.to_bytes(8, "big"), ""
