"""The credit desk: queue, application, decision, pledges, loans, always of the user's own bank."""

from typing import Any, Literal

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api import pages
from api.auth.users import person_name
from api.consoles import desk
from api.consoles.commands import Command, Flag, context_of, fields, fresh_key, run
from api.consoles.common import done, show
from api.errors import NotFound, wants_html
from api.forms import read_input
from api.language import language_of
from api.policy import BANK_CHECKER, BANK_STAFF, Routes, identity
from api.services import Services
from core.errors import Conflict, Rejected
from core.identifiers import parse
from finance import applications, lending, pledges


class StaleView(Conflict):
    """Things have changed since the screen you saw; read again, then decide."""

    code = "stale_view"


class DecisionIn(Command):
    """A decision over exactly what was seen: ``seen`` and ``terms_hash`` of the application's page."""

    decision: Literal["approve", "reject"]
    reason_code: str
    seen: str
    terms_hash: str


class BorrowerIn(Command):
    """What the bank keeps of a borrower; features with value, source and date."""

    borrower: str
    controller: str
    has_account: Flag
    features: dict[str, Any]
    legal_name: str = ""
    controller_features: dict[str, Any] | None = None


class QuoteIn(Command):
    """A market price and cost in yuan a unit."""

    product: str
    category: str
    unit: str
    price: str
    cost: str
    source: str
    median: str | None = None


class ReleaseIn(Command):
    """The release that a checker saw."""

    request: str
    maker: str
    release_hash: str


class RepaymentIn(Command):
    """A payment with the bank's own reference."""

    amount: str
    reference: str


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/bank", queue, BANK_STAFF, tags=["bank"])
    routes.get("/bank/applications/{id}", application, BANK_STAFF, tags=["bank"])
    routes.post("/bank/applications/{id}/decision", decide, BANK_STAFF, body=DecisionIn, tags=["bank"])
    routes.get("/bank/loans", loans, BANK_STAFF, tags=["bank"])
    routes.get("/bank/loans/{id}", loan, BANK_STAFF, tags=["bank"])
    routes.post("/bank/loans/{id}/repayments", repay, BANK_STAFF, body=RepaymentIn, tags=["bank"])
    routes.get("/bank/register", register, BANK_STAFF, tags=["bank"])
    routes.post("/bank/borrowers", record_borrower, BANK_STAFF, body=BorrowerIn, tags=["bank"])
    routes.post("/bank/quotes", record_quote, BANK_STAFF, body=QuoteIn, tags=["bank"])
    routes.post("/bank/pledges/{id}/send", send_pledge, BANK_STAFF, body=Command, tags=["bank"])
    routes.post("/bank/pledges/{id}/void", void_pledge, BANK_STAFF, body=Command, tags=["bank"])
    routes.post("/bank/pledges/{id}/release-requests", request_release, BANK_STAFF, body=Command, tags=["bank"])
    routes.post("/bank/pledges/{id}/release", approve_release, BANK_CHECKER, body=ReleaseIn, tags=["bank"])


def queue(request: Request, state: str = "open") -> Response:
    """The bank's applications: age, deadline, goods, evidence, register, price, alerts, reasons, maker."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        rows = desk.queue(tx, identity(request).org, language_of(request), state=state)
        people = _people(tx, {row.maker for row in rows})
        refused = desk.refused(tx, identity(request).org, limit=5)
    values = {"rows": rows, "state": state, "people": people, "refused": refused, "now_ms": services.now_ms()}
    lang = language_of(request)
    words = {"refusal": lambda code, detail: pages.refusal_words(code, detail, lang)} if wants_html(request) else {}
    return show(request, "bank_queue.html", values | words)


def application(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
    """One application: evidence with each step, valuation, approvals, and the forms that act on what is seen."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = desk.application(tx, identity(request).org, id, language_of(request))
        if found is None:
            raise NotFound("There is no such application.")
        persons = {found["row"].maker, *(one["checker"] for one in found["approvals"])}
        people = _people(tx, persons | {one["person"] for one in found["history"]})
    values = {**found, "people": people, "me": str(identity(request).person_id), "key": fresh_key(services)}
    return show(request, "bank_application.html", {**values, "now_ms": services.now_ms()})


