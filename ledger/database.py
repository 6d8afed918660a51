"""The database: the one place that opens, commits and translates errors, for SQLite and PostgreSQL alike."""

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psycopg
import sqlalchemy as sa
from sqlalchemy import event, exc

from core.errors import Broken, Conflict, Unavailable

Tx = sa.Connection
Kind = Literal["sqlite", "postgresql"]

LOCK_WAIT_S = 30
POOL_SIZE = 10
POOL_OVERFLOW = 20
SQLITE_CACHE_KIB = 65_536
PACKAGES = ("ledger", "ingest", "finance", "api")
_ROOT = Path(__file__).resolve().parent.parent
_AMONG_MAX = 500
_MEMORY = "tracebond_memory"
_UPGRADE_LOCK = 7_262_736_001


class UnsafeDatabase(Broken):
    """The database would acknowledge what a power cut can still take away."""

    code = "unsafe_database"


class Database:
    """An open database. Use :func:`open_database`.

    Attributes:
        kind: ``sqlite`` or ``postgresql``.
        url: the address without its password, for people.
    """

    def __init__(self, url: sa.URL) -> None:
        self.kind: Kind = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"
        self.url = url.render_as_string(hide_password=True)
        self._here = threading.local()
        self._writers = _FairLock()
        if self.kind == "sqlite":
            self._write = _sqlite_engine(url, is_reader=False)
            self._read = _sqlite_engine(url, is_reader=True)
        else:
            self._write = _postgres_engine(url, is_reader=False)
            self._read = _postgres_engine(url, is_reader=True)

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """One unit of work: commits at the end, rolls back on any error.

        On SQLite writers of this process wait for one another in the order they came.

        Raises:
            Unavailable: the database is away, full or busy; nothing was committed, or, where the connection broke
                during the commit itself, it is unknown whether it was: repeat with the same keys.
            Conflict: a constraint refused the change.
        """
        if getattr(self._here, "is_writing", False):
            raise Broken("A transaction was opened inside a transaction of the same thread.")
        self._here.is_writing = True
        try:
            with self._turn(), _translated(), self._write.connect() as tx, tx.begin():
                yield tx
        finally:
            self._here.is_writing = False

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """A read-only snapshot: all queries inside see one state.

        Raises:
            Unavailable: the database is away or busy.
        """
        with _translated(), self._read.connect() as tx, tx.begin():
            yield tx

    def ping(self) -> None:
        """Return if the database answers.

        Raises:
            Unavailable: it does not.
        """
        with self.reading() as tx:
            tx.execute(sa.text("SELECT 1"))

    def compact(self, tables: Sequence[str]) -> None:
        """Rewrite the files so that what was deleted or replaced stands in none of them any more.

        SQLite rewrites the whole file and empties the write-ahead log; PostgreSQL rewrites the tables named (its own
        write-ahead log and its archives keep old bytes until they are recycled).

        Raises:
            Unavailable: another process reads or writes right now; call again.
        """
        if self.kind == "postgresql":
            engine = self._write.execution_options(isolation_level="AUTOCOMMIT")
            with _translated(), engine.connect() as session:
                for table in tables:
                    session.exec_driver_sql(f'VACUUM (FULL) "{table}"')
            return
        with self._turn(), _translated():
            connection = self._write.raw_connection()
            try:
                cursor = connection.cursor()
                # In a file: the copy that VACUUM makes may be larger than memory.
                cursor.execute("PRAGMA temp_store=FILE")
                cursor.execute("VACUUM")
                busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                cursor.execute("PRAGMA temp_store=MEMORY")
                cursor.close()
            finally:
                connection.close()
        if busy:
            raise Unavailable("Another process reads the database; try again.", code="database_busy")

    def close(self) -> None:
        """Give all connections back."""
        self._write.dispose()
        self._read.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self.kind != "sqlite":
            yield
            return
        self._writers.acquire(LOCK_WAIT_S)
        try:
            yield
        finally:
            self._writers.release()


