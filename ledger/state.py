"""The follower that keeps the present state of each thing, and the questions about it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from core.identifiers import class_of
from ledger import masterdata
from ledger.chains import AFTER_LAST, Chains, suspects_at
from ledger.database import Tx, fetch_among
from ledger.followers import Entry, LoggedEvent, LoggedMessage, LoggedRecord, Several
from ledger.history import VIEWS, History
from ledger.itemfacts import CHILD, PARENT, Fact, ItemState, When, advance, decode, facts_of, fold
from ledger.tables import item_facts, item_states, keys, suspects

DEPTH_MAX = 10
CONTENTS_MAX = 100_000
_PART = 500


@dataclass(frozen=True)
class Standing:
    """The state of a thing as people ask for it: seen through its containers, its lot and its product.

    Attributes:
        own: by the thing's own events alone.
        place: where it is, through the containers it is in.
        containers: innermost first.
        is_recalled: itself, its lot or its product is recalled.
    """

    own: ItemState
    place: str | None
    custodian: str | None
    owner: str | None
    containers: tuple[str, ...]
    is_sold: bool
    is_recalled: bool
    is_decommissioned: bool
    last_ms: int


class State:
    """Keeps ``item_facts`` and ``item_states``. A late event re-evaluates its things by device time, then leaf."""

    name = "state"

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Take new events; messages that are no evidence are left out, also when an ``end`` says so later."""
        book = _Book(tx, entries)
        for entry in entries:
            if isinstance(entry, LoggedMessage) and entry.leaf not in book.suspects:
                for event in entry.events:
                    book.take(event)
            elif isinstance(entry, LoggedRecord) and entry.record.t == "end":
                book.forget(_cut_off(tx, str(entry.record.payload["kid"]), entries[0].leaf))
        book.write()


def views() -> Several:
    """The ledger's own followers under one cursor: history index, chains, state."""
    return Several(VIEWS, [History(), Chains(), State()])


def item_state(tx: Tx, item_id: str) -> Standing | None:
    """How a thing stands now, None when no event names it."""
    product = class_of(item_id)
    found = _load(tx, [item_id, product or item_id])
    own = found.get(item_id)
    if own is None:
        return None
    found |= _load(tx, {name for name in (own.lot, own.container) if name} - {item_id, product})
    containers: list[ItemState] = []
    inner = own
    while inner.container is not None and len(containers) < DEPTH_MAX:
        outer = found.get(inner.container) or _load(tx, [inner.container]).get(inner.container)
        if outer is None or outer.id in {item_id, *(one.id for one in containers)}:
            break
        containers.append(outer)
        inner = outer
    newest = max([own, *containers], key=lambda one: one.last)
    above = {name: found[name] for name in (own.lot, product) if name and name != item_id and name in found}
    return Standing(
        own=own,
        place=newest.place or own.place,
        custodian=newest.custodian,
        owner=masterdata.owner(tx, item_id) or own.owner,
        containers=tuple(one.id for one in containers),
        is_sold=own.is_sold or any(one.is_sold for one in containers),
        is_recalled=own.is_recalled or any(one.is_recalled for one in above.values()),
        is_decommissioned=own.is_decommissioned,
        last_ms=newest.last.device_ms,
    )


def item_states_of(tx: Tx, ids: Iterable[str]) -> dict[str, ItemState]:
    """The own states of many things."""
    return _load(tx, ids)


def contents(tx: Tx, item_id: str, *, is_recursive: bool = False) -> list[str]:
    """What is packed in a unit now, in order of id; nested contents too when asked, outer units before inner ones."""
    found: dict[str, None] = {}
    level = [item_id]
    for _ in range(DEPTH_MAX if is_recursive else 1):
        inside: list[str] = []
        for start in range(0, len(level), _PART):
            query = sa.select(item_states.c.id).where(item_states.c.container.in_(level[start : start + _PART]))
            inside += tx.execute(query.order_by(item_states.c.id)).scalars().all()
        level = [one for one in inside if one not in found and one != item_id]
        found |= dict.fromkeys(level)
        if not level or len(found) > CONTENTS_MAX:
            break
    return list(found)


