"""The gate of 75 %: a guarantee of the actual controller, property as supplementary cover, a policy that lends more."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from core.canonical import b64u, sha256
from core.money import Money
from finance import exits, guarantees, lending
from finance.casetables import guarantees as guarantees_table
from finance.casetables import mortgages
from finance.monitoring import monitor
from finance.policy import Policy
from finance.ratios import ltv_passes
from finance.tables import facilities
from tests.finance.test_credit import accept, apply, approve, pledged, prepare, receipt, refused
from tests.finance.test_release import activate
from tests.finance.world import BORROWER, CHECKER, LATELY, MAKER_OF_BANK, FinanceWorld

PAPER = b64u(sha256(b"signed guarantee"))


def lend_more(world: FinanceWorld) -> None:
    """A policy under which goods alone may reach 76 % of their gross value: no haircut, no cap, advance rate .76."""
    data = dict(world.ctx.policy.data)
    data["advance"] = {**data["advance"], "grades": {**data["advance"]["grades"], "A": "0.76"}}
    data["caps"] = {"lot": "1", "category": "1", "warehouse": "1"}
    food = {**data["categories"]["infant_formula"], "haircut": "0"}
    data["categories"] = {**data["categories"], "infant_formula": food}
    world.ctx = replace(world.ctx, policy=Policy("v1", sha256(b"another version"), data))


def guarantee(world: FinanceWorld, facility: str, *, amount: str = "120000.00") -> str:
    made = world.do(guarantees.request_guarantee, MAKER_OF_BANK, facility=facility, guarantor="controller",
                    amount=amount, document_hash=PAPER)  # fmt: skip
    settle(world, made["guarantee"], "ACTIVE")
    return str(made["guarantee"])


def settle(world: FinanceWorld, ident: str, state: str) -> Any:
    given = {"guarantee": ident, "state": state}
    asked = world.do(guarantees.propose_guarantee, MAKER_OF_BANK, **given)
    proof = {"request": asked["request"], "proposal": asked["proposal"]}
    return world.do(guarantees.settle_guarantee, CHECKER, **given, **proof)


@pytest.mark.unit
def test_the_gate_is_strict() -> None:
    gate = Fraction("0.75")

    assert ltv_passes(Money(7_500_00), Money(10_000_00), gate)
    assert not ltv_passes(Money(7_500_01), Money(10_000_00), gate)


def test_above_75_per_cent_a_draw_needs_the_controllers_guarantee(world: FinanceWorld) -> None:
    lend_more(world)
    facility = pledged(world, "91000.00")["facility"]
    # Six tins at 20,000: 75 % of 120,000 is 90,000.
    world.do(lending.draw, BORROWER, facility=facility, amount="90000.00")

    refused("guarantee_needed", world.do, lending.draw, BORROWER, facility=facility, amount="0.01")
    refused("not_the_controller", world.do, guarantees.request_guarantee, MAKER_OF_BANK, facility=facility,
            guarantor="somebody", amount="120000.00", document_hash=PAPER)  # fmt: skip
    made = world.do(guarantees.request_guarantee, MAKER_OF_BANK, facility=facility, guarantor="controller",
                    amount="120000.00", document_hash=PAPER)  # fmt: skip
    refused("guarantee_needed", world.do, lending.draw, BORROWER, facility=facility, amount="0.01")
    settle(world, made["guarantee"], "ACTIVE")
    world.do(lending.draw, BORROWER, facility=facility, amount="1000.00")

    refused("guarantee_needed", world.do, guarantees.propose_guarantee, MAKER_OF_BANK, guarantee=made["guarantee"],
            state="RELEASED")  # fmt: skip
    assert world.query(guarantees_table)[0].state == "ACTIVE"


def test_a_guarantee_below_the_debt_and_a_second_one_do_not_help(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    lend_more(world)
    facility = pledged(world, "91000.00")["facility"]
    guarantee(world, facility, amount="90000.00")

    refused("guarantee_needed", world.do, lending.draw, BORROWER, facility=facility, amount="90000.01")
    refused("guarantee_exists", world.do, guarantees.request_guarantee, MAKER_OF_BANK, facility=facility,
            guarantor="controller", amount="120000.00", document_hash=PAPER)  # fmt: skip


def test_interest_that_lifts_the_ratio_above_the_gate_is_watched(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    lend_more(world)
    facility = pledged(world, "90000.00")["facility"]
    loan = world.do(lending.draw, BORROWER, facility=facility, amount="80000.00")
    assert monitor(world.database, world.ctx, now=world.clock) == []
    world.do(lending.draw, BORROWER, facility=facility, amount="5000.00")
    assert loan["state"] == "ACTIVE"

    # 85,000 of 91,200 is below the watch line of 95 %, and 70.8 % of the gross value; then the price falls 6 %.
    from tests.finance.test_monitoring import price

    price(world, "18800")
    assert monitor(world.database, world.ctx, now=world.clock) == [(facility, ("watch",))]
    guarantee(world, facility)
    assert world.query(facilities)[0].state == "WATCH"


def test_property_is_supplementary_cover_at_its_own_rate(world: FinanceWorld) -> None:
    prepare(world)
    receipt(world)
    first = apply(world)
    given = {"application": first["application"]}
    title = {"title": "Hu-2026-0001", "value": "100000.00", "appraiser": "appraiser", "document_hash": PAPER}
    refused("future_date", world.do, guarantees.request_mortgage, MAKER_OF_BANK, appraised="2999-01-01", **given,
            **title)  # fmt: skip
    made = world.do(guarantees.request_mortgage, MAKER_OF_BANK, appraised=LATELY, **given, **title)
    refused("mortgage_exists", world.do, guarantees.request_mortgage, MAKER_OF_BANK, appraised=LATELY, **given,
            **title)  # fmt: skip
    wanted = {"mortgage": made["mortgage"], "state": "ACTIVE"}
    asked = world.do(guarantees.propose_mortgage, MAKER_OF_BANK, **wanted)
    proof = {"request": asked["request"], "proposal": asked["proposal"]}
    refused("not_allowed", world.do, guarantees.settle_mortgage, MAKER_OF_BANK, **wanted, **proof)
    world.do(guarantees.settle_mortgage, CHECKER, **wanted, **proof)
    world.do(exits.return_application, MAKER_OF_BANK, reason_code="more_cover", **given)
    again = world.do(exits.resubmit_application, BORROWER, amount="130000.00", tenor_days=90, **given)
    assert again["state"] == "IN_REVIEW"
    approve(world, again)
    offer = accept(world, again)
    activate(world, offer["pledge"])

    # 96,000 and 90,000 net, each below 60 % of 186,000: .70 and .85 of them are 143,700.
    world.do(lending.draw, BORROWER, facility=offer["facility"], amount="130000.00")

    assert world.query(mortgages)[0].state == "ACTIVE"
    refused("exposure_uncovered", world.do, guarantees.propose_mortgage, MAKER_OF_BANK, mortgage=made["mortgage"],
            state="RELEASED")  # fmt: skip
