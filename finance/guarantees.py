"""Cover beside the goods, by two persons: the actual controller's guarantee (N-8), mortgages on property (N-7)."""

from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, unb64u
from core.errors import Conflict, Rejected
from core.money import Money, parse_money
from finance.applications import application_row
from finance.casetables import guarantees, mortgages
from finance.commandlog import business_date, command, insert_ignore
from finance.cover import cover_of
from finance.daycount import parse_date
from finance.foureyes import approved, propose
from finance.inputs import borrower_file, exposure
from finance.lending import bank_facility, facility_row
from finance.model import BANK, Actor, Call, Context
from finance.ratios import ltv_passes
from finance.states import step
from finance.tables import facilities
from ledger.database import Tx

_EVENTS: Final = {"ACTIVE": "activate", "REJECTED": "reject", "RELEASED": "release"}


def request_guarantee(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, guarantor: str, amount: str, document_hash: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """A person of the bank enters the signed guarantee of the borrower's actual controller; another activates it.

    Args:
        document_hash: base64url of the signed document's SHA-256.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``bad_amount``, or what is no hash.
        Conflict: ``not_the_controller``, ``guarantee_exists``.
    """
    actor.need(*BANK)
    money, digest = parse_money(amount, pointer="amount"), unb64u(document_hash, length=32)

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        if guarantor != borrower_file(tx, row.lender, row.borrower).controller:
            raise Conflict("Only the borrower's actual controller guarantees.", code="not_the_controller")
        values = {
            "id": f"{facility}-G{_count(tx, guarantees, guarantees.c.facility == facility) + 1}", "facility": facility,
            "lender": row.lender, "guarantor": guarantor, "amount": money.minor, "document_hash": digest,
            "state": "REQUESTED",
        }  # fmt: skip
        if not insert_ignore(tx, guarantees, values):
            raise Conflict("A guarantee of this facility exists.", code="guarantee_exists")
        return {"guarantee": values["id"], "state": "REQUESTED"}

    body = {"facility": facility, "guarantor": guarantor, "amount": amount, "document_hash": document_hash}
    return command(tx, ctx, name="request_guarantee", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def propose_guarantee(
    tx: Tx, ctx: Context, actor: Actor, *, guarantee: str, state: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Propose to activate, reject or release a guarantee.

    Args:
        state: ``ACTIVE``, ``REJECTED`` or ``RELEASED``.

    Raises:
        Rejected: ``not_allowed``, ``no_such_guarantee``, ``unknown_state``.
        Conflict: ``not_the_controller``, ``guarantee_needed``, ``illegal_transition``.
    """
    actor.need(*BANK)
    row = _guarantee(tx, ctx, actor, guarantee, state, now)
    return propose(tx, ctx, actor, action="guarantee", subject=guarantee, seen=_guarantee_seen(row, state), key=key,
                   reason=reason, now=now)  # fmt: skip


def settle_guarantee(
    tx: Tx, ctx: Context, actor: Actor, *, guarantee: str, state: str, request: str, proposal: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """Another person approves what was proposed on a guarantee.

    Raises:
        Rejected: ``not_allowed``, ``no_such_guarantee``, ``no_such_proposal``, ``unknown_state``.
        Conflict: as ``approved``, ``not_the_controller``, ``guarantee_needed``, ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = _guarantee(tx, ctx, actor, guarantee, state, now)
        seen = _guarantee_seen(row, state)
        approved(tx, ctx, call, action="guarantee", subject=guarantee, seen=seen, request=request, proposal=proposal)
        tx.execute(guarantees.update().where(guarantees.c.id == guarantee).values(state=state))
        return {"guarantee": guarantee, "state": state}

    body = {"guarantee": guarantee, "state": state, "request": request, "proposal": proposal}
    return command(tx, ctx, name="settle_guarantee", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def request_mortgage(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, title: str, value: str, appraised: str, appraiser: str,
    document_hash: str, key: str, reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """A person of the bank enters a mortgage on property as cover beside the goods, valued by an appraisal.

    Args:
        title: the property's number in the land register; it is mortgaged here once.
        appraised: the date of the appraisal, YYYY-MM-DD.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``, ``bad_amount``, ``bad_date``, ``future_date``,
            ``missing_field``.
        Conflict: ``mortgage_exists``.
    """
    actor.need(*BANK)
    money, digest = parse_money(value, pointer="value"), unb64u(document_hash, length=32)
    day = parse_date(appraised, pointer="appraised")
    if not title.strip() or not appraiser.strip():
        raise Rejected("A mortgage has a title number and an appraiser.", code="missing_field", pointer="title")
    if day > business_date(tx, now):
        raise Rejected("The appraisal is of a later day.", code="future_date", pointer="appraised")

    def act(call: Call) -> dict[str, Any]:
        row = _own_application(tx, actor, application)
        values = {
            "id": f"{application}-P{_count(tx, mortgages, mortgages.c.application == application) + 1}",
            "application": application, "lender": row.lender, "title": title.strip(), "value": money.minor,
            "appraised": day, "appraiser": appraiser.strip(), "document_hash": digest, "state": "REQUESTED",
        }  # fmt: skip
        if not insert_ignore(tx, mortgages, values):
            raise Conflict("This property is mortgaged already.", code="mortgage_exists")
        return {"mortgage": values["id"], "state": "REQUESTED"}

    body = {
        "application": application, "title": title, "value": value, "appraised": appraised, "appraiser": appraiser,
        "document_hash": document_hash,
    }  # fmt: skip
    return command(tx, ctx, name="request_mortgage", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def propose_mortgage(
    tx: Tx, ctx: Context, actor: Actor, *, mortgage: str, state: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Propose to activate, reject or release a mortgage.

    Raises:
        Rejected: ``not_allowed``, ``no_such_mortgage``, ``unknown_state``.
        Conflict: ``exposure_uncovered``, ``illegal_transition``.
    """
    actor.need(*BANK)
    row = _mortgage(tx, actor, mortgage, state)
    return propose(tx, ctx, actor, action="mortgage", subject=mortgage, seen=_mortgage_seen(row, state), key=key,
                   reason=reason, now=now)  # fmt: skip


def settle_mortgage(
    tx: Tx, ctx: Context, actor: Actor, *, mortgage: str, state: str, request: str, proposal: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """Another person approves what was proposed on a mortgage; it counts as cover, or no more, from now on.

    Raises:
        Rejected: ``not_allowed``, ``no_such_mortgage``, ``no_such_proposal``, ``unknown_state``.
        Conflict: as ``approved``, ``exposure_uncovered``, ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = _mortgage(tx, actor, mortgage, state)
        seen = _mortgage_seen(row, state)
        approved(tx, ctx, call, action="mortgage", subject=mortgage, seen=seen, request=request, proposal=proposal)
        tx.execute(mortgages.update().where(mortgages.c.id == mortgage).values(state=state))
        return {"mortgage": mortgage, "state": state}

    body = {"mortgage": mortgage, "state": state, "request": request, "proposal": proposal}
    return command(tx, ctx, name="settle_mortgage", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _guarantee(tx: Tx, ctx: Context, actor: Actor, ident: str, state: str, now: int) -> Any:
    row = _locked(tx, guarantees, ident, actor, "guarantee")
    step("guarantee", row.state, _event(state))
    facility = facility_row(tx, row.facility)
    if state == "ACTIVE" and row.guarantor != borrower_file(tx, row.lender, facility.borrower).controller:
        raise Conflict("Only the borrower's actual controller guarantees.", code="not_the_controller")
    if state == "RELEASED":
        _check_without(tx, ctx, actor, facility, now)
    return row


def _check_without(tx: Tx, ctx: Context, actor: Actor, facility: Any, now: int) -> None:
    owed = exposure(tx, facility.lender, facility.borrower)
    if owed.minor == 0:
        return
    call = Call(actor, "guarantee", "guarantee", now, business_date(tx, now))
    gross = cover_of(tx, ctx, facility, call=call, purpose=None).gross
    if not ltv_passes(owed, gross, ctx.policy.number("monitoring", "ltv_gate")):
        raise Conflict("Above 75 % the controller's guarantee is needed.", code="guarantee_needed")


def _mortgage(tx: Tx, actor: Actor, ident: str, state: str) -> Any:
    row = _locked(tx, mortgages, ident, actor, "mortgage")
    step("mortgage", row.state, _event(state))
    if state == "RELEASED":
        used = tx.execute(sa.select(facilities).where(facilities.c.id == row.application)).one_or_none()
        # Property is given back when nothing is owed any more: there is no half of a house.
        if used is not None and exposure(tx, used.lender, used.borrower).minor:
            raise Conflict("Money is still owed on this property.", code="exposure_uncovered")
    return row


def _event(state: str) -> str:
    if state not in _EVENTS:
        raise Rejected(f"The states are {', '.join(_EVENTS)}.", code="unknown_state", pointer="state")
    return _EVENTS[state]


def _locked(tx: Tx, table: sa.Table, ident: str, actor: Actor, what: str) -> Any:
    row = tx.execute(sa.select(table).where(table.c.id == ident).with_for_update()).one_or_none()
    if row is None or row.lender != actor.org:
        raise Rejected(f"There is no such {what}.", code=f"no_such_{what}", pointer=what)
    return row


def _guarantee_seen(row: Any, state: str) -> dict[str, Any]:
    return {
        "guarantor": row.guarantor, "amount": Money(row.amount).text(), "document": b64u(bytes(row.document_hash)),
        "from": row.state, "to": state,
    }  # fmt: skip


def _mortgage_seen(row: Any, state: str) -> dict[str, Any]:
    return {
        "title": row.title, "value": Money(row.value).text(), "appraised": row.appraised.isoformat(),
        "appraiser": row.appraiser, "document": b64u(bytes(row.document_hash)), "from": row.state, "to": state,
    }  # fmt: skip


def _count(tx: Tx, table: sa.Table, own: sa.ColumnElement[bool]) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(table).where(own)).scalar_one())


def _own_application(tx: Tx, actor: Actor, application: str) -> Any:
    row = application_row(tx, application, for_update=True)
    if row.lender != actor.org:
        raise Rejected("There is no such application.", code="no_such_application", pointer="application")
    return row
