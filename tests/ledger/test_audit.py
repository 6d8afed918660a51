"""The audit names every byte that was changed, and nothing else."""

from typing import Any

import pytest
import sqlalchemy as sa

from core.canonical import b64u, sha256
from core.records import common
from ledger import audit, log, store, tables
from ledger.database import Database
from ledger.erasure_request import sign_request
from tests.ledger.test_log import tamper, without_triggers
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, World, packed, seen, sgtin, sscc


def findings(world: World, *, tip: int = 0, root_at: Any = None, **options: Any) -> list[audit.Finding]:
    if root_at is not None:
        options["chain"] = audit.Chain(root_at, tip)
    found = audit.audit(world.database, origin=LOG, checkpoint_key=world.checkpoint_key.public, **options)
    return [one for one in found if isinstance(one, audit.Finding)]


def lived(database: Database, messages: int = 4) -> tuple[World, list[Any]]:
    world = World(database).start()
    sent = []
    for number in range(messages):
        sent.append(world.send("line-1", seen(number, number + 1), packed(sscc(1), [sgtin(number)])))
        world.step()
    world.master(MAKER, MAKER, "party", {"name_en": "Dairy"})
    world.step()
    return world, sent


def test_an_untouched_log_gives_no_finding_and_shows_progress(database: Database) -> None:
    world, _ = lived(database)

    found = list(audit.audit(database, origin=LOG, checkpoint_key=world.checkpoint_key.public))

    assert [one for one in found if isinstance(one, audit.Finding)] == []
    assert found[-1] == audit.Progress(world.sequencer.size, world.sequencer.size, 0)


@pytest.mark.parametrize("column", ["jwt", "id", "leaf_hash", "items", "item_ids"])
@pytest.mark.parametrize("at", [0, -1])
def test_one_byte_changed_in_a_message_names_its_record(database: Database, column: str, at: int) -> None:
    world, sent = lived(database)
    victim = sent[2]
    with database.reading() as tx:
        leaf = log.leaf_of(tx, victim.id)
        covering = log.checkpoint_covering(tx, leaf)
    tamper(database, "messages", column, tables.messages.c.id == victim.id, at=at)

    found = findings(world)

    assert found
    assert {one.leaf for one in found} == {leaf}
    assert {(one.org, one.device, one.seq) for one in found} == {(MAKER, world.iss("line-1"), 2)}
    assert found[0].since_size == covering.size
    if column != "id":
        assert found[0].message_id == b64u(victim.id)


@pytest.mark.parametrize("at", [0, 30, -1])
def test_one_byte_changed_in_a_disclosure_names_its_record(sqlite_database: Database, at: int) -> None:
    world, sent = lived(sqlite_database)
    with sqlite_database.reading() as tx:
        leaf = log.leaf_of(tx, sent[1].id)
        row = tx.execute(sa.select(tables.messages.c.arrival).where(tables.messages.c.id == sent[1].id)).scalar_one()
    tamper(sqlite_database, "disclosures", "texts", tables.disclosures.c.arrival == row, at=at)

    found = findings(world)

    assert {one.leaf for one in found} == {leaf}
    assert {one.code for one in found} <= {"disclosure_differs", "disclosure_missing"}


@pytest.mark.parametrize(
    ("column", "values"), [("seq", {"seq": 7}), ("prev", {"prev": None}), ("key_no", {"key_no": 2})]
)
def test_a_changed_column_beside_a_message_names_its_record(
    sqlite_database: Database, column: str, values: Any
) -> None:
    world, sent = lived(sqlite_database)
    without_triggers(sqlite_database, "messages")
    with sqlite_database.transaction() as tx:
        tx.execute(tables.messages.update().where(tables.messages.c.id == sent[2].id).values(**values))
    with sqlite_database.reading() as tx:
        leaf = log.leaf_of(tx, sent[2].id)

    found = findings(world)

    assert found[0].leaf == leaf
    assert column in tables.messages.c


def test_one_byte_changed_in_a_record_names_it(database: Database) -> None:
    world, _ = lived(database)
    tamper(database, "records", "raw", (tables.records.c.t == "master"), at=200)

    found = findings(world)

    # Which keys a spoilt record stepped cannot be told any more, so the map of its checkpoint is named too.
    assert found[0].leaf == world.sequencer.size - 2
    assert {one.leaf for one in found} <= {world.sequencer.size - 2, world.sequencer.size - 1}


