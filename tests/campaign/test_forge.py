"""Forge fuzzes the checked-in artifacts and holds their invariants (C1, C2); and it can fail.

A small run here; with TRACEBOND_CAMPAIGN=1 10,000 fuzz runs a function and 256 x 500 calls an invariant.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from contracts import compiler

ROOT = Path(__file__).parents[2]
IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
RUNS = {
    "FOUNDRY_FUZZ_RUNS": "10000" if IS_CAMPAIGN else "200",
    "FOUNDRY_INVARIANT_RUNS": "256" if IS_CAMPAIGN else "24",
    "FOUNDRY_INVARIANT_DEPTH": "500" if IS_CAMPAIGN else "100",
}


def find_forge() -> Path:
    """The forge binary itself, as the npm package of this platform carries it."""
    for found in sorted((ROOT / "node_modules").glob("@foundry-rs/forge-*/bin/forge")):
        return found
    pytest.fail("This test needs forge: npm ci")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the forge project, in the same place relative to the artifacts and the compiler."""
    if not (ROOT / "node_modules" / "solc").is_dir():
        pytest.fail("This test needs the npm package solc: npm ci")
    top = tmp_path_factory.mktemp("forge")
    shutil.copytree(ROOT / "tests/campaign/forge", top / "tests/campaign/forge")
    shutil.copytree(compiler.ARTIFACTS, top / "contracts/artifacts")
    (top / "node_modules").symlink_to(ROOT / "node_modules")
    return top / "tests/campaign/forge"


def run(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(find_forge()), "test", "--root", str(project), *options],
        cwd=project,
        env={**os.environ, **RUNS, "FOUNDRY_DISABLE_NIGHTLY_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=7000 if IS_CAMPAIGN else 280,
    )


def test_forge_finds_no_violation(project: Path) -> None:
    done = run(project)

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "17 tests passed, 0 failed, 0 skipped" in done.stdout


@pytest.mark.parametrize(
    ("name", "rule", "bent", "expected"),
    [
        (
            "PledgeRegistry",
            'assert claimed <= capacity, "over capacity"',
            "pass",
            "invariant_live_claims_never_exceed_capacity",
        ),
        (
            "PledgeRegistry",
            'assert word & ADDRESS_MASK == convert(msg.sender, uint256), "not pledgee"',
            "pass",
            "invariant_no_move_did_what_it_may_not",
        ),
        (
            "TransparencyLog",
            "return sn == 0 and old == root1 and new == root2",
            "return sn == 0 and new == root2",
            "invariant_no_move_did_what_it_may_not",
        ),
    ],
)
def test_forge_finds_a_rule_that_was_taken_away(project: Path, name: str, rule: str, bent: str, expected: str) -> None:
    source = (compiler.SOURCES / f"{name}.vy").read_text()
    assert source.count(rule) == 1
    path = project.parents[2] / "contracts/artifacts" / f"{name}.json"
    good = path.read_bytes()
    path.write_text(json.dumps(compiler.compile_source(source.replace(rule, bent))))

    done = run(project, "--match-test", expected)
    path.write_bytes(good)

    assert done.returncode == 1
    assert f"{expected}()" in done.stdout.partition("Failing tests")[2]
