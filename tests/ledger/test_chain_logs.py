"""Freeze and successor: a thief's anchor is cut off, our own entries go on from the last good root (T9, point 7)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from contracts.clients import TransparencyLogClient
from core.errors import Broken, Conflict, Rejected
from core.merkle import tree_root
from ledger.anchor import Anchorer, anchors_between, last_final_anchor
from ledger.chain_alarms import open_alarms
from ledger.chain_logs import log_lines, log_of, note_successor
from ledger.chain_succession import freeze, plan_freeze, rotate_publisher, succeed
from ledger.chain_tx import ChainSender, current_deployment, enqueue, is_credit_stopped, state_of
from ledger.chain_tx_tables import chain_accounts
from ledger.database import Database
from tests.chain_fixtures import ChainWorld, anvil_world, built_in_world
from tests.ledger.test_anchor import EAGER, Parts


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


class Operated(Parts):
    """The operator's steps over the running parts."""

    def wait(self, ids: list[int]) -> None:
        for _ in range(40):
            self.now_ms += 4_000
            self.sender.step(self.now_ms)
            with self.database.reading() as tx:
                states = [state_of(tx, ident) for ident in ids]
            if all(one.is_settled for one in states):
                break
        refused = [one.reason for one in states if one.state != "final"]
        if refused:
            raise Conflict(f"The contract refused: {refused[0]}", code="chain_refused")

    def freeze(self, last_good: int, reason: str = "stolen key") -> int:
        plan = plan_freeze(self.database, self.chains.chain, last_good)
        return freeze(self.database, self.chains.chain, plan, reason=reason, now_ms=self.now_ms, wait=self.wait)

    def succeed(self, *, keep_publisher: bool = False) -> int:
        found = succeed(
            self.database, self.chains.chain, self.chains.signer, keep_publisher=keep_publisher,
            now_ms=self.now_ms, wait=self.wait,
        )  # fmt: skip
        return found.log_id

    def steal(self, size: int, prev: int) -> None:
        """A thief anchors garbage with the publisher's key; any 'proof' over garbage it made itself."""
        data = self.contract.anchor_call(0, prev_size=prev, size=size, root=b"\x66" * 32, proof=[])
        with self.database.transaction() as tx:
            ident = enqueue(
                tx, account="publisher", to=self.contract.address, data=data, purpose="theft", reference="1", now_ms=1
            )
        self.wait([ident])

    def alarms(self) -> list[str]:
        with self.database.reading() as tx:
            return [alarm.code for alarm in open_alarms(tx)]


def grown(database: Database, chains: ChainWorld) -> Operated:
    parts = Operated(database, chains)
    parts.grow(3)
    parts.settle()
    parts.grow(2)
    parts.settle()
    return parts


def test_after_a_freeze_the_successor_extends_the_last_good_root_and_everything_is_anchored_again(
    database: Database, chains: ChainWorld
) -> None:
    parts = grown(database, chains)
    with database.reading() as tx:
        first, second = anchors_between(tx)

    cut = parts.freeze(first.size)
    parts.grow()
    parts.run(2)
    with database.reading() as tx:
        stopped = is_credit_stopped(tx)
        frozen = last_final_anchor(tx)
    log_id = parts.succeed()
    parts.settle()

    leaves = parts.leaves()
    contract = parts.contract
    assert cut == 1
    assert stopped
    assert frozen == first
    assert log_id == 1
    assert contract.log_at(1).predecessor == 0
    assert contract.root_at(0, second.size) is None
    assert contract.root_at(0, first.size) == contract.root_at(1, first.size) == tree_root(leaves[: first.size])
    assert contract.log_at(1).size == len(leaves)
    assert contract.root_at(1, len(leaves)) == tree_root(leaves)
    with database.reading() as tx:
        assert [one.size for one in anchors_between(tx)] == [first.size, len(leaves)]
        assert [log_of(tx, one.size) for one in anchors_between(tx)] == [0, 1]
        assert [(line.log_id, line.predecessor, line.start, line.last_good) for line in log_lines(tx)] == [
            (0, None, 0, first.size),
            (1, 0, first.size, None),
        ]
        assert log_lines(tx)[0].reason == "stolen key"
        assert open_alarms(tx) == []
    parts.anchorer.check_start(now_ms=parts.now_ms)


