"""PledgeRegistry: capacity, register, seal, cancel, deliver."""

import pytest

from tests.contracts.harness import deploy, refused
from tests.contracts.world import (
    ADMIN,
    CUSTODIAN,
    CUSTODIAN_ROLE,
    FIRST_BANK,
    MAKER,
    NOBODY,
    ORG_OF,
    OTHER_CUSTODIAN,
    OTHER_OWNER,
    OWNER,
    RETAILER_ROLE,
    SPARE,
    STRANGER,
    ZERO,
    World,
    h,
    number,
)

PALLET, TIN, OTHER_TIN, LOT = h("pallet"), h("tin"), h("other tin"), h("lot")
REGISTERING, SEALED, PLEDGED, SPLITTING, SPLIT, CANCELLED, DELIVERED = range(1, 8)


def registered(world: World, count: int, goods: dict[bytes, int]) -> bytes:
    receipt = number(count)
    world.pledges.register(receipt, OWNER, list(goods), list(goods.values()), sender=CUSTODIAN)
    return receipt


def with_lot(world: World, quantity: int = 1000) -> None:
    world.pledges.set_capacity(LOT, quantity, sender=MAKER)


# --------------------------------------------------------------------------- capacity


def test_a_key_without_a_capacity_is_one_thing(world: World) -> None:
    assert world.pledges.capacity(TIN) == 1
    assert world.pledges.claimed(TIN) == 0
    assert world.pledges.holder(TIN) == ZERO
    assert int(world.pledges.capacity_maker(TIN), 16) == 0


def test_a_maker_registers_a_lot_once(world: World) -> None:
    mined = world.pledges.set_capacity(LOT, 1000, sender=MAKER)

    assert mined.events == [("CapacitySet", {"goods_key": LOT, "maker": MAKER, "quantity": 1000})]
    assert world.pledges.capacity(LOT) == 1000
    assert world.pledges.capacity_maker(LOT) == MAKER
    for quantity in (1, 1000, 2000):
        with refused("capacity set", world.pledges):
            world.pledges.set_capacity(LOT, quantity, sender=MAKER)


def test_only_a_maker_registers_a_lot(world: World) -> None:
    for sender in (ADMIN, CUSTODIAN, OWNER, FIRST_BANK, STRANGER):
        with refused("not maker", world.pledges):
            world.pledges.set_capacity(LOT, 1000, sender=sender)


@pytest.mark.parametrize("quantity", [1, 2**64 - 1])
def test_the_smallest_and_the_largest_capacity_are_taken(world: World, quantity: int) -> None:
    with_lot(world, quantity)

    world.sealed(1, {LOT: quantity})

    assert world.pledges.claimed(LOT) == world.pledges.capacity(LOT) == quantity
    with refused("over capacity", world.pledges):
        world.pledges.register(number(2), OWNER, [LOT], [1], sender=CUSTODIAN)


@pytest.mark.parametrize("quantity", [0, 2**64, 2**256 - 1])
def test_a_wrong_capacity_is_refused(world: World, quantity: int) -> None:
    with refused("bad quantity", world.pledges):
        world.pledges.set_capacity(LOT, quantity, sender=MAKER)
    with refused("no goods", world.pledges):
        world.pledges.set_capacity(ZERO, 1, sender=MAKER)


def test_a_claimed_thing_does_not_become_a_lot(world: World) -> None:
    receipt = registered(world, 1, {TIN: 1})

    with refused("claimed", world.pledges):
        world.pledges.set_capacity(TIN, 1000, sender=MAKER)

    world.pledges.cancel(receipt, sender=CUSTODIAN)
    world.pledges.set_capacity(TIN, 1000, sender=MAKER)
    assert world.pledges.capacity(TIN) == 1000
    assert world.pledges.claimed(TIN) == 0
    assert world.pledges.claim_of(receipt, TIN) == 0


# --------------------------------------------------------------------------- register


