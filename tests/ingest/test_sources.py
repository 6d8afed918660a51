"""What every source does: one class of tests, on the shared subscription of Mosquitto and on RabbitMQ's quorum queue.

The queue's part runs where RabbitMQ is installed (scripts/setup.sh cluster).
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from ingest.broker import EmbeddedBroker
from ingest.source import Delivery, MqttSource, Source
from ingest.source_amqp import AmqpSource, _Unacknowledged
from ingest.sources import open_source
from ingest.topics import DeviceName, read_broker_url
from tests.ingest.cluster_rig import Cluster, has_rabbitmq
from tests.ingest.test_broker import wait_for

DEVICE = DeviceName("9520000000004", "line%2F7")


class Bench(Protocol):
    """A broker with one device and as many workers as a test wants."""

    url: str
    port: int
    password: str
    protocol: Any

    def lose_connections(self) -> None: ...

    def close(self) -> None: ...


class MosquittoBench:
    def __init__(self, folder: Path) -> None:
        self.broker = EmbeddedBroker(folder)
        self.url = self.broker.start()
        self.port, self.protocol = self.broker.address.port, mqtt.MQTTv5
        self.password = self.broker.access.add(DEVICE)

    def lose_connections(self) -> None:
        """kill -9, as soon as what is queued is on disk."""
        time.sleep(2.5)
        pid = self.broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.broker.stop()


class RabbitBench:
    def __init__(self, folder: Path) -> None:
        self.password = "a password"
        self.cluster = Cluster(folder, {DEVICE: self.password}, count=1)
        self.cluster.run("start.sh")
        self.url, self.port = self.cluster.url, self.cluster.nodes[0].mqtt
        self.protocol = mqtt.MQTTv311

    def lose_connections(self) -> None:
        node = self.cluster.nodes[0]
        command = f'. "{self.cluster.folder}/r1/env.sh"; rabbitmqctl -n {node.full} close_all_connections test'
        subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=120)

    def close(self) -> None:
        self.cluster.close()


@pytest.fixture(
    scope="module",
    params=[
        "mosquitto",
        pytest.param("rabbitmq", marks=pytest.mark.skipif(not has_rabbitmq(), reason="RabbitMQ is not installed")),
    ],
)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    made: Bench = MosquittoBench(folder) if request.param == "mosquitto" else RabbitBench(folder)
    yield made
    made.close()


class Publisher:
    """The device, as a plain MQTT client."""

    def __init__(self, bench: Bench) -> None:
        self.acknowledged: set[int] = set()
        self.messages: list[tuple[str, bytes, int]] = []
        self.granted: list[bool] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, DEVICE.username, protocol=bench.protocol)
        self.client.username_pw_set(DEVICE.username, bench.password)
        connected: list[bool] = []
        self.client.on_connect = lambda c, u, f, reason, p: connected.append(not reason.is_failure)
        self.client.on_subscribe = lambda c, u, m, reasons, p: self.granted.append(not reasons[0].is_failure)
        self.client.on_publish = lambda c, u, mid, reason, p: self.acknowledged.add(mid)
        self.client.on_message = lambda c, u, m: self.messages.append((m.topic, bytes(m.payload), m.qos))
        self.client.connect("127.0.0.1", bench.port)
        self.client.loop_start()
        wait_for(lambda: bool(connected))
        assert connected == [True]

    def send(self, numbers: range) -> None:
        mids = {self.client.publish(DEVICE.events, b"%d" % number, 1).mid for number in numbers}
        wait_for(lambda: mids <= self.acknowledged)

    def listen(self, topic: str) -> None:
        before = len(self.granted)
        self.client.subscribe(topic, 1)
        wait_for(lambda: len(self.granted) > before)
        assert self.granted[-1]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def device(bench: Bench) -> Iterator[Publisher]:
    found = Publisher(bench)
    yield found
    found.close()


def connected(bench: Bench, name: str = "worker-1") -> Source:
    source = open_source(bench.url, name)
    wait_for(lambda: source.state.is_connected)
    return source


def collect(source: Source, count: int, timeout_s: float = 60) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        found += source.receive(1_000, 0.1)
    return found


def settle(source: Source, found: list[Delivery]) -> None:
    source.ack([one.token for one in found if one.token])
    time.sleep(0.2)


def end_session(bench: Bench, client_id: str) -> None:
    """A worker is gone for good: the broker must not go on giving messages to its session."""
    if bench.url.startswith("amqp"):
        return
    address = read_broker_url(bench.url)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
    client.username_pw_set(address.username, address.password)
    client.connect(address.host, address.port, clean_start=True)
    client.loop_start()
    wait_for(client.is_connected)
    client.disconnect()
    client.loop_stop()


def payloads(found: list[Delivery]) -> list[int]:
    return [int(one.payload) for one in found]


class TestSource:
    """Each test leaves the queue empty."""

    def test_the_url_chooses_the_adapter(self, bench: Bench) -> None:
        source = connected(bench)

        assert isinstance(source, AmqpSource if bench.url.startswith("amqp") else MqttSource)
        source.close()

    def test_deliveries_come_in_order_and_stay_acknowledged(self, bench: Bench, device: Publisher) -> None:
        source = connected(bench)
        device.send(range(50))

        found = collect(source, 50)
        settle(source, found)
        source.close()

        assert payloads(found) == list(range(50))
        assert {one.topic for one in found} == {DEVICE.events}
        again = connected(bench)
        assert collect(again, 1, timeout_s=0.5) == []
        again.close()

    def test_what_was_not_acknowledged_comes_again(self, bench: Bench, device: Publisher) -> None:
        source = connected(bench)
        device.send(range(10))
        found = collect(source, 10)
        settle(source, found[:4])
        source.close()

        again = connected(bench)
        rest = collect(again, 6)
        settle(again, rest)
        again.close()

        assert payloads(rest) == list(range(4, 10))

    def test_acknowledging_out_of_order_takes_nothing_else_with_it(self, bench: Bench, device: Publisher) -> None:
        source = connected(bench)
        device.send(range(10))
        found = collect(source, 10)
        settle(source, [found[9], found[2], found[5]])
        settle(source, [found[0], found[1]])
        source.close()

        again = connected(bench)
        rest = collect(again, 5)
        settle(again, rest)
        again.close()

        assert sorted(payloads(rest)) == [3, 4, 6, 7, 8]

    def test_messages_wait_for_a_worker_that_is_away(self, bench: Bench, device: Publisher) -> None:
        connected(bench).close()
        device.send(range(20))

        source = connected(bench)
        found = collect(source, 20)
        settle(source, found)
        source.close()

        assert payloads(found) == list(range(20))

    def test_two_workers_share_the_stream(self, bench: Bench, device: Publisher) -> None:
        workers = [connected(bench, f"worker-{number}") for number in (1, 2)]
        device.send(range(40))

        taken: list[list[Delivery]] = [[], []]
        deadline = time.monotonic() + 60
        while sum(map(len, taken)) < 40 and time.monotonic() < deadline:
            for mine, worker in zip(taken, workers, strict=True):
                mine += worker.receive(1_000, 0.1)
        for mine, worker in zip(taken, workers, strict=True):
            settle(worker, mine)
            worker.close()

        assert sorted(payloads([*taken[0], *taken[1]])) == list(range(40))
        assert taken[0]
        assert taken[1]
        end_session(bench, "worker-2")

    def test_tokens_of_a_lost_connection_are_void(self, bench: Bench, device: Publisher) -> None:
        source = connected(bench)
        device.send(range(3))
        old = collect(source, 3)
        assert payloads(old) == [0, 1, 2]

        bench.lose_connections()
        wait_for(lambda: not source.state.is_connected)
        wait_for(lambda: source.state.is_connected)
        source.ack([one.token for one in old if one.token])
        again = collect(source, 3)
        settle(source, again)
        source.close()

        assert payloads(again) == payloads(old)
        assert not {one.token for one in old} & {one.token for one in again}

    def test_answers_flow_again_after_a_lost_connection(self, bench: Bench) -> None:
        source = connected(bench)
        bench.lose_connections()
        wait_for(lambda: not source.state.is_connected)
        # Answers are offered all the while, as a busy worker does, also in the moment in which it connects.
        wait_for(lambda: source.publish([(DEVICE.receipts, b"early")]) > 0 and source.state.is_connected)
        again = Publisher(bench)
        again.listen(DEVICE.receipts)

        assert source.publish([(DEVICE.receipts, b"late")]) == 1
        wait_for(lambda: b"late" in [payload for _, payload, _ in again.messages])
        again.close()
        source.close()

    def test_answers_reach_their_device_and_no_worker(self, bench: Bench, device: Publisher) -> None:
        device.listen(DEVICE.receipts)
        device.listen(DEVICE.commands)
        source = connected(bench)

        answers = [(DEVICE.receipts, b"%d" % number) for number in range(200)]
        assert source.publish([*answers, (DEVICE.commands, b"again")]) == 201

        wait_for(lambda: len(device.messages) == 201)
        assert [(topic, payload) for topic, payload, _ in device.messages] == [*answers, (DEVICE.commands, b"again")]
        assert {qos for _, _, qos in device.messages} == {1}
        assert collect(source, 1, timeout_s=0.5) == []
        source.close()

    def test_a_wrong_password_is_said_so(self, bench: Bench) -> None:
        source = open_source(bench.url.replace("tb-ingest:", "tb-ingest:x"), "worker-1")

        wait_for(lambda: "refuses" in source.state.sentence or "lost" in source.state.sentence)

        assert not source.state.is_connected
        assert source.receive(10, 0.05) == []
        assert source.publish([(DEVICE.receipts, b"x")]) == 0
        source.close()


@pytest.mark.unit
def test_a_dead_node_is_passed_by_and_waited_for() -> None:
    source = open_source("amqp://u:p@127.0.0.1:1,127.0.0.1:2", "worker-1")

    wait_for(lambda: source.state.sentence != "Connecting to the broker.")
    assert not source.state.is_connected
    assert source.receive(10, 0.05) == []
    assert source.publish([(DEVICE.receipts, b"x")]) == 0
    source.close()


@pytest.mark.unit
@pytest.mark.parametrize("seed", range(20))
def test_one_acknowledgement_for_many_never_covers_one_too_many(seed: int) -> None:
    import random

    source = random.Random(seed)
    book, unacknowledged = _Unacknowledged(), set(range(1, 101))
    for number in range(1, 101):
        book.take(number)
    order = list(range(1, 101))
    source.shuffle(order)
    wanted: set[int] = set()

    while order:
        batch = [order.pop() for _ in range(min(len(order), source.randrange(1, 12)))]
        wanted |= set(batch)
        for number, is_all_before in book.settle(batch):
            covered = {one for one in unacknowledged if one <= number} if is_all_before else {number}
            # A number that is acknowledged twice closes the channel at RabbitMQ.
            assert number in unacknowledged, f"seed {seed}"
            unacknowledged -= covered
        assert unacknowledged == set(range(1, 101)) - wanted, f"seed {seed}"
