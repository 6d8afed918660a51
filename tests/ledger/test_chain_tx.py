"""The sender: exactly once through crashes, on SQLite and PostgreSQL, on the built-in chain and on Anvil."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts.chain import WrongChain
from contracts.clients import OrganisationRegistryClient, Role
from core.errors import Conflict, Rejected
from ledger.chain_book import attempts_of, current_deployment
from ledger.chain_tx import (
    ChainSender,
    ChainTx,
    SenderSettings,
    check_start,
    enqueue,
    enqueue_funding,
    open_alarms,
    record_deployment,
    state_of,
)
from ledger.database import Database
from tests.chain_fixtures import ChainWorld, anvil_world, built_in_world, new_built_in_world

ORG = b"\x07" * 32


class Crash(Exception):
    """The process dies here."""


def dies_at(point: str) -> Callable[[str], None]:
    def at(reached: str) -> None:
        if reached == point:
            raise Crash(point)

    return at


@pytest.fixture(params=["eth-tester", "anvil"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChainWorld]:
    if request.param == "eth-tester":
        found = built_in_world(tmp_path)
        yield found
        found.chain.close()
        return
    with anvil_world(tmp_path) as found:
        yield found


def registry(world: ChainWorld) -> OrganisationRegistryClient:
    return OrganisationRegistryClient(world.chain, world.deployment.organisations)


def appended(world: ChainWorld) -> int:
    """How often the queued call really happened: each one appends a version."""
    return registry(world).version_count(ORG)


def append(database: Database, world: ChainWorld, reference: str, *, now_ms: int = 10) -> int:
    data = registry(world).set_organisation_call(
        ORG, record_key=b"\x01" * 32, account="0x" + "0a" * 20, roles=Role.MAKER
    )
    with database.transaction() as tx:
        return enqueue(
            tx, account="admin", to=world.deployment.organisations, data=data, purpose="org", reference=reference,
            now_ms=now_ms,
        )  # fmt: skip


def drive(sender: ChainSender, *, steps: int = 12, now_ms: int = 1_000, every_ms: int = 4_000) -> None:
    for number in range(steps):
        sender.step(now_ms + number * every_ms)


def look(database: Database, ident: int) -> ChainTx:
    with database.reading() as tx:
        return state_of(tx, ident)


def test_what_is_queued_becomes_final_in_the_order_of_its_ids(database: Database, world: ChainWorld) -> None:
    world.record(database)
    idents = [append(database, world, f"n{number}") for number in range(5)]

    drive(ChainSender(database, world.chain, world.signer))

    found = [look(database, ident) for ident in idents]
    assert [one.state for one in found] == ["final"] * 5
    assert [one.nonce for one in found] == list(range(found[0].nonce or 0, (found[0].nonce or 0) + 5))
    assert appended(world) == 5
    assert all(world.chain.block_hash(one.block_number or 0) == one.block_hash for one in found)


def test_the_same_reference_is_sent_once_and_other_contents_are_refused(database: Database, world: ChainWorld) -> None:
    world.record(database)
    first, second = append(database, world, "same"), append(database, world, "same")

    drive(ChainSender(database, world.chain, world.signer))

    assert first == second
    assert appended(world) == 1
    with database.transaction() as tx, pytest.raises(Conflict, match="other contents"):
        enqueue(
            tx,
            account="admin",
            to=world.deployment.organisations,
            data=b"\x01",
            purpose="org",
            reference="same",
            now_ms=1,
        )


@pytest.mark.parametrize("point", ["before_sign", "signed", "before_send", "sent", "mined", "before_final", "final"])
def test_a_crash_at_any_point_neither_loses_nor_doubles(database: Database, world: ChainWorld, point: str) -> None:
    world.record(database)
    ident = append(database, world, "crash")
    dying = ChainSender(database, world.chain, world.signer, at=dies_at(point))
    crashes = 0
    for number in range(4):
        try:
            dying.step(1_000 + 4_000 * number)
        except Crash:
            crashes += 1

    drive(ChainSender(database, world.chain, world.signer), now_ms=40_000)

    if point != "mined" or not world.chain.is_tester:
        assert crashes > 0
    assert look(database, ident).state == "final"
    assert appended(world) == 1


def test_two_senders_alive_send_each_chain_tx_once(database: Database, world: ChainWorld) -> None:
    world.record(database)
    idents = [append(database, world, f"n{number}") for number in range(6)]
    senders = [ChainSender(database, world.chain, world.signer) for _ in range(2)]

    for number in range(24):
        senders[number % 2].step(1_000 + number * 2_000)

    assert [look(database, ident).state for ident in idents] == ["final"] * 6
    assert appended(world) == 6
    with database.reading() as tx:
        assert all(len(tried) == 1 for tried in attempts_of(tx, idents).values())


def test_a_call_the_contract_refuses_is_never_sent_and_says_why(database: Database, world: ChainWorld) -> None:
    world.record(database)
    data = registry(world).set_organisation_call(ORG, record_key=b"\x01" * 32, account="0x" + "0a" * 20, roles=1)
    with database.transaction() as tx:
        ident = enqueue(
            tx, account="pauser", to=world.deployment.organisations, data=data, purpose="org", reference="no", now_ms=1
        )
    before = world.chain.nonce(world.signer.address("pauser"))

    drive(ChainSender(database, world.chain, world.signer), steps=3)

    found = look(database, ident)
    assert (found.state, found.reason, found.nonce) == ("reverted", "not admin", None)
    assert world.chain.nonce(world.signer.address("pauser")) == before
    assert appended(world) == 0


def test_a_chain_tx_that_reverts_in_a_block_is_reverted_with_the_contracts_reason(
    database: Database, world: ChainWorld
) -> None:
    world.record(database)
    data = registry(world).set_organisation_call(ORG, record_key=b"\x01" * 32, account="0x" + "0a" * 20, roles=1)
    with database.transaction() as tx:
        ident = enqueue(
            tx, account="pauser", to=world.deployment.organisations, data=data, purpose="org", reference="no", now_ms=1,
            gas=200_000,
        )  # fmt: skip

    drive(ChainSender(database, world.chain, world.signer))

    found = look(database, ident)
    assert (found.state, found.reason) == ("reverted", "not admin")
    assert found.block_number is not None
    assert (found.gas_used or 0) > 21_000


def test_an_empty_account_raises_an_alarm_and_goes_on_when_it_is_funded(database: Database, world: ChainWorld) -> None:
    world.record(database)
    sender = ChainSender(database, world.chain, world.signer)
    with database.transaction() as tx:
        poor = enqueue(
            tx, account="org-1", to="0x" + "0b" * 20, data=b"", purpose="x", reference="1", now_ms=1, gas=30_000
        )
    drive(sender, steps=2)
    with database.reading() as tx:
        codes = [(alarm.code, alarm.account) for alarm in open_alarms(tx)]
    assert codes == [("empty_balance", "org-1")]
    assert look(database, poor).state == "queued"

    with database.transaction() as tx:
        enqueue_funding(tx, address=world.signer.address("org-1"), value=10**18, reference="org-1", now_ms=2)
    drive(sender, now_ms=20_000)

    assert look(database, poor).state == "final"
    with database.reading() as tx:
        assert open_alarms(tx) == []


def test_a_fee_above_the_cap_is_not_paid(database: Database, world: ChainWorld) -> None:
    world.record(database)
    ident = append(database, world, "dear")

    drive(ChainSender(database, world.chain, world.signer, SenderSettings(fee_cap_wei=0)), steps=2)

    assert look(database, ident).state == "queued"
    with database.reading() as tx:
        assert [alarm.code for alarm in open_alarms(tx)] == ["fee_cap"]
    drive(ChainSender(database, world.chain, world.signer), now_ms=20_000)
    assert look(database, ident).state == "final"


def test_no_more_than_the_bound_is_under_way(database: Database, tmp_path: Path) -> None:
    with anvil_world(tmp_path) as world:
        world.record(database)
        world.ask("evm_setAutomine", False)
        for number in range(5):
            append(database, world, f"n{number}")
        sender = ChainSender(database, world.chain, world.signer, SenderSettings(unfinal_max=2))

        report = sender.step(1_000)
        again = sender.step(2_000)

        assert len(report.signed) <= 2
        assert len(report.signed) + len(again.signed) == 2


def test_a_database_of_other_contracts_is_refused_until_new_chain_is_asked_for(
    sqlite_database: Database, tmp_path: Path
) -> None:
    one, other = new_built_in_world(tmp_path / "one"), new_built_in_world(tmp_path / "other")
    check_start(sqlite_database, one.chain, one.deployment, now_ms=1)

    with pytest.raises(WrongChain, match="--new-chain"):
        check_start(sqlite_database, other.chain, other.deployment, now_ms=2)
    with sqlite_database.reading() as tx:
        assert current_deployment(tx)[1] == one.deployment

    check_start(sqlite_database, other.chain, other.deployment, now_ms=3, is_new_chain=True)
    with sqlite_database.transaction() as tx:
        assert current_deployment(tx)[1] == other.deployment
        assert record_deployment(tx, other.deployment, now_ms=4) == 2


def test_an_unknown_chain_tx_and_bad_input_are_refused(sqlite_database: Database, tmp_path: Path) -> None:
    world = built_in_world(tmp_path)
    world.record(sqlite_database)

    with sqlite_database.transaction() as tx:
        with pytest.raises(Rejected):
            state_of(tx, 99)
        with pytest.raises(Rejected, match="address"):
            enqueue(tx, account="admin", to="0x12", data=b"", purpose="x", reference="1", now_ms=1)
        with pytest.raises(Rejected, match="Calldata"):
            enqueue(tx, account="admin", to=None, data=b"\x00" * 200_000, purpose="x", reference="1", now_ms=1)
