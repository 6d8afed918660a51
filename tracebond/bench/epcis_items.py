"""Rows of ``tracebond bench epcis``: an item's full journey among many events, on SQLite and PostgreSQL."""

import json
import statistics
import time
from collections.abc import Callable

import sqlalchemy as sa

from api.items_document import item_document
from core.errors import Broken
from core.prefixmap import map_key
from ledger.asof import NOW, Book, Moment, journey
from ledger.database import Database, Tx
from ledger.tables import entries, item_steps, messages
from tracebond.bench.databases import has_postgres, postgres_database, sqlite_database
from tracebond.bench.items_load import PER_ITEM, load, sample
from tracebond.bench.report import Row, Say

TARGET_MS = 20.0


def rows(quick: bool, say: Say) -> list[Row]:
    """Measure at one size; ``quick`` at 20 thousand events instead of a million."""
    found: list[Row] = []
    events, items, turns = (20_000, 60, 100) if quick else (1_000_000, 400, 1_000)
    with sqlite_database() as database:
        found += _measure(database, "SQLite", events, items, turns, say)
    if has_postgres():
        with postgres_database() as database:
            found += _measure(database, "PostgreSQL", events, items, turns, say)
    else:
        say("PostgreSQL is not installed here: its rows are left out")
    return found


def _measure(database: Database, name: str, events: int, items: int, turns: int, say: Say) -> list[Row]:
    ids = load(database, events=events, items=items, say=say)
    say(f"{name}: {turns} journeys")
    with database.reading() as tx:
        steps = journey(Book(tx), ids[0])
        if len(steps) != PER_ITEM:
            raise Broken(f"The journey has {len(steps)} events instead of {PER_ITEM}")
        full = _p95(ids, turns, lambda item: journey(Book(tx), item))
        json_p95 = _p95(ids, turns // 2, lambda item: _document(tx, item, NOW))
        processor = _processor(ids, turns // 2, lambda item: journey(Book(tx), item))
        past = Moment(at_ms=(1_795_000_000 + 9_000) * 1000)
        as_of = _p95(ids, turns // 2, lambda item: _document(tx, item, past))
        bare = _p95(ids, turns, lambda item: _bare(tx, item))
        naive = _p95(ids, 3, lambda item: _naive(tx, item))
    size = f"{events:,} events, {name}"
    return [
        Row(f"journey of {PER_ITEM} events, p95, {size}", full, "ms", bare, naive, TARGET_MS, is_lower_better=True),
        Row(f"journey, processor time, median, {size}", processor, "ms", None, None, None, is_lower_better=True),
        Row(f"/items JSON, p95, {size}", json_p95, "ms", bare, naive, None, is_lower_better=True),
        Row(f"/items JSON as of a past time, p95, {size}", as_of, "ms", bare, naive, None, is_lower_better=True),
    ]


def _document(tx: Tx, item: str, moment: Moment) -> None:
    item_document(tx, item, reader="regulator", lang="en", moment=moment, log_size=0)


def _bare(tx: Tx, item: str) -> None:
    """The ceiling: the raw rows of the item's own events by index, nothing parsed."""
    key64 = int.from_bytes(map_key("item", item)[:8], signed=True)
    query = sa.select(messages.c.jwt).join(entries, entries.c.arrival == messages.c.arrival)
    query = query.join(item_steps, item_steps.c.leaf == entries.c.leaf).where(item_steps.c.key64 == key64)
    tx.execute(query).fetchall()


def _naive(tx: Tx, item: str) -> None:
    """The naive way: the names of every message are read, for there is no index on items."""
    found = []
    for leaf, ids in tx.execute(sa.select(messages.c.arrival, messages.c.item_ids)):
        if item.encode() in bytes(ids) and item in json.loads(bytes(ids))[0]:
            found.append(leaf)


def _processor(ids: list[str], turns: int, call: Callable[[str], object]) -> float:
    """The median of this process's own processor time, which a busy machine does not move."""
    times = []
    for item in sample(ids, turns):
        began = time.thread_time()
        call(item)
        times.append((time.thread_time() - began) * 1000)
    return statistics.median(times)


def _p95(ids: list[str], turns: int, call: Callable[[str], object]) -> float:
    times = []
    for item in sample(ids, turns):
        began = time.perf_counter()
        call(item)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.quantiles(times, n=20)[-1] if len(times) >= 20 else max(times)
