"""Money is exact, refuses what is no money, and rounds only as told."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Rejected
from core.money import DOWN, HALF_EVEN, UP, Money, decimal_text, parse_decimal, parse_money, rounded

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "minor"),
    [("1", 100), ("0.01", 1), ("0.1", 10), ("1234.50", 123_450), ("10000000000000", 10**15), (5, 5)],
)
def test_plain_amounts_are_read(text: object, minor: int) -> None:
    assert parse_money(text) == Money(minor)


@pytest.mark.parametrize(
    "value",
    [
        "0", "0.00", "-1", "+1", "NaN", "Infinity", "1e3", "1E3", "0.001", "1.", ".5", "", " 1", "1 ", "1\n", "01",
        "1,000",        "10000000000000.01", "\uff11\uff12", "\u0661\u0662", "0x10", "1_000", 0, -1,
        True, 0.1, 1.0, Decimal("1.00"), None, [1], {},
        10**15 + 1, math.nan, "¥1",
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused_with_its_field(value: object) -> None:
    with pytest.raises(Rejected) as caught:
        parse_money(value, pointer="/amount")

    assert caught.value.code == "bad_amount"
    assert caught.value.pointer == "/amount"


def test_zero_passes_only_where_it_is_allowed() -> None:
    assert parse_money("0.00", is_zero_allowed=True) == Money(0)


def test_floats_never_become_money() -> None:
    with pytest.raises(Rejected, match="float_refused"):
        Money(1.0)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match="float_refused"):
        Money(1).scaled(0.5, 1, rounding=DOWN)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match="float_refused"):
        Money(1) + 1  # type: ignore[operator]
    with pytest.raises(Rejected, match="float_refused"):
        rounded(0.5, DOWN)  # type: ignore[arg-type]


def test_currencies_do_not_mix() -> None:
    with pytest.raises(Rejected, match="unknown_currency"):
        Money(1, "USD")
    with pytest.raises(Rejected, match="unknown_currency"):
        parse_money("1", currency="cny")


@pytest.mark.parametrize(
    ("value", "down", "half_even", "up"),
    [
        (Fraction(5, 2), 2, 2, 3), (Fraction(7, 2), 3, 4, 4), (Fraction(-5, 2), -2, -2, -3),
        (Fraction(21, 10), 2, 2, 3),
        (Fraction(29, 10), 2, 3, 3), (Fraction(3), 3, 3, 3), (Fraction(0), 0, 0, 0), (Fraction(-29, 10), -2, -3, -3),
    ],
)  # fmt: skip
def test_each_rounding_is_the_one_named(value: Fraction, down: int, half_even: int, up: int) -> None:
    assert (rounded(value, DOWN), rounded(value, HALF_EVEN), rounded(value, UP)) == (down, half_even, up)


@given(st.integers(-(10**15), 10**15), st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_half_even_agrees_with_python_s_own_rounding_of_fractions(minor: int, over: int, under: int) -> None:
    assert Money(minor).scaled(over, under, rounding=HALF_EVEN).minor == round(Fraction(minor * over, under))


def test_scaling_by_nothing_is_refused() -> None:
    with pytest.raises(Rejected, match="zero_division"):
        Money(1).scaled(1, 0, rounding=DOWN)


@given(st.integers(1, 10**15))
def test_text_and_parse_are_inverse(minor: int) -> None:
    assert parse_money(Money(minor).text()) == Money(minor)


def test_sums_are_exact_at_a_hundred_billion_yuan() -> None:
    hundred_billion = parse_money("100000000000.00")

    assert hundred_billion + Money(1) - hundred_billion == Money(1)
    assert (-Money(5)).text() == "-0.05"
    assert Money(1) < Money(2) <= Money(2)


@pytest.mark.parametrize("value", ["1.1234567", "-1", "1e3", "", 0.5, None, True, "1000000000001"])
def test_a_quantity_has_at_most_six_decimals(value: object) -> None:
    with pytest.raises(Rejected, match="bad_number"):
        parse_decimal(value, pointer="/quantity", decimals_max=6)


def test_decimal_text_rounds_half_even() -> None:
    assert decimal_text(Fraction(1, 8), 2) == "0.12"
    assert decimal_text(Fraction(3, 8), 2) == "0.38"
    assert decimal_text(Fraction(-1, 3), 3) == "-0.333"
    assert decimal_text(Fraction(7), 0) == "7"
    assert parse_decimal("2.500000", pointer="", decimals_max=6) == Fraction(5, 2)
