"""How loans grow: amounts from the specification's worked examples and from hand calculation."""

from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finance.servicing import Instalment, Standing, Terms, advance, dated_state, overdue_days

pytestmark = pytest.mark.unit
RATE = Fraction("0.0435")
TERMS = Terms(RATE, RATE * Fraction(3, 2), "ACT/360")
START = date(2024, 1, 1)


def bullet(principal: int, days: int) -> Standing:
    return Standing("ACTIVE", START, Fraction(0), 0, (Instalment(1, START + timedelta(days=days), principal),))


def test_contract_interest_runs_until_the_due_date() -> None:
    # 1,000,000 at 4.35 % ACT/360 for 182 days: 21,991.67 (finance.md, section 10).
    grown = advance(bullet(100_000_000, 182), date(2024, 7, 1), TERMS)

    assert (grown.interest, grown.penalty) == (2_199_167, 0)


def test_penalty_replaces_the_contract_rate_on_what_is_overdue() -> None:
    # 100,000 for 10 days at 4.35 % and a mark-up of 50 %: 181.25 in place of 120.83 (finance.md, section 10).
    due = advance(bullet(10_000_000, 30), START + timedelta(days=30), TERMS).standing
    paid = Standing(
        due.state, due.accrued_to, due.exact, due.posted,
        tuple(Instalment(line.number, line.due, line.principal) for line in due.lines),
    )  # fmt: skip

    grown = advance(paid, paid.accrued_to + timedelta(days=10), TERMS)

    assert (grown.interest, grown.penalty) == (0, 18_125)


def test_unpaid_interest_bears_penalty_after_the_due_date() -> None:
    # 100,000 for 30 days bear 362.50; then (100,000 + 362.50) * 6.525 % * 10 / 360 = 181.907...
    due = advance(bullet(10_000_000, 30), START + timedelta(days=30), TERMS).standing

    grown = advance(due, due.accrued_to + timedelta(days=10), TERMS)

    assert grown.penalty == 18_191


def test_interest_of_the_next_instalment_runs_beside_the_penalty() -> None:
    lines = (
        Instalment(1, START + timedelta(days=30), 5_000_000),
        Instalment(2, START + timedelta(days=60), 5_000_000),
    )
    start = Standing("ACTIVE", START, Fraction(0), 0, lines)

    grown = advance(start, START + timedelta(days=40), TERMS)

    # 100,000 for 30 days (362.50) and 50,000 for 10 days (60.42 of the second period).
    assert grown.interest == 36_250 + 6_042
    # 50,000 + 362.50 unpaid at 6.525 % for 10 days: 91.28...
    assert grown.penalty == 9_128
    assert [line.interest for line in grown.standing.lines] == [36_250, 6_042]


@given(
    principal=st.integers(1, 10**13),
    days=st.integers(1, 200),
    cuts=st.lists(st.integers(1, 300), max_size=6),
)
def test_days_one_by_one_give_the_same_as_one_jump(principal: int, days: int, cuts: list[int]) -> None:
    start = bullet(principal, days)
    end = START + timedelta(days=300)

    whole = advance(start, end, TERMS)
    at, interest, penalty = start, 0, 0
    for cut in [*sorted(set(cuts)), 300]:
        step = advance(at, START + timedelta(days=cut), TERMS)
        at, interest, penalty = step.standing, interest + step.interest, penalty + step.penalty

    assert at == whole.standing
    assert (interest, penalty) == (whole.interest, whole.penalty)
    assert at.charges == interest + penalty


def test_an_instalment_is_overdue_only_after_its_day() -> None:
    line = Instalment(1, date(2024, 3, 1), 100)

    assert overdue_days([line], date(2024, 3, 1)) == 0
    assert overdue_days([line], date(2024, 3, 2)) == 1
    assert overdue_days([Instalment(1, date(2024, 3, 1), 100, principal_paid=100)], date(2024, 4, 1)) == 0


@pytest.mark.parametrize(
    ("state", "days", "events"),
    [
        ("ACTIVE", 0, ()),
        ("ACTIVE", 1, ("missed",)),
        ("ACTIVE", 91, ("missed", "aged")),
        ("OVERDUE", 90, ()),
        ("OVERDUE", 91, ("aged",)),
        ("OVERDUE", 0, ("paid_up",)),
        ("NON_ACCRUAL", 0, ("paid_up",)),
        ("REPAID", 5, ()),
    ],
)
def test_days_overdue_bring_these_events(state: str, days: int, events: tuple[str, ...]) -> None:
    assert dated_state(state, days, 90) == events
