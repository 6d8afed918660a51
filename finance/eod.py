"""End of day: every loan grows by its days, what is missed changes state, provisions follow, the business date moves.

The run goes through the loans in chunks, each in a transaction of its own that also keeps how far it came: after a
crash it goes on where it stopped, and a second run of a finished day changes nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Conflict
from core.money import Money
from finance.calendar import rolled
from finance.closing import sunset
from finance.commandlog import business_date, by_itself, insert_ignore
from finance.exits import lapse_offers
from finance.journal import ALLOWANCE, IMPAIRMENT, INCOME, RECEIVABLE, Entry, control_differences, post, trial_balance
from finance.loanbook import GROWING, Loan, carried, growth_entry, read_loans, write_growth, write_loans
from finance.model import Call
from finance.policy import Policy
from finance.provision import class_by_days, with_contagion
from finance.provision import provisions as provision_lines
from finance.servicing import Grown, advance, dated_state, overdue_days
from finance.states import OPEN_LOANS, step
from finance.tables import facilities, loans, provisions, schedule_lines, settings
from ledger.database import Database, Tx

CHUNK: Final = 2_000
SYSTEM: Final = "tracebond"
"""Whose row of the command log says that the date moved: it moves for all banks at once."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Run:
    """The policy under which a run logs what it does."""

    policy: Policy


@dataclass(frozen=True)
class DayEnd:
    """What an end of day did.

    Attributes:
        next_date: the business date from now on.
        differences: control accounts that do not agree with the loans, by lender; empty when the books agree (V5).
    """

    closed: date
    next_date: date
    loans: int
    moved: Mapping[str, int]
    differences: Mapping[str, Mapping[str, Money]]


def end_of_day(
    db: Database, policy: Policy, day: date, *, now: int, progress: Progress = lambda done, whole: None
) -> DayEnd:
    """End the business date ``day``: growth until the night, states, provisions; then the next date begins.

    Raises:
        Conflict: ``not_the_business_date``: days are ended one after the other.
    """
    until = day + timedelta(days=1)
    with db.transaction() as tx:
        today = business_date(tx, now)
        if _value(tx, "business_date") is None:
            put(tx, "business_date", today.isoformat())
        if today == until:
            return _report(tx, day, until, 0, {})
        if today != day:
            raise Conflict(
                f"The business date is {today.isoformat()}; end that day first.", code="not_the_business_date",
                pointer="date",
            )  # fmt: skip
        whole = int(tx.execute(sa.select(sa.func.count()).select_from(loans).where(_growing())).scalar_one())
        at = _value(tx, f"eod/{day.isoformat()}") or ""
    done, moved = 0, defaultdict[str, int](int)
    while True:
        with db.transaction() as tx:
            idents = _next(tx, at)
            if not idents:
                break
            for event in _chunk(tx, idents, until, policy, now=now):
                moved[event] += 1
            at = idents[-1]
            put(tx, f"eod/{day.isoformat()}", at)
        done += len(idents)
        progress(done, whole)
    with db.transaction() as tx:
        worse = _provide(tx, day, now=now)
        rolled_lines = _roll_provisional(tx, day)
        put(tx, "business_date", until.isoformat())
        ended = sunset(tx, _Run(policy), today=until, now=now)
        lapsed = lapse_offers(tx, _Run(policy), now=now)
        body = {"day": day.isoformat(), "step": "close"}
        result = {
            "next": until.isoformat(),
            "reclassified": worse,
            "rolled": rolled_lines,
            "ended": len(ended),
            "lapsed": len(lapsed),
        }
        by_itself(tx, _Run(policy), name="end_of_day", org=SYSTEM, subject=f"end of {day.isoformat()}", now=now,
                  body=body, act=_just(result))  # fmt: skip
        return _report(tx, day, until, done, moved)


def put(tx: Tx, name: str, value: str) -> None:
    """Keep one setting of finance."""
    if not insert_ignore(tx, settings, {"name": name, "value": value}):
        tx.execute(settings.update().where(settings.c.name == name).values(value=value))


