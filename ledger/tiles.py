"""C2SP tlog-tiles of height 8 as rows, and the proofs that are made from them."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from core.errors import Broken, Rejected
from core.merkle import EMPTY_ROOT, consistency_ranges, inclusion_ranges
from ledger.database import Tx, fetch_among, is_sqlite, memory, raw
from ledger.tables import MESSAGE, RECORD, STATE, checkpoints, entries, messages, records, tiles

WIDTH = 256
CACHE_TILES = 2_048
_CACHE = "tracebond_tiles"

# A tile and the nodes above it, lowest first: one bytes object a height, 16 kB in all.
Pyramid = list[bytes]
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """What stands at one leaf: its kind (``tables.MESSAGE``, ``RECORD`` or ``STATE``), arrival and bytes."""

    leaf: int
    kind: int
    arrival: int | None
    data: bytes


def append(tx: Tx, size: int, leaf_hashes: Sequence[bytes]) -> None:
    """Write the tiles that new leaves fill or lengthen.

    Args:
        size: number of leaves before.
        leaf_hashes: the new leaves in log order, 32 bytes each.
    """
    level, hashes, start = 0, list(leaf_hashes), size
    while hashes:
        number, filled = divmod(start, WIDTH)
        position, full = 0, []
        rows: list[tuple[int, int, bytes]] = []
        while position < len(hashes):
            old = _hashes(tx, level, number, filled) if filled else b""
            fresh = hashes[position : position + WIDTH - filled]
            blob = old + b"".join(fresh)
            position += len(fresh)
            if filled:
                update = tiles.update().where(tiles.c.level == level, tiles.c.number == number)
                tx.execute(update.values(hashes=blob))
            else:
                rows.append((level, number, blob))
            if len(blob) == WIDTH * 32:
                full.append(_perfect(blob))
            number, filled = number + 1, 0
        _insert(tx, rows)
        level, hashes, start = level + 1, full, start // WIDTH


def root(tx: Tx, size: int) -> bytes:
    """The tree head at ``size``, rebuilt from tiles."""
    return range_root(tx, 0, size, size) if size else EMPTY_ROOT


def frontier(tx: Tx, size: int) -> list[bytes]:
    """The roots of the perfect subtrees that ``size`` decomposes into, largest first."""
    return [node(tx, height, start >> height, size) for start, height in _perfect_ranges(0, size)]


def inclusion_proof(tx: Tx, index: int, size: int) -> list[bytes]:
    """The sibling hashes from leaf ``index`` up to the root at ``size``, lowest first.

    Raises:
        Rejected: ``index`` is not below ``size``.
    """
    return inclusion_proofs(tx, [index], size)[index]


def inclusion_proofs(tx: Tx, indexes: Iterable[int], size: int) -> dict[int, list[bytes]]:
    """The inclusion proofs of many leaves, each tile read once and what they share hashed once.

    Raises:
        Rejected: an index is not below ``size``.
    """
    ranges = {index: inclusion_ranges(index, size) for index in indexes}
    found = _range_roots(tx, {one for path in ranges.values() for one in path}, size)
    return {index: [found[one] for one in path] for index, path in ranges.items()}


def consistency_proof(tx: Tx, size1: int, size2: int) -> list[bytes]:
    """The hashes that prove the log at ``size2`` to extend the one at ``size1``.

    Raises:
        Rejected: ``size1`` is not between 1 and ``size2``.
    """
    ranges = consistency_ranges(size1, size2)
    found = _range_roots(tx, ranges, size2)
    return [found[one] for one in ranges]


def range_root(tx: Tx, start: int, end: int, size: int) -> bytes:
    """The tree head over the leaves ``[start, end)``, of a range that occurs in RFC 9162 proofs."""
    return _range_roots(tx, [(start, end)], size)[start, end]


def node(tx: Tx, height: int, index: int, size: int) -> bytes:
    """The root of the perfect subtree over the leaves ``[index << height, (index + 1) << height)``."""
    place, inner, at = _spot(index << height, height, size)
    return _pyramids(tx, [place])[place][inner][at : at + 32]


def tile(tx: Tx, level: int, number: int, width: int = WIDTH) -> bytes:
    """The bytes of a hash tile (C2SP tlog-tiles); ``width`` below 256 asks for a partial tile.

    Raises:
        Rejected: ``no_such_tile``.
    """
    if not (0 <= level < 7 and number >= 0 and 1 <= width <= WIDTH):
        raise Rejected("There is no such tile.", code="no_such_tile")
    query = sa.select(tiles.c.hashes).where(tiles.c.level == level, tiles.c.number == number)
    blob = tx.execute(query).scalar_one_or_none()
    if blob is None or len(blob) < width * 32:
        raise Rejected("There is no such tile.", code="no_such_tile")
    return bytes(blob[: width * 32])


def entry_bundle(tx: Tx, number: int, width: int = WIDTH) -> bytes:
    """The entries under level-0 tile ``number``, each with a u16 length before it (C2SP tlog-tiles).

    Raises:
        Rejected: ``no_such_tile``.
    """
    found = read_entries(tx, number * WIDTH, number * WIDTH + width) if 1 <= width <= WIDTH else []
    if len(found) != width or number < 0:
        raise Rejected("There is no such bundle.", code="no_such_tile")
    return b"".join(len(one.data).to_bytes(2) + one.data for one in found)


def entry(tx: Tx, index: int) -> Entry:
    """The entry at a leaf.

    Raises:
        Rejected: ``no_such_leaf``.
    """
    found = read_entries(tx, index, index + 1)
    if not found:
        raise Rejected(f"The log has no leaf {index}.", code="no_such_leaf")
    return found[0]


def read_entries(tx: Tx, start: int, end: int) -> list[Entry]:
    """The entries at the leaves ``[start, end)`` that exist, in log order.

    Raises:
        Broken: ``entry_missing`` when the bytes of an entry are not in the store any more.
    """
    within = entries.c.leaf.between(start, end - 1)
    query = (
        sa.select(
            entries.c.leaf,
            entries.c.kind,
            entries.c.arrival,
            sa.case(
                (entries.c.kind == MESSAGE, messages.c.jwt),
                (entries.c.kind == RECORD, records.c.raw),
                else_=checkpoints.c.state,
            ).label("data"),
        )
        .outerjoin(messages, (messages.c.arrival == entries.c.arrival) & (entries.c.kind == MESSAGE))
        .outerjoin(records, (records.c.arrival == entries.c.arrival) & (entries.c.kind == RECORD))
        .outerjoin(checkpoints, (checkpoints.c.size == entries.c.leaf + 1) & (entries.c.kind == STATE))
        .where(within)
        .order_by(entries.c.leaf)
    )
    found: list[Entry] = []
    for leaf, kind, arrival, data in tx.execute(query):
        if data is None:
            raise Broken(f"The bytes of leaf {leaf} are gone from the store.", code="entry_missing")
        found.append(Entry(leaf, kind, arrival, bytes(data)))
    return found


def _perfect_ranges(start: int, end: int) -> list[tuple[int, int]]:
    ranges = []
    while start < end:
        height = (end - start).bit_length() - 1
        ranges.append((start, height))
        start += 1 << height
    return ranges


def _spot(start: int, height: int, size: int) -> tuple[Place, int, int]:
    """Where the root of the perfect subtree of 2**height leaves from ``start`` stands: tile, height in it, position."""
    level, inner = divmod(height, 8)
    number, leaf = divmod(start >> (8 * level), WIDTH)
    width = min(WIDTH, (size >> (8 * level)) - number * WIDTH)
    return (level, number, width), inner, 32 * (leaf >> inner)


def _range_roots(tx: Tx, ranges: Collection[tuple[int, int]], size: int) -> dict[tuple[int, int], bytes]:
    spots = {
        (start, end): [_spot(first, height, size) for first, height in _perfect_ranges(start, end)]
        for start, end in ranges
    }
    pyramids = _pyramids(tx, {place for parts in spots.values() for place, _, _ in parts})
    found: dict[tuple[int, int], bytes] = {}
    for one, parts in spots.items():
        nodes = [pyramids[place][inner][at : at + 32] for place, inner, at in parts]
        root_of = nodes.pop()
        while nodes:
            root_of = sha256(b"\x01" + nodes.pop() + root_of).digest()
        found[one] = root_of
    return found


class _Cache:
    """The pyramids used last, for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Place, Pyramid] = OrderedDict()

    def find(self, places: Iterable[Place]) -> dict[Place, Pyramid]:
        held = self._held
        with self._lock:
            found = {place: held[place] for place in places if place in held}
            for place in found:
                held.move_to_end(place)
        return found

    def keep(self, fresh: dict[Place, Pyramid]) -> None:
        held = self._held
        with self._lock:
            for place, pyramid in fresh.items():
                held[place] = pyramid
            while len(held) > CACHE_TILES:
                held.popitem(last=False)


