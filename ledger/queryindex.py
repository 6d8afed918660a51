"""The follower that keeps every event where EPCIS queries find it: terms, numbers, times, and the event itself."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import dump_parsed
from ledger.database import Tx, is_sqlite, raw
from ledger.followers import Entry, LoggedEvent, LoggedMessage, LoggedRecord, read_messages
from ledger.queryindex_facts import CLASS_MARK, Facts, facts_of
from ledger.queryindex_tables import query_events, query_names, query_numbers, query_postings
from ledger.queryindex_terms import CLASS_ROLES, EPC_ROLES, kind_number, party_term, term, term_hash
from ledger.stored import decoded
from ledger.tables import masters

QUERY_INDEX: Final = "query_index"
EVENTS_PER_LEAF: Final = 1024
NAME_KINDS: Final = ("eventType", "epc", "class", "bizStep", "disposition", "readPoint", "bizLocation", "prefix")
# Terms of these names are kept in the row itself: they select too little for a list of their own.
_IN_ROW: Final = ("eventType\x1f", "action\x1f")
# The fields whose terms keep a name of a kind alive. Prefixes are namespaces of software, no data of anybody.
_FIELDS_OF: Final = {
    "epc": EPC_ROLES,
    "class": tuple(mark for role in (*EPC_ROLES, *CLASS_ROLES) for mark in (role, role + CLASS_MARK)),
    "bizStep": ("bizStep",),
    "disposition": ("disposition",),
    "readPoint": ("readPoint",),
    "bizLocation": ("bizLocation",),
}
_KNOWN_MAX: Final = 200_000
_PART: Final = 500
# Rows of a binary COPY: the number of columns, then each column's size and value, all big-endian.
_COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_EVENT_TYPES: Final = ("int8", "int8", "int8", "int2", "text", "bytea")
_COPY_TAIL: Final = b"\xff\xff"
_BINARY: Final = {"query_postings": ">hiqiq", "query_numbers": ">hiqidiq"}


class QueryIndex:
    """Follower of the log; one row, its terms and its numbers per event.

    Suspect messages are indexed too: answers mark them, they are not hidden.
    """

    name = QUERY_INDEX

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Index the events of these entries, and take out what erasure records name."""
        messages = [entry for entry in entries if isinstance(entry, LoggedMessage)]
        if messages:
            self._take(tx, messages, last_record_ms(tx))
        for entry in entries:
            if isinstance(entry, LoggedRecord) and entry.record.t == "erasure":
                erase(tx, entry.record.payload)
                self._known.clear()

    def _take(self, tx: Tx, messages: Sequence[LoggedMessage], record_ms: int) -> None:
        rows: list[tuple[int, int, int, int, str, bytes]] = []
        postings: set[tuple[int, int]] = set()
        numbers: set[tuple[int, float, int]] = set()
        names: set[tuple[str, str]] = set()
        owners = _Owners(tx)
        found: list[tuple[int, LoggedEvent, Facts]] = []
        for message in messages:
            record_ms = max(record_ms, message.received_ms)
            for event in message.events:
                facts = facts_of(event.event)
                ev = event_key(event.leaf, event.number)
                found.append((ev, event, facts))
                kind = kind_number(str(event.clear.get("type", "")), str(event.clear.get("action", "")))
                rows.append((ev, event.device_ms, record_ms, kind, event.org, encode(event.event)))
        owners.load({place: event.leaf for _, event, facts in found for place in facts.places})
        for ev, event, facts in found:
            names |= facts.names
            numbers.update(number_rows(ev, facts))
            postings.update(posting_rows(ev, facts))
            parties = {event.org, *facts.parties, *owners.of(facts.places, event.leaf)}
            postings.update((term_hash(party_term(party)), ev) for party in parties)
        insert(tx, rows, sorted(postings), sorted(numbers))
        self._name(tx, names)

    def _name(self, tx: Tx, names: Iterable[tuple[str, str]]) -> None:
        fresh = sorted(
            {(NAME_KINDS.index(kind), name) for kind, name in set(names) - self._known if "\x00" not in name}
        )
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()
        self._known.update(names)
        if fresh:
            insert_names(tx, fresh)


class _Owners:
    """The organisation whose master record first described a place, if it did so before the event was logged.

    Only the first one counts, and only for later events: nobody gains sight of past events by claiming a place.
    """

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._first: dict[str, tuple[int, str]] = {}

    def load(self, places: Mapping[str, int]) -> None:
        wanted = sorted(places)
        for start in range(0, len(wanted), _PART):
            query = sa.select(masters.c.subject, masters.c.leaf, masters.c.org)
            query = query.where(masters.c.subject.in_(wanted[start : start + _PART]), masters.c.fact == "place")
            for subject, leaf, org in self._tx.execute(query.order_by(masters.c.leaf)):
                self._first.setdefault(subject, (leaf, org))

    def of(self, places: Iterable[str], leaf: int) -> Iterable[str]:
        found = (self._first.get(place) for place in places)
        return [first[1] for first in found if first is not None and first[0] < leaf]


def event_key(leaf: int, number: int) -> int:
    """The key of an event in the index: log order."""
    return leaf * EVENTS_PER_LEAF + number


def place_of(ev: int) -> tuple[int, int]:
    """Leaf and event number of a key."""
    return divmod(ev, EVENTS_PER_LEAF)


