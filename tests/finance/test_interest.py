"""Interest, penalty, calendar, allocation and provisions: the worked examples to the cent."""

from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Rejected
from core.money import Money, parse_money
from finance.allocation import NON_PERFORMING, PARTS, Due, proceeds, spread
from finance.calendar import after_business_days, business_days, day, rolled
from finance.interest import Accrual, interest, penalty_rate
from finance.provision import class_by_days, provisions, with_contagion

pytestmark = pytest.mark.unit
RATE = Fraction(435, 10_000)


@pytest.mark.parametrize(
    ("name", "amount"), [("ACT/360", "21991.67"), ("ACT/365F", "21690.41"), ("30/360", "21750.00")]
)
def test_half_a_year_s_interest_on_a_million(name: str, amount: str) -> None:
    got = interest(parse_money("1000000"), rate=RATE, start=date(2024, 1, 1), end=date(2024, 7, 1), day_count_name=name)

    assert got.text() == amount


def test_interest_multiplies_first_and_divides_once() -> None:
    start = date(2023, 1, 1)

    got = interest(
        parse_money("1000.20"), rate=Fraction(5, 100), start=start, end=start + timedelta(180), day_count_name="ACT/360"
    )

    assert got.text() == "25.00"


def test_penalty_replaces_the_contract_rate() -> None:
    days = {"start": date(2024, 1, 1), "end": date(2024, 1, 11), "day_count_name": "ACT/360"}

    raised = penalty_rate(RATE, markup=Fraction(1, 2))

    assert interest(parse_money("100000"), rate=raised, **days).text() == "181.25"  # type: ignore[arg-type]
    assert interest(parse_money("100000"), rate=RATE, **days).text() == "120.83"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("markup", "reason"), [("0.29", "overdue"), ("0.51", "overdue"), ("0.49", "misuse"), ("1.01", "misuse")]
)
def test_a_penalty_outside_the_rule_is_refused(markup: str, reason: str) -> None:
    with pytest.raises(Rejected, match="bad_penalty"):
        penalty_rate(RATE, markup=Fraction(markup), reason=reason)  # type: ignore[arg-type]


@given(st.integers(1, 10**12), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_daily_postings_sum_to_the_interest_of_the_period(minor: int, steps: list[int]) -> None:
    accrual, start, posted = Accrual(Fraction(0), Money(0)), date(2024, 1, 1), 0

    for step in steps:
        end = start + timedelta(step)
        accrual, posting = accrual.grown(Money(minor), rate=RATE, start=start, end=end, day_count_name="ACT/360")
        start, posted = end, posted + posting.minor

    whole = interest(Money(minor), rate=RATE, start=date(2024, 1, 1), end=start, day_count_name="ACT/360")
    assert posted == whole.minor


@pytest.mark.parametrize("text", ["2026-01-04", "2026-02-14", "2026-02-28", "2026-05-09", "2026-09-20", "2026-10-10"])
def test_weekend_days_worked_in_exchange_are_business_days(text: str) -> None:
    known = day(date.fromisoformat(text))

    assert known.is_business
    assert not known.is_provisional


def test_a_holiday_is_rolled_to_the_next_business_day() -> None:
    assert not day(date(2026, 10, 1)).is_business
    assert rolled(date(2026, 10, 1)).date == date(2026, 10, 8)


def test_an_unpublished_year_counts_weekends_only_and_says_so() -> None:
    known = rolled(date(2035, 10, 6))  # a Saturday

    assert known.date == date(2035, 10, 8)
    assert known.is_provisional


def test_business_days_are_counted_after_the_start() -> None:
    assert business_days(date(2026, 9, 30), date(2026, 10, 10)) == 3  # 8, 9 and the worked Saturday 10 October
    assert business_days(date(2026, 10, 10), date(2026, 9, 30)) == 0
    assert after_business_days(date(2026, 9, 30), 3).date == date(2026, 10, 10)


def test_provision_of_the_worked_example() -> None:
    balances = {
        "pass": "10000000", "special_mention": "1000000", "substandard": "400000", "doubtful": "200000",
        "loss": "50000",
    }  # fmt: skip

    got = provisions({name: parse_money(text) for name, text in balances.items()})

    assert sum(line.amount.minor for line in got) == 386_500_00
    assert got[-1].amount == parse_money("50500")


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(Rejected, match="unknown_class"):
        provisions({"bad": Money(1)})


@pytest.mark.parametrize(
    ("days", "name"),
    [(0, "pass"), (1, "special_mention"), (90, "special_mention"), (91, "substandard"), (270, "substandard"),
     (271, "doubtful"), (360, "doubtful"), (361, "loss")],
)  # fmt: skip
def test_days_overdue_give_the_class(days: int, name: str) -> None:
    assert class_by_days(days) == name


def test_more_than_a_tenth_non_performing_infects_the_debtor() -> None:
    loans = {"old": ("doubtful", Money(10)), "new": ("pass", Money(90))}

    assert with_contagion(loans) == {"old": "doubtful", "new": "pass"}
    assert with_contagion(loans | {"old": ("doubtful", Money(11))}) == {"old": "doubtful", "new": "substandard"}


TWO = [Due(1, True, penalty=5, fee=3, interest=20, principal=100), Due(2, True, interest=10, principal=100),
       Due(3, False, interest=9, principal=100)]  # fmt: skip


def test_a_payment_takes_the_oldest_instalment_first() -> None:
    got = spread(Money(140), TWO)

    assert got.lines == ((1, "penalty", 5), (1, "fee", 3), (1, "interest", 20), (1, "principal", 100),
                         (2, "interest", 10),                         (2, "principal", 2))  # fmt: skip


def test_what_is_left_prepays_principal_and_then_is_owed_back() -> None:
    got = spread(Money(400), TWO)

    assert got.lines[-1] == (3, "principal", 100)
    assert got.overpayment == Money(400 - 5 - 3 - 20 - 10 - 300)


def test_a_non_performing_loan_may_take_principal_first() -> None:
    assert spread(Money(101), TWO, order=NON_PERFORMING).lines == ((1, "principal", 100), (1, "penalty", 1))


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.booleans(), *[st.integers(0, 10**5)] * 4), max_size=8),
    st.permutations(PARTS),
)
def test_v13_allocations_sum_to_the_payment(
    amount: int, rows: list[tuple[bool, int, int, int, int]], order: list[str]
) -> None:
    dues = [Due(number, *row) for number, row in enumerate(rows)]

    got = spread(Money(amount), dues, order=order)

    assert sum(minor for _, _, minor in got.lines) + got.overpayment.minor == amount
    assert all(minor <= getattr(dues[number], part) for number, part, minor in got.lines)


def test_sale_proceeds_pay_costs_first_and_the_surplus_is_the_borrower_s() -> None:
    paid, surplus = proceeds(Money(100), costs=Money(10), penalty=Money(5), interest=Money(15), principal=Money(60))

    assert [paid[name].minor for name in ("costs", "penalty", "interest", "principal")] == [10, 5, 15, 60]
    assert surplus == Money(10)
