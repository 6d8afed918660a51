"""Tables of finance: money in fen (BIGINT), rates in 1e-10, quantities in 1e-6; hashes are bytes, times unix s."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, Column, Date, Index, Integer, LargeBinary, Table, Text

from finance.states import LIVE_PLEDGES

metadata: Final = sa.MetaData()
_BIG = BigInteger().with_variant(Integer(), "sqlite")
_LIVE = sa.text("state IN (" + ", ".join(f"'{state}'" for state in LIVE_PLEDGES) + ")")


def _id() -> "Column[str]":
    return Column("id", Text, primary_key=True)


# One row per key and organisation: claimed first, so that two equal commands at once wait for one another.
command_keys: Final = Table(
    "fin_command_keys",
    metadata,
    Column("org", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
)
command_log: Final = Table(
    "fin_command_log",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=True),
    Column("org", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("at_s", _BIG, nullable=False),
    Column("business_date", Date, nullable=False),
    Column("body", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("row_hash", LargeBinary, nullable=False, unique=True),
    sa.UniqueConstraint("org", "key"),
    sqlite_autoincrement=True,
)
refusals: Final = Table(
    "fin_refusals",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=True),
    Column("org", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("at_s", _BIG, nullable=False),
    sqlite_autoincrement=True,
)
# Row hashes on their way to `audit` records; `sent_s` is set in the transaction that admits the record.
audit_outbox: Final = Table(
    "fin_audit_outbox",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=False),
    Column("row_hash", LargeBinary, nullable=False, unique=True),
    Column("sent_s", _BIG),
)
settings: Final = Table(
    "fin_settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
policies: Final = Table(
    "fin_policies",
    metadata,
    Column("version", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
)
borrowers: Final = Table(
    "fin_borrowers",
    metadata,
    Column("lender", Text, primary_key=True),
    Column("org", Text, primary_key=True),
    Column("controller", Text, nullable=False),
    Column("has_account", sa.Boolean, nullable=False),
    Column("features", Text, nullable=False),
    Column("legal_name", Text, nullable=False, server_default=""),
    # The controller's own features (N-1), in the form of ``features``.
    Column("controller_features", Text, nullable=False, server_default="{}"),
)
quotes: Final = Table(
    "fin_quotes",
    metadata,
    _id(),
    Column("lender", Text, nullable=False),
    Column("product", Text, nullable=False),
    Column("as_of", Date, nullable=False),
    Column("category", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("price_e6", _BIG, nullable=False),
    Column("cost_e6", _BIG, nullable=False),
    Column("median_e6", _BIG),
    # The n-th quote of this product: the last one of a day counts.
    Column("number", Integer, nullable=False),
    Index("fin_quotes_product", "lender", "product", "as_of"),
)
# Claims never exceed capacity: one atomic row update decides, and the check is the second wall.
goods: Final = Table(
    "fin_goods",
    metadata,
    Column("goods_key", LargeBinary, primary_key=True),
    Column("item", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("capacity", _BIG, nullable=False),
    Column("claimed", _BIG, nullable=False),
    Column("chain_tx", _BIG),
    CheckConstraint("claimed >= 0 AND claimed <= capacity", name="fin_goods_capacity"),
)
receipts: Final = Table(
    "fin_receipts",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("custodian", Text, nullable=False, index=True),
    Column("owner", Text, nullable=False, index=True),
    Column("item", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("issued_s", _BIG, nullable=False),
    Column("expires_s", _BIG, nullable=False),
    Column("parent", LargeBinary),
    Column("state", Text, nullable=False),
    Column("chain_tx", _BIG),
)
claims: Final = Table(
    "fin_claims",
    metadata,
    Column("receipt", LargeBinary, primary_key=True),
    Column("goods_key", LargeBinary, primary_key=True),
    Column("quantity", _BIG, nullable=False),
    Column("is_live", sa.Boolean, nullable=False),
    Index("fin_claims_goods", "goods_key", "is_live"),
)
applications: Final = Table(
    "fin_applications",
    metadata,
    _id(),
    Column("lender", Text, nullable=False, index=True),
    Column("borrower", Text, nullable=False, index=True),
    Column("receipt", LargeBinary, nullable=False),
    Column("amount", _BIG, nullable=False),
    Column("tenor_days", Integer, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("maker", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("terms_hash", LargeBinary, nullable=False),
    Column("created_s", _BIG, nullable=False),
    Column("expires_s", _BIG, nullable=False),
    # Why it went back to its maker, was withdrawn or lapsed.
    Column("note", Text, nullable=False, server_default=""),
    CheckConstraint("amount > 0", name="fin_applications_amount"),
)
approvals: Final = Table(
    "fin_approvals",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("seen_hash", LargeBinary, primary_key=True),
    Column("checker", Text, primary_key=True),
    Column("maker", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_s", _BIG, nullable=False),
    Column("expires_s", _BIG, nullable=False),
    CheckConstraint("checker <> maker", name="fin_approvals_four_eyes"),
)
facilities: Final = Table(
    "fin_facilities",
    metadata,
    _id(),
    Column("application", Text, nullable=False, unique=True),
    Column("lender", Text, nullable=False, index=True),
    Column("borrower", Text, nullable=False, index=True),
    Column("limit_minor", _BIG, nullable=False),
    Column("rate_e10", _BIG, nullable=False),
    Column("day_count", Text, nullable=False),
    Column("grade", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("tenor_days", Integer, nullable=False),
    Column("repayment", Text, nullable=False, server_default="bullet"),
    Column("available_until", Date, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("is_disputed", sa.Boolean, nullable=False),
    Column("version", Integer, nullable=False),
    # Cash that the borrower put up on a margin call; it counts in the borrowing base (formula 7).
    Column("margin_cash", _BIG, nullable=False, server_default="0"),
    CheckConstraint("margin_cash >= 0", name="fin_facilities_margin"),
)
pledges: Final = Table(
    "fin_pledges",
    metadata,
    _id(),
    Column("facility", Text, nullable=False, index=True),
    Column("lender", Text, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("terms_hash", LargeBinary, nullable=False),
    Column("nonce", _BIG, nullable=False),
    Column("deadline_s", _BIG, nullable=False),
    Column("owner_sig", LargeBinary),
    Column("custodian_sig", LargeBinary),
    Column("state", Text, nullable=False),
    Column("chain_tx", _BIG),
    Column("final_block", _BIG),
    Column("note", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("registered_s", _BIG),
    # What the register answered before the pledge, and the filing once it was final: number and hash.
    Column("search", Text, nullable=False, server_default=""),
    Column("search_hash", LargeBinary),
    Column("filing_number", Text),
    Column("filing_hash", LargeBinary),
    Index("fin_pledges_one_live", "receipt", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE),
    CheckConstraint("rank = 1", name="fin_pledges_rank"),
)
loans: Final = Table(
    "fin_loans",
    metadata,
    _id(),
    Column("facility", Text, nullable=False, index=True),
    Column("principal", _BIG, nullable=False),
    Column("balance", _BIG, nullable=False),
    Column("interest_due", _BIG, nullable=False),
    Column("accrued_exact", Text, nullable=False),
    Column("accrued_to", Date, nullable=False),
    Column("overpaid", _BIG, nullable=False),
    # Claims on interest, penalty and fees that are no income yet: the loan is in non-accrual.
    Column("suspended", _BIG, nullable=False, server_default="0"),
    Column("overdue_days", Integer, nullable=False, server_default="0"),
    Column("class", Text, nullable=False, server_default="pass"),
    Column("started", Date, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("base", Text, nullable=False),
    CheckConstraint("balance >= 0 AND interest_due >= 0 AND overpaid >= 0", name="fin_loans_balance"),
)
schedule_lines: Final = Table(
    "fin_schedule_lines",
    metadata,
    Column("loan", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("due", Date, nullable=False),
    Column("rolled", Date, nullable=False),
    Column("is_provisional", sa.Boolean, nullable=False),
    Column("principal", _BIG, nullable=False),
    Column("interest", _BIG, nullable=False),
    Column("principal_paid", _BIG, nullable=False),
    # What has grown on the instalment and what was paid of it; ``interest`` above is the plan.
    *(
        Column(name, _BIG, nullable=False, server_default="0")
        for name in ("interest_grown", "interest_paid", "penalty", "penalty_paid", "fee", "fee_paid", "compounded")
    ),
    Column("penalty_exact", Text, nullable=False, server_default="0"),
)
# A day's growth of each loan: the sub-ledger behind the collected accrual entries.
accruals: Final = Table(
    "fin_accruals",
    metadata,
    Column("loan", Text, primary_key=True),
    Column("until", Date, primary_key=True),
    Column("interest", _BIG, nullable=False),
    Column("penalty", _BIG, nullable=False),
    Column("is_off_book", sa.Boolean, nullable=False),
)
provisions: Final = Table(
    "fin_provisions",
    metadata,
    Column("lender", Text, primary_key=True),
    Column("business_date", Date, primary_key=True),
    Column("class", Text, primary_key=True),
    Column("balance", _BIG, nullable=False),
    Column("amount", _BIG, nullable=False),
)
payments: Final = Table(
    "fin_payments",
    metadata,
    Column("lender", Text, primary_key=True),
    Column("reference", Text, primary_key=True),
    Column("loan", Text, nullable=False, index=True),
    Column("amount", _BIG, nullable=False),
    Column("allocation", Text, nullable=False),
    Column("business_date", Date, nullable=False),
    # The loan as it stood before, so that a reversal can start from there.
    Column("before", Text, nullable=False, server_default=""),
)
reversals: Final = Table(
    "fin_reversals",
    metadata,
    Column("lender", Text, primary_key=True),
    Column("reference", Text, primary_key=True),
    Column("loan", Text, nullable=False, index=True),
    Column("business_date", Date, nullable=False),
    Column("entry", _BIG, nullable=False),
)
_OPEN_CALL = sa.text("state IN ('OPEN', 'NOTIFIED', 'PARTIALLY_CURED')")
margin_calls: Final = Table(
    "fin_margin_calls",
    metadata,
    _id(),
    Column("facility", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("amount", _BIG, nullable=False),
    Column("opened", Date, nullable=False),
    Column("due", Date, nullable=False),
    Column("recovered", Date),
    Column("state", Text, nullable=False),
    Column("base", Text, nullable=False),
    Index("fin_margin_calls_one_open", "facility", unique=True, sqlite_where=_OPEN_CALL, postgresql_where=_OPEN_CALL),
    CheckConstraint("amount > 0", name="fin_margin_calls_amount"),
)
sales: Final = Table(
    "fin_sales",
    metadata,
    _id(),
    Column("facility", Text, nullable=False, index=True),
    Column("proceeds", _BIG, nullable=False),
    Column("costs", _BIG, nullable=False),
    Column("surplus", _BIG, nullable=False),
    Column("bids", Text, nullable=False),
    Column("business_date", Date, nullable=False),
    Column("surplus_paid", _BIG, nullable=False, server_default="0"),
    CheckConstraint("surplus_paid >= 0 AND surplus_paid <= surplus", name="fin_sales_surplus"),
)
accounts: Final = Table(
    "fin_accounts",
    metadata,
    Column("code", Text, primary_key=True),
    Column("name_zh", Text, nullable=False),
    Column("name_en", Text, nullable=False),
)
entries: Final = Table(
    "fin_entries",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=True),
    Column("lender", Text, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("reference", Text, nullable=False, unique=True),
    Column("loan", Text, index=True),
    Column("currency", Text, nullable=False),
    Column("business_date", Date, nullable=False, index=True),
    Column("at_s", _BIG, nullable=False),
    # The header carries the sum of each side: they are equal, and triggers hold the postings to them.
    Column("debit_minor", _BIG, nullable=False),
    Column("credit_minor", _BIG, nullable=False),
    CheckConstraint("debit_minor = credit_minor AND debit_minor > 0", name="fin_entries_balanced"),
    sqlite_autoincrement=True,
)
postings: Final = Table(
    "fin_postings",
    metadata,
    Column("entry", _BIG, primary_key=True, autoincrement=False),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("lines", Integer, nullable=False),
    Column("account", Text, nullable=False, index=True),
    Column("debit_minor", _BIG, nullable=False),
    Column("credit_minor", _BIG, nullable=False),
    CheckConstraint(
        "debit_minor >= 0 AND credit_minor >= 0 AND (debit_minor = 0) <> (credit_minor = 0)", name="fin_postings_side"
    ),
)

CREDIT: Final = tuple(metadata.tables.values())
