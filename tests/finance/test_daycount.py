"""Day counts against QuantLib's own vectors."""

from datetime import date
from fractions import Fraction

import pytest

from core.errors import Rejected
from core.money import decimal_text
from finance.daycount import RULES, day_count, parse_date

pytestmark = pytest.mark.unit

# QuantLib 1.44, test-suite/daycounters.cpp: Bond basis, European and US vectors (ISDA's examples "Example 1-3").
BOND = [
    ("2006-08-20", "2007-02-20", 180), ("2007-02-20", "2007-08-20", 180), ("2007-08-20", "2008-02-20", 180),
    ("2008-02-20", "2008-08-20", 180), ("2008-08-20", "2009-02-20", 180), ("2009-02-20", "2009-08-20", 180),
    ("2006-08-31", "2007-02-28", 178), ("2007-02-28", "2007-08-31", 183), ("2007-08-31", "2008-02-29", 179),
    ("2008-02-29", "2008-08-31", 182), ("2008-08-31", "2009-02-28", 178), ("2009-02-28", "2009-08-31", 183),
    ("2006-01-31", "2006-02-28", 28), ("2006-01-30", "2006-02-28", 28), ("2006-02-28", "2006-03-03", 5),
    ("2006-02-14", "2006-02-28", 14), ("2006-09-30", "2006-10-31", 30), ("2006-10-31", "2006-11-28", 28),
    ("2007-08-31", "2008-02-28", 178), ("2008-02-28", "2008-08-28", 180), ("2008-02-28", "2008-08-30", 182),
    ("2008-02-28", "2008-08-31", 183), ("2007-02-26", "2008-02-28", 362), ("2007-02-26", "2008-02-29", 363),
    ("2008-02-29", "2009-02-28", 359), ("2008-02-28", "2008-03-30", 32), ("2008-02-28", "2008-03-31", 33),
]  # fmt: skip
EUROPEAN = [
    ("2006-08-20", "2007-02-20", 180), ("2006-08-31", "2007-02-28", 178), ("2007-02-28", "2007-08-31", 182),
    ("2007-08-31", "2008-02-29", 179), ("2008-02-29", "2008-08-31", 181), ("2006-01-31", "2006-02-28", 28),
    ("2006-02-28", "2006-03-03", 5), ("2006-02-14", "2006-02-28", 14), ("2006-09-30", "2006-10-31", 30),
    ("2006-10-31", "2006-11-28", 28), ("2008-02-28", "2008-08-31", 182), ("2008-02-29", "2009-02-28", 359),
]  # fmt: skip
US = [
    ("2006-08-20", "2007-02-20", 180), ("2006-08-31", "2007-02-28", 178), ("2007-02-28", "2007-08-31", 180),
    ("2007-08-31", "2008-02-29", 179), ("2008-02-29", "2008-08-31", 180), ("2006-02-28", "2006-03-03", 3),
    ("2006-01-31", "2006-02-28", 28), ("2006-02-14", "2006-02-28", 14), ("2006-09-30", "2006-10-31", 30),
    ("2007-02-28", "2008-02-29", 360), ("2008-02-29", "2009-02-28", 360), ("2007-02-28", "2008-02-28", 358),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "start", "end", "days"),
    [("30/360", *row) for row in BOND] + [("30E/360", *row) for row in EUROPEAN] + [("30U/360", *row) for row in US],
)
def test_thirty_day_months_are_counted_as_quantlib_does(name: str, start: str, end: str, days: int) -> None:
    assert day_count(parse_date(start), parse_date(end), name) == (days, Fraction(days, 360))


@pytest.mark.parametrize(
    ("start", "end", "fraction"),
    [
        ("2003-11-01", "2004-05-01", "0.497724380567"),
        ("1999-02-01", "1999-07-01", "0.410958904110"),
        ("1999-07-01", "2000-07-01", "1.001377348604"),
        ("2002-08-15", "2003-07-15", "0.915068493151"),
        ("2003-07-15", "2004-01-15", "0.504004790778"),
        ("1999-07-30", "2000-01-30", "0.503892506924"),
        ("2000-01-30", "2000-06-30", "0.415300546448"),
    ],
)
def test_actual_actual_isda_gives_the_published_fractions(start: str, end: str, fraction: str) -> None:
    assert decimal_text(day_count(parse_date(start), parse_date(end), "ACT/ACT")[1], 12) == fraction


def test_nothing_lies_between_a_day_and_itself() -> None:
    for name in RULES:
        assert day_count(date(2024, 2, 28), date(2024, 2, 28), name) == (0, Fraction(0))


@pytest.mark.parametrize(
    "text", ["2024-02-30", "2023-02-29", "2024-13-01", "20240101", "2024-1-1", "", "\uff12024-01-01", None]
)
def test_a_day_that_does_not_exist_is_refused(text: object) -> None:
    with pytest.raises(Rejected, match="bad_date"):
        parse_date(text)


def test_unknown_names_and_backward_periods_are_refused() -> None:
    with pytest.raises(Rejected, match="unknown_day_count"):
        day_count(date(2024, 1, 1), date(2024, 2, 1), "30e/360")
    with pytest.raises(Rejected, match="bad_period"):
        day_count(date(2024, 1, 2), date(2024, 1, 1), "ACT/360")
