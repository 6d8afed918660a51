"""The incremental audit goes on where it stopped, believes nothing blindly, and the full one finds the rest."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import Rejected
from core.records import common
from ledger import audit, audit_memory, tables
from ledger.audit_tables import audit_points
from ledger.database import Database, open_database
from tests.ledger.test_audit import lived
from tests.ledger.test_log import tamper, without_triggers
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, World, seen, sgtin_id


def run(world: World, *, is_full: bool = False, chain: Any = None, seed: int = 1) -> list[Any]:
    return list(
        audit.audit(
            world.database,
            origin=LOG,
            checkpoint_key=world.checkpoint_key.public,
            chain=chain,
            is_full=is_full,
            chance=random.Random(seed),
            now_s=world.now,
        )
    )


def codes(found: list[Any]) -> list[str]:
    return [one.code for one in found if isinstance(one, audit.Finding)]


def lived_long(database: Database, count: int) -> World:
    world = World(database).start()
    for start in range(0, count, 65):
        world.admit(*[world.message("line-1", [seen(start + number)]) for number in range(65)])
        world.step()
    return world


@pytest.fixture(scope="module")
def told(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    """A database with some 530 leaves, and the world that logged them."""
    path = tmp_path_factory.mktemp("told") / "told.db"
    shutil.copy(sqlite_template, path)
    database = open_database(f"sqlite:///{path}")
    world = lived_long(database, 520)
    database.close()
    return path, world


@pytest.fixture
def long_lived(told: tuple[Path, World], tmp_path: Path) -> Iterator[World]:
    """A world of one's own that goes on where the told one stands."""
    path, before = told
    shutil.copy(path, tmp_path / "long.db")
    database = open_database(f"sqlite:///{tmp_path / 'long.db'}")
    world = World(database)
    world.now, world.chains = before.now, dict(before.chains)
    world.devices, world.owners = dict(before.devices), dict(before.owners)
    yield world
    database.close()


def test_the_second_run_reads_only_what_is_new(database: Database) -> None:
    world, _ = lived(database)
    first = run(world)
    stopped = world.sequencer.size
    world.send("truck-1", seen(77))
    world.enroll("line-2", MAKER)
    world.step()
    world.send("line-2", seen(78))
    world.end("line-2", last=None, seq=-1)
    world.step()

    second = run(world)
    third = run(world)

    assert codes(first + second + third) == []
    assert (first[-1].start, second[-1].start, second[-1].size) == (0, stopped, world.sequencer.size)
    assert third[-1] == audit.Progress(world.sequencer.size, world.sequencer.size, 0, world.sequencer.size)


def test_an_incremental_run_reaches_the_roots_of_a_full_one(sqlite_database: Database) -> None:
    world = lived_long(sqlite_database, 130)
    run(world)
    for start in range(600, 1_200, 100):
        world.admit(*[world.message("line-1", [seen(start + number)]) for number in range(100)])
        world.step()
    run(world)
    run(world, is_full=True)

    with sqlite_database.reading() as tx:
        rows = tx.execute(sa.select(audit_points).order_by(audit_points.c.number.desc()).limit(2)).all()

    assert [row.kind for row in rows] == ["full", "incremental"]
    assert {(row.size, bytes(row.root), bytes(row.map_root), bytes(row.frontier), row.arrival) for row in rows} == {
        (rows[0].size, rows[0].root, rows[0].map_root, rows[0].frontier, rows[0].arrival)
    }


def test_a_run_with_findings_is_not_remembered(sqlite_database: Database) -> None:
    world, sent = lived(sqlite_database)
    tamper(sqlite_database, "messages", "jwt", tables.messages.c.id == sent[0].id)

    assert codes(run(world))
    with sqlite_database.reading() as tx:
        assert audit_memory.newest(tx) is None


