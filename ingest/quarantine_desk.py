"""What people do with the quarantine: read the bytes, replay them after a fix, dismiss them, let old ones go."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, parse_json, unb64u
from core.crypto import P256Private
from core.errors import Conflict, Rejected
from core.message import PUBLISH_BYTES_MAX
from core.records import read_record
from ingest import quarantine
from ingest.admitter import Service
from ingest.pipeline import replay
from ingest.quarantine import QuarantineRow
from ingest.tables import quarantine as rows
from ledger.database import Database, Tx
from ledger.tables import entries, records

DAY_MS: Final = 86_400_000
REPLAY_MAX: Final = 10_000
PURGE_STEP: Final = 1_000
_DEPTH_MAX: Final = 64
_BYTES_SHOWN: Final = 2_048


@dataclass(frozen=True)
class Decoded:
    """A delivery's bytes as far as they can be read; nothing in it is verified.

    Attributes:
        header, payload: JSON text, None where that part cannot be read.
        disclosures: JSON text of each [salt, name, value], or the text itself.
        start: the first bytes as hex and text, for what is no message at all.
    """

    header: str | None
    payload: str | None
    disclosures: tuple[str, ...]
    start: str


@dataclass(frozen=True)
class RefusalRecord:
    """Where the ``refusal`` record of an authentic message stands; ``leaf`` is None while it waits."""

    code: str
    leaf: int | None


class QuarantineDesk:
    """The desk.

    Args:
        operator_key: signs ``refusal`` and ``equivocation`` records that a replay calls for.
        days: how long rows are kept after their last arrival.
    """

    def __init__(
        self, database: Database, service: Service, *, operator_key: P256Private, now_ms: Callable[[], int], days: int
    ) -> None:
        self._database = database
        self._service = service
        self._operator_key = operator_key
        self._now_ms = now_ms
        self.days = days

    def replay(self, row_ids: Sequence[int]) -> dict[int, str]:
        """Decide the very bytes of these rows again: per row ``accepted``, its reason, or ``gone``.

        Raises:
            Unavailable: the database is away.
        """
        if len(row_ids) > REPLAY_MAX:
            raise Rejected(f"At most {REPLAY_MAX} rows are replayed at once.", code="too_large")
        outcome: dict[int, str] = {}
        for row_id in row_ids:
            try:
                outcome |= replay(
                    self._database, self._service, [row_id], operator_key=self._operator_key, now_ms=self._now_ms
                )
            except Conflict as error:
                if error.code != "no_such_row":
                    raise
                outcome[row_id] = "gone"
        return outcome

    def replay_code(self, code: str) -> dict[int, str]:
        """Replay every open row of one reason, oldest first, so that a device's messages come in their order."""
        query = sa.select(rows.c.id).where(rows.c.state == "open", rows.c.code == code).order_by(rows.c.id)
        with self._database.reading() as tx:
            ids = [int(row_id) for row_id in tx.execute(query.limit(REPLAY_MAX)).scalars()]
        return self.replay(ids)

    def dismiss(self, row_id: int) -> None:
        """Mark a row as looked at and dropped; its bytes stay until retention takes them.

        Raises:
            Conflict: ``no_such_row``, ``not_open``.
        """
        with self._database.transaction() as tx:
            if quarantine.load(tx, row_id).state != "open":
                raise Conflict("The row is no longer open.", code="not_open")
            quarantine.resolve(tx, [row_id], state="dismissed")

    def purge(self, *, before_ms: int | None = None) -> int:
        """Remove rows whose last arrival is older than the retention, or than ``before_ms``; gives how many went."""
        limit = self._now_ms() - self.days * DAY_MS if before_ms is None else before_ms
        removed = 0
        while True:
            with self._database.transaction() as tx:
                step = quarantine.expire(tx, before_ms=limit, limit=PURGE_STEP)
            removed += step
            if step < PURGE_STEP:
                return removed


def decoded(raw: bytes) -> Decoded:
    """The bytes of a delivery taken apart, as far as they allow it."""
    head = raw[:_BYTES_SHOWN]
    start = f"{head[:256].hex(' ')}\n\n{head.decode('utf-8', 'replace')}"
    if not raw.isascii():
        return Decoded(None, None, (), start)
    jwt, *texts = raw.decode("ascii").rstrip("~").split("~")
    parts = jwt.split(".")
    if len(parts) != 3:
        return Decoded(None, None, (), start)
    disclosures = tuple(_json(text) or text[:_BYTES_SHOWN] for text in texts[:500] if text)
    return Decoded(_json(parts[0]), _json(parts[1]), disclosures, start)


def refusal_of(tx: Tx, row: QuarantineRow) -> RefusalRecord | None:
    """The ``refusal`` record that a quarantined authentic message has in the log."""
    if row.message_id is None or not row.is_authentic or row.kid is None:
        return None
    query = sa.select(records.c.raw, entries.c.leaf).outerjoin(entries, entries.c.arrival == records.c.arrival)
    for found in tx.execute(query.where(records.c.t == "refusal", records.c.subject_kid == row.kid)):
        payload = read_record(bytes(found.raw)).payload
        if payload["message"] == b64u(row.message_id):
            return RefusalRecord(str(payload["code"]), found.leaf)
    return None


def _json(text: str) -> str | None:
    try:
        value: Any = parse_json(unb64u(text), bytes_max=PUBLISH_BYTES_MAX, depth_max=_DEPTH_MAX)
    except Rejected:
        return None
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
