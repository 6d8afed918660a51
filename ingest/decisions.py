"""What becomes of one delivery, as a pure function of its bytes, its key and the time.

Only the message and its key count here, never the state of goods: rules about state run later, in log order.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

from core.canonical import sha256
from core.epcis.validate import Problem, event_problems
from core.errors import Rejected
from core.message import Envelope, Message, Signed, assemble, open_signed, split
from ingest.quarantine import Fault
from ingest.scope import check_scope
from ingest.source import Delivery
from ingest.topics import DeviceName, read_events_topic
from ledger.keys import KeyInfo

FUTURE_S_MAX = 300
SIGNING_USES = ("device", "gateway")
_LIMITS: Final = frozenset(("types", "steps", "products", "places"))
# Names of devices are the same in all their messages; what is refused is not remembered.
_name_of = lru_cache(maxsize=65_536)(read_events_topic)


class Register(Protocol):
    """Knows keys by their thumbprint."""

    def lookup(self, kid: str) -> KeyInfo | None:
        """The key's standing, or None when no ``key`` record of it is in the log."""


class Accepted(NamedTuple):
    """A message to be stored. ``publish`` is the SHA-256 of the bytes as published."""

    delivery: Delivery
    name: DeviceName
    message: Message
    publish: bytes


@dataclass(frozen=True)
class Refused:
    """A delivery that is not taken.

    Attributes:
        signed: the authentic message that is refused for good and gets an answer; None when there is no answer.
        name: the device that the topic names, None when it names none.
    """

    fault: Fault
    name: DeviceName | None
    signed: Signed | None = None

    @property
    def delivery(self) -> Delivery:
        """The delivery it speaks of."""
        return self.fault.delivery


Decision = Accepted | Refused


class Prepared(NamedTuple):
    """A delivery taken apart by size and form alone; nothing is verified."""

    delivery: Delivery
    name: DeviceName
    envelope: Envelope


def decide(delivery: Delivery, register: Register, *, aud: str, now: int) -> Decision:
    """What becomes of ``delivery`` at ``now`` (unix seconds) at the service ``aud``."""
    prepared = prepare(delivery)
    if isinstance(prepared, Refused):
        return prepared
    return judge(prepared, register.lookup(prepared.envelope.kid), aud=aud, now=now)


def prepare(delivery: Delivery) -> Prepared | Refused:
    """The cheap part of a decision, before any signature: topic, size and form."""
    try:
        name = _name_of(delivery.topic)
    except Rejected as error:
        return _refused(delivery, error, None)
    if delivery.is_retained:
        fault = Rejected("A message must not be published retained: it would be delivered for ever.", code="retained")
        return _refused(delivery, fault, name)
    try:
        return Prepared(delivery, name, split(delivery.payload))
    except Rejected as error:
        return _refused(delivery, error, name)


def judge(prepared: Prepared, info: KeyInfo | None, *, aud: str, now: int) -> Decision:
    """The rest of a decision, given what the register knows about the key the message names.

    An authentic message (signature, key, service, topic, every disclosure) is refused with an answer. All else gets
    none: otherwise whoever copies a device's message onto another topic could have it refused in the device's name.
    """
    envelope, name, delivery = prepared.envelope, prepared.name, prepared.delivery
    try:
        signed = _authentic(envelope, info, name, aud)
    except Rejected as error:
        return _refused(delivery, error, name, envelope=envelope)
    try:
        message = _accept(signed, _known(info), now)
    except Rejected as error:
        return _refused(delivery, error, name, envelope=envelope, signed=signed)
    return Accepted(delivery, name, message, sha256(delivery.payload))


@lru_cache(maxsize=65_536)
def ids_of(name: DeviceName) -> tuple[str, str]:
    """Organisation and device that a name on the wire stands for, as messages name them."""
    return name.org, name.iss


def guarded(decide_one: Callable[[], Decision], delivery: Delivery, name: DeviceName | None) -> Decision:
    """The decision, or quarantine with the reason ``poison`` when our own code fails on this delivery."""
    try:
        return decide_one()
    except Exception as error:  # noqa: BLE001 - whatever one message breaks, the next one is decided
        return poisoned(delivery, error, name)


