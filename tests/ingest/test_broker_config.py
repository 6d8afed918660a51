"""What ``tracebond broker config`` writes for Mosquitto: started as written, each rule tried by real clients."""

import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion

from ingest import broker_tls
from ingest.source import MqttSource
from ingest.topics import DeviceName, read_broker_url
from ledger.database import open_database, upgrade
from tests.conftest import free_port
from tests.ingest.test_broker import wait_for
from tests.ingest.test_tls import listens
from tests.ledger.world import World
from tracebond.broker_cli import broker as broker_command

LINE = DeviceName("9521000000018", "9521000line-1")
# Mosquitto drops from the 1,001st on when nothing is configured.
COUNT = 10_000 if os.environ.get("TRACEBOND_CAMPAIGN") else 2_500
TRUCK = DeviceName("9521000000025", "9521000truck-1")


class Written:
    """A configuration as written by the command, and the broker it starts."""

    def __init__(self, data: Path, folder: Path, *options: str) -> None:
        self.folder, self.port = folder, free_port()
        arguments = ["config", "--data", str(data), "--out", str(folder), "--host", "127.0.0.1", *options]
        done = CliRunner().invoke(broker_command, [*arguments, "--port", str(self.port)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        self.passwords: dict[str, str] = json.loads((folder / "device-passwords.json").read_text())
        self.authority = str(folder / "tls" / "ca.pem")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([str(self.folder / "start.sh")])
        wait_for(lambda: listens(self.port))

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()

    def source(self, name: str = "worker-1") -> MqttSource:
        found = MqttSource((self.folder / "source.url").read_text().strip(), name, authority=self.authority)
        wait_for(lambda: found.state.is_connected)
        return found

    def publish(
        self, *options: str, user: DeviceName = LINE, password: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """mosquitto_pub, somebody else's client."""
        command = [
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "--cafile", self.authority, "-V", "mqttv5",
            "-i", user.username, "-u", user.username, "-P", password or self.passwords[user.username], "-q", "1",
        ]  # fmt: skip
        return subprocess.run([*command, *options], capture_output=True, text=True, timeout=30)

    def device(self, name: DeviceName, protocol: Any = mqtt.MQTTv5) -> "Peer":
        return Peer(self, name, protocol)


class Peer:
    """A paho client of a device that notes every answer."""

    def __init__(self, written: Written, name: DeviceName, protocol: Any) -> None:
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.granted: dict[int, bool] = {}
        self.messages: list[tuple[str, bytes]] = []
        self.connects = self.disconnects = 0
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, name.username, protocol=protocol)
        self.client.username_pw_set(name.username, written.passwords[name.username])
        self.client.tls_set(ca_certs=written.authority)
        self.client.max_queued_messages_set(0)
        self.client.max_inflight_messages_set(1_000)
        self.client.on_connect = lambda *_: setattr(self, "connects", self.connects + 1)
        self.client.on_disconnect = lambda *_: setattr(self, "disconnects", self.disconnects + 1)
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.granted.update({mid: not reasons[0].is_failure})
        self.client.on_publish = self._published
        self.client.on_message = lambda c, u, m: self.messages.append((m.topic, bytes(m.payload)))
        self.client.connect("127.0.0.1", written.port)
        self.client.loop_start()
        wait_for(lambda: self.connects > 0)

    def _published(self, _c: Any, _u: Any, mid: int, reason: Any, _p: Any) -> None:
        (self.refused if reason.is_failure else self.acknowledged).add(mid)

    def is_refused(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> bool:
        """Whether a publish is refused by its answer or by the end of the connection."""
        before = self.disconnects
        mid = self.client.publish(topic, payload, 1, retain=retain).mid
        wait_for(lambda: mid in self.acknowledged | self.refused or self.disconnects > before)
        return mid not in self.acknowledged

    def may_read(self, topic: str) -> bool:
        before, (_, mid) = self.disconnects, self.client.subscribe(topic, 1)
        wait_for(lambda: mid in self.granted or self.disconnects > before)
        return self.granted.get(mid or 0, False)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose register holds two devices, and one that has ended."""
    folder = tmp_path_factory.mktemp("data")
    database = open_database(f"sqlite:///{folder / 'tracebond.db'}")
    upgrade(database)
    world = World(database).start()
    world.enroll("old-1", world.owners["line-1"])
    world.step()
    world.end("old-1", last=None, seq=-1)
    world.step()
    database.close()
    return folder


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    made = Written(data, tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.stop()


def test_devices_of_the_register_may_connect_and_ended_ones_not(written: Written) -> None:
    assert set(written.passwords) == {LINE.username, TRUCK.username}


def test_a_device_publishes_events_and_reads_its_receipts(written: Written) -> None:
    source, device = written.source(), written.device(LINE)

    assert device.may_read(LINE.receipts)
    assert device.may_read(LINE.commands)
    assert written.publish("-t", TRUCK.events, "-m", "hello", user=TRUCK).returncode == 0
    found = source.receive(10, 20)
    assert [(one.topic, one.payload) for one in found] == [(TRUCK.events, b"hello")]
    source.ack([one.token for one in found if one.token])
    assert source.publish([(LINE.receipts, b"thanks")]) == 1
    wait_for(lambda: device.messages == [(LINE.receipts, b"thanks")])
    device.close()
    source.close()


@pytest.mark.parametrize("protocol", [mqtt.MQTTv5, mqtt.MQTTv311])
def test_nothing_else_may_be_read(written: Written, protocol: Any) -> None:
    device = written.device(LINE, protocol)
    for topic in (
        "#",
        "tb/#",
        "tb/1/+/+/events",
        "$share/ingest/tb/1/+/+/events",
        f"tb/1/{LINE.gln}/{LINE.device}/+",
        "tb/1/+/+/receipts",
        LINE.events,
        TRUCK.receipts,
        TRUCK.commands,
        "$SYS/#",
        "$CONTROL/dynamic-security/v1/response",
    ):
        assert not device.may_read(topic), topic
    device.close()


def test_nothing_else_may_be_written(written: Written) -> None:
    listener, device = written.device(TRUCK), written.device(LINE)
    assert listener.may_read(TRUCK.receipts)

    for topic in (TRUCK.events, TRUCK.receipts, TRUCK.commands, LINE.receipts, "$CONTROL/dynamic-security/v1", "x"):
        assert device.is_refused(topic), topic
    done = written.publish("-t", TRUCK.receipts, "-m", "forged")
    time.sleep(0.2)

    assert "Not authorized" in done.stderr or done.returncode != 0
    assert listener.messages == []
    device.close()
    listener.close()


def test_a_retained_publish_is_refused(written: Written) -> None:
    device = written.device(LINE)

    source = written.source()

    assert device.is_refused(LINE.events, b"poison", retain=True)
    device.close()
    # Told by a broker of MQTT 5 that nothing is retained, mosquitto_pub drops the flag by itself; in 3.1.1 it does not.
    written.publish("-t", LINE.events, "-m", "poison", "-r", "-V", "mqttv311")
    written.publish("-t", LINE.events, "-m", "good")
    found = source.receive(10, 20)

    assert [one.payload for one in found] == [b"good"]
    source.ack([one.token for one in found if one.token])
    source.close()


def test_a_message_of_256_kib_is_taken_and_an_oversize_one_refused(written: Written) -> None:
    source, device = written.source(), written.device(LINE)

    assert not device.is_refused(LINE.events, b"x" * 262_144)
    assert device.is_refused(LINE.events, b"x" * 280_000)
    found = source.receive(10, 20)

    assert [len(one.payload) for one in found] == [262_144]
    source.ack([one.token for one in found if one.token])
    device.close()
    source.close()


def test_strangers_are_refused(written: Written, tmp_path: Path) -> None:
    message = ("-t", LINE.events, "-m", "x")
    assert written.publish(*message, password="guess").returncode != 0
    assert written.publish(*message, user=DeviceName(LINE.gln, "stranger"), password="x").returncode != 0
    assert written.publish(*message, "-i", TRUCK.username).returncode != 0
    base = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(written.port), *message]
    anonymous = [*base, "--cafile", written.authority]
    assert subprocess.run(anonymous, capture_output=True, timeout=30).returncode != 0
    assert subprocess.run(base, capture_output=True, timeout=30).returncode != 0, "the port takes no plain text"


def test_a_client_that_trusts_another_authority_does_not_connect(written: Written, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    other = broker_tls.own_certificate(tmp_path / "other", ["localhost"], now=datetime.now(UTC))

    client = mqtt.Client(CallbackAPIVersion.VERSION2, LINE.username, protocol=mqtt.MQTTv5)
    client.tls_set(ca_certs=str(other.authority))
    with pytest.raises(ssl.SSLCertVerificationError):
        client.connect("127.0.0.1", written.port)


def test_thousands_wait_for_a_worker_that_is_away_and_outlive_kill_9(data: Path, tmp_path: Path) -> None:
    made = Written(data, tmp_path / "broker", "--save", "each-second")
    made.start()
    made.source().close()
    device = made.device(LINE)

    mids = [device.client.publish(LINE.events, b"%d" % number, 1).mid for number in range(COUNT)]
    wait_for(lambda: len(device.acknowledged) == len(mids))
    device.close()
    time.sleep(2.5)
    made.stop(signal.SIGKILL)
    made.start()

    source, found = made.source(), []
    deadline = time.monotonic() + 60
    while len(found) < COUNT and time.monotonic() < deadline:
        some = source.receive(1_000, 0.2)
        source.ack([one.token for one in some if one.token])
        found += [int(one.payload) for one in some]
    source.close()
    made.stop()
    assert found == list(range(COUNT))


def test_saved_on_each_change_nothing_acknowledged_is_lost_by_kill_9(data: Path, tmp_path: Path) -> None:
    made = Written(data, tmp_path / "broker")
    made.start()
    made.source().close()
    device = made.device(LINE)

    for number in range(200):
        assert not device.is_refused(LINE.events, b"%d" % number)
    time.sleep(0.2)
    made.stop(signal.SIGKILL)
    device.close()
    made.start()

    source, found = made.source(), set()
    deadline = time.monotonic() + 20
    while len(found) < 200 and time.monotonic() < deadline:
        found |= {int(one.payload) for one in source.receive(1_000, 0.2)}
    source.close()
    made.stop()
    assert found == set(range(200))


def test_a_client_certificate_can_be_asked_for(data: Path, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    fleet = broker_tls.own_certificate(tmp_path / "fleet", ["fleet"], now=now, is_client=True)
    other = broker_tls.own_certificate(tmp_path / "other", ["fleet"], now=now, is_client=True)
    server = broker_tls.own_certificate(tmp_path / "server", ["127.0.0.1"], now=now)
    options = ("--cert", str(server.certificate), "--key", str(server.key))
    made = Written(data, tmp_path / "broker", *options, "--ca", str(fleet.authority), "--client-certs")
    made.authority = str(server.authority)
    made.start()
    message = ("-t", LINE.events, "-m", "x")

    assert made.publish(*message).returncode != 0
    assert made.publish(*message, "--cert", str(other.certificate), "--key", str(other.key)).returncode != 0
    assert made.publish(*message, "--cert", str(fleet.certificate), "--key", str(fleet.key)).returncode == 0
    made.stop()


def test_writing_again_changes_no_password_and_hides_every_secret(data: Path, tmp_path: Path) -> None:
    first = Written(data, tmp_path / "broker")
    secrets = (tmp_path / "broker" / "secrets.json").read_text()
    second = Written(data, tmp_path / "broker")

    assert first.passwords == second.passwords
    assert (tmp_path / "broker" / "secrets.json").read_text() == secrets
    for name in ("secrets.json", "device-passwords.json", "source.url", "dynamic-security.json", "tls/broker.key"):
        assert os.stat(tmp_path / "broker" / name).st_mode & 0o077 == 0, name
    assert read_broker_url((tmp_path / "broker" / "source.url").read_text().strip()).username == "tb-ingest"
