"""What the audit reads at a time, and its check of the tiles against the leaves."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u
from core.errors import TracebondError
from core.merkle import node_hash
from core.message import EventItem, assemble, items_root, read_entry
from core.prefixmap import map_key
from ledger import tiles as stored_tiles
from ledger.database import Tx
from ledger.store import join_items, split_disclosures, split_items
from ledger.tables import MESSAGE, RECORD, STATE, checkpoints, disclosures, entries, messages, records, tiles

WIDTH = 256


def items_fit(items: bytes, item_ids: bytes, clear: Sequence[dict[str, Any]]) -> bool:
    """Whether the stored item list is the one whose root the message signs, under the ids noted beside it."""
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


def items_disclosed(jwt: bytes, texts: Any) -> bytes | None:
    """The item list as the disclosures give it, when they are whole and agree with the signed root."""
    try:
        shown = [text for event in split_disclosures(bytes(texts)) for text in event]
        return join_items(assemble(read_entry(jwt, shown)).events)[0]
    except (TracebondError, ValueError, TypeError):
        return None


class TileCheck:
    """Rebuilds all tiles from the leaf hashes and compares them with the stored ones.

    Args:
        size: leaves that an earlier audit has checked; their last, unfinished tiles are taken as they stand, the caller
            has held them against a root.
    """

    def __init__(self, tx: Tx, size: int = 0) -> None:
        self._tx = tx
        self._levels: list[tuple[int, list[bytes]]] = []
        count = size
        while count:
            number, width = divmod(count, WIDTH)
            blob = stored_tiles.tile(tx, len(self._levels), number, width) if width else b""
            self._levels.append((number, [blob[at : at + 32] for at in range(0, len(blob), 32)]))
            count = number
        self._spoilt: set[int] = set()
        self.findings: list[tuple[int, str, str]] = []

    def spoil(self, leaf: int) -> None:
        """The hash in this leaf's tile is known to be the wrong one."""
        self._spoilt.add(leaf)

    def is_spoilt(self, leaf: int) -> bool:
        """Whether it is."""
        return leaf in self._spoilt

    def add(self, hashed: bytes, level: int = 0) -> None:
        """The next hash of a level."""
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
        """Compare the unfinished tiles, and the number of all."""
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


def read_part(tx: Tx, start: int, end: int) -> dict[int, tuple[int, Any]]:
    """Kind and row of what stands at the leaves ``[start, end)``; a leaf without a whole row is left out."""
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
    states = sa.select(entries.c.leaf, entries.c.arrival, checkpoints).join(
        checkpoints, checkpoints.c.size == entries.c.leaf + 1
    )
    for row in tx.execute(states.where(within, entries.c.kind == STATE)):
        found[row.leaf] = (STATE, row)
    return found


def leaf_tiles(tx: Tx, start: int, end: int) -> dict[int, bytes]:
    """The leaf hashes that the tiles hold around the leaves ``[start, end)``."""
    query = sa.select(tiles.c.number, tiles.c.hashes).where(tiles.c.level == 0)
    query = query.where(tiles.c.number.between(start // WIDTH, (end - 1) // WIDTH))
    found: dict[int, bytes] = {}
    for number, hashes in tx.execute(query):
        for index in range(len(hashes) // 32):
            found[number * WIDTH + index] = bytes(hashes[32 * index : 32 * index + 32])
    return found
