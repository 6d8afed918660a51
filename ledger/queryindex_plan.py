"""How a query is read from the index: which lists of events, which bounds, and which list first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from core.errors import Rejected
from ledger.database import Tx
from ledger.queryindex import NAME_KINDS
from ledger.queryindex_facts import CLASS_MARK
from ledger.queryindex_query import AnyOf, Compared, Query
from ledger.queryindex_tables import query_events, query_names, query_numbers, query_postings
from ledger.queryindex_terms import ACTIONS, EVENT_TYPES, SEPARATOR, term, term_hash

CLASSES_MAX: Final = 2_000
_ENOUGH: Final = 64


@dataclass(frozen=True)
class Driver:
    """The shortest list of a plan: of terms, or of numbers.

    Attributes:
        is_small: it is short enough to be listed whole.
        first, last: bounds of the event's key.
    """

    terms: frozenset[int]
    numbers: tuple[Any, ...]
    is_small: bool
    first: int
    last: int

    def select(self) -> Any:
        """The statement that lists its events within its bounds."""
        if self.numbers:
            return sa.select(query_numbers.c.ev).where(*self.numbers)
        ev = query_postings.c.ev
        listed = sa.select(ev).where(query_postings.c.term.in_(sorted(self.terms)))
        return listed.where(ev >= self.first, ev <= self.last)


@dataclass(frozen=True)
class Plan:
    """What every event of the answer fulfils, as far as the index can say: a superset.

    Attributes:
        groups: of each group of terms an event has at least one.
        numbers: conditions on ``query_numbers``, one tuple per comparison.
        kinds: allowed numbers of type and action; None for all.
        first, last: bounds of the event's key.
        ge_ms, le_ms: bounds of the event's time.
    """

    first: int
    last: int
    groups: tuple[frozenset[int], ...] = ()
    numbers: tuple[tuple[Any, ...], ...] = ()
    kinds: frozenset[int] | None = None
    ge_ms: int | None = None
    le_ms: int | None = None

    def narrowed(self, group: frozenset[int]) -> "Plan":
        """The plan with one more group of terms."""
        return replace(self, groups=(*self.groups, group))

    def without(self, group: frozenset[int]) -> "Plan":
        """The plan without a group whose list is walked anyway."""
        return replace(self, groups=tuple(one for one in self.groups if one != group))

    def where(self, *, is_timed: bool = False) -> list[Any]:
        """The conditions on a row of ``query_events``.

        Args:
            is_timed: the rows are walked along their time; the bounds of the key are then no reason to walk, and sort,
                by the key instead, so they are said of an expression that no index serves.
        """
        ev = query_events.c.ev
        key = ev + 0 if is_timed else ev
        found: list[Any] = [key >= self.first, key <= self.last, *self._in_row()]
        found += _exist(ev, self.groups, self.numbers)
        return found

    def _in_row(self) -> list[Any]:
        found: list[Any] = []
        if self.kinds is not None:
            found.append(query_events.c.kind.in_(sorted(self.kinds)))
        if self.ge_ms is not None:
            found.append(query_events.c.event_ms >= self.ge_ms)
        if self.le_ms is not None:
            found.append(query_events.c.event_ms <= self.le_ms)
        return found

    def on_row_of(self, ev: Any) -> list[Any]:
        """The conditions on the row, for a statement that walks along another table's ``ev``."""
        inside = self._in_row()
        return [sa.exists().where(query_events.c.ev == ev, *inside)] if inside else []

    def driver(self, tx: Tx, limit: int) -> Driver | None:
        """The list to begin with; None when no list is better than the events themselves."""
        best: tuple[int, Driver] | None = None
        within = (query_postings.c.ev >= self.first, query_postings.c.ev <= self.last)
        for group in self.groups:
            listed = sa.select(sa.literal(1)).where(query_postings.c.term.in_(sorted(group)), *within)
            size = _size(tx, listed, limit)
            if best is None or size < best[0]:
                best = (size, Driver(group, (), size <= limit, self.first, self.last))
            if size <= _ENOUGH:
                break
        if best is None or best[0] > _ENOUGH:
            for numbers in self.numbers:
                size = _size(tx, sa.select(sa.literal(1)).where(*numbers), limit)
                if size <= limit and (best is None or size < best[0]):
                    best = (size, Driver(frozenset(), numbers, True, self.first, self.last))
        return None if best is None else best[1]


def as_posting(plan: Plan) -> list[Any]:
    """The plan's conditions on a row of ``query_postings``."""
    ev = query_postings.c.ev
    found: list[Any] = [ev >= plan.first, ev <= plan.last, *plan.on_row_of(ev)]
    return found + _exist(ev, plan.groups, plan.numbers)


