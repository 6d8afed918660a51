"""Read models of an organisation's devices: the list with its pages, and all that one device's page shows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import sqlalchemy as sa

from core.errors import Rejected
from core.message import Signed, read_entry, rebuild_event
from core.records import read_record
from ingest.tables import quarantine, refusals
from ingest.topics import device_name
from ledger.chains import Gap, gaps, refused_places
from ledger.database import Tx
from ledger.store import split_disclosures
from ledger.tables import chains, disclosures, entries, key_ends, keys, messages, records, suspects

PAGE: Final = 50
STATES: Final = ("active", "suspect", "ended")
LATEST: Final = 5
_VALUES: Final = ("value", "meanValue", "stringValue", "booleanValue", "uriValue", "hexBinaryValue")
_BATTERY: Final = frozenset({"battery", "batterylevel"})
_FIRMWARE: Final = frozenset({"firmware", "firmwareversion"})


@dataclass(frozen=True)
class Told:
    """What a device's newest messages say of itself and of its surroundings.

    Attributes:
        skew_s: its clock against ours by the newest messages, seconds; what waited in an outbox makes it look late.
        readings: type, component, value, unit and time of each newest reading.
    """

    skew_s: int | None = None
    battery: str | None = None
    firmware: str | None = None
    readings: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class DeviceRow:
    """One device: all its keys together.

    Attributes:
        kid: its newest key. state: active, suspect (an open key forked, or what it signed is no evidence) or ended.
        seen_ms: when anything of it arrived last, taken or not. receipt_ms: when its newest message was promised.
    """

    giai: str
    iss: str
    kid: str
    state: str
    keys: int
    messages: int
    missing: int
    forks: int
    seen_ms: int | None
    receipt_ms: int | None
    told: Told = field(default_factory=Told)


@dataclass(frozen=True)
class KeyRow:
    """One key of a device and what its chain of messages looks like."""

    kid: str
    key_no: int
    leaf: int
    since_ms: int
    scope: Mapping[str, Any]
    is_ended: bool
    ended_ms: int | None
    reason: str | None
    last_seq: int | None
    highest: int | None
    messages: int
    forks: int
    suspects: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class MessageRow:
    """One message of a device as the log has it."""

    message_id: bytes
    kid: str
    seq: int
    leaf: int | None
    received_ms: int
    signed_ms: int
    events: tuple[str, ...]
    suspect: str | None


def devices(
    tx: Tx, org: str, *, text: str = "", state: str = "", after: str = "", limit: int = PAGE
) -> tuple[list[DeviceRow], str]:
    """A page of an organisation's devices by GIAI, and where the next page starts ("" at the end).

    Args:
        text: stands in the GIAI. state: one of ``STATES``. after: what the page before gave.
    """
    query = sa.select(keys.c.iss).where(keys.c.org == org, keys.c.use == "device").group_by(keys.c.iss)
    if text:
        query = query.where(keys.c.iss.icontains(text, autoescape=True))
    if after:
        query = query.where(keys.c.iss > after)
    if state:
        query = query.where(_state_is(state, org))
    found = list(tx.execute(query.order_by(keys.c.iss).limit(limit + 1)).scalars())
    rows = _rows(tx, org, found[:limit])
    return rows, found[limit - 1] if len(found) > limit else ""


def counts(tx: Tx, org: str) -> dict[str, int]:
    """How many devices stand in each state."""
    mine = sa.select(sa.func.count(sa.distinct(keys.c.iss))).where(keys.c.org == org, keys.c.use == "device")
    return {state: int(tx.execute(mine.where(_state_is(state, org))).scalar_one()) for state in STATES}


def iss_of(tx: Tx, org: str, kid: str) -> str | None:
    """The device of a key of this organisation, None when it has no such key."""
    query = sa.select(keys.c.iss).where(keys.c.kid == kid, keys.c.org == org, keys.c.use == "device")
    return tx.execute(query).scalar_one_or_none()


def device(tx: Tx, org: str, iss: str) -> DeviceRow:
    """One device of an organisation that is known to have it."""
    return _rows(tx, org, [iss])[0]


def keys_of_device(tx: Tx, org: str, iss: str) -> list[KeyRow]:
    """The device's keys, newest first."""
    query = (
        sa.select(
            keys, chains.c.highest, chains.c.distinct.label("places"), chains.c.equivocations,
            key_ends.c.reason, key_ends.c.seq.label("last_seq"), key_ends.c.arrival.label("end_arrival"),
        )
        .outerjoin(chains, chains.c.key_no == keys.c.key_no)
        .outerjoin(key_ends, key_ends.c.kid == keys.c.kid)
        .where(keys.c.org == org, keys.c.iss == iss)
        .order_by(keys.c.leaf.desc())
    )  # fmt: skip
    rows = tx.execute(query).all()
    refused = refused_places(tx, [row.key_no for row in rows])
    return [_key_row(tx, row, refused.get(row.key_no, 0)) for row in rows]


