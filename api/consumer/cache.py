"""Rendered answers about items, kept while nothing that they rest on has changed.

What an answer rests on: the newest step of the item, of its containers, lot and product, written by the same follower
in the same transaction as their states; the newest master record; the newest end of a key that the follower has seen;
erasures done; the final anchored size where a record is still pending; the gaps of the devices; the looks of others.
One statement reads all of it for each request, and a miss is answered in the very snapshot of its stamp. So a recall is
never shown late: a step of item, lot, product or container changes the stamp.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from core.identifiers import class_of
from core.prefixmap import map_key
from ledger.database import is_sqlite, raw
from ledger.history import VIEWS

BYTES_MAX: Final = 64 * 1024 * 1024  # ours: about a thousand pages
Stamp = tuple[Any, ...]


@dataclass(frozen=True)
class Rests:
    """What an answer rests on."""

    things: tuple[str, ...]
    devices: tuple[str, ...] = ()
    is_pending: bool = False


@dataclass(frozen=True)
class Kept:
    """An answer with its stamp."""

    rests: Rests
    stamp: Stamp
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]
    since_ms: int | None = None


def things_of(item_id: str, containers: Sequence[str], lot: str | None) -> tuple[str, ...]:
    """The things whose newest step counts for an item's answer, each once."""
    product = class_of(item_id)
    named = (item_id, *containers, *(part for part in (lot, product) if part))
    return tuple(dict.fromkeys(named))


def stamp_of(tx: sa.Connection, rests: Rests) -> Stamp:
    """The stamp of what an answer rests on, now."""
    statement, values = _statement(rests, is_sqlite(tx))
    with closing(raw(tx).cursor()) as cursor:
        cursor.execute(statement, values)
        return tuple(cursor.fetchone())


@lru_cache(maxsize=4_096)
def _statement(rests: Rests, on_sqlite: bool) -> tuple[str, tuple[Any, ...]]:
    """One SELECT of scalar reads, each by an index; written out because it runs for every look."""
    parts = ["(SELECT max(leaf) FROM item_steps WHERE key64 = ?)"] * len(rests.things)
    values: list[Any] = [int.from_bytes(map_key("item", name)[:8], signed=True) for name in rests.things]
    parts += [
        "(SELECT max(leaf) FROM masters)",
        "(SELECT max(e.leaf) FROM key_ends e, followers f WHERE f.name = ? AND e.leaf < f.next_leaf)",
        "(SELECT max(arrival) FROM records WHERE t = ?)",
        "(SELECT max(id) FROM deployments WHERE is_current)",
    ]
    values += [VIEWS, "erasure"]
    for name in rests.things[:1]:
        parts.append("(SELECT max(changed_leaf) FROM findings WHERE key = ?)")
        values.append(map_key("item", name))
    if rests.devices:
        gaps = '(SELECT CAST(sum(c.highest + 1 - c."distinct") AS BIGINT) FROM chains c '
        gaps += "JOIN keys k ON k.key_no = c.key_no WHERE k.iss IN ("
        parts.append(gaps + ",".join("?" * len(rests.devices)) + "))")
        values += rests.devices
    if rests.is_pending:
        final = "(SELECT max(a.size) FROM anchors a JOIN deployments d ON d.id = a.deployment AND d.is_current "
        parts.append(final + "WHERE a.state = ?)")
        values.append("final")
    statement = "SELECT " + ", ".join(parts)
    return statement if on_sqlite else statement.replace("?", "%s"), tuple(values)


class Cache:
    """Least recently used answers, bounded by their bytes; one for each process."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, ...], Kept] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> Kept | None:
        """The answer kept under a key, whose stamp the caller compares."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: tuple[str, ...], answer: Kept) -> None:
        """Keep an answer; the oldest ones make room."""
        with self._lock:
            before = self._kept.pop(key, None)
            self._bytes += len(answer.body) - (len(before.body) if before is not None else 0)
            self._kept[key] = answer
            while self._bytes > self._bytes_max and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= len(oldest.body)
