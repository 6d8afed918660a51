"""halmos proves, for all arguments and senders, that logs only grow and claims keep to capacity (C4).

Part of ``make soak`` alone: halmos brings a solver of its own and is installed into an environment apart.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import compiler
from tests.campaign.test_forge import ROOT, find_forge

HALMOS = "halmos==0.3.3"
PROOFS = 12


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has halmos: TRACEBOND_HALMOS names one, else it is made."""
    named = os.environ.get("TRACEBOND_HALMOS")
    if named:
        return Path(named)
    folder = tmp_path_factory.mktemp("halmos")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    made = folder / "bin" / "python"
    subprocess.run([str(made), "-m", "pip", "install", "-q", HALMOS], check=True, timeout=600)
    return made


def prove(python: Path, top: Path, bent: dict[str, compiler.Artifact]) -> str:
    """The output of halmos over the artifacts, with some of them replaced."""
    project = top / "tests/campaign/halmos"
    shutil.copytree(ROOT / "tests/campaign/halmos", project)
    (top / "node_modules").symlink_to(ROOT / "node_modules")
    functions = ""
    for name in compiler.NAMES:
        code = bent.get(name, compiler.load_artifact(name))["bytecode"].removeprefix("0x")
        head = f"function {name[0].lower()}{name[1:]}() internal pure returns (bytes memory)"
        functions += f'    {head} {{\n        return hex"{code}";\n    }}\n'
    source = "// SPDX-License-Identifier: Apache-2.0\npragma solidity ^0.8.24;\n\nlibrary Artifacts {\n"
    (project / "test" / "Artifacts.sol").write_text(source + functions + "}\n")
    done = subprocess.run(
        [str(python), "run_halmos.py", "--root", ".", "--storage-layout", "generic", "--loop", "4"],
        cwd=project,
        env={**os.environ, "PATH": f"{find_forge().parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    return re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)


def test_halmos_proves_every_property(python: Path, tmp_path: Path) -> None:
    output = prove(python, tmp_path, {})

    assert output.count("[PASS] check_") == PROOFS, output[-3000:]
    assert not re.search(r"\[(FAIL|ERROR|TIMEOUT)\]", output)
    # No path was cut short: a loop beyond the bound would make a proof mean less than it says.
    assert "loop-bound" not in output


def test_halmos_finds_rules_that_were_taken_away(python: Path, tmp_path: Path) -> None:
    rules = {
        "PledgeRegistry": 'assert claimed <= capacity, "over capacity"',
        "TransparencyLog": 'assert size > prev_size, "size must grow"',
    }
    bent = {}
    for name, rule in rules.items():
        source = (compiler.SOURCES / f"{name}.vy").read_text()
        assert source.count(rule) == 1
        bent[name] = json.loads(json.dumps(compiler.compile_source(source.replace(rule, "pass"))))

    output = prove(python, tmp_path, bent)

    assert "[FAIL] check_lots_are_never_claimed_beyond_capacity" in output
    assert "[FAIL] check_no_anchor_changes_an_anchored_root_0" in output
