"""TransparencyLog: anchoring, rule by rule."""

from hashlib import sha256

import pytest

from tests.contracts import naive_merkle as naive
from tests.contracts.harness import deploy, refused
from tests.contracts.world import (
    ADMIN,
    FIRST_BANK,
    NO_LOG,
    NOBODY,
    PAUSER,
    PUBLISHER,
    STRANGER,
    ZERO,
    World,
    h,
)

LEAVES = naive.leaves(70)
ORIGIN, KEY = h("origin"), h("checkpoint key")
SIZE_MAX = 2**63 - 1


def top(size: int) -> bytes:
    return naive.root(LEAVES[:size])


def step(size1: int, size2: int) -> list[bytes]:
    return naive.proof(size1, LEAVES[:size2])


def opened(world: World, name: str = "origin") -> int:
    world.log.open_log(h(name), KEY, NO_LOG, sender=ADMIN)
    return int(world.log.log_count()) - 1


def anchored(world: World, *sizes: int, name: str = "origin") -> int:
    log_id, before = opened(world, name), 0
    for size in sizes:
        proof = step(before, size) if before else []
        world.log.anchor(log_id, before, size, top(size), proof, sender=PUBLISHER)
        before = size
    return log_id


def test_an_opened_log_is_empty(world: World) -> None:
    mined = world.log.open_log(ORIGIN, KEY, NO_LOG, sender=ADMIN)

    assert world.log.log_count() == 1
    assert world.log.log_at(0) == (ORIGIN, KEY, NO_LOG, 0, ZERO, False, 0)
    assert mined.events == [
        (
            "LogOpened",
            {
                "log_id": 0,
                "origin_hash": ORIGIN,
                "checkpoint_key": KEY,
                "predecessor": NO_LOG,
                "size": 0,
                "root": ZERO,
            },
        )
    ]


def test_anchors_that_extend_each_other_are_kept_for_ever(world: World) -> None:
    sizes = [1, 2, 7, 8, 9, 31, 64, 70]

    log_id = anchored(world, *sizes)

    assert world.log.log_at(log_id)[3:5] == (70, top(70))
    for size in range(71):
        assert world.log.root_at(log_id, size) == (top(size) if size in sizes else ZERO)


def test_an_anchor_is_announced(world: World) -> None:
    log_id = anchored(world, 3)

    mined = world.log.anchor(log_id, 3, 7, top(7), step(3, 7), sender=PUBLISHER)

    expected = {"log_id": log_id, "size": 7, "prev_size": 3, "root": top(7)}
    assert mined.events == [("Anchored", expected)]


def test_logs_do_not_touch_each_other(world: World) -> None:
    first = anchored(world, 5, name="first")
    second = anchored(world, 6, 9, name="second")

    world.log.anchor(first, 5, 8, top(8), step(5, 8), sender=PUBLISHER)

    assert world.log.log_at(first)[3:5] == (8, top(8))
    assert world.log.log_at(second)[3:5] == (9, top(9))
    assert world.log.root_at(second, 8) == ZERO
    assert world.log.root_at(first, 6) == ZERO


def test_only_the_publisher_anchors(world: World) -> None:
    log_id = anchored(world, 3)

    for sender in (ADMIN, PAUSER, STRANGER, FIRST_BANK):
        with refused("not publisher", world.log):
            world.log.anchor(log_id, 3, 7, top(7), step(3, 7), sender=sender)


def test_nobody_anchors_when_there_is_no_publisher(world: World) -> None:
    log_id = anchored(world, 3)

    world.log.set_publisher(NOBODY, sender=ADMIN)

    with refused("not publisher", world.log):
        world.log.anchor(log_id, 3, 7, top(7), step(3, 7), sender=PUBLISHER)
    assert int(world.log.publisher(), 16) == 0


def test_a_log_that_was_never_opened_is_refused(world: World) -> None:
    opened(world)

    for log_id in (1, NO_LOG):
        with refused("no such log", world.log):
            world.log.anchor(log_id, 0, 7, top(7), [], sender=PUBLISHER)
        with refused("no such log"):
            world.log.log_at(log_id)
        assert world.log.root_at(log_id, 0) == ZERO


def test_an_anchor_starts_from_the_tip(world: World) -> None:
    log_id = anchored(world, 3, 7)

    for before in (0, 3, 6, 8, SIZE_MAX):
        proof = step(before, 9) if 0 < before < 9 else []
        with refused("not the tip", world.log):
            world.log.anchor(log_id, before, 9, top(9), proof, sender=PUBLISHER)


def test_the_same_anchor_counts_once(world: World) -> None:
    log_id = anchored(world, 3, 7)

    with refused("not the tip", world.log):
        world.log.anchor(log_id, 3, 7, top(7), step(3, 7), sender=PUBLISHER)


@pytest.mark.parametrize("size", [7, 6, 1, 0])
def test_a_log_only_grows(world: World, size: int) -> None:
    log_id = anchored(world, 7)

    with refused("size must grow", world.log):
        world.log.anchor(log_id, 7, size, top(7), [], sender=PUBLISHER)


