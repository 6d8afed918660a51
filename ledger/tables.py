"""Tables of the ledger. Hashes and keys are bytes; times are integer unix ms (``*_ms``) or s (``*_s``)."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, Text

metadata: Final = sa.MetaData()

MESSAGE: Final = 1
RECORD: Final = 2
STATE: Final = 3

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# Numbers that change: "arrival" (SQLite), "register" (version of the key register), "epoch" (sequencer).
counters: Final = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", _BIG, nullable=False),
)

# What the deployment says about itself, as JSON text.
facts: Final = Table(
    "facts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# Every admitted message, verbatim and for ever. `arrival` orders messages and records together. `items` holds per event
# a u16 count and that many 33-byte role || key; `item_ids` the canonical ids in the same order, as JSON.
messages: Final = Table(
    "messages",
    metadata,
    Column("arrival", _BIG, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("key_no", Integer, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("prev", LargeBinary),
    Column("received_ms", _BIG, nullable=False),
    Column("publish_bytes", Integer, nullable=False),
    Column("event_count", SmallInteger, nullable=False),
    Column("jwt", LargeBinary, nullable=False),
    Column("items", LargeBinary, nullable=False),
    Column("item_ids", LargeBinary, nullable=False),
    Index("messages_key_seq", "key_no", "seq"),
)

# The erasable part: disclosure texts, "~" between those of one event, a newline between events.
disclosures: Final = Table(
    "disclosures",
    metadata,
    Column("arrival", _BIG, primary_key=True, autoincrement=False),
    Column("texts", LargeBinary, nullable=False),
)

# `once` is "key:<kid>" or "end:<kid>": one of each per kid, for ever. `subject_kid`: the key that the record is about.
records: Final = Table(
    "records",
    metadata,
    Column("arrival", _BIG, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("t", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("once", Text, unique=True),
    Column("subject_kid", Text, index=True),
    Column("received_ms", _BIG, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Index("records_t", "t", "arrival"),
    Index("records_org", "org", "t", "arrival"),
)

# The queue between store and sequencer; a row is deleted in the transaction that gives its entry a leaf index.
waiting: Final = Table(
    "waiting",
    metadata,
    Column("arrival", _BIG, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
)

# Leaf index -> what stands there. For a state leaf `arrival` is null and the bytes stand in `checkpoints.state`.
entries: Final = Table(
    "entries",
    metadata,
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("arrival", _BIG, unique=True),
)

# C2SP tlog-tiles, height 8: up to 256 hashes of 32 bytes; the last tile of a level grows.
tiles: Final = Table(
    "tiles",
    metadata,
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", _BIG, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("size", _BIG, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("map_root", LargeBinary, nullable=False),
    Column("keys", _BIG, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("time_s", _BIG, nullable=False),
    Column("epoch", _BIG, nullable=False),
)

# The item map, derived from the log: per checkpoint the touched keys (key | count | head, sorted) and what they held
# before (count | head), and a rolling snapshot in chunks by the key's leading bits.
map_deltas: Final = Table(
    "map_deltas",
    metadata,
    Column("size", _BIG, primary_key=True, autoincrement=False),
    Column("rows", LargeBinary, nullable=False),
    Column("before", LargeBinary, nullable=False),
)
map_chunks: Final = Table(
    "map_chunks",
    metadata,
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    Column("size", _BIG, nullable=False),
    Column("rows", LargeBinary, nullable=False),
)

# The register of keys: a row appears when the `key` record is sequenced.
keys: Final = Table(
    "keys",
    metadata,
    Column("key_no", Integer, primary_key=True, autoincrement=True),
    Column("kid", Text, nullable=False, unique=True),
    Column("org", Text, nullable=False, index=True),
    Column("iss", Text, nullable=False, index=True),
    Column("device_key", LargeBinary, nullable=False, index=True),
    Column("use", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("jwk", Text, nullable=False),
    Column("leaf", _BIG, nullable=False),
)
key_ends: Final = Table(
    "key_ends",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("last", LargeBinary),
    Column("seq", _BIG, nullable=False),
    Column("reason", Text, nullable=False),
    Column("arrival", _BIG, nullable=False),
    Column("leaf", _BIG),
)
orgs: Final = Table(
    "orgs",
    metadata,
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("org", Text, nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("roles", Integer, nullable=False),
    Column("account", Text, nullable=False),
    Column("kid", Text, nullable=False),
    Column("jwk", Text, nullable=False),
    Column("place", Text, nullable=False),
)
masters: Final = Table(
    "masters",
    metadata,
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("subject", Text, nullable=False),
    Column("fact", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("value", Text, nullable=False),
    Index("masters_subject", "subject", "fact", "leaf"),
)

followers: Final = Table(
    "followers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("next_leaf", _BIG, nullable=False),
)

# Which (leaf, event) steps a map key, without the device steps of messages (those follow from messages_key_seq). The
# key's first 8 bytes as a signed integer: rows stay small; the whole key is compared in the message's item list.
item_steps: Final = Table(
    "item_steps",
    metadata,
    Column("key64", _BIG, primary_key=True, autoincrement=False),
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("event", Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# Per key: its highest seq, how many different seqs were seen (fewer than highest + 1: a gap), how often one came twice.
chains: Final = Table(
    "chains",
    metadata,
    Column("key_no", Integer, primary_key=True, autoincrement=False),
    Column("highest", _BIG, nullable=False),
    Column("distinct", _BIG, nullable=False),
    Column("equivocations", Integer, nullable=False),
    Column("last_leaf", _BIG, nullable=False),
)

# Messages that are no evidence, and why: equivocation, descendant, after_end or after_last.
suspects: Final = Table(
    "suspects",
    metadata,
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("message_id", LargeBinary, nullable=False, unique=True),
    Column("key_no", Integer, nullable=False, index=True),
    Column("reason", Text, nullable=False),
)

# The state of each thing; `item_facts` keep per event what a late event needs to re-evaluate it.
item_states: Final = Table(
    "item_states",
    metadata,
    Column("id", Text, primary_key=True),
    Column("product", Text, index=True),
    Column("lot", Text, index=True),
    Column("place", Text, index=True),
    Column("custodian", Text, index=True),
    Column("owner", Text, index=True),
    Column("container", Text, index=True),
    Column("biz_step", Text),
    Column("disposition", Text),
    Column("is_sold", sa.Boolean, nullable=False),
    Column("is_recalled", sa.Boolean, nullable=False),
    Column("is_decommissioned", sa.Boolean, nullable=False),
    Column("first_ms", _BIG, nullable=False),
    Column("last_ms", _BIG, nullable=False),
    Column("last_leaf", _BIG, nullable=False),
    Column("last_event", Integer, nullable=False),
    Column("events", Integer, nullable=False),
    Column("sensors", Text, nullable=False),
)
item_facts: Final = Table(
    "item_facts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("leaf", _BIG, primary_key=True, autoincrement=False),
    Column("event", Integer, primary_key=True, autoincrement=False),
    Column("device_ms", _BIG, nullable=False),
    Column("fact", Text, nullable=False),
    Index("item_facts_leaf", "leaf"),
    sqlite_with_rowid=False,
)

FIRST: Final = tuple(metadata.tables.values())
# Messages that a receipt refused and a ``refusal`` record names: they keep their place in their key's chain.
refused_messages: Final = Table(
    "refused_messages",
    metadata,
    Column("message_id", LargeBinary, primary_key=True),
    Column("key_no", Integer, nullable=False),
    Column("seq", _BIG, nullable=False),
    Column("prev", LargeBinary),
    Index("refused_places", "key_no", "seq"),
)
APPEND_ONLY: Final = ("messages", "records", "entries", "checkpoints", "keys", "orgs", "masters")


def append_only_ddl(dialect: str) -> list[str]:
    """The statements that make the database itself refuse to change or delete what was written."""
    grows = (
        "substr(NEW.hashes, 1, length(OLD.hashes)) = OLD.hashes AND NEW.level = OLD.level AND NEW.number = OLD.number"
    )
    if dialect == "sqlite":
        refuse = "BEGIN SELECT RAISE(ABORT, 'append-only'); END"
        statements = [
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {refuse}"
            for table in APPEND_ONLY
            for verb in ("UPDATE", "DELETE")
        ]
        statements.append(f"CREATE TRIGGER tiles_no_delete BEFORE DELETE ON tiles {refuse}")
        statements.append(f"CREATE TRIGGER tiles_grow BEFORE UPDATE ON tiles WHEN NOT ({grows}) {refuse}")
        return statements
    statements = [
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    ]
    statements += [
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        for table in APPEND_ONLY
    ]
    statements += [
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION refuse_change()"
        for table in (*APPEND_ONLY, "tiles")
    ]
    statements.append(
        "CREATE TRIGGER tiles_no_delete BEFORE DELETE ON tiles FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    statements.append(
        f"CREATE TRIGGER tiles_grow BEFORE UPDATE ON tiles FOR EACH ROW WHEN (NOT ({grows})) "
        "EXECUTE FUNCTION refuse_change()"
    )
    return statements