def messages_of(tx: Tx, key_nos: Sequence[int], *, limit: int = 20) -> list[MessageRow]:
    """The newest messages of a device's keys by arrival."""
    query = (
        sa.select(messages, keys.c.kid, entries.c.leaf, suspects.c.reason)
        .join(keys, keys.c.key_no == messages.c.key_no)
        .outerjoin(entries, entries.c.arrival == messages.c.arrival)
        .outerjoin(suspects, suspects.c.message_id == messages.c.id)
        .where(messages.c.key_no.in_(list(key_nos)))
        .order_by(messages.c.arrival.desc())
        .limit(limit)
    )
    rows = []
    for row in tx.execute(query):
        signed = read_entry(bytes(row.jwt))
        steps = tuple(str(event.get("bizStep") or event.get("type", "")).rpartition(":")[2] for event in signed.clear)
        rows.append(
            MessageRow(
                bytes(row.id), row.kid, row.seq, row.leaf, row.received_ms, signed.iat * 1_000, steps[:5], row.reason
            )
        )
    return rows


def refusals_of(tx: Tx, kids: Iterable[str], *, limit: int = 20) -> list[Mapping[str, Any]]:
    """Authentic messages of these keys that were refused for good, newest first."""
    query = sa.select(refusals).where(refusals.c.kid.in_(list(kids))).order_by(refusals.c.refused_ms.desc())
    names = ("message_id", "kid", "seq", "code", "refused_ms")
    return [{name: getattr(row, name) for name in names} for row in tx.execute(query.limit(limit))]


def equivocations_of(tx: Tx, kids: Iterable[str]) -> list[Mapping[str, Any]]:
    """The ``equivocation`` records about these keys: seq and the ids of the messages that share it."""
    query = sa.select(records.c.raw, records.c.received_ms, entries.c.leaf)
    query = query.outerjoin(entries, entries.c.arrival == records.c.arrival)
    found = tx.execute(query.where(records.c.t == "equivocation", records.c.subject_kid.in_(list(kids))))
    rows: list[Mapping[str, Any]] = []
    for row in found:
        payload = read_record(bytes(row.raw)).payload
        rows.append({"kid": payload["kid"], "seq": payload["seq"], "ids": payload["ids"], "leaf": row.leaf})
    return rows


def _state_is(state: str, org: str) -> Any:
    other = keys.alias("other")
    mine = sa.select(other.c.kid).where(other.c.iss == keys.c.iss, other.c.org == org, other.c.use == "device")
    is_open = mine.outerjoin(key_ends, key_ends.c.kid == other.c.kid).where(key_ends.c.kid.is_(None))
    joined = mine.join(chains, chains.c.key_no == other.c.key_no).outerjoin(key_ends, key_ends.c.kid == other.c.kid)
    is_forked = joined.where(chains.c.equivocations > 0, key_ends.c.kid.is_(None))
    if state == "ended":
        return ~sa.exists(is_open.correlate(keys))
    if state == "suspect":
        return sa.exists(is_forked.correlate(keys))
    return sa.and_(sa.exists(is_open.correlate(keys)), ~sa.exists(is_forked.correlate(keys)))


def _rows(tx: Tx, org: str, found: Sequence[str]) -> list[DeviceRow]:
    query = (
        sa.select(keys, chains.c.highest, chains.c.distinct.label("places"), chains.c.equivocations, key_ends.c.seq)
        .outerjoin(chains, chains.c.key_no == keys.c.key_no)
        .outerjoin(key_ends, key_ends.c.kid == keys.c.kid)
        .where(keys.c.org == org, keys.c.iss.in_(list(found)))
        .order_by(keys.c.leaf)
    )
    by_iss: dict[str, list[Any]] = {}
    for row in tx.execute(query):
        by_iss.setdefault(row.iss, []).append(row)
    refused = refused_places(tx, [row.key_no for own in by_iss.values() for row in own])
    return [_row(tx, org, iss, by_iss[iss], refused) for iss in found]


