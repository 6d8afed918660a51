"""Followers: the one way in which anything learns of log entries, each by leaf index with its own committed cursor."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

import sqlalchemy as sa

from core.errors import Broken
from core.message import Signed, read_entry
from core.records import Record, read_record
from ledger.database import Database, Tx, fetch, fetch_among
from ledger.store import split_disclosures, split_items
from ledger.stored import event_of, kid_of, payload_of
from ledger.tables import MESSAGE, RECORD, entries, records
from ledger.tables import followers as cursors

LIMIT = 500
# What ``message_of`` reads, of entries e, messages m, disclosures d and keys k.
MESSAGE_COLUMNS = (
    "e.leaf, m.arrival, m.key_no, k.org, k.iss, k.use, m.id, m.leaf_hash, m.seq, m.prev, m.received_ms, m.jwt, "
    "d.texts, m.items, m.item_ids"
)
_MESSAGES = (
    f"SELECT {MESSAGE_COLUMNS} FROM entries e JOIN messages m ON m.arrival = e.arrival "  # noqa: S608 - ours
    "JOIN disclosures d ON d.arrival = m.arrival JOIN keys k ON k.key_no = m.key_no"
)
Role = int


@dataclass(frozen=True)
class NamedItem:
    """A thing that an event names: role 1 to 12, canonical id, map key."""

    role: Role
    id: str
    key: bytes


@dataclass(frozen=True)
class LoggedEvent:
    """An event at its place in the log, as far as its disclosures are still there.

    Attributes:
        leaf: leaf index of its message. number: the event's number in the message.
        org: the organisation that speaks: of ``on_behalf_of`` where a gateway signed, else of the key.
        use: the key's use, ``device`` or ``gateway``.
        device_ms: the eventTime the device claims, unix ms.
        clear: what stands in the log. event: with disclosed members.
        suspect: why it is no evidence, or None.
        signed_by: ``device``; ``partner`` by a system of the organisation itself; ``gateway`` by the platform for it.
    """

    leaf: int
    number: int
    message_id: bytes
    leaf_hash: bytes
    kid: str
    org: str
    iss: str
    use: str
    seq: int
    received_ms: int
    device_ms: int
    clear: Mapping[str, Any]
    event: Mapping[str, Any]
    items: tuple[NamedItem, ...]
    suspect: str | None = None
    signed_by: str = "device"

    def names(self, *roles: Role) -> list[str]:
        """Ids of the things named in these roles, in tree order."""
        return [item.id for item in self.items if item.role in roles]

    def roles_of(self, item_id: str) -> list[Role]:
        """The roles in which a thing is named."""
        return [item.role for item in self.items if item.id == item_id]


@dataclass(frozen=True)
class LoggedMessage:
    """A message at its place in the log."""

    leaf: int
    arrival: int
    key_no: int
    org: str
    iss: str
    use: str
    message_id: bytes
    leaf_hash: bytes
    seq: int
    prev: bytes | None
    received_ms: int
    jwt: bytes
    texts: tuple[tuple[str, ...], ...]
    items: tuple[tuple[NamedItem, ...], ...]

    @cached_property
    def signed(self) -> Signed:
        """The message's parts, with the disclosures that are still there; every rule of its form checked again."""
        return read_entry(self.jwt, [text for event in self.texts for text in event])

    @cached_property
    def payload(self) -> Mapping[str, Any]:
        """What the message's signature covers."""
        return payload_of(self.jwt)

    @cached_property
    def speaker(self) -> str:
        """The organisation that speaks: the partner's where a gateway signed for it."""
        partner = self.payload.get("on_behalf_of")
        return self.org if partner is None else str(partner["org"])

    @cached_property
    def events(self) -> tuple[LoggedEvent, ...]:
        """Its events in order."""
        kid, is_behalf = kid_of(self.jwt), self.payload.get("on_behalf_of") is not None
        return tuple(
            LoggedEvent(
                leaf=self.leaf,
                number=number,
                message_id=self.message_id,
                leaf_hash=self.leaf_hash,
                kid=kid,
                org=self.speaker,
                iss=self.iss,
                use=self.use,
                seq=self.seq,
                received_ms=self.received_ms,
                device_ms=device_ms(clear),
                clear=clear,
                event=event_of(clear, texts),
                items=items,
                signed_by="device" if self.use != "gateway" else "gateway" if is_behalf else "partner",
            )
            for number, (clear, texts, items) in enumerate(
                zip(self.payload["events"], self.texts, self.items, strict=True)
            )
        )


@dataclass(frozen=True)
class LoggedRecord:
    """A record at its place in the log."""

    leaf: int
    received_ms: int
    record: Record


