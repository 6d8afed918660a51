"""Goods-side organisations: devices and what of theirs was not taken; receipts, credit and its commands by role."""

from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.consoles import desk, figures
from api.consoles.commands import Command, Flag, Whole, fields, fresh_key, run
from api.consoles.common import done, show
from api.forms import read_input
from api.identity import Role
from api.language import language_of
from api.policy import BORROWER, CUSTODIAN, FACTORY, GOODS_STAFF, PLEDGE_SIGNERS, Routes, identity
from api.services import Services
from core.identifiers import gln_of
from finance import applications, lending, pledges, receipts
from ingest import quarantine


class LotIn(Command):
    """How many units of a lot were made."""

    lot: str
    quantity: Whole


class ReceiptIn(Command):
    """A warehouse receipt over a thing and everything packed in it."""

    item: str
    owner: str
    place: str
    days: Whole = 180


class EndReceiptIn(Command):
    """Delivery or cancellation of a receipt."""

    deliver: Flag


class ApplicationIn(Command):
    """An application for credit on goods under a receipt."""

    lender: str
    goods_item: str
    amount: str
    tenor_days: Whole
    repayment: str = "bullet"
    purpose: str


class AcceptIn(Command):
    """The offer that the borrower saw."""

    terms_hash: str


class DrawIn(Command):
    """An amount to draw, in yuan with two decimals."""

    amount: str


class RepaymentIn(Command):
    """A payment with its own reference."""

    amount: str
    reference: str


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/factory", home, GOODS_STAFF, tags=["goods side"])
    routes.post("/factory/lots", set_capacity, FACTORY, body=LotIn, tags=["goods side"])
    routes.post("/factory/receipts", register_receipt, CUSTODIAN, body=ReceiptIn, tags=["goods side"])
    routes.post("/factory/receipts/{id}/end", end_receipt, CUSTODIAN, body=EndReceiptIn, tags=["goods side"])
    routes.post("/factory/applications", apply, BORROWER, body=ApplicationIn, tags=["goods side"])
    routes.post("/factory/applications/{id}/accept", accept, BORROWER, body=AcceptIn, tags=["goods side"])
    routes.post("/factory/pledges/{id}/sign", sign, PLEDGE_SIGNERS, body=Command, tags=["goods side"])
    routes.post("/factory/facilities/{id}/draws", draw, BORROWER, body=DrawIn, tags=["goods side"])
    routes.post("/factory/loans/{id}/repayments", repay, BORROWER, body=RepaymentIn, tags=["goods side"])


def home(request: Request) -> Response:
    """Devices with last seen, quarantine with reasons, and, by role, receipts, applications and loans."""
    services: Services = request.app.state.services
    who, lang = identity(request), language_of(request)
    values: dict[str, Any] = {"org": who.org, "key": fresh_key(services), "now_ms": services.now_ms()}
    with services.db.reading() as tx:
        values["devices"] = figures.devices(tx, who.org)
        values["held"] = quarantine.search(tx, gln=gln_of(who.org), limit=50)
        sees_receipts = who.has(Role.CUSTODIAN, Role.BORROWER)
        values["receipts"] = desk.own_receipts(tx, who.org) if sees_receipts else []
        values["applications"] = desk.own_applications(tx, who.org, lang) if who.has(Role.BORROWER) else []
        values["consents"] = desk.own_consents(tx, who.org, lang) if who.has(Role.BORROWER) else []
        values["loans"] = desk.loan_rows(tx, who.org, lang) if who.has(Role.BORROWER) else []
    values |= {"is_custodian": who.has(Role.CUSTODIAN), "is_borrower": who.has(Role.BORROWER)}
    return show(request, "factory.html", values)


async def set_capacity(request: Request) -> Response:
    """The maker registers a lot's quantity, once."""
    given = await read_input(request, LotIn)
    return await _run(request, given, "set_lot_capacity", receipts.set_lot_capacity)


async def register_receipt(request: Request) -> Response:
    """The custodian issues a warehouse receipt."""
    given = await read_input(request, ReceiptIn)
    return await _run(request, given, "register_receipt", receipts.register_receipt)


async def end_receipt(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
    """The custodian delivers the goods or cancels the receipt."""
    given = await read_input(request, EndReceiptIn)
    return await _run(request, given, "end_receipt", receipts.end_receipt, receipt=id)


async def apply(request: Request) -> Response:
    """The owner of goods applies for credit."""
    given = await read_input(request, ApplicationIn)
    return await _run(request, given, "submit_application", applications.submit_application)


async def accept(request: Request, id: str) -> Response:  # noqa: A002
    """The borrower accepts exactly the offer it saw."""
    given = await read_input(request, AcceptIn)
    return await _run(request, given, "accept_offer", applications.accept_offer, application=id)


async def sign(request: Request, id: str) -> Response:  # noqa: A002
    """Owner or custodian signs a pledge."""
    given = await read_input(request, Command)
    return await _run(request, given, "sign_pledge", pledges.sign_pledge, pledge=id)


async def draw(request: Request, id: str) -> Response:  # noqa: A002
    """Draw money on a facility."""
    given = await read_input(request, DrawIn)
    return await _run(request, given, "draw", lending.draw, facility=id)


async def repay(request: Request, id: str) -> Response:  # noqa: A002
    """Pay on a loan."""
    given = await read_input(request, RepaymentIn)
    return await _run(request, given, "repay", lending.repay, loan=id)


async def _run(request: Request, given: Command, name: str, command: Any, **values: Any) -> Response:
    result = await run_in_threadpool(run, request, given, name, command, **values, **fields(given))
    return done(request, "/factory", result)
