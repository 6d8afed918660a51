"""What the chain refuses ends in a defined state with a case for people, and goes on by a command: nothing is stuck."""

from typing import Any

import pytest

from finance import chaincases, enforcement, lending, pledges, receiptchain, receipts
from finance.closing import sunset
from finance.commandlog import business_date
from finance.reconcile import compare
from finance.tables import claims, facilities, goods, loans, margin_calls
from finance.tables import pledges as pledges_table
from finance.tables import receipts as receipts_table
from ledger.chain_book import enqueue, state_of
from tests.finance.test_credit import refused
from tests.finance.test_lots import FACTORY, LOT, with_lots
from tests.finance.test_monitoring import defaulted, enforced, state
from tests.finance.world import (
    BANK,
    BORROWER,
    CHECKER,
    CUSTODIAN,
    MAKER_OF_BANK,
    OWNER,
    PALLET,
    PLACE,
    TINS,
    WAREHOUSE,
    FinanceWorld,
)

BIDS = [{"bidder": "a", "amount": "40000.00"}]


def pause(world: FinanceWorld, *, is_paused: bool = True) -> None:
    """The pauser stops the contract: everything but a release reverts from now on."""
    registry = world.ctx.registry
    data = registry.pause_call() if is_paused else registry.unpause_call()
    with world.database.transaction() as tx:
        enqueue(tx, account="pauser", to=registry.address, data=data, purpose="pause", reference=str(is_paused),
                now_ms=1)  # fmt: skip
    world.settle()


def cases(world: FinanceWorld, org: str = BANK) -> list[tuple[str, str, str]]:
    with world.database.reading() as tx:
        return [(case.purpose, case.state, case.next) for case in chaincases.chain_cases(tx, org)]


def pledge_of(world: FinanceWorld) -> Any:
    return world.query(pledges_table)[0]


def enforce(world: FinanceWorld, facility: str) -> None:
    asked = world.do(enforcement.propose_enforcement, MAKER_OF_BANK, facility=facility)
    world.do(enforcement.enforce, CHECKER, facility=facility, request=asked["request"], proposal=asked["proposal"])


def test_a_refused_enforcement_leaves_the_default_and_is_sent_again_by_a_person(world: FinanceWorld) -> None:
    facility = defaulted(world)
    pause(world)
    enforce(world, facility)
    world.settle()

    assert (pledge_of(world).state, state(world)) == ("ACTIVE", "DEFAULTED")
    assert "paused" in pledge_of(world).note
    assert cases(world) == [("enforce", "ACTIVE", "retry")]
    assert compare(world.database, world.ctx) == []
    refused("not_allowed", world.do, chaincases.retry_pledge, MAKER_OF_BANK, pledge=pledge_of(world).id)
    pause(world, is_paused=False)
    world.do(chaincases.retry_pledge, CHECKER, pledge=pledge_of(world).id)
    assert (pledge_of(world).state, state(world)) == ("ENFORCING", "ENFORCING")
    world.settle()
    assert cases(world) == []
    refused("nothing_to_retry", world.do, chaincases.retry_pledge, CHECKER, pledge=pledge_of(world).id)
    world.do(enforcement.book_sale, CHECKER, facility=facility, bids=BIDS, costs="0.00")
    world.settle()
    assert (pledge_of(world).state, state(world)) == ("REALISED", "CLOSED")


