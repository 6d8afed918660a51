"""The fast item map against the plain reference of ``core.prefixmap``."""

import hashlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from core import prefixmap
from ledger.flatmap import CROWD, ItemMap, load


class Reference:
    """Heads and counts key by key, the root by the plain recursion."""

    def __init__(self) -> None:
        self.held: dict[bytes, tuple[int, bytes]] = {}

    def step(self, key: bytes, leaf: int, event: int, leaf_hash: bytes) -> None:
        count, head = self.held.get(key, (0, prefixmap.HEAD_START))
        self.held[key] = (count + 1, prefixmap.step_head(head, leaf, event, leaf_hash))

    def values(self) -> dict[bytes, bytes]:
        return {key: prefixmap.map_value(*held) for key, held in self.held.items()}

    def root(self) -> bytes:
        return prefixmap.map_root(self.values())


def _suffix(leaf: int, event: int, leaf_hash: bytes) -> bytes:
    return leaf.to_bytes(8) + event.to_bytes(4) + leaf_hash


def _key(rng: random.Random, crafted: bool) -> bytes:
    if not crafted:
        return rng.randbytes(32)
    # An attacker who shares 30 to 250 leading bits with his other keys.
    shared = rng.choice([4, 20, 31])
    return b"\xa5" * shared + rng.randbytes(32 - shared)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), crafted=st.sampled_from([0.0, 0.3, 1.0]), batches=st.integers(1, 6))
def test_the_fast_map_equals_the_reference_and_proves_presence_and_absence(
    seed: int, crafted: float, batches: int
) -> None:
    rng = random.Random(seed)
    fast, plain = ItemMap(), Reference()
    keys: list[bytes] = []
    leaf = 0

    for _ in range(batches):
        steps = []
        for _ in range(rng.choice([1, 5, 60])):
            fresh = {_key(rng, rng.random() < crafted) for _ in range(rng.randint(1, 3))}
            used = sorted(fresh | set(rng.sample(keys, min(len(keys), 2))))
            keys += fresh
            leaf_hash = hashlib.sha256(leaf.to_bytes(8)).digest()
            steps.append((_suffix(leaf, 0, leaf_hash), used))
            for key in used:
                plain.step(key, leaf, 0, leaf_hash)
            leaf += 1
        rows, before = fast.apply(steps)
        assert len(rows) // 72 == len(before) // 40

    assert fast.root() == plain.root()
    assert len(fast) == len(plain.held)
    values = plain.values()
    for key in rng.sample(keys, min(len(keys), 20)):
        proof = fast.prove(key)
        assert proof == prefixmap.prove(values, key)
        prefixmap.verify_map(key, values[key], proof, plain.root())
    for _ in range(20):
        absent = _key(rng, rng.random() < 0.7)
        if absent not in values:
            proof = fast.prove(absent)
            assert proof == prefixmap.prove(values, absent)
            prefixmap.verify_map(absent, None, proof, plain.root())
    assert load([list(fast.rows())], keys_max=len(fast)).root() == plain.root()


def test_keys_with_equal_long_prefixes_take_the_slow_path_and_stay_right() -> None:
    rng = random.Random(11)
    fast, plain = ItemMap(), Reference()
    crowd = [b"\x77" * 30 + number.to_bytes(2) for number in rng.sample(range(65_536), 6 * CROWD)]
    others = [rng.randbytes(32) for _ in range(400)]

    for leaf, key in enumerate([*crowd, *others, *crowd]):
        fast.apply([(_suffix(leaf, 0, bytes(32)), [key])])
        plain.step(key, leaf, 0, bytes(32))

    assert fast.root() == plain.root()
    values = plain.values()
    for key in [*crowd[::50], *others[::50], b"\x77" * 32, b"\x77" * 29 + b"\x76" + bytes(2)]:
        assert fast.prove(key) == prefixmap.prove(values, key)


def test_keys_that_differ_in_their_last_bits_alone_are_told_apart() -> None:
    fast, plain = ItemMap(), Reference()
    keys = [b"\xff" * 31 + bytes([number]) for number in range(256)]

    fast.apply([(_suffix(0, 0, bytes(32)), keys)])
    for key in keys:
        plain.step(key, 0, 0, bytes(32))

    assert fast.root() == plain.root()
    assert fast.prove(keys[3]) == prefixmap.prove(plain.values(), keys[3])


def test_an_empty_map_has_a_zero_root_and_proves_absence() -> None:
    empty = ItemMap()

    assert empty.root() == bytes(32)
    prefixmap.verify_map(b"k" * 32, None, empty.prove(b"k" * 32), bytes(32))


def test_merging_rows_in_any_order_lets_the_larger_count_win() -> None:
    rng = random.Random(5)
    source = ItemMap()
    keys = [rng.randbytes(32) for _ in range(300)]
    deltas = []
    for leaf in range(40):
        rows, _ = source.apply([(_suffix(leaf, 0, bytes(32)), rng.sample(keys, 20))])
        deltas.append(rows)
    rng.shuffle(deltas)

    target = ItemMap()
    for rows in deltas:
        target.merge(rows)

    assert target.root() == source.root()


def test_chunks_hold_every_row_once() -> None:
    rng = random.Random(9)
    source = ItemMap()
    source.apply([(_suffix(0, 0, bytes(32)), [rng.randbytes(32) for _ in range(5_000)])])

    for bits in (3, 10, 16):
        joined = b"".join(source.chunk(number, bits) for number in range(1 << bits))
        assert joined == b"".join(source.rows())


class MapMachine(RuleBasedStateMachine):
    """Any sequence of small and large batches, with few and many equal keys."""

    def __init__(self) -> None:
        super().__init__()
        self.fast, self.plain, self.leaf = ItemMap(), Reference(), 0

    @rule(names=st.lists(st.integers(0, 300), min_size=1, max_size=40), event=st.integers(0, 3))
    def step(self, names: list[int], event: int) -> None:
        keys = sorted({hashlib.sha256(name.to_bytes(4)).digest() for name in names})
        leaf_hash = hashlib.sha256(self.leaf.to_bytes(8)).digest()
        self.fast.apply([(_suffix(self.leaf, event, leaf_hash), keys)])
        for key in keys:
            self.plain.step(key, self.leaf, event, leaf_hash)
        self.leaf += 1

    @invariant()
    def roots_agree(self) -> None:
        assert self.fast.root() == self.plain.root()


TestMapMachine = MapMachine.TestCase
TestMapMachine.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