def _chunk(tx: Tx, idents: Sequence[str], until: date, policy: Policy, *, now: int) -> list[str]:
    changes: list[tuple[Loan, Loan]] = []
    grown: list[tuple[Loan, Grown]] = []
    events: list[str] = []
    income: dict[str, int] = defaultdict(int)
    reversed_: dict[str, int] = defaultdict(int)
    aged_after = policy.integer("monitoring", "overdue_days")
    for loan in read_loans(tx, idents, is_locked=True):
        more = advance(loan.standing, until, loan.terms) if loan.standing.accrued_to < until else Grown(loan.standing)
        after = carried(loan, more)
        if not loan.is_off_book:
            income[loan.lender] += more.interest + more.penalty
        after, happened = _dated(after, until, aged_after)
        if after.is_off_book and not loan.is_off_book:
            reversed_[loan.lender] += after.receivable
            after = replace(after, suspended=after.suspended + after.receivable, receivable=0)
        events += happened
        changes.append((loan, after))
        grown.append((loan, more))
    write_loans(tx, changes)
    write_growth(tx, grown, until)
    day = until - timedelta(days=1)
    _log_chunk(tx, changes, day, policy, now=now)
    for lender, total in sorted(income.items()):
        entry = growth_entry(total, f"eod/{day.isoformat()}/{lender}/{idents[0]}")
        if entry is not None:
            post(tx, entry, lender=lender, business_date=day, today=day, now=now)
    for lender, total in sorted(reversed_.items()):
        if total:
            # Income that was never collected is taken back: the loans are in non-accrual.
            back = Entry("non_accrual", f"non-accrual/{day.isoformat()}/{lender}/{idents[0]}",
                         {INCOME: Money(total)}, {RECEIVABLE: Money(total)})  # fmt: skip
            post(tx, back, lender=lender, business_date=day, today=day, now=now)
    return events


def _log_chunk(tx: Tx, changes: Sequence[tuple[Loan, Loan]], day: date, policy: Policy, *, now: int) -> None:
    """A row of the command log for each bank's part of a chunk: how many loans grew, and which changed state (V10)."""
    parts: dict[str, list[tuple[Loan, Loan]]] = defaultdict(list)
    for before, after in changes:
        parts[before.lender].append((before, after))
    for lender, own in sorted(parts.items()):
        moved = [
            [after.id, before.standing.state, after.standing.state]
            for before, after in own
            if before.standing.state != after.standing.state
        ]
        result: dict[str, Any] = {
            "loans": len(own),
            "moved": len(moved),
            "moved_hash": b64u(sha256(canonical_bytes(moved))),
        }
        body = {"day": day.isoformat(), "step": "grow", "first": own[0][0].id, "last": own[-1][0].id}
        by_itself(tx, _Run(policy), name="end_of_day", org=lender, subject=f"end of {day.isoformat()}", now=now,
                  body=body, act=_just(result))  # fmt: skip


def _just(result: Mapping[str, Any]) -> Callable[[Call], Mapping[str, Any]]:
    return lambda _: result


def _dated(loan: Loan, until: date, aged_after: int) -> tuple[Loan, list[str]]:
    days = overdue_days(loan.standing.lines, until)
    state, happened = loan.standing.state, []
    for event in dated_state(state, days, aged_after):
        if event == "paid_up":
            continue
        state = step("loan", state, event)
        happened.append(event)
    return replace(
        loan, standing=replace(loan.standing, state=state), overdue_days=days, class_=class_by_days(days)
    ), happened  # fmt: skip


