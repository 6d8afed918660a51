"""Read model of what waits for people beside decisions: held names, cover, claims, limit reviews, proposals."""

import json
from typing import Any, Final

import sqlalchemy as sa

from finance.casetables import compensations, guarantees, limit_reviews, mortgages, screening_hits, screening_lists
from finance.tables import applications, command_log, facilities, sales
from ledger import masterdata

_PROPOSALS: Final = ("propose_screening", "propose_guarantee", "propose_mortgage", "propose_compensation")
_MOST: Final = 200


def cases(tx: sa.Connection, org: str, lang: str) -> dict[str, Any]:
    """Everything of one bank; another bank sees none of it."""
    proposals = proposals_of(tx, org, _PROPOSALS)
    return {
        "held": _held(tx, org, lang, proposals),
        "guarantees": _cover(tx, guarantees, org, proposals),
        "mortgages": _cover(tx, mortgages, org, proposals),
        "claims": _claims(tx, org, lang, proposals),
        "reviews": _reviews(tx, org),
        "surplus": _surplus(tx, org),
        "lists": _lists(tx, org),
    }


def proposals_of(tx: sa.Connection, org: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By subject, the newest proposal that waits for another person, with what it proposes."""
    query = sa.select(command_log).where(command_log.c.org == org, command_log.c.name.in_(names))
    found = {}
    for row in tx.execute(query.order_by(command_log.c.number)):
        result, body = json.loads(row.result), json.loads(row.body)
        found[body["subject"]] = {
            "action": row.name.removeprefix("propose_"), "request": result["request"], "seen": body["seen"],
            "proposal": result["proposal"], "maker": result["maker"], "reason": row.reason,
        }  # fmt: skip
    return found


def _held(tx: sa.Connection, org: str, lang: str, proposals: dict[str, Any]) -> list[dict[str, Any]]:
    query = sa.select(applications).where(applications.c.lender == org, applications.c.state == "HELD")
    rows = []
    for row in tx.execute(query.order_by(applications.c.created_s).limit(_MOST)).all():
        hits = sa.select(screening_hits).where(screening_hits.c.application == row.id, screening_hits.c.state == "OPEN")
        rows.append(
            {
                "id": row.id, "borrower": _party(tx, row.borrower, lang), "amount": int(row.amount),
                "proposal": proposals.get(row.id),
                "hits": [
                    {"name": hit.name, "subject": hit.subject, "listed": hit.listed, "source": hit.source,
                     "entry": hit.entry, "score": f"{hit.score_e2 // 100}.{hit.score_e2 % 100:02d}"}
                    for hit in tx.execute(hits.order_by(screening_hits.c.number))
                ],
            }
        )  # fmt: skip
    return rows


def _cover(tx: sa.Connection, table: sa.Table, org: str, proposals: dict[str, Any]) -> list[dict[str, Any]]:
    query = sa.select(table).where(table.c.lender == org).order_by(table.c.id).limit(_MOST)
    names = {"guarantor": "guarantor", "title": "title", "amount": "amount", "value": "amount", "appraiser": "by"}
    return [
        {"id": row.id, "state": row.state, "proposal": proposals.get(row.id)}
        | {names[name]: value for name, value in row._mapping.items() if name in names}
        | ({"appraised": row.appraised.isoformat()} if "appraised" in row._mapping else {})
        for row in tx.execute(query)
    ]


def _claims(tx: sa.Connection, org: str, lang: str, proposals: dict[str, Any]) -> list[dict[str, Any]]:
    query = sa.select(compensations).where(compensations.c.lender == org).order_by(compensations.c.state)
    return [
        {"id": row.id, "claimant": _party(tx, row.claimant, lang), "amount": int(row.amount), "grounds": row.grounds,
         "state": row.state, "proposal": proposals.get(row.id)}
        for row in tx.execute(query.limit(_MOST))
    ]  # fmt: skip


def _reviews(tx: sa.Connection, org: str) -> list[dict[str, Any]]:
    query = (
        sa.select(limit_reviews)
        .join(facilities, facilities.c.id == limit_reviews.c.facility)
        .where(facilities.c.lender == org)
        .order_by(limit_reviews.c.at_s.desc(), limit_reviews.c.number.desc())
    )
    return [
        {
            "facility": row.facility, "number": row.number, "at_ms": row.at_s * 1_000, "cause": row.cause,
            "before": int(row.limit_before), "after": int(row.limit_after),
            "reasons": json.loads(row.decision)["decision"]["reasons"],
        }
        for row in tx.execute(query.limit(20))
    ]  # fmt: skip


def _surplus(tx: sa.Connection, org: str) -> list[dict[str, Any]]:
    query = (
        sa.select(sales)
        .join(facilities, facilities.c.id == sales.c.facility)
        .where(facilities.c.lender == org, sales.c.surplus > sales.c.surplus_paid)
    )
    return [{"id": row.id, "amount": int(row.surplus - row.surplus_paid)} for row in tx.execute(query.limit(_MOST))]


def _lists(tx: sa.Connection, org: str) -> list[dict[str, Any]]:
    query = sa.select(screening_lists).where(screening_lists.c.lender == org)
    return [
        {"source": row.source, "version": row.version, "names": row.names, "at_ms": row.at_s * 1_000}
        for row in tx.execute(query.order_by(screening_lists.c.at_s.desc()).limit(20))
    ]


def _party(tx: sa.Connection, org: str, lang: str) -> str:
    fact = masterdata.party(tx, org) or {}
    return str(fact.get(f"name_{lang}") or fact.get("name_en") or org)
