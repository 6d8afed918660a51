"""The gateway: events that partners capture over HTTP, signed by a key of the platform on their behalf.

All parts of one capture are admitted in one database transaction, with whatever its caller settles there. A message
counts only once that transaction has committed: bytes that were signed before a crash were shown to nobody, so their
place in the key's chain is free again.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

import sqlalchemy as sa

from core.canonical import b64u, dump_json, parse_json
from core.crypto import P256Private
from core.epcis.validate import Problem, event_warnings
from core.errors import Broken, Conflict, Rejected, Unavailable
from core.receipts import promise, publish_hash, sign_receipts
from core.sealing import Concealed, Sealed, conceal_each, packed, seal
from ingest.captured import Known, Named, is_same, known_events, named, remember, renamed
from ingest.decisions import event_faults
from ingest.gateway_tables import gateway_heads
from ingest.receipts import Promises, Terms
from ledger.database import Database, Tx
from ledger.keys import KeyInfo, key_info
from ledger.store import MESSAGES_MAX, admit

Status = Literal["accepted", "duplicate", "rejected", "rolled_back"]
Behaviour = Literal["rollback", "proceed"]
Brake = Callable[[], str | None]

_TRIES: Final = 10
_RECEIPT_BYTES_MAX: Final = 16_000


@dataclass(frozen=True)
class Speaker:
    """In whose name a capture speaks.

    Attributes:
        org: the organisation's id. client: which program of it.
        body: SHA-256 of the HTTP body as it came.
    """

    org: str
    client: str
    body: bytes


class Fault(NamedTuple):
    """What is wrong, or odd, with an event: JSON pointer into the document, stable code, sentence."""

    pointer: str
    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        """The members shown to the partner."""
        return {"pointer": self.pointer, "code": self.code, "detail": self.message}


class Submitted(NamedTuple):
    """One event of a capture: as it came, with the context around it, and where it stands in the document."""

    event: Mapping[str, Any]
    context: object = None
    pointer: str = ""


class Result(NamedTuple):
    """What became of one event.

    Attributes:
        status: ``accepted``; ``duplicate`` (this very event was captured before); ``rejected``, with ``faults``;
            ``rolled_back`` (nothing wrong with it, but with another event of the same capture).
        event_id: its eventID, given by us where it came without one.
        hash: its GS1 event hash. message: id of the message that holds it. number: its number there.
    """

    status: Status
    pointer: str
    event_id: str = ""
    hash: str = ""
    message: bytes | None = None
    number: int | None = None
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The members shown to the partner."""
        shown: dict[str, Any] = {"status": self.status, "pointer": self.pointer}
        if self.event_id:
            shown |= {"eventID": self.event_id, "eventHash": self.hash}
        if self.message is not None:
            shown |= {"message": _message_text(self.message), "number": self.number}
        if self.faults:
            shown["errors"] = [fault.as_json() for fault in self.faults]
        if self.warnings:
            shown["warnings"] = [fault.as_json() for fault in self.warnings]
        return shown


# A message holds many events.
_message_text = lru_cache(maxsize=64)(b64u)


@dataclass(frozen=True)
class Outcome:
    """What became of a capture.

    Attributes:
        results: one for each event, in order.
        receipts: the signed promise for each message, by its id.
        events: the events as stored, in order; None for those that are not.
    """

    results: tuple[Result, ...]
    receipts: Mapping[bytes, Mapping[str, Any]] = field(default_factory=dict)
    events: tuple[Mapping[str, Any] | None, ...] = ()

    @property
    def is_success(self) -> bool:
        """Whether every event is stored."""
        return all(result.status in ("accepted", "duplicate") for result in self.results)


Settle = Callable[[Tx, Outcome], None]


class _Checked(NamedTuple):
    pointer: str
    named: Named | None
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


