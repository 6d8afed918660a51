"""MQTT connections for devices: one each, all served by one thread with one selector."""

import contextlib
import selectors
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from core.errors import Rejected, Unavailable
from simulators.devices import Device, flush_all

KEEPALIVE_S = 60
CONNECT_TIMEOUT_S = 5.0
RETRY_S, RETRY_S_MAX = 0.25, 15.0
CONNECTS_PER_TURN = 50
TURN_S = 0.05
MISC_S = 1.0  # how often keep-alive is looked after
# Ours: above what a device keeps in flight, so that the window of the device decides.
QUEUED_MAX = 256


class Wire(Protocol):
    """Where a device's publishes go; faults wrap one."""

    def __call__(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1; False when nothing is taken at present."""


Wrap = Callable[[Device, Wire], Wire]


class Connection:
    """The MQTT connection of one device: version 5, or 3.1.1 where the broker speaks no other.

    Args:
        device: whose messages it carries.
        url: ``mqtt://[user:password@]host:port,host:port`` or ``mqtts://``; a device's own credentials come first.
            After each lost or failed connection the next host is tried, or a dead node would be tried for ever.
        selector: where its socket is watched.
        ca_file: PEM file of the authority for ``mqtts``.
        wrap: puts faults between device and network.
    """

    def __init__(
        self,
        device: Device,
        url: str,
        selector: selectors.BaseSelector,
        *,
        ca_file: str | None = None,
        wrap: Wrap | None = None,
    ) -> None:
        self.device = device
        self.is_ready = False
        self.refused = ""
        self._is_tls, who, self._hosts = _read_url(url)
        # Devices spread over the nodes from the start, each by its own name.
        self._place = zlib.crc32(device.config.path.encode())
        self._protocol = mqtt.MQTTv5
        self._is_answered: bool | None = None
        self._user = device.config.username or who[0]
        self._password = device.config.password or who[1]
        self._ca_file = ca_file
        self._selector = selector
        self._client: mqtt.Client | None = None
        self._socket: socket.socket | None = None
        self._retry_s, self._retry_at = RETRY_S, 0.0
        self._misc_at = 0.0
        self._wire: Wire = wrap(device, self._publish) if wrap else self._publish

    def turn(self, now: float, *, may_connect: bool) -> bool:
        """Connect if it is time, else keep alive and pump; True if a connection was tried."""
        if self._client is None:
            if not may_connect or now < self._retry_at:
                return False
            self._connect(now)
            return True
        if now >= self._misc_at:
            self._misc_at = now + MISC_S
            self._client.loop_misc()
            if self._client is None:
                return False
        if self.is_ready and self.device.is_due(now):
            self.device.pump(self._wire, now)
        return False

    def ready_to_read(self) -> None:
        """The selector saw bytes."""
        if self._client is not None:
            self._client.loop_read()

    def ready_to_write(self) -> None:
        """The selector saw room."""
        if self._client is not None:
            self._client.loop_write()

    def close(self) -> None:
        """Say goodbye and write down what receipts came."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_write()
            self._forget()
        self.device.flush()

    def drop(self) -> None:
        """Lose the connection without a goodbye, as in a power cut of the network."""
        sock = self._socket
        self._lost()
        if sock is not None:
            sock.close()

    def _connect(self, now: float) -> None:
        # A fresh client each time: what the old one had in flight lives in the outbox, not in memory.
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.device.config.path,
            protocol=self._protocol,
            clean_session=None if self._protocol == mqtt.MQTTv5 else True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(QUEUED_MAX)
        client.max_queued_messages_set(QUEUED_MAX)
        if self._user:
            client.username_pw_set(self._user, self._password or None)
        if self._is_tls:
            client.tls_set(ca_certs=self._ca_file, cert_reqs=ssl.CERT_REQUIRED)
        client.on_socket_open = self._opened
        client.on_socket_close = self._closed
        client.on_socket_register_write = self._watch_writes
        client.on_socket_unregister_write = self._unwatch_writes
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_message = self._received
        self._retry_at = now + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_S_MAX)
        self._client, self._is_answered = client, False
        try:
            host, port = self._hosts[self._place % len(self._hosts)]
            self._place += 1
            if self._protocol == mqtt.MQTTv5:
                client.connect(host, port, keepalive=KEEPALIVE_S, clean_start=True, properties=_properties())
            else:
                client.connect(host, port, keepalive=KEEPALIVE_S)
        except OSError as error:
            self.refused = str(error)
            self._client, self._is_answered = None, None
            self._forget()

    def _publish(self, topic: str, payload: bytes) -> bool:
        client = self._client
        if client is None or not self.is_ready:
            return False
        return client.publish(topic, payload, qos=1).rc == mqtt.MQTT_ERR_SUCCESS

    def _connected(self, client: mqtt.Client, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
        if reason.is_failure:
            self.refused = str(reason)
            self._is_answered = str(reason) != "Unsupported protocol version"
            return
        self._is_answered = True
        config = self.device.config
        # RabbitMQ keeps a subscription of QoS 1 in a durable queue on one node: while that node is dead, its devices
        # cannot subscribe anywhere. At QoS 0 they can, and a receipt that gets lost is asked for again.
        qos = 1 if self._protocol == mqtt.MQTTv5 else 0
        client.subscribe([(config.topic("receipts"), qos), (config.topic("commands"), qos)])

    def _subscribed(self, _c: mqtt.Client, _u: Any, _m: int, reasons: Sequence[ReasonCode], _p: Any) -> None:
        # Publish only after the subscription stands, or the receipt of the first message goes nowhere.
        if reasons and reasons[0].is_failure:
            self.refused = f"receipts: {reasons[0]}"
            return
        self.is_ready, self.refused, self._retry_s = True, "", RETRY_S
        self.device.reconnected()

    def _received(self, _c: mqtt.Client, _u: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic == self.device.config.topic("receipts"):
            self.device.take_receipt(bytes(message.payload))
        else:
            self.device.take_command(bytes(message.payload))

    def _disconnected(self, client: mqtt.Client, *_: Any) -> None:
        if client is self._client:
            self._lost()

    def _lost(self) -> None:
        self._client = None
        self._forget()
        if self._is_answered is False:
            # Some brokers refuse a version by a code, others (RabbitMQ before 3.13) hang up without a word: the
            # same node again, in the other language.
            self._protocol = mqtt.MQTTv311 if self._protocol == mqtt.MQTTv5 else mqtt.MQTTv5
            self._place -= 1
        self._is_answered = None

    def _opened(self, _c: mqtt.Client, _u: Any, sock: Any) -> None:
        self._forget()
        self._socket = sock
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, self)

    def _closed(self, _c: mqtt.Client, _u: Any, sock: Any) -> None:
        if sock is self._socket:
            self._forget()

    def _watch_writes(self, _c: mqtt.Client, _u: Any, sock: Any) -> None:
        if self._socket is not None and sock is self._socket:
            self._selector.modify(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _unwatch_writes(self, _c: mqtt.Client, _u: Any, sock: Any) -> None:
        if self._socket is not None and sock is self._socket:
            self._selector.modify(self._socket, selectors.EVENT_READ, self)

    def _forget(self) -> None:
        self.is_ready = False
        sock, self._socket = self._socket, None
        if sock is not None:
            self._selector.unregister(sock)


def _read_url(url: str) -> tuple[bool, tuple[str, str], list[tuple[str, int]]]:
    """Whether it is encrypted, user name and password, and the hosts with their ports."""
    scheme, _, rest = url.partition("://")
    who, _, hosts = rest.rstrip("/").rpartition("@")
    name, _, password = who.partition(":")
    is_tls = scheme == "mqtts"
    try:
        found = [urlsplit(f"//{host}") for host in hosts.split(",")]
        places = [(each.hostname or "", each.port or (8883 if is_tls else 1883)) for each in found]
    except ValueError:
        places = [("", 0)]
    if scheme not in ("mqtt", "mqtts") or not all(host for host, _ in places):
        raise Rejected(
            "A broker is named by mqtt://user:password@host:port; a cluster by its hosts with commas between.",
            code="bad_broker_url",
        )
    return is_tls, (unquote(name), unquote(password)), places


@lru_cache(maxsize=1)
def _properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = QUEUED_MAX
    return properties


class Fleet:
    """Many devices, each with its own connection, in one thread.

    Args:
        devices: the devices; more may be added later.
        url: the broker, as for ``Connection``.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        devices: Iterable[Device],
        url: str,
        *,
        ca_file: str | None = None,
        wrap: Wrap | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._url, self._ca_file, self._wrap, self._clock = url, ca_file, wrap, clock
        self._connections: list[Connection] = []
        self._first = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        for device in devices:
            self.add(device)

    def add(self, device: Device) -> Connection:
        """One more device; call it before ``start`` or from the thread that turns."""
        connection = Connection(device, self._url, self._selector, ca_file=self._ca_file, wrap=self._wrap)
        self._connections.append(connection)
        return connection

    @property
    def devices(self) -> list[Device]:
        """Its devices."""
        return [connection.device for connection in self._connections]

    @property
    def connections(self) -> list[Connection]:
        """Its connections, in the order in which devices were added."""
        return list(self._connections)

    @property
    def pending(self) -> int:
        """How many messages wait for receipts."""
        return sum(connection.device.pending for connection in self._connections)

    def turn(self, timeout_s: float = TURN_S) -> None:
        """One round: what the network brings, then what is due."""
        for key, mask in self._selector.select(timeout_s):
            connection: Connection = key.data
            if mask & selectors.EVENT_READ:
                connection.ready_to_read()
            if mask & selectors.EVENT_WRITE:
                connection.ready_to_write()
        flush_all(connection.device for connection in self._connections)
        now, tries = self._clock(), 0
        # Start with another device each round, or a broker that is slow to answer starves the last ones.
        count = len(self._connections)
        self._first = (self._first + 1) % max(1, count)
        for place in range(count):
            connection = self._connections[(self._first + place) % count]
            tries += connection.turn(now, may_connect=tries < CONNECTS_PER_TURN)

    def drain(self, timeout_s: float) -> None:
        """Turn until every message has its receipt; also while a thread turns.

        Raises:
            Unavailable: ``no_receipt``; some messages still wait after ``timeout_s`` seconds.
        """
        end = self._clock() + timeout_s
        while self.pending:
            if self._failure is not None:
                raise self._failure
            if self._clock() > end:
                why = next((each.refused for each in self._connections if each.refused), "")
                raise Unavailable(
                    f"{self.pending} messages have no receipt after {timeout_s:.0f} s. {why}".strip(), code="no_receipt"
                )
            if self._thread is None:
                self.turn()
            else:
                time.sleep(TURN_S / 2)

    def start(self) -> None:
        """Turn in a thread of its own until ``stop``."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="devices", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and every connection; outboxes stay open for their devices.

        Raises whatever ended the thread early.
        """
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        for connection in self._connections:
            connection.close()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.turn()
        except BaseException as error:
            self._failure = error
            if not isinstance(error, Exception):
                raise
