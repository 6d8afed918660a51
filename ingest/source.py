"""Where deliveries come from: one small interface, and its MQTT 5 adapter.

What a crash leaves behind: a delivery that was not acknowledged stays in the broker's session and comes again; one that
the broker itself lost is still in its device's outbox, because it has no receipt.
"""

import contextlib
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingest.mqtt_socket import BufferedClient
from ingest.topics import SHARED_EVENTS, read_broker_url

RECEIVE_MAX = 2_000
SESSION_EXPIRY_S = 86_400
# Answers under way at once, where the broker allows as many.
PUBLISHING_MAX = 2_000
PUBLISH_QUEUE_MAX = 10_000
KEEPALIVE_S = 30
CONNECT_S = 5.0
PAUSE_S_MAX = 5.0
# A worker that has received within this time turns the connection often enough by itself.
ATTENDED_S = 1.0
AWAY = "The broker cannot be reached."

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """What acknowledges one delivery: its number on one connection. Void once that connection is lost."""

    generation: int
    number: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One publish as it arrived. ``token`` is None where the sender asked for no acknowledgement (QoS 0)."""

    topic: str
    payload: bytes
    token: Token | None
    is_retained: bool = False


@dataclass(frozen=True, slots=True)
class SourceState:
    """Whether deliveries can arrive now, and a sentence about it. ``waiting``: deliveries here that nobody took yet."""

    is_connected: bool
    sentence: str
    waiting: int = 0


class Source(Protocol):
    """Deliveries in, acknowledgements and answers out."""

    @property
    def state(self) -> SourceState:
        """Whether the broker is there."""

    def receive(self, deliveries_max: int, timeout_s: float) -> list[Delivery]:
        """Up to ``deliveries_max`` deliveries; empty after ``timeout_s`` or while the broker is away."""

    def ack(self, tokens: Iterable[Token]) -> None:
        """Acknowledge what is safely stored; tokens of a lost connection are dropped."""

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Send answers; gives how many were taken. One that was not is asked for again by its device."""

    def close(self) -> None:
        """Leave; the session stays."""


