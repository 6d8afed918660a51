"""What ``tracebond finance ...`` prints: pure functions from texts to text; bad input is ``Rejected``."""

import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from core.canonical import b64u, parse_json
from core.errors import Rejected
from core.money import HALF_EVEN, Money, decimal_text, parse_decimal, parse_money
from finance.base import BorrowingBase, Line, borrowing_base
from finance.calendar import business_days
from finance.confidence import Confidence, confidence
from finance.daycount import day_count, parse_date
from finance.policy import Policy, load_policy
from finance.ratios import advance_rate
from finance.schedule import parse_every, schedule
from finance.valuation import (
    Quote,
    Valuation,
    life_factor,
    market_price,
    provenance_haircut,
    quality_factor,
    unit_price,
    value_line,
)

FILE_BYTES_MAX: Final = 4_000_000
UNITS: Final = frozenset({"KGM", "TNE", "GRM", "LTR", "MTR", "H87", "EA", "C62", "CS", "PF"})
_TOP: Final = {"items", "grade", "as_of", "policy", "caps", "reserves", "margin_cash", "limit", "exposure"}
_ITEM: Final = {
    "id", "category", "lot", "warehouse", "unit", "quantity", "sensor_quantity", "cost", "market", "quality", "life",
    "confidence", "components", "revaluation_days", "valued_on", "haircut", "prior_liens",
}  # fmt: skip
_MARKET: Final = {"price", "as_of", "unit", "median", "source", "third_party"}


def day_count_text(start: str, end: str, name: str) -> str:
    """``DAYS FRACTION``, the fraction with 12 decimals, HALF_EVEN.

    Raises:
        Rejected: ``bad_date``, ``bad_period`` or ``unknown_day_count``.
    """
    days, fraction = day_count(parse_date(start, pointer="start"), parse_date(end, pointer="end"), name)
    return f"{days} {decimal_text(fraction, 12, HALF_EVEN)}"


def schedule_text(
    *, principal: str, rate: str, day_count_name: str, start: str, periods: str | int, every: str, kind: str = ""
) -> str:
    """CSV ``date,payment,interest,principal,balance``, one line an instalment.

    Args:
        rate: percent a year.
        kind: equal_instalment (when empty), bullet or interest_only.

    Raises:
        Rejected: with the option at fault.
    """
    if isinstance(periods, str):
        if not (periods.isascii() and periods.isdigit() and len(periods) <= 6):
            raise Rejected("The number of periods is a whole number.", code="bad_period", pointer="periods")
        periods = int(periods)
    lines = schedule(
        parse_money(principal, pointer="principal"),
        rate=parse_decimal(rate, pointer="rate", decimals_max=8, most=9_999) / 100,
        day_count_name=day_count_name,
        start=parse_date(start, pointer="start"),
        periods=periods,
        every=parse_every(every),
        kind=kind or "equal_instalment",  # type: ignore[arg-type]
    )
    rows = ["date,payment,interest,principal,balance"]
    for line in lines:
        amounts = (line.payment, line.interest, line.principal, line.balance)
        rows.append(",".join([line.due.isoformat(), *(amount.text() for amount in amounts)]))
    return "\n".join(rows)


def borrowing_base_text(data: bytes) -> str:
    """The decision of a borrowing-base file with every step, as indented JSON.

    Raises:
        Rejected: with the JSON pointer at fault.
    """
    return json.dumps(borrowing_base_decision(data), ensure_ascii=False, indent=2)


