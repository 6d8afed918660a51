"""The borrowing base: the most that can be lent with every concentration cap kept at once (formula 7).

Caps on lots (inside categories) and on warehouses make it a flow: source, category, lot, goods, warehouse,
sink, each piece of goods gaining its advance rate. Successive best paths in integers give the exact maximum, which is
unique and free of order; cutting one cap after the other is neither.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from typing import Final

from core.errors import Rejected
from core.money import DOWN, Money, rounded

DIMENSIONS: Final = ("lot", "category", "warehouse")
LINES_MAX: Final = 20_000


@dataclass(frozen=True)
class Line:
    """Valued goods offered as cover; no lot or warehouse where there is none (property)."""

    id: str
    category: str
    ncv: Money
    advance_rate: Fraction
    lot: str | None = None
    warehouse: str | None = None
    gross: Money = field(default_factory=lambda: Money(0))


@dataclass(frozen=True)
class CapResult:
    """One cap that is exceeded by what was offered."""

    dimension: str
    name: str
    cap: Money
    offered: Money

    @property
    def excluded(self) -> Money:
        """What does not count."""
        return self.offered - self.cap


@dataclass(frozen=True)
class BorrowingBase:
    """A base and how it came about.

    Attributes:
        used: by line, the part of its net value that counts.
    """

    total_ncv: Money
    gross: Money
    used: Mapping[str, Money]
    caps: tuple[CapResult, ...]
    advance: Money
    reserves: Money
    margin_cash: Money
    base: Money


def borrowing_base(
    lines: Sequence[Line],
    *,
    caps: Mapping[str, Fraction],
    reserves: Money | None = None,
    margin_cash: Money | None = None,
) -> BorrowingBase:
    """The borrowing base of some lines.

    Args:
        caps: by dimension (lot, category, warehouse) the greatest part of all net value, 0 to 1.

    Raises:
        Rejected: ``too_large``, ``bad_cap``, ``bad_advance_rate``, ``duplicate_line``, or ``lot_in_two_categories``.
    """
    _check(lines, caps)
    total = sum(line.ncv.minor for line in lines)
    reserve, cash = reserves or Money(0), margin_cash or Money(0)
    limits: dict[tuple[str, str], int] = {}
    exceeded: list[CapResult] = []
    for dimension in DIMENSIONS:
        limit = rounded(caps.get(dimension, Fraction(1)) * total, DOWN)
        sums: dict[str, int] = defaultdict(int)
        for line in lines:
            name = getattr(line, dimension)
            if name is not None:
                sums[name] += line.ncv.minor
        for name in sorted(sums):
            limits[dimension, name] = limit
            if sums[name] > limit:
                exceeded.append(CapResult(dimension, name, Money(limit), Money(sums[name])))
    used = _maximum(lines, limits) if exceeded else {line.id: line.ncv.minor for line in lines}
    advance = rounded(sum((line.advance_rate * used[line.id] for line in lines), Fraction(0)), DOWN)
    base = max(0, advance - reserve.minor) + cash.minor
    return BorrowingBase(
        Money(total),
        Money(sum(line.gross.minor for line in lines)),
        {line.id: Money(used[line.id]) for line in lines},
        tuple(exceeded),
        Money(advance),
        reserve,
        cash,
        Money(base),
    )


def _check(lines: Sequence[Line], caps: Mapping[str, Fraction]) -> None:
    if len(lines) > LINES_MAX:
        raise Rejected(f"At most {LINES_MAX} lines make one base.", code="too_large")
    for dimension, cap in caps.items():
        if dimension not in DIMENSIONS or not 0 <= cap <= 1:
            raise Rejected("Caps are of lot, category and warehouse, 0 to 1.", code="bad_cap", pointer=dimension)
    seen: set[str] = set()
    category_of: dict[str, str] = {}
    for line in lines:
        if line.id in seen:
            raise Rejected(f"Line {line.id} is there twice.", code="duplicate_line", pointer=line.id)
        seen.add(line.id)
        if not 0 <= line.advance_rate <= 1 or line.ncv.minor < 0:
            raise Rejected("An advance rate lies between 0 and 1.", code="bad_advance_rate", pointer=line.id)
        if line.lot is not None and category_of.setdefault(line.lot, line.category) != line.category:
            raise Rejected(f"Lot {line.lot} is in two categories.", code="lot_in_two_categories", pointer=line.id)


def _maximum(lines: Sequence[Line], limits: Mapping[tuple[str, str], int]) -> dict[str, int]:
    scale = lcm(*(line.advance_rate.denominator for line in lines)) if lines else 1
    groups: dict[tuple[str, str | None, str | None, Fraction], list[Line]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line.id):
        groups[line.category, line.lot, line.warehouse, line.advance_rate].append(line)
    flow = _Flow()
    arcs: dict[tuple[str, str | None, str | None, Fraction], int] = {}
    opened: set[tuple[str, str]] = set()

    def enter(dimension: str, name: str, before: object, after: object) -> None:
        if (dimension, name) not in opened:
            opened.add((dimension, name))
            flow.arc(before, after, limits[dimension, name], 0)

    for group in sorted(groups, key=str):
        category, lot, warehouse, rate = group
        start: tuple[str, str] = ("category", category)
        enter("category", category, "source", start)
        if lot is not None:
            enter("lot", lot, start, ("lot", lot))
            start = ("lot", lot)
        end: object = "sink"
        if warehouse is not None:
            end = ("warehouse", warehouse)
            enter("warehouse", warehouse, end, "sink")
        offered = sum(line.ncv.minor for line in groups[group])
        arcs[group] = flow.arc(start, end, offered, int(rate * scale))
    flow.run("source", "sink")
    used: dict[str, int] = {}
    for group, arc in arcs.items():
        left = flow.carried(arc)
        for line in groups[group]:
            used[line.id] = min(left, line.ncv.minor)
            left -= used[line.id]
    return used


class _Flow:
    """Maximum-gain flow in integers by successive best paths (Bellman-Ford on the residual graph)."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._out: list[list[int]] = []
        self._to: list[int] = []
        self._room: list[int] = []
        self._gain: list[int] = []

    def arc(self, start: object, end: object, room: int, gain: int) -> int:
        first, last = self._node(start), self._node(end)
        for origin, target, free, value in ((first, last, room, gain), (last, first, 0, -gain)):
            self._out[origin].append(len(self._to))
            self._to.append(target)
            self._room.append(free)
            self._gain.append(value)
        return len(self._to) - 2

    def carried(self, arc: int) -> int:
        return self._room[arc ^ 1]

    def run(self, source: object, sink: object) -> None:
        begin, end = self._node(source), self._node(sink)
        while True:
            path, gain = self._best(begin, end)
            if not path or gain <= 0:
                return
            amount = min(self._room[arc] for arc in path)
            for arc in path:
                self._room[arc] -= amount
                self._room[arc ^ 1] += amount

    def _best(self, begin: int, end: int) -> tuple[list[int], int]:
        best: list[int | None] = [None] * len(self._out)
        via: list[int] = [-1] * len(self._out)
        best[begin] = 0
        queue, queued = [begin], {begin}
        while queue:
            following: list[int] = []
            queued.clear()
            for node in queue:
                value = best[node]
                for arc in self._out[node]:
                    target = self._to[arc]
                    known = best[target]
                    gain = (value or 0) + self._gain[arc]
                    if self._room[arc] > 0 and (known is None or gain > known):
                        best[target], via[target] = gain, arc
                        if target not in queued:
                            queued.add(target)
                            following.append(target)
            queue = following
        gained = best[end]
        if gained is None:
            return [], 0
        path, node = [], end
        while node != begin:
            path.append(via[node])
            node = self._to[via[node] ^ 1]
        return path, gained

    def _node(self, name: object) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._out)
            self._out.append([])
        return self._numbers[name]
