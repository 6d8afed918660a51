"""Two real chains behind one small face: eth-tester (py-evm in this process) and Anvil (a child process)."""

import ctypes
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from eth_abi import decode, encode
from eth_account import Account
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

from contracts.compiler import Artifact, load_artifact

ROOT = Path(__file__).parents[2]
GAS = 16_000_000
# Anvil's well-known development mnemonic; eth-tester gets the same accounts.
MNEMONIC = "test test test test test test test test test test test junk"
ACCOUNTS = 16
Account.enable_unaudited_hdwallet_features()
KEYS = [Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{n}").key for n in range(ACCOUNTS)]
ADDRESSES = [Account.from_key(key).address for key in KEYS]
KEY_OF = dict(zip(ADDRESSES, KEYS, strict=True))


class Reverted(Exception):
    """The contract refused; the text is its reason."""


@dataclass(frozen=True)
class Outcome:
    """A mined transaction: its gas, its decoded events, and the address it created."""

    gas_used: int
    events: list[tuple[str, dict[str, Any]]]
    address: str


class Node(Protocol):
    """What the tests need of a chain."""

    name: str

    def send(self, sender: str, to: str | None, data: bytes) -> dict[str, Any]: ...

    def call(self, sender: str, to: str, data: bytes) -> bytes: ...

    def snapshot(self) -> Any: ...

    def revert(self, mark: Any) -> None: ...

    def now(self) -> int: ...

    def next_block_at(self, moment: int) -> None: ...

    def chain_id(self) -> int: ...

    def code(self, address: str) -> bytes: ...

    def storage_root(self, address: str) -> bytes: ...


def _reason(data: bytes) -> str:
    if data[:4] == keccak(text="Error(string)")[:4]:
        return str(decode(["string"], data[4:])[0])
    return "0x" + data.hex()


class EthTesterNode:
    """py-evm behind eth-tester, each transaction mined at once."""

    name = "eth-tester"

    def __init__(self) -> None:
        backend = PyEVMBackend.from_mnemonic(MNEMONIC, num_accounts=ACCOUNTS, hd_path="m/44'/60'/0'/0")
        self.tester = EthereumTester(backend, auto_mine_transactions=True)

    def send(self, sender: str, to: str | None, data: bytes) -> dict[str, Any]:
        sent: dict[str, Any] = {"from": sender, "gas": GAS, "data": "0x" + data.hex(), "value": 0}
        if to is not None:
            sent["to"] = to
        found = self.tester.get_transaction_receipt(self.tester.send_transaction(sent))
        return {
            "status": found["status"],
            "gas_used": found["gas_used"],
            "address": found["contract_address"],
            "logs": [
                ([bytes.fromhex(topic[2:]) for topic in entry["topics"]], bytes.fromhex(entry["data"][2:]))
                for entry in found["logs"]
            ],
        }

    def call(self, sender: str, to: str, data: bytes) -> bytes:
        try:
            found = self.tester.call({"from": sender, "to": to, "gas": GAS, "data": "0x" + data.hex()})
        except TransactionFailed as error:
            raw = error.args[0] if error.args else ""
            raise Reverted(raw if isinstance(raw, str) else _reason(bytes(raw))) from error
        return bytes.fromhex(found[2:])

    def snapshot(self) -> Any:
        return self.tester.take_snapshot()

    def revert(self, mark: Any) -> None:
        self.tester.revert_to_snapshot(mark)

    def now(self) -> int:
        return int(self.tester.get_block_by_number("latest")["timestamp"])

    def next_block_at(self, moment: int) -> None:
        self.tester.time_travel(moment)

    def chain_id(self) -> int:
        return int(self.tester.backend.chain.chain_id)

    def code(self, address: str) -> bytes:
        return bytes.fromhex(self.tester.get_code(address)[2:])

    def storage_root(self, address: str) -> bytes:
        state = self.tester.backend.chain.get_vm().state
        return bytes(state._account_db._get_account(to_canonical_address(address)).storage_root)


def find_anvil() -> Path:
    """The Anvil binary itself, as the npm package of this platform carries it."""
    named = os.environ.get("TRACEBOND_ANVIL")
    if named:
        return Path(named)
    for found in sorted((ROOT / "node_modules").glob("@foundry-rs/anvil-*/bin/anvil")):
        return found
    pytest.fail("These tests need Anvil: npm ci, or set TRACEBOND_ANVIL to its path")


def _die_with_parent() -> None:
    ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)


