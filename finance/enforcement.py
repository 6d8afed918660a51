"""Enforcement: notice by two persons, sale of the goods, the order of its proceeds, write-off and recovery."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from core.errors import Conflict, Rejected
from core.money import Money, parse_money
from finance.commandlog import command
from finance.foureyes import approved, propose
from finance.journal import (
    ALLOWANCE,
    CLEARING,
    IMPAIRMENT,
    INCOME,
    LOANS,
    PAYABLE,
    RECEIVABLE,
    Entry,
    post,
    trial_balance,
)
from finance.lending import bank_facility, grow
from finance.loanbook import Loan, read_loans, write_loans
from finance.model import BANK, Actor, Call, Context
from finance.servicing import Instalment
from finance.states import step
from finance.tables import facilities, loans, pledges, sales
from ledger.chain_book import enqueue, state_of
from ledger.database import Tx

_ORDER = ("penalty", "fee", "interest", "principal")


def propose_enforcement(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank proposes to sell the goods of a facility in default.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``. Conflict: ``disputed``, ``illegal_transition``.
    """
    actor.need(*BANK)
    row, held = _enforceable(tx, actor, facility)
    return propose(tx, ctx, actor, action="enforcement", subject=facility, seen=_seen(row, held), key=key,
                   reason=reason, now=now)  # fmt: skip


