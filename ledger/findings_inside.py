"""What is inside units, for the rules: where things were packed, and where their units went with them."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

from core.prefixmap import map_key
from ledger.findings_facts import CHILD, EventFact, last_day
from ledger.findings_rules import (
    LEAVING,
    Around,
    Leaving,
    ThingState,
    When,
    expires_first,
    packing,
    role_of,
    standing,
)

# Our own figure, as for containers elsewhere: an item, its pack, its case, a pallet, a container and a ship are six.
DEPTH_MAX: Final = 10
_NEVER: Final = (2**62, 0)
_key = lru_cache(maxsize=65_536)(lambda name: map_key("item", name))


class Contents:
    """Answers what the folds ask of other things, and keeps for each unit the day before which nobody looks inside.

    Args:
        state_of: where the rules stand with a thing, by its key; None for one that no event names.
        facts_of: the events about a thing that count, by its key.
        changed: told of the key of a thing whose state was changed here.
    """

    def __init__(
        self,
        state_of: Callable[[bytes], ThingState | None],
        facts_of: Callable[[bytes], Iterable[EventFact]],
        changed: Callable[[bytes], None],
    ) -> None:
        self._state_of = state_of
        self._facts_of = facts_of
        self._changed = changed
        self._asked: set[str] = set()

    def emptied(self, unit: str) -> Sequence[When]:
        """When everything was taken out of a unit at once."""
        state = self._named(unit)
        return [] if state is None else state.emptied

    def leavings(self, unit: str, after_day: int) -> Sequence[Leaving]:
        """When a unit left a place later than this day, alone or inside another, in order."""
        if unit in self._asked or len(self._asked) >= DEPTH_MAX or self.reach(unit) <= after_day:
            return []
        self._asked.add(unit)
        try:
            return leavings_of(unit, self._facts_of(_key(unit)), after_day, self)
        finally:
            self._asked.discard(unit)

    def lot_expires(self, lot: str) -> int | None:
        """The expiry date of a lot as a whole, as an ordinal."""
        state = self._named(lot)
        return None if state is None else state.expires

    def reach(self, unit: str) -> int:
        """A day after which neither the unit nor what it is inside was seen, 0 for none."""
        newest, name = 0, unit
        for _ in range(DEPTH_MAX):
            state = self._named(name)
            if state is None:
                break
            newest = max(newest, last_day(state.last[0]))
            if state.container is None:
                break
            name = state.container
        return newest

    def first_day(self, state: ThingState) -> int | None:
        """No later than the first day on which a thing, or anything that was ever in it, expires."""
        own = expires_first(state, self)
        if state.soonest is None:
            return own
        return state.soonest if own is None else min(own, state.soonest)

    def may_have_left(self, unit: str, when: When, day: int) -> bool:
        """Whether a unit, or what it is inside, was seen later than ``when`` and after a day."""
        name = unit
        for _ in range(DEPTH_MAX):
            state = self._named(name)
            if state is None:
                return False
            if state.last > when and last_day(state.last[0]) > day:
                return True
            if state.container is None:
                return False
            name = state.container
        return False

    def lower(self, unit: str, day: int) -> None:
        """Something that expires on this day is, or was, in a unit."""
        key = _key(unit)
        state = self._state_of(key)
        if state is None or (state.soonest is not None and state.soonest <= day):
            return
        state.soonest = day
        self._changed(key)
        for outer in self.units_of(unit, state, key):
            self.lower(outer, day)

    def units_of(self, item_id: str, state: ThingState, key: bytes) -> set[str]:
        """Every unit that a thing was ever packed in."""
        if state.packed == ThingState().packed:
            return set()
        found = {fact.parent for fact in self._facts_of(key) if fact.kind == "A" and fact.action != "DELETE"}
        return {unit for unit in found if unit is not None and unit != item_id}

    def _named(self, name: str) -> ThingState | None:
        return self._state_of(_key(name))


def leavings_of(unit: str, facts: Iterable[EventFact], after_day: int, around: Around) -> list[Leaving]:
    """When a unit left a place later than a day, by its own events and by those of the units that it was in."""
    good, _ = standing(facts)
    found = {
        fact.ev: Leaving(fact.ms, fact.ev, fact.day, fact.org)
        for fact in good
        if fact.step in LEAVING and fact.day > after_day and fact.kind != "X" and role_of(unit, fact) is not None
    }
    for outer, since, until in stays(unit, good, around):
        for one in around.leavings(outer, after_day):
            if since < one.when < until:
                found.setdefault(one.ev, one)
    return sorted(found.values())


def stays(item_id: str, good: Iterable[EventFact], around: Around) -> list[tuple[str, When, When]]:
    """The units that a thing was in, each from when to when, by its standing events in order."""
    state, found = ThingState(), list[tuple[str, When, When]]()

    def close(at: When) -> None:
        if unit is not None:
            emptied = [one for one in around.emptied(unit) if since < one < at]
            found.append((unit, since, min(emptied, default=at)))

    for fact in good:
        role = role_of(item_id, fact)
        if fact.kind != "A" or role != CHILD:
            continue
        unit, since = state.container, state.packed
        packing(state, fact, role, around, [])
        if (state.container, state.packed) != (unit, since):
            close(fact.when)
    unit, since = state.container, state.packed
    close(_NEVER)
    return found
