"""Where deliveries come from: one small interface, and its MQTT 5 adapter.

What a crash leaves behind: a delivery that was not acknowledged stays in the broker's session and comes again; one that
the broker itself lost is still in its device's outbox, because it has no receipt.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingest.topics import SHARED_EVENTS, read_broker_url

RECEIVE_MAX = 2_000
SESSION_EXPIRY_S = 86_400
# Brokers take at least this many at once by default; paho cannot lower the number once the broker has told its own.
PUBLISHING_MAX = 20
PUBLISH_QUEUE_MAX = 10_000

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

    Args:
        url: ``mqtt://user:password@host:port`` or ``mqtts://``.
        client_id: stable for this worker, so that what it had not acknowledged comes back to it.
        receive_max: unacknowledged deliveries that the broker may have with us at once, and the size of the queue.
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
        self._arrived = threading.Condition()
        self._waiting: list[Delivery] = []
        self._generation = 0
        self._is_closing = False
        self._state = SourceState(False, "Connecting to the broker.")
        self.overflows = 0
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, manual_ack=True)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.is_tls:
            client.tls_set(ca_certs=authority)
        client.max_inflight_messages_set(PUBLISHING_MAX)
        client.max_queued_messages_set(PUBLISH_QUEUE_MAX)
        client.reconnect_delay_set(1, 5)
        client.on_connect, client.on_connect_fail = self._on_connect, self._on_connect_fail
        client.on_disconnect, client.on_subscribe = self._on_disconnect, self._on_subscribe
        client.on_message = self._on_message
        asked = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        asked.SessionExpiryInterval = session_expiry_s
        asked.ReceiveMaximum = receive_max
        client.connect_async(address.host, address.port, keepalive=30, clean_start=False, properties=asked)
        self._client = client
        client.loop_start()

    @property
    def state(self) -> SourceState:
        """Whether the broker is there, and how much of what it gave us waits."""
        return replace(self._state, waiting=len(self._waiting))

    def receive(self, deliveries_max: int, timeout_s: float) -> list[Delivery]:
        """Up to ``deliveries_max`` deliveries in the order they came; empty after ``timeout_s`` without any."""
        with self._arrived:
            if not self._waiting:
                self._arrived.wait(timeout_s)
            taken = self._waiting[:deliveries_max]
            del self._waiting[:deliveries_max]
            self._arrived.notify_all()
        return taken

    def ack(self, tokens: Iterable[Token]) -> None:
        """Acknowledge what is safely stored.

        A number of a lost connection may name another delivery on the next one, so such tokens are dropped: what they
        stood for comes again and is recognised.
        """
        with self._arrived:
            for token in tokens:
                if token.generation == self._generation:
                    self._client.ack(token.number, 1)

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Send answers at QoS 1; gives how many were taken for sending."""
        taken = 0
        for topic, payload in messages:
            if not self._state.is_connected:
                break
            if self._client.publish(topic, payload, 1).rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                taken += 1
        return taken

    def close(self) -> None:
        """Disconnect; the session stays at the broker."""
        with self._arrived:
            self._is_closing = True
            self._arrived.notify_all()
        self._client.disconnect()
        self._client.loop_stop()

    def _has_room(self, token: Token | None) -> bool:
        # Mosquitto 2.0 gives more than our Receive Maximum once acknowledgements flow. Dropped, a delivery would come
        # again only on the next connection, so we stop reading until the worker has taken some. QoS 0 promises nothing.
        while len(self._waiting) >= self._receive_max:
            if token is None or self._is_closing:
                return False
            self._arrived.wait(1)
        return True

    def _forget(self, sentence: str) -> None:
        with self._arrived:
            self._generation += 1
            self._waiting.clear()
            self._state = SourceState(False, sentence)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._forget(f"The broker refuses us: {reason}.")
            _log.warning("broker_refuses", reason=str(reason))
            return
        client.subscribe(SHARED_EVENTS, options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if reasons[0].is_failure:
            self._state = SourceState(False, f"The broker refuses the shared subscription: {reasons[0]}.")
            _log.error("subscription_refused", reason=str(reasons[0]))
        else:
            self._state = SourceState(True, "Connected.")

    def _on_connect_fail(self, _client: mqtt.Client, _data: Any) -> None:
        if self._state.is_connected or self._state.sentence != "The broker cannot be reached.":
            _log.warning("broker_away")
        self._state = SourceState(False, "The broker cannot be reached.")

    def _on_disconnect(self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._forget(f"The connection to the broker was lost: {reason}.")
        _log.warning("broker_lost", reason=str(reason))

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        with self._arrived:
            token = Token(self._generation, message.mid) if message.qos else None
            if not self._has_room(token):
                self.overflows += 1
                return
            self._waiting.append(Delivery(topic, bytes(message.payload), token, bool(message.retain)))
            if len(self._waiting) == 1:
                self._arrived.notify_all()
