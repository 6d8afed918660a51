"""The sequencer: one growing tree, state leaves, checkpoints, proofs from tiles; crashes and a second sequencer."""

import random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core import merkle, prefixmap
from core.errors import Broken, Conflict, Rejected
from core.notes import Verifier, open_note, read_checkpoint
from core.records import read_record, read_state_leaf, record_keys
from ledger import itemmap, log, tables, tiles
from ledger.audit import Finding, audit
from ledger.database import Database, open_database
from ledger.log import Sequencer
from tests.ledger.world import LOG, MAKER, World, packed, seen, sgtin, sscc


class Naive:
    """The log recomputed by core's plain functions from the messages and records that were admitted."""

    def __init__(self, database: Database) -> None:
        with database.reading() as tx:
            self.entries = tiles.read_entries(tx, 0, 1_000_000)
            rows = tx.execute(sa.select(tables.messages.c.arrival, tables.messages.c.key_no)).all()
            devices = itemmap.device_keys(tx)
        self.device = {arrival: devices[number] for arrival, number in rows}
        self.hashes = [merkle.leaf_hash(entry.data) for entry in self.entries]

    def map_before(self, leaf: int, items: dict[bytes, list[list[bytes]]]) -> dict[bytes, bytes]:
        held: dict[bytes, tuple[int, bytes]] = {}
        devices: dict[str, str] = {}
        for entry in self.entries[:leaf]:
            steps: list[tuple[int, bytes]] = []
            if entry.kind == tables.RECORD:
                payload = read_record(entry.data).payload
                if payload["t"] == "key":
                    devices[payload["kid"]] = payload["iss"]
                steps = [(0, key) for key in record_keys(payload, devices.get)]
            elif entry.kind == tables.MESSAGE:
                assert entry.arrival is not None
                steps = [(0, self.device[entry.arrival])]
                for number, keys in enumerate(items[entry.data]):
                    steps += [(number, key) for key in sorted(set(keys))]
            for number, key in steps:
                count, head = held.get(key, (0, bytes(32)))
                head = prefixmap.step_head(head, entry.leaf, number, self.hashes[entry.leaf])
                held[key] = (count + 1, head)
        return {key: prefixmap.map_value(*value) for key, value in held.items()}


def _items(*messages: Any) -> dict[bytes, list[list[bytes]]]:
    return {m.jwt: [[item.key for item in event.items] for event in m.events] for m in messages}


def test_every_checkpoint_ends_in_a_state_leaf_and_agrees_with_the_naive_log(database: Database) -> None:
    world = World(database).start()
    sent, made = [], []
    for number in range(6):
        sent.append(world.send("line-1", seen(number, number + 1), seen(number, at=world.now)))
        sent.append(world.send("truck-1", packed(sscc(1), [sgtin(number)])))
        made.append(world.step())

    naive = Naive(database)
    previous = None
    with database.reading() as tx:
        for checkpoint in made:
            assert checkpoint is not None
            leaf = read_state_leaf(naive.entries[checkpoint.size - 1].data)
            values = naive.map_before(checkpoint.size - 1, _items(*sent))
            assert checkpoint.root == merkle.tree_root(naive.hashes[: checkpoint.size])
            assert (leaf.size, leaf.log, leaf.map_root) == (checkpoint.size, LOG, prefixmap.map_root(values))
            assert leaf.keys == len(values)
            assert previous is None or leaf.prev == previous - 1
            previous = checkpoint.size
            text, signers = open_note(checkpoint.note, [Verifier(LOG, world.checkpoint_key.public)])
            assert list(signers) == [LOG]
            assert read_checkpoint(text).root == checkpoint.root
            for index in range(checkpoint.size):
                proof = tiles.inclusion_proof(tx, index, checkpoint.size)
                assert proof == merkle.inclusion_proof(naive.hashes[: checkpoint.size], index)


@pytest.mark.parametrize("is_same_batch", [True, False])
def test_an_end_record_steps_its_key_its_organisation_and_its_device(database: Database, is_same_batch: bool) -> None:
    # architecture.md section 3: `end` steps the map keys of key, device and org.
    world = World(database).start()
    world.enroll("line-2", MAKER)
    if not is_same_batch:
        world.step()
    world.end("line-2", last=None, seq=-1)
    world.step()

    with database.reading() as tx:
        size = world.sequencer.size
        replayed = itemmap.replay(tx, size)
        counts = {
            name: replayed.get(prefixmap.map_key(kind, name))
            for kind, name in (("key", world.devices["line-2"].thumbprint()), ("device", world.iss("line-2")))
        }
        wanted = read_state_leaf(tiles.entry(tx, size - 1).data).map_root
    assert [found and found[0] for found in counts.values()] == [2, 2]
    assert replayed.root() == wanted
    told = audit(database, origin=LOG, checkpoint_key=world.checkpoint_key.public)
    assert [one for one in told if isinstance(one, Finding)] == []


