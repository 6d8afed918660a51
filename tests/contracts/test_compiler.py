"""The artifacts: rebuilt bit for bit, the same from both code generators, small enough to deploy."""

import json
import re
from pathlib import Path

import pytest
from eth_utils.abi import function_abi_to_4byte_selector
from eth_utils.crypto import keccak
from vyper.compiler import compile_code

from contracts import compiler
from core.errors import Rejected
from tests.contracts.harness import ADDRESSES, EthTesterNode, Node
from tests.contracts.world import (
    ADMIN,
    CUSTODIAN,
    FIRST_BANK,
    MAKER,
    NO_LOG,
    OWNER,
    PUBLISHER,
    h,
    make_world,
    number,
)

# EIP-170.
CODE_BYTES_MAX = 24_576


@pytest.mark.parametrize("name", compiler.NAMES)
def test_the_checked_in_artifact_is_what_the_source_compiles_to(name: str) -> None:
    assert (compiler.ARTIFACTS / f"{name}.json").read_bytes() == compiler.build(name)


def test_the_command_writes_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "ARTIFACTS", tmp_path / "artifacts")
    monkeypatch.setattr(compiler, "NAMES", ("OrganisationRegistry",))
    assert compiler.main(["--check"]) == 1
    assert compiler.main([]) == 0
    assert compiler.main(["--check"]) == 0

    path = tmp_path / "artifacts" / "OrganisationRegistry.json"
    path.write_bytes(path.read_bytes().replace(b'"cancun"', b'"paris"'))

    assert compiler.main(["--check"]) == 1
    assert compiler.stale_artifacts() == ["OrganisationRegistry"]


def test_a_wrong_source_and_an_unknown_contract_are_refused() -> None:
    with pytest.raises(Rejected) as caught:
        compiler.compile_source("@external\ndef broken( -> uint256:\n    pass\n")
    assert caught.value.code == "bad_source"
    with pytest.raises(Rejected) as caught:
        compiler.load_artifact("../PledgeRegistry")
    assert caught.value.code == "unknown_contract"


@pytest.mark.parametrize("name", compiler.NAMES)
def test_the_description_fits_the_code(name: str) -> None:
    artifact = compiler.load_artifact(name)
    runtime = bytes.fromhex(artifact["runtime_bytecode"][2:])

    assert artifact["compiler"] == {"name": "vyper", "version": "0.4.3"}
    assert artifact["runtime_code_hash"] == "0x" + keccak(runtime).hex()
    assert runtime in bytes.fromhex(artifact["bytecode"][2:])
    assert len(runtime) + artifact["immutables_bytes"] <= CODE_BYTES_MAX
    assert [entry["offset"] for entry in artifact["immutables"]] == list(range(0, artifact["immutables_bytes"], 32))


@pytest.mark.parametrize("name", compiler.NAMES)
def test_method_identifiers_are_selectors_without_a_clash(name: str) -> None:
    artifact = compiler.load_artifact(name)
    functions = [entry for entry in artifact["abi"] if entry["type"] == "function"]

    selectors = ["0x" + function_abi_to_4byte_selector(entry).hex() for entry in functions]

    assert sorted(selectors) == sorted(artifact["method_identifiers"].values())
    assert len(set(selectors)) == len(functions)


def test_the_code_on_chain_is_the_runtime_code_and_its_immutables(node: Node) -> None:
    world = make_world(node)
    words = {
        "OrganisationRegistry": [],
        "PledgeRegistry": [
            bytes(12) + bytes.fromhex(world.organisations.address[2:]),
            h("k-check"),
            node.chain_id().to_bytes(32, "big"),
            world.pledges.DOMAIN_SEPARATOR(),
        ],
        "TransparencyLog": [
            bytes(12) + bytes.fromhex(contract.address[2:]) for contract in (world.organisations, world.pledges)
        ],
    }

    for contract in (world.organisations, world.pledges, world.log):
        artifact = contract.artifact
        assert node.code(contract.address) == (
            bytes.fromhex(artifact["runtime_bytecode"][2:]) + b"".join(words[artifact["name"]])
        )


@pytest.mark.parametrize("name", compiler.NAMES)
def test_every_function_explains_itself(name: str) -> None:
    """NatSpec: a notice on each function, the internal ones too, and every argument of an external one."""
    text = (compiler.SOURCES / f"{name}.vy").read_text()
    for chunk in text.split("\ndef ")[1:]:
        head, _, rest = chunk.partition('"""')
        notice = rest.partition('"""')[0]
        function = head.partition("(")[0]
        assert "@notice" in notice, function
        if not function.startswith("_") or function == "__init__":
            names = [part.partition(":")[0].strip() for part in head.partition("(")[2].split(",")]
            for argument in [entry for entry in names if entry.isidentifier() and entry in head]:
                if f"{argument}: " in head.partition("->")[0]:
                    assert f"@param {argument} " in notice, (function, argument)


@pytest.mark.parametrize("name", compiler.NAMES)
def test_each_contract_states_its_kill_switch_and_keeps_the_order_of_sections(name: str) -> None:
    text = (compiler.SOURCES / f"{name}.vy").read_text()
    titles = [line.rpartition("- ")[2] for line in text.splitlines() if line.startswith("# ---")]
    order = [
        "interfaces",
        "events",
        "structs",
        "constants",
        "immutables",
        "storage",
        "constructor",
        "publisher",
        "maker",
        "custodian",
        "lender",
        "regulator",
        "admin",
        "pauser",
        "views",
        "internal",
    ]

    assert "Kill switch:" in text
    assert titles == [title for title in order if title in titles]


