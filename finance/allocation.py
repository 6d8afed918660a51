"""How a payment is spread: oldest instalment first, in it penalty, fee, interest, principal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from core.errors import Rejected
from core.money import Money

PARTS: Final = ("penalty", "fee", "interest", "principal")
PERFORMING: Final = PARTS
# Common in Chinese banks for loans more than 90 days overdue: principal first.
NON_PERFORMING: Final = ("principal", "penalty", "fee", "interest")


@dataclass(frozen=True)
class Due:
    """What one instalment still claims, in minor units."""

    number: int
    is_due: bool
    penalty: int = 0
    fee: int = 0
    interest: int = 0
    principal: int = 0


@dataclass(frozen=True)
class Spread:
    """Where a payment goes; the parts sum to it.

    Attributes:
        lines: (instalment, part, minor units), each above zero, in the order of payment.
        overpayment: what nothing claims: owed back to the payer.
    """

    lines: tuple[tuple[int, str, int], ...] = field(default_factory=tuple)
    overpayment: Money = field(default_factory=lambda: Money(0))

    def total(self, part: str) -> int:
        """The minor units that go to one part."""
        return sum(minor for _, name, minor in self.lines if name == part)


def spread(payment: Money, dues: Sequence[Due], *, order: Sequence[str] = PERFORMING) -> Spread:
    """A payment on what is due, oldest instalment first; then on principal in advance; the rest is overpaid.

    Raises:
        Rejected: ``bad_amount`` or ``bad_order``.
    """
    if payment.minor <= 0:
        raise Rejected("A payment is more than zero.", code="bad_amount", pointer="amount")
    if sorted(order) != sorted(PARTS):
        raise Rejected(f"An order names each of {', '.join(PARTS)} once.", code="bad_order", pointer="order")
    left, lines = payment.minor, []
    by_age = sorted(dues, key=lambda due: due.number)
    claims = [(due, part) for due in by_age if due.is_due for part in order]
    claims += [(due, "principal") for due in by_age if not due.is_due]
    for due, part in claims:
        part_minor = min(left, getattr(due, part))
        if part_minor > 0:
            lines.append((due.number, part, part_minor))
            left -= part_minor
    return Spread(tuple(lines), Money(left, payment.currency))


def proceeds(
    amount: Money, *, costs: Money, penalty: Money, interest: Money, principal: Money
) -> tuple[dict[str, Money], Money]:
    """Enforcement proceeds: sale costs, penalty, interest, principal; the surplus is the borrower's."""
    left, paid = amount, {}
    for name, claim in (("costs", costs), ("penalty", penalty), ("interest", interest), ("principal", principal)):
        paid[name] = min(left, claim)
        left = left - paid[name]
    return paid, left