def test_proofs_from_tiles_equal_the_naive_ones_across_tile_borders(sqlite_database: Database) -> None:
    rng = random.Random(3)
    hashes = [rng.randbytes(32) for _ in range(66_000)]
    position = 0
    with sqlite_database.transaction() as tx:
        while position < len(hashes):
            width = rng.choice([1, 3, 255, 256, 257, 5_000, 20_000])
            tiles.append(tx, position, hashes[position : position + width])
            position = min(len(hashes), position + width)

    with sqlite_database.reading() as tx:
        for size in (1, 2, 255, 256, 257, 511, 512, 513, 4_097, 65_535, 65_536, 65_537, 66_000):
            root = merkle.tree_root(hashes[:size])
            assert tiles.root(tx, size) == root
            indexes = {0, size - 1, rng.randrange(size), rng.randrange(size)}
            together = tiles.inclusion_proofs(tx, indexes, size)
            assert together.keys() == indexes
            for index in indexes:
                assert together[index] == merkle.inclusion_proof(hashes[:size], index)
                merkle.verify_inclusion(index, size, hashes[index], tiles.inclusion_proof(tx, index, size), root)
            first = rng.randint(1, size)
            proof = tiles.consistency_proof(tx, first, size)
            merkle.verify_consistency(first, size, proof, merkle.tree_root(hashes[:first]), root)
        assert tiles.tile(tx, 0, 3) == b"".join(hashes[768:1024])
        assert tiles.tile(tx, 0, 3, 7) == b"".join(hashes[768:775])
        assert tiles.tile(tx, 1, 0)[:32] == merkle.tree_root(hashes[:256])
        with pytest.raises(Rejected):
            tiles.tile(tx, 0, 10_000)


def test_without_new_entries_there_is_no_checkpoint_until_the_heartbeat(database: Database) -> None:
    world = World(database, heartbeat_s=100).start()

    assert world.step() is None
    world.now += 100
    beat = world.step()

    assert beat is not None
    with database.reading() as tx:
        assert tiles.entry(tx, beat.size - 1).kind == tables.STATE
        assert tiles.entry(tx, beat.size - 2).kind == tables.STATE


def test_an_empty_log_makes_no_checkpoint(database: Database) -> None:
    world = World(database, heartbeat_s=1)

    assert world.step() is None


def test_time_and_block_number_never_decrease(database: Database) -> None:
    blocks = [(7, 5, "0x05"), (7, 3, "0x03"), None, (7, 6, "0x06"), (8, 1, "0x01")]
    world = World(database, block=lambda: blocks.pop(0)).start()
    leaves = []
    for shift in (-50, 0, 10, -3):
        world.send("line-1", seen(1))
        checkpoint = world.sequencer.step(world.now + shift)
        assert checkpoint is not None
        with database.reading() as tx:
            leaves.append(read_state_leaf(tiles.entry(tx, checkpoint.size - 1).data))

    assert [leaf.time for leaf in leaves] == [world.now, world.now, world.now + 10, world.now + 10]
    assert [leaf.block for leaf in leaves] == [(7, 5, "0x05"), (7, 5, "0x05"), (7, 6, "0x06"), (8, 1, "0x01")]


def test_a_step_takes_no_more_than_its_limit_and_says_that_more_waits(database: Database) -> None:
    world = World(database, leaves_max=10).start()
    world.admit(*[world.message("line-1", [seen(number)]) for number in range(25)])

    made = [world.step(), world.step(), world.step(), world.step()]

    assert [None if one is None else one.has_more for one in made] == [True, True, False, None]


def test_a_restarted_sequencer_goes_on_where_the_log_ends(database: Database) -> None:
    world = World(database).start()
    sent = [world.send("line-1", seen(1))]
    world.step()

    world.sequencer = Sequencer(database, world.checkpoint_key, LOG)
    sent.append(world.send("line-1", seen(1, 2)))
    checkpoint = world.step()

    assert checkpoint is not None
    naive = Naive(database)
    assert checkpoint.root == merkle.tree_root(naive.hashes)
    assert checkpoint.map_root == prefixmap.map_root(naive.map_before(checkpoint.size - 1, _items(*sent)))


def test_the_second_sequencer_fences_the_first(database: Database) -> None:
    world = World(database).start()
    first = world.sequencer
    second = Sequencer(database, world.checkpoint_key, LOG)
    second.open()
    world.send("line-1", seen(1))

    with pytest.raises(Conflict, match="fenced"):
        first.step(world.now)
    with pytest.raises(Conflict, match="fenced"):
        first.step(world.now)
    assert second.step(world.now) is not None

    naive = Naive(database)
    assert [entry.leaf for entry in naive.entries] == list(range(len(naive.entries)))


