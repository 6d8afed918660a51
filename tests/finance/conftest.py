"""The finance world on both databases, on the built-in chain: set up once for each kind, and copied for every test."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts.opening import open_chain
from ledger.database import open_database
from tests.chain_fixtures import ChainWorld, built_in_world
from tests.finance.world import FinanceWorld, build, opened


@dataclass(frozen=True)
class Template:
    """A built world that nobody has open: its chain's folder, its database (a file or a name), and its keys."""

    folder: Path
    database: str
    chain: ChainWorld

    def copy(self, folder: Path) -> ChainWorld:
        """A chain of one's own in the template's state."""
        shutil.copytree(self.folder, folder)
        chain = open_chain(None, folder, genesis_salt=b"test")
        return ChainWorld(chain, self.chain.signer, self.chain.deployment, folder)


def template(folder: Path, url: str, database: str) -> Template:
    opened_database = open_database(url)
    chain = built_in_world(folder)
    build(opened_database, chain)
    opened_database.close()
    chain.chain.close()
    return Template(folder, database, chain)


@pytest.fixture(scope="session")
def sqlite_built(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("finance")
    file = folder / "built.db"
    shutil.copy(sqlite_template, file)
    return template(folder / "chain", f"sqlite:///{file}", str(file))


@pytest.fixture(scope="session")
def postgres_built(postgres_server: Any, postgres_template: str, tmp_path_factory: pytest.TempPathFactory) -> Template:
    url = postgres_server.create(postgres_template, name="finance_built")
    return template(tmp_path_factory.mktemp("finance") / "chain", url, "finance_built")


def on_sqlite(built: Template, folder: Path) -> Iterator[FinanceWorld]:
    shutil.copy(built.database, folder / "tracebond.db")
    database = open_database(f"sqlite:///{folder / 'tracebond.db'}")
    chain = built.copy(folder / "chain")
    yield opened(database, chain)
    chain.chain.close()
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FinanceWorld]:
    if request.param == "sqlite":
        yield from on_sqlite(request.getfixturevalue("sqlite_built"), tmp_path)
        return
    built, server = request.getfixturevalue("postgres_built"), request.getfixturevalue("postgres_server")
    url = server.create(built.database)
    database = open_database(url)
    chain = built.copy(tmp_path / "chain")
    yield opened(database, chain)
    chain.chain.close()
    database.close()
    server.drop(url)


@pytest.fixture
def sqlite_world(sqlite_built: Template, tmp_path: Path) -> Iterator[FinanceWorld]:
    yield from on_sqlite(sqlite_built, tmp_path)
