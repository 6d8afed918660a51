"""The disk outbox: a message is kept from the moment it is signed until a receipt says that it is safe."""

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Broken, Unavailable

WAITING, ACCEPTED, REFUSED = "waiting", "accepted", "refused"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    device TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id BLOB NOT NULL,
    prev BLOB,
    bytes BLOB,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'accepted', 'refused')),
    code TEXT NOT NULL DEFAULT '',
    receipt BLOB,
    PRIMARY KEY (device, seq),
    CHECK ((state = 'waiting') = (receipt IS NULL)),
    CHECK (state <> 'waiting' OR bytes IS NOT NULL)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS message_id ON message (device, id);
CREATE INDEX IF NOT EXISTS message_waiting ON message (device, seq) WHERE state = 'waiting';
"""


@dataclass(frozen=True)
class Entry:
    """One signed message in the outbox.

    Attributes:
        seq, id, prev: its place in the key's chain.
        raw: the whole publish; empty once a receipt has let it go.
        state: waiting, accepted or refused; code: why it was refused.
    """

    seq: int
    id: bytes
    prev: bytes | None
    raw: bytes
    state: str = WAITING
    code: str = ""


@dataclass(frozen=True)
class Settled:
    """A receipt that lets a message go: the entry's seq, the new state, the refusal's code, the receipt's bytes."""

    seq: int
    state: str
    code: str
    receipt: bytes


class Outbox:
    """Messages of one or many devices in one SQLite file that survives a power cut (WAL, FULL).

    Args:
        path: the file; made when it is not there.

    Raises:
        Broken: the file cannot promise durability.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if self._db.execute("PRAGMA synchronous").fetchone() != (2,):
            raise Broken("The outbox does not wait for the disk (synchronous is not FULL).", code="outbox_unsafe")
        self._db.executescript(_SCHEMA)

    def append(self, device: str, entries: Sequence[Entry]) -> None:
        """Store new messages of a device, all in one commit.

        Raises:
            Broken: a place in the chain is taken: two programs run one device.
            Unavailable: the disk is full or away.
        """
        self.append_all([(device, entry) for entry in entries])

    def append_all(self, entries: Sequence[tuple[str, Entry]]) -> None:
        """Store new messages of many devices in one commit; errors as ``append``."""
        rows = [(device, each.seq, each.id, each.prev, each.raw, WAITING) for device, each in entries]
        with self._lock:
            self._commit("INSERT INTO message (device, seq, id, prev, bytes, state) VALUES (?, ?, ?, ?, ?, ?)", rows)

    def settle(self, device: str, settled: Sequence[Settled]) -> None:
        """Let go what receipts came for, in one commit. The bytes go, the place in the chain and the receipt stay."""
        self.settle_all([(device, each) for each in settled])

    def settle_all(self, settled: Sequence[tuple[str, Settled]]) -> None:
        """As ``settle`` for many devices, in one commit."""
        rows = [(each.state, each.code, each.receipt, device, each.seq) for device, each in settled]
        with self._lock:
            self._commit(
                "UPDATE message SET state = ?, code = ?, receipt = ?, bytes = NULL"
                " WHERE device = ? AND seq = ? AND state = 'waiting'",
                rows,
            )

    def head(self, device: str) -> tuple[int, bytes | None]:
        """The seq that the next message takes, and the id that it names as ``prev``."""
        with self._lock:
            row = self._db.execute(
                "SELECT seq, id FROM message WHERE device = ? ORDER BY seq DESC LIMIT 1", (device,)
            ).fetchone()
        return (0, None) if row is None else (row[0] + 1, row[1])

    def waiting(self, device: str, *, after: int = -1, limit: int = 1_000) -> list[Entry]:
        """The oldest messages without a receipt whose seq is above ``after``."""
        return self._select(device, "state = 'waiting' AND seq > ?", after, limit)

    def at(self, device: str, seq: int) -> Entry | None:
        """The message at a place in the chain, None if there is none."""
        found = self._select(device, "seq = ?", seq, 1)
        return found[0] if found else None

    def find(self, device: str, message_id: bytes) -> Entry | None:
        """The message with this id, None if there is none."""
        found = self._select(device, "id = ?", message_id, 1)
        return found[0] if found else None

    def entries(self, device: str) -> list[Entry]:
        """Every message ever signed, oldest first: what a test reconciles with."""
        return self._select(device, "seq > ?", -1, -1)

    def receipt(self, device: str, seq: int) -> bytes | None:
        """The receipt of a message as it came, None while there is none."""
        with self._lock:
            row = self._db.execute("SELECT receipt FROM message WHERE device = ? AND seq = ?", (device, seq)).fetchone()
        return None if row is None else row[0]

    def counts(self, device: str) -> dict[str, int]:
        """How many messages are in each state."""
        with self._lock:
            rows = self._db.execute(
                "SELECT state, count(*) FROM message WHERE device = ? GROUP BY state", (device,)
            ).fetchall()
        return dict.fromkeys((WAITING, ACCEPTED, REFUSED), 0) | dict(rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _select(self, device: str, where: str, argument: int | bytes, limit: int) -> list[Entry]:
        query = (
            f"SELECT seq, id, prev, coalesce(bytes, x''), state, code FROM message"  # noqa: S608
            f" WHERE device = ? AND {where} ORDER BY seq LIMIT ?"
        )
        with self._lock:
            return [Entry(*row) for row in self._db.execute(query, (device, argument, limit))]

    def _commit(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            self._db.execute("ROLLBACK")
            raise Broken("This place in the device's chain is taken already.", code="seq_taken") from error
        except sqlite3.OperationalError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise Unavailable(f"The outbox cannot be written: {error}", code="outbox_unavailable") from error
