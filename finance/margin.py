"""Margin: cash that a borrower puts up on a call, and its return once goods alone cover again."""

from typing import Any

import sqlalchemy as sa

from core.errors import Conflict, Rejected
from core.money import Money, parse_money
from finance.commandlog import command
from finance.cover import open_call
from finance.journal import CLEARING, MARGIN, Entry, post
from finance.lending import bank_facility, facility_row
from finance.model import BANK, Actor, Call, Context
from finance.monitoring import health_of, monitor_one
from finance.states import step
from finance.tables import facilities, margin_calls
from ledger.database import Tx


def post_margin(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, amount: str, reference: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Margin cash has arrived: it counts in the base at once, and the open call is judged again.

    Args:
        reference: the payment's own reference; one reference is booked once.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``bad_amount``.
        Conflict: ``no_open_call``, or ``constraint`` when the reference was booked before.
    """
    actor.need(*BANK)
    money = parse_money(amount, pointer="amount")

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        found = open_call(tx, facility)
        if found is None:
            raise Conflict("There is no open margin call.", code="no_open_call")
        entry = Entry("margin", f"margin/{row.lender}/{reference}", {CLEARING: money}, {MARGIN: money})
        number = _post(tx, entry, row, call)
        more = facilities.c.margin_cash + money.minor
        tx.execute(facilities.update().where(facilities.c.id == facility).values(margin_cash=more))
        state = step("margin_call", found.state, "partial")
        tx.execute(margin_calls.update().where(margin_calls.c.id == found.id).values(state=state))
        events = monitor_one(tx, ctx, facility, now=now)
        return {"facility": facility, "call": found.id, "entry": number, "events": list(events)}

    body = {"facility": facility, "amount": amount, "reference": reference}
    return command(tx, ctx, name="post_margin", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def return_margin(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, amount: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Give margin cash back, as far as the base without it still covers what is owed.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``bad_amount``.
        Conflict: ``above_margin``, ``exposure_uncovered``, ``call_open``, ``disputed``.
    """
    actor.need("bank_checker")
    money = parse_money(amount, pointer="amount")

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        if row.is_disputed:
            raise Conflict("A dispute holds this facility.", code="disputed")
        if money.minor > row.margin_cash:
            raise Conflict("There is less margin cash.", code="above_margin", pointer="amount")
        if open_call(tx, facility) is not None:
            raise Conflict("A margin call is open.", code="call_open")
        health = health_of(tx, ctx, row, now=now)
        if health.exposure > health.base - money:
            raise Conflict("Without it the goods do not cover what is owed.", code="exposure_uncovered")
        entry = Entry("margin_return", f"margin-return/{facility}/{key}", {MARGIN: money}, {CLEARING: money})
        number = _post(tx, entry, row, call)
        less = facilities.c.margin_cash - money.minor
        tx.execute(facilities.update().where(facilities.c.id == facility).values(margin_cash=less))
        return {"facility": facility, "entry": number, "margin_cash": Money(row.margin_cash - money.minor).text()}

    body = {"facility": facility, "amount": amount}
    return command(tx, ctx, name="return_margin", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def set_dispute(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, is_disputed: bool, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Hold a facility while parties dispute, or lift the hold: nothing is released or enforced meanwhile.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``. Conflict: ``no_change``.
    """
    actor.need("bank_checker", "borrower")

    def act(call: Call) -> dict[str, Any]:
        row = facility_row(tx, facility)
        if actor.org not in (row.lender, row.borrower):
            raise Rejected("There is no such facility.", code="no_such_facility", pointer="facility")
        if not is_disputed and actor.org != row.lender:
            raise Rejected("Only the bank lifts a dispute hold.", code="not_allowed")
        if bool(row.is_disputed) == is_disputed:
            raise Conflict("Nothing would change.", code="no_change")
        tx.execute(facilities.update().where(facilities.c.id == facility).values(is_disputed=is_disputed))
        return {"facility": facility, "is_disputed": is_disputed}

    body = {"facility": facility, "is_disputed": is_disputed}
    return command(tx, ctx, name="set_dispute", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _post(tx: Tx, entry: Entry, row: Any, call: Call) -> int:
    today = call.business_date
    return post(tx, entry, lender=row.lender, business_date=today, today=today, now=call.now_s)


def calls_of(tx: Tx, lender: str) -> list[Any]:
    """Every margin call of a bank, newest first."""
    query = (
        sa.select(margin_calls, facilities.c.borrower)
        .join(facilities, facilities.c.id == margin_calls.c.facility)
        .where(facilities.c.lender == lender)
        .order_by(margin_calls.c.opened.desc(), margin_calls.c.id)
    )
    return list(tx.execute(query).all())
