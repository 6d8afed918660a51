"""Looks at codes: time and a salted hash that rotates daily; and whether a look is the first since a sale.

Looks are weak evidence, so they are kept in memory for a moment and written together: a crash may lose the last second.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from fastapi.concurrency import run_in_threadpool

from api.consumer.model import Looks
from api.tables import SCAN, SCAN_SALT
from core.canonical import sha256
from core.errors import TracebondError
from core.prefixmap import map_key
from ledger.database import Database, fetch

PENDING_MAX = 10_000
FLUSH_EVERY_S = 1.0
_LOOKS: Final = (
    f"SELECT count(DISTINCT visitor), min(at_ms) FROM {SCAN.name} WHERE item_key = ? AND at_ms >= ? AND visitor <> ?"  # noqa: S608 - a name of ours
)


class ScanBook:
    """Counts looks. One per process."""

    def __init__(self, db: Database, random: Callable[[int], bytes]) -> None:
        self._db = db
        self._random = random
        self._lock = threading.Lock()
        self._pending: deque[tuple[bytes, int, bytes]] = deque(maxlen=PENDING_MAX)
        self._recent: dict[bytes, dict[bytes, int]] = {}
        self._salt: tuple[str, bytes] = ("", b"")

    def visitor(self, address: str, agent: str, *, now_ms: int) -> bytes:
        """A name for a visitor that lasts a day: without the salt, which is then destroyed, it says nothing."""
        salt = self._salt_of(datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d"))
        return sha256(salt + address.encode() + b"\x00" + agent.encode("utf-8", "replace"))[:16]

    def look(self, item_id: str, visitor: bytes, *, now_ms: int) -> None:
        """Note that somebody looks now."""
        key = map_key("item", item_id)
        with self._lock:
            recent = self._recent.setdefault(key, {})
            if visitor in recent:
                return  # the same visitor again within a moment: nothing that a verdict counts
            recent[visitor] = now_ms
            self._pending.append((key, now_ms, visitor))

    def looks_since(self, tx: sa.Connection, item_id: str, visitor: bytes, *, since_ms: int) -> Looks:
        """Looks of other visitors since a moment."""
        key = map_key("item", item_id)
        # Written out because it runs for every page of sold goods.
        [(count, first_ms)] = fetch(tx, _LOOKS, (key, since_ms, visitor))
        with self._lock:
            recent = self._recent.get(key, {})
            fresh = [(at, who) for who, at in recent.items() if at >= since_ms and who != visitor]
        times = [at for at, _ in fresh] + ([first_ms] if first_ms is not None else [])
        return Looks(int(count) + len({who for _, who in fresh}), min(times, default=None))

    def flush(self) -> int:
        """Write the pending looks and give their number."""
        with self._lock:
            rows = list(self._pending)
        if not rows:
            return 0
        with self._db.transaction() as tx:
            tx.execute(sa.insert(SCAN), [{"item_key": key, "at_ms": at, "visitor": who} for key, at, who in rows])
        with self._lock:
            for _ in rows:
                self._pending.popleft()
            self._recent = {}
            for key, at, who in self._pending:
                self._recent.setdefault(key, {})[who] = at
        return len(rows)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write pending looks every second while the application lives, and once more at its end."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await run_in_threadpool(self._try_flush)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await run_in_threadpool(self._try_flush)

    def _try_flush(self) -> None:
        try:
            self.flush()
        except TracebondError:
            # The database is away: the looks wait, at most PENDING_MAX of them, and readiness tells the operator.
            return

    def _salt_of(self, day: str) -> bytes:
        if self._salt[0] == day:
            return self._salt[1]
        with self._db.reading() as tx:
            stored = tx.scalar(sa.select(SCAN_SALT.c.salt).where(SCAN_SALT.c.day == day))
        if stored is None:
            fresh = self._random(32)
            with self._db.transaction() as tx:
                # Of two processes that make a salt at midnight one wins; older salts are destroyed.
                stored = tx.scalar(sa.select(SCAN_SALT.c.salt).where(SCAN_SALT.c.day == day))
                if stored is None:
                    tx.execute(sa.delete(SCAN_SALT))
                    tx.execute(sa.insert(SCAN_SALT).values(day=day, salt=fresh))
                    stored = fresh
        self._salt = (day, bytes(stored))
        return self._salt[1]
