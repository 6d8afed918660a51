"""More goods for a running facility, and goods for other goods: the new pledge is active before the old one goes."""

from typing import Any

from core.errors import Conflict, Rejected
from finance.applications import application_row, receipt_for, reserve
from finance.commandlog import business_date, command
from finance.cover import Cover, check_release, cover_of
from finance.foureyes import approved, propose
from finance.lending import bank_facility, facility_row
from finance.model import BANK, Actor, Call, Context
from finance.pledges import pledge_row, send_release
from finance.provenance import Grounds
from finance.states import step
from ledger.database import Tx

_OPEN = ("ACTIVE", "WATCH", "FROZEN")


def add_pledge(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, goods_item: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """The borrower offers more goods on the terms of a running facility; both sign and the bank sends, as ever.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``no_receipt``. AlreadyPledged: they secure a loan.
        Conflict: ``facility_not_active``, ``receipt_not_sealed``, ``receipt_expired``.
    """
    actor.need("borrower")

    def act(call: Call) -> dict[str, Any]:
        row = facility_row(tx, facility)
        if row.borrower != actor.org:
            raise Rejected("There is no such facility.", code="no_such_facility", pointer="facility")
        if row.state not in _OPEN:
            raise Conflict(f"The facility is {row.state}.", code="facility_not_active")
        receipt = receipt_for(tx, ctx, actor.org, goods_item, now)
        terms_hash = bytes(application_row(tx, row.application).terms_hash)
        pledge = reserve(tx, ctx, facility=facility, lender=row.lender, receipt=receipt, terms_hash=terms_hash, now=now)
        return {"facility": facility, "pledge": pledge}

    body = {"facility": facility, "goods_item": goods_item}
    return command(tx, ctx, name="add_pledge", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def propose_substitution(
    tx: Tx, ctx: Context, actor: Actor, *, pledge: str, instead: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank proposes to release ``pledge`` because ``instead`` is active in its place.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``.
        Conflict: ``other_facility``, ``substitute_not_active``, ``substitute_below``, ``substitute_doubtful``, and as
            ``check_release``.
    """
    actor.need(*BANK)
    call = Call(actor, key, reason, now, business_date(tx, now))
    seen = _checked(tx, ctx, actor, pledge, instead, call)
    return propose(tx, ctx, actor, action="substitution", subject=pledge, seen=seen, key=key, reason=reason, now=now)


def substitute(
    tx: Tx, ctx: Context, actor: Actor, *, pledge: str, instead: str, request: str, proposal: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """Another person approves: the conditions are met anew, and the old pledge is released in the same step.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``, ``no_such_proposal``.
        Conflict: as ``approved`` and ``propose_substitution``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        seen = _checked(tx, ctx, actor, pledge, instead, call)
        approved(tx, ctx, call, action="substitution", subject=pledge, seen=seen, request=request, proposal=proposal)
        return send_release(tx, ctx, pledge_row(tx, pledge, for_update=True), key=key, now=now) | {"instead": instead}

    body = {"pledge": pledge, "instead": instead, "request": request, "proposal": proposal}
    return command(tx, ctx, name="substitute", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _checked(tx: Tx, ctx: Context, actor: Actor, pledge: str, instead: str, call: Call) -> dict[str, Any]:
    facility = bank_facility(tx, actor, pledge_row(tx, pledge).facility)
    out, new = pledge_row(tx, pledge, for_update=True), pledge_row(tx, instead, for_update=True)
    step("pledge", out.state, "release_approved")
    if new.facility != out.facility or new.id == out.id:
        raise Conflict("Both pledges secure the same facility.", code="other_facility", pointer="instead")
    if new.state != "ACTIVE" or ctx.registry.pledge_of(bytes(new.receipt)).state != "active":
        raise Conflict("The new pledge is active first.", code="substitute_not_active", pointer="instead")
    going = cover_of(tx, ctx, facility, call=call, purpose=None, only=[out.id])
    coming = cover_of(tx, ctx, facility, call=call, purpose=None, only=[new.id])
    _check_worth(ctx, going, coming)
    check_release(tx, ctx, facility, without=[out.id], call=call)
    # Values move from day to day; what an approver rests on is which goods go for which.
    return {"out": out.id, "in": new.id, "terms": facility.id}


def _check_worth(ctx: Context, going: Cover, coming: Cover) -> None:
    if coming.net < going.net:
        raise Conflict("The new goods are worth less than those that go.", code="substitute_below", pointer="instead")
    trust = Grounds.load(coming.stored["inputs"]["grounds"]).confidence(ctx.policy)
    if not trust.is_eligible or not trust.reaches(ctx.policy.number("monitoring", "substitution_confidence")):
        raise Conflict("The new goods' history is not trusted enough.", code="substitute_doubtful", pointer="instead")
