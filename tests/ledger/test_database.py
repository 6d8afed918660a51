"""The database session: commit, rollback, refusal of unsafe settings, translation of errors, append-only."""

import shutil
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.errors import Broken, Conflict, Unavailable
from ledger import tables
from ledger.database import Database, UnsafeDatabase, open_database, upgrade


def test_a_transaction_commits_and_a_failed_one_leaves_nothing(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(tables.facts.insert().values(name="kept", value="1"))
    with pytest.raises(ZeroDivisionError), database.transaction() as tx:
        _write_and_crash(tx)

    with database.reading() as tx:
        names = tx.execute(sa.select(tables.facts.c.name)).scalars().all()

    assert names == ["kept"]


def test_reading_sees_one_state_and_cannot_write(database: Database) -> None:
    with database.reading() as tx:
        before = tx.execute(sa.select(sa.func.count()).select_from(tables.facts)).scalar_one()
        with database.transaction() as other:
            other.execute(tables.facts.insert().values(name="new", value="1"))
        after = tx.execute(sa.select(sa.func.count()).select_from(tables.facts)).scalar_one()

        assert before == after == 0
        with pytest.raises(sa.exc.DBAPIError):
            tx.execute(tables.facts.insert().values(name="other", value="1"))
        tx.rollback()


def test_a_broken_constraint_is_a_conflict(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(tables.facts.insert().values(name="once", value="1"))

    with pytest.raises(Conflict), database.transaction() as tx:
        tx.execute(tables.facts.insert().values(name="once", value="2"))


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    upgrade(database)

    with database.reading() as tx:
        assert set(sa.inspect(tx).get_table_names()) >= {"messages", "entries", "tiles", "checkpoints"}


@pytest.mark.parametrize("table", tables.APPEND_ONLY)
def test_the_database_refuses_to_change_or_delete_what_was_logged(database: Database, table: str) -> None:
    definition = tables.metadata.tables[table]
    row = {column.name: _value(column) for column in definition.columns}
    with database.transaction() as tx:
        tx.execute(definition.insert().values(row))

    with pytest.raises(Conflict), database.transaction() as tx:
        tx.execute(definition.delete())
    with pytest.raises(Conflict), database.transaction() as tx:
        tx.execute(definition.update().values(row))

    with database.reading() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(definition)).scalar_one() == 1


def test_a_tile_may_grow_but_never_change(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(tables.tiles.insert().values(level=0, number=0, hashes=b"a" * 32))
        tx.execute(tables.tiles.update().values(hashes=b"a" * 32 + b"b" * 32))

    with pytest.raises(Conflict), database.transaction() as tx:
        tx.execute(tables.tiles.update().values(hashes=b"c" * 32 + b"b" * 32))


def test_writers_of_one_process_wait_for_one_another(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(tables.counters.insert().values(name="sum", value=0))

    def add() -> None:
        for _ in range(20):
            with database.transaction() as tx:
                row = sa.select(tables.counters.c.value).where(tables.counters.c.name == "sum").with_for_update()
                value = tx.execute(row).scalar_one()
                tx.execute(tables.counters.update().where(tables.counters.c.name == "sum").values(value=value + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.reading() as tx:
        row = sa.select(tables.counters.c.value).where(tables.counters.c.name == "sum")
        assert tx.execute(row).scalar_one() == 80


def test_a_transaction_inside_a_transaction_is_a_fault_of_ours(database: Database) -> None:
    with pytest.raises(Broken), database.transaction(), database.transaction():
        pass


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(Broken):
        open_database("sqlite://")


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(Broken):
        open_database("mysql://127.0.0.1/x")


@pytest.mark.parametrize("setting", ["fsync=off", "synchronous_commit=off", "full_page_writes=off"])
def test_postgresql_that_can_lose_commits_is_refused(setting: str, slow_postgres: object) -> None:
    server = slow_postgres
    server.start(f"-c {setting}")  # type: ignore[attr-defined]
    try:
        with pytest.raises(UnsafeDatabase):
            open_database(server.url("postgres"))  # type: ignore[attr-defined]
    finally:
        server.stop()  # type: ignore[attr-defined]


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        open_database("postgres://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        open_database(f"sqlite:///{tmp_path}/no/such/folder/x.db")


@pytest.fixture(scope="module")
def slow_postgres():  # type: ignore[no-untyped-def]
    from tests.conftest import start_postgres

    server = start_postgres()
    server.stop()
    yield server
    shutil.rmtree(server.folder, ignore_errors=True)


def _write_and_crash(tx: sa.Connection) -> None:
    tx.execute(tables.facts.insert().values(name="lost", value="1"))
    _ = 1 // 0


def _value(column: sa.Column) -> object:  # type: ignore[type-arg]
    if isinstance(column.type, sa.LargeBinary):
        return bytes(32)
    return "x" if isinstance(column.type, sa.Text) else 1
