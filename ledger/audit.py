"""The audit: everything recomputed from stored bytes and compared with tiles, checkpoints and the chain."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, sha256
from core.crypto import Ed25519Public
from core.errors import Rejected, TracebondError
from core.merkle import Frontier, leaf_hash, node_hash
from core.message import EventItem, assemble, items_root, read_entry
from core.notes import Verifier, open_note, read_checkpoint
from core.prefixmap import map_key
from core.records import StateLeaf, read_record, read_state_leaf
from ledger.auditkeys import AuditedKeys
from ledger.database import Database, Tx
from ledger.flatmap import ItemMap
from ledger.itemmap import message_steps, record_steps
from ledger.store import join_items, split_disclosures, split_items
from ledger.tables import (
    MESSAGE,
    RECORD,
    STATE,
    checkpoints,
    disclosures,
    entries,
    keys,
    messages,
    records,
    tiles,
    waiting,
)

PART = 1_000
FINDINGS_MAX = 1_000
WIDTH = 256


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be, and which record it is.

    Attributes:
        code: stable word for programs.
        message: a sentence for people.
        leaf: leaf index, None when it is not about one.
        since_size: size of the first checkpoint that fixed the leaf; what it says now differs from then.
    """

    code: str
    message: str
    leaf: int | None = None
    message_id: str | None = None
    org: str | None = None
    device: str | None = None
    seq: int | None = None
    since_size: int | None = None
    since_time_s: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far the audit has come."""

    leaves: int
    size: int
    findings: int


def audit(
    database: Database,
    *,
    origin: str,
    checkpoint_key: Ed25519Public,
    anchored: Sequence[int] = (),
    root_at: Callable[[int], bytes | None] | None = None,
    tip: int | None = None,
) -> Iterator[Finding | Progress]:
    """Check the whole log; yields findings as they are made, and progress every 1,000 leaves.

    Args:
        origin: the log's origin line, which is also the checkpoint key's name.
        anchored: sizes whose root the chain must hold (final anchors).
        root_at: asks the chain for the root at a size.
        tip: the newest size on the chain, when it is known; a database with fewer leaves was set back.
    """
    verifier = Verifier(origin, checkpoint_key)
    with database.reading() as tx:
        work = _Audit(tx, verifier, origin, frozenset(anchored), root_at)
        count = 0
        for one in work.run(tip):
            yield one
            if isinstance(one, Finding):
                count += 1
                if count >= FINDINGS_MAX:
                    yield Finding("too_many", f"{FINDINGS_MAX} findings; the audit stops here.")
                    return


class _Audit:
    """One run, in one snapshot of the database."""

    def __init__(
        self,
        tx: Tx,
        verifier: Verifier,
        origin: str,
        anchored: frozenset[int],
        root_at: Callable[[int], bytes | None] | None,
    ) -> None:
        self._tx = tx
        self._verifier = verifier
        self._origin = origin
        self._anchored = anchored
        self._root_at = root_at
        self._frontier = Frontier()
        self._map = ItemMap()
        self._keys = AuditedKeys()
        self._tiles = _TileCheck(tx)
        self._last: StateLeaf | None = None
        self._checkpoints = tx.execute(sa.select(checkpoints).order_by(checkpoints.c.size)).all()
        self._key_rows = {row.key_no: row for row in tx.execute(sa.select(keys))}
        self._found: list[Finding] = []
        self._total = 0

    def run(self, tip: int | None) -> Iterator[Finding | Progress]:
        size = self._checkpoints[-1].size if self._checkpoints else 0
        if tip is not None and tip > size:
            yield Finding("behind_chain", f"The chain knows {tip} leaves, this database {size}: it was set back.")
        for start in range(0, size, PART):
            end = min(size, start + PART)
            self._part(start, end)
            yield from self._drain()
            yield Progress(end, size, self._total)
        self._tiles.finish()
        self._found += [self._at(leaf, code, text) for leaf, code, text in self._tiles.findings]
        self._store(size)
        yield from self._drain()

    def _drain(self) -> Iterator[Finding]:
        self._total += len(self._found)
        yield from self._found
        self._found = []

    def _at(self, leaf: int | None, code: str, text: str, row: Any = None) -> Finding:
        since = next((one for one in self._checkpoints if leaf is not None and one.size > leaf), None)
        known = self._key_rows.get(row.key_no) if row is not None else None
        return Finding(
            code=code,
            message=text,
            leaf=leaf,
            message_id=b64u(bytes(row.id)) if row is not None else None,
            org=known.org if known else None,
            device=known.iss if known else None,
            seq=row.seq if row is not None else None,
            since_size=since.size if since else None,
            since_time_s=since.time_s if since else None,
        )

    def _report(self, leaf: int | None, code: str, text: str, row: Any = None) -> None:
        self._found.append(self._at(leaf, code, text, row))

    def _part(self, start: int, end: int) -> None:
        stored = _read(self._tx, start, end)
        hashes = _leaf_tiles(self._tx, start, end)
        for leaf in range(start, end):
            kind, row = stored.get(leaf, (0, None))
            tile_hash = hashes.get(leaf)
            computed: bytes | None = None
            if row is None:
                self._report(leaf, "entry_missing", f"Leaf {leaf} has no entry or its bytes are gone.")
            elif kind == MESSAGE:
                computed = self._message(leaf, row, tile_hash)
            elif kind == RECORD:
                computed = self._record(leaf, row, tile_hash)
            else:
                computed = self._state(leaf, row, tile_hash)
            agreed = computed if tile_hash is None or self._tiles.is_spoilt(leaf) else tile_hash
            if tile_hash is None:
                self._report(leaf, "tile_missing", f"No tile holds the hash of leaf {leaf}.")
            self._frontier.append(agreed or bytes(32))
            self._tiles.add(agreed or bytes(32))
            if kind == STATE and row is not None:
                self._checkpoint(row)

    def _agree(self, leaf: int, computed: bytes, row: Any, tile_hash: bytes | None, what: str) -> bytes:
        """The hash to go on with, after naming which of bytes, column and tile is the odd one out."""
        column = bytes(row.leaf_hash)
        about = row if hasattr(row, "key_no") else None
        if column != computed and column != tile_hash:
            self._report(leaf, "row_differs", f"The leaf hash noted for leaf {leaf} is not that of its bytes.", about)
        if tile_hash in (None, computed):
            return computed
        if column == computed:
            self._tiles.spoil(leaf)
            self._report(
                leaf, "tile_differs", f"The tile holds another hash than the bytes of leaf {leaf} give.", about
            )
            return computed
        self._report(leaf, "bytes_differ", f"The stored {what} at leaf {leaf} is not the one that was logged.", about)
        return tile_hash or computed

    def _message(self, leaf: int, row: Any, tile_hash: bytes | None) -> bytes:
        jwt = bytes(row.jwt)
        hashed = self._agree(leaf, leaf_hash(jwt), row, tile_hash, "message")
        known = self._key_rows.get(row.key_no)
        items = bytes(row._mapping["items"])
        device = bytes(known.device_key) if known else bytes(32)
        try:
            signed = read_entry(jwt)
        except TracebondError as error:
            if leaf_hash(jwt) == hashed:
                self._report(leaf, "unreadable", f"The message at leaf {leaf} cannot be read: {error.message}", row)
            self._steps(leaf, hashed, device, items)
            return hashed
        why = "its key is unknown" if known is None else self._keys.check_message(jwt, signed, known)
        if why is not None:
            self._report(leaf, "bad_signature", f"The message at leaf {leaf} is not authentic: {why}.", row)
        columns = (signed.id, signed.seq, signed.prev, len(signed.clear))
        noted = (bytes(row.id), row.seq, None if row.prev is None else bytes(row.prev), row.event_count)
        if columns != noted:
            self._report(
                leaf, "row_differs", f"What is noted beside the message at leaf {leaf} is not what it says.", row
            )
        if not _items_fit(items, bytes(row.item_ids), signed.clear):
            self._report(leaf, "item_list_differs", f"The item list stored for leaf {leaf} is not the signed one.", row)
            items = _items_disclosed(jwt, row.texts) or items
        self._disclosures(leaf, row, jwt, signed.clear)
        self._steps(leaf, hashed, device, items)
        return hashed

    def _steps(self, leaf: int, hashed: bytes, device: bytes, items: bytes) -> None:
        try:
            self._map.apply(message_steps(leaf, hashed, device, items))
        except IndexError:
            self._report(leaf, "item_list_differs", f"The item list of leaf {leaf} cannot be read.")

    def _disclosures(self, leaf: int, row: Any, jwt: bytes, clear: Sequence[dict[str, Any]]) -> None:
        if row.texts is None:
            self._report(leaf, "disclosure_missing", f"The disclosures of leaf {leaf} are gone.", row)
            return
        try:
            lists = split_disclosures(bytes(row.texts))
            digests = [{b64u(sha256(text.encode("ascii"))) for text in texts} for texts in lists]
        except UnicodeDecodeError:
            lists, digests = [], []
        is_whole = len(digests) == len(clear)
        for number, (event, shown) in enumerate(zip(clear, digests, strict=False)):
            if shown - set(event["_sd"]):
                text = f"A disclosure of event {number} at leaf {leaf} is not the one that was signed."
                self._report(leaf, "disclosure_differs", text, row)
                return
            missing = len(event["_sd"]) - len(shown)
            is_whole &= missing == 0
            if missing > self._keys.erased(leaf, number, self._tx):
                text = f"{missing} disclosures of event {number} at leaf {leaf} are gone and no erasure says so."
                self._report(leaf, "disclosure_missing", text, row)
                return
        if len(digests) != len(clear):
            self._report(leaf, "disclosure_differs", f"The disclosures of leaf {leaf} cannot be read.", row)
        elif is_whole:
            try:
                assemble(read_entry(jwt, [text for texts in lists for text in texts]))
            except Rejected as error:
                self._report(leaf, "item_list_differs", f"Leaf {leaf} names other items: {error.message}", row)

    def _record(self, leaf: int, row: Any, tile_hash: bytes | None) -> bytes:
        data = bytes(row.raw)
        hashed = self._agree(leaf, leaf_hash(data), row, tile_hash, "record")
        try:
            record = read_record(data)
        except Rejected as error:
            self._report(leaf, "unreadable", f"The record at leaf {leaf} cannot be read: {error.message}")
            return hashed
        why = self._keys.check_record(record)
        if why is not None:
            self._report(leaf, "bad_signature", f"The record {record.t} at leaf {leaf} is not authentic: {why}.")
        if (bytes(row.id), row._mapping["t"], row.org) != (record.id, record.t, record.payload["org"]):
            self._report(leaf, "row_differs", f"What is noted beside the record at leaf {leaf} is not what it says.")
        self._map.apply(record_steps(leaf, hashed, record.payload, self._keys.iss_of))
        return hashed

    def _state(self, leaf: int, row: Any, tile_hash: bytes | None) -> bytes:
        data = bytes(row.state)
        hashed = leaf_hash(data)
        if tile_hash is not None and hashed != tile_hash:
            frontier = Frontier(self._frontier.size, self._frontier.nodes)
            frontier.append(hashed)
            if frontier.root() == row.root:
                self._tiles.spoil(leaf)
                self._report(leaf, "tile_differs", f"The tile holds another hash than the state leaf {leaf} gives.")
                return hashed
            self._report(leaf, "bytes_differ", f"The state leaf {leaf} is not the one that was logged.")
        return tile_hash or hashed

    def _checkpoint(self, row: Any) -> None:
        leaf, size = row.size - 1, row.size
        try:
            state = read_state_leaf(bytes(row.state))
        except Rejected as error:
            self._report(leaf, "unreadable", f"The state leaf {leaf} cannot be read: {error.message}")
            return
        last, root = self._last, self._frontier.root()
        self._last = state
        problems = {
            "size or log": (state.size, state.log) != (size, self._origin),
            "link to the last state leaf": state.prev != (last.size - 1 if last else None),
            "time, which went back": last is not None and state.time < last.time,
            "map root": state.map_root != self._map.root() or bytes(row.map_root) != state.map_root,
            "number of keys": state.keys != len(self._map) or row.keys != state.keys,
            "noted time": row.time_s != state.time,
        }
        wrong = [name for name, is_wrong in problems.items() if is_wrong]
        if wrong:
            self._report(leaf, "checkpoint_differs", f"The checkpoint of {size} has a wrong {', '.join(wrong)}.")
        try:
            text, _ = open_note(row.note, [self._verifier])
            head = read_checkpoint(text)
            fits = (head.origin, head.size, head.root) == (self._origin, size, root) and bytes(row.root) == root
        except Rejected as error:
            self._report(leaf, "checkpoint_differs", f"The note of the checkpoint of {size}: {error.message}")
        else:
            if not fits:
                text = f"The checkpoint of {size} was signed over another root than the stored bytes give."
                self._report(leaf, "root_differs", text)
        self._anchor(size, root)

    def _anchor(self, size: int, root: bytes) -> None:
        if size not in self._anchored or self._root_at is None:
            return
        found = self._root_at(size)
        if found is None:
            self._report(size - 1, "anchor_missing", f"The chain holds no root at size {size}.")
        elif found != root:
            self._report(
                size - 1, "anchor_differs", f"The chain holds another root at size {size} than the bytes give."
            )

    def _store(self, size: int) -> None:
        """Every stored message and record is either logged or waiting."""
        for table, name in ((messages, "message"), (records, "record")):
            query = (
                sa.select(table.c.arrival, table.c.id)
                .outerjoin(entries, entries.c.arrival == table.c.arrival)
                .outerjoin(waiting, waiting.c.arrival == table.c.arrival)
                .where(entries.c.leaf.is_(None), waiting.c.arrival.is_(None))
            )
            for arrival, ident in self._tx.execute(query.limit(FINDINGS_MAX)):
                self._report(
                    None, "not_logged", f"The {name} {b64u(bytes(ident))} (arrival {arrival}) never got a leaf."
                )
        beyond = self._tx.execute(sa.select(sa.func.count()).where(entries.c.leaf >= size)).scalar_one()
        if beyond:
            self._report(None, "row_differs", f"{beyond} entries stand beyond the last checkpoint.")


def _items_fit(items: bytes, item_ids: bytes, clear: Sequence[dict[str, Any]]) -> bool:
    try:
        lists = split_items(items)
        names = json.loads(item_ids)
        fits = len(lists) == len(names) == len(clear)
        for event, keys_of, ids in zip(clear, lists, names, strict=False):
            named = [EventItem(key[0], name, key[1:]) for key, name in zip(keys_of, ids, strict=True)]
            fits &= event["items"] == {"n": len(named), "root": b64u(items_root(named))}
            fits &= all(map_key("item", item.id) == item.key for item in named)
    except (ValueError, IndexError, TypeError, AttributeError):
        return False
    return fits


def _items_disclosed(jwt: bytes, texts: Any) -> bytes | None:
    """The item list as the disclosures give it, when they are whole and agree with the signed root."""
    try:
        shown = [text for event in split_disclosures(bytes(texts)) for text in event]
        return join_items(assemble(read_entry(jwt, shown)).events)[0]
    except (TracebondError, ValueError, TypeError):
        return None


class _TileCheck:
    """Rebuilds all tiles from the leaf hashes and compares them with the stored ones."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._levels: list[tuple[int, list[bytes]]] = []
        self._spoilt: set[int] = set()
        self.findings: list[tuple[int, str, str]] = []

    def spoil(self, leaf: int) -> None:
        """The hash in this leaf's tile is known to be the wrong one."""
        self._spoilt.add(leaf)

    def is_spoilt(self, leaf: int) -> bool:
        return leaf in self._spoilt

    def add(self, hashed: bytes, level: int = 0) -> None:
        if level == len(self._levels):
            self._levels.append((0, []))
        number, row = self._levels[level]
        row.append(hashed)
        if len(row) == WIDTH:
            self._compare(level, number, row)
            self._levels[level] = (number + 1, [])
            while len(row) > 1:
                row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
            self.add(row[0], level + 1)

    def finish(self) -> None:
        for level, (number, row) in enumerate(self._levels):
            if row:
                self._compare(level, number, row)
        expected = sum(number + (1 if row else 0) for number, row in self._levels)
        if self._tx.execute(sa.select(sa.func.count()).select_from(tiles)).scalar_one() != expected:
            self.findings.append((0, "tile_differs", f"There are other tiles than the {expected} that the log makes."))

    def _compare(self, level: int, number: int, row: Sequence[bytes]) -> None:
        query = sa.select(tiles.c.hashes).where(tiles.c.level == level, tiles.c.number == number)
        stored = self._tx.execute(query).scalar_one_or_none()
        if stored == b"".join(row):
            return
        width = WIDTH**level
        first = number * WIDTH * width
        if level == 0 and any(first <= leaf < first + WIDTH for leaf in self._spoilt):
            return
        self.findings.append(
            (first, "tile_differs", f"Tile {level}/{number} is not what the leaves from {first} give.")
        )


