"""Capture jobs: stored before the 202 goes out, done in the very transaction that stores the events."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from api.auth.partners import Caller
from api.epcis.headers import ErrorBehaviour
from api.epcis.job_tables import CAPTURE_JOB
from api.errors import NotFound
from core.canonical import b64u, sha256
from core.errors import Broken, Conflict, Rejected, Unavailable
from ledger.database import Tx

ID_BYTES: Final = 16
# A partner that sends faster than we work is told so before the disk fills.
WAITING_MAX: Final = 200
WAITING_BYTES_MAX: Final = 512 * 1024 * 1024
KEEP_MS: Final = 90 * 86_400_000
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 200
_DEFLATE_LEVEL: Final = 1


@dataclass(frozen=True)
class Job:
    """A capture job as stored."""

    number: int
    id: str
    partner_id: int
    org: str
    client: str
    media: str
    behaviour: ErrorBehaviour
    is_done: bool
    is_success: bool
    created_ms: int
    finished_ms: int | None
    body_hash: bytes
    body: bytes | None
    result: Mapping[str, Any] | None

    @property
    def heading(self) -> dict[str, Any]:
        """The members that the standard gives a capture job, without its errors."""
        shown: dict[str, Any] = {"captureID": self.id, "createdAt": moment(self.created_ms)}
        if self.finished_ms is not None:
            shown["finishedAt"] = moment(self.finished_ms)
        return shown | {
            "running": not self.is_done,
            "success": self.is_success,
            "captureErrorBehaviour": self.behaviour,
        }


def moment(ms: int) -> str:
    """A time as EPCIS writes it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def open_job(
    tx: Tx,
    caller: Caller,
    body: bytes,
    *,
    media: str,
    behaviour: ErrorBehaviour,
    now_ms: int,
    random: bytes,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """Store a job, and whether it is new: the same idempotency key gives the job of the first time.

    Args:
        random: 16 fresh random bytes.

    Raises:
        Conflict: ``idempotency_key_reused`` with another body.
        Rejected: ``throttled``: too many jobs of this partner wait; ``bad_header``.
    """
    if caller.partner_id is None:
        raise Broken("Only a partner's program captures.", code="no_partner")
    key = _idempotency_key(idempotency_key)
    if key is not None:
        found = _by_key(tx, caller.partner_id, key)
        if found is not None:
            return _again(found, body), False
    table = CAPTURE_JOB.c
    waiting = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(table.body_bytes), 0))
    # With a bound on the number, too, so that the index by state serves: the partner's done jobs are many.
    waiting = waiting.where(table.state == "waiting", table.number > 0, table.partner_id == caller.partner_id)
    jobs, held = tx.execute(waiting).one()
    if jobs >= WAITING_MAX or held + len(body) > WAITING_BYTES_MAX:
        raise Rejected(f"{jobs} captures of yours are waiting; send more when they are done.", code="throttled")
    row = {"id": b64u(random), "partner_id": caller.partner_id, "org": caller.speaks_as, "client": caller.client}
    row |= {"media": media, "behaviour": behaviour, "state": "waiting", "is_success": True, "created_ms": now_ms}
    row |= {"body_hash": sha256(body), "body_bytes": len(body), "body": body, "idempotency_key": key}
    try:
        with tx.begin_nested():
            number = tx.execute(sa.insert(CAPTURE_JOB).values(row)).inserted_primary_key
    except IntegrityError as error:
        found = None if key is None else _by_key(tx, caller.partner_id, key)
        if found is None:
            raise Unavailable("Two requests with one idempotency key crossed; try again.", code="busy") from error
        return _again(found, body), False
    if number is None:
        raise Broken("The job has no number.", code="no_number")
    return load(tx, int(number[0]), has_body=False), True


def load(tx: Tx, number: int, *, has_body: bool = True) -> Job:
    """The job of a number, with its body while it waits; without it where ``has_body`` is false."""
    columns = [column for column in CAPTURE_JOB.columns if has_body or column.name != "body"]
    return _job(tx.execute(sa.select(*columns).where(CAPTURE_JOB.c.number == number)).one())


