"""End of day on both databases: growth, states, provisions, and books that agree after every night."""

from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from core.errors import Conflict
from core.money import Money
from finance import eod
from finance.eod import end_of_day, put
from finance.journal import DEPOSITS, IMPAIRMENT, INCOME, LOANS, Entry, control_differences, post, trial_balance
from finance.policy import load_policy
from finance.tables import accruals, entries, facilities, loans, schedule_lines
from ledger.database import Database
from tests.finance.world import BANK, OWNER

DAY = date(2026, 3, 2)
NOW = 1_772_420_400
POLICY = load_policy()


def lend(database: Database, name: str, *, principal: int, days: int, borrower: str = OWNER) -> None:
    with database.transaction() as tx:
        tx.execute(
            facilities.insert().values(
                id=name, application=name, lender=BANK, borrower=borrower, limit_minor=principal,
                rate_e10=435_000_000, day_count="ACT/360", grade="A", policy="v1", tenor_days=days,
                available_until=DAY + timedelta(days=360), state="ACTIVE", is_disputed=False, version=0,
            )
        )  # fmt: skip
        tx.execute(
            loans.insert().values(
                id=f"{name}-L1", facility=name, principal=principal, balance=principal, interest_due=0,
                accrued_exact="0;0", accrued_to=DAY, overpaid=0, started=DAY, state="ACTIVE", base="{}",
            )
        )  # fmt: skip
        due = DAY + timedelta(days=days)
        tx.execute(
            schedule_lines.insert().values(
                loan=f"{name}-L1", number=1, due=due, rolled=due, is_provisional=False, principal=principal,
                interest=0, principal_paid=0,
            )
        )  # fmt: skip
        drawn = Entry("draw", f"draw/{name}-L1", {LOANS: Money(principal)}, {DEPOSITS: Money(principal)})
        post(tx, drawn, lender=BANK, business_date=DAY, today=DAY, now=NOW, loan=f"{name}-L1")


def nights(database: Database, count: int, first: date = DAY) -> None:
    with database.transaction() as tx:
        put(tx, "business_date", first.isoformat())
    for night in range(count):
        done = end_of_day(database, POLICY, first + timedelta(days=night), now=NOW)
        assert done.differences == {}


def row(database: Database, name: str) -> sa.Row[tuple[object, ...]]:
    with database.reading() as tx:
        return tx.execute(sa.select(loans).where(loans.c.id == f"{name}-L1")).one()


def books(database: Database) -> dict[str, Money]:
    with database.reading() as tx:
        assert control_differences(tx, BANK) == {}
        found = trial_balance(tx, BANK)
    assert sum(value.minor for value in found.values()) == 0
    return found


def test_thirty_nights_post_the_interest_of_thirty_days(database: Database) -> None:
    lend(database, "a", principal=3_000_000, days=90)

    nights(database, 30)

    # 30,000.00 at 4.35 % for 30 days ACT/360 is 108.75; 1 % of 30,000.00 is provided for.
    assert row(database, "a").interest_due == 10_875
    found = books(database)
    assert (found[INCOME], found[IMPAIRMENT]) == (Money(-10_875), Money(30_000))


def test_an_unpaid_loan_ages_into_non_accrual_and_its_income_is_taken_back(database: Database) -> None:
    lend(database, "a", principal=10_000_000, days=10)

    nights(database, 11)
    assert (row(database, "a").state, row(database, "a").overdue_days) == ("OVERDUE", 1)
    nights(database, 90, DAY + timedelta(days=11))

    late = row(database, "a")
    assert (late.state, late.overdue_days, late.interest_due) == ("NON_ACCRUAL", 91, 0)
    assert late._mapping["class"] == "substandard"
    # Ten days' interest 120.83, then 91 nights of penalty on 100,120.83 at 6.525 %.
    assert late.suspended == 12_083 + round(10_012_083 * 0.06525 * 91 / 360)
    found = books(database)
    assert found.get(INCOME, Money(0)) == Money(0)
    # Substandard: 1 % + 25 %.
    assert found[IMPAIRMENT] == Money(2_600_000)


def test_one_bad_loan_pulls_down_a_debtor_s_others(database: Database) -> None:
    lend(database, "a", principal=2_000_000, days=10)
    lend(database, "b", principal=8_000_000, days=300)
    lend(database, "c", principal=8_000_000, days=300, borrower=BANK)

    nights(database, 101)

    # 20 % of the debtor's claims are non-performing: above 10 % all are (令〔2023〕1号, art. 7).
    classes = [row(database, name)._mapping["class"] for name in "abc"]
    assert classes == ["substandard", "substandard", "pass"]
    assert row(database, "b").state == "ACTIVE"


def test_a_run_that_was_broken_off_goes_on_where_it_stopped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        lend(database, f"n{number}", principal=1_000_000 + number, days=90)
    with database.transaction() as tx:
        put(tx, "business_date", DAY.isoformat())
    monkeypatch.setattr(eod, "CHUNK", 3)

    def die(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        end_of_day(database, POLICY, DAY, now=NOW, progress=die)
    done = end_of_day(database, POLICY, DAY, now=NOW)

    assert done.loans == 4
    with database.reading() as tx:
        grown = tx.execute(sa.select(sa.func.count()).select_from(accruals)).scalar_one()
    assert grown == 7
    books(database)


def test_a_day_ends_once(database: Database) -> None:
    lend(database, "a", principal=3_000_000, days=90)
    nights(database, 1)
    with database.reading() as tx:
        before = tx.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one()

    again = end_of_day(database, POLICY, DAY, now=NOW)

    with database.reading() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one() == before
    assert (again.loans, again.next_date) == (0, DAY + timedelta(days=1))


def test_another_day_than_the_business_date_is_refused(database: Database) -> None:
    nights(database, 1)

    with pytest.raises(Conflict) as caught:
        end_of_day(database, POLICY, DAY + timedelta(days=5), now=NOW)

    assert caught.value.code == "not_the_business_date"
