"""A worker process killed at each crash point, at a real broker: nothing lost, nothing twice."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.broker import EmbeddedBroker
from ledger.database import Database
from tests.ingest.test_faults import Plant

POINTS = ("before_commit", "after_commit", "after_ack")


@pytest.fixture
def plant(sqlite_database: Database, broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(sqlite_database, broker, tmp_path / "devices")
    yield made
    made.close()


def spawn(url: str, broker: EmbeddedBroker, client_id: str, kill_at: str = "") -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.ingest.killed_worker", url, broker.url, client_id, kill_at]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_worker_killed_at_each_crash_point_loses_and_doubles_nothing(
    plant: Plant, sqlite_database: Database, broker: EmbeddedBroker
) -> None:
    url = f"sqlite:///{sqlite_database.url.removeprefix('sqlite:///')}"
    plant.fleet.start()
    killed = []
    for point in POINTS:
        plant.record(3)
        worker = spawn(url, broker, "worker-1", point)
        killed.append(worker.wait(60))
    beside = [spawn(url, broker, name) for name in ("worker-1", "worker-2")]
    plant.record(10)
    plant.fleet.drain(60)
    for worker in beside:
        worker.kill()
        worker.wait()

    assert killed == [-signal.SIGKILL] * len(POINTS)
    plant.reconcile(sqlite_database)