def test_an_approval_to_enforce_that_is_old_is_asked_for_anew(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    facility = defaulted(world)
    pause(world)
    enforce(world, facility)
    world.settle()
    pause(world, is_paused=False)
    world.clock += chaincases.APPROVAL_S + 1

    refused("expired", world.do, chaincases.retry_pledge, CHECKER, pledge=pledge_of(world).id)

    enforce(world, facility)
    world.settle()
    assert (pledge_of(world).state, state(world)) == ("ENFORCING", "ENFORCING")


def test_a_sale_that_the_chain_refuses_is_booked_once_and_settled_later(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    facility = enforced(world)
    pause(world)
    world.do(enforcement.book_sale, CHECKER, facility=facility, bids=BIDS, costs="0.00")
    world.settle()

    assert (pledge_of(world).state, state(world), world.query(loans)[0].state) == ("ENFORCING", "CLOSED", "REPAID")
    assert cases(world) == [("settle", "ENFORCING", "retry")]
    assert compare(world.database, world.ctx) == []
    refused("not_enforcing", world.do, enforcement.book_sale, CHECKER, facility=facility, bids=BIDS, costs="0.00")
    pause(world, is_paused=False)
    world.do(chaincases.retry_pledge, CHECKER, pledge=pledge_of(world).id)
    world.settle()
    assert (pledge_of(world).state, world.query(receipts_table)[0].state) == ("REALISED", "SEALED")
    assert world.ctx.registry.pledge_of(bytes(pledge_of(world).receipt)).state == "settled"
    assert cases(world) == []


def test_goods_are_not_sold_twice_while_something_is_owed(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    facility = enforced(world)
    small = [{"bidder": "a", "amount": "1000.00"}]
    world.do(enforcement.book_sale, CHECKER, facility=facility, bids=small, costs="0.00")

    refused("sold_already", world.do, enforcement.book_sale, CHECKER, facility=facility, bids=small, costs="0.00")


def test_a_borrower_that_pays_during_enforcement_gets_the_goods_back(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    facility = enforced(world)
    refused("money_owed", world.do, enforcement.cure_enforcement, CHECKER, facility=facility)
    loan = world.query(loans)[0].id
    with world.database.reading() as tx:
        owed = lending.owed(tx, loan, on=business_date(tx, world.clock)).text()
    world.do(lending.repay, BORROWER, loan=loan, amount=owed, reference="late")

    refused("nothing_owed", world.do, enforcement.book_sale, CHECKER, facility=facility, bids=BIDS, costs="0.00")
    pause(world)
    world.do(enforcement.cure_enforcement, CHECKER, facility=facility)
    world.settle()
    assert cases(world) == [("cure", "ENFORCING", "retry")]
    pause(world, is_paused=False)
    world.do(chaincases.retry_pledge, CHECKER, pledge=pledge_of(world).id)
    world.settle()

    assert (pledge_of(world).state, state(world)) == ("ACTIVE", "CLOSED")
    asked = world.do(pledges.request_release, MAKER_OF_BANK, pledge=pledge_of(world).id)
    world.do(pledges.approve_release, CHECKER, pledge=pledge_of(world).id, request=asked["request"],
             maker=MAKER_OF_BANK.person, release_hash=asked["release_hash"])  # fmt: skip
    world.settle()
    assert (pledge_of(world).state, world.query(receipts_table)[0].state) == ("RELEASED", "SEALED")


def test_a_facility_in_default_that_has_paid_closes_with_its_open_call(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    defaulted(world)
    loan = world.query(loans)[0].id
    with world.database.reading() as tx:
        today = business_date(tx, world.clock)
        owed = lending.owed(tx, loan, on=today).text()
    world.do(lending.repay, BORROWER, loan=loan, amount=owed, reference="late")

    with world.database.transaction() as tx:
        sunset(tx, world.ctx, today=today, now=world.clock)

    assert state(world) == "CLOSED"
    assert world.query(margin_calls)[0].state == "BREACHED"


def test_a_receipt_of_which_the_chain_takes_a_part_gives_all_of_it_back(
    sqlite_world: FinanceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = sqlite_world
    for module in (receipts, receiptchain):
        monkeypatch.setattr(module, "KEYS_PER_CALL", 3)
    registry, account = world.ctx.registry, world.ctx.account(WAREHOUSE)
    owner = world.chain.signer.address(world.ctx.account(OWNER))
    other = bytes.fromhex(world.chain.signer.address(account)[2:]) + b"o" * 12
    # Another node of the custodian has claimed the last tin; this database knows nothing of it.
    with world.database.transaction() as tx:
        enqueue(tx, account=account, to=registry.address, purpose="register", reference="other", now_ms=1,
                data=registry.register_call(other, owner, [(world.ctx.goods_key(TINS[5]), 1)]))  # fmt: skip
    world.settle()

    world.do(receipts.register_receipt, CUSTODIAN, item=PALLET, owner=OWNER, place=PLACE)
    assert [moved[2] for moved in world.settle().moved] == ["CANCELLING"]
    world.settle()

    row = world.query(receipts_table)[0]
    assert (row.state, registry.receipt_at(bytes(row.id)).state) == ("CANCELLED", "cancelled")
    assert {one.claimed for one in world.query(goods)} == {0}
    assert not any(one.is_live for one in world.query(claims))
    assert registry.claimed(world.ctx.goods_key(TINS[0])) == 0
    world.do(receipts.register_receipt, CUSTODIAN, item=TINS[0], owner=OWNER, place=PLACE)
    world.settle()
    assert sorted(one.state for one in world.query(receipts_table)) == ["CANCELLED", "SEALED"]


def test_claims_that_could_not_be_given_back_wait_for_the_custodian(
    sqlite_world: FinanceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = sqlite_world
    for module in (receipts, receiptchain):
        monkeypatch.setattr(module, "KEYS_PER_CALL", 3)
    gas = iter([400_000, 30_000, 400_000])
    monkeypatch.setattr(receipts, "claims_gas", lambda count: next(gas))
    done = world.do(receipts.register_receipt, CUSTODIAN, item=PALLET, owner=OWNER, place=PLACE)
    for _ in range(20):
        world.sender.step(world.clock * 1_000)
    pause(world)
    world.settle()
    world.settle()
    assert cases(world, WAREHOUSE) == [("cancel_failed", "CANCELLING", "retry")]

    pause(world, is_paused=False)
    world.do(chaincases.retry_receipt, CUSTODIAN, receipt=done["receipt"])
    world.settle()

    assert world.query(receipts_table)[0].state == "CANCELLED"
    assert cases(world, WAREHOUSE) == []
    refused("nothing_to_retry", world.do, chaincases.retry_receipt, CUSTODIAN, receipt=done["receipt"])


def test_a_split_that_stopped_half_way_goes_on(world: FinanceWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [PALLET, TINS[5]]
    done = world.do(receipts.register_receipt, CUSTODIAN, item=PALLET, owner=OWNER, place=PLACE)
    world.settle()
    gas = iter([1_000_000, 30_000])
    monkeypatch.setattr(receipts, "claims_gas", lambda count: next(gas))
    children = world.do(receipts.split_receipt, CUSTODIAN, receipt=done["receipt"], parts=parts)["children"]
    world.settle()
    world.settle()
    assert {row.state for row in world.query(receipts_table)} == {"SPLITTING", "REGISTERING"}
    assert ("split", "SPLITTING", "retry") in cases(world, WAREHOUSE)
    assert sum(row.quantity for row in world.query(claims) if row.is_live) == 7

    world.do(chaincases.retry_receipt, CUSTODIAN, receipt=children[parts[0]])
    world.settle()
    world.settle()

    assert sorted(row.state for row in world.query(receipts_table)) == ["SEALED", "SEALED", "SPLIT"]
    assert cases(world, WAREHOUSE) == []
    live = [(bytes(row.receipt), row.quantity) for row in world.query(claims) if row.is_live]
    assert len(live) == 7
    assert world.ctx.registry.receipt_at(live[0][0]).state == "sealed"


def test_a_lot_s_quantity_that_the_chain_refused_may_be_said_again(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    with_lots(world)
    pause(world)
    world.do(receipts.set_lot_capacity, FACTORY, lot=LOT, quantity=6)
    world.settle()
    refused("capacity_not_final", world.do, receipts.register_receipt, CUSTODIAN, item=PALLET, owner=OWNER, place=PLACE)
    pause(world, is_paused=False)

    world.do(receipts.set_lot_capacity, FACTORY, lot=LOT, quantity=7)
    world.settle()

    refused("capacity_set", world.do, receipts.set_lot_capacity, FACTORY, lot=LOT, quantity=8)
    assert world.ctx.registry.capacity(world.ctx.goods_key(LOT)) == 7_000_000
    world.do(receipts.register_receipt, CUSTODIAN, item=PALLET, owner=OWNER, place=PLACE)
    world.settle()
    with world.database.reading() as tx:
        assert all(state_of(tx, row.chain_tx).state == "final" for row in world.query(receipts_table))
    assert world.query(facilities) == []
