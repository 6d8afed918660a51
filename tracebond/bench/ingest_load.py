"""The load of ``tracebond bench ingest``: devices that sign, and a publisher that costs little itself.

The publisher speaks MQTT 3.1.1 by hand: packets are put together ahead, sent in bulk, and their acknowledgements
counted. A client library would take as much of the machine as the worker that is measured.
"""

import heapq
import multiprocessing
import random
import selectors
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from core.canonical import b64u
from core.crypto import P256Private
from core.errors import Unavailable
from core.message import issue, split
from ingest.topics import DeviceName, device_name

DEVICES = 8
WINDOW = 100
QUIET_S = 60.0
GLN = "9521000000001"
ORG = f"https://id.gs1.org/417/{GLN}"
_EVENT = {
    "type": "ObjectEvent",
    "action": "OBSERVE",
    "eventTime": "2026-11-01T00:00:00Z",
    "eventTimeZoneOffset": "+00:00",
    "bizStep": "inspecting",
    "readPoint": {"id": "urn:epc:id:sgln:9521000.00001.0"},
}


# Message id, when it was published, and when its receipt came (None: never), unix seconds.
Sent = tuple[str, float, float | None]


@dataclass(frozen=True)
class Line:
    """A device's login and what it publishes, in order."""

    name: DeviceName
    password: str
    payloads: list[bytes]


@dataclass(frozen=True)
class Address:
    """Where the broker listens."""

    host: str
    port: int


class Fleet:
    """Devices that sign; each goes on where it ended.

    Args:
        aud: the service they sign for. seed: of salts; two fleets of one seed sign the same.
    """

    def __init__(self, aud: str, *, seed: int = 4117) -> None:
        self._aud = aud
        self._random = random.Random(seed)
        self._heads: list[tuple[int, bytes | None]] = [(0, None)] * DEVICES
        self.keys = _keys()
        self.names = [device_name(ORG, f"https://id.gs1.org/8004/9521000b{number}") for number in range(DEVICES)]
        self.passwords: dict[DeviceName, str] = {}
        self._unit = 0

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: all but the keys, which it derives anew."""
        return {name: value for name, value in self.__dict__.items() if name != "keys"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.keys = _keys()

    def sign(self, count: int, events: int) -> list[Line]:
        """``count`` messages of ``events`` events each, spread over the devices."""
        payloads: list[list[bytes]] = [[] for _ in range(DEVICES)]
        for number in range(count):
            payloads[number % DEVICES].append(self.next_message(number % DEVICES, events))
        return [Line(name, self.passwords[name], sent) for name, sent in zip(self.names, payloads, strict=True) if sent]

    def next_message(self, device: int, events: int) -> bytes:
        """The next message of one device."""
        seq, prev = self._heads[device]
        signed = issue(
            [self._event() for _ in range(events)], aud=self._aud, org=ORG, iss=self.names[device].iss,
            iat=int(time.time()), seq=seq, prev=prev, key=self.keys[device], salts=lambda: self._random.randbytes(16),
        )  # fmt: skip
        self._heads[device] = (seq + 1, split(signed).id)
        return signed

    def _event(self) -> dict[str, Any]:
        self._unit += 1
        return {**_EVENT, "epcList": [f"urn:epc:id:sgtin:9521000.012345.{self._unit}"]}


def _keys() -> list[P256Private]:
    return [P256Private.from_secret(b"bench device %d" % number) for number in range(DEVICES)]


class Publisher:
    """A process of its own that publishes what it is given, one job after the other."""

    def __init__(self, address: Address) -> None:
        context = multiprocessing.get_context("spawn")
        self._jobs, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(address, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @contextmanager
    def lines(self, lines: Sequence[Line]) -> Iterator[None]:
        """Publish each line in order at QoS 1, all at once, while the caller takes them in."""
        self._jobs.send((publish, (list(lines),)))
        yield
        self._answer()

    def paced(self, fleet: Fleet, rate: int, seconds: float) -> tuple[list[Sent], Fleet]:
        """Sign, then publish at a pace; gives what was sent, and the fleet, which has gone on."""
        self._jobs.send((publish_paced, (fleet, rate, seconds)))
        found: tuple[list[Sent], Fleet] = self._answer()
        return found

    def close(self) -> None:
        """End the process."""
        self._jobs.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()

    def _answer(self) -> Any:
        try:
            return self._jobs.recv()
        except EOFError as error:
            raise Unavailable("The publisher of the benchmark ended.", code="bench_stalled") from error


def _work(address: Address, jobs: Connection) -> None:
    while True:
        try:
            do, arguments = jobs.recv()
        except EOFError:
            return
        jobs.send(do(address, *arguments))


def publish(address: Address, lines: Sequence[Line]) -> None:
    """Publish each line in order at QoS 1, all at once."""
    devices = [_Device(address, line.name, line.password) for line in lines]
    waiting = [list(reversed(line.payloads)) for line in lines]
    with selectors.DefaultSelector() as selector:
        for number, device in enumerate(devices):
            selector.register(device.socket, selectors.EVENT_READ, number)
            device.send([waiting[number].pop() for _ in range(min(WINDOW, len(waiting[number])))])
        while any(device.inflight for device in devices):
            ready = selector.select(QUIET_S)
            if not ready:
                return
            for key, _ in ready:
                device, left = devices[key.data], waiting[key.data]
                device.read()
                if device.inflight <= WINDOW // 2 and left:
                    device.send([left.pop() for _ in range(min(WINDOW - device.inflight, len(left)))])
    for device in devices:
        device.socket.close()


def publish_paced(address: Address, fleet: Fleet, rate: int, seconds: float) -> tuple[list[Sent], Fleet]:
    """Publish ``rate`` messages a second, all signed before; devices read their receipts here, as real ones do.

    The devices of a deployment sign on processors of their own; signing here would take them from the system measured.
    """
    total = int(rate * seconds)
    with _Signed(fleet, total) as signed:
        sent = _publish_signed(address, fleet, signed, rate, total)
    # The fleet goes back too: it has signed on, and goes on from there.
    return sent, fleet


def _publish_signed(address: Address, fleet: Fleet, signed: "_Signed", rate: int, total: int) -> list[Sent]:
    devices = [_Device(address, name, fleet.passwords[name], reads=True) for name in fleet.names]
    published: dict[str, float] = {}
    received: dict[str, float] = {}
    started, sent = time.monotonic(), 0
    with selectors.DefaultSelector() as selector:
        for number, device in enumerate(devices):
            selector.register(device.socket, selectors.EVENT_READ, number)
        deadline = started + total / rate + QUIET_S
        while (sent < total or len(received) < sent) and time.monotonic() < deadline:
            due = min(total, int((time.monotonic() - started) * rate)) - sent
            if due > 0:
                _send_due(devices, signed.take(due), published)
                sent += due
            for key, _ in selector.select(0.002 if sent < total else 0.05):
                for message in devices[key.data].read():
                    # Receipts of what an earlier row published may still come.
                    if message in published:
                        received.setdefault(message, time.time())
    for device in devices:
        device.socket.close()
    return [(one, at, received.get(one)) for one, at in published.items()]


class _Signed:
    """Messages of a fleet with their ids, on disk: ten minutes of them would not fit into memory."""

    _HEAD = struct.Struct("<B43sI")

    def __init__(self, fleet: Fleet, count: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="tracebond-bench-")  # noqa: SIM115 - closed by __exit__
        for number in range(count):
            device = number % DEVICES
            payload = fleet.next_message(device, 1)
            message = b64u(split(payload).id).encode()
            self._file.write(self._HEAD.pack(device, message, len(payload)) + payload)
        self._file.seek(0)

    def __enter__(self) -> "_Signed":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, count: int) -> list[tuple[int, str, bytes]]:
        """The next messages: device, id and bytes."""
        found = []
        for _ in range(count):
            device, message, size = self._HEAD.unpack(self._file.read(self._HEAD.size))
            found.append((device, message.decode(), self._file.read(size)))
        return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie.

    Raises:
        Unavailable: there are none.
    """
    if not values:
        raise Unavailable("Nothing came back to be measured.", code="bench_stalled")
    largest = heapq.nlargest(max(1, round(len(values) * (1 - share))), values)
    return largest[-1]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The least-squares slope through (x, y) points."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _send_due(devices: Sequence["_Device"], due: Sequence[tuple[int, str, bytes]], published: dict[str, float]) -> None:
    by_device: dict[int, list[bytes]] = {}
    now = time.time()
    for number, message, payload in due:
        published[message] = now
        by_device.setdefault(number, []).append(payload)
    for number, payloads in by_device.items():
        devices[number].send(payloads)


