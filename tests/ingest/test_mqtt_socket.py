"""The buffered socket against the other end of a real connection, and what a source does around it."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import ingest.source
from ingest.broker import EmbeddedBroker
from ingest.mqtt_socket import BufferedSocket
from ingest.parts import find_parts
from ingest.source import MqttSource
from ingest.topics import DeviceName
from tests.conftest import free_port
from tests.ingest.test_broker import Peer, wait_for

DEVICE = DeviceName("9520000000004", "first")


@pytest.fixture
def pair() -> Iterator[tuple[BufferedSocket, socket.socket]]:
    inner, other = socket.socketpair()
    inner.setblocking(False)
    buffered = BufferedSocket(inner)
    yield buffered, other
    buffered.close()
    other.close()


def test_bytes_are_given_in_pieces_until_it_is_dry(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, other = pair
    other.sendall(b"abcdef")

    assert [buffered.recv(1), buffered.recv(2), buffered.recv(9)] == [b"a", b"bc", b"def"]
    assert not buffered.is_dry
    with pytest.raises(BlockingIOError):
        buffered.recv(1)
    assert buffered.is_dry


def test_the_end_of_the_other_side_is_no_bytes(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, other = pair
    other.sendall(b"x")
    other.shutdown(socket.SHUT_WR)

    assert [buffered.recv(5), buffered.recv(5)] == [b"x", b""]
    assert not buffered.is_dry


def test_what_the_other_side_does_not_take_waits_in_order(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, other = pair
    sent = bytes(range(256)) * 8_000
    assert buffered.send(sent) == len(sent)
    buffered.flush()
    assert buffered.has_unsent

    got = bytearray()
    while len(got) < len(sent):
        got += other.recv(1 << 16)
        buffered.flush()

    assert got == sent
    assert not buffered.has_unsent


def test_a_side_that_never_reads_is_not_fed_without_end(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, _ = pair
    taken = [takes(buffered, bytes(1 << 20)) for _ in range(20)]

    assert taken[0]
    assert not taken[-1]


def takes(buffered: BufferedSocket, piece: bytes) -> bool:
    try:
        buffered.send(piece)
    except BlockingIOError:
        return False
    buffered.flush()
    return True


def test_closing_sends_what_waits(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, other = pair
    buffered.send(b"goodbye")

    buffered.close()

    assert other.recv(100) == b"goodbye"
    assert other.recv(100) == b""


def test_sending_to_a_side_that_is_gone_raises_nothing(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, other = pair
    other.close()

    for _ in range(3):
        buffered.send(b"anybody there?")
        buffered.flush()

    assert not buffered.has_unsent


def test_a_source_that_nobody_reads_stays_connected(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.source, "KEEPALIVE_S", 2)
    source = MqttSource(broker.url, "worker-1")
    wait_for(lambda: source.state.is_connected)
    generation = source._generation

    # A broker ends a session that was silent for one and a half times as long.
    time.sleep(6)

    assert source.state.is_connected
    assert source._generation == generation
    source.close()


def test_a_source_that_is_read_all_the_time_stays_connected(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.source, "KEEPALIVE_S", 2)
    source = MqttSource(broker.url, "worker-1")
    wait_for(lambda: source.state.is_connected)
    generation = source._generation

    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert source.receive(10, 0.2) == []

    assert source.state.is_connected
    assert source._generation == generation
    source.close()


def test_a_held_worker_with_all_it_may_have_stays_connected_and_idle(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.source, "KEEPALIVE_S", 2)
    device = Peer(broker, DEVICE.username, broker.access.add(DEVICE))
    source = MqttSource(broker.url, "worker-1", receive_max=3)
    wait_for(lambda: source.state.is_connected)
    generation = source._generation
    for number in range(10):
        assert device.may_publish(DEVICE.events, b"%d" % number)
    wait_for(lambda: source.state.waiting >= 3)

    before = time.process_time()
    time.sleep(8)
    spent = time.process_time() - before

    assert source.state.is_connected
    assert source._generation == generation
    # Waiting in a circle would take all of the eight seconds; the device's own thread takes next to nothing.
    assert spent < 4
    source.close()
    device.close()


def test_answers_wait_for_a_broker_up_to_a_bound(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MqttSource(broker.url, "worker-1")
    wait_for(lambda: source.state.is_connected)
    monkeypatch.setattr(ingest.source, "PUBLISH_QUEUE_MAX", 5)
    monkeypatch.setattr(source, "_window", 0)
    answers = [(DEVICE.receipts, b"%d" % number) for number in range(4)]

    taken = [source.publish(answers) for _ in range(3)]
    source._answers.extend(answers)

    assert taken == [4, 1, 0]
    assert source.publish(answers) == 0
    source.close()


def test_messages_of_all_sizes_arrive_whole(broker: EmbeddedBroker) -> None:
    device = Peer(broker, DEVICE.username, broker.access.add(DEVICE))
    source = MqttSource(broker.url, "worker-1")
    wait_for(lambda: source.state.is_connected)
    sizes = [0, 1, 127, 128, 16_383, 16_384, 65_536, 262_144, 3]
    for size in sizes:
        assert device.may_publish(DEVICE.events, bytes(size))

    found: list[int] = []
    deadline = time.monotonic() + 30
    while len(found) < len(sizes) and time.monotonic() < deadline:
        some = source.receive(2, 0.2)
        found += [len(delivery.payload) for delivery in some]
        source.ack([delivery.token for delivery in some if delivery.token])

    assert found == sizes
    source.close()
    device.close()


def test_answers_keep_to_the_window_of_a_small_broker(tmp_path: Path) -> None:
    parts, port = find_parts(tmp_path), free_port()
    assert parts is not None
    conf = tmp_path / "small.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 3\n")
    small = subprocess.Popen([str(parts.program), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        source = MqttSource(f"mqtt://127.0.0.1:{port}", "worker-1")
        wait_for(lambda: source.state.is_connected)
        got: list[bytes] = []
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_message = lambda c, u, message: got.append(bytes(message.payload))
        granted: list[object] = []
        client.on_subscribe = lambda *_: granted.append(True)
        client.connect("127.0.0.1", port)
        client.subscribe(DEVICE.receipts, 1)
        client.loop_start()
        wait_for(lambda: bool(granted))

        assert source.publish([(DEVICE.receipts, b"%d" % number) for number in range(200)]) == 200
        assert source._window == 3
        wait_for(lambda: source.receive(1, 0.01) == [] and len(got) == 200)

        assert got == [b"%d" % number for number in range(200)]
        client.disconnect()
        client.loop_stop()
        source.close()
    finally:
        small.terminate()
        small.wait()
