"""Tables of what surrounds credit: names, consents, further cover, exits, reviews, and credits that wait.

They stand in the same metadata as :mod:`finance.tables`, with the same units.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, Column, Date, Index, Integer, LargeBinary, Table, Text

from finance.tables import CREDIT, metadata

_BIG = BigInteger().with_variant(Integer(), "sqlite")


def _id() -> "Column[str]":
    return Column("id", Text, primary_key=True)


# Lists of names with whom a bank does no business without a second look; a new import is a new version.
screening_names: Final = Table(
    "fin_screening_names",
    metadata,
    Column("lender", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("entry", Text, primary_key=True),
    Column("name_zh", Text, nullable=False),
    Column("name_en", Text, nullable=False),
    # As they are compared.
    Column("folded_zh", Text, nullable=False),
    Column("folded_en", Text, nullable=False),
)
screening_lists: Final = Table(
    "fin_screening_lists",
    metadata,
    Column("lender", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, nullable=False),
    Column("names", Integer, nullable=False),
    Column("at_s", _BIG, nullable=False),
)
screening_hits: Final = Table(
    "fin_screening_hits",
    metadata,
    Column("application", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("entry", Text, nullable=False),
    Column("listed", Text, nullable=False),
    # How alike, in hundredths of a per cent.
    Column("score_e2", Integer, nullable=False),
    Column("state", Text, nullable=False),
)
consents: Final = Table(
    "fin_consents",
    metadata,
    _id(),
    Column("borrower", Text, nullable=False, index=True),
    Column("lender", Text, nullable=False, index=True),
    Column("purpose", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("given_s", _BIG, nullable=False),
    Column("until_s", _BIG, nullable=False),
    Column("withdrawn_s", _BIG),
)
_LIVE_GUARANTEE = sa.text("state IN ('REQUESTED', 'ACTIVE')")
guarantees: Final = Table(
    "fin_guarantees",
    metadata,
    _id(),
    Column("facility", Text, nullable=False),
    Column("lender", Text, nullable=False, index=True),
    Column("guarantor", Text, nullable=False),
    Column("amount", _BIG, nullable=False),
    Column("document_hash", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Index(
        "fin_guarantees_one_live",
        "facility",
        unique=True,
        sqlite_where=_LIVE_GUARANTEE,
        postgresql_where=_LIVE_GUARANTEE,
    ),
    CheckConstraint("amount > 0", name="fin_guarantees_amount"),
)
# Property mortgaged as supplementary cover of one application and its facility (they share their id).
mortgages: Final = Table(
    "fin_mortgages",
    metadata,
    _id(),
    Column("application", Text, nullable=False, index=True),
    Column("lender", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("value", _BIG, nullable=False),
    Column("appraised", Date, nullable=False),
    Column("appraiser", Text, nullable=False),
    Column("document_hash", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Index(
        "fin_mortgages_one_live", "title", unique=True, sqlite_where=_LIVE_GUARANTEE, postgresql_where=_LIVE_GUARANTEE
    ),
    CheckConstraint("value > 0", name="fin_mortgages_value"),
)
terminations: Final = Table(
    "fin_terminations",
    metadata,
    Column("facility", Text, primary_key=True),
    Column("side", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_s", _BIG, nullable=False),
)
compensations: Final = Table(
    "fin_compensations",
    metadata,
    _id(),
    Column("lender", Text, nullable=False, index=True),
    Column("claimant", Text, nullable=False, index=True),
    Column("facility", Text, nullable=False),
    Column("amount", _BIG, nullable=False),
    Column("grounds", Text, nullable=False),
    Column("state", Text, nullable=False),
    CheckConstraint("amount > 0", name="fin_compensations_amount"),
)
limit_reviews: Final = Table(
    "fin_limit_reviews",
    metadata,
    Column("facility", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at_s", _BIG, nullable=False),
    Column("cause", Text, nullable=False),
    Column("basis_hash", LargeBinary, nullable=False),
    Column("decision", Text, nullable=False),
    Column("limit_before", _BIG, nullable=False),
    Column("limit_after", _BIG, nullable=False),
)

# Credit notifications (camt.054) that cannot be booked as they are: a person books or dismisses each.
payment_exceptions: Final = Table(
    "fin_payment_exceptions",
    metadata,
    _id(),
    Column("lender", Text, nullable=False, index=True),
    Column("reference", Text, nullable=False),
    # What the notification says is paid: it may be no loan of ours, and of another currency.
    Column("loan", Text, nullable=False),
    Column("amount", _BIG, nullable=False),
    Column("currency", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message_hash", LargeBinary, nullable=False),
    Column("received_s", _BIG, nullable=False),
    Column("state", Text, nullable=False),
    Column("person", Text, nullable=False, server_default=""),
    Column("note", Text, nullable=False, server_default=""),
    Column("resolved_s", _BIG),
    sa.UniqueConstraint("lender", "reference", "loan", "amount", "currency", "reason"),
)

FIRST: Final = (
    *CREDIT, screening_names, screening_lists, screening_hits, consents, guarantees, mortgages, terminations,
    compensations, limit_reviews, payment_exceptions,
)  # fmt: skip
"""What the first migration of finance makes."""
