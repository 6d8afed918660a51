"""Commands on running facilities: margin, dispute, freeze, enforcement, write-off. Each has its own POST."""

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.consoles.commands import Command, Flag, Run, fields, fresh_key, run
from api.consoles.common import done, show
from api.consoles.lines import facility_rows
from api.forms import Input, read_input
from api.identity import Role
from api.language import language_of
from api.policy import BANK_CHECKER, BANK_STAFF, BORROWER, Routes, identity
from api.services import Services
from finance import enforcement, freezing, margin


class CashIn(Command):
    """Money that arrived, with its own reference."""

    amount: str
    reference: str


class AmountIn(Command):
    """An amount of money."""

    amount: str


class ApprovalIn(Command):
    """The proposal that is approved: its request key and the hash of what was seen."""

    request: str
    proposal: str


class DisputeIn(Command):
    """Hold or lift."""

    is_disputed: Flag


class Bid(Input):
    """What one bidder offers."""

    bidder: str
    amount: str


class SaleIn(Command):
    """The bids of an auction and what it cost."""

    bids: list[Bid]
    costs: str


def install(routes: Routes) -> None:
    """Add the routes."""
    at, tags = "/bank/facilities/{id}", ["bank"]
    routes.get("/bank/facilities", facilities_page, BANK_STAFF, tags=tags)
    routes.post(f"{at}/margin", post_margin, BANK_STAFF, body=CashIn, tags=tags)
    routes.post(f"{at}/margin-returns", return_margin, BANK_CHECKER, body=AmountIn, tags=tags)
    routes.post(f"{at}/dispute", dispute, BANK_CHECKER, body=DisputeIn, tags=tags)
    routes.post("/factory/facilities/{id}/dispute", dispute, BORROWER, body=DisputeIn, tags=["factory"])
    routes.post(f"{at}/freeze", freeze, BANK_STAFF, body=Command, tags=tags)
    routes.post(f"{at}/unfreeze-proposals", propose_unfreeze, BANK_STAFF, body=Command, tags=tags)
    routes.post(f"{at}/unfreeze", unfreeze, BANK_CHECKER, body=ApprovalIn, tags=tags)
    routes.post(f"{at}/enforcement-proposals", propose_enforcement, BANK_STAFF, body=Command, tags=tags)
    routes.post(f"{at}/enforcement", enforce, BANK_CHECKER, body=ApprovalIn, tags=tags)
    routes.post(f"{at}/sale", book_sale, BANK_CHECKER, body=SaleIn, tags=tags)
    routes.post(f"{at}/write-off-proposals", propose_write_off, BANK_STAFF, body=Command, tags=tags)
    routes.post(f"{at}/write-off", write_off, BANK_CHECKER, body=ApprovalIn, tags=tags)
    routes.post(f"{at}/recoveries", recover, BANK_STAFF, body=CashIn, tags=tags)


def facilities_page(request: Request) -> Response:
    """The bank's facilities: state, limit, what is owed, margin calls and how long they run."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        rows = facility_rows(tx, identity(request).org, language_of(request))
    values = {"rows": rows, "key": fresh_key(services), "may_check": Role.BANK_CHECKER in identity(request).roles}
    return show(request, "bank_facilities.html", values)


async def post_margin(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
    """Book margin cash that arrived on an open call."""
    return await _do(request, id, CashIn, "post_margin", margin.post_margin)


async def return_margin(request: Request, id: str) -> Response:  # noqa: A002
    """Give margin cash back as far as the goods cover alone."""
    return await _do(request, id, AmountIn, "return_margin", margin.return_margin)


async def dispute(request: Request, id: str) -> Response:  # noqa: A002
    """Hold release and enforcement while parties dispute, or lift the hold."""
    return await _do(request, id, DisputeIn, "set_dispute", margin.set_dispute)


async def freeze(request: Request, id: str) -> Response:  # noqa: A002
    """Stop every draw at once."""
    return await _do(request, id, Command, "freeze_facility", freezing.freeze)


async def propose_unfreeze(request: Request, id: str) -> Response:  # noqa: A002
    """Propose to let draws go on."""
    return await _do(request, id, Command, "propose_unfreeze", freezing.propose_unfreeze)


async def unfreeze(request: Request, id: str) -> Response:  # noqa: A002
    """Approve that draws go on."""
    return await _do(request, id, ApprovalIn, "unfreeze_facility", freezing.unfreeze)


async def propose_enforcement(request: Request, id: str) -> Response:  # noqa: A002
    """Propose to sell the goods of a facility in default."""
    return await _do(request, id, Command, "propose_enforcement", enforcement.propose_enforcement)


async def enforce(request: Request, id: str) -> Response:  # noqa: A002
    """Approve an enforcement that another person proposed."""
    return await _do(request, id, ApprovalIn, "enforce", enforcement.enforce)


async def book_sale(request: Request, id: str) -> Response:  # noqa: A002
    """Book the sale of the goods to the highest bid."""
    return await _do(request, id, SaleIn, "book_sale", enforcement.book_sale)


async def propose_write_off(request: Request, id: str) -> Response:  # noqa: A002
    """Propose to write off what the sale did not bring."""
    return await _do(request, id, Command, "propose_write_off", enforcement.propose_write_off)


async def write_off(request: Request, id: str) -> Response:  # noqa: A002
    """Approve a write-off that another person proposed."""
    return await _do(request, id, ApprovalIn, "write_off", enforcement.write_off)


async def recover(request: Request, id: str) -> Response:  # noqa: A002
    """Book money that came in after a write-off."""
    return await _do(request, id, CashIn, "recover", enforcement.recover)


async def _do(request: Request, ident: str, model: type[Command], name: str, command: Run) -> Response:
    given = await read_input(request, model)
    result = await run_in_threadpool(run, request, given, name, command, facility=ident, **fields(given))
    back = "/factory" if request.url.path.startswith("/factory/") else "/bank/facilities"
    return done(request, back, result)
