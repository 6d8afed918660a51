"""Closing a bank's books up to a day: one person proposes over the figures of the moment, another closes.

What was booked into a closed period stays as it is; what comes later is booked on a later day.
"""

from datetime import date
from typing import Any

import sqlalchemy as sa

from core.errors import Conflict, Rejected
from finance.commandlog import HasPolicy, business_date, command
from finance.daycount import parse_date
from finance.eod import put
from finance.foureyes import approved, propose
from finance.journal import CLOSED, closed_until, control_differences, trial_balance
from finance.model import BANK, Actor, Call
from finance.tables import entries
from ledger.database import Tx


def propose_close_period(
    tx: Tx, ctx: HasPolicy, actor: Actor, *, until: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank proposes to close its books up to a day that has ended.

    Raises:
        Rejected: ``not_allowed``, ``bad_date``, ``future_date``. Conflict: ``closed_period``, ``books_differ``.
    """
    actor.need(*BANK)
    seen = _seen(tx, actor.org, parse_date(until, pointer="until"), now)
    return propose(
        tx, ctx, actor, action="close_period", subject=f"{actor.org}/{until}", seen=seen, key=key, reason=reason,
        now=now,
    )  # fmt: skip


def close_period(
    tx: Tx, ctx: HasPolicy, actor: Actor, *, until: str, request: str, proposal: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Another person closes the books over the figures that were proposed; nothing is booked into them any more.

    Raises:
        Rejected: ``not_allowed``, ``bad_date``, ``future_date``, ``no_such_proposal``.
        Conflict: ``own_command``, ``changed_since_seen``, ``expired``, ``closed_period``, ``books_differ``.
    """
    actor.need("bank_checker")
    day = parse_date(until, pointer="until")

    def act(call: Call) -> dict[str, Any]:
        seen = _seen(tx, actor.org, day, now)
        approved(tx, ctx, call, action="close_period", subject=f"{actor.org}/{until}", seen=seen, request=request,
                 proposal=proposal)  # fmt: skip
        put(tx, f"{CLOSED}/{actor.org}", day.isoformat())
        return {"closed_until": day.isoformat(), "entries": seen["entries"]}

    body = {"until": until, "request": request, "proposal": proposal}
    return command(tx, ctx, name="close_period", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _seen(tx: Tx, lender: str, until: date, now: int) -> dict[str, Any]:
    """The figures of the period, if it may be closed."""
    if until >= business_date(tx, now):
        raise Rejected("Only days before the business date can be closed.", code="future_date", pointer="until")
    closed = closed_until(tx, lender)
    if closed is not None and until <= closed:
        raise Conflict(f"The books are closed until {closed.isoformat()}.", code="closed_period", pointer="until")
    balances = trial_balance(tx, lender)
    if sum(value.minor for value in balances.values()) or control_differences(tx, lender):
        raise Conflict("The books do not agree; close them when they do.", code="books_differ")
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(entries.c.debit_minor), 0)).where(
        entries.c.lender == lender, entries.c.business_date <= until
    )
    count, total = tx.execute(query).one()
    # Only what the period holds is bound: business of the present day goes on while two persons decide.
    return {"until": until.isoformat(), "entries": int(count), "debits_minor": str(int(total))}
