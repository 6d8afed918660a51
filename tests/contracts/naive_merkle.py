"""RFC 9162 by plain recursion over leaf lists: slow, and nothing in common with the code under test."""

from hashlib import sha256


def leaves(count: int) -> list[bytes]:
    """Different leaf hashes."""
    return [sha256(b"\x00" + n.to_bytes(8, "big")).digest() for n in range(count)]


def _split(count: int) -> int:
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root(hashes: list[bytes]) -> bytes:
    """MTH of section 2.1.1, over leaf hashes."""
    if len(hashes) == 1:
        return hashes[0]
    k = _split(len(hashes))
    return node(root(hashes[:k]), root(hashes[k:]))


def path(index: int, hashes: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.3.1."""
    if len(hashes) == 1:
        return []
    k = _split(len(hashes))
    if index < k:
        return [*path(index, hashes[:k]), root(hashes[k:])]
    return [*path(index - k, hashes[k:]), root(hashes[:k])]


def proof(size1: int, hashes: list[bytes]) -> list[bytes]:
    """PROOF of section 2.1.4.1."""
    return _subproof(size1, hashes, True)


def _subproof(size1: int, hashes: list[bytes], is_whole: bool) -> list[bytes]:
    if size1 == len(hashes):
        return [] if is_whole else [root(hashes)]
    k = _split(len(hashes))
    if size1 <= k:
        return [*_subproof(size1, hashes[:k], is_whole), root(hashes[k:])]
    return [*_subproof(size1 - k, hashes[k:], False), root(hashes[:k])]


def is_consistent(size1: int, size2: int, nodes: list[bytes], root1: bytes, root2: bytes) -> bool:
    """SUBPROOF read backwards: both roots are rebuilt from the proof, which must be used up."""
    if not 0 < size1 <= size2:
        return False
    left = list(nodes)
    try:
        old, new = rebuild(size1, size2, left, root1, True)
    except IndexError:
        return False
    return not left and old == root1 and new == root2


def rebuild(size1: int, size2: int, nodes: list[bytes], root1: bytes, is_whole: bool) -> tuple[bytes, bytes]:
    """Both roots out of a proof; takes the nodes it uses, ``IndexError`` when there are too few."""
    if size1 == size2:
        whole = root1 if is_whole else nodes.pop(0)
        return whole, whole
    k = _split(size2)
    if size1 <= k:
        old, new = rebuild(size1, k, nodes, root1, is_whole)
        return old, node(new, nodes.pop(0))
    old, new = rebuild(size1 - k, size2 - k, nodes, root1, False)
    sibling = nodes.pop(0)
    return node(sibling, old), node(sibling, new)


def is_included(index: int, size: int, leaf: bytes, nodes: list[bytes], top: bytes) -> bool:
    """PATH read backwards: the root is rebuilt from the proof, which must be used up."""
    if not 0 <= index < size:
        return False
    left = list(nodes)
    try:
        found = _climb(index, size, leaf, left)
    except IndexError:
        return False
    return not left and found == top


def _climb(index: int, size: int, leaf: bytes, nodes: list[bytes]) -> bytes:
    if size == 1:
        return leaf
    k = _split(size)
    if index < k:
        below = _climb(index, k, leaf, nodes)
        return node(below, nodes.pop(0))
    below = _climb(index - k, size - k, leaf, nodes)
    return node(nodes.pop(0), below)
