"""The MQTT source against a real Mosquitto: what comes again, and what a lost connection voids."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from ingest.broker import EmbeddedBroker
from ingest.source import Delivery, MqttSource
from ingest.topics import DeviceName
from tests.ingest.test_broker import Peer, wait_for

DEVICE = DeviceName("9520000000004", "first")


@pytest.fixture
def device(broker: EmbeddedBroker) -> Iterator[Peer]:
    peer = Peer(broker, DEVICE.username, broker.access.add(DEVICE))
    yield peer
    peer.close()


def connected(broker: EmbeddedBroker, name: str = "worker-1", **more: int) -> MqttSource:
    source = MqttSource(broker.url, name, **more)
    wait_for(lambda: source.state.is_connected)
    return source


def collect(source: MqttSource, count: int, timeout_s: float = 60) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        found += source.receive(1_000, 0.1)
    return found


def send(device: Peer, numbers: range) -> None:
    for number in numbers:
        assert device.may_publish(DEVICE.events, b"%d" % number)


def payloads(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


def test_queue_never_holds_more_than_the_receive_maximum(broker: EmbeddedBroker, device: Peer) -> None:
    source = connected(broker, receive_max=5)
    send(device, range(40))
    found: list[Delivery] = []
    deadline = time.monotonic() + 60

    while len(found) < 40 and time.monotonic() < deadline:
        time.sleep(0.05)
        some = source.receive(1_000, 0.1)
        assert len(some) <= 5
        found += some
        source.ack([delivery.token for delivery in some if delivery.token])

    assert payloads(found) == [b"%d" % number for number in range(40)]
    source.close()


def test_closing_does_not_wait_for_a_full_queue(broker: EmbeddedBroker, device: Peer) -> None:
    source = connected(broker, receive_max=2)
    send(device, range(20))
    source.ack([delivery.token for delivery in collect(source, 2) if delivery.token])
    time.sleep(0.3)

    started = time.monotonic()
    source.close()

    assert time.monotonic() - started < 30


def test_tokens_of_a_lost_connection_are_void(broker: EmbeddedBroker, device: Peer) -> None:
    source = connected(broker)
    send(device, range(3))
    old = collect(source, 3)
    time.sleep(2.5)

    kill(broker)
    wait_for(lambda: not source.state.is_connected)
    wait_for(lambda: source.state.is_connected)
    source.ack([delivery.token for delivery in old if delivery.token])
    again = collect(source, 3)

    assert payloads(again) == payloads(old)
    assert not {delivery.token for delivery in old} & {delivery.token for delivery in again}
    source.close()


def test_broker_that_is_away_is_waited_for(broker: EmbeddedBroker) -> None:
    url = broker.url
    broker.stop()
    source = MqttSource(url, "worker-1")

    assert source.receive(10, 0.2) == []
    assert not source.state.is_connected
    assert source.publish([(DEVICE.receipts, b"x")]) == 0

    back = EmbeddedBroker(broker._data_dir)
    back.start()
    wait_for(lambda: source.state.is_connected)
    source.close()
    back.stop()


def test_refused_worker_says_so(broker: EmbeddedBroker) -> None:
    source = MqttSource(broker.url.replace("tb-ingest:", "tb-ingest:x"), "worker-1")

    wait_for(lambda: "refuses" in source.state.sentence or "lost" in source.state.sentence)

    assert not source.state.is_connected
    source.close()


def kill(broker: EmbeddedBroker) -> None:
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    is_back: Callable[[], bool] = lambda: broker.is_running and broker.pid != pid  # noqa: E731
    wait_for(is_back)
