"""Alarms about the chain: what people must know of, and what stops new credit."""

from dataclasses import dataclass

import sqlalchemy as sa

from ledger.chain_tx_tables import chain_alarms, deployments
from ledger.database import Tx

# Alarms that end only when a person has looked: money decisions stop while one is open.
PERSON_CLEARS = frozenset({"finality_broken", "foreign_nonce", "foreign_anchor", "log_frozen", "root_mismatch"})


@dataclass(frozen=True)
class Alarm:
    """Something about the chain that people must know of."""

    id: int
    code: str
    account: str
    detail: str
    raised_ms: int


def raise_alarm(tx: Tx, deployment: int, code: str, *, account: str = "", detail: str, now_ms: int) -> bool:
    """Open an alarm unless the same is open; True when it is new."""
    query = sa.select(chain_alarms.c.id).where(
        chain_alarms.c.deployment == deployment,
        chain_alarms.c.code == code,
        chain_alarms.c.account == account,
        chain_alarms.c.cleared_ms.is_(None),
    )
    if tx.execute(query).one_or_none() is not None:
        return False
    tx.execute(
        chain_alarms.insert().values(
            deployment=deployment, code=code, account=account, detail=detail[:400], raised_ms=now_ms
        )
    )
    return True


def clear_alarm(tx: Tx, deployment: int, code: str, *, account: str = "", now_ms: int) -> bool:
    """Close an alarm; True when it was open."""
    changed = tx.execute(
        chain_alarms.update()
        .where(
            chain_alarms.c.deployment == deployment,
            chain_alarms.c.code == code,
            chain_alarms.c.account == account,
            chain_alarms.c.cleared_ms.is_(None),
        )
        .values(cleared_ms=now_ms)
    )
    return changed.rowcount > 0


def open_alarms(tx: Tx) -> list[Alarm]:
    """The open alarms of the contracts in use, oldest first; none when nothing is deployed."""
    query = (
        sa.select(chain_alarms)
        .join(deployments, deployments.c.id == chain_alarms.c.deployment)
        .where(deployments.c.is_current, chain_alarms.c.cleared_ms.is_(None))
        .order_by(chain_alarms.c.id)
    )
    return [Alarm(row.id, row.code, row.account, row.detail, row.raised_ms) for row in tx.execute(query)]


def is_credit_stopped(tx: Tx) -> bool:
    """Whether an open alarm forbids new credit: what was called final may not be, or a key is in wrong hands."""
    return any(alarm.code in PERSON_CLEARS for alarm in open_alarms(tx))
