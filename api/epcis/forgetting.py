"""Reports of subscriptions that still hold what was erased."""

from typing import Final

import sqlalchemy as sa

from api.epcis.query_tables import deliveries
from ledger.database import Tx
from ledger.followers import read_messages
from ledger.tables import entries, messages

TABLE: Final = deliveries.name


def forget_reports(tx: Tx, message: bytes) -> int:
    """Delete reports not yet delivered that tell an event of a message; gives how many.

    A subscriber gets the rest of such a report, as it is now, by a replay since its time.
    """
    placed = sa.select(entries.c.leaf).join(messages, messages.c.arrival == entries.c.arrival)
    leaf = tx.scalar(placed.where(messages.c.id == message))
    logged = None if leaf is None else read_messages(tx, [leaf]).get(leaf)
    if logged is None:
        return 0
    ids = [str(event.event.get("eventID", "")) for event in logged.events]
    # An eventID may be erased too, or stand escaped in the report; the time of an event always stands there as given.
    times = [str(event.event.get("eventTime", "")) for event in logged.events]
    marks = [(name if name.isascii() and name else at).encode() for name, at in zip(ids, times, strict=True)]
    kept = tx.execute(sa.select(deliveries.c.number, deliveries.c.body).where(deliveries.c.body != b"")).all()
    gone = [row.number for row in kept if any(mark and mark in bytes(row.body) for mark in marks)]
    for number in gone:
        tx.execute(deliveries.delete().where(deliveries.c.number == number))
    return len(gone)