def make_plan(tx: Tx, query: Query, top: int) -> Plan | None:
    """The plan for a query over the events up to ``top``; None when nothing can match.

    Raises:
        Rejected: ``query_too_complex``: a pattern stands for too many classes.
    """
    first, last = _record_bounds(tx, query, top)
    if first > last:
        return None
    plan = Plan(first, last)
    for condition in query.conditions:
        if isinstance(condition, Compared):
            plan = _compared(plan, condition)
            continue
        if condition.is_open:
            continue
        kinds = _kinds(condition)
        if kinds is None:
            terms = {term_hash(text) for text in condition.terms | condition.stems}
            terms |= {term_hash(text) for text in _expanded(tx, condition.prefixes)}
            plan = plan.narrowed(frozenset(terms))
            if not terms:
                return None
        else:
            plan = replace(plan, kinds=kinds if plan.kinds is None else plan.kinds & kinds)
    return None if plan.kinds is not None and not plan.kinds else plan


def _record_bounds(tx: Tx, query: Query, top: int) -> tuple[int, int]:
    """Record time never decreases along the log, so that its bounds are bounds of the key."""
    first, last = 0, top
    column = query_events.c.record_ms
    if query.record_ge_ms is not None:
        least = sa.select(query_events.c.ev).where(column >= query.record_ge_ms).order_by(column, query_events.c.ev)
        found = tx.execute(least.limit(1)).scalar_one_or_none()
        first = top + 1 if found is None else found
    if query.record_lt_ms is not None:
        most = sa.select(query_events.c.ev).where(column < query.record_lt_ms)
        most = most.order_by(column.desc(), query_events.c.ev.desc())
        found = tx.execute(most.limit(1)).scalar_one_or_none()
        last = -1 if found is None else min(last, found)
    return first, last


def _kinds(condition: AnyOf) -> frozenset[int] | None:
    """The kind numbers of a condition on event type or action; None for any other condition."""
    names = {text.partition(SEPARATOR)[0] for text in condition.terms}
    values = {text.partition(SEPARATOR)[2] for text in condition.terms}
    if names == {"eventType"}:
        types = {EVENT_TYPES.index(value) + 1 if value in EVENT_TYPES else 0 for value in values}
        return frozenset(kind * 4 + action for kind in types for action in range(4))
    if names == {"action"}:
        actions = {ACTIONS.index(value) + 1 if value in ACTIONS else 0 for value in values}
        return frozenset(kind * 4 + action for kind in range(len(EVENT_TYPES) + 1) for action in actions)
    return None


def _compared(plan: Plan, condition: Compared) -> Plan:
    """The comparison in binary numbers, one step wider than exact; the query itself decides."""
    low, high = float(min(condition.values)), float(max(condition.values))
    is_from = condition.comparison in ("EQ", "GT", "GE")
    is_to = condition.comparison in ("EQ", "LT", "LE")
    if condition.names == ("eventTime",):
        ge_ms, le_ms = plan.ge_ms, plan.le_ms
        if is_from:
            lower = math.floor(min(condition.values) * 1000) - 1
            ge_ms = lower if ge_ms is None else max(ge_ms, lower)
        if is_to:
            upper = math.ceil(max(condition.values) * 1000) + 1
            le_ms = upper if le_ms is None else min(le_ms, upper)
        return replace(plan, ge_ms=ge_ms, le_ms=le_ms)
    where: list[Any] = [query_numbers.c.name.in_(sorted(term_hash(name) for name in condition.names))]
    if is_from:
        where.append(query_numbers.c.number >= math.nextafter(low, -math.inf))
    if is_to:
        where.append(query_numbers.c.number <= math.nextafter(high, math.inf))
    return replace(plan, numbers=(*plan.numbers, tuple(where)))


def _expanded(tx: Tx, prefixes: Sequence[str]) -> list[str]:
    """The terms of the known classes that begin so."""
    found: list[str] = []
    for prefix in prefixes:
        role, _, start = prefix.partition(SEPARATOR)
        if "/01/" not in start:
            continue
        name = query_names.c.name
        query = sa.select(name).where(query_names.c.kind == NAME_KINDS.index("class"), name >= start)
        classes = tx.execute(query.where(name < start + "\U0010ffff").order_by(name).limit(CLASSES_MAX + 1)).scalars()
        found += [term(mark, one) for one in classes for mark in (role, role + CLASS_MARK)]
        if len(found) > 2 * CLASSES_MAX:
            text = f"The pattern stands for more than {CLASSES_MAX} classes; name the class."
            raise Rejected(text, code="query_too_complex")
    return found


def _exist(ev: Any, groups: Sequence[frozenset[int]], numbers: Sequence[tuple[Any, ...]]) -> list[Any]:
    found: list[Any] = []
    for group in groups:
        other = query_postings.alias()
        found.append(sa.exists().where(other.c.term.in_(sorted(group)), other.c.ev == ev))
    for where in numbers:
        found.append(sa.exists().where(query_numbers.c.ev == ev, *where))
    return found


def _size(tx: Tx, query: Any, limit: int) -> int:
    counted = sa.select(sa.func.count()).select_from(query.limit(limit + 1).subquery())
    return tx.execute(counted).scalar_one()
