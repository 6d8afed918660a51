"""The sender against a real Anvil that stalls, lies, forgets, reorganises and is used by a thief (F18-F24)."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from contracts.chain import Chain, WrongChain
from contracts.clients import OrganisationRegistryClient, Role
from contracts.opening import open_chain
from contracts.paired import PairedChain
from contracts.remote import RemoteChain
from core.errors import Conflict, Unavailable
from ledger.chain_book import attempts_of
from ledger.chain_tx import (
    ChainSender,
    ChainTx,
    SenderSettings,
    enqueue,
    is_credit_stopped,
    open_alarms,
    resume_account,
    state_of,
)
from ledger.database import Database
from tests.chain_fixtures import ChainWorld, anvil_world, by_hand
from tests.rpc_proxy import RpcProxy

ORG = b"\x09" * 32


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainWorld]:
    with anvil_world(tmp_path_factory.mktemp("anvil")) as found:
        yield found


@pytest.fixture
def world(shared: ChainWorld) -> Iterator[ChainWorld]:
    """One Anvil for the module; what a test does to it is undone."""
    mark = shared.ask("evm_snapshot")
    # A reorganisation must not reach below the snapshot, which would be gone then.
    shared.mine(6)
    yield shared
    shared.ask("evm_setAutomine", True)
    assert shared.ask("evm_revert", mark)


@pytest.fixture
def proxy(world: ChainWorld) -> Iterator[RpcProxy]:
    assert world.anvil is not None
    found = RpcProxy(world.anvil.url)
    yield found
    found.stop()


def behind(proxy: RpcProxy, *, timeout_s: float = 2.0) -> RemoteChain:
    return RemoteChain(proxy.url, finality_depth=None, timeout_s=timeout_s)


def appended(world: ChainWorld) -> int:
    return OrganisationRegistryClient(world.chain, world.deployment.organisations).version_count(ORG)


def append(database: Database, world: ChainWorld, reference: str = "1") -> int:
    client = OrganisationRegistryClient(world.chain, world.deployment.organisations)
    data = client.set_organisation_call(ORG, record_key=b"\x01" * 32, account="0x" + "0a" * 20, roles=Role.MAKER)
    with database.transaction() as tx:
        return enqueue(
            tx, account="admin", to=client.address, data=data, purpose="org", reference=reference, now_ms=1, gas=250_000
        )


def look(database: Database, ident: int) -> ChainTx:
    with database.reading() as tx:
        return state_of(tx, ident)


def alarms(database: Database) -> list[str]:
    with database.reading() as tx:
        return [alarm.code for alarm in open_alarms(tx)]


class Driver:
    """Steps a sender with a clock of its own; a chain that is away is tried again."""

    def __init__(self, database: Database, chain: Chain, world: ChainWorld, **settings: int) -> None:
        self.sender = ChainSender(database, chain, world.signer, SenderSettings(**settings))
        self.now_ms = 1_000
        self.away = 0

    def __call__(self, steps: int = 1, *, every_ms: int = 4_000) -> None:
        for _ in range(steps):
            self.now_ms += every_ms
            try:
                self.sender.step(self.now_ms)
            except Unavailable:
                self.away += 1


def test_an_answer_lost_after_the_node_took_it_sends_nothing_twice(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    world.record(sqlite_database)
    ident = append(sqlite_database, world)
    drive = Driver(sqlite_database, behind(proxy), world)
    proxy.drop_after_send = 1

    drive(8)

    assert look(sqlite_database, ident).state == "final"
    assert appended(world) == 1


def test_bytes_that_a_node_forgot_are_sent_again(sqlite_database: Database, world: ChainWorld, proxy: RpcProxy) -> None:
    world.record(sqlite_database)
    ident = append(sqlite_database, world)
    drive = Driver(sqlite_database, behind(proxy), world)
    proxy.lose_send = 2

    drive(10)

    assert look(sqlite_database, ident).state == "final"
    assert appended(world) == 1
    with sqlite_database.reading() as tx:
        assert len(attempts_of(tx, [ident])[ident]) == 1


def test_bytes_handed_over_twice_and_answers_already_known_count_once(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    world.record(sqlite_database)
    idents = [append(sqlite_database, world, str(number)) for number in range(3)]
    drive = Driver(sqlite_database, behind(proxy), world)
    proxy.twice = True

    drive(8)

    assert [look(sqlite_database, ident).state for ident in idents] == ["final"] * 3
    assert appended(world) == 3


def test_a_node_that_stalls_and_answers_503_only_costs_time(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    world.record(sqlite_database)
    ident = append(sqlite_database, world)
    drive = Driver(sqlite_database, behind(proxy, timeout_s=0.3), world)
    proxy.stall_s = 0.6
    drive(1)
    proxy.stall_s = 0.0
    proxy.status_left = 10
    drive(4)

    drive(8)

    assert drive.away > 0
    assert look(sqlite_database, ident).state == "final"
    assert appended(world) == 1


def test_while_the_chain_is_away_everything_waits_and_then_goes_out_in_order(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    world.record(sqlite_database)
    drive = Driver(sqlite_database, behind(proxy, timeout_s=0.5), world)
    proxy.down = True
    idents = [append(sqlite_database, world, str(number)) for number in range(3)]
    drive(2)
    assert [look(sqlite_database, ident).state for ident in idents] == ["queued"] * 3

    proxy.down = False
    drive(8)

    found = [look(sqlite_database, ident) for ident in idents]
    assert [one.state for one in found] == ["final"] * 3
    assert [one.nonce for one in found] == sorted(one.nonce or 0 for one in found)


def test_a_stuck_chain_tx_is_replaced_with_an_eighth_more_and_counts_once(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    world.record(sqlite_database)
    ident = append(sqlite_database, world)
    world.ask("evm_setAutomine", False)
    drive = Driver(sqlite_database, behind(proxy), world, replace_after_ms=30_000)

    drive(20)
    with sqlite_database.reading() as tx:
        attempts = attempts_of(tx, [ident])[ident]
    world.mine(4)
    drive(3)

    assert len(attempts) >= 3
    assert len({attempt.nonce for attempt in attempts}) == 1
    for old, new in pairwise(attempts):
        assert new.max_fee * 8 >= old.max_fee * 9
        assert new.priority_fee * 8 >= old.priority_fee * 9
    assert look(sqlite_database, ident).state == "final"
    assert look(sqlite_database, ident).tx_hash in {attempt.tx_hash for attempt in attempts}
    assert appended(world) == 1


def test_replacing_stops_at_the_fee_cap_with_an_alarm(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    world.record(sqlite_database)
    ident = append(sqlite_database, world)
    world.ask("evm_setAutomine", False)
    fees = world.chain.fees()
    cap = (fees.base * 2 + fees.priority) * 5 // 4
    drive = Driver(sqlite_database, behind(proxy), world, replace_after_ms=5_000, fee_cap_wei=cap)

    drive(12)

    with sqlite_database.reading() as tx:
        attempts = attempts_of(tx, [ident])[ident]
    assert all(attempt.max_fee <= cap for attempt in attempts)
    assert "fee_cap" in alarms(sqlite_database)
    world.mine(4)
    drive(3)
    assert look(sqlite_database, ident).state == "final"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_reorganisation_before_finality_loses_nothing(
    sqlite_database: Database, world: ChainWorld, depth: int
) -> None:
    world.record(sqlite_database)
    chain = by_hand(world)
    ident = append(sqlite_database, world)
    # By depth, so that blocks the reorganisation removes were never called final.
    chain = RemoteChain(world.anvil.url if world.anvil else "", finality_depth=4, timeout_s=5)
    drive = Driver(sqlite_database, chain, world)
    drive()
    world.mine(depth)
    drive()
    before = look(sqlite_database, ident)
    assert before.state == "mined"

    world.ask("anvil_reorg", depth, [])
    drive(2)
    assert look(sqlite_database, ident).state == "sent"
    assert appended(world) == 0
    world.mine(1)
    drive()
    world.mine(6)
    drive(2)

    after = look(sqlite_database, ident)
    assert after.state == "final"
    assert after.block_hash != before.block_hash
    assert appended(world) == 1
    assert alarms(sqlite_database) == []


def test_a_reorganisation_deeper_than_finality_alarms_stops_credit_and_is_sent_again(
    sqlite_database: Database, world: ChainWorld
) -> None:
    world.record(sqlite_database)
    by_hand(world)
    ident = append(sqlite_database, world)
    chain = RemoteChain(world.anvil.url if world.anvil else "", finality_depth=1, timeout_s=5)
    drive = Driver(sqlite_database, chain, world)
    drive()
    world.mine(2)
    drive()
    assert look(sqlite_database, ident).state == "final"

    world.ask("anvil_reorg", 3, [])
    drive()

    assert look(sqlite_database, ident).state != "final"
    assert alarms(sqlite_database) == ["finality_broken"]
    with sqlite_database.reading() as tx:
        assert is_credit_stopped(tx)
    world.mine(3)
    drive(2)
    assert look(sqlite_database, ident).state == "final"
    assert appended(world) == 1
    assert alarms(sqlite_database) == ["finality_broken"]


def steal(world: ChainWorld, *, nonce: int, tip: int = 50 * 10**9) -> None:
    """A thief with the admin's key uses a nonce."""
    raw = world.signer.sign_tx(
        "admin",
        {
            "chainId": world.chain.chain_id,
            "nonce": nonce,
            "to": "0x" + "ee" * 20,
            "value": 1,
            "data": b"",
            "gas": 21_000,
            "maxFeePerGas": 200 * 10**9,
            "maxPriorityFeePerGas": tip,
        },
    )
    world.chain.send_raw(raw)


