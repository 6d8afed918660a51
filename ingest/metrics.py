"""What an operator watches of ingest, as Prometheus metrics."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)
_TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class IngestMetrics:
    """The metrics of one process.

    Args:
        registry: where they are exposed; one of their own by default, so that tests do not share them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._since_s: float | None = None
        name, here = "tracebond_ingest_", self.registry
        self.received = Counter(name + "received", "Deliveries from the broker.", registry=here)
        self.stored = Counter(name + "stored", "Messages stored for the first time.", registry=here)
        self.events = Counter(name + "events", "EPCIS events in stored messages.", registry=here)
        self.duplicate = Counter(name + "duplicate", "Messages that were stored before.", registry=here)
        self.equivocation = Counter(name + "equivocation", "Messages under a used sequence number.", registry=here)
        self.refused = Counter(name + "refused", "Deliveries that were not taken, by reason.", ["code"], registry=here)
        self.shed = Counter(name + "shed", "Deliveries beyond a device's rate, left to its outbox.", registry=here)
        self.poison = Counter(name + "poison", "Messages on which our own code failed.", registry=here)
        self.receipts = Counter(name + "receipts", "Receipts and refusals handed to the broker.", registry=here)
        self.unanswered = Counter(name + "unanswered", "Receipts the broker did not take.", registry=here)
        self.retries = Counter(name + "retries", "Attempts that failed because the database was away.", registry=here)
        self.deferred = Gauge(name + "deferred", "Deliveries held back by a rate.", registry=here)
        self.waiting = Gauge(name + "waiting", "Deliveries taken from the broker, not yet decided.", registry=here)
        self.lag = Gauge(name + "lag_seconds", "How long the batch in work has waited.", registry=here)
        self.lag.set_function(self._lag_s)
        self.quarantine_fill = Gauge(name + "quarantine_fill", "How full it is; 1 stops intake.", registry=here)
        self.is_held = Gauge(name + "is_held", "1 while intake is stopped to keep promises.", registry=here)
        self.is_connected = Gauge(name + "is_connected", "1 while the broker is there.", registry=here)
        self.batch_size = Histogram(name + "batch_size", "Deliveries decided at once.", buckets=_SIZES, registry=here)
        self.batch_seconds = Histogram(
            name + "batch_seconds", "From a batch's receipt to its answers.", buckets=_TIMES, registry=here
        )
        self.commit_seconds = Histogram(name + "commit_seconds", "One commit.", buckets=_TIMES, registry=here)

    def begun(self, now_s: float) -> None:
        """A batch was received at this time of the monotonic clock; the first call counts until :meth:`settled`."""
        if self._since_s is None:
            self._since_s = now_s

    def settled(self) -> None:
        """The batch is stored, acknowledged and answered."""
        self._since_s = None

    def _lag_s(self) -> float:
        since = self._since_s
        return 0.0 if since is None else max(0.0, time.monotonic() - since)
