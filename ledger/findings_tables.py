"""Tables of the findings: derived from the log, they can be dropped and followed again."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text, text

from ledger.tables import metadata

_COUNTS = text("is_count = 1")
_BIG = BigInteger().with_variant(Integer(), "sqlite")

# What the rules need of an event, once per event. `ev` is leaf * 1024 + event number: log order.
finding_events: Final = Table(
    "finding_events",
    metadata,
    Column("ev", _BIG, primary_key=True, autoincrement=False),
    Column("device_ms", _BIG, nullable=False),
    Column("is_cut", Integer, nullable=False),
    Column("fact", Text, nullable=False),
)

# Where the rules stand with a thing: the fold of its events up to the newest by device time. `key` is its map key.
finding_things: Final = Table(
    "finding_things",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("state", Text, nullable=False),
    sqlite_with_rowid=False,
)

# What came to a place (low, high) or was counted there, per product: `low` counts loose goods, `high` packed ones too.
finding_flows: Final = Table(
    "finding_flows",
    metadata,
    Column("stock", _BIG, primary_key=True, autoincrement=False),
    Column("device_ms", _BIG, primary_key=True, autoincrement=False),
    Column("ev", _BIG, primary_key=True, autoincrement=False),
    Column("is_count", Integer, nullable=False),
    Column("low", Text, nullable=False),
    Column("high", Text, nullable=False),
    Index("finding_flows_counts", "stock", sqlite_where=_COUNTS, postgresql_where=_COUNTS),
    sqlite_with_rowid=False,
)

# A finding. `key` is the map key of its subject (a thing, a transformation, or a stock); `ev` the event that shows it;
# `history` every change as [leaf, state, cause, event].
findings: Final = Table(
    "findings",
    metadata,
    Column("id", Text, primary_key=True),
    Column("code", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("org", Text, nullable=False),
    Column("ev", _BIG, nullable=False),
    Column("events", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("raised_leaf", _BIG, nullable=False),
    Column("changed_leaf", _BIG, nullable=False),
    Column("cause", Text, nullable=False),
    Column("history", Text, nullable=False),
    Index("findings_key", "key"),
    Index("findings_state", "state", "changed_leaf"),
)

# Findings of whole events (balances, counts), by each event they stand on: so that its goods show them.
finding_links: Final = Table(
    "finding_links",
    metadata,
    Column("ev", _BIG, primary_key=True, autoincrement=False),
    Column("finding", Text, primary_key=True),
)

TABLES: Final = (finding_events, finding_things, finding_flows, findings, finding_links)