def test_every_reason_is_short_and_plain() -> None:
    for name in compiler.NAMES:
        for line in (compiler.SOURCES / f"{name}.vy").read_text().splitlines():
            if line.strip().startswith(("assert ", '), "')):
                reason = line.rpartition(', "')[2].rstrip('"')
                if line.rstrip().endswith("("):
                    continue
                assert 4 <= len(reason) <= 24, line
                assert reason == reason.lower(), line


def test_both_code_generators_give_the_same_results() -> None:
    """One long story on both, step by step: events, answers, and storage down to its root."""
    second = {
        name: {
            "name": name,
            **compiler.compile_source((compiler.SOURCES / f"{name}.vy").read_text(), experimental=True),
        }
        for name in compiler.NAMES
    }
    stories = [_story(EthTesterNode(), artifacts) for artifacts in (None, second)]

    assert second["PledgeRegistry"]["bytecode"] != compiler.load_artifact("PledgeRegistry")["bytecode"]
    assert stories[0] == stories[1]
    assert len(stories[0]) > 15


def _story(node: Node, artifacts: dict[str, compiler.Artifact] | None) -> list[object]:
    from tests.contracts import naive_merkle as naive

    world = make_world(node, artifacts)
    pledges, leaves, told = world.pledges, naive.leaves(40), []
    told.append(pledges.set_capacity(h("lot"), 10, sender=MAKER).events)
    goods, quantities = [h("pallet"), h("tin"), h("lot")], [1, 1, 7]
    told.append(pledges.register(number(1), OWNER, goods, quantities, sender=CUSTODIAN).events)
    told.append(pledges.seal(number(1), sender=CUSTODIAN).events)
    told.append(pledges.split(number(1), number(2), goods[:2], [1, 1], sender=CUSTODIAN).events)
    told.append(pledges.split(number(1), number(3), [h("lot")], [7], sender=CUSTODIAN).events)
    pledges.seal(number(2), sender=CUSTODIAN)
    world.pledge(number(2))
    for name in ("enforce", "cure", "enforce", "settle"):
        told.append(getattr(pledges, name)(number(2), sender=FIRST_BANK).events)
    told.append(pledges.deliver(number(2), sender=CUSTODIAN).events)
    told.append(pledges.cancel(number(3), sender=CUSTODIAN).events)
    told += [pledges.receipt_at(number(count)) for count in (1, 2, 3)]
    told += [pledges.claimed(key) for key in goods]
    world.log.open_log(h("origin"), h("key"), NO_LOG, sender=ADMIN)
    before = 0
    for size in (1, 5, 6, 17, 31, 40):
        root = naive.root(leaves[:size])
        proof = naive.proof(before, leaves[:size]) if before else []
        told.append(world.log.anchor(0, before, size, root, proof, sender=PUBLISHER).events)
        assert world.log.check_inclusion(0, size, size - 1, leaves[size - 1], naive.path(size - 1, leaves[:size]))
        assert not world.log.verify_consistency(size, size + 1, proof, root, root)
        before = size
    world.log.freeze(0, 31, sender=ADMIN)
    told.append(world.log.log_at(0))
    told.append(world.organisations.current(h("maker")))
    told += [node.storage_root(contract.address) for contract in (world.organisations, pledges, world.log)]
    assert len(ADDRESSES) == 16
    return told


def test_artifacts_are_plain_json() -> None:
    for name in compiler.NAMES:
        raw = (compiler.ARTIFACTS / f"{name}.json").read_bytes()
        assert json.loads(raw)["name"] == name
        assert raw.endswith(b"}\n")


def test_every_property_names_tests_that_exist() -> None:
    properties = (compiler.SOURCES.parent / "PROPERTIES.md").read_text()
    tests = Path(__file__).parents[1]
    python = [path.read_text() for name in ("contracts", "campaign") for path in (tests / name).glob("test_*.py")]
    solidity = [path.read_text() for path in (tests / "campaign").glob("*/test/*.sol")]
    defined = set(re.findall(r"^def (test_\w+)\(", "".join(python), re.MULTILINE))
    defined |= set(re.findall(r"function ((?:testFuzz|invariant|check)_\w+)\(", "".join(solidity)))
    rows = [line for line in properties.splitlines() if re.match(r"\| [TOPA]\d+ ", line)]

    numbers = [line.split("|")[1].strip() for line in rows]

    assert len(numbers) == len(set(numbers)) >= 40
    assert [line for line in rows if not re.search(r"`test_\w+`", line.rpartition("|")[0])] == []
    assert sorted(set(re.findall(r"`((?:test|testFuzz|invariant|check)_\w+)`", properties)) - defined) == []


def test_contracts_call_nothing_but_the_registry() -> None:
    """By opcode: static calls alone, and no way to run foreign code, destroy, or create."""
    for name in compiler.NAMES:
        text = (compiler.SOURCES / f"{name}.vy").read_text()
        opcodes = set(compile_code(text, output_formats=["opcodes_runtime"])["opcodes_runtime"].split())
        assert not opcodes & {"CALL", "DELEGATECALL", "CALLCODE", "CREATE", "CREATE2", "SELFDESTRUCT"}
        called = {line.split("staticcall ")[1].split(".")[0] for line in text.splitlines() if "staticcall " in line}
        assert called <= ({"ORGANISATIONS"} if name == "PledgeRegistry" else set())
