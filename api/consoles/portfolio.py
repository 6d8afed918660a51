"""The bank's portfolio at a glance: limits used, ageing, classes after the last end of day, concentration, LTV."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.responses import Response

from api.consoles.act_facts import party_name
from api.consoles.common import show
from api.consoles.lines import facility_rows
from api.language import language_of
from api.policy import BANK_STAFF, Routes, identity
from api.services import Services
from core.money import Money
from finance.reports import Window, credit_report
from finance.states import OPEN_LOANS
from finance.tables import facilities, loans
from ledger import masterdata
from ledger.database import Tx

AGES: Final = ((0, "age_0"), (30, "age_30"), (90, "age_90"), (270, "age_270"), (360, "age_360"), (None, "age_more"))
"""Last day overdue of each bracket: those of the five classes (finance.md section 8)."""
_SHOWN: Final = 12
_CURVES: Final = 4
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 560, 180, 44, 12, 26


def install(routes: Routes) -> None:
    """Add the route."""
    routes.get("/bank/portfolio", portfolio, BANK_STAFF, tags=["bank"])


def portfolio(request: Request) -> Response:
    """Figures and charts over the facilities of one bank."""
    services: Services = request.app.state.services
    org, lang, now = identity(request).org, language_of(request), services.now_ms() // 1_000
    with services.db.reading() as tx:
        lines = [row for row in facility_rows(tx, org, lang) if row["state"] not in ("CLOSED", "PENDING")]
        parts = {part.name: _own(part.rows, org) for part in credit_report(tx, Window(now, now + 1))}
        ages = _ages(tx, org)
        concentration = [_named(tx, row, lang) for row in parts["concentration"]]
        curves = _curves(tx, org, lang)
    used = sorted((row for row in lines if row["limit"]), key=lambda row: (-row["owed"] / row["limit"], row["id"]))
    values = {
        "limit": sum(row["limit"] for row in lines), "owed": sum(row["owed"] for row in lines), "used": used[:_SHOWN],
        "late": sum(row["amount"] for row in ages[1:]), "ages": ages, "classes": parts["exposures"],
        "provisions": parts["provisions"], "provision": sum(row["provision"]["minor"] for row in parts["provisions"]),
        "provided_on": parts["provisions"][0]["business_date"] if parts["provisions"] else None,
        "concentration": concentration, "curves": curves,
    }  # fmt: skip
    return show(request, "bank_portfolio.html", values)


def curve_points(series: Sequence[tuple[date, Decimal]], *, most: Decimal) -> list[tuple[float, float]]:
    """Points of a series in the chart's own units; days run to the right, ``most`` is the top."""
    first, days = series[0][0], max((series[-1][0] - series[0][0]).days, 1)
    width, height = _WIDTH - _LEFT - 10, _HEIGHT - _TOP - _BOTTOM
    return [
        (round(_LEFT + width * (day - first).days / days, 1), round(_TOP + height * (1 - float(value / most)), 1))
        for day, value in series
    ]


def _own(rows: Sequence[Mapping[str, Any]], org: str) -> list[dict[str, Any]]:
    return [
        {
            name: {"minor": cell.minor}
            if isinstance(cell, Money)
            else cell.isoformat()
            if isinstance(cell, date)
            else cell
            for name, cell in row.items()
        }
        for row in rows
        if row.get("lender") == org
    ]


def _ages(tx: Tx, org: str) -> list[dict[str, Any]]:
    owed = loans.c.balance + loans.c.interest_due + loans.c.suspended
    query = (
        sa.select(loans.c.overdue_days, sa.func.count(), sa.func.sum(owed))
        .join(facilities, facilities.c.id == loans.c.facility)
        .where(facilities.c.lender == org, loans.c.state.in_(OPEN_LOANS))
        .group_by(loans.c.overdue_days)
    )
    found = [{"name": name, "loans": 0, "amount": 0} for _, name in AGES]
    for days, count, amount in tx.execute(query):
        place = next(place for place, (last, _) in enumerate(AGES) if last is None or days <= last)
        found[place]["loans"] += int(count)  # type: ignore[operator]
        found[place]["amount"] += int(amount)  # type: ignore[operator]
    return found


def _named(tx: Tx, row: dict[str, Any], lang: str) -> dict[str, Any]:
    name = str(row["name"])
    if row["by"] == "borrower":
        name = party_name(tx, name, lang)
    elif row["by"] == "warehouse":
        fact = masterdata.place(tx, name) or {}
        name = str(fact.get(f"name_{lang}") or fact.get("name_en") or name)
    return row | {"name": name}


def _curves(tx: Tx, org: str, lang: str) -> list[dict[str, Any]]:
    """The loan-to-value at each draw of the facilities that owe most: what the base stored beside each loan says."""
    query = (
        sa.select(loans, facilities.c.borrower)
        .join(facilities, facilities.c.id == loans.c.facility)
        .where(facilities.c.lender == org, loans.c.base != "{}")
        .order_by(loans.c.started, loans.c.id)
    )
    series: dict[str, list[tuple[date, Decimal]]] = {}
    owed: dict[str, int] = {}
    names: dict[str, str] = {}
    for row in tx.execute(query.limit(2_000)):
        value = _ratio(json.loads(row.base)["decision"].get("ltv"))
        if value is not None:
            series.setdefault(row.facility, []).append((row.started, value))
            owed[row.facility] = owed.get(row.facility, 0) + int(row.balance)
            names[row.facility] = row.borrower
    chosen = sorted(series, key=lambda one: (-owed[one], one))[:_CURVES]
    return [_curve(one, party_name(tx, names[one], lang), series[one]) for one in chosen]


def _curve(ident: str, name: str, series: list[tuple[date, Decimal]]) -> dict[str, Any]:
    most = max(Decimal(100), *(value for _, value in series))
    points = curve_points(series, most=most)
    gate = curve_points([(series[0][0], Decimal(75))], most=most)[0][1]
    return {
        "facility": ident, "name": name, "points": points, "gate": gate, "last": f"{series[-1][1]:.2f}",
        "first_day": series[0][0].isoformat(), "last_day": series[-1][0].isoformat(), "draws": len(series),
        "line": " ".join(f"{x},{y}" for x, y in points), "bottom": _HEIGHT - _BOTTOM, "left": _LEFT,
        "right": _WIDTH - 10, "width": _WIDTH, "height": _HEIGHT, "top": _TOP, "most": f"{most:.0f}",
    }  # fmt: skip


def _ratio(text: Any) -> Decimal | None:
    """A stored ratio in percent, which may be a fraction of one or carry its sign."""
    try:
        value = Decimal(str(text).replace("%", "").strip())
    except InvalidOperation:
        return None
    return value if "%" in str(text) else value * 100
