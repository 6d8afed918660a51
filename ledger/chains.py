"""The follower that walks each key's chain: gaps, equivocations, and messages that are no evidence."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.canonical import unb64u
from ledger.database import Tx, fetch, fetch_among, run_many
from ledger.followers import Entry, LoggedMessage, LoggedRecord
from ledger.keys import key_numbers
from ledger.tables import chains, entries, key_ends, keys, messages, refused_messages, suspects

GAPS_MAX = 1_000
AFTER_LAST = "after_last"
# Neighbours in a key's sequence with something missing between them; before the first stands -1.
# A place that stands here twice makes no gap, so the parts need not be made distinct first.
_HOLES = (
    "SELECT before, seq FROM (SELECT seq, lag(seq, 1, CAST(-1 AS BIGINT)) OVER (ORDER BY seq) AS before FROM ("
    "SELECT m.seq FROM messages m JOIN entries e ON e.arrival = m.arrival WHERE m.key_no = ? "
    "UNION ALL SELECT seq FROM refused_messages WHERE key_no = ?) AS places) AS pairs "
    "WHERE seq > before + 1 ORDER BY seq LIMIT ?"
)


@dataclass(frozen=True)
class Gap:
    """Sequence numbers of a key that are not in the log, both ends included."""

    kid: str
    first: int
    last: int


class Chains:
    """Keeps ``chains`` and ``suspects``; see architecture.md section 2 for the rules."""

    name = "chains"

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Judge new messages in log order; an ``end`` record judges the earlier ones of its key.

        A message that a ``refusal`` record names is not in the log, but it has its place in its chain: it leaves no
        gap, and walks along ``prev`` pass it.
        """
        records = [entry.record for entry in entries if isinstance(entry, LoggedRecord)]
        told = _told(tx, [record.payload for record in records if record.t == "refusal"])
        messages = [entry for entry in entries if isinstance(entry, LoggedMessage)]
        book = _Book(tx, entries[0].leaf if entries else 0, messages, told)
        for entry in entries:
            if isinstance(entry, LoggedMessage):
                book.take(entry)
            elif isinstance(entry, LoggedRecord) and entry.record.t == "refusal":
                book.refuse(told.get(unb64u(entry.record.payload["message"], length=32)))
            elif isinstance(entry, LoggedRecord) and entry.record.t == "end":
                book.end(str(entry.record.payload["kid"]))
        book.write()


def take_refusals(tx: Tx, payloads: Sequence[Mapping[str, Any]]) -> None:
    """Give the messages that these ``refusal`` records name their places, once each."""
    told = _told(tx, payloads)
    book = _Book(tx, sys.maxsize, [], told)
    for one in told.values():
        book.refuse(one)
    book.write()


@dataclass(frozen=True)
class _Refused:
    """A refused message as its record tells of it."""

    message_id: bytes
    key_no: int
    seq: int
    prev: bytes | None


@dataclass
class _Chain:
    highest: int = -1
    distinct: int = 0
    equivocations: int = 0
    last_leaf: int = -1