def _pyramids(tx: Tx, places: Iterable[Place]) -> dict[Place, Pyramid]:
    # A tile's first `width` hashes never change once committed, so they may be kept.
    cache: _Cache = memory(tx).setdefault(_CACHE, _Cache())
    wanted = set(places)
    found = cache.find(wanted)
    missing = wanted - found.keys()
    if not missing:
        return found
    numbers: defaultdict[int, set[int]] = defaultdict(set)
    for level, number, _ in missing:
        numbers[level].add(number)
    blobs: dict[tuple[int, int], bytes] = {}
    for level, of_level in numbers.items():
        query = f"SELECT number, hashes FROM tiles WHERE level = {int(level)} AND number AMONG"  # noqa: S608
        for number, blob in fetch_among(tx, query, sorted(of_level)):
            blobs[level, number] = blob
    fresh: dict[Place, Pyramid] = {}
    for level, number, width in missing:
        blob = blobs.get((level, number), b"")
        if len(blob) < width * 32:
            raise Broken(f"Tile {level}/{number} has fewer than {width} hashes.", code="tile_missing")
        fresh[level, number, width] = _pyramid(blob[: width * 32])
    cache.keep(fresh)
    return found | fresh


def _pyramid(row: bytes) -> Pyramid:
    found = [row]
    while len(row) > 32:
        row = b"".join([sha256(b"\x01" + row[at : at + 64]).digest() for at in range(0, len(row) - 63, 64)])
        found.append(row)
    return found


def forget(tx: Tx) -> None:
    """Drop what is remembered of tiles (an audit reads them anew)."""
    memory(tx).pop(_CACHE, None)


def _hashes(tx: Tx, level: int, number: int, width: int) -> bytes:
    query = sa.select(tiles.c.hashes).where(tiles.c.level == level, tiles.c.number == number)
    blob = tx.execute(query).scalar_one_or_none()
    if blob is None or len(blob) < width * 32:
        raise Broken(f"Tile {level}/{number} has fewer than {width} hashes.", code="tile_missing")
    return bytes(blob[: width * 32])


def _perfect(blob: bytes) -> bytes:
    while len(blob) > 32:
        blob = b"".join([sha256(b"\x01" + blob[i : i + 64]).digest() for i in range(0, len(blob), 64)])
    return blob


def _insert(tx: Tx, rows: Sequence[tuple[Any, ...]]) -> None:
    if not rows:
        return
    mark = "?" if is_sqlite(tx) else "%s"
    statement = f"INSERT INTO tiles (level, number, hashes) VALUES ({mark}, {mark}, {mark})"  # noqa: S608
    raw(tx).cursor().executemany(statement, rows)
