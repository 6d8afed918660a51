"""Tables of a mirror's own database: what it has replayed, what it cosigned, and what it refused.

The tree's tiles have the same table as the operator's ledger, so that ``ledger.tiles`` works on both.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text

from ledger.database import Database
from ledger.tables import tiles

metadata: Final = sa.MetaData()

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# What the mirror pinned (contract, node, service, origin, aud ...) and its cursor: "size" and "state".
pins: Final = Table(
    "mirror_pins",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# Every state leaf that was replayed: the sizes that may be cosigned.
heads: Final = Table(
    "mirror_heads",
    metadata,
    Column("size", _BIG, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("map_root", LargeBinary, nullable=False),
    Column("time_s", _BIG, nullable=False),
    Column("chain_id", _BIG),
    Column("block", _BIG),
)

orgs: Final = Table(
    "mirror_orgs",
    metadata,
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("org", Text, nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("registry", Text, nullable=False),
    Column("roles", Integer, nullable=False),
    Column("kid", Text, nullable=False),
    Column("jwk", Text, nullable=False),
    Column("block", _BIG, nullable=False),
)

keys: Final = Table(
    "mirror_keys",
    metadata,
    Column("key_no", Integer, primary_key=True, autoincrement=True),
    Column("kid", Text, nullable=False, unique=True),
    Column("org", Text, nullable=False),
    Column("iss", Text, nullable=False),
    Column("use", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("jwk", Text, nullable=False),
    Column("leaf", _BIG, nullable=False),
    Column("end_leaf", _BIG),
    Column("end_seq", _BIG),
    Column("end_last", LargeBinary),
)

messages: Final = Table(
    "mirror_messages",
    metadata,
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("key_no", Integer, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("events", Integer, nullable=False),
    Index("mirror_messages_key_seq", "key_no", "seq"),
)

# Second messages under one (key, seq) that no equivocation record has named yet.
rivals: Final = Table(
    "mirror_rivals",
    metadata,
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("kid", Text, nullable=False),
    Column("seq", _BIG, nullable=False),
)

record_ids: Final = Table(
    "mirror_records",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("leaf", _BIG, nullable=False),
)

# The item map: key, and count | head as the map holds it.
item_map: Final = Table(
    "mirror_map",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("tail", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

cosigned: Final = Table(
    "mirror_cosigned",
    metadata,
    Column("size", _BIG, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("line", Text, nullable=False),
    Column("time_s", _BIG, nullable=False),
    Column("is_sent", sa.Boolean, nullable=False),
)

refusals: Final = Table(
    "mirror_refusals",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("found_s", _BIG, nullable=False),
    Column("size", _BIG, nullable=False),
    Column("leaf", _BIG),
    Column("kind", Text, nullable=False),
    Column("entry_id", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    Column("is_sent", sa.Boolean, nullable=False),
    Column("closed_s", _BIG),
    Column("closed_reason", Text),
)


def create(database: Database) -> None:
    """Create what is missing; call it whenever a mirror's database is opened."""
    with database.transaction() as tx:
        metadata.create_all(tx)
        tiles.create(tx, checkfirst=True)
