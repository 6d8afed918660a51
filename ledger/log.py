"""The log: the sequencer gives stored entries their leaf index and signs checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from core.crypto import Ed25519Private
from core.errors import Broken, Conflict
from core.merkle import Frontier, leaf_hash
from core.notes import Checkpoint as Head
from core.notes import sign_note
from core.records import Record, StateLeaf, read_record, read_state_leaf
from ledger import tiles
from ledger.database import Database, Tx, fetch, is_sqlite, raw, run_many
from ledger.itemmap import Devices, ItemMap, SnapshotWriter, Step, message_steps, open_map, record_steps
from ledger.keys import apply_records
from ledger.tables import MESSAGE, RECORD, STATE, checkpoints, counters, entries, messages, records

LEAVES_MAX = 10_000
BYTES_MAX = 64_000_000
HEARTBEAT_S = 43_200

Block = tuple[int, int, str]


@dataclass(frozen=True)
class Checkpoint:
    """A signed head of the log.

    Attributes:
        size: number of leaves, the state leaf among them.
        time_s: what its state leaf says, unix seconds.
        note: the C2SP signed note.
        has_more: entries still wait; take the next step at once.
    """

    size: int
    root: bytes
    map_root: bytes
    keys: int
    time_s: int
    note: str
    has_more: bool = False


@dataclass(frozen=True)
class _Taken:
    """What one step sequences, in order: (arrival, kind, bytes, item keys, key number, stored leaf hash)."""

    rows: list[tuple[int, int, bytes, bytes, int, bytes]]
    has_more: bool


class Sequencer:
    """The one writer of the log. It claims an epoch when it opens; an older one alive is fenced by it.

    Args:
        checkpoint_key: signs checkpoints under the name ``origin``.
        origin: the log's origin line.
        block: gives (chain id, number, 0x hash) of the newest block to name in state leaves, or None.
        leaves_max: most entries in one step.
        heartbeat_s: a checkpoint without new entries is made when the last one is this old; half of what receipts
            promise, so that there is time to anchor it.
    """

    def __init__(
        self,
        database: Database,
        checkpoint_key: Ed25519Private,
        origin: str,
        *,
        block: Callable[[], Block | None] = lambda: None,
        leaves_max: int = LEAVES_MAX,
        heartbeat_s: int = HEARTBEAT_S,
    ) -> None:
        self._database = database
        self._key = checkpoint_key
        self._origin = origin
        self._block = block
        self._leaves_max = leaves_max
        self._heartbeat_s = heartbeat_s
        self._epoch = 0
        self._is_open = False
        self._is_fenced = False
        self._map = ItemMap()
        self._snapshot = SnapshotWriter()
        self._devices = Devices()
        self._frontier = Frontier()
        self._last: StateLeaf | None = None

    def open(self) -> None:
        """Claim a new epoch and load frontier and map as of the last checkpoint; :meth:`step` does it when needed.

        Raises:
            Broken: what is stored does not give the last checkpoint's roots.
        """
        with self._database.transaction() as tx:
            update = counters.update().where(counters.c.name == "epoch").values(value=counters.c.value + 1)
            self._epoch = tx.execute(update.returning(counters.c.value)).scalar_one()
            self._load(tx)
        self._is_open, self._is_fenced = True, False

    def step(self, now: int) -> Checkpoint | None:
        """Sequence what waits and publish a checkpoint, in one transaction; None when there was nothing to do.

        Args:
            now: unix seconds; the state leaf's time is the larger of this and the last one's.

        Raises:
            Conflict: ``fenced`` when another sequencer has opened this log since; open again to take it back.
            Unavailable: the database is away; call again.
            Broken: stored bytes do not fit what was computed from them. Stop.
        """
        if self._is_fenced:
            raise Conflict("Another sequencer has taken this log over.", code="fenced")
        if not self._is_open:
            self._load_again()
        block = self._block()
        # Whatever interrupts the transaction leaves the map in memory ahead of the database: it is then loaded anew.
        self._is_open = False
        with self._database.transaction() as tx:
            self._check_epoch(tx)
            made = self._advance(tx, now, block)
        self._is_open = True
        return made

    @property
    def size(self) -> int:
        """Number of leaves at the last checkpoint."""
        return self._frontier.size

    def _load_again(self) -> None:
        if self._epoch == 0:
            self.open()
            return
        with self._database.reading() as tx:
            self._load(tx)

    def _load(self, tx: Tx) -> None:
        last = tx.execute(sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).first()
        self._snapshot = SnapshotWriter()
        if last is None:
            self._map, self._frontier, self._last = ItemMap(), Frontier(), None
            return
        self._last = read_state_leaf(bytes(last.state))
        self._frontier = Frontier(last.size, tiles.frontier(tx, last.size))
        if self._frontier.root() != last.root:
            raise Broken(f"The tiles do not give the root of the checkpoint of {last.size}.", code="root_differs")
        if self._last.log != self._origin:
            raise Broken(f"This database holds the log {self._last.log}, not {self._origin}.", code="other_log")
        self._map = open_map(tx, last.size)

    def _check_epoch(self, tx: Tx) -> None:
        query = sa.select(counters.c.value).where(counters.c.name == "epoch")
        if tx.execute(query.with_for_update()).scalar_one() != self._epoch:
            self._is_fenced = True
            raise Conflict("Another sequencer has taken this log over.", code="fenced")

    def _advance(self, tx: Tx, now: int, block: Block | None) -> Checkpoint | None:
        taken = _take(tx, self._leaves_max)
        if not taken.rows and not self._is_heartbeat(now):
            return None
        size = self._frontier.size
        self._devices.refresh(tx)
        hashes, steps, sequenced = _prepare(self._devices, size, taken)
        rows, before = self._map.apply(steps)
        index = size + len(hashes)
        state = self._state_leaf(index, now, block)
        data = state.encode()
        hashes.append(leaf_hash(data))
        _write_entries(tx, size, taken, index)
        tiles.append(tx, size, hashes)
        apply_records(tx, sequenced)
        self._snapshot.save(tx, self._map, size=index + 1, rows=rows, before=before)
        root = self._read_back(tx, size, index, data)
        note = sign_note(Head(self._origin, index + 1, root).text(), self._origin, self._key)
        row = {"size": index + 1, "root": root, "map_root": state.map_root, "keys": state.keys, "state": data}
        row |= {"note": note, "time_s": state.time, "epoch": self._epoch}
        tx.execute(checkpoints.insert().values(row))
        if leaf_hash(tiles.entry(tx, index).data) != hashes[-1]:
            raise Broken("The state leaf was stored with other bytes.", code="read_back")
        self._last = state
        return Checkpoint(index + 1, root, state.map_root, state.keys, state.time, note, taken.has_more)

    def _is_heartbeat(self, now: int) -> bool:
        return self._last is not None and now - self._last.time >= self._heartbeat_s

    def _state_leaf(self, index: int, now: int, block: Block | None) -> StateLeaf:
        last = self._last
        if last is not None and last.block is not None:
            same_chain = block is None or block[0] == last.block[0]
            # A block number never decreases on one chain, whatever the node says at the moment.
            if block is None or (same_chain and block[1] < last.block[1]):
                block = last.block
        return StateLeaf(
            log=self._origin,
            size=index + 1,
            map_root=self._map.root(),
            keys=len(self._map),
            prev=None if last is None else last.size - 1,
            time=now if last is None else max(now, last.time),
            block=block,
        )

    def _read_back(self, tx: Tx, size: int, index: int, state: bytes) -> bytes:
        """The new root, from the entries' bytes as the database gives them back; tiles must agree with it."""
        frontier = Frontier(size, self._frontier.nodes)
        expected = size
        append = frontier.append
        for leaf, stored in _stored_entries(tx, size, index):
            if leaf != expected:
                raise Broken(f"Leaf {expected} was not stored.", code="read_back")
            append(sha256(b"\x00" + stored).digest())
            expected += 1
        frontier.append(leaf_hash(state))
        tiles.forget(tx)
        root = frontier.root()
        if expected != index or tiles.root(tx, index + 1) != root:
            raise Broken("Entries and tiles read back give different roots; nothing was signed.", code="read_back")
        self._frontier = frontier
        return root


