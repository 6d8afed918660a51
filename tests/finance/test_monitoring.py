"""What falling prices, bad goods and missed calls do to a running facility; amounts by hand from the policy.

Six tins at 20,000 are 120,000; 20 % haircut, 60 % category cap, 70 % advance rate: a base of 40,320. At 10,000 a tin
the base is 20,160.
"""

from datetime import date

import pytest

from core.errors import Conflict
from core.money import Money
from finance import applications, enforcement, freezing, lending, margin
from finance.eod import put
from finance.journal import ALLOWANCE, CLEARING, LOANS, MARGIN, PAYABLE, control_differences, trial_balance
from finance.monitoring import CallStanding, Health, Watch, monitor, verdict
from finance.policy import load_policy
from finance.tables import command_log, facilities, loans, margin_calls, pledges, receipts
from tests.finance.test_credit import pledged, refused
from tests.finance.world import BANK, BORROWER, CHECKER, GTIN, MAKER_OF_BANK, FinanceWorld

POLICY = load_policy()
TODAY = date(2026, 3, 2)


def price(world: FinanceWorld, amount: str) -> None:
    world.do(
        applications.record_quote, MAKER_OF_BANK, product=f"https://id.gs1.org/01/{GTIN}", category="infant_formula",
        unit="EA", price=amount, cost="20000", source="exchange", median=amount,
    )  # fmt: skip


def lent(world: FinanceWorld) -> str:
    offer = pledged(world)
    world.do(lending.draw, BORROWER, facility=offer["facility"], amount="30000.00")
    return str(offer["facility"])


def judged(world: FinanceWorld) -> list[tuple[str, ...]]:
    return [events for _, events in monitor(world.database, world.ctx, now=world.clock)]


def state(world: FinanceWorld) -> str:
    return str(world.query(facilities)[0].state)


def books(world: FinanceWorld) -> dict[str, Money]:
    with world.database.reading() as tx:
        assert control_differences(tx, BANK) == {}
        found = trial_balance(tx, BANK)
    assert sum(value.minor for value in found.values()) == 0
    return found


def health(**change: object) -> Health:
    values: dict[str, object] = {
        "base": Money(40_000), "net": Money(60_000), "exposure": Money(30_000), "is_eligible": True, "knock_outs": (),
        "overdue_days": 0,
    }  # fmt: skip
    return Health(**(values | change))  # type: ignore[arg-type]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "events"),
    [
        ({}, ("clear",)),
        ({"exposure": Money(38_000)}, ("clear",)),
        ({"exposure": Money(38_001)}, ("watch",)),
        ({"exposure": Money(40_000)}, ("watch",)),
        ({"exposure": Money(40_001)}, ("call", "watch")),
        ({"knock_outs": ("recalled",), "is_eligible": False, "base": Money(0)}, ("freeze", "call", "watch")),
        ({"overdue_days": 90}, ("clear",)),
        ({"overdue_days": 91}, ("default", "clear")),
    ],
)
def test_thresholds_are_those_of_the_specification(change: dict[str, object], events: tuple[str, ...]) -> None:
    assert verdict(health(**change), None, POLICY, TODAY) == events


@pytest.mark.unit
def test_a_call_ends_by_payment_at_once_and_by_the_market_after_two_days() -> None:
    paid = CallStanding(Money(5), date(2026, 3, 5), None, is_paid_for=True)
    fresh = CallStanding(Money(5), date(2026, 3, 5), None, is_paid_for=False)
    waiting = CallStanding(Money(5), date(2026, 3, 5), date(2026, 3, 1), is_paid_for=False)
    done = CallStanding(Money(5), date(2026, 3, 5), date(2026, 2, 28), is_paid_for=False)

    assert verdict(health(), paid, POLICY, TODAY) == ("cured", "clear")
    assert verdict(health(), fresh, POLICY, TODAY) == ("recovering",)
    assert verdict(health(), waiting, POLICY, TODAY) == ()
    assert verdict(health(), done, POLICY, TODAY) == ("recovered", "clear")


