"""Where organisations hand in the records they signed: checked, stored once, answered with a promise of inclusion.

A record is its own proof of who says it: nobody but the holder of the organisation's record-signing key can make one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, parse_json, sha256
from core.crypto import P256Private
from core.errors import Broken, Conflict, Rejected, Unavailable
from core.receipts import promise, sign_receipts
from core.records import Record, read_record
from ingest import record_rules
from ingest.receipts import Promises, Terms
from ledger.database import Database, Tx
from ledger.itemmap import proof_size
from ledger.log import checkpoint_covering, leaf_of
from ledger.store import admit_record
from ledger.tables import entries, records

RECORDS_MAX: Final = 500
PAGE_MAX: Final = 200
_RECEIPT_BYTES_MAX: Final = 16_000
# What the log already holds forbids these; sending the record again never helps, reading the log does.
_CONFLICTS: Final = frozenset({"key_exists", "already_ended"})
Brake = Callable[[], str | None]


@dataclass(frozen=True)
class Taken:
    """A record that is stored.

    Attributes:
        id: SHA-256 of its signing input. leaf_hash: of its bytes. is_new: False when it was there already.
        receipt: our signed promise that it stands in the log in time, as devices get for a message.
    """

    record: Record
    id: bytes
    leaf_hash: bytes
    accepted_ms: int
    is_new: bool
    receipt: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """How far a record has come: ``waiting``, ``sequenced``, ``in_checkpoint`` or ``final`` (anchored for good)."""

    id: bytes
    t: str
    org: str
    received_ms: int
    state: str
    leaf: int | None
    checkpoint: int | None
    summary: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The members shown to programs."""
        return {
            "id": b64u(self.id), "t": self.t, "org": self.org, "received_ms": self.received_ms, "state": self.state,
            "leaf": self.leaf, "checkpoint": self.checkpoint, "record": self.summary,
        }  # fmt: skip


