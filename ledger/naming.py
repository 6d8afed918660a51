"""The messages that name things, read in one statement: what an item's journey waits for."""

from collections.abc import Sequence
from typing import Final

from ledger.database import Tx, fetch, fetch_among, is_sqlite
from ledger.followers import MESSAGE_COLUMNS, LoggedMessage, message_of, read_messages
from ledger.tables import MESSAGE

_AT_ONCE: Final = 500
# From a thing's steps to its messages by key alone, whatever the planner knows of the tables: LIMIT inside LATERAL, and
# CROSS JOIN in SQLite, keep the order of reading.
_STEPS_OF: Final = "WITH s AS {0} (SELECT DISTINCT leaf FROM item_steps WHERE key64 {1} LIMIT ?) SELECT "
_NAMING_POSTGRES: Final = (
    _STEPS_OF.format("MATERIALIZED", "= ANY(?)") + "f.* FROM s CROSS JOIN LATERAL ("  # noqa: S608 - ours
    f"SELECT (SELECT x.reason FROM suspects x WHERE x.leaf = s.leaf) AS reason, {MESSAGE_COLUMNS} FROM entries e "
    "JOIN messages m ON m.arrival = e.arrival JOIN disclosures d ON d.arrival = m.arrival "
    f"JOIN keys k ON k.key_no = m.key_no WHERE e.leaf = s.leaf AND e.kind = {MESSAGE} LIMIT 1) f"
)
_NAMING_SQLITE: Final = (
    _STEPS_OF.format("MATERIALIZED", "IN ({})")
    + f"x.reason, {MESSAGE_COLUMNS} FROM s CROSS JOIN entries e ON e.leaf = s.leaf "
    "CROSS JOIN messages m ON m.arrival = e.arrival CROSS JOIN disclosures d ON d.arrival = m.arrival "
    f"CROSS JOIN keys k ON k.key_no = m.key_no LEFT JOIN suspects x ON x.leaf = s.leaf WHERE e.kind = {MESSAGE}"
)


def messages_naming(tx: Tx, keys64: Sequence[int], *, limit: int) -> list[tuple[LoggedMessage, str | None]] | None:
    """The messages that name things, each with why it is no evidence, in one statement; None if there are too many.

    Args:
        keys64: first eight bytes of the things' map keys, at most 500 of them.
        limit: at most this many messages.
    """
    if not keys64:
        return []
    if is_sqlite(tx):
        rows = fetch(tx, _NAMING_SQLITE.format(",".join("?" * len(keys64))), (*keys64, _AT_ONCE + 1))
    else:
        rows = fetch(tx, _NAMING_POSTGRES, (list(keys64), _AT_ONCE + 1))
    if len(rows) <= _AT_ONCE:
        return [(message_of(row[1:]), row[0]) for row in rows]
    # Very many: their places first, so that no more is read than is asked for.
    among = "SELECT DISTINCT s.leaf, x.reason FROM item_steps s LEFT JOIN suspects x ON x.leaf = s.leaf WHERE s.key64"
    reasons = dict(fetch_among(tx, f"{among} AMONG LIMIT {limit + 1:d}", keys64))
    if len(reasons) > limit:
        return None
    return [(message, reasons[leaf]) for leaf, message in read_messages(tx, list(reasons)).items()]
