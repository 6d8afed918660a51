"""The finance world on both databases, on the built-in chain."""

from pathlib import Path

import pytest

from ledger.database import Database
from tests.chain_fixtures import built_in_world
from tests.finance.world import FinanceWorld, build


@pytest.fixture
def world(database: Database, tmp_path: Path) -> FinanceWorld:
    return build(database, built_in_world(tmp_path / "chain"))


@pytest.fixture
def sqlite_world(sqlite_database: Database, tmp_path: Path) -> FinanceWorld:
    return build(sqlite_database, built_in_world(tmp_path / "chain"))
