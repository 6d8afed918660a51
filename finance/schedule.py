"""Repayment schedules: equal instalments by Fineract's product form, bullet, and interest only."""

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from math import lcm
from typing import Final, Literal

from core.errors import Rejected
from core.money import HALF_EVEN, Money
from finance.daycount import day_count, is_thirty

PERIODS_MAX: Final = 1_200
_EVERY: Final = re.compile(r"([1-9][0-9]{0,3})([DWM])", re.ASCII)
Kind = Literal["equal_instalment", "bullet", "interest_only"]


@dataclass(frozen=True)
class Every:
    """The length of one period: ``count`` days (D), weeks (W) or months (M)."""

    count: int
    unit: str


@dataclass(frozen=True)
class Line:
    """One instalment: due on a date, with what is left after it."""

    due: date
    payment: Money
    interest: Money
    principal: Money
    balance: Money


def parse_every(text: object, *, pointer: str = "every") -> Every:
    """A period written nD, nW or nM.

    Raises:
        Rejected: ``bad_period``.
    """
    match = _EVERY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise Rejected("A period is nD, nW or nM, like 1M.", code="bad_period", pointer=pointer)
    return Every(int(match[1]), match[2])


def due_dates(start: date, every: Every, periods: int) -> list[date]:
    """The due dates, each counted from ``start`` and clamped to its month's end; no business-day shift.

    Raises:
        Rejected: ``bad_period`` for a count outside 1 to 1,200 or a date beyond the calendar.
    """
    if type(periods) is not int or not 1 <= periods <= PERIODS_MAX:
        raise Rejected(f"There are 1 to {PERIODS_MAX} periods.", code="bad_period", pointer="periods")
    try:
        return [_after(start, every, number) for number in range(1, periods + 1)]
    except (ValueError, OverflowError) as error:
        raise Rejected("The last due date lies beyond the calendar.", code="bad_period", pointer="periods") from error


def period_fractions(start: date, dues: Sequence[date], every: Every, name: str) -> list[Fraction]:
    """The part of a year that each period counts; under the 30/360 names a month is 30 days, even from its end."""
    if is_thirty(name) and every.unit == "M":
        day_count(start, dues[-1], name)
        return [Fraction(every.count, 12)] * len(dues)
    return [day_count(begin, end, name)[1] for begin, end in zip([start, *dues], dues, strict=False)]


def instalment(principal: Money, rates: Sequence[Fraction]) -> Money:
    """The equal instalment ``prod(1 + r) * P / F_n`` with ``F_1 = 1``, ``F_i = 1 + F_(i-1) (1 + r_i)``.

    Source: Apache Fineract, ProgressiveEMICalculator.
    """
    # One common denominator keeps this exact and quick: with 1 + r_i = a_i / q it is prod(a) P q^-n / F_n.
    denominator = lcm(*(rate.denominator for rate in rates))
    growth = [denominator + rate.numerator * (denominator // rate.denominator) for rate in rates]
    product, sum_, power = growth[0], 1, 1
    for factor in growth[1:]:
        product *= factor
        power *= denominator
        sum_ = power + sum_ * factor
    return principal.scaled(product, sum_ * denominator, rounding=HALF_EVEN)


def schedule(
    principal: Money,
    *,
    rate: Fraction,
    day_count_name: str,
    start: date,
    periods: int,
    every: Every,
    kind: Kind = "equal_instalment",
) -> list[Line]:
    """The lines of a loan; principal sums to the principal and the last balance is zero.

    Args:
        rate: a year, as a fraction of one.

    Raises:
        Rejected: ``bad_amount``, ``bad_rate``, ``bad_period``, ``unknown_day_count`` or ``unknown_kind``.
    """
    if principal.minor <= 0:
        raise Rejected("The principal is more than zero.", code="bad_amount", pointer="principal")
    if rate < 0:
        raise Rejected("A rate is not negative.", code="bad_rate", pointer="rate")
    dues = due_dates(start, every, periods)
    fractions = period_fractions(start, dues, every, day_count_name)
    if kind == "equal_instalment":
        return _equal(principal, dues, [rate * fraction for fraction in fractions])
    if kind == "interest_only":
        return _interest_only(principal, dues, [rate * fraction for fraction in fractions])
    if kind == "bullet":
        interest = principal.scaled(rate * sum(fractions, Fraction(0)), rounding=HALF_EVEN)
        return [Line(dues[-1], principal + interest, interest, principal, principal - principal)]
    raise Rejected(f"There is no schedule of kind {kind!r}.", code="unknown_kind", pointer="kind")


def _equal(principal: Money, dues: Sequence[date], rates: Sequence[Fraction]) -> list[Line]:
    level = instalment(principal, rates)
    balance, lines = principal, []
    for number, (due, rate) in enumerate(zip(dues, rates, strict=True), start=1):
        interest = balance.scaled(rate, rounding=HALF_EVEN)
        part = balance
        if number < len(dues):
            # Cent rounding may end a tiny loan early, or let one long period's interest exceed the instalment.
            part = min(max(level - interest, Money(0, level.currency)), balance)
        balance = balance - part
        lines.append(Line(due, part + interest, interest, part, balance))
    return lines


def _interest_only(principal: Money, dues: Sequence[date], rates: Sequence[Fraction]) -> list[Line]:
    none, lines = Money(0, principal.currency), []
    for number, (due, rate) in enumerate(zip(dues, rates, strict=True), start=1):
        interest = principal.scaled(rate, rounding=HALF_EVEN)
        part = principal if number == len(dues) else none
        lines.append(Line(due, part + interest, interest, part, principal - part))
    return lines


def _after(start: date, every: Every, number: int) -> date:
    count = every.count * number
    if every.unit == "M":
        year, month = divmod(start.year * 12 + start.month - 1 + count, 12)
        month += 1
        return date(year, month, min(start.day, calendar.monthrange(year, month)[1]))
    return start + timedelta(days=count * (7 if every.unit == "W" else 1))
