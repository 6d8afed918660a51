"""What a supervisor asks of all banks: exposures by class, provisions, concentration, calls, freezes, refusals."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa

from core.errors import Rejected
from core.money import Money, decimal_text, parse_money
from finance.exports import utc
from finance.provision import CLASSES, GENERAL, RATES
from finance.sheets import Cell, Sheet
from finance.states import LIVE_PLEDGES, OPEN_LOANS
from finance.tables import applications, facilities, loans, margin_calls, pledges, provisions, refusals
from ledger.database import Tx

CONCENTRATIONS: Final = ("borrower", "warehouse", "category")
_PART: Final = 2_000
_FROZEN: Final = ("FROZEN", "DEFAULTED", "ENFORCING")


@dataclass(frozen=True)
class Part:
    """One table of the report, as records by column name: texts, dates, counts, and Money."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Cell]]

    def sheet(self, heads: Callable[[str], str]) -> Sheet:
        """As a sheet; ``heads`` gives a column's head in the reader's language."""
        names = [heads(column) for column in self.columns]
        return Sheet(self.name, names, [[row[column] for column in self.columns] for row in self.rows])


@dataclass(frozen=True)
class Window:
    """The UTC seconds between which refused attempts are counted."""

    since_s: int
    until_s: int


def credit_report(tx: Tx, window: Window) -> list[Part]:
    """Every part of the report over all banks, as the books stand now."""
    return [
        Part("exposures", ("lender", "class", "loans", "balance", "interest", "suspended", "exposure"), _exposures(tx)),
        Part("provisions", ("lender", "business_date", "class", "balance", "rate", "provision"), _provisions(tx)),
        Part("concentration", ("lender", "by", "name", "amount", "share"), _concentration(tx)),
        Part("margin_calls", ("lender", "state", "calls", "amount", "earliest_due"), _calls(tx)),
        Part("freezes", ("lender", "facility", "borrower", "state", "disputed", "exposure"), _freezes(tx)),
        Part("refused", ("org", "command", "attempts", "first", "last"), _refused(tx, window)),
    ]


def part_of(parts: Iterable[Part], name: str) -> Part:
    """One part of a report.

    Raises:
        Rejected: ``unknown_export``.
    """
    found = {part.name: part for part in parts}
    if name not in found:
        raise Rejected(f"The parts are {', '.join(found)}.", code="unknown_export", pointer="part")
    return found[name]


def _exposures(tx: Tx) -> list[Mapping[str, Cell]]:
    columns = (loans.c.balance, loans.c.interest_due, loans.c.suspended)
    query = (
        sa.select(facilities.c.lender, loans.c["class"], sa.func.count(), *(sa.func.sum(column) for column in columns))
        .join(facilities, facilities.c.id == loans.c.facility)
        .where(loans.c.state.in_(OPEN_LOANS))
        .group_by(facilities.c.lender, loans.c["class"])
    )
    found = [
        {"lender": lender, "class": name, "loans": int(count), "balance": Money(int(balance)),
         "interest": Money(int(interest)), "suspended": Money(int(suspended)),
         "exposure": Money(int(balance) + int(interest) + int(suspended))}
        for lender, name, count, balance, interest, suspended in tx.execute(query)
    ]  # fmt: skip
    return sorted(found, key=lambda row: (str(row["lender"]), CLASSES.index(str(row["class"]))))


def _provisions(tx: Tx) -> list[Mapping[str, Cell]]:
    newest = (
        sa.select(provisions.c.lender, sa.func.max(provisions.c.business_date).label("day"))
        .group_by(provisions.c.lender)
        .subquery()
    )
    same = (newest.c.lender == provisions.c.lender) & (newest.c.day == provisions.c.business_date)
    rows = tx.execute(sa.select(provisions).join(newest, same)).all()
    rows = sorted(rows, key=lambda row: (row.lender, CLASSES.index(row._mapping["class"])))
    return [
        {"lender": row.lender, "business_date": row.business_date, "class": row._mapping["class"],
         "balance": Money(row.balance), "rate": decimal_text(100 * (GENERAL + RATES[row._mapping["class"]]), 0),
         "provision": Money(row.amount)}
        for row in rows
    ]  # fmt: skip


