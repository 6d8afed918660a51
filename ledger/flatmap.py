"""The item map at speed: flat arrays in memory, equal to the plain reference in ``core.prefixmap``.

Keys stand in buckets by their leading bits; each bucket is one bytes object of sorted 104-byte rows ``key | count |
head | leaf node``. Over the buckets stands one implicit heap of inner hashes in a bytearray, updated level by level for
the touched buckets alone. When buckets come to hold more than two keys on average, their number doubles, which adds
one level at the bottom of the heap and leaves the others as they are.

Crafted identifiers can share long prefixes and crowd one bucket. A bucket of more than ``CROWD`` keys becomes a map of
its own over the bits below, so that its cost stays logarithmic.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

from core.errors import Broken
from core.prefixmap import EMPTY, HEAD_START, MapProof, bit, leaf_node, map_value

ROW = 104
CROWD = 64
# One pair of children as it is hashed: 0x03, left, right. Node n stands in pair n >> 1.
PAIR = 65
# Buckets hold one to two keys on average: below that memory grows, above it each change hashes more.
MEAN_MAX = 2
_OUT = 72
_BEFORE = 40
_NEW = bytes(8) + HEAD_START


NewTail = Callable[[bytes, bytes], bytes | None]


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
        self._heap = _pairs(1)
        # Per heap node: 0 holds no key, 1 one key (the node is that leaf), 2 more.
        self._kinds = bytearray(2)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def root(self) -> bytes:
        """The root over all keys; of none, 32 zero bytes."""
        return self._node(1)

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
        tails = {rows[start : start + 32]: rows[start + 32 : start + _OUT] for start in range(0, len(rows), _OUT)}

        def newer(key: bytes, old: bytes) -> bytes | None:
            tail = tails[key]
            return tail if tail[:8] > old[:8] else None

        self._change(sorted(tails), newer)

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
            siblings.append(self._node(node ^ 1))
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

    def _indexes(self, keys: Sequence[bytes]) -> list[int]:
        if self._offset:
            return [self._index(key) for key in keys]
        shift = 48 - self._depth
        return [int.from_bytes(key[:6]) >> shift for key in keys]

    def _node(self, node: int) -> bytes:
        start = (node >> 1) * PAIR + 1 + 32 * (node & 1)
        return bytes(self._heap[start : start + 32])

    def _change(self, keys: Sequence[bytes], new_tail: NewTail) -> None:
        """Give each key (ascending) its new ``count | head``; None leaves it as it is."""
        while self._count + len(keys) > MEAN_MAX << self._depth and self._can_grow():
            self._grow()
        indexes = self._indexes(keys)
        touched = list(dict.fromkeys(indexes))
        start = 0
        for index in touched:
            end = start + 1
            while end < len(keys) and indexes[end] == index:
                end += 1
            self._change_bucket(index, keys[start:end], new_tail)
            start = end
        if touched:
            self._rehash(touched)

    def _can_grow(self) -> bool:
        return self._offset + self._depth < 250 and self._depth < 40

    def _change_bucket(self, index: int, keys: Sequence[bytes], new_tail: NewTail) -> None:
        bucket = self._buckets[index]
        if isinstance(bucket, ItemMap):
            before = bucket._count
            bucket._change(keys, new_tail)
            self._count += bucket._count - before
            return
        held = {bucket[start : start + 32]: bucket[start : start + ROW] for start in range(0, len(bucket), ROW)}
        size = len(held)
        for key in keys:
            old = held.get(key)
            tail = new_tail(key, _NEW if old is None else old[32:72])
            if tail is not None:
                value = sha256(b"\x04" + tail).digest()
                held[key] = key + tail + sha256(b"\x02" + key + value).digest()
        added = len(held) - size
        self._count += added
        if len(held) > CROWD and self._can_grow():
            crowd = ItemMap(self._offset + self._depth)
            crowd._change(sorted(held), lambda key, _: held[key][32:72])
            self._buckets[index] = crowd
        elif added and len(held) > 1:
            self._buckets[index] = b"".join([held[key] for key in sorted(held)])
        else:
            self._buckets[index] = b"".join(held.values())

    def _rehash(self, touched: Sequence[int]) -> None:
        heap, kinds = self._heap, self._kinds
        base = 1 << self._depth
        self._rehash_bottom(touched)
        level = [base + index for index in touched]
        with memoryview(heap) as view:
            for _ in range(self._depth):
                level = list(dict.fromkeys([node >> 1 for node in level]))
                for node in level:
                    start = (node >> 1) * PAIR + 1 + 32 * (node & 1)
                    left = kinds[2 * node]
                    kind = left + kinds[2 * node + 1]
                    pair = node * PAIR
                    if kind >= 2:
                        heap[start : start + 32] = sha256(view[pair : pair + PAIR]).digest()
                        kinds[node] = 2
                    else:
                        # A subtree that holds one leaf is that leaf, at whatever depth it stands.
                        child = pair + 1 if left or not kind else pair + 33
                        heap[start : start + 32] = heap[child : child + 32]
                        kinds[node] = kind

    def _rehash_bottom(self, touched: Iterable[int]) -> None:
        heap, kinds, buckets = self._heap, self._kinds, self._buckets
        base, depth = 1 << self._depth, self._offset + self._depth
        for index in touched:
            node = base + index
            bucket = buckets[index]
            if isinstance(bucket, ItemMap):
                root, kinds[node] = bucket.root(), bucket._kinds[1]
            elif len(bucket) == ROW:
                root, kinds[node] = bucket[72:], 1
            else:
                root, kinds[node] = _bucket_root(bucket, depth), 2 if bucket else 0
            start = (node >> 1) * PAIR + 1 + 32 * (node & 1)
            heap[start : start + 32] = root

    def _grow(self) -> None:
        # The levels above keep their hashes: the old bottom nodes are the roots of the split buckets.
        depth = self._offset + self._depth
        place, mask = depth >> 3, 0x80 >> (depth & 7)
        buckets: list[bytes | ItemMap] = []
        for bucket in self._buckets:
            if isinstance(bucket, ItemMap):
                buckets += bucket._split()
            elif not bucket:
                buckets += (b"", b"")
            else:
                end = len(bucket)
                cut = 0
                while cut < end and not bucket[cut + place] & mask:
                    cut += ROW
                buckets += (bucket[:cut], bucket[cut:])
        self._buckets = buckets
        self._heap += _pairs(1 << self._depth)
        self._depth += 1
        self._kinds += bytearray(len(self._kinds))
        self._rehash_bottom(range(len(buckets)))

    def _split(self) -> list["bytes | ItemMap"]:
        halves: list[bytes | ItemMap] = []
        rows = list(self.rows())
        for half in _halves(rows, self._offset):
            if len(half) > CROWD:
                crowd = ItemMap(self._offset + 1)
                tails = {row[:32]: row[32:72] for row in half}
                crowd._change([row[:32] for row in half], _set_to(tails))
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
    while keys_max > MEAN_MAX << depth:
        depth += 1
    built._depth = depth
    built._buckets = [b""] * (1 << depth)
    built._heap = _pairs(1 << depth)
    built._kinds = bytearray(2 << depth)
    for rows in parts:
        tails = {row[:32]: row[32:] for row in rows}
        built._change(list(tails), _set_to(tails))
    return built


def value_of(found: tuple[int, bytes] | None) -> bytes | None:
    """The map value of a count and head."""
    return None if found is None else map_value(*found)


def naive(values: Mapping[bytes, tuple[int, bytes]]) -> dict[bytes, bytes]:
    """The values that ``core.prefixmap`` takes, for checks against the reference."""
    return {key: map_value(count, head) for key, (count, head) in values.items()}


def _set_to(tails: Mapping[bytes, bytes]) -> NewTail:
    return lambda key, _: tails[key]


def _pairs(count: int) -> bytearray:
    return bytearray((b"\x03" + bytes(64)) * count)


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
    if size == 2 * ROW:
        place, mask = depth >> 3, 0x80 >> (depth & 7)
        if (bucket[place] ^ bucket[ROW + place]) & mask:
            return sha256(b"\x03" + bucket[72:ROW] + bucket[ROW + 72 :]).digest()
    return _root([bucket[start : start + ROW] for start in range(0, size, ROW)], depth)


def _root(leaves: Sequence[bytes], depth: int) -> bytes:
    first = leaves[0]
    if len(leaves) == 1:
        return first[72:]
    # The first and the last of sorted keys differ earliest; the levels above hold an empty half each.
    fork = 256 - (int.from_bytes(first[:32]) ^ int.from_bytes(leaves[-1][:32])).bit_length()
    if len(leaves) == 2:
        node = sha256(b"\x03" + first[72:] + leaves[1][72:]).digest()
    else:
        left, right = _halves(leaves, fork)
        node = sha256(b"\x03" + _root(left, fork + 1) + _root(right, fork + 1)).digest()
    for level in range(fork - 1, depth - 1, -1):
        node = sha256(b"\x03" + EMPTY + node if bit(first, level) else b"\x03" + node + EMPTY).digest()
    return node


def _last(key: bytes, row: bytes | None, siblings: Sequence[bytes]) -> MapProof:
    if row is None or row[:32] == key:
        return MapProof(tuple(siblings))
    return MapProof(tuple(siblings), (row[:32], sha256(b"\x04" + row[32:72]).digest()))
