"""PledgeRegistry: a split moves claims to children, key by key, and leaves the parent dead."""

import pytest

from tests.contracts.harness import refused
from tests.contracts.test_pledge_receipts import (
    CANCELLED,
    DELIVERED,
    LOT,
    OTHER_TIN,
    PALLET,
    REGISTERING,
    SEALED,
    SPLIT,
    SPLITTING,
    TIN,
    registered,
    with_lot,
)
from tests.contracts.world import CUSTODIAN, FIRST_BANK, OTHER_CUSTODIAN, OWNER, STRANGER, ZERO, World, h, number

LEFT, RIGHT = number(11), number(12)


def parent_of(world: World, lot: int = 700) -> bytes:
    with_lot(world)
    return world.sealed(1, {PALLET: 1, TIN: 1, OTHER_TIN: 1, LOT: lot})


def test_children_conserve_the_claims_key_by_key(world: World) -> None:
    parent = parent_of(world)
    keys = (PALLET, TIN, OTHER_TIN, LOT)
    before = [world.pledges.claimed(key) for key in keys]

    first = world.pledges.split(parent, LEFT, [TIN, LOT], [1, 300], sender=CUSTODIAN)
    assert world.pledges.receipt_at(parent) == (CUSTODIAN, OWNER, ZERO, SPLITTING, 0, 2, 1)
    assert world.pledges.receipt_at(LEFT) == (CUSTODIAN, OWNER, parent, REGISTERING, 0, 1, 1)
    assert [world.pledges.claimed(key) for key in keys] == before
    world.pledges.split(parent, RIGHT, [PALLET, LOT], [1, 400], sender=CUSTODIAN)
    last = world.pledges.split(parent, LEFT, [OTHER_TIN], [1], sender=CUSTODIAN)

    assert world.pledges.receipt_at(parent) == (CUSTODIAN, OWNER, ZERO, SPLIT, 0, 0, 0)
    assert world.pledges.receipt_at(LEFT) == (CUSTODIAN, OWNER, parent, REGISTERING, 0, 2, 1)
    assert world.pledges.receipt_at(RIGHT) == (CUSTODIAN, OWNER, parent, REGISTERING, 0, 1, 1)
    assert [world.pledges.claimed(key) for key in keys] == before
    assert [world.pledges.claim_of(LEFT, key) for key in keys] == [0, 1, 1, 300]
    assert [world.pledges.claim_of(RIGHT, key) for key in keys] == [1, 0, 0, 400]
    assert [world.pledges.claim_of(parent, key) for key in keys] == [0, 0, 0, 0]
    assert first.events == [("Moved", {"receipt": parent, "child": LEFT, "goods": (TIN, LOT), "quantities": (1, 300)})]
    assert [name for name, _ in last.events] == ["Moved", "Split"]


def test_children_are_sealed_pledged_and_delivered_like_any_receipt(world: World) -> None:
    parent = parent_of(world)
    world.pledges.split(parent, LEFT, [TIN, LOT], [1, 300], sender=CUSTODIAN)
    world.pledges.split(parent, RIGHT, [PALLET, OTHER_TIN, LOT], [1, 1, 400], sender=CUSTODIAN)
    world.pledges.seal(LEFT, sender=CUSTODIAN)
    world.pledges.seal(RIGHT, sender=CUSTODIAN)

    world.pledge(LEFT, FIRST_BANK)
    world.pledges.deliver(RIGHT, sender=CUSTODIAN)

    assert world.pledges.receipt_at(RIGHT)[3] == DELIVERED
    assert world.pledges.claimed(LOT) == 300
    assert world.pledges.claimed(PALLET) == 0
    assert world.pledges.claimed(TIN) == 1


def test_a_dead_parent_can_do_nothing_more(world: World) -> None:
    parent = world.sealed(1, {TIN: 1})
    world.pledges.split(parent, LEFT, [TIN], [1], sender=CUSTODIAN)

    for name, reason in [("cancel", "not live"), ("deliver", "not sealed"), ("seal", "not registering")]:
        with refused(reason, world.pledges):
            getattr(world.pledges, name)(parent, sender=CUSTODIAN)
    with refused("not sealed", world.pledges):
        world.pledges.split(parent, RIGHT, [TIN], [1], sender=CUSTODIAN)
    with refused("not registering", world.pledges):
        world.pledges.register(parent, OWNER, [PALLET], [1], sender=CUSTODIAN)
    with refused("not sealed", world.pledges):
        world.pledge(parent)


def test_a_split_that_has_begun_can_only_go_on(world: World) -> None:
    parent = parent_of(world)
    world.pledges.split(parent, LEFT, [TIN], [1], sender=CUSTODIAN)

    with refused("not live", world.pledges):
        world.pledges.cancel(parent, sender=CUSTODIAN)
    with refused("not sealed", world.pledges):
        world.pledges.deliver(parent, sender=CUSTODIAN)
    with refused("not sealed", world.pledges):
        world.pledge(parent)
    for name in ("seal", "cancel"):
        with refused("parent not split", world.pledges):
            getattr(world.pledges, name)(LEFT, sender=CUSTODIAN)
    with refused("child of a split", world.pledges):
        world.pledges.register(LEFT, OWNER, [h("foreign")], [1], sender=CUSTODIAN)


