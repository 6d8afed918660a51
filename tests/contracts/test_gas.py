"""Gas: the promised bounds of an anchor with real proofs, and a snapshot that may not grow by 5 %.

Run with TRACEBOND_WRITE_GAS=1 to write the snapshot after a deliberate change.
"""

import json
import os
import random
from hashlib import sha256
from pathlib import Path

import pytest

from core.merkle import consistency_ranges
from tests.contracts.harness import EthTesterNode, Node, rolled_back
from tests.contracts.naive_merkle import node as parent
from tests.contracts.world import (
    ADMIN,
    CUSTODIAN,
    FIRST_BANK,
    MAKER,
    NO_LOG,
    OWNER,
    PUBLISHER,
    REGULATOR,
    World,
    h,
    make_world,
    number,
)

SNAPSHOT = Path(__file__).with_name("gas.json")
MILLION = 1_000_000
AVERAGE_MAX, WORST_MAX = 90_000, 100_000
# EIP-7825: no transaction above this from the Osaka fork on.
TRANSACTION_GAS_MAX = 2**24


class Tree:
    """A tree of more than a million leaves with every whole subtree kept."""

    def __init__(self, count: int) -> None:
        level = [sha256(number.to_bytes(8, "big")).digest() for number in range(count)]
        self.levels = [level]
        while len(level) > 1:
            level = [parent(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
            self.levels.append(level)

    def root(self, start: int, end: int) -> bytes:
        count = end - start
        height = (count - 1).bit_length()
        if count == 1 << height:
            return self.levels[height][start >> height]
        middle = start + (1 << (height - 1))
        return parent(self.root(start, middle), self.root(middle, end))

    def proof(self, size1: int, size2: int) -> list[bytes]:
        return [self.root(start, end) for start, end in consistency_ranges(size1, size2)]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(MILLION + 250_000)


def anchors(world: World, tree: Tree, steps: list[tuple[int, int]], name: str) -> list[int]:
    """Gas of anchors, each in a log of its own whose first anchor is the old size."""
    gas = []
    for count, (size1, size2) in enumerate(steps):
        world.log.open_log(h(f"{name} {count}"), h("key"), NO_LOG, sender=ADMIN)
        log_id = world.log.log_count() - 1
        world.log.anchor(log_id, 0, size1, tree.root(0, size1), [], sender=PUBLISHER)
        mined = world.log.anchor(log_id, size1, size2, tree.root(0, size2), tree.proof(size1, size2), sender=PUBLISHER)
        gas.append(mined.gas_used)
    return gas


def test_an_anchor_on_a_million_entries_keeps_its_bounds(world: World, tree: Tree) -> None:
    """A growing log, 80 anchors of 1 to 10,000 new entries; then the shapes with the longest proofs."""
    chance = random.Random(4117)
    world.log.open_log(h("growing"), h("key"), NO_LOG, sender=ADMIN)
    world.log.anchor(0, 0, MILLION, tree.root(0, MILLION), [], sender=PUBLISHER)
    size, gas = MILLION, []
    for _ in range(80):
        after = size + chance.choice([1, 10, 100, 1000, 2500, 10_000])
        mined = world.log.anchor(0, size, after, tree.root(0, after), tree.proof(size, after), sender=PUBLISHER)
        gas.append(mined.gas_used)
        size = after
    power = 2**20
    shapes = [(power - 1, power), (power - 1, power + 1), (power - 3, power + 1), (power - 1, power + 200_000)]
    shapes += [(power + 1, power + 2), (power, power + 1), (2**19 - 1, MILLION), (MILLION, MILLION + 100_000)]
    worst = anchors(world, tree, shapes, "shape")

    assert sum(gas) / len(gas) <= AVERAGE_MAX
    assert max(gas + worst) <= WORST_MAX
    assert mined.gas_used / 100_000 < 1


def test_both_chains_count_the_same_gas(tree: Tree, session_world: World) -> None:
    with rolled_back(session_world.node):
        found = anchors(session_world, tree, [(MILLION, MILLION + 1000)], "same")
    expected = json.loads(SNAPSHOT.read_text())["anchor, million leaves, 1000 more"]

    assert abs(found[0] - expected) <= expected * 0.01


@pytest.fixture(scope="module")
def measured(tree: Tree) -> dict[str, int]:
    node: Node = EthTesterNode()
    return measure(make_world(node), tree)


def measure(world: World, tree: Tree) -> dict[str, int]:
    """Gas of one typical call of each function that costs something."""
    pledges, gas = world.pledges, {}
    keys = [h(f"tin {count}") for count in range(200)]
    lots = [h(f"lot {count}") for count in range(200)]
    gas["open_log"] = world.log.open_log(h("o"), h("k"), NO_LOG, sender=ADMIN).gas_used
    first = world.log.anchor(0, 0, MILLION, tree.root(0, MILLION), [], sender=PUBLISHER)
    gas["anchor, first"] = first.gas_used
    step = tree.proof(MILLION, MILLION + 1000)
    root = tree.root(0, MILLION + 1000)
    grown = world.log.anchor(0, MILLION, MILLION + 1000, root, step, sender=PUBLISHER)
    gas["anchor, million leaves, 1000 more"] = grown.gas_used
    gas["freeze"] = world.log.freeze(0, MILLION, sender=ADMIN).gas_used
    gas["set_organisation"] = world.organisations.set_organisation(
        h("new"), h("key"), "0x" + "11" * 20, 1, sender=ADMIN
    ).gas_used
    gas["set_capacity"] = pledges.set_capacity(lots[0], 10, sender=MAKER).gas_used
    one = pledges.register(number(1), OWNER, [h("pallet")], [1], sender=CUSTODIAN)
    gas["register, 1 thing"] = one.gas_used
    many = pledges.register(number(2), OWNER, keys, [1] * 200, sender=CUSTODIAN)
    gas["register, 200 things"] = many.gas_used
    for lot in lots[1:]:
        pledges.set_capacity(lot, 10, sender=MAKER)
    gas["register, 200 lots"] = pledges.register(number(3), OWNER, lots, [7] * 200, sender=CUSTODIAN).gas_used
    gas["seal"] = pledges.seal(number(2), sender=CUSTODIAN).gas_used
    pledges.seal(number(3), sender=CUSTODIAN)
    deadline = world.node.now() + 10_000
    signatures = [
        world.signature(signer, number(2), FIRST_BANK, h("terms"), deadline=deadline) for signer in (OWNER, CUSTODIAN)
    ]
    gas["pledge, first"] = pledges.pledge(number(2), h("terms"), deadline, *signatures, sender=FIRST_BANK).gas_used
    gas["hold"] = pledges.hold(number(2), h("reason"), sender=REGULATOR).gas_used
    gas["lift"] = pledges.lift(number(2), sender=REGULATOR).gas_used
    gas["enforce"] = pledges.enforce(number(2), sender=FIRST_BANK).gas_used
    gas["cure"] = pledges.cure(number(2), sender=FIRST_BANK).gas_used
    gas["release"] = pledges.release(number(2), sender=FIRST_BANK).gas_used
    parts = pledges.split(number(2), number(4), keys, [1] * 200, sender=CUSTODIAN)
    gas["split, 200 things"] = parts.gas_used
    pledges.seal(number(4), sender=CUSTODIAN)
    gas["deliver, 200 things"] = pledges.deliver(number(4), sender=CUSTODIAN).gas_used
    gas["deliver, 200 lots"] = pledges.deliver(number(3), sender=CUSTODIAN).gas_used
    return gas


def test_no_call_costs_more_than_the_snapshot_and_5_percent(measured: dict[str, int]) -> None:
    if os.environ.get("TRACEBOND_WRITE_GAS"):
        SNAPSHOT.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
    expected = json.loads(SNAPSHOT.read_text())

    assert sorted(measured) == sorted(expected)
    grown = {name: (expected[name], gas) for name, gas in measured.items() if gas > expected[name] * 1.05}
    assert grown == {}


def test_a_part_of_200_claims_fits_into_one_transaction(measured: dict[str, int]) -> None:
    assert max(measured.values()) < TRANSACTION_GAS_MAX


def test_ending_a_receipt_of_200_things_costs_no_more_than_of_one(measured: dict[str, int]) -> None:
    assert measured["deliver, 200 things"] < 80_000
