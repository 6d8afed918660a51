"""Tables of claim codes: what organisations hand to devices, and what became of each."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

metadata: Final = sa.MetaData()

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# `code_hash` is SHA-256 of the code's characters; the code itself is shown once. `giai` binds it to one device.
claim_codes: Final = Table(
    "claim_codes",
    metadata,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("code_hash", LargeBinary(32), nullable=False, unique=True),
    Column("hint", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("giai", Text),
    Column("scope", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("made_ms", _BIG, nullable=False),
    Column("expires_ms", _BIG, nullable=False),
    Column("used_ms", _BIG),
    Column("used_kid", Text),
    Column("revoked_ms", _BIG),
    Index("claim_codes_org", "org", "id"),
)

# A key that proved it holds a code. `replaces` is the key that ends once this one is taken over.
claims: Final = Table(
    "claims",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("code_id", ForeignKey("claim_codes.id"), nullable=False, unique=True),
    Column("org", Text, nullable=False),
    Column("iss", Text, nullable=False),
    Column("jwk", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("replaces", Text),
    Column("claimed_ms", _BIG, nullable=False),
    Index("claims_org", "org", "claimed_ms"),
)

# The newest signed request of a key: an older one or the same again is a replay.
key_requests: Final = Table(
    "key_requests",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("iat", _BIG, nullable=False),
)

FIRST: Final = (claim_codes, claims, key_requests)
