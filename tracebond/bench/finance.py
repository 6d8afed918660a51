"""``tracebond bench finance``: end of day for 150,000 loans, and decisions beside as many facilities."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, cast

import sqlalchemy as sa

from core.identifiers import org_id, sgtin_id
from core.money import Money, parse_money
from finance.decision import decide
from finance.eod import end_of_day, put
from finance.inputs import gather
from finance.journal import DEPOSITS, LOANS, trial_balance
from finance.lending import grow
from finance.loanbook import read_loans
from finance.model import Actor, Call, Context, goods_key
from finance.policy import load_policy
from finance.provenance import Evidence, EvidenceEvent
from finance.servicing import advance
from finance.tables import (
    borrowers,
    claims,
    entries,
    facilities,
    goods,
    loans,
    postings,
    quotes,
    receipts,
    schedule_lines,
)
from ledger.database import Database
from tracebond.bench.databases import has_postgres, postgres_database, sqlite_database
from tracebond.bench.report import Row, Say

LOANS_FULL, LOANS_QUICK = 150_000, 5_000
DECISIONS, DECISIONS_QUICK = 200, 40
EOD_MAX_S, DECISION_MAX_MS = 300.0, 200.0
_NAIVE = 300
_DAY = date(2026, 3, 2)
_NOW = int(datetime(2026, 3, 2, 10, tzinfo=UTC).timestamp())
_BANK = org_id("9521321000018")
_WAREHOUSE = org_id("9521321000049")
_GTIN = "09521321000018"
_INSERT = 5_000


def run(quick: bool, say: Say) -> list[Row]:
    """The rows: on PostgreSQL where it can be started, else on SQLite."""
    count = LOANS_QUICK if quick else LOANS_FULL
    name, opened = ("PostgreSQL", postgres_database) if has_postgres() else ("SQLite", sqlite_database)
    with opened() as database:
        say(f"lending {count:,} loans on {name}")
        _seed(database, count)
        rows = _decisions(database, count, DECISIONS_QUICK if quick else DECISIONS, name, say)
        rows += _end_of_day(database, count, name, say, is_quick=quick)
    return rows


def _end_of_day(database: Database, count: int, name: str, say: Say, *, is_quick: bool) -> list[Row]:
    naive = _row_by_row(database, say) * count / _NAIVE
    ceiling = _computing_alone(database) * count / _NAIVE
    shown = [0.0]

    def progress(done: int, whole: int) -> None:
        if time.monotonic() - shown[0] > 5:
            shown[0] = time.monotonic()
            say(f"{done:,} of {whole:,} loans")

    begin = time.monotonic()
    done = end_of_day(database, load_policy(), _DAY, now=_NOW, progress=progress)
    took = time.monotonic() - begin
    target = None if is_quick else EOD_MAX_S
    agrees = _books_agree(database) and not done.differences
    return [
        Row(f"end of day, {count:,} loans, {name}", took, "s", ceiling=ceiling, naive=naive, target=target,
            is_lower_better=True),
        Row("books agree to the fen after it (1 yes)", float(agrees), "", target=1),
    ]  # fmt: skip


def _decisions(database: Database, count: int, times: int, name: str, say: Say) -> list[Row]:
    say(f"{times} decisions beside {count:,} facilities")
    context, policy = _context(), load_policy()
    receipt = _goods(database, context)
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        with database.transaction() as tx:
            call = Call(Actor("officer", "officer", _BANK), "key", "bench", _NOW, _DAY)
            inputs = gather(
                tx, context, lender=_BANK, borrower=_borrower(0), receipts=[receipt],
                amount=parse_money("10000.00"), tenor_days=90, call=call, purpose=None,
            )  # fmt: skip
            decide(inputs, policy)
        took.append((time.perf_counter() - begin) * 1_000)
    alone = _median_ms(lambda: decide(inputs, policy), times)
    row = Row(
        f"decision on given evidence, {count:,} facilities, {name}, p95", statistics.quantiles(took, n=20)[18], "ms",
        ceiling=alone, target=DECISION_MAX_MS, is_lower_better=True,
    )  # fmt: skip
    return [row]


def _row_by_row(database: Database, say: Say) -> float:
    """Seconds for ``_NAIVE`` loans, each read, grown and posted in a transaction of its own, then undone."""
    say(f"the naive way on {_NAIVE} loans")
    with database.reading() as tx:
        idents = list(tx.execute(sa.select(loans.c.id).order_by(loans.c.id).limit(_NAIVE)).scalars())
    begin = time.monotonic()
    for ident in idents:
        with _undone(database) as tx:
            grow(tx, ident, until=_DAY, now=_NOW)
    return time.monotonic() - begin


def _computing_alone(database: Database) -> float:
    """Seconds to grow ``_NAIVE`` loans in memory: what no database can beat."""
    with database.reading() as tx:
        idents = list(tx.execute(sa.select(loans.c.id).order_by(loans.c.id).limit(_NAIVE)).scalars())
        found = read_loans(tx, idents)
    begin = time.monotonic()
    for loan in found:
        advance(loan.standing, _DAY + timedelta(days=1), loan.terms)
    return time.monotonic() - begin


@contextmanager
def _undone(database: Database) -> Iterator[sa.Connection]:
    try:
        with database.transaction() as tx:
            yield tx
            raise _Undo
    except _Undo:
        return


class _Undo(Exception):
    """Ends a transaction without keeping it."""


def _seed(database: Database, count: int) -> None:
    started, accrued_to = _DAY - timedelta(days=20), _DAY - timedelta(days=1)
    with database.transaction() as tx:
        put(tx, "business_date", _DAY.isoformat())
    for start in range(0, count, _INSERT):
        numbers = range(start, min(start + _INSERT, count))
        with database.transaction() as tx:
            tx.execute(facilities.insert(), [_facility(number) for number in numbers])
            tx.execute(loans.insert(), [_loan(number, started, accrued_to) for number in numbers])
            tx.execute(schedule_lines.insert(), [_line(number, started + timedelta(days=90)) for number in numbers])
            total = sum(_principal(number) for number in numbers)
            entry = {
                "lender": _BANK, "kind": "draw", "reference": f"seed/{start}", "currency": "CNY",
                "business_date": started, "at_s": _NOW, "debit_minor": total, "credit_minor": total,
            }  # fmt: skip
            written = tx.execute(entries.insert().values(entry).returning(entries.c.number)).scalar_one()
            for line, (account, debit, credit) in enumerate([(LOANS, total, 0), (DEPOSITS, 0, total)], start=1):
                tx.execute(
                    postings.insert().values(
                        entry=written, line=line, lines=2, account=account, debit_minor=debit, credit_minor=credit
                    )
                )


def _facility(number: int) -> dict[str, Any]:
    return {
        "id": f"F{number:07}", "application": f"F{number:07}", "lender": _BANK, "borrower": _borrower(number),
        "limit_minor": _principal(number), "rate_e10": 435_000_000, "day_count": "ACT/360", "grade": "A",
        "policy": "v1", "tenor_days": 90, "available_until": _DAY + timedelta(days=300), "state": "ACTIVE",
        "is_disputed": False, "version": 0,
    }  # fmt: skip


def _loan(number: int, started: date, accrued_to: date) -> dict[str, Any]:
    return {
        "id": f"F{number:07}-L1", "facility": f"F{number:07}", "principal": _principal(number),
        "balance": _principal(number), "interest_due": 0, "accrued_exact": "0;0", "accrued_to": accrued_to,
        "overpaid": 0, "started": started, "state": "ACTIVE", "base": "{}",
    }  # fmt: skip


def _line(number: int, due: date) -> dict[str, Any]:
    return {
        "loan": f"F{number:07}-L1", "number": 1, "due": due, "rolled": due, "is_provisional": False,
        "principal": _principal(number), "interest": 0, "principal_paid": 0,
    }  # fmt: skip


def _principal(number: int) -> int:
    # About 100 billion yuan in all at 150,000 loans: sums must stay exact there.
    return 66_600_000 + number * 7


def _borrower(number: int) -> str:
    return f"https://id.gs1.org/417/{9_500_000_000_000 + number // 3}"


def _context() -> Context:
    def assess(tx: sa.Connection, item: str, as_of_s: int) -> Evidence:
        steps = ("commissioning", "packing", "inspecting", "storing", "sensor_reporting")
        told = tuple(EvidenceEvent(f"{at}:0", _WAREHOUSE, step, _NOW - 900 + at) for at, step in enumerate(steps))
        return Evidence(item, as_of_s, told, custody_s=as_of_s - 600, sensor_quantity=Fraction(200))

    nothing = cast(Any, None)
    return Context(bytes(32), nothing, nothing, assess, lambda tx, item: ())


def _goods(database: Database, context: Context) -> bytes:
    """A pallet of 200 units under one receipt, a price and the borrower's file. The receipt's number."""
    receipt = bytes(32)
    units = [sgtin_id(_GTIN, f"B{number}") for number in range(200)]
    features = {
        name: {"value": "0.9", "source": "bench", "as_of": _DAY.isoformat()}
        for name in ("account", "tax", "secured", "sales")
    } | {"monthly_sales": "500000.00", "annual_turnover": "6000000.00"}
    with database.transaction() as tx:
        tx.execute(
            receipts.insert().values(
                id=receipt, custodian=_WAREHOUSE, owner=_borrower(0), item=units[0],
                place="https://id.gs1.org/414/9521321000049", issued_s=_NOW, expires_s=_NOW + 10**7, state="SEALED",
            )
        )  # fmt: skip
        keys = [goods_key(context.k, unit) for unit in units]
        tx.execute(
            goods.insert(),
            [
                {"goods_key": key, "item": unit, "kind": "SERIAL", "capacity": 1, "claimed": 1}
                for key, unit in zip(keys, units, strict=True)
            ],
        )
        tx.execute(
            claims.insert(), [{"receipt": receipt, "goods_key": key, "quantity": 1, "is_live": True} for key in keys]
        )
        tx.execute(
            quotes.insert().values(
                id="q", lender=_BANK, product=f"https://id.gs1.org/01/{_GTIN}", as_of=_DAY, category="infant_formula",
                source="bench", unit="EA", price_e6=200_000_000, cost_e6=190_000_000, median_e6=200_000_000, number=1,
            )
        )  # fmt: skip
        tx.execute(
            borrowers.insert().values(
                lender=_BANK, org=_borrower(0), controller="nobody", has_account=True, features=json.dumps(features)
            )
        )
    return receipt


def _books_agree(database: Database) -> bool:
    with database.reading() as tx:
        return sum(value.minor for value in trial_balance(tx, _BANK).values()) == Money(0).minor


def _median_ms(call: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        took.append((time.perf_counter() - begin) * 1_000)
    return statistics.median(took)
