"""How far messages have come, stage by stage, and how long the oldest one waits for the next: for Prometheus."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.errors import Unavailable
from ingest.tables import quarantine_totals
from ledger.chain_tx_tables import anchors, deployments
from ledger.database import Database, Tx
from ledger.tables import RECORD, checkpoints, followers, messages, records, waiting

STAGES = ("stored", "sequenced", "anchored", "final")


class StageMetrics(Collector):
    """Reads the database at each scrape; while it is away only ``tracebond_database_up`` is told.

    Args:
        now_ms: the clock for lags.
        folder: whose disk is watched.
        promise_s: what receipts promise, told beside the lags so that an alert can compare them.
    """

    def __init__(self, database: Database, now_ms: Callable[[], int], *, folder: Path, promise_s: int) -> None:
        self._database, self._now_ms = database, now_ms
        self._folder, self._promise_s = folder, promise_s

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead of a scrape: registering must not need the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families, in a fixed order."""
        yield _gauge("tracebond_promise_seconds", "What receipts promise.", self._promise_s)
        yield _gauge("tracebond_disk_free_bytes", "Free space under the data folder.", self._free())
        try:
            with self._database.reading() as tx:
                found = list(self._of_database(tx))
        except Unavailable:
            yield _gauge("tracebond_database_up", "1 while the database answers.", 0)
            return
        yield _gauge("tracebond_database_up", "1 while the database answers.", 1)
        yield from found

    def _of_database(self, tx: Tx) -> Iterator[Metric]:
        now_s = self._now_ms() / 1000
        size = _largest(tx, sa.select(sa.func.max(checkpoints.c.size)))
        live = (
            sa.select(sa.func.max(anchors.c.size))
            .join(deployments, deployments.c.id == anchors.c.deployment)
            .where(deployments.c.is_current)
        )
        anchored = _largest(tx, live.where(anchors.c.state != "failed"))
        final = _largest(tx, live.where(anchors.c.state == "final"))
        queued = _largest(tx, sa.select(sa.func.count()).select_from(waiting))
        reached = GaugeMetricFamily("tracebond_stage_entries", "Entries that reached a stage.", labels=["stage"])
        for stage, count in zip(STAGES, (size + queued, size, anchored, final), strict=True):
            reached.add_metric([stage], count)
        yield reached
        lag = GaugeMetricFamily(
            "tracebond_stage_lag_seconds", "How long the oldest entry waits that has not reached it.", labels=["stage"]
        )
        lag.add_metric(["sequenced"], _since(now_s, _oldest_waiting_ms(tx)))
        lag.add_metric(["anchored"], _since(now_s, _checkpoint_ms(tx, anchored)))
        lag.add_metric(["final"], _since(now_s, _checkpoint_ms(tx, final)))
        yield lag
        held = tx.execute(sa.select(quarantine_totals.c.rows, quarantine_totals.c.bytes)).one_or_none() or (0, 0)
        yield _gauge("tracebond_quarantine_rows", "Deliveries in the quarantine.", held[0])
        yield _gauge("tracebond_quarantine_bytes", "Their size.", held[1])
        behind = GaugeMetricFamily(
            "tracebond_follower_lag_entries", "Entries of the log a follower has not seen.", labels=["follower"]
        )
        for name, leaf in tx.execute(sa.select(followers.c.name, followers.c.next_leaf).order_by(followers.c.name)):
            behind.add_metric([name], max(0, size - leaf))
        yield behind

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return 0


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, value=value)


def _largest(tx: Tx, query: "sa.Select[Any]") -> int:
    return int(tx.execute(query).scalar_one() or 0)


def _since(now_s: float, then_ms: int | None) -> float:
    return 0.0 if then_ms is None else max(0.0, now_s - then_ms / 1000)


def _oldest_waiting_ms(tx: Tx) -> int | None:
    first = tx.execute(sa.select(waiting.c.arrival, waiting.c.kind).order_by(waiting.c.arrival).limit(1)).first()
    if first is None:
        return None
    table = records if first.kind == RECORD else messages
    found: int | None = tx.execute(
        sa.select(table.c.received_ms).where(table.c.arrival == first.arrival)
    ).scalar_one_or_none()
    return found


def _checkpoint_ms(tx: Tx, size: int) -> int | None:
    """When the first checkpoint beyond a size was signed."""
    query = sa.select(checkpoints.c.time_s).where(checkpoints.c.size > size).order_by(checkpoints.c.size).limit(1)
    found = tx.execute(query).scalar_one_or_none()
    return None if found is None else int(found) * 1000
