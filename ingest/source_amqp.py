"""The second adapter of a source: a quorum queue of RabbitMQ over AMQP 0-9-1, shared by competing workers.

Devices publish MQTT; the cluster's exchange ``amq.topic`` puts their messages into the queue, with dots in the place of
slashes. What a crash leaves behind: a delivery that was not acknowledged goes back into the queue, to any worker.
"""

import contextlib
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pika
import structlog
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelWrongStateError

from core.errors import Rejected
from ingest.source import PUBLISH_QUEUE_MAX, RECEIVE_MAX, Delivery, SourceState, Token
from ingest.topics import BrokerAddress, read_broker_urls, to_routing_key, to_topic

EXCHANGE = "amq.topic"
QUEUE = "tb-events"
HEARTBEAT_S = 10
_CONNECT_S = 5.0
_PAUSE_S, _PAUSE_S_MAX = 0.2, 2.0
_TURN_S = 0.05
# What the client's library may raise while a node dies under it: its own errors, and those of its socket.
_LOST = (AMQPError, OSError, AssertionError)

_log = structlog.get_logger(__name__)


class _Line:
    """One AMQP connection in a thread of its own, made again for ever, each time to the next node.

    Args:
        opened: is given each new channel, in the line's thread.
        closed: is told, in the line's thread, why the connection is gone or cannot be had.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[BrokerAddress],
        *,
        authority: str | None,
        opened: Callable[[BlockingChannel], None],
        closed: Callable[[str], None],
    ) -> None:
        self._name = name
        self._addresses = addresses
        self._authority = authority
        self._opened, self._closed = opened, closed
        self._stopping = threading.Event()
        self._connection: pika.BlockingConnection | None = None
        self._is_served = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Connect, and go on doing so."""
        self._thread.start()

    def call(self, work: Callable[[], None]) -> bool:
        """Run something in the line's thread; False when there is no connection now and it will not run."""
        connection = self._connection
        if connection is None:
            return False
        try:
            connection.add_callback_threadsafe(work)
        except _LOST:
            return False
        return True

    def stop(self) -> None:
        """End the connection and the thread."""
        self._stopping.set()
        self.call(lambda: None)
        self._thread.join(timeout=_CONNECT_S + 5)

    def _run(self) -> None:
        place, pause_s = 0, _PAUSE_S
        while not self._stopping.is_set():
            address = self._addresses[place % len(self._addresses)]
            place += 1
            try:
                self._serve(address)
            except _LOST as error:
                pause_s = _PAUSE_S if self._is_served else min(pause_s * 1.5, _PAUSE_S_MAX)
                self._closed(_why(error))
                _log.warning("broker_lost", line=self._name, host=address.host, port=address.port, reason=_why(error))
                self._stopping.wait(pause_s)

    def _serve(self, address: BrokerAddress) -> None:
        self._is_served = False
        connection = pika.BlockingConnection(_parameters(address, self._authority))
        try:
            # Before the channel is handed out: whoever has it may call at once.
            self._connection = connection
            channel = connection.channel()
            channel.add_on_cancel_callback(lambda _: channel.close())
            self._opened(channel)
            self._is_served = True
            while not self._stopping.is_set():
                connection.process_data_events(time_limit=_TURN_S)
                if not channel.is_open:
                    # The broker ends a channel alone where a queue goes or an acknowledgement is hours late.
                    raise ChannelWrongStateError("the broker closed the channel")
        finally:
            self._connection = None
            with contextlib.suppress(*_LOST):
                connection.close()


