"""RFC 9162 proofs in Python and in the browser's module: other people's vectors, small trees whole, damaged proofs.

The contract reads the same vectors in tests/contracts/test_transparency_vectors.py.
"""

import json
import random
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import merkle
from core.errors import Rejected
from tests.conformance_data import files, needs_data
from tests.contracts import naive_merkle as naive

SCRIPT = Path(__file__).parent / "merkle_cases.mjs"
LARGEST = 64
LEAVES = naive.leaves(LARGEST)
EMPTY = b64decode("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
ROOTS = [EMPTY, *[naive.root(LEAVES[:size]) for size in range(1, LARGEST + 1)]]
MEMBERS = {
    "inclusion": {"leafIdx", "treeSize", "root", "leafHash", "proof", "desc", "wantErr"},
    "consistency": {"size1", "size2", "root1", "root2", "proof", "desc", "wantErr"},
}


def inclusion(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> dict[str, Any]:
    return {"kind": "inclusion", "index": index, "size": size, "leaf": leaf, "proof": proof, "root": root}


def consistency(size1: int, size2: int, proof: list[bytes], root1: bytes, root2: bytes) -> dict[str, Any]:
    return {"kind": "consistency", "size1": size1, "size2": size2, "proof": proof, "root1": root1, "root2": root2}


def in_python(case: dict[str, Any]) -> str:
    given = {name: value for name, value in case.items() if name != "kind"}
    try:
        if case["kind"] == "inclusion":
            merkle.verify_inclusion(given["index"], given["size"], given["leaf"], given["proof"], given["root"])
        else:
            merkle.verify_consistency(**given)
    except Rejected as error:
        return error.code
    return "ok"


def in_node(cases: list[dict[str, Any]]) -> list[str]:
    lines = [json.dumps(case, default=lambda value: b64encode(value).decode()) for case in map(_texts, cases)]
    done = subprocess.run(
        ["node", str(SCRIPT)], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout.split("\n")[:-1]


def _texts(case: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if type(value) is int else value for name, value in case.items()}


def vectors(kind: str) -> list[tuple[str, dict[str, Any], bool]]:
    """The files of transparency-dev/merkle; a proof may be null, a root or a hash empty or of another length."""
    found = []
    for path in files("merkle", f"{kind}/**/*.json"):
        value = json.loads(path.read_text())
        assert set(value) == MEMBERS[kind], path
        proof = [b64decode(node) for node in value["proof"] or []]
        if kind == "inclusion":
            leaf, root = b64decode(value["leafHash"] or ""), b64decode(value["root"] or "")
            case = inclusion(value["leafIdx"], value["treeSize"], leaf, proof, root)
        else:
            root1, root2 = b64decode(value["root1"] or ""), b64decode(value["root2"] or "")
            case = consistency(value["size1"], value["size2"], proof, root1, root2)
        found.append((f"{path.parent.name}/{path.stem}", case, value["wantErr"]))
    return found


@needs_data
@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_other_peoples_vectors_agree_in_python_and_in_the_browsers_module(kind: str) -> None:
    cases = vectors(kind)

    in_browser = in_node([case for _, case, _ in cases])

    assert len(cases) >= 40
    for (name, case, is_wrong), told in zip(cases, in_browser, strict=True):
        assert (in_python(case) != "ok") is is_wrong, name
        assert told == in_python(case), name


def probes() -> list[dict[str, Any]]:
    """The kinds of vectors that transparency-dev/merkle makes by rule, for empty trees, single leaves and borders."""
    one, two = ROOTS[1], ROOTS[2]
    return [
        inclusion(0, 0, EMPTY, [], EMPTY), inclusion(0, 1, one, [], one), inclusion(1, 1, one, [], one),
        inclusion(0, 1, one, [one], one), inclusion(2**64 - 1, 1, one, [], one), inclusion(0, 2**64, one, [], one),
        inclusion(-1, 1, one, [], one), inclusion(0, 1, b"", [], one), inclusion(0, 1, one, [], b""),
        inclusion(0, 2, LEAVES[0], [b""], two), inclusion(0, 2, LEAVES[0], [LEAVES[1] + b"\0"], two),
        consistency(0, 0, [], EMPTY, EMPTY), consistency(0, 0, [], b"", b""), consistency(0, 0, [one], EMPTY, EMPTY),
        consistency(0, 1, [], EMPTY, one), consistency(0, 1, [one], EMPTY, one), consistency(1, 1, [], one, one),
        consistency(1, 1, [], one, two), consistency(1, 1, [one], one, one), consistency(1, 0, [], one, EMPTY),
        consistency(2, 1, [], two, one), consistency(1, 2, [], one, two), consistency(1, 2, [LEAVES[1]], one, two),
        consistency(1, 2, [LEAVES[1]], one, b""), consistency(1, 2, [b""], one, two),
        consistency(2**63 - 1, 2**63, [], one, one), consistency(2**64, 2**64, [], one, one),
        consistency(-1, 0, [], one, one), consistency(1, 2**64 - 1, [LEAVES[1]], one, two),
    ]  # fmt: skip


def test_empty_trees_single_leaves_and_borders_agree_in_both() -> None:
    cases = probes()

    assert in_node(cases) == [in_python(case) for case in cases]
    accepted = [case for case in cases if in_python(case) == "ok"]
    # One leaf in its own tree; equal trees, also empty ones and with other spellings of the root; one leaf more.
    assert [(c["kind"], c.get("size", c.get("size2"))) for c in accepted] == [
        ("inclusion", 1), ("consistency", 0), ("consistency", 0), ("consistency", 1), ("consistency", 2),
    ]  # fmt: skip


def damaged(proof: list[bytes], chance: random.Random) -> list[bytes]:
    noise = chance.randbytes(32)
    forms = [[*proof, noise], [noise, *proof], proof[1:], proof[:-1], proof[::-1]]
    if proof:
        place = chance.randrange(len(proof))
        forms.append([*proof[:place], bytes([proof[place][0] ^ 1]) + proof[place][1:], *proof[place + 1 :]])
    return chance.choice(forms)


def test_all_consistency_proofs_up_to_64_leaves_agree_with_a_naive_recursion() -> None:
    chance, cases, expected = random.Random(20261125), [], []
    for size2 in range(1, LARGEST + 1):
        for size1 in range(1, size2 + 1):
            good = naive.proof(size1, LEAVES[:size2])
            assert merkle.consistency_proof(LEAVES[:size2], size1) == good
            bad = damaged(good, chance)
            for proof in (good, bad):
                cases.append(consistency(size1, size2, proof, ROOTS[size1], ROOTS[size2]))
                expected.append(naive.is_consistent(size1, size2, proof, ROOTS[size1], ROOTS[size2]))
    assert sum(expected) >= LARGEST * (LARGEST + 1) // 2

    assert [in_python(case) == "ok" for case in cases] == expected
    assert in_node(cases) == [in_python(case) for case in cases]


def test_all_inclusion_proofs_up_to_64_leaves_agree_with_a_naive_recursion() -> None:
    chance, cases, expected = random.Random(20261126), [], []
    for size in range(1, LARGEST + 1):
        for index in range(size):
            good = naive.path(index, LEAVES[:size])
            assert merkle.inclusion_proof(LEAVES[:size], index) == good
            bad, place = damaged(good, chance), chance.choice([index, index ^ 1, size, (index + 1) % size])
            for at, proof in ((index, good), (place, bad), (place, good)):
                cases.append(inclusion(at, size, LEAVES[index], proof, ROOTS[size]))
                expected.append(naive.is_included(at, size, LEAVES[index], proof, ROOTS[size]))

    assert [in_python(case) == "ok" for case in cases] == expected
    assert in_node(cases) == [in_python(case) for case in cases]


@pytest.mark.unit
@settings(max_examples=300, deadline=None)
@given(size1=st.integers(0, 70), size2=st.integers(0, 70), claimed=st.integers(-1, 80), seed=st.integers(0, 2**32))
def test_proofs_for_other_sizes_agree_with_a_naive_recursion(size1: int, size2: int, claimed: int, seed: int) -> None:
    chance = random.Random(seed)
    leaves = naive.leaves(70)
    first, second = sorted((max(size1, 1), max(size2, 1)))
    proof = naive.proof(first, leaves[:second])
    if chance.random() < 0.5:
        proof = damaged(proof, chance)
    roots = [naive.root(leaves[:first]), naive.root(leaves[:second])]
    chance.shuffle(roots)

    told = in_python(consistency(first, claimed, proof, *roots))
    path = naive.path(first - 1, leaves[:second])
    whole, leaf = naive.root(leaves[:second]), leaves[first - 1]
    included = in_python(inclusion(first - 1, claimed, leaf, path, whole))

    assert (told == "ok") is naive.is_consistent(first, claimed, proof, *roots)
    assert (included == "ok") is naive.is_included(
        first - 1, claimed, leaves[first - 1], path, roots_at(leaves, second)
    )


def roots_at(leaves: list[bytes], size: int) -> bytes:
    return naive.root(leaves[:size])
