"""Five classes of loans, their loss provisions, and the contagion within one debtor."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from core.errors import Rejected
from core.money import HALF_EVEN, Money

CLASSES: Final = ("pass", "special_mention", "substandard", "doubtful", "loss")
NON_PERFORMING: Final = frozenset(CLASSES[2:])
# 贷款损失准备计提指引 (2002): 1 % of everything, and on top of it by class.
GENERAL: Final = Fraction(1, 100)
RATES: Final = {
    "pass": Fraction(0),
    "special_mention": Fraction(2, 100),
    "substandard": Fraction(25, 100),
    "doubtful": Fraction(50, 100),
    "loss": Fraction(1),
}
# 商业银行金融资产风险分类办法 (令〔2023〕1号), art. 7: above this part of a non-retail debtor's claims, all are.
CONTAGION: Final = Fraction(1, 10)


@dataclass(frozen=True)
class ProvisionLine:
    """What one class carries."""

    name: str
    balance: Money
    rate: Fraction
    amount: Money


def provisions(balances: Mapping[str, Money]) -> list[ProvisionLine]:
    """The provision of each class: (1 % + class rate) of its balance, HALF_EVEN per class; a loss carries 101 %.

    Raises:
        Rejected: ``unknown_class``, or ``bad_amount`` for a negative balance.
    """
    for name, balance in balances.items():
        if name not in RATES:
            raise Rejected(f"The classes are {', '.join(CLASSES)}.", code="unknown_class", pointer=name)
        if balance.minor < 0:
            raise Rejected("A balance is not negative.", code="bad_amount", pointer=name)
    return [
        ProvisionLine(
            name,
            balances[name],
            GENERAL + RATES[name],
            balances[name].scaled(GENERAL + RATES[name], rounding=HALF_EVEN),
        )
        for name in CLASSES
        if name in balances
    ]


def class_by_days(overdue_days: int) -> str:
    """The class that days overdue alone give: more than 0, 90, 270, 360 days (令〔2023〕1号, art. 10-13).

    Raises:
        Rejected: ``bad_period`` for negative days.
    """
    if overdue_days < 0:
        raise Rejected("Days overdue are not negative.", code="bad_period")
    steps = (overdue_days > 0, overdue_days > 90, overdue_days > 270, overdue_days > 360)
    return CLASSES[sum(steps)]


def with_contagion(loans: Mapping[str, tuple[str, Money]]) -> dict[str, str]:
    """The class of each loan of one non-retail debtor at this bank: over 10 % non-performing makes all so.

    Args:
        loans: by loan, its own class and balance.
    """
    whole = sum(balance.minor for _, balance in loans.values())
    bad = sum(balance.minor for name, balance in loans.values() if name in NON_PERFORMING)
    if whole == 0 or Fraction(bad, whole) <= CONTAGION:
        return {loan: name for loan, (name, _) in loans.items()}
    return {loan: name if name in NON_PERFORMING else "substandard" for loan, (name, _) in loans.items()}
