"""TransparencyLog: freeze, successor logs, and the pause."""

from tests.contracts import naive_merkle as naive
from tests.contracts.harness import refused
from tests.contracts.test_transparency import KEY, ORIGIN, anchored, step, top
from tests.contracts.world import ADMIN, NO_LOG, PAUSER, PUBLISHER, SPARE, ZERO, World, h


def test_a_freeze_cuts_off_what_was_anchored_after_the_last_good_size(world: World) -> None:
    log_id = anchored(world, 5, 9, 20)

    mined = world.log.freeze(log_id, 9, sender=ADMIN)

    assert mined.events == [("Frozen", {"log_id": log_id, "last_good": 9})]
    assert world.log.root_at(log_id, 5) == top(5)
    assert world.log.root_at(log_id, 9) == top(9)
    assert world.log.root_at(log_id, 20) == ZERO
    assert world.log.log_at(log_id)[3:] == (9, top(9), True, 9)
    assert not world.log.check_inclusion(log_id, 20, 0, h("leaf"), [])


def test_a_frozen_log_takes_no_anchor_and_no_second_freeze(world: World) -> None:
    log_id = anchored(world, 5, 9)
    world.log.freeze(log_id, 5, sender=ADMIN)

    for before in (5, 9):
        with refused("frozen", world.log):
            world.log.anchor(log_id, before, 20, top(20), step(before, 20), sender=PUBLISHER)
    for last_good in (0, 5, 9):
        with refused("frozen", world.log):
            world.log.freeze(log_id, last_good, sender=ADMIN)


def test_a_freeze_names_an_anchored_size_or_none(world: World) -> None:
    log_id = anchored(world, 5, 9)
    for size in (4, 6, 10, 2**64 - 1):
        with refused("size not anchored", world.log):
            world.log.freeze(log_id, size, sender=ADMIN)
    with refused("no such log", world.log):
        world.log.freeze(log_id + 1, 0, sender=ADMIN)

    world.log.freeze(log_id, 0, sender=ADMIN)

    assert world.log.root_at(log_id, 5) == ZERO
    assert world.log.log_at(log_id)[3:] == (0, ZERO, True, 0)


def test_a_successor_starts_at_the_last_good_root_and_extends_it(world: World) -> None:
    old = anchored(world, 5, 9, 20)
    world.log.freeze(old, 9, sender=ADMIN)

    mined = world.log.open_log(h("successor"), KEY, old, sender=ADMIN)

    new = world.log.log_count() - 1
    assert mined.events[0][1] | {"origin_hash": 0, "checkpoint_key": 0} == {
        "log_id": new,
        "origin_hash": 0,
        "checkpoint_key": 0,
        "predecessor": old,
        "size": 9,
        "root": top(9),
    }
    assert world.log.log_at(new) == (h("successor"), KEY, old, 9, top(9), False, 0)
    with refused("not the tip", world.log):
        world.log.anchor(new, 0, 12, top(12), [], sender=PUBLISHER)
    with refused("bad consistency proof", world.log):
        world.log.anchor(new, 9, 12, h("rewritten"), step(9, 12), sender=PUBLISHER)
    world.log.anchor(new, 9, 12, top(12), step(9, 12), sender=PUBLISHER)
    assert world.log.root_at(new, 12) == top(12)
    assert world.log.root_at(new, 5) == ZERO
    assert world.log.root_at(old, 12) == ZERO


def test_a_successor_of_a_log_without_a_good_root_starts_empty(world: World) -> None:
    old = anchored(world, 5)
    world.log.freeze(old, 0, sender=ADMIN)

    world.log.open_log(h("successor"), KEY, old, sender=ADMIN)

    world.log.anchor(old + 1, 0, 12, top(12), [], sender=PUBLISHER)
    assert world.log.root_at(old + 1, 12) == top(12)


def test_a_successor_may_keep_the_origin_of_its_predecessor_alone(world: World) -> None:
    old = anchored(world, 5)
    world.log.open_log(h("another"), KEY, NO_LOG, sender=ADMIN)
    world.log.freeze(old, 5, sender=ADMIN)
    with refused("origin taken", world.log):
        world.log.open_log(h("another"), KEY, old, sender=ADMIN)

    world.log.open_log(ORIGIN, h("new key"), old, sender=ADMIN)

    assert world.log.log_at(2)[:3] == (ORIGIN, h("new key"), old)


def test_a_log_has_one_successor_and_must_be_frozen_first(world: World) -> None:
    old = anchored(world, 5)
    with refused("predecessor not frozen", world.log):
        world.log.open_log(h("successor"), KEY, old, sender=ADMIN)
    world.log.freeze(old, 5, sender=ADMIN)
    world.log.open_log(h("successor"), KEY, old, sender=ADMIN)

    with refused("has a successor", world.log):
        world.log.open_log(h("fork"), KEY, old, sender=ADMIN)


def test_a_successor_can_be_frozen_and_succeeded_in_turn(world: World) -> None:
    old = anchored(world, 5, 9)
    world.log.freeze(old, 9, sender=ADMIN)
    world.log.open_log(h("second"), KEY, old, sender=ADMIN)
    world.log.anchor(old + 1, 9, 12, top(12), step(9, 12), sender=PUBLISHER)

    world.log.freeze(old + 1, 9, sender=ADMIN)
    world.log.open_log(h("third"), KEY, old + 1, sender=ADMIN)

    assert world.log.log_at(old + 2)[2:5] == (old + 1, 9, top(9))
    assert world.log.root_at(old + 1, 12) == ZERO


def test_a_pause_stops_every_change_of_a_log(world: World) -> None:
    log_id = anchored(world, 5)
    frozen = anchored(world, 5, name="frozen")
    world.log.freeze(frozen, 5, sender=ADMIN)

    world.log.pause(sender=PAUSER)

    assert world.log.paused()
    with refused("paused", world.log):
        world.log.anchor(log_id, 5, 9, top(9), step(5, 9), sender=PUBLISHER)
    with refused("paused", world.log):
        world.log.open_log(h("another"), KEY, NO_LOG, sender=ADMIN)
    with refused("paused", world.log):
        world.log.freeze(log_id, 5, sender=ADMIN)
    assert world.log.root_at(log_id, 5) == top(5)
    assert world.log.publisher() == PUBLISHER
    world.log.unpause(sender=PAUSER)
    world.log.anchor(log_id, 5, 9, top(9), step(5, 9), sender=PUBLISHER)


def test_a_stolen_publisher_key_is_replaced_and_its_anchor_cut_off(world: World) -> None:
    """The drill of the runbook: pause, replace, unpause, freeze, go on in a successor."""
    log_id = anchored(world, 5, 9)
    garbage = [*naive.leaves(9), *[h("garbage")] * 3]
    world.log.anchor(log_id, 9, 12, naive.root(garbage), naive.proof(9, garbage), sender=PUBLISHER)

    world.log.pause(sender=PAUSER)
    world.log.set_publisher(SPARE, sender=ADMIN)
    assert world.log.paused()
    world.log.unpause(sender=PAUSER)
    assert world.log.publisher() == SPARE
    with refused("not publisher", world.log):
        world.log.anchor(log_id, 12, 20, top(20), [], sender=PUBLISHER)
    world.log.freeze(log_id, 9, sender=ADMIN)
    world.log.open_log(h("successor"), KEY, log_id, sender=ADMIN)
    world.log.anchor(log_id + 1, 9, 20, top(20), step(9, 20), sender=SPARE)

    assert world.log.root_at(log_id, 12) == ZERO
    assert world.log.root_at(log_id + 1, 20) == top(20)
