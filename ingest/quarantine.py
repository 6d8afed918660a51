"""The quarantine: everything that was not taken, with its reason and its very bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from core.canonical import sha256
from core.errors import Conflict
from ingest.source import Delivery
from ingest.tables import quarantine, quarantine_totals
from ledger.database import Tx, is_sqlite

ROWS_MAX = 200_000
BYTES_MAX = 1_000_000_000
PAGE_MAX = 500
_TEXT_MAX = 2_000
# What a later arrival, or a replay, tells anew about the same bytes.
_LEARNT = ("code", "sentence", "pointer", "detail", "is_authentic", "last_ms")


@dataclass(frozen=True)
class Fault:
    """Why one delivery was not taken.

    Attributes:
        code: stable word. sentence: for a person. pointer: place in the message, or "".
        detail: the end of a traceback when our own code failed.
        is_authentic: the key signed it for this service, so its device gets a refusal receipt.
        kid, message_id: as far as the bytes could be read.
    """

    delivery: Delivery
    code: str
    sentence: str
    pointer: str = ""
    detail: str = ""
    is_authentic: bool = False
    gln: str | None = None
    device: str | None = None
    kid: str | None = None
    message_id: bytes | None = None


@dataclass(frozen=True)
class QuarantineRow:
    """One quarantined delivery. ``raw`` is None in search results; ``load`` gives it."""

    id: int
    state: str
    code: str
    sentence: str
    pointer: str
    detail: str
    topic: str
    gln: str | None
    device: str | None
    kid: str | None
    message_id: bytes | None
    is_authentic: bool
    is_retained: bool
    times: int
    first_ms: int
    last_ms: int
    raw: bytes | None = None

    @property
    def delivery(self) -> Delivery:
        """The delivery as it once arrived, to be decided again."""
        return Delivery(self.topic, self.raw or b"", None, self.is_retained)


_COLUMNS = tuple(column for column in quarantine.c if column.name not in ("digest", "raw"))


def put(tx: Tx, faults: Sequence[Fault], *, now_ms: int) -> int:
    """Keep what was not taken; the same bytes on the same topic stay one row. Gives the number of new rows."""
    counts: dict[bytes, int] = {}
    by_digest: dict[bytes, Fault] = {}
    for fault in faults:
        digest = _digest(fault)
        counts[digest] = counts.get(digest, 0) + 1
        by_digest[digest] = fault
    if not by_digest:
        return 0
    known = set(tx.execute(sa.select(quarantine.c.digest).where(quarantine.c.digest.in_(list(by_digest)))).scalars())
    insert = insert_sqlite if is_sqlite(tx) else insert_postgres
    again = insert(quarantine)
    changed = {name: again.excluded[name] for name in _LEARNT}
    again = again.on_conflict_do_update(
        index_elements=["digest"], set_={**changed, "times": quarantine.c.times + again.excluded.times}
    )
    for digest in sorted(by_digest):
        tx.execute(again.values(digest=digest, times=counts[digest], **_row(by_digest[digest], now_ms)))
    new = [fault for digest, fault in by_digest.items() if digest not in known]
    if new:
        _add_totals(tx, len(new), sum(len(fault.delivery.payload) for fault in new))
    return len(new)


def search(
    tx: Tx,
    *,
    state: str | None = "open",
    code: str | None = None,
    gln: str | None = None,
    device: str | None = None,
    kid: str | None = None,
    message_id: bytes | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    text: str | None = None,
    before_id: int | None = None,
    limit: int = 50,
) -> list[QuarantineRow]:
    """Quarantined deliveries, newest first, without their bytes.

    Args:
        state: ``open``, ``accepted``, ``dismissed`` or None for all.
        since_ms, until_ms: bounds of the last arrival, the second one excluded.
        text: stands in the sentence, pointer, topic or code, in any case.
        before_id: the last id of the page before.
        limit: at most 500.
    """
    query = sa.select(*_COLUMNS).order_by(quarantine.c.id.desc()).limit(min(limit, PAGE_MAX))
    equal = {"state": state, "code": code, "gln": gln, "device": device, "kid": kid, "message_id": message_id}
    for name, value in equal.items():
        if value is not None:
            query = query.where(quarantine.c[name] == value)
    if since_ms is not None:
        query = query.where(quarantine.c.last_ms >= since_ms)
    if until_ms is not None:
        query = query.where(quarantine.c.last_ms < until_ms)
    if text:
        columns = (quarantine.c.sentence, quarantine.c.pointer, quarantine.c.topic, quarantine.c.code)
        query = query.where(sa.or_(*(column.icontains(text, autoescape=True) for column in columns)))
    if before_id is not None:
        query = query.where(quarantine.c.id < before_id)
    return [QuarantineRow(**row) for row in tx.execute(query).mappings()]


def load(tx: Tx, row_id: int) -> QuarantineRow:
    """One row with its bytes.

    Raises:
        Conflict: ``no_such_row`` (it may have been removed by retention).
    """
    query = sa.select(*_COLUMNS, quarantine.c.raw).where(quarantine.c.id == row_id)
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        raise Conflict(f"The quarantine holds no row {row_id}.", code="no_such_row")
    return QuarantineRow(**row)


def count_by_code(tx: Tx) -> dict[str, int]:
    """How many open rows each reason has."""
    query = (
        sa.select(quarantine.c.code, sa.func.count()).where(quarantine.c.state == "open").group_by(quarantine.c.code)
    )
    return {row[0]: row[1] for row in tx.execute(query)}


def resolve(tx: Tx, row_ids: Sequence[int], *, state: str) -> None:
    """Mark rows ``accepted`` or ``dismissed``."""
    tx.execute(quarantine.update().where(quarantine.c.id.in_(list(row_ids))).values(state=state))


def expire(tx: Tx, *, before_ms: int, limit: int = 1_000) -> int:
    """Remove rows whose last arrival is older than ``before_ms``, at most ``limit``; gives how many went."""
    query = sa.select(quarantine.c.id, sa.func.length(quarantine.c.raw)).where(quarantine.c.last_ms < before_ms)
    old = tx.execute(query.order_by(quarantine.c.last_ms).limit(limit)).all()
    if old:
        tx.execute(quarantine.delete().where(quarantine.c.id.in_([row[0] for row in old])))
        _add_totals(tx, -len(old), -sum(row[1] for row in old))
    return len(old)


def fill(tx: Tx, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> float:
    """How full the quarantine is: 1.0 means that intake stops until somebody looks or retention makes room."""
    rows, size = tx.execute(sa.select(quarantine_totals.c.rows, quarantine_totals.c.bytes)).one()
    return max(float(rows) / rows_max, float(size) / bytes_max)


def _row(fault: Fault, now_ms: int) -> dict[str, object]:
    return {
        "state": "open",
        "code": fault.code,
        "sentence": _storable(fault.sentence),
        "pointer": _storable(fault.pointer),
        "detail": _storable(fault.detail),
        "topic": _storable(fault.delivery.topic),
        "gln": fault.gln,
        "device": fault.device,
        "kid": fault.kid,
        "message_id": fault.message_id,
        "is_authentic": fault.is_authentic,
        "is_retained": fault.delivery.is_retained,
        "raw": fault.delivery.payload,
        "first_ms": now_ms,
        "last_ms": now_ms,
    }


def _digest(fault: Fault) -> bytes:
    return sha256(fault.delivery.topic.encode("utf-8", "replace") + b"\0" + fault.delivery.payload)


def _storable(text: str) -> str:
    # Sentences may quote the message; PostgreSQL takes no zero character, UTF-8 no half surrogate.
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode("utf-8")[:_TEXT_MAX]


def _add_totals(tx: Tx, rows: int, size: int) -> None:
    tx.execute(
        quarantine_totals.update().values(rows=quarantine_totals.c.rows + rows, bytes=quarantine_totals.c.bytes + size)
    )