def poisoned(delivery: Delivery, error: Exception, name: DeviceName | None) -> Refused:
    """A refusal without an answer that keeps the end of the traceback."""
    detail = "".join(traceback.format_exception(error)[-3:])[-2_000:]
    sentence = f"Our own code failed on this message: {type(error).__name__}."
    return Refused(
        Fault(
            delivery,
            "poison",
            sentence,
            detail=detail,
            gln=name.gln if name else None,
            device=name.device if name else None,
        ),
        name,
    )


def _authentic(envelope: Envelope, info: KeyInfo | None, name: DeviceName, aud: str) -> Signed:
    if info is None:
        raise Rejected("No key record of this key is in the log.", code="unknown_key", pointer="/header/kid")
    if info.use not in SIGNING_USES:
        raise Rejected(f"A key for {info.use} signs no messages.", code="wrong_use", pointer="/header/kid")
    signed = open_signed(envelope, info.public)
    if signed.aud != aud:
        raise Rejected(f"The message is for {signed.aud}, not for this service.", code="wrong_audience", pointer="/aud")
    if (signed.org, signed.iss) != (info.org, info.iss):
        raise Rejected("Organisation or device are not those of the key's record.", code="wrong_device", pointer="/iss")
    if (signed.org, signed.iss) != ids_of(name):
        raise Rejected("The message came on the topic of another device.", code="wrong_topic", pointer="/iss")
    return signed


def _accept(signed: Signed, info: KeyInfo, now: int) -> Message:
    if info.is_ended and signed.seq > (info.last_seq if info.last_seq is not None else -1):
        raise Rejected("This key has ended before this message.", code="key_ended", pointer="/header/kid")
    if signed.on_behalf_of is not None and info.use != "gateway":
        raise Rejected("Only a gateway signs on behalf of others.", code="not_a_gateway", pointer="/on_behalf_of")
    message = assemble(signed)
    for number, event in enumerate(message.events):
        for first in event_faults(event.event, now=now):
            raise Rejected(first.message, code=first.code, pointer=f"/events/{number}{first.pointer}")
    if not _LIMITS.isdisjoint(info.scope):
        check_scope(message, info.scope)
    return message


def event_faults(event: Mapping[str, Any], *, now: int, context: object = None) -> list[Problem]:
    """Everything for which an event is refused at ``now`` (unix seconds), by whatever way it came."""
    problems = event_problems(event, context=context)
    if not problems and _is_after(str(event["eventTime"]), now + FUTURE_S_MAX):
        sentence = "The event lies more than 5 minutes in the future: set the device's clock."
        problems = [Problem("/eventTime", "event_in_future", sentence)]
    return problems


def _is_after(text: str, limit_s: int) -> bool:
    """Whether a time lies after ``limit_s``; one in UTC and seconds before it needs no reading to tell."""
    if text.endswith("Z") and text[:19] < _utc_text(limit_s):
        return False
    return _time_s(text) > limit_s


@lru_cache(maxsize=16)
def _utc_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def _time_s(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Rejected("eventTime is no ISO 8601 time.", code="bad_time") from error
    if moment.tzinfo is None:
        raise Rejected("eventTime has no time zone.", code="bad_time")
    return moment.timestamp()


def _known(info: KeyInfo | None) -> KeyInfo:
    if info is None:
        raise Rejected("No key record of this key is in the log.", code="unknown_key")
    return info


def _refused(
    delivery: Delivery,
    error: Rejected,
    name: DeviceName | None,
    *,
    envelope: Envelope | None = None,
    signed: Signed | None = None,
) -> Refused:
    fault = Fault(
        delivery,
        error.code,
        error.message,
        pointer=error.pointer,
        is_authentic=signed is not None,
        gln=name.gln if name else None,
        device=name.device if name else None,
        kid=envelope.kid if envelope else None,
        message_id=envelope.id if envelope else None,
    )
    return Refused(fault, name, signed)
