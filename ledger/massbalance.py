"""Amounts, and whether what went into a transformation came out of it: pure, decimals as given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from core.errors import Rejected
from core.identifiers import canonical, class_of

PIECES: Final = "EA"
# To kilograms and litres. Source: UN/ECE Recommendation 20, revision 17, conversion factors.
_FACTORS: Final[Mapping[str, tuple[str, Decimal]]] = {
    "KGM": ("KGM", Decimal(1)), "GRM": ("KGM", Decimal("0.001")), "MGM": ("KGM", Decimal("0.000001")),
    "HGM": ("KGM", Decimal("0.1")), "DTN": ("KGM", Decimal(100)), "TNE": ("KGM", Decimal(1000)),
    "LBR": ("KGM", Decimal("0.45359237")), "ONZ": ("KGM", Decimal("0.028349523125")),
    "LTR": ("LTR", Decimal(1)), "MLT": ("LTR", Decimal("0.001")), "CLT": ("LTR", Decimal("0.01")),
    "DLT": ("LTR", Decimal("0.1")), "HLT": ("LTR", Decimal(100)), "MTQ": ("LTR", Decimal(1000)),
    "DMQ": ("LTR", Decimal(1)), "CMQ": ("LTR", Decimal("0.001")), "GLL": ("LTR", Decimal("3.785411784")),
    "": (PIECES, Decimal(1)), PIECES: (PIECES, Decimal(1)), "C62": (PIECES, Decimal(1)), "H87": (PIECES, Decimal(1)),
    "PCE": (PIECES, Decimal(1)),
}  # fmt: skip


@dataclass(frozen=True)
class Amount:
    """So much of a thing; ``quantity`` None where none was stated, ``uom`` a UN/ECE code, EA for pieces."""

    id: str
    quantity: Decimal | None
    uom: str = PIECES

    def common(self) -> "Amount":
        """The amount in the unit in which like is compared with like: KGM, LTR, EA, else its own."""
        if self.quantity is None:
            return self
        unit, factor = _FACTORS.get(self.uom, (self.uom, Decimal(1)))
        return Amount(self.id, self.quantity * factor, unit)


@dataclass(frozen=True)
class Balance:
    """What went in and came out in one unit; ``loss`` is what no output explains, None where units do not compare."""

    uom: str
    inputs: Decimal
    outputs: Decimal
    loss: Decimal | None

    @property
    def loss_share(self) -> Decimal | None:
        """The loss as a part of the inputs, four decimals, rounded to the even neighbour."""
        if self.loss is None or self.inputs == 0:
            return None
        return (self.loss / self.inputs).quantize(Decimal("0.0001"))


def balances(inputs: Sequence[Amount], outputs: Sequence[Amount], net: Mapping[str, Amount]) -> tuple[Balance, ...]:
    """The balance of a transformation in each unit that stands on both sides, or one unbalanced row for each unit.

    Args:
        net: net content of one piece by canonical GTIN, from master data; pieces are weighed by it where the other side
            is weighed too.
    """
    left, right = _sums(inputs), _sums(outputs)
    for mine, other, amounts in ((left, right, inputs), (right, left, outputs)):
        if PIECES in mine and PIECES not in other:
            weighed = _sums(_weighed(amounts, net))
            if PIECES not in weighed and weighed.keys() <= other.keys():
                mine.clear()
                mine.update(weighed)
    shared = left.keys() & right.keys()
    rows = []
    for uom in sorted(left.keys() | right.keys()):
        into, out = left.get(uom, Decimal(0)), right.get(uom, Decimal(0))
        rows.append(Balance(uom, into, out, into - out if uom in shared else None))
    return tuple(rows)


def amounts_of(event: Mapping[str, Any], epcs: Iterable[str], quantities: str) -> list[Amount]:
    """The amounts of one side of an event: single items as one piece each, then the rows of a quantity list."""
    found = [Amount(name, Decimal(1)) for name in epcs]
    rows = event.get(quantities)
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, Mapping) or not isinstance(row.get("epcClass"), str):
            continue
        quantity = row.get("quantity")
        is_number = isinstance(quantity, int | Decimal) and not isinstance(quantity, bool)
        uom = row.get("uom")
        amount = Decimal(quantity) if is_number and quantity is not None else None
        found.append(Amount(_canonical(row["epcClass"]), amount, uom if isinstance(uom, str) and uom else PIECES))
    return found


def net_contents(products: Mapping[str, Mapping[str, Any]]) -> dict[str, Amount]:
    """Net content of one piece of each product whose master data states ``net_content`` {"value", "uom"}."""
    found: dict[str, Amount] = {}
    for gtin, fact in products.items():
        content = fact.get("net_content")
        if isinstance(content, Mapping):
            try:
                value = Decimal(str(content.get("value")))
            except ArithmeticError:
                continue
            if value.is_finite() and value > 0:
                found[gtin] = Amount(gtin, value, str(content.get("uom", "KGM")))
    return found


def _weighed(amounts: Sequence[Amount], net: Mapping[str, Amount]) -> list[Amount]:
    found = []
    for amount in amounts:
        content = net.get(class_of(amount.id) or amount.id)
        common = amount.common()
        if common.uom == PIECES and common.quantity is not None and content is not None:
            one = content.common()
            common = Amount(amount.id, common.quantity * (one.quantity or 0), one.uom)
        found.append(common)
    return found


def _sums(amounts: Iterable[Amount]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for amount in amounts:
        common = amount.common()
        if common.quantity is not None:
            found[common.uom] = found.get(common.uom, Decimal(0)) + common.quantity
    return found


def _canonical(text: str) -> str:
    try:
        return canonical(text)
    except Rejected:
        return text
