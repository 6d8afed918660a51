"""A worker: receive a bounded batch, commit what follows from it, acknowledge, then send the receipts."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from core.crypto import P256Private
from ingest import quarantine
from ingest.admitter import Admitter, Service
from ingest.decisions import Prepared, Refused, prepare
from ingest.metrics import IngestMetrics
from ingest.rates import FairQueue, Ticket, scope_rate
from ingest.receipts import Terms, sign_answers
from ingest.source import Source
from ledger.database import Database

BATCH_MAX = 500
DEFERRED_MAX = 1_000
RECEIVE_S = 0.2
FULL_WAIT_S = 1.0
_FILL_CHECK_S = 1.0


class Worker:
    """One consumer of the stream of messages; any number may run beside one another.

    Args:
        source: where deliveries come from and answers go to.
        now_ms: the wall clock. monotonic_s: a clock that never goes back, for rates.
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
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_s: Callable[[], float] = time.monotonic,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._source = source
        self._database = database
        self._service = service
        self._receipt_key = receipt_key
        self._monotonic_s = monotonic_s
        self._at = at
        self._queue: FairQueue[Prepared] = FairQueue(DEFERRED_MAX)
        self._fill_at = 0.0
        self._is_full = False
        self._admitter = Admitter(
            database,
            service,
            operator_key=operator_key,
            metrics=metrics or IngestMetrics(),
            now_ms=now_ms,
            executor=ThreadPoolExecutor(2, thread_name_prefix="verify"),
            at=at,
        )
        self._unfinished: list[Prepared | Refused] = []

    def run_once(self) -> int:
        """Take one batch through; gives how many deliveries were settled.

        While the quarantine is full nothing is received: intake slows, nothing is dropped.

        Raises:
            Unavailable: the database is away. The batch is kept and tried again first at the next call.
        """
        if self._is_quarantine_full():
            time.sleep(FULL_WAIT_S)
            return 0
        batch = self._unfinished or self._next_batch()
        self._unfinished = batch
        if not batch:
            return 0
        answers = self._admitter.process(batch)
        self._unfinished = []
        self._at("after_commit")
        self._ack(batch)
        self._at("after_ack")
        signed = sign_answers(answers, self._receipt_key, aud=self._service.aud, log=self._service.log)
        self._source.publish(signed)
        for one in batch:
            if isinstance(one, Refused) and one.name is not None:
                self._queue.charge(one.name.username)
        return len(batch)

    def _next_batch(self) -> list[Prepared | Refused]:
        deliveries = self._source.receive(BATCH_MAX, RECEIVE_S)
        prepared = [prepare(delivery) for delivery in deliveries]
        faulty: list[Prepared | Refused] = [one for one in prepared if isinstance(one, Refused)]
        tickets = self._tickets([one for one in prepared if isinstance(one, Prepared)])
        ready, shed = self._queue.admit(tickets, self._monotonic_s())
        # What is shed is acknowledged without a receipt: it stays in its device's outbox and comes again.
        self._ack(shed)
        return [*faulty, *ready]

    def _tickets(self, prepared: Sequence[Prepared]) -> list[Ticket[Prepared]]:
        if not prepared:
            return []
        found, _ = self._admitter.keys([one.envelope.kid for one in prepared])
        tickets = []
        for one in prepared:
            info = found[one.envelope.kid]
            rate = scope_rate(None if info is None else info.scope)
            tickets.append(Ticket(one.name.username, one.name.org, rate, one))
        return tickets

    def _ack(self, done: Sequence[Prepared | Refused]) -> None:
        tokens = [one.delivery.token for one in done]
        self._source.ack([token for token in tokens if token is not None])

    def _is_quarantine_full(self) -> bool:
        now = self._monotonic_s()
        if now >= self._fill_at:
            with self._database.reading() as tx:
                self._is_full = quarantine.fill(tx) >= 1.0
            self._fill_at = now + _FILL_CHECK_S
        return self._is_full


def service_of(*, aud: str, log: str, promise_s: int, heartbeat_s: int) -> Service:
    """Who we are to devices, with the terms of our receipts."""
    return Service(aud, log, Terms(promise_s, heartbeat_s))