def open_database(url: str) -> Database:
    """The database at ``url``, checked to keep what it acknowledges.

    Args:
        url: ``sqlite:///path``, or ``postgresql://``, ``postgres://``, ``postgresql+psycopg://``.

    Raises:
        UnsafeDatabase: SQLite without WAL and FULL, PostgreSQL with fsync or synchronous_commit off.
        Unavailable: it does not answer.
        Broken: another kind of database.
    """
    try:
        parsed = sa.make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres:") else url)
    except exc.ArgumentError as error:
        raise Broken(f"This is no database address: {error}", code="bad_setting") from error
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    elif parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise Broken(f"No database of kind {parsed.drivername} is known.", code="bad_setting")
    elif not parsed.database or parsed.database == ":memory:":
        raise Broken("SQLite needs a file; memory keeps no promise.", code="bad_setting")
    database = Database(parsed)
    database.ping()
    return database


def upgrade(database: Database, packages: Sequence[str] = PACKAGES) -> None:
    """Bring the tables of ``packages`` to their newest revision, all in one transaction.

    Raises:
        Broken: ``database_newer`` when the database was written by a newer program.
        Unavailable: the database is away.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    folders = [_ROOT / name / "migrations" / "versions" for name in packages]
    config = Config()
    config.set_main_option("script_location", _escape(_ROOT / "ledger" / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(_escape(path) for path in folders if path.is_dir()))
    with database.transaction() as tx:
        if database.kind == "postgresql":
            # Two processes that start at once must not both create the tables.
            tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
        config.attributes["connection"] = tx
        try:
            command.upgrade(config, "heads")
        except CommandError as error:
            raise Broken(f"The tables cannot be upgraded: {error}", code="database_newer") from error


def raw(tx: Tx) -> Any:
    """The driver's own connection of this transaction, for bulk work; never commit on it."""
    return tx.connection.driver_connection