def test_an_edit_behind_the_point_is_found_by_the_full_run_at_the_latest(long_lived: World) -> None:
    world = long_lived
    run(world)
    with world.database.reading() as tx:
        arrival = tx.execute(sa.select(tables.entries.c.arrival).where(tables.entries.c.leaf == 300)).scalar_one()
    tamper(world.database, "messages", "jwt", tables.messages.c.arrival == arrival, at=90)

    sampled = any(codes(run(world, seed=seed)) for seed in range(8))
    full = run(world, is_full=True)

    # 256 of about 530 leaves are read back each time: that all of eight runs pass it by is one chance in hundreds.
    assert sampled
    assert [one.leaf for one in full if isinstance(one, audit.Finding)] == [300]


@pytest.mark.parametrize("table", ["messages", "disclosures", "entries", "checkpoints"])
def test_a_row_deleted_behind_the_point_is_found_at_once(long_lived: World, table: str) -> None:
    world = long_lived
    run(world)
    definition = tables.metadata.tables[table]
    key = definition.c.size if table == "checkpoints" else definition.c.arrival
    without_triggers(world.database, table)
    with world.database.transaction() as tx:
        victim = tx.execute(sa.select(key).where(key.is_not(None)).order_by(key).offset(3).limit(1)).scalar_one()
        tx.execute(definition.delete().where(key == victim))

    assert codes(run(world))


@pytest.mark.parametrize("column", ["root", "frontier", "size"])
def test_a_changed_memory_is_not_believed(sqlite_database: Database, column: str) -> None:
    world = lived_long(sqlite_database, 130)
    run(world)
    with sqlite_database.transaction() as tx:
        if column == "size":
            tx.execute(audit_points.update().values(size=audit_points.c.size - 1))
        else:
            value = bytearray(tx.execute(sa.select(audit_points.c[column])).scalar_one())
            value[0] ^= 1
            tx.execute(audit_points.update().values({column: bytes(value)}))

    found = run(world)

    assert set(codes(found)) & {"memory_differs", "checkpoint_differs", "checkpoint_missing"}
    assert found[-1].start == 0


def test_a_changed_key_record_lends_nobody_authority(sqlite_database: Database) -> None:
    world, _ = lived(sqlite_database)
    run(world)
    kid = world.devices["truck-1"].thumbprint()
    tamper(sqlite_database, "records", "raw", tables.records.c.once == f"key:{kid}", at=100)
    world.send("truck-1", seen(5))
    world.step()

    assert {"bad_signature"} <= set(codes(run(world)))


def test_the_chain_is_asked_behind_the_point_too(sqlite_database: Database) -> None:
    world, _ = lived(sqlite_database)
    run(world)
    with sqlite_database.reading() as tx:
        roots = dict(tx.execute(sa.select(tables.checkpoints.c.size, tables.checkpoints.c.root)).all())
    tip = sorted(roots)[2]

    assert codes(run(world, chain=audit.Chain(roots.get, tip))) == []
    assert codes(run(world, chain=audit.Chain(lambda size: bytes(32), tip))) == ["anchor_differs"]


def test_an_anchor_without_its_checkpoint_is_a_finding(sqlite_database: Database) -> None:
    world, _ = lived(sqlite_database)

    found = run(world, is_full=True, chain=audit.Chain(lambda size: bytes(32), 3))

    assert codes(found) == ["checkpoint_missing"]


def test_org_records_are_held_against_the_registry(sqlite_database: Database) -> None:
    from core.canonical import unb64u

    world, _ = lived(sqlite_database)

    def registry(org: str, version: int) -> audit_memory.Any:
        thumb = unb64u(world.orgs[org].thumbprint(), length=32)
        roles = {OPERATOR: 1, MAKER: 2}.get(org, 16)
        return thumb, "0x" + org[-13:].zfill(40), roles, 1

    def other(org: str, version: int) -> audit_memory.Any:
        thumb, account, roles, block = registry(org, version)
        return thumb, account, roles | (32 if org == MAKER else 0), block

    def root_at(size: int) -> None:
        return None

    assert codes(run(world, is_full=True, chain=audit.Chain(root_at, 0, registry))) == []
    assert codes(run(world, is_full=True, chain=audit.Chain(root_at, 0, other))) == ["organisation_differs"]


