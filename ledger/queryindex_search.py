"""Answers to queries out of the index: the index proposes events in order, the query decides on what the reader sees.

An event is decided on after everything its reader may not see was taken out of it: neither a hit nor a count tells
anything about a hidden member.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from core.errors import Rejected
from ledger.chains import suspects_at
from ledger.database import Tx, fetch, is_sqlite, raw
from ledger.disclosure import Reader, may_see
from ledger.queryindex import decode, place_of
from ledger.queryindex_facts import facts_of
from ledger.queryindex_few import few_events
from ledger.queryindex_plan import Driver, Plan, as_posting, make_plan
from ledger.queryindex_query import Query
from ledger.queryindex_tables import query_events, query_postings
from ledger.queryindex_terms import party_term, term_hash

GATHER_MAX: Final = 2_000
COUNT_MAX: Final = 10_000
ORDER_MAX: Final = 5_000
BYTES_MAX: Final = 8_388_608
UNION_MAX: Final = 50
CHUNK_MAX: Final = 1_000
BUDGET_MS: Final = 5_000
_STEPS: Final = 20_000
_PART: Final = 500
_CLEAR: Final = frozenset(
    {"type", "action", "eventTime", "eventTimeZoneOffset", "bizStep", "disposition", "errorDeclaration"}
)
# One statement for all settings of the transaction: each would cost a round trip.
_PLANNER: Final = sa.text(
    "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), "
    "set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), "
    "set_config('jit', 'off', true), set_config('statement_timeout', :budget, true)"
)
Position = tuple[Any, ...]


class TooComplex(Rejected):
    """The query would read too much of the index."""

    code = "query_too_complex"


class TooLarge(Rejected):
    """The answer would hold more events than allowed."""

    code = "query_too_large"


@dataclass(frozen=True)
class Viewer:
    """Who asks.

    Attributes:
        org: sees its own events whole, and those it is party to as far as ``reader`` may.
        sees_all: a regulator.
    """

    org: str
    sees_all: bool = False
    reader: Reader = "partner"


@dataclass(frozen=True)
class Found:
    """One event of an answer, as its reader sees it.

    Attributes:
        suspect: why its message is no evidence, or None.
    """

    ev: int
    event_ms: int
    record_ms: int
    event: dict[str, Any]
    suspect: str | None = None


@dataclass(frozen=True)
class Page:
    """Part of an answer.

    Attributes:
        next: where the next page begins, None after the last one.
    """

    events: list[Found]
    next: Position | None


def newest(tx: Tx) -> int:
    """The key of the newest event in the index, -1 while it is empty."""
    found = fetch(tx, "SELECT max(ev) FROM query_events")[0][0]
    return -1 if found is None else int(found)


def visible(event: dict[str, Any], org: str, viewer: Viewer) -> dict[str, Any]:
    """What a viewer may see of an event of an organisation.

    An eventID that is a hash is withheld together with a member it covers: it would confirm a guess.
    """
    if viewer.sees_all or org == viewer.org:
        return event
    shown = {name: value for name, value in event.items() if name in _CLEAR or may_see(viewer.reader, name)}
    if len(shown) < len(event) and str(shown.get("eventID", "")).startswith("ni:"):
        del shown["eventID"]
    return shown


def search(tx: Tx, query: Query, viewer: Viewer, *, limit: int, top: int, after: Position | None = None) -> Page:
    """One page of an answer.

    Args:
        limit: at most this many events, at least 1.
        top: the newest event that belongs to the answer, as ``newest`` gave it for the first page.
        after: ``next`` of the page before.

    Raises:
        TooComplex: it would read too much.
        TooLarge: more matches than can be put in order by a field.
    """
    quick = _few(tx, query, viewer, top, limit, after)
    if quick is not None:
        return quick
    with _budget(tx):
        plan = make_plan(tx, query, top)
        if plan is None:
            return Page([], None)
        if query.order.by == "field":
            page = _by_field(tx, query, viewer, plan, limit, after)
        else:
            page = _in_order(tx, query, viewer, plan, limit, after)
        reasons = suspects_at(tx, [place_of(found.ev)[0] for found in page.events])
    if not reasons:
        return page
    marked = [
        Found(one.ev, one.event_ms, one.record_ms, one.event, reasons.get(place_of(one.ev)[0])) for one in page.events
    ]
    return Page(marked, page.next)


def count(tx: Tx, query: Query, viewer: Viewer, *, top: int, at_most: int) -> int:
    """How many events match, counted no further than ``at_most`` + 1.

    Raises:
        TooComplex: it would read too much.
    """
    with _budget(tx):
        plan = make_plan(tx, query, top)
        total = 0
        for _ in _matches(tx, query, viewer, plan, None, at_most) if plan is not None else ():
            total += 1
            if total > at_most:
                break
        return total


def is_visible(tx: Tx, term: str, viewer: Viewer) -> bool:
    """Whether the viewer sees at least one event under a term."""
    key = term_hash(term)
    query = sa.select(sa.literal(1)).where(query_postings.c.term == key)
    if not viewer.sees_all:
        other = query_postings.alias()
        mine = sa.exists().where(other.c.term == term_hash(party_term(viewer.org)), other.c.ev == query_postings.c.ev)
        query = query.where(mine)
    return tx.execute(query.limit(1)).first() is not None


def _in_order(tx: Tx, query: Query, viewer: Viewer, plan: Plan, limit: int, after: Position | None) -> Page:
    events: list[Found] = []
    size = 0
    for found, length in _matches(tx, query, viewer, plan, after, limit):
        if len(events) == limit or (events and size + length > BYTES_MAX):
            return Page(events, _position(query, events[-1]))
        events.append(found)
        size += length
    return Page(events, None)


def _few(tx: Tx, query: Query, viewer: Viewer, top: int, limit: int, after: Position | None) -> Page | None:
    """The page of a query that names something rare, in one statement; None where nothing or too much is listed."""
    if query.order.by == "field":
        return None
    listed = few_events(tx, query, None if viewer.sees_all else term_hash(party_term(viewer.org)), top)
    if not listed:
        return None
    is_timed, is_down = query.order.by == "eventTime", query.order.is_descending
    listed.sort(key=lambda row: (row.event_ms, row.ev) if is_timed else (row.ev,), reverse=is_down)
    events: list[Found] = []
    size = 0
    for row in listed:
        place = (row.event_ms, row.ev) if is_timed else (row.ev,)
        if after is not None and not (place < after if is_down else place > after):
            continue
        event = visible(decode(row.body), row.org, viewer)
        if not query.holds(facts_of(event), row.record_ms):
            continue
        if len(events) == limit or (events and size + len(row.body) > BYTES_MAX):
            return Page(events, _position(query, events[-1]))
        events.append(Found(row.ev, row.event_ms, row.record_ms, event, row.suspect))
        size += len(row.body)
    return Page(events, None)


def _by_field(tx: Tx, query: Query, viewer: Viewer, plan: Plan, limit: int, after: Position | None) -> Page:
    keyed: list[tuple[tuple[int, Any, int], Found]] = []
    for found, _ in _matches(tx, query, viewer, plan, None, ORDER_MAX):
        if len(keyed) == ORDER_MAX:
            raise TooLarge(f"More than {ORDER_MAX} events would have to be put in order by a field; narrow the query.")
        keyed.append((_field_key(query, found), found))
    keyed.sort(key=lambda pair: pair[0], reverse=query.order.is_descending)
    start = 0
    if after is not None:
        # The last event of the page before keeps its place: it is in the snapshot that the answer was made of.
        start = next((place + 1 for place, pair in enumerate(keyed) if pair[1].ev == after[0]), len(keyed))
    events = [found for _, found in keyed[start : start + limit]]
    return Page(events, (events[-1].ev,) if start + limit < len(keyed) else None)


def _field_key(query: Query, found: Found) -> tuple[int, Any, int]:
    facts = facts_of(found.event)
    for name in query.order.fields:
        for mark in ("#", "@"):
            numbers = sorted(facts.numbers_of(name + mark))
            if numbers:
                return (1, numbers[0], found.ev)
        texts = sorted(text[len(name) + 1 :] for text in facts.terms if text.startswith(name + "\x1f"))
        if texts:
            return (2, texts[0], found.ev)
    return (0, Fraction(0), found.ev)


def _position(query: Query, last: Found) -> Position:
    return (last.event_ms, last.ev) if query.order.by == "eventTime" else (last.ev,)


def _matches(
    tx: Tx, query: Query, viewer: Viewer, plan: Plan, after: Position | None, limit: int
) -> Iterator[tuple[Found, int]]:
    """Matching events in order with the bytes of each, from behind a position on."""
    if not viewer.sees_all:
        plan = plan.narrowed(frozenset({term_hash(party_term(viewer.org))}))
    for row in _candidates(tx, query, plan, after, limit):
        body = bytes(row.body)
        event = visible(decode(body), row.org, viewer)
        if query.holds(facts_of(event), row.record_ms):
            yield Found(row.ev, row.event_ms, row.record_ms, event), len(body)


def _candidates(tx: Tx, query: Query, plan: Plan, after: Position | None, limit: int) -> Iterator[Any]:
    is_timed = query.order.by == "eventTime"
    driver = _only(plan) if not is_timed else None
    driver = driver or plan.driver(tx, GATHER_MAX)
    if driver is not None and driver.is_small and (is_timed or driver.numbers):
        yield from _gathered(tx, query, plan.without(driver.terms), driver, after)
        return
    chunk = min(limit + 1, CHUNK_MAX)
    while True:
        if is_timed or driver is None:
            rows = _walk(tx, query, plan, after, chunk)
        else:
            rows = _walk_postings(tx, query, plan.without(driver.terms), driver, after, chunk)
        yield from rows
        if len(rows) < chunk:
            return
        last = rows[-1]
        after = (last.event_ms, last.ev) if is_timed else (last.ev,)
        chunk = min(chunk * 2, CHUNK_MAX)


def _only(plan: Plan) -> Driver | None:
    """The one list there is to begin with, whose length need not be counted: it is walked in its own order."""
    if len(plan.groups) != 1 or plan.numbers or len(plan.groups[0]) > UNION_MAX:
        return None
    return Driver(plan.groups[0], (), False, plan.first, plan.last)


def _gathered(tx: Tx, query: Query, plan: Plan, driver: Driver, after: Position | None) -> Iterator[Any]:
    """Few events are listed whole, ordered here, and read as far as they are asked for."""
    is_timed, is_down = query.order.by == "eventTime", query.order.is_descending
    columns = (query_events.c.event_ms, query_events.c.ev) if is_timed else (query_events.c.ev,)
    listed = sa.select(*columns).where(query_events.c.ev.in_(driver.select()), *plan.where())
    keys: list[Position] = sorted((tuple(row) for row in tx.execute(listed)), reverse=is_down)
    if after is not None:
        keys = [key for key in keys if (key < after if is_down else key > after)]
    for start in range(0, len(keys), 64):
        part = [key[-1] for key in keys[start : start + 64]]
        by_ev = {row.ev: row for row in _rows(tx, part)}
        yield from (by_ev[ev] for ev in part)


def _walk(tx: Tx, query: Query, plan: Plan, after: Position | None, chunk: int) -> list[Any]:
    """The next events along the order's own index that fulfil the plan."""
    is_down, is_timed = query.order.is_descending, query.order.by == "eventTime"
    columns = (query_events.c.event_ms, query_events.c.ev) if is_timed else (query_events.c.ev,)
    statement = sa.select(query_events.c.ev).where(*plan.where(is_timed=is_timed))
    if after is not None:
        here = sa.tuple_(*columns)
        there = sa.tuple_(*(sa.literal(value) for value in after))
        statement = statement.where(here < there if is_down else here > there)
    # The keys stand in the order's index alone: rows that the plan passes over are not read.
    statement = statement.order_by(*(column.desc() if is_down else column for column in columns)).limit(chunk)
    keys = statement.subquery()
    rows = tx.execute(sa.select(query_events).join(keys, keys.c.ev == query_events.c.ev)).all()
    return sorted(rows, key=lambda row: (row.event_ms, row.ev) if is_timed else (row.ev,), reverse=is_down)


