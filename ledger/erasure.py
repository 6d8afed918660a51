"""Erasure: the disclosures of an event leave every place where they stand, and a record in the log says so.

The log keeps digests, so every proof still verifies. What goes: the disclosures, what followers derived from them,
copies that other parts keep. What stays: the signed message with its digests, and the item list, which mirrors replay.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, sha256
from core.crypto import P256Private
from core.errors import Broken, Conflict, Rejected
from core.message import Disclosure, Signed, read_entry
from core.records import common, read_record, sign_record
from ledger.database import Database, Tx
from ledger.erasure_derived import forget_facts, forget_index
from ledger.erasure_request import read_request
from ledger.store import admit_record, erase, get_fact, split_disclosures, split_items
from ledger.tables import MESSAGE, disclosures, entries, messages, records

# An eventID that is a hash of the event would let a guess of the erased fields be confirmed.
_HASH_ID = re.compile(r"ni:///|urn:.*sha-?256", re.IGNORECASE)
VALUE_MIN = 8

Copies = Callable[[Tx, bytes], int]


@dataclass(frozen=True)
class Plan:
    """What an erasure would take out, shown before it happens.

    Attributes:
        org: whose data it is, whose record key must sign the request.
        names: members that go. stay: members that stay disclosed. added: members that go with those asked for.
        values: the values that go, as JSON-like Python values, by member.
        gone: members that an earlier erasure took out.
    """

    leaf: int
    event: int
    message: bytes
    arrival: int
    org: str
    device: str
    names: tuple[str, ...]
    added: tuple[str, ...]
    stay: tuple[str, ...]
    gone: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    items: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Erased:
    """What was done: the record's id, how many disclosures and copies went, whether it had been done before."""

    record: bytes
    disclosures: int
    copies: int
    is_new: bool


def find(tx: Tx, *, message: bytes) -> int:
    """The leaf of a message.

    Raises:
        Rejected: ``unknown_message`` or ``not_logged_yet``.
    """
    query = sa.select(entries.c.leaf).join(messages, messages.c.arrival == entries.c.arrival)
    leaf: int | None = tx.execute(query.where(messages.c.id == message)).scalar_one_or_none()
    if leaf is None:
        raise Rejected("No message of this id has a leaf in the log.", code="unknown_message", pointer="/message")
    return leaf


def find_event(tx: Tx, event_id: str) -> list[tuple[int, int]]:
    """(leaf, event number) of each event that discloses this ``eventID``; reads all disclosures."""
    found: list[tuple[int, int]] = []
    query = sa.select(entries.c.leaf, messages.c.jwt, disclosures.c.texts)
    query = query.join(messages, messages.c.arrival == entries.c.arrival)
    query = query.join(disclosures, disclosures.c.arrival == messages.c.arrival).order_by(entries.c.leaf)
    for leaf, jwt, texts in tx.execute(query):
        for number, event in enumerate(_signed(bytes(jwt), bytes(texts)).disclosures):
            if any(one.name == "eventID" and one.value == event_id for one in event):
                found.append((leaf, number))
    return found


def plan(tx: Tx, *, leaf: int, event: int, names: Sequence[str] | None) -> Plan:
    """What would be erased.

    Args:
        event: number of the event in its message, from 0.
        names: members to erase; None for every disclosure of the event. An ``eventID`` that is a hash of the event goes
            with any of them.

    Raises:
        Rejected: ``no_such_leaf``, ``no_such_event``, ``no_such_member``.
    """
    row = tx.execute(_row_of(leaf)).one_or_none()
    if row is None:
        raise Rejected(f"Leaf {leaf} is not a message.", code="no_such_leaf", pointer="/leaf")
    signed = _signed(bytes(row.jwt), bytes(row.texts))
    if not 0 <= event < len(signed.clear):
        raise Rejected(f"The message has {len(signed.clear)} events.", code="no_such_event", pointer="/event")
    shown = {one.name: one for one in signed.disclosures[event]}
    gone = sorted(erased_names(tx, leaf, event))
    wanted = sorted(shown) if names is None else sorted(set(names))
    unknown = [name for name in wanted if name not in shown and name not in gone]
    if unknown or not wanted:
        raise Rejected(
            f"The event discloses {', '.join(sorted(shown)) or 'nothing'}; not {', '.join(unknown) or 'nothing more'}.",
            code="no_such_member",
            pointer="/names",
        )
    added = _added(shown, wanted)
    going = [shown[name] for name in (*wanted, *added) if name in shown]
    items = tuple(b64u(one[1:]) for one in split_items(bytes(row._mapping["items"]))[event])
    return Plan(
        leaf=leaf,
        event=event,
        message=signed.id,
        arrival=row.arrival,
        org=_owner(signed),
        device=signed.iss,
        names=tuple(sorted({*wanted, *added})),
        added=tuple(added),
        stay=tuple(sorted(set(shown) - set(wanted) - set(added))),
        gone=tuple(gone),
        values={one.name: one.value for one in going},
        items=tuple(sorted(set(items))),
        texts=tuple(one.text for one in going),
    )


