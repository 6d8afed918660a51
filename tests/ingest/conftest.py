"""A real Mosquitto for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.broker import EmbeddedBroker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    started = EmbeddedBroker(tmp_path / "broker-data")
    started.start()
    yield started
    started.stop()
