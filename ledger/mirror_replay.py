"""The replay: a mirror's tree, item map and register, carried on tile by tile from what the operator serves.

Each part is one transaction with its cursor, so a mirror that is stopped goes on where it was; a part that holds a
fault leaves nothing behind.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from core.canonical import b64u, sha256
from core.crypto import thumbprint
from core.errors import Broken, Rejected, Unavailable
from core.merkle import Frontier, leaf_hash
from core.records import Record, StateLeaf, entry_kind, read_record, read_state_leaf
from ledger import tiles
from ledger.database import Database, Tx, raw
from ledger.flatmap import ItemMap, load
from ledger.mirror_chain import ChainView
from ledger.mirror_rules import Fault, Pinned, Rules, check_state
from ledger.mirror_source import WIDTH, LogSource, Withheld
from ledger.mirror_tables import cosigned, heads, item_map, pins

_ROWS = 4_096
SIZE, STATE, AUD = "size", "state", "aud"


@dataclass
class _Part:
    """The entries ``[start, end)`` of one tile, as served, and what has to be asked of the chain about them."""

    start: int
    base: int
    hashes: list[bytes]
    entries: list[bytes]
    items: list[bytes]
    orgs: list[tuple[int, Record]]
    blocks: list[tuple[int, StateLeaf]]

    @property
    def end(self) -> int:
        """One past the last leaf."""
        return self.base + len(self.entries)


class Replay:
    """What was replayed so far; :meth:`step` goes on by at most one tile.

    Attributes:
        size: number of leaves replayed and committed.
    """

    def __init__(self, database: Database, source: LogSource, chain: ChainView, pinned: Pinned) -> None:
        self._database = database
        self._source = source
        self._chain = chain
        self._pinned = pinned
        self.size = 0
        self._map = ItemMap()
        self._frontier = Frontier()
        self._last: StateLeaf | None = None
        self._is_open = False

    def open(self) -> None:
        """Load what an earlier run committed.

        Raises:
            Broken: the mirror's own tiles do not give the root that it noted.
        """
        with self._database.reading() as tx:
            self.size = int(get_pin(tx, SIZE) or 0)
            text = get_pin(tx, STATE)
            self._last = None if text is None else read_state_leaf(text.encode())
            self._pinned = replace(self._pinned, aud=get_pin(tx, AUD) or "")
            self._frontier = Frontier(self.size, tiles.frontier(tx, self.size))
            self._map = _load_map(tx)
            root = None if self._last is None else head_root(tx, self._last.size)
            if self._last is not None and tiles.root(tx, self._last.size) != root:
                raise Broken("This mirror's own tiles were changed; use an empty folder.", code="root_differs")
        self._is_open = True

    def step(self, target: int) -> int:
        """Replay up to the end of the present tile, at most to ``target`` leaves; gives the new size.

        Raises:
            Fault: an entry is refused; nothing of its tile is kept. Unavailable: operator or node are away.
        """
        if not self._is_open:
            self.open()
        if self.size >= target:
            return self.size
        part = self._fetch(self.size, target)
        # Whatever stops this part leaves map and frontier in memory ahead of the database: they are loaded anew.
        self._is_open = False
        with self._database.transaction() as tx:
            tiles.forget(tx)
            self._apply(tx, part)
        self.size = part.end
        self._is_open = True
        return self.size

    def _fetch(self, start: int, target: int) -> _Part:
        number = start // WIDTH
        base = number * WIDTH
        width = min(WIDTH, target - base)
        try:
            hashes = self._source.hashes(number, width)
            entries = self._source.entries(number, width)
            items = self._source.items(number, width)
        except Withheld as error:
            leaf = max(start, base + error.served)
            raise Fault(
                f"Leaf {leaf} lies under the checkpoint and is not served: {error.message}",
                code="withheld",
                leaf=leaf,
                kind="entry",
            ) from error
        return _Part(start, base, hashes, entries, items, [], [])

    def _apply(self, tx: Tx, part: _Part) -> None:
        if part.start == 0:
            self._pin_service(tx, part.entries[0])
        rules = Rules(tx, self._pinned, self._items_at)
        steps: list[tuple[bytes, list[bytes]]] = []
        rows = b""
        for leaf in range(part.start, part.end):
            data, items = part.entries[leaf - part.base], part.items[leaf - part.base]
            hashed = leaf_hash(data)
            kind, entry_id = _name(data)
            if hashed != part.hashes[leaf - part.base]:
                raise Fault(
                    f"The {kind} served for leaf {leaf} does not hash to what the log's own tile holds.",
                    code="bytes_differ",
                    leaf=leaf,
                    kind=kind,
                    entry_id=entry_id,
                    evidence=data,
                )
            try:
                if kind == "message":
                    steps += rules.message(leaf, data, items).steps
                elif kind == "record":
                    _no_items(items)
                    stepped = rules.record(leaf, data)
                    steps += stepped.steps
                    part.orgs += [(leaf, stepped.record)] if stepped.record is not None else []
                else:
                    _no_items(items)
                    rows += self._map.apply(steps)[0]
                    steps = []
                    part.blocks.append((leaf, self._state(leaf, data, rules)))
            except Rejected as error:
                if isinstance(error, Fault):
                    raise
                raise Fault(
                    f"The {kind} at leaf {leaf}: {error.message}",
                    code=error.code,
                    leaf=leaf,
                    kind=kind,
                    entry_id=entry_id,
                    evidence=data,
                ) from error
            self._frontier.append(hashed)
            if kind == "state":
                self._head(tx, leaf)
        rows += self._map.apply(steps)[0]
        self._ask_chain(part)
        tiles.append(tx, part.start, part.hashes[part.start - part.base :])
        _save_map(tx, rows)
        set_pin(tx, SIZE, str(part.end))

    def _items_at(self, leaf: int) -> bytes:
        try:
            return self._source.items(leaf // WIDTH, leaf % WIDTH + 1)[leaf % WIDTH]
        except Rejected as error:
            # It was served before: that it is not now is no fault of the entry that asks for it.
            raise Unavailable(f"The item list of leaf {leaf} is not served: {error.message}") from error

    def _pin_service(self, tx: Tx, first: bytes) -> None:
        try:
            aud = str(read_record(first).payload["aud"])
        except Rejected as error:
            raise Fault(
                f"Leaf 0 is no record: {error.message}", code=error.code, leaf=0, kind="entry", evidence=first
            ) from error
        set_pin(tx, AUD, aud)
        self._pinned = replace(self._pinned, aud=aud)

    def _state(self, leaf: int, data: bytes, rules: Rules) -> StateLeaf:
        last = self._last
        state = check_state(
            data,
            leaf,
            origin=self._pinned.origin,
            last=last,
            map_root=self._map.root(),
            keys_=len(self._map),
        )
        hidden = None if last is None else rules.hidden_rival(last.size - 1)
        if hidden is not None:
            raise Fault(
                f"Leaf {hidden.leaf} holds the second message under seq {hidden.seq} of its key; no record says so.",
                code="equivocation_hidden",
                leaf=hidden.leaf,
                kind="message",
                entry_id=b64u(bytes(hidden.id)),
            )
        self._last = state
        return state

    def _head(self, tx: Tx, leaf: int) -> None:
        state, root = self._last, self._frontier.root()
        if state is None:
            raise Broken("A head without a state leaf.", code="no_state")
        block = state.block or (None, None, "")
        row = {"size": state.size, "root": root, "map_root": state.map_root, "time_s": state.time}
        tx.execute(heads.insert().values(chain_id=block[0], block=block[1], **row))
        set_pin(tx, STATE, state.encode().decode())
        before = tx.execute(sa.select(cosigned.c.root).where(cosigned.c.size == state.size)).scalar_one_or_none()
        if before is not None and bytes(before) != root:
            raise Fault(
                f"This mirror cosigned another root at {state.size} leaves: the log was rewritten.",
                code="forked",
                leaf=leaf,
                kind="state",
            )

    def _ask_chain(self, part: _Part) -> None:
        self._ask_organisations([(leaf, r) for leaf, r in part.orgs if self._is_here(r)])
        here = [(leaf, s) for leaf, s in part.blocks if s.block is not None and not self._is_earlier(s)]
        found = self._chain.block_hashes([state.block[1] for _, state in here if state.block is not None])
        for leaf, state in here:
            if state.block is not None and found.get(state.block[1]) != state.block[2]:
                raise Fault(
                    f"The state leaf {leaf} names block {state.block[1]} {state.block[2]}, which is not on the chain.",
                    code="no_such_block",
                    leaf=leaf,
                    kind="state",
                )

    def _ask_organisations(self, wanted: list[tuple[int, Record]]) -> None:
        asked = [(str(r.payload["org"]), int(r.payload["version"])) for _, r in wanted]
        for (leaf, record), there in zip(wanted, self._chain.organisations(self._pinned.registry, asked), strict=True):
            payload = record.payload
            said = (thumbprint(payload["jwk"]), payload["account"], payload["roles"], payload["place"]["number"])
            if said != (there.kid, there.account, there.roles, there.block):
                raise Fault(
                    f"The org record at leaf {leaf} is not what the registry holds as version {payload['version']} "
                    f"of {payload['org']}.",
                    code="org_differs",
                    leaf=leaf,
                    kind="record",
                    entry_id=b64u(record.id),
                    evidence=record.raw,
                )

    def _is_here(self, record: Record) -> bool:
        return bool(record.payload["place"]["registry"] == self._pinned.registry)

    def _is_earlier(self, state: StateLeaf) -> bool:
        """Whether a state leaf may speak of a chain that was given up, and that nobody can ask any more."""
        block = state.block
        return bool(self._pinned.earlier) and block is not None and block[0] != self._pinned.chain_id


def get_pin(tx: Tx, name: str) -> str | None:
    """What the mirror noted under a name."""
    return tx.execute(sa.select(pins.c.value).where(pins.c.name == name)).scalar_one_or_none()


def set_pin(tx: Tx, name: str, value: str) -> None:
    """Note something, in place of what was noted before."""
    if tx.execute(pins.update().where(pins.c.name == name).values(value=value)).rowcount == 0:
        tx.execute(pins.insert().values(name=name, value=value))


def head_root(tx: Tx, size: int) -> bytes | None:
    """The root at a replayed state leaf, None where there is none."""
    found = tx.execute(sa.select(heads.c.root).where(heads.c.size == size)).scalar_one_or_none()
    return None if found is None else bytes(found)


def first_difference(tx: Tx, size: int, served: Callable[[int, int], list[bytes]]) -> int | None:
    """The first leaf below ``size`` whose hash in the served tiles is not the one replayed, None when all agree."""
    for number in range((size + WIDTH - 1) // WIDTH):
        width = min(WIDTH, size - number * WIDTH)
        own = tiles.tile(tx, 0, number, width)
        for place, hashed in enumerate(served(number, width)):
            if own[32 * place : 32 * place + 32] != hashed:
                return number * WIDTH + place
    return None


def _name(data: bytes) -> tuple[str, str]:
    try:
        kind = entry_kind(data)
    except Rejected:
        return "entry", ""
    return kind, "" if kind == "state" else b64u(sha256(data.rpartition(b".")[0]))


def _no_items(items: bytes) -> None:
    if items:
        raise Rejected("It has no item list, and one is served for it.", code="wrong_item_list")


def _load_map(tx: Tx) -> ItemMap:
    count = tx.execute(sa.select(sa.func.count()).select_from(item_map)).scalar_one()
    rows = tx.execute(sa.select(item_map.c.key, item_map.c.tail).order_by(item_map.c.key))
    parts = ([bytes(key) + bytes(tail) for key, tail in part] for part in rows.partitions(_ROWS))
    return load(parts, keys_max=max(1, count))


def _save_map(tx: Tx, rows: bytes) -> None:
    pairs = [(rows[at : at + 32], rows[at + 32 : at + 72]) for at in range(0, len(rows), 72)]
    raw(tx).cursor().executemany(
        "INSERT INTO mirror_map (key, tail) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET tail = excluded.tail", pairs
    )
