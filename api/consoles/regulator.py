"""The regulator's read-only pages: trace, log, anchors."""

from fastapi import Request
from fastapi.responses import Response

from api.consoles import figures
from api.consoles.common import show
from api.items_document import item_document
from api.language import language_of
from api.policy import REGULATOR, Routes
from api.services import Services
from core.errors import Rejected
from core.identifiers import parse
from ledger.asof import NOW


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/regulator", home, REGULATOR, tags=["regulator"])
    routes.get("/regulator/trace", trace, REGULATOR, tags=["regulator"])


def home(request: Request) -> Response:
    """The log's stages, its newest anchors, and the field for a trace."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        values = {"log": figures.log_state(tx), "anchors": figures.anchor_rows(tx), "alarms": figures.alarms(tx)}
    return show(request, "regulator.html", {**values, "now_ms": services.now_ms(), "settings": services.settings})


def trace(request: Request, code: str = "") -> Response:
    """Everything recorded about a code, with every field that the records disclose."""
    services: Services = request.app.state.services
    document, problem = None, ""
    if code.strip():
        try:
            found = parse(code.strip())
        except Rejected as error:
            problem = error.message
        else:
            with services.db.reading() as tx:
                document = item_document(
                    tx, found.canonical, reader="regulator", lang=language_of(request), moment=NOW, log_size=0
                )
    return show(request, "trace.html", {"code": code, "document": document, "problem": problem})