class _Book:
    """What is known of the keys of one run, read at once and written at once."""

    def __init__(self, tx: Tx, start: int, new: Sequence[LoggedMessage], told: Mapping[bytes, _Refused]) -> None:
        self._tx = tx
        places = [(one.key_no, one.seq) for one in new] + [(one.key_no, one.seq) for one in told.values()]
        numbers = sorted({key_no for key_no, _ in places})
        self._chains: dict[int, _Chain] = {}
        self._ends: dict[int, Any] = {}
        for part in _parts(numbers):
            for row in tx.execute(sa.select(chains).where(chains.c.key_no.in_(part))):
                self._chains[row.key_no] = _Chain(row.highest, row.distinct, row.equivocations, row.last_leaf)
            query = sa.select(keys.c.key_no, key_ends).join(keys, keys.c.kid == key_ends.c.kid)
            ends = tx.execute(query.where(keys.c.key_no.in_(part), key_ends.c.leaf.is_not(None)))
            self._ends |= {row.key_no: row for row in ends}
        self._seen = self._logged_before(start, places)
        before = _refused_near(tx, places)
        self._told_places = {(one.key_no, one.seq) for one in before.values()}
        self._refused = {**before, **told}
        self._suspects = self._suspects_of({prev for prev in map(self._behind, new) if prev is not None})
        self._good: dict[int, set[bytes]] = {}
        self._fresh: list[dict[str, Any]] = []
        self._fresh_refused: list[_Refused] = []

    def take(self, message: LoggedMessage) -> None:
        """Judge the next message in log order."""
        place = (message.key_no, message.seq)
        is_second = place in self._seen
        self._seen.add(place)
        chain = self._chains.setdefault(message.key_no, _Chain())
        chain.highest = max(chain.highest, message.seq)
        chain.distinct += not is_second and place not in self._told_places
        chain.equivocations += is_second
        chain.last_leaf = message.leaf
        reason: str | None = "equivocation" if is_second else None
        if reason is None and self._behind(message) in self._suspects:
            # A descendant of what an end record cut off is itself beyond that end.
            reason = "descendant"
        if reason is None:
            reason = self._after_end(message)
        if reason is not None:
            self._suspect(message.leaf, message.message_id, message.key_no, reason)

    def refuse(self, one: _Refused | None) -> None:
        """Give a refused message its place; None has none, as its key is not in the log."""
        if one is None:
            return
        place = (one.key_no, one.seq)
        if place not in self._seen and place not in self._told_places:
            chain = self._chains.setdefault(one.key_no, _Chain())
            chain.highest = max(chain.highest, one.seq)
            chain.distinct += 1
        self._told_places.add(place)
        self._fresh_refused.append(one)

    def end(self, kid: str) -> None:
        """Judge what the key's messages before its end are worth now."""
        self._write_suspects()
        self._write_refused()
        tx = self._tx
        end = tx.execute(sa.select(key_ends).where(key_ends.c.kid == kid)).one()
        key_no = tx.execute(sa.select(keys.c.key_no).where(keys.c.kid == kid)).scalar_one()
        good = _ancestors(tx, key_no, end.last)
        query = (
            sa.select(entries.c.leaf, messages.c.id)
            .join(messages, messages.c.arrival == entries.c.arrival)
            .outerjoin(suspects, suspects.c.leaf == entries.c.leaf)
            .where(messages.c.key_no == key_no, entries.c.leaf < end.leaf, suspects.c.leaf.is_(None))
        )
        for leaf, message_id in tx.execute(query).all():
            if bytes(message_id) not in good:
                self._suspect(leaf, bytes(message_id), key_no, AFTER_LAST)

    def write(self) -> None:
        """Store the chains, the new suspects and what was refused."""
        self._write_suspects()
        self._write_refused()
        rows = [
            (key_no, chain.highest, chain.distinct, chain.equivocations, chain.last_leaf)
            for key_no, chain in sorted(self._chains.items())
        ]
        run_many(
            self._tx,
            'INSERT INTO chains (key_no, highest, "distinct", equivocations, last_leaf) VALUES (?, ?, ?, ?, ?) '
            "ON CONFLICT (key_no) DO UPDATE SET highest = excluded.highest, "
            '"distinct" = excluded."distinct", equivocations = excluded.equivocations, last_leaf = excluded.last_leaf',
            rows,
        )

    def _behind(self, message: LoggedMessage) -> bytes | None:
        """The message before this one in its chain that was not refused."""
        prev, passed = message.prev, set[bytes]()
        while prev is not None and prev in self._refused and prev not in passed:
            passed.add(prev)
            prev = self._refused[prev].prev
            if prev is not None and prev not in self._refused:
                self._refused |= _refused_by_id(self._tx, prev)
        return prev

    def _logged_before(self, start: int, places: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of the places that the log held before leaf ``start``; a seq beyond the highest is new."""
        found: set[tuple[int, int]] = set()
        wanted: dict[int, list[int]] = {}
        for key_no, seq in places:
            chain = self._chains.get(key_no)
            if chain is not None and seq <= chain.highest:
                wanted.setdefault(key_no, []).append(seq)
        for key_no, numbers in wanted.items():
            for part in _parts(numbers):
                query = sa.select(messages.c.seq).join(entries, entries.c.arrival == messages.c.arrival)
                query = query.where(messages.c.key_no == key_no, messages.c.seq.in_(part))
                logged = self._tx.execute(query.where(entries.c.leaf < start)).scalars()
                found |= {(key_no, seq) for seq in logged}
        return found

    def _suspects_of(self, ids: Iterable[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for part in _parts(sorted(ids)):
            query = sa.select(suspects.c.message_id).where(suspects.c.message_id.in_(part))
            found |= {bytes(message_id) for message_id in self._tx.execute(query).scalars()}
        return found

    def _after_end(self, message: LoggedMessage) -> str | None:
        end = self._ends.get(message.key_no)
        if end is None or end.leaf >= message.leaf:
            return None
        good = self._good.get(message.key_no)
        if good is None:
            good = self._good[message.key_no] = _ancestors(self._tx, message.key_no, end.last)
        return "after_end" if message.seq > end.seq or message.message_id not in good else None

    def _suspect(self, leaf: int, message_id: bytes, key_no: int, reason: str) -> None:
        self._suspects.add(message_id)
        self._fresh.append({"leaf": leaf, "message_id": message_id, "key_no": key_no, "reason": reason})

    def _write_refused(self) -> None:
        rows = [(one.message_id, one.key_no, one.seq, one.prev) for one in self._fresh_refused]
        statement = "INSERT INTO refused_messages (message_id, key_no, seq, prev) VALUES (?, ?, ?, ?)"
        run_many(self._tx, f"{statement} ON CONFLICT DO NOTHING", rows)
        self._fresh_refused = []

    def _write_suspects(self) -> None:
        if self._fresh:
            self._tx.execute(suspects.insert(), self._fresh)
            self._fresh = []


def gaps(tx: Tx, kid: str | None = None) -> list[Gap]:
    """The holes in the sequence of one key, or of all keys; at most 1,000.

    A refused message leaves none: its place is told by its ``refusal`` record.
    """
    query = sa.select(keys.c.kid, keys.c.key_no).join(chains, chains.c.key_no == keys.c.key_no)
    query = query.where(chains.c.distinct <= chains.c.highest).order_by(keys.c.key_no)
    if kid is not None:
        query = query.where(keys.c.kid == kid)
    found: list[Gap] = []
    for name, key_no in tx.execute(query.limit(GAPS_MAX)).all():
        holes = fetch(tx, _HOLES, (key_no, key_no, GAPS_MAX - len(found)))
        found += [Gap(name, before + 1, after - 1) for before, after in holes]
        if len(found) >= GAPS_MAX:
            break
    return found


def refused_places(tx: Tx, key_nos: Sequence[int]) -> dict[int, int]:
    """How many of each key's places in its chain a refused message alone holds; none for keys left out."""
    logged = sa.exists().where(messages.c.key_no == refused_messages.c.key_no, messages.c.seq == refused_messages.c.seq)
    count = sa.func.count(sa.distinct(refused_messages.c.seq))
    query = sa.select(refused_messages.c.key_no, count).where(~logged).group_by(refused_messages.c.key_no)
    found: dict[int, int] = {}
    for part in _parts(key_nos):
        found |= {row[0]: row[1] for row in tx.execute(query.where(refused_messages.c.key_no.in_(part)))}
    return found


def suspects_at(tx: Tx, leaves: Sequence[int]) -> dict[int, str]:
    """Which of these leaves hold a message that is no evidence, and why."""
    return dict(fetch_among(tx, "SELECT leaf, reason FROM suspects WHERE leaf AMONG", sorted(set(leaves))))


def _told(tx: Tx, payloads: Sequence[Mapping[str, Any]]) -> dict[bytes, _Refused]:
    """The refused messages that these records name, by id; a key that is not in the log has no chain."""
    numbers = key_numbers(tx, [str(payload["kid"]) for payload in payloads])
    found: dict[bytes, _Refused] = {}
    for payload in payloads:
        message_id = unb64u(payload["message"], length=32)
        prev = None if payload["prev"] is None else unb64u(payload["prev"], length=32)
        if payload["kid"] in numbers:
            found[message_id] = _Refused(message_id, numbers[payload["kid"]], int(payload["seq"]), prev)
    return found


def _refused_near(tx: Tx, places: Iterable[tuple[int, int]]) -> dict[bytes, _Refused]:
    """What was refused before at these places or just before them, by id."""
    spans: dict[int, tuple[int, int]] = {}
    for key_no, seq in places:
        low, high = spans.get(key_no, (seq, seq))
        spans[key_no] = (min(low, seq), max(high, seq))
    known = {number for part in _parts(sorted(spans)) for number in _with_refused(tx, part)}
    found: dict[bytes, _Refused] = {}
    for key_no in known:
        low, high = spans[key_no]
        query = sa.select(refused_messages).where(refused_messages.c.key_no == key_no)
        found |= _by_id(tx, query.where(refused_messages.c.seq.between(low - 1, high)))
    return found


def _with_refused(tx: Tx, numbers: Sequence[int]) -> list[int]:
    query = sa.select(refused_messages.c.key_no).where(refused_messages.c.key_no.in_(numbers)).distinct()
    return list(tx.execute(query).scalars())


def _refused_by_id(tx: Tx, message_id: bytes) -> dict[bytes, _Refused]:
    return _by_id(tx, sa.select(refused_messages).where(refused_messages.c.message_id == message_id))


def _by_id(tx: Tx, query: sa.Select[Any]) -> dict[bytes, _Refused]:
    rows = (
        _Refused(bytes(row.message_id), row.key_no, row.seq, None if row.prev is None else bytes(row.prev))
        for row in tx.execute(query)
    )
    return {one.message_id: one for one in rows}


def _ancestors(tx: Tx, key_no: int, last: bytes | None) -> set[bytes]:
    """``last`` and all messages it reaches by ``prev``, as far as they are stored or their refusal is told."""
    if last is None:
        return set()
    query = sa.select(messages.c.id, messages.c.prev).where(messages.c.key_no == key_no)
    passed = sa.select(refused_messages.c.message_id, refused_messages.c.prev)
    passed = passed.where(refused_messages.c.key_no == key_no)
    before = {bytes(message_id): prev for part in (passed, query) for message_id, prev in tx.execute(part)}
    good: set[bytes] = set()
    current: bytes | None = bytes(last)
    while current is not None and current not in good:
        good.add(current)
        prev = before.get(current)
        current = None if prev is None else bytes(prev)
    return good


def _parts(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + 500] for start in range(0, len(values), 500)]