def _walk_postings(tx: Tx, query: Query, plan: Plan, driver: Driver, after: Position | None, chunk: int) -> list[Any]:
    """The next events along the lists of the driver's terms that fulfil the plan."""
    is_down = query.order.is_descending
    ev = query_postings.c.ev
    where = as_posting(plan)
    if after is not None:
        where.append(ev < after[-1] if is_down else ev > after[-1])
    order = ev.desc() if is_down else ev
    terms = sorted(driver.terms)
    # Long lists are walked one by one, each along its own order; short ones are put in order together.
    groups = [terms] if driver.is_small or len(terms) > UNION_MAX else [[one] for one in terms]
    walks = []
    for group in groups:
        statement = sa.select(ev).where(query_postings.c.term.in_(group), *where)
        statement = statement.distinct() if len(group) > 1 else statement
        # A subquery in the list: SQLite takes no order inside a UNION.
        walks.append(sa.select(statement.order_by(order).limit(chunk).subquery().c.ev))
    joined = (sa.union(*walks) if len(walks) > 1 else walks[0]).subquery()
    place = joined.c.ev.desc() if is_down else joined.c.ev
    first = sa.select(joined.c.ev).order_by(place).limit(chunk).subquery()
    # Lists and rows in one statement: a round trip costs more than the rows.
    rows = tx.execute(sa.select(query_events).join(first, first.c.ev == query_events.c.ev)).all()
    return sorted(rows, key=lambda row: row.ev, reverse=is_down)


def _rows(tx: Tx, evs: Sequence[int]) -> list[Any]:
    rows: list[Any] = []
    for start in range(0, len(evs), _PART):
        rows += tx.execute(sa.select(query_events).where(query_events.c.ev.in_(evs[start : start + _PART])))
    return rows


@contextmanager
def _budget(tx: Tx) -> Iterator[None]:
    """Stop a query that reads for too long, so that one reader cannot hold up the others."""
    connection = raw(tx)
    if is_sqlite(tx):
        left = [BUDGET_MS * 10_000 // _STEPS]

        def tick() -> int:
            left[0] -= 1
            return int(left[0] < 0)

        connection.set_progress_handler(tick, _STEPS)
    else:
        # Without fresh statistics the planner would read whole tables; the index was made for nested loops.
        tx.execute(_PLANNER, {"budget": str(BUDGET_MS)})
    try:
        yield
    except OperationalError as error:
        if "interrupted" in str(error.orig) or "statement timeout" in str(error.orig):
            raise TooComplex("The query reads too many events; add an item, a place or a time to it.") from error
        raise
    finally:
        if is_sqlite(tx):
            connection.set_progress_handler(None, 0)
