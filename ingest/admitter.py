"""One batch of deliveries into the ledger, the quarantine and the log of refusals, in one transaction."""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeGuard

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from core.canonical import b64u, sha256
from core.crypto import P256Private
from core.errors import Broken, Unavailable
from core.records import common, sign_record
from ingest import quarantine
from ingest.decisions import Accepted, Decision, Prepared, Refused, guarded, judge, poisoned
from ingest.metrics import IngestMetrics
from ingest.receipts import Answer, Promises, Terms, promised, refused
from ingest.tables import refusals
from ledger.database import Database, Tx, fetch, fetch_each, is_sqlite
from ledger.keys import KeyInfo, KeyRegister
from ledger.store import Admission, admit, admit_record, among_hashes, messages_among, rows_among
from ledger.tables import keys, messages

_REGISTER_TRIES = 20
_PARALLEL_MIN = 32
_REFUSED_AMONG = "SELECT message_id, code FROM refusals WHERE message_id AMONG"


@dataclass(frozen=True)
class Service:
    """Who we are to devices.

    Attributes:
        aud: the service's id, in every message. log: the origin of the log that receipts speak of.
    """

    aud: str
    log: str
    terms: Terms = field(default_factory=Terms)


# Keys by their thumbprint (None: not in the log), and the version of the register that says so.
Known = tuple[dict[str, KeyInfo | None], int]


class RegisterMoved(Exception):
    """A key changed between decision and commit: decide again."""


