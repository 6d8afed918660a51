"""The embedded Mosquitto and its access rules, against the real program."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from ingest.access import INGEST
from ingest.broker import EmbeddedBroker, write_config
from ingest.parts import find_parts
from ingest.topics import SHARED_EVENTS, DeviceName, read_broker_url

FIRST = DeviceName("9520000000004", "first")
SECOND = DeviceName("9520000000004", "second")


class Peer:
    """A plain MQTT client that notes what the broker answers."""

    def __init__(self, broker: EmbeddedBroker, username: str, password: str, client_id: str | None = None) -> None:
        self.connected: list[bool] = []
        self.granted: dict[int, bool] = {}
        self.acknowledged: dict[int, bool] = {}
        self.disconnects = 0
        self.messages: list[tuple[str, bytes]] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id or username, protocol=mqtt.MQTTv5)
        self.client.username_pw_set(username, password)
        self.client.on_connect = lambda c, u, f, reason, p: self.connected.append(not reason.is_failure)
        self.client.on_disconnect = self._count
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.granted.update({mid: not reasons[0].is_failure})
        self.client.on_publish = lambda c, u, mid, reason, p: self.acknowledged.update({mid: not reason.is_failure})
        self.client.on_message = lambda c, u, m: self.messages.append((m.topic, m.payload))
        self.client.connect("127.0.0.1", broker.address.port)
        self.client.loop_start()
        wait_for(lambda: bool(self.connected))

    def _count(self, *_: Any) -> None:
        self.disconnects += 1

    def may_subscribe(self, topic: str) -> bool:
        _, mid = self.client.subscribe(topic, 1)
        assert mid is not None
        wait_for(lambda: mid in self.granted)
        return self.granted[mid]

    def may_publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> bool:
        mid = self.client.publish(topic, payload, 1, retain=retain).mid
        wait_for(lambda: mid in self.acknowledged or self.disconnects > 0)
        return self.acknowledged.get(mid, False)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_for(is_true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def listens(broker: EmbeddedBroker) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", broker.address.port), timeout=0.5):
            return True
    except OSError:
        return False


@pytest.fixture
def passwords(broker: EmbeddedBroker) -> dict[DeviceName, str]:
    return broker.access.sync([FIRST, SECOND])


def worker(broker: EmbeddedBroker) -> Peer:
    address = read_broker_url(broker.url)
    return Peer(broker, address.username or "", address.password or "", "some-worker")


def test_device_publishes_its_events_and_reads_its_receipts(
    broker: EmbeddedBroker, passwords: dict[DeviceName, str]
) -> None:
    ingest, device = worker(broker), Peer(broker, FIRST.username, passwords[FIRST])

    assert ingest.may_subscribe(SHARED_EVENTS)
    assert device.may_subscribe(FIRST.receipts)
    assert device.may_publish(FIRST.events, b"hello")
    wait_for(lambda: ingest.messages == [(FIRST.events, b"hello")])
    assert ingest.may_publish(FIRST.receipts, b"thanks")
    wait_for(lambda: device.messages == [(FIRST.receipts, b"thanks")])
    device.close()
    ingest.close()


def test_device_reaches_no_other_topic(broker: EmbeddedBroker, passwords: dict[DeviceName, str]) -> None:
    device = Peer(broker, FIRST.username, passwords[FIRST])

    for topic in (SECOND.events, FIRST.receipts, "tb/1/x", "$CONTROL/dynamic-security/v1"):
        assert not device.may_publish(topic), topic
    device.close()
    device = Peer(broker, FIRST.username, passwords[FIRST])
    for topic in (
        "#",
        "tb/1/+/+/events",
        FIRST.events,
        SECOND.receipts,
        "tb/1/+/first/receipts",
        f"tb/1/{FIRST.gln}/first/#",
        "$SYS/#",
        SHARED_EVENTS,
        f"$share/mine/{FIRST.receipts}",
        "$CONTROL/#",
    ):
        assert not device.may_subscribe(topic), topic
    device.close()


def test_retained_publish_is_refused(broker: EmbeddedBroker, passwords: dict[DeviceName, str]) -> None:
    device = Peer(broker, FIRST.username, passwords[FIRST])

    assert not device.may_publish(FIRST.events, b"poison", retain=True)
    device.close()


@pytest.mark.parametrize(
    ("username", "password"), [(FIRST.username, "guess"), ("", ""), ("tb-ingest", "guess"), ("stranger", "x")]
)
def test_wrong_credentials_are_refused(
    broker: EmbeddedBroker, passwords: dict[DeviceName, str], username: str, password: str
) -> None:
    peer = Peer(broker, username, password, FIRST.username)

    assert peer.connected[0] is False
    peer.close()


def test_device_cannot_take_over_the_session_of_another(
    broker: EmbeddedBroker, passwords: dict[DeviceName, str]
) -> None:
    victim = Peer(broker, SECOND.username, passwords[SECOND])

    thief = Peer(broker, FIRST.username, passwords[FIRST], client_id=SECOND.username)

    assert thief.connected[0] is False
    assert victim.disconnects == 0
    victim.close()
    thief.close()


def test_removed_device_is_disconnected_and_stays_out(broker: EmbeddedBroker, passwords: dict[DeviceName, str]) -> None:
    device = Peer(broker, FIRST.username, passwords[FIRST])

    assert broker.access.sync([SECOND]) == {}

    wait_for(lambda: device.disconnects > 0)
    device.close()
    again = Peer(broker, FIRST.username, passwords[FIRST])
    assert again.connected[0] is False
    assert broker.access.devices() == {SECOND}
    again.close()


def test_many_devices_are_admitted_in_one_go(broker: EmbeddedBroker) -> None:
    fleet = [DeviceName("9520000000011", f"d{number}") for number in range(1_500)]

    passwords = broker.access.sync(fleet)

    assert broker.access.devices() == set(fleet)
    last = Peer(broker, fleet[-1].username, passwords[fleet[-1]])
    assert last.may_publish(fleet[-1].events)
    last.close()


def test_port_passwords_and_devices_outlive_a_restart(tmp_path: Path) -> None:
    first = EmbeddedBroker(tmp_path)
    url = first.start()
    passwords = first.access.sync([FIRST])
    first.stop()

    second = EmbeddedBroker(tmp_path)
    assert second.start() == url
    device = Peer(second, FIRST.username, passwords[FIRST])
    assert device.may_publish(FIRST.events)
    device.close()
    second.stop()


def test_killed_broker_is_started_again(broker: EmbeddedBroker) -> None:
    killed = broker.pid
    assert killed is not None

    os.kill(killed, signal.SIGKILL)

    wait_for(lambda: broker.is_running and broker.pid != killed and listens(broker))
    again = worker(broker)
    assert again.connected[0]
    again.close()


def test_broker_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys,time; from pathlib import Path; from ingest.broker import EmbeddedBroker; "
        "b=EmbeddedBroker(Path(sys.argv[1])); b.start(); print(b.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert parent.stdout is not None
    child = int(parent.stdout.readline())

    parent.kill()
    parent.wait()

    wait_for(lambda: not Path(f"/proc/{child}").exists())


def test_callers_thread_may_end(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    caller = threading.Thread(target=broker.start)
    caller.start()
    caller.join()

    time.sleep(0.3)

    assert broker.is_running
    assert broker.restarts == 0
    broker.stop()


def test_written_configuration_keeps_its_passwords_and_hides_them(tmp_path: Path) -> None:
    parts = find_parts(tmp_path)
    assert parts is not None

    first = write_config(tmp_path / "c", plugin=parts.plugin, program=parts.program, tls=None)
    second = write_config(tmp_path / "c", plugin=parts.plugin, program=parts.program, tls=None)

    assert first.password == second.password
    assert first.username == INGEST
    for name in ("secrets.json", "mosquitto.conf", "dynamic-security.json"):
        assert (tmp_path / "c" / name).stat().st_mode & 0o077 == 0
