"""What goods are worth to a lender: price, quality, shelf life, haircuts (formulas 2 to 6). Exact to the last fen."""

from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from math import isqrt

from core.errors import Rejected
from core.money import DOWN, Money, rounded
from finance.confidence import Confidence
from finance.policy import Policy


@dataclass(frozen=True)
class Quote:
    """A market price in yuan a unit.

    Attributes:
        median: of the last 30 days; None when there is no history yet (a person then decides).
        is_third_party: an exchange or appraiser rather than the borrower.
    """

    category: str
    source: str
    as_of: date
    price: Fraction
    unit: str
    median: Fraction | None
    is_third_party: bool = True


@dataclass(frozen=True)
class Valuation:
    """One line of a receipt, valued; immutable.

    Attributes:
        gross: quantity times price, rounded down.
        haircut_text: the market haircut, shown to six digits; the computation does not round it.
        ncv: net collateral value.
    """

    quantity: Fraction
    price: Fraction
    quality: Fraction
    life: Fraction
    haircut_text: str
    provenance: Fraction
    gross: Money
    ncv: Money
    reason: str = ""


def market_price(quote: Quote | None, policy: Policy, *, today: date, unit: str) -> Fraction:
    """The price of a quote that may be used.

    Raises:
        Rejected: ``missing_price``, ``unit_mismatch``, ``stale_price``, ``future_price``, ``zero_price``,
            ``price_out_of_band``.
    """
    if quote is None:
        raise Rejected("There is no market price.", code="missing_price", pointer="market")
    if quote.unit != unit:
        raise Rejected(f"The price is by {quote.unit}, the goods by {unit}.", code="unit_mismatch", pointer="unit")
    age = (today - quote.as_of).days
    if age < 0:
        raise Rejected("The price is of a later day.", code="future_price", pointer="market")
    if age > int(policy.category(quote.category)["max_age_days"]):
        raise Rejected(f"The price is {age} days old.", code="stale_price", pointer="market")
    if quote.price <= 0:
        raise Rejected("A price is more than zero.", code="zero_price", pointer="market")
    if quote.median is None or quote.median <= 0:
        raise Rejected("There is no 30-day median to compare with.", code="price_out_of_band", pointer="market")
    if abs(quote.price - quote.median) > policy.number("valuation", "band") * quote.median:
        raise Rejected("The price is too far from its 30-day median.", code="price_out_of_band", pointer="market")
    return quote.price


def unit_price(cost: Fraction, market: Fraction) -> Fraction:
    """The lower of cost and market.

    Raises:
        Rejected: ``zero_price``.
    """
    if cost <= 0 or market <= 0:
        raise Rejected("Cost and market price are more than zero.", code="zero_price", pointer="cost")
    return min(cost, market)


def quality_factor(grade: str, policy: Policy) -> Fraction:
    """What the inspected grade leaves of the value.

    Raises:
        Rejected: ``unknown_grade``.
    """
    grades = policy.numbers("valuation", "grades")
    if grade not in grades:
        raise Rejected(f"The grades are {', '.join(grades)}.", code="unknown_grade", pointer="quality")
    return grades[grade]


def life_factor(remaining: Fraction | None, policy: Policy) -> Fraction:
    """What the remaining part of the shelf life leaves; None for goods that do not perish."""
    if remaining is None:
        return Fraction(1)
    for least, factor in policy.rows("valuation", "life"):
        if remaining >= Fraction(least):
            return Fraction(factor)
    return Fraction(0)


def provenance_haircut(confidence: Confidence, policy: Policy) -> Fraction | None:
    """What doubt about the history takes; None when the goods are ineligible."""
    if not confidence.is_eligible:
        return None
    for least, haircut in policy.rows("valuation", "provenance"):
        if confidence.reaches(Fraction(least)):
            return Fraction(haircut)
    return None


def value_line(
    *,
    quantity: Fraction,
    sensor_quantity: Fraction | None = None,
    price: Fraction,
    quality: Fraction,
    life: Fraction,
    haircut_base: Fraction,
    revaluation_days: int,
    provenance: Fraction | None,
    prior: Money | None = None,
    policy: Policy,
) -> Valuation:
    """The net collateral value of one line, rounded down to 0.01, never below zero.

    Args:
        sensor_quantity: what sensors count; the lower of both is lent against.
        revaluation_days: business days since the last accepted valuation, at least 1.
        provenance: the provenance haircut; None for ineligible goods.
        prior: what comes before us.

    Raises:
        Rejected: ``bad_number`` for a quantity, price or day count out of range.
    """
    if quantity <= 0 or price <= 0 or revaluation_days < 1 or (sensor_quantity is not None and sensor_quantity < 0):
        raise Rejected("Quantity and price are above zero, days at least 1.", code="bad_number", pointer="quantity")
    counted = quantity if sensor_quantity is None else min(quantity, sensor_quantity)
    term = policy.integer("valuation", "market_term_days")
    square = haircut_base**2 * Fraction(revaluation_days + term - 1, term)
    gross = counted * price * 100
    reason = _refusal(provenance, square, quality, life)
    ncv = 0
    if not reason and provenance is not None:
        full = gross * quality * life * (1 - provenance)
        liens = prior.minor if prior is not None else 0
        ncv = max(0, _floor_minus_root(full, full**2 * square) - liens)
    return Valuation(
        counted, price, quality, life, _root_text(square), provenance if provenance is not None else Fraction(1),
        Money(rounded(gross, DOWN)), Money(ncv), reason,
    )  # fmt: skip


def _refusal(provenance: Fraction | None, square: Fraction, quality: Fraction, life: Fraction) -> str:
    if provenance is None:
        return "confidence"
    if square >= 1:
        return "haircut"
    if quality == 0:
        return "quality"
    return "shelf_life" if life == 0 else ""


def _floor_minus_root(value: Fraction, square: Fraction) -> int:
    """The floor of ``value - sqrt(square)``, exact: no decimal approximation can move a fen."""

    def is_below(number: int) -> bool:
        return number <= value and square <= (value - number) ** 2

    # isqrt gives the root to within one; then step to the exact floor.
    number = int(value) - isqrt(int(square)) + 1
    while not is_below(number):
        number -= 1
    return number


def _root_text(square: Fraction) -> str:
    scaled = square * 10**14
    digits = (isqrt(scaled.numerator // scaled.denominator) + 5) // 10
    return f"{digits // 10**6}.{digits % 10**6:06d}"
