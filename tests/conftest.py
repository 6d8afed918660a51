"""Fixtures for every package: the same database tests on SQLite and on a real PostgreSQL."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.database import Database, open_database, upgrade

_POSTGRES_USER = "postgres"
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 3 * 2**30


def pytest_configure() -> None:
    """Let temporary folders stand in memory where there is room: the files are real, but no test waits for a disk."""
    if temporary_root() is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def temporary_root() -> Path | None:
    """The folder in memory, None where it is absent or small."""
    if not os.access(_MEMORY, os.W_OK):
        return None
    found = os.statvfs(_MEMORY)
    return _MEMORY if found.f_bavail * found.f_frsize >= _MEMORY_BYTES else None


class PostgresServer:
    """A PostgreSQL of this test session: own folder, own port, and the settings the product insists on."""

    def __init__(self, folder: Path, port: int, binaries: Path, prefix: list[str]) -> None:
        self.folder, self.port, self.binaries, self.prefix = folder, port, binaries, prefix
        self._count = 0

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{_POSTGRES_USER}@127.0.0.1:{self.port}/{name}"

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self.prefix, str(self.binaries / program), *arguments],
            capture_output=True,
            text=True,
            cwd="/",
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")

    def start(self, *options: str) -> None:
        settings = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c max_connections=200 "
        log = str(self.folder / "log")
        self.run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", settings + " ".join(options), "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def create(self, template: str = "template1", name: str | None = None) -> str:
        import psycopg

        self._count += 1
        name = name or f"test_{self._count}"
        with psycopg.connect(self.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop(self, url: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_postgres() -> PostgresServer:
    """A running server in a fresh folder; the caller stops it and removes ``folder``."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail("These tests need PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="tb-pg-", dir=temporary_root()))
    prefix: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        account = pwd.getpwnam(_POSTGRES_USER)
        os.chown(folder, account.pw_uid, account.pw_gid)
        prefix = ["runuser", "-u", _POSTGRES_USER, "--"]
    server = PostgresServer(folder, free_port(), found[-1].parent, prefix)
    server.run("initdb", "-D", str(folder / "data"), "-U", _POSTGRES_USER, "-A", "trust", "-E", "UTF8", "--no-sync")
    server.start()
    return server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = start_postgres()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    database = open_database(postgres_server.create(name="upgraded"))
    upgrade(database)
    database.close()
    return "upgraded"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "upgraded.db"
    database = open_database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a fresh, upgraded database; each test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "tracebond.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create(request.getfixturevalue("postgres_template"))
    yield url
    server.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, upgraded database of each kind."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """A fresh, upgraded SQLite database, for tests that need no more than one kind."""
    path = tmp_path / "tracebond.db"
    shutil.copy(sqlite_template, path)
    opened = open_database(f"sqlite:///{path}")
    yield opened
    opened.close()