def borrowing_base_decision(data: bytes) -> dict[str, Any]:
    """Values each line of goods, applies the caps and gives base and availability; amounts are texts.

    A line whose price or history may not be used is ineligible with its reason, never valued at a guess. The file has
    ``items`` and ``grade``; optional ``as_of``, ``policy``, ``caps``, ``reserves``, ``margin_cash``, ``limit``,
    ``exposure``. Of an item: ``id``, ``category``, ``quantity``, ``unit``, ``cost``, ``market`` ({price, as_of, median,
    unit, source, third_party} or just the price), ``quality``, ``confidence`` or ``components``; optional ``lot``,
    ``warehouse``, ``sensor_quantity``, ``life``, ``revaluation_days`` or ``valued_on``, ``haircut``, ``prior_liens``.

    Raises:
        Rejected: with the JSON pointer at fault.
    """
    file = parse_json(data, bytes_max=FILE_BYTES_MAX)
    _members(file, _TOP, {"items", "grade"}, "")
    policy = load_policy(file.get("policy", "v1"))
    grades = policy.numbers("advance", "grades")
    if file["grade"] not in grades:
        raise Rejected(f"The grades are {', '.join(grades)}.", code="unknown_grade", pointer="/grade")
    today = parse_date(file["as_of"], pointer="/as_of") if "as_of" in file else None
    if not isinstance(file["items"], list):
        raise Rejected("items is a list.", code="bad_form", pointer="/items")
    steps, lines = [], []
    for number, item in enumerate(file["items"]):
        step, line = _item(item, file["grade"], policy, today, f"/items/{number}")
        steps.append(step)
        lines.append(line)
    caps = policy.numbers("caps") | {
        name: parse_decimal(value, pointer=f"/caps/{name}", decimals_max=10, most=1)
        for name, value in _object(file.get("caps", {}), "/caps").items()
    }
    base = borrowing_base(
        lines, caps=caps, reserves=_amount(file, "reserves"), margin_cash=_amount(file, "margin_cash")
    )
    for step in steps:
        step["used"] = base.used[step["id"]].text()
        step["excluded_by_caps"] = (parse_money(step["net"], is_zero_allowed=True) - base.used[step["id"]]).text()
    return _decision(file, policy, caps, steps, base)


def _decision(
    file: Mapping[str, Any], policy: Policy, caps: Mapping[str, Fraction], steps: list[Any], base: BorrowingBase
) -> dict[str, Any]:
    exposure = _amount(file, "exposure") or Money(0)
    decision = {
        "policy": policy.version,
        "policy_hash": b64u(policy.digest),
        "grade": file["grade"],
        "items": steps,
        "gross": base.gross.text(),
        "net": base.total_ncv.text(),
        "caps": {name: decimal_text(cap, 10) for name, cap in sorted(caps.items())},
        "caps_exceeded": [
            {"dimension": cap.dimension, "name": cap.name, "cap": cap.cap.text(), "offered": cap.offered.text(),
             "excess": cap.excluded.text()}
            for cap in base.caps
        ],
        "advance": base.advance.text(),
        "reserves": base.reserves.text(),
        "margin_cash": base.margin_cash.text(),
        "borrowing_base": base.base.text(),
        "exposure": exposure.text(),
    }  # fmt: skip
    limit = _amount(file, "limit")
    ceiling = base.base if limit is None else min(limit, base.base)
    decision["availability"] = max(Money(0), ceiling - exposure).text()
    return decision


def _item(item: Any, grade: str, policy: Policy, today: date | None, at: str) -> tuple[dict[str, Any], Line]:
    _members(item, _ITEM, {"id", "category", "quantity", "unit", "cost"}, at)
    for name in ("id", "category", "unit", "lot", "warehouse"):
        if name in item and not (isinstance(item[name], str) and 0 < len(item[name]) <= 200):
            raise Rejected(f"{name} is a text of 1 to 200 characters.", code="bad_form", pointer=f"{at}/{name}")
    if item["unit"] not in UNITS:
        raise Rejected("The unit is no UN/ECE code used here.", code="unknown_unit", pointer=f"{at}/unit")
    row = policy.category(item["category"])
    quality = quality_factor(str(item.get("quality", "1")), policy)
    life = life_factor(_number(item, "life", at, 10, most=1), policy)
    trust = _confidence(item, policy, at)
    reason, price, gross = "", Fraction(0), Money(0)
    cost = parse_decimal(item["cost"], pointer=f"{at}/cost", decimals_max=6)
    quote = _quote(item, today, at)
    quantity = parse_decimal(item["quantity"], pointer=f"{at}/quantity", decimals_max=6)
    try:
        as_of = today or (quote.as_of if quote is not None else date.min)
        price = unit_price(cost, market_price(quote, policy, today=as_of, unit=item["unit"]))
    except Rejected as error:
        reason = error.code
    haircut = _number(item, "haircut", at, 10, most=1) if "haircut" in item else Fraction(row["haircut"])
    value: Valuation | None = None
    if not reason:
        value = value_line(
            quantity=quantity,
            sensor_quantity=_number(item, "sensor_quantity", at, 6),
            price=price,
            quality=quality,
            life=life,
            haircut_base=haircut or Fraction(0),
            revaluation_days=_revaluation(item, today, at),
            provenance=_provenance(trust, policy),
            prior=_amount(item, "prior_liens", at),
            policy=policy,
        )
        reason = value.reason
        gross = value.gross if not reason else Money(0)
    rate = advance_rate(grade, item["category"], policy, is_appraised=quote is not None and quote.is_third_party)
    net = value.ncv if value is not None else Money(0)
    step = {
        "id": item["id"],
        "category": item["category"],
        "price": decimal_text(price, 6),
        "quantity": decimal_text(value.quantity if value else quantity, 6),
        "quality_factor": decimal_text(quality, 4),
        "life_factor": decimal_text(life, 4),
        "haircut": value.haircut_text if value else "",
        "confidence": trust.shown if isinstance(trust, Confidence) else decimal_text(trust, 2),
        "provenance_haircut": decimal_text(value.provenance, 4) if value else "",
        "gross": gross.text(),
        "net": net.text(),
        "advance_rate": decimal_text(rate, 4),
        "eligible": not reason,
        "reason": reason,
    }
    line = Line(item["id"], item["category"], net, rate, item.get("lot"), item.get("warehouse"), gross)
    return step, line


