"""RFC 6962 / RFC 9162 Merkle trees with SHA-256: roots, proofs, and their checks."""

from collections.abc import Sequence
from hashlib import sha256

from core.errors import Rejected

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
SIZE_MAX = 2**63 - 1


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry's bytes. Source: RFC 9162, section 2.1.1."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node. Source: RFC 9162, section 2.1.1."""
    return sha256(b"\x01" + left + right).digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """The tree head over leaf hashes in order; of none, the hash of the empty string."""
    level = leaves
    count = len(level)
    if count == 0:
        return EMPTY_ROOT
    # A node without a neighbour goes up as it is: the left subtree of RFC 9162 is always the largest perfect one.
    while count > 1:
        above = [sha256(b"\x01" + level[place] + level[place + 1]).digest() for place in range(0, count - 1, 2)]
        if count & 1:
            above.append(level[-1])
        level, count = above, len(above)
    return level[0]


class Frontier:
    """The right edge of a growing tree: enough to append and to give the root.

    ``nodes`` are the roots of the perfect subtrees that the size decomposes into, largest first.
    """

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        if len(nodes) != size.bit_count():
            raise Rejected("A frontier holds one node for each set bit of its size.", code="bad_frontier")
        self.size = size
        self.nodes = list(nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash at the right."""
        nodes, size = self.nodes, self.size
        while size & 1:
            leaf = sha256(b"\x01" + nodes.pop() + leaf).digest()
            size >>= 1
        nodes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The tree head at the present size."""
        if not self.nodes:
            return EMPTY_ROOT
        root = self.nodes[-1]
        for node in reversed(self.nodes[:-1]):
            root = node_hash(node, root)
        return root


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The leaf ranges ``[start, end)`` whose subtree roots prove leaf ``index`` in ``size``, lowest first.

    Raises:
        Rejected: ``index`` is not below ``size``.
    """
    if not 0 <= index < size:
        raise Rejected(f"Leaf {index} is not in a tree of {size}.", code="bad_index")
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    ranges.reverse()
    return ranges


def consistency_ranges(size1: int, size2: int) -> list[tuple[int, int]]:
    """The leaf ranges whose subtree roots prove that ``size2`` extends ``size1``, lowest first.

    Source: RFC 9162, section 2.1.4.1.

    Raises:
        Rejected: ``size1`` is not between 1 and ``size2``.
    """
    if not 0 < size1 <= size2:
        raise Rejected(f"No consistency proof leads from {size1} to {size2}.", code="bad_size")
    ranges: list[tuple[int, int]] = []
    start, end, is_whole = 0, size2, True
    while size1 != end:
        middle = start + _split(end - start)
        if size1 <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, is_whole = middle, False
    if not is_whole:
        ranges.append((start, end))
    ranges.reverse()
    return ranges


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The sibling hashes from one leaf up to the root, lowest first.

    Args:
        leaves: leaf hashes in log order, 32 bytes each.
        index: position of the proven leaf, from 0.

    Raises:
        Rejected: ``index`` is not below ``len(leaves)``.

    Source: RFC 9162, section 2.1.3.1.
    """
    return [tree_root(leaves[start:end]) for start, end in inclusion_ranges(index, len(leaves))]


def consistency_proof(leaves: Sequence[bytes], size1: int) -> list[bytes]:
    """The hashes that prove the first ``size1`` leaves to be a prefix of ``leaves``.

    Raises:
        Rejected: ``size1`` is not between 1 and ``len(leaves)``.

    Source: RFC 9162, section 2.1.4.1.
    """
    return [tree_root(leaves[start:end]) for start, end in consistency_ranges(size1, len(leaves))]


def verify_inclusion(leaf_index: int, tree_size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Return if the leaf is at ``leaf_index`` of the tree of ``tree_size`` with ``root``.

    Raises:
        Rejected: ``bad_inclusion_proof``.

    Source: RFC 9162, section 2.1.3.2.
    """
    _check_hashes(leaf_hash, root, *proof)
    if not 0 <= leaf_index < tree_size <= SIZE_MAX:
        raise _bad_inclusion(f"leaf {leaf_index} is not in a tree of {tree_size}")
    fn, sn, current = leaf_index, tree_size - 1, leaf_hash
    for sibling in proof:
        if sn == 0:
            raise _bad_inclusion("the proof is too long")
        if fn & 1 or fn == sn:
            current = node_hash(sibling, current)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            current = node_hash(current, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise _bad_inclusion("the proof is too short")
    if current != root:
        raise _bad_inclusion("it leads to another root")


def verify_consistency(size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes) -> None:
    """Return if the tree (``size2``, ``root2``) extends the tree (``size1``, ``root1``).

    Equal sizes need equal roots and an empty proof. From the empty tree nothing can be shown, so ``size1`` 0 below
    ``size2`` is refused.

    Raises:
        Rejected: ``bad_consistency_proof``; ``bad_hash`` for a hash that is not 32 bytes.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 <= size1 <= size2 <= SIZE_MAX:
        raise _bad_consistency(f"{size2} leaves do not extend {size1}")
    if size1 == size2:
        if proof:
            raise _bad_consistency("equal sizes need no proof, so it must be empty")
        if root1 != root2:
            raise _bad_consistency("one size has two roots")
        return
    if size1 == 0:
        raise _bad_consistency("from an empty tree nothing can be shown")
    _check_hashes(root1, root2, *proof)
    if not proof:
        raise _bad_consistency("the proof is empty")
    path = list(proof)
    if size1 & (size1 - 1) == 0:
        path.insert(0, root1)
    fn, sn = size1 - 1, size2 - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    first = second = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise _bad_consistency("the proof is too long")
        if fn & 1 or fn == sn:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            second = node_hash(second, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise _bad_consistency("the proof is too short")
    if first != root1 or second != root2:
        raise _bad_consistency("it leads to another root")


def _split(width: int) -> int:
    return 1 << ((width - 1).bit_length() - 1)


def _check_hashes(*values: bytes) -> None:
    for value in values:
        if len(value) != HASH_BYTES:
            raise Rejected(f"A hash has 32 bytes, this one {len(value)}.", code="bad_hash")


def _bad_inclusion(why: str) -> Rejected:
    return Rejected(f"The inclusion proof fails: {why}.", code="bad_inclusion_proof")


def _bad_consistency(why: str) -> Rejected:
    return Rejected(f"The consistency proof fails: {why}.", code="bad_consistency_proof")