def _concentration(tx: Tx) -> list[Mapping[str, Cell]]:
    sums: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    owed = sa.func.sum(loans.c.balance + loans.c.interest_due + loans.c.suspended)
    query = (
        sa.select(facilities.c.lender, facilities.c.borrower, owed)
        .join(facilities, facilities.c.id == loans.c.facility)
        .where(loans.c.state.in_(OPEN_LOANS))
        .group_by(facilities.c.lender, facilities.c.borrower)
    )
    for lender, borrower, total in tx.execute(query):
        sums[lender, "borrower"][borrower] += int(total)
    for lender, line, value in _pledged(tx):
        sums[lender, "category"][line["category"]] += value
        if line["warehouse"] is not None:
            sums[lender, "warehouse"][line["warehouse"]] += value
    found: list[Mapping[str, Cell]] = []
    for lender, by in sorted(sums, key=lambda one: (one[0], CONCENTRATIONS.index(one[1]))):
        own = sums[lender, by]
        whole = sum(own.values())
        for name, minor in sorted(own.items(), key=lambda one: (-one[1], one[0])):
            share = decimal_text(Fraction(100 * minor, whole), 2) if whole else "0.00"
            found.append({"lender": lender, "by": by, "name": name, "amount": Money(minor), "share": share})
    return found


def _pledged(tx: Tx) -> Iterable[tuple[str, Mapping[str, Any], int]]:
    """(lender, line of the inputs, net value in fen) of what secures live pledges, as it was last decided on."""
    live = sa.select(pledges.c.facility).where(pledges.c.state.in_(LIVE_PLEDGES))
    query = (
        sa.select(facilities.c.id, facilities.c.lender, applications.c.decision)
        .join(applications, applications.c.id == facilities.c.application)
        .where(facilities.c.id.in_(live))
        .order_by(facilities.c.id)
        .execution_options(yield_per=_PART)
    )
    newest = sa.select(sa.func.max(loans.c.id)).where(loans.c.base != "{}").group_by(loans.c.facility)
    drawn = sa.select(loans.c.facility, loans.c.base).where(loans.c.id.in_(newest))
    bases: dict[str, str] = {row.facility: row.base for row in tx.execute(drawn)}
    for ident, lender, decision in tx.execute(query):
        stored = json.loads(bases.get(ident, decision))
        inputs = stored["inputs"]
        groups = [inputs, *inputs.get("further", ()), {"lines": inputs.get("mortgages", ())}]
        given = {line["id"]: line for group in groups for line in group["lines"]}
        for line in stored["decision"]["lines"]:
            yield lender, given[line["id"]], parse_money(line["net"], is_zero_allowed=True).minor


def _calls(tx: Tx) -> list[Mapping[str, Cell]]:
    query = (
        sa.select(facilities.c.lender, margin_calls.c.state, sa.func.count(), sa.func.sum(margin_calls.c.amount),
                  sa.func.min(margin_calls.c.due))
        .join(facilities, facilities.c.id == margin_calls.c.facility)
        .group_by(facilities.c.lender, margin_calls.c.state)
        .order_by(facilities.c.lender, margin_calls.c.state)
    )  # fmt: skip
    return [
        {"lender": lender, "state": state, "calls": int(count), "amount": Money(int(amount)), "earliest_due": _day(due)}
        for lender, state, count, amount, due in tx.execute(query)
    ]


def _freezes(tx: Tx) -> list[Mapping[str, Cell]]:
    owed = (
        sa.select(
            loans.c.facility,
            sa.func.sum(loans.c.balance + loans.c.interest_due + loans.c.suspended).label("owed"),
        )
        .where(loans.c.state.in_(OPEN_LOANS))
        .group_by(loans.c.facility)
        .subquery()
    )
    query = (
        sa.select(facilities, owed.c.owed)
        .outerjoin(owed, owed.c.facility == facilities.c.id)
        .where(facilities.c.state.in_(_FROZEN) | facilities.c.is_disputed)
        .order_by(facilities.c.lender, facilities.c.id)
    )
    return [
        {"lender": row.lender, "facility": row.id, "borrower": row.borrower, "state": row.state,
         "disputed": "disputed" if row.is_disputed else "", "exposure": Money(int(row.owed or 0))}
        for row in tx.execute(query)
    ]  # fmt: skip


def _refused(tx: Tx, window: Window) -> list[Mapping[str, Cell]]:
    at = refusals.c.at_s
    query = (
        sa.select(refusals.c.org, refusals.c.name, sa.func.count(), sa.func.min(at), sa.func.max(at))
        .where(refusals.c.code == "already_pledged", at >= window.since_s, at < window.until_s)
        .group_by(refusals.c.org, refusals.c.name)
        .order_by(sa.func.count().desc(), refusals.c.org, refusals.c.name)
    )
    return [
        {"org": org, "command": name, "attempts": int(count), "first": _time(first), "last": _time(last)}
        for org, name, count, first, last in tx.execute(query)
    ]


def _day(value: Any) -> date | None:
    # An aggregate has lost its column's type on SQLite.
    return date.fromisoformat(value) if isinstance(value, str) else value


def _time(value: int) -> datetime:
    return utc(int(value))
