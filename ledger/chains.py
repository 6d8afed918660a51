"""The follower that walks each key's chain: gaps, equivocations, and messages that are no evidence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ledger.database import Tx, fetch_among, run_many
from ledger.followers import Entry, LoggedMessage, LoggedRecord
from ledger.tables import chains, entries, key_ends, keys, messages, suspects

GAPS_MAX = 1_000
AFTER_LAST = "after_last"


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
        """Judge new messages in log order; an ``end`` record judges the earlier ones of its key."""
        book = _Book(tx, [entry for entry in entries if isinstance(entry, LoggedMessage)])
        for entry in entries:
            if isinstance(entry, LoggedMessage):
                book.take(entry)
            elif isinstance(entry, LoggedRecord) and entry.record.t == "end":
                book.end(str(entry.record.payload["kid"]))
        book.write()


@dataclass
class _Chain:
    highest: int = -1
    distinct: int = 0
    equivocations: int = 0
    last_leaf: int = -1


class _Book:
    """What is known of the keys of one run, read at once and written at once."""

    def __init__(self, tx: Tx, new: Sequence[LoggedMessage]) -> None:
        self._tx = tx
        numbers = sorted({message.key_no for message in new})
        self._chains: dict[int, _Chain] = {}
        self._ends: dict[int, Any] = {}
        for part in _parts(numbers):
            for row in tx.execute(sa.select(chains).where(chains.c.key_no.in_(part))):
                self._chains[row.key_no] = _Chain(row.highest, row.distinct, row.equivocations, row.last_leaf)
            query = sa.select(keys.c.key_no, key_ends).join(keys, keys.c.kid == key_ends.c.kid)
            ends = tx.execute(query.where(keys.c.key_no.in_(part), key_ends.c.leaf.is_not(None)))
            self._ends |= {row.key_no: row for row in ends}
        self._seen = self._logged_before(new)
        self._suspects = self._suspects_of({message.prev for message in new if message.prev is not None})
        self._good: dict[int, set[bytes]] = {}
        self._fresh: list[dict[str, Any]] = []

    def take(self, message: LoggedMessage) -> None:
        """Judge the next message in log order."""
        place = (message.key_no, message.seq)
        is_second = place in self._seen
        self._seen.add(place)
        chain = self._chains.setdefault(message.key_no, _Chain())
        chain.highest = max(chain.highest, message.seq)
        chain.distinct += not is_second
        chain.equivocations += is_second
        chain.last_leaf = message.leaf
        reason: str | None = "equivocation" if is_second else None
        if reason is None and message.prev in self._suspects:
            # A descendant of what an end record cut off is itself beyond that end.
            reason = "descendant"
        if reason is None:
            reason = self._after_end(message)
        if reason is not None:
            self._suspect(message.leaf, message.message_id, message.key_no, reason)

    def end(self, kid: str) -> None:
        """Judge what the key's messages before its end are worth now."""
        self._write_suspects()
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
        """Store the chains and the new suspects."""
        self._write_suspects()
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

    def _logged_before(self, new: Sequence[LoggedMessage]) -> set[tuple[int, int]]:
        """The (key number, seq) of new messages that the log held before them; a seq beyond the highest is new."""
        found: set[tuple[int, int]] = set()
        wanted: dict[int, list[int]] = {}
        for message in new:
            chain = self._chains.get(message.key_no)
            if chain is not None and message.seq <= chain.highest:
                wanted.setdefault(message.key_no, []).append(message.seq)
        for key_no, numbers in wanted.items():
            for part in _parts(numbers):
                query = sa.select(messages.c.seq).join(entries, entries.c.arrival == messages.c.arrival)
                query = query.where(messages.c.key_no == key_no, messages.c.seq.in_(part))
                logged = self._tx.execute(query.where(entries.c.leaf < new[0].leaf)).scalars()
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

    def _write_suspects(self) -> None:
        if self._fresh:
            self._tx.execute(suspects.insert(), self._fresh)
            self._fresh = []


def gaps(tx: Tx, kid: str | None = None) -> list[Gap]:
    """The holes in the sequence of one key, or of all keys; at most 1,000."""
    query = sa.select(keys.c.kid, keys.c.key_no).join(chains, chains.c.key_no == keys.c.key_no)
    query = query.where(chains.c.distinct <= chains.c.highest).order_by(keys.c.key_no)
    if kid is not None:
        query = query.where(keys.c.kid == kid)
    found: list[Gap] = []
    for name, key_no in tx.execute(query.limit(GAPS_MAX)).all():
        logged = sa.select(messages.c.seq).join(entries, entries.c.arrival == messages.c.arrival)
        expected = 0
        for seq in tx.execute(logged.where(messages.c.key_no == key_no).order_by(messages.c.seq)).scalars():
            if seq > expected:
                found.append(Gap(name, expected, seq - 1))
            expected = max(expected, seq + 1)
        if len(found) >= GAPS_MAX:
            break
    return found[:GAPS_MAX]


def suspects_at(tx: Tx, leaves: Sequence[int]) -> dict[int, str]:
    """Which of these leaves hold a message that is no evidence, and why."""
    return dict(fetch_among(tx, "SELECT leaf, reason FROM suspects WHERE leaf AMONG", sorted(set(leaves))))


def _ancestors(tx: Tx, key_no: int, last: bytes | None) -> set[bytes]:
    """``last`` and all messages it reaches by ``prev``, as far as they are stored."""
    if last is None:
        return set()
    query = sa.select(messages.c.id, messages.c.prev).where(messages.c.key_no == key_no)
    before = {bytes(message_id): prev for message_id, prev in tx.execute(query)}
    good: set[bytes] = set()
    current: bytes | None = bytes(last)
    while current is not None and current not in good:
        good.add(current)
        prev = before.get(current)
        current = None if prev is None else bytes(prev)
    return good


def _parts(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + 500] for start in range(0, len(values), 500)]
