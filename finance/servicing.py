"""How a loan grows from one date to another: contract interest, penalty on what is overdue, and what is missed.

Pure: a loan's standing and a date in, the grown standing and what must be posted out. Amounts are minor units.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from fractions import Fraction
from typing import Final

from core.money import HALF_EVEN, rounded
from finance.daycount import day_count

OFF_BOOK: Final = frozenset({"NON_ACCRUAL", "DEFAULTED", "WRITTEN_OFF"})
"""States in which interest is claimed but no income."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a loan costs: rates a year as fractions of one, and its day count.

    Attributes:
        penalty: replaces ``rate`` on what is overdue (formula 15).
    """

    rate: Fraction
    penalty: Fraction
    day_count: str


@dataclass(frozen=True, slots=True)
class Instalment:
    """One line of a schedule with what has grown on it and what was paid; minor units.

    Attributes:
        due: its business day.
        interest, penalty: posted so far; ``penalty_exact`` is the unrounded penalty.
        compounded: unpaid interest and penalty that bear penalty since the last due date.
    """

    number: int
    due: date
    principal: int
    principal_paid: int = 0
    interest: int = 0
    interest_paid: int = 0
    penalty: int = 0
    penalty_paid: int = 0
    penalty_exact: Fraction = Fraction(0)
    fee: int = 0
    fee_paid: int = 0
    compounded: int = 0

    @property
    def open_principal(self) -> int:
        """Principal not paid."""
        return self.principal - self.principal_paid

    @property
    def open_charges(self) -> int:
        """Interest, penalty and fee not paid."""
        return self.interest + self.penalty + self.fee - self.interest_paid - self.penalty_paid - self.fee_paid

    @property
    def is_paid(self) -> bool:
        """Whether nothing of it is open."""
        return self.open_principal == 0 and self.open_charges == 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A loan at the start of ``accrued_to``: everything before that date has grown.

    Attributes:
        exact: contract interest since the period's start, unrounded minor units; ``posted`` what of it is posted.
    """

    state: str
    accrued_to: date
    exact: Fraction
    posted: int
    lines: tuple[Instalment, ...]

    @property
    def balance(self) -> int:
        """Principal not paid."""
        return sum(line.open_principal for line in self.lines)

    @property
    def charges(self) -> int:
        """Interest, penalty and fees that are posted and not paid."""
        return sum(line.open_charges for line in self.lines)


@dataclass(frozen=True, slots=True)
class Grown:
    """A loan after some days, and what of interest and penalty is posted for them."""

    standing: Standing
    interest: int = 0
    penalty: int = 0


@dataclass(slots=True)
class _Work:
    lines: list[Instalment]
    interest: int = 0
    penalty: int = field(default=0)


def advance(standing: Standing, until: date, terms: Terms) -> Grown:
    """The loan at the start of ``until``: each day's interest on what is performing, penalty on what is overdue.

    An instalment is overdue from the night after its due date. A daily posting is HALF_EVEN of the period's exact
    interest minus what was posted before. Unpaid interest bears penalty from the next due date on.

    Source: finance.md section 4, formula 15; 银发〔2003〕251号.
    """
    work = _Work(list(standing.lines))
    at, exact, posted = standing.accrued_to, standing.exact, standing.posted
    while at < until:
        current = next((place for place, line in enumerate(work.lines) if line.due > at), None)
        end = until if current is None else min(until, work.lines[current].due)
        part = day_count(at, end, terms.day_count)[1]
        late = [place for place, line in enumerate(work.lines) if line.due <= at and not line.is_paid]
        if current is not None:
            performing = sum(line.open_principal for line in work.lines[current:])
            exact += performing * terms.rate * part
            total = rounded(exact, HALF_EVEN)
            line = work.lines[current]
            work.lines[current] = replace(line, interest=line.interest + total - posted)
            work.interest += total - posted
            posted = total
        for place in late:
            _punish(work, place, terms.penalty * part)
        if current is not None and end == work.lines[current].due:
            exact, posted = Fraction(0), 0
            _compound(work, current)
        at = end
    return Grown(Standing(standing.state, at, exact, posted, tuple(work.lines)), work.interest, work.penalty)


def overdue_days(lines: Iterable[Instalment], on: date) -> int:
    """Days since the oldest unpaid instalment was due, at the start of ``on``; 0 when nothing is overdue."""
    late = [line.due for line in lines if line.due < on and not line.is_paid]
    return (on - min(late)).days if late else 0


def dated_state(state: str, days: int, aged_after: int) -> tuple[str, ...]:
    """The events that days overdue bring to a loan in this state, in order (state machine of loans)."""
    if state == "ACTIVE" and days > 0:
        return ("missed", "aged") if days > aged_after else ("missed",)
    if state == "OVERDUE" and days > aged_after:
        return ("aged",)
    if state in ("OVERDUE", "NON_ACCRUAL") and days == 0:
        return ("paid_up",)
    return ()


def _punish(work: _Work, place: int, factor: Fraction) -> None:
    line = work.lines[place]
    base = line.open_principal + min(line.compounded, line.open_charges)
    if base == 0:
        return
    exact = line.penalty_exact + base * factor
    total = rounded(exact, HALF_EVEN)
    work.penalty += total - line.penalty
    work.lines[place] = replace(line, penalty=total, penalty_exact=exact)


def _compound(work: _Work, upto: int) -> None:
    for place in range(upto + 1):
        line = work.lines[place]
        if line.open_charges != line.compounded:
            work.lines[place] = replace(line, compounded=line.open_charges)
