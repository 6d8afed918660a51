"""OrganisationRegistry: append-only versions, one organisation an account, roles of the current one."""

import pytest

from tests.contracts.harness import deploy, refused
from tests.contracts.world import (
    ADMIN,
    CUSTODIAN,
    CUSTODIAN_ROLE,
    LENDER_ROLE,
    MAKER,
    MAKER_ROLE,
    NEXT_ADMIN,
    NOBODY,
    PAUSER,
    REGULATOR,
    REGULATOR_ROLE,
    SECOND_SPARE,
    SPARE,
    STRANGER,
    ZERO,
    World,
    h,
)

NEW = h("new organisation")
KEY = h("record key")


def test_an_organisation_can_be_read_as_it_was_set(world: World) -> None:
    registry = world.organisations

    mined = registry.set_organisation(NEW, KEY, SPARE, MAKER_ROLE | CUSTODIAN_ROLE, sender=ADMIN)

    record_key, account, roles, block = registry.current(NEW)
    assert (record_key, account, roles) == (KEY, SPARE, MAKER_ROLE | CUSTODIAN_ROLE)
    assert block > 0
    assert registry.organisation_at(NEW, 0) == registry.current(NEW)
    assert registry.version_count(NEW) == 1
    assert registry.organisation_of(SPARE) == NEW
    assert mined.events == [
        (
            "OrganisationSet",
            {"org": NEW, "version": 0, "account": SPARE, "record_key": KEY, "roles": 10},
        )
    ]


def test_a_change_adds_a_version_and_keeps_the_old_ones(world: World) -> None:
    registry = world.organisations
    registry.set_organisation(NEW, KEY, SPARE, LENDER_ROLE, sender=ADMIN)
    first = registry.organisation_at(NEW, 0)

    registry.set_organisation(NEW, h("second key"), SECOND_SPARE, MAKER_ROLE, sender=ADMIN)

    assert registry.organisation_at(NEW, 0) == first
    assert registry.organisation_at(NEW, 1)[:3] == (h("second key"), SECOND_SPARE, MAKER_ROLE)
    assert registry.organisation_at(NEW, 1)[3] > first[3]
    assert registry.current(NEW) == registry.organisation_at(NEW, 1)
    assert registry.version_count(NEW) == 2


def test_all_role_bits_and_the_largest_values_survive_packing(world: World) -> None:
    registry = world.organisations
    registry.set_organisation(b"\xff" * 32, b"\xff" * 32, SPARE, 255, sender=ADMIN)

    assert registry.current(b"\xff" * 32)[:3] == (b"\xff" * 32, SPARE, 255)


def test_only_the_current_account_has_the_current_roles(world: World) -> None:
    registry = world.organisations
    registry.set_organisation(NEW, KEY, SPARE, LENDER_ROLE | MAKER_ROLE, sender=ADMIN)
    assert registry.has_role(SPARE, LENDER_ROLE)
    assert registry.has_role(SPARE, LENDER_ROLE | MAKER_ROLE)
    assert not registry.has_role(SPARE, LENDER_ROLE | CUSTODIAN_ROLE)
    assert not registry.has_role(SPARE, 0)

    registry.set_organisation(NEW, KEY, SECOND_SPARE, LENDER_ROLE, sender=ADMIN)

    assert not registry.has_role(SPARE, LENDER_ROLE)
    assert registry.has_role(SECOND_SPARE, LENDER_ROLE)
    assert not registry.has_role(SECOND_SPARE, MAKER_ROLE)
    assert registry.current_account(SPARE) == SECOND_SPARE
    assert registry.current_account(SECOND_SPARE) == SECOND_SPARE


def test_an_unknown_account_has_no_role_and_no_organisation(world: World) -> None:
    registry = world.organisations

    assert registry.organisation_of(STRANGER) == ZERO
    assert registry.current_account(STRANGER) == registry.current_account(NOBODY)
    assert not any(registry.has_role(STRANGER, 1 << bit) for bit in range(256))
    assert not registry.has_role(NOBODY, 1)


