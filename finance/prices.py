"""A price feed as a file: every row is judged by the valuation's own rules before any of it counts.

Columns: product, category, unit, as_of, price, cost, source, and optionally median. The 30-day median comes from the
quotes that the bank has taken before and, within the file, from earlier rows; the column counts only where there is
none of these, since a feed must not choose its own yardstick.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from statistics import median
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, sha256
from core.errors import Conflict, Rejected, TracebondError
from core.identifiers import canonical
from core.money import parse_decimal
from finance.commandlog import HasPolicy, business_date, command
from finance.daycount import parse_date
from finance.model import BANK, Actor, Call
from finance.policy import Policy
from finance.tables import quotes
from finance.valuation import Quote, market_price, unit_price
from ledger.database import Tx

BYTES_MAX: Final = 4 * 1024 * 1024
ROWS_MAX: Final = 20_000
NEEDED: Final = ("product", "category", "unit", "as_of", "price", "cost", "source")
_MEDIAN_DAYS: Final = 30
_TEXT_MAX: Final = 200


@dataclass(frozen=True)
class PriceRow:
    """One row of a feed and what is thought of it.

    Attributes:
        line: its line in the file, the head being line 1.
        code: why it is refused; "" for a price that may be used.
    """

    line: int
    product: str
    category: str
    unit: str
    as_of: date | None
    price: Fraction
    cost: Fraction
    median: Fraction
    source: str
    code: str = ""
    message: str = ""
    pointer: str = ""


def preview_prices(tx: Tx, policy: Policy, lender: str, data: bytes, *, now: int) -> list[PriceRow]:
    """Every row of a price file as it would be taken, refused ones with code and field.

    Raises:
        Rejected: ``too_large``, ``bad_csv``: the file as a whole cannot be read.
    """
    today, known = business_date(tx, now), _History(tx, lender)
    found = []
    for line, row in _lines(data):
        judged = _judge(policy, known, today, line, row)
        if not judged.code:
            known.add(judged)
        found.append(judged)
    return found


def import_prices(
    tx: Tx, ctx: HasPolicy, actor: Actor, *, data: bytes, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Take a price file whole, or nothing of it.

    Raises:
        Rejected: ``not_allowed``, or as ``preview_prices``. Conflict: ``bad_rows``: rows are refused, see the preview.
    """
    actor.need(*BANK)
    digest = b64u(sha256(data))

    def act(call: Call) -> dict[str, Any]:
        rows = preview_prices(tx, ctx.policy, actor.org, data, now=now)
        bad = [row for row in rows if row.code]
        if bad:
            first = bad[0]
            raise Conflict(
                f"{len(bad)} of {len(rows)} rows are refused, the first in line {first.line}: {first.message}",
                code="bad_rows", pointer=first.pointer,
            )  # fmt: skip
        for row in rows:
            _store(tx, actor.org, digest, row)
        return {"file": digest, "quotes": len(rows)}

    body = {"file": digest}
    return command(tx, ctx, name="import_prices", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


class _History:
    """The prices of each product that a bank has taken, by day."""

    def __init__(self, tx: Tx, lender: str) -> None:
        self._tx, self._lender = tx, lender
        self._prices: dict[str, list[tuple[date, int]]] = {}

    def median(self, product: str, as_of: date) -> Fraction | None:
        """The median over the 30 days before a day; None where no price is known."""
        if product not in self._prices:
            own = (quotes.c.lender == self._lender) & (quotes.c.product == product)
            query = sa.select(quotes.c.as_of, quotes.c.price_e6).where(own).order_by(quotes.c.number)
            self._prices[product] = [(day, price) for day, price in self._tx.execute(query)]
        since = as_of - timedelta(days=_MEDIAN_DAYS)
        # The last price of a day is the day's.
        days = {day: price for day, price in self._prices[product] if since <= day < as_of}
        return Fraction(median(map(Fraction, days.values()))) / 10**6 if days else None

    def add(self, row: PriceRow) -> None:
        """A row of the file counts for the rows below it."""
        if row.as_of is not None:
            self._prices.setdefault(row.product, []).append((row.as_of, int(row.price * 10**6)))


def _lines(data: bytes) -> list[tuple[int, Mapping[str, str]]]:
    if len(data) > BYTES_MAX:
        raise Rejected(f"A price file has at most {BYTES_MAX} bytes.", code="too_large")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected("A price file is CSV in UTF-8.", code="bad_csv") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        heads = [head.strip() for head in next(reader, [])]
        odd = set(heads) - {*NEEDED, "median"}
        if not set(NEEDED) <= set(heads) or odd or len(set(heads)) != len(heads):
            raise Rejected(f"The columns are {', '.join(NEEDED)} and, if needed, median.", code="bad_csv")
        found: list[tuple[int, Mapping[str, str]]] = []
        for row in reader:
            if len(found) >= ROWS_MAX:
                raise Rejected(f"A price file has at most {ROWS_MAX} rows.", code="too_large")
            if any(cell.strip() for cell in row):
                cells = [cell.strip() for cell in row]
                found.append((reader.line_num, dict(zip(heads, cells, strict=False)) if len(row) == len(heads) else {}))
    except csv.Error as error:
        raise Rejected(f"Line {reader.line_num} is no CSV: {error}", code="bad_csv") from error
    if not found:
        raise Rejected("The file has no prices.", code="bad_csv")
    return found


def _judge(policy: Policy, known: _History, today: date, line: int, row: Mapping[str, str]) -> PriceRow:
    shown = PriceRow(
        line, row.get("product", ""), row.get("category", ""), row.get("unit", ""), None, Fraction(0), Fraction(0),
        Fraction(0), row.get("source", ""),
    )  # fmt: skip
    try:
        if not row:
            raise Rejected("The row has another number of cells than the head.", code="bad_row")
        return _taken(policy, known, today, line, row)
    except TracebondError as error:
        refused = {"code": error.code, "message": error.message, "pointer": error.pointer}
        return PriceRow(**{**shown.__dict__, **refused})


def _taken(policy: Policy, known: _History, today: date, line: int, row: Mapping[str, str]) -> PriceRow:
    for name in ("unit", "source"):
        if not 0 < len(row[name]) <= _TEXT_MAX:
            raise Rejected(f"{name} has 1 to {_TEXT_MAX} characters.", code="bad_row", pointer=name)
    product, as_of = canonical(row["product"]), parse_date(row["as_of"], pointer="as_of")
    policy.category(row["category"])
    price, cost = _number(row, "price"), _number(row, "cost")
    told = _number(row, "median") if row.get("median") else None
    middle = known.median(product, as_of)
    middle = told if middle is None else middle
    quote = Quote(row["category"], row["source"], as_of, price, row["unit"], middle)
    market_price(quote, policy, today=today, unit=row["unit"])
    unit_price(cost, price)
    return PriceRow(
        line, product, row["category"], row["unit"], as_of, price, cost, middle or Fraction(0), row["source"]
    )


def _number(row: Mapping[str, str], name: str) -> Fraction:
    if not row[name]:
        code = "missing_price" if name != "median" else "bad_number"
        raise Rejected(f"There is no {name}.", code=code, pointer=name)
    return parse_decimal(row[name], pointer=name, decimals_max=6, most=10**9)


def _store(tx: Tx, lender: str, digest: str, row: PriceRow) -> None:
    own = (quotes.c.lender == lender) & (quotes.c.product == row.product)
    earlier = tx.execute(sa.select(sa.func.coalesce(sa.func.max(quotes.c.number), 0)).where(own)).scalar_one()
    tx.execute(
        quotes.insert().values(
            id=f"{lender}/file/{digest}/{row.line}", lender=lender, product=row.product, category=row.category,
            unit=row.unit, source=row.source, as_of=row.as_of, number=earlier + 1, price_e6=int(row.price * 10**6),
            cost_e6=int(row.cost * 10**6), median_e6=int(row.median * 10**6),
        )
    )  # fmt: skip


def price_lines(rows: Sequence[PriceRow]) -> list[str]:
    """The preview for a person, a line each."""
    return [
        f"line {row.line}: refused, {row.code}: {row.message}"
        if row.code
        else f"line {row.line}: {row.product} {_plain(row.price)} a {row.unit}, median {_plain(row.median)}"
        for row in rows
    ]


def _plain(value: Fraction) -> str:
    whole, part = divmod(int(value * 10**6), 10**6)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")
