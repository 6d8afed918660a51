"""Day counts: how many days, and what part of a year, lie between two dates. The first day counts, the last does not.

Source: ISDA 2006 Definitions, section 4.16; the same results as QuantLib's ``Thirty360`` and ``ActualActual(ISDA)``.
"""

import calendar
import re
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from typing import Final

from core.errors import Rejected

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def parse_date(text: object, *, pointer: str = "") -> date:
    """A calendar date written YYYY-MM-DD.

    Raises:
        Rejected: ``bad_date`` for another form or a day that does not exist.
    """
    if isinstance(text, str) and _DATE.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError as error:
            raise Rejected(f"There is no day {text}.", code="bad_date", pointer=pointer) from error
    raise Rejected("A date is written YYYY-MM-DD.", code="bad_date", pointer=pointer)


def day_count(start: date, end: date, name: str) -> tuple[int, Fraction]:
    """Days and exact part of a year from ``start`` to ``end``.

    Args:
        name: ``30/360`` (Bond basis), ``30E/360``, ``30U/360`` (US, February rule), ``ACT/360``, ``ACT/365F`` or
            ``ACT/ACT`` (ISDA).

    Raises:
        Rejected: ``unknown_day_count``, or ``bad_period`` when the end lies before the start.
    """
    rule = RULES.get(name)
    if rule is None:
        text = f"The day counts are {', '.join(RULES)}; not {name!r}."
        raise Rejected(text, code="unknown_day_count", pointer="day_count")
    if end < start:
        raise Rejected("The end lies before the start.", code="bad_period", pointer="end")
    return rule(start, end)


def is_thirty(name: str) -> bool:
    """Whether every month counts 30 days under this name."""
    return name in ("30/360", "30E/360", "30U/360")


def _thirty(start: date, end: date, *, day1: int, day2: int) -> tuple[int, Fraction]:
    days = 360 * (end.year - start.year) + 30 * (end.month - start.month) + day2 - day1
    return days, Fraction(days, 360)


def _bond(start: date, end: date) -> tuple[int, Fraction]:
    day1 = min(start.day, 30)
    return _thirty(start, end, day1=day1, day2=30 if end.day == 31 and day1 == 30 else end.day)


def _european(start: date, end: date) -> tuple[int, Fraction]:
    return _thirty(start, end, day1=min(start.day, 30), day2=min(end.day, 30))


def _us(start: date, end: date) -> tuple[int, Fraction]:
    day1, day2 = start.day, end.day
    if _ends_february(start):
        day1 = 30
        if _ends_february(end):
            day2 = 30
    if day2 == 31 and day1 >= 30:
        day2 = 30
    return _thirty(start, end, day1=min(day1, 30), day2=day2)


def _ends_february(day: date) -> bool:
    return day.month == 2 and day.day == (29 if calendar.isleap(day.year) else 28)


def _actual_360(start: date, end: date) -> tuple[int, Fraction]:
    days = (end - start).days
    return days, Fraction(days, 360)


def _actual_365(start: date, end: date) -> tuple[int, Fraction]:
    days = (end - start).days
    return days, Fraction(days, 365)


def _actual_actual(start: date, end: date) -> tuple[int, Fraction]:
    if start.year == end.year:
        return (end - start).days, Fraction((end - start).days, _year_days(start.year))
    first = (date(start.year, 12, 31) - start).days + 1
    last = (end - date(end.year, 1, 1)).days
    part = Fraction(first, _year_days(start.year)) + Fraction(last, _year_days(end.year))
    return (end - start).days, part + (end.year - start.year - 1)


def _year_days(year: int) -> int:
    return 366 if calendar.isleap(year) else 365


RULES: Final[dict[str, Callable[[date, date], tuple[int, Fraction]]]] = {
    "30/360": _bond,
    "30E/360": _european,
    "30U/360": _us,
    "ACT/360": _actual_360,
    "ACT/365F": _actual_365,
    "ACT/ACT": _actual_actual,
}
