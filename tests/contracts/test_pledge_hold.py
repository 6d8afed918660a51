"""PledgeRegistry: a regulator's hold on one receipt, and the pause of everything but release."""

from collections.abc import Callable

import pytest

from tests.contracts.harness import refused
from tests.contracts.test_pledge_receipts import LOT, OTHER_TIN, PALLET, TIN, registered
from tests.contracts.world import (
    ADMIN,
    CUSTODIAN,
    FIRST_BANK,
    MAKER,
    ORG_OF,
    OTHER_REGULATOR,
    OWNER,
    PAUSER,
    REGULATOR,
    REGULATOR_ROLE,
    SPARE,
    STRANGER,
    ZERO,
    World,
    h,
    number,
)

REASON = h("court order")


def moves(world: World) -> dict[str, Callable[[], object]]:
    """Every move of a receipt, each ready to succeed."""
    pledges = world.pledges
    open_one = registered(world, 1, {h("open"): 1})
    sealed = [world.sealed(count, {h(f"thing {count}"): 1, h(f"second {count}"): 1}) for count in range(2, 10)]
    pledged, enforcing, splitting = sealed[4], sealed[5], sealed[6]
    world.pledge(pledged)
    world.pledge(enforcing)
    pledges.enforce(enforcing, sender=FIRST_BANK)
    pledges.split(splitting, number(90), [h("thing 8")], [1], sender=CUSTODIAN)
    return {
        "register": lambda: pledges.register(open_one, OWNER, [TIN], [1], sender=CUSTODIAN),
        "seal": lambda: pledges.seal(open_one, sender=CUSTODIAN),
        "cancel": lambda: pledges.cancel(sealed[0], sender=CUSTODIAN),
        "deliver": lambda: pledges.deliver(sealed[1], sender=CUSTODIAN),
        "split": lambda: pledges.split(sealed[2], number(91), [h("thing 4")], [1], sender=CUSTODIAN),
        "go on splitting": lambda: pledges.split(splitting, number(90), [h("second 8")], [1], sender=CUSTODIAN),
        "pledge": lambda: world.pledge(sealed[3]),
        "enforce": lambda: pledges.enforce(pledged, sender=FIRST_BANK),
        "cure": lambda: pledges.cure(enforcing, sender=FIRST_BANK),
        "settle": lambda: pledges.settle(enforcing, sender=FIRST_BANK),
        "release": lambda: pledges.release(enforcing, sender=FIRST_BANK),
    }


HELD_RECEIPT = {
    "register": number(1),
    "seal": number(1),
    "cancel": number(2),
    "deliver": number(3),
    "split": number(4),
    "go on splitting": number(8),
    "pledge": number(5),
    "enforce": number(6),
    "cure": number(7),
    "settle": number(7),
    "release": number(7),
}


@pytest.mark.parametrize("move", list(HELD_RECEIPT))
def test_a_held_receipt_does_not_move_until_it_is_lifted(world: World, move: str) -> None:
    do = moves(world)[move]
    world.pledges.hold(HELD_RECEIPT[move], REASON, sender=REGULATOR)

    with refused("held", world.pledges):
        do()

    world.pledges.lift(HELD_RECEIPT[move], sender=REGULATOR)
    do()


def test_a_held_child_gets_nothing_while_other_receipts_move(world: World) -> None:
    parent = world.sealed(1, {TIN: 1, OTHER_TIN: 1, PALLET: 1})
    world.pledges.split(parent, number(2), [TIN], [1], sender=CUSTODIAN)
    world.pledges.hold(number(2), REASON, sender=REGULATOR)

    with refused("held", world.pledges):
        world.pledges.split(parent, number(2), [OTHER_TIN], [1], sender=CUSTODIAN)

    world.pledges.split(parent, number(3), [OTHER_TIN, PALLET], [1, 1], sender=CUSTODIAN)
    with refused("held", world.pledges):
        world.pledges.cancel(number(2), sender=CUSTODIAN)


def test_a_hold_tells_its_reason_and_who_holds(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})

    held = world.pledges.hold(receipt, REASON, sender=REGULATOR)
    assert world.pledges.hold_of(receipt, ORG_OF[REGULATOR]) == REASON
    assert world.pledges.hold_of(receipt, ORG_OF[OTHER_REGULATOR]) == ZERO
    assert world.pledges.receipt_at(receipt)[4] == 1
    lifted = world.pledges.lift(receipt, sender=REGULATOR)

    assert world.pledges.hold_of(receipt, ORG_OF[REGULATOR]) == ZERO
    assert world.pledges.receipt_at(receipt)[4] == 0
    assert held.events == [("Held", {"receipt": receipt, "org": ORG_OF[REGULATOR], "reason_hash": REASON})]
    assert lifted.events == [("Lifted", {"receipt": receipt, "org": ORG_OF[REGULATOR]})]


