"""The item map at speed: flat arrays in memory, equal to the plain reference in ``core.prefixmap``.

Keys stand in buckets by their leading bits; each bucket is one bytes object of sorted 104-byte rows ``key | count |
head | leaf node``. Over the buckets stands one implicit heap of inner hashes in one array, updated level by level for
the touched buckets alone: numpy gathers a level's pairs and puts the hashes back, ``hashlib`` hashes them. When buckets
come to hold more than one key on average, their number doubles, which adds one level at the bottom of the heap and
leaves the others as they are.

Crafted identifiers can share long prefixes and crowd one bucket; ``ledger.mapbuckets`` makes a trie of such a one, so
that its cost stays logarithmic.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from core.prefixmap import EMPTY, MapProof
from ledger import mapbuckets
from ledger.mapbuckets import CROWD, OUT, ROW, Bucket, Crowd, NewTail

# One pair of children as it is hashed: 0x03, left, right. Node n stands in pair n >> 1.
PAIR = 65
# Buckets hold half a key to one key on average: less takes memory, more hashes within buckets, key by key.
MEAN_MAX = 1
# More levels than this no memory holds; buckets only get larger then.
DEPTH_MAX = 40
# Nodes that are hashed at one go, which bounds the copies made on the way.
SLAB = 65_536
# Up to so many nodes of a level the plain loop is quicker than numpy's calls.
FEW = 8


class ItemMap:
    """The map of one log: key -> (count, rolling head), with its Merkle root.

    Not safe to share between threads while it is being changed.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._buckets: list[Bucket] = [b""]
        self._heap: NDArray[np.uint8] = np.zeros((0, PAIR), dtype=np.uint8)
        # Per heap node: 0 holds no key, 1 one key (the node is that leaf), 2 more.
        self._kinds: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self._count = 0
        self._reserve(0)

    def __len__(self) -> int:
        return self._count

    def root(self) -> bytes:
        """The root over all keys; of none, 32 zero bytes."""
        return self._node(1)

    def get(self, key: bytes) -> tuple[int, bytes] | None:
        """The count and head of a key, or None when it has no step."""
        row = mapbuckets.find(self._buckets[self._index(key)], key)
        return None if row is None else (int.from_bytes(row[32:40]), row[40:OUT])

    def apply(self, steps: Iterable[tuple[bytes, Iterable[bytes]]]) -> tuple[bytes, bytes]:
        """Take the steps of new entries, in log order.

        Args:
            steps: per step ``u64 leaf index | u32 event number | leaf hash`` (44 bytes) and the distinct keys it steps.

        Returns:
            The touched keys as sorted 72-byte rows ``key | count | head``, and what each held before as 40-byte rows
            ``count | head`` (count 0: it was not there).
        """
        groups: dict[bytes, list[bytes]] = {}
        for suffix, keys in steps:
            for key in keys:
                group = groups.get(key)
                if group is None:
                    groups[key] = [suffix]
                else:
                    group.append(suffix)
        out: list[bytes] = []
        before: list[bytes] = []

        def stepped(key: bytes, old: bytes) -> bytes:
            before.append(old)
            head = old[8:]
            suffixes = groups[key]
            for suffix in suffixes:
                head = sha256(b"\x05" + head + suffix).digest()
            tail = (int.from_bytes(old[:8]) + len(suffixes)).to_bytes(8) + head
            out.append(key + tail)
            return tail

        self._change(sorted(groups), stepped)
        return b"".join(out), b"".join(before)

    def merge(self, rows: bytes) -> None:
        """Set keys to what newer 72-byte rows say; a row whose count is not larger changes nothing."""
        tails = {rows[start : start + 32]: rows[start + 32 : start + OUT] for start in range(0, len(rows), OUT)}

        def newer(key: bytes, old: bytes) -> bytes | None:
            tail = tails[key]
            return tail if tail[:8] > old[:8] else None

        self._change(sorted(tails), newer)

    def rows(self) -> Iterator[bytes]:
        """All 72-byte rows in ascending order of key."""
        for bucket in self._buckets:
            for row in mapbuckets.rows_of(bucket):
                yield row[:OUT]

    def chunk(self, number: int, bits: int) -> bytes:
        """The 72-byte rows of the keys whose leading ``bits`` bits are ``number``, ascending."""
        if self._depth < bits:
            first = number >> (bits - self._depth)
            last = first + 1
        else:
            first, last = number << (self._depth - bits), (number + 1) << (self._depth - bits)
        parts: list[bytes] = []
        for bucket in self._buckets[first:last]:
            if isinstance(bucket, Crowd):
                parts += [row[:OUT] for row in bucket.rows()]
            else:
                parts += [bucket[start : start + OUT] for start in range(0, len(bucket), ROW)]
        if self._depth < bits:
            parts = [row for row in parts if int.from_bytes(row[:4]) >> (32 - bits) == number]
        return b"".join(parts)

    def prove(self, key: bytes) -> MapProof:
        """The proof that ``key`` holds what :meth:`get` says, or that it is absent."""
        siblings: list[bytes] = []
        index = self._index(key)
        node = 1
        for level in range(self._depth):
            if self._kinds[node] != 2:
                return self._ending(node, level, key, siblings)
            node = 2 * node + (index >> (self._depth - 1 - level) & 1)
            siblings.append(self._node(node ^ 1))
        inner = mapbuckets.prove(self._buckets[index], key, self._depth)
        return MapProof((*siblings, *inner.siblings), inner.other)

    def _ending(self, node: int, level: int, key: bytes, siblings: list[bytes]) -> MapProof:
        if self._kinds[node] == 0:
            return MapProof(tuple(siblings))
        while level < self._depth:
            node *= 2
            level += 1
            if self._kinds[node] == 0:
                node += 1
        row = mapbuckets.rows_of(self._buckets[node - (1 << self._depth)])[0]
        return mapbuckets.ending(key, row, siblings)

    def _index(self, key: bytes) -> int:
        return int.from_bytes(key[:6]) >> (48 - self._depth)

    def _indexes(self, keys: Sequence[bytes]) -> list[int]:
        if not self._depth:
            return [0] * len(keys)
        words = np.frombuffer(b"".join(keys), dtype=">u8")[::4]
        found: list[int] = (words >> np.uint64(64 - self._depth)).tolist()
        return found

    def _node(self, node: int) -> bytes:
        start = (node >> 1) * PAIR + 1 + 32 * (node & 1)
        return bytes(self._flat[start : start + 32])

    def _reserve(self, depth: int) -> None:
        """Make place for the hashes above ``1 << depth`` buckets, keeping those that are there."""
        heap: NDArray[np.uint8] = np.zeros((1 << depth, PAIR), dtype=np.uint8)
        heap[:, 0] = 3
        heap[: len(self._heap)] = self._heap
        kinds: NDArray[np.uint8] = np.zeros(2 << depth, dtype=np.uint8)
        kinds[: len(self._kinds)] = self._kinds
        self._depth, self._heap, self._kinds = depth, heap, kinds
        # The same memory by pair and side (node n stands at [n >> 1, n & 1]), and as plain bytes.
        self._places = heap[:, 1:].reshape(-1, 2, 32)
        self._flat = heap.data.cast("B")

    def _change(self, keys: Sequence[bytes], new_tail: NewTail) -> None:
        """Give each key (ascending) its new ``count | head``; None leaves it as it is."""
        while self._count + len(keys) > MEAN_MAX << self._depth and self._depth < DEPTH_MAX:
            self._grow()
        buckets = self._buckets
        indexes = self._indexes(keys)
        put = mapbuckets.put
        for key, index in zip(keys, indexes, strict=True):
            bucket = buckets[index]
            if isinstance(bucket, Crowd):
                before = len(bucket)
                bucket.put(key, new_tail)
                self._count += len(bucket) - before
                continue
            size = len(bucket)
            buckets[index] = changed = put(bucket, key, new_tail)
            if len(changed) != size:
                self._count += 1
                if size == CROWD * ROW:
                    buckets[index] = Crowd.of(changed)
        if keys:
            touched = list(dict.fromkeys(indexes))
            self._set_roots(touched)
            self._rehash(np.array(touched, dtype=np.int64) + (1 << self._depth))

    def _set_roots(self, touched: Sequence[int]) -> None:
        depth, buckets, root = self._depth, self._buckets, mapbuckets.root
        place, mask = depth >> 3, 0x80 >> (depth & 7)
        roots: list[bytes] = []
        kinds = bytearray()
        for index in touched:
            bucket = buckets[index]
            if isinstance(bucket, Crowd):
                roots.append(bucket.root(depth))
                kinds.append(2)
                continue
            size = len(bucket)
            if size == ROW:
                roots.append(bucket[OUT:])
                kinds.append(1)
            elif size == 2 * ROW and (bucket[place] ^ bucket[ROW + place]) & mask:
                roots.append(sha256(b"\x03" + bucket[OUT:ROW] + bucket[ROW + OUT :]).digest())
                kinds.append(2)
            elif size:
                roots.append(root(bucket, 0, size, depth))
                kinds.append(2)
            else:
                roots.append(EMPTY)
                kinds.append(0)
        nodes = np.array(touched, dtype=np.int64) + (1 << self._depth)
        self._places[nodes >> 1, nodes & 1] = np.frombuffer(b"".join(roots), dtype=np.uint8).reshape(-1, 32)
        self._kinds[nodes] = np.frombuffer(kinds, dtype=np.uint8)

    def _rehash(self, nodes: NDArray[np.int64]) -> None:
        """Hash anew what stands above these bottom nodes, which are ascending and distinct."""
        for _ in range(self._depth):
            nodes = nodes >> 1
            if len(nodes) > 1:
                nodes = nodes[np.concatenate(([True], nodes[1:] != nodes[:-1]))]
            if len(nodes) <= FEW:
                for node in nodes.tolist():
                    self._rehash_node(node)
                continue
            for start in range(0, len(nodes), SLAB):
                self._rehash_level(nodes[start : start + SLAB])

    def _rehash_node(self, node: int) -> None:
        flat, kinds = self._flat, self._kinds
        start = (node >> 1) * PAIR + 1 + 32 * (node & 1)
        pair = node * PAIR
        left = int(kinds[2 * node])
        kind = min(2, left + int(kinds[2 * node + 1]))
        kinds[node] = kind
        if kind == 2:
            flat[start : start + 32] = sha256(flat[pair : pair + PAIR]).digest()
        else:
            child = pair + 1 if left or not kind else pair + 33
            flat[start : start + 32] = flat[child : child + 32]

    def _rehash_level(self, nodes: NDArray[np.int64]) -> None:
        places, kinds = self._places, self._kinds
        left = kinds[2 * nodes]
        kind = left + kinds[2 * nodes + 1]
        is_inner = kind >= 2
        inner = nodes[is_inner]
        if len(inner):
            blob = self._heap[inner].tobytes()
            hashed = b"".join([sha256(blob[at : at + PAIR]).digest() for at in range(0, len(blob), PAIR)])
            places[inner >> 1, inner & 1] = np.frombuffer(hashed, dtype=np.uint8).reshape(-1, 32)
        if len(inner) < len(nodes):
            # A subtree that holds one leaf is that leaf, at whatever depth it stands.
            lone = nodes[~is_inner]
            side = np.where(left[~is_inner] > 0, 0, 1)
            places[lone >> 1, lone & 1] = places[lone, side]
        kinds[nodes] = np.minimum(kind, 2)

    def _grow(self) -> None:
        # The levels above keep their hashes: the old bottom nodes are the roots of the split buckets.
        buckets: list[Bucket] = []
        for bucket in self._buckets:
            buckets += mapbuckets.split(bucket, self._depth)
        self._buckets = buckets
        self._reserve(self._depth + 1)
        for start in range(0, len(buckets), SLAB):
            self._set_roots(range(start, min(len(buckets), start + SLAB)))

    def _fill(self, rows: Sequence[bytes]) -> None:
        """Take whole buckets of new 72-byte rows, ascending; hashes above the buckets are left for later."""
        if not rows:
            return
        indexes = self._indexes([row[:32] for row in rows])
        leaves = [sha256(b"\x02" + row[:32] + sha256(b"\x04" + row[32:]).digest()).digest() for row in rows]
        blob = b"".join(chain.from_iterable(zip(rows, leaves, strict=True)))
        starts = [0, *(np.flatnonzero(np.diff(indexes)) + 1).tolist(), len(rows)]
        touched = [indexes[start] for start in starts[:-1]]
        for index, (start, end) in zip(touched, pairwise(starts), strict=True):
            bucket = blob[ROW * start : ROW * end]
            self._buckets[index] = Crowd.of(bucket) if end - start > CROWD else bucket
        self._count += len(rows)
        self._set_roots(touched)


def load(parts: Iterable[Sequence[bytes]], *, keys_max: int) -> ItemMap:
    """A map built from 72-byte rows, all hashes computed anew.

    Args:
        parts: lists of rows, ascending within and across the lists.
        keys_max: an upper bound of their number, which sets the depth once.
    """
    built = ItemMap()
    depth = 0
    while keys_max > MEAN_MAX << depth:
        depth += 1
    built._reserve(depth)
    built._buckets = [b""] * (1 << depth)
    held: list[bytes] = []
    for rows in parts:
        held += rows
        # The last bucket may go on in the next part.
        whole = len(held)
        last = built._index(held[-1]) if held else 0
        while whole and built._index(held[whole - 1]) == last:
            whole -= 1
        built._fill(held[:whole])
        del held[:whole]
    built._fill(held)
    built._rehash(np.arange(1 << depth, 2 << depth, dtype=np.int64))
    return built
