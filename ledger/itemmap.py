"""The item map kept between runs: deltas and a rolling snapshot in the database, checked against the log on opening.

The map is a function of the log, so all of this may be thrown away. Each checkpoint writes one delta row (the touched
keys, what they hold and held before) and rewrites a few chunks of a snapshot; deltas older than the oldest chunk, and
not needed to step back to the last final anchor, are dropped. Counts only grow, so the larger count wins and order is
free.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from core.errors import Broken, Conflict
from core.merkle import leaf_hash
from core.prefixmap import MapProof
from core.records import read_record, record_keys
from ledger.database import Tx
from ledger.flatmap import ItemMap, load
from ledger.mapbuckets import OUT
from ledger.store import split_items
from ledger.tables import (
    MESSAGE,
    RECORD,
    checkpoints,
    counters,
    entries,
    keys,
    map_chunks,
    map_deltas,
    messages,
    records,
)

CHUNK_BITS = 10
CHUNKS = 1 << CHUNK_BITS
CHUNKS_PER_CHECKPOINT_MAX = 64
PROOF_SIZE = "proof_size"
_PART = 2_000
_CHUNKS_AT_ONCE = 64

Step = tuple[bytes, list[bytes]]


class ProofMap:
    """The map at the last final anchored size; a follower that stops there, so that proofs need no old versions.

    Attributes:
        size: the checkpoint's size at which it stands, 0 before the first.
    """

    def __init__(self) -> None:
        self.size = 0
        self._map = ItemMap()

    def advance(self, tx: Tx, size: int) -> None:
        """Go to the checkpoint of ``size``; a smaller size than the present one changes nothing.

        Raises:
            Conflict: ``no_checkpoint`` when no checkpoint has this size.
            Broken: ``map_differs`` when the log itself gives another map than its state leaf says.
        """
        if size <= self.size:
            return
        wanted = tx.execute(sa.select(checkpoints.c.map_root).where(checkpoints.c.size == size)).scalar_one_or_none()
        if wanted is None:
            raise Conflict(f"No checkpoint has size {size}.", code="no_checkpoint")
        if self.size == 0 or not self._follow(tx, size) or self._map.root() != wanted:
            self._map = open_map(tx, size)
        self.size = size

    def get(self, key: bytes) -> tuple[int, bytes] | None:
        """The count and head of a key, or None."""
        return self._map.get(key)

    def root(self) -> bytes:
        """The map root that the state leaf at ``size - 1`` says."""
        return self._map.root()

    def prove(self, key: bytes) -> MapProof:
        """The proof of what the key holds, or that it is absent, as of ``size``."""
        return self._map.prove(key)

    def _follow(self, tx: Tx, size: int) -> bool:
        query = sa.select(map_deltas.c.size, map_deltas.c.rows).where(map_deltas.c.size.between(self.size + 1, size))
        deltas = dict(tx.execute(query.order_by(map_deltas.c.size)).all())
        between = checkpoints.c.size.between(self.size + 1, size)
        if set(tx.execute(sa.select(checkpoints.c.size).where(between)).scalars()) != set(deltas):
            return False
        for rows in deltas.values():
            self._map.merge(bytes(rows))
        return True


class SnapshotWriter:
    """Writes what each checkpoint changes, and lets the snapshot roll."""

    def __init__(self) -> None:
        self._next = 0

    def save(self, tx: Tx, item_map: ItemMap, *, size: int, rows: bytes, before: bytes) -> None:
        """Store the delta of the checkpoint of ``size`` and rewrite about as many bytes of snapshot chunks."""
        tx.execute(map_deltas.insert().values(size=size, rows=rows, before=before))
        written = 0
        for _ in range(CHUNKS_PER_CHECKPOINT_MAX):
            chunk = item_map.chunk(self._next, CHUNK_BITS)
            tx.execute(map_chunks.delete().where(map_chunks.c.chunk == self._next))
            tx.execute(map_chunks.insert().values(chunk=self._next, size=size, rows=chunk))
            self._next = (self._next + 1) % CHUNKS
            written += len(chunk)
            if written >= len(rows):
                break
        oldest = tx.execute(sa.select(sa.func.min(map_chunks.c.size), sa.func.count())).one()
        if oldest[1] == CHUNKS:
            tx.execute(map_deltas.delete().where(map_deltas.c.size <= min(oldest[0], proof_size(tx))))


def proof_size(tx: Tx) -> int:
    """The last size that :func:`set_proof_size` named, 0 before the first."""
    found = tx.execute(sa.select(counters.c.value).where(counters.c.name == PROOF_SIZE)).scalar_one_or_none()
    return found or 0


def set_proof_size(tx: Tx, size: int) -> None:
    """Say that proofs stand on this size from now on (the last final anchor); older deltas may go."""
    if tx.execute(counters.update().where(counters.c.name == PROOF_SIZE).values(value=size)).rowcount == 0:
        tx.execute(counters.insert().values(name=PROOF_SIZE, value=size))


def open_map(tx: Tx, size: int) -> ItemMap:
    """The map at the checkpoint of ``size``: from the snapshot, or, where that does not fit, replayed from the log.

    Raises:
        Broken: ``map_differs`` when the log itself gives another map than its state leaf says.
    """
    if size == 0:
        return ItemMap()
    wanted = tx.execute(sa.select(checkpoints.c.map_root).where(checkpoints.c.size == size)).scalar_one()
    found = _from_snapshot(tx, size)
    if found is not None and found.root() == wanted:
        return found
    replayed = replay(tx, size)
    if replayed.root() != wanted:
        raise Broken(f"The log gives another item map than the checkpoint of {size} says.", code="map_differs")
    return replayed


def replay(tx: Tx, size: int) -> ItemMap:
    """The map as the entries below ``size`` and their item lists make it."""
    replayed = ItemMap()
    for start in range(0, size, _PART):
        replayed.apply(entry_steps(tx, start, min(size, start + _PART)))
    return replayed


def entry_steps(tx: Tx, start: int, end: int) -> Iterator[Step]:
    """The steps of the entries ``[start, end)``, read from the store, in log order."""
    devices = device_keys(tx)
    iss_of = iss_reader(tx)
    found: dict[int, list[Step]] = {}
    query = sa.select(entries.c.leaf, messages.c.key_no, messages.c.jwt, messages.c["items"])
    query = query.join(messages, messages.c.arrival == entries.c.arrival)
    within = entries.c.leaf.between(start, end - 1)
    for leaf, key_no, jwt, items in tx.execute(query.where(within, entries.c.kind == MESSAGE)):
        found[leaf] = message_steps(leaf, leaf_hash(bytes(jwt)), devices[key_no], bytes(items))
    query = sa.select(entries.c.leaf, records.c.raw).join(records, records.c.arrival == entries.c.arrival)
    for row in tx.execute(query.where(within, entries.c.kind == RECORD)):
        data = bytes(row.raw)
        found[row.leaf] = record_steps(row.leaf, leaf_hash(data), read_record(data).payload, iss_of)
    for leaf in sorted(found):
        yield from found[leaf]


class Devices:
    """The devices behind keys, as their ``key`` records say; read once, then only what is new.

    Attributes:
        by_number: key number -> map key of the device. by_kid: kid -> iss of the device.
    """

    def __init__(self) -> None:
        self.by_number: dict[int, bytes] = {}
        self.by_kid: dict[str, str] = {}
        self._highest = -1

    def refresh(self, tx: Tx) -> None:
        """Read the keys that were sequenced since."""
        query = sa.select(keys.c.key_no, keys.c.kid, keys.c.iss, keys.c.device_key)
        for key_no, kid, iss, device in tx.execute(query.where(keys.c.key_no > self._highest)):
            self.by_number[key_no] = bytes(device)
            self.by_kid[kid] = iss
            self._highest = max(self._highest, key_no)


def device_keys(tx: Tx) -> dict[int, bytes]:
    """The device map key behind each key number."""
    return dict(tx.execute(sa.select(keys.c.key_no, keys.c.device_key)).all())


def iss_reader(tx: Tx) -> Callable[[str], str | None]:
    """Gives the device (iss) of a sequenced key by its kid, None where there is none."""
    return lambda kid: tx.execute(sa.select(keys.c.iss).where(keys.c.kid == kid)).scalar_one_or_none()


def message_steps(leaf: int, hashed: bytes, device: bytes, items: bytes) -> list[Step]:
    """The map steps of a message: its device's at event 0, and each distinct item key of each event."""
    place = leaf.to_bytes(8)
    if len(items) == 2 + 33 * int.from_bytes(items[:2]):
        # The usual message of one event, without the detour.
        only = list(dict.fromkeys([items[at : at + 32] for at in range(3, len(items), 33)]))
        only.append(device)
        return [(place + bytes(4) + hashed, only)]
    steps: list[Step] = []
    for number, event in enumerate(split_items(items)):
        distinct = list(dict.fromkeys([item[1:] for item in event]))
        if number == 0:
            distinct.append(device)
        steps.append((place + number.to_bytes(4) + hashed, distinct))
    return steps