def test_a_receipt_that_the_log_did_not_keep_is_a_finding(sqlite_database: Database) -> None:
    world, _ = lived(sqlite_database)
    late = world.message("truck-1", [seen(1)])
    received = world.now
    world.send("line-1", seen(2))
    world.now += 70
    world.step()
    with sqlite_database.transaction() as tx:
        from ledger import store

        store.admit(tx, [late], now_ms=received * 1000)
    world.step()

    assert codes(run(world)) == ["promise_broken"]


def test_an_untold_equivocation_is_a_finding(sqlite_database: Database) -> None:
    world, _ = lived(sqlite_database)
    one, two = world.message("truck-1", [seen(1)], keep=False), world.message("truck-1", [seen(2)])
    world.admit(one)
    world.step()
    between = codes(run(world))
    world.admit(two)
    world.step()
    untold = codes(run(world))
    members = {"kid": two.signed.kid, "iss": two.signed.iss, "seq": 0, "ids": sorted(_text(m) for m in (one, two))}
    world.record(
        common(t="equivocation", aud=AUD, log=LOG, org=two.signed.org, iat=world.now) | members, signer=OPERATOR
    )
    world.step()

    assert (between, untold) == ([], ["equivocation_untold"])
    assert codes(run(world)) == []
    assert codes(run(world, is_full=True)) == []


def _text(message: Any) -> str:
    from core.canonical import b64u

    return b64u(message.id)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("keys", {"use": "gateway"}),
        ("keys", {"scope": '{"places":[]}'}),
        ("orgs", {"roles": 255}),
        ("masters", {"value": "{}"}),
    ],
)
def test_a_changed_register_is_a_finding(sqlite_database: Database, table: str, values: dict[str, Any]) -> None:
    world, _ = lived(sqlite_database)
    without_triggers(sqlite_database, table)
    definition = tables.metadata.tables[table]
    with sqlite_database.transaction() as tx:
        last = tx.execute(sa.select(sa.func.max(definition.c.leaf))).scalar_one()
        tx.execute(definition.update().where(definition.c.leaf == last).values(**values))

    assert "register_differs" in codes(run(world))


def test_a_message_after_the_end_of_its_key_is_a_finding(sqlite_database: Database) -> None:
    world, sent = lived(sqlite_database)
    stolen = world.message("line-1", [seen(9)])
    world.end("line-1", last=_text(sent[-1]), seq=sent[-1].signed.seq)
    world.step()
    run(world)
    world.admit(stolen)
    world.step()

    found = run(world)

    assert codes(found) == ["bad_signature"]
    assert "ended" in found[0].message


def test_a_record_of_the_operator_does_not_speak_for_an_owner(sqlite_database: Database) -> None:
    world, sent = lived(sqlite_database)
    with sqlite_database.reading() as tx:
        leaf = tx.execute(
            sa.select(tables.entries.c.leaf)
            .join(tables.messages, tables.messages.c.arrival == tables.entries.c.arrival)
            .where(tables.messages.c.id == sent[0].id)
        ).scalar_one()
    payload = common(t="erasure", aud=AUD, log=LOG, org=MAKER, iat=world.now)
    payload |= {"leaf": leaf, "event": 0, "names": ["readPoint"], "owner": {"jws": "a.b.c", "items": []}}

    with pytest.raises(Rejected):
        world.record(payload, signer=OPERATOR)

    assert sgtin_id(1)


def test_a_state_leaf_that_is_given_an_arrival_is_a_finding(sqlite_database: Database) -> None:
    """Found by a random edit, seed 20261125."""
    world, _ = lived(sqlite_database)
    without_triggers(sqlite_database, "entries")
    last = world.sequencer.size - 1
    with sqlite_database.transaction() as tx:
        tx.execute(tables.entries.update().where(tables.entries.c.leaf == last).values(arrival=9_999))

    found = run(world)

    assert [(one.code, one.leaf) for one in found if isinstance(one, audit.Finding)] == [("row_differs", last)]
