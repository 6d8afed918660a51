"""The contract's verifiers against other people's vectors and against a naive recursion."""

import json
import os
import random
from base64 import b64decode
from typing import Any

import pytest

from tests.conformance_data import files, needs_data
from tests.contracts import naive_merkle as naive
from tests.contracts.harness import Reverted, rolled_back
from tests.contracts.world import ADMIN, NO_LOG, PUBLISHER, World, h
from tests.vectors.test_merkle_vectors import in_python, probes

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
PROOF_MAX = 64


def _loaded(kind: str) -> list[tuple[str, dict[str, Any]]]:
    found = files("merkle", f"{kind}/**/*.json")
    return [(f"{path.parent.name}/{path.stem}", json.loads(path.read_text())) for path in found]


def _encodable(*hashes: bytes, proof: list[bytes]) -> bool:
    """Whether the ABI has words for it; what it cannot even be asked is refused."""
    return len(proof) <= PROOF_MAX and all(len(value) == 32 for value in (*hashes, *proof))


@needs_data
def test_consistency_vectors_of_certificate_transparency(world: World) -> None:
    wrong, cases = [], _loaded("consistency")
    for name, case in cases:
        root1, root2 = b64decode(case["root1"]), b64decode(case["root2"])
        proof = [b64decode(node) for node in case["proof"] or []]

        accepted = _encodable(root1, root2, proof=proof) and world.log.verify_consistency(
            case["size1"], case["size2"], proof, root1, root2
        )

        if accepted is case["wantErr"]:
            wrong.append(name)
    assert len(cases) >= 40
    assert wrong == []


@needs_data
def test_consistency_vectors_through_anchor(world: World) -> None:
    """The same files through the call that counts: anchor the first root, then the second."""
    wrong = []
    for number, (name, case) in enumerate(_loaded("consistency")):
        root1, root2 = b64decode(case["root1"]), b64decode(case["root2"])
        proof = [b64decode(node) for node in case["proof"] or []]
        if case["size1"] == case["size2"] or not _encodable(root1, root2, proof=proof):
            continue
        with rolled_back(world.node):
            world.log.open_log(h(f"log {number}"), h("key"), NO_LOG, sender=ADMIN)
            try:
                world.log.anchor(0, 0, case["size1"], root1, [], sender=PUBLISHER)
                world.log.anchor(0, case["size1"], case["size2"], root2, proof, sender=PUBLISHER)
                accepted = True
            except Reverted:
                accepted = False
        if accepted is case["wantErr"]:
            wrong.append(name)
    assert wrong == []


@needs_data
def test_inclusion_vectors_of_certificate_transparency(world: World) -> None:
    wrong, cases = [], _loaded("inclusion")
    for number, (name, case) in enumerate(cases):
        root, leaf = b64decode(case["root"]), b64decode(case["leafHash"])
        proof = [b64decode(node) for node in case["proof"] or []]

        # check_inclusion takes no root: the vector's root is anchored first, as a log of its own.
        accepted = False
        if _encodable(root, leaf, proof=proof):
            with rolled_back(world.node):
                world.log.open_log(h(f"log {number}"), h("key"), NO_LOG, sender=ADMIN)
                try:
                    world.log.anchor(0, 0, case["treeSize"], root, [], sender=PUBLISHER)
                    accepted = world.log.check_inclusion(0, case["treeSize"], case["leafIdx"], leaf, proof)
                except Reverted:
                    accepted = False

        if accepted is case["wantErr"]:
            wrong.append(name)
    assert len(cases) >= 40
    assert wrong == []


@needs_data
def test_vectors_of_equal_sizes_are_consistent_as_they_say_and_never_anchored_twice(world: World) -> None:
    """Equal sizes are no growth: what the view tells is the vector's verdict, the call that counts refuses them all."""
    cases = [(name, case) for name, case in _loaded("consistency") if case["size1"] == case["size2"] > 0]
    world.log.open_log(h("equal"), h("key"), NO_LOG, sender=ADMIN)
    world.log.anchor(0, 0, 1, h("first"), [], sender=PUBLISHER)
    for name, case in cases:
        root1, root2 = b64decode(case["root1"]), b64decode(case["root2"])
        proof = [b64decode(node) for node in case["proof"] or []]
        if not _encodable(root1, root2, proof=proof):
            assert case["wantErr"], name
            continue
        found = world.log.verify_consistency(case["size1"], case["size2"], proof, root1, root2)
        assert found is not case["wantErr"], name
    assert cases
    with pytest.raises(Reverted):
        world.log.anchor(0, 1, 1, h("first"), [], sender=PUBLISHER)


