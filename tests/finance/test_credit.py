"""A loan from the warehouse to its repayment, on a real chain and both databases; and each way to be refused."""

from typing import Any

import pytest

from contracts.chain import Reverted
from core.canonical import b64u
from core.errors import Conflict, Rejected, TracebondError
from core.money import parse_money
from finance import applications, consents, lending, pledges, receipts
from finance.journal import control_differences, trial_balance
from finance.reconcile import compare, freeze_mismatches
from finance.states import LIVE_PLEDGES
from finance.tables import applications as applications_table
from finance.tables import facilities, loans, schedule_lines
from finance.tables import pledges as pledges_table
from finance.tables import receipts as receipts_table
from tests.finance.world import (
    BANK,
    BORROWER,
    CHECKER,
    CUSTODIAN,
    FEATURES,
    GTIN,
    MAKER_OF_BANK,
    OTHER_BANK,
    OTHER_OFFICER,
    OWNER,
    PALLET,
    PLACE,
    TINS,
    FinanceWorld,
    actor,
)

AMOUNT = "30000.00"


def consent(world: FinanceWorld, lender: str = BANK, purpose: str = "credit", days: int = 300) -> Any:
    return world.do(
        consents.grant_consent, BORROWER, lender=lender, purpose=purpose, sources=list(consents.SOURCES), days=days
    )


def prepare(world: FinanceWorld, who: Any = MAKER_OF_BANK) -> None:
    consent(world, who.org)
    world.do(
        applications.record_borrower, who, borrower=OWNER, controller="controller", has_account=True, features=FEATURES
    )
    world.do(
        applications.record_quote, who, product=f"https://id.gs1.org/01/{GTIN}", category="infant_formula", unit="EA",
        price="26000", cost="20000", source="exchange", median="25000",
    )  # fmt: skip


def receipt(world: FinanceWorld) -> str:
    done = world.do(receipts.register_receipt, CUSTODIAN, item=PALLET, owner=OWNER, place=PLACE)
    world.settle()
    return str(done["receipt"])


def apply(world: FinanceWorld, *, lender: str = BANK, item: str = PALLET, amount: str = AMOUNT, **more: Any) -> Any:
    return world.do(
        applications.submit_application, BORROWER, lender=lender, goods_item=item, amount=amount, tenor_days=90,
        purpose="buy milk", **more,
    )  # fmt: skip


def approve(world: FinanceWorld, done: Any, *persons: Any) -> Any:
    last = done
    for person in persons or (MAKER_OF_BANK, CHECKER):
        last = world.do(
            applications.approve_application, person, application=done["application"], terms_hash=done["terms_hash"],
            is_approved=True,
        )  # fmt: skip
    return last


def accept(world: FinanceWorld, done: Any) -> Any:
    return world.do(applications.accept_offer, BORROWER, application=done["application"], terms_hash=done["terms_hash"])


def pledged(world: FinanceWorld, amount: str = AMOUNT) -> Any:
    prepare(world)
    receipt(world)
    done = apply(world, amount=amount)
    approve(world, done)
    offer = accept(world, done)
    world.do(pledges.sign_pledge, BORROWER, pledge=offer["pledge"])
    world.do(pledges.sign_pledge, CUSTODIAN, pledge=offer["pledge"])
    world.do(pledges.send_pledge, MAKER_OF_BANK, pledge=offer["pledge"])
    world.settle()
    return offer


def states(world: FinanceWorld) -> dict[str, list[str]]:
    tables = (receipts_table, applications_table, pledges_table, facilities, loans)
    return {table.name: [row.state for row in world.query(table)] for table in tables}