def _read(tx: Tx, start: int, end: int) -> dict[int, tuple[int, Any]]:
    within = entries.c.leaf.between(start, end - 1)
    found: dict[int, tuple[int, Any]] = {}
    query = sa.select(entries.c.leaf, messages, disclosures.c.texts)
    query = query.join(messages, messages.c.arrival == entries.c.arrival)
    query = query.outerjoin(disclosures, disclosures.c.arrival == messages.c.arrival)
    for row in tx.execute(query.where(within, entries.c.kind == MESSAGE)):
        found[row.leaf] = (MESSAGE, row)
    query = sa.select(entries.c.leaf, records).join(records, records.c.arrival == entries.c.arrival)
    for row in tx.execute(query.where(within, entries.c.kind == RECORD)):
        found[row.leaf] = (RECORD, row)
    states = sa.select(entries.c.leaf, checkpoints).join(checkpoints, checkpoints.c.size == entries.c.leaf + 1)
    for row in tx.execute(states.where(within, entries.c.kind == STATE)):
        found[row.leaf] = (STATE, row)
    return found


def _leaf_tiles(tx: Tx, start: int, end: int) -> dict[int, bytes]:
    query = sa.select(tiles.c.number, tiles.c.hashes).where(tiles.c.level == 0)
    query = query.where(tiles.c.number.between(start // WIDTH, (end - 1) // WIDTH))
    found: dict[int, bytes] = {}
    for number, hashes in tx.execute(query):
        for index in range(len(hashes) // 32):
            found[number * WIDTH + index] = bytes(hashes[32 * index : 32 * index + 32])
    return found
