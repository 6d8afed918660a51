"""``tracebond bench anchor``: gas of one anchor on a log of a million leaves, with real proofs checked by the contract.

Beside it a plain stored root (a role check, one slot, one event: what an anchor that proves nothing costs; shown as
ceiling) and one transaction for each event (shown as naive). Gas is counted by the EVM: it is the same on every run
and on every chain of the same fork, so the positions are random but drawn from a fixed seed.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from eth_utils.crypto import keccak

from contracts.chain import Chain, ChainReceipt
from contracts.clients import ANCHOR_GAS, TransparencyLogClient
from contracts.deploy import deploy
from contracts.opening import open_chain
from contracts.signer import Signer
from core.crypto import Ed25519Private
from core.errors import Broken
from core.merkle import consistency_ranges, leaf_hash, node_hash
from tracebond.bench.report import Row, Say

MILLION = 1_000_000
BETWEEN = (1, 1_000, 100_000)
AVERAGE_MAX, WORST_MAX, PER_EVENT_MAX = 90_000, 100_000, 1
POSITIONS, POSITIONS_QUICK = 60, 8
LEAVES_QUICK = 120_000
BASELINES = Path(__file__).parent
_SEED = 4117
_GAS = 300_000


class Tree:
    """A Merkle tree with every perfect subtree kept, so that a proof costs a few hashes."""

    def __init__(self, leaves: int) -> None:
        level = [leaf_hash(number.to_bytes(8)) for number in range(leaves)]
        self._levels = [level]
        while len(level) > 1:
            level = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
            self._levels.append(level)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def root(self, start: int, end: int) -> bytes:
        """The root of the leaves ``[start, end)``, ``start`` being where a perfect subtree of that height begins."""
        height = (end - start - 1).bit_length()
        if end - start == 1 << height:
            return self._levels[height][start >> height]
        middle = start + (1 << (height - 1))
        return node_hash(self.root(start, middle), self.root(middle, end))

    def proof(self, size1: int, size2: int) -> list[bytes]:
        """The consistency proof between two sizes, lowest node first."""
        return [self.root(start, end) for start, end in consistency_ranges(size1, size2)]


class Rig:
    """The real contracts and the baseline on a chain of their own."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self._chain, self._signer = chain, Signer(folder / "keys")
        key = Ed25519Private(bytes(32)).public.raw
        found = deploy(chain, self._signer, folder, origin="bench/log", checkpoint_key=key, k_check=bytes([1] * 32))
        self._key, self._logs = key, found.log_id
        self._log = TransparencyLogClient(chain, found.log_contract)
        artifact = json.loads((BASELINES / "baselines.json").read_bytes())
        self._selectors = {name.partition("(")[0]: bytes.fromhex(selector[2:])
                           for name, selector in artifact["method_identifiers"].items()}  # fmt: skip
        made = self._send("publisher", None, bytes.fromhex(artifact["bytecode"][2:]))
        self._baselines = made.contract

    def anchor_gas(self, tree: Tree, size1: int, size2: int) -> int:
        """Gas of the anchor from one size to another, in a log whose tip is ``size1``."""
        self._logs += 1
        opened = self._log.open_log_call(keccak(self._logs.to_bytes(4)), self._key)
        self._send("admin", self._log.address, opened)
        self._anchor(0, size1, tree.root(0, size1), [])
        root = tree.root(0, size2)
        used = self._anchor(size1, size2, root, tree.proof(size1, size2))
        if self._log.root_at(self._logs, size2) != root:
            raise Broken("The contract does not hold the root that was anchored.", code="root_mismatch")
        return used

    def store_gas(self, size: int, root: bytes) -> int:
        """Gas of a plain stored root."""
        return self._baseline("store", size.to_bytes(32) + root)

    def note_gas(self, leaf: bytes) -> int:
        """Gas of the transaction of one event."""
        return self._baseline("note", leaf)

    def _anchor(self, size1: int, size2: int, root: bytes, proof: list[bytes]) -> int:
        data = self._log.anchor_call(self._logs, prev_size=size1, size=size2, root=root, proof=proof)
        return self._send("publisher", self._log.address, data, gas=ANCHOR_GAS).gas_used

    def _baseline(self, name: str, arguments: bytes) -> int:
        return self._send("publisher", self._baselines, self._selectors[name] + arguments).gas_used

    def _send(self, account: str, to: str | None, data: bytes, *, gas: int = _GAS) -> ChainReceipt:
        fees = self._chain.fees()
        tx: dict[str, Any] = {
            "chainId": self._chain.chain_id,
            "nonce": self._chain.nonce(self._signer.address(account)),
            "to": to,
            "value": 0,
            "data": data,
            "gas": gas if to else 2 * _GAS,
            "maxFeePerGas": fees.base * 2 + fees.priority,
            "maxPriorityFeePerGas": fees.priority,
        }
        receipt = self._chain.receipt(self._chain.send_raw(self._signer.sign_tx(account, tx)))
        if receipt is None or not receipt.is_success:
            raise Broken("The contract refused a measured call.", code="bench_failed")
        return receipt


