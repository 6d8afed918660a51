"""The store: messages and records come in, each once, verbatim, with a place in the order of arrival."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from core.canonical import dump_parsed
from core.crypto import P256Public, thumbprint
from core.errors import Rejected
from core.message import Message, MessageEvent
from core.records import BY_OPERATOR, Record, open_record, read_record
from ledger.database import Tx, fetch, fetch_among, fetch_each, is_sqlite, raw
from ledger.erasure_request import check_request
from ledger.keys import has_operator, key_numbers, operator_by_kid, org_info, store_end
from ledger.tables import MESSAGE, RECORD, counters, disclosures, facts, key_ends, records, waiting

MESSAGES_MAX = 10_000
_KEY_LOCK = 0x7462
_ROLES = [bytes((role,)) for role in range(256)]

_MESSAGE_COLUMNS = (
    "arrival", "id", "leaf_hash", "key_no", "seq", "prev", "received_ms", "publish_bytes", "event_count", "jwt",
    "items", "item_ids",
)  # fmt: skip
_TYPES = ("int8", "bytea", "bytea", "int4", "int8", "bytea", "int8", "int4", "int2", "bytea", "bytea", "bytea")

_MESSAGES_AMONG = "SELECT id, arrival, leaf_hash, received_ms FROM messages WHERE id AMONG"

Status = Literal["stored", "duplicate", "equivocation"]


@dataclass(frozen=True)
class Admission:
    """What became of one message or record.

    Attributes:
        status: ``stored``; ``duplicate`` (it was there, nothing changed); ``equivocation`` (stored, and the key had
            used its seq for another message).
        message_id: its id; for a record the record's id.
        leaf_hash: of the stored bytes.
        received_ms: when the stored one was received.
    """

    status: Status
    message_id: bytes
    leaf_hash: bytes
    received_ms: int


def set_identity(tx: Tx, *, aud: str, log: str) -> None:
    """Fix the service and the log's origin that records must name; the first call counts for ever.

    Raises:
        Rejected: ``other_log`` when the database belongs to another service or log.
    """
    for name, value in (("aud", aud), ("log", log)):
        stored = get_fact(tx, name)
        if stored is None:
            tx.execute(facts.insert().values(name=name, value=value))
        elif stored != value:
            raise Rejected(f"This database belongs to {name} {stored}, not {value}.", code="other_log")


def get_fact(tx: Tx, name: str) -> str | None:
    """A named fact about this deployment."""
    return tx.execute(sa.select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()


def put_fact(tx: Tx, name: str, value: str) -> None:
    """Keep a named fact about this deployment, in place of an older value."""
    tx.execute(facts.delete().where(facts.c.name == name))
    tx.execute(facts.insert().values(name=name, value=value))


def admit(tx: Tx, incoming: Sequence[Message], *, now_ms: int) -> list[Admission]:
    """Store verified messages, each once, in the order given.

    A message id decides what was seen before. Two ids under one (key, seq) are both stored: equivocation is evidence.

    Args:
        incoming: at most 10,000, each verified against a key of the register.
        now_ms: when they were received.

    Raises:
        Rejected: ``unknown_key`` when a key is not in the register; nothing is stored then.
    """
    if len(incoming) > MESSAGES_MAX:
        raise Rejected(f"At most {MESSAGES_MAX} messages are admitted at once.", code="too_large")
    if not incoming:
        return []
    first: dict[bytes, Message] = {}
    for message in incoming:
        first.setdefault(message.signed.id, message)
    numbers, before, arrivals = _reserve(tx, sorted({message.signed.kid for message in incoming}), list(first))
    if any(message.signed.kid not in numbers for message in incoming):
        raise Rejected("No key record of this key is in the log.", code="unknown_key", pointer="/header/kid")
    fresh = [message for message_id, message in first.items() if message_id not in before]
    rows = [
        _row(message, arrival, numbers[message.signed.kid], now_ms)
        for message, arrival in zip(fresh, arrivals, strict=False)
    ]
    insert_messages(tx, rows, [join_disclosures(message.disclosures) for message in fresh])
    return _admissions(incoming, before, _equivocations(tx, rows), now_ms)


def messages_among(tx: Tx, ids: Sequence[bytes]) -> list[tuple[bytes, int, bytes, int]]:
    """Id, arrival, leaf hash and time of receipt of those messages that are stored."""
    return rows_among(tx, _MESSAGES_AMONG, ids)


def rows_among(tx: Tx, statement: str, hashes: Sequence[bytes]) -> list[Any]:
    """As ``fetch_among``, for values of 32 bytes each: PostgreSQL gets them as one, which is many times quicker."""
    if not hashes or is_sqlite(tx):
        return fetch_among(tx, statement, hashes)
    return fetch(tx, *among_hashes(statement, hashes))


def among_hashes(statement: str, hashes: Sequence[bytes]) -> tuple[str, tuple[bytes, int]]:
    """A statement for PostgreSQL and its parameters, where ``AMONG`` compares with values of 32 bytes each."""
    among = "= ANY(ARRAY(SELECT substring(?::bytea FROM 1 + 32 * n FOR 32) FROM generate_series(0, ?::int) AS n))"
    return statement.replace("AMONG", among), (b"".join(hashes), len(hashes) - 1)


def admit_record(tx: Tx, data: bytes, *, now_ms: int) -> Admission:
    """Store a record after checking that its signer may say this.

    The organisation's key is that of its newest ``org`` record in arrival order. The first ``org`` record of a log is
    the operator's own and signs itself.

    Raises:
        Rejected: ``bad_record``, ``bad_signature``, ``unknown_signer``, ``wrong_log``, ``unknown_key``, ``key_exists``
            or ``already_ended``.
    """
    record = read_record(data)
    payload = record.payload
    known = tx.execute(sa.select(records.c.received_ms).where(records.c.id == record.id)).scalar_one_or_none()
    if known is not None:
        return Admission("duplicate", record.id, record.leaf_hash, known)
    for name in ("aud", "log"):
        bound = get_fact(tx, name)
        if bound is not None and payload[name] != bound:
            raise Rejected(f"The record names another {name} than {bound}.", code="wrong_log", pointer=f"/{name}")
    open_record(data, _signer(tx, record))
    if record.t == "erasure":
        _check_owner(tx, record)
    once = _once(tx, record)
    arrival = next_arrivals(tx, 1)[0]
    subject = thumbprint(payload["jwk"]) if record.t == "org" else payload.get("kid")
    row = {"arrival": arrival, "id": record.id, "leaf_hash": record.leaf_hash, "t": record.t, "org": payload["org"]}
    row |= {"once": once, "subject_kid": subject, "received_ms": now_ms, "raw": data}
    tx.execute(records.insert().values(row))
    tx.execute(waiting.insert().values(arrival=arrival, kind=RECORD))
    if record.t == "end":
        store_end(tx, payload, arrival)
    return Admission("stored", record.id, record.leaf_hash, now_ms)


def waiting_count(tx: Tx) -> int:
    """How many messages and records have no leaf index yet."""
    return tx.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one()


def join_disclosures(texts: Iterable[Iterable[str]]) -> bytes:
    """Disclosure texts of each event as one blob."""
    return "\n".join(["~".join(event) for event in texts]).encode("ascii")


def split_disclosures(blob: bytes) -> list[list[str]]:
    """The disclosure texts of each event."""
    return [line.split("~") if line else [] for line in blob.decode("ascii").split("\n")]


def join_items(events: Iterable[MessageEvent]) -> tuple[bytes, bytes]:
    """The item lists of a message's events: keys as one blob, ids as JSON."""
    keys: list[bytes] = []
    ids: list[list[str]] = []
    for event in events:
        items = event.items
        keys.append(len(items).to_bytes(2))
        for role, _, key in items:
            keys.append(_ROLES[role])
            keys.append(key)
        ids.append([item.id for item in items])
    return b"".join(keys), dump_parsed(ids)


