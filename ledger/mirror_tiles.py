"""What the operator serves to mirrors: entry bundles (C2SP tlog-tiles), and item lists in the same grouping."""

import sqlalchemy as sa

from ledger.database import Tx
from ledger.tables import MESSAGE, entries, messages
from ledger.tiles import WIDTH, read_entries


def entry_bundle(tx: Tx, number: int, width: int) -> bytes | None:
    """The first ``width`` entries under level-0 tile ``number``, each after a u16 length; None when there are fewer."""
    found = read_entries(tx, number * WIDTH, number * WIDTH + width)
    if len(found) != width:
        return None
    return b"".join(len(one.data).to_bytes(2) + one.data for one in found)


def item_bundle(tx: Tx, number: int, width: int) -> bytes | None:
    """The item lists of the first ``width`` entries under tile ``number``, a u32 length before each.

    A list holds per event of its message a u16 count and that many 33-byte ``role || key``, in tree order; records and
    state leaves have none. None when there are fewer entries.
    """
    start = number * WIDTH
    query = (
        sa.select(entries.c.leaf, entries.c.kind, messages.c["items"])
        .outerjoin(messages, (messages.c.arrival == entries.c.arrival) & (entries.c.kind == MESSAGE))
        .where(entries.c.leaf.between(start, start + width - 1))
        .order_by(entries.c.leaf)
    )
    lists = [bytes(blob) if kind == MESSAGE else b"" for _, kind, blob in tx.execute(query)]
    if len(lists) != width:
        return None
    return b"".join(len(one).to_bytes(4) + one for one in lists)