def test_a_stolen_nonce_halts_the_account_and_after_a_person_resumes_nothing_is_lost_or_doubled(
    sqlite_database: Database, world: ChainWorld
) -> None:
    world.record(sqlite_database)
    chain = by_hand(world)
    drive = Driver(sqlite_database, chain, world)
    ident = append(sqlite_database, world, "first")
    drive()
    nonce = look(sqlite_database, ident).nonce or 0
    # The thief outbids what waits in the pool.
    steal(world, nonce=nonce)
    world.mine(1)
    drive()

    assert alarms(sqlite_database) == ["foreign_nonce"]
    other = append(sqlite_database, world, "second")
    drive(2)
    assert look(sqlite_database, other).state == "queued"
    with pytest.raises(Conflict, match="not final"):
        resume_account(sqlite_database, chain, "admin", now_ms=90_000)

    world.mine(4)
    drive(2)
    assert look(sqlite_database, ident).state == "lost"
    assert resume_account(sqlite_database, chain, "admin", now_ms=100_000) == nonce + 1
    drive(2)
    world.mine(4)
    drive(3)

    assert [look(sqlite_database, one).state for one in (ident, other)] == ["final", "final"]
    assert appended(world) == 2
    assert alarms(sqlite_database) == []


def test_a_nonce_used_while_nothing_was_queued_is_seen_at_the_next_step(
    sqlite_database: Database, world: ChainWorld
) -> None:
    world.record(sqlite_database)
    first = append(sqlite_database, world, "first")
    drive = Driver(sqlite_database, world.chain, world)
    drive(4)
    steal(world, nonce=(look(sqlite_database, first).nonce or 0) + 1)
    world.mine(1)

    drive()

    assert alarms(sqlite_database) == ["foreign_nonce"]
    with sqlite_database.reading() as tx:
        assert is_credit_stopped(tx)


