"""Money: an integer of minor units with a currency, and the few ways in which it may be rounded."""

import re
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Final

from core.errors import Rejected

CNY: Final = "CNY"
# The bound of the specification; far above 100 billion yuan, the largest balance a bank planned with this product.
AMOUNT_MINOR_MAX: Final = 10**13 * 100
QUANTITY_MAX: Final = 10**12
_DIGITS: Final = {CNY: 2}
_AMOUNT: Final = re.compile(r"(?P<whole>0|[1-9][0-9]{0,19})(?:\.(?P<part>[0-9]{1,12}))?", re.ASCII)


class Rounding(Enum):
    """The three roundings this business uses; every division names one."""

    DOWN = "down"
    UP = "up"
    HALF_EVEN = "half_even"


DOWN: Final = Rounding.DOWN
UP: Final = Rounding.UP
HALF_EVEN: Final = Rounding.HALF_EVEN


def rounded(value: Fraction, rounding: Rounding) -> int:
    """The integer that ``value`` becomes; DOWN is towards zero and UP away from it.

    Raises:
        Rejected: ``float_refused`` when the value is no exact number.
    """
    if type(value) not in (int, Fraction):
        raise Rejected("Only exact numbers are rounded to money.", code="float_refused")
    value = Fraction(value)
    sign = -1 if value < 0 else 1
    whole, rest = divmod(abs(value.numerator), value.denominator)
    if rounding is Rounding.UP:
        whole += rest > 0
    elif rounding is Rounding.HALF_EVEN:
        twice = 2 * rest
        whole += twice > value.denominator or (twice == value.denominator and whole % 2 == 1)
    return sign * whole


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of minor units (fen), exact; it never meets a float.

    Attributes:
        minor: minor units, negative for a debt or a correction.
        currency: ISO 4217 letters.
    """

    minor: int
    currency: str = CNY

    def __post_init__(self) -> None:
        """Refuse what is no integer or no known currency.

        Raises:
            Rejected: ``float_refused`` or ``unknown_currency``.
        """
        if type(self.minor) is not int:
            raise Rejected("Money is an integer of minor units.", code="float_refused")
        if self.currency not in _DIGITS:
            raise Rejected(f"No currency {self.currency!r} is booked here.", code="unknown_currency")

    def __add__(self, other: "Money") -> "Money":
        self._check(other)
        return Money(self.minor + other.minor, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._check(other)
        return Money(self.minor - other.minor, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.minor, self.currency)

    def __lt__(self, other: "Money") -> bool:
        self._check(other)
        return self.minor < other.minor

    def __le__(self, other: "Money") -> bool:
        self._check(other)
        return self.minor <= other.minor

    def __gt__(self, other: "Money") -> bool:
        self._check(other)
        return self.minor > other.minor

    def __ge__(self, other: "Money") -> bool:
        self._check(other)
        return self.minor >= other.minor

    def scaled(self, numerator: int | Fraction, denominator: int | Fraction = 1, *, rounding: Rounding) -> "Money":
        """The amount times ``numerator / denominator``: multiplied first, divided once.

        Raises:
            Rejected: ``float_refused``, or ``zero_division``.
        """
        if type(numerator) not in (int, Fraction) or type(denominator) not in (int, Fraction):
            raise Rejected("Money is scaled by integers or fractions.", code="float_refused")
        if denominator == 0:
            raise Rejected("Money cannot be divided by zero.", code="zero_division")
        return Money(rounded(Fraction(self.minor) * numerator / denominator, rounding), self.currency)

    def text(self) -> str:
        """The plain decimal text with all its minor digits, no grouping: ``-1234.50``."""
        digits = _DIGITS[self.currency]
        whole, part = divmod(abs(self.minor), 10**digits)
        return f"{'-' if self.minor < 0 else ''}{whole}.{part:0{digits}d}"

    def __str__(self) -> str:
        return f"{self.currency} {self.text()}"

    def _check(self, other: "Money") -> None:
        if not isinstance(other, Money):
            raise Rejected("Money meets only money.", code="float_refused")
        if self.currency != other.currency:
            raise Rejected(f"{self.currency} and {other.currency} do not mix.", code="other_currency")


def parse_money(value: object, *, pointer: str = "", currency: str = CNY, is_zero_allowed: bool = False) -> Money:
    """An amount as it comes from outside: a decimal string of yuan, or an integer of fen.

    Refused: floats and other numbers, signs, exponents, NaN, more decimals than the currency has, digits that are not
    ASCII, leading zeros, blanks, zero (unless allowed) and more than 10,000,000,000,000.00.

    Raises:
        Rejected: ``bad_amount`` with the pointer, or ``unknown_currency``.
    """
    if currency not in _DIGITS:
        raise Rejected(f"No currency {currency!r} is booked here.", code="unknown_currency", pointer=pointer)
    digits = _DIGITS[currency]
    if type(value) is int:
        minor = value
    elif isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        if match is None or len(match["part"] or "") > digits:
            raise _bad(pointer, f"write it as digits with at most {digits} decimals, like 1234.50")
        minor = int(match["whole"]) * 10**digits + int((match["part"] or "").ljust(digits, "0"))
    else:
        raise _bad(pointer, 'write it as a string, like "1234.50"')
    if minor < 0 or minor > AMOUNT_MINOR_MAX:
        raise _bad(pointer, "it lies between 0 and 10,000,000,000,000.00")
    if minor == 0 and not is_zero_allowed:
        raise _bad(pointer, "it is more than zero")
    return Money(minor, currency)


def parse_decimal(
    value: object, *, pointer: str, decimals_max: int, least: int = 0, most: int = QUANTITY_MAX
) -> Fraction:
    """An exact non-negative number (rate, quantity, factor) from a plain decimal string or an integer.

    Raises:
        Rejected: ``bad_number`` with the pointer.
    """
    text = str(value) if type(value) is int else value
    match = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if match is None or len(match["part"] or "") > decimals_max:
        raise Rejected(
            f"A plain decimal text with at most {decimals_max} decimals is needed.", code="bad_number", pointer=pointer
        )
    number = Fraction(match.group())
    if not least <= number <= most:
        raise Rejected(f"The number lies between {least} and {most}.", code="bad_number", pointer=pointer)
    return number


def decimal_text(value: Fraction, decimals: int, rounding: Rounding = HALF_EVEN) -> str:
    """A number with a fixed count of decimals."""
    scaled = rounded(Fraction(value) * 10**decimals, rounding)
    sign, digits = ("-" if scaled < 0 else ""), f"{abs(scaled):0{decimals + 1}d}"
    return sign + (digits if decimals == 0 else f"{digits[:-decimals]}.{digits[-decimals:]}")


def _bad(pointer: str, need: str) -> Rejected:
    return Rejected(f"This is no amount of money: {need}.", code="bad_amount", pointer=pointer)