def _row(tx: Tx, org: str, iss: str, own: Sequence[Any], refused: Mapping[int, int]) -> DeviceRow:
    newest = _newest(tx, [row.key_no for row in own])
    open_keys = [row for row in own if row.seq is None]
    state = "ended" if not open_keys else "suspect" if any(row.equivocations for row in open_keys) else "active"
    receipt_ms = newest[0].received_ms if newest else None
    held_ms = _held_ms(tx, org, iss)
    seen = [at for at in (receipt_ms, held_ms) if at is not None]
    return DeviceRow(
        giai=unquote(iss.rpartition("/8004/")[2]),
        iss=iss,
        kid=own[-1].kid,
        state=state,
        keys=len(own),
        messages=sum(int(row.places or 0) - refused.get(row.key_no, 0) for row in own),
        missing=sum(max(0, int(row.highest) + 1 - int(row.places)) for row in own if row.places),
        forks=sum(int(row.equivocations or 0) for row in own),
        seen_ms=max(seen) if seen else None,
        receipt_ms=receipt_ms,
        told=_told(newest),
    )


def _newest(tx: Tx, key_nos: Sequence[int]) -> list[Any]:
    query = sa.select(messages.c.jwt, messages.c.received_ms, disclosures.c.texts)
    query = query.outerjoin(disclosures, disclosures.c.arrival == messages.c.arrival)
    query = query.where(messages.c.key_no.in_(list(key_nos))).order_by(messages.c.arrival.desc())
    return list(tx.execute(query.limit(LATEST)))


def _held_ms(tx: Tx, org: str, iss: str) -> int | None:
    try:
        name = device_name(org, iss)
    except Rejected:
        return None
    query = sa.select(sa.func.max(quarantine.c.last_ms))
    found = tx.execute(query.where(quarantine.c.gln == name.gln, quarantine.c.device == name.device)).scalar()
    return None if found is None else int(found)


def _told(newest: Sequence[Any]) -> Told:
    """What the newest messages say, the newest first: the first word on each thing counts."""
    readings: dict[tuple[str, str], dict[str, Any]] = {}
    skews: list[int] = []
    for row in newest:
        texts = [] if row.texts is None else [text for event in split_disclosures(bytes(row.texts)) for text in event]
        signed = read_entry(bytes(row.jwt), texts)
        skews.append(signed.iat - row.received_ms // 1_000)
        for reading in _readings(signed):
            readings.setdefault((str(reading["type"]), str(reading["component"])), reading)
    named = {str(reading["type"]).lower(): reading for reading in readings.values()}
    battery = next((f"{named[name]['value']} %" for name in named if name in _BATTERY), None)
    firmware = next((str(named[name]["value"]) for name in named if name in _FIRMWARE), None)
    return Told(min(skews, key=abs) if skews else None, battery, firmware, tuple(readings.values()))


def _readings(signed: Signed) -> Iterable[dict[str, Any]]:
    for clear, disclosed in zip(signed.clear, signed.disclosures, strict=True):
        event = rebuild_event(clear, disclosed)
        for element in event.get("sensorElementList") or ():
            meta = element.get("sensorMetadata") or {}
            for report in element.get("sensorReport") or ():
                value = next((report[name] for name in _VALUES if name in report), None)
                if value is None:
                    continue
                yield {
                    "type": str(report.get("type", "")).replace("#", "/").rpartition("/")[2].rpartition(":")[2],
                    "component": str(report.get("component", "")),
                    "value": str(value),
                    "unit": str(report.get("uom", "")),
                    "time": str(report.get("time") or meta.get("time") or event.get("eventTime", "")),
                }


def _key_row(tx: Tx, row: Any, refused: int) -> KeyRow:
    since = sa.select(records.c.received_ms).where(records.c.once == f"key:{row.kid}")
    ended = sa.select(records.c.received_ms).where(records.c.once == f"end:{row.kid}")
    bad = sa.select(sa.func.count()).select_from(suspects).where(suspects.c.key_no == row.key_no)
    return KeyRow(
        kid=row.kid,
        key_no=row.key_no,
        leaf=row.leaf,
        since_ms=int(tx.execute(since).scalar() or 0),
        scope=json.loads(row.scope),
        is_ended=row.last_seq is not None,
        ended_ms=tx.execute(ended).scalar(),
        reason=row.reason,
        last_seq=row.last_seq,
        highest=row.highest,
        messages=int(row.places or 0) - refused,
        forks=int(row.equivocations or 0),
        suspects=int(tx.execute(bad).scalar_one()),
        gaps=tuple(gaps(tx, row.kid)),
    )