def body_of(tx: Tx, number: int) -> bytes | None:
    """The body of a waiting job, None once it is done."""
    body = tx.execute(sa.select(CAPTURE_JOB.c.body).where(CAPTURE_JOB.c.number == number)).scalar_one()
    return None if body is None else bytes(body)


def own_job(tx: Tx, caller: Caller, job_id: str) -> Job:
    """A job of the caller's.

    Raises:
        NotFound: there is none, or it is another partner's, which looks the same.
    """
    table = CAPTURE_JOB.c
    query = sa.select(CAPTURE_JOB).where(table.id == job_id, table.partner_id == caller.partner_id)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"You have no capture job {job_id}.")
    return _job(row)


def own_jobs(tx: Tx, caller: Caller, *, per_page: int, before: int | None) -> list[Job]:
    """The caller's jobs, newest first, at most one more than a page; without bodies and results."""
    table = CAPTURE_JOB.c
    columns = [column for column in CAPTURE_JOB.columns if column.name not in ("body", "result")]
    query = sa.select(*columns).where(table.partner_id == caller.partner_id).order_by(table.number.desc())
    if before is not None:
        query = query.where(table.number < before)
    return [_job(row) for row in tx.execute(query.limit(per_page + 1))]


def next_waiting(tx: Tx, *, after: int) -> int | None:
    """The number of the oldest waiting job above ``after``."""
    table = CAPTURE_JOB.c
    query = sa.select(table.number).where(table.state == "waiting", table.number > after)
    return tx.execute(query.order_by(table.number).limit(1)).scalar_one_or_none()


def finish(tx: Tx, number: int, *, is_success: bool, result: bytes, now_ms: int) -> None:
    """Close a job with its result; its body is no longer needed.

    Raises:
        Conflict: ``job_done``: another worker closed it; the caller's whole transaction must not count.
    """
    table = CAPTURE_JOB.c
    change = sa.update(CAPTURE_JOB).where(table.number == number, table.state == "waiting")
    done = {"state": "done", "is_success": is_success, "finished_ms": now_ms, "body": None}
    if tx.execute(change.values(done | {"result": zlib.compress(result, _DEFLATE_LEVEL)})).rowcount != 1:
        raise Conflict("Another worker has done this capture.", code="job_done")


def forget_old(tx: Tx, *, now_ms: int) -> int:
    """Delete jobs that ended more than 90 days ago; what they captured stays."""
    table = CAPTURE_JOB.c
    old = sa.delete(CAPTURE_JOB).where(table.state == "done", table.finished_ms < now_ms - KEEP_MS)
    return int(tx.execute(old).rowcount)


def _again(found: Job, body: bytes) -> Job:
    if found.body_hash != sha256(body):
        raise Conflict(
            "This Idempotency-Key was used for another body; use a new key for a new capture.",
            code="idempotency_key_reused",
        )
    return found


def _by_key(tx: Tx, partner_id: int, key: str) -> Job | None:
    table = CAPTURE_JOB.c
    query = sa.select(CAPTURE_JOB).where(table.partner_id == partner_id, table.idempotency_key == key)
    row = tx.execute(query).one_or_none()
    return None if row is None else _job(row)


def _idempotency_key(text: str | None) -> str | None:
    if text is None:
        return None
    if not 1 <= len(text) <= IDEMPOTENCY_KEY_CHARACTERS_MAX or not text.isprintable():
        raise Rejected(
            f"An Idempotency-Key has 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} printable characters.",
            code="bad_header",
            pointer="Idempotency-Key",
        )
    return text


def _job(row: Any) -> Job:
    columns = row._mapping
    body, result = columns.get("body"), columns.get("result")
    return Job(
        number=row.number,
        id=row.id,
        partner_id=row.partner_id,
        org=row.org,
        client=row.client,
        media=row.media,
        behaviour=row.behaviour,
        is_done=row.state == "done",
        is_success=row.is_success,
        created_ms=row.created_ms,
        finished_ms=row.finished_ms,
        body_hash=bytes(row.body_hash),
        body=None if body is None else bytes(body),
        result=None if result is None else json.loads(zlib.decompress(bytes(result))),
    )
