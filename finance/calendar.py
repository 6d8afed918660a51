"""China's business days: weekends, public holidays and the weekend days worked in exchange for them."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import chinese_calendar

from core.errors import Rejected

_DAYS_MAX: Final = 4_000


@dataclass(frozen=True)
class Day:
    """A date with what is known of it.

    Attributes:
        is_business: whether it is a business day.
        is_provisional: the State Council has not published the holidays of its year yet: weekends only, to be
            computed again on publication.
    """

    date: date
    is_business: bool
    is_provisional: bool


def day(value: date) -> Day:
    """What is known of a date."""
    try:
        return Day(value, bool(chinese_calendar.is_workday(value)), is_provisional=False)
    except NotImplementedError:
        # The library raises for a year it does not know; guessing its holidays would be a false promise.
        return Day(value, value.weekday() < 5, is_provisional=True)


def rolled(value: date) -> Day:
    """The date itself or the next business day; provisional when any day looked at was."""
    is_provisional = False
    for offset in range(_DAYS_MAX):
        known = day(value + timedelta(days=offset))
        is_provisional |= known.is_provisional
        if known.is_business:
            return Day(known.date, is_business=True, is_provisional=is_provisional)
    raise Rejected("No business day follows.", code="bad_date")


def after_business_days(value: date, count: int) -> Day:
    """The business day that many business days after a date.

    Raises:
        Rejected: ``bad_period`` for a count outside 0 to 1,000.
    """
    if not 0 <= count <= 1_000:
        raise Rejected("Business days are counted from 0 to 1,000.", code="bad_period")
    current, is_provisional = value, False
    for _ in range(count):
        step = rolled(current + timedelta(days=1))
        current, is_provisional = step.date, is_provisional or step.is_provisional
    return Day(current, day(current).is_business, is_provisional or day(current).is_provisional)


def business_days(start: date, end: date) -> int:
    """How many business days lie after ``start`` up to and including ``end``; 0 when end is not after start.

    Raises:
        Rejected: ``bad_period`` for more than 4,000 days.
    """
    span = (end - start).days
    if span > _DAYS_MAX:
        raise Rejected(f"At most {_DAYS_MAX} days are counted.", code="bad_period")
    return sum(day(start + timedelta(days=offset)).is_business for offset in range(1, span + 1))