def _confidence(item: Mapping[str, Any], policy: Policy, at: str) -> Confidence | Fraction:
    if "components" in item:
        values = item["components"]
        if not isinstance(values, list):
            raise Rejected("components is a list of six.", code="bad_component", pointer=f"{at}/components")
        return confidence(
            [parse_decimal(value, pointer=f"{at}/components", decimals_max=12, most=1) for value in values], policy
        )
    if "confidence" not in item:
        raise Rejected("Give confidence or its components.", code="bad_form", pointer=f"{at}/confidence")
    return parse_decimal(_plain(item["confidence"]), pointer=f"{at}/confidence", decimals_max=12, most=100)


def _provenance(trust: Confidence | Fraction, policy: Policy) -> Fraction | None:
    if isinstance(trust, Confidence):
        return provenance_haircut(trust, policy)
    for least, haircut in policy.rows("valuation", "provenance"):
        if trust >= Fraction(least):
            return Fraction(haircut)
    return None


def _quote(item: Mapping[str, Any], today: date | None, at: str) -> Quote | None:
    market = item.get("market")
    if market is None:
        return None
    if not isinstance(market, Mapping):
        market = {"price": market}
    _members(market, _MARKET, {"price"}, f"{at}/market")
    price = _number(market, "price", f"{at}/market", 6) or Fraction(0)
    as_of = parse_date(market["as_of"], pointer=f"{at}/market/as_of") if "as_of" in market else today or date.min
    median = _number(market, "median", f"{at}/market", 6) if "median" in market else price
    third = market.get("third_party", True)
    if not isinstance(third, bool):
        raise Rejected("third_party is true or false.", code="bad_form", pointer=f"{at}/market/third_party")
    unit, source = str(market.get("unit", item["unit"])), str(market.get("source", "file"))
    return Quote(item["category"], source, as_of, price, unit, median, third)


def _revaluation(item: Mapping[str, Any], today: date | None, at: str) -> int:
    if "valued_on" in item:
        if today is None:
            raise Rejected("valued_on needs as_of in the file.", code="bad_form", pointer=f"{at}/valued_on")
        return max(1, business_days(parse_date(item["valued_on"], pointer=f"{at}/valued_on"), today))
    days = item.get("revaluation_days", 1)
    if type(days) is not int or not 1 <= days <= 10_000:
        raise Rejected("Days are 1 to 10,000.", code="bad_number", pointer=f"{at}/revaluation_days")
    return days


def _plain(value: Any) -> Any:
    # JSON numbers with a point arrive as exact decimals: fine for factors and quantities, never for money.
    return format(value, "f") if isinstance(value, Decimal) else value


def _number(item: Mapping[str, Any], name: str, at: str, decimals: int, most: int = 10**12) -> Fraction | None:
    if item.get(name) is None:
        return None
    return parse_decimal(_plain(item[name]), pointer=f"{at}/{name}", decimals_max=decimals, most=most)


def _amount(item: Mapping[str, Any], name: str, at: str = "") -> Money | None:
    if item.get(name) is None:
        return None
    return parse_money(item[name], pointer=f"{at}/{name}", is_zero_allowed=True)


def _object(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Rejected("This is a JSON object.", code="bad_form", pointer=at)
    return value


def _members(value: Any, known: set[str], needed: set[str], at: str) -> None:
    found = set(_object(value, at))
    for name in sorted(found - known):
        raise Rejected(f"There is no member {name!r} here.", code="unknown_member", pointer=f"{at}/{name}")
    for name in sorted(needed - found):
        raise Rejected(f"{name} is missing.", code="missing_member", pointer=f"{at}/{name}")
