"""A worker: receive a bounded batch, commit what follows from it, acknowledge, then send the receipts.

What survives a crash: before the commit nothing happened, the broker delivers again; after the commit the same messages
come again as duplicates and get the same receipts; a receipt that was not sent is asked for by the device's outbox.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from core.crypto import P256Private
from core.errors import Unavailable
from ingest import quarantine
from ingest.admitter import Admitter, Known, Service
from ingest.decisions import Decision, Prepared, Refused, decide, ids_of, poisoned, prepare
from ingest.metrics import IngestMetrics
from ingest.rates import STRANGER, FairQueue, Ticket, scope_rate
from ingest.receipts import Answer, Terms, sign_answers
from ingest.source import Delivery, Source, Token
from ledger.database import Database
from ledger.keys import KeyInfo

__all__ = ["Brake", "Decision", "Service", "Worker", "decide", "replay", "service_of"]

BATCH_MAX = 500
# Ours: 500 messages of the largest size would be 128 MB at once, and everybody's receipt would wait for the last one.
BATCH_BYTES_MAX = 4_000_000
DEFERRED_MAX = 1_000
RECEIVE_S = 0.2
# From this share on the quarantine slows intake, each batch more than the one before it; at 1 intake stands still.
FILL_SLOW = 0.8
HELD_S = 1.0
_CHECK_S = 1.0

Brake = Callable[[], str | None]
_log = structlog.get_logger(__name__)


class Worker:
    """One consumer of the stream of messages; any number may run beside one another.

    Args:
        source: where deliveries come from and answers go to.
        brakes: each gives a sentence while nothing more may be accepted (disk nearly full, backlog beyond the promise),
            else None. We stop accepting before we break a promise already given.
        rows_max, bytes_max: limit of the quarantine.
        now_ms: the wall clock. monotonic_s: a clock that never goes back, for rates. sleep: waits that many seconds.
        threads: that check signatures; 1 checks them in the worker's own thread.
        batch_max: most deliveries decided and committed at once.
        names_messages: log lines name every message by its id, the one under which its whole way is found.
        at: called with the name of each crash point; tests stop the process there.
    """

    def __init__(
        self,
        source: Source,
        database: Database,
        service: Service,
        *,
        operator_key: P256Private,
        receipt_key: P256Private,
        metrics: IngestMetrics | None = None,
        brakes: Sequence[Brake] = (),
        rows_max: int = quarantine.ROWS_MAX,
        bytes_max: int = quarantine.BYTES_MAX,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        threads: int = 1,
        batch_max: int = BATCH_MAX,
        names_messages: bool = False,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._source = source
        self._database = database
        self._service = service
        self._receipt_key = receipt_key
        self._brakes = brakes
        self._rows_max, self._bytes_max = rows_max, bytes_max
        self._batch_max = batch_max
        self._names_messages = names_messages
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._at = at
        self.metrics = metrics or IngestMetrics()
        self._queue: FairQueue[Prepared | Refused] = FairQueue(DEFERRED_MAX)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="verify") if threads > 1 else None
        self._admitter = Admitter(
            database,
            service,
            operator_key=operator_key,
            metrics=self.metrics,
            now_ms=now_ms,
            executor=self._executor,
            at=at,
        )
        self._received: list[Delivery] = []
        self._unfinished: list[Prepared | Refused] = []
        self._known: Known | None = None
        self._checked_at = float("-inf")
        self._fill = 0.0
        self.held: str | None = None

    def run_once(self) -> int:
        """Take one batch through; gives how many deliveries were settled.

        While a brake is on or the quarantine is full nothing is received: intake slows, nothing is dropped.

        Raises:
            Unavailable: the database is away. Nothing was acknowledged; what was received is kept and taken first at
                the next call.
        """
        self._look_around()
        if self.held is not None:
            self._sleep(HELD_S)
            return 0
        started = self._monotonic_s()
        batch = self._unfinished or self._next_batch()
        self._unfinished = batch
        if not batch:
            return 0
        self.metrics.begun(started)
        answers = self._admitter.process(batch, known=self._known)
        self._unfinished = []
        self._at("after_commit")
        self._source.ack(_tokens(batch))
        self._at("after_ack")
        if self._names_messages:
            _tell(batch, answers)
        signed = sign_answers(answers, self._receipt_key, aud=self._service.aud, log=self._service.log)
        taken = self._source.publish(signed)
        self.metrics.receipts.inc(taken)
        self.metrics.unanswered.inc(len(signed) - taken)
        self.metrics.batch_size.observe(len(batch))
        self.metrics.batch_seconds.observe(self._monotonic_s() - started)
        self.metrics.settled()
        for one in batch:
            if isinstance(one, Refused) and one.name is not None:
                self._queue.charge(one.name.username)
        if self._fill > FILL_SLOW:
            self._sleep(HELD_S * (self._fill - FILL_SLOW) / (1 - FILL_SLOW))
        return len(batch)

    def close(self) -> None:
        """Leave the source and end the threads."""
        self._source.close()
        if self._executor is not None:
            self._executor.shutdown()

    def _next_batch(self) -> list[Prepared | Refused]:
        if not self._received:
            self._received = self._source.receive(self._batch_max, RECEIVE_S)
            self.metrics.received.inc(len(self._received))
        taken = _within(self._received, BATCH_BYTES_MAX)
        prepared = [_prepare(delivery) for delivery in self._received[:taken]]
        tickets = self._tickets(prepared)
        del self._received[:taken]
        ready, shed = self._queue.admit(tickets, self._monotonic_s())
        self.metrics.deferred.set(self._queue.deferred)
        self.metrics.shed.inc(len(shed))
        # What is shed is acknowledged without a receipt: it stays in its device's outbox and comes again. Left
        # unacknowledged it would fill the broker's window for this worker and stop everybody else.
        self._source.ack(_tokens(shed))
        return ready

    def _tickets(self, prepared: Sequence[Prepared | Refused]) -> list[Ticket[Prepared | Refused]]:
        kids = [one.envelope.kid for one in prepared if isinstance(one, Prepared)]
        self._known = self._admitter.keys(kids) if kids else None
        found = self._known[0] if self._known else {}
        return [_ticket(one, found.get(one.envelope.kid) if isinstance(one, Prepared) else None) for one in prepared]

    def _look_around(self) -> None:
        now = self._monotonic_s()
        if now < self._checked_at + _CHECK_S:
            return
        with self._database.reading() as tx:
            self._fill = quarantine.fill(tx, rows_max=self._rows_max, bytes_max=self._bytes_max)
        self._checked_at = now
        reasons = [reason for reason in (brake() for brake in self._brakes) if reason is not None]
        if self._fill >= 1:
            reasons.append("The quarantine is full: look at it, or shorten its retention.")
        held = " ".join(reasons) or None
        if held != self.held:
            _log.warning("intake_held" if held else "intake_goes_on", reason=held)
        self.held = held
        self.metrics.is_held.set(held is not None)
        self.metrics.quarantine_fill.set(self._fill)
        state = self._source.state
        self.metrics.waiting.set(state.waiting + len(self._received) + self._queue.deferred)
        self.metrics.is_connected.set(state.is_connected)


def replay(
    database: Database,
    service: Service,
    row_ids: Sequence[int],
    *,
    operator_key: P256Private,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> dict[int, str]:
    """Decide the very bytes of quarantined deliveries again, after a fix; gives per row ``accepted`` or its reason.

    The device of an unauthentic one still has it in its outbox and gets its receipt when it sends it again.

    Raises:
        Conflict: ``no_such_row``.
        Unavailable: the database is away.
    """
    admitter = Admitter(database, service, operator_key=operator_key, metrics=IngestMetrics(), now_ms=now_ms)
    outcome: dict[int, str] = {}
    for row_id in row_ids:
        with database.reading() as tx:
            delivery = quarantine.load(tx, row_id).delivery
        answers = admitter.process([_prepare(delivery)], is_replay=True)
        is_accepted = bool(answers) and "refused" not in answers[0].payload
        with database.transaction() as tx:
            if is_accepted:
                quarantine.resolve(tx, [row_id], state="accepted")
            outcome[row_id] = "accepted" if is_accepted else quarantine.load(tx, row_id).code
    return outcome


def service_of(*, aud: str, log: str, promise_s: int, heartbeat_s: int) -> Service:
    """Who we are to devices, with the terms of our receipts."""
    return Service(aud, log, Terms(promise_s, heartbeat_s))


def _within(deliveries: Sequence[Delivery], bytes_max: int) -> int:
    """How many of the first deliveries have at most so many bytes together; one at least."""
    total = 0
    for place, delivery in enumerate(deliveries):
        total += len(delivery.payload)
        if total > bytes_max and place:
            return place
    return len(deliveries)


def _prepare(delivery: Delivery) -> Prepared | Refused:
    try:
        return prepare(delivery)
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever one message breaks, the next one is taken
        return poisoned(delivery, error, None)


def _ticket(one: Prepared | Refused, info: KeyInfo | None) -> Ticket[Prepared | Refused]:
    name = one.name
    if name is None:
        return Ticket("", "", STRANGER, one)
    # Only the device itself gets its key's rate: the key that a message names is not proven yet, its topic is.
    is_own = info is not None and (info.org, info.iss) == ids_of(name)
    rate = scope_rate(info.scope if info is not None and is_own else None)
    return Ticket(name.username, name.gln, rate, one)


def _tell(batch: Sequence[Prepared | Refused], answers: Sequence[Answer]) -> None:
    """One line a batch: ids of the messages that were promised inclusion, and of those refused for good."""
    promised = [answer.payload["message"] for answer in answers if "refused" not in answer.payload]
    refused = {
        answer.payload["message"]: answer.payload["refused"] for answer in answers if "refused" in answer.payload
    }
    silent = len(batch) - len(answers)
    _log.info("messages_stored", messages=promised, refused=refused, quarantined=silent)


def _tokens(done: Sequence[Prepared | Refused]) -> list[Token]:
    return [one.delivery.token for one in done if one.delivery.token is not None]
