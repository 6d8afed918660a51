"""RFC 9162 trees: published vectors, and every small tree against the RFC's own recursion."""

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import merkle
from core.errors import Rejected
from tests.conformance_data import files, needs_data

pytestmark = pytest.mark.unit


def recursive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + recursive_root(leaves[:k]) + recursive_root(leaves[k:])).digest()


def subproof(m: int, leaves: list[bytes], is_whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 9162, section 2.1.4.1, word by word."""
    if m == len(leaves):
        return [] if is_whole else [recursive_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], is_whole), recursive_root(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), recursive_root(leaves[:k])]


LEAVES = [merkle.leaf_hash(bytes([number])) for number in range(64)]


def decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")


@needs_data
@pytest.mark.parametrize("path", files("merkle/inclusion", "**/*.json"), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_published_inclusion_vector_is_judged_as_published(path: Path) -> None:
    vector: dict[str, Any] = json.loads(path.read_text())
    proof = [decoded(node) for node in vector["proof"] or []]
    arguments = (vector["leafIdx"], vector["treeSize"], decoded(vector["leafHash"]), proof, decoded(vector["root"]))

    if vector["wantErr"]:
        with pytest.raises(Rejected):
            merkle.verify_inclusion(*arguments)
    else:
        merkle.verify_inclusion(*arguments)


@needs_data
@pytest.mark.parametrize("path", files("merkle/consistency", "**/*.json"), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_published_consistency_vector_is_judged_as_published(path: Path) -> None:
    vector: dict[str, Any] = json.loads(path.read_text())
    proof = [decoded(node) for node in vector["proof"] or []]
    arguments = (vector["size1"], vector["size2"], proof, decoded(vector["root1"]), decoded(vector["root2"]))

    if vector["wantErr"]:
        with pytest.raises(Rejected):
            merkle.verify_consistency(*arguments)
    else:
        merkle.verify_consistency(*arguments)


@pytest.mark.parametrize(
    ("size1", "size2", "root1", "root2", "proof", "is_good"),
    [
        (0, 0, b"don't care 1", b"don't care 1", [], True),
        (1, 1, b"don't care 2", b"don't care 2", [], True),
        (0, 1, b"don't care 1", b"don't care 2", [], False),
        (1, 0, LEAVES[0], LEAVES[1], [], False),
        (1, 1, LEAVES[0], LEAVES[1], [], False),
        (1, 1, LEAVES[0], LEAVES[0], [LEAVES[0]], False),
        (1, 2, LEAVES[0], LEAVES[1], [], False),
    ],
)
def test_consistency_of_edge_sizes(
    size1: int, size2: int, root1: bytes, root2: bytes, proof: list[bytes], is_good: bool
) -> None:
    if is_good:
        merkle.verify_consistency(size1, size2, proof, root1, root2)
    else:
        with pytest.raises(Rejected):
            merkle.verify_consistency(size1, size2, proof, root1, root2)


def test_root_of_every_small_tree_is_that_of_the_recursion() -> None:
    for size in range(65):
        assert merkle.tree_root(LEAVES[:size]) == recursive_root(LEAVES[:size])


def test_consistency_proof_of_every_pair_up_to_64_is_that_of_the_recursion() -> None:
    for size2 in range(1, 65):
        for size1 in range(1, size2 + 1):
            proof = merkle.consistency_proof(LEAVES[:size2], size1)

            assert proof == subproof(size1, LEAVES[:size2], True)
            merkle.verify_consistency(
                size1, size2, proof, recursive_root(LEAVES[:size1]), recursive_root(LEAVES[:size2])
            )


def test_inclusion_proof_of_every_leaf_verifies_only_at_its_own_place() -> None:
    for size in range(1, 34):
        root = recursive_root(LEAVES[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(LEAVES[:size], index)
            merkle.verify_inclusion(index, size, LEAVES[index], proof, root)
            for elsewhere in (index - 1, index + 1, size):
                with pytest.raises(Rejected):
                    merkle.verify_inclusion(elsewhere, size, LEAVES[index], proof, root)


@given(st.integers(1, 40), st.data())
def test_a_frontier_restored_from_its_nodes_goes_on_as_before(size: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, size))
    first = merkle.Frontier()
    for leaf in LEAVES[:cut]:
        first.append(leaf)

    restored = merkle.Frontier(first.size, first.nodes)
    for leaf in LEAVES[cut:size]:
        restored.append(leaf)

    assert restored.root() == recursive_root(LEAVES[:size])


def test_a_frontier_with_a_node_missing_is_refused() -> None:
    with pytest.raises(Rejected, match="bad_frontier"):
        merkle.Frontier(3, [LEAVES[0]])