def carry_out(tx: Tx, request: str, *, operator: P256Private, now_ms: int, copies: Sequence[Copies] = ()) -> Erased:
    """Erase what the owner's request asks for; the record enters the log in the same transaction.

    A repetition erases what may have come back and adds no second record.

    Args:
        request: the owner's JWS (:func:`ledger.erasure_request.sign_request`).
        operator: signs the record.
        copies: each takes the message id and deletes the copies that another part keeps; gives how many.

    Raises:
        Rejected: a request that is not the owner's, or names what is not there.
        Conflict: ``incomplete_request`` when a hash of what is erased would stay.
    """
    asked = read_request(request)
    aud, log = get_fact(tx, "aud"), get_fact(tx, "log")
    if (asked["aud"], asked["log"]) != (aud, log):
        raise Rejected("The request is for another service or log.", code="wrong_log", pointer="/log")
    found = plan(tx, leaf=asked["leaf"], event=asked["event"], names=asked["names"])
    if asked["org"] != found.org or asked["message"] != b64u(found.message):
        raise Rejected("The request names another message or owner.", code="wrong_request", pointer="/org")
    if found.added:
        raise Conflict(f"{', '.join(found.added)} must be erased too: name it.", code="incomplete_request")
    members = {"leaf": found.leaf, "event": found.event, "names": list(found.names)}
    members |= {"owner": {"jws": request, "items": list(found.items)}}
    payload = common(t="erasure", aud=str(aud), log=str(log), org=found.org, iat=asked["iat"]) | members
    known = _record_of(tx, request)
    admission = admit_record(tx, sign_record(payload, operator), now_ms=now_ms) if known is None else None
    digests = {b64u(sha256(text.encode("ascii"))) for text in found.texts}
    removed = erase(
        tx, found.arrival, event=found.event, digests=digests, digest_of=lambda text: b64u(sha256(text.encode()))
    )
    forget_facts(tx, found.leaf)
    forget_index(tx, payload)
    copied = sum(one(tx, found.message) for one in copies)
    record = known if admission is None else admission.message_id
    if record is None:
        raise Broken("The erasure has no record.", code="erasure_unrecorded")
    return Erased(record, removed, copied, admission is not None)


def erased_names(tx: Tx, leaf: int, event: int) -> set[str]:
    """The members of an event that erasure records name, sequenced or waiting."""
    found: set[str] = set()
    for data in tx.execute(sa.select(records.c.raw).where(records.c.t == "erasure")).scalars():
        payload = read_record(bytes(data)).payload
        if (payload["leaf"], payload["event"]) == (leaf, event):
            found |= set(payload["names"])
    return found


def leftovers(database: Database, texts: Sequence[str], values: Sequence[Any]) -> list[str]:
    """Where erased bytes still stand in the database: ``table.column: how many rows``, disclosures and values apart.

    Every column of every table that can hold text or bytes is read. A value may stand in other events of its own right,
    so only disclosures (salted, hence unique) are certain to be left over.
    """
    plain = sorted({text for value in values for text in _strings(value) if len(text) >= VALUE_MIN})
    found: list[str] = []
    with database.reading() as tx:
        inspector = sa.inspect(tx)
        for table in sorted(inspector.get_table_names()):
            for column in inspector.get_columns(table):
                kind = column["type"]
                if not isinstance(kind, (sa.String, sa.LargeBinary, sa.JSON)):
                    continue
                for what, needles in (("disclosure", texts), ("value", plain)):
                    count = _count(tx, table, column["name"], kind, needles)
                    if count:
                        found.append(f"{what} in {table}.{column['name']}: {count} rows")
    return found


def _count(tx: Tx, table: str, column: str, kind: Any, needles: Sequence[str]) -> int:
    target = sa.table(table, sa.column(column))
    cell = target.c[column]
    total = 0
    for needle in needles:
        sought: Any = sa.literal(needle.encode(), sa.LargeBinary) if isinstance(kind, sa.LargeBinary) else needle
        if tx.dialect.name == "sqlite":
            place = sa.func.instr(cell, sought)
        elif isinstance(kind, sa.LargeBinary):
            place = sa.func.strpos(sa.func.encode(cell, "hex"), needle.encode().hex())
        else:
            place = sa.func.strpos(sa.cast(cell, sa.Text), sought)
        total += tx.execute(sa.select(sa.func.count()).select_from(target).where(place > 0)).scalar_one()
    return total


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for one in value.values() for text in _strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in _strings(one)]
    return []


def _added(shown: dict[str, Disclosure], wanted: Sequence[str]) -> list[str]:
    identity = shown.get("eventID")
    if identity is None or "eventID" in wanted or not _HASH_ID.match(str(identity.value)):
        return []
    return ["eventID"]


def _owner(signed: Signed) -> str:
    """The organisation whose data it is: a partner's, where a gateway signed for it."""
    behalf = signed.on_behalf_of
    return str(behalf["org"]) if behalf is not None else signed.org


def _record_of(tx: Tx, request: str) -> bytes | None:
    for ident, data in tx.execute(sa.select(records.c.id, records.c.raw).where(records.c.t == "erasure")):
        if read_record(bytes(data)).payload["owner"]["jws"] == request:
            return bytes(ident)
    return None


def _row_of(leaf: int) -> Any:
    query = sa.select(messages, disclosures.c.texts).join(entries, entries.c.arrival == messages.c.arrival)
    query = query.join(disclosures, disclosures.c.arrival == messages.c.arrival)
    return query.where(entries.c.leaf == leaf, entries.c.kind == MESSAGE)


def _signed(jwt: bytes, texts: bytes) -> Signed:
    return read_entry(jwt, [text for event in split_disclosures(texts) for text in event])