def test_a_receipt_is_registered_in_parts_and_sealed(world: World) -> None:
    with_lot(world)
    receipt = number(1)

    first = world.pledges.register(receipt, OWNER, [PALLET, LOT], [1, 600], sender=CUSTODIAN)
    assert world.pledges.receipt_at(receipt) == (CUSTODIAN, OWNER, ZERO, REGISTERING, 0, 1, 1)
    world.pledges.register(receipt, OWNER, [TIN, LOT, OTHER_TIN], [1, 400, 1], sender=CUSTODIAN)
    sealed = world.pledges.seal(receipt, sender=CUSTODIAN)

    assert world.pledges.receipt_at(receipt) == (CUSTODIAN, OWNER, ZERO, SEALED, 0, 3, 1)
    assert [world.pledges.claimed(key) for key in (PALLET, TIN, OTHER_TIN, LOT)] == [1, 1, 1, 1000]
    assert [world.pledges.claim_of(receipt, key) for key in (PALLET, TIN, LOT)] == [1, 1, 1000]
    assert world.pledges.holder(TIN) == receipt
    assert world.pledges.holder(LOT) == ZERO
    assert first.events == [
        (
            "Claimed",
            {
                "receipt": receipt,
                "custodian": CUSTODIAN,
                "owner": OWNER,
                "goods": (PALLET, LOT),
                "quantities": (1, 600),
            },
        )
    ]
    assert sealed.events == [("Sealed", {"receipt": receipt})]


def test_a_receipt_that_was_never_registered_reads_zero(world: World) -> None:
    custodian, owner, *rest = world.pledges.receipt_at(number(1))

    assert (int(custodian, 16), int(owner, 16), rest) == (0, 0, [ZERO, 0, 0, 0, 0])
    assert world.pledges.claim_of(number(1), TIN) == 0
    assert world.pledges.nonce_of(number(1)) == 0
    assert world.pledges.pledge_of(number(1))[1:] == (ZERO, 0, 0)


def test_only_a_custodian_registers(world: World) -> None:
    for sender in (ADMIN, MAKER, OWNER, FIRST_BANK, STRANGER):
        with refused("not custodian", world.pledges):
            world.pledges.register(number(1, sender), OWNER, [TIN], [1], sender=sender)


def test_a_custodian_cannot_squat_the_number_of_another(world: World) -> None:
    for receipt in (number(1, OTHER_CUSTODIAN), h("a hash"), ZERO, number(1, STRANGER)):
        with refused("not your number", world.pledges):
            world.pledges.register(receipt, OWNER, [TIN], [1], sender=CUSTODIAN)


def test_a_custodian_does_not_touch_the_receipt_of_another(world: World) -> None:
    receipt = registered(world, 1, {TIN: 1})

    with refused("not custodian", world.pledges):
        world.pledges.register(receipt, OWNER, [OTHER_TIN], [1], sender=OTHER_CUSTODIAN)
    with refused("not custodian", world.pledges):
        world.pledges.seal(receipt, sender=OTHER_CUSTODIAN)
    world.pledges.seal(receipt, sender=CUSTODIAN)
    for action in (world.pledges.cancel, world.pledges.deliver):
        for sender in (OTHER_CUSTODIAN, OWNER, ADMIN, STRANGER):
            with refused("not custodian", world.pledges):
                action(receipt, sender=sender)
    with refused("not custodian", world.pledges):
        world.pledges.split(receipt, number(2, OTHER_CUSTODIAN), [TIN], [1], sender=OTHER_CUSTODIAN)


def test_an_unknown_owner_is_refused(world: World) -> None:
    for owner in (STRANGER, NOBODY):
        with refused("unknown owner", world.pledges):
            world.pledges.register(number(1), owner, [TIN], [1], sender=CUSTODIAN)


def test_a_replaced_owner_account_is_refused(world: World) -> None:
    world.organisations.set_organisation(ORG_OF[OWNER], h("key"), SPARE, RETAILER_ROLE, sender=ADMIN)

    with refused("unknown owner", world.pledges):
        world.pledges.register(number(1), OWNER, [TIN], [1], sender=CUSTODIAN)
    world.pledges.register(number(1), SPARE, [TIN], [1], sender=CUSTODIAN)


def test_all_parts_name_one_owner(world: World) -> None:
    receipt = registered(world, 1, {TIN: 1})

    with refused("another owner", world.pledges):
        world.pledges.register(receipt, OTHER_OWNER, [OTHER_TIN], [1], sender=CUSTODIAN)