@pytest.mark.unit
def test_a_call_that_is_past_its_day_is_breached() -> None:
    call = CallStanding(Money(10_000), date(2026, 3, 1), None, is_paid_for=False)

    assert verdict(health(exposure=Money(45_000)), call, POLICY, TODAY) == ("breached", "default", "watch")


def test_a_fallen_price_calls_for_margin_and_cash_cures(world: FinanceWorld) -> None:
    facility = lent(world)
    assert judged(world) == []

    price(world, "10000")
    assert judged(world) == [("call", "watch")]
    call = world.query(margin_calls)[0]
    assert (call.amount, call.state, state(world)) == (984_000, "NOTIFIED", "WATCH")
    assert judged(world) == []
    refused("facility_not_active", world.do, lending.draw, BORROWER, facility=facility, amount="1.00")

    world.do(margin.post_margin, MAKER_OF_BANK, facility=facility, amount="5000.00", reference="m1")
    assert world.query(margin_calls)[0].state == "PARTIALLY_CURED"
    world.do(margin.post_margin, MAKER_OF_BANK, facility=facility, amount="8000.00", reference="m2")

    # 20,160 and 13,000 cover 30,000 at less than 95 %.
    assert (world.query(margin_calls)[0].state, state(world)) == ("CURED", "ACTIVE")
    assert books(world)[MARGIN] == Money(-1_300_000)
    refused("exposure_uncovered", world.do, margin.return_margin, CHECKER, facility=facility, amount="3161.00")
    world.do(margin.return_margin, CHECKER, facility=facility, amount="3160.00")
    assert books(world)[CLEARING] == Money(984_000)


def test_a_further_fall_raises_the_same_call(world: FinanceWorld) -> None:
    lent(world)
    price(world, "10000")
    judged(world)

    price(world, "5000")
    assert judged(world) == [("call",)]

    calls = world.query(margin_calls)
    # At 5,000 a tin the base is 10,080.
    assert [(call.version, call.amount) for call in calls] == [(2, 1_992_000)]


def test_bad_goods_freeze_the_facility_at_once(world: FinanceWorld) -> None:
    facility = lent(world)
    world.change["findings"] = (("recalled", ("5:0",)),)

    assert judged(world) == [("freeze", "call")]

    assert state(world) == "FROZEN"
    refused("facility_not_active", world.do, lending.draw, BORROWER, facility=facility, amount="1.00")
    rows = [row for row in world.query(command_log) if row.name == "monitor"]
    assert len(rows) == 1
    assert '"recalled"' in rows[0].body


def defaulted(world: FinanceWorld) -> str:
    facility = lent(world)
    price(world, "10000")
    judged(world)
    with world.database.transaction() as tx:
        put(tx, "business_date", "2027-01-31")
    price(world, "10000")
    assert judged(world) == [("breached", "default")]
    return facility


def enforced(world: FinanceWorld) -> str:
    facility = defaulted(world)
    asked = world.do(enforcement.propose_enforcement, MAKER_OF_BANK, facility=facility)
    values = {"facility": facility, "request": asked["request"], "proposal": asked["proposal"]}
    world.do(enforcement.enforce, CHECKER, **values)
    world.settle()
    assert state(world) == "ENFORCING"
    return facility


def test_a_breached_call_is_a_default_of_facility_and_loan(world: FinanceWorld) -> None:
    defaulted(world)

    assert (state(world), world.query(loans)[0].state, world.query(margin_calls)[0].state) == (
        "DEFAULTED", "DEFAULTED", "BREACHED",
    )  # fmt: skip
    books(world)


def test_nobody_enforces_alone_or_on_other_facts_or_in_a_dispute(sqlite_world: FinanceWorld) -> None:
    facility = defaulted(sqlite_world)
    asked = sqlite_world.do(enforcement.propose_enforcement, CHECKER, facility=facility)
    values = {"facility": facility, "request": asked["request"], "proposal": asked["proposal"]}

    refused("own_command", sqlite_world.do, enforcement.enforce, CHECKER, **values)
    asked = sqlite_world.do(enforcement.propose_enforcement, MAKER_OF_BANK, facility=facility)
    values = {"facility": facility, "request": asked["request"], "proposal": "A" * 43}
    refused("changed_since_seen", sqlite_world.do, enforcement.enforce, CHECKER, **values)
    refused("no_such_proposal", sqlite_world.do, enforcement.enforce, CHECKER, **(values | {"request": "other"}))
    sqlite_world.do(margin.set_dispute, BORROWER, facility=facility, is_disputed=True)
    values["proposal"] = asked["proposal"]
    refused("disputed", sqlite_world.do, enforcement.enforce, CHECKER, **values)
    refused("not_allowed", sqlite_world.do, margin.set_dispute, BORROWER, facility=facility, is_disputed=False)


