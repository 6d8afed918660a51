"""The credit decision as one pure function of stored inputs and a policy version: replayable bit for bit."""

from collections.abc import Mapping
from datetime import date
from fractions import Fraction
from typing import Any

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Conflict, Rejected
from core.money import Money, decimal_text, parse_money
from finance.base import Line, borrowing_base
from finance.confidence import Confidence, Reason
from finance.policy import Policy
from finance.provenance import Grounds
from finance.rating import limit, rate
from finance.ratios import advance_rate, ltv, ratio_text
from finance.valuation import (
    Quote,
    life_factor,
    market_price,
    provenance_haircut,
    quality_factor,
    unit_price,
    value_line,
)


def decide(inputs: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """The decision on an application: valuation, base, grade, limit, outcome and reasons, all as texts.

    Args:
        inputs: JSON: ``amount``, ``tenor_days``, ``today``, ``grounds`` (of ``Grounds.stored``), ``lines``,
            ``features``, ``has_account``, ``exposure``; where there is more cover, ``further`` (grounds and lines of
            each further receipt) and ``mortgages`` (lines).

    Raises:
        Rejected: an input is malformed.
    """
    amount = parse_money(inputs["amount"], pointer="amount", is_zero_allowed=True)
    exposure = parse_money(inputs["exposure"], is_zero_allowed=True) + amount
    today = date.fromisoformat(inputs["today"])
    trusts = [Grounds.load(group["grounds"]).confidence(policy) for group in _groups(inputs)]
    # The goods that are trusted least speak for the borrower; each receipt is valued by its own history.
    trust = min(trusts, key=lambda one: (one.is_eligible, one.score))
    # Advance rates depend on the grade, the grade on goods and borrower alone: no circle.
    rating = rate(inputs["features"], Fraction(trust.score) / 100, policy, today=today)
    valued = [
        _line(row, provenance_haircut(one, policy), rating.grade, today, policy)
        for group, one in zip(_groups(inputs), trusts, strict=True)
        for row in group["lines"]
    ]
    valued += [_line(row, Fraction(0), rating.grade, today, policy) for row in inputs.get("mortgages", ())]
    lines, shown = [line for line, _ in valued], [text for _, text in valued]
    base = borrowing_base(lines, caps=policy.numbers("caps"))
    granted, caps = limit(rating.grade, inputs["features"], base.base, policy)
    knocked = _knock_outs(inputs, amount, granted, trust, shown, policy)
    ratio = ltv(exposure, base.gross)
    return {
        "policy": policy.version,
        "policy_hash": b64u(policy.digest),
        "inputs_hash": b64u(sha256(canonical_bytes(dict(inputs)))),
        "confidence": trust.shown,
        "eligible": trust.is_eligible,
        "components": [decimal_text(value, 6) for value in trust.components],
        "lines": [text | {"used": base.used[text["id"]].text()} for text in shown],
        "gross": base.gross.text(),
        "net": base.total_ncv.text(),
        "caps_exceeded": [[cap.dimension, cap.name, cap.excluded.text()] for cap in base.caps],
        "borrowing_base": base.base.text(),
        "points": rating.points,
        "points_by_group": dict(rating.by_group),
        "grade": rating.grade,
        "limit": granted.text(),
        "limit_caps": caps,
        "ltv": ratio_text(ratio),
        "outcome": "knockout" if knocked else _route(amount, ratio, rating.grade, policy),
        "reasons": [_text(r) for r in (*knocked, *trust.reasons, *rating.reasons)][
            : policy.integer("confidence", "reasons_max")
        ],
    }


def replay(inputs: Mapping[str, Any], decision: Mapping[str, Any], policy: Policy) -> None:
    """Return if the stored inputs under the stored policy give the stored decision, bit for bit (V16).

    Raises:
        Conflict: ``not_reproducible``.
    """
    again = decide(inputs, policy)
    if canonical_bytes(again) != canonical_bytes(dict(decision)):
        raise Conflict("The decision cannot be reproduced from its inputs.", code="not_reproducible")


def _groups(inputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [inputs, *inputs.get("further", ())]


def _line(
    row: Mapping[str, Any], provenance: Fraction | None, grade: str, today: date, policy: Policy
) -> tuple[Line, dict[str, Any]]:
    quote = None
    if row["quote"] is not None:
        q = row["quote"]
        median = Fraction(q["median"]) if q["median"] is not None else None
        quote = Quote(
            row["category"], q["source"], date.fromisoformat(q["as_of"]), Fraction(q["price"]), q["unit"], median
        )
    quantity, net, gross, reason, haircut, price = Fraction(row["quantity"]), Money(0), Money(0), "", "", Fraction(0)
    try:
        price = unit_price(Fraction(row["cost"]), market_price(quote, policy, today=today, unit=row["unit"]))
        value = value_line(
            quantity=quantity,
            sensor_quantity=Fraction(row["sensor_quantity"]) if row["sensor_quantity"] is not None else None,
            price=price,
            quality=quality_factor(row["quality"], policy),
            life=life_factor(Fraction(row["life"]) if row["life"] is not None else None, policy),
            haircut_base=Fraction(policy.category(row["category"])["haircut"]),
            revaluation_days=row["revaluation_days"],
            provenance=provenance,
            policy=policy,
        )
        net, reason, haircut, quantity = value.ncv, value.reason, value.haircut_text, value.quantity
        gross = value.gross if not reason else Money(0)
    except Rejected as error:
        reason = error.code
    known = row["category"] in policy.data["categories"]
    advance = advance_rate(grade, row["category"], policy, is_appraised=True) if known else Fraction(0)
    text = {
        "id": row["id"], "product": row["product"], "lot": row["lot"], "quantity": decimal_text(quantity, 6),
        "price": decimal_text(price, 6), "quality": row["quality"], "haircut": haircut, "gross": gross.text(),
        "net": net.text(), "advance_rate": decimal_text(advance, 4), "reason": reason,
    }  # fmt: skip
    return Line(row["id"], row["category"], net, advance, row["lot"], row["warehouse"], gross), text


def _knock_outs(
    inputs: Mapping[str, Any], amount: Money, granted: Money, trust: Confidence, shown: Any, policy: Policy
) -> list[Reason]:
    found = []
    if not inputs["has_account"]:
        found.append(Reason("no_account", "The borrower has no account at this bank.", "", (), "Open an account."))
    if inputs["tenor_days"] > policy.integer("loan", "tenor_days_max"):
        found.append(Reason("tenor", "The tenor is longer than allowed.", "", (), "Ask for a shorter tenor."))
    if not trust.is_eligible:
        found += list(trust.reasons) or [Reason("confidence", "The goods' history is not trusted enough.", "")]
    elif all(line["reason"] for line in shown):
        codes = sorted({line["reason"] for line in shown})
        found += [Reason(code, "The goods cannot be valued: " + code.replace("_", " ") + ".", "") for code in codes]
    elif amount > granted:
        found.append(
            Reason("above_limit", f"At most {granted.text()} can be lent.", "", (), "Ask for less or bring more goods.")
        )
    return found


def _route(amount: Money, ratio: Fraction | None, grade: str, policy: Policy) -> str:
    is_small = amount <= policy.money("approval", "auto_cap")
    is_safe = ratio is not None and ratio <= policy.number("approval", "auto_ltv_max")
    return "auto_approve" if is_small and is_safe and grade in policy.rows("approval", "auto_grades") else "refer"


def _text(reason: Reason) -> dict[str, Any]:
    return {
        "code": reason.code, "message": reason.message, "points": reason.points, "events": list(reason.events),
        "remedy": reason.remedy,
    }  # fmt: skip