class AnvilNode:
    """Anvil as a child process on a free loopback port, each transaction mined at once."""

    name = "anvil"

    def __init__(self, *options: str) -> None:
        command = [str(find_anvil()), "--port", "0", "--host", "127.0.0.1", "--accounts", str(ACCOUNTS)]
        self.process = subprocess.Popen(
            [*command, "--mnemonic", MNEMONIC, "--gas-limit", "30000000", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_die_with_parent,
        )
        self.port = self._read_port()
        # Anvil writes a line for each request and stops when nobody reads them.
        threading.Thread(target=self._drain, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}"
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _read_port(self) -> int:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r"Listening on 127\.0\.0\.1:(\d+)", line)
            if found:
                return int(found.group(1))
        raise RuntimeError(f"Anvil ended with {self.process.wait()} before it listened")

    def _drain(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            pass

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(timeout=20)

    def ask(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        self.connection.request("POST", "/", body, {"content-type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        if "error" in answer:
            data = answer["error"].get("data")
            if isinstance(data, str) and data.startswith("0x"):
                raise Reverted(_reason(bytes.fromhex(data[2:])))
            raise RuntimeError(answer["error"])
        return answer["result"]

    def send(self, sender: str, to: str | None, data: bytes) -> dict[str, Any]:
        sent = {"from": sender, "gas": hex(GAS), "data": "0x" + data.hex()}
        if to is not None:
            sent["to"] = to
        found, sent_hash = None, self.ask("eth_sendTransaction", sent)
        # Anvil mines at once, but answers before it has.
        for _ in range(2000):
            found = self.ask("eth_getTransactionReceipt", sent_hash)
            if found is not None:
                break
            time.sleep(0.001)
        if found is None:
            raise RuntimeError("Anvil did not mine a transaction in two seconds")
        return {
            "status": int(found["status"], 16),
            "gas_used": int(found["gasUsed"], 16),
            "address": found["contractAddress"],
            "logs": [
                ([bytes.fromhex(topic[2:]) for topic in entry["topics"]], bytes.fromhex(entry["data"][2:]))
                for entry in found["logs"]
            ],
        }

    def call(self, sender: str, to: str, data: bytes) -> bytes:
        question = {"from": sender, "to": to, "gas": hex(GAS), "data": "0x" + data.hex()}
        return bytes.fromhex(self.ask("eth_call", question, "latest")[2:])

    def snapshot(self) -> Any:
        return self.ask("evm_snapshot")

    def revert(self, mark: Any) -> None:
        assert self.ask("evm_revert", mark) is True

    def now(self) -> int:
        return int(self.ask("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def next_block_at(self, moment: int) -> None:
        self.ask("evm_setNextBlockTimestamp", hex(moment))

    def chain_id(self) -> int:
        return int(self.ask("eth_chainId"), 16)

    def code(self, address: str) -> bytes:
        return bytes.fromhex(self.ask("eth_getCode", address, "latest")[2:])

    def storage_root(self, address: str) -> bytes:
        return bytes.fromhex(self.ask("eth_getProof", address, [], "latest")["storageHash"][2:])


def _types(entries: Sequence[dict[str, Any]]) -> list[str]:
    return [entry["type"] for entry in entries]


class Contract:
    """A deployed contract whose functions are methods; views answer, the others are mined.

    ``sender`` is a keyword of every method. Several return values come as a tuple.
    """

    def __init__(self, node: Node, artifact: Artifact, address: str) -> None:
        self.node, self.artifact, self.address = node, artifact, to_checksum_address(address)
        self._functions = {entry["name"]: entry for entry in artifact["abi"] if entry["type"] == "function"}
        self._events = {}
        for entry in artifact["abi"]:
            if entry["type"] == "event":
                signature = f"{entry['name']}({','.join(_types(entry['inputs']))})"
                self._events[keccak(text=signature)] = entry

    def calldata(self, name: str, *values: Any) -> bytes:
        types = _types(self._functions[name]["inputs"])
        selector = keccak(text=f"{name}({','.join(types)})")[:4]
        return selector + bytes(encode(types, values))

    def ask(self, name: str, *values: Any, sender: str = ADDRESSES[0]) -> Any:
        """The answer of any function by ``eth_call``: nothing is mined."""
        answer = self.node.call(sender, self.address, self.calldata(name, *values))
        outputs = _types(self._functions[name]["outputs"])
        decoded = tuple(
            to_checksum_address(value) if kind == "address" else value
            for kind, value in zip(outputs, decode(outputs, answer), strict=True)
        )
        return decoded[0] if len(decoded) == 1 else decoded

    def do(self, name: str, *values: Any, sender: str) -> Outcome:
        """Mine one call of a function; ``Reverted`` with the contract's reason when it failed."""
        data = self.calldata(name, *values)
        mined = self.node.send(sender, self.address, data)
        if mined["status"] != 1:
            self.node.call(sender, self.address, data)
            raise AssertionError("a mined failure succeeded when asked again")
        return Outcome(mined["gas_used"], [self._event(*entry) for entry in mined["logs"]], "")

    def _event(self, topics: list[bytes], data: bytes) -> tuple[str, dict[str, Any]]:
        entry = self._events[topics[0]]
        indexed = [item for item in entry["inputs"] if item["indexed"]]
        plain = [item for item in entry["inputs"] if not item["indexed"]]
        found = {
            item["name"]: decode([item["type"]], topic)[0] for item, topic in zip(indexed, topics[1:], strict=True)
        }
        found |= dict(zip([item["name"] for item in plain], decode(_types(plain), data), strict=True))
        for item in entry["inputs"]:
            if item["type"] == "address":
                found[item["name"]] = to_checksum_address(found[item["name"]])
        return entry["name"], found

    def __getattr__(self, name: str) -> Any:
        try:
            mutability = self._functions[name]["stateMutability"]
        except KeyError as error:
            raise AttributeError(name) from error
        chosen = self.ask if mutability in ("view", "pure") else self.do
        return lambda *values, **options: chosen(name, *values, **options)


def deploy(node: Node, artifact: Artifact | str, *values: Any, sender: str) -> Contract:
    """Deploy an artifact, or the checked-in one of this name."""
    if isinstance(artifact, str):
        artifact = load_artifact(artifact)
    inputs = next(entry["inputs"] for entry in artifact["abi"] if entry["type"] == "constructor")
    code = bytes.fromhex(artifact["bytecode"].removeprefix("0x")) + bytes(encode(_types(inputs), values))
    mined = node.send(sender, None, code)
    if mined["status"] != 1:
        raise Reverted("constructor")
    return Contract(node, artifact, mined["address"])


@contextmanager
def refused(reason: str, *contracts: Contract) -> Iterator[None]:
    """The body must revert with exactly this reason, and leave the storage of ``contracts`` as it was."""
    before = [contract.node.storage_root(contract.address) for contract in contracts]
    with pytest.raises(Reverted) as caught:
        yield
    assert str(caught.value) == reason
    assert [contract.node.storage_root(contract.address) for contract in contracts] == before


@contextmanager
def rolled_back(node: Node) -> Iterator[None]:
    """Undo on the chain whatever the body did."""
    mark = node.snapshot()
    try:
        yield
    finally:
        node.revert(mark)