def last_checkpoint(tx: Tx) -> Checkpoint | None:
    """The newest checkpoint, None on an empty log."""
    row = tx.execute(sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).first()
    return None if row is None else _checkpoint(row)


def checkpoint_at(tx: Tx, size: int) -> Checkpoint | None:
    """The checkpoint of exactly this size."""
    row = tx.execute(sa.select(checkpoints).where(checkpoints.c.size == size)).first()
    return None if row is None else _checkpoint(row)


def checkpoint_covering(tx: Tx, leaf: int) -> Checkpoint | None:
    """The first checkpoint that holds this leaf, None while there is none."""
    query = sa.select(checkpoints).where(checkpoints.c.size > leaf).order_by(checkpoints.c.size).limit(1)
    row = tx.execute(query).first()
    return None if row is None else _checkpoint(row)


def leaf_of(tx: Tx, message_id: bytes) -> int | None:
    """Where a message or record stands in the log, None while it waits or is unknown."""
    for table in (messages, records):
        query = sa.select(entries.c.leaf).join(table, table.c.arrival == entries.c.arrival)
        leaf: int | None = tx.execute(query.where(table.c.id == message_id)).scalar_one_or_none()
        if leaf is not None:
            return leaf
    return None


def _checkpoint(row: Any) -> Checkpoint:
    return Checkpoint(row.size, bytes(row.root), bytes(row.map_root), row.keys, row.time_s, row.note)