def items_at(tx: Tx, place_id: str, *, limit: int = 1_000) -> list[ItemState]:
    """Things whose own last place this is and that stand free of containers, in order of id."""
    return _where(tx, (item_states.c.place == place_id) & item_states.c.container.is_(None), limit)


def items_of_lot(tx: Tx, lot_id: str, *, limit: int = 10_000) -> list[ItemState]:
    """Things of a lot, in order of id."""
    return _where(tx, (item_states.c.lot == lot_id) & (item_states.c.id != lot_id), limit)


def items_held_by(tx: Tx, org: str, *, limit: int = 1_000) -> list[ItemState]:
    """Free-standing things whose last custodian an organisation is, in order of id."""
    return _where(tx, (item_states.c.custodian == org) & item_states.c.container.is_(None), limit)


def items_owned_by(tx: Tx, org: str, *, limit: int = 1_000) -> list[ItemState]:
    """Free-standing things that events name an organisation the owner of, in order of id."""
    return _where(tx, (item_states.c.owner == org) & item_states.c.container.is_(None), limit)


class _Book:
    """States and facts touched by one run, loaded at once and written at once."""

    def __init__(self, tx: Tx, entries: Sequence[Entry]) -> None:
        self._tx = tx
        self._facts: dict[str, dict[When, Fact]] = {}
        self._states: dict[str, ItemState | None] = {}
        self._stored: set[str] = set()
        messages = [entry for entry in entries if isinstance(entry, LoggedMessage)]
        # What an end record of this very run cuts off did count before that record: it is taken, then forgotten, so
        # that the state does not depend on where runs begin and end.
        judged = suspects_at(tx, [message.leaf for message in messages])
        self.suspects = {leaf for leaf, reason in judged.items() if reason != AFTER_LAST}
        self._want({item.id for message in messages for event in message.items for item in event})

    def take(self, event: LoggedEvent) -> None:
        """One event, in log order."""
        facts = facts_of(event)
        if event.clear.get("type") == "AggregationEvent" and event.clear.get("action") == "DELETE":
            facts = self._emptied(event, facts) | facts
        for item_id, fact in facts.items():
            self._want([item_id])
            state = self._states.get(item_id)
            self._facts.setdefault(item_id, {})[fact.when] = fact
            if not fact.voids and (state is None or state.last < fact.when):
                self._states[item_id] = advance(item_id, state, fact)
            else:
                self._refold(item_id)

    def forget(self, leaves: Sequence[int]) -> None:
        """Take out what stands on messages that an ``end`` record has made suspect."""
        for start in range(0, len(leaves), _PART):
            part = leaves[start : start + _PART]
            ids = set(self._tx.execute(sa.select(item_facts.c.id).where(item_facts.c.leaf.in_(part))).scalars())
            ids |= {name for name, facts in self._facts.items() if any(when.leaf in set(part) for when in facts)}
            self._tx.execute(item_facts.delete().where(item_facts.c.leaf.in_(part)))
            for item_id in ids:
                for when in [when for when in self._facts.get(item_id, {}) if when.leaf in set(part)]:
                    del self._facts[item_id][when]
                self._want([item_id])
                self._refold(item_id)

    def write(self) -> None:
        """Store new facts and changed states."""
        rows = [
            {"id": item_id, "leaf": when.leaf, "event": when.event, "device_ms": when.device_ms, "fact": fact.encode()}
            for item_id, facts in self._facts.items()
            for when, fact in facts.items()
        ]
        if rows:
            self._tx.execute(item_facts.insert(), rows)
        changed = [name for name in self._states if name in self._facts or name in self._stored]
        for start in range(0, len(changed), _PART):
            self._tx.execute(item_states.delete().where(item_states.c.id.in_(changed[start : start + _PART])))
        states = [state_row(state) for name in changed if (state := self._states[name]) is not None]
        if states:
            self._tx.execute(item_states.insert(), states)

    def _want(self, ids: Iterable[str]) -> None:
        missing = [name for name in ids if name not in self._states]
        if missing:
            self._states.update(dict.fromkeys(missing))
            self._states.update(_load(self._tx, missing))

    def _refold(self, item_id: str) -> None:
        query = sa.select(item_facts).where(item_facts.c.id == item_id)
        known = {
            When(row.device_ms, row.leaf, row.event): decode(When(row.device_ms, row.leaf, row.event), row.fact)
            for row in self._tx.execute(query)
        }
        known |= self._facts.get(item_id, {})
        self._states[item_id] = fold(item_id, known.values())
        self._stored.add(item_id)

    def _emptied(self, event: LoggedEvent, facts: dict[str, Fact]) -> dict[str, Fact]:
        # A DELETE that names a parent and no children takes everything out of it.
        if any(CHILD in fact.roles for fact in facts.values()):
            return {}
        emptied: dict[str, Fact] = {}
        for parent in event.names(PARENT):
            inside = set(contents(self._tx, parent)) | {
                name for name, state in self._states.items() if state is not None and state.container == parent
            }
            self._want(inside)
            for name in sorted(inside):
                state = self._states[name]
                if state is not None and state.container == parent:
                    emptied[name] = replace(facts[parent], roles=(CHILD,), parent=parent, sensors={})
        return emptied