class Admitter:
    """Decides prepared deliveries and commits what follows from that.

    Args:
        operator_key: signs refusal and equivocation records.
        executor: checks signatures in parallel when given.
        at: called with the name of each crash point; tests stop the process there.
    """

    def __init__(
        self,
        database: Database,
        service: Service,
        *,
        operator_key: P256Private,
        metrics: IngestMetrics,
        now_ms: Callable[[], int],
        executor: Executor | None = None,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._database = database
        self._service = service
        self._operator_key = operator_key
        self._metrics = metrics
        self._now_ms = now_ms
        self._executor = executor
        self._at = at
        self._register = KeyRegister(database)
        self._promises: Promises | None = None

    def keys(self, kids: Sequence[str]) -> Known:
        """What we know about these keys, and in which version of the register; the commit sees whether it still holds.

        Raises:
            Unavailable: the database is away.
        """
        return self._register.remembered(kids) or self._ask(kids)

    def process(
        self, batch: Sequence[Prepared | Refused], *, known: Known | None = None, is_replay: bool = False
    ) -> list[Answer]:
        """Decide and commit a batch; gives the answers due to devices.

        Args:
            known: what :meth:`keys` gave a moment ago. The commit finds out if that is no longer so.

        Raises:
            Unavailable: the database is away: nothing is committed, or it is unknown whether it was; call again with
                the same batch, it will find what was stored.
            Broken: an invariant of ours is false.
        """
        self._history()
        for _ in range(_REGISTER_TRIES):
            decisions, version = self._decide(batch, known)
            known = None
            try:
                return self._commit(decisions, version, is_replay=is_replay)
            except RegisterMoved:
                continue
            except (Unavailable, Broken):
                raise
            except Exception:  # noqa: BLE001 - found below, message by message
                return self._commit_singly(decisions, version, is_replay=is_replay)
        raise Unavailable("The register of keys changes faster than messages are decided.", code="register_busy")

    def _ask(self, kids: Sequence[str]) -> Known:
        with self._database.reading() as tx:
            version = self._register.refresh(tx)
            return {kid: self._register.find(tx, kid) for kid in set(kids)}, version

    def _decide(self, batch: Sequence[Prepared | Refused], known: Known | None) -> tuple[list[Decision], int]:
        kids = {one.envelope.kid for one in batch if isinstance(one, Prepared)}
        if known is None or not kids <= known[0].keys():
            known = self._ask(list(kids))
        found, version = known
        now = self._now_ms() // 1000

        def decide_one(one: Prepared | Refused) -> Decision:
            if isinstance(one, Refused):
                return one
            info = found[one.envelope.kid]
            return guarded(lambda: judge(one, info, aud=self._service.aud, now=now), one.delivery, one.name)

        if self._executor is None or len(batch) < _PARALLEL_MIN:
            return [decide_one(one) for one in batch], version
        half = (len(batch) + 1) // 2
        parts = self._executor.map(lambda part: [decide_one(one) for one in part], (batch[:half], batch[half:]))
        return [decision for part in parts for decision in part], version

    def _commit_singly(self, decisions: Sequence[Decision], version: int, *, is_replay: bool) -> list[Answer]:
        answers: list[Answer] = []
        for decision in decisions:
            try:
                answers += self._commit([decision], version, is_replay=is_replay)
            except RegisterMoved as moved:
                # The same batch comes again; what is stored by now is then a duplicate and gets its receipt.
                raise Unavailable("A key changed while a batch was taken apart.", code="register_busy") from moved
            except (Unavailable, Broken):
                raise
            except Exception as error:  # noqa: BLE001 - this is the message that breaks the store
                refusal = poisoned(decision.delivery, error, decision.name)
                answers += self._commit([refusal], version, is_replay=is_replay)
        return answers

    def _commit(self, decisions: Sequence[Decision], version: int, *, is_replay: bool) -> list[Answer]:
        accepted = [one for one in decisions if isinstance(one, Accepted)]
        refused_for_good = [one for one in decisions if isinstance(one, Refused) and one.signed is not None]
        now_ms = self._now_ms()
        self._at("before_commit")
        started = time.monotonic()
        with self._database.transaction() as tx:
            asked = [*(one.message.signed.id for one in accepted), *_ids(refused_for_good)]
            known, now_version = _refusals_and_version(tx, asked)
            if (accepted or refused_for_good) and now_version != version:
                raise RegisterMoved
            fresh = [one for one in accepted if is_replay or one.message.signed.id not in known]
            # Stored before its key ended and sent again after: it keeps its promise.
            taken = _stored(tx, _ids(refused_for_good))
            admissions = admit(tx, [one.message for one in fresh], now_ms=now_ms)
            self._record_equivocations(tx, fresh, admissions, now_ms)
            known |= self._record_refusals(tx, refused_for_good, {*known, *taken}, now_ms)
            quarantine.put(tx, [one.fault for one in decisions if _is_quarantined(one, taken)], now_ms=now_ms)
        self._metrics.commit_seconds.observe(time.monotonic() - started)
        self._count(decisions, fresh, admissions)
        taken |= {one.message.signed.id: admission for one, admission in zip(fresh, admissions, strict=True)}
        return self._answers(decisions, taken, known)

    def _answers(
        self, decisions: Sequence[Decision], taken: dict[bytes, Admission], known: dict[bytes, str]
    ) -> list[Answer]:
        history = self._history()
        answers: list[Answer] = []
        aud, log = self._service.aud, self._service.log
        for one in decisions:
            signed = one.message.signed if isinstance(one, Accepted) else one.signed
            if signed is None or one.name is None:
                continue
            publish = one.publish if isinstance(one, Accepted) else sha256(one.delivery.payload)
            found = taken.get(signed.id)
            if found is None:
                code = known[signed.id]
                answers.append(refused(one.name, aud=aud, log=log, message_id=signed.id, publish=publish, code=code))
                continue
            answers.append(
                promised(
                    one.name,
                    aud=aud,
                    log=log,
                    message_id=signed.id,
                    leaf_hash=found.leaf_hash,
                    publish=publish,
                    accepted_ms=found.received_ms,
                    history=history,
                )
            )
        return answers

    def _history(self) -> Promises:
        if self._promises is None:
            with self._database.transaction() as tx:
                found = Promises.put_in_force(tx, self._service.terms, now_s=self._now_ms() // 1000)
            self._promises = found
        return self._promises

    def _record_refusals(
        self, tx: Tx, decisions: Sequence[Refused], answered: Collection[bytes], now_ms: int
    ) -> dict[bytes, str]:
        insert = insert_sqlite if is_sqlite(tx) else insert_postgres
        written: dict[bytes, str] = {}
        for one in decisions:
            signed = one.signed
            if signed is None or signed.id in answered or signed.id in written:
                continue
            row = {"message_id": signed.id, "kid": signed.kid, "seq": signed.seq, "code": one.fault.code}
            added = insert(refusals).values(refused_ms=now_ms, **row).on_conflict_do_nothing()
            written[signed.id] = one.fault.code
            if tx.execute(added.returning(refusals.c.seq)).first() is None:
                # Another worker refused it at this very moment: its answer stands.
                written |= _refusals(tx, [signed.id])
                continue
            members = {
                "message": b64u(signed.id),
                "kid": signed.kid,
                "iss": signed.iss,
                "seq": signed.seq,
                "prev": None if signed.prev is None else b64u(signed.prev),
                "code": one.fault.code,
            }
            self._record(tx, "refusal", signed.org, members, now_ms)
        return written

    def _record_equivocations(
        self, tx: Tx, accepted: Sequence[Accepted], admissions: Sequence[Admission], now_ms: int
    ) -> None:
        for one, admission in zip(accepted, admissions, strict=True):
            if admission.status != "equivocation":
                continue
            signed = one.message.signed
            query = sa.select(messages.c.id).join(keys, keys.c.key_no == messages.c.key_no)
            query = query.where(keys.c.kid == signed.kid, messages.c.seq == signed.seq).order_by(messages.c.arrival)
            ids = [b64u(found) for found in tx.execute(query).scalars()]
            members = {"kid": signed.kid, "iss": signed.iss, "seq": signed.seq, "ids": ids}
            self._record(tx, "equivocation", signed.org, members, now_ms)

    def _record(self, tx: Tx, kind: str, org: str, members: dict[str, object], now_ms: int) -> None:
        head = common(t=kind, aud=self._service.aud, log=self._service.log, org=org, iat=now_ms // 1000)
        admit_record(tx, sign_record(head | members, self._operator_key), now_ms=now_ms)

    def _count(self, decisions: Sequence[Decision], fresh: Sequence[Accepted], admissions: Sequence[Admission]) -> None:
        metrics = self._metrics
        statuses = [admission.status for admission in admissions]
        new = [len(one.message.events) for one, status in zip(fresh, statuses, strict=True) if status != "duplicate"]
        metrics.stored.inc(len(new))
        metrics.events.inc(sum(new))
        metrics.duplicate.inc(len(statuses) - len(new))
        metrics.equivocation.inc(statuses.count("equivocation"))
        for decision in decisions:
            if isinstance(decision, Refused):
                metrics.refused.labels(decision.fault.code).inc()
                if decision.fault.code == "poison":
                    metrics.poison.inc()


def _refusals_and_version(tx: Tx, ids: Sequence[bytes]) -> tuple[dict[bytes, str], int]:
    """What was refused of these, and the version of the register, which stays so until we have committed."""
    version = "SELECT value FROM counters WHERE name = 'register'"
    if is_sqlite(tx) or not ids:
        return _refusals(tx, ids), int(fetch(tx, version)[0][0])
    # An end record that commits between decision and commit would otherwise be passed by a later message.
    found, refused_before = fetch_each(tx, [(f"{version} FOR SHARE", ()), among_hashes(_REFUSED_AMONG, ids)])
    return dict(refused_before), int(found[0][0])


def _stored(tx: Tx, ids: Sequence[bytes]) -> dict[bytes, Admission]:
    return {row[0]: Admission("duplicate", row[0], row[2], row[3]) for row in messages_among(tx, ids)}


def _is_quarantined(decision: Decision, taken: Collection[bytes]) -> TypeGuard[Refused]:
    return isinstance(decision, Refused) and (decision.signed is None or decision.signed.id not in taken)


def _refusals(tx: Tx, ids: Sequence[bytes]) -> dict[bytes, str]:
    return dict(rows_among(tx, _REFUSED_AMONG, ids))


def _ids(decisions: Sequence[Refused]) -> list[bytes]:
    return [one.signed.id for one in decisions if one.signed is not None]
