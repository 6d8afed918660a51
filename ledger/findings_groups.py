"""The rules about whole events: balance of transformations, and counts of stock against the book."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple

from core.canonical import sha256
from ledger.database import Tx, fetch, fetch_among, run_many
from ledger.findings_book import Rows, insert
from ledger.findings_facts import (
    CHILD_QUANTITY,
    INPUT_QUANTITY,
    OUTPUT_QUANTITY,
    QUANTITY,
    UNITS,
    EventFact,
    amount_of,
    pieces,
    site_of,
)
from ledger.findings_policy import FindingPolicy
from ledger.findings_rules import LEAVING, Found
from ledger.itemfacts import ENDING, class_of
from ledger.massbalance import PIECES, Amount, balances

COUNTING: Final = frozenset({"cycle_counting", "stock_taking"})
_CAME: Final = frozenset({"receiving"})
_MAY_HAVE_COME: Final = frozenset({"arriving", "accepting", "storing", "stocking", "unloading"})
_LEFT: Final = frozenset({"shipping", "retail_selling", "dispensing"})
When = tuple[int, int]


class Flow(NamedTuple):
    """What an event did to the book of one product at one site, or counted there."""

    stock: int
    ms: int
    ev: int
    is_count: bool
    low: Decimal
    high: Decimal
    product: str
    place: str
    uom: str


def balance(facts: Iterable[EventFact], policy: FindingPolicy) -> list[Found]:
    """What the good events of one transformation show together."""
    ordered = sorted(facts, key=lambda fact: fact.when)
    wrong = {fact.name for fact in ordered if fact.voids and fact.event_id}
    good = [fact for fact in ordered if not fact.voids and fact.name not in wrong]
    inputs: list[Amount] = []
    outputs: list[Amount] = []
    nets: dict[str, Amount] = {}
    for fact in good:
        inputs += [pieces(name) for name in fact.inputs]
        outputs += [pieces(name, count) for name, count in fact.counts.items()]
        inputs += [amount_of(row) for row in fact.amounts if row[0] == INPUT_QUANTITY]
        outputs += [amount_of(row) for row in fact.amounts if row[0] == OUTPUT_QUANTITY]
        nets |= {name: Amount(name, Decimal(value), uom) for name, (value, uom) in fact.nets.items()}
    found = []
    for row in balances(inputs, outputs, nets):
        # Units on one side only do not compare, and pieces turned into other pieces weigh what nobody says.
        if row.loss is None or row.inputs == 0 or row.uom == PIECES:
            continue
        code = ""
        if row.loss < -row.inputs * policy.gain_share:
            code = "output_exceeds_input"
        elif row.loss > row.inputs * policy.loss_share:
            code = "unexplained_loss"
        if code:
            last, others = good[-1], tuple(fact.ev for fact in good[:-1])
            details = {"inputs": _text(row.inputs), "outputs": _text(row.outputs), "uom": row.uom}
            found.append(Found(code, last.ev, others, last.org, details))
    return found


def flows_of(fact: EventFact) -> list[Flow]:
    """What an event did to books, or counted.

    ``low`` never claims goods that may have left or may be packed, ``high`` never denies goods that may have come: what
    lies outside both is wrong whoever forgot to write.
    """
    if fact.place is None or fact.voids or fact.kind in ("X", "S"):
        return []
    site = site_of(fact.place)
    if fact.kind == "O" and fact.step in COUNTING:
        rows = [row for row in fact.amounts if row[0] == QUANTITY]
        return _merged(fact, site, [(_product(row[1]), row[3], Decimal(row[2]), Decimal(row[2])) for row in rows])
    signs = _signs(fact)
    if signs is None:
        return []
    low, high = signs
    changes: list[tuple[str, str, Decimal, Decimal]] = []
    for name, count in fact.counts.items():
        if name != UNITS:
            changes.append((name, PIECES, Decimal(low * count), Decimal(high * count)))
        elif high > 0:
            # What is inside a unit that came is not known here: nothing is too much from then on.
            changes.append((UNITS, "", Decimal(0), Decimal(1)))
    side = {"O": QUANTITY, "A": CHILD_QUANTITY, "T": OUTPUT_QUANTITY}[fact.kind]
    for role, name, quantity, uom in fact.amounts:
        if role == side:
            changes.append((_product(name), uom, low * Decimal(quantity), high * Decimal(quantity)))
        elif role == INPUT_QUANTITY:
            changes.append((_product(name), uom, -Decimal(quantity), -Decimal(quantity)))
    changes += [(class_of(name) or name, PIECES, Decimal(-1), Decimal(-1)) for name in fact.inputs]
    return _merged(fact, site, changes)


class Stocks:
    """The books that a run touches."""

    def __init__(self, tx: Tx, rows: Rows) -> None:
        self._tx = tx
        self._rows = rows
        self._waiting: list[Flow] = []
        self._flows: dict[int, list[Flow]] = {}
        self._counts: dict[int, list[When]] = {}
        self._asked: set[int] = set()

    def read(self, fact: EventFact) -> None:
        """Look at an event of the run before it is taken."""
        if flows := flows_of(fact):
            self._flows[fact.ev] = flows

    def ask(self) -> None:
        """Load the counts of every stock that the run touches."""
        self._ask({flow.stock for flows in self._flows.values() for flow in flows})

    def concerns(self, fact: EventFact) -> bool:
        """Whether an event of the run, as read, changes a book."""
        return fact.ev in self._flows

    def take(self, fact: EventFact) -> None:
        """An event's flows and counts."""
        for flow in self._flows.get(fact.ev, ()):
            self._waiting.append(flow)
            counts = self._counts.get(flow.stock)
            if flow.is_count:
                counts = self._counts.setdefault(flow.stock, [])
                counts.append((flow.ms, flow.ev))
            if counts:
                self._judge_from(flow, fact, "late_event", fact.ev)

    def drop(self, fact: EventFact, leaf: int, cause: str, cause_ev: int) -> None:
        """Take an event's flows and counts back."""
        self._flush()
        for flow in flows_of(fact):
            self._ask({flow.stock})
            place = (flow.stock, flow.ms, flow.ev)
            run_many(self._tx, "DELETE FROM finding_flows WHERE stock = ? AND device_ms = ? AND ev = ?", [place])
            if flow.is_count:
                self._counts[flow.stock] = [one for one in self._counts[flow.stock] if one != (flow.ms, flow.ev)]
                self._rows.settle(_key(flow.stock), flow.product, [], leaf, cause, cause_ev, of_events={flow.ev})
            self._judge_from(flow, fact, cause, cause_ev, leaf=leaf)

    def write(self) -> None:
        """Store what waits."""
        self._flush()

    def _judge_from(self, flow: Flow, fact: EventFact, cause: str, cause_ev: int, leaf: int | None = None) -> None:
        """Judge the count itself and the next one after, whose book it changes."""
        later = sorted(one for one in self._counts.get(flow.stock, ()) if one > (flow.ms, flow.ev))[:1]
        own = [(flow.ms, flow.ev)] if flow.is_count and leaf is None else []
        if not (own or later):
            return
        self._flush()
        for when in own + later:
            found = self._judge(flow, when, fact.org)
            at = fact.ev // 1024 if leaf is None else leaf
            self._rows.settle(
                _key(flow.stock), flow.product, found, at, cause, cause_ev, is_linked=True, of_events={when[1]}
            )

    def _judge(self, flow: Flow, when: When, org: str) -> list[Found]:
        rows = fetch(self._tx, _BEFORE, (flow.stock, *when))
        low = high = counted = Decimal(0)
        is_known = False
        for _, ev, is_count, at_least, at_most in rows:
            if ev == when[1]:
                counted = Decimal(at_least)
            elif is_count:
                low = high = Decimal(at_least)
                is_known = True
            else:
                low, high = low + Decimal(at_least), high + Decimal(at_most)
                is_known = True
        details = {"place": flow.place, "counted": _text(counted), "uom": flow.uom}
        if is_known and counted < low:
            return [Found("stock_below_book", when[1], (), org, details | {"book": _text(low)})]
        if is_known and counted > high and not self._has_units(flow.place, when[0]):
            return [Found("stock_above_book", when[1], (), org, details | {"book": _text(high)})]
        return []

    def _has_units(self, place: str, until_ms: int) -> bool:
        query = "SELECT 1 FROM finding_flows WHERE stock = ? AND device_ms <= ? LIMIT 1"
        return bool(fetch(self._tx, query, (stock_key(place, UNITS, ""), until_ms)))

    def _ask(self, stocks: Iterable[int]) -> None:
        missing = sorted(set(stocks) - self._asked)
        self._asked.update(missing)
        query = "SELECT stock, device_ms, ev FROM finding_flows WHERE is_count = 1 AND stock AMONG"
        for stock, ms, ev in fetch_among(self._tx, query, missing):
            self._counts.setdefault(stock, []).append((ms, ev))

    def _flush(self) -> None:
        rows = [(f.stock, f.ms, f.ev, int(f.is_count), str(f.low), str(f.high)) for f in self._waiting]
        insert(self._tx, "finding_flows", ("stock", "device_ms", "ev", "is_count", "low", "high"), sorted(rows))
        self._waiting = []