@pytest.mark.parametrize("place", ["_write_entries", "apply_records", "sign_note"])
def test_a_crash_before_the_commit_loses_nothing_and_doubles_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    world = World(database).start()
    size = world.sequencer.size
    sent = world.send("line-1", seen(1))

    def crash(*_: Any) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(log, place, crash)
        with pytest.raises(OSError, match="power cut"):
            world.step()
    with database.reading() as tx:
        assert log.last_checkpoint(tx).size == size  # type: ignore[union-attr]
        assert log.leaf_of(tx, sent.id) is None
    checkpoint = world.step()

    assert checkpoint is not None
    naive = Naive(database)
    assert checkpoint.root == merkle.tree_root(naive.hashes)
    assert checkpoint.map_root == prefixmap.map_root(naive.map_before(checkpoint.size - 1, _items(sent)))


def test_a_crash_after_the_commit_loses_nothing_and_doubles_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database).start()
    sent = world.send("line-1", seen(1))
    real = database.transaction

    def committed_but_unheard() -> Any:
        from contextlib import contextmanager

        @contextmanager
        def wrapped() -> Any:
            with real() as tx:
                yield tx
            raise OSError("connection lost after the commit")

        return wrapped()

    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", committed_but_unheard)
        with pytest.raises(OSError, match="after the commit"):
            world.step()
    other = world.send("line-1", seen(2))
    checkpoint = world.step()

    assert checkpoint is not None
    naive = Naive(database)
    assert checkpoint.root == merkle.tree_root(naive.hashes)
    assert checkpoint.map_root == prefixmap.map_root(naive.map_before(checkpoint.size - 1, _items(sent, other)))


@pytest.mark.parametrize("column", ["jwt", "leaf_hash"])
def test_bytes_changed_before_sequencing_stop_the_sequencer(database: Database, column: str) -> None:
    world = World(database).start()
    sent = world.send("line-1", seen(1))
    tamper(database, "messages", column, tables.messages.c.id == sent.id)

    with pytest.raises(Broken, match="read_back"):
        world.step()

    with database.reading() as tx:
        assert log.leaf_of(tx, sent.id) is None


def test_what_is_read_back_wrongly_is_never_signed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(database).start()
    world.send("line-1", seen(1))
    real = log._stored_entries

    def flipped(*arguments: Any) -> Any:
        found = real(*arguments)
        leaf, data = found[-1]
        return [*found[:-1], (leaf, bytes([data[0] ^ 1]) + data[1:])]

    with monkeypatch.context() as patch:
        patch.setattr(log, "_stored_entries", flipped)
        with pytest.raises(Broken, match="read_back"):
            world.step()

    assert world.step() is not None


def test_the_map_opens_from_its_snapshot_and_from_the_log_alike(database: Database) -> None:
    world = World(database).start()
    sizes = []
    for number in range(30):
        world.send("line-1", seen(*range(number, number + 5)))
        sizes.append(world.step().size)  # type: ignore[union-attr]

    with database.reading() as tx:
        for size in (sizes[-1], sizes[3], sizes[15]):
            snapshot = itemmap._from_snapshot(tx, size)
            assert snapshot is not None
            assert snapshot.root() == itemmap.replay(tx, size).root() == log.checkpoint_at(tx, size).map_root  # type: ignore[union-attr]


def test_a_spoilt_snapshot_is_replaced_by_a_replay(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(1))
    checkpoint = world.step()
    with database.transaction() as tx:
        tx.execute(tables.map_deltas.delete())
        tx.execute(tables.map_chunks.update().values(rows=b""))

    with database.reading() as tx:
        opened = itemmap.open_map(tx, checkpoint.size)  # type: ignore[union-attr]

    assert opened.root() == checkpoint.map_root  # type: ignore[union-attr]


def test_deltas_are_dropped_when_the_snapshot_and_the_anchor_have_passed_them(database: Database) -> None:
    world = World(database).start()
    for number in range(40):
        world.send("line-1", seen(number))
        checkpoint = world.step()
        with database.transaction() as tx:
            itemmap.set_proof_size(tx, checkpoint.size)  # type: ignore[union-attr]

    with database.reading() as tx:
        sizes = tx.execute(sa.select(tables.map_deltas.c.size).order_by(tables.map_deltas.c.size)).scalars().all()
        oldest = tx.execute(sa.select(sa.func.min(tables.map_chunks.c.size))).scalar_one()
        assert sizes[0] >= oldest > 20
        assert itemmap._from_snapshot(tx, checkpoint.size).root() == checkpoint.map_root  # type: ignore[union-attr]


