"""The bank's files and its end of day: exports, ISO 20022 messages, price feeds, credits that wait for a person."""

from collections.abc import Callable, Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from api.auth.users import person_name
from api.consoles.commands import Command, Flag, actor_of, context_of, fields, fresh_key, run
from api.consoles.common import done, show
from api.errors import NotFound
from api.forms import is_form, read_input
from api.identity import Role
from api.language import language_of
from api.policy import BANK_CHECKER, BANK_STAFF, Routes, identity
from api.services import Services
from core.errors import Rejected
from finance import dayend, prices
from finance.commandlog import business_date
from finance.daycount import parse_date
from finance.eod import DayEnd, end_of_day
from finance.exports import KINDS, books_state, export
from finance.iso20022 import camt, colr, pain
from finance.model import Call

XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
CSV: Final = "text/csv; charset=utf-8"
FILE: Final[dict[int | str, dict[str, str]]] = {
    200: {"description": "The file"},
    "default": {"description": "A problem document (RFC 9457)"},
}
MESSAGES: Final = ("draw", "margin-return", "surplus", "margin-call", "proposal", "substitution")
_MEMORY: Final = 4 * 1024 * 1024
_CHUNK: Final = 64 * 1024


class EndOfDayIn(Command):
    """The business date that the person saw and wants to end."""

    day: str


class PricesIn(Command):
    """A price file (CSV text); without ``apply`` it is looked at only."""

    file: str
    apply: Flag = False


class NotificationIn(Command):
    """A camt.054 message."""

    xml: str


class ResolutionIn(Command):
    """What becomes of a credit that waits: book it (on a loan) or dismiss it."""

    action: str
    loan: str = ""


def install(routes: Routes) -> None:
    """Add the routes."""
    tags = ["bank"]
    routes.get("/bank/reports", reports_page, BANK_STAFF, tags=tags)
    routes.get("/bank/exports/{kind}.csv", export_csv, BANK_STAFF, tags=tags, responses=FILE)
    routes.get("/bank/exports/{kind}.xlsx", export_xlsx, BANK_STAFF, tags=tags, responses=FILE)
    routes.get("/bank/messages/{kind}/{id}", message, BANK_STAFF, tags=tags, responses=FILE)
    routes.post("/bank/end-of-day", end_day, BANK_CHECKER, body=EndOfDayIn, tags=tags)
    routes.post("/bank/prices", take_prices, BANK_STAFF, body=PricesIn, tags=tags)
    routes.post("/bank/notifications", take_notifications, BANK_STAFF, body=NotificationIn, tags=tags)
    routes.post("/bank/exceptions/{id}/resolution", resolve, BANK_CHECKER, body=ResolutionIn, tags=tags)