def encode(event: Mapping[str, Any]) -> bytes:
    """An event as stored: JSON with its decimals as given."""
    return dump_parsed(event)


def decode(body: bytes) -> dict[str, Any]:
    """The stored event."""
    value: dict[str, Any] = decoded(body)
    return value


def posting_rows(ev: int, facts: Facts) -> list[tuple[int, int]]:
    """The rows of ``query_postings`` for an event's terms."""
    return [(term_hash(text), ev) for text in facts.terms if not text.startswith(_IN_ROW)]


def number_rows(ev: int, facts: Facts) -> list[tuple[int, float, int]]:
    """The rows of ``query_numbers`` for an event; its time stands in the row itself."""
    return [(term_hash(name), float(value), ev) for name, value in facts.numbers if name != "eventTime"]


def last_record_ms(tx: Tx) -> int:
    """The record time of the newest event in the index, 0 while it is empty."""
    query = sa.select(query_events.c.record_ms).order_by(query_events.c.ev.desc()).limit(1)
    return tx.execute(query).scalar_one_or_none() or 0


def erase(tx: Tx, payload: Mapping[str, Any]) -> None:
    """Take erased members out of the index: terms, numbers, the stored event, and names that no other event has."""
    ev = event_key(payload["leaf"], payload["event"])
    body = tx.execute(sa.select(query_events.c.body).where(query_events.c.ev == ev)).scalar_one_or_none()
    if body is None:
        return
    before = decode(bytes(body))
    after = without(before, payload["names"])
    message = read_messages(tx, [payload["leaf"]]).get(payload["leaf"])
    if message is not None:
        shown = message.events[payload["event"]].event
        after = {name: value for name, value in after.items() if name in shown}
    old, new = facts_of(before), facts_of(after)
    gone = set(posting_rows(ev, old)) - set(posting_rows(ev, new))
    for key, _ in sorted(gone):
        tx.execute(query_postings.delete().where(query_postings.c.term == key, query_postings.c.ev == ev))
    tx.execute(query_numbers.delete().where(query_numbers.c.ev == ev))
    insert(tx, [], [], sorted(set(number_rows(ev, new))))
    tx.execute(query_events.update().where(query_events.c.ev == ev).values(body=encode(after)))
    for kind, name in sorted(old.names - new.names):
        _forget_name(tx, kind, name)


def _forget_name(tx: Tx, kind: str, name: str) -> None:
    fields = _FIELDS_OF.get(kind)
    if fields is None:
        return
    terms = [term_hash(term(field, name)) for field in fields]
    query = sa.select(sa.literal(1)).where(query_postings.c.term.in_(terms)).limit(1)
    if tx.execute(query).first() is None:
        number = NAME_KINDS.index(kind)
        tx.execute(query_names.delete().where(query_names.c.kind == number, query_names.c.name == name))


def without(event: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The event without erased members; of an error declaration what stands in clear remains."""
    gone = set(names)
    found = {name: value for name, value in event.items() if name not in gone}
    if "tb:errorDeclaration" in gone and isinstance(found.get("errorDeclaration"), Mapping):
        clear = ("declarationTime", "reason", "correctiveEventIDs")
        found["errorDeclaration"] = {
            name: found["errorDeclaration"][name] for name in clear if name in found["errorDeclaration"]
        }
    return found


def insert(
    tx: Tx,
    rows: Sequence[tuple[int, int, int, int, str, bytes]],
    postings: Sequence[tuple[int, int]],
    numbers: Sequence[tuple[int, float, int]],
) -> None:
    """Write rows in the order of their keys, in the quickest way each database has."""
    plan = (
        (query_events, ("ev", "event_ms", "record_ms", "kind", "org", "body"), rows),
        (query_postings, ("term", "ev"), postings),
        (query_numbers, ("name", "number", "ev"), numbers),
    )
    connection = raw(tx)
    for table, columns, values in plan:
        if not values:
            continue
        if is_sqlite(tx):
            marks = ",".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {table.name} ({','.join(columns)}) VALUES ({marks})", values)  # noqa: S608
            continue
        query = f"COPY {table.name} ({','.join(columns)}) FROM STDIN (FORMAT BINARY)"
        form = _BINARY.get(table.name)
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            if form is not None:
                copy.write(_COPY_HEAD + _copied(form, values) + _COPY_TAIL)
                continue
            copy.set_types(_EVENT_TYPES)
            for value in values:
                copy.write_row(value)


def _copied(form: str, values: Sequence[Any]) -> bytes:
    """Rows of two or three 8-byte numbers as a binary COPY has them, several times quicker than row by row."""
    pack = struct.Struct(form).pack
    if form.count("i") == 2:
        return b"".join([pack(2, 8, first, 8, second) for first, second in values])
    return b"".join([pack(3, 8, first, 8, second, 8, third) for first, second, third in values])


def insert_names(tx: Tx, names: Sequence[tuple[int, str]]) -> None:
    """Write names that are new; known ones stay."""
    connection = raw(tx)
    if is_sqlite(tx):
        connection.executemany("INSERT OR IGNORE INTO query_names (kind, name) VALUES (?, ?)", names)
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO query_names (kind, name) "
            "SELECT * FROM unnest(%s::smallint[], %s::text[]) ON CONFLICT DO NOTHING",
            ([kind for kind, _ in names], [name for _, name in names]),
        )