def test_the_proof_map_stands_at_the_size_it_was_led_to(database: Database) -> None:
    world = World(database).start()
    maps = itemmap.ProofMap()
    message = world.send("line-1", seen(1))
    first = world.step()
    world.send("line-1", seen(1))
    second = world.step()
    key = next(item.key for item in message.events[0].items if item.role == 6)

    with database.reading() as tx:
        maps.advance(tx, first.size)  # type: ignore[union-attr]
        early, early_proof = maps.get(key), maps.prove(key)
        maps.advance(tx, second.size)  # type: ignore[union-attr]
        late, late_proof = maps.get(key), maps.prove(key)

    assert (early[0], late[0]) == (1, 2)  # type: ignore[index]
    prefixmap.verify_map(key, prefixmap.map_value(*early), early_proof, first.map_root)  # type: ignore[misc,union-attr]
    prefixmap.verify_map(key, prefixmap.map_value(*late), late_proof, second.map_root)  # type: ignore[misc,union-attr]
    prefixmap.verify_map(b"\x01" * 32, None, maps.prove(b"\x01" * 32), second.map_root)  # type: ignore[union-attr]


def test_entry_bundles_hold_each_entry_with_its_length(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(1))
    checkpoint = world.step()

    with database.reading() as tx:
        bundle = tiles.entry_bundle(tx, 0, checkpoint.size)  # type: ignore[union-attr]
        entries = tiles.read_entries(tx, 0, checkpoint.size)  # type: ignore[union-attr]
    position, found = 0, []
    while position < len(bundle):
        length = int.from_bytes(bundle[position : position + 2])
        found.append(bundle[position + 2 : position + 2 + length])
        position += 2 + length

    assert found == [entry.data for entry in entries]


def without_triggers(database: Database, table: str) -> None:
    """What a superuser can do: take the triggers away."""
    with database.transaction() as tx:
        if database.kind == "sqlite":
            names = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table")
            for name in tx.execute(names, {"table": table}).scalars().all():
                tx.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            tx.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")


def tamper(database: Database, table: str, column: str, where: Any, *, at: int = 0) -> None:
    """Flip one bit of a stored value as a superuser could."""
    without_triggers(database, table)
    definition = tables.metadata.tables[table]
    with database.transaction() as tx:
        value = tx.execute(sa.select(definition.c[column]).where(where)).scalar_one()
        data = bytearray(value.encode() if isinstance(value, str) else value)
        data[at % len(data)] ^= 1
        new = data.decode("latin-1") if isinstance(value, str) else bytes(data)
        tx.execute(definition.update().where(where).values({column: new}))


class LogMachine(RuleBasedStateMachine):
    """Admissions, steps, restarts and fencing in any order: always one log, equal to the naive one."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    @initialize(seed=st.integers(0, 1_000))
    def begin(self, seed: int) -> None:
        import shutil
        import tempfile

        self.folder = tempfile.mkdtemp()
        shutil.copy(_TEMPLATE[0], f"{self.folder}/log.db")
        self.database = open_database(f"sqlite:///{self.folder}/log.db")
        self.world = World(self.database, seed=seed, leaves_max=7).start()
        self.sent: list[Any] = []
        self.last: Any = None

    @rule(device=st.sampled_from(["line-1", "truck-1"]), units=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def send(self, device: str, units: list[int]) -> None:
        assert self.world is not None
        self.sent.append(self.world.send(device, seen(*units), seen(units[0])))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: Any) -> None:
        assert self.world is not None
        self.world.admit(data.draw(st.sampled_from(self.sent)))

    @rule()
    def step(self) -> None:
        assert self.world is not None
        made = self.world.step()
        self.last = made or self.last

    @rule()
    def restart(self) -> None:
        assert self.world is not None
        old = self.world.sequencer
        self.world.sequencer = Sequencer(self.database, self.world.checkpoint_key, LOG, leaves_max=7)
        self.world.sequencer.open()
        with pytest.raises(Conflict):
            old.step(self.world.now)

    @invariant()
    def one_log(self) -> None:
        if self.world is None or self.last is None:
            return
        naive = Naive(self.database)
        assert len(naive.entries) == self.last.size
        assert self.last.root == merkle.tree_root(naive.hashes)
        assert self.last.map_root == prefixmap.map_root(naive.map_before(self.last.size - 1, _items(*self.sent)))
        data = [entry.data for entry in naive.entries]
        assert len(set(data)) == len(data)

    def teardown(self) -> None:
        import shutil

        if self.world is not None:
            self.database.close()
            shutil.rmtree(self.folder)


_TEMPLATE: list[Any] = []


@pytest.fixture(autouse=True)
def _template(sqlite_template: Any) -> None:
    _TEMPLATE[:] = [sqlite_template]


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
