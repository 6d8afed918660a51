"""The follower that walks each key's chain: gaps, equivocations, and messages that are no evidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ledger.database import Tx
from ledger.followers import Entry, LoggedMessage, LoggedRecord
from ledger.tables import chains, entries, key_ends, keys, messages, suspects

GAPS_MAX = 1_000


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
        for entry in entries:
            if isinstance(entry, LoggedMessage):
                self._message(tx, entry)
            elif isinstance(entry, LoggedRecord) and entry.record.t == "end":
                self._end(tx, str(entry.record.payload["kid"]))

    def _message(self, tx: Tx, message: LoggedMessage) -> None:
        is_second = _logged_before(tx, message)
        row = tx.execute(sa.select(chains).where(chains.c.key_no == message.key_no)).first()
        if row is None:
            values = {"highest": message.seq, "distinct": 1, "equivocations": 0, "last_leaf": message.leaf}
            tx.execute(chains.insert().values(key_no=message.key_no, **values))
        else:
            values = {
                "highest": max(row.highest, message.seq),
                "distinct": row.distinct + (0 if is_second else 1),
                "equivocations": row.equivocations + (1 if is_second else 0),
                "last_leaf": message.leaf,
            }
            tx.execute(chains.update().where(chains.c.key_no == message.key_no).values(values))
        reason = "equivocation" if is_second else None
        if reason is None and message.prev is not None:
            query = sa.select(suspects.c.reason).where(suspects.c.message_id == message.prev)
            found = tx.execute(query).scalar_one_or_none()
            # A descendant of what an end record cut off is itself beyond that end.
            reason = None if found is None else "descendant"
        if reason is None:
            reason = _after_end(tx, message)
        if reason is not None:
            _suspect(tx, message.leaf, message.message_id, message.key_no, reason)

    def _end(self, tx: Tx, kid: str) -> None:
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
                _suspect(tx, leaf, bytes(message_id), key_no, "after_last")


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
    wanted = sorted(set(leaves))
    found: dict[int, str] = {}
    for start in range(0, len(wanted), 500):
        query = sa.select(suspects.c.leaf, suspects.c.reason).where(suspects.c.leaf.in_(wanted[start : start + 500]))
        found.update((leaf, reason) for leaf, reason in tx.execute(query))
    return found


def _logged_before(tx: Tx, message: LoggedMessage) -> bool:
    query = sa.select(entries.c.leaf).join(messages, messages.c.arrival == entries.c.arrival)
    query = query.where(messages.c.key_no == message.key_no, messages.c.seq == message.seq)
    return tx.execute(query.where(entries.c.leaf < message.leaf).limit(1)).first() is not None


def _after_end(tx: Tx, message: LoggedMessage) -> str | None:
    query = sa.select(key_ends).join(keys, keys.c.kid == key_ends.c.kid)
    end = tx.execute(query.where(keys.c.key_no == message.key_no, key_ends.c.leaf < message.leaf)).first()
    if end is None:
        return None
    if message.seq > end.seq or message.message_id not in _ancestors(tx, message.key_no, end.last):
        return "after_end"
    return None


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


def _suspect(tx: Tx, leaf: int, message_id: bytes, key_no: int, reason: str) -> None:
    row = {"leaf": leaf, "message_id": message_id, "key_no": key_no, "reason": reason}
    tx.execute(suspects.insert().values(row))
