"""What an organisation's own records must say before they enter the log: keys, ends and facts about master data.

The form of a record is ``core.records``'s; who may sign it is ``ledger.store``'s. Here stands what only this service
can know: that a device is not another organisation's, that a scope can be understood by ingest, that a fact about a
place, a product or goods comes from whom it concerns.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, unb64u
from core.errors import Conflict, Rejected
from core.identifiers import Identifier, parse
from core.records import Record
from ingest.enrolment import RATE_MAX
from ingest.topics import device_name
from ledger.database import Tx
from ledger.keys import keys_of, org_info
from ledger.state import item_state
from ledger.tables import keys, masters, messages

KINDS: Final = ("key", "end", "master")
LIST_MAX: Final = 1_000
TEXT_MAX: Final = 2_000
_OPERATOR: Final = 1
_SCOPE: Final = {"types", "steps", "products", "places", "rate"}
_TYPES: Final = {"ObjectEvent", "AggregationEvent", "TransactionEvent", "TransformationEvent", "AssociationEvent"}
_STEP = re.compile(r"[A-Za-z0-9_.~:/-]{1,200}\Z")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,8})?\Z")
_SUBJECTS: Final[Mapping[str, tuple[str, ...]]] = {
    "party": ("pgln",),
    "place": ("gln", "sgln"),
    "product": ("gtin",),
    "ownership": ("sgtin", "lgtin", "gtin", "sscc", "grai", "giai", "itip", "sitip", "litip", "upui", "cpi", "uri"),
}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "party": (),
    "place": (),
    "product": (),
    "ownership": ("owner",),
}
_LIMITS: Final = {"lat": 90, "lon": 180, "temperature_min": 1_000, "temperature_max": 1_000}


def check(tx: Tx, record: Record) -> None:
    """Return if a record that its organisation signed may enter the log.

    Raises:
        Rejected: the member at fault, by its pointer. Conflict: something that stands in the log forbids it.
    """
    payload = record.payload
    if record.t == "key":
        _check_key(tx, payload)
    elif record.t == "end":
        _check_end(tx, payload)
    else:
        _check_master(tx, payload)


def check_scope_form(scope: Mapping[str, Any]) -> None:
    """Return if ingest understands every member of a device's scope; one that it ignored would limit nothing.

    Raises:
        Rejected: ``bad_scope`` with the member's pointer.
    """
    for name in scope:
        if name not in _SCOPE:
            raise _bad_scope(f"A scope limits {', '.join(sorted(_SCOPE))}; {name!r} is none of them.", f"/{name}")
    for name in ("types", "steps", "products", "places"):
        if name in scope:
            _check_list(name, scope[name])
    if "rate" in scope:
        rate = scope["rate"]
        if not isinstance(rate, Mapping) or set(rate) - {"per_s", "burst"} or "per_s" not in rate:
            raise _bad_scope("A rate is per_s and burst.", "/rate")
        for name, value in rate.items():
            if type(value) is not int or not 1 <= value <= 10 * RATE_MAX:
                raise _bad_scope(f"{name} is a whole number from 1.", f"/rate/{name}")


def _check_list(name: str, values: Any) -> None:
    if not isinstance(values, list) or not 1 <= len(values) <= LIST_MAX:
        raise _bad_scope(f"{name} is a list of 1 to {LIST_MAX}.", f"/{name}")
    for number, value in enumerate(values):
        pointer = f"/{name}/{number}"
        if not isinstance(value, str):
            raise _bad_scope(f"{name} holds texts.", pointer)
        if name == "types" and value not in _TYPES:
            raise _bad_scope(f"{value!r} is no EPCIS event type.", pointer)
        if name == "steps" and not _STEP.match(value):
            raise _bad_scope("A step is the local name of a business step.", pointer)
        if name in ("products", "places"):
            found = _canonical(value, f"/scope{pointer}", code="bad_scope")
            if found.kind not in (("gtin",) if name == "products" else ("gln", "sgln")):
                raise _bad_scope("Products are GTINs (01), places are GLNs (414).", pointer)


def _check_key(tx: Tx, payload: Mapping[str, Any]) -> None:
    org, iss, use = payload["org"], payload["iss"], payload["use"]
    info = org_info(tx, org)
    if use in ("gateway", "receipt") and not (info is not None and info.roles & _OPERATOR):
        # A gateway speaks for others, and a receipt is the service's promise: an organisation gives neither to itself.
        raise Rejected(f"Only the operator registers a key for {use}.", code="use_not_allowed", pointer="/use")
    if use != "device":
        return
    if _canonical(iss, "/iss").kind != "giai":
        raise Rejected("A device is named by a GIAI (AI 8004).", code="bad_device_name", pointer="/iss")
    try:
        device_name(org, iss)
    except Rejected as error:
        raise Rejected(error.message, code=error.code, pointer="/iss") from error
    check_scope_form(payload["scope"])
    if any(key.org != org and not key.is_ended for key in keys_of(tx, iss=iss)):
        raise Conflict(
            "Another organisation has an open key of this device; it must end that first.",
            code="device_of_other_org",
            pointer="/iss",
        )


def _check_end(tx: Tx, payload: Mapping[str, Any]) -> None:
    if payload["last"] is None:
        return
    query = sa.select(messages.c.seq, keys.c.kid).join(keys, keys.c.key_no == messages.c.key_no)
    row = tx.execute(query.where(messages.c.id == unb64u(payload["last"], length=32))).first()
    # A last message that has not come yet may be named: its device still holds it.
    if row is not None and (row.kid, row.seq) != (payload["kid"], payload["seq"]):
        raise Rejected(f"The last message has seq {row.seq} of the key {row.kid}.", code="wrong_last", pointer="/last")


def _check_master(tx: Tx, payload: Mapping[str, Any]) -> None:
    fact, subject, org = payload["fact"], payload["subject"], payload["org"]
    kind = _canonical(subject, "/subject").kind
    if kind not in _SUBJECTS[fact]:
        raise Rejected(f"A fact {fact} is not about a {kind}.", code="bad_subject", pointer="/subject")
    _check_value(fact, payload["value"])
    if fact == "party" and subject != org:
        raise Rejected("An organisation speaks of itself alone.", code="bad_subject", pointer="/subject")
    if fact == "ownership":
        _check_owner(tx, subject, org, payload["value"])
        return
    first = sa.select(masters.c.org).where(masters.c.subject == subject, masters.c.fact == fact)
    holder = tx.execute(first.order_by(masters.c.leaf).limit(1)).scalar_one_or_none()
    if holder is not None and holder != org:
        raise Conflict(
            "Another organisation has told this about it first.", code="subject_of_other_org", pointer="/subject"
        )


def _check_owner(tx: Tx, subject: str, org: str, value: Mapping[str, Any]) -> None:
    if _canonical(value["owner"], "/value/owner").kind != "pgln":
        raise Rejected("An owner is an organisation (AI 417).", code="bad_fact", pointer="/value/owner")
    standing = item_state(tx, subject)
    if standing is not None and standing.owner is not None and standing.owner != org:
        raise Conflict("Only its present owner hands it on.", code="not_owner", pointer="/subject")


def _check_value(fact: str, value: Mapping[str, Any]) -> None:
    for name in _NEEDED[fact]:
        if name not in value:
            raise Rejected(f"A fact {fact} says {name}.", code="bad_fact", pointer=f"/value/{name}")
    for name, member in value.items():
        pointer = f"/value/{name}"
        if name in _LIMITS:
            if not isinstance(member, str) or not _DECIMAL.match(member) or abs(float(member)) > _LIMITS[name]:
                # Records hold no fractions (RFC 8785 bytes of integers only).
                raise Rejected(
                    f"{name} is decimal text between -{_LIMITS[name]} and {_LIMITS[name]}.",
                    code="bad_fact",
                    pointer=pointer,
                )
        elif name == "shelf_life_days":
            if type(member) is not int or not 0 < member <= 36_500:
                raise Rejected("shelf_life_days is a whole number of days.", code="bad_fact", pointer=pointer)
        elif not isinstance(member, str | bool | int) or (isinstance(member, str) and len(member) > TEXT_MAX):
            raise Rejected(
                f"A member is a text of at most {TEXT_MAX} characters or a whole number.",
                code="bad_fact",
                pointer=pointer,
            )
    if ("lat" in value) != ("lon" in value):
        raise Rejected("A place has lat and lon, or neither.", code="bad_fact", pointer="/value/lat")


def _canonical(text: Any, pointer: str, *, code: str = "not_canonical") -> Identifier:
    if not isinstance(text, str):
        raise Rejected("An identifier is a text.", code=code, pointer=pointer)
    try:
        found = parse(text)
    except Rejected as error:
        raise Rejected(error.message, code=code, pointer=pointer) from error
    if found.canonical != text:
        raise Rejected(f"Write its canonical id, {found.canonical}.", code=code, pointer=pointer)
    return found


def _bad_scope(sentence: str, pointer: str) -> Rejected:
    return Rejected(sentence, code="bad_scope", pointer=f"/scope{pointer}")


def newest_message(tx: Tx, key_no: int) -> tuple[str | None, int]:
    """Id and seq of the newest message of a key by seq, (None, -1) when there is none."""
    query = sa.select(messages.c.id, messages.c.seq).where(messages.c.key_no == key_no)
    row = tx.execute(query.order_by(messages.c.seq.desc(), messages.c.arrival).limit(1)).first()
    return (None, -1) if row is None else (b64u(bytes(row.id)), int(row.seq))