def test_a_sale_pays_the_claims_and_leaves_the_surplus_to_the_borrower(world: FinanceWorld) -> None:
    facility = enforced(world)
    bids = [{"bidder": "a", "amount": "35000.00"}, {"bidder": "b", "amount": "40000.00"}]

    done = world.do(enforcement.book_sale, CHECKER, facility=facility, bids=bids, costs="1000.00")
    world.settle()

    owed = Money(4_000_000 - 100_000) - Money(3_000_000)
    assert Money(0) < Money(int(float(done["surplus"]) * 100 + 0.5)) < owed
    assert (state(world), world.query(loans)[0].state, world.query(pledges)[0].state) == (
        "CLOSED", "REPAID", "REALISED",
    )  # fmt: skip
    assert world.query(receipts)[0].state == "SEALED"
    assert world.ctx.registry.pledge_of(world.query(receipts)[0].id).state == "settled"
    found = books(world)
    assert (found[LOANS], found[CLEARING]) == (Money(0), Money(4_000_000))
    assert -found[PAYABLE].minor == 100_000 + round(float(done["surplus"]) * 100)


def test_what_a_sale_does_not_bring_is_written_off_and_may_be_recovered(world: FinanceWorld) -> None:
    facility = enforced(world)
    world.do(enforcement.book_sale, CHECKER, facility=facility, bids=[{"bidder": "a", "amount": "10000.00"}],
             costs="0.00")  # fmt: skip
    assert state(world) == "ENFORCING"
    asked = world.do(enforcement.propose_write_off, MAKER_OF_BANK, facility=facility)

    values = {"facility": facility, "request": asked["request"], "proposal": asked["proposal"]}
    gone = world.do(enforcement.write_off, CHECKER, **values)

    assert (state(world), world.query(loans)[0].state) == ("WRITTEN_OFF", "WRITTEN_OFF")
    assert books(world)[LOANS] == Money(0)
    assert 2_000_000 < int(gone["written_off"].replace(".", "")) < 3_000_000
    world.do(enforcement.recover, MAKER_OF_BANK, facility=facility, amount="100.00", reference="x")
    assert books(world)[ALLOWANCE] == Money(-10_000)
    with pytest.raises(Conflict):
        world.do(enforcement.propose_write_off, MAKER_OF_BANK, facility=facility)


def test_a_frozen_facility_thaws_only_by_two_and_when_the_goods_testify_again(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    facility = lent(world)
    world.change["findings"] = (("recalled", ("5:0",)),)
    judged(world)
    refused("still_knocked_out", world.do, freezing.propose_unfreeze, MAKER_OF_BANK, facility=facility)
    world.change.clear()
    asked = world.do(freezing.propose_unfreeze, MAKER_OF_BANK, facility=facility)
    values = {"facility": facility, "request": asked["request"], "proposal": asked["proposal"]}

    world.change["findings"] = (("recalled", ("5:0",)),)
    refused("still_knocked_out", world.do, freezing.unfreeze, CHECKER, **values)
    world.change.clear()
    world.do(freezing.unfreeze, CHECKER, **values)

    assert state(world) == "ACTIVE"
    world.do(freezing.freeze, MAKER_OF_BANK, facility=facility)
    assert state(world) == "FROZEN"


def test_watching_judges_again_only_when_something_changed(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    lent(world)
    watch = Watch(world.database, world.ctx)
    watch.step(world.clock)

    price(world, "10000")

    assert watch.step(world.clock + 1)
    assert not watch.step(world.clock + 2)
