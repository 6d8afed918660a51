"""Roles that all three contracts share: admin in two steps, pauser, and accounts that must differ."""

import pytest

from tests.contracts.harness import Contract, refused
from tests.contracts.world import (
    ADMIN,
    NEXT_ADMIN,
    NOBODY,
    PAUSER,
    PUBLISHER,
    REGULATOR,
    SPARE,
    STRANGER,
    World,
)


@pytest.fixture(params=["organisations", "pledges", "log"])
def contract(request: pytest.FixtureRequest, world: World) -> Contract:
    found: Contract = getattr(world, request.param)
    return found


def test_the_admin_hands_over_in_two_steps(contract: Contract) -> None:
    offered = contract.offer_admin(NEXT_ADMIN, sender=ADMIN)
    assert contract.admin() == ADMIN
    assert contract.admin_offered() == NEXT_ADMIN
    accepted = contract.accept_admin(sender=NEXT_ADMIN)

    assert contract.admin() == NEXT_ADMIN
    assert int(contract.admin_offered(), 16) == 0
    assert [event for mined in (offered, accepted) for event in mined.events] == [
        ("AdminOffered", {"account": NEXT_ADMIN}),
        ("AdminSet", {"account": NEXT_ADMIN}),
    ]
    with refused("not admin", contract):
        contract.set_pauser(SPARE, sender=ADMIN)
    contract.set_pauser(SPARE, sender=NEXT_ADMIN)
    with refused("not offered", contract):
        contract.accept_admin(sender=NEXT_ADMIN)


def test_nobody_takes_an_offer_made_to_another_or_withdrawn(contract: Contract) -> None:
    with refused("not offered", contract):
        contract.accept_admin(sender=STRANGER)
    contract.offer_admin(NEXT_ADMIN, sender=ADMIN)
    with refused("not offered", contract):
        contract.accept_admin(sender=STRANGER)

    contract.offer_admin(NOBODY, sender=ADMIN)

    with refused("not offered", contract):
        contract.accept_admin(sender=NEXT_ADMIN)


def test_only_the_admin_gives_roles_out(contract: Contract) -> None:
    for sender in (PUBLISHER, PAUSER, STRANGER):
        with refused("not admin", contract):
            contract.offer_admin(sender, sender=sender)
        with refused("not admin", contract):
            contract.set_pauser(sender, sender=sender)


def test_only_the_pauser_pauses_and_unpauses(contract: Contract) -> None:
    for sender in (ADMIN, PUBLISHER, STRANGER, REGULATOR):
        with refused("not pauser", contract):
            contract.pause(sender=sender)
    paused = contract.pause(sender=PAUSER)
    assert contract.paused()
    for sender in (ADMIN, PUBLISHER, STRANGER, REGULATOR):
        with refused("not pauser", contract):
            contract.unpause(sender=sender)
    with refused("paused", contract):
        contract.pause(sender=PAUSER)

    unpaused = contract.unpause(sender=PAUSER)

    assert not contract.paused()
    assert [event for mined in (paused, unpaused) for event in mined.events] == [
        ("Paused", {"account": PAUSER}),
        ("Unpaused", {"account": PAUSER}),
    ]
    with refused("not paused", contract):
        contract.unpause(sender=PAUSER)


def test_admin_and_pauser_are_different_accounts(contract: Contract) -> None:
    with refused("role taken", contract):
        contract.set_pauser(ADMIN, sender=ADMIN)
    contract.offer_admin(PAUSER, sender=ADMIN)
    with refused("role taken", contract):
        contract.accept_admin(sender=PAUSER)

    contract.set_pauser(SPARE, sender=ADMIN)
    contract.accept_admin(sender=PAUSER)

    assert (contract.admin(), contract.pauser()) == (PAUSER, SPARE)


def test_a_stolen_pauser_key_is_replaced_during_its_pause(contract: Contract) -> None:
    contract.pause(sender=PAUSER)

    contract.set_pauser(SPARE, sender=ADMIN)

    with refused("not pauser", contract):
        contract.unpause(sender=PAUSER)
    contract.unpause(sender=SPARE)
    assert not contract.paused()


def test_there_can_be_no_pauser(contract: Contract) -> None:
    mined = contract.set_pauser(NOBODY, sender=ADMIN)

    assert mined.events == [("PauserSet", {"account": contract.pauser()})]
    assert int(contract.pauser(), 16) == 0
    with refused("not pauser", contract):
        contract.pause(sender=PAUSER)


def test_the_publisher_is_neither_admin_nor_pauser(world: World) -> None:
    log = world.log
    for account in (ADMIN, PAUSER):
        with refused("role taken", log):
            log.set_publisher(account, sender=ADMIN)
    with refused("role taken", log):
        log.set_pauser(PUBLISHER, sender=ADMIN)
    log.offer_admin(PUBLISHER, sender=ADMIN)
    with refused("role taken", log):
        log.accept_admin(sender=PUBLISHER)
    for sender in (PUBLISHER, PAUSER, STRANGER):
        with refused("not admin", log):
            log.set_publisher(SPARE, sender=sender)

    mined = log.set_publisher(SPARE, sender=ADMIN)

    assert mined.events == [("PublisherSet", {"account": SPARE})]
    assert log.publisher() == SPARE


def test_a_regulator_is_neither_pauser_nor_admin_of_the_pledges(world: World) -> None:
    with refused("role taken", world.pledges):
        world.pledges.set_pauser(REGULATOR, sender=ADMIN)
    world.pledges.offer_admin(REGULATOR, sender=ADMIN)
    with refused("role taken", world.pledges):
        world.pledges.accept_admin(sender=REGULATOR)


def test_nobody_sends_money_to_a_contract(contract: Contract) -> None:
    node = contract.node
    assert node.send(STRANGER, contract.address, b"")["status"] == 0
    assert node.send(STRANGER, contract.address, b"\xde\xad\xbe\xef")["status"] == 0
