"""Brakes: reasons to stop accepting before a promise already given would be broken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from ingest.pipeline import Brake
from ledger.chain_tx_tables import anchors
from ledger.database import Database
from ledger.store import waiting_count
from ledger.tables import checkpoints

# Our own figures. A sequencer works off 20,000 messages a second (the target), so that this backlog stays far inside a
# promise of 60 seconds; the reserve on the disk lets what is accepted be sequenced and anchored.
WAITING_MAX = 200_000
FREE_BYTES_MIN = 512 * 1024 * 1024
# A receipt is broken when its leaf is under no anchor within promise and heartbeat together. At three quarters of the
# heartbeat the chain has been away so long that we promise nothing more.
CHAIN_SHARE = 0.75


def disk_brake(folder: Path, *, free_bytes_min: int = FREE_BYTES_MIN) -> Brake:
    """On while the disk under ``folder`` has less than ``free_bytes_min`` free."""

    def reason() -> str | None:
        free = shutil.disk_usage(folder).free
        if free >= free_bytes_min:
            return None
        return f"The disk has {free // 1_048_576} MiB free; intake goes on from {free_bytes_min // 1_048_576} MiB."

    return reason


def backlog_brake(database: Database, *, waiting_max: int = WAITING_MAX) -> Brake:
    """On while more than ``waiting_max`` messages and records have no place in the log yet."""

    def reason() -> str | None:
        with database.reading() as tx:
            waiting = waiting_count(tx)
        return f"{waiting} messages wait for the sequencer." if waiting > waiting_max else None

    return reason


def chain_brake(database: Database, now_ms: Callable[[], int], *, heartbeat_s: int) -> Brake:
    """On while leaves have waited for an anchor for three quarters of what receipts allow."""

    def reason() -> str | None:
        with database.reading() as tx:
            anchored = sa.select(sa.func.max(anchors.c.size)).where(anchors.c.state == "final")
            size = tx.execute(anchored).scalar_one() or 0
            oldest = sa.select(checkpoints.c.time_s).where(checkpoints.c.size > size).order_by(checkpoints.c.size)
            since_s = tx.execute(oldest.limit(1)).scalar_one_or_none()
        waited_s = 0.0 if since_s is None else now_ms() / 1000 - since_s
        if waited_s <= heartbeat_s * CHAIN_SHARE:
            return None
        return f"The log has waited for an anchor on the chain for {waited_s:.0f} seconds."

    return reason