class RecordDesk:
    """Takes records, for any number of threads and processes.

    Args:
        receipt_key: signs the promise; its record says ``use: receipt``.
        aud, log: the service and the log that a record must name.
        brakes: each gives a sentence while nothing more may be accepted.
    """

    def __init__(
        self,
        database: Database,
        *,
        receipt_key: P256Private,
        aud: str,
        log: str,
        terms: Terms,
        now_ms: Callable[[], int],
        brakes: Sequence[Brake] = (),
    ) -> None:
        self._database = database
        self._receipt_key = receipt_key
        self.aud, self.log = aud, log
        self._terms = terms
        self._now_ms = now_ms
        self._brakes = brakes
        self._promises: Promises | None = None

    def take(self, raws: Sequence[bytes], *, org: str | None = None, is_single: bool = False) -> list[Taken]:
        """Store all of these records or none.

        Args:
            org: the organisation that hands them in, where it is known; records of another one are refused.
            is_single: leave the record's place in the list out of pointers.

        Raises:
            Rejected: a record is wrong. Conflict: what stands in the log forbids it. Unavailable: nothing can be
                accepted now, or the database is away.
        """
        if not 1 <= len(raws) <= RECORDS_MAX:
            raise Rejected(f"Send 1 to {RECORDS_MAX} records at once.", code="too_many_records", pointer="/records")
        held = next((sentence for sentence in (brake() for brake in self._brakes) if sentence), None)
        if held is not None:
            raise Unavailable(held, code="intake_held")
        stored = []
        with self._database.transaction() as tx:
            for number, raw in enumerate(raws):
                try:
                    stored.append(self.admit(tx, raw, org=org))
                except (Rejected, Conflict) as error:
                    place = "" if is_single else f"/records/{number}"
                    raise type(error)(error.message, code=error.code, pointer=place + error.pointer) from error
        return self._answered(stored, raws)

    def admit(self, tx: Tx, raw: bytes, *, org: str | None = None) -> tuple[Record, bytes, bytes, int, bool]:
        """Store one record inside the caller's transaction: record, id, leaf hash, when received, whether new.

        Raises:
            Rejected: it is wrong. Conflict: what stands in the log forbids it.
        """
        record = read_record(raw)
        if record.t not in record_rules.KINDS:
            raise Rejected(
                f"Organisations hand in {', '.join(record_rules.KINDS)}; the operator writes {record.t}.",
                code="wrong_kind",
                pointer="/t",
            )
        if org is not None and record.payload["org"] != org:
            raise Rejected("The record is another organisation's.", code="other_organisation", pointer="/org")
        known = tx.execute(sa.select(records.c.raw).where(records.c.id == record.id)).scalar_one_or_none()
        if known is not None and bytes(known) != raw:
            # ECDSA gives one text many signatures: the log keeps the first, and says nothing for bytes it never saw.
            raise Conflict("The same record stands here under another signature.", code="record_exists")
        try:
            admission = admit_record(tx, raw, now_ms=self._now_ms())
        except Rejected as error:
            if error.code in _CONFLICTS:
                raise Conflict(error.message, code=error.code, pointer=error.pointer) from error
            raise
        is_new = admission.status != "duplicate"
        if is_new:
            record_rules.check(tx, record)
        return record, admission.message_id, admission.leaf_hash, admission.received_ms, is_new

    def _answered(self, stored: Sequence[tuple[Record, bytes, bytes, int, bool]], raws: Sequence[bytes]) -> list[Taken]:
        history = self._history()
        promises = []
        for (_, record_id, leaf_hash, received_ms, _), raw in zip(stored, raws, strict=True):
            accepted_s = received_ms // 1_000
            terms = history.at(accepted_s)
            promises.append(
                promise(
                    aud=self.aud,
                    log=self.log,
                    message=record_id,
                    leaf=leaf_hash,
                    publish=sha256(raw),
                    accepted_at=accepted_s,
                    promise_s=terms.promise_s,
                    heartbeat_s=terms.heartbeat_s,
                )
            )
        signed = sign_receipts(promises, self._receipt_key, aud=self.aud, log=self.log)
        return [
            Taken(record, record_id, leaf_hash, received_ms, is_new, _parsed(receipt))
            for (record, record_id, leaf_hash, received_ms, is_new), receipt in zip(stored, signed, strict=True)
        ]

    def _history(self) -> Promises:
        if self._promises is None:
            with self._database.transaction() as tx:
                self._promises = Promises.put_in_force(tx, self._terms, now_s=self._now_ms() // 1_000)
        return self._promises


def standing(tx: Tx, record_id: bytes) -> Standing | None:
    """How far a record has come, None when there is none of this id."""
    row = tx.execute(sa.select(records).where(records.c.id == record_id)).first()
    return None if row is None else _standing(tx, row, leaf_of(tx, record_id))


def listed(
    tx: Tx, *, org: str, t: str | None = None, before: int | None = None, limit: int = 50
) -> tuple[list[Standing], int | None]:
    """An organisation's records, newest first, and where the next page starts (None at the end).

    Args:
        t: key, end, master or org; None for all. before: what the page before gave. limit: at most 200.
    """
    query = sa.select(records, entries.c.leaf.label("at")).outerjoin(entries, entries.c.arrival == records.c.arrival)
    query = query.where(records.c.org == org).order_by(records.c.arrival.desc())
    if t is not None:
        query = query.where(records.c.t == t)
    if before is not None:
        query = query.where(records.c.arrival < before)
    size = min(limit, PAGE_MAX)
    rows = tx.execute(query.limit(size + 1)).all()
    page = [_standing(tx, row, row.at) for row in rows[:size]]
    return page, int(rows[size - 1].arrival) if len(rows) > size else None


def _standing(tx: Tx, row: Any, leaf: int | None) -> Standing:
    checkpoint = None if leaf is None else checkpoint_covering(tx, leaf)
    is_final = leaf is not None and leaf < proof_size(tx)
    state = "final" if is_final else "in_checkpoint" if checkpoint else "sequenced" if leaf is not None else "waiting"
    payload = read_record(bytes(row.raw)).payload
    hidden = {"v", "t", "aud", "log", "org"}
    return Standing(
        id=bytes(row.id),
        t=str(payload["t"]),
        org=row.org,
        received_ms=row.received_ms,
        state=state,
        leaf=leaf,
        checkpoint=None if checkpoint is None else checkpoint.size,
        summary={name: value for name, value in payload.items() if name not in hidden},
    )


def _parsed(receipt: bytes) -> dict[str, Any]:
    found = parse_json(receipt, bytes_max=_RECEIPT_BYTES_MAX)
    if not isinstance(found, dict):
        raise Broken("A receipt of ours is no object.", code="bad_receipt")
    return found
