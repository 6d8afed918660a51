"""What an operator watches of the chain, as Prometheus metrics: backlog, unfinal anchors, ages, balances, alarms."""

from collections.abc import Callable, Iterator

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.chain import Chain
from ledger import chain_book as book
from ledger.anchor import last_final_anchor, unfinal_count
from ledger.chain_alarms import is_credit_stopped, open_alarms
from ledger.chain_tx_tables import anchors, chain_tx
from ledger.database import Database, Tx
from ledger.tables import checkpoints

_WEI = 10**18
_PREFIX = "tracebond_chain_"
_OPEN_STATES = ("queued", "sent", "mined")


class ChainMetrics(Collector):
    """Reads the database at each scrape; balances and the chain's height are those of the last :meth:`refresh`.

    A scrape never asks the chain, so that a node that hangs does not hide the alarms.

    Args:
        now_ms: the clock for ages.
    """

    def __init__(self, db: Database, chain: Chain, now_ms: Callable[[], int]) -> None:
        self._db, self._chain, self._now_ms = db, chain, now_ms
        self._balances: dict[tuple[str, str], int] = {}
        self._heights: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Ask the chain for balances and heights; call it every quarter of a minute or so.

        Raises:
            Unavailable: the chain is away.
        """
        with self._db.reading() as tx:
            deployment, _ = book.current_deployment(tx)
            known = book.accounts(tx, deployment)
        self._heights = (self._chain.block_number(), self._chain.final_block_number())
        self._balances = {(one.name, one.address): self._chain.balance(one.address) for one in known}

    def collect(self) -> Iterator[Metric]:
        """The families, in a fixed order."""
        with self._db.reading() as tx:
            yield from self._of_database(tx)
        balance = GaugeMetricFamily(_PREFIX + "balance_ether", "What an account can spend.", labels=["account"])
        for (name, _), wei in sorted(self._balances.items()):
            balance.add_metric([name], wei / _WEI)
        yield balance
        if self._heights is not None:
            yield _gauge("block_number", "The chain's latest block when last asked.", self._heights[0])
            yield _gauge("final_block_number", "The chain's last final block when last asked.", self._heights[1])

    def _of_database(self, tx: Tx) -> Iterator[Metric]:
        deployment, description = book.current_deployment(tx)
        size = tx.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one() or 0
        final = last_final_anchor(tx)
        kept = 0 if final is None else final.size
        yield _gauge("log_id", "Number of the log on the contract.", description.log_id)
        yield _gauge("backlog_leaves", "Leaves under a checkpoint, but under no final anchor.", size - kept)
        yield _gauge("unfinal_anchors", "Anchors that wait for finality.", unfinal_count(tx))
        yield _gauge("final_anchor_size", "Leaves under the last final anchor.", kept)
        if final is not None:
            since = tx.execute(sa.select(anchors.c.final_ms).where(anchors.c.id == final.id)).scalar_one()
            age = (self._now_ms() - (since or final.created_ms)) / 1000
            yield _gauge("final_anchor_age_seconds", "Since the last final anchor became final.", age)
        count = sa.func.count()
        states: dict[str, int] = dict(
            tx.execute(
                sa.select(chain_tx.c.state, count)
                .where(chain_tx.c.deployment == deployment, chain_tx.c.state.in_(_OPEN_STATES))
                .group_by(chain_tx.c.state)
            ).all()
        )
        waiting = GaugeMetricFamily(_PREFIX + "transactions", "Chain_txs under way, by state.", labels=["state"])
        for state in _OPEN_STATES:
            waiting.add_metric([state], states.get(state, 0))
        yield waiting
        alarms = GaugeMetricFamily(_PREFIX + "alarm", "1 while an alarm is open.", labels=["code", "account"])
        for alarm in open_alarms(tx):
            alarms.add_metric([alarm.code, alarm.account], 1)
        yield alarms
        yield _gauge("credit_stopped", "1 while an alarm forbids new credit.", int(is_credit_stopped(tx)))


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, words, value=value)