@pytest.mark.parametrize(
    ("goods", "quantities", "reason"),
    [
        ([], [], "no goods"),
        ([TIN], [], "lengths differ"),
        ([], [1], "no goods"),
        ([TIN, PALLET], [1], "lengths differ"),
        ([ZERO], [1], "no goods"),
        ([TIN], [0], "bad quantity"),
        ([TIN], [2], "bad quantity"),
        ([TIN], [2**256 - 1], "bad quantity"),
        ([TIN, TIN], [1, 1], "over capacity"),
        ([LOT], [0], "bad quantity"),
        ([LOT], [1001], "bad quantity"),
        ([LOT], [2**256 - 1], "bad quantity"),
        ([LOT, LOT], [1000, 1], "over capacity"),
        ([PALLET, LOT, LOT], [1, 500, 501], "over capacity"),
    ],
)
def test_wrong_claims_are_refused(world: World, goods: list[bytes], quantities: list[int], reason: str) -> None:
    with_lot(world)

    with refused(reason, world.pledges):
        world.pledges.register(number(1), OWNER, goods, quantities, sender=CUSTODIAN)

    assert world.pledges.claimed(TIN) == world.pledges.claimed(PALLET) == world.pledges.claimed(LOT) == 0


def test_more_than_200_claims_in_one_call_are_refused(world: World) -> None:
    keys = [h(f"tin {count}") for count in range(201)]
    data = world.pledges.calldata("register", number(1), OWNER, keys, [1] * 201)

    assert world.node.send(CUSTODIAN, world.pledges.address, data)["status"] == 0
    assert world.pledges.receipt_at(number(1))[3] == 0


def test_a_thing_is_claimed_by_one_receipt_at_a_time(world: World) -> None:
    receipt = registered(world, 1, {PALLET: 1, TIN: 1})

    with refused("over capacity", world.pledges):
        world.pledges.register(number(2), OWNER, [OTHER_TIN, TIN], [1, 1], sender=CUSTODIAN)
    with refused("over capacity", world.pledges):
        world.pledges.register(number(1, OTHER_CUSTODIAN), OTHER_OWNER, [TIN], [1], sender=OTHER_CUSTODIAN)
    with refused("over capacity", world.pledges):
        world.pledges.register(receipt, OWNER, [TIN], [1], sender=CUSTODIAN)

    assert world.pledges.claimed(TIN) == 1
    assert world.pledges.claimed(OTHER_TIN) == 0


def test_receipts_share_a_lot_up_to_its_capacity(world: World) -> None:
    with_lot(world)
    registered(world, 1, {LOT: 400})
    registered(world, 2, {LOT: 600})

    with refused("over capacity", world.pledges):
        world.pledges.register(number(3), OWNER, [LOT], [1], sender=CUSTODIAN)

    assert world.pledges.claimed(LOT) == 1000
    assert world.pledges.claim_of(number(1), LOT) == 400


def test_a_receipt_claims_at_most_200_lots(world: World) -> None:
    keys = [h(f"lot {count}") for count in range(201)]
    for key in keys:
        world.pledges.set_capacity(key, 10, sender=MAKER)
    receipt = number(1)
    world.pledges.register(receipt, OWNER, keys[:200], [7] * 200, sender=CUSTODIAN)

    with refused("too many lots", world.pledges):
        world.pledges.register(receipt, OWNER, [keys[200]], [1], sender=CUSTODIAN)

    world.pledges.register(receipt, OWNER, [keys[0], TIN], [3, 1], sender=CUSTODIAN)
    world.pledges.cancel(receipt, sender=CUSTODIAN)
    assert {world.pledges.claimed(key) for key in keys} == {0}


# -------------------------------------------------------------------- seal and the ends


def test_a_sealed_receipt_takes_no_more_claims(world: World) -> None:
    receipt = world.sealed(1, {TIN: 1})

    with refused("not registering", world.pledges):
        world.pledges.register(receipt, OWNER, [OTHER_TIN], [1], sender=CUSTODIAN)
    with refused("not registering", world.pledges):
        world.pledges.seal(receipt, sender=CUSTODIAN)


def test_what_was_never_registered_is_not_moved(world: World) -> None:
    for action in ("seal", "cancel", "deliver"):
        with refused("no such receipt", world.pledges):
            getattr(world.pledges, action)(number(1), sender=CUSTODIAN)
    with refused("no such receipt", world.pledges):
        world.pledges.split(number(1), number(2), [TIN], [1], sender=CUSTODIAN)


