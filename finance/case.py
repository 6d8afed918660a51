"""An application's case as one signed file: what was known, decided, approved and done, each row fixed in the log.

The file is a compact JWS (ES256, ``typ`` tb-case+jwt) of the operator over RFC 8785 bytes; ``finance.case_check`` reads
it without database, network or chain. Money is text, hashes are base64url.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256
from core.crypto import P256Private
from core.errors import Rejected
from core.jws import sign_jws
from core.money import Money
from core.notes import Verifier
from core.records import TYP, common
from finance.applications import application_row
from finance.eod import SYSTEM
from finance.policy import source as policy_source
from finance.tables import (
    approvals,
    audit_outbox,
    command_log,
    entries,
    facilities,
    loans,
    margin_calls,
    payments,
    pledges,
    postings,
    receipts,
)
from ledger import tiles
from ledger.database import Tx
from ledger.store import get_fact
from ledger.tables import checkpoints, records
from ledger.tables import entries as log_entries

CASE_TYP: Final = "tb-case+jwt"
ROWS_MAX: Final = 20_000
"""Rows of one kind in a case; ours, some hundred times what a year of one facility writes."""
_SKEW_S: Final = 3  # the audit record is made some moments before its row is marked as sent


def sign_case(
    tx: Tx, application: str, *, lender: str, operator: str, key: P256Private, log: Verifier, now: int
) -> bytes:
    """The signed case file of one application.

    Args:
        lender: canonical id of the bank whose case it is.
        operator: canonical id of the signing organisation; ``key`` is its record key.
        log: who signs checkpoints; named in the file, so that its proofs can be checked.
        now: unix seconds.

    Raises:
        Rejected: ``no_such_application``, ``case_too_large``.
    """
    case = build_case(tx, application, lender=lender, operator=operator, kid=key.thumbprint(), log=log, now=now)
    case["signer"] = {"org": operator, "jwk": dict(key.jwk())}
    return sign_jws(canonical_bytes(case), typ=CASE_TYP, key=key) + b"\n"


def build_case(
    tx: Tx, application: str, *, lender: str, operator: str, kid: str, log: Verifier, now: int
) -> dict[str, Any]:
    """The case as JSON, not yet signed.

    Raises:
        Rejected: ``no_such_application``, ``case_too_large``.
    """
    row = application_row(tx, application)
    if row.lender != lender:
        raise Rejected("There is no such application.", code="no_such_application", pointer="application")
    stored = json.loads(row.decision)
    commands = _commands(tx, row)
    version = stored["decision"]["policy"]
    case: dict[str, Any] = {
        "v": 1, "made_s": now, "application": _application(row), "terms": json.loads(row.terms),
        "inputs": stored["inputs"], "decision": stored["decision"], "evidence": evidence_of(stored),
        "policy": {"version": version, "source": policy_source(version).decode("utf-8")},
        "approvals": _approvals(tx, row, commands), "facility": _facility(tx, row.id), "commands": commands,
    }  # fmt: skip
    case["log"] = _prove(tx, case["commands"], operator, kid, log)
    return case


def evidence_of(stored: Mapping[str, Any]) -> list[str]:
    """The ids (``leaf:event``) of every event that inputs and decision cite, in order."""
    found: set[str] = set()
    groups = [stored["inputs"], *stored["inputs"].get("further", ())]
    for grounds in (group.get("grounds", {}) for group in groups):
        found.update(event for ids in grounds.get("events", {}).values() for event in ids)
        found.update(event for reason in grounds.get("knock_outs", ()) for event in reason.get("events", ()))
    found.update(event for reason in stored["decision"].get("reasons", ()) for event in reason.get("events", ()))
    return sorted(found, key=_event_order)


def _event_order(ident: str) -> tuple[int, int, str]:
    leaf, _, event = ident.partition(":")
    return (int(leaf), int(event), ident) if leaf.isdigit() and event.isdigit() else (-1, -1, ident)


def _application(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "lender": row.lender, "borrower": row.borrower, "receipt": b64u(bytes(row.receipt)),
        "amount": Money(row.amount).text(), "tenor_days": row.tenor_days, "purpose": row.purpose, "maker": row.maker,
        "state": row.state, "terms_hash": b64u(bytes(row.terms_hash)), "created_s": row.created_s,
        "expires_s": row.expires_s, "note": row.note,
    }  # fmt: skip


def _commands(tx: Tx, row: Any) -> list[dict[str, Any]]:
    # A command names what it acts on in its body, or made it and names it in its result.
    about = command_log.c.body.contains(row.id, autoescape=True) | command_log.c.result.contains(
        row.id, autoescape=True
    )
    # The custodian signs the pledge; what the system did by itself stands under the bank or under its own name.
    keepers = sa.select(receipts.c.custodian).where(receipts.c.id == row.receipt)
    sides = command_log.c.org.in_((row.lender, row.borrower, SYSTEM)) | command_log.c.org.in_(keepers)
    query = sa.select(command_log).where(sides, about)
    rows = _few(tx.execute(query.order_by(command_log.c.number).limit(ROWS_MAX + 1)).all())
    names = ("number", "org", "key", "name", "person", "user", "reason", "policy", "at_s", "body", "result")
    return [
        {name: one._mapping[name] for name in names}
        | {"business_date": one.business_date.isoformat(), "row_hash": b64u(bytes(one.row_hash))}
        for one in rows
    ]


def _approvals(tx: Tx, row: Any, commands: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    subject = approvals.c.subject
    own = (subject == f"application/{row.id}") | subject.endswith(f"/{row.id}", autoescape=True)
    own |= subject.contains(f"/{row.id}-", autoescape=True)
    query = sa.select(approvals).where(own).order_by(approvals.c.at_s, approvals.c.subject, approvals.c.checker)
    return [
        {
            "subject": one.subject, "seen_hash": b64u(bytes(one.seen_hash)), "maker": one.maker,
            "checker": one.checker, "decision": one.decision, "reason": one.reason, "at_s": one.at_s,
            "expires_s": one.expires_s,
        }
        for one in _few(tx.execute(query.limit(ROWS_MAX + 1)).all())
    ]  # fmt: skip


def _facility(tx: Tx, ident: str) -> dict[str, Any] | None:
    row = tx.execute(sa.select(facilities).where(facilities.c.id == ident)).one_or_none()
    if row is None:
        return None
    held = tx.execute(sa.select(pledges).where(pledges.c.facility == ident).order_by(pledges.c.id)).all()
    lent = _few(tx.execute(sa.select(loans).where(loans.c.facility == ident).order_by(loans.c.id)).all())
    called = tx.execute(sa.select(margin_calls).where(margin_calls.c.facility == ident).order_by(margin_calls.c.id))
    return {
        "state": row.state, "limit": Money(row.limit_minor).text(), "grade": row.grade, "policy": row.policy,
        "available_until": row.available_until.isoformat(),
        "pledges": [
            {"id": one.id, "receipt": b64u(bytes(one.receipt)), "terms_hash": b64u(bytes(one.terms_hash)),
             "state": one.state, "final_block": one.final_block, "registered_s": one.registered_s,
             "filing_number": one.filing_number}
            for one in held
        ],
        "margin_calls": [
            {"id": one.id, "version": one.version, "amount": Money(one.amount).text(), "state": one.state,
             "opened": one.opened.isoformat(), "due": one.due.isoformat()}
            for one in called
        ],
        "loans": [_loan(tx, one) for one in lent],
    }  # fmt: skip


def _loan(tx: Tx, row: Any) -> dict[str, Any]:
    paid = sa.select(payments).where(payments.c.loan == row.id).order_by(payments.c.business_date, payments.c.reference)
    base = json.loads(row.base)
    return {
        "id": row.id, "principal": Money(row.principal).text(), "balance": Money(row.balance).text(),
        "state": row.state, "started": row.started.isoformat(), "base": base or None,
        "payments": [
            {"reference": one.reference, "amount": Money(one.amount).text(),
             "business_date": one.business_date.isoformat(), "allocation": json.loads(one.allocation)}
            for one in _few(tx.execute(paid.limit(ROWS_MAX + 1)).all())
        ],
        "entries": _journal(tx, row.id),
    }  # fmt: skip


def _journal(tx: Tx, loan: str) -> list[dict[str, Any]]:
    query = (
        sa.select(entries.c.number, entries.c.kind, entries.c.reference, entries.c.business_date, postings)
        .join(postings, postings.c.entry == entries.c.number)
        .where(entries.c.loan == loan)
        .order_by(entries.c.number, postings.c.line)
        .limit(ROWS_MAX + 1)
    )
    found: dict[int, dict[str, Any]] = {}
    for row in _few(tx.execute(query).all()):
        entry = found.setdefault(
            row.number,
            {"number": row.number, "kind": row.kind, "reference": row.reference,
             "business_date": row.business_date.isoformat(), "postings": []},
        )  # fmt: skip
        entry["postings"].append([row.account, Money(row.debit_minor).text(), Money(row.credit_minor).text()])
    return list(found.values())


def _prove(tx: Tx, commands: Iterable[dict[str, Any]], operator: str, kid: str, log: Verifier) -> dict[str, Any]:
    """Put to each command its ``audit`` record with its place and path in the log; the checkpoint they lead to."""
    head = tx.execute(sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).first()
    size = 0 if head is None else int(head.size)
    for command in commands:
        found = _audit_record(tx, command, operator, kid)
        leaf = None if found is None else found.leaf
        if found is None or leaf is None or leaf >= size:
            command["audit"] = None  # on its way: the record is not under a checkpoint yet
            continue
        path = [b64u(node) for node in tiles.inclusion_proof(tx, leaf, size)]
        command["audit"] = {"leaf": leaf, "record": bytes(found.raw).decode("ascii"), "path": path}
    return {"checkpoint": None if head is None else head.note, "verifier": log.encode()}


def _audit_record(tx: Tx, command: Mapping[str, Any], operator: str, kid: str) -> Any | None:
    query = sa.select(audit_outbox.c.sent_s).where(audit_outbox.c.number == command["number"])
    sent_s = tx.execute(query).scalar_one_or_none()
    aud, log = get_fact(tx, "aud"), get_fact(tx, "log")
    if sent_s is None or aud is None or log is None:
        return None
    header = b64u(canonical_bytes({"alg": "ES256", "kid": kid, "typ": TYP}))
    idents = []
    for iat in range(sent_s - _SKEW_S, sent_s + 1):
        payload = common(t="audit", aud=aud, log=log, org=operator, iat=iat) | {"row": command["row_hash"]}
        idents.append(sha256(f"{header}.{b64u(canonical_bytes(payload))}".encode("ascii")))
    found = (
        sa.select(records.c.raw, log_entries.c.leaf)
        .outerjoin(log_entries, log_entries.c.arrival == records.c.arrival)
        .where(records.c.id.in_(idents))
    )
    return tx.execute(found).first()


def _few(rows: Sequence[Any]) -> Sequence[Any]:
    if len(rows) > ROWS_MAX:
        raise Rejected(f"A case holds at most {ROWS_MAX} rows of a kind.", code="case_too_large")
    return rows