def test_one_lying_node_of_two_makes_nothing_final(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy
) -> None:
    world.record(sqlite_database)
    ident = append(sqlite_database, world)
    liar = RpcProxy(world.anvil.url if world.anvil else "")
    try:
        real = by_hand(world)

        def lie(method: str, params: list[Any], result: Any) -> Any:
            if method == "eth_getTransactionReceipt" and result is None:
                return {
                    "transactionHash": params[0], "blockNumber": "0x1", "blockHash": "0x" + "cd" * 32, "status": "0x1",
                    "gasUsed": "0x5208", "logs": [],
                }  # fmt: skip
            if method == "eth_getBlockByNumber" and params[0] == "0x1":
                return {**result, "hash": "0x" + "cd" * 32}
            return result

        first = behind(liar)
        liar.lie = lie
        drive = Driver(sqlite_database, PairedChain(first, real), world)
        drive(3)
        assert look(sqlite_database, ident).state == "sent"
        assert appended(world) == 0

        liar.lie = None
        world.mine(4)
        drive(3)
        assert look(sqlite_database, ident).state == "final"
        assert appended(world) == 1
    finally:
        liar.stop()


def test_a_node_of_another_chain_is_refused_at_start(
    sqlite_database: Database, world: ChainWorld, proxy: RpcProxy, tmp_path: Path
) -> None:
    world.record(sqlite_database)
    proxy.lie = lambda method, params, result: "0x1" if method == "eth_chainId" else result

    with pytest.raises(WrongChain, match="--new-chain"):
        ChainSender(sqlite_database, open_chain(proxy.url, tmp_path), world.signer)
    with pytest.raises(WrongChain, match="different chains"):
        open_chain(f"{proxy.url},{world.anvil.url if world.anvil else ''}", tmp_path)