@pytest.mark.parametrize(
    ("action", "event", "state"), [("cancel", "Cancelled", CANCELLED), ("deliver", "Delivered", DELIVERED)]
)
def test_an_end_frees_the_claims_and_is_final(world: World, action: str, event: str, state: int) -> None:
    with_lot(world)
    receipt = world.sealed(1, {PALLET: 1, TIN: 1, LOT: 700})

    mined = getattr(world.pledges, action)(receipt, sender=CUSTODIAN)

    assert mined.events == [(event, {"receipt": receipt})]
    assert world.pledges.receipt_at(receipt)[3] == state
    assert [world.pledges.claimed(key) for key in (PALLET, TIN, LOT)] == [0, 0, 0]
    assert [world.pledges.claim_of(receipt, key) for key in (PALLET, LOT)] == [0, 0]
    assert world.pledges.holder(TIN) == ZERO
    for again, reason in [("cancel", "not live"), ("deliver", "not sealed"), ("seal", "not registering")]:
        with refused(reason, world.pledges):
            getattr(world.pledges, again)(receipt, sender=CUSTODIAN)
    with refused("not registering", world.pledges):
        world.pledges.register(receipt, OWNER, [OTHER_TIN], [1], sender=CUSTODIAN)
    with refused("not sealed", world.pledges):
        world.pledges.split(receipt, number(9), [TIN], [1], sender=CUSTODIAN)


def test_delivered_goods_can_be_claimed_anew_by_another_custodian(world: World) -> None:
    with_lot(world)
    world.pledges.deliver(world.sealed(1, {PALLET: 1, LOT: 1000}), sender=CUSTODIAN)

    again = world.sealed(1, {PALLET: 1, LOT: 1000}, custodian=OTHER_CUSTODIAN, owner=OTHER_OWNER)

    assert world.pledges.holder(PALLET) == again
    assert world.pledges.claimed(LOT) == 1000
    assert world.pledges.claim_of(number(1), PALLET) == 0
    assert world.pledges.claim_of(number(1), LOT) == 0


def test_a_receipt_that_is_not_sealed_can_be_cancelled_but_not_delivered(world: World) -> None:
    receipt = registered(world, 1, {TIN: 1})
    with refused("not sealed", world.pledges):
        world.pledges.deliver(receipt, sender=CUSTODIAN)

    world.pledges.cancel(receipt, sender=CUSTODIAN)

    assert world.pledges.claimed(TIN) == 0


def test_a_custodian_without_its_role_can_do_nothing(world: World) -> None:
    receipt = registered(world, 1, {TIN: 1})
    sealed = world.sealed(2, {PALLET: 1})
    world.organisations.set_organisation(ORG_OF[CUSTODIAN], h("key"), CUSTODIAN, 0, sender=ADMIN)

    for name, values in [
        ("register", (number(3), OWNER, [OTHER_TIN], [1])),
        ("seal", (receipt,)),
        ("cancel", (receipt,)),
        ("deliver", (sealed,)),
        ("split", (sealed, number(4), [PALLET], [1])),
    ]:
        with refused("not custodian", world.pledges):
            getattr(world.pledges, name)(*values, sender=CUSTODIAN)


def test_a_custodian_with_a_new_key_goes_on_and_the_old_key_does_not(world: World) -> None:
    receipt = registered(world, 1, {TIN: 1})
    sealed = world.sealed(2, {PALLET: 1})
    world.organisations.set_organisation(ORG_OF[CUSTODIAN], h("key"), SPARE, CUSTODIAN_ROLE, sender=ADMIN)
    with refused("not custodian", world.pledges):
        world.pledges.deliver(sealed, sender=CUSTODIAN)

    world.pledges.register(receipt, OWNER, [OTHER_TIN], [1], sender=SPARE)
    world.pledges.seal(receipt, sender=SPARE)
    world.pledges.split(sealed, number(1, SPARE), [PALLET], [1], sender=SPARE)
    world.pledges.seal(number(1, SPARE), sender=SPARE)
    world.pledges.deliver(number(1, SPARE), sender=SPARE)

    assert world.pledges.receipt_at(number(1, SPARE))[:4] == (CUSTODIAN, OWNER, sealed, DELIVERED)


@pytest.mark.parametrize("values", [(NOBODY, STRANGER, h("k")), (ADMIN, NOBODY, h("k")), (ADMIN, STRANGER, ZERO)])
def test_a_wrong_deployment_is_refused(world: World, values: tuple[object, ...]) -> None:
    with pytest.raises(Exception, match="constructor"):
        deploy(world.node, world.pledges.artifact, *values, sender=ADMIN)


def test_the_deployment_can_be_read(world: World) -> None:
    assert world.pledges.organisations() == world.organisations.address
    assert world.pledges.k_check() == h("k-check")
