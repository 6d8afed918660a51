"""Workers, broker and database killed in mid-stream, reconciled by the devices' own outboxes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.errors import Unavailable
from ingest.broker import EmbeddedBroker
from ingest.pipeline import Worker, service_of
from ingest.source import MqttSource
from ingest.topics import device_name
from ledger.database import Database, open_database, upgrade
from ledger.tables import messages
from simulators.connection import Fleet
from simulators.devices import Device, DeviceConfig
from tests.conftest import start_postgres
from tests.ingest.rig import RECEIPT_KEY
from tests.ledger.world import AUD, LOG, MAKER, NOW, OPERATOR, World, seen

NAMES = ("line-1", "gate-1", "scale-1", "lab-1")
EACH = 150


class Plant:
    """Four devices of one maker with their outboxes, at one broker."""

    def __init__(self, database: Database, broker: EmbeddedBroker, folder: Path) -> None:
        self.world = World(database).start()
        for name in NAMES[1:]:
            self.world.enroll(name, MAKER)
        self.world.step()
        wired = {name: device_name(MAKER, self.world.iss(name)) for name in NAMES}
        passwords = broker.access.sync(wired.values())
        self.devices = [
            Device.create(
                folder / name,
                DeviceConfig.of(
                    name,
                    aud=AUD,
                    org=MAKER,
                    iss=self.world.iss(name),
                    receipt_keys=(RECEIPT_KEY.jwk(),),
                    username=wired[name].username,
                    password=passwords[wired[name]],
                ),
                self.world.devices[name],
                resend_s=0.7,
            )
            for name in NAMES
        ]
        self.fleet = Fleet(self.devices, broker.address.url)

    def record(self, count: int) -> None:
        for number in range(count):
            for device in self.devices:
                device.record([seen(f"{device.config.name}-{number}")], NOW)

    def reconcile(self, database: Database) -> None:
        """Every message that holds a receipt is stored exactly once, and nothing else is."""
        sent = {entry.id for device in self.devices for entry in device.outbox.entries(device.config.name)}
        for device in self.devices:
            counts = device.outbox.counts(device.config.name)
            assert (counts["waiting"], counts["refused"]) == (0, 0)
        with database.reading() as tx:
            stored = Counter(bytes(found) for found in tx.execute(sa.select(messages.c.id)).scalars())
        assert set(stored) == sent
        assert max(stored.values()) == 1

    def close(self) -> None:
        self.fleet.stop()
        for device in self.devices:
            device.close()


@pytest.fixture
def plant(database: Database, broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(database, broker, tmp_path / "devices")
    yield made
    made.close()


def spawn(database_url: str, broker: EmbeddedBroker) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.ingest.worker_process", database_url, broker.url, "worker-1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def test_worker_killed_in_mid_stream_loses_and_doubles_nothing(
    plant: Plant, database: Database, database_url: str, broker: EmbeddedBroker
) -> None:
    source = random.Random(4117)
    plant.record(EACH)
    worker = spawn(database_url, broker)
    plant.fleet.start()
    kills = 0
    while plant.fleet.pending and kills < 3:
        before = plant.fleet.pending
        deadline = time.monotonic() + 15
        while plant.fleet.pending == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(source.random() * 0.15)
        worker.kill()
        worker.wait()
        kills += 1
        worker = spawn(database_url, broker)
    plant.fleet.drain(30)
    worker.kill()
    worker.wait()

    assert kills >= 2
    plant.reconcile(database)


class InProcess:
    """A worker in a thread, as the all-in-one process runs it."""

    def __init__(self, database: Database, broker: EmbeddedBroker) -> None:
        self._stop = threading.Event()
        self.unavailable = 0
        self.worker = Worker(
            MqttSource(broker.url, "worker-1"),
            database,
            service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400),
            operator_key=World(database).orgs[OPERATOR],
            receipt_key=RECEIPT_KEY,
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.worker.run_once()
            except Unavailable:
                self.unavailable += 1
                self._stop.wait(0.1)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.worker.close()


def test_broker_killed_under_load_loses_nothing_that_has_a_receipt(
    sqlite_database: Database, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    plant = Plant(sqlite_database, broker, tmp_path / "devices")
    worker = InProcess(sqlite_database, broker)
    plant.record(EACH)
    plant.fleet.start()
    for _ in range(2):
        time.sleep(0.4)
        pid = broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    plant.fleet.drain(40)
    worker.close()

    assert broker.restarts == 2
    plant.reconcile(sqlite_database)
    plant.close()


def test_database_killed_under_load_is_waited_for(broker: EmbeddedBroker, tmp_path: Path) -> None:
    server = start_postgres()
    try:
        database = open_database(server.create())
        upgrade(database)
        plant = Plant(database, broker, tmp_path / "devices")
        worker = InProcess(database, broker)
        plant.record(EACH)
        plant.fleet.start()
        time.sleep(0.5)
        server.stop("immediate")
        time.sleep(1)
        server.start()

        plant.fleet.drain(40)
        worker.close()

        assert worker.unavailable > 0
        plant.reconcile(database)
        plant.close()
        database.close()
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