def enforce(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, request: str, proposal: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Another person approves: the pledge is enforced on the chain, from where nobody but this bank acts on it.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``no_such_proposal``.
        Conflict: ``own_command``, ``changed_since_seen``, ``expired``, ``disputed``, ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row, held = _enforceable(tx, actor, facility)
        approved(tx, ctx, call, action="enforcement", subject=facility, seen=_seen(row, held), request=request,
                 proposal=proposal)  # fmt: skip
        sent = [send_enforcement(tx, ctx, pledge, "enforce", key, now) for pledge in held]
        state = step("facility", row.state, "enforce")
        tx.execute(facilities.update().where(facilities.c.id == facility).values(state=state))
        return {"facility": facility, "state": state, "chain_tx": sent[-1]}

    body = {"facility": facility, "request": request, "proposal": proposal}
    return command(tx, ctx, name="enforce", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def book_sale(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, bids: Sequence[Mapping[str, str]], costs: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """Book the sale to the highest bid: costs, penalty, interest, principal; the surplus is the borrower's.

    Args:
        bids: {"bidder", "amount"} each; at least one.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``no_bids``, ``bad_amount``.
        Conflict: ``not_enforcing``, ``not_final``, ``sold_already``, ``nothing_owed``, ``costs_above_proceeds``.
    """
    actor.need("bank_checker")
    offers = [(parse_money(bid.get("amount"), pointer="bids"), str(bid.get("bidder", ""))) for bid in bids]
    if not offers or any(not bidder.strip() for _, bidder in offers):
        raise Rejected("A sale needs bids, each with its bidder.", code="no_bids", pointer="bids")
    proceeds, expense = max(offers)[0], parse_money(costs, pointer="costs", is_zero_allowed=True)
    if expense > proceeds:
        raise Conflict("The costs are more than the proceeds.", code="costs_above_proceeds", pointer="costs")

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        held = _enforcing(tx, ctx, row)
        if not any(loan.standing.balance + loan.standing.charges for loan in _loans(tx, facility)):
            raise Conflict("Nothing is owed: give the goods back instead.", code="nothing_owed")
        for pledge in held:
            send_enforcement(tx, ctx, pledge, "settle", key, now)
        sale = held[0].id
        left, shares = _pay_loans(tx, row, proceeds - expense, call)
        parts = shares | {PAYABLE: expense.minor + left.minor}
        entry = Entry("sale", f"sale/{sale}", {CLEARING: proceeds},
                      {code: Money(minor) for code, minor in parts.items() if minor})  # fmt: skip
        number = _post(tx, entry, row, call)
        tx.execute(
            sales.insert().values(
                id=sale, facility=facility, proceeds=proceeds.minor, costs=expense.minor, surplus=left.minor,
                bids=json.dumps([dict(bid) for bid in bids]), business_date=call.business_date,
            )
        )  # fmt: skip
        state = _close_if_paid(tx, row)
        return {"facility": facility, "state": state, "proceeds": proceeds.text(), "surplus": left.text(),
                "entry": number}  # fmt: skip

    body = {"facility": facility, "bids": [dict(bid) for bid in bids], "costs": costs}
    return command(tx, ctx, name="book_sale", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def propose_write_off(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank proposes to write off what enforcement did not bring.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``. Conflict: ``illegal_transition``, ``nothing_left``.
    """
    actor.need(*BANK)
    row = bank_facility(tx, actor, facility)
    step("facility", row.state, "write_off")
    return propose(tx, ctx, actor, action="write_off", subject=facility, seen=_lost(tx, facility), key=key,
                   reason=reason, now=now)  # fmt: skip


def write_off(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, request: str, proposal: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Another person approves: provided in full, then out of the books; the claim on the borrower stays.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``no_such_proposal``.
        Conflict: as ``approved``, ``illegal_transition``, ``nothing_left``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        state = step("facility", row.state, "write_off")
        approved(tx, ctx, call, action="write_off", subject=facility, seen=_lost(tx, facility), request=request,
                 proposal=proposal)  # fmt: skip
        gone, taken_back = 0, 0
        for loan in _loans(tx, facility):
            if loan.standing.state != "DEFAULTED":
                continue
            gone, taken_back = gone + loan.standing.balance, taken_back + loan.receivable
            standing = replace(loan.standing, state=step("loan", "DEFAULTED", "write_off"))
            after = replace(loan, standing=standing, suspended=loan.suspended + loan.receivable, receivable=0)
            write_loans(tx, [(loan, after)])
        _book_loss(tx, row, Money(gone), Money(taken_back), call)
        tx.execute(facilities.update().where(facilities.c.id == facility).values(state=state))
        return {"facility": facility, "state": state, "written_off": Money(gone).text()}

    body = {"facility": facility, "request": request, "proposal": proposal}
    return command(tx, ctx, name="write_off", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def recover(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, amount: str, reference: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Money that still came in on a written-off facility.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``bad_amount``. Conflict: ``illegal_transition``.
    """
    actor.need(*BANK)
    money = parse_money(amount, pointer="amount")

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        state = step("facility", row.state, "recovery")
        entry = Entry("recovery", f"recovery/{row.lender}/{reference}", {CLEARING: money}, {ALLOWANCE: money})
        return {"facility": facility, "state": state, "entry": _post(tx, entry, row, call)}

    body = {"facility": facility, "amount": amount, "reference": reference}
    return command(tx, ctx, name="recover", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _pay_loans(tx: Tx, row: Any, money: Money, call: Call) -> tuple[Money, dict[str, int]]:
    """Proceeds over the loans, each claim of all loans before the next: what is left, and credits by account."""
    left, credits_ = money.minor, {LOANS: 0, RECEIVABLE: 0, INCOME: 0}
    before = [
        grow(tx, loan.id, until=call.business_date, now=call.now_s)
        for loan in _loans(tx, row.id)
        if loan.standing.state in ("DEFAULTED", "NON_ACCRUAL", "OVERDUE", "ACTIVE")
    ]
    after = list(before)
    for part in _ORDER:
        for place, loan in enumerate(after):
            lines, paid = _pay_part(loan.standing.lines, part, left)
            left -= paid
            on_book = 0 if part == "principal" else min(paid, loan.receivable)
            off_book = 0 if part == "principal" else paid - on_book
            credits_[LOANS] += paid if part == "principal" else 0
            credits_[RECEIVABLE] += on_book
            credits_[INCOME] += off_book
            after[place] = replace(
                loan, standing=replace(loan.standing, lines=lines), receivable=loan.receivable - on_book,
                suspended=loan.suspended - off_book,
            )  # fmt: skip
    done = []
    for loan in after:
        is_paid = loan.standing.balance + loan.standing.charges == 0
        state = step("loan", loan.standing.state, "repaid") if is_paid else loan.standing.state
        done.append(replace(loan, standing=replace(loan.standing, state=state)))
    write_loans(tx, list(zip(before, done, strict=True)))
    return Money(left), credits_


def _pay_part(lines: tuple[Instalment, ...], part: str, most: int) -> tuple[tuple[Instalment, ...], int]:
    paid, found = 0, []
    for line in lines:
        name = f"{part}_paid"
        more = min(most - paid, getattr(line, part) - getattr(line, name))
        found.append(replace(line, **{name: getattr(line, name) + more}))
        paid += more
    return tuple(found), paid


def _book_loss(tx: Tx, row: Any, gone: Money, taken_back: Money, call: Call) -> None:
    held = -trial_balance(tx, row.lender).get(ALLOWANCE, Money(0)).minor
    if gone.minor > held:
        more = Money(gone.minor - max(held, 0))
        _post(tx, Entry("provision", f"write-off-provision/{row.id}", {IMPAIRMENT: more}, {ALLOWANCE: more}), row, call)
    if gone.minor:
        _post(tx, Entry("write_off", f"write-off/{row.id}", {ALLOWANCE: gone}, {LOANS: gone}), row, call)
    if taken_back.minor:
        back = Entry("non_accrual", f"write-off-income/{row.id}", {INCOME: taken_back}, {RECEIVABLE: taken_back})
        _post(tx, back, row, call)


def _close_if_paid(tx: Tx, row: Any) -> str:
    open_ = [loan for loan in _loans(tx, row.id) if loan.standing.balance + loan.standing.charges]
    if open_:
        return str(row.state)
    state = step("facility", row.state, "close")
    tx.execute(facilities.update().where(facilities.c.id == row.id).values(state=state))
    return state


def _lost(tx: Tx, facility: str) -> dict[str, Any]:
    left = {
        loan.id: Money(loan.standing.balance).text()
        for loan in _loans(tx, facility)
        if loan.standing.state == "DEFAULTED" and loan.standing.balance
    }
    if not left:
        raise Conflict("Nothing is left to write off.", code="nothing_left")
    return {"loans": left}


def _loans(tx: Tx, facility: str) -> list[Loan]:
    idents = tx.execute(sa.select(loans.c.id).where(loans.c.facility == facility).order_by(loans.c.id)).scalars()
    return read_loans(tx, list(idents), is_locked=True)


def cure_enforcement(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Stop enforcement because nothing is owed any more, or the loss is written off and the goods bring nothing.

    The pledges are plain ones again, which two persons may release.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``.
        Conflict: ``not_enforcing``, ``not_final``, ``sold_already``, ``money_owed``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        held = _enforcing(tx, ctx, row, ("ENFORCING", "WRITTEN_OFF"))
        if row.state == "ENFORCING" and any(
            loan.standing.balance + loan.standing.charges for loan in _loans(tx, facility)
        ):
            raise Conflict("Money is still owed.", code="money_owed")
        sent = [send_enforcement(tx, ctx, pledge, "cure", key, now) for pledge in held]
        return {"facility": facility, "state": row.state, "chain_tx": sent[-1]}

    body = {"facility": facility}
    return command(tx, ctx, name="cure_enforcement", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def send_enforcement(tx: Tx, ctx: Context, pledge: Any, purpose: str, key: str, now: int) -> int:
    """Send a step of enforcement to the chain: ``enforce``, ``settle`` or ``cure``.

    A pledge in enforcement stays so until its sale or its cure is final there: the chain decides pledges.
    """
    calls = {"enforce": ctx.registry.enforce_call, "settle": ctx.registry.settle_call, "cure": ctx.registry.cure_call}
    chain_tx = enqueue(
        tx, account=ctx.account(pledge.lender), to=ctx.registry.address, purpose=purpose,
        data=calls[purpose](bytes(pledge.receipt)), reference=f"{pledge.id}/{key}", now_ms=now * 1_000,
    )  # fmt: skip
    state = step("pledge", pledge.state, "enforce") if purpose == "enforce" else pledge.state
    tx.execute(pledges.update().where(pledges.c.id == pledge.id).values(state=state, chain_tx=chain_tx))
    return chain_tx


def _enforceable(tx: Tx, actor: Actor, facility: str) -> tuple[Any, list[Any]]:
    row = bank_facility(tx, actor, facility)
    step("facility", row.state, "enforce")
    if row.is_disputed:
        raise Conflict("A dispute holds this facility.", code="disputed")
    held = _pledges(tx, facility, "ACTIVE")
    if not held:
        raise Conflict("No pledge is active.", code="pledge_not_active")
    return row, held


def _enforcing(tx: Tx, ctx: Context, row: Any, states: Sequence[str] = ("ENFORCING",)) -> list[Any]:
    held = _pledges(tx, row.id, "ENFORCING")
    if row.state not in states or not held:
        raise Conflict("The facility is not being enforced.", code="not_enforcing")
    if any(state_of(tx, pledge.chain_tx).purpose != "enforce" for pledge in held):
        raise Conflict("The goods are sold, or given back, already.", code="sold_already")
    if any(ctx.registry.pledge_of(bytes(pledge.receipt)).state != "enforcing" for pledge in held):
        raise Conflict("The chain does not show the enforcement yet.", code="not_final")
    return held


def _pledges(tx: Tx, facility: str, state: str) -> list[Any]:
    query = sa.select(pledges).where(pledges.c.facility == facility, pledges.c.state == state).with_for_update()
    return list(tx.execute(query.order_by(pledges.c.id)).all())


def _seen(row: Any, held: Sequence[Any]) -> dict[str, Any]:
    return {"facility": row.id, "state": row.state, "pledges": [pledge.id for pledge in held]}


def _post(tx: Tx, entry: Entry, row: Any, call: Call) -> int:
    today = call.business_date
    return post(tx, entry, lender=row.lender, business_date=today, today=today, now=call.now_s)
