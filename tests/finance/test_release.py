"""Goods that go while money is owed: parts of a split receipt, and goods against other goods."""

from typing import Any

import pytest

from core.errors import Conflict
from core.identifiers import sscc_id
from finance import exits, lending, pledges, receipts, substitution
from finance.tables import claims, facilities
from finance.tables import pledges as pledges_table
from finance.tables import receipts as receipts_table
from tests.finance.test_credit import accept, apply, approve, prepare, receipt, refused
from tests.finance.world import (
    BORROWER,
    CHECKER,
    CUSTODIAN,
    MAKER_OF_BANK,
    PALLET,
    TINS,
    FinanceWorld,
)

CASE = sscc_id("095213210000000025")


def split(world: FinanceWorld) -> dict[str, str]:
    """Two receipts in place of one: four tins on the pallet, two in a case that was claimed with it."""
    world.packed[PALLET] = [CASE, *TINS[:4]]
    world.packed[CASE] = TINS[4:]
    whole = receipt(world)
    world.packed[PALLET] = TINS[:4]
    done = world.do(receipts.split_receipt, CUSTODIAN, receipt=whole, parts=[PALLET, CASE])
    world.settle()
    world.settle()
    return dict(done["children"])


def activate(world: FinanceWorld, pledge: str) -> None:
    world.do(pledges.sign_pledge, BORROWER, pledge=pledge)
    world.do(pledges.sign_pledge, CUSTODIAN, pledge=pledge)
    world.do(pledges.send_pledge, MAKER_OF_BANK, pledge=pledge)
    world.settle()


def two_pledges(world: FinanceWorld) -> tuple[str, str, str]:
    prepare(world)
    split(world)
    done = apply(world, amount="20000.00")
    approve(world, done)
    offer = accept(world, done)
    activate(world, offer["pledge"])
    more = world.do(substitution.add_pledge, BORROWER, facility=offer["facility"], goods_item=CASE)
    activate(world, more["pledge"])
    return str(offer["facility"]), str(offer["pledge"]), str(more["pledge"])


def release(world: FinanceWorld, pledge: str) -> Any:
    asked = world.do(pledges.request_release, MAKER_OF_BANK, pledge=pledge)
    return world.do(
        pledges.approve_release, CHECKER, pledge=pledge, request=asked["request"], maker="officer",
        release_hash=asked["release_hash"],
    )  # fmt: skip


def test_a_split_conserves_every_claim_in_database_and_contract(world: FinanceWorld) -> None:
    children = split(world)

    parent = next(row for row in world.query(receipts_table) if row.parent is None)
    live = [row for row in world.query(claims) if row.is_live]
    assert [parent.state, *(row.state for row in world.query(receipts_table) if row.parent)] == [
        "SPLIT", "SEALED", "SEALED",
    ]  # fmt: skip
    # A pallet, a case and six tins, each once.
    assert len(live) == len({bytes(row.goods_key) for row in live}) == 8
    assert len(children) == 2
    for row in live:
        assert world.ctx.registry.holder(bytes(row.goods_key)) == bytes(row.receipt)


def test_parts_that_leave_something_out_are_refused(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    whole = receipt(world)

    refused("parts_do_not_sum", world.do, receipts.split_receipt, CUSTODIAN, receipt=whole, parts=TINS[:2])
    refused("bad_parts", world.do, receipts.split_receipt, CUSTODIAN, receipt=whole, parts=[PALLET])
    refused("bad_parts", world.do, receipts.split_receipt, CUSTODIAN, receipt=whole, parts=[PALLET, CASE])


def test_a_part_is_released_while_the_rest_covers_what_is_owed(world: FinanceWorld) -> None:
    facility, first, second = two_pledges(world)
    # Four tins at 20,000: 64,000 net, 60 % cap, 70 % advance: 26,880; two tins: 13,440.
    world.do(lending.draw, BORROWER, facility=facility, amount="20000.00")

    refused("exposure_uncovered", world.do, pledges.request_release, MAKER_OF_BANK, pledge=first)
    release(world, second)
    world.settle()

    assert {row.id: row.state for row in world.query(pledges_table)} == {first: "ACTIVE", second: "RELEASED"}
    assert world.query(facilities)[0].state == "ACTIVE"
    refused("exposure_uncovered", world.do, pledges.request_release, MAKER_OF_BANK, pledge=first)


def test_goods_are_substituted_only_by_goods_worth_as_much(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    facility, first, second = two_pledges(world)
    world.do(lending.draw, BORROWER, facility=facility, amount="10000.00")

    refused("substitute_below", world.do, substitution.propose_substitution, MAKER_OF_BANK, pledge=first,
            instead=second)  # fmt: skip
    asked = world.do(substitution.propose_substitution, MAKER_OF_BANK, pledge=second, instead=first)
    values = {"pledge": second, "instead": first, "request": asked["request"], "proposal": asked["proposal"]}
    with pytest.raises(Conflict):
        world.do(substitution.substitute, CHECKER, **(values | {"proposal": "A" * 43}))
    world.do(substitution.substitute, CHECKER, **values)
    world.settle()

    assert {row.id: row.state for row in world.query(pledges_table)} == {first: "ACTIVE", second: "RELEASED"}


def test_an_application_is_withdrawn_only_by_its_borrower(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    prepare(world)
    receipt(world)
    done = apply(world)

    refused("not_allowed", world.do, exits.withdraw_application, MAKER_OF_BANK, application=done["application"])
    assert world.do(exits.withdraw_application, BORROWER, application=done["application"])["state"] == "WITHDRAWN"
    refused("illegal_transition", world.do, exits.withdraw_application, BORROWER, application=done["application"])
