"""camt.054: what arrived on the bank's accounts becomes repayments; what cannot be booked waits for a person.

A notification is known by the account servicer's reference. The same one again changes nothing; the same reference
with another amount, an unknown loan, another currency or a reversal is put aside with its reason, never guessed at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, sha256
from core.errors import Conflict, Rejected, TracebondError, Unavailable
from core.money import CNY, Money
from finance.casetables import payment_exceptions
from finance.commandlog import HasPolicy, command, insert_ignore
from finance.iso20022.forms import NOTIFICATION, read
from finance.lending import repay
from finance.model import BANK, Actor, Call
from finance.tables import facilities, loans, payments
from ledger.database import Tx

CREDITS_MAX: Final = 2_000
"""Credits in one message; ours, so that one message is one database transaction of seconds."""
REASONS: Final = ("amount_differs", "loan_differs", "unknown_loan", "other_currency", "not_in_fen", "reversal",
                  "no_reference", "sum_differs")  # fmt: skip
"""Why a credit waits; a loan's own refusal stands under its code."""


@dataclass(frozen=True)
class Credit:
    """One credit of a notification.

    Attributes:
        reference: the account servicer's; "" when there is none.
        loan: what the payer says is paid, from structured, else unstructured remittance information.
        minor: the amount in fen, rounded down where it is no whole fen.
        fault: why it cannot be booked whatever it pays; "" for a plain credit.
    """

    reference: str
    loan: str
    minor: int
    currency: str
    fault: str = ""


def read_credits(data: bytes) -> tuple[list[Credit], int]:
    """The booked credits of a camt.054.001.08, and how many entries were passed over (debits, not booked yet).

    Raises:
        Rejected: as ``forms.read``, or ``too_many_credits``.
    """
    document = read(data, NOTIFICATION)
    found: list[Credit] = []
    passed = 0
    for notification in document.bk_to_cstmr_dbt_cdt_ntfctn.ntfctn:
        for entry in notification.ntry:
            if entry.cdt_dbt_ind.value != "CRDT" or entry.sts.cd != "BOOK":
                passed += 1
                continue
            found += _credits(entry)
            if len(found) > CREDITS_MAX:
                raise Rejected(f"A message has at most {CREDITS_MAX} credits.", code="too_many_credits")
    return found, passed


