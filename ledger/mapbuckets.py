"""The buckets of the item map: a few keys as one bytes object of sorted rows, or, when crowded, a trie of them.

A row is ``key | u64 count | head | leaf node``, 104 bytes; what is stored and exchanged are its first 72 bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from core.prefixmap import EMPTY, HEAD_START, MapProof, bit

ROW = 104
OUT = 72
CROWD = 64
_NEW = bytes(8) + HEAD_START

NewTail = Callable[[bytes, bytes], bytes | None]


class Fork:
    """A node of a crowded bucket under which keys differ first at bit ``depth``.

    Attributes:
        first: some key below, as an integer: all below share its leading ``depth`` bits.
        node: the hash of the subtree at ``depth``.
    """

    __slots__ = ("depth", "first", "left", "node", "right")

    def __init__(self, depth: int, first: int, left: "Branch", right: "Branch") -> None:
        self.depth, self.first, self.left, self.right = depth, first, left, right
        self.node = sha256(b"\x03" + _hash_at(left, depth + 1) + _hash_at(right, depth + 1)).digest()


Branch = bytes | Fork


class Crowd:
    """A bucket of many keys that share a long prefix (crafted identifiers): a path-compressed trie.

    A change costs the forks on its way, however long the shared prefixes are, and 256 hashes at most.
    """

    def __init__(self, top: Branch, count: int) -> None:
        self._top = top
        self._count = count

    @classmethod
    def of(cls, bucket: bytes) -> "Crowd":
        """The crowd of a bucket's rows, at least one."""
        rows = [bucket[at : at + ROW] for at in range(0, len(bucket), ROW)]
        made = cls(rows[0], 1)
        for row in rows[1:]:
            made._top = _insert(made._top, row)
        made._count = len(rows)
        return made

    def __len__(self) -> int:
        return self._count

    def put(self, key: bytes, new_tail: NewTail) -> None:
        """Give the key its new ``count | head``; None leaves it as it is."""
        old = self.find(key)
        tail = new_tail(key, _NEW if old is None else old[32:OUT])
        if tail is not None:
            self._top = _insert(self._top, full_row(key + tail))
            self._count += old is None

    def find(self, key: bytes) -> bytes | None:
        """The key's row, None when it is not here."""
        branch, number = self._top, int.from_bytes(key)
        while isinstance(branch, Fork):
            branch = branch.right if number >> (255 - branch.depth) & 1 else branch.left
        return branch if branch.startswith(key) else None

    def rows(self) -> Iterator[bytes]:
        """All rows in ascending order of key."""
        waiting: list[Branch] = [self._top]
        while waiting:
            branch = waiting.pop()
            if isinstance(branch, Fork):
                waiting += (branch.right, branch.left)
            else:
                yield branch

    def root(self, depth: int) -> bytes:
        """The root of the subtree at ``depth``."""
        return _hash_at(self._top, depth)

    def split(self, depth: int) -> tuple["bytes | Crowd", "bytes | Crowd"]:
        """The two buckets by the bit at ``depth``."""
        top = self._top
        if isinstance(top, Fork) and top.depth == depth:
            return _bucket_of(top.left), _bucket_of(top.right)
        first = top.first if isinstance(top, Fork) else int.from_bytes(top[:32])
        return (b"", self) if first >> (255 - depth) & 1 else (self, b"")

    def prove(self, key: bytes, depth: int) -> MapProof:
        """The way from the subtree at ``depth`` to the key, or to what shows its absence."""
        siblings: list[bytes] = []
        branch, number = self._top, int.from_bytes(key)
        while isinstance(branch, Fork):
            parts = 256 - (number ^ branch.first).bit_length()
            siblings += [EMPTY] * (min(parts, branch.depth) - depth)
            if parts < branch.depth:
                siblings.append(_hash_at(branch, parts + 1))
                return MapProof(tuple(siblings))
            depth = branch.depth + 1
            is_right = number >> (255 - branch.depth) & 1
            siblings.append(_hash_at(branch.left if is_right else branch.right, depth))
            branch = branch.right if is_right else branch.left
        return ending(key, branch, siblings)


Bucket = bytes | Crowd


def put(bucket: bytes, key: bytes, new_tail: NewTail) -> bytes:
    """The bucket with the key's new row in its place; the same bucket where ``new_tail`` gives None."""
    at, size = 0, len(bucket)
    while at < size and bucket[at : at + 32] < key:
        at += ROW
    end = at + ROW if bucket.startswith(key, at) else at
    tail = new_tail(key, bucket[at + 32 : at + OUT] if end > at else _NEW)
    if tail is None:
        return bucket
    row = key + tail + sha256(b"\x02" + key + sha256(b"\x04" + tail).digest()).digest()
    return row if end - at == size else bucket[:at] + row + bucket[end:]


def full_row(row: bytes) -> bytes:
    """The 104-byte row of a 72-byte one."""
    return row + sha256(b"\x02" + row[:32] + sha256(b"\x04" + row[32:]).digest()).digest()


