"""Money set right after the fact; amounts by hand: 30,000.00 at 4.35 % ACT/360 grows 3.625 a day."""

from datetime import timedelta
from typing import Any

from core.money import Money
from finance import closing, corrections, enforcement, lending
from finance.commandlog import shanghai_date
from finance.eod import end_of_day, put
from finance.journal import CLEARING, DEPOSITS, INCOME, LOANS, OPERATING_LOSS, PAYABLE, RECEIVABLE
from finance.policy import load_policy
from finance.tables import entries, facilities, loans, payments, sales
from tests.finance.test_credit import pledged, refused
from tests.finance.test_monitoring import books, enforced
from tests.finance.world import BORROWER, CHECKER, MAKER_OF_BANK, OTHER_OFFICER, FinanceWorld, actor

DAY_S = 86_400


def drawn(world: FinanceWorld) -> tuple[str, str]:
    offer = pledged(world)
    loan = world.do(lending.draw, BORROWER, facility=offer["facility"], amount="30000.00")
    return str(offer["facility"]), str(loan["loan"])


def pay(world: FinanceWorld, loan: str, amount: str, reference: str) -> Any:
    return world.do(lending.repay, BORROWER, loan=loan, amount=amount, reference=reference)


def test_a_reversed_payment_leaves_the_loan_as_if_it_had_never_come(world: FinanceWorld) -> None:
    _, loan = drawn(world)
    world.clock += 30 * DAY_S
    pay(world, loan, "30150.00", "r1")
    world.clock += 10 * DAY_S

    done = world.do(corrections.reverse_payment, CHECKER, reference="r1")

    # 40 days of interest on the whole balance: 145.00.
    assert (done["state"], done["balance"]) == ("ACTIVE", "30000.00")
    found = books(world)
    assert (found[LOANS], found[RECEIVABLE], found[INCOME]) == (Money(3_000_000), Money(14_500), Money(-14_500))
    assert (found[PAYABLE], found[DEPOSITS]) == (Money(0), Money(-3_000_000))
    assert len(world.query(payments)) == 1
    refused("reversed_already", world.do, corrections.reverse_payment, CHECKER, reference="r1")
    whole = pay(world, loan, "30145.00", "r2")
    assert (whole["state"], whole["interest"]) == ("REPAID", "145.00")