def record_steps(
    leaf: int, hashed: bytes, payload: Mapping[str, Any], iss_of: Callable[[str], str | None]
) -> list[Step]:
    """The map steps of a record; ``iss_of`` as for :func:`core.records.record_keys`."""
    return [(leaf.to_bytes(8) + bytes(4) + hashed, record_keys(payload, iss_of))]


@dataclass(frozen=True)
class _Delta:
    """What one checkpoint changed: its 72-byte rows, where each chunk's begin, and (for undoing) what was before."""

    size: int
    rows: bytes
    starts: list[int]
    before: bytes


def _from_snapshot(tx: Tx, size: int) -> ItemMap | None:
    deltas: list[_Delta] = []
    query = sa.select(map_deltas.c.size, map_deltas.c.rows).order_by(map_deltas.c.size)
    for delta_size, rows in tx.execute(query):
        words = np.frombuffer(rows, dtype=">u4")[:: OUT // 4] >> (32 - CHUNK_BITS)
        starts = np.searchsorted(words, np.arange(CHUNKS + 1)).tolist()
        before = b""
        if delta_size > size:
            undo = sa.select(map_deltas.c.before).where(map_deltas.c.size == delta_size)
            before = bytes(tx.execute(undo).scalar_one())
        deltas.append(_Delta(delta_size, bytes(rows), starts, before))
    later = tx.execute(sa.select(sa.func.count()).where(checkpoints.c.size > size)).scalar_one()
    if later != sum(1 for delta in deltas if delta.size > size):
        return None
    count = tx.execute(sa.select(checkpoints.c["keys"]).where(checkpoints.c.size == size)).scalar_one()
    return load(_chunks(tx, deltas, size), keys_max=count)


def _chunks(tx: Tx, deltas: Sequence[_Delta], size: int) -> Iterator[list[bytes]]:
    """The rows at ``size`` chunk by chunk; never more than a few chunks of the snapshot are held at once."""
    for first in range(0, CHUNKS, _CHUNKS_AT_ONCE):
        within = map_chunks.c.chunk.between(first, first + _CHUNKS_AT_ONCE - 1)
        held = dict(tx.execute(sa.select(map_chunks.c.chunk, map_chunks.c.rows).where(within)).all())
        for number in range(first, first + _CHUNKS_AT_ONCE):
            yield _chunk_at(bytes(held.get(number, b"")), number, deltas, size)


def _chunk_at(chunk: bytes, number: int, deltas: Sequence[_Delta], size: int) -> list[bytes]:
    held = {chunk[at : at + 32]: chunk[at + 32 : at + OUT] for at in range(0, len(chunk), OUT)}
    undo: dict[bytes, bytes] = {}
    for delta in deltas:
        rows = delta.rows
        for index in range(delta.starts[number], delta.starts[number + 1]):
            at = OUT * index
            key, tail = rows[at : at + 32], rows[at + 32 : at + OUT]
            old = held.get(key)
            # Counts only grow and begin a tail, so the larger tail is the newer one.
            if old is None or old < tail:
                held[key] = tail
            if delta.size > size:
                undo.setdefault(key, delta.before[40 * index : 40 * index + 40])
    held |= undo
    return [key + held[key] for key in sorted(held) if held[key][:8] != bytes(8)]


__all__ = [
    "Devices",
    "ItemMap",
    "ProofMap",
    "SnapshotWriter",
    "device_keys",
    "iss_reader",
    "open_map",
    "replay",
    "set_proof_size",
]