def test_a_first_anchor_of_no_entries_is_refused(world: World) -> None:
    log_id = opened(world)

    with refused("size must grow", world.log):
        world.log.anchor(log_id, 0, 0, sha256(b"").digest(), [], sender=PUBLISHER)


def test_the_largest_size_is_that_of_the_formats(world: World) -> None:
    log_id = opened(world)
    for size in (SIZE_MAX + 1, 2**64 - 1):
        with refused("size too large", world.log):
            world.log.anchor(log_id, 0, size, h("root"), [], sender=PUBLISHER)

    world.log.anchor(log_id, 0, SIZE_MAX, h("root"), [], sender=PUBLISHER)

    assert world.log.root_at(log_id, SIZE_MAX) == h("root")
    with refused("size too large", world.log):
        world.log.anchor(log_id, SIZE_MAX, SIZE_MAX + 1, h("more"), [h("root")], sender=PUBLISHER)


def test_a_size_of_more_than_64_bits_is_refused(world: World) -> None:
    log_id = opened(world)

    for place in (4 + 2 * 32 + 23, 4 + 1 * 32 + 23):
        data = bytearray(world.log.calldata("anchor", log_id, 0, 7, top(7), []))
        data[place] = 1
        assert world.node.send(PUBLISHER, world.log.address, bytes(data))["status"] == 0


def test_a_zero_root_is_refused(world: World) -> None:
    log_id = opened(world)

    with refused("no root", world.log):
        world.log.anchor(log_id, 0, 7, ZERO, [], sender=PUBLISHER)


def test_the_first_anchor_takes_no_proof(world: World) -> None:
    log_id = opened(world)

    with refused("bad consistency proof", world.log):
        world.log.anchor(log_id, 0, 7, top(7), [top(7)], sender=PUBLISHER)


def test_a_rewritten_history_is_refused_whatever_the_proof(world: World) -> None:
    log_id = anchored(world, 7)
    forged = [h("forged"), *LEAVES[1:]]
    new_root = naive.root(forged[:9])

    for proof in (naive.proof(7, forged[:9]), step(7, 9), [], [new_root] * 4):
        with refused("bad consistency proof", world.log):
            world.log.anchor(log_id, 7, 9, new_root, proof, sender=PUBLISHER)


def test_a_shortened_a_lengthened_and_a_shuffled_proof_are_refused(world: World) -> None:
    log_id = anchored(world, 7)
    good = step(7, 21)
    bad = [good[:-1], good[1:], [*good, good[-1]], [good[0], *good], good[::-1], [*good, ZERO], good * 2]

    for proof in bad:
        with refused("bad consistency proof", world.log):
            world.log.anchor(log_id, 7, 21, top(21), proof, sender=PUBLISHER)

    world.log.anchor(log_id, 7, 21, top(21), good, sender=PUBLISHER)


def test_a_good_proof_of_a_tree_of_another_shape_is_refused(world: World) -> None:
    # Sizes 17 to 32 have the shape of 21: RFC 9162 roots do not bind the size, state leaves do.
    log_id = anchored(world, 7)

    for size in (8, 12, 16, 33, 70):
        with refused("bad consistency proof", world.log):
            world.log.anchor(log_id, 7, size, top(21), step(7, 21), sender=PUBLISHER)


def test_a_proof_of_more_than_64_nodes_is_refused(world: World) -> None:
    log_id = anchored(world, 7)
    data = world.log.calldata("anchor", log_id, 7, 21, top(21), [h("node")] * 65)

    mined = world.node.send(PUBLISHER, world.log.address, data)

    assert mined["status"] == 0
    assert world.log.log_at(log_id)[3] == 7


@pytest.mark.parametrize(
    ("values", "reason"),
    [((ZERO, KEY, NO_LOG), "no origin"), ((ORIGIN, ZERO, NO_LOG), "no key"), ((ORIGIN, KEY, 7), "no such log")],
)
def test_a_wrong_log_is_refused(world: World, values: tuple[object, ...], reason: str) -> None:
    with refused(reason, world.log):
        world.log.open_log(*values, sender=ADMIN)


def test_two_logs_do_not_share_an_origin(world: World) -> None:
    opened(world)

    with refused("origin taken", world.log):
        world.log.open_log(ORIGIN, h("another key"), NO_LOG, sender=ADMIN)


def test_only_the_admin_opens_and_freezes(world: World) -> None:
    log_id = anchored(world, 7)

    for sender in (PUBLISHER, PAUSER, STRANGER):
        with refused("not admin", world.log):
            world.log.open_log(h("another"), KEY, NO_LOG, sender=sender)
        with refused("not admin", world.log):
            world.log.freeze(log_id, 7, sender=sender)


def test_the_registries_are_bound_for_life(world: World) -> None:
    assert world.log.organisations() == world.organisations.address
    assert world.log.pledges() == world.pledges.address

    for values in ((NOBODY, STRANGER, STRANGER), (ADMIN, NOBODY, STRANGER), (ADMIN, STRANGER, NOBODY)):
        with pytest.raises(Exception, match="constructor"):
            deploy(world.node, world.log.artifact, *values, sender=ADMIN)