def test_payments_are_reversed_the_newest_first_and_only_by_the_bank(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    _, loan = drawn(world)
    pay(world, loan, "1000.00", "r1")
    pay(world, loan, "2000.00", "r2")

    refused("later_payment", world.do, corrections.reverse_payment, CHECKER, reference="r1")
    refused("not_allowed", world.do, corrections.reverse_payment, BORROWER, reference="r2")
    refused("no_such_payment", world.do, corrections.reverse_payment, CHECKER, reference="r9")
    world.do(corrections.reverse_payment, CHECKER, reference="r2")
    world.do(corrections.reverse_payment, CHECKER, reference="r1")

    assert world.query(loans)[0].balance == 3_000_000
    assert [row.kind for row in world.query(entries)] == ["draw", "repayment", "repayment", "reversal", "reversal"]
    books(world)


def test_a_late_reversal_finds_the_loan_overdue(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    _, loan = drawn(world)
    world.clock += 80 * DAY_S
    pay(world, loan, "40000.00", "r1")
    world.clock += 40 * DAY_S

    assert world.do(corrections.reverse_payment, CHECKER, reference="r1")["state"] == "OVERDUE"
    assert books(world)[PAYABLE] == Money(0)


def test_an_overpayment_is_refunded_once(world: FinanceWorld) -> None:
    _, loan = drawn(world)
    pay(world, loan, "30041.25", "r1")
    refused("not_allowed", world.do, corrections.refund_overpayment, MAKER_OF_BANK, loan=loan)

    done = world.do(corrections.refund_overpayment, CHECKER, loan=loan)

    assert (done["amount"], done["state"]) == ("41.25", "REPAID")
    assert (books(world)[PAYABLE], books(world)[CLEARING]) == (Money(0), Money(-4_125))
    refused("illegal_transition", world.do, corrections.refund_overpayment, CHECKER, loan=loan)
    refused("refunded", world.do, corrections.reverse_payment, CHECKER, reference="r1")


def test_a_fee_stands_on_the_next_instalment_and_is_paid_by_the_waterfall(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    _, loan = drawn(world)

    world.do(corrections.charge_fee, CHECKER, loan=loan, amount="50.00")
    refused("no_such_loan", world.do, corrections.charge_fee, actor(OTHER_OFFICER.org, "x", "bank_checker"), loan=loan,
            amount="1.00")  # fmt: skip
    assert books(world)[RECEIVABLE] == Money(5_000)
    assert pay(world, loan, "100.00", "r1")["fee"] == "50.00"
    world.do(corrections.reverse_payment, CHECKER, reference="r1")
    assert books(world)[RECEIVABLE] == Money(5_000)


def test_prepayment_closes_a_loan_by_exactly_what_it_owes(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    _, loan = drawn(world)
    world.clock += 10 * DAY_S
    given = {"loan": loan, "reference": "full"}

    refused("changed_since_seen", world.do, corrections.prepay_in_full, BORROWER, amount="30000.00", **given)
    done = world.do(corrections.prepay_in_full, BORROWER, amount="30036.25", **given)

    assert (done["state"], done["interest"], done["overpayment"]) == ("REPAID", "36.25", "0.00")


def test_the_surplus_of_a_sale_is_paid_out_once(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    facility = enforced(world)
    done = world.do(enforcement.book_sale, CHECKER, facility=facility, bids=[{"bidder": "a", "amount": "40000.00"}],
                    costs="0.00")  # fmt: skip
    sale = world.query(sales)[0].id

    assert world.do(corrections.pay_surplus, CHECKER, sale=sale)["amount"] == done["surplus"]
    refused("nothing_left", world.do, corrections.pay_surplus, CHECKER, sale=sale)
    assert books(world)[PAYABLE] == Money(0)


def test_a_facility_is_terminated_only_by_both_sides(world: FinanceWorld) -> None:
    offer = pledged(world)
    given = {"facility": offer["facility"]}

    assert world.do(closing.agree_termination, CHECKER, **given)["state"] == "ACTIVE"
    refused("agreed_already", world.do, closing.agree_termination, CHECKER, **given)
    assert world.do(closing.agree_termination, BORROWER, **given)["state"] == "TERMINATED"
    refused("facility_not_active", world.do, lending.draw, BORROWER, amount="1.00", **given)


def test_a_facility_expires_at_the_end_of_its_day_and_closes_at_zero(world: FinanceWorld) -> None:
    facility, loan = drawn(world)
    until = world.query(facilities)[0].available_until
    with world.database.transaction() as tx:
        put(tx, "business_date", until.isoformat())

    end_of_day(world.database, load_policy(), until, now=world.clock)

    assert world.query(facilities)[0].state == "EXPIRED"
    refused("facility_not_active", world.do, lending.draw, BORROWER, facility=facility, amount="1.00")
    owed = sum((row.balance + row.interest_due + row.suspended) for row in world.query(loans))
    pay(world, loan, Money(owed).text(), "all")
    end_of_day(world.database, load_policy(), until + timedelta(days=1), now=world.clock)
    assert world.query(facilities)[0].state == "CLOSED"
    assert shanghai_date(world.clock) < until


def test_compensation_is_paid_once_by_two_persons(world: FinanceWorld) -> None:
    offer = pledged(world)
    filed = world.do(closing.claim_compensation, BORROWER, facility=offer["facility"], amount="120.00",
                     grounds="The draw was paid a day late.")  # fmt: skip
    given = {"claim": filed["claim"], "is_paid": True}
    asked = world.do(closing.propose_compensation, CHECKER, **given)
    proof = {"request": asked["request"], "proposal": asked["proposal"]}

    refused("own_command", world.do, closing.settle_compensation, CHECKER, **given, **proof)
    other = actor(CHECKER.org, "third", "bank_checker")
    refused("changed_since_seen", world.do, closing.settle_compensation, other, **(given | {"is_paid": False}), **proof)
    assert world.do(closing.settle_compensation, other, **given, **proof)["state"] == "PAID"
    refused("illegal_transition", world.do, closing.settle_compensation, other, **given, **proof)
    assert (books(world)[OPERATING_LOSS], books(world)[DEPOSITS]) == (Money(12_000), Money(-12_000))
