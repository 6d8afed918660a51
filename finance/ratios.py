"""Advance rate, loan-to-value and availability (formulas 8 to 10)."""

from fractions import Fraction

from core.errors import Rejected
from core.money import UP, Money, decimal_text
from finance.policy import Policy


def advance_rate(grade: str, category: str, policy: Policy, *, is_appraised: bool) -> Fraction:
    """The advance rate of a borrower's grade, under the ceiling for goods without third-party price (formula 8).

    Raises:
        Rejected: ``unknown_grade`` or ``unknown_category``.
    """
    rates = policy.numbers("advance", "grades")
    if grade not in rates:
        raise Rejected(f"The grades are {', '.join(rates)}.", code="unknown_grade", pointer="grade")
    own = policy.category(category).get("advance_rate")
    if own is not None:
        return Fraction(own) if rates[grade] > 0 else Fraction(0)
    return rates[grade] if is_appraised else min(rates[grade], policy.number("advance", "ceiling_unappraised"))


def ltv(exposure: Money, gross: Money) -> Fraction | None:
    """Exposure over gross eligible value; 0/0 is 0, and None stands for x/0, infinite (formula 10)."""
    if exposure.minor == 0:
        return Fraction(0)
    return Fraction(exposure.minor, gross.minor) if gross.minor else None


def ltv_passes(exposure: Money, gross: Money, gate: Fraction) -> bool:
    """Whether no guarantee is needed: strictly above the gate it is (N-8)."""
    value = ltv(exposure, gross)
    return value is not None and value <= gate


def ratio_text(value: Fraction | None) -> str:
    """A ratio in per cent, rounded up to 0.01 so that what is above a gate is not shown at it."""
    if value is None:
        return "infinite"
    return f"{decimal_text(value * 100, 2, UP)} %"


def availability(*, limit: Money, base: Money, exposure: Money) -> Money:
    """What may still be drawn: never more than limit or base allow, never below zero."""
    return max(Money(0, limit.currency), min(limit, base) - exposure)