def reports_page(request: Request) -> Response:
    """Exports, trial balance with its control accounts, the end of day, and credits that wait."""
    services: Services = request.app.state.services
    who = identity(request)
    with services.db.reading() as tx:
        waiting = [_exception(row) for row in camt.exceptions_of(tx, who.org, limit=100)]
        persons = {row["person"] for row in waiting if row["person"].isdigit()}
        values: dict[str, Any] = {
            "kinds": KINDS,
            "books": books_state(tx, who.org),
            "day_end": dayend.day_state(tx, services.now_ms() // 1_000, who.org),
            "exceptions": waiting,
            "people": {person: person_name(tx, int(person)) for person in persons},
        }
    values |= {"key": fresh_key(services), "may_check": Role.BANK_CHECKER in who.roles}
    return show(request, "bank_reports.html", values | {"done": request.query_params.get("done", "")[:40]})


def export_csv(request: Request, kind: str) -> Response:
    """One table of the bank as CSV."""
    return _export(request, kind, "csv", CSV)


def export_xlsx(request: Request, kind: str) -> Response:
    """One table of the bank as XLSX."""
    return _export(request, kind, "xlsx", XLSX)


def message(request: Request, kind: str, id: str, pledge: str = "") -> Response:  # noqa: A002 - the path's own word
    """An ISO 20022 message: draw, margin-return, surplus (pain.001), margin-call, proposal, substitution (colr)."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        data = _message(request, tx, kind, id, pledge)
    name = "".join(char if char.isalnum() and char.isascii() else "-" for char in f"{kind}-{id}")
    headers = {"Content-Disposition": f'attachment; filename="{name}.xml"', "Cache-Control": "no-store"}
    return Response(data, media_type="application/xml", headers=headers)


async def end_day(request: Request) -> Response:
    """End the business date: asked for by a person, then run to its end."""
    given = await read_input(request, EndOfDayIn)
    report = await run_in_threadpool(_end_day, request, given)
    result = {
        "closed": report.closed.isoformat(), "business_date": report.next_date.isoformat(), "loans": report.loans,
        "moved": dict(report.moved), "agrees": identity(request).org not in report.differences,
    }  # fmt: skip
    return done(request, "/bank/reports?done=end_of_day", result)


async def take_prices(request: Request) -> Response:
    """Look at a price file, or take it whole when every row may be used."""
    given = await read_input(request, PricesIn)
    data = given.file.encode("utf-8")
    if given.apply:
        result = await run_in_threadpool(run, request, given, "import_prices", prices.import_prices, data=data)
        return done(request, "/bank/reports?done=import_prices", result)
    rows = await run_in_threadpool(_preview, request, data)
    values = {
        "rows": [
            {"line": row.line, "code": row.code, "message": row.message, "pointer": row.pointer, "text": text}
            for row, text in zip(rows, prices.price_lines(rows), strict=True)
        ],
        "refused": sum(bool(row.code) for row in rows),
    }
    if not is_form(request):
        return done(request, "/bank/reports", values)
    services: Services = request.app.state.services
    return show(request, "bank_prices.html", values | {"file": given.file, "key": fresh_key(services)})


async def take_notifications(request: Request) -> Response:
    """Book the credits of a camt.054; what cannot be booked waits for a person."""
    given = await read_input(request, NotificationIn)
    data = given.xml.encode("utf-8")
    result = await run_in_threadpool(run, request, given, "import_notifications", camt.import_notifications, data=data)
    return done(request, "/bank/reports?done=import_notifications", result)


async def resolve(request: Request, id: str) -> Response:  # noqa: A002
    """Decide on a credit that waits."""
    given = await read_input(request, ResolutionIn)
    result = await run_in_threadpool(
        run, request, given, "resolve_exception", camt.resolve_exception, exception=id, **fields(given)
    )
    return done(request, "/bank/reports?done=resolve_exception", result)


def download(write: Callable[[IO[bytes]], None], name: str, kind: str) -> Response:
    """A file that is written whole before its first byte leaves: an error then is still an answer of its own."""
    file = SpooledTemporaryFile(max_size=_MEMORY)  # noqa: SIM115 - closed when the answer is sent
    try:
        write(file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(_chunks(file), media_type=kind, headers=headers)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _export(request: Request, kind: str, form: str, media: str) -> Response:
    services: Services = request.app.state.services
    if kind not in KINDS:
        raise NotFound("There is no such export.")
    org, now, lang = identity(request).org, services.now_ms() // 1_000, language_of(request)
    with services.db.reading() as tx:
        return download(
            lambda file: export(tx, kind, org, form=form, file=file, now=now, lang=lang), f"{kind}.{form}", media
        )


def _message(request: Request, tx: Any, kind: str, ident: str, pledge: str) -> bytes:
    services: Services = request.app.state.services
    org, now = identity(request).org, services.now_ms() // 1_000
    try:
        if kind == "draw":
            return pain.draw_order(tx, org, ident)
        if kind == "margin-return":
            is_number = ident.isascii() and ident.isdigit() and len(ident) < 16
            return pain.margin_order(tx, org, int(ident) if is_number else 0)
        if kind == "surplus":
            return pain.surplus_order(tx, org, ident)
        if kind == "margin-call":
            return colr.margin_call_message(tx, org, ident)
        at = Call(actor_of(identity(request)), "", "", now, business_date(tx, now))
        if kind == "proposal":
            return colr.proposal_message(tx, context_of(services), org, ident, pledge, at=at)
        if kind == "substitution":
            return colr.substitution_message(tx, context_of(services), org, ident, pledge, at=at)
    except Rejected as error:
        if error.code.startswith("no_such_"):
            raise NotFound(error.message) from error
        raise
    raise NotFound(f"The messages are {', '.join(MESSAGES)}.")


def _end_day(request: Request, given: EndOfDayIn) -> DayEnd:
    services: Services = request.app.state.services
    run(request, given, "request_end_of_day", dayend.request_end_of_day, day=given.day)
    policy = context_of(services).policy
    return end_of_day(services.db, policy, parse_date(given.day, pointer="day"), now=services.now_ms() // 1_000)


def _preview(request: Request, data: bytes) -> list[prices.PriceRow]:
    services: Services = request.app.state.services
    policy, now = context_of(services).policy, services.now_ms() // 1_000
    with services.db.reading() as tx:
        return prices.preview_prices(tx, policy, identity(request).org, data, now=now)


def _exception(row: Any) -> dict[str, Any]:
    return {
        "id": row.id, "reference": row.reference, "loan": row.loan, "amount": int(row.amount),
        "currency": row.currency, "reason": row.reason, "received_s": int(row.received_s), "state": row.state,
        "person": row.person, "note": row.note,
    }  # fmt: skip
