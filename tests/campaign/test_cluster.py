"""Three RabbitMQ nodes, devices with outboxes, workers over AMQP into PostgreSQL: nodes and workers killed.

``make cluster`` sets up what it needs and runs it in full; ``make test`` runs a short form where RabbitMQ is installed.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.canonical import b64u
from core.receipts import open_receipt
from ingest.broker_tls import own_certificate
from ingest.topics import DeviceName, device_name
from ledger.database import Database
from ledger.tables import messages
from simulators.connection import Fleet
from simulators.devices import Device, DeviceConfig
from tests.conftest import PostgresServer
from tests.ingest.cluster_rig import Cluster, has_rabbitmq
from tests.ingest.rig import RECEIPT_KEY
from tests.ledger.world import AUD, MAKER, NOW, World, seen

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN") or os.environ.get("TRACEBOND_CLUSTER"))
DEVICES = 12
PER_S = 100 if IS_CAMPAIGN else 40
# So many receipts must come after each fault before the next one is made.
BETWEEN = 200 if IS_CAMPAIGN else 40
# A machine that is slower than the load gets less of it: what is tried here is loss, not speed.
OPEN_MAX = 400
WAIT_S = 200

pytestmark = [
    pytest.mark.skipif(not has_rabbitmq(), reason="RabbitMQ is not installed: make cluster"),
    pytest.mark.timeout(900),
]


class Plant:
    """Devices that say something all the time, and what became of it."""

    def __init__(self, database: Database, cluster: Cluster, world: World, folder: Path) -> None:
        self.devices = []
        for name in names():
            login = device_name(MAKER, world.iss(name))
            config = DeviceConfig.of(
                name, aud=AUD, org=MAKER, iss=world.iss(name), receipt_keys=(RECEIPT_KEY.jwk(),),
                username=login.username, password=cluster.passwords[login],
            )  # fmt: skip
            self.devices.append(Device.create(folder / name, config, world.devices[name], resend_s=8.0))
        self.fleet = Fleet(self.devices, cluster.devices_url, ca_file=cluster.authority)
        self.database = database
        self.recorded = 0
        self.silence_s = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._talk), threading.Thread(target=self._listen)]

    def start(self) -> None:
        self.fleet.start()
        for thread in self._threads:
            thread.start()

    def _talk(self) -> None:
        while not self._stop.wait(1 / PER_S):
            if self.fleet.pending >= OPEN_MAX:
                continue
            device = self.devices[self.recorded % DEVICES]
            device.record([seen(f"C{self.recorded}")], NOW)
            self.recorded += 1

    def _listen(self) -> None:
        last, seen_at = 0, time.monotonic()
        while not self._stop.wait(0.05):
            if self.receipts > last:
                last, seen_at = self.receipts, time.monotonic()
            self.silence_s = max(self.silence_s, time.monotonic() - seen_at)

    @property
    def receipts(self) -> int:
        return self.recorded - self.fleet.pending

    def more(self, count: int = BETWEEN) -> None:
        """Return when so many further receipts have come."""
        goal = self.receipts + count
        wait_for(lambda: self.receipts >= goal)

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.fleet.drain(WAIT_S)

    def close(self) -> None:
        self._stop.set()
        self.fleet.stop()
        for device in self.devices:
            device.close()


def names() -> list[str]:
    return [f"line-{number + 2}" for number in range(DEVICES)]


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def database_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    url = postgres_server.create(postgres_template)
    yield url
    postgres_server.drop(url)


@pytest.fixture
def world(database: Database) -> World:
    made = World(database).start()
    for name in names():
        made.enroll(name, MAKER)
    made.step()
    return made


@pytest.fixture
def cluster(world: World, tmp_path: Path) -> Iterator[Cluster]:
    passwords: dict[DeviceName, str] = {device_name(MAKER, world.iss(name)): f"password of {name}" for name in names()}
    tls = own_certificate(tmp_path / "tls", ["127.0.0.1"], now=datetime.now(UTC))
    made = Cluster(tmp_path / "cluster", passwords, tls=tls)
    try:
        made.run("start.sh")
        yield made
    finally:
        made.close()


def worker(url: str, cluster: Cluster, number: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.ingest.worker_process", url, cluster.url, f"worker-{number}"]
    with (cluster.folder / f"worker-{number}.log").open("ab") as log:
        return subprocess.Popen([*command, cluster.authority or ""], stdout=log, stderr=log)


def test_what_a_device_holds_a_receipt_for_is_stored_once_whatever_is_killed(
    database: Database, database_url: str, world: World, cluster: Cluster, tmp_path: Path
) -> None:
    begun = time.monotonic()
    plant = Plant(database, cluster, world, tmp_path / "devices")
    workers = [worker(database_url, cluster, number) for number in range(2)]
    plant.start()
    try:
        plant.more()
        for node in cluster.nodes:  # one in mid-stream, then two in turn
            cluster.kill(node.name)
            plant.more()
            cluster.run("start-node.sh", node.name)
            plant.more()
        os.kill(workers[0].pid, signal.SIGKILL)
        plant.more()
        workers[0] = worker(database_url, cluster, 0)
        plant.more()
        plant.finish()
    finally:
        plant.close()
        for process in workers:
            process.kill()
            process.wait()

    reconcile(plant, tmp_path / "devices")
    sys.stdout.write(
        f"cluster: {plant.recorded} messages of {DEVICES} devices, 3 nodes and 1 worker killed by kill -9, "
        f"0 lost, 0 doubled; longest time without a receipt {plant.silence_s:.1f} s; {time.monotonic() - begun:.0f} s\n"
    )


def reconcile(plant: Plant, folder: Path) -> None:
    """The devices' own files against the database: each receipt has one row, each message is there, nothing else is."""
    with plant.database.reading() as tx:
        stored = Counter(bytes(found) for found in tx.execute(sa.select(messages.c.id)).scalars())
    sent, receipted = set(), set()
    for name in names():
        device = Device.open(folder / name)
        for entry in device.outbox.entries(name):
            sent.add(entry.id)
            raw = device.outbox.receipt(name, entry.seq)
            assert entry.state == "accepted", f"{name} {entry.seq}: {entry.state} {entry.code}"
            assert raw is not None
            receipt = open_receipt(raw, RECEIPT_KEY.public)
            assert b64u(receipt.message) == b64u(entry.id)
            receipted.add(entry.id)
        device.close()
    assert len(sent) == plant.recorded
    assert receipted == sent
    assert set(stored) == sent
    assert set(stored.values()) == {1}
