"""Tables of what we send to the chain. Chain values are 0x lower-case hex text, wei decimal text, times unix ms."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from ledger.tables import metadata

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# The deployments this database has worked with; after --new-chain the old ones stay for what was final there.
deployments: Final = Table(
    "deployments",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("chain_id", _BIG, nullable=False),
    Column("genesis_hash", Text, nullable=False),
    Column("log_contract", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("is_current", Boolean, nullable=False),
    Column("recorded_ms", _BIG, nullable=False),
    Index(
        "deployments_one_current",
        "is_current",
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    ),
)

# The nonce counter of each account. `nonce0` is where it began or began again; `halted_ms` stops signing.
chain_accounts: Final = Table(
    "chain_accounts",
    metadata,
    Column("deployment", Integer, ForeignKey("deployments.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("address", Text, nullable=False),
    Column("nonce0", _BIG, nullable=False),
    Column("next_nonce", _BIG, nullable=False),
    Column("halted_ms", _BIG),
)

chain_tx: Final = Table(
    "chain_tx",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("deployment", Integer, ForeignKey("deployments.id"), nullable=False),
    Column("account", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("to_address", Text),
    Column("data", LargeBinary, nullable=False),
    Column("value_wei", Text, nullable=False),
    Column("gas", _BIG),
    Column("is_replaced_by_caller", Boolean, nullable=False),
    Column("nonce", _BIG),
    Column("state", Text, nullable=False),
    Column("tx_hash", Text),
    Column("block_number", _BIG),
    Column("block_hash", Text),
    Column("gas_used", _BIG),
    Column("fee_per_gas", _BIG),
    Column("reason", Text),
    Column("created_ms", _BIG, nullable=False),
    Column("changed_ms", _BIG, nullable=False),
    sa.CheckConstraint("state IN ('queued', 'sent', 'mined', 'final', 'reverted', 'lost')", name="chain_tx_state"),
    sa.UniqueConstraint("deployment", "purpose", "reference", name="chain_tx_once"),
    Index("chain_tx_state_id", "deployment", "state", "account", "id"),
    Index(
        "chain_tx_nonce",
        "deployment",
        "account",
        "nonce",
        unique=True,
        sqlite_where=sa.text("state <> 'lost' AND nonce IS NOT NULL"),
        postgresql_where=sa.text("state <> 'lost' AND nonce IS NOT NULL"),
    ),
)

# Every signed form of a chain_tx; any of them may be the one that gets mined, so none is ever deleted.
chain_tx_attempt: Final = Table(
    "chain_tx_attempt",
    metadata,
    Column("chain_tx", _BIG, ForeignKey("chain_tx.id"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("nonce", _BIG, nullable=False),
    Column("tx_hash", Text, nullable=False, unique=True),
    Column("raw", LargeBinary, nullable=False),
    Column("max_fee", _BIG, nullable=False),
    Column("priority_fee", _BIG, nullable=False),
    Column("signed_ms", _BIG, nullable=False),
    Column("sent_ms", _BIG),
    Column("answer", Text),
)

# What people must know of. Some clear themselves when the cause is gone; the others wait for a person.
chain_alarms: Final = Table(
    "chain_alarms",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("deployment", Integer, ForeignKey("deployments.id"), nullable=False),
    Column("code", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("raised_ms", _BIG, nullable=False),
    Column("cleared_ms", _BIG),
    Index(
        "chain_alarms_open",
        "deployment",
        "code",
        "account",
        unique=True,
        sqlite_where=sa.text("cleared_ms IS NULL"),
        postgresql_where=sa.text("cleared_ms IS NULL"),
    ),
)

# `frontier` are the roots of the perfect subtrees of the tree at `size`: with it the next anchor's root and proof are
# rebuilt from the stored bytes of the new entries alone.
anchors: Final = Table(
    "anchors",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("deployment", Integer, ForeignKey("deployments.id"), nullable=False),
    Column("prev_size", _BIG, nullable=False),
    Column("size", _BIG, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("chain_tx", _BIG, ForeignKey("chain_tx.id")),
    Column("state", Text, nullable=False),
    Column("created_ms", _BIG, nullable=False),
    Column("final_ms", _BIG),
    sa.CheckConstraint("state IN ('pending', 'final', 'failed')", name="anchors_state"),
    sa.CheckConstraint("size > prev_size", name="anchors_grow"),
    # Two anchorers cannot both go on from one size, nor anchor one size twice, while either may still be final.
    Index(
        "anchors_from",
        "deployment",
        "prev_size",
        unique=True,
        sqlite_where=sa.text("state <> 'failed'"),
        postgresql_where=sa.text("state <> 'failed'"),
    ),
    Index(
        "anchors_to",
        "deployment",
        "size",
        unique=True,
        sqlite_where=sa.text("state <> 'failed'"),
        postgresql_where=sa.text("state <> 'failed'"),
    ),
)

TABLES: Final = (deployments, chain_accounts, chain_tx, chain_tx_attempt, chain_alarms, anchors)