def split_items(blob: bytes) -> list[list[bytes]]:
    """Per event the 33-byte ``role || key`` strings, in tree order."""
    events: list[list[bytes]] = []
    position = 0
    while position < len(blob):
        end = position + 2 + 33 * int.from_bytes(blob[position : position + 2])
        events.append([blob[start : start + 33] for start in range(position + 2, end, 33)])
        position = end
    return events


def erase(tx: Tx, arrival: int, *, event: int, digests: Iterable[str], digest_of: Any) -> int:
    """Take disclosures of one event out of the store for good; the caller has the erasure record admitted.

    Args:
        digests: the digests (base64url) whose disclosures go.
        digest_of: gives a disclosure text's digest.
    """
    blob = tx.execute(sa.select(disclosures.c.texts).where(disclosures.c.arrival == arrival)).scalar_one()
    events = split_disclosures(blob)
    gone = set(digests)
    kept = [text for text in events[event] if digest_of(text) not in gone]
    removed = len(events[event]) - len(kept)
    events[event] = kept
    tx.execute(disclosures.update().where(disclosures.c.arrival == arrival).values(texts=join_disclosures(events)))
    return removed


def _reserve(
    tx: Tx, kids: Sequence[str], ids: Sequence[bytes]
) -> tuple[dict[str, int], dict[bytes, tuple[int, bytes, int]], list[int]]:
    """Numbers of the keys; arrival, leaf hash and time of those messages that are stored; arrivals for all others.

    Nobody else stores messages of these keys until we have committed, else neither of two workers would see the
    other's equal seq. A message id covers its key, so what is not there now is ours to store.
    """
    if is_sqlite(tx):
        # There is one writer at a time.
        numbers, stored = key_numbers(tx, kids), messages_among(tx, ids)
        arrivals = next_arrivals(tx, len(ids) - len(stored))
    else:
        # Locks in ascending order, so that two workers wait for one another instead of deadlocking.
        lock = "SELECT count(pg_advisory_xact_lock(?, n)) FROM (SELECT key_no FROM keys WHERE kid = ANY(?) ORDER BY 1)"
        found, _, stored, new = fetch_each(
            tx,
            [
                ("SELECT kid, key_no FROM keys WHERE kid = ANY(?)", (kids,)),
                (f"{lock} AS k(n)", (_KEY_LOCK, kids)),
                among_hashes(_MESSAGES_AMONG, ids),
                # As many as there may be: places in the order of arrival may stay empty.
                ("SELECT nextval('arrivals') FROM generate_series(1, ?)", (len(ids),)),
            ],
        )
        numbers, arrivals = dict(found), sorted([row[0] for row in new])
    return numbers, {row[0]: (row[1], row[2], row[3]) for row in stored}, arrivals


