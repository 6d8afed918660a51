"""Anchors through reorganisations, dear gas, lying and failing nodes, and a thief of the publisher's key (F18-F24)."""

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts import remote
from contracts.chain import Chain
from contracts.paired import PairedChain
from contracts.remote import RemoteChain
from core.errors import Broken, Unavailable
from core.merkle import tree_root
from ledger.anchor import Anchorer, AnchorSettings, anchors_between, last_final_anchor, unfinal_count
from ledger.chain_alarms import open_alarms
from ledger.chain_tx import ChainSender, SenderSettings, is_credit_stopped, resume_account
from ledger.database import Database
from tests.chain_fixtures import ChainWorld, anvil_world
from tests.ledger.test_anchor import EAGER, Parts
from tests.rpc_proxy import RpcProxy

DEPTH = 7
CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainWorld]:
    with anvil_world(tmp_path_factory.mktemp("anvil")) as found:
        yield found


@pytest.fixture
def world(shared: ChainWorld) -> Iterator[ChainWorld]:
    """One Anvil for the module; what a test does to it is undone."""
    mark = shared.ask("evm_snapshot")
    # A reorganisation must not reach below the snapshot, which would be gone then.
    shared.mine(8)
    yield shared
    shared.ask("evm_setAutomine", True)
    assert shared.ask("evm_revert", mark)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once where the product pauses."""
    monkeypatch.setattr(remote, "READ_PAUSE_S", 0.002)


@pytest.fixture
def proxy(world: ChainWorld) -> Iterator[RpcProxy]:
    found = RpcProxy(url_of(world))
    yield found
    found.stop()


def url_of(world: ChainWorld) -> str:
    assert world.anvil is not None
    return world.anvil.url


def node(url: str, depth: int | None = DEPTH) -> RemoteChain:
    return RemoteChain(url, finality_depth=depth, timeout_s=2)


class Watched(Parts):
    """Anchoring over a chain whose blocks come from the test alone; every anchor that was ever shown final is noted."""

    def __init__(self, database: Database, world: ChainWorld, chain: Chain, **sender: int) -> None:
        world.ask("evm_setAutomine", False)
        super().__init__(database, replace(world, chain=chain), EAGER)
        self.world, self.chain = world, chain
        self.sender = ChainSender(database, chain, world.signer, SenderSettings(**sender))
        self.shown: dict[int, bytes] = {}
        self.away = 0

    def go(self, steps: int = 1, *, mine: int = 0, every_ms: int = 4_000) -> None:
        for _ in range(steps):
            self.now_ms += every_ms
            for step in (self.anchorer.step, self.sender.step, self.anchorer.step):
                try:
                    step(self.now_ms)
                except Unavailable:
                    self.away += 1
            if mine:
                self.world.mine(mine)
            self.look()

    def look(self) -> int:
        with self.database.reading() as tx:
            final = last_final_anchor(tx)
        if final is None:
            return 0
        self.shown[final.size] = final.root
        return final.size

    def alarms(self) -> list[str]:
        with self.database.reading() as tx:
            return [alarm.code for alarm in open_alarms(tx)]

    def check(self) -> None:
        """Everything is anchored, each anchor once, and whatever was shown final still stands on the chain."""
        leaves = self.leaves()
        with self.database.reading() as tx:
            found = anchors_between(tx)
        assert {one.state for one in found} == {"final"}
        assert [one.prev_size for one in found] == [0, *(one.size for one in found[:-1])]
        assert self.look() == len(leaves)
        truth = replace(self.chains, chain=self.world.chain)
        contract = type(self.contract)(truth.chain, truth.deployment.log_contract)
        assert contract.log_at(0).size == len(leaves)
        for size, root in self.shown.items():
            assert contract.root_at(0, size) == root == tree_root(leaves[:size])


def test_reorganisations_of_one_to_six_blocks_lose_no_anchor_and_nothing_shown_final_vanishes(
    sqlite_database: Database, world: ChainWorld
) -> None:
    parts = Watched(sqlite_database, world, node(url_of(world)))
    for depth in (1, 2, 3, 4, 5, 6) * (84 if CAMPAIGN else 1):
        parts.grow()
        parts.go(mine=1)
        parts.grow()
        parts.go(mine=1)
        world.mine(max(0, depth - 2))
        parts.go()
        before = parts.look()

        world.ask("anvil_reorg", depth, [])
        parts.go(2)
        assert parts.look() >= before
        parts.go(2, mine=1)
        parts.go(2, mine=5)
    parts.go(3, mine=4)

    parts.check()
    assert len(parts.shown) >= 6
    assert parts.alarms() == []


def test_a_reorganisation_deeper_than_finality_takes_finality_back_stops_credit_and_anchors_again(
    sqlite_database: Database, world: ChainWorld
) -> None:
    parts = Watched(sqlite_database, world, node(url_of(world), 1))
    parts.grow()
    parts.go(2, mine=2)
    parts.go()
    shown = parts.look()
    assert shown == len(parts.leaves())

    world.ask("anvil_reorg", 6, [])
    parts.go()

    assert parts.alarms() == ["finality_broken"]
    assert parts.look() == 0
    with sqlite_database.reading() as tx:
        assert is_credit_stopped(tx)
    parts.grow()
    parts.go(5, mine=2)
    parts.check()
    assert parts.alarms() == ["finality_broken"]


def test_gas_of_eighty_times_the_price_is_paid_up_to_the_cap_and_waited_for_above_it(
    sqlite_database: Database, world: ChainWorld
) -> None:
    cap = 100 * 10**9
    parts = Watched(sqlite_database, world, node(url_of(world), 2), replace_after_ms=10_000, fee_cap_wei=cap)
    world.ask("anvil_setNextBlockBaseFeePerGas", hex(10**9))
    world.mine()
    parts.grow()
    parts.go()
    with sqlite_database.reading() as tx:
        assert unfinal_count(tx) == 1

    # What was offered is too little now; the same nonce is offered more.
    world.ask("anvil_setNextBlockBaseFeePerGas", hex(20 * 10**9))
    parts.go(8, mine=1)
    parts.check()
    world.ask("anvil_setNextBlockBaseFeePerGas", hex(80 * 2 * 10**9))
    world.mine()
    parts.grow()
    parts.go(3)
    assert parts.alarms() == ["fee_cap"]
    spent = world.chain.nonce(world.signer.address("publisher"))
    parts.grow()
    parts.go(3)
    assert world.chain.nonce(world.signer.address("publisher")) == spent

    world.ask("anvil_setNextBlockBaseFeePerGas", hex(10**9))
    world.mine()
    parts.go(6, mine=1)
    parts.check()
    assert parts.alarms() == []


def test_an_empty_publisher_alarms_and_goes_on_in_order_when_it_is_funded(
    sqlite_database: Database, world: ChainWorld
) -> None:
    parts = Watched(sqlite_database, world, node(url_of(world), 2))
    address = world.signer.address("publisher")
    balance = world.chain.balance(address)
    world.ask("anvil_setBalance", address, "0x0")
    for _ in range(3):
        parts.grow()
        parts.go()

    assert parts.alarms() == ["empty_balance"]
    assert parts.look() == 0
    world.ask("anvil_setBalance", address, hex(balance))
    parts.go(8, mine=1)

    parts.check()
    assert parts.alarms() == []


def test_a_thief_that_uses_the_publishers_nonce_halts_anchoring_and_one_new_anchor_replaces_the_lost_ones(
    sqlite_database: Database, world: ChainWorld
) -> None:
    parts = Watched(sqlite_database, world, node(url_of(world), 2))
    parts.grow()
    parts.go()
    parts.grow()
    parts.go()
    with sqlite_database.reading() as tx:
        lost = anchors_between(tx)
    chain, signer = world.chain, world.signer
    raw = signer.sign_tx(
        "publisher",
        {
            "chainId": chain.chain_id, "nonce": chain.nonce(signer.address("publisher")), "to": "0x" + "ee" * 20,
            "value": 1, "data": b"", "gas": 21_000, "maxFeePerGas": 200 * 10**9, "maxPriorityFeePerGas": 50 * 10**9,
        },
    )  # fmt: skip
    chain.send_raw(raw)
    world.mine()

    parts.go()
    assert "foreign_nonce" in parts.alarms()
    with sqlite_database.reading() as tx:
        assert is_credit_stopped(tx)
    parts.go(3, mine=3)
    assert parts.look() == 0
    resume_account(sqlite_database, parts.chain, "publisher", now_ms=parts.now_ms)
    parts.grow()
    parts.go(6, mine=3)

    parts.check()
    with sqlite_database.reading() as tx:
        first = anchors_between(tx)[0]
    assert len(lost) == 2
    assert (first.prev_size, first.size >= lost[1].size) == (0, True)
    assert parts.alarms() == []


def test_a_false_root_by_one_of_two_nodes_makes_no_anchor_final_and_by_the_only_node_stops_everything(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    parts = Watched(sqlite_database, world, PairedChain(node(proxy.url, 2), node(url_of(world), 2)))
    parts.grow()
    parts.go(1, mine=1)
    root_at = bytes.fromhex("0" * 8)
    root_at = parts.contract.calldata("root_at", 0, 1)[:4]

    def lie(method: str, params: list[Any], result: Any) -> Any:
        is_root = method == "eth_call" and params[0]["data"].startswith(f"0x{root_at.hex()}")
        return "0x" + "ab" * 32 if is_root else result

    proxy.lie = lie
    parts.go(4, mine=2)
    assert parts.look() == 0
    assert parts.away > 0
    assert parts.alarms() == []

    alone = Anchorer(sqlite_database, node(proxy.url, 2), EAGER)
    with pytest.raises(Broken) as raised:
        alone.step(parts.now_ms)
    assert raised.value.code == "root_mismatch"
    assert parts.alarms() == ["root_mismatch"]
    with sqlite_database.reading() as tx:
        assert is_credit_stopped(tx)
    assert parts.look() == 0

    proxy.lie = None
    parts.go(3, mine=1)
    parts.check()


def test_a_node_that_stands_still_makes_nothing_final_and_raises_no_false_alarm(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    parts = Watched(sqlite_database, world, PairedChain(node(url_of(world), 2), node(proxy.url, 2)))
    parts.grow()
    parts.go(6, mine=1)
    shown = parts.look()
    assert shown == len(parts.leaves())
    still = world.chain.block_number()

    def stale(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getTransactionReceipt" and result is not None and int(result["blockNumber"], 16) > still:
            return None
        if method == "eth_getBlockByNumber" and params[0] in ("latest", "finalized"):
            return world.ask(method, hex(still), False)
        if method == "eth_getBlockByNumber" and params[0].startswith("0x") and int(params[0], 16) > still:
            return None
        if method == "eth_getTransactionCount" and params[1] == "latest":
            return world.ask(method, params[0], hex(still))
        return result

    proxy.lie = stale
    parts.grow()
    parts.go(5, mine=2)
    assert parts.look() == shown
    assert parts.alarms() == []

    proxy.lie = None
    parts.go(4, mine=1)
    parts.check()


@pytest.mark.parametrize("seed", range(1, 31 if CAMPAIGN else 3))
def test_a_node_that_fails_every_third_request_in_any_way_anchors_everything_once(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy, seed: int
) -> None:
    parts = Watched(sqlite_database, world, node(proxy.url, 2))
    second = Anchorer(sqlite_database, node(proxy.url, 2), EAGER)
    chance = random.Random(seed)
    made: list[str] = []

    def fault(method: str) -> str | None:
        if chance.random() >= 0.3:
            return None
        made.append(chance.choice(["down", "429", "500", "drop"]))
        return made[-1]

    proxy.fault = fault
    proxy.lie = lambda method, params, result: (
        None if method == "eth_getTransactionReceipt" and chance.random() < 0.3 else result
    )
    proxy.twice = True

    for _ in range(6):
        parts.grow()
        parts.go(2, mine=1)
        try:
            second.step(parts.now_ms + 1)
        except Unavailable:
            parts.away += 1
    assert set(made) == {"down", "429", "500", "drop"}
    proxy.fault, proxy.lie = (lambda method: None), None
    parts.go(10, mine=1)

    parts.check()
    # Null receipts may look like a stolen nonce for a moment; that ends by itself.
    assert parts.alarms() == []


def test_while_the_chain_is_down_for_long_the_log_grows_and_one_anchor_brings_everything_after_it(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    parts = Watched(sqlite_database, world, node(proxy.url, 2))
    parts.grow()
    parts.go(4, mine=1)
    proxy.down = True
    for _ in range(12):
        parts.grow()
        parts.go(every_ms=50_000)
    assert parts.away > 0
    with sqlite_database.reading() as tx:
        assert unfinal_count(tx) == 0

    proxy.down = False
    parts.go(5, mine=1)

    parts.check()
    with sqlite_database.reading() as tx:
        assert len(anchors_between(tx)) == 2
    assert parts.alarms() == []


def test_an_anchor_is_made_by_interval_or_by_size_on_a_real_chain(
    sqlite_database: Database, world: ChainWorld, tmp_path: Path
) -> None:
    parts = Watched(sqlite_database, world, node(url_of(world), 2))
    parts.anchorer = Anchorer(
        sqlite_database, parts.chain, AnchorSettings(interval_ms=60_000, leaves=20, unfinal_max=4)
    )
    made = []
    for messages, every_ms in ((1, 0), (1, 30_000), (1, 40_000), (25, 0), (1, 0)):
        parts.grow(messages)
        parts.now_ms += every_ms
        made.append(parts.anchorer.step(parts.now_ms) is not None)

    # At once at first; not within a minute; then by the clock; then by the number of leaves; then neither.
    assert made == [True, False, True, True, False]