def fetch(tx: Tx, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """All rows of plain SQL as tuples straight from the driver, blobs as bytes; for the hot bulk reads.

    Args:
        statement: with ``?`` for each parameter, and no other question mark or per cent sign in it.
    """
    if is_sqlite(tx):
        return list(raw(tx).execute(statement, parameters).fetchall())
    with raw(tx).cursor(binary=True) as cursor:
        cursor.execute(statement.replace("?", "%s"), parameters)
        return list(cursor.fetchall()) if cursor.description else []


def fetch_each(tx: Tx, queries: Sequence[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
    """The rows of each statement, as :func:`fetch` gives them, in one exchange with the server."""
    if is_sqlite(tx):
        return [fetch(tx, statement, parameters) for statement, parameters in queries]
    connection = raw(tx)
    cursors = [connection.cursor(binary=True) for _ in queries]
    with connection.pipeline():
        for cursor, (statement, parameters) in zip(cursors, queries, strict=True):
            cursor.execute(statement.replace("?", "%s"), parameters)
    return [list(cursor.fetchall()) if cursor.description else [] for cursor in cursors]


def fetch_among(tx: Tx, statement: str, values: Sequence[Any]) -> list[Any]:
    """All rows of plain SQL whose one ``AMONG`` compares with any number of values: ``... WHERE id AMONG``."""
    if not is_sqlite(tx):
        return fetch(tx, statement.replace("AMONG", "= ANY(?)"), (list(values),)) if values else []
    found: list[Any] = []
    for start in range(0, len(values), _AMONG_MAX):
        part = values[start : start + _AMONG_MAX]
        found += fetch(tx, statement.replace("AMONG", f"IN ({','.join('?' * len(part))})"), part)
    return found


def memory(tx: Tx) -> dict[str, Any]:
    """What may be kept of facts that never change: shared by all readers of this database, by a writer's connection
    alone, since what a writer saw may be rolled back.
    """
    shared: dict[str, Any] | None = tx.get_execution_options().get(_MEMORY)
    return tx.info if shared is None else shared


def run_many(tx: Tx, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run plain SQL (``?`` for each parameter) once per row."""
    if rows:
        raw(tx).cursor().executemany(statement if is_sqlite(tx) else statement.replace("?", "%s"), rows)


def is_sqlite(tx: Tx) -> bool:
    """Whether this transaction runs on SQLite."""
    return tx.dialect.name == "sqlite"


def _escape(path: Path) -> str:
    return str(path).replace("%", "%%")


def _sqlite_engine(url: sa.URL, *, is_reader: bool) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        connect_args={"timeout": LOCK_WAIT_S, "check_same_thread": False},
        execution_options={_MEMORY: {}} if is_reader else {},
    )

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        # REPLACE deletes rows; without this pragma the triggers that refuse deletes would not see it.
        cursor.execute("PRAGMA recursive_triggers=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.execute(f"PRAGMA cache_size=-{SQLITE_CACHE_KIB}")
        cursor.execute("PRAGMA wal_autocheckpoint=4000")
        journal = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        cursor.execute("PRAGMA synchronous=FULL")
        synchronous = cursor.execute("PRAGMA synchronous").fetchone()[0]
        if journal != "wal" or synchronous < 2:
            raise UnsafeDatabase(f"SQLite runs with journal {journal}, synchronous {synchronous}; WAL, FULL needed.")
        if is_reader:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _postgres_engine(url: sa.URL, *, is_reader: bool) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=LOCK_WAIT_S,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ" if is_reader else "READ COMMITTED",
        execution_options={_MEMORY: {}} if is_reader else {},
        connect_args={
            "connect_timeout": 10,
            "options": f"-c lock_timeout={LOCK_WAIT_S * 1000} -c timezone=UTC",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )

    def connected(connection: Any, _: Any) -> None:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name, safe in (
                ("fsync", {"on"}),
                ("full_page_writes", {"on"}),
                ("synchronous_commit", {"on", "remote_apply"}),
                ("server_encoding", {"UTF8"}),
            ):
                value = cursor.execute(f"SHOW {name}").fetchone()[0]
                if value not in safe:
                    raise UnsafeDatabase(f"PostgreSQL runs with {name} {value}; {' or '.join(sorted(safe))} needed.")
        connection.autocommit = False
        connection.read_only = is_reader

    event.listen(engine, "connect", connected)
    return engine


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        if getattr(getattr(error, "orig", None), "sqlite_errorname", "") == "SQLITE_ERROR":
            raise
        raise Unavailable(f"The database is away or busy: {_short(error)}", code="database_away") from error
    except (sqlite3.OperationalError, psycopg.OperationalError, psycopg.InterfaceError) as error:
        # Bulk work speaks to the driver itself.
        if getattr(error, "sqlite_errorname", "") == "SQLITE_ERROR":
            raise
        raise Unavailable(f"The database is away or busy: {_short(error)}", code="database_away") from error
    except (sqlite3.IntegrityError, psycopg.IntegrityError) as error:
        raise Conflict(f"The database refused the change: {_short(error)}", code="constraint") from error
    except exc.IntegrityError as error:
        raise Conflict(f"The database refused the change: {_short(error)}", code="constraint") from error
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(f"The database went away: {_short(error)}", code="database_away") from error
        raise


def _short(error: Exception) -> str:
    origin = getattr(error, "orig", None) or error
    return str(origin).strip().split("\n")[0][:200]


class _FairLock:
    """A lock that is handed on in the order of asking, so that a busy writer cannot starve the others."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._is_held = False
        self._waiters: deque[threading.Event] = deque()

    def acquire(self, timeout_s: float) -> None:
        with self._mutex:
            if not self._is_held:
                self._is_held = True
                return
            mine = threading.Event()
            self._waiters.append(mine)
        if mine.wait(timeout_s):
            return
        with self._mutex:
            if mine.is_set():
                return
            self._waiters.remove(mine)
        raise Unavailable("Another writer held the database too long.", code="database_away")

    def release(self) -> None:
        with self._mutex:
            if self._waiters:
                self._waiters.popleft().set()
            else:
                self._is_held = False