async def decide(request: Request, id: str) -> Response:  # noqa: A002
    """Approve or reject exactly what was seen; a screen older than the facts is refused."""
    given = await read_input(request, DecisionIn)
    return await run_in_threadpool(_decide, request, id, given)


def loans(request: Request) -> Response:
    """The bank's loans."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        rows = desk.loan_rows(tx, identity(request).org, language_of(request))
    return show(request, "bank_loans.html", {"rows": rows})


def loan(request: Request, id: str) -> Response:  # noqa: A002
    """One loan with schedule and postings."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = desk.loan(tx, identity(request).org, id, language_of(request))
    if found is None:
        raise NotFound("There is no such loan.")
    return show(
        request,
        "bank_loan.html",
        {"loan": found, "key": fresh_key(services), "may_check": BANK_CHECKER.allows(identity(request))},
    )


def register(request: Request, code: str = "") -> Response:
    """Ask the pledge register about goods in any spelling; whoever else holds a pledge stays unnamed."""
    services: Services = request.app.state.services
    answer, item, problem = None, "", ""
    if code.strip():
        try:
            item = parse(code.strip()).canonical
        except Rejected as error:
            problem = error.message
        else:
            with services.db.reading() as tx:
                answer = desk.register_of(tx, context_of(services), identity(request).org, item)
    return show(request, "bank_register.html", {"code": code, "item": item, "answer": answer, "problem": problem})


async def record_borrower(request: Request) -> Response:
    """Keep what the bank knows of a borrower."""
    given = await read_input(request, BorrowerIn)
    result = await run_in_threadpool(
        run, request, given, "record_borrower", applications.record_borrower, **fields(given)
    )
    return done(request, "/bank", result)


async def record_quote(request: Request) -> Response:
    """Take a price."""
    given = await read_input(request, QuoteIn)
    result = await run_in_threadpool(run, request, given, "record_quote", applications.record_quote, **fields(given))
    return done(request, "/bank", result)


async def send_pledge(request: Request, id: str) -> Response:  # noqa: A002
    """Send a pledge that both sides signed to the chain."""
    return await _pledge(request, "send_pledge", pledges.send_pledge, id)


async def void_pledge(request: Request, id: str) -> Response:  # noqa: A002
    """Give a reserved pledge up."""
    return await _pledge(request, "void_pledge", pledges.void_pledge, id)


async def request_release(request: Request, id: str) -> Response:  # noqa: A002
    """Ask to release a pledge; another person must approve."""
    return await _pledge(request, "request_release", pledges.request_release, id)


async def approve_release(request: Request, id: str) -> Response:  # noqa: A002
    """Approve a release that another person asked for."""
    given = await read_input(request, ReleaseIn)
    run_it = pledges.approve_release
    result = await run_in_threadpool(run, request, given, "approve_release", run_it, pledge=id, **fields(given))
    return done(request, _application_of(id), result)


async def repay(request: Request, id: str) -> Response:  # noqa: A002
    """Book a payment on a loan."""
    given = await read_input(request, RepaymentIn)
    result = await run_in_threadpool(run, request, given, "repay", lending.repay, loan=id, **fields(given))
    return done(request, f"/bank/loans/{id}", result)


async def _pledge(request: Request, name: str, command: Any, ident: str) -> Response:
    given = await read_input(request, Command)
    result = await run_in_threadpool(run, request, given, name, command, pledge=ident)
    return done(request, _application_of(ident), result)


def _decide(request: Request, ident: str, given: DecisionIn) -> Response:
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = desk.application(tx, identity(request).org, ident, language_of(request))
    if found is None:
        raise NotFound("There is no such application.")
    if found["seen"] != given.seen:
        raise StaleView()
    coded = given.model_copy(update={"reason": f"{given.reason_code}: {given.reason}"})
    result = run(
        request,
        coded,
        "approve_application",
        applications.approve_application,
        application=ident,
        terms_hash=given.terms_hash,
        is_approved=given.decision == "approve",
    )
    return done(request, f"/bank/applications/{ident}", result)


def _application_of(pledge: str) -> str:
    return f"/bank/applications/{pledge.rpartition('-')[0]}"


def _people(tx: Any, persons: set[str]) -> dict[str, str]:
    return {person: person_name(tx, int(person)) for person in persons if person.isdigit()}
