"""Tables of the EPCIS query index: derived from the log, they can be dropped and followed again."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, Text

from ledger.tables import metadata

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# One row per event. `ev` is leaf * 1024 + event number: log order. `record_ms` never decreases with it. `kind` holds
# event type and action. `body` is the event as disclosed, JSON with its decimals as given.
query_events: Final = Table(
    "query_events",
    metadata,
    Column("ev", _BIG, primary_key=True, autoincrement=False),
    Column("event_ms", _BIG, nullable=False),
    Column("record_ms", _BIG, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("org", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("query_events_time", "event_ms", "ev"),
    Index("query_events_record", "record_ms", "ev"),
)

# Which events say a thing: the first 8 bytes of the hash of a term ("bizStep", "shipping") as a signed integer.
query_postings: Final = Table(
    "query_postings",
    metadata,
    Column("term", _BIG, primary_key=True, autoincrement=False),
    Column("ev", _BIG, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# Numbers and times by the hash of their name, for comparisons: measured values in base units, quantities, extensions.
query_numbers: Final = Table(
    "query_numbers",
    metadata,
    Column("name", _BIG, primary_key=True, autoincrement=False),
    Column("number", sa.Double, primary_key=True, autoincrement=False),
    Column("ev", _BIG, primary_key=True, autoincrement=False),
    Index("query_numbers_ev", "ev", "name"),
    sqlite_with_rowid=False,
)

# Every distinct name of a kind: what the top-level resources list and what patterns over company prefixes expand to.
query_names: Final = Table(
    "query_names",
    metadata,
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", Text(collation="C").with_variant(Text(), "sqlite"), primary_key=True),
    sqlite_with_rowid=False,
)

TABLES: Final = (query_events, query_postings, query_numbers, query_names)
