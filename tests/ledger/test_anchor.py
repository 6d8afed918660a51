"""Anchors on real chains: rebuilt from stored bytes, once each, through crashes, refused when something is wrong."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from contracts.clients import TransparencyLogClient
from core.errors import Broken
from core.merkle import Frontier, consistency_proof, leaf_hash, tree_root, verify_consistency
from ledger.anchor import (
    Anchorer,
    AnchorSettings,
    anchors_between,
    extend,
    final_anchor_over,
    is_due,
    last_anchor,
    last_final_anchor,
    read_leaves,
    unfinal_count,
)
from ledger.chain_alarms import open_alarms
from ledger.chain_tx import ChainSender, enqueue, is_credit_stopped, state_of
from ledger.database import Database, open_database
from ledger.tables import checkpoints
from tests.chain_fixtures import ChainWorld, anvil_world, built_in_world
from tests.ledger.world import World, seen

EAGER = AnchorSettings(interval_ms=1, leaves=1_000_000, unfinal_max=4)


class Crash(Exception):
    """The process dies here."""


def dies_at(point: str) -> Callable[[str], None]:
    def at(reached: str) -> None:
        if reached == point:
            raise Crash(point)

    return at


@pytest.fixture(params=["eth-tester", "anvil"])
def chains(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChainWorld]:
    if request.param == "eth-tester":
        yield built_in_world(tmp_path)
        return
    with anvil_world(tmp_path) as found:
        yield found


@pytest.fixture
def built_in(tmp_path: Path) -> ChainWorld:
    return built_in_world(tmp_path)


class Parts:
    """Log, anchorer and sender with one clock."""

    def __init__(self, database: Database, chains: ChainWorld, settings: AnchorSettings = EAGER) -> None:
        chains.record(database)
        self.database, self.chains = database, chains
        self.log = World(database).start()
        self.anchorer = Anchorer(database, chains.chain, settings)
        self.sender = ChainSender(database, chains.chain, chains.signer)
        self.now_ms = 1_000_000
        self.count = 0

    def grow(self, messages: int = 1) -> None:
        for _ in range(messages):
            self.count += 1
            self.log.send("line-1", seen(self.count))
        self.log.step()

    def run(self, steps: int = 1, *, every_ms: int = 4_000) -> None:
        for _ in range(steps):
            self.now_ms += every_ms
            self.anchorer.step(self.now_ms)
            self.sender.step(self.now_ms)

    def settle(self) -> None:
        self.run(8)

    @property
    def contract(self) -> TransparencyLogClient:
        return TransparencyLogClient(self.chains.chain, self.chains.deployment.log_contract)

    def leaves(self) -> list[bytes]:
        with self.database.reading() as tx:
            size = tx.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one()
            return read_leaves(tx, 0, size)


def test_every_anchor_on_the_contract_is_the_root_of_the_stored_bytes(database: Database, chains: ChainWorld) -> None:
    parts = Parts(database, chains)
    for number in range(5):
        parts.grow(number + 1)
        parts.run(2)
    parts.settle()

    leaves = parts.leaves()
    with database.reading() as tx:
        found = anchors_between(tx)
        final = last_final_anchor(tx)
    assert len(found) >= 5
    assert [one.prev_size for one in found] == [0, *(one.size for one in found[:-1])]
    for one in found:
        assert one.state == "final"
        assert parts.contract.root_at(0, one.size) == tree_root(leaves[: one.size])
    assert final is not None
    assert final.size == len(leaves) == parts.contract.log_at(0).size
    assert 0 < (final.gas_used or 0) <= 100_000


@pytest.mark.parametrize("point", ["before_fix", "fixed", "before_final"])
def test_a_crash_of_the_anchorer_at_any_point_anchors_once(
    sqlite_database: Database, chains: ChainWorld, point: str
) -> None:
    parts = Parts(sqlite_database, chains)
    parts.grow()
    dying = Anchorer(sqlite_database, chains.chain, EAGER, at=dies_at(point))
    crashes = 0
    for number in range(6):
        try:
            dying.step(2_000_000 + number)
        except Crash:
            crashes += 1
        parts.sender.step(2_000_000 + number * 4_000)
    parts.now_ms = 3_000_000
    parts.settle()

    assert crashes
    with sqlite_database.reading() as tx:
        found = anchors_between(tx)
    assert [one.state for one in found] == ["final"] * len(found)
    assert parts.contract.log_at(0).size == found[-1].size == len(parts.leaves())


@pytest.mark.parametrize("point", ["signed", "before_send", "sent", "mined", "before_final", "final"])
def test_a_crash_of_the_sender_under_an_anchor_anchors_once(
    sqlite_database: Database, chains: ChainWorld, point: str
) -> None:
    parts = Parts(sqlite_database, chains)
    parts.grow()
    dying = ChainSender(sqlite_database, chains.chain, chains.signer, at=dies_at(point))
    parts.anchorer.step(2_000_000)
    for number in range(4):
        try:
            dying.step(2_000_000 + number * 4_000)
        except Crash:
            continue
    parts.now_ms = 3_000_000
    parts.settle()

    with sqlite_database.reading() as tx:
        assert [one.state for one in anchors_between(tx)] == ["final"]
    assert parts.contract.log_at(0).size == len(parts.leaves())


def test_two_anchorers_and_two_senders_alive_make_one_chain_of_anchors(database: Database, chains: ChainWorld) -> None:
    parts = Parts(database, chains)
    second = Anchorer(database, chains.chain, EAGER)
    sender = ChainSender(database, chains.chain, chains.signer)
    for number in range(6):
        parts.grow()
        parts.run()
        second.step(parts.now_ms + 1)
        sender.step(parts.now_ms + 1)
        if number % 2:
            second.step(parts.now_ms + 2)
    parts.settle()

    with database.reading() as tx:
        found = anchors_between(tx)
    assert [one.prev_size for one in found] == [0, *(one.size for one in found[:-1])]
    assert {one.state for one in found} == {"final"}
    assert parts.contract.log_at(0).size == len(parts.leaves())


@pytest.mark.unit
def test_anchors_wait_for_the_interval_or_for_enough_leaves() -> None:
    settings = AnchorSettings(interval_ms=10_000, leaves=100, unfinal_max=2)

    def due(size: int, now_ms: int, *, unfinal: int = 0, last_ms: int | None = 0) -> bool:
        return is_due(tip=50, size=size, last_ms=last_ms, unfinal=unfinal, now_ms=now_ms, settings=settings)

    assert not due(50, 99_000)
    assert not due(60, 9_999)
    assert due(60, 10_000)
    assert due(150, 1)
    assert due(60, 0, last_ms=None)
    assert not due(150, 99_000, unfinal=2)
    assert due(60, 10_000, last_ms=7_200_000)


def test_no_more_than_the_bound_of_anchors_waits_for_finality(sqlite_database: Database, built_in: ChainWorld) -> None:
    parts = Parts(sqlite_database, built_in, AnchorSettings(interval_ms=1, unfinal_max=2))
    for number in range(5):
        parts.grow()
        parts.anchorer.step(2_000_000 + number * 10)

    with sqlite_database.reading() as tx:
        assert unfinal_count(tx) == 2
    parts.settle()
    with sqlite_database.reading() as tx:
        final = last_final_anchor(tx)
    assert final is not None
    assert final.size == len(parts.leaves())


def test_one_flipped_byte_in_a_stored_message_stops_anchoring_with_an_alarm(
    sqlite_database: Database, built_in: ChainWorld
) -> None:
    parts = Parts(sqlite_database, built_in)
    parts.grow(3)
    with sqlite_database.transaction() as tx:
        # Someone with the right to do so takes the trigger away first.
        tx.exec_driver_sql("DROP TRIGGER messages_no_update")
        tx.exec_driver_sql("UPDATE messages SET jwt = CAST(substr(jwt, 1, 99) || 'x' || substr(jwt, 101) AS BLOB)")

    with pytest.raises(Broken) as raised:
        parts.run()

    assert raised.value.code == "root_mismatch"
    assert parts.contract.log_at(0).size == 0
    with sqlite_database.reading() as tx:
        assert last_anchor(tx) is None
        assert [alarm.code for alarm in open_alarms(tx)] == ["root_mismatch"]
        assert is_credit_stopped(tx)


def test_a_restored_old_backup_is_refused_at_start(
    sqlite_database: Database, built_in: ChainWorld, tmp_path: Path
) -> None:
    parts = Parts(sqlite_database, built_in)
    parts.grow()
    parts.settle()
    sqlite_database.close()
    shutil.copy(tmp_path / "tracebond.db", tmp_path / "old.db")
    parts.grow()
    parts.settle()
    parts.anchorer.check_start(now_ms=9_000_000)
    old = open_database(f"sqlite:///{tmp_path / 'old.db'}")

    with pytest.raises(Broken) as raised:
        Anchorer(old, built_in.chain).check_start(now_ms=9_000_000)

    assert raised.value.code == "database_behind_chain"
    old.close()


def test_an_anchor_by_a_thief_of_the_publishers_key_stops_anchoring(
    sqlite_database: Database, built_in: ChainWorld
) -> None:
    parts = Parts(sqlite_database, built_in)
    parts.grow()
    data = parts.contract.anchor_call(0, prev_size=0, size=77, root=b"\x66" * 32, proof=[])
    with sqlite_database.transaction() as tx:
        # The thief's chain_tx by the same account, unknown to the anchors' table.
        enqueue(tx, account="publisher", to=parts.contract.address, data=data, purpose="theft", reference="1", now_ms=1)
    parts.sender.step(1_500_000)

    parts.run(3)

    with sqlite_database.reading() as tx:
        assert [alarm.code for alarm in open_alarms(tx)] == ["foreign_anchor"]
        assert last_anchor(tx) is None
    with pytest.raises(Broken):
        parts.anchorer.check_start(now_ms=9_000_000)


def test_a_pause_makes_anchors_wait_and_a_failed_one_is_replaced_by_one_new(
    sqlite_database: Database, built_in: ChainWorld
) -> None:
    parts = Parts(sqlite_database, built_in)
    parts.grow()
    parts.anchorer.step(1_500_000)
    with sqlite_database.reading() as tx:
        first = last_anchor(tx)
    _as_pauser(parts, parts.contract.pause_call(), "pause")
    parts.run(3)
    with sqlite_database.reading() as tx:
        assert last_anchor(tx) is None
        assert first is not None
        assert first.chain_tx is not None
        assert state_of(tx, first.chain_tx).state == "reverted"
        assert [alarm.code for alarm in open_alarms(tx)] == ["log_paused"]

    _as_pauser(parts, parts.contract.unpause_call(), "unpause")
    parts.settle()

    with sqlite_database.reading() as tx:
        assert [one.state for one in anchors_between(tx)] == ["final"]
        assert open_alarms(tx) == []
    assert parts.contract.log_at(0).size == len(parts.leaves())


def _as_pauser(parts: Parts, data: bytes, reference: str) -> None:
    """Straight to the chain, before what is queued."""
    chain, signer = parts.chains.chain, parts.chains.signer
    fees = chain.fees()
    chain.send_raw(
        signer.sign_tx(
            "pauser",
            {
                "chainId": chain.chain_id,
                "nonce": chain.nonce(signer.address("pauser")),
                "to": parts.contract.address,
                "value": 0,
                "data": data,
                "gas": 100_000,
                "maxFeePerGas": fees.base * 2 + fees.priority,
                "maxPriorityFeePerGas": fees.priority,
            },
        )
    )


def test_the_anchor_that_covers_a_leaf_is_the_first_final_one_above_it(
    sqlite_database: Database, built_in: ChainWorld
) -> None:
    parts = Parts(sqlite_database, built_in)
    parts.settle()
    parts.grow()
    parts.settle()

    with sqlite_database.reading() as tx:
        first, second = anchors_between(tx)
        assert final_anchor_over(tx, 0) == first
        assert final_anchor_over(tx, first.size - 1) == first
        assert final_anchor_over(tx, first.size) == second
        assert final_anchor_over(tx, second.size) is None


@pytest.mark.unit
def test_extensions_give_the_roots_and_proofs_of_the_whole_tree() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(64)]
    for m in range(65):
        before = Frontier()
        for leaf in leaves[:m]:
            before.append(leaf)
        for n in range(m + 1, 65):
            found = extend(before, leaves[m:n])

            assert found.root == tree_root(leaves[:n])
            assert found.frontier.size == n
            if m:
                assert list(found.proof) == consistency_proof(leaves[:n], m)
                verify_consistency(m, n, found.proof, tree_root(leaves[:m]), found.root)
            else:
                assert found.proof == ()