def _take(tx: Tx, leaves_max: int) -> _Taken:
    found = fetch(
        tx,
        "SELECT w.arrival, w.kind, m.publish_bytes FROM waiting w LEFT JOIN messages m ON m.arrival = w.arrival "
        "ORDER BY w.arrival LIMIT ?",
        (leaves_max + 1,),
    )
    total, count = 0, 0
    for _, _, size in found[:leaves_max]:
        total += size or 0
        if total > BYTES_MAX and count:
            break
        count += 1
    if count == 0:
        return _Taken([], has_more=False)
    # Another transaction may have committed a lower arrival since: exactly these are taken.
    chosen = {arrival for arrival, _, _ in found[:count]}
    last = found[count - 1][0]
    rows = fetch(
        tx,
        f"SELECT m.arrival, {MESSAGE}, m.jwt, m.items, m.key_no, m.leaf_hash FROM waiting w "  # noqa: S608
        "JOIN messages m ON m.arrival = w.arrival WHERE w.arrival <= ? ORDER BY w.arrival",
        (last,),
    )
    if any(kind == RECORD for _, kind, _ in found[:count]):
        rows += fetch(
            tx,
            f"SELECT r.arrival, {RECORD}, r.raw, NULL, 0, r.leaf_hash FROM waiting w "  # noqa: S608
            "JOIN records r ON r.arrival = w.arrival WHERE w.arrival <= ?",
            (last,),
        )
        rows.sort()
    if len(rows) != count:
        rows = [row for row in rows if row[0] in chosen]
    if len(rows) != count:
        raise Broken("A waiting entry is not in the store any more.", code="entry_missing")
    return _Taken(rows, has_more=len(found) > count)


def _prepare(devices: Devices, size: int, taken: _Taken) -> tuple[list[bytes], list[Step], list[tuple[int, Record]]]:
    hashes: list[bytes] = []
    steps: list[Step] = []
    sequenced: list[tuple[int, Record]] = []
    fresh: dict[str, str] = {}
    for leaf, (arrival, kind, data, items, key_no, stored) in enumerate(taken.rows, start=size):
        hashed = sha256(b"\x00" + data).digest()
        if hashed != stored:
            raise Broken(f"The stored bytes of arrival {arrival} have changed since it was admitted.", code="read_back")
        hashes.append(hashed)
        if kind == MESSAGE:
            steps += message_steps(leaf, hashed, devices.by_number[key_no], items)
            continue
        record = read_record(data)
        if record.t == "key":
            fresh[record.payload["kid"]] = record.payload["iss"]
        elif record.t == "end" and record.payload["kid"] not in fresh | devices.by_kid:
            raise Broken(f"The key that ends at leaf {leaf} has no record before it.", code="entry_missing")
        steps += record_steps(leaf, hashed, record.payload, lambda kid: fresh.get(kid) or devices.by_kid.get(kid))
        sequenced.append((leaf, record))
    return hashes, steps, sequenced


def _write_entries(tx: Tx, size: int, taken: _Taken, index: int) -> None:
    rows: list[tuple[int, int, int | None]] = [
        (leaf, row[1], row[0]) for leaf, row in enumerate(taken.rows, start=size)
    ]
    rows.append((index, STATE, None))
    arrivals = [row[0] for row in taken.rows]
    if is_sqlite(tx):
        run_many(tx, "INSERT INTO entries (leaf, kind, arrival) VALUES (?, ?, ?)", rows)
        run_many(tx, "DELETE FROM waiting WHERE arrival = ?", [(arrival,) for arrival in arrivals])
        return
    cursor = raw(tx).cursor()
    with cursor.copy("COPY entries (leaf, kind, arrival) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(("int8", "int2", "int8"))
        for row in rows:
            copy.write_row(row)
    # Exactly these: another transaction may have committed a lower arrival in the meantime.
    cursor.execute("DELETE FROM waiting WHERE arrival = ANY(%s)", (arrivals,))


def _stored_entries(tx: Tx, start: int, end: int) -> list[tuple[int, bytes]]:
    query = "SELECT e.leaf, m.{} FROM entries e JOIN {} m ON m.arrival = e.arrival WHERE e.leaf BETWEEN ? AND ?"
    found = fetch(tx, query.format("jwt", "messages") + " ORDER BY e.leaf", (start, end - 1))
    if len(found) < end - start:
        found += fetch(tx, query.format("raw", "records"), (start, end - 1))
        found.sort()
    return found