class MqttSource:
    """A member of the shared subscription of all workers, acknowledging by hand.

    The connection is turned by whoever calls :meth:`receive`, so that a batch costs no change of threads. A thread of
    our own connects, and turns it while nobody receives: the broker must not think that a held worker is dead.

    Args:
        url: ``mqtt://user:password@host:port`` or ``mqtts://``.
        client_id: stable for this worker, so that what it had not acknowledged comes back to it.
        receive_max: unacknowledged deliveries that the broker may have with us at once; with so many waiting here,
            ``receive`` stops reading. Mosquitto 2.0 gives more than that once acknowledgements flow, and a dropped
            delivery would come again only on the next connection.
        authority: PEM file of the authority that signed the broker's certificate, for ``mqtts``.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        receive_max: int = RECEIVE_MAX,
        session_expiry_s: int = SESSION_EXPIRY_S,
        authority: str | None = None,
    ) -> None:
        address = read_broker_url(url)
        self._receive_max = receive_max
        # Held by whoever turns the connection; all callbacks run under it.
        self._turning = threading.Lock()
        self._waiting: deque[Delivery] = deque()
        self._answers: deque[tuple[str, bytes]] = deque()
        self._unanswered, self._window = 0, PUBLISHING_MAX
        self._generation = 0
        self._received_s = float("-inf")
        self._is_closing = threading.Event()
        self._state = SourceState(False, "Connecting to the broker.")
        client = BufferedClient(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, manual_ack=True)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.is_tls:
            client.tls_set(ca_certs=authority)
        # The window is kept here: paho would look through all that is under way at each acknowledgement.
        client.max_inflight_messages_set(0)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_publish = self._on_subscribe, self._on_publish
        client.on_message = self._on_message
        asked = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        asked.SessionExpiryInterval = session_expiry_s
        asked.ReceiveMaximum = receive_max
        client.connect_async(address.host, address.port, keepalive=KEEPALIVE_S, clean_start=False, properties=asked)
        self._client = client
        self._keeper = threading.Thread(target=self._keep, name="mqtt-source", daemon=True)
        self._keeper.start()

    @property
    def state(self) -> SourceState:
        """Whether the broker is there, and how much of what it gave us waits."""
        return replace(self._state, waiting=len(self._waiting))

    def receive(self, deliveries_max: int, timeout_s: float) -> list[Delivery]:
        """Up to ``deliveries_max`` deliveries in the order they came; empty after ``timeout_s`` without any."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._received_s = time.monotonic()
            with self._turning:
                if len(self._waiting) < deliveries_max:
                    self._turn(min(deliveries_max, self._receive_max))
                if self._waiting:
                    return [self._waiting.popleft() for _ in range(min(deliveries_max, len(self._waiting)))]
            left = deadline - time.monotonic()
            if left <= 0 or self._is_closing.is_set():
                return []
            self._await_traffic(left)

    def ack(self, tokens: Iterable[Token]) -> None:
        """Acknowledge what is safely stored.

        A number of a lost connection may name another delivery on the next one, so such tokens are dropped: what they
        stood for comes again and is recognised.
        """
        with self._turning:
            for token in tokens:
                if token.generation == self._generation:
                    self._client.ack(token.number, 1)
            self._write()

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Send answers at QoS 1; gives how many were taken for sending."""
        with self._turning:
            if not self._state.is_connected:
                return 0
            taken = messages[: max(0, PUBLISH_QUEUE_MAX - len(self._answers))]
            self._answers.extend(taken)
            self._send_answers()
            self._write()
        return len(taken)

    def close(self) -> None:
        """Disconnect; the session stays at the broker."""
        self._is_closing.set()
        with self._turning:
            self._client.disconnect()
            self._write()
        self._keeper.join(CONNECT_S + 1)

    def _keep(self) -> None:
        """Connect, and turn the connection while nobody receives."""
        pause_s = 0.0
        while not self._is_closing.wait(pause_s if self._client.socket() is None else 0):
            if self._client.socket() is None:
                pause_s = min(max(1.0, pause_s * 2), PAUSE_S_MAX)
                self._connect()
                continue
            if self._state.is_connected:
                pause_s = 1.0
                if time.monotonic() < self._received_s + ATTENDED_S:
                    self._is_closing.wait(ATTENDED_S)
                    continue
            self._await_traffic(ATTENDED_S)
            with self._turning:
                # All of it: what a pause leaves unread may be the broker's answer to our ping.
                self._turn(sys.maxsize)

    def _connect(self) -> None:
        try:
            with self._turning:
                self._client.reconnect()
                self._write()
        except OSError as error:
            if self._state.sentence != AWAY:
                _log.warning("broker_away", reason=str(error))
            self._state = SourceState(False, AWAY)

    def _await_traffic(self, timeout_s: float) -> None:
        """Return when the connection can be turned, or after ``timeout_s``."""
        socket = self._client.socket()
        if socket is None:
            self._is_closing.wait(timeout_s)
            return
        poll = select.poll()
        # Closed by the other thread in this very moment: the turn that follows finds out.
        with contextlib.suppress(OSError, ValueError):
            poll.register(socket.fileno(), select.POLLIN | (select.POLLOUT if self._has_unsent() else 0))
            poll.poll(timeout_s * 1_000)

    def _turn(self, wanted: int) -> None:
        """Take in what has come, up to ``wanted`` waiting deliveries, and send what can be sent."""
        socket: Any = self._client.socket()
        if socket is None:
            return
        socket.is_dry = False
        while not socket.is_dry and len(self._waiting) < wanted and self._client.socket() is socket:
            self._client.loop_read()
        self._client.loop_misc()
        self._send_answers()
        self._write()

    def _write(self) -> None:
        self._client.loop_write()
        socket: Any = self._client.socket()
        if socket is not None:
            socket.flush()

    def _has_unsent(self) -> bool:
        socket: Any = self._client.socket()
        return socket is not None and (socket.has_unsent or self._client.want_write())

    def _send_answers(self) -> None:
        while self._answers and self._unanswered < self._window and self._state.is_connected:
            self._client.publish(*self._answers.popleft(), 1)
            self._unanswered += 1

    def _forget(self, sentence: str) -> None:
        self._generation += 1
        self._waiting.clear()
        # What the broker has not acknowledged goes out first on the next connection.
        lost = self._client.drop_out_messages()
        self._answers.extendleft((message.topic, bytes(message.payload)) for message in reversed(lost))
        self._unanswered = 0
        self._state = SourceState(False, sentence)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._forget(f"The broker refuses us: {reason}.")
            _log.warning("broker_refuses", reason=str(reason))
            return
        self._window = min(getattr(properties, "ReceiveMaximum", PUBLISHING_MAX), PUBLISHING_MAX)
        client.subscribe(SHARED_EVENTS, options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if reasons[0].is_failure:
            self._state = SourceState(False, f"The broker refuses the shared subscription: {reasons[0]}.")
            _log.error("subscription_refused", reason=str(reasons[0]))
        else:
            self._state = SourceState(True, "Connected.")

    def _on_publish(self, *_: object) -> None:
        self._unanswered -= 1

    def _on_disconnect(self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._forget(f"The connection to the broker was lost: {reason}.")
        if not self._is_closing.is_set():
            _log.warning("broker_lost", reason=str(reason))

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        token = Token(self._generation, message.mid) if message.qos else None
        self._waiting.append(Delivery(topic, bytes(message.payload), token, bool(message.retain)))