def test_the_shared_probes_of_empty_trees_single_leaves_and_borders_agree_with_the_contract(world: World) -> None:
    """The contract knows no empty tree and no root but 32 bytes; of all else it says what both verifiers say."""
    asked = 0
    for case in probes():
        sizes = [case[name] for name in ("index", "size", "size1", "size2") if name in case]
        hashes = [case[name] for name in ("leaf", "root", "root1", "root2") if name in case]
        if not all(0 <= size < 2**64 for size in sizes) or not _encodable(*hashes, proof=case["proof"]):
            continue
        asked += 1
        if case["kind"] == "inclusion":
            with rolled_back(world.node):
                world.log.open_log(h(f"probe {asked}"), h("key"), NO_LOG, sender=ADMIN)
                if case["size"]:
                    world.log.anchor(0, 0, case["size"], case["root"], [], sender=PUBLISHER)
                found = world.log.check_inclusion(0, case["size"], case["index"], case["leaf"], case["proof"])
        else:
            found = world.log.verify_consistency(*(case[n] for n in ("size1", "size2", "proof", "root1", "root2")))
        is_empty = case["kind"] == "consistency" and case["size1"] == 0
        assert found is (in_python(case) == "ok" and not is_empty), case
    assert asked >= 15


def test_proofs_at_the_borders_of_tiles_agree_with_the_naive_recursion(world: World) -> None:
    """A tile holds 256 hashes: sizes just below, at and above one and two tiles, anchored one after the other."""
    sizes = [1, 255, 256, 257, 511, 512, 513]
    leaves = naive.leaves(sizes[-1])
    roots = {size: naive.root(leaves[:size]) for size in sizes}
    world.log.open_log(h("tiles"), h("key"), NO_LOG, sender=ADMIN)
    for size1, size2 in zip([0, *sizes], sizes, strict=False):
        proof = naive.proof(size1, leaves[:size2]) if size1 else []
        if size1:
            for bad in _variants(proof, random.Random(size2))[1:]:
                if bad != proof:
                    assert not world.log.verify_consistency(size1, size2, bad, roots[size1], roots[size2])
        world.log.anchor(0, size1, size2, roots[size2], proof, sender=PUBLISHER)
    for size in sizes:
        for index in sorted({0, 254, 255, 256, 510, 511, size - 1} & set(range(size))):
            path = naive.path(index, leaves[:size])
            assert world.log.check_inclusion(0, size, index, leaves[index], path)
            assert not world.log.check_inclusion(0, size, index, leaves[index - 1 if index else 1], path)


def _variants(proof: list[bytes], chance: random.Random) -> list[list[bytes]]:
    noise = chance.randbytes(32)
    changed = [proof, [*proof, noise], [noise, *proof], proof[1:], proof[:-1], proof[::-1]]
    if proof:
        place = chance.randrange(len(proof))
        flipped = bytes([proof[place][0] ^ 1]) + proof[place][1:]
        changed.append([*proof[:place], flipped, *proof[place + 1 :]])
    return changed


def test_consistency_agrees_with_a_naive_recursion_for_all_small_trees(world: World) -> None:
    """Every 0 <= m <= n <= 24 with its good proof; each with one of its damaged forms (all in a campaign)."""
    largest, chance = (64 if IS_CAMPAIGN else 24), random.Random(20260801)
    leaves = naive.leaves(largest)
    roots = [h("empty"), *[naive.root(leaves[:size]) for size in range(1, largest + 1)]]
    count = 0
    for size2 in range(largest + 1):
        for size1 in range(size2 + 1):
            good = naive.proof(size1, leaves[:size2]) if size1 else []
            bad = _variants(good, chance)[1:]
            for proof in [good, *(bad if IS_CAMPAIGN else [chance.choice(bad)])]:
                expected = naive.is_consistent(size1, size2, proof, roots[size1], roots[size2])

                found = world.log.verify_consistency(size1, size2, proof, roots[size1], roots[size2])

                assert found is expected, (size1, size2, proof)
                count += expected
            assert size1 == 0 or naive.is_consistent(size1, size2, good, roots[size1], roots[size2])
    assert count >= largest * (largest + 1) // 2


