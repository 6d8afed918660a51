"""Brakes: reasons to stop accepting before a promise already given would be broken."""

import shutil
from pathlib import Path

from ingest.pipeline import Brake
from ledger.database import Database
from ledger.store import waiting_count

# Our own figures. A sequencer works off 20,000 messages a second (the target), so that this backlog stays far inside a
# promise of 60 seconds; the reserve on the disk lets what is accepted be sequenced and anchored.
WAITING_MAX = 200_000
FREE_BYTES_MIN = 512 * 1024 * 1024


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