def test_a_thiefs_garbage_is_cut_off_and_the_stolen_key_anchors_nothing_any_more(
    sqlite_database: Database, chains: ChainWorld
) -> None:
    parts = Operated(sqlite_database, chains)
    parts.steal(77, 0)
    parts.grow(2)
    parts.run(3)
    assert parts.alarms() == ["foreign_anchor"]
    with pytest.raises(Rejected) as raised:
        plan_freeze(sqlite_database, chains.chain, 5)
    assert raised.value.code == "size_not_anchored"

    parts.freeze(0)
    parts.succeed()
    parts.settle()

    leaves = parts.leaves()
    assert parts.contract.root_at(0, 77) is None
    assert parts.contract.root_at(1, len(leaves)) == tree_root(leaves)
    assert parts.alarms() == []
    with sqlite_database.reading() as tx:
        _, description = current_deployment(tx)
        names = tx.execute(sa.select(chain_accounts.c.name)).scalars().all()
    assert description.publisher_account == "publisher-2"
    assert parts.contract.publisher() == description.publisher == chains.signer.address("publisher-2")
    assert "publisher" not in names
    data = parts.contract.anchor_call(1, prev_size=len(leaves), size=99, root=b"\x66" * 32, proof=[])
    with sqlite_database.transaction() as tx:
        again = enqueue(
            tx, account="publisher", to=parts.contract.address, data=data, purpose="theft", reference="2", now_ms=1
        )
    with pytest.raises(Conflict, match="not publisher"):
        parts.wait([again])


def test_the_steps_may_be_repeated_and_interrupted_anywhere(sqlite_database: Database, built_in: ChainWorld) -> None:
    parts = grown(sqlite_database, built_in)
    with sqlite_database.reading() as tx:
        first, _ = anchors_between(tx)
    plan = plan_freeze(sqlite_database, built_in.chain, first.size)
    given: list[int] = []

    def interrupted(ids: list[int]) -> None:
        given.extend(ids)
        parts.wait(ids)
        raise KeyboardInterrupt

    arguments = {"now_ms": parts.now_ms, "wait": interrupted}
    with pytest.raises(KeyboardInterrupt):
        freeze(sqlite_database, built_in.chain, plan, reason="a drill", **arguments)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            succeed(sqlite_database, built_in.chain, built_in.signer, keep_publisher=False, **arguments)
    assert parts.succeed() == 1
    assert parts.contract.log_count() == 2
    assert len(given) == len(set(given)) + 2  # set_publisher and its funding were asked for twice and sent once
    parts.settle()

    assert parts.contract.log_at(1).size == len(parts.leaves())
    with sqlite_database.reading() as tx:
        assert log_lines(tx)[0].reason == "frozen on the chain"


def test_a_log_that_goes_on_has_no_successor_and_a_frozen_one_is_not_frozen_again(
    sqlite_database: Database, built_in: ChainWorld
) -> None:
    parts = grown(sqlite_database, built_in)
    with sqlite_database.reading() as tx:
        first, second = anchors_between(tx)

    with pytest.raises(Conflict) as raised:
        parts.succeed()
    assert raised.value.code == "not_frozen"
    with pytest.raises(Rejected):
        parts.freeze(second.size, reason=" ")
    assert parts.contract.log_at(0).is_frozen is False
    parts.freeze(second.size)
    with pytest.raises(Conflict) as raised:
        plan_freeze(sqlite_database, built_in.chain, first.size)
    assert raised.value.code == "frozen"
    with sqlite_database.transaction() as tx:
        _, description = current_deployment(tx)
        with pytest.raises(Conflict):
            note_successor(tx, replace(description, log_id=1), start=first.size, now_ms=1)