def refused(code: str, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(TracebondError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code, caught.value


def test_a_loan_lives_from_warehouse_to_release(world: FinanceWorld) -> None:
    offer = pledged(world)
    assert states(world)["fin_pledges"] == ["ACTIVE"]
    assert world.ctx.registry.pledge_of(world.query(pledges_table)[0].receipt).state == "active"

    loan = world.do(lending.draw, BORROWER, facility=offer["facility"], amount=AMOUNT)
    world.clock += 30 * 86_400
    # 30,000.00 at 4.35 % for 30 days ACT/360 is 108.75.
    paid = world.do(lending.repay, BORROWER, loan=loan["loan"], amount="30150.00", reference="r1")

    assert (paid["interest"], paid["principal"], paid["overpayment"], paid["state"]) == (
        "108.75", "30000.00", "41.25", "OVERPAID",
    )  # fmt: skip
    asked = world.do(pledges.request_release, MAKER_OF_BANK, pledge=offer["pledge"])
    world.do(
        pledges.approve_release, CHECKER, pledge=offer["pledge"], request=asked["request"], maker="officer",
        release_hash=asked["release_hash"],
    )  # fmt: skip
    world.settle()
    assert states(world) == {
        "fin_receipts": ["SEALED"], "fin_applications": ["CONTRACTED"], "fin_pledges": ["RELEASED"],
        "fin_facilities": ["CLOSED"], "fin_loans": ["OVERPAID"],
    }  # fmt: skip
    with world.database.reading() as tx:
        books = trial_balance(tx, BANK)
        assert sum(value.minor for value in books.values()) == 0
        assert books["2011"] == parse_money("150.00")
        assert control_differences(tx, BANK) == {}
        assert applications.replay_decision(tx, offer["application"])["outcome"] == "refer"


def test_goods_can_be_pledged_again_after_their_release(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)
    asked = world.do(pledges.request_release, MAKER_OF_BANK, pledge=offer["pledge"])
    world.do(
        pledges.approve_release, CHECKER, pledge=offer["pledge"], request=asked["request"], maker="officer",
        release_hash=asked["release_hash"],
    )  # fmt: skip
    world.settle()
    prepare(world, OTHER_OFFICER)

    assert apply(world, lender=OTHER_BANK)["state"] == "IN_REVIEW"


@pytest.mark.parametrize(
    "spelling",
    [
        PALLET,
        "urn:epc:id:sscc:9521321.0000000001",
        "https://shop.example/00/095213210000000018",
        "(00)095213210000000018",
        TINS[0],
        f"https://other.example/01/{GTIN}/21/T3",
        "urn:epc:id:sgtin:9521321.000001.T5",
    ],
)
def test_a_second_bank_is_refused_under_every_spelling(sqlite_world: FinanceWorld, spelling: str) -> None:
    world = sqlite_world
    prepare(world, OTHER_OFFICER)
    pledged(world)

    with pytest.raises(Conflict) as caught:
        apply(world, lender=OTHER_BANK, item=spelling)

    assert caught.value.code == "already_pledged"
    assert BANK not in caught.value.message
    assert states(world)["fin_pledges"] == ["ACTIVE"]


def test_a_container_around_pledged_goods_cannot_be_received_again(world: FinanceWorld) -> None:
    pledged(world)
    outer = "https://id.gs1.org/00/095213210000000025"
    world.packed[outer] = [PALLET]

    refused("already_pledged", world.do, receipts.register_receipt, CUSTODIAN, item=outer, owner=OWNER, place=PLACE)
    refused("already_pledged", world.do, receipts.register_receipt, CUSTODIAN, item=TINS[2], owner=OWNER, place=PLACE)
    assert len(world.query(receipts_table)) == 1


def test_the_contract_too_refuses_goods_that_are_claimed(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    pledged(world)
    account = world.chain.signer.address(world.ctx.account(CUSTODIAN.org))
    second = bytes.fromhex(account[2:]) + bytes(11) + b"\x09"
    data = world.ctx.registry.register_call(second, account, [(world.ctx.goods_key(TINS[0]), 1)])

    with pytest.raises(Reverted, match="over capacity"):
        world.chain.chain.call(world.ctx.registry.address, data, sender=account)


def test_two_accepted_offers_on_one_receipt_end_with_one_pledge(world: FinanceWorld) -> None:
    prepare(world)
    prepare(world, OTHER_OFFICER)
    receipt(world)
    first, second = apply(world), apply(world, lender=OTHER_BANK)
    approve(world, first)
    approve(world, second, actor(OTHER_BANK, "r1", "bank_maker"), actor(OTHER_BANK, "r2", "bank_checker"))
    accept(world, first)

    refused("already_pledged", accept, world, second)

    assert [state for state in states(world)["fin_pledges"] if state in LIVE_PLEDGES] == ["RESERVED"]
    assert states(world)["fin_facilities"] == ["PENDING"]


def test_four_eyes_are_two_persons_over_what_they_saw(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    prepare(world)
    receipt(world)
    done = apply(world)
    seen = {"application": done["application"], "is_approved": True}
    command = applications.approve_application

    refused("changed_since_seen", world.do, command, CHECKER, terms_hash="A" * 43, **seen)
    world.do(command, CHECKER, terms_hash=done["terms_hash"], **seen)
    refused("approved_already", world.do, command, CHECKER, terms_hash=done["terms_hash"], **seen)
    twin = actor(BANK, "checker", "bank_maker")
    refused("approved_already", world.do, command, twin, terms_hash=done["terms_hash"], **seen)
    own = actor(BANK, BORROWER.person, "bank_checker")
    refused("own_command", world.do, command, own, terms_hash=done["terms_hash"], **seen)
    stranger = actor(OTHER_BANK, "rival", "bank_checker")
    refused("no_such_application", world.do, command, stranger, terms_hash=done["terms_hash"], **seen)
    refused("not_allowed", world.do, command, BORROWER, terms_hash=done["terms_hash"], **seen)
    refused("illegal_transition", accept, world, done)
    assert states(world)["fin_applications"] == ["IN_REVIEW"]


def test_no_money_leaves_before_the_pledge_is_final(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    prepare(world)
    receipt(world)
    done = apply(world)
    approve(world, done)
    offer = accept(world, done)
    draw = {"facility": offer["facility"], "amount": "1.00"}

    refused("facility_not_active", world.do, lending.draw, BORROWER, **draw)
    refused("illegal_transition", world.do, pledges.send_pledge, MAKER_OF_BANK, pledge=offer["pledge"])
    world.do(pledges.sign_pledge, BORROWER, pledge=offer["pledge"])
    refused("signed_already", world.do, pledges.sign_pledge, BORROWER, pledge=offer["pledge"])
    world.do(pledges.sign_pledge, CUSTODIAN, pledge=offer["pledge"])
    world.do(pledges.send_pledge, MAKER_OF_BANK, pledge=offer["pledge"])
    refused("facility_not_active", world.do, lending.draw, BORROWER, **draw)
    assert world.query(loans) == []


def test_draws_beyond_what_is_available_are_refused_by_a_cent(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)

    refused("above_availability", world.do, lending.draw, BORROWER, facility=offer["facility"], amount="30000.01")
    world.do(lending.draw, BORROWER, facility=offer["facility"], amount="20000.00")
    refused("above_availability", world.do, lending.draw, BORROWER, facility=offer["facility"], amount="10000.01")
    world.do(lending.draw, BORROWER, facility=offer["facility"], amount="10000.00")

    assert len(world.query(loans)) == 2


def test_a_failed_proof_after_approval_stops_the_draw(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)
    world.change["findings"] = (("proof_failed", ("3:0",)),)

    refused("goods_ineligible", world.do, lending.draw, BORROWER, facility=offer["facility"], amount="1.00")

    world.change.clear()
    world.change["quality"] = "reject"
    refused("goods_ineligible", world.do, lending.draw, BORROWER, facility=offer["facility"], amount="1.00")


def test_goods_with_a_broken_history_are_declined_with_their_events(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    prepare(world)
    receipt(world)
    world.change["findings"] = (("two_places", ("3:0", "4:0")),)

    done = apply(world)

    assert done["state"] == "DECLINED"
    assert done["reasons"][0]["code"] == "two_places"
    assert done["reasons"][0]["events"] == ["3:0", "4:0"]


def test_nothing_is_released_while_money_is_owed(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)
    world.do(lending.draw, BORROWER, facility=offer["facility"], amount="10.00")

    refused("exposure_uncovered", world.do, pledges.request_release, MAKER_OF_BANK, pledge=offer["pledge"])
    first = world.query(receipts_table)[0]
    refused("already_pledged", world.do, receipts.end_receipt, CUSTODIAN, receipt=b64u(bytes(first.id)), deliver=True)


def test_a_command_repeated_under_its_key_has_one_effect(world: FinanceWorld) -> None:
    offer = pledged(world)
    once = {"facility": offer["facility"], "amount": "10.00", "key": "draw-1"}

    first = world.do(lending.draw, BORROWER, **once)
    again = world.do(lending.draw, BORROWER, **once)

    assert first == again
    assert len(world.query(loans)) == 1
    refused("idempotency_key_reused", world.do, lending.draw, BORROWER, **(once | {"amount": "11.00"}))


def test_a_payment_reference_is_booked_once(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)
    loan = world.do(lending.draw, BORROWER, facility=offer["facility"], amount="10.00")
    world.do(lending.repay, BORROWER, loan=loan["loan"], amount="4.00", reference="r1")

    refused("already_booked", world.do, lending.repay, BORROWER, loan=loan["loan"], amount="4.00", reference="r1")

    assert world.query(loans)[0].balance == 600


def test_signatures_that_are_late_free_the_goods(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    prepare(world)
    receipt(world)
    done = apply(world)
    approve(world, done)
    accept(world, done)
    world.clock += 86_400

    world.settle()

    assert (states(world)["fin_pledges"], states(world)["fin_facilities"]) == (["VOID"], ["CLOSED"])
    assert apply(world)["state"] == "IN_REVIEW"


def test_a_pledge_that_the_chain_does_not_show_freezes_its_facility(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    offer = pledged(world)
    assert compare(world.database, world.ctx) == []
    with world.database.transaction() as tx:
        tx.execute(pledges_table.update().values(terms_hash=bytes(32)))

    assert freeze_mismatches(world.database, world.ctx, now=world.clock) == [offer["pledge"]]

    assert states(world)["fin_facilities"] == ["FROZEN"]
    refused("facility_not_active", world.do, lending.draw, BORROWER, facility=offer["facility"], amount="1.00")


def test_delivery_frees_the_claims_when_it_is_final(world: FinanceWorld) -> None:
    first = receipt(world)
    refused("already_claimed", world.do, receipts.register_receipt, CUSTODIAN, item=TINS[0], owner=OWNER, place=PLACE)
    world.do(receipts.end_receipt, CUSTODIAN, receipt=first, deliver=True)
    refused("already_claimed", world.do, receipts.register_receipt, CUSTODIAN, item=TINS[0], owner=OWNER, place=PLACE)
    world.settle()

    world.do(receipts.register_receipt, CUSTODIAN, item=TINS[0], owner=OWNER, place=PLACE)
    world.settle()

    assert sorted(states(world)["fin_receipts"]) == ["DELIVERED", "SEALED"]


@pytest.mark.parametrize("amount", ["0", "-1", "1e3", "0.001", 0.1, "NaN"])
def test_a_bad_amount_is_refused_before_anything_happens(sqlite_world: FinanceWorld, amount: Any) -> None:
    with pytest.raises(Rejected, match="bad_amount"):
        apply(sqlite_world, amount=amount)


def test_a_loan_in_equal_instalments_is_paid_line_by_line(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    prepare(world)
    receipt(world)
    done = apply(world, repayment="equal_instalment")
    approve(world, done)
    offer = accept(world, done)
    world.do(pledges.sign_pledge, BORROWER, pledge=offer["pledge"])
    world.do(pledges.sign_pledge, CUSTODIAN, pledge=offer["pledge"])
    world.do(pledges.send_pledge, MAKER_OF_BANK, pledge=offer["pledge"])
    world.settle()
    loan = world.do(lending.draw, BORROWER, facility=offer["facility"], amount=AMOUNT)
    lines = world.query(schedule_lines)

    assert [line.number for line in lines] == [1, 2, 3]
    assert sum(line.principal for line in lines) == 3_000_000
    world.clock += 10 * 86_400
    paid = world.do(lending.repay, BORROWER, loan=loan["loan"], amount="10000.00", reference="early")

    # Ten days' interest first (36.25), the rest on principal in advance: of the oldest instalment before the next.
    assert (paid["interest"], paid["principal"]) == ("36.25", "9963.75")
    assert [line.principal_paid for line in world.query(schedule_lines)] == [
        min(996_375, lines[0].principal), 996_375 - min(996_375, lines[0].principal), 0,
    ]  # fmt: skip


def test_a_repayment_of_another_kind_is_refused(sqlite_world: FinanceWorld) -> None:
    prepare(sqlite_world)
    receipt(sqlite_world)

    refused("unknown_kind", apply, sqlite_world, repayment="never")
