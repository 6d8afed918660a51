"""Read models of the operator's and regulator's pages: the log, its anchors, what is sent to the chain, devices."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from api.machine import log_head
from ledger.chain_tx_tables import anchors, chain_alarms, chain_tx, deployments
from ledger.chains import refused_places
from ledger.tables import chains, key_ends, keys, messages, waiting


@dataclass(frozen=True)
class LogState:
    """How far the log has come, stage by stage."""

    size: int
    checkpoint_s: int
    waiting: int
    anchored_size: int
    final_size: int
    final_ms: int | None


@dataclass(frozen=True)
class AnchorRow:
    """One anchor with the chain_tx that carries it."""

    id: int
    prev_size: int
    size: int
    root: bytes
    state: str
    block_number: int | None
    tx_hash: str | None
    gas_used: int | None
    created_ms: int
    final_ms: int | None


@dataclass(frozen=True)
class DeviceRow:
    """A key of an organisation's device and what came from it."""

    device: str
    kid: str
    use: str
    last_seen_ms: int | None
    messages: int
    missing: int
    forks: int
    is_ended: bool


def log_state(tx: sa.Connection) -> LogState:
    """The stages of the log."""
    size, time_s = log_head(tx)
    queued = tx.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one()
    live = _here(anchors).where(anchors.c.state != "failed")
    anchored = tx.execute(live.with_only_columns(sa.func.max(anchors.c.size))).scalar()
    final = _here(anchors).where(anchors.c.state == "final").order_by(anchors.c.size.desc()).limit(1)
    row = tx.execute(final).first()
    return LogState(
        size=size,
        checkpoint_s=time_s,
        waiting=int(queued),
        anchored_size=int(anchored or 0),
        final_size=int(row.size) if row is not None else 0,
        final_ms=row.final_ms if row is not None else None,
    )


def anchor_rows(tx: sa.Connection, *, limit: int = 50) -> list[AnchorRow]:
    """The newest anchors of the present deployment."""
    query = (
        sa.select(anchors, chain_tx.c.block_number, chain_tx.c.tx_hash, chain_tx.c.gas_used)
        .join(deployments, sa.and_(deployments.c.id == anchors.c.deployment, deployments.c.is_current))
        .outerjoin(chain_tx, chain_tx.c.id == anchors.c.chain_tx)
        .order_by(anchors.c.id.desc())
        .limit(limit)
    )
    names = AnchorRow.__dataclass_fields__
    return [AnchorRow(**{name: row[name] for name in names}) for row in tx.execute(query).mappings()]


def chain_counts(tx: sa.Connection) -> dict[str, int]:
    """How many chain_tx stand in each state."""
    query = sa.select(chain_tx.c.state, sa.func.count()).group_by(chain_tx.c.state)
    return {str(row[0]): int(row[1]) for row in tx.execute(query)}


def alarms(tx: sa.Connection) -> list[dict[str, Any]]:
    """Open chain alarms, newest first."""
    query = sa.select(chain_alarms).where(chain_alarms.c.cleared_ms.is_(None)).order_by(chain_alarms.c.id.desc())
    return [
        {"code": row.code, "account": row.account, "detail": row.detail, "raised_ms": row.raised_ms}
        for row in tx.execute(query.limit(100))
    ]


def devices(tx: sa.Connection, org: str) -> list[DeviceRow]:
    """The keys of an organisation, those seen last first."""
    last = (
        sa.select(messages.c.received_ms)
        .where(messages.c.key_no == keys.c.key_no)
        .order_by(messages.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        sa.select(
            keys,
            chains.c.highest,
            chains.c.distinct.label("places"),
            chains.c.equivocations,
            key_ends.c.kid.label("ended"),
            last.label("last_seen_ms"),
        )
        .outerjoin(chains, chains.c.key_no == keys.c.key_no)
        .outerjoin(key_ends, key_ends.c.kid == keys.c.kid)
        .where(keys.c.org == org)
        .order_by(keys.c.iss)
    )
    rows = tx.execute(query).all()
    refused = refused_places(tx, [row.key_no for row in rows])
    return [
        DeviceRow(
            device=row.iss.rpartition("/")[2],
            kid=row.kid,
            use=row.use,
            last_seen_ms=row.last_seen_ms,
            messages=int(row.places or 0) - refused.get(row.key_no, 0),
            missing=max(0, int(row.highest) + 1 - int(row.places)) if row.places else 0,
            forks=int(row.equivocations or 0),
            is_ended=row.ended is not None,
        )
        for row in rows
    ]


def _here(table: sa.Table) -> sa.Select[Any]:
    current = sa.select(deployments.c.id).where(deployments.c.is_current).scalar_subquery()
    return sa.select(table).where(table.c.deployment == current)