def test_an_organisation_without_an_account_gives_nobody_its_roles(world: World) -> None:
    registry = world.organisations
    registry.set_organisation(NEW, KEY, SPARE, LENDER_ROLE, sender=ADMIN)

    registry.set_organisation(NEW, KEY, NOBODY, LENDER_ROLE, sender=ADMIN)

    assert not registry.has_role(SPARE, LENDER_ROLE)
    assert not registry.has_role(NOBODY, LENDER_ROLE)
    assert int(registry.current_account(SPARE), 16) == 0


def test_an_account_never_changes_its_organisation(world: World) -> None:
    registry = world.organisations
    registry.set_organisation(NEW, KEY, SPARE, LENDER_ROLE, sender=ADMIN)
    registry.set_organisation(NEW, KEY, SECOND_SPARE, LENDER_ROLE, sender=ADMIN)

    with refused("account taken", registry):
        registry.set_organisation(h("another"), KEY, SPARE, LENDER_ROLE, sender=ADMIN)

    registry.set_organisation(NEW, KEY, SPARE, LENDER_ROLE, sender=ADMIN)
    assert registry.has_role(SPARE, LENDER_ROLE)


def test_only_the_admin_sets_organisations(world: World) -> None:
    for sender in (STRANGER, PAUSER, MAKER, REGULATOR):
        with refused("not admin", world.organisations):
            world.organisations.set_organisation(NEW, KEY, SPARE, LENDER_ROLE, sender=sender)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((ZERO, KEY, SPARE, 1), "no organisation"),
        ((NEW, ZERO, SPARE, 1), "no key"),
        ((NEW, KEY, SPARE, 256), "unknown role"),
        ((NEW, KEY, SPARE, 2**255), "unknown role"),
        ((NEW, KEY, CUSTODIAN, 1), "account taken"),
        ((NEW, KEY, ADMIN, REGULATOR_ROLE), "role taken"),
        ((NEW, KEY, PAUSER, REGULATOR_ROLE | 1), "role taken"),
    ],
)
def test_a_wrong_organisation_is_refused(world: World, values: tuple[object, ...], reason: str) -> None:
    with refused(reason, world.organisations):
        world.organisations.set_organisation(*values, sender=ADMIN)


def test_reading_what_is_not_there_is_refused(world: World) -> None:
    with refused("no such organisation"):
        world.organisations.current(NEW)
    with refused("no such version"):
        world.organisations.organisation_at(NEW, 0)
    with refused("no such version"):
        world.organisations.organisation_at(h("maker"), 1)


def test_a_pause_stops_changes_and_nothing_else(world: World) -> None:
    registry = world.organisations
    registry.pause(sender=PAUSER)
    assert registry.paused()

    with refused("paused", registry):
        registry.set_organisation(NEW, KEY, SPARE, 1, sender=ADMIN)
    with refused("paused", registry):
        registry.pause(sender=PAUSER)

    assert registry.has_role(MAKER, MAKER_ROLE)
    registry.unpause(sender=PAUSER)
    registry.set_organisation(NEW, KEY, SPARE, 1, sender=ADMIN)
    with refused("not paused", registry):
        registry.unpause(sender=PAUSER)


def test_a_regulator_does_not_become_pauser_or_admin(world: World) -> None:
    registry = world.organisations
    with refused("role taken", registry):
        registry.set_pauser(REGULATOR, sender=ADMIN)
    registry.offer_admin(REGULATOR, sender=ADMIN)
    with refused("role taken", registry):
        registry.accept_admin(sender=REGULATOR)
    registry.offer_admin(NEXT_ADMIN, sender=ADMIN)
    registry.accept_admin(sender=NEXT_ADMIN)
    assert registry.admin() == NEXT_ADMIN


def test_a_registry_without_an_admin_is_refused(world: World) -> None:
    with pytest.raises(Exception, match="constructor"):
        deploy(world.node, world.organisations.artifact, NOBODY, sender=ADMIN)
