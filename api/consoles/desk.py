"""Read models of credit: what bank staff and borrowers see; another bank sees none of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256
from finance.consents import consents_of
from finance.model import Context
from finance.receipts import receipts_over
from finance.states import LIVE_PLEDGES
from finance.tables import (
    accounts,
    applications,
    approvals,
    borrowers,
    claims,
    command_log,
    entries,
    facilities,
    loans,
    payments,
    pledges,
    postings,
    receipts,
    refusals,
    reversals,
    schedule_lines,
)
from ledger import masterdata
from ledger.chain_alarms import is_credit_stopped
from ledger.chain_tx_tables import chain_tx
from ledger.state import item_state

OPEN_STATES = ("SUBMITTED", "SCREENED", "HELD", "RATED", "IN_REVIEW", "APPROVED", "CONTRACTED")


@dataclass(frozen=True)
class Register:
    """What the pledge register says of goods: free, own (pledged to the asking bank) or elsewhere; nobody is named."""

    code: str
    as_of_block: int | None


@dataclass(frozen=True)
class Row:
    """One application in the queue."""

    id: str
    borrower: str
    borrower_org: str
    state: str
    amount: int
    submitted_ms: int
    deadline_ms: int
    item: str
    units: int
    grade: str
    confidence: str
    is_eligible: bool
    outcome: str
    register: Register
    price: str
    price_as_of: str
    alerts: tuple[str, ...]
    reasons: tuple[Mapping[str, Any], ...]
    maker: str
    approvals: int


def queue(tx: sa.Connection, org: str, lang: str, *, state: str = "open") -> list[Row]:
    """The applications at one bank, the most urgent first."""
    query = sa.select(applications).where(applications.c.lender == org)
    if state == "open":
        query = query.where(applications.c.state.in_(OPEN_STATES))
    elif state != "all":
        query = query.where(applications.c.state == state)
    rows = tx.execute(query.order_by(applications.c.expires_s, applications.c.id).limit(200)).all()
    return [_row(tx, row, org, lang) for row in rows]


def own_applications(tx: sa.Connection, org: str, lang: str) -> list[dict[str, Any]]:
    """What a borrower sees of its applications: state, terms and reasons."""
    query = sa.select(applications).where(applications.c.borrower == org).order_by(applications.c.created_s.desc())
    return [
        {
            "id": row.id,
            "lender": _party(tx, row.lender, lang),
            "amount": int(row.amount),
            "state": row.state,
            "terms_hash": b64u(bytes(row.terms_hash)),
            "reasons": json.loads(row.decision)["decision"]["reasons"],
            "facility": _facility(tx, row.id),
            "pledges": _pledges(tx, row.id),
        }
        for row in tx.execute(query.limit(100))
    ]


def application(tx: sa.Connection, org: str, ident: str, lang: str) -> dict[str, Any] | None:
    """Everything an approver sees, with the hash of it all as ``seen``; None for another bank's application."""
    query = sa.select(applications).where(applications.c.id == ident, applications.c.lender == org)
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    stored = json.loads(row.decision)
    own_file = (borrowers.c.lender == org) & (borrowers.c.org == row.borrower)
    features = tx.execute(sa.select(borrowers.c.features).where(own_file)).scalar_one_or_none()
    detail: dict[str, Any] = {
        "row": _row(tx, row, org, lang),
        "purpose": row.purpose,
        "tenor_days": row.tenor_days,
        "terms": json.loads(row.terms),
        "terms_hash": b64u(bytes(row.terms_hash)),
        "decision": stored["decision"],
        "inputs": stored["inputs"],
        "features": json.loads(features or "{}"),
        "approvals": _approvals(tx, f"application/{ident}"),
        "history": _history(tx, org, ident),
        "facility": _facility(tx, ident),
        "pledges": _pledges(tx, ident),
        "loans": loan_rows(tx, org, lang, facility=ident),
    }
    seen = {
        "terms_hash": detail["terms_hash"],
        "state": row.state,
        "approvals": [[one["checker"], one["decision"]] for one in detail["approvals"]],
        "register": detail["row"].register.code,
        "alerts": list(detail["row"].alerts),
    }
    detail["seen"] = b64u(sha256(canonical_bytes(seen)))
    return detail


def loan_rows(tx: sa.Connection, org: str, lang: str, *, facility: str | None = None) -> list[dict[str, Any]]:
    """The loans of one bank, or of one borrower."""
    query = (
        sa.select(loans, facilities.c.borrower, facilities.c.lender, facilities.c.rate_e10, facilities.c.limit_minor)
        .join(facilities, facilities.c.id == loans.c.facility)
        .where((facilities.c.lender == org) | (facilities.c.borrower == org))
        .order_by(loans.c.started.desc(), loans.c.id)
    )
    if facility is not None:
        query = query.where(loans.c.facility == facility)
    return [
        {
            "id": row.id,
            "facility": row.facility,
            "borrower": _party(tx, row.borrower, lang),
            "lender": _party(tx, row.lender, lang),
            "principal": int(row.principal),
            "balance": int(row.balance),
            "interest_due": int(row.interest_due),
            "rate": f"{row.rate_e10 / 10**8:.2f} %",
            "started": row.started.isoformat(),
            "state": row.state,
        }
        for row in tx.execute(query.limit(200))
    ]