def test_a_child_can_be_cancelled_once_the_split_is_done(world: World) -> None:
    parent = parent_of(world)
    world.pledges.split(parent, LEFT, [TIN, LOT], [1, 700], sender=CUSTODIAN)
    world.pledges.split(parent, RIGHT, [PALLET, OTHER_TIN], [1, 1], sender=CUSTODIAN)

    world.pledges.cancel(LEFT, sender=CUSTODIAN)

    assert world.pledges.receipt_at(LEFT)[3] == CANCELLED
    assert world.pledges.claimed(LOT) == world.pledges.claimed(TIN) == 0
    assert world.pledges.claimed(PALLET) == 1
    with refused("child of a split", world.pledges):
        world.pledges.register(RIGHT, OWNER, [TIN], [1], sender=CUSTODIAN)


def test_children_can_be_split_again(world: World) -> None:
    parent = parent_of(world)
    world.pledges.split(parent, LEFT, [PALLET, TIN, OTHER_TIN, LOT], [1, 1, 1, 700], sender=CUSTODIAN)
    world.pledges.seal(LEFT, sender=CUSTODIAN)

    world.pledges.split(LEFT, number(13), [LOT], [100], sender=CUSTODIAN)
    world.pledges.split(LEFT, number(14), [PALLET, TIN, OTHER_TIN, LOT], [1, 1, 1, 600], sender=CUSTODIAN)

    assert world.pledges.receipt_at(LEFT)[3] == SPLIT
    assert world.pledges.claimed(LOT) == 700
    assert world.pledges.claim_of(number(13), LOT) == 100


@pytest.mark.parametrize(
    ("goods", "quantities", "reason"),
    [
        ([], [], "no goods"),
        ([TIN], [1, 1], "lengths differ"),
        ([TIN], [0], "bad quantity"),
        ([TIN], [2], "bad quantity"),
        ([TIN, TIN], [1, 1], "not in receipt"),
        ([h("foreign")], [1], "not in receipt"),
        ([ZERO], [1], "not in receipt"),
        ([LOT], [0], "bad quantity"),
        ([LOT], [701], "not in receipt"),
        ([LOT, LOT], [700, 1], "not in receipt"),
        ([LOT], [2**256 - 1], "not in receipt"),
        ([h("other lot")], [1], "not in receipt"),
    ],
)
def test_a_child_gets_nothing_that_the_parent_has_not(
    world: World, goods: list[bytes], quantities: list[int], reason: str
) -> None:
    parent = parent_of(world)
    world.sealed(2, {h("foreign"): 1, LOT: 300})

    with refused(reason, world.pledges):
        world.pledges.split(parent, LEFT, goods, quantities, sender=CUSTODIAN)

    assert world.pledges.receipt_at(parent)[3] == SEALED
    assert world.pledges.receipt_at(LEFT)[3] == 0


def test_a_child_is_a_new_number_of_the_custodian_or_a_child_of_this_split(world: World) -> None:
    parent = parent_of(world)
    other = registered(world, 2, {h("foreign"): 1})
    sealed = world.sealed(3, {h("third"): 1})

    for child, reason in [
        (parent, "not registering"),
        (sealed, "not registering"),
        (other, "not a child"),
        (number(1, OTHER_CUSTODIAN), "not your number"),
        (number(1, STRANGER), "not your number"),
        (ZERO, "not your number"),
    ]:
        with refused(reason, world.pledges):
            world.pledges.split(parent, child, [TIN], [1], sender=CUSTODIAN)


def test_a_child_of_another_split_is_refused(world: World) -> None:
    first = world.sealed(1, {TIN: 1, PALLET: 1})
    second = world.sealed(2, {OTHER_TIN: 1})
    world.pledges.split(first, LEFT, [TIN], [1], sender=CUSTODIAN)

    with refused("not a child", world.pledges):
        world.pledges.split(second, LEFT, [OTHER_TIN], [1], sender=CUSTODIAN)


def test_only_a_sealed_receipt_is_split(world: World) -> None:
    receipt = registered(world, 1, {TIN: 1})

    with refused("not sealed", world.pledges):
        world.pledges.split(receipt, LEFT, [TIN], [1], sender=CUSTODIAN)


def test_a_pledged_receipt_is_not_split(world: World) -> None:
    parent = parent_of(world)
    world.pledge(parent)

    with refused("pledged", world.pledges):
        world.pledges.split(parent, LEFT, [TIN], [1], sender=CUSTODIAN)


def test_the_thing_of_a_child_cannot_be_claimed_elsewhere(world: World) -> None:
    """A tin of a claimed pallet is claimed already, however the receipts are cut."""
    parent = parent_of(world)
    world.pledges.split(parent, LEFT, [TIN], [1], sender=CUSTODIAN)

    for key in (TIN, PALLET):
        with refused("over capacity", world.pledges):
            world.pledges.register(number(5), OWNER, [key], [1], sender=CUSTODIAN)
    with refused("over capacity", world.pledges):
        world.pledges.register(number(5), OWNER, [LOT], [301], sender=CUSTODIAN)
