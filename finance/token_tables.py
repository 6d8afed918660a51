"""Tables of payment tokens: the vault of account numbers, tokens with their limits, and what was spent by them."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, Column, Date, Integer, LargeBinary, Table, Text

metadata: Final = sa.MetaData()
_BIG = BigInteger().with_variant(Integer(), "sqlite")

# The only place that holds account numbers, sealed; everything else names an account by `id`.
account_vault: Final = Table(
    "fin_account_vault",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bank", Text, nullable=False),
    Column("owner", Text, nullable=False),
    # A keyed hash, so that one account is linked once and nobody finds its number by trying all numbers.
    Column("fingerprint", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_s", _BIG, nullable=False),
    sa.UniqueConstraint("bank", "owner", "fingerprint"),
)
tokens: Final = Table(
    "fin_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, sa.ForeignKey("fin_account_vault.id"), nullable=False, index=True),
    Column("bank", Text, nullable=False, index=True),
    Column("owner", Text, nullable=False, index=True),
    Column("partner", Text, nullable=False, index=True),
    Column("purpose", Text, nullable=False),
    # A sorted JSON list; an empty one stands for every merchant of the partner.
    Column("merchants", Text, nullable=False),
    Column("per_payment", _BIG, nullable=False),
    Column("per_day", _BIG, nullable=False),
    Column("total", _BIG, nullable=False),
    Column("count_max", _BIG, nullable=False),
    Column("window_from_s", Integer, nullable=False),
    Column("window_until_s", Integer, nullable=False),
    Column("valid_from_s", _BIG, nullable=False),
    Column("valid_until_s", _BIG, nullable=False),
    Column("state", Text, nullable=False),
    # Grows whenever state or controls change, never by spending.
    Column("version", _BIG, nullable=False),
    # The newest calendar date (Shanghai) that was spent on, and how much on it; it never goes back.
    Column("day", Date, nullable=False),
    Column("spent_day", _BIG, nullable=False),
    Column("spent_total", _BIG, nullable=False),
    Column("count", _BIG, nullable=False),
    Column("created_s", _BIG, nullable=False),
    Column("last_s", _BIG, nullable=False),
    CheckConstraint("spent_total BETWEEN 0 AND total", name="total_kept"),
    CheckConstraint("count BETWEEN 0 AND count_max", name="count_kept"),
    CheckConstraint("spent_day >= 0 AND spent_day <= spent_total", name="day_kept"),
    CheckConstraint("per_payment > 0 AND per_payment <= per_day AND per_day <= total", name="limits_in_order"),
    CheckConstraint("valid_from_s < valid_until_s", name="valid_in_order"),
)
token_spends: Final = Table(
    "fin_token_spends",
    metadata,
    Column("id", Text, primary_key=True),
    Column("token", Text, sa.ForeignKey("fin_tokens.id"), nullable=False, index=True),
    Column("reference", Text, nullable=False),
    Column("amount", _BIG, nullable=False),
    Column("merchant", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("at_s", _BIG, nullable=False),
    Column("entry", _BIG, nullable=False),
    Column("state", Text, nullable=False),
    Column("reversed_s", _BIG),
    CheckConstraint("amount > 0", name="amount_positive"),
    sa.UniqueConstraint("token", "reference"),
)
FIRST: Final = (account_vault, tokens, token_spends)
"""What the first migration of tokens makes."""
