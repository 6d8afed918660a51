"""The regulator's view of credit over all banks: a page, a workbook, and each part as CSV. Read only."""

from datetime import date, timedelta
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response

from api.consoles.common import show
from api.consoles.reports import CSV, FILE, XLSX, download
from api.errors import NotFound
from api.language import language_of
from api.policy import REGULATOR, Routes
from api.services import Services
from api.words import say, say_code
from core.money import Money
from finance.exports import utc
from finance.reports import Part, Window, credit_report, part_of
from finance.sheets import Cell, Sheet, write_csv, write_xlsx
from ledger import masterdata

WINDOW_DAYS: Final = 365
PARTS: Final = ("exposures", "provisions", "concentration", "margin_calls", "freezes", "refused")
_SHOWN: Final = 200
_CODED: Final = {"class": "loan_class", "state": "state", "by": "credit_by"}


def install(routes: Routes) -> None:
    """Add the routes."""
    tags = ["regulator"]
    routes.get("/regulator/credit", credit_page, REGULATOR, tags=tags)
    routes.get("/regulator/credit.xlsx", credit_xlsx, REGULATOR, tags=tags, responses=FILE)
    routes.get("/regulator/credit/{part}.csv", credit_csv, REGULATOR, tags=tags, responses=FILE)


def credit_page(request: Request) -> Response:
    """Exposures by class, provisions, concentration, margin calls, freezes and refused double pledges."""
    services: Services = request.app.state.services
    lang = language_of(request)
    with services.db.reading() as tx:
        parts = _report(tx, services)
        names = _names(tx, parts, lang)
    shown = [
        {"name": part.name, "columns": list(part.columns), "count": len(part.rows),
         "rows": [{column: _json(row[column]) for column in part.columns} for row in part.rows[:_SHOWN]]}
        for part in parts
    ]  # fmt: skip
    values = {"parts": shown, "names": names, "made_ms": services.now_ms(), "window_days": WINDOW_DAYS}
    return show(request, "regulator_credit.html", values)


def credit_xlsx(request: Request) -> Response:
    """The whole report as one workbook, a sheet each part."""
    services: Services = request.app.state.services
    lang, made = language_of(request), utc(services.now_ms() // 1_000)
    with services.db.reading() as tx:
        parts = _report(tx, services)
        sheets = [_sheet(part, _names(tx, parts, lang), lang) for part in parts]
    return download(
        lambda file: write_xlsx(sheets, file, title=say("credit.title", lang), made_at=made), "credit.xlsx", XLSX
    )


def credit_csv(request: Request, part: str) -> Response:
    """One part of the report as CSV."""
    services: Services = request.app.state.services
    if part not in PARTS:
        raise NotFound("There is no such part.")
    lang = language_of(request)
    with services.db.reading() as tx:
        parts = _report(tx, services)
        sheet = _sheet(part_of(parts, part), _names(tx, parts, lang), lang)
    return download(lambda file: write_csv(sheet, file), f"credit-{part}.csv", CSV)


def _report(tx: Any, services: Services) -> list[Part]:
    now = services.now_ms() // 1_000
    return credit_report(tx, Window(now - int(timedelta(days=WINDOW_DAYS).total_seconds()), now + 1))


def _sheet(part: Part, names: dict[str, str], lang: str) -> Sheet:
    rows = [[_words(column, row[column], names, lang) for column in part.columns] for row in part.rows]
    return Sheet(say(f"credit.{part.name}", lang), [say(f"credit.{name}", lang) for name in part.columns], rows)


def _words(column: str, cell: Cell, names: dict[str, str], lang: str) -> Cell:
    if not isinstance(cell, str) or not cell:
        return cell
    if column in _CODED:
        return say_code(_CODED[column], cell, lang)
    # Identifiers stay beside the names: a supervisor files by GLN.
    return f"{names[cell]} ({cell})" if cell in names else cell


def _names(tx: Any, parts: list[Part], lang: str) -> dict[str, str]:
    orgs = {
        str(row[column])
        for part in parts
        for row in part.rows
        for column in ("lender", "borrower", "org", "name")
        if column in part.columns and str(row[column]).startswith("https://id.gs1.org/417/")
    }
    found = {}
    for org in orgs:
        fact = masterdata.party(tx, org) or {}
        name = str(fact.get(f"name_{lang}") or fact.get("name_en") or "")
        if name:
            found[org] = name
    return found


def _json(cell: Cell) -> Any:
    if isinstance(cell, Money):
        return {"minor": cell.minor, "currency": cell.currency}
    return cell.isoformat() if isinstance(cell, date) else cell
