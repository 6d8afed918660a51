"""Day counts beside QuantLib over thousands of dates, schedules beside the textbook's annuity in decimals."""

import random
from calendar import monthrange
from datetime import date, timedelta
from decimal import Context, Decimal
from fractions import Fraction

import pytest
import QuantLib as ql  # noqa: N813 - as its own examples call it

from core.errors import Rejected
from core.money import Money
from finance.daycount import day_count
from finance.schedule import parse_every, schedule
from finance.tool import day_count_text, schedule_text

pytestmark = pytest.mark.unit
ORACLES = {
    "30/360": ql.Thirty360(ql.Thirty360.BondBasis), "30E/360": ql.Thirty360(ql.Thirty360.EurobondBasis),
    "30U/360": ql.Thirty360(ql.Thirty360.USA), "ACT/360": ql.Actual360(), "ACT/365F": ql.Actual365Fixed(),
    "ACT/ACT": ql.ActualActual(ql.ActualActual.ISDA),
}  # fmt: skip
SEED = 20261125


def some_date(chance: random.Random) -> date:
    year, month = chance.randint(1950, 2120), chance.randint(1, 12)
    last = monthrange(year, month)[1]
    # Every second one at a month's end or beginning, where conventions differ.
    return date(
        year,
        month,
        chance.choice([1, last, last, max(1, last - 1), chance.randint(1, last), 28, 29 if last > 28 else 28]),
    )


def theirs(day: date) -> ql.Date:
    return ql.Date(day.day, day.month, day.year)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_day_counts_are_quantlib_s(name: str) -> None:
    chance, oracle = random.Random(SEED), ORACLES[name]
    for _ in range(4_000):
        start, end = sorted((some_date(chance), some_date(chance)))
        days, fraction = day_count(start, end, name)
        assert days == oracle.dayCount(theirs(start), theirs(end)), (SEED, start, end)
        assert abs(float(fraction) - oracle.yearFraction(theirs(start), theirs(end))) < 1e-9, (SEED, start, end)


@pytest.mark.parametrize("years", [4, 8, 400])
def test_whole_leap_cycles_count_whole_years(years: int) -> None:
    start = date(2000, 1, 1)

    _, fraction = day_count(start, date(2000 + years, 1, 1), "ACT/ACT")

    assert fraction == years


def test_equal_instalments_are_the_annuity_of_a_textbook() -> None:
    """P r / (1 - (1+r)^-n) by 60 decimal digits; the schedule then ends at zero and never below."""
    exact = Context(prec=60)
    chance = random.Random(SEED)
    for _ in range(300):
        periods, rate = chance.randint(1, 60), Decimal(chance.randint(1, 360_000)) / 10_000
        principal = chance.randint(100_000, 10**13)
        month = exact.divide(rate, 1_200)
        discount = exact.power(exact.add(1, month), -periods)
        annuity = exact.divide(exact.multiply(principal, month), exact.subtract(1, discount))
        lines = schedule(
            Money(principal), rate=Fraction(rate) / 100, day_count_name="30/360", start=date(2024, 1, 31),
            periods=periods, every=parse_every("1M"),
        )  # fmt: skip
        assert abs(lines[0].payment.minor - annuity) <= 1 or periods == 1, (SEED, principal, rate, periods)
        assert sum(line.principal.minor for line in lines) == principal
        assert lines[-1].balance.minor == 0
        assert all(line.principal.minor >= 0 and line.interest.minor >= 0 for line in lines)
        assert {line.payment for line in lines[:-1]} <= {lines[0].payment}


def test_weeks_and_days_count_from_the_start_and_a_month_s_end_is_clamped() -> None:
    weekly = schedule_text(principal="1000", rate="0", day_count_name="ACT/365F", start="2024-01-31", periods="4",
                           every="1W").splitlines()  # fmt: skip
    monthly = schedule_text(principal="1000", rate="0", day_count_name="ACT/360", start="2024-01-31", periods="3",
                            every="1M").splitlines()  # fmt: skip

    assert [line.partition(",")[0] for line in weekly[1:]] == ["2024-02-07", "2024-02-14", "2024-02-21", "2024-02-28"]
    assert weekly[1] == "2024-02-07,250.00,0.00,250.00,750.00"
    assert [line.partition(",")[0] for line in monthly[1:]] == ["2024-02-29", "2024-03-31", "2024-04-30"]
    assert date(2024, 1, 31) + timedelta(days=7) == date(2024, 2, 7)


def test_a_hundred_billion_yuan_keeps_every_fen() -> None:
    lines = schedule_text(principal="100000000000", rate="36", day_count_name="30/360", start="2024-01-31", periods="1",
                          every="1M").splitlines()  # fmt: skip

    # 3 % of it, by hand.
    assert lines == [
        "date,payment,interest,principal,balance", "2024-02-29,103000000000.00,3000000000.00,100000000000.00,0.00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "name", "code"),
    [
        ("2024-02-30", "2024-03-01", "ACT/360", "bad_date"), ("2024-03-02", "2024-03-01", "ACT/360", "bad_period"),
        ("2024-03-01", "2024-03-02", "ACT/364", "unknown_day_count"), ("20240301", "2024-03-02", "ACT/360", "bad_date"),
    ],
)  # fmt: skip
def test_odd_input_is_refused_with_its_reason(start: str, end: str, name: str, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        day_count_text(start, end, name)

    assert caught.value.code == code
