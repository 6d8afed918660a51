"""Tables of ingest: the quarantine, what was refused for good, and which promise receipts made when."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text

metadata: Final = sa.MetaData()

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# `digest` is SHA-256 over topic, a zero byte and the raw bytes: a device sends what got no answer again and again, and
# that stays one row. `state` is open, accepted (a replay took it) or dismissed.
quarantine: Final = Table(
    "quarantine",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("sentence", Text, nullable=False),
    Column("pointer", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("gln", Text),
    Column("device", Text),
    Column("kid", Text),
    Column("message_id", LargeBinary),
    Column("is_authentic", sa.Boolean, nullable=False),
    Column("is_retained", sa.Boolean, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("times", Integer, nullable=False),
    Column("first_ms", _BIG, nullable=False),
    Column("last_ms", _BIG, nullable=False),
    Index("quarantine_code", "code", "id"),
    Index("quarantine_device", "gln", "device", "id"),
    Index("quarantine_message", "message_id"),
    Index("quarantine_last", "last_ms"),
)

# One row: how much the quarantine holds, so that its limit costs no count.
quarantine_totals: Final = Table(
    "quarantine_totals",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("rows", _BIG, nullable=False),
    Column("bytes", _BIG, nullable=False),
)

# Authentic messages refused for good. Kept for ever: the same message gets the same answer.
refusals: Final = Table(
    "refusals",
    metadata,
    Column("message_id", LargeBinary, primary_key=True),
    Column("kid", Text, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("code", Text, nullable=False),
    Column("refused_ms", _BIG, nullable=False),
)

# The promise in force from `from_s` on: a duplicate gets the promise of its first receipt.
promises: Final = Table(
    "promises",
    metadata,
    Column("from_s", _BIG, primary_key=True, autoincrement=False),
    Column("promise_s", Integer, nullable=False),
    Column("heartbeat_s", Integer, nullable=False),
)

FIRST: Final = tuple(metadata.tables.values())
