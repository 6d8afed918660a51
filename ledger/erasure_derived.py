"""What followers derived from an event, made anew from what is left of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from ledger import queryindex
from ledger.database import Database, Tx, is_sqlite
from ledger.followers import LoggedMessage, read_messages
from ledger.itemfacts import Fact, When, decode, facts_of, fold
from ledger.queryindex import NAME_KINDS, event_key
from ledger.queryindex import decode as decode_event
from ledger.queryindex_facts import facts_of as index_facts
from ledger.queryindex_tables import query_events, query_names
from ledger.state import state_row
from ledger.tables import item_facts, item_states

# Everything that an erasure may have changed or deleted rows of; parts above the ledger add their own.
TOUCHED = (
    "disclosures",
    "item_facts",
    "item_states",
    "query_events",
    "query_postings",
    "query_numbers",
    "query_names",
)


def forget_facts(tx: Tx, leaf: int) -> int:
    """Rewrite the facts that stand on a message, and the states they fold to; gives how many things were concerned."""
    message = read_messages(tx, [leaf]).get(leaf)
    rows = tx.execute(sa.select(item_facts).where(item_facts.c.leaf == leaf)).all()
    if message is None or not rows:
        return 0
    fresh = _fresh(message)
    for row in rows:
        when = When(row.device_ms, row.leaf, row.event)
        fact = _renewed(row.id, decode(when, row.fact), fresh.get(row.event, {}))
        same = (item_facts.c.id == row.id) & (item_facts.c.leaf == leaf) & (item_facts.c.event == row.event)
        tx.execute(item_facts.update().where(same).values(fact=fact.encode()))
    ids = sorted({row.id for row in rows})
    for item_id in ids:
        _refold(tx, item_id)
    return len(ids)


def forget_index(tx: Tx, payload: Mapping[str, Any]) -> None:
    """Take an event's erased members out of the query index now, and names that no other event says.

    Args:
        payload: of the ``erasure`` record.
    """
    before = _names(tx, payload)
    queryindex.erase(tx, payload)
    for kind, name in sorted(before - _names(tx, payload)):
        body = query_events.c.body
        if is_sqlite(tx):
            place = sa.func.instr(body, sa.literal(name.encode(), sa.LargeBinary))
        else:
            place = sa.func.strpos(sa.func.encode(body, "hex"), name.encode().hex())
        if tx.execute(sa.select(query_events.c.ev).where(place > 0).limit(1)).first() is None:
            same = (query_names.c.kind == NAME_KINDS.index(kind)) & (query_names.c.name == name)
            tx.execute(query_names.delete().where(same))


def purge(database: Database, also: Sequence[str] = ()) -> None:
    """Rewrite the files of what an erasure touches, so that the old bytes are in none of them.

    Args:
        also: tables of other parts that lost copies.

    Raises:
        Unavailable: another process reads the database right now; the erasure stands, purge again.
    """
    database.compact((*TOUCHED, *also))


def _names(tx: Tx, payload: Mapping[str, Any]) -> set[tuple[str, str]]:
    ev = event_key(payload["leaf"], payload["event"])
    body = tx.execute(sa.select(query_events.c.body).where(query_events.c.ev == ev)).scalar_one_or_none()
    return set() if body is None else set(index_facts(decode_event(bytes(body))).names)


def _fresh(message: LoggedMessage) -> dict[int, dict[str, Fact]]:
    return {event.number: facts_of(event) for event in message.events}


def _renewed(item_id: str, old: Fact, fresh: dict[str, Fact]) -> Fact:
    if item_id in fresh:
        return fresh[item_id]
    # A thing that the event does not name itself: it was in a container that the event emptied.
    source = fresh.get(old.parent or "")
    if source is not None:
        return replace(source, roles=old.roles, parent=old.parent, sensors={})
    return replace(old, place=None, lot=None, owner=None, event_id="", persistent=((), ()), sensors={})


def _refold(tx: Tx, item_id: str) -> None:
    rows = tx.execute(sa.select(item_facts).where(item_facts.c.id == item_id))
    facts = [decode(When(row.device_ms, row.leaf, row.event), row.fact) for row in rows]
    state = fold(item_id, facts)
    tx.execute(item_states.delete().where(item_states.c.id == item_id))
    if state is not None:
        tx.execute(item_states.insert().values(state_row(state)))