@dataclass(frozen=True)
class StateLeafEntry:
    """The place of a state leaf; its bytes stand in the checkpoint of ``leaf + 1``."""

    leaf: int


Entry = LoggedMessage | LoggedRecord | StateLeafEntry


class Follower(Protocol):
    """Something that takes entries in log order, each exactly once."""

    name: str

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Take these entries; the cursor is committed together with whatever is written here."""


class Several:
    """Followers that share one cursor and one reading of the entries, applied in order."""

    def __init__(self, name: str, members: Sequence[Follower]) -> None:
        self.name = name
        self._members = members

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Let each member take the entries."""
        for member in self._members:
            member.apply(tx, entries)


def run_once(database: Database, follower: Follower, limit: int = LIMIT) -> int:
    """Let a follower take the next entries; returns how many, 0 when it has seen them all.

    Cursor and effect are one transaction. Two processes that run the same follower wait for one another.
    """
    with database.transaction() as tx:
        query = sa.select(cursors.c.next_leaf).where(cursors.c.name == follower.name).with_for_update()
        start = tx.execute(query).scalar_one_or_none()
        if start is None:
            tx.execute(cursors.insert().values(name=follower.name, next_leaf=0))
            start = 0
        found = read_log(tx, start, start + limit)
        if not found:
            return 0
        if found[0].leaf != start or found[-1].leaf != start + len(found) - 1:
            raise Broken(f"The log has a hole between {start} and {found[-1].leaf}.", code="entry_missing")
        follower.apply(tx, found)
        update = cursors.update().where(cursors.c.name == follower.name)
        tx.execute(update.values(next_leaf=start + len(found)))
        return len(found)


def run_all(database: Database, follower: Follower, limit: int = LIMIT) -> int:
    """Run a follower until it has seen the whole log; returns the number of entries taken."""
    total = 0
    while taken := run_once(database, follower, limit):
        total += taken
    return total


def cursor(tx: Tx, name: str) -> int:
    """The leaf that this follower reads next; all below are in its effect."""
    found = tx.execute(sa.select(cursors.c.next_leaf).where(cursors.c.name == name)).scalar_one_or_none()
    return found or 0


def read_log(tx: Tx, start: int, end: int) -> list[Entry]:
    """The entries at the leaves ``[start, end)`` that exist, in log order, parsed."""
    within = entries.c.leaf.between(start, end - 1)
    of_message = fetch(tx, f"{_MESSAGES} WHERE e.leaf BETWEEN ? AND ? AND e.kind = {MESSAGE}", (start, end - 1))
    found: list[Entry] = [message_of(row) for row in of_message]
    query = sa.select(entries.c.leaf, records.c.received_ms, records.c.raw)
    query = query.join(records, records.c.arrival == entries.c.arrival).where(within, entries.c.kind == RECORD)
    found += [LoggedRecord(row.leaf, row.received_ms, read_record(bytes(row.raw))) for row in tx.execute(query)]
    query = sa.select(entries.c.leaf).where(within, entries.c.arrival.is_(None))
    found += [StateLeafEntry(leaf) for leaf in tx.execute(query).scalars()]
    found.sort(key=lambda one: one.leaf)
    return found


def read_messages(tx: Tx, leaves: Sequence[int]) -> dict[int, LoggedMessage]:
    """The messages at these leaves; leaves that hold something else are left out."""
    rows = fetch_among(tx, f"{_MESSAGES} WHERE e.kind = {MESSAGE} AND e.leaf AMONG", sorted(set(leaves)))
    return {row[0]: message_of(row) for row in rows}


def device_ms(clear: Mapping[str, Any]) -> int:
    """The eventTime of an event as unix ms, 0 when it cannot be read."""
    try:
        moment = datetime.fromisoformat(str(clear.get("eventTime")))
        return int(moment.timestamp() * 1000) if moment.tzinfo is not None else 0
    except (ValueError, OverflowError):
        return 0


def message_of(row: Sequence[Any]) -> LoggedMessage:
    """The message of a row of ``MESSAGE_COLUMNS``."""
    leaf, arrival, key_no, org, iss, use, message_id, hashed, seq, prev, received_ms, jwt, texts, items, ids = row
    named = zip(split_items(items), json.loads(ids), strict=True)
    return LoggedMessage(
        leaf=leaf,
        arrival=arrival,
        key_no=key_no,
        org=org,
        iss=iss,
        use=use,
        message_id=message_id,
        leaf_hash=hashed,
        seq=seq,
        prev=prev,
        received_ms=received_ms,
        jwt=jwt,
        texts=tuple([tuple(event) for event in split_disclosures(texts)]),
        items=tuple(
            [tuple([NamedItem(leaf[0], name, leaf[1:]) for leaf, name in zip(*pair, strict=True)]) for pair in named]
        ),
    )
