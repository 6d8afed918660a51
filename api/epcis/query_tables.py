"""Tables of named queries, subscriptions, their deliveries, and page tokens that were given up."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text

from ledger.tables import metadata

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# `owner` is the caller's organisation: names are its own, nobody learns of another's.
queries: Final = Table(
    "epcis_queries",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("query", Text, nullable=False),
    Column("created_ms", _BIG, nullable=False),
)

# `viewer` says what the subscriber may see, `cursor_ev` how far it was reported; both move in one transaction with
# the deliveries they made. `next_ms` is null for a stream.
subscriptions: Final = Table(
    "epcis_subscriptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("query_name", Text, nullable=False),
    Column("partner_id", Integer),
    Column("viewer", Text, nullable=False),
    Column("dest", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("schedule", Text),
    Column("report_if_empty", Boolean, nullable=False),
    Column("epc_format", Text, nullable=False),
    Column("initial_ms", _BIG),
    Column("min_record_ms", _BIG),
    Column("created_ms", _BIG, nullable=False),
    Column("notified_ms", _BIG),
    Column("cursor_ev", _BIG, nullable=False),
    Column("next_ms", _BIG),
    Column("state", Text, nullable=False),
    Index("epcis_subscriptions_query", "owner", "query_name", "id"),
)

# `body` is what goes out; states: waiting, delivered, failed. Deliveries of a subscription go out in their order.
deliveries: Final = Table(
    "epcis_deliveries",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("subscription", Text, nullable=False),
    Column("events", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_ms", _BIG, nullable=False),
    Column("deadline_ms", _BIG, nullable=False),
    Column("next_ms", _BIG, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Index("epcis_deliveries_order", "subscription", "state", "number"),
    Index("epcis_deliveries_due", "state", "next_ms"),
)

dropped_tokens: Final = Table(
    "epcis_dropped_tokens",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("expires_ms", _BIG, nullable=False, index=True),
)

TABLES: Final = (queries, subscriptions, deliveries, dropped_tokens)
