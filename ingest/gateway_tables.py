"""Tables of the gateway: where its key's chain of messages stands, and which events were captured."""

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Table, Text

from ledger.tables import metadata

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# The last message of each gateway key; moved in the transaction that admits the next ones.
gateway_heads: Final = Table(
    "gateway_heads",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("seq", _BIG, nullable=False),
    Column("prev", LargeBinary, nullable=False),
)

# `id_key` is SHA-256 over the speaking organisation, a zero byte and the eventID. `slot` is empty for an event and its
# content digest for an error declaration, which repeats the id of the event it corrects.
captured_events: Final = Table(
    "captured_events",
    metadata,
    Column("id_key", LargeBinary, primary_key=True),
    Column("slot", LargeBinary, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("message_id", LargeBinary, nullable=False),
    Column("number", Integer, nullable=False),
    sqlite_with_rowid=False,
)

TABLES: Final = (gateway_heads, captured_events)