def positions(between: int, *, leaves: int, size: int, count: int) -> list[tuple[int, int]]:
    """Pairs of sizes ``between`` apart, none above ``size``: random ones, then those with the longest proofs.

    Args:
        leaves: the log has about so many leaves: the lower size is at least nine tenths of it.
    """
    chance = random.Random(_SEED + between)
    least, most = leaves * 9 // 10, size - between
    starts = [chance.randint(least, most) for _ in range(count)]
    # Just below and above a power of two, and with all low bits set, a proof has the most nodes.
    edges = [start + shift for start in (1 << leaves.bit_length() - 1, 1 << leaves.bit_length()) for shift in (-1, 1)]
    edges += [(least | (1 << bits) - 1) for bits in (8, 12, 16)]
    return [(start, start + between) for start in [*starts, *(edge for edge in edges if least <= edge <= most)]]


def run(quick: bool, say: Say) -> list[Row]:
    """The rows of the part; ``quick`` takes a smaller tree and fewer positions."""
    leaves = LEAVES_QUICK if quick else MILLION
    between = [count for count in BETWEEN if count < leaves]
    say(f"hashing a tree of {leaves + max(between):,} leaves")
    tree = Tree(leaves + max(between))
    rows: list[Row] = []
    with _rig() as rig:
        say("baselines: a plain stored root, one transaction per event")
        stored = _mean([rig.store_gas(leaves + step, tree.root(0, leaves + step)) for step in range(1, 11)])
        noted = _mean([rig.note_gas(sha256(step.to_bytes(8)).digest()) for step in range(10)])
        for count in between:
            pairs = positions(count, leaves=leaves, size=tree.size, count=POSITIONS_QUICK if quick else POSITIONS)
            say(f"{len(pairs)} anchors, {count:,} events each, proofs checked by the contract")
            gas = [rig.anchor_gas(tree, size1, size2) for size1, size2 in pairs]
            rows += _rows(count, leaves, gas, stored=stored, noted=noted)
    rows.append(Row("plain stored root, average", stored, "gas", is_lower_better=True))
    rows.append(Row("one transaction per event, average", noted, "gas", is_lower_better=True))
    return rows


def _rows(count: int, leaves: int, gas: list[int], *, stored: float, noted: float) -> list[Row]:
    name = f"{count:,} events between, {leaves:,} leaves"
    average = _mean(gas)
    return [
        Row(f"anchor, {name}, average of {len(gas)}", average, "gas", ceiling=stored, naive=noted * count,
            target=AVERAGE_MAX, is_lower_better=True),
        Row(f"anchor, {name}, worst", max(gas), "gas", ceiling=stored, naive=noted * count,
            target=WORST_MAX, is_lower_better=True),
        Row(f"per event, {name}", average / count, "gas/event", ceiling=stored / count, naive=noted,
            target=PER_EVENT_MAX if count == max(BETWEEN) else None, is_lower_better=True),
    ]  # fmt: skip


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)


@contextmanager
def _rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="tracebond-bench-") as name:
        chain = open_chain(None, Path(name), genesis_salt=b"bench")
        try:
            yield Rig(chain, Path(name))
        finally:
            chain.close()
