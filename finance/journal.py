"""Double entry: an entry is balanced by construction, checked by the database, and never changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import sqlalchemy as sa

from core.errors import Conflict, Rejected
from core.money import Money
from finance.tables import accounts, entries, facilities, loans, postings, sales, settings
from ledger.database import Tx

LOANS: Final = "1303"
ALLOWANCE: Final = "1304"
RECEIVABLE: Final = "1132"
DEPOSITS: Final = "2011"
MARGIN: Final = "2002"
PAYABLE: Final = "2241"
CLEARING: Final = "3001"
INCOME: Final = "6011"
IMPAIRMENT: Final = "6702"
OPERATING_LOSS: Final = "6711"
CLOSED: Final = "closed_until"
"""The setting, with the lender behind it, that keeps how far its books are closed."""


@dataclass(frozen=True)
class Entry:
    """A balanced entry: debits and credits by account, in fen, of one currency."""

    kind: str
    reference: str
    debits: Mapping[str, Money]
    credits: Mapping[str, Money]

    def __post_init__(self) -> None:
        """Refuse what does not balance.

        Raises:
            Rejected: ``unbalanced`` or ``bad_amount``.
        """
        amounts = [*self.debits.values(), *self.credits.values()]
        if not amounts or any(amount.minor <= 0 for amount in amounts):
            raise Rejected("Each posting is more than zero.", code="bad_amount")
        if len({amount.currency for amount in amounts}) > 1 or set(self.debits) & set(self.credits):
            raise Rejected("One currency, and an account on one side only.", code="unbalanced")
        if sum(a.minor for a in self.debits.values()) != sum(a.minor for a in self.credits.values()):
            raise Rejected("Debits and credits differ.", code="unbalanced")


def post(
    tx: Tx, entry: Entry, *, lender: str, business_date: date, today: date, now: int, loan: str | None = None
) -> int:
    """Write an entry and its postings; the entry's number.

    Args:
        today: the bank's business date; nothing is booked after it.

    Raises:
        Rejected: ``future_date``.
        Conflict: ``closed_period``, or ``constraint`` when the reference was booked before.
    """
    if business_date > today:
        raise Rejected("Nothing is booked after the business date.", code="future_date", pointer="business_date")
    closed = closed_until(tx, lender)
    if closed is not None and business_date <= closed:
        raise Conflict("The period is closed.", code="closed_period", pointer="business_date")
    total = sum(amount.minor for amount in entry.debits.values())
    row = entries.insert().values(
        lender=lender, kind=entry.kind, reference=entry.reference, loan=loan,
        currency=next(iter(entry.debits.values())).currency, business_date=business_date, at_s=now, debit_minor=total,
        credit_minor=total,
    )  # fmt: skip
    number: int = tx.execute(row.returning(entries.c.number)).scalar_one()
    sides = [(account, amount.minor, 0) for account, amount in sorted(entry.debits.items())]
    sides += [(account, 0, amount.minor) for account, amount in sorted(entry.credits.items())]
    for line, (account, debit, credit) in enumerate(sides, start=1):
        tx.execute(
            postings.insert().values(
                entry=number, line=line, lines=len(sides), account=account, debit_minor=debit, credit_minor=credit
            )
        )
    return number


def closed_until(tx: Tx, lender: str) -> date | None:
    """The last day of a bank's books that is closed for ever; None where none is."""
    name = settings.c.name == f"{CLOSED}/{lender}"
    value = tx.execute(sa.select(settings.c.value).where(name)).scalar_one_or_none()
    return None if value is None else date.fromisoformat(value)


def reversed_entry(tx: Tx, reference: str) -> Entry:
    """The mirror of a posted entry: its debits as credits and its credits as debits.

    Raises:
        Rejected: ``no_such_entry``.
    """
    query = (
        sa.select(postings)
        .join(entries, entries.c.number == postings.c.entry)
        .where(entries.c.reference == reference)
        .order_by(postings.c.line)
    )
    rows = tx.execute(query).all()
    if not rows:
        raise Rejected("There is no such entry.", code="no_such_entry")
    debits = {row.account: Money(row.credit_minor) for row in rows if row.credit_minor}
    credits_ = {row.account: Money(row.debit_minor) for row in rows if row.debit_minor}
    return Entry("reversal", f"reversal/{reference}", debits, credits_)


def trial_balance(tx: Tx, lender: str) -> dict[str, Money]:
    """By account, debits minus credits; the values sum to zero."""
    query = (
        sa.select(postings.c.account, sa.func.sum(postings.c.debit_minor - postings.c.credit_minor))
        .select_from(postings.join(entries, entries.c.number == postings.c.entry))
        .where(entries.c.lender == lender)
        .group_by(postings.c.account)
    )
    return {code: Money(int(value)) for code, value in tx.execute(query)}


def control_differences(tx: Tx, lender: str) -> dict[str, Money]:
    """Where loans, margin cash and sales differ from their control accounts (V5); empty when the books agree."""
    query = (
        sa.select(sa.func.sum(loans.c.balance), sa.func.sum(loans.c.interest_due), sa.func.sum(loans.c.overpaid))
        .select_from(loans.join(facilities, facilities.c.id == loans.c.facility))
        .where(facilities.c.lender == lender, loans.c.state != "WRITTEN_OFF")
    )
    balance, interest, overpaid = (int(value or 0) for value in tx.execute(query).one())
    mine = facilities.c.lender == lender
    margin = tx.execute(sa.select(sa.func.sum(facilities.c.margin_cash)).where(mine)).scalar_one() or 0
    sold = sa.select(sa.func.sum(sales.c.costs + sales.c.surplus - sales.c.surplus_paid)).select_from(
        sales.join(facilities, facilities.c.id == sales.c.facility)
    )
    payable = overpaid + int(tx.execute(sold.where(mine)).scalar_one() or 0)
    books = trial_balance(tx, lender)
    own = {LOANS: balance, RECEIVABLE: interest, PAYABLE: -payable, MARGIN: -int(margin)}
    differences = {code: books.get(code, Money(0)) - Money(minor) for code, minor in own.items()}
    return {code: value for code, value in differences.items() if value.minor}


def account_names(tx: Tx) -> dict[str, tuple[str, str]]:
    """By code the Chinese and English name of each account."""
    return {row.code: (row.name_zh, row.name_en) for row in tx.execute(sa.select(accounts))}
