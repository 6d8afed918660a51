"""The item map at speed: flat arrays in memory, equal to the plain reference in ``core.prefixmap``.

Keys stand in buckets by their leading bits; each bucket is one bytes object of sorted 104-byte rows ``key | count |
head | leaf node``. Over the buckets stands one implicit heap of inner hashes in a bytearray, updated level by level for
the touched buckets alone. When buckets come to hold more than four keys on average, their number doubles, which adds
one level at the bottom of the heap and leaves the others as they are.

Crafted identifiers can share long prefixes and crowd one bucket. A bucket of more than ``CROWD`` keys becomes a map of
its own over the bits below, so that its cost stays logarithmic.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

from core.errors import Broken
from core.prefixmap import EMPTY, HEAD_START, MapProof, bit, inner_node, leaf_node, map_value

ROW = 104
CROWD = 64
_OUT = 72
_BEFORE = 40
_NEW = bytes(8) + HEAD_START


class ItemMap:
    """The map of one log: key -> (count, rolling head), with its Merkle root.

    Not safe to share between threads while it is being changed.

    Args:
        offset: number of leading bits that all keys share (crowded buckets; 0 for a whole map).
    """

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset
        self._depth = 0
        self._buckets: list[bytes | ItemMap] = [b""]
        self._heap = bytearray(64)
        # Per heap node: 0 holds no key, 1 one key (the node is that leaf), 2 more.
        self._kinds = bytearray(2)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def root(self) -> bytes:
        """The root over all keys; of none, 32 zero bytes."""
        return bytes(self._heap[32:64])

    def get(self, key: bytes) -> tuple[int, bytes] | None:
        """The count and head of a key, or None when it has no step."""
        bucket = self._buckets[self._index(key)]
        if isinstance(bucket, ItemMap):
            return bucket.get(key)
        position = _find(bucket, key)
        if position < 0:
            return None
        return int.from_bytes(bucket[position + 32 : position + 40]), bucket[position + 40 : position + 72]

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
        for key in sorted(groups):
            old = self._tail(key)
            before.append(old)
            head = old[8:]
            suffixes = groups[key]
            for suffix in suffixes:
                head = sha256(b"\x05" + head + suffix).digest()
            out.append(key + (int.from_bytes(old[:8]) + len(suffixes)).to_bytes(8) + head)
        self._put(out)
        return b"".join(out), b"".join(before)

    def merge(self, rows: bytes) -> None:
        """Set keys to what newer 72-byte rows say; a row whose count is not larger changes nothing."""
        newer = []
        for start in range(0, len(rows), _OUT):
            row = rows[start : start + _OUT]
            if row[32:40] > self._tail(row[:32])[:8]:
                newer.append(row)
        self._put(sorted(newer))

    def rows(self) -> Iterator[bytes]:
        """All 72-byte rows in ascending order of key."""
        for bucket in self._buckets:
            if isinstance(bucket, ItemMap):
                yield from bucket.rows()
            else:
                for start in range(0, len(bucket), ROW):
                    yield bucket[start : start + _OUT]

    def chunk(self, number: int, bits: int) -> bytes:
        """The 72-byte rows of the keys whose leading ``bits`` bits are ``number``, ascending."""
        if self._depth < bits:
            first = number >> (bits - self._depth)
            last = first + 1
        else:
            first, last = number << (self._depth - bits), (number + 1) << (self._depth - bits)
        parts = []
        for bucket in self._buckets[first:last]:
            if isinstance(bucket, ItemMap):
                parts += list(bucket.rows())
            else:
                parts += [bucket[start : start + _OUT] for start in range(0, len(bucket), ROW)]
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
            beside = (node ^ 1) * 32
            siblings.append(bytes(self._heap[beside : beside + 32]))
        bucket = self._buckets[index]
        if isinstance(bucket, ItemMap):
            inner = bucket.prove(key)
            return MapProof((*siblings, *inner.siblings), inner.other)
        leaves = [bucket[start : start + ROW] for start in range(0, len(bucket), ROW)]
        depth = self._offset + self._depth
        while len(leaves) > 1:
            left, right = _halves(leaves, depth)
            leaves, others = (right, left) if bit(key, depth) else (left, right)
            depth += 1
            siblings.append(_bucket_root(b"".join(others), depth))
        return _last(key, leaves[0] if leaves else None, siblings)

    def _ending(self, node: int, level: int, key: bytes, siblings: list[bytes]) -> MapProof:
        if self._kinds[node] == 0:
            return MapProof(tuple(siblings))
        while level < self._depth:
            node *= 2
            level += 1
            if self._kinds[node] == 0:
                node += 1
        bucket = self._buckets[node - (1 << self._depth)]
        if isinstance(bucket, ItemMap):
            raise Broken("A crowded bucket cannot hold one key.")
        return _last(key, bucket, siblings)

    def _index(self, key: bytes) -> int:
        start = self._offset >> 3
        window = int.from_bytes(key[start : start + 6].ljust(6, b"\0"))
        return window >> (48 - (self._offset & 7) - self._depth) & ((1 << self._depth) - 1)

    def _tail(self, key: bytes) -> bytes:
        bucket = self._buckets[self._index(key)]
        if isinstance(bucket, ItemMap):
            return bucket._tail(key)
        position = _find(bucket, key)
        return _NEW if position < 0 else bucket[position + 32 : position + 72]

    def _put(self, rows: Sequence[bytes]) -> None:
        if not rows:
            return
        while self._count + len(rows) > 4 << self._depth and self._offset + self._depth < 250 and self._depth < 40:
            self._grow()
        touched: list[int] = []
        groups: list[list[bytes]] = []
        last = -1
        for row in rows:
            index = self._index(row)
            if index != last:
                touched.append(index)
                groups.append([])
                last = index
            key = row[:32]
            value = sha256(b"\x04" + row[32:]).digest()
            groups[-1].append(row + sha256(b"\x02" + key + value).digest())
        for index, group in zip(touched, groups, strict=True):
            self._put_bucket(index, group)
        self._rehash(touched)

    def _put_bucket(self, index: int, group: list[bytes]) -> None:
        bucket = self._buckets[index]
        if isinstance(bucket, ItemMap):
            before = len(bucket)
            bucket._put([row[:_OUT] for row in group])
            self._count += len(bucket) - before
            return
        if not bucket:
            added = len(group)
            merged = group
        else:
            found = {bucket[start : start + 32]: bucket[start : start + ROW] for start in range(0, len(bucket), ROW)}
            before = len(found)
            for row in group:
                found[row[:32]] = row
            added = len(found) - before
            merged = [found[key] for key in sorted(found)] if added else list(found.values())
        self._count += added
        if len(merged) > CROWD and self._offset + self._depth < 250:
            crowd = ItemMap(self._offset + self._depth)
            crowd._put([row[:_OUT] for row in merged])
            self._buckets[index] = crowd
        else:
            self._buckets[index] = b"".join(merged)

    def _rehash(self, touched: Sequence[int]) -> None:
        heap, kinds = self._heap, self._kinds
        base = 1 << self._depth
        level = [base + index for index in touched]
        depth = self._offset + self._depth
        for node in level:
            bucket = self._buckets[node - base]
            if isinstance(bucket, ItemMap):
                heap[node * 32 : node * 32 + 32] = bucket._heap[32:64]
                kinds[node] = bucket._kinds[1]
            else:
                size = len(bucket)
                heap[node * 32 : node * 32 + 32] = bucket[72:] if size == ROW else _bucket_root(bucket, depth)
                kinds[node] = 0 if not size else 1 if size == ROW else 2
        for _ in range(self._depth):
            level = list(dict.fromkeys([node >> 1 for node in level]))
            for node in level:
                kind = kinds[2 * node] + kinds[2 * node + 1]
                if kind >= 2:
                    start = node * 64
                    heap[node * 32 : node * 32 + 32] = sha256(b"\x03" + heap[start : start + 64]).digest()
                    kinds[node] = 2
                else:
                    # A subtree that holds one leaf is that leaf, at whatever depth it stands.
                    child = 2 * node + (1 if kinds[2 * node + 1] else 0)
                    heap[node * 32 : node * 32 + 32] = heap[child * 32 : child * 32 + 32]
                    kinds[node] = kind

    def _grow(self) -> None:
        depth = self._offset + self._depth
        buckets: list[bytes | ItemMap] = []
        for bucket in self._buckets:
            if isinstance(bucket, ItemMap):
                buckets += bucket._split()
            else:
                left, right = _halves([bucket[start : start + ROW] for start in range(0, len(bucket), ROW)], depth)
                buckets += [b"".join(left), b"".join(right)]
        self._buckets = buckets
        self._depth += 1
        self._heap += bytearray(len(self._heap))
        self._kinds += bytearray(len(self._kinds))
        self._rehash_bottom()

    def _rehash_bottom(self) -> None:
        # The levels above keep their hashes: the old bottom nodes are the roots of the split buckets.
        heap, kinds = self._heap, self._kinds
        base, depth = 1 << self._depth, self._offset + self._depth
        for index, bucket in enumerate(self._buckets):
            node = base + index
            if isinstance(bucket, ItemMap):
                heap[node * 32 : node * 32 + 32] = bucket._heap[32:64]
                kinds[node] = bucket._kinds[1]
            elif bucket:
                size = len(bucket)
                heap[node * 32 : node * 32 + 32] = bucket[72:] if size == ROW else _bucket_root(bucket, depth)
                kinds[node] = 1 if size == ROW else 2

    def _split(self) -> list["bytes | ItemMap"]:
        halves: list[bytes | ItemMap] = []
        rows = list(self.rows())
        for half in _halves(rows, self._offset):
            if len(half) > CROWD:
                crowd = ItemMap(self._offset + 1)
                crowd._put(half)
                halves.append(crowd)
            else:
                halves.append(b"".join(row + leaf_node(row[:32], sha256(b"\x04" + row[32:]).digest()) for row in half))
        return halves


def load(parts: Iterable[Sequence[bytes]], *, keys_max: int) -> ItemMap:
    """A map built from 72-byte rows, all hashes computed anew.

    Args:
        parts: lists of rows, ascending within and across the lists.
        keys_max: an upper bound of their number, which sets the depth once.
    """
    built = ItemMap()
    depth = 0
    while keys_max > 4 << depth:
        depth += 1
    built._depth = depth
    built._buckets = [b""] * (1 << depth)
    built._heap = bytearray(64 << depth)
    built._kinds = bytearray(2 << depth)
    for rows in parts:
        built._put(rows)
    return built


def value_of(found: tuple[int, bytes] | None) -> bytes | None:
    """The map value of a count and head."""
    return None if found is None else map_value(*found)


def naive(values: Mapping[bytes, tuple[int, bytes]]) -> dict[bytes, bytes]:
    """The values that ``core.prefixmap`` takes, for checks against the reference."""
    return {key: map_value(count, head) for key, (count, head) in values.items()}


def _find(bucket: bytes, key: bytes) -> int:
    for start in range(0, len(bucket), ROW):
        if bucket.startswith(key, start):
            return start
    return -1


def _halves(leaves: Sequence[bytes], depth: int) -> tuple[list[bytes], list[bytes]]:
    place, mask = depth >> 3, 0x80 >> (depth & 7)
    left = [leaf for leaf in leaves if not leaf[place] & mask]
    return left, list(leaves[len(left) :])


def _bucket_root(bucket: bytes, depth: int) -> bytes:
    size = len(bucket)
    if size == ROW:
        return bucket[72:]
    if not size:
        return EMPTY
    return _root([bucket[start : start + ROW] for start in range(0, size, ROW)], depth)


def _root(leaves: Sequence[bytes], depth: int) -> bytes:
    if len(leaves) == 1:
        return leaves[0][72:]
    if not leaves:
        return EMPTY
    left, right = _halves(leaves, depth)
    return inner_node(_root(left, depth + 1), _root(right, depth + 1))


def _last(key: bytes, row: bytes | None, siblings: Sequence[bytes]) -> MapProof:
    if row is None or row[:32] == key:
        return MapProof(tuple(siblings))
    return MapProof(tuple(siblings), (row[:32], sha256(b"\x04" + row[32:72]).digest()))
