"""Schedules against Fineract's, and what every schedule keeps (V14)."""

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Rejected
from core.money import Money, parse_money
from finance.daycount import RULES
from finance.schedule import Every, due_dates, parse_every, schedule

pytestmark = pytest.mark.unit
MONTHLY = Every(1, "M")


def lines(principal: str, rate: str, periods: int, name: str = "30/360", **more: object):  # type: ignore[no-untyped-def]
    return schedule(
        parse_money(principal),
        rate=Fraction(rate) / 100,
        day_count_name=name,
        start=date(2024, 1, 1),
        periods=periods,
        every=MONTHLY,
        **more,  # type: ignore[arg-type]
    )


def test_fineract_schedule_of_9_4822_percent() -> None:
    got = lines("100", "9.4822", 6)

    assert [line.interest.text() for line in got] == ["0.79", "0.66", "0.53", "0.40", "0.27", "0.13"]
    assert {line.payment.text() for line in got} == {"17.13"}


def test_fineract_schedule_of_7_percent() -> None:
    got = lines("100", "7", 6)

    assert [line.interest.text() for line in got] == ["0.58", "0.49", "0.39", "0.29", "0.20", "0.10"]
    assert [line.payment.text() for line in got] == ["17.01"] * 5 + ["17.00"]
    assert sum(line.interest.minor for line in got) == 205


def test_without_interest_the_principal_is_divided_evenly() -> None:
    assert [line.payment.text() for line in lines("1000", "0", 4)] == ["250.00"] * 4


def test_a_mortgage_of_textbooks_comes_out_to_the_cent() -> None:
    # 200,000 at 6.5 % over 30 years is 1,264.14 a month in every annuity table.
    assert lines("200000", "6.5", 360)[0].payment == parse_money("1264.14")


def test_due_dates_count_from_the_start_and_clamp_to_the_month_s_end() -> None:
    assert due_dates(date(2024, 1, 31), MONTHLY, 4) == [
        date(2024, 2, 29), date(2024, 3, 31), date(2024, 4, 30), date(2024, 5, 31),
    ]  # fmt: skip
    assert due_dates(date(2024, 1, 31), Every(2, "W"), 1) == [date(2024, 2, 14)]
    assert due_dates(date(2024, 12, 31), Every(1, "D"), 2) == [date(2025, 1, 1), date(2025, 1, 2)]


def test_bullet_pays_once_and_interest_only_pays_principal_last() -> None:
    bullet = lines("1000000", "4.35", 6, "ACT/360", kind="bullet")
    monthly = lines("1000000", "4.35", 6, "ACT/360", kind="interest_only")

    assert [(line.due, line.interest.text()) for line in bullet] == [(date(2024, 7, 1), "21991.67")]
    assert monthly[0].payment.text() == "3745.83"  # 1,000,000 x 4.35 % x 31/360
    assert monthly[0].principal == Money(0)
    assert monthly[-1].principal == parse_money("1000000")


@given(
    st.integers(1, 10**13), st.integers(0, 36_00), st.integers(1, 60), st.sampled_from(sorted(RULES)),
    st.dates(date(1990, 1, 1), date(2100, 1, 1)), st.sampled_from(["1D", "10D", "2W", "1M", "3M"]),
    st.sampled_from(["equal_instalment", "bullet", "interest_only"]),
)  # fmt: skip
def test_v14_principal_is_repaid_exactly_and_balance_never_negative(
    minor: int, rate_bps: int, periods: int, name: str, start: date, every: str, kind: str
) -> None:
    got = schedule(
        Money(minor), rate=Fraction(rate_bps, 10_000), day_count_name=name, start=start, periods=periods,
        every=parse_every(every), kind=kind,  # type: ignore[arg-type]
    )  # fmt: skip

    assert sum(line.principal.minor for line in got) == minor
    assert got[-1].balance == Money(0)
    assert all(line.balance.minor >= 0 and line.principal.minor >= 0 for line in got)
    assert all(line.payment == line.interest + line.principal for line in got)


@pytest.mark.parametrize("text", ["0M", "1Y", "M", "-1M", "1.5M", "1m", "", None, "12345D"])
def test_an_unknown_period_is_refused(text: object) -> None:
    with pytest.raises(Rejected, match="bad_period"):
        parse_every(text)


@pytest.mark.parametrize("periods", [0, -1, 1_201, True])
def test_a_count_of_periods_out_of_range_is_refused(periods: int) -> None:
    with pytest.raises(Rejected, match="bad_period"):
        due_dates(date(2024, 1, 1), MONTHLY, periods)


def test_a_schedule_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(Rejected, match="bad_period"):
        due_dates(date(9990, 1, 1), Every(12, "M"), 20)


def test_bad_terms_are_refused() -> None:
    with pytest.raises(Rejected, match="bad_rate"):
        lines("1", "-1", 1)
    with pytest.raises(Rejected, match="unknown_day_count"):
        lines("1", "1", 1, "ACT/364")
    with pytest.raises(Rejected, match="unknown_kind"):
        lines("1", "1", 1, kind="balloon")
