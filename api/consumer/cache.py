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
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from core.identifiers import class_of
from core.prefixmap import map_key
from ledger.chain_tx_tables import anchors, deployments
from ledger.history import VIEWS
from ledger.tables import chains, followers, item_steps, key_ends, keys, masters, records

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
    columns: list[Any] = []
    for name in rests.things:
        key64 = int.from_bytes(map_key("item", name)[:8], signed=True)
        columns.append(sa.select(sa.func.max(item_steps.c.leaf)).where(item_steps.c.key64 == key64).scalar_subquery())
    seen = sa.select(followers.c.next_leaf).where(followers.c.name == VIEWS).scalar_subquery()
    columns += [
        sa.select(sa.func.max(masters.c.leaf)).scalar_subquery(),
        sa.select(sa.func.max(key_ends.c.leaf)).where(key_ends.c.leaf < seen).scalar_subquery(),
        sa.select(sa.func.max(records.c.arrival)).where(records.c.t == "erasure").scalar_subquery(),
    ]
    if rests.devices:
        missing = sa.func.sum(chains.c.highest + 1 - chains.c.distinct)
        gaps = sa.select(missing).join(keys, keys.c.key_no == chains.c.key_no).where(keys.c.iss.in_(rests.devices))
        columns.append(gaps.scalar_subquery())
    current = sa.select(deployments.c.id).where(deployments.c.is_current).scalar_subquery()
    if rests.is_pending:
        final = sa.select(sa.func.max(anchors.c.size)).where(
            anchors.c.deployment == current, anchors.c.state == "final"
        )
        columns.append(final.scalar_subquery())
    columns.append(current)
    return tuple(tx.execute(sa.select(*(column.label(f"c{place}") for place, column in enumerate(columns)))).one())


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
