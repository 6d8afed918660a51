"""Tables of partners and their API keys."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, LargeBinary, String, Table

from ledger.tables import metadata

_ID = BigInteger().with_variant(Integer(), "sqlite")

PARTNER: Final = Table(
    "partner",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("org", String(200), index=True),
    Column("is_regulator", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("disabled_ms", BigInteger),
)

# `key_hash` is the SHA-256 of the key's text; `hint` its first characters.
PARTNER_KEY: Final = Table(
    "partner_key",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("partner_id", ForeignKey("partner.id"), nullable=False, index=True),
    Column("key_hash", LargeBinary(32), nullable=False, unique=True),
    Column("hint", String(20), nullable=False),
    Column("scopes", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("used_ms", BigInteger),
)
TABLES: Final = (PARTNER, PARTNER_KEY)
