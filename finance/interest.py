"""Interest that grows day by day, and the penalty rate."""

from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Final, Literal

from core.errors import Rejected
from core.money import HALF_EVEN, Money
from finance.daycount import day_count

# 银发〔2003〕251号: overdue loans bear the contract rate plus 30-50 %, misused ones plus 50-100 %.
PENALTY_BOUNDS: Final = {
    "overdue": (Fraction(3, 10), Fraction(1, 2)),
    "misuse": (Fraction(1, 2), Fraction(1)),
}


def interest(principal: Money, *, rate: Fraction, start: date, end: date, day_count_name: str) -> Money:
    """Interest of a constant balance: multiplied first, divided once, HALF_EVEN to 0.01.

    Raises:
        Rejected: as ``day_count``, or ``bad_rate``.
    """
    if rate < 0:
        raise Rejected("A rate is not negative.", code="bad_rate", pointer="rate")
    return principal.scaled(rate * day_count(start, end, day_count_name)[1], rounding=HALF_EVEN)


def penalty_rate(rate: Fraction, *, markup: Fraction, reason: Literal["overdue", "misuse"] = "overdue") -> Fraction:
    """The rate that replaces the contract rate.

    Raises:
        Rejected: ``bad_penalty`` when the mark-up is outside what the People's Bank allows.
    """
    least, most = PENALTY_BOUNDS[reason]
    if not least <= markup <= most:
        raise Rejected(
            f"The mark-up for {reason} lies between {least} and {most}.", code="bad_penalty", pointer="markup"
        )
    return rate * (1 + markup)


@dataclass(frozen=True)
class Accrual:
    """Interest since the period's start: exact, and how much of it is posted already.

    Attributes:
        exact_minor: in minor units, unrounded.
        posted: the sum of daily postings.
    """

    exact_minor: Fraction
    posted: Money

    def grown(
        self, balance: Money, *, rate: Fraction, start: date, end: date, day_count_name: str
    ) -> "tuple[Accrual, Money]":
        """The accrual after some days more, and what is posted for them: rounded total minus what was posted.

        Raises:
            Rejected: as ``day_count``.
        """
        exact = self.exact_minor + balance.minor * rate * day_count(start, end, day_count_name)[1]
        total = Money(1, balance.currency).scaled(exact, rounding=HALF_EVEN)
        return Accrual(exact, total), total - self.posted