def test_each_regulator_lifts_its_own_hold(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})
    world.pledges.hold(receipt, REASON, sender=REGULATOR)
    with refused("not held", world.pledges):
        world.pledges.lift(receipt, sender=OTHER_REGULATOR)
    world.pledges.hold(receipt, h("another reason"), sender=OTHER_REGULATOR)
    with refused("held", world.pledges):
        world.pledges.hold(receipt, h("again"), sender=REGULATOR)

    world.pledges.lift(receipt, sender=REGULATOR)

    assert world.pledges.receipt_at(receipt)[4] == 1
    with refused("held", world.pledges):
        world.pledges.deliver(receipt, sender=CUSTODIAN)
    world.pledges.lift(receipt, sender=OTHER_REGULATOR)
    world.pledges.deliver(receipt, sender=CUSTODIAN)


def test_only_a_regulator_holds_and_lifts(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})
    for sender in (ADMIN, PAUSER, CUSTODIAN, OWNER, FIRST_BANK, STRANGER):
        with refused("not regulator", world.pledges):
            world.pledges.hold(receipt, REASON, sender=sender)
    world.pledges.hold(receipt, REASON, sender=REGULATOR)

    for sender in (ADMIN, PAUSER, CUSTODIAN, OWNER, FIRST_BANK, STRANGER):
        with refused("not regulator", world.pledges):
            world.pledges.lift(receipt, sender=sender)


def test_a_hold_needs_a_reason_and_a_live_receipt(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})
    with refused("no reason", world.pledges):
        world.pledges.hold(receipt, ZERO, sender=REGULATOR)
    with refused("not live", world.pledges):
        world.pledges.hold(number(2), REASON, sender=REGULATOR)
    with refused("not held", world.pledges):
        world.pledges.lift(receipt, sender=REGULATOR)
    world.pledges.cancel(receipt, sender=CUSTODIAN)

    with refused("not live", world.pledges):
        world.pledges.hold(receipt, REASON, sender=REGULATOR)


def test_a_regulator_with_a_new_key_lifts_the_hold_of_its_organisation(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})
    world.pledges.hold(receipt, REASON, sender=REGULATOR)

    world.organisations.set_organisation(ORG_OF[REGULATOR], h("key"), SPARE, REGULATOR_ROLE, sender=ADMIN)

    with refused("not regulator", world.pledges):
        world.pledges.lift(receipt, sender=REGULATOR)
    world.pledges.lift(receipt, sender=SPARE)


# ------------------------------------------------------------------------------ pause


@pytest.mark.parametrize("move", [name for name in HELD_RECEIPT if name != "release"])
def test_a_pause_stops_every_move_of_a_receipt(world: World, move: str) -> None:
    do = moves(world)[move]
    world.pledges.pause(sender=PAUSER)

    with refused("paused", world.pledges):
        do()

    world.pledges.unpause(sender=PAUSER)
    do()


def test_a_pause_stops_capacities_new_receipts_holds_and_lifts(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})
    held = world.sealed(2, {OTHER_TIN: 1})
    world.pledges.hold(held, REASON, sender=REGULATOR)

    world.pledges.pause(sender=PAUSER)

    with refused("paused", world.pledges):
        world.pledges.set_capacity(LOT, 10, sender=MAKER)
    with refused("paused", world.pledges):
        world.pledges.register(number(3), OWNER, [PALLET], [1], sender=CUSTODIAN)
    with refused("paused", world.pledges):
        world.pledges.hold(receipt, REASON, sender=REGULATOR)
    with refused("paused", world.pledges):
        world.pledges.lift(held, sender=REGULATOR)
    assert world.pledges.claimed(TIN) == 1


def test_release_works_while_paused(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})
    world.pledge(receipt)
    world.pledges.pause(sender=PAUSER)

    world.pledges.release(receipt, sender=FIRST_BANK)

    assert world.pledges.pledge_of(receipt)[2] == 3


def test_a_pause_of_the_organisations_does_not_stop_pledges(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})
    world.organisations.pause(sender=PAUSER)

    world.pledge(receipt)

    assert world.pledges.pledge_of(receipt)[2] == 1