def import_notifications(
    tx: Tx, ctx: HasPolicy, actor: Actor, *, data: bytes, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Book a notification's credits as repayments; what cannot be booked becomes an exception.

    Raises:
        Rejected: ``not_allowed``, or as ``read_credits``. Unavailable: a part is away; nothing was booked.
    """
    actor.need(*BANK)
    found, passed = read_credits(data)
    digest = sha256(data)

    def act(call: Call) -> dict[str, Any]:
        counts = {"booked": 0, "duplicates": 0, "exceptions": 0}
        waiting: list[str] = []
        for credit in found:
            outcome, ident = _take(tx, ctx, actor, credit, digest, call)
            counts[outcome] += 1
            waiting += [ident] if outcome == "exceptions" else []
        return {"message": b64u(digest), "passed_over": passed, **counts, "waiting": waiting}

    body = {"message": b64u(digest)}
    return command(
        tx, ctx, name="import_notifications", actor=actor, key=key, reason=reason, now=now, body=body, act=act
    )


def resolve_exception(
    tx: Tx,
    ctx: HasPolicy,
    actor: Actor,
    *,
    exception: str,
    action: str,
    loan: str = "",
    key: str,
    reason: str,
    now: int,
) -> dict[str, Any]:
    """A person decides on a credit that waits: book it on a loan, or dismiss it with a reason.

    Args:
        action: ``book`` or ``dismiss``.
        loan: on which loan it is booked; "" takes the one that the notification names.

    Raises:
        Rejected: ``not_allowed``, ``no_such_exception``, ``unknown_action``, or as ``repay``.
        Conflict: ``resolved_already``, ``cannot_book``.
    """
    actor.need("bank_checker")
    if action not in ("book", "dismiss"):
        raise Rejected("An exception is booked or dismissed.", code="unknown_action", pointer="action")

    def act(call: Call) -> dict[str, Any]:
        own = (payment_exceptions.c.id == exception) & (payment_exceptions.c.lender == actor.org)
        row = tx.execute(sa.select(payment_exceptions).where(own).with_for_update()).one_or_none()
        if row is None:
            raise Rejected("There is no such exception.", code="no_such_exception", pointer="exception")
        if row.state != "OPEN":
            raise Conflict("Somebody has resolved this already.", code="resolved_already")
        booked: Mapping[str, Any] = {}
        if action == "book":
            booked = _book(tx, ctx, actor, row, loan or row.loan, call)
        state = "BOOKED" if action == "book" else "DISMISSED"
        tx.execute(
            payment_exceptions.update().where(own).values(
                state=state, person=actor.person, note=call.reason, resolved_s=call.now_s
            )
        )  # fmt: skip
        return {"exception": exception, "state": state, "repayment": dict(booked)}

    body = {"exception": exception, "action": action, "loan": loan}
    return command(tx, ctx, name="resolve_exception", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def exceptions_of(tx: Tx, lender: str, *, limit: int = 500) -> list[Any]:
    """The credits of a bank that wait or waited, open ones first, then the newest."""
    table = payment_exceptions.c
    query = sa.select(payment_exceptions).where(table.lender == lender)
    return list(tx.execute(query.order_by(table.state != "OPEN", table.received_s.desc(), table.id).limit(limit)))


def _credits(entry: Any) -> list[Credit]:
    details = [one for part in entry.ntry_dtls for one in part.tx_dtls]
    own = entry.acct_svcr_ref or entry.ntry_ref or ""
    is_reversal = bool(entry.rvsl_ind)
    if not details:
        return [_credit(own, "", entry.amt, is_reversal)]
    found = []
    for number, one in enumerate(details):
        refs = one.refs
        reference = "" if refs is None else refs.acct_svcr_ref or refs.tx_id or ""
        if not reference and own:
            reference = own if len(details) == 1 else f"{own}/{number + 1}"
        money = one.amt if one.amt is not None or len(details) > 1 else entry.amt
        if money is None:
            # Which part of the entry this one is, the message does not say.
            found.append(_credit(reference, _loan_of(one), entry.amt, is_reversal, "sum_differs"))
        else:
            found.append(_credit(reference, _loan_of(one), money, is_reversal))
    told = [one.amt for one in details if one.amt is not None]
    is_same = all(one.ccy == entry.amt.ccy for one in told)
    if len(told) == len(details) and is_same and sum(one.value for one in told) != entry.amt.value:
        return [Credit(one.reference, one.loan, one.minor, one.currency, "sum_differs") for one in found]
    return found


def _credit(reference: str, loan: str, money: Any, is_reversal: bool, fault: str = "") -> Credit:
    # Decimal text of at most 18 digits: exact, no binary fraction is ever made of it.
    minor, rest = divmod(money.value * 100, 1)
    if is_reversal:
        fault = "reversal"
    elif not reference:
        fault = "no_reference"
    elif rest:
        fault = fault or "not_in_fen"
    elif money.ccy != CNY:
        fault = fault or "other_currency"
    return Credit(reference, loan, int(minor), str(money.ccy), fault)


def _loan_of(detail: Any) -> str:
    about = detail.rmt_inf
    if about is None:
        return ""
    told = [one.cdtr_ref_inf.ref for one in about.strd if one.cdtr_ref_inf is not None and one.cdtr_ref_inf.ref]
    told += [text.strip() for text in about.ustrd if text.strip()]
    return str(told[0]) if told else ""


def _take(tx: Tx, ctx: HasPolicy, actor: Actor, credit: Credit, digest: bytes, call: Call) -> tuple[str, str]:
    if _is_waiting(tx, actor.org, credit):
        return "duplicates", ""
    fault = credit.fault or _difference(tx, actor.org, credit)
    if fault == "duplicate":
        return "duplicates", ""
    if not fault:
        fault = _repaid(tx, ctx, actor, credit, call)
    if not fault:
        return "booked", ""
    ident = b64u(sha256(f"{actor.org}|{credit}|{fault}|{b64u(digest)}".encode()))[:22]
    row = {
        "id": ident, "lender": actor.org, "reference": credit.reference, "loan": credit.loan, "amount": credit.minor,
        "currency": credit.currency, "reason": fault, "message_hash": digest, "received_s": call.now_s,
        "state": "OPEN",
    }  # fmt: skip
    return ("exceptions", ident) if insert_ignore(tx, payment_exceptions, row) else ("duplicates", "")


def _is_waiting(tx: Tx, lender: str, credit: Credit) -> bool:
    """Whether exactly this credit was put aside before, whatever was decided on it since."""
    table = payment_exceptions.c
    same = (table.lender == lender) & (table.reference == credit.reference) & (table.loan == credit.loan)
    same &= (table.amount == credit.minor) & (table.currency == credit.currency)
    # A reversal has its credit's reference and amount, and is another thing.
    same &= table.reason == "reversal" if credit.fault == "reversal" else table.reason != "reversal"
    return bool(credit.reference) and tx.execute(sa.select(table.id).where(same)).first() is not None


def _difference(tx: Tx, lender: str, credit: Credit) -> str:
    """How a credit differs from what is known of its reference and loan; "" when it can be booked."""
    own = (payments.c.lender == lender) & (payments.c.reference == credit.reference)
    booked = tx.execute(sa.select(payments.c.loan, payments.c.amount).where(own)).one_or_none()
    if booked is not None:
        if booked.amount != credit.minor:
            return "amount_differs"
        return "duplicate" if booked.loan == credit.loan else "loan_differs"
    table = payment_exceptions.c
    earlier = (table.lender == lender) & (table.reference == credit.reference) & (table.reason != "reversal")
    if tx.execute(sa.select(table.id).where(earlier)).first() is not None:
        return "amount_differs"
    query = sa.select(loans.c.id).join(facilities, facilities.c.id == loans.c.facility)
    known = tx.execute(query.where(loans.c.id == credit.loan, facilities.c.lender == lender)).first()
    return "" if known is not None else "unknown_loan"


def _repaid(tx: Tx, ctx: HasPolicy, actor: Actor, credit: Credit, call: Call) -> str:
    """Book a credit; the code under which the loan refuses it, with nothing left of the try."""
    key = f"camt.054/{b64u(sha256(credit.reference.encode()))}"
    try:
        with tx.begin_nested():
            repay(tx, ctx, actor, loan=credit.loan, amount=Money(credit.minor).text(), reference=credit.reference,
                  key=key, reason=call.reason, now=call.now_s)  # fmt: skip
    except (Unavailable, sa.exc.SQLAlchemyError):
        raise
    except TracebondError as error:
        return error.code
    return ""


def _book(tx: Tx, ctx: HasPolicy, actor: Actor, row: Any, loan: str, call: Call) -> Mapping[str, Any]:
    if row.currency != CNY or row.reason in ("reversal", "not_in_fen"):
        raise Conflict("Only a credit in whole fen of yuan is booked as a repayment.", code="cannot_book")
    own = (payments.c.lender == row.lender) & (payments.c.reference == row.reference)
    is_taken = not row.reference or tx.execute(sa.select(payments.c.loan).where(own)).first() is not None
    # One reference is booked once: what a person books beside it names the exception as well.
    reference = f"{row.reference}/{row.id}" if is_taken else row.reference
    return repay(tx, ctx, actor, loan=loan, amount=Money(row.amount).text(), reference=reference,
                 key=f"exception/{row.id}", reason=call.reason, now=call.now_s)  # fmt: skip
