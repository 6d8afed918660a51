"""Money: draw-down against a fresh base, interest day by day, repayment by the waterfall; each a balanced entry."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import canonical_bytes
from core.errors import Conflict, Rejected
from core.money import Money, parse_money
from finance.allocation import NON_PERFORMING, PERFORMING, Due, Spread, spread
from finance.calendar import rolled
from finance.commandlog import HasPolicy, command
from finance.consents import CREDIT
from finance.cover import active_pledges, cover_of, ltv_holds
from finance.inputs import exposure
from finance.journal import DEPOSITS, INCOME, LOANS, PAYABLE, RECEIVABLE, Entry, post
from finance.loanbook import (
    GROWING,
    Loan,
    carried,
    growth_entry,
    read_loans,
    stored_standing,
    write_growth,
    write_loans,
)
from finance.model import Actor, Call, Context
from finance.ratios import availability
from finance.schedule import Every, schedule
from finance.servicing import advance, overdue_days
from finance.states import step
from finance.tables import facilities, loans, payments, schedule_lines
from ledger.chain_alarms import is_credit_stopped
from ledger.database import Tx

MONTH_DAYS: Final = 30


def draw(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, amount: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Draw money: only on an active pledge that the chain still shows, a base computed now, and within the limit.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``bad_amount``, ``consent_needed``.
        Conflict: ``facility_not_active``, ``pledge_not_active``, ``pledge_mismatch``, ``credit_stopped``,
            ``above_availability``, ``guarantee_needed``, ``goods_ineligible``, ``availability_ended``.
    """
    actor.need("borrower")
    money = parse_money(amount, pointer="amount")

    def act(call: Call) -> dict[str, Any]:
        row = facility_row(tx, facility)
        if row.borrower != actor.org:
            raise Rejected("There is no such facility.", code="no_such_facility")
        _may_draw(tx, ctx, row, call)
        cover = cover_of(tx, ctx, row, call=call, purpose=CREDIT, amount=money)
        if not cover.is_eligible:
            codes = ", ".join(reason["code"] for reason in cover.reasons)
            raise Conflict(f"The goods are not eligible now: {codes}.", code="goods_ineligible")
        owed = exposure(tx, row.lender, row.borrower)
        if money > availability(limit=Money(row.limit_minor), base=cover.base, exposure=owed):
            raise Conflict("This is more than is available.", code="above_availability", pointer="amount")
        if not ltv_holds(tx, ctx, facility, owed + money, cover.gross):
            raise Conflict("Above 75 % the controller's guarantee is needed.", code="guarantee_needed")
        return _pay_out(tx, row, money, cover.stored, call)

    body = {"facility": facility, "amount": amount}
    return command(tx, ctx, name="draw", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def repay(
    tx: Tx, ctx: HasPolicy, actor: Actor, *, loan: str, amount: str, reference: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A payment on a loan: interest to the business date, then the waterfall; what nothing claims is owed back.

    Args:
        reference: the payment's own reference; one reference is booked once.

    Raises:
        Rejected: ``not_allowed``, ``no_such_loan``, ``bad_amount``.
        Conflict: ``already_booked``, or ``illegal_transition`` for a loan that is not open.
    """
    actor.need("borrower", "bank_maker", "bank_checker")
    money = parse_money(amount, pointer="amount")

    def act(call: Call) -> dict[str, Any]:
        loan_of(tx, actor, loan)
        return book_payment(tx, grow(tx, loan, until=call.business_date, now=now), money, reference, call)

    body = {"loan": loan, "amount": amount, "reference": reference}
    return command(tx, ctx, name="repay", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def grow(tx: Tx, loan: str, *, until: date, now: int) -> Loan:
    """A loan, locked, with its growth up to a date posted: interest, and penalty on what is overdue.

    Raises:
        Rejected: ``no_such_loan``.
    """
    found = read_loans(tx, [loan], is_locked=True)
    if not found:
        raise Rejected("There is no such loan.", code="no_such_loan", pointer="loan")
    before = found[0]
    if before.standing.state not in GROWING or until <= before.standing.accrued_to:
        return before
    grown = advance(before.standing, until, before.terms)
    total = grown.interest + grown.penalty
    after = carried(before, grown)
    write_loans(tx, [(before, after)])
    write_growth(tx, [(before, grown)], until)
    entry = None if before.is_off_book else growth_entry(total, f"accrual/{loan}/{until.isoformat()}")
    if entry is not None:
        post(tx, entry, lender=before.lender, business_date=until, today=until, now=now, loan=loan)
    return after


def owed(tx: Tx, loan: str, *, on: date) -> Money:
    """What closes a loan on a date: balance, and all that has grown on it until then.

    Raises:
        Rejected: ``no_such_loan``.
    """
    found = read_loans(tx, [loan])
    if not found:
        raise Rejected("There is no such loan.", code="no_such_loan", pointer="loan")
    standing = found[0].standing
    if on > standing.accrued_to and standing.state in GROWING:
        standing = advance(standing, on, found[0].terms).standing
    return Money(standing.balance + standing.charges)


def facility_row(tx: Tx, facility: str) -> Any:
    """A facility's row, locked: draws, payments and releases of one facility come one after the other.

    Raises:
        Rejected: ``no_such_facility``.
    """
    bumped = facilities.update().where(facilities.c.id == facility).values(version=facilities.c.version + 1)
    if tx.execute(bumped).rowcount != 1:
        raise Rejected("There is no such facility.", code="no_such_facility", pointer="facility")
    return tx.execute(sa.select(facilities).where(facilities.c.id == facility)).one()


def loan_of(tx: Tx, actor: Actor, loan: str) -> Any:
    """The locked facility of a loan of the actor's organisation, as bank or as borrower.

    Raises:
        Rejected: ``no_such_loan``.
    """
    found = tx.execute(sa.select(loans.c.facility).where(loans.c.id == loan)).scalar_one_or_none()
    row = facility_row(tx, found) if found is not None else None
    if row is None or actor.org not in (row.lender, row.borrower):
        raise Rejected("There is no such loan.", code="no_such_loan", pointer="loan")
    return row


def bank_facility(tx: Tx, actor: Actor, facility: str) -> Any:
    """A facility of the actor's own bank, locked.

    Raises:
        Rejected: ``no_such_facility``, also for another bank's.
    """
    row = facility_row(tx, facility)
    if row.lender != actor.org:
        raise Rejected("There is no such facility.", code="no_such_facility", pointer="facility")
    return row


def _may_draw(tx: Tx, ctx: Context, facility: Any, call: Call) -> None:
    if facility.state != "ACTIVE":
        raise Conflict(f"The facility is {facility.state}.", code="facility_not_active")
    if call.business_date > facility.available_until:
        raise Conflict("The availability period has ended.", code="availability_ended")
    if is_credit_stopped(tx):
        raise Conflict("No new credit while the chain is in doubt.", code="credit_stopped")
    held = active_pledges(tx, facility.id)
    if not held or any(pledge.final_block is None for pledge in held):
        raise Conflict("No pledge is active.", code="pledge_not_active")
    account = ctx.signer.address(ctx.account(facility.lender)).lower()
    for pledge in held:
        # The chain decides pledges: read it again, whatever the database believes.
        shown = ctx.registry.pledge_of(bytes(pledge.receipt))
        if shown.state != "active" or shown.pledgee.lower() != account or shown.terms_hash != bytes(pledge.terms_hash):
            raise Conflict("The chain does not show this pledge.", code="pledge_mismatch")


def _pay_out(tx: Tx, facility: Any, money: Money, base: Mapping[str, Any], call: Call) -> dict[str, Any]:
    count = tx.execute(sa.select(sa.func.count()).select_from(loans).where(loans.c.facility == facility.id))
    loan, state = f"{facility.id}-L{count.scalar_one() + 1}", "REQUESTED"
    for event in ("approve", "fund_reserved", "paid"):
        state = step("loan", state, event)
    today = call.business_date
    tx.execute(
        loans.insert().values(
            id=loan, facility=facility.id, principal=money.minor, balance=money.minor, interest_due=0,
            accrued_exact="0;0", accrued_to=today, overpaid=0, started=today, state=state,
            base=canonical_bytes(dict(base)).decode(),
        )
    )  # fmt: skip
    is_bullet = facility.repayment == "bullet"
    lines = schedule(
        money, rate=Fraction(facility.rate_e10, 10**10), day_count_name=facility.day_count, start=today,
        periods=1 if is_bullet else max(1, facility.tenor_days // MONTH_DAYS),
        every=Every(facility.tenor_days, "D") if is_bullet else Every(1, "M"), kind=facility.repayment,
    )  # fmt: skip
    for number, line in enumerate(lines, start=1):
        day = rolled(line.due)
        tx.execute(
            schedule_lines.insert().values(
                loan=loan, number=number, due=line.due, rolled=day.date, is_provisional=day.is_provisional,
                principal=line.principal.minor, interest=line.interest.minor, principal_paid=0,
            )
        )  # fmt: skip
    entry = Entry("draw", f"draw/{loan}", {LOANS: money}, {DEPOSITS: money})
    number = post(tx, entry, lender=facility.lender, business_date=today, today=today, now=call.now_s, loan=loan)
    last = lines[-1].due
    return {"loan": loan, "state": state, "amount": money.text(), "entry": number, "due": last.isoformat()}


def book_payment(tx: Tx, loan: Loan, money: Money, reference: str, call: Call) -> dict[str, Any]:
    """Book a payment on a loan that has grown to the business date.

    Raises:
        Conflict: ``already_booked``, or ``illegal_transition`` for a loan that is not open.
    """
    paid = (payments.c.lender == loan.lender) & (payments.c.reference == reference)
    if tx.execute(sa.select(payments.c.loan).where(paid)).first() is not None:
        raise Conflict("This payment is booked already.", code="already_booked", pointer="reference")
    step("loan", loan.standing.state, "repaid")
    got = spread(money, _dues(loan, call.business_date), order=NON_PERFORMING if loan.is_off_book else PERFORMING)
    after = _paid(loan, got, call.business_date)
    write_loans(tx, [(loan, after)])
    principal, charges = got.total("principal"), sum(got.total(part) for part in ("penalty", "fee", "interest"))
    # What is claimed but was never income becomes income when it is paid.
    parts = {LOANS: principal, INCOME if loan.is_off_book else RECEIVABLE: charges, PAYABLE: got.overpayment.minor}
    credits_ = {account: Money(minor) for account, minor in parts.items() if minor}
    entry = Entry("repayment", f"repayment/{loan.lender}/{reference}", {DEPOSITS: money}, credits_)
    number = post(
        tx, entry, lender=loan.lender, business_date=call.business_date, today=call.business_date, now=call.now_s,
        loan=loan.id,
    )  # fmt: skip
    if loan.is_off_book and after.receivable:
        # Paid up again: what has grown since and is not due yet is income from now on.
        resumed = growth_entry(after.receivable, f"resumed/{loan.lender}/{reference}")
        if resumed is not None:
            post(tx, resumed, lender=loan.lender, business_date=call.business_date, today=call.business_date,
                 now=call.now_s, loan=loan.id)  # fmt: skip
    tx.execute(
        payments.insert().values(
            lender=loan.lender, reference=reference, loan=loan.id, amount=money.minor,
            allocation=json.dumps(got.lines), business_date=call.business_date,
            before=json.dumps(stored_standing(loan.standing)),
        )
    )  # fmt: skip
    return {
        "loan": loan.id, "state": after.standing.state, "principal": Money(principal).text(),
        "interest": Money(got.total("interest")).text(), "penalty": Money(got.total("penalty")).text(),
        "fee": Money(got.total("fee")).text(), "overpayment": got.overpayment.text(),
        "balance": Money(after.standing.balance).text(), "entry": number,
    }  # fmt: skip


def _dues(loan: Loan, today: date) -> list[Due]:
    """What a payment meets: each line's claims; interest grown so far is paid before principal in advance."""
    dues = []
    for line in loan.standing.lines:
        is_due = today >= line.due
        dues.append(
            Due(
                line.number, is_due=True, penalty=line.penalty - line.penalty_paid, fee=line.fee - line.fee_paid,
                interest=line.interest - line.interest_paid, principal=line.open_principal if is_due else 0,
            )
        )  # fmt: skip
        if not is_due:
            dues.append(Due(line.number, is_due=False, principal=line.open_principal))
    return dues


def _paid(loan: Loan, got: Spread, today: date) -> Loan:
    lines = {line.number: line for line in loan.standing.lines}
    for number, part, minor in got.lines:
        name = f"{part}_paid"
        lines[number] = replace(lines[number], **{name: getattr(lines[number], name) + minor})
    standing = replace(loan.standing, lines=tuple(lines.values()))
    if standing.balance + standing.charges == 0:
        state = step("loan", standing.state, "overpaid" if got.overpayment.minor else "repaid")
    else:
        state = standing.state
        if state in ("OVERDUE", "NON_ACCRUAL") and overdue_days(standing.lines, today) == 0:
            state = step("loan", state, "paid_up")
    after = replace(loan, standing=replace(standing, state=state), overpaid=loan.overpaid + got.overpayment.minor)
    is_off = after.is_off_book
    return replace(
        after, receivable=0 if is_off else standing.charges, suspended=standing.charges if is_off else 0,
        overdue_days=overdue_days(standing.lines, today),
    )  # fmt: skip