_BEFORE: Final = (
    "SELECT device_ms, ev, is_count, low, high FROM finding_flows WHERE stock = ? AND (device_ms, ev) <= (?, ?) "
    "ORDER BY device_ms, ev"
)


@lru_cache(maxsize=50_000)
def stock_key(site: str, product: str, uom: str) -> int:
    """The key of the book of one product at one site in one unit."""
    return int.from_bytes(sha256(f"{site}\x00{product}\x00{uom}".encode())[:8], signed=True)


def _key(stock: int) -> bytes:
    return b"stock" + stock.to_bytes(8, "big", signed=True)


def _signs(fact: EventFact) -> tuple[int, int] | None:
    """By how many times its amount an event changes the lower and the upper book; None for not at all."""
    if fact.kind == "A":
        return {"ADD": (-1, 0), "DELETE": (1, 1)}.get(fact.action)
    if fact.kind == "T" or fact.action == "ADD":
        return 1, 1
    if fact.action == "DELETE" or fact.step in ENDING:
        return -1, -1
    if fact.step in LEAVING:
        return -1, -1 if fact.step in _LEFT else 0
    if fact.step in _CAME:
        return 1, 1
    return (0, 1) if fact.step in _MAY_HAVE_COME else None


def _merged(fact: EventFact, site: str, changes: Sequence[tuple[str, str, Decimal, Decimal]]) -> list[Flow]:
    totals: dict[tuple[str, str], tuple[Decimal, Decimal]] = {}
    for product, uom, low, high in changes:
        before = totals.get((product, uom), (Decimal(0), Decimal(0)))
        totals[product, uom] = (before[0] + low, before[1] + high)
    is_count = fact.kind == "O" and fact.step in COUNTING
    return [
        Flow(stock_key(site, product, uom), fact.ms, fact.ev, is_count, low, high, product, site, uom)
        for (product, uom), (low, high) in sorted(totals.items())
        if is_count or low or high
    ]


def _product(name: str) -> str:
    return class_of(name) or name


def _text(value: Decimal) -> str:
    return format(value.normalize(), "f")
