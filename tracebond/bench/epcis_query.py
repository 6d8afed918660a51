"""Queries: how fast the index takes events, and how fast it answers by item, party and time, at two sizes."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from api.epcis.query_answers import encoded, query_document, shown
from api.epcis.query_language import read_query
from api.epcis.query_lookup import DatabaseLookup
from core.identifiers import check_digit
from ledger.database import Database
from ledger.followers import LoggedEvent, LoggedMessage
from ledger.queryindex import QueryIndex
from ledger.queryindex_search import Viewer, newest, search
from ledger.queryindex_tables import query_events
from tracebond.bench.databases import has_postgres, postgres_database, sqlite_database
from tracebond.bench.report import Row, Say

SIZES: Final = (10_000, 1_000_000)
QUICK_SIZES: Final = (10_000, 50_000)
EVENTS_PER_ITEM: Final = 10
EVENTS_PER_MESSAGE: Final = 10
MESSAGES_PER_RUN: Final = 100
ASKED: Final = 300
START_S: Final = 1_780_000_000
ORGS: Final = tuple(
    f"https://id.gs1.org/417/{digits}{check_digit(digits)}" for digits in map(str, range(952100000000, 952100000020))
)
SITES: Final = tuple(f"urn:epc:id:sgln:9521000.{number:05d}.0" for number in range(100))
STEPS: Final = (
    "commissioning",
    "packing",
    "shipping",
    "receiving",
    "storing",
    "inspecting",
    "picking",
    "loading",
    "unloading",
    "stocking",
)
REGULATOR: Final = Viewer("", sees_all=True, reader="regulator")
Parameters = list[tuple[str, str]]


def rows(quick: bool, say: Say) -> list[Row]:
    """The rows of both databases; PostgreSQL where it can be started.

    Args:
        quick: 10 and 50 thousand events instead of 10 thousand and a million.
    """
    found = _on("SQLite", sqlite_database(), quick, say)
    if has_postgres():
        found += _on("PostgreSQL", postgres_database(), quick, say)
    else:
        say("PostgreSQL is not installed here: its rows are left out")
    return found


def run(quick: bool, say: Say) -> list[Row]:
    """As ``rows``: what ``tracebond bench epcis`` asks each of its parts for."""
    return rows(quick, say)


def _on(name: str, opened: AbstractContextManager[Database], quick: bool, say: Say) -> list[Row]:
    small, large = QUICK_SIZES if quick else SIZES
    found: list[Row] = []
    with opened as database:
        index, taken = QueryIndex(), 0
        p95: list[float] = []
        for size in (small, large):
            say(f"{name}: indexing {size:,} events")
            cost_us = _fill(database, index, taken, size)
            taken = size
            found.append(Row(f"{name}: index, cost of an event up to {size:,}", cost_us, "us", None, None, 100, True))
            say(f"{name}: asking at {size:,} events")
            by_item, processor = _measure(database, size, _item_of(size), REGULATOR)
            p95.append(by_item)
            found.append(
                Row(
                    f"{name}: query by item p95, {size:,} events",
                    by_item,
                    "ms",
                    _lookup(database, size),
                    _scan(database, size),
                    10,
                    True,
                )
            )
            found.append(
                Row(
                    f"{name}: query by item, processor time, median, {size:,} events",
                    processor,
                    "ms",
                    is_lower_better=True,
                )
            )
            by_party, _ = _measure(database, size, lambda _: [("EQ_bizStep", "shipping")], Viewer(ORGS[3]))
            found.append(
                Row(f"{name}: page of a partner's step p95, {size:,} events", by_party, "ms", is_lower_better=True)
            )
            by_time, _ = _measure(database, size, _at_site, REGULATOR)
            found.append(
                Row(f"{name}: newest events of a site p95, {size:,} events", by_time, "ms", is_lower_better=True)
            )
        found.append(
            Row(
                f"{name}: query by item, {large:,} events against {small:,}",
                p95[1] / p95[0],
                "times",
                None,
                None,
                2,
                True,
            )
        )
    return found


def _item_of(size: int) -> Callable[[random.Random], Parameters]:
    return lambda chance: [("MATCH_anyEPC", _epc(chance.randrange(size // EVENTS_PER_ITEM)))]


def _at_site(chance: random.Random) -> Parameters:
    return [("EQ_bizLocation", chance.choice(SITES)), ("orderBy", "eventTime")]


def _fill(database: Database, index: QueryIndex, start: int, end: int) -> float:
    """Index events ``[start, end)``; the cost of one, in microseconds, without making them up."""
    spent = 0.0
    messages: list[LoggedMessage] = []
    for message in _messages(start, end):
        messages.append(message)
        if len(messages) == MESSAGES_PER_RUN:
            spent += _apply(database, index, messages)
            messages = []
    if messages:
        spent += _apply(database, index, messages)
    if database.kind == "postgresql":
        # What autovacuum does by itself a minute later.
        with database.transaction() as tx:
            tx.execute(sa.text("ANALYZE query_events, query_postings"))
    return spent / (end - start) * 1e6


def _apply(database: Database, index: QueryIndex, messages: list[LoggedMessage]) -> float:
    began = time.perf_counter()
    with database.transaction() as tx:
        index.apply(tx, messages)
    return time.perf_counter() - began


def _measure(
    database: Database, size: int, question: Callable[[random.Random], Parameters], viewer: Viewer
) -> tuple[float, float]:
    """Whole answers, parameters to JSON bytes: the 95th percentile by the clock, and the median of this process's own
    processor time, which a busy machine does not move; in milliseconds.
    """
    chance = random.Random(size)
    times: list[float] = []
    processor: list[float] = []
    for _ in range(ASKED):
        parameters = question(chance)
        began, used = time.perf_counter(), time.thread_time()
        with database.reading() as tx:
            query = read_query(parameters, DatabaseLookup(tx), {})
            page = search(tx, query, viewer, limit=30, top=newest(tx))
        events = [shown(found, "Always_GS1_Digital_Link") for found in page.events]
        encoded(query_document(events, now_ms=START_S * 1000))
        times.append((time.perf_counter() - began) * 1000)
        processor.append((time.thread_time() - used) * 1000)
    return statistics.quantiles(times, n=20)[-1], statistics.median(processor)


def _lookup(database: Database, size: int) -> float:
    """The raw limit: as many rows as an item has events, read by primary key."""
    chance = random.Random(size)
    times: list[float] = []
    for _ in range(ASKED):
        keys = [_key(chance.randrange(size)) for _ in range(EVENTS_PER_ITEM)]
        began = time.perf_counter()
        with database.reading() as tx:
            tx.execute(sa.select(query_events).where(query_events.c.ev.in_(keys))).all()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.quantiles(times, n=20)[-1]


def _scan(database: Database, size: int) -> float:
    """The naive way: read every event and look for the item's text."""
    wanted = _epc(size // EVENTS_PER_ITEM // 2).encode()
    began = time.perf_counter()
    with database.reading() as tx:
        bodies = tx.execution_options(yield_per=10_000).execute(sa.select(query_events.c.body)).scalars()
        sum(wanted in bytes(body) for body in bodies)
    return (time.perf_counter() - began) * 1000


def _key(number: int) -> int:
    leaf, event = divmod(number, EVENTS_PER_MESSAGE)
    return leaf * 1024 + event


def _epc(item: int) -> str:
    return f"urn:epc:id:sgtin:9521000.0{10_000 + item % 500:05d}.{item}"


def _messages(start: int, end: int) -> Iterator[LoggedMessage]:
    """Messages as the followers hand them over: an item's ten events stand a tenth of the run apart."""
    for first in range(start, end, EVENTS_PER_MESSAGE):
        leaf = first // EVENTS_PER_MESSAGE
        org = ORGS[leaf % len(ORGS)]
        events = tuple(_event(leaf, number, first + number, start, end, org) for number in range(EVENTS_PER_MESSAGE))
        message = LoggedMessage(
            leaf, leaf, 1, org, "bench", "device", b"", b"", leaf, None, (START_S + leaf) * 1000, b"", (), ()
        )
        message.__dict__["events"] = events
        yield message


def _event(leaf: int, number: int, place: int, start: int, end: int, org: str) -> LoggedEvent:
    items = max(1, (end - start) // EVENTS_PER_ITEM)
    step, item = divmod(place - start, items)
    item += start // EVENTS_PER_ITEM
    at = START_S + leaf - (place * 7_919) % 600
    clear: dict[str, Any] = {
        "type": "ObjectEvent",
        "action": "ADD" if step == 0 else "OBSERVE",
        "eventTime": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventTimeZoneOffset": "+00:00",
        "bizStep": STEPS[step % len(STEPS)],
        "disposition": "in_progress",
    }
    site = {"id": SITES[(item + step) % len(SITES)]}
    receiver = {"type": "possessing_party", "destination": ORGS[(item + step) % len(ORGS)]}
    event = clear | {
        "eventID": f"urn:uuid:00000000-0000-4000-8000-{place:012d}",
        "epcList": [_epc(item)],
        "readPoint": site,
        "bizLocation": site,
        "destinationList": [receiver],
    }
    return LoggedEvent(
        leaf,
        number,
        b"",
        b"",
        "bench",
        org,
        "bench",
        "device",
        leaf,
        (START_S + leaf) * 1000,
        at * 1000,
        clear,
        event,
        (),
    )