def _row(message: Message, arrival: int, key_no: int, now_ms: int) -> tuple[Any, ...]:
    signed = message.signed
    keys, ids = join_items(message.events)
    size = len(signed.jwt) + 1 + sum([len(d.text) + 1 for event in signed.disclosures for d in event])
    return (
        arrival, signed.id, signed.leaf_hash, key_no, signed.seq, signed.prev, now_ms, size, len(message.events),
        signed.jwt, keys, ids,
    )  # fmt: skip


def _admissions(
    incoming: Sequence[Message],
    before: dict[bytes, tuple[int, bytes, int]],
    split: set[bytes],
    now_ms: int,
) -> list[Admission]:
    admissions: list[Admission] = []
    seen: set[bytes] = set()
    for message in incoming:
        message_id = message.signed.id
        found = before.get(message_id)
        if found is not None:
            admissions.append(Admission("duplicate", message_id, found[1], found[2]))
            continue
        status: Status = "equivocation" if message_id in split else "stored"
        if message_id in seen:
            status = "duplicate"
        seen.add(message_id)
        admissions.append(Admission(status, message_id, message.signed.leaf_hash, now_ms))
    return admissions


def _equivocations(tx: Tx, rows: Sequence[tuple[Any, ...]]) -> set[bytes]:
    """Ids of those new messages whose (key, seq) an earlier one has."""
    if not rows:
        return set()
    if is_sqlite(tx):
        query = "SELECT 1 FROM messages WHERE key_no = ? AND seq = ? AND arrival < ? LIMIT 1"
        return {row[1] for row in rows if fetch(tx, query, (row[3], row[4], row[0]))}
    query = (
        "SELECT n.arrival FROM messages n WHERE n.arrival BETWEEN ? AND ? AND EXISTS "
        "(SELECT 1 FROM messages m WHERE m.key_no = n.key_no AND m.seq = n.seq AND m.arrival < n.arrival)"
    )
    # Between our arrivals others' may lie; they are told by whoever stored them.
    later = {arrival for (arrival,) in fetch(tx, query, (rows[0][0], rows[-1][0]))}
    return {row[1] for row in rows if row[0] in later} if later else set()