def _cut_off(tx: Tx, kid: str, first: int) -> list[int]:
    """Leaves of a key's messages that its end record made suspect: those with facts, and those of this run."""
    query = sa.select(suspects.c.leaf).join(keys, keys.c.key_no == suspects.c.key_no)
    query = query.where(suspects.c.reason == AFTER_LAST, keys.c.kid == kid)
    stands = sa.exists().where(item_facts.c.leaf == suspects.c.leaf)
    return list(tx.execute(query.where(stands | (suspects.c.leaf >= first))).scalars())


def _load(tx: Tx, ids: Iterable[str]) -> dict[str, ItemState]:
    return {row[0]: _state_of(row) for row in fetch_among(tx, _STATES, sorted(set(ids)))}


def _where(tx: Tx, condition: Any, limit: int) -> list[ItemState]:
    query = sa.select(item_states).where(condition).order_by(item_states.c.id).limit(limit)
    return [_state(row) for row in tx.execute(query)]


_SAME = (
    "id", "product", "lot", "place", "custodian", "owner", "container", "biz_step", "disposition", "is_sold",
    "is_recalled", "is_decommissioned", "first_ms", "events",
)  # fmt: skip


_STATES = f"SELECT {','.join(_SAME)},last_ms,last_leaf,last_event,sensors FROM item_states WHERE id AMONG"  # noqa: S608
_FLAGS = [_SAME.index(name) for name in ("is_sold", "is_recalled", "is_decommissioned")]


def _state(row: Any) -> ItemState:
    same = {name: getattr(row, name) for name in _SAME}
    return ItemState(last=When(row.last_ms, row.last_leaf, row.last_event), sensors=json.loads(row.sensors), **same)


def _state_of(row: Sequence[Any]) -> ItemState:
    same = dict(zip(_SAME, row, strict=False))
    for place in _FLAGS:
        same[_SAME[place]] = bool(row[place])
    last_ms, last_leaf, last_event, sensors = row[len(_SAME) :]
    return ItemState(last=When(last_ms, last_leaf, last_event), sensors=json.loads(sensors), **same)


def state_row(state: ItemState) -> dict[str, Any]:
    """The state as a row of ``item_states``."""
    row = {name: getattr(state, name) for name in _SAME}
    row |= {"last_ms": state.last.device_ms, "last_leaf": state.last.leaf, "last_event": state.last.event}
    return row | {"sensors": json.dumps(state.sensors, ensure_ascii=False, separators=(",", ":"))}
