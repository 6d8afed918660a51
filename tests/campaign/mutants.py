"""Mutants of the contracts: each one rule taken away or bent; the contract tests must notice (C5).

    python -m tests.campaign.mutants [--only NAME] [--every N] [--json FILE]

Every ``assert`` is dropped and every comparison of sizes is shifted by one, in a copy of the
source; the copy is compiled and the unit tests run against it on Anvil. A mutant that no test
notices is printed; those known to change nothing are explained in ``EQUIVALENT``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contracts import compiler
from core.errors import Rejected

ROOT = Path(__file__).parents[2]
TESTS = {
    "TransparencyLog": ["transparency", "transparency_freeze", "transparency_vectors", "transparency_machine"],
    "OrganisationRegistry": ["organisation"],
    "PledgeRegistry": [
        "pledge_receipts",
        "pledge_split",
        "pledge_pledge",
        "pledge_hold",
        "pledge_machine",
    ],
}
SHIFTS = [(" <= ", " < "), (" < ", " <= "), (" >= ", " > "), (" > ", " >= ")]
# Mutants that change no answer, by the text of their line, and why.
EQUIVALENT: dict[str, str] = {}


@dataclass(frozen=True)
class Mutant:
    contract: str
    line: int
    what: str
    before: str
    text: str


def _statement_end(lines: list[str], start: int) -> int:
    """The line after a statement that may run over several lines in brackets."""
    depth = 0
    for at in range(start, len(lines)):
        depth += sum(lines[at].count(c) for c in "([") - sum(lines[at].count(c) for c in ")]")
        if depth <= 0:
            return at + 1
    return len(lines)


def mutants(contract: str) -> Iterator[Mutant]:
    """All mutants of one contract, in the order of its lines."""
    lines = (compiler.SOURCES / f"{contract}.vy").read_text().splitlines()
    for number, line in enumerate(lines):
        indent = line[: len(line) - len(line.lstrip())]
        if line.strip().startswith("assert "):
            end = _statement_end(lines, number)
            text = [*lines[:number], f"{indent}pass", *lines[end:]]
            yield Mutant(contract, number + 1, "dropped", line.strip(), "\n".join(text) + "\n")
        if not re.match(r"\s*(assert|if|elif|return) ", line):
            continue
        for before, after in SHIFTS:
            if before in line:
                text = [*lines[:number], line.replace(before, after, 1), *lines[number + 1 :]]
                what = f"{before.strip()} for {after.strip()}"
                yield Mutant(contract, number + 1, what, line.strip(), "\n".join(text) + "\n")


def is_noticed(mutant: Mutant) -> str | None:
    """The first test that fails for it, ``compiler`` when it is no contract, None when it passes all."""
    try:
        artifact = {"name": mutant.contract, **compiler.compile_source(mutant.text)}
    except Rejected:
        return "compiler"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{mutant.contract}.json").write_text(json.dumps(artifact))
        files = [f"tests/contracts/test_{name}.py" for name in [*TESTS[mutant.contract], "roles"]]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "--no-header",
                "-k",
                "anvil",
                "-p",
                "no:cacheprovider",
                *files,
            ],
            cwd=ROOT,
            env={**os.environ, "TRACEBOND_TEST_ARTIFACTS": folder},
            capture_output=True,
            text=True,
            timeout=600,
        )
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
    return failed.group(1) if failed else f"pytest ended with {done.returncode}"


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen mutants; 1 when one survives unexplained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=compiler.NAMES, help="one contract")
    parser.add_argument("--every", type=int, default=1, help="each n-th mutant alone")
    parser.add_argument("--json", type=Path, help="write the result here too")
    options = parser.parse_args(arguments)
    chosen = [m for name in compiler.NAMES if options.only in (None, name) for m in mutants(name)]
    rows, survivors = [], 0
    for mutant in chosen[:: options.every]:
        found = is_noticed(mutant)
        explained = EQUIVALENT.get(mutant.before) if found is None else None
        survivors += found is None and explained is None
        verdict = found or explained or "SURVIVED"
        sys.stdout.write(f"{mutant.contract}:{mutant.line} {mutant.what}: {mutant.before}\n    {verdict}" + "\n")
        sys.stdout.flush()
        rows.append({"contract": mutant.contract, "line": mutant.line, "what": mutant.what, "noticed_by": found})
    sys.stdout.write(f"{len(rows)} mutants, {survivors} survived unexplained\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
