"""What a decision is made of, as JSON: goods with history and prices, mortgages, the borrower's file, its debt."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u
from core.errors import Rejected, Unavailable
from core.identifiers import class_of
from core.money import Money
from finance.casetables import mortgages
from finance.consents import log_reading, need_consent
from finance.model import Call, Context
from finance.provenance import grounds, moved_since, with_findings
from finance.receipts import receipt_row
from finance.states import OPEN_LOANS
from finance.tables import borrowers, claims, facilities, goods, loans, quotes
from ledger.database import Tx
from ledger.findings import FINDINGS
from ledger.findings_read import Finding, open_about
from ledger.followers import cursor
from ledger.itemmap import proof_size


def gather(
    tx: Tx, ctx: Context, *, lender: str, borrower: str, receipts: Sequence[bytes], amount: Money, tenor_days: int,
    call: Call, purpose: str | None, application: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that a decision is made of.

    Args:
        receipts: the goods, at least one receipt; each is judged by its own history.
        purpose: what the borrower's data are used for; it must have consented. None where nothing new is decided and
            what is known serves the loan that runs.
        application: whose mortgages count besides the goods.

    Raises:
        Rejected: ``unknown_borrower``, ``consent_needed``.
    """
    file = borrower_file(tx, lender, borrower)
    features, controller = json.loads(file.features), json.loads(file.controller_features)
    if purpose is not None:
        given = need_consent(
            tx, lender=lender, borrower=borrower, purpose=purpose, features=[*features, *controller], now=call.now_s
        )
        log_reading(tx, ctx, call, lender=lender, borrower=borrower, purpose=purpose, given=given)
    groups = [_goods(tx, ctx, lender, receipt, call, is_first=not number) for number, receipt in enumerate(receipts)]
    return {
        "amount": amount.text(), "tenor_days": tenor_days, "today": call.business_date.isoformat(),
        "has_account": bool(file.has_account), "features": features, **groups[0], "further": groups[1:],
        "controller": {"name": file.controller, "features": controller},
        "mortgages": [_mortgage(row) for row in active_mortgages(tx, application)],
        "exposure": exposure(tx, lender, borrower).text(),
    }  # fmt: skip


def exposure(tx: Tx, lender: str, borrower: str) -> Money:
    """Principal, interest and charges of a borrower's open loans at one bank, those too that are no income now."""
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(loans.c.balance + loans.c.interest_due + loans.c.suspended), 0))
        .select_from(loans.join(facilities, facilities.c.id == loans.c.facility))
        .where(facilities.c.lender == lender, facilities.c.borrower == borrower, loans.c.state.in_(OPEN_LOANS))
    )
    return Money(int(tx.execute(query).scalar_one()))


def borrower_file(tx: Tx, lender: str, borrower: str) -> Any:
    """What a bank keeps of a borrower.

    Raises:
        Rejected: ``unknown_borrower``.
    """
    own = (borrowers.c.lender == lender) & (borrowers.c.org == borrower)
    file = tx.execute(sa.select(borrowers).where(own)).one_or_none()
    if file is None:
        raise Rejected("The bank does not know this borrower yet.", code="unknown_borrower", pointer="borrower")
    return file


def active_mortgages(tx: Tx, application: str | None) -> list[Any]:
    """The mortgages that stand beside the goods of an application and its facility."""
    query = sa.select(mortgages).where(mortgages.c.application == application, mortgages.c.state == "ACTIVE")
    return list(tx.execute(query.order_by(mortgages.c.id)).all())


def _goods(tx: Tx, ctx: Context, lender: str, receipt: bytes, call: Call, *, is_first: bool) -> dict[str, Any]:
    row = receipt_row(tx, receipt)
    evidence = moved_since(ctx.assess(tx, row.item, call.now_s), row.issued_s)
    query = (
        sa.select(goods.c.item)
        .select_from(claims.join(goods, goods.c.goods_key == claims.c.goods_key))
        .where(claims.c.receipt == receipt, goods.c.kind == "SERIAL")
    )
    units = sorted(tx.execute(query).scalars())
    lots = ctx.lots(tx, units)
    if "findings" in ctx.policy.data.get("provenance", {}):
        evidence = with_findings(evidence, _found(tx, [row.item, *units], sorted(set(lots.values()))), ctx.policy)
    counts = Counter((class_of(unit) or unit, lots.get(unit)) for unit in units)
    # The same product and lot may stand under several receipts: each is a line of its own.
    mark = "" if is_first else f"|{b64u(receipt)[-8:]}"
    lines = []
    for (product, lot), count in sorted(counts.items(), key=str):
        newest = sa.select(quotes).where(quotes.c.lender == lender, quotes.c.product == product)
        quote = tx.execute(newest.order_by(quotes.c.as_of.desc(), quotes.c.number.desc()).limit(1)).one_or_none()
        line = _line(product, lot, count, row.place, evidence, quote)
        lines.append(line | {"id": line["id"] + mark})
    return {"grounds": grounds(evidence, ctx.policy).stored(), "lines": lines}


def _found(tx: Tx, things: Sequence[str], lots: Sequence[str]) -> list[Finding]:
    """What stands open by rule about the goods.

    Raises:
        Unavailable: ``findings_behind``: the rules have not come as far as the proofs; ask again.
    """
    if cursor(tx, FINDINGS) < proof_size(tx):
        raise Unavailable("The rules are still behind the log; try again.", code="findings_behind")
    return open_about(tx, things, lots=lots)


def _mortgage(row: Any) -> dict[str, Any]:
    value = str(Fraction(row.value, 100))
    quote = {"source": row.appraiser, "as_of": row.appraised.isoformat(), "unit": "EA", "price": value, "median": value}
    return {
        "id": f"mortgage|{row.id}", "product": row.title, "lot": None, "warehouse": None, "quantity": "1",
        "sensor_quantity": None, "quality": "1", "life": None, "revaluation_days": 1, "category": "property",
        "unit": "EA", "cost": value, "quote": quote,
    }  # fmt: skip


def _line(product: str, lot: str | None, count: int, place: str, evidence: Any, quote: Any) -> dict[str, Any]:
    line = {
        "id": f"{product}|{lot or ''}", "product": product, "lot": lot, "warehouse": place, "quantity": str(count),
        "sensor_quantity": None if evidence.sensor_quantity is None else str(evidence.sensor_quantity),
        "quality": evidence.quality, "life": None if evidence.life is None else str(evidence.life),
        "revaluation_days": 1, "category": "general", "unit": "EA", "cost": "1", "quote": None,
    }  # fmt: skip
    if quote is None:
        return line
    return line | {
        "category": quote.category,
        "unit": quote.unit,
        "cost": _number(quote.cost_e6),
        "quote": _quote(quote),
    }


def _quote(quote: Any) -> Mapping[str, Any]:
    return {
        "source": quote.source, "as_of": quote.as_of.isoformat(), "unit": quote.unit, "price": _number(quote.price_e6),
        "median": None if quote.median_e6 is None else _number(quote.median_e6),
    }  # fmt: skip


def _number(millionths: int) -> str:
    return str(Fraction(millionths, 10**6))
