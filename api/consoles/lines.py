"""Read model of running facilities: what is owed, what covers it, and open margin calls."""

import json
from typing import Any

import sqlalchemy as sa

from api.consoles.case_rows import proposals_of
from finance.states import OPEN_LOANS
from finance.tables import facilities, loans, margin_calls
from ledger import masterdata

_PROPOSALS = ("propose_unfreeze", "propose_enforcement", "propose_write_off")


def facility_rows(tx: sa.Connection, org: str, lang: str) -> list[dict[str, Any]]:
    """The facilities of one bank, those that need somebody first."""
    owed = (
        sa.select(
            loans.c.facility,
            sa.func.sum(loans.c.balance + loans.c.interest_due + loans.c.suspended).label("owed"),
            sa.func.max(loans.c.overdue_days).label("late"),
        )
        .where(loans.c.state.in_(OPEN_LOANS))
        .group_by(loans.c.facility)
        .subquery()
    )
    query = (
        sa.select(facilities, owed.c.owed, owed.c.late)
        .outerjoin(owed, owed.c.facility == facilities.c.id)
        .where(facilities.c.lender == org)
        .order_by(facilities.c.id)
        .limit(500)
    )
    calls = {row.facility: row for row in tx.execute(sa.select(margin_calls).order_by(margin_calls.c.opened))}
    proposals = proposals_of(tx, org, _PROPOSALS)
    rows = [
        {
            "id": row.id,
            "borrower": _party(tx, row.borrower, lang),
            "state": row.state,
            "limit": int(row.limit_minor),
            "owed": int(row.owed or 0),
            "late": int(row.late or 0),
            "margin_cash": int(row.margin_cash),
            "until": row.available_until.isoformat(),
            "is_disputed": bool(row.is_disputed),
            "call": _call(calls.get(row.id)),
            "proposal": proposals.get(row.id),
        }
        for row in tx.execute(query)
    ]
    order = {"ENFORCING": 0, "DEFAULTED": 1, "FROZEN": 2, "WATCH": 3, "ACTIVE": 4, "PENDING": 5}
    return sorted(rows, key=lambda row: (order.get(row["state"], 9), row["id"]))


def _call(row: Any) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "amount": int(row.amount), "due": row.due.isoformat(), "state": row.state, "version": row.version,
        "base": json.loads(row.base)["base"],
    }  # fmt: skip


def _party(tx: sa.Connection, org: str, lang: str) -> str:
    fact = masterdata.party(tx, org) or {}
    return str(fact.get(f"name_{lang}") or fact.get("name_en") or org)
