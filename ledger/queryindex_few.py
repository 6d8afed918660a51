"""Queries that name something rare, as an item or a document: all their events read in one statement.

The rows that come are a superset, which the query itself decides on; that a partner is party to them is decided here.
"""

from typing import Final, NamedTuple

from ledger.database import Tx, fetch, is_sqlite
from ledger.queryindex_query import AnyOf, Query
from ledger.queryindex_terms import CLASS_ROLES, EPC_ROLES, SEPARATOR, term_hash

TERMS_MAX: Final = 100
# Fields whose values few events share. Only where to look first: what turns out to be many is read as any other list.
_RARE: Final = frozenset({*EPC_ROLES, *CLASS_ROLES, "eventID", "correctiveEventID", "transformationID"})


class Row(NamedTuple):
    """An event of the index; ``suspect`` says why it is no evidence."""

    ev: int
    event_ms: int
    record_ms: int
    org: str
    body: bytes
    suspect: str | None


# An event's key is its leaf times 1,024 plus its number.
_COLUMNS: Final = (
    "q.ev, q.event_ms, q.record_ms, q.org, q.body, (SELECT x.reason FROM suspects x WHERE x.leaf = q.ev / 1024)"
)
# LIMIT before DISTINCT: a list of a million is read no further than that it is too long.
_LISTED: Final = (
    "WITH s AS MATERIALIZED (SELECT ev FROM query_postings WHERE term {0} AND ev <= ? LIMIT 65), "
    "d AS MATERIALIZED (SELECT DISTINCT ev FROM s WHERE (SELECT count(*) FROM s) < 65) "
)
# One row at a time by its key, whatever the planner knows of the tables.
_SQLITE: Final = _LISTED + f"SELECT {_COLUMNS} FROM d CROSS JOIN query_events q ON q.ev = d.ev"  # noqa: S608 - ours
_ONE: Final = f"(SELECT {_COLUMNS} FROM query_events q WHERE q.ev = d.ev LIMIT 1)"  # noqa: S608 - ours
_POSTGRES: Final = _LISTED.format("= ANY(?)") + f"SELECT f.* FROM d CROSS JOIN LATERAL {_ONE} f"  # noqa: S608 - ours
_PARTY: Final = " WHERE EXISTS (SELECT 1 FROM query_postings p WHERE p.term = ? AND p.ev = d.ev)"


def few_events(tx: Tx, query: Query, party: int | None, top: int) -> list[Row]:
    """All events that the rarest condition may mean, those of a party alone; none where they may be more than few.

    Args:
        party: the term of the party that must take part, None for all events.
        top: the newest event that counts.
    """
    terms = _rare(query)
    if not terms:
        return []
    more, tail = ((), "") if party is None else ((party,), _PARTY)
    if is_sqlite(tx):
        statement = _SQLITE.format(f"IN ({','.join('?' * len(terms))})") + tail
        rows = fetch(tx, statement, (*terms, top, *more))
    else:
        rows = fetch(tx, _POSTGRES + tail, (terms, top, *more))
    return [Row(*row) for row in rows]


def _rare(query: Query) -> list[int]:
    """The terms of a condition that few events fulfil, none where no condition is such."""
    for condition in query.conditions:
        if not isinstance(condition, AnyOf) or condition.prefixes or condition.is_open:
            continue
        names = {text.partition(SEPARATOR)[0] for text in condition.terms}
        is_rare = all(name in _RARE or name.startswith("bizTransaction:") for name in names)
        if names and is_rare and len(condition.terms) <= TERMS_MAX:
            return [term_hash(text) for text in sorted(condition.terms)]
    return []
