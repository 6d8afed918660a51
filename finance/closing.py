"""How a facility ends: by agreement of both sides, by its date, at zero; and what the bank pays for its own faults."""

from datetime import date
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Conflict, Rejected
from core.money import Money, parse_money
from finance.casetables import compensations, terminations
from finance.commandlog import HasPolicy, by_itself, command, insert_ignore
from finance.cover import end_call
from finance.foureyes import approved, propose
from finance.journal import DEPOSITS, OPERATING_LOSS, Entry, post
from finance.lending import facility_row
from finance.model import BANK, Actor, Call, Context
from finance.states import LIVE_PLEDGES, OPEN_LOANS, step
from finance.tables import facilities, loans, pledges
from ledger.database import Tx

_ENDED: Final = ("EXPIRED", "FROZEN", "TERMINATED", "DEFAULTED")


def agree_termination(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Bank or borrower agrees to end a facility; it is terminated when both have, and closes at zero.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``. Conflict: ``agreed_already``, ``illegal_transition``.
    """
    actor.need("bank_checker", "borrower")

    def act(call: Call) -> dict[str, Any]:
        row = facility_row(tx, facility)
        if actor.org not in (row.lender, row.borrower):
            raise Rejected("There is no such facility.", code="no_such_facility", pointer="facility")
        target = step("facility", row.state, "terminate")
        side = "bank" if actor.org == row.lender else "borrower"
        values = {"facility": facility, "side": side, "person": actor.person, "reason": reason, "at_s": now}
        if not insert_ignore(tx, terminations, values):
            raise Conflict("Your side has agreed already.", code="agreed_already")
        given = sa.select(sa.func.count()).select_from(terminations).where(terminations.c.facility == facility)
        state = target if tx.execute(given).scalar_one() == 2 else row.state
        tx.execute(facilities.update().where(facilities.c.id == facility).values(state=state))
        return {"facility": facility, "side": side, "state": state}

    body = {"facility": facility}
    return command(tx, ctx, name="agree_termination", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def sunset(tx: Tx, ctx: HasPolicy, *, today: date, now: int) -> dict[str, str]:
    """Facilities whose availability has ended expire; those that ended and owe nothing close; (id: state)."""
    moved: dict[str, str] = {}
    late = sa.select(facilities).where(
        facilities.c.state.in_(("ACTIVE", "WATCH", "FROZEN")), facilities.c.available_until < today
    )
    for row in tx.execute(late.order_by(facilities.c.id).with_for_update()).all():
        moved[row.id] = _end(tx, ctx, row, "avail_end", now)
    open_loans = sa.select(loans.c.id).where(loans.c.facility == facilities.c.id, loans.c.state.in_(OPEN_LOANS))
    held = sa.select(pledges.c.id).where(
        pledges.c.facility == facilities.c.id, pledges.c.state.in_(LIVE_PLEDGES), pledges.c.state != "ACTIVE"
    )
    clear = sa.select(facilities).where(
        facilities.c.state.in_(_ENDED), ~facilities.c.is_disputed, ~open_loans.exists(), ~held.exists()
    )
    for row in tx.execute(clear.order_by(facilities.c.id).with_for_update()).all():
        moved[row.id] = _end(tx, ctx, row, "close", now)
    return moved


def claim_compensation(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, amount: str, grounds: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A borrower claims what a fault of the platform cost it (A-11).

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``bad_amount``, ``missing_field``.
    """
    actor.need("borrower")
    money = parse_money(amount, pointer="amount")
    if not grounds.strip():
        raise Rejected("Say what happened.", code="missing_field", pointer="grounds")

    def act(call: Call) -> dict[str, Any]:
        row = facility_row(tx, facility)
        if row.borrower != actor.org:
            raise Rejected("There is no such facility.", code="no_such_facility", pointer="facility")
        ident = b64u(sha256(canonical_bytes([actor.org, key, "compensation"])))[:16]
        tx.execute(
            compensations.insert().values(
                id=ident, lender=row.lender, claimant=actor.org, facility=facility, amount=money.minor,
                grounds=grounds, state="FILED",
            )
        )  # fmt: skip
        return {"claim": ident, "state": "FILED"}

    body = {"facility": facility, "amount": amount, "grounds": grounds}
    return command(tx, ctx, name="claim_compensation", actor=actor, key=key, reason=reason, now=now, body=body,
                   act=act)  # fmt: skip


def propose_compensation(
    tx: Tx, ctx: Context, actor: Actor, *, claim: str, is_paid: bool, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank proposes to pay a claim, or to reject it.

    Raises:
        Rejected: ``not_allowed``, ``no_such_claim``. Conflict: ``illegal_transition``.
    """
    actor.need(*BANK)
    row = _claim(tx, actor, claim)
    step("compensation", row.state, "pay" if is_paid else "reject")
    seen = _claim_seen(row, is_paid=is_paid)
    return propose(tx, ctx, actor, action="compensation", subject=claim, seen=seen, key=key, reason=reason, now=now)


def settle_compensation(
    tx: Tx, ctx: Context, actor: Actor, *, claim: str, is_paid: bool, request: str, proposal: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """Another person approves: a claim is paid once, as an operating loss, to the borrower's deposit.

    Raises:
        Rejected: ``not_allowed``, ``no_such_claim``, ``no_such_proposal``.
        Conflict: as ``approved``, ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = _claim(tx, actor, claim)
        state = step("compensation", row.state, "pay" if is_paid else "reject")
        seen = _claim_seen(row, is_paid=is_paid)
        approved(tx, ctx, call, action="compensation", subject=claim, seen=seen, request=request, proposal=proposal)
        tx.execute(compensations.update().where(compensations.c.id == claim).values(state=state))
        number = _pay_claim(tx, row, call) if is_paid else None
        return {"claim": claim, "state": state, "entry": number}

    body = {"claim": claim, "is_paid": is_paid, "request": request, "proposal": proposal}
    return command(tx, ctx, name="settle_compensation", actor=actor, key=key, reason=reason, now=now, body=body,
                   act=act)  # fmt: skip


def _pay_claim(tx: Tx, row: Any, call: Call) -> int:
    money, today = Money(row.amount), call.business_date
    entry = Entry("compensation", f"compensation/{row.id}", {OPERATING_LOSS: money}, {DEPOSITS: money})
    return post(tx, entry, lender=row.lender, business_date=today, today=today, now=call.now_s)


def _claim(tx: Tx, actor: Actor, claim: str) -> Any:
    row = tx.execute(sa.select(compensations).where(compensations.c.id == claim).with_for_update()).one_or_none()
    if row is None or row.lender != actor.org:
        raise Rejected("There is no such claim.", code="no_such_claim", pointer="claim")
    return row


def _claim_seen(row: Any, *, is_paid: bool) -> dict[str, Any]:
    return {"amount": Money(row.amount).text(), "grounds": row.grounds, "is_paid": is_paid}


def _end(tx: Tx, ctx: HasPolicy, row: Any, event: str, now: int) -> str:
    state = step("facility", row.state, event)
    body = {"facility": row.id, "from": row.state, "version": row.version, "event": event}
    by_itself(tx, ctx, name="end_facility", org=row.lender, subject=f"facility {row.id}", now=now, body=body,
              act=partial(_ended, tx, row.id, state))  # fmt: skip
    return state


def _ended(tx: Tx, facility: str, state: str, _: Call) -> dict[str, Any]:
    more = facilities.c.version + 1
    tx.execute(facilities.update().where(facilities.c.id == facility).values(state=state, version=more))
    return {"facility": facility, "state": state} | (end_call(tx, facility, "cured") if state == "CLOSED" else {})
