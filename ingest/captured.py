"""Which events were captured before: by eventID within the organisation that speaks, and by content."""

import hashlib
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import sqlalchemy as sa

from core.canonical import dump_sorted, sha256
from core.epcis.content import content_digest
from core.epcis.context import merged
from core.epcis.hashes import event_hash
from core.message import read_entry, rebuild_event
from ledger.database import Tx, fetch_among, is_sqlite, raw
from ledger.store import split_disclosures
from ledger.tables import disclosures, messages

_PART: Final = 500
# Where the hexadecimal digits stand in a GS1 event hash by SHA-256.
_HEX: Final = slice(len("ni:///sha-256;"), len("ni:///sha-256;") + 64)
_NAMESPACE: Final = uuid.UUID("7b1f0a52-9a52-5c0e-8f10-5f2f4d8f7a11")


class Named(NamedTuple):
    """An event with what tells it apart.

    Attributes:
        event: with the document's context, and with an eventID.
        event_id: its eventID. hash: its GS1 event hash.
        digest: SHA-256 of the event as it was written, members in the order of their names. Events with another one may
            still say the same: :func:`is_same` and :func:`known_events` look closer then.
        id_key, slot: see ``ingest.gateway_tables.captured_events``.
        is_own_id: whether the eventID came with the event.
    """

    event: Mapping[str, Any]
    event_id: str
    hash: str
    digest: bytes
    id_key: bytes
    slot: bytes
    is_own_id: bool

    @property
    def row_key(self) -> bytes:
        """The key of its row."""
        return self.id_key + self.slot


class Found(NamedTuple):
    """What was captured before under the same id. ``is_same``: it is this very event."""

    is_same: bool
    message: bytes
    number: int


class _Placed(Protocol):
    @property
    def message(self) -> bytes | None: ...

    @property
    def number(self) -> int | None: ...


class Known:
    """What was captured before under the ids of a capture's events."""

    def __init__(self, rows: Mapping[bytes, tuple[bytes, bytes, int]], alike: Collection[tuple[bytes, bytes]]) -> None:
        self._rows = rows
        self._alike = alike

    def get(self, given: Named) -> Found | None:
        """What stands under the event's id."""
        row = self._rows.get(given.row_key)
        if row is None:
            return None
        return Found(row[0] == given.digest or (given.row_key, given.digest) in self._alike, row[1], row[2])


def is_same(first: Named, second: Named) -> bool:
    """Whether two events say the same, in whatever spelling."""
    return first.digest == second.digest or content_digest(first.event) == content_digest(second.event)


def named(event: Mapping[str, Any], context: object, org: str) -> Named:
    """A valid event with its context inside, an eventID, its hash and its digest.

    An event without an eventID gets its GS1 hash as one, as CBV 2.0 section 8.9 recommends.
    """
    whole = merged(context, event.get("@context"))
    inside = dict(event) if whole is None else {**event, "@context": whole}
    gs1 = event_hash(event, context=context)
    digest = hashlib.sha256(dump_sorted(inside)).digest()
    own = event.get("eventID")
    event_id = own if isinstance(own, str) and own else gs1
    inside["eventID"] = event_id
    id_key = hashlib.sha256(f"{org}\0{event_id}".encode()).digest()
    # Declarations of one event are told apart by what they say, whatever their spelling.
    slot = content_digest(event, context) if "errorDeclaration" in event else b""
    return Named(inside, event_id, gs1, digest, id_key, slot, own is not None)


def renamed(given: Named, org: str) -> Named:
    """The same event under an id made of its content, for one whose GS1 hash another event holds already.

    The GS1 hash has no separators: two different events may share one, and neither may push the other out.
    """
    event_id = f"urn:uuid:{uuid.uuid5(_NAMESPACE, given.digest.hex())}"
    event = {**given.event, "eventID": event_id}
    id_key = sha256(f"{org}\0{event_id}".encode())
    return Named(event, event_id, given.hash, given.digest, id_key, given.slot, is_own_id=False)


def known_events(tx: Tx, given: Sequence[Named]) -> Known:
    """What was captured before under the ids of these events."""
    query = "SELECT id_key, slot, digest, message_id, number FROM captured_events WHERE id_key AMONG"
    found_rows = fetch_among(tx, query, sorted({one.id_key for one in given}))
    rows = {id_key + slot: (digest, message, number) for id_key, slot, digest, message, number in found_rows}
    if not rows:
        return Known({}, ())
    alike: set[tuple[bytes, bytes]] = set()
    for one in given:
        found = rows.get(one.row_key)
        if found is not None and found[0] != one.digest and _says(tx, found[1], found[2]) == content_digest(one.event):
            alike.add((one.row_key, one.digest))
    return Known(rows, alike)


def publishes(tx: Tx, ids: Sequence[bytes]) -> list[bytes]:
    """Stored messages as they would be published: the JWT and its disclosures, in order of arrival."""
    found: list[tuple[int, bytes]] = []
    columns = (messages.c.arrival, messages.c.jwt, disclosures.c.texts)
    for part in _parts(ids):
        query = sa.select(*columns).join(disclosures, disclosures.c.arrival == messages.c.arrival)
        for row in tx.execute(query.where(messages.c.id.in_(part))):
            texts = [text for event in split_disclosures(bytes(row.texts)) for text in event]
            found.append((row.arrival, bytes(row.jwt) + b"~" + "".join(f"{text}~" for text in texts).encode("ascii")))
    return [raw for _, raw in sorted(found)]


def _says(tx: Tx, message_id: bytes, number: int) -> bytes | None:
    """The content digest of a stored event; None where a part of it was erased, so that nobody can say."""
    query = sa.select(messages.c.jwt, disclosures.c.texts).join(
        disclosures, disclosures.c.arrival == messages.c.arrival
    )
    row = tx.execute(query.where(messages.c.id == message_id)).one_or_none()
    if row is None:
        return None
    signed = read_entry(bytes(row.jwt), [text for event in split_disclosures(bytes(row.texts)) for text in event])
    if len(signed.disclosures[number]) < len(signed.clear[number]["_sd"]):
        return None
    return content_digest(rebuild_event(signed.clear[number], signed.disclosures[number]))


def remember(tx: Tx, captured: Sequence[tuple[Named, _Placed]]) -> None:
    """Write which message holds each newly captured event.

    Raises:
        Conflict: ``constraint``: one of them was captured by somebody else at this very moment.
    """
    rows = [
        (one.id_key, one.slot, one.digest, bytes.fromhex(one.hash[_HEX]), place.message, place.number)
        for one, place in captured
    ]
    # In the order of their keys: two workers wait for one another instead of deadlocking, and the index grows by pages.
    rows.sort()
    if not rows:
        return
    columns = "id_key, slot, digest, hash, message_id, number"
    if is_sqlite(tx):
        raw(tx).executemany(f"INSERT INTO captured_events ({columns}) VALUES (?,?,?,?,?,?)", rows)  # noqa: S608
        return
    with (
        raw(tx).cursor() as cursor,
        cursor.copy(f"COPY captured_events ({columns}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(("bytea", "bytea", "bytea", "bytea", "bytea", "int4"))
        for row in rows:
            copy.write_row(row)


def _parts(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), _PART):
        yield list(keys[start : start + _PART])