def loan(tx: sa.Connection, org: str, ident: str, lang: str) -> dict[str, Any] | None:
    """A loan with its schedule and its postings; None for another bank's."""
    found = next((row for row in loan_rows(tx, org, lang) if row["id"] == ident), None)
    if found is None:
        return None
    lines = sa.select(schedule_lines).where(schedule_lines.c.loan == ident).order_by(schedule_lines.c.number)
    schedule = [
        {
            "number": row.number,
            "due": row.rolled.isoformat(),
            "is_provisional": bool(row.is_provisional),
            "principal": int(row.principal),
            "interest": int(row.interest),
            "paid": int(row.principal_paid),
        }
        for row in tx.execute(lines)
    ]
    query = (
        sa.select(entries, postings, accounts.c.name_en, accounts.c.name_zh)
        .join(postings, postings.c.entry == entries.c.number)
        .join(accounts, accounts.c.code == postings.c.account)
        .where(entries.c.loan == ident)
        .order_by(entries.c.number, postings.c.line)
    )
    journal = [
        {
            "entry": row.number,
            "kind": row.kind,
            "date": row.business_date.isoformat(),
            "account": row.account,
            "name": row.name_zh if lang == "zh" else row.name_en,
            "debit": int(row._mapping[postings.c.debit_minor]),
            "credit": int(row._mapping[postings.c.credit_minor]),
        }
        for row in tx.execute(query)
    ]
    return {
        **found, "schedule": schedule, "journal": journal, "pledges": _pledges(tx, found["facility"]),
        "payments": _reversible(tx, ident),
    }  # fmt: skip


def _reversible(tx: sa.Connection, loan_id: str) -> list[dict[str, Any]]:
    """The newest payment that still stands: only that one can be taken back."""
    gone = sa.select(reversals.c.reference).where(reversals.c.loan == loan_id)
    query = sa.select(payments).where(payments.c.loan == loan_id, payments.c.reference.not_in(gone))
    newest = query.order_by(payments.c.business_date.desc(), payments.c.reference.desc()).limit(1)
    return [
        {"reference": row.reference, "amount": int(row.amount), "date": row.business_date.isoformat()}
        for row in tx.execute(newest)
    ]


def register_of(tx: sa.Connection, ctx: Context, org: str, item: str) -> Register:
    """The pledge register's answer for goods in any spelling, whatever they are packed in."""
    states = [_live(tx, receipt) for receipt in receipts_over(tx, ctx, item)]
    return _answer(tx, [row for row in states if row is not None], org)


def own_receipts(tx: sa.Connection, org: str) -> list[dict[str, Any]]:
    """The warehouse receipts that an organisation issued or owns the goods of."""
    query = sa.select(receipts).where((receipts.c.custodian == org) | (receipts.c.owner == org))
    return [
        {
            "id": b64u(bytes(row.id)),
            "item": row.item,
            "owner": row.owner,
            "custodian": row.custodian,
            "state": row.state,
            "expires_ms": int(row.expires_s) * 1_000,
            "pledges": _pledges_of_receipt(tx, bytes(row.id)),
        }
        for row in tx.execute(query.order_by(receipts.c.issued_s.desc()).limit(100))
    ]


def own_consents(tx: sa.Connection, org: str, lang: str) -> list[dict[str, Any]]:
    """What a borrower lets banks use of its data, for what and until when."""
    return [
        {
            "id": row.id,
            "lender": _party(tx, row.lender, lang),
            "purpose": row.purpose,
            "source": row.source,
            "until_ms": int(row.until_s) * 1_000,
            "is_withdrawn": row.withdrawn_s is not None,
        }
        for row in consents_of(tx, org)
    ]


def refused(tx: sa.Connection, org: str, *, limit: int = 50) -> list[dict[str, Any]]:
    """What was refused to an organisation's own people, newest first."""
    query = sa.select(refusals).where(refusals.c.org == org).order_by(refusals.c.number.desc()).limit(limit)
    return [
        {"name": row.name, "person": row.person, "code": row.code, "message": row.message, "at_ms": row.at_s * 1_000}
        for row in tx.execute(query)
    ]