class Gateway:
    """Signs and stores captures, for any number of threads; processes that share the key take turns by its head row.

    Args:
        key: the gateway's key; its record says ``use: gateway``. org, iss: those of the record.
        aud, log: the service, and the log that receipts speak of.
        brakes: each gives a sentence while nothing more may be accepted, else None.
        now_ms: the wall clock. salts: gives so many random bytes.
        at: called with the name of each crash point; tests stop the process there.
    """

    def __init__(
        self,
        database: Database,
        *,
        key: P256Private,
        receipt_key: P256Private,
        aud: str,
        log: str,
        terms: Terms,
        now_ms: Callable[[], int],
        random: Callable[[int], bytes],
        brakes: Sequence[Brake] = (),
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._database = database
        self._key, self._kid, self._receipt_key = key, key.thumbprint(), receipt_key
        self._aud, self._log, self._terms = aud, log, terms
        self._now_ms, self._random, self._brakes, self._at = now_ms, random, brakes, at
        self._turn = threading.Lock()
        self._info: KeyInfo | None = None
        self._promises: Promises | None = None

    def check_ready(self) -> None:
        """Return if captures can be taken now.

        Raises:
            Unavailable: the key's record is not in the log yet, or a brake is on.
        """
        self._key_info()
        held = next((sentence for sentence in (brake() for brake in self._brakes) if sentence), None)
        if held is not None:
            raise Unavailable(held, code="intake_held")

    def capture(
        self,
        submitted: Sequence[Submitted],
        speaker: Speaker,
        *,
        behaviour: Behaviour = "rollback",
        settle: Settle = lambda tx, outcome: None,
    ) -> Outcome:
        """Check, sign and store events.

        Args:
            behaviour: ``rollback`` stores all or none, ``proceed`` those that are valid.
            settle: called inside the transaction; what it writes commits with the events, or not at all.

        Raises:
            Unavailable: the database is away, or the key is not ready. Conflict: another process moves the key's chain
                again and again.
        """
        info = self._key_info()
        now_ms = self._now_ms()
        checked = _checks(submitted, speaker.org, now_ms // 1000)
        for _ in range(_TRIES):
            outcome = self._try(checked, speaker, behaviour, settle, info)
            if outcome is not None:
                return outcome
        raise Conflict("Other processes use this gateway's key without a pause; capture again.", code="gateway_busy")

    def trial(self, submitted: Sequence[Submitted], org: str) -> Outcome:
        """What a capture would find, with nothing signed and nothing stored."""
        checked = _checks(submitted, org, self._now_ms() // 1000)
        with self._database.reading() as tx:
            known = known_events(tx, [one.named for one in checked if one.named is not None])
        results, _ = self._sort(_moved(checked, known, org) or checked, known)
        return Outcome(tuple(one._replace(number=None) if one.message is None else one for one in results))

    def _try(
        self, checked: Sequence[_Checked], speaker: Speaker, behaviour: Behaviour, settle: Settle, info: KeyInfo
    ) -> Outcome | None:
        with self._database.reading() as tx:
            known = known_events(tx, [one.named for one in checked if one.named is not None])
        moved = _moved(checked, known, speaker.org)
        if moved is not None:
            checked = moved
            with self._database.reading() as tx:
                known = known_events(tx, [one.named for one in checked if one.named is not None])
        results, fresh = self._sort(checked, known)
        if behaviour == "rollback" and any(result.status == "rejected" for result in results):
            outcome = Outcome(tuple(_rolled_back(result) for result in results), events=(None,) * len(results))
            fresh = []
        else:
            outcome = Outcome(tuple(results), events=_stored_events(checked, results))
        parts = packed([concealed for _, concealed in fresh])
        if len(parts) > MESSAGES_MAX:
            raise Rejected("The capture needs too many messages; send it in several.", code="too_large")
        with self._turn:
            return self._commit(outcome, [place for place, _ in fresh], parts, checked, speaker, settle, info)

    def _sort(self, checked: Sequence[_Checked], known: Known) -> tuple[list[Result], list[tuple[int, Concealed]]]:
        """A result for each event, and those that are to be signed, by their place."""
        results: list[Result] = []
        fresh: list[tuple[int, Concealed]] = []
        here: dict[bytes, tuple[int, Named]] = {}
        given_events = {
            place: one.named.event
            for place, one in enumerate(checked)
            if one.named is not None and known.get(one.named) is None
        }
        concealed = dict(zip(given_events, conceal_each(list(given_events.values()), self._random), strict=True))
        for place, one in enumerate(checked):
            pointer, given = one.pointer, one.named
            if given is None:
                results.append(Result("rejected", pointer, faults=one.faults, warnings=one.warnings))
                continue
            first, found = here.get(given.row_key), known.get(given)
            status: Status = "accepted"
            message, number, faults = None, None, one.faults
            if found is not None and found.is_same:
                status, message, number = "duplicate", found.message, found.number
            elif first is not None and is_same(first[1], given):
                # Twice in one document: the second is told as the first's duplicate once that has its place.
                status, number = "duplicate", first[0]
            elif found is not None or first is not None:
                status, faults = "rejected", (_taken(pointer, given.event_id),)
            else:
                ready = concealed[place]
                if isinstance(ready, Rejected):
                    status, faults = "rejected", (Fault(pointer + ready.pointer, ready.code, ready.message),)
                else:
                    fresh.append((place, ready))
                    here[given.row_key] = (place, given)
            results.append(Result(status, pointer, given.event_id, given.hash, message, number, faults, one.warnings))
        return results, fresh

    def _commit(
        self,
        outcome: Outcome,
        places: Sequence[int],
        parts: Sequence[Sequence[Concealed]],
        checked: Sequence[_Checked],
        speaker: Speaker,
        settle: Settle,
        info: KeyInfo,
    ) -> Outcome | None:
        history = self._history()
        with self._database.reading() as tx:
            head = tx.execute(sa.select(gateway_heads).where(gateway_heads.c.kid == self._kid)).one_or_none()
        before = -1 if head is None else head.seq
        now_ms = self._now_ms()
        sealed = self._seal(parts, before, None if head is None else bytes(head.prev), speaker, info, now_ms)
        whole = _placed(outcome, places, sealed)
        whole = replace(whole, receipts=self._receipts(sealed, now_ms, history))
        rows = [
            (given, result)
            for result, one in zip(whole.results, checked, strict=True)
            if result.status == "accepted" and (given := one.named) is not None
        ]
        self._at("before_commit")
        try:
            with self._database.transaction() as tx:
                if sealed:
                    self._move(tx, before, sealed[-1])
                    remember(tx, rows)
                    admissions = admit(tx, [one.message for one in sealed], now_ms=now_ms)
                    if any(admission.status != "stored" for admission in admissions):
                        raise Broken("A gateway's message was there before it was made.", code="gateway_chain")
                settle(tx, whole)
                self._at("in_commit")
        except Conflict as error:
            if error.code in ("constraint", "gateway_moved"):
                return None
            raise
        self._at("after_commit")
        return whole

    def _seal(
        self,
        parts: Sequence[Sequence[Concealed]],
        before: int,
        prev: bytes | None,
        speaker: Speaker,
        info: KeyInfo,
        now_ms: int,
    ) -> list[Sealed]:
        sealed: list[Sealed] = []
        said = {"org": speaker.org, "client": speaker.client, "body": b64u(speaker.body)}
        for part, events in enumerate(parts):
            one = seal(
                events,
                aud=self._aud,
                org=info.org,
                iss=info.iss,
                iat=now_ms // 1000,
                seq=before + 1 + part,
                prev=prev,
                key=self._key,
                on_behalf_of=said | {"part": part, "parts": len(parts)},
            )
            prev = one.message.id
            sealed.append(one)
        return sealed

    def _receipts(self, sealed: Sequence[Sealed], now_ms: int, history: Promises) -> dict[bytes, Mapping[str, Any]]:
        accepted_s = now_ms // 1000
        terms = history.at(accepted_s)
        payloads = [
            promise(
                aud=self._aud,
                log=self._log,
                message=one.message.id,
                leaf=one.message.signed.leaf_hash,
                publish=publish_hash(one.raw),
                accepted_at=accepted_s,
                promise_s=terms.promise_s,
                heartbeat_s=terms.heartbeat_s,
            )
            for one in sealed
        ]
        signed = sign_receipts(payloads, self._receipt_key, aud=self._aud, log=self._log)
        return {
            one.message.id: parse_json(text, bytes_max=_RECEIPT_BYTES_MAX)
            for one, text in zip(sealed, signed, strict=True)
        }

    def _move(self, tx: Tx, before: int, last: Sealed) -> None:
        """Move the key's head on from where it was read; who comes second decides again."""
        signed = last.message.signed
        if before < 0:
            tx.execute(gateway_heads.insert().values(kid=self._kid, seq=signed.seq, prev=signed.id))
            return
        move = gateway_heads.update().where(gateway_heads.c.kid == self._kid, gateway_heads.c.seq == before)
        if tx.execute(move.values(seq=signed.seq, prev=signed.id)).rowcount != 1:
            raise Conflict("Another process moved this gateway's chain.", code="gateway_moved")

    def _key_info(self) -> KeyInfo:
        if self._info is None:
            with self._database.reading() as tx:
                self._info = key_info(tx, self._kid)
        if self._info is None:
            raise Unavailable(
                "The gateway's key is not in the log yet; try again in a moment.", code="gateway_not_ready"
            )
        if self._info.use != "gateway" or self._info.is_ended:
            raise Broken("The gateway's key has ended or has another use.", code="gateway_key")
        return self._info

    def _history(self) -> Promises:
        if self._promises is None:
            with self._database.transaction() as tx:
                self._promises = Promises.put_in_force(tx, self._terms, now_s=self._now_ms() // 1000)
        return self._promises


def _checks(submitted: Sequence[Submitted], org: str, now: int) -> list[_Checked]:
    """What is wrong with each event, and the names of those that are right."""
    # One kind of work at a time over all events: its code and tables stay in the processor's nearest memory.
    problems = [event_faults(event, context=context, now=now) for event, context, _ in submitted]
    given = [
        None if faults else named(event, context, org)
        for (event, context, _), faults in zip(submitted, problems, strict=True)
    ]
    checked: list[_Checked] = []
    for (event, _, pointer), faults, one in zip(submitted, problems, given, strict=True):
        odd = () if faults else event_warnings(event)
        checked.append(_Checked(pointer, one, _faults(pointer, faults), _faults(pointer, odd)))
    return checked


def _faults(place: str, problems: Sequence[Problem]) -> tuple[Fault, ...]:
    if not problems:
        return ()
    return tuple([Fault(place + pointer, code, message) for pointer, code, message in problems])


def _moved(checked: Sequence[_Checked], known: Known, org: str) -> list[_Checked] | None:
    """The events with other ids where the hash that we gave one as its id belongs to another event; None if none is."""
    here: dict[bytes, Named] = {}
    moved: dict[int, Named] = {}
    for place, one in enumerate(checked):
        if one.named is None:
            continue
        found = known.get(one.named)
        is_taken = found is not None and not found.is_same
        is_taken |= not is_same(here.setdefault(one.named.row_key, one.named), one.named)
        if is_taken and not one.named.is_own_id:
            moved[place] = renamed(one.named, org)
    if not moved:
        return None
    return [one._replace(named=moved.get(place, one.named)) for place, one in enumerate(checked)]


def _taken(pointer: str, event_id: str) -> Fault:
    sentence = (
        f"The eventID {event_id} belongs to another event; correct that by an error declaration and give this one an "
        "eventID of its own."
    )
    return Fault(f"{pointer}/eventID", "event_id_taken", sentence)


def _rolled_back(result: Result) -> Result:
    if result.status == "rejected":
        return result
    return result._replace(status="rolled_back", message=None, number=None)


def _stored_events(checked: Sequence[_Checked], results: Sequence[Result]) -> tuple[Mapping[str, Any] | None, ...]:
    return tuple(
        one.named.event if one.named is not None and result.status in ("accepted", "duplicate") else None
        for one, result in zip(checked, results, strict=True)
    )


def _placed(outcome: Outcome, places: Sequence[int], sealed: Sequence[Sealed]) -> Outcome:
    """The outcome with message and number of each event that was signed, and of its duplicates beside it."""
    results = list(outcome.results)
    where = [(one.message.id, number) for one in sealed for number in range(len(one.message.events))]
    for place, (message, number) in zip(places, where, strict=True):
        results[place] = results[place]._replace(message=message, number=number)
    for place, result in enumerate(results):
        if result.status == "duplicate" and result.message is None and result.number is not None:
            first = results[result.number]
            results[place] = result._replace(message=first.message, number=first.number)
    return replace(outcome, results=tuple(results))


def outcome_json(outcome: Outcome) -> bytes:
    """Results and receipts as JSON."""
    return dump_json(
        {
            "results": [result.as_json() for result in outcome.results],
            "receipts": {b64u(message): receipt for message, receipt in outcome.receipts.items()},
        }
    )
