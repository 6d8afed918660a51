"""A key-value store in SQLite for py-evm: what is committed survives a kill and a power cut."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eth.db.backends.base import BaseDB

from core.errors import Broken, Unavailable

_WAIT_S = 30.0


class SqliteNodes(BaseDB):
    """One table of keys and values. The owner holds a lock: this class is not thread-safe."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            journal = self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS nodes (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise Unavailable(f"The chain's file {path} cannot be opened: {error}", code="chain_away") from error
        if journal != "wal" or self._db.execute("PRAGMA synchronous").fetchone()[0] < 2:
            raise Broken("The chain's file needs WAL and FULL.", code="unsafe_database")

    def __getitem__(self, key: bytes) -> bytes:
        row = self._db.execute("SELECT value FROM nodes WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return bytes(row[0])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._db.execute(
            "INSERT INTO nodes (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def __delitem__(self, key: bytes) -> None:
        if self._db.execute("DELETE FROM nodes WHERE key = ?", (key,)).rowcount == 0:
            raise KeyError(key)

    def _exists(self, key: bytes) -> bool:
        return self._db.execute("SELECT 1 FROM nodes WHERE key = ?", (key,)).fetchone() is not None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All changes inside are kept together or not at all; one writer among all processes."""
        yield from self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads inside see one state."""
        yield from self._transaction("BEGIN")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _transaction(self, begin: str) -> Iterator[None]:
        if self._db.in_transaction:
            yield
            return
        try:
            self._db.execute(begin)
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise Unavailable(f"The chain's file is away or busy: {error}", code="chain_away") from error