def _provide(tx: Tx, day: date, *, now: int) -> int:
    """Contagion within each debtor, the provisions of each class, and the entry for what changed.

    Returns:
        how many loans contagion moved to another class.
    """
    query = (
        sa.select(loans.c.id, loans.c.balance, loans.c["class"], facilities.c.lender, facilities.c.borrower)
        .select_from(loans.join(facilities, facilities.c.id == loans.c.facility))
        .where(loans.c.state.in_(OPEN_LOANS))
        .order_by(facilities.c.lender, facilities.c.borrower)
    )
    debtors: dict[tuple[str, str], dict[str, tuple[str, Money]]] = defaultdict(dict)
    for ident, balance, name, lender, borrower in tx.execute(query):
        debtors[(lender, borrower)][ident] = (name, Money(balance))
    sums: dict[str, dict[str, int]] = {lender: {} for lender in _lenders(tx)}
    worse = []
    for (lender, _), own in debtors.items():
        for ident, name in with_contagion(own).items():
            if name != own[ident][0]:
                worse.append({"b_id": ident, "class": name})
            sums[lender][name] = sums[lender].get(name, 0) + own[ident][1].minor
    if worse:
        tx.execute(
            loans.update().where(loans.c.id == sa.bindparam("b_id")).values({"class": sa.bindparam("class")}), worse
        )
    for lender, balances in sorted(sums.items()):
        _book_provision(tx, lender, {name: Money(minor) for name, minor in balances.items()}, day, now=now)
    return len(worse)


def _book_provision(tx: Tx, lender: str, balances: Mapping[str, Money], day: date, *, now: int) -> None:
    lines = provision_lines(balances)
    wanted = sum(line.amount.minor for line in lines)
    held = -trial_balance(tx, lender).get(ALLOWANCE, Money(0)).minor
    for line in lines:
        row = {"lender": lender, "business_date": day, "class": line.name, "balance": line.balance.minor}
        insert_ignore(tx, provisions, row | {"amount": line.amount.minor})
    if wanted == held:
        return
    more, change = wanted > held, Money(abs(wanted - held))
    debits, credits_ = (
        ({IMPAIRMENT: change}, {ALLOWANCE: change}) if more else ({ALLOWANCE: change}, {IMPAIRMENT: change})
    )
    entry = Entry("provision", f"provision/{day.isoformat()}/{lender}", debits, credits_)
    post(tx, entry, lender=lender, business_date=day, today=day, now=now)


def _roll_provisional(tx: Tx, day: date) -> int:
    """Due days that were set before their year's holidays were known are rolled again once they are; how many."""
    waiting = sa.select(schedule_lines.c.loan, schedule_lines.c.number, schedule_lines.c.due).where(
        schedule_lines.c.is_provisional, schedule_lines.c.rolled > day
    )
    known = [
        {"b_loan": loan, "b_number": number, "rolled": found.date, "is_provisional": False}
        for loan, number, due in tx.execute(waiting)
        if not (found := rolled(due)).is_provisional
    ]
    if known:
        own = (schedule_lines.c.loan == sa.bindparam("b_loan")) & (schedule_lines.c.number == sa.bindparam("b_number"))
        values: dict[str, sa.BindParameter[object]] = {
            "rolled": sa.bindparam("rolled"),
            "is_provisional": sa.bindparam("is_provisional"),
        }
        tx.execute(schedule_lines.update().where(own).values(values), known)
    return len(known)


def _report(tx: Tx, day: date, until: date, done: int, moved: Mapping[str, int]) -> DayEnd:
    differences = {lender: found for lender in _lenders(tx) if (found := control_differences(tx, lender))}
    return DayEnd(day, until, done, dict(moved), differences)


def _next(tx: Tx, at: str) -> list[str]:
    query = sa.select(loans.c.id).where(loans.c.id > at, _growing()).order_by(loans.c.id).limit(CHUNK)
    return list(tx.execute(query).scalars())


def _growing() -> sa.ColumnElement[bool]:
    return loans.c.state.in_(sorted(GROWING))


def _lenders(tx: Tx) -> list[str]:
    return list(tx.execute(sa.select(facilities.c.lender).distinct().order_by(facilities.c.lender)).scalars())


def _value(tx: Tx, name: str) -> str | None:
    return tx.execute(sa.select(settings.c.value).where(settings.c.name == name)).scalar_one_or_none()
