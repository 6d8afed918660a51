"""Ways out of an application: withdrawn, returned and submitted again, held by a name and settled by two, lapsed."""

from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u
from core.errors import Rejected
from finance.applications import (
    after_screening,
    answer,
    application_row,
    rated,
    receipt_for,
    screened,
    stored_values,
    wanted_from,
    wanted_of,
)
from finance.commandlog import HasPolicy, by_itself, command
from finance.foureyes import approved, propose
from finance.model import BANK, Actor, Call, Context
from finance.receipts import receipt_row
from finance.screening import open_hits, settle_hits
from finance.states import IllegalTransition, step
from finance.tables import applications
from ledger.database import Tx

RETURN_CODES: Final = ("more_cover", "documents", "amount", "tenor", "evidence", "other")
"""Why an application goes back to its maker."""


def withdraw_application(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """The borrower takes an application back before it is approved.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``. Conflict: ``illegal_transition``.
    """
    actor.need("borrower")

    def act(call: Call) -> dict[str, Any]:
        row = _borrowers(tx, actor, application)
        return _move(tx, row, step("application", row.state, "withdraw"), reason)

    body = {"application": application}
    return command(tx, ctx, name="withdraw_application", actor=actor, key=key, reason=reason, now=now, body=body,
                   act=act)  # fmt: skip


def return_application(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, reason_code: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """The bank gives an application back to the borrower, saying what is missing.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``, ``unknown_reason``. Conflict: ``illegal_transition``.
    """
    actor.need(*BANK)
    if reason_code not in RETURN_CODES:
        codes = ", ".join(RETURN_CODES)
        raise Rejected(f"The reasons are {codes}.", code="unknown_reason", pointer="reason_code")

    def act(call: Call) -> dict[str, Any]:
        row = _banks(tx, actor, application)
        return _move(tx, row, step("application", row.state, "return"), f"{reason_code}: {reason}")

    body = {"application": application, "reason_code": reason_code}
    return command(tx, ctx, name="return_application", actor=actor, key=key, reason=reason, now=now, body=body,
                   act=act)  # fmt: skip


def resubmit_application(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, amount: str, tenor_days: int, repayment: str = "bullet",
    key: str, reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """The borrower submits a returned application again; names are screened and everything is decided anew.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``, ``consent_needed``, and as ``submit_application``.
        AlreadyPledged: the goods secure another loan by now.
        Conflict: ``illegal_transition``, ``receipt_not_sealed``, ``receipt_expired``.
    """
    actor.need("borrower")
    wanted = wanted_from(amount, tenor_days, repayment)

    def act(call: Call) -> dict[str, Any]:
        row = _borrowers(tx, actor, application)
        submitted = step("application", row.state, "submit")
        receipt = receipt_for(tx, ctx, actor.org, receipt_row(tx, bytes(row.receipt)).item, now)
        made = rated(tx, ctx, lender=row.lender, borrower=row.borrower, receipt=receipt, wanted=wanted, call=call,
                     application=application)  # fmt: skip
        state, hits = screened(tx, ctx, row.lender, row.borrower, application, submitted)
        state = after_screening(state, made)
        values = stored_values(made) | {"receipt": receipt, "maker": actor.person, "state": state, "note": ""}
        tx.execute(applications.update().where(applications.c.id == application).values(values))
        return answer(application, state, made, hits)

    body = {"application": application, "amount": amount, "tenor_days": tenor_days, "repayment": repayment}
    return command(tx, ctx, name="resubmit_application", actor=actor, key=key, reason=reason, now=now, body=body,
                   act=act)  # fmt: skip


def propose_screening(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, is_cleared: bool, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank has looked at the names that hold an application and says whether they are others.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``. Conflict: ``illegal_transition``.
    """
    actor.need(*BANK)
    row = _banks(tx, actor, application)
    _settled(row, is_cleared=is_cleared)
    seen = _hits_seen(tx, application, is_cleared=is_cleared)
    return propose(tx, ctx, actor, action="screening", subject=application, seen=seen, key=key, reason=reason, now=now)


def settle_screening(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, is_cleared: bool, request: str, proposal: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """Another person agrees: a cleared application is decided anew, a confirmed hit declines it.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``, ``no_such_proposal``, ``consent_needed``.
        Conflict: ``own_command``, ``changed_since_seen``, ``expired``, ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = _banks(tx, actor, application)
        state = _settled(row, is_cleared=is_cleared)
        seen = _hits_seen(tx, application, is_cleared=is_cleared)
        approved(tx, ctx, call, action="screening", subject=application, seen=seen, request=request, proposal=proposal)
        settle_hits(tx, application, "CLEARED" if is_cleared else "CONFIRMED")
        if not is_cleared:
            return _move(tx, row, state, reason)
        made = rated(tx, ctx, lender=row.lender, borrower=row.borrower, receipt=bytes(row.receipt),
                     wanted=wanted_of(row), call=call, application=application)  # fmt: skip
        state = after_screening(state, made)
        values = stored_values(made) | {"state": state}
        tx.execute(applications.update().where(applications.c.id == application).values(values))
        return answer(application, state, made)

    body = {"application": application, "is_cleared": is_cleared, "request": request, "proposal": proposal}
    return command(tx, ctx, name="settle_screening", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def lapse_offers(tx: Tx, ctx: HasPolicy, *, now: int) -> list[str]:
    """Approved offers that nobody accepted in time expire; the applications that did."""
    late = sa.select(applications).where(applications.c.state == "APPROVED", applications.c.expires_s <= now)
    found = tx.execute(late.order_by(applications.c.id).with_for_update()).all()
    for row in found:
        body = {"application": row.id, "terms_hash": b64u(bytes(row.terms_hash))}
        act = partial(_lapse, tx, row)
        by_itself(tx, ctx, name="lapse_offer", org=row.lender, subject=f"offer {row.id}", now=now, body=body, act=act)
    return [row.id for row in found]


def _lapse(tx: Tx, row: Any, _: Call) -> dict[str, Any]:
    return _move(tx, row, step("application", row.state, "lapse"), "offer expired")


def _settled(row: Any, *, is_cleared: bool) -> str:
    if row.state != "HELD":
        raise IllegalTransition(f"The application is {row.state}: no name holds it.", pointer="state")
    return step("application", row.state, "clear" if is_cleared else "reject")


def _hits_seen(tx: Tx, application: str, *, is_cleared: bool) -> dict[str, Any]:
    hits = [[row.number, row.source, row.version, row.entry, row.name] for row in open_hits(tx, application)]
    return {"is_cleared": is_cleared, "hits": hits}


def _borrowers(tx: Tx, actor: Actor, application: str) -> Any:
    return _own(application_row(tx, application, for_update=True), "borrower", actor)


def _banks(tx: Tx, actor: Actor, application: str) -> Any:
    return _own(application_row(tx, application, for_update=True), "lender", actor)


def _own(row: Any, side: str, actor: Actor) -> Any:
    if getattr(row, side) != actor.org:
        raise Rejected("There is no such application.", code="no_such_application", pointer="application")
    return row


def _move(tx: Tx, row: Any, state: str, note: str) -> dict[str, Any]:
    tx.execute(applications.update().where(applications.c.id == row.id).values(state=state, note=note))
    return {"application": row.id, "state": state}