def next_arrivals(tx: Tx, count: int) -> list[int]:
    """The next numbers in the order of arrival, ascending."""
    if count == 0:
        return []
    if is_sqlite(tx):
        update = counters.update().where(counters.c.name == "arrival").values(value=counters.c.value + count)
        last = tx.execute(update.returning(counters.c.value)).scalar_one()
        return list(range(last - count + 1, last + 1))
    return sorted([row[0] for row in fetch(tx, "SELECT nextval('arrivals') FROM generate_series(1, ?)", (count,))])


def insert_messages(tx: Tx, rows: Sequence[tuple[Any, ...]], texts: Sequence[bytes]) -> None:
    """Store message rows (in the order of the table's columns) that are known to be new, with their disclosures."""
    if not rows:
        return
    arrivals = [row[0] for row in rows]
    if not is_sqlite(tx):
        with raw(tx).cursor() as cursor:
            _copy(cursor, "messages", _MESSAGE_COLUMNS, _TYPES, rows)
            _copy(cursor, "disclosures", ("arrival", "texts"), ("int8", "bytea"), zip(arrivals, texts, strict=True))
        fetch(tx, "INSERT INTO waiting (arrival, kind) SELECT n, ? FROM unnest(?::int8[]) AS n", (MESSAGE, arrivals))
        return
    cursor = raw(tx).cursor()
    marks = ",".join("?" * len(_MESSAGE_COLUMNS))
    cursor.executemany(f"INSERT INTO messages ({','.join(_MESSAGE_COLUMNS)}) VALUES ({marks})", rows)  # noqa: S608
    cursor.executemany("INSERT INTO disclosures (arrival, texts) VALUES (?, ?)", zip(arrivals, texts, strict=True))
    cursor.executemany("INSERT INTO waiting (arrival, kind) VALUES (?, ?)", [(one, MESSAGE) for one in arrivals])


def _copy(cursor: Any, table: str, columns: Sequence[str], types: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with cursor.copy(f"COPY {table} ({','.join(columns)}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _signer(tx: Tx, record: Record) -> P256Public:
    payload, kid = record.payload, record.jws.kid
    if record.t in BY_OPERATOR:
        if record.t == "org" and not has_operator(tx):
            if payload["roles"] & 1 and thumbprint(payload["jwk"]) == kid:
                return P256Public.from_jwk(payload["jwk"])
            raise Rejected("The first org record is the operator's own and signs itself.", code="unknown_signer")
        info = operator_by_kid(tx, kid)
        if info is None:
            raise Rejected("Only the operator's key signs such a record.", code="unknown_signer")
        return info.public
    info = org_info(tx, payload["org"])
    if info is None or info.kid != kid:
        raise Rejected("This is not the organisation's record-signing key.", code="unknown_signer", pointer="/org")
    return info.public


def _check_owner(tx: Tx, record: Record) -> None:
    # The operator alone erases nothing: the owner's own signature stands inside.
    info = org_info(tx, record.payload["org"])
    if info is None:
        raise Rejected("The owner of the data has no org record.", code="unknown_signer", pointer="/org")
    check_request(record.payload, info.public)


def _once(tx: Tx, record: Record) -> str | None:
    payload = record.payload
    if record.t == "key":
        query = sa.select(records.c.arrival).where(records.c.once == f"key:{payload['kid']}")
        if tx.execute(query).first() is not None:
            raise Rejected("This key has its record already; one for ever.", code="key_exists", pointer="/kid")
        return f"key:{payload['kid']}"
    if record.t == "end":
        owner = sa.select(records.c.org).where(records.c.once == f"key:{payload['kid']}")
        org = tx.execute(owner).scalar_one_or_none()
        if org != payload["org"]:
            raise Rejected("No key of this organisation has this kid.", code="unknown_key", pointer="/kid")
        ended = sa.select(key_ends.c.arrival).where(key_ends.c.kid == payload["kid"])
        if tx.execute(ended).first() is not None:
            raise Rejected("This key has ended already; one end for ever.", code="already_ended", pointer="/kid")
        return f"end:{payload['kid']}"
    return None
