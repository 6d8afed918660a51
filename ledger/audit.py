"""The audit: everything recomputed from stored bytes and compared with tiles, checkpoints and the chain."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, parse_json, sha256, unb64u
from core.crypto import Ed25519Public, thumbprint
from core.errors import Rejected, TracebondError
from core.merkle import Frontier, leaf_hash
from core.message import Signed, assemble, read_entry
from core.notes import Verifier, open_note, read_checkpoint
from core.receipts import PROMISE_S
from core.records import Record, StateLeaf, read_record, read_state_leaf
from ledger import audit_memory, tiles
from ledger.audit_findings import Chain, Finding, Progress
from ledger.audit_memory import Point
from ledger.audit_read import TileCheck, items_disclosed, items_fit, leaf_tiles, read_part
from ledger.audit_register import Register
from ledger.audit_sequence import Sequences
from ledger.auditkeys import AuditedKeys
from ledger.database import Database, Tx
from ledger.flatmap import ItemMap
from ledger.itemmap import message_steps, open_map, record_steps
from ledger.store import split_disclosures
from ledger.tables import MESSAGE, RECORD, STATE, checkpoints, entries, keys, messages, records, waiting

PART = 1_000
FINDINGS_MAX = 1_000
SAMPLES = 256

__all__ = ["Chain", "Finding", "Progress", "audit"]


def audit(
    database: Database,
    *,
    origin: str,
    checkpoint_key: Ed25519Public,
    anchored: Sequence[int] = (),
    chain: Chain | None = None,
    promise_s: Callable[[int], int] = lambda accepted_s: PROMISE_S,
    is_full: bool = True,
    chance: random.Random | None = None,
    now_s: int = 0,
) -> Iterator[Finding | Progress]:
    """Check the log; yields findings as they are made, and progress every 1,000 leaves.

    A full run checks every leaf. Otherwise it goes on behind the last point that an audit without findings reached:
    that point is held against tiles, checkpoint and chain, the rows before it are counted, and a sample of them is
    read back; a change of another row there is found by the next full run (and by whoever reads that row).

    Args:
        origin: the log's origin line, which is also the checkpoint key's name.
        anchored: sizes whose root the chain must hold (final anchors).
        promise_s: what a receipt given at that second promises.
        chance: chooses the sample; needed unless ``is_full``.
        now_s: unix seconds, noted beside the point that is remembered.
    """
    verifier = Verifier(origin, checkpoint_key)
    count = 0
    with database.reading() as tx:
        point = None if is_full or chance is None else audit_memory.newest(tx)
        work = _Audit(tx, verifier, origin, frozenset(anchored), chain, promise_s, point, chance)
        for one in work.run():
            yield one
            if isinstance(one, Finding):
                count += 1
                if count >= FINDINGS_MAX:
                    yield Finding("too_many", f"{FINDINGS_MAX} findings; the audit stops here.")
                    return
        reached = work.reached(kind="full" if point is None else "incremental", now_s=now_s)
    if not count and reached is not None:
        with database.transaction() as tx:
            audit_memory.remember(tx, reached)


class _Audit:
    """One run, in one snapshot of the database."""

    def __init__(
        self,
        tx: Tx,
        verifier: Verifier,
        origin: str,
        anchored: frozenset[int],
        chain: Chain | None,
        promise_s: Callable[[int], int],
        point: Point | None,
        chance: random.Random | None,
    ) -> None:
        tiles.forget(tx)
        self._tx = tx
        self._verifier = verifier
        self._origin = origin
        self._chain = chain
        self._anchored = anchored | ({chain.tip} if chain is not None and chain.tip else set())
        self._chance = chance
        self._found: list[Finding] = []
        self._total = 0
        self._last: StateLeaf | None = None
        self._problems: list[tuple[str, str]] = []
        if point is not None:
            self._problems = audit_memory.problems(tx, point, verifier, origin)
        self._point = None if self._problems else point
        if self._point is not None:
            self._last = audit_memory.state_at(tx, self._point)
        self._start = self._point.size if self._point is not None else 0
        root = self._point.root if self._point is not None else b""
        self._frontier = self._point.frontier if self._point is not None else Frontier()
        self._keys = AuditedKeys(tx, origin, self._start, root)
        self._tiles = TileCheck(tx, self._start)
        self._checkpoints = tx.execute(
            sa.select(checkpoints).where(checkpoints.c.size > self._start).order_by(checkpoints.c.size)
        ).all()
        self._key_rows = {row.key_no: row for row in tx.execute(sa.select(keys))}
        self._register = Register(tx, self._start)
        self._sequences = Sequences(tx, self._start, promise_s, self._report)
        self._arrival = self._point.arrival if self._point is not None else -1
        self._map = self._open_map()

    def _open_map(self) -> ItemMap:
        if self._point is None:
            return ItemMap()
        found = open_map(self._tx, self._start)
        if found.root() != self._point.map_root:
            self._problems.append(("map_differs", "The item map kept between runs is not the one audited before."))
        return found

    @property
    def _size(self) -> int:
        return self._checkpoints[-1].size if self._checkpoints else self._start

    def run(self) -> Iterator[Finding | Progress]:
        """Findings and progress."""
        size = self._size
        for code, text in self._problems:
            self._report(None, code, text)
        tip = self._chain.tip if self._chain is not None else 0
        if tip > size:
            self._report(None, "behind_chain", f"The chain knows {tip} leaves, this database {size}: it was set back.")
        if self._point is not None:
            self._behind(self._point)
        yield from self._drain()
        for start in range(self._start, size, PART):
            end = min(size, start + PART)
            self._part(start, end)
            yield from self._drain()
            yield Progress(end, size, self._total, self._start)
        self._tiles.finish()
        self._found += [self._at(leaf, code, text) for leaf, code, text in self._tiles.findings]
        self._store(size)
        for leaf, text in self._register.finish():
            self._report(leaf, "register_differs", text)
        self._sequences.finish()
        yield from self._drain()
        if size == self._start:
            yield Progress(size, size, self._total, self._start)

    def reached(self, *, kind: str, now_s: int) -> Point | None:
        """The point to remember after a run without findings."""
        size = self._frontier.size
        if size == 0:
            return None
        return Point(size, self._frontier.root(), self._map.root(), self._frontier, self._arrival, kind, now_s)

    def _behind(self, point: Point) -> None:
        """What was audited before: the chain's root of it, its rows by number, and a sample of them by content."""
        if self._chain is not None and 0 < self._chain.tip <= point.size:
            self._compare_behind(self._chain, point)
        for code, text in audit_memory.counted(self._tx, point):
            self._report(None, code, text)
        chance = self._chance or random.Random(0)
        sample = sorted({chance.randrange(point.size) for _ in range(SAMPLES)})
        for leaf, code, text in audit_memory.sampled(self._tx, point, sample):
            self._report(leaf, code, text)
        for leaf in sample:
            kind, row = read_part(self._tx, leaf, leaf + 1).get(leaf, (0, None))
            try:
                signed = read_entry(bytes(row.jwt)) if kind == MESSAGE else None
            except TracebondError:
                continue
            if signed is not None:
                self._message_row(leaf, row, signed)

    def _compare_behind(self, chain: Chain, point: Point) -> None:
        found, own = chain.root_at(chain.tip), tiles.root(self._tx, chain.tip)
        if found != own:
            text = f"The chain holds another root at size {chain.tip} than the tiles give."
            self._report(chain.tip - 1, "anchor_differs", text)

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
        stored = read_part(self._tx, start, end)
        hashes = leaf_tiles(self._tx, start, end)
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
        items = self._message_row(leaf, row, signed)
        self._sequences.message(leaf, row, signed)
        self._arrival = max(self._arrival, row.arrival)
        self._steps(leaf, hashed, device, items)
        return hashed

    def _message_row(self, leaf: int, row: Any, signed: Signed) -> bytes:
        """What is kept beside a message: its columns, item list and disclosures; gives the list to go on with."""
        items = bytes(row._mapping["items"])
        columns = (signed.id, signed.seq, signed.prev, len(signed.clear))
        noted = (bytes(row.id), row.seq, None if row.prev is None else bytes(row.prev), row.event_count)
        if columns != noted:
            self._report(
                leaf, "row_differs", f"What is noted beside the message at leaf {leaf} is not what it says.", row
            )
        if not items_fit(items, bytes(row.item_ids), signed.clear):
            self._report(leaf, "item_list_differs", f"The item list stored for leaf {leaf} is not the signed one.", row)
            items = items_disclosed(signed.jwt, row.texts) or items
        self._disclosures(leaf, row, signed.jwt, signed.clear)
        return items

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
            erased = self._keys.erased(leaf, number)
            if erased and erased & {_name_of(text) for text in lists[number]}:
                text = f"What was erased of event {number} at leaf {leaf} is back."
                self._report(leaf, "erasure_undone", text, row)
            if missing > len(erased):
                text = f"{missing} disclosures of event {number} at leaf {leaf} are gone and no erasure says so."
                self._report(leaf, "disclosure_missing", text, row)
                return
        if len(digests) != len(clear):
            self._report(leaf, "disclosure_differs", f"The disclosures of leaf {leaf} cannot be read.", row)
        elif is_whole:
            length = len(jwt) + 1 + sum(len(text) + 1 for texts in lists for text in texts)
            if length != row.publish_bytes:
                text = f"The publish at leaf {leaf} had another length than is noted beside it."
                self._report(leaf, "row_differs", text, row)
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
        subject = record.payload.get("kid") if record.t != "org" else thumbprint(record.payload["jwk"])
        once = f"{record.t}:{subject}" if record.t in ("key", "end") else None
        noted = (bytes(row.id), row._mapping["t"], row.org, row.once, row.subject_kid)
        if noted != (record.id, record.t, record.payload["org"], once, subject):
            self._report(leaf, "row_differs", f"What is noted beside the record at leaf {leaf} is not what it says.")
        for text in self._register.record(leaf, record):
            self._report(leaf, "register_differs", text)
        self._organisation(leaf, record)
        self._arrival = max(self._arrival, row.arrival)
        self._map.apply(record_steps(leaf, hashed, record.payload, self._keys.iss_of))
        return hashed

    def _organisation(self, leaf: int, record: Record) -> None:
        """An ``org`` record says what the registry on the chain says."""
        ask = self._chain.organisation_at if self._chain is not None else None
        if record.t != "org" or ask is None:
            return
        payload = record.payload
        found = ask(payload["org"], payload["version"])
        said = (unb64u(thumbprint(payload["jwk"]), length=32), payload["account"], payload["roles"])
        if found is None or (found[0], found[1].lower(), found[2]) != said or found[3] != payload["place"]["number"]:
            text = f"The registry on the chain does not say what the org record at leaf {leaf} says."
            self._report(leaf, "organisation_differs", text)

    def _state(self, leaf: int, row: Any, tile_hash: bytes | None) -> bytes:
        data = bytes(row.state)
        hashed = leaf_hash(data)
        if row.arrival is not None:
            self._report(leaf, "row_differs", f"The state leaf {leaf} is noted to have arrived; state leaves do not.")
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
        self._sequences.checkpoint(row)
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
        if size not in self._anchored or self._chain is None:
            return
        found = self._chain.root_at(size)
        if found is None:
            self._report(size - 1, "anchor_missing", f"The chain holds no root at size {size}.")
        elif found != root:
            self._report(
                size - 1, "anchor_differs", f"The chain holds another root at size {size} than the bytes give."
            )

    def _store(self, size: int) -> None:
        """Every stored message and record is either logged or waiting, and every anchored size has its checkpoint."""
        for table, name in ((messages, "message"), (records, "record")):
            query = (
                sa.select(table.c.arrival, table.c.id)
                .outerjoin(entries, entries.c.arrival == table.c.arrival)
                .outerjoin(waiting, waiting.c.arrival == table.c.arrival)
                .where(entries.c.leaf.is_(None), waiting.c.arrival.is_(None))
            )
            if self._point is not None:
                query = query.where(table.c.arrival > self._point.arrival)
            for arrival, ident in self._tx.execute(query.limit(FINDINGS_MAX)):
                self._report(
                    None, "not_logged", f"The {name} {b64u(bytes(ident))} (arrival {arrival}) never got a leaf."
                )
        beyond = self._tx.execute(sa.select(sa.func.count()).where(entries.c.leaf >= size)).scalar_one()
        if beyond:
            self._report(None, "row_differs", f"{beyond} entries stand beyond the last checkpoint.")
        known = {row.size for row in self._checkpoints}
        for anchored in sorted(self._anchored - known):
            if self._start < anchored <= size:
                text = f"No checkpoint of {anchored} is stored, and the chain holds an anchor of it."
                self._report(anchored - 1, "checkpoint_missing", text)


def _name_of(text: str) -> str:
    """The member that a disclosure shows; "" where it cannot be read."""
    try:
        value = parse_json(unb64u(text), bytes_max=len(text) + 4)
        return str(value[1])
    except (Rejected, IndexError, TypeError, KeyError):
        return ""
