"""Money set right: a payment reversed, an overpayment or a sale's surplus paid out, fees, and a loan paid in full."""

import json
from dataclasses import replace
from datetime import date
from typing import Any

import sqlalchemy as sa

from core.errors import Conflict, Rejected
from core.money import Money, parse_money
from finance.commandlog import command
from finance.journal import CLEARING, PAYABLE, Entry, post, reversed_entry
from finance.lending import book_payment, facility_row, grow, loan_of
from finance.loanbook import Loan, growth_entry, read_standing, write_loans
from finance.model import BANK, Actor, Call, Context
from finance.servicing import OFF_BOOK, advance, dated_state, overdue_days
from finance.states import step
from finance.tables import entries, loans, payments, reversals, sales
from ledger.database import Tx


def reverse_payment(
    tx: Tx, ctx: Context, actor: Actor, *, reference: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Take back a payment that did not hold: mirrored in the journal, and the loan grows as if it had never come.

    The newest payment of a loan goes first; nothing is deleted.

    Raises:
        Rejected: ``not_allowed``, ``no_such_payment``.
        Conflict: ``reversed_already``, ``later_payment``, ``refunded``, ``facility_closed``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        paid = _payment(tx, actor.org, reference)
        facility = facility_row(tx, _facility_of(tx, paid.loan))
        _check_reversible(tx, paid, facility)
        now_loan = grow(tx, paid.loan, until=call.business_date, now=now)
        if now_loan.overpaid < _overpaid(paid):
            raise Conflict("What was paid too much has been paid back.", code="refunded")
        number = _mirror(tx, actor.org, f"repayment/{actor.org}/{reference}", call, paid.loan)
        after = _reopened(now_loan, paid, call.business_date, ctx.policy.integer("monitoring", "overdue_days"))
        write_loans(tx, [(now_loan, after)])
        _regrow(tx, now_loan, after, paid, call)
        tx.execute(
            reversals.insert().values(
                lender=actor.org, reference=reference, loan=paid.loan, business_date=call.business_date, entry=number
            )
        )
        return {"loan": paid.loan, "state": after.standing.state, "entry": number,
                "balance": Money(after.standing.balance).text()}  # fmt: skip

    body = {"reference": reference}
    return command(tx, ctx, name="reverse_payment", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def refund_overpayment(
    tx: Tx, ctx: Context, actor: Actor, *, loan: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Pay back what came in beyond a repaid loan.

    Raises:
        Rejected: ``not_allowed``, ``no_such_loan``. Conflict: ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        found = _own_loan(tx, actor, loan, call)
        state = step("loan", found.standing.state, "refund")
        money = Money(found.overpaid)
        after = replace(found, standing=replace(found.standing, state=state), overpaid=0)
        write_loans(tx, [(found, after)])
        entry = Entry("refund", f"refund/{loan}/{key}", {PAYABLE: money}, {CLEARING: money})
        return {"loan": loan, "state": state, "amount": money.text(), "entry": _post(tx, entry, actor.org, call, loan)}

    body = {"loan": loan}
    return command(tx, ctx, name="refund_overpayment", actor=actor, key=key, reason=reason, now=now, body=body,
                   act=act)  # fmt: skip


def pay_surplus(tx: Tx, ctx: Context, actor: Actor, *, sale: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Pay the surplus of a sale out to the borrower, once.

    Raises:
        Rejected: ``not_allowed``, ``no_such_sale``. Conflict: ``disputed``, ``nothing_left``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = tx.execute(sa.select(sales).where(sales.c.id == sale).with_for_update()).one_or_none()
        facility = facility_row(tx, row.facility) if row is not None else None
        if row is None or facility is None or facility.lender != actor.org:
            raise Rejected("There is no such sale.", code="no_such_sale", pointer="sale")
        if facility.is_disputed:
            raise Conflict("A dispute holds this facility.", code="disputed")
        money = Money(row.surplus - row.surplus_paid)
        if money.minor == 0:
            raise Conflict("Nothing is left to pay out.", code="nothing_left")
        tx.execute(sales.update().where(sales.c.id == sale).values(surplus_paid=row.surplus))
        entry = Entry("surplus", f"surplus/{sale}", {PAYABLE: money}, {CLEARING: money})
        return {"sale": sale, "amount": money.text(), "entry": _post(tx, entry, actor.org, call)}

    body = {"sale": sale}
    return command(tx, ctx, name="pay_surplus", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def charge_fee(
    tx: Tx, ctx: Context, actor: Actor, *, loan: str, amount: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Charge a fee on the next instalment that is not paid.

    Raises:
        Rejected: ``not_allowed``, ``no_such_loan``, ``bad_amount``. Conflict: ``illegal_transition``.
    """
    actor.need("bank_checker")
    money = parse_money(amount, pointer="amount")

    def act(call: Call) -> dict[str, Any]:
        found = _own_loan(tx, actor, loan, call)
        step("loan", found.standing.state, "repaid")
        open_ = [place for place, line in enumerate(found.standing.lines) if not line.is_paid]
        next_ = next((at for at in open_ if found.standing.lines[at].due >= call.business_date), open_[-1])
        lines = list(found.standing.lines)
        lines[next_] = replace(lines[next_], fee=lines[next_].fee + money.minor)
        after = replace(found, standing=replace(found.standing, lines=tuple(lines)))
        if found.is_off_book:
            after = replace(after, suspended=found.suspended + money.minor)
        else:
            after = replace(after, receivable=found.receivable + money.minor)
        write_loans(tx, [(found, after)])
        entry = None if found.is_off_book else growth_entry(money.minor, f"fee/{loan}/{key}", kind="fee")
        number = _post(tx, entry, actor.org, call, loan) if entry is not None else None
        return {"loan": loan, "instalment": lines[next_].number, "fee": money.text(), "entry": number}

    body = {"loan": loan, "amount": amount}
    return command(tx, ctx, name="charge_fee", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def prepay_in_full(
    tx: Tx, ctx: Context, actor: Actor, *, loan: str, amount: str, reference: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Close a loan today by exactly what it owes today.

    Args:
        amount: what the payer saw as owed.

    Raises:
        Rejected: ``not_allowed``, ``no_such_loan``, ``bad_amount``.
        Conflict: ``changed_since_seen``, ``already_booked``, ``illegal_transition``.
    """
    actor.need("borrower", *BANK)
    money = parse_money(amount, pointer="amount")

    def act(call: Call) -> dict[str, Any]:
        loan_of(tx, actor, loan)
        found = grow(tx, loan, until=call.business_date, now=now)
        whole = Money(found.standing.balance + found.standing.charges)
        if money != whole:
            raise Conflict(f"Today {whole.text()} is owed.", code="changed_since_seen", pointer="amount")
        return book_payment(tx, found, money, reference, call)

    body = {"loan": loan, "amount": amount, "reference": reference}
    return command(tx, ctx, name="prepay_in_full", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _payment(tx: Tx, lender: str, reference: str) -> Any:
    own = (payments.c.lender == lender) & (payments.c.reference == reference)
    row = tx.execute(sa.select(payments).where(own)).one_or_none()
    if row is None:
        raise Rejected("There is no such payment.", code="no_such_payment", pointer="reference")
    return row


def _check_reversible(tx: Tx, paid: Any, facility: Any) -> None:
    if facility.state == "CLOSED":
        raise Conflict("The facility is closed: its goods are free again.", code="facility_closed")
    gone = sa.select(reversals.c.reference).where(reversals.c.lender == paid.lender, reversals.c.loan == paid.loan)
    undone = set(tx.execute(gone).scalars())
    if paid.reference in undone:
        raise Conflict("This payment was reversed already.", code="reversed_already")
    mine = sa.select(payments.c.reference, entries.c.number).join(
        entries, entries.c.reference == sa.literal("repayment/") + payments.c.lender + "/" + payments.c.reference
    )
    order = {ref: number for ref, number in tx.execute(mine.where(payments.c.loan == paid.loan)) if ref not in undone}
    if max(order, key=lambda ref: order[ref]) != paid.reference:
        raise Conflict("Reverse the later payments of this loan first.", code="later_payment")


def _mirror(tx: Tx, lender: str, reference: str, call: Call, loan: str) -> int:
    """Post the mirror of an entry; its number."""
    return _post(tx, reversed_entry(tx, reference), lender, call, loan)


def _reopened(loan: Loan, paid: Any, today: date, aged_after: int) -> Loan:
    """The loan as it would stand today had the payment never come."""
    before = read_standing(json.loads(paid.before))
    grown = advance(before, today, loan.terms).standing
    # Fees that were charged since stay charged.
    fees = {line.number: line.fee for line in loan.standing.lines}
    standing = replace(grown, lines=tuple(replace(line, fee=fees[line.number]) for line in grown.lines))
    days = overdue_days(standing.lines, today)
    state = loan.standing.state
    if state in ("REPAID", "OVERPAID"):
        state = step("loan", state, "reversal")
    if before.state == "DEFAULTED" and state != "DEFAULTED":
        state = step("loan", state, "default")
    for event in dated_state(state, days, aged_after):
        state = step("loan", state, event)
    is_off = state in OFF_BOOK
    return replace(
        loan, standing=replace(standing, state=state), overpaid=loan.overpaid - _overpaid(paid), overdue_days=days,
        receivable=0 if is_off else standing.charges, suspended=standing.charges if is_off else 0,
    )  # fmt: skip


def _regrow(tx: Tx, before: Loan, after: Loan, paid: Any, call: Call) -> None:
    """Bring receivable and income from what the mirror left to what the reopened loan claims."""
    was_on_book = read_standing(json.loads(paid.before)).state not in OFF_BOOK
    mirrored = sum(minor for _, part, minor in json.loads(paid.allocation) if part != "principal") if was_on_book else 0
    entry = growth_entry(after.receivable - before.receivable - mirrored, f"reopened/{paid.lender}/{paid.reference}")
    if entry is not None:
        _post(tx, entry, paid.lender, call, paid.loan)


def _overpaid(paid: Any) -> int:
    return int(paid.amount - sum(minor for _, _, minor in json.loads(paid.allocation)))


def _facility_of(tx: Tx, loan: str) -> str:
    return str(tx.execute(sa.select(loans.c.facility).where(loans.c.id == loan)).scalar_one())


def _own_loan(tx: Tx, actor: Actor, loan: str, call: Call) -> Loan:
    row = loan_of(tx, actor, loan)
    if row.lender != actor.org:
        raise Rejected("There is no such loan.", code="no_such_loan", pointer="loan")
    return grow(tx, loan, until=call.business_date, now=call.now_s)


def _post(tx: Tx, entry: Entry, lender: str, call: Call, loan: str | None = None) -> int:
    today = call.business_date
    return post(tx, entry, lender=lender, business_date=today, today=today, now=call.now_s, loan=loan)