class _Device:
    """One MQTT 3.1.1 connection: publishes at QoS 1 and counts acknowledgements."""

    def __init__(self, address: Address, name: DeviceName, password: str, *, reads: bool = False) -> None:
        self.inflight = 0
        self._topic = _text(name.events)
        self._packet = 0
        self._rest = b""
        self.socket = socket.create_connection((address.host, address.port), timeout=QUIET_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user = name.username
        head = b"\x00\x04MQTT\x04\xc2" + struct.pack(">H", 0)
        self.socket.sendall(_framed(0x10, head + _text(user) + _text(user) + _text(password)))
        self._expect(0x20)
        if reads:
            self.socket.sendall(_framed(0x82, struct.pack(">H", 1) + _text(name.receipts) + b"\x00"))
            self._expect(0x90)

    def send(self, payloads: Sequence[bytes]) -> None:
        """Publish all of them at once."""
        packets = []
        for payload in payloads:
            self._packet = self._packet % 65_535 + 1
            packets.append(_framed(0x32, self._topic + struct.pack(">H", self._packet) + payload))
        self.inflight += len(packets)
        self.socket.sendall(b"".join(packets))

    def read(self) -> list[str]:
        """Take in what arrived: acknowledgements are counted, ids of receipts given."""
        data = self._rest + self.socket.recv(1 << 18)
        found: list[str] = []
        position = 0
        while (end := _end_of(data, position)) is not None:
            if data[position] >> 4 == 4:
                self.inflight -= 1
            elif data[position] >> 4 == 3:
                at = data.find(b'"message":"', position, end)
                found.append(data[at + 11 : at + 54].decode("ascii"))
            position = end
        self._rest = data[position:]
        return found

    def _expect(self, kind: int) -> None:
        data = self.socket.recv(1 << 12)
        if not data or data[0] != kind:
            raise Unavailable("The broker does not let a device of the benchmark in.", code="broker_away")


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def _framed(kind: int, body: bytes) -> bytes:
    size, length = bytearray(), len(body)
    while True:
        length, part = length >> 7, length & 127
        size.append(part | (128 if length else 0))
        if not length:
            return bytes((kind,)) + bytes(size) + body


def _end_of(data: bytes, start: int) -> int | None:
    """Where the packet at ``start`` ends, None while it is not whole."""
    length = shift = 0
    for place in range(start + 1, min(start + 5, len(data))):
        length |= (data[place] & 127) << shift
        shift += 7
        if not data[place] & 128:
            end = place + 1 + length
            return end if end <= len(data) else None
    return None
