"""A real Mosquitto, and a stand-in for the service that gives real receipts."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from core.crypto import P256Private
from core.errors import Rejected
from core.message import Message, assemble, open_signed, split
from core.receipts import promise, publish_hash, refusal, sign_receipts
from simulators.devices import Device, DeviceConfig
from simulators.outbox import Outbox

AUD, LOG = "test.example", "log.test.example"
ORG = "https://id.gs1.org/417/9526002000011"
RECEIPT_KEY = P256Private.from_secret(b"receipts")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """Mosquitto with nothing but a port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._conf = folder / "mosquitto.conf"
        self._conf.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", str(self._conf)], stderr=subprocess.DEVNULL)
        for _ in range(3_000):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("mosquitto did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class ReceiptGiver:
    """Opens every message with the key it knows and answers as the service does, in bulk."""

    def __init__(self, url: str) -> None:
        self.publics = {RECEIPT_KEY.thumbprint(): RECEIPT_KEY.public}
        self.raw: list[tuple[str, bytes]] = []
        self.messages: dict[bytes, Message] = {}
        self.refused: list[str] = []
        self.unanswered: list[str] = []
        self.is_silent = False
        self.refuse: Callable[[Message], str] = lambda _: ""
        self._connected = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="service", protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda *_: self._client.subscribe("tb/1/+/+/events", qos=1)
        self._client.on_subscribe = lambda *_: self._connected.set()
        self._client.on_message = lambda _c, _u, message: self._take(message.topic, bytes(message.payload))
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", int(url.rsplit(":", 1)[1]))
        self._client.loop_start()
        assert self._connected.wait(10)

    def know(self, *devices: Device) -> None:
        for device in devices:
            self.publics[device.kid] = device.key.public

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, topic: str, raw: bytes) -> None:
        self.raw.append((topic, raw))
        if self.is_silent:
            return
        try:
            envelope = split(raw)
            signed = open_signed(envelope, self.publics[envelope.kid])
        except (Rejected, KeyError) as error:
            self.unanswered.append(getattr(error, "code", "unknown_key"))
            return
        payload: dict[str, Any] = promise(
            aud=AUD, log=LOG, message=signed.id, leaf=signed.leaf_hash, publish=publish_hash(raw), accepted_at=1
        )
        try:
            message = assemble(signed)
            code = self.refuse(message)
        except Rejected as error:
            code = error.code
        if code:
            self.refused.append(code)
            payload = refusal(aud=AUD, log=LOG, message=signed.id, publish=publish_hash(raw), code=code)
        else:
            self.messages[signed.id] = message
        [receipt] = sign_receipts([payload], RECEIPT_KEY, aud=AUD, log=LOG)
        self._client.publish(topic.replace("/events", "/receipts"), receipt, qos=1)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def service(broker: Broker) -> Iterator[ReceiptGiver]:
    giver = ReceiptGiver(broker.url)
    yield giver
    giver.close()


def config(name: str = "scanner", **more: Any) -> DeviceConfig:
    return DeviceConfig(
        name=name, aud=AUD, org=ORG, giai=f"9526002{name.upper()}", receipt_keys=(RECEIPT_KEY.jwk(),), **more
    )


def memory_device(name: str = "scanner", **more: Any) -> Device:
    """A device whose outbox is in memory, for what needs no disk."""
    return Device(config(name), P256Private.from_secret(name.encode()), Outbox(Path(":memory:")), **more)


def an_event(serial: str = "A1", **members: Any) -> dict[str, Any]:
    return {
        "@context": ["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld"],
        "type": "ObjectEvent",
        "action": "OBSERVE",
        "eventTime": "2026-11-01T08:00:00.000Z",
        "eventTimeZoneOffset": "+08:00",
        "epcList": [f"https://id.gs1.org/01/09526002000103/21/{serial}"],
        "bizStep": "inspecting",
    } | members
