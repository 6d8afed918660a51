"""What the bank's books and the chain ask of people: periods to close by two persons, and what the chain refused."""

from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.auth.users import person_name
from api.consoles.case_rows import proposals_of
from api.consoles.commands import Command, fields, fresh_key, run
from api.consoles.common import done, plain, show
from api.forms import read_input
from api.identity import Role
from api.items import json_response
from api.policy import BANK_CHECKER, BANK_STAFF, CUSTODIAN, Routes, identity
from api.services import Services
from finance import chaincases, enforcement, periods
from finance.journal import closed_until


class PeriodIn(Command):
    """The last day of the period."""

    until: str


class CloseIn(PeriodIn):
    """The proposal to close a period that is approved."""

    request: str
    proposal: str


def install(routes: Routes) -> None:
    """Add the routes."""
    tags = ["bank"]
    routes.get("/bank/books", books_page, BANK_STAFF, tags=tags)
    routes.post("/bank/periods/proposals", propose, BANK_STAFF, body=PeriodIn, tags=tags)
    routes.post("/bank/periods/close", close, BANK_CHECKER, body=CloseIn, tags=tags)
    routes.post("/bank/pledges/{id}/retry", retry_pledge, BANK_CHECKER, body=Command, tags=tags)
    routes.post("/bank/facilities/{id}/cure", cure, BANK_CHECKER, body=Command, tags=tags)
    routes.get("/factory/chain-cases", custodian_cases, CUSTODIAN, tags=["factory"])
    routes.post("/factory/receipts/{id}/retry", retry_receipt, CUSTODIAN, body=Command, tags=["factory"])


def books_page(request: Request) -> Response:
    """How far the books are closed, what waits for a second person, and the cases that the chain made."""
    services: Services = request.app.state.services
    who = identity(request)
    with services.db.reading() as tx:
        until = closed_until(tx, who.org)
        proposals = [
            {"until": one["seen"]["until"], **one}
            for one in proposals_of(tx, who.org, ("propose_close_period",)).values()
            if until is None or one["seen"]["until"] > until.isoformat()
        ]
        people = {one["maker"]: person_name(tx, int(one["maker"])) for one in proposals if one["maker"].isdigit()}
        cases = chaincases.chain_cases(tx, who.org)
    values: dict[str, Any] = {
        "closed_until": None if until is None else until.isoformat(), "proposals": proposals, "cases": cases,
        "people": people, "key": fresh_key(services), "may_check": Role.BANK_CHECKER in who.roles,
    }  # fmt: skip
    return show(request, "bank_books.html", values)


async def propose(request: Request) -> Response:
    """Propose to close the books up to a day."""
    given = await read_input(request, PeriodIn)
    command = periods.propose_close_period
    result = await run_in_threadpool(run, request, given, "propose_close_period", command, **fields(given))
    return done(request, "/bank/books", result)


async def close(request: Request) -> Response:
    """Close the books over the figures that another person proposed."""
    given = await read_input(request, CloseIn)
    result = await run_in_threadpool(run, request, given, "close_period", periods.close_period, **fields(given))
    return done(request, "/bank/books", result)


async def retry_pledge(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
    """Send again what the chain refused of a pledge."""
    given = await read_input(request, Command)
    result = await run_in_threadpool(run, request, given, "retry_pledge", chaincases.retry_pledge, pledge=id)
    return done(request, "/bank/books", result)


async def cure(request: Request, id: str) -> Response:  # noqa: A002
    """Stop enforcement of a facility that owes nothing, or whose loss is written off."""
    given = await read_input(request, Command)
    command = enforcement.cure_enforcement
    result = await run_in_threadpool(run, request, given, "cure_enforcement", command, facility=id)
    return done(request, "/bank/facilities", result)


def custodian_cases(request: Request) -> Response:
    """What the chain refused of the custodian's receipts (JSON)."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = chaincases.chain_cases(tx, identity(request).org)
    return json_response({"cases": plain([case for case in found if case.kind == "receipt"])})


async def retry_receipt(request: Request, id: str) -> Response:  # noqa: A002
    """Send again what the chain refused of a receipt."""
    given = await read_input(request, Command)
    result = await run_in_threadpool(run, request, given, "retry_receipt", chaincases.retry_receipt, receipt=id)
    return done(request, "/factory", result)