def _row(tx: sa.Connection, row: Any, org: str, lang: str) -> Row:
    stored = json.loads(row.decision)
    decision, inputs = stored["decision"], stored["inputs"]
    receipt = tx.execute(sa.select(receipts).where(receipts.c.id == row.receipt)).one()
    count = (
        sa.select(sa.func.count()).select_from(claims).where(claims.c.receipt == row.receipt, claims.c.quantity == 1)
    )
    quote = next((line["quote"] for line in inputs["lines"] if line.get("quote")), None)
    live = _live(tx, bytes(row.receipt))
    return Row(
        id=row.id,
        borrower=_party(tx, row.borrower, lang),
        borrower_org=row.borrower,
        state=row.state,
        amount=int(row.amount),
        submitted_ms=int(row.created_s) * 1_000,
        deadline_ms=int(row.expires_s) * 1_000,
        item=receipt.item,
        units=int(tx.execute(count).scalar_one()),
        grade=decision["grade"],
        confidence=decision["confidence"],
        is_eligible=bool(decision["eligible"]),
        outcome=decision["outcome"],
        register=_answer(tx, [live] if live is not None else [], org),
        price=str(decision["lines"][0]["price"]) if decision["lines"] else "",
        price_as_of=str(quote["as_of"]) if quote else "",
        alerts=tuple(_alerts(tx, receipt)),
        reasons=tuple(decision["reasons"][:4]),
        maker=row.maker,
        approvals=len(_approvals(tx, f"application/{row.id}")),
    )


def _alerts(tx: sa.Connection, receipt: Any) -> list[str]:
    """What happened to the goods that a lender must know before it decides."""
    found: list[str] = []
    standing = item_state(tx, receipt.item)
    if standing is not None:
        found += ["recalled"] if standing.is_recalled else []
        found += ["sold"] if standing.is_sold else []
        site = str(receipt.place).split("/254/")[0]
        found += ["moved"] if standing.place and standing.place.split("/254/")[0] != site else []
    found += ["credit_stopped"] if is_credit_stopped(tx) else []
    return found


def _live(tx: sa.Connection, receipt: bytes) -> Any:
    return tx.execute(
        sa.select(pledges).where(pledges.c.receipt == receipt, pledges.c.state.in_(LIVE_PLEDGES))
    ).one_or_none()


def _answer(tx: sa.Connection, live: list[Any], org: str) -> Register:
    final = sa.select(sa.func.max(chain_tx.c.block_number)).where(chain_tx.c.state == "final")
    block = tx.execute(final).scalar()
    code = "free" if not live else "own" if all(row.lender == org for row in live) else "elsewhere"
    return Register(code, None if block is None else int(block))


def _approvals(tx: sa.Connection, subject: str) -> list[dict[str, Any]]:
    query = sa.select(approvals).where(approvals.c.subject == subject).order_by(approvals.c.at_s)
    return [
        {
            "checker": row.checker,
            "decision": row.decision.split("/")[0],
            "reason": row.reason,
            "at_ms": row.at_s * 1_000,
        }
        for row in tx.execute(query)
    ]


def _history(tx: sa.Connection, org: str, ident: str) -> list[dict[str, Any]]:
    named = command_log.c.body.contains(ident, autoescape=True) | command_log.c.result.contains(ident, autoescape=True)
    query = sa.select(command_log).where(named).order_by(command_log.c.number)
    return [
        {
            "name": row.name,
            "person": row.person if row.org == org else "",
            "org": row.org,
            "reason": row.reason if row.org == org else "",
            "at_ms": row.at_s * 1_000,
            "row_hash": b64u(bytes(row.row_hash)),
        }
        for row in tx.execute(query.limit(100))
    ]


def _facility(tx: sa.Connection, ident: str) -> dict[str, Any] | None:
    row = tx.execute(sa.select(facilities).where(facilities.c.application == ident)).one_or_none()
    if row is None:
        return None
    return {
        "id": row.id,
        "state": row.state,
        "limit": int(row.limit_minor),
        "grade": row.grade,
        "available_until": row.available_until.isoformat(),
    }


def _pledges(tx: sa.Connection, facility: str) -> list[dict[str, Any]]:
    return [_pledge(tx, row) for row in tx.execute(sa.select(pledges).where(pledges.c.facility == facility))]


def _pledges_of_receipt(tx: sa.Connection, receipt: bytes) -> list[dict[str, Any]]:
    return [_pledge(tx, row) for row in tx.execute(sa.select(pledges).where(pledges.c.receipt == receipt))]


def _pledge(tx: sa.Connection, row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "receipt": b64u(bytes(row.receipt)),
        "is_signed_by_owner": row.owner_sig is not None,
        "is_signed_by_custodian": row.custodian_sig is not None,
        "final_block": row.final_block,
        "release": _release_request(tx, row.lender, row.id),
    }


def _release_request(tx: sa.Connection, org: str, pledge: str) -> dict[str, Any] | None:
    """The newest request to release a pledge, as a checker must answer it."""
    query = (
        sa.select(command_log)
        .where(command_log.c.org == org, command_log.c.name == "request_release")
        .order_by(command_log.c.number.desc())
        .limit(200)
    )
    for row in tx.execute(query):
        result = json.loads(row.result)
        if result.get("pledge") == pledge:
            return {"request": row.key, "maker": row.person, "release_hash": result["release_hash"]}
    return None


def _party(tx: sa.Connection, org: str, lang: str) -> str:
    fact = masterdata.party(tx, org) or {}
    return str(fact.get(f"name_{lang}") or fact.get("name_en") or org)