def test_consistency_with_other_sizes_and_roots_agrees_with_a_naive_recursion(world: World) -> None:
    chance = random.Random(20260802)
    leaves = naive.leaves(40)
    accepted = 0
    for _ in range(2000 if IS_CAMPAIGN else 150):
        size2 = chance.randrange(1, 41)
        size1 = chance.randrange(1, size2 + 1)
        proof = naive.proof(size1, leaves[:size2])
        claimed1 = max(0, size1 + chance.choice([-1, 0, 0, 0, 1, 8]))
        claimed2 = max(0, size2 + chance.choice([-1, 0, 0, 1, 8, 2**63]))
        root1, root2 = naive.root(leaves[:size1]), naive.root(leaves[:size2])
        if chance.random() < 0.1:
            root1, root2 = root2, root1
        expected = claimed2 < 2**63 and naive.is_consistent(claimed1, claimed2, proof, root1, root2)

        found = world.log.verify_consistency(claimed1, claimed2, proof, root1, root2)

        assert found is expected, (size1, size2, claimed1, claimed2)
        accepted += found
    assert accepted > 10


def test_consistency_of_the_largest_trees(world: World) -> None:
    """Sizes near 2^63, whose leaves nobody has: chosen nodes are right for the roots that they rebuild."""
    largest = 2**63 - 1
    nodes = [h(f"node {number}") for number in range(PROOF_MAX)]
    for size1, size2 in [(1, largest), (2**62, largest), (largest - 1, largest), (2**62 + 1, largest)]:
        left = list(nodes)
        old, new = naive.rebuild(size1, size2, left, h("old"), True)
        proof = nodes[: len(nodes) - len(left)]

        assert len(proof) in (1, 62, 63, 64)
        assert world.log.verify_consistency(size1, size2, proof, old, new)
        assert not world.log.verify_consistency(size1, size2 + 1, proof, old, new)
        for bad in _variants(proof, random.Random(7))[1:]:
            if len(bad) > PROOF_MAX:
                continue
            expected = naive.is_consistent(size1, size2, bad, old, new)
            assert world.log.verify_consistency(size1, size2, bad, old, new) is expected


def test_inclusion_agrees_with_a_naive_recursion_for_all_small_trees(world: World) -> None:
    largest, chance = (40 if IS_CAMPAIGN else 14), random.Random(20260803)
    leaves = naive.leaves(largest)
    world.log.open_log(h("origin"), h("key"), NO_LOG, sender=ADMIN)
    before = 0
    for size in range(1, largest + 1):
        top = naive.root(leaves[:size])
        step = naive.proof(before, leaves[:size]) if before else []
        world.log.anchor(0, before, size, top, step, sender=PUBLISHER)
        before = size
    for size in range(1, largest + 1):
        top = naive.root(leaves[:size])
        for index in range(size):
            good = naive.path(index, leaves[:size])
            assert world.log.check_inclusion(0, size, index, leaves[index], good)
            proof = chance.choice(_variants(good, chance)[1:])
            place = chance.choice([index, (index + 1) % size, size, index ^ 1, 2**64 - 1])
            expected = naive.is_included(place, size, leaves[index], proof, top)
            assert world.log.check_inclusion(0, size, place, leaves[index], proof) is expected


@pytest.mark.parametrize("size", [0, 3, 9])
def test_inclusion_at_a_size_that_was_never_anchored_is_false(world: World, size: int) -> None:
    leaves = naive.leaves(9)
    world.log.open_log(h("origin"), h("key"), NO_LOG, sender=ADMIN)
    world.log.anchor(0, 0, 7, naive.root(leaves[:7]), [], sender=PUBLISHER)
    proof = naive.path(0, leaves[:size]) if size else []

    assert not world.log.check_inclusion(0, size, 0, leaves[0], proof)
    assert not world.log.check_inclusion(1, 7, 0, leaves[0], naive.path(0, leaves[:7]))
    assert world.log.check_inclusion(0, 7, 0, leaves[0], naive.path(0, leaves[:7]))
