"""Tables of the web pages: persons, users, sessions, one-time logins, and scans of codes."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

METADATA: Final = MetaData()
_ID = BigInteger().with_variant(Integer(), "sqlite")

PERSON: Final = Table(
    "api_person",
    METADATA,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("name", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

USER: Final = Table(
    "api_user",
    METADATA,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("person_id", ForeignKey("api_person.id"), nullable=False, index=True),
    Column("login", String(100), nullable=False, unique=True),
    Column("org", String(200), nullable=False),
    Column("roles", String(200), nullable=False),
    Column("password_hash", String(200)),
    Column("is_active", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    CheckConstraint("length(roles) > 0", name="api_user_has_a_role"),
)

SESSION: Final = Table(
    "api_session",
    METADATA,
    Column("token_hash", LargeBinary(32), primary_key=True),
    Column("user_id", ForeignKey("api_user.id"), nullable=False, index=True),
    Column("opened_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
)

ONE_TIME_LOGIN: Final = Table(
    "api_one_time_login",
    METADATA,
    Column("token_hash", LargeBinary(32), primary_key=True),
    Column("user_id", ForeignKey("api_user.id"), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger),
)

SCAN: Final = Table(
    "api_scan",
    METADATA,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("item_key", LargeBinary(32), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("visitor", LargeBinary(16), nullable=False),
    Index("api_scan_by_item", "item_key", "at_ms"),
)

SCAN_SALT: Final = Table(
    "api_scan_salt",
    METADATA,
    Column("day", String(10), primary_key=True),
    Column("salt", LargeBinary(32), nullable=False),
)
