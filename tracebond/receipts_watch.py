"""The merge delay, measured from receipts by a process apart: receipt to checkpoint, receipt to final."""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from core.errors import Rejected
from ledger.receipt_audit import BROKEN, KEPT, PENDING, Contract, Source, Verdict, accepted_at, judge, load

BUCKETS = (0.5, 1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 300, 3_600, 86_400)


class Metrics:
    """What Prometheus reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.checkpoint = Histogram(
            "tracebond_receipt_checkpoint_seconds",
            "From a receipt to the first checkpoint that holds its leaf, by the log's times",
            buckets=BUCKETS,
            registry=registry,
        )
        self.final = Histogram(
            "tracebond_receipt_final_seconds",
            "From a receipt until this process saw its leaf under a final root",
            buckets=BUCKETS,
            registry=registry,
        )
        self.percentile = Gauge(
            "tracebond_receipt_delay_seconds", "Percentiles of all receipts seen", ["until", "quantile"],
            registry=registry,
        )  # fmt: skip
        self.receipts = Gauge("tracebond_receipts", "Receipts by what became of them", ["status"], registry=registry)
        self.broken = Counter("tracebond_receipts_broken", "Promises found broken", registry=registry)


@dataclass
class Watch:
    """Follows receipts until each is settled.

    Args:
        started_s: unix seconds; a leaf that was final before gives no delay to final, nobody saw when.
    """

    source: Source
    contract: Contract
    origin: str
    metrics: Metrics
    started_s: int
    checkpoint_s: list[int] = field(default_factory=list)
    final_s: list[int] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    _first_size: int | None = None

    def look(self, receipts: Iterable[tuple[str, bytes]], *, now_s: int) -> list[Verdict]:
        """Judge what is new or was pending; gives the promises found broken this time."""
        waiting = {
            name: raw for name, raw in receipts if self.verdicts.get(name, Verdict(name, PENDING, "")).status == PENDING
        }
        broken: list[Verdict] = []
        if waiting:
            since_s = min((at for raw in waiting.values() if (at := accepted_at(raw)) is not None), default=now_s)
            broken = self._judge(waiting, since_s, now_s)
        for status in (KEPT, PENDING, BROKEN, "not authentic"):
            found = sum(1 for one in self.verdicts.values() if one.status == status)
            self.metrics.receipts.labels(status).set(found)
        for until, values in (("checkpoint", self.checkpoint_s), ("final", self.final_s)):
            for quantile in (50, 99):
                if values:
                    self.metrics.percentile.labels(until, f"0.{quantile}").set(percentile(values, quantile))
        return broken

    def line(self) -> str:
        """One line for people."""
        parts = [f"{len(self.verdicts)} receipts"]
        for status in (KEPT, PENDING, BROKEN, "not authentic"):
            parts.append(f"{sum(1 for one in self.verdicts.values() if one.status == status)} {status}")
        for until, values in (("checkpoint", self.checkpoint_s), ("final", self.final_s)):
            if values:
                parts.append(f"to {until} p50 {percentile(values, 50)} s, p99 {percentile(values, 99)} s")
        return "; ".join(parts)

    def _judge(self, waiting: dict[str, bytes], since_s: int, now_s: int) -> list[Verdict]:
        try:
            log = load(self.source, self.contract, origin=self.origin, since_s=since_s)
        except Rejected as error:
            if error.code == "not_anchored":
                self.verdicts |= {name: Verdict(name, PENDING, error.message) for name in waiting}
                return []
            raise
        if self._first_size is None:
            self._first_size = log.size
        broken: list[Verdict] = []
        for name, raw in waiting.items():
            verdict = judge(log, self.source, name, raw, now_s=now_s)
            self.verdicts[name] = verdict
            at = accepted_at(raw)
            if verdict.delay_s is not None and verdict.leaf is not None and at is not None:
                self.checkpoint_s.insert(bisect.bisect(self.checkpoint_s, verdict.delay_s), verdict.delay_s)
                self.metrics.checkpoint.observe(max(0, verdict.delay_s))
                if verdict.leaf >= self._first_size:
                    delay = now_s - at
                    self.final_s.insert(bisect.bisect(self.final_s, delay), delay)
                    self.metrics.final.observe(max(0, delay))
            if verdict.status == BROKEN:
                self.metrics.broken.inc()
                broken.append(verdict)
        return broken


def percentile(values: Sequence[int], quantile: int) -> int:
    """The value that ``quantile`` in a hundred do not pass (nearest rank); ``values`` sorted, at least one."""
    return values[max(0, -(-quantile * len(values) // 100) - 1)]


def run_watch(
    watch: Watch,
    receipts: Callable[[], Iterable[tuple[str, bytes]]],
    *,
    now_s: Callable[[], int],
    sleep: Callable[[float], None],
    say: Callable[[str], None],
    interval_s: float,
    turns: int | None = None,
) -> int:
    """Look again and again; gives 1 when a promise was found broken, after ``turns`` looks (None: no end)."""
    broken, turn = 0, 0
    while turns is None or turn < turns:
        if turn:
            sleep(interval_s)
        turn += 1
        for verdict in watch.look(receipts(), now_s=now_s()):
            broken += 1
            say(f"ALARM  promise broken  {verdict.name}  {verdict.reason}")
        say(watch.line())
    return 1 if broken else 0