@pytest.mark.parametrize(("at", "leaf"), [(0, 0), (32 * 7 + 5, 7)])
def test_one_byte_changed_in_a_tile_names_the_leaf(sqlite_database: Database, at: int, leaf: int) -> None:
    world, _ = lived(sqlite_database)
    tamper(sqlite_database, "tiles", "hashes", tables.tiles.c.level == 0, at=at)

    found = findings(world)

    assert [(one.code, one.leaf) for one in found] == [("tile_differs", leaf)]


def test_one_byte_changed_in_an_upper_tile_names_the_tile(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    world.admit(*[world.message("line-1", [seen(number)]) for number in range(300)])
    world.step()
    tamper(sqlite_database, "tiles", "hashes", tables.tiles.c.level == 1)

    found = findings(world)

    assert [one.code for one in found] == ["tile_differs"]
    assert "Tile 1/0" in found[0].message


@pytest.mark.parametrize("column", ["state", "note", "root", "map_root"])
@pytest.mark.parametrize("at", [3, -40])
def test_one_byte_changed_in_a_checkpoint_names_it(sqlite_database: Database, column: str, at: int) -> None:
    world, _ = lived(sqlite_database)
    with sqlite_database.reading() as tx:
        size = tx.execute(sa.select(tables.checkpoints.c.size).order_by(tables.checkpoints.c.size)).scalars().all()[2]
    tamper(sqlite_database, "checkpoints", column, tables.checkpoints.c.size == size, at=at)

    found = findings(world)

    assert size - 1 in {one.leaf for one in found}


@pytest.mark.parametrize("table", ["messages", "disclosures", "entries"])
def test_a_deleted_row_is_named(database: Database, table: str) -> None:
    world, sent = lived(database)
    definition = tables.metadata.tables[table]
    with database.reading() as tx:
        leaf = log.leaf_of(tx, sent[0].id)
        arrival = tx.execute(
            sa.select(tables.messages.c.arrival).where(tables.messages.c.id == sent[0].id)
        ).scalar_one()
    without_triggers(database, table)
    with database.transaction() as tx:
        tx.execute(definition.delete().where(definition.c.arrival == arrival))

    found = findings(world)

    assert leaf in {one.leaf for one in found}


def test_disclosures_that_an_erasure_took_out_are_no_finding_and_others_are(database: Database) -> None:
    world, sent = lived(database)
    signed = sent[0].signed.disclosures[0]
    with database.reading() as tx:
        leaf = log.leaf_of(tx, sent[0].id)
        arrival = tx.execute(
            sa.select(tables.messages.c.arrival).where(tables.messages.c.id == sent[0].id)
        ).scalar_one()
    with database.transaction() as tx:
        store.erase(
            tx, arrival, event=0, digests=[signed[0].digest], digest_of=lambda text: b64u(sha256(text.encode()))
        )
    before = findings(world)
    asked = {"leaf": leaf, "event": 0, "names": [signed[0].name], "message": b64u(sent[0].id), "reason": "a person"}
    jws = sign_request(world.orgs[MAKER], aud=AUD, log=LOG, org=MAKER, iat=world.now, **asked)
    owner = {"jws": jws, "items": [b64u(item.key) for item in sent[0].events[0].items]}
    payload = common(t="erasure", aud=AUD, log=LOG, org=MAKER, iat=world.now)
    payload |= {"leaf": leaf, "event": 0, "names": [signed[0].name], "owner": owner}
    world.record(payload, signer=OPERATOR)
    world.step()

    assert [(one.code, one.leaf) for one in before] == [("disclosure_missing", leaf)]
    assert findings(world) == []


def test_roots_are_held_against_the_chain(database: Database) -> None:
    world, _ = lived(database)
    with database.reading() as tx:
        rows = tx.execute(sa.select(tables.checkpoints.c.size, tables.checkpoints.c.root)).all()
    chain = {size: bytes(root) for size, root in rows}
    sizes = sorted(chain)

    assert findings(world, anchored=sizes, root_at=chain.get, tip=sizes[-1]) == []
    chain[sizes[1]] = bytes(32)
    del chain[sizes[2]]
    found = findings(world, anchored=sizes, root_at=chain.get, tip=sizes[-1] + 5)
    assert [one.code for one in found] == ["behind_chain", "anchor_differs", "anchor_missing"]
