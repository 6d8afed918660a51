"""Loans between database and ``finance.servicing``: read, grown, written back, and the entries that growth posts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa

from core.money import Money
from finance.interest import penalty_rate
from finance.journal import INCOME, RECEIVABLE, Entry
from finance.policy import Policy, load_policy
from finance.servicing import OFF_BOOK, Grown, Instalment, Standing, Terms
from finance.tables import accruals, facilities, loans, schedule_lines
from ledger.database import Tx

GROWING: Final = frozenset({"ACTIVE", "OVERDUE", "NON_ACCRUAL", "DEFAULTED"})
"""States in which a loan bears interest."""
_LINE: Final = ("principal_paid", "interest_paid", "penalty", "penalty_paid", "fee", "fee_paid", "compounded")


@dataclass(frozen=True)
class Loan:
    """A loan as it is stored, with the terms of its facility.

    Attributes:
        receivable: interest, penalty and fees on the books; ``suspended`` those that are claimed but no income.
    """

    id: str
    facility: str
    lender: str
    borrower: str
    terms: Terms
    standing: Standing
    receivable: int
    suspended: int
    overpaid: int
    overdue_days: int
    class_: str

    @property
    def is_off_book(self) -> bool:
        """Whether its interest is no income now."""
        return self.standing.state in OFF_BOOK


def read_loans(tx: Tx, idents: Sequence[str], *, is_locked: bool = False) -> list[Loan]:
    """These loans in the order of their ids; those that do not exist are left out."""
    query = sa.select(
        loans, facilities.c.lender, facilities.c.borrower, facilities.c.rate_e10, facilities.c.day_count,
        facilities.c.policy,
    ).select_from(loans.join(facilities, facilities.c.id == loans.c.facility))  # fmt: skip
    query = query.where(loans.c.id.in_(idents)).order_by(loans.c.id)
    if is_locked:
        query = query.with_for_update(of=loans)
    lines: dict[str, list[Instalment]] = defaultdict(list)
    asked = sa.select(schedule_lines).where(schedule_lines.c.loan.in_(idents))
    rows = tx.execute(query).all()
    for row in tx.execute(asked.order_by(schedule_lines.c.loan, schedule_lines.c.number)):
        lines[row.loan].append(_instalment(row))
    policies: dict[str, Policy] = {}
    return [_loan(row, tuple(lines[row.id]), policies) for row in rows]


def carried(loan: Loan, grown: Grown) -> Loan:
    """The loan with its growth: on the books, or claimed only while it is in non-accrual."""
    more = grown.interest + grown.penalty
    if loan.is_off_book:
        return replace(loan, standing=grown.standing, suspended=loan.suspended + more)
    return replace(loan, standing=grown.standing, receivable=loan.receivable + more)


def write_loans(tx: Tx, changes: Sequence[tuple[Loan, Loan]]) -> None:
    """Write what changed between each (before, after): loans and their lines."""
    rows = [_row(after) for before, after in changes if before != after]
    lines = [
        _line_row(after.id, line)
        for before, after in changes
        for old, line in zip(before.standing.lines, after.standing.lines, strict=True)
        if old != line
    ]
    if rows:
        names = [name for name in rows[0] if name != "b_id"]
        values: dict[str, Any] = {name: sa.bindparam(name) for name in names}
        tx.execute(loans.update().where(loans.c.id == sa.bindparam("b_id")).values(values), rows)
    if lines:
        names = [name for name in lines[0] if not name.startswith("b_")]
        values = {name: sa.bindparam(name) for name in names}
        own = (schedule_lines.c.loan == sa.bindparam("b_loan")) & (schedule_lines.c.number == sa.bindparam("b_number"))
        tx.execute(schedule_lines.update().where(own).values(values), lines)


def write_growth(tx: Tx, grown: Sequence[tuple[Loan, Grown]], until: date) -> None:
    """The sub-ledger rows of a day's growth."""
    rows = [
        {"loan": loan.id, "until": until, "interest": more.interest, "penalty": more.penalty,
         "is_off_book": loan.is_off_book}
        for loan, more in grown
        if more.interest or more.penalty
    ]  # fmt: skip
    if rows:
        tx.execute(accruals.insert(), rows)


def growth_entry(total: int, reference: str, *, kind: str = "accrual") -> Entry | None:
    """The entry for posted interest: receivable against income; the other way where rounding took back."""
    if total == 0:
        return None
    if total < 0:
        return Entry(kind, reference, {INCOME: Money(-total)}, {RECEIVABLE: Money(-total)})
    return Entry(kind, reference, {RECEIVABLE: Money(total)}, {INCOME: Money(total)})


def stored_standing(standing: Standing) -> dict[str, Any]:
    """A loan's standing as JSON: whole minor units, exact fractions and dates as texts."""
    lines = [
        asdict(line) | {"due": line.due.isoformat(), "penalty_exact": str(line.penalty_exact)}
        for line in standing.lines
    ]
    return {
        "state": standing.state, "accrued_to": standing.accrued_to.isoformat(), "exact": str(standing.exact),
        "posted": standing.posted, "lines": lines,
    }  # fmt: skip


def read_standing(value: Mapping[str, Any]) -> Standing:
    """The standing that ``stored_standing`` wrote."""
    lines = tuple(
        Instalment(**line | {"due": date.fromisoformat(line["due"]), "penalty_exact": Fraction(line["penalty_exact"])})
        for line in value["lines"]
    )
    return Standing(
        value["state"], date.fromisoformat(value["accrued_to"]), Fraction(value["exact"]), value["posted"], lines
    )


def _loan(row: Any, lines: tuple[Instalment, ...], policies: dict[str, Policy]) -> Loan:
    policy = policies.get(row.policy)
    if policy is None:
        policy = policies[row.policy] = load_policy(row.policy)
    exact, posted = row.accrued_exact.split(";")
    rate = Fraction(row.rate_e10, 10**10)
    markup = policy.number("loan", "penalty_markup")
    return Loan(
        id=row.id, facility=row.facility, lender=row.lender, borrower=row.borrower,
        terms=Terms(rate, penalty_rate(rate, markup=markup), row.day_count),
        standing=Standing(row.state, row.accrued_to, Fraction(exact), int(posted), lines), receivable=row.interest_due,
        suspended=row.suspended, overpaid=row.overpaid, overdue_days=row.overdue_days, class_=row._mapping["class"],
    )  # fmt: skip


def _instalment(row: Any) -> Instalment:
    own: Mapping[str, Any] = row._mapping
    return Instalment(
        row.number, row.rolled, row.principal, interest=row.interest_grown, penalty_exact=Fraction(row.penalty_exact),
        **{name: own[name] for name in _LINE},
    )  # fmt: skip


def _row(loan: Loan) -> dict[str, Any]:
    standing = loan.standing
    return {
        "b_id": loan.id, "balance": standing.balance, "interest_due": loan.receivable, "suspended": loan.suspended,
        "accrued_exact": f"{standing.exact};{standing.posted}", "accrued_to": standing.accrued_to,
        "overpaid": loan.overpaid, "state": standing.state, "overdue_days": loan.overdue_days, "class": loan.class_,
    }  # fmt: skip


def _line_row(loan: str, line: Instalment) -> dict[str, Any]:
    values = {name: getattr(line, name) for name in _LINE}
    grown = {"interest_grown": line.interest, "penalty_exact": str(line.penalty_exact)}
    return {"b_loan": loan, "b_number": line.number} | values | grown
