"""The databases a benchmark runs on: the set one, else a PostgreSQL of its own where its programs are, and SQLite."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import Unavailable
from ledger.database import Database, open_database, upgrade

_ACCOUNT = "postgres"


@contextmanager
def sqlite_database() -> Iterator[Database]:
    """A fresh SQLite database, upgraded, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="tracebond-bench-") as folder:
        database = open_database(f"sqlite:///{Path(folder) / 'bench.db'}")
        try:
            upgrade(database)
            yield database
        finally:
            database.close()


def has_postgres() -> bool:
    """Whether a PostgreSQL of our own can be started here."""
    return _binaries() is not None


@contextmanager
def postgres_database() -> Iterator[Database]:
    """A fresh database on a PostgreSQL child with the default, durable settings; all removed afterwards.

    Raises:
        Unavailable: ``no_postgres``: its programs are not installed.
    """
    with postgres_url() as url:
        database = open_database(url)
        try:
            upgrade(database)
            yield database
        finally:
            database.close()


@contextmanager
def postgres_url() -> Iterator[str]:
    """The address of an empty database on a PostgreSQL child; stopped and removed afterwards.

    Raises:
        Unavailable: ``no_postgres``.
    """
    binaries = _binaries()
    if binaries is None:
        raise Unavailable("PostgreSQL is not installed: apt-get install postgresql", code="no_postgres")
    folder = Path(tempfile.mkdtemp(prefix="tracebond-bench-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        account = pwd.getpwnam(_ACCOUNT)
        os.chown(folder, account.pw_uid, account.pw_gid)
        prefix = ["runuser", "-u", _ACCOUNT, "--"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [*prefix, str(binaries / program), *arguments], check=True, capture_output=True, cwd="/", timeout=120
        )

    data = str(folder / "data")
    try:
        call("initdb", "-D", data, "-U", _ACCOUNT, "-A", "trust", "-E", "UTF8")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://{_ACCOUNT}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    own = shutil.which("initdb")
    return None if own is None else Path(own).parent