def test_a_database_whose_bytes_differ_from_the_last_good_root_neither_freezes_nor_succeeds(
    sqlite_database: Database, built_in: ChainWorld
) -> None:
    parts = grown(sqlite_database, built_in)
    with sqlite_database.reading() as tx:
        first, second = anchors_between(tx)
    flip = "UPDATE messages SET jwt = CAST(substr(jwt, 1, 99) || 'x' || substr(jwt, 101) AS BLOB)"
    with sqlite_database.transaction() as tx:
        tx.exec_driver_sql("DROP TRIGGER messages_no_update")
    with sqlite_database.transaction() as tx:
        tx.exec_driver_sql(flip + f" WHERE arrival = (SELECT arrival FROM entries WHERE leaf = {second.size - 2})")

    with pytest.raises(Broken) as raised:
        plan_freeze(sqlite_database, built_in.chain, second.size)
    assert raised.value.code == "root_mismatch"
    parts.freeze(first.size)
    with pytest.raises(Broken) as raised:
        parts.succeed()

    assert raised.value.code == "root_mismatch"
    assert parts.contract.log_count() == 1


def test_two_anchorers_over_a_succession_make_one_chain_of_anchors(
    sqlite_database: Database, built_in: ChainWorld
) -> None:
    parts = grown(sqlite_database, built_in)
    second, sender = Anchorer(sqlite_database, built_in.chain, EAGER), None
    with sqlite_database.reading() as tx:
        first, _ = anchors_between(tx)
    parts.grow()
    parts.anchorer.step(parts.now_ms + 50_000)

    parts.freeze(first.size)
    second.step(parts.now_ms + 1)
    parts.succeed(keep_publisher=True)
    sender = ChainSender(sqlite_database, built_in.chain, built_in.signer)
    for number in range(6):
        parts.grow()
        parts.run()
        second.step(parts.now_ms + 1)
        sender.step(parts.now_ms + number)
    parts.settle()

    with sqlite_database.reading() as tx:
        found = anchors_between(tx)
        assert open_alarms(tx) == []
    assert [one.prev_size for one in found] == [0, *(one.size for one in found[:-1])]
    assert {one.state for one in found} == {"final"}
    assert parts.contract.publisher() == built_in.signer.address("publisher")
    assert parts.contract.log_at(1).size == len(parts.leaves())
    assert TransparencyLogClient(built_in.chain, parts.contract.address).log_at(0).size == first.size


def test_a_rotated_publisher_goes_on_with_the_same_log_and_the_old_key_anchors_nothing_any_more(
    sqlite_database: Database, chains: ChainWorld
) -> None:
    parts = grown(sqlite_database, chains)
    parts.grow()
    parts.now_ms += 4_000
    parts.anchorer.step(parts.now_ms)  # fixed for the old key, not signed yet

    found, _ = rotate_publisher(sqlite_database, chains.chain, chains.signer, now_ms=parts.now_ms, wait=parts.wait)
    parts.grow()
    parts.settle()
    second, _ = rotate_publisher(sqlite_database, chains.chain, chains.signer, now_ms=parts.now_ms, wait=parts.wait)
    parts.grow()
    parts.settle()

    assert (found.publisher_account, second.publisher_account, second.log_id) == ("publisher-2", "publisher-3", 0)
    assert parts.contract.publisher() == chains.signer.address("publisher-3")
    assert parts.contract.log_at(0).size == len(parts.leaves())
    with sqlite_database.reading() as tx:
        live = anchors_between(tx)
        assert {one.state for one in live} == {"final"}
        assert [one.prev_size for one in live] == [0, *(one.size for one in live[:-1])]
        assert open_alarms(tx) == []
    size = len(parts.leaves())
    data = parts.contract.anchor_call(0, prev_size=size, size=size + 1, root=b"\x66" * 32, proof=[])
    with sqlite_database.transaction() as tx:
        theft = enqueue(
            tx, account="publisher-2", to=parts.contract.address, data=data, purpose="theft", reference="1", now_ms=1
        )
    with pytest.raises(Conflict, match="not publisher"):
        parts.wait([theft])