class AmqpSource:
    """One of the competing consumers of the quorum queue, acknowledging by hand.

    Two connections: a broker short of memory stops reading from those who publish, and acknowledgements must still get
    through then, or the queue that fills its memory would never empty.

    Args:
        url: ``amqp://user:password@host:port,host:port`` or ``amqps://``, all nodes of the cluster.
        client_id: names the consumer.
        receive_max: unacknowledged deliveries that the broker may have with us at once.
        authority: PEM file of the authority that signed the nodes' certificates, for ``amqps``.
    """

    def __init__(
        self, url: str, client_id: str, *, receive_max: int = RECEIVE_MAX, authority: str | None = None
    ) -> None:
        addresses = read_broker_urls(url)
        if any(address.scheme not in ("amqp", "amqps") for address in addresses):
            raise Rejected("A queue is named by amqp://user:password@host:port.", code="bad_broker_url")
        self._client_id = client_id
        self._receive_max = receive_max
        self._arrived = threading.Condition()
        self._waiting: list[Delivery] = []
        self._generation = 0
        self._open = _Unacknowledged()
        self._consumer: BlockingChannel | None = None
        self._state = SourceState(False, "Connecting to the broker.")
        self._answers: deque[tuple[str, bytes]] = deque()
        self._publisher: BlockingChannel | None = None
        self._is_blocked = self._is_sending = False
        self._lines = (
            _Line(f"{client_id}-in", addresses, authority=authority, opened=self._consume, closed=self._forget),
            _Line(
                f"{client_id}-out", addresses, authority=authority, opened=self._may_publish, closed=self._no_answers
            ),
        )
        for line in self._lines:
            line.start()

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
        return taken

    def ack(self, tokens: Iterable[Token]) -> None:
        """Acknowledge what is safely stored; what tokens of a lost connection stand for comes again."""
        with self._arrived:
            numbers = [token.number for token in tokens if token.generation == self._generation]
            generation, channel = self._generation, self._consumer
        if not numbers or channel is None:
            return

        def acknowledge() -> None:
            if generation != self._generation or not channel.is_open:
                return
            for number, is_all_before in self._open.settle(numbers):
                channel.basic_ack(number, multiple=is_all_before)

        self._lines[0].call(acknowledge)

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Send answers; gives how many were taken for sending, none while the broker takes no publishes."""
        with self._arrived:
            if self._publisher is None or self._is_blocked:
                return 0
            taken = min(len(messages), PUBLISH_QUEUE_MAX - len(self._answers))
            self._answers.extend(messages[:taken])
            is_first, self._is_sending = not self._is_sending, True
        if is_first and not self._lines[1].call(self._send):
            with self._arrived:
                self._is_sending = False
        return taken

    def close(self) -> None:
        """Send what was taken and leave; what is not acknowledged goes back into the queue."""
        deadline = time.monotonic() + _CONNECT_S
        while self._answers and self._publisher is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        for line in self._lines:
            line.stop()

    def _consume(self, channel: BlockingChannel) -> None:
        channel.basic_qos(prefetch_count=self._receive_max)
        with self._arrived:
            self._generation += 1
            self._open = _Unacknowledged()
            self._consumer = channel
            generation = self._generation
        channel.basic_consume(
            QUEUE,
            lambda _channel, method, _properties, body: self._take(generation, method, body),
            consumer_tag=f"{self._client_id}-{generation}",
        )
        self._state = SourceState(True, "Connected.")

    def _take(self, generation: int, method: Any, body: bytes) -> None:
        self._open.take(method.delivery_tag)
        with self._arrived:
            token = Token(generation, method.delivery_tag)
            self._waiting.append(Delivery(to_topic(method.routing_key), body, token))
            if len(self._waiting) == 1:
                self._arrived.notify_all()

    def _forget(self, why: str) -> None:
        with self._arrived:
            self._generation += 1
            self._consumer = None
            self._waiting.clear()
            self._state = SourceState(False, why)

    def _may_publish(self, channel: BlockingChannel) -> None:
        channel.connection.add_on_connection_blocked_callback(lambda *_: self._block(True))
        channel.connection.add_on_connection_unblocked_callback(lambda *_: self._block(False))
        with self._arrived:
            self._publisher, self._is_blocked, self._is_sending = channel, False, False
            self._answers.clear()

    def _block(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked
        _log.warning("broker_takes_no_answers" if is_blocked else "broker_takes_answers_again")

    def _no_answers(self, _why: str) -> None:
        with self._arrived:
            self._publisher = None
            self._is_sending = False
            self._answers.clear()

    def _send(self) -> None:
        persistent = pika.BasicProperties(delivery_mode=2)
        while True:
            with self._arrived:
                channel = self._publisher
                if not self._answers or channel is None:
                    self._is_sending = False
                    return
                topic, payload = self._answers.popleft()
            channel.basic_publish(EXCHANGE, to_routing_key(topic), payload, persistent)


class _Unacknowledged:
    """Delivery numbers of one channel, so that one acknowledgement stands for many and never for one too many."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._settled: set[int] = set()

    def take(self, number: int) -> None:
        """A delivery came; numbers only grow."""
        self._order.append(number)

    def settle(self, numbers: Sequence[int]) -> list[tuple[int, bool]]:
        """The acknowledgements to send for ``numbers``: each a number, and whether it stands for all before it."""
        new = set(numbers)
        last: int | None = None
        while self._order and (self._order[0] in new or self._order[0] in self._settled):
            number = self._order.popleft()
            if number in new:
                last = number
                new.discard(number)
            else:
                self._settled.discard(number)
        self._settled |= new
        prefix = [] if last is None else [(last, True)]
        return prefix + [(number, False) for number in sorted(new)]


def _parameters(address: BrokerAddress, authority: str | None) -> pika.ConnectionParameters:
    login = pika.PlainCredentials(address.username or "guest", address.password or "guest")
    tls = None
    if address.is_tls:
        tls = pika.SSLOptions(ssl.create_default_context(cafile=authority), address.host)
    return pika.ConnectionParameters(
        address.host,
        address.port,
        credentials=login,
        heartbeat=HEARTBEAT_S,
        ssl_options=tls,
        socket_timeout=_CONNECT_S,
        stack_timeout=2 * _CONNECT_S,
        blocked_connection_timeout=None,
    )


def _why(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if "NOT_FOUND" in text:
        return f"The queue {QUEUE} is not there: declare it (declare.sh of the broker's configuration)."
    if "ACCESS_REFUSED" in text:
        return "The broker refuses us: name or password is wrong, or we may not read the queue."
    return f"The connection to the broker was lost: {text}."
