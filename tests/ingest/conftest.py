"""A real Mosquitto for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.broker import EmbeddedBroker
from ledger.database import Database
from tests.ingest.rig import Rig


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    started = EmbeddedBroker(tmp_path / "broker-data")
    started.start()
    yield started
    started.stop()


@pytest.fixture
def rig(database: Database) -> Rig:
    return Rig(database)


@pytest.fixture
def small_rig(sqlite_database: Database) -> Rig:
    return Rig(sqlite_database)
