"""The item map's store: thrown away, crowded, proven at an old size, and paid for by what is touched."""

import random
from hashlib import sha256

import pytest
import sqlalchemy as sa

from core import prefixmap
from ledger import flatmap, itemmap, mapbuckets, tables, tiles
from ledger.database import Database
from ledger.flatmap import ItemMap, load
from ledger.itemmap import ProofMap, open_map
from ledger.log import Sequencer
from tests.ledger.world import LOG, World, seen, sgtin_id


def steps(rng: random.Random, leaf: int, keys: list[bytes]) -> list[tuple[bytes, list[bytes]]]:
    return [(leaf.to_bytes(8) + bytes(4) + rng.randbytes(32), keys)]


def plain_root(found: ItemMap) -> bytes:
    values = {row[:32]: sha256(b"\x04" + row[32:]).digest() for row in found.rows()}
    return prefixmap.map_root(values)


@pytest.mark.unit
@pytest.mark.parametrize("shared_bits", [8, 20, 47, 200, 247])
def test_crafted_ids_crowd_one_bucket_without_a_wrong_root_or_proof(shared_bits: int) -> None:
    rng = random.Random(shared_bits)
    prefix = rng.getrandbits(shared_bits)

    def crafted() -> bytes:
        rest = 256 - shared_bits
        return (prefix << rest | rng.getrandbits(rest)).to_bytes(32)

    found = ItemMap()
    crowd = sorted({crafted() for _ in range(3 * mapbuckets.CROWD)})
    others = [rng.randbytes(32) for _ in range(300)]
    for leaf, key in enumerate([*crowd, *others, *crowd[::3]]):
        found.apply(steps(rng, leaf, [key]))

    values = {row[:32]: sha256(b"\x04" + row[32:]).digest() for row in found.rows()}
    root = prefixmap.map_root(values)
    assert found.root() == root
    assert load([list(found.rows())], keys_max=len(found)).root() == root
    absent = [crafted() for _ in range(5)] + [prefix.to_bytes(32, "little"), rng.randbytes(32)]
    for key in [*crowd[::40], *others[::60], *absent]:
        proof = found.prove(key)
        assert proof == prefixmap.prove(values, key)
        prefixmap.verify_map(key, values.get(key), proof, root)


@pytest.mark.unit
def test_a_crowd_is_split_again_when_the_map_grows_past_it() -> None:
    rng = random.Random(2)
    found = ItemMap()
    crowd = [b"\xaa" + rng.randbytes(31) for _ in range(2 * mapbuckets.CROWD)]
    found.apply(steps(rng, 0, crowd))
    for leaf in range(1, 30):
        found.apply(steps(rng, leaf, [rng.randbytes(32) for _ in range(300)]))

    assert found.root() == plain_root(found)
    assert {found.get(key) is None for key in crowd} == {False}


@pytest.mark.unit
def test_beyond_the_depth_cap_buckets_only_get_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatmap, "DEPTH_MAX", 3)
    rng = random.Random(3)
    found = ItemMap()
    for leaf in range(12):
        found.apply(steps(rng, leaf, [rng.randbytes(32) for _ in range(60)]))

    assert len(found) == 720
    assert found.root() == plain_root(found)


@pytest.mark.unit
def test_a_change_hashes_what_is_touched_and_not_the_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    counts: dict[int, int] = {}
    for size in (2_000, 32_000):
        found = ItemMap()
        found.apply(steps(rng, 0, [rng.randbytes(32) for _ in range(size)]))
        touched = [row[:32] for row in list(found.rows())[:: size // 20][:20]]
        made = 0

        def counted(data: bytes) -> object:
            nonlocal made
            made += 1
            return sha256(data)

        with monkeypatch.context() as patch:
            patch.setattr(flatmap, "sha256", counted)
            patch.setattr(mapbuckets, "sha256", counted)
            found.apply(steps(rng, 1, touched))
        counts[size] = made

    # Twenty keys, each with its head, value, leaf and one node a level: four levels more at sixteen times the size.
    assert counts[32_000] < counts[2_000] + 20 * 8
    assert counts[32_000] < 20 * (3 + 24)


def test_the_store_is_thrown_away_and_rebuilt_from_the_log(database: Database) -> None:
    world = World(database).start()
    for number in range(6):
        world.send("line-1", seen(number, number + 1), seen(number))
        world.step()
    size = world.sequencer.size
    with database.reading() as tx:
        kept = open_map(tx, size)

    with database.transaction() as tx:
        tx.execute(tables.map_chunks.delete())
        tx.execute(tables.map_deltas.delete())
    with database.reading() as tx:
        rebuilt = open_map(tx, size)
    world.sequencer = Sequencer(database, world.checkpoint_key, LOG)
    world.send("line-1", seen(1))
    made = world.step()

    assert list(rebuilt.rows()) == list(kept.rows())
    assert rebuilt.root() == kept.root() == plain_root(rebuilt)
    assert made is not None
    with database.reading() as tx:
        assert itemmap.replay(tx, made.size).root() == made.map_root


def test_proofs_of_an_anchored_size_stay_possible_while_newer_entries_arrive(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(1), seen(2))
    world.step()
    anchored = world.sequencer.size
    with database.transaction() as tx:
        itemmap.set_proof_size(tx, anchored)
    for number in range(5):
        world.send("line-1", seen(1, number + 3))
        world.step()
    key, later = prefixmap.map_key("item", sgtin_id(1)), prefixmap.map_key("item", sgtin_id(5))
    maps = ProofMap()

    with database.reading() as tx:
        maps.advance(tx, anchored)
        query = sa.select(tables.checkpoints.c.map_root).where(tables.checkpoints.c.size == anchored)
        root = bytes(tx.execute(query).scalar_one())
        assert tiles.root(tx, anchored) != tiles.root(tx, world.sequencer.size)

    held = maps.get(key)
    assert held is not None
    assert held[0] == 1
    prefixmap.verify_map(key, prefixmap.map_value(*held), maps.prove(key), root)
    prefixmap.verify_map(later, None, maps.prove(later), root)
