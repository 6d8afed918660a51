"""Vyper sources to artifacts, always the same bytes: ``python -m contracts.compiler [--check]``.

The compiler is a development dependency. The product loads the artifacts alone, and a test
compiles the sources again and compares.
"""

import argparse
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.errors import Broken, Rejected

VYPER_VERSION = "0.4.3"
# eth-tester, Anvil and the consortium clients of today all run Cancun.
EVM_VERSION = "cancun"
OPTIMIZE = "gas"

NAMES = ("TransparencyLog", "OrganisationRegistry", "PledgeRegistry")
SOURCES = Path(__file__).parent / "src"
ARTIFACTS = Path(__file__).parent / "artifacts"

Artifact = dict[str, Any]


def compile_source(text: str, *, experimental: bool = False) -> Artifact:
    """One contract compiled from its text.

    Args:
        text: the Vyper source.
        experimental: use the second code generator (Venom), for differential tests only.

    Returns:
        What an artifact file holds: ``abi``, ``bytecode`` (creation code, without constructor
        arguments), ``runtime_bytecode`` (code on chain, without the immutables that follow
        it), ``runtime_code_hash`` (keccak-256 of it), ``immutables`` (name, type and offset
        after the runtime code, in order), ``immutables_bytes``, ``method_identifiers``,
        ``storage_layout``, ``source_sha256`` and the compiler's settings.

    Raises:
        Rejected: the source does not compile.
        Broken: another compiler version than the pinned one is installed.
    """
    import vyper
    from eth_utils.crypto import keccak
    from vyper.compiler import compile_code
    from vyper.compiler.settings import OptimizationLevel, Settings
    from vyper.exceptions import VyperException

    if vyper.__version__.split("+")[0] != VYPER_VERSION:
        raise Broken(f"Vyper {VYPER_VERSION} is pinned, {vyper.__version__} is installed.")
    settings = Settings(
        evm_version=EVM_VERSION,
        optimize=OptimizationLevel.from_string(OPTIMIZE),
        experimental_codegen=experimental,
    )
    formats = ["abi", "bytecode", "bytecode_runtime", "method_identifiers", "layout"]
    try:
        output = compile_code(text, output_formats=formats, settings=settings)
    except VyperException as error:
        raise Rejected(f"The contract does not compile: {error}", code="bad_source") from error
    runtime = bytes.fromhex(output["bytecode_runtime"].removeprefix("0x"))
    immutables = [
        {"name": name, "type": entry["type"], "offset": entry["offset"], "length": entry["length"]}
        for name, entry in output["layout"].get("code_layout", {}).items()
    ]
    return {
        "compiler": {"name": "vyper", "version": VYPER_VERSION},
        "evm_version": EVM_VERSION,
        "optimize": OPTIMIZE,
        "source_sha256": sha256(text.encode()).hexdigest(),
        "abi": output["abi"],
        # Vyper writes numbers: a selector that begins with a zero lacks it.
        "method_identifiers": {
            signature: "0x" + selector.removeprefix("0x").zfill(8)
            for signature, selector in output["method_identifiers"].items()
        },
        "storage_layout": output["layout"].get("storage_layout", {}),
        "immutables": sorted(immutables, key=lambda entry: entry["offset"]),
        "immutables_bytes": sum(entry["length"] for entry in immutables),
        "runtime_code_hash": "0x" + keccak(runtime).hex(),
        "runtime_bytecode": "0x" + runtime.hex(),
        "bytecode": output["bytecode"],
    }


def build(name: str) -> bytes:
    """The bytes of one artifact file, compiled now.

    Args:
        name: one of ``NAMES``.
    """
    text = (SOURCES / f"{name}.vy").read_text(encoding="utf-8")
    artifact = {"name": name, **compile_source(text)}
    return (json.dumps(artifact, indent=1, sort_keys=True) + "\n").encode()


def load_artifact(name: str) -> Artifact:
    """A checked-in artifact; needs no compiler.

    Raises:
        Rejected: no artifact has this name.
        Broken: its file is not there.
    """
    if name not in NAMES:
        raise Rejected(f"There is no contract {name}.", code="unknown_contract")
    path = ARTIFACTS / f"{name}.json"
    try:
        artifact: Artifact = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Broken(f"{path.name} is missing: run python -m contracts.compiler.") from error
    return artifact


def stale_artifacts() -> list[str]:
    """The names of contracts whose checked-in artifact is not what the source compiles to."""
    stale = []
    for name in NAMES:
        path = ARTIFACTS / f"{name}.json"
        if not path.exists() or path.read_bytes() != build(name):
            stale.append(name)
    return stale


def main(arguments: list[str] | None = None) -> int:
    """Write all artifacts, or with ``--check`` compare them; 1 when one is stale."""
    parser = argparse.ArgumentParser(prog="contracts.compiler", description="Compile the contracts.")
    parser.add_argument("--check", action="store_true", help="compare with the files, write nothing")
    if parser.parse_args(arguments).check:
        stale = stale_artifacts()
        for name in stale:
            sys.stderr.write(f"{name}.json is stale: run python -m contracts.compiler\n")
        return 1 if stale else 0
    ARTIFACTS.mkdir(exist_ok=True)
    for name in NAMES:
        (ARTIFACTS / f"{name}.json").write_bytes(build(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
