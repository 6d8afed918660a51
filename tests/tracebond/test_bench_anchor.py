"""The gas benchmark measures the real contract, and its baseline is the source beside it."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from contracts.compiler import compile_source
from core.merkle import verify_consistency
from tests.contracts.naive_merkle import root as tree_head
from tracebond.bench import anchor
from tracebond.bench.report import Report


def test_the_quick_benchmark_meets_its_targets_and_every_row_stands_beside_its_baselines() -> None:
    rows = anchor.run(True, lambda text: None)

    shown = Report("anchor", rows).as_json()["rows"]
    compared = [row for row in shown if row["name"].startswith(("anchor", "per event"))]
    assert len(compared) == 9
    assert all(row["value"] > 0 and row["ceiling"] > 0 and row["naive"] > 0 for row in compared)
    assert [row["name"] for row in shown if row["met"] is False] == []
    # A role check and two fresh slots cost more than a transfer, and less than an anchor that proves something.
    assert 21_000 < shown[-2]["value"] < min(row["value"] for row in compared if row["name"].startswith("anchor"))


@pytest.mark.unit
def test_the_baselines_artifact_is_what_its_source_compiles_to() -> None:
    folder = Path(anchor.__file__).parent

    made = {"name": "Baselines", **compile_source((folder / "baselines.vy").read_text())}

    assert json.loads((folder / "baselines.json").read_text()) == json.loads(json.dumps(made))


@pytest.mark.unit
def test_the_trees_of_the_benchmark_are_those_of_the_naive_recursion() -> None:
    tree = anchor.Tree(70)
    leaves = [sha256(b"\x00" + number.to_bytes(8, "big")).digest() for number in range(70)]

    for size1, size2 in [(1, 2), (7, 32), (32, 33), (63, 70), (64, 69)]:
        assert tree.root(0, size2) == tree_head(leaves[:size2])
        verify_consistency(size1, size2, tree.proof(size1, size2), tree_head(leaves[:size1]), tree_head(leaves[:size2]))


@pytest.mark.unit
def test_positions_are_random_but_the_same_on_every_run_and_hold_the_worst_shapes() -> None:
    found = anchor.positions(1_000, leaves=1_000_000, size=1_100_000, count=60)

    assert found == anchor.positions(1_000, leaves=1_000_000, size=1_100_000, count=60)
    assert all(900_000 <= start < end <= 1_100_000 and end - start == 1_000 for start, end in found)
    assert (2**20 - 1, 2**20 + 999) in found
