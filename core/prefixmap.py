"""The item map: a binary Merkle prefix tree over keys, and proofs of what a key holds or that it is absent.

Each key holds a count and a rolling head over its steps, so that one map root fixes, for every key at once, exactly
which entries of the log concern it. This module is the plain reference; ``ledger.itemmap`` keeps the map at speed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from core.errors import Rejected

EMPTY = bytes(32)
HEAD_START = bytes(32)
KINDS = ("item", "device", "key", "org")
KEY_BITS = 256
_STARTS = {kind: b"tracebond/" + kind.encode() + b"/1\x00" for kind in KINDS}


def map_key(kind: str, identifier: str) -> bytes:
    """The 32-byte map key of an identifier.

    Args:
        kind: item, device, key or org.
        identifier: canonical GS1 Digital Link, or for ``key`` the RFC 7638 thumbprint text.

    Raises:
        Rejected: ``kind`` is none of the four.
    """
    start = _STARTS.get(kind)
    if start is None:
        raise Rejected(f"There is no map key of kind {kind!r}.", code="bad_kind")
    return sha256(start + identifier.encode("utf-8")).digest()


def step_head(head: bytes, leaf_index: int, event_number: int, leaf_hash: bytes) -> bytes:
    """The rolling head after one more (leaf, event) that concerns the key."""
    return sha256(b"\x05" + head + leaf_index.to_bytes(8) + event_number.to_bytes(4) + leaf_hash).digest()


def map_value(count: int, head: bytes) -> bytes:
    """The value that a leaf node binds: how many steps, and their rolling head."""
    return sha256(b"\x04" + count.to_bytes(8) + head).digest()


def leaf_node(key: bytes, value: bytes) -> bytes:
    """The hash of a subtree that holds one key, at whatever depth it stands."""
    return sha256(b"\x02" + key + value).digest()


def inner_node(left: bytes, right: bytes) -> bytes:
    """The hash of a subtree that holds at least two keys."""
    return sha256(b"\x03" + left + right).digest()


@dataclass(frozen=True)
class MapProof:
    """The way from the map root to one key.

    Attributes:
        siblings: hashes of the subtrees beside the way, top first; an empty subtree is 32 zero bytes.
        other: for an absent key whose place is taken by another leaf: that leaf's key and value.
    """

    siblings: tuple[bytes, ...]
    other: tuple[bytes, bytes] | None = None


def map_root(values: Mapping[bytes, bytes]) -> bytes:
    """The root over all keys and values; of none, 32 zero bytes."""
    return _subtree(sorted(values.items()), 0)


def prove(values: Mapping[bytes, bytes], key: bytes) -> MapProof:
    """The proof that ``key`` holds its value, or that it is absent."""
    entries: Sequence[tuple[bytes, bytes]] = sorted(values.items())
    siblings: list[bytes] = []
    depth = 0
    while len(entries) > 1:
        left, right = _halves(entries, depth)
        entries, beside = (right, left) if bit(key, depth) else (left, right)
        siblings.append(_subtree(beside, depth + 1))
        depth += 1
    if not entries or entries[0][0] == key:
        return MapProof(tuple(siblings))
    return MapProof(tuple(siblings), entries[0])


def verify_map(key: bytes, value: bytes | None, proof: MapProof, root: bytes) -> None:
    """Return if the map with ``root`` holds ``value`` under ``key``; ``value`` None means that the key is absent.

    Raises:
        Rejected: ``bad_map_proof``.
    """
    depth = len(proof.siblings)
    if len(key) != 32 or depth > KEY_BITS or any(len(sibling) != 32 for sibling in proof.siblings):
        raise _bad("a hash has the wrong length or the way is too long")
    if value is not None:
        if proof.other is not None:
            raise _bad("a proof of presence names another leaf")
        current = leaf_node(key, value)
    elif proof.other is None:
        current = EMPTY
    else:
        other_key, other_value = proof.other
        if len(other_key) != 32 or len(other_value) != 32 or other_key == key:
            raise _bad("the other leaf is not another leaf")
        if any(bit(key, level) != bit(other_key, level) for level in range(depth)):
            raise _bad("the other leaf does not stand on the key's way")
        current = leaf_node(other_key, other_value)
    if current == EMPTY and depth and proof.siblings[-1] == EMPTY:
        raise _bad("two empty halves are one empty subtree")
    for level in range(depth - 1, -1, -1):
        sibling = proof.siblings[level]
        current = inner_node(sibling, current) if bit(key, level) else inner_node(current, sibling)
    if current != root:
        raise _bad("it leads to another root")


def bit(key: bytes, depth: int) -> int:
    """The bit of ``key`` that decides at ``depth``, the most significant bit first."""
    return key[depth >> 3] >> (7 - (depth & 7)) & 1


def _subtree(entries: Sequence[tuple[bytes, bytes]], depth: int) -> bytes:
    if not entries:
        return EMPTY
    if len(entries) == 1:
        return leaf_node(*entries[0])
    left, right = _halves(entries, depth)
    return inner_node(_subtree(left, depth + 1), _subtree(right, depth + 1))


def _halves(
    entries: Sequence[tuple[bytes, bytes]], depth: int
) -> tuple[Sequence[tuple[bytes, bytes]], Sequence[tuple[bytes, bytes]]]:
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if bit(entries[middle][0], depth):
            high = middle
        else:
            low = middle + 1
    return entries[:low], entries[low:]


def _bad(why: str) -> Rejected:
    return Rejected(f"The map proof fails: {why}.", code="bad_map_proof")