def find(bucket: Bucket, key: bytes) -> bytes | None:
    """The key's row in a bucket, None when it is not there."""
    if isinstance(bucket, Crowd):
        return bucket.find(key)
    for at in range(0, len(bucket), ROW):
        if bucket.startswith(key, at):
            return bucket[at : at + ROW]
    return None


def rows_of(bucket: Bucket) -> list[bytes]:
    """The rows of a bucket in ascending order of key."""
    if isinstance(bucket, Crowd):
        return list(bucket.rows())
    return [bucket[at : at + ROW] for at in range(0, len(bucket), ROW)]


def split(bucket: Bucket, depth: int) -> tuple[Bucket, Bucket]:
    """The two buckets by the bit at ``depth``."""
    if isinstance(bucket, Crowd):
        return bucket.split(depth)
    place, mask = depth >> 3, 0x80 >> (depth & 7)
    cut, end = 0, len(bucket)
    while cut < end and not bucket[cut + place] & mask:
        cut += ROW
    return bucket[:cut], bucket[cut:]


def root(bucket: bytes, start: int, end: int, depth: int) -> bytes:
    """The root of the subtree at ``depth`` that holds the rows ``[start, end)`` of a bucket, at least one."""
    if end - start == ROW:
        return bucket[start + OUT : end]
    first = int.from_bytes(bucket[start : start + 32])
    # The first and the last of sorted keys differ earliest; the levels above hold an empty half each.
    fork = 256 - (first ^ int.from_bytes(bucket[end - ROW : end - OUT])).bit_length()
    if end - start == 2 * ROW:
        node = sha256(b"\x03" + bucket[start + OUT : start + ROW] + bucket[end - 32 : end]).digest()
    else:
        place, mask = fork >> 3, 0x80 >> (fork & 7)
        cut = start + ROW
        while not bucket[cut + place] & mask:
            cut += ROW
        node = sha256(b"\x03" + root(bucket, start, cut, fork + 1) + root(bucket, cut, end, fork + 1)).digest()
    return node if fork == depth else _lifted(node, first, fork, depth)


def prove(bucket: Bucket, key: bytes, depth: int) -> MapProof:
    """The way from the root of a bucket at ``depth`` to the key, or to what shows its absence."""
    if isinstance(bucket, Crowd):
        return bucket.prove(key, depth)
    siblings: list[bytes] = []
    while len(bucket) > ROW:
        left, right = split(bucket, depth)
        bucket, other = (right, left) if bit(key, depth) else (left, right)
        depth += 1
        siblings.append(root(other, 0, len(other), depth) if isinstance(other, bytes) and other else EMPTY)
        if not isinstance(bucket, bytes):
            return bucket.prove(key, depth)
    return ending(key, bucket or None, siblings)


def ending(key: bytes, row: bytes | None, siblings: Sequence[bytes]) -> MapProof:
    """The proof that ends at a row (the key's own, or another that shares its way) or at an empty subtree."""
    if row is None or row[:32] == key:
        return MapProof(tuple(siblings))
    return MapProof(tuple(siblings), (row[:32], sha256(b"\x04" + row[32:OUT]).digest()))


def _insert(top: Branch, row: bytes) -> Branch:
    number = int.from_bytes(row[:32])
    way: list[tuple[Fork, int]] = []
    branch = top
    while isinstance(branch, Fork) and number >> (256 - branch.depth) == branch.first >> (256 - branch.depth):
        is_right = number >> (255 - branch.depth) & 1
        way.append((branch, is_right))
        branch = branch.right if is_right else branch.left
    there = branch.first if isinstance(branch, Fork) else int.from_bytes(branch[:32])
    made: Branch = row
    if there != number:
        depth = 256 - (there ^ number).bit_length()
        is_right = number >> (255 - depth) & 1
        made = Fork(depth, number, *((branch, row) if is_right else (row, branch)))
    for fork, is_right in reversed(way):
        made = Fork(fork.depth, number, *((fork.left, made) if is_right else (made, fork.right)))
    return made


def _bucket_of(branch: Branch) -> Bucket:
    rows = list(Crowd(branch, 0).rows())
    return Crowd(branch, len(rows)) if len(rows) > CROWD else b"".join(rows)


def _hash_at(branch: Branch, depth: int) -> bytes:
    if isinstance(branch, Fork):
        return _lifted(branch.node, branch.first, branch.depth, depth)
    return branch[OUT:]


def _lifted(node: bytes, first: int, depth: int, top: int) -> bytes:
    """A subtree of several keys at ``depth`` as it looks from ``top``: every level between has an empty half."""
    for level in range(depth - 1, top - 1, -1):
        is_right = first >> (255 - level) & 1
        node = sha256(b"\x03" + EMPTY + node if is_right else b"\x03" + node + EMPTY).digest()
    return node
