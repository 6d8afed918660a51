"""The regulator's read-only pages: trace both ways as of any time, recall list, workbook, log, anchors."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Query, Request
from fastapi.responses import Response

from api.consoles import figures
from api.consoles.common import plain, show
from api.consoles.regulator_graph import draw
from api.consoles.regulator_search import Found, search
from api.consoles.regulator_trace import View, code, holder_sheet, load, sheets
from api.errors import NotFound, wants_html
from api.findings import shown
from api.items import json_response
from api.items_document import BadTime, moment_of
from api.items_trace import holding, transformation, truncated
from api.language import language_of
from api.machine import log_head
from api.policy import REGULATOR, Routes
from api.services import Services
from api.words import say
from api.workbook import csv_file, workbook
from ledger.asof import Moment
from ledger.findings_read import about

_XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_ITEMS_SHOWN: Final = 8
_STEPS_SHOWN: Final = 500
_FILE: Final[dict[int | str, dict[str, str]]] = {200: {"description": "The file"}}

CODE = Annotated[str, Query(max_length=2_048, description="Lot, serial, GLN, SSCC or document number, any spelling.")]
TIME = Annotated[str, Query(max_length=40, description="ISO 8601 time; without a zone China Standard Time.")]


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/regulator", home, REGULATOR, tags=["regulator"])
    routes.get("/regulator/trace", trace, REGULATOR, tags=["regulator"])
    routes.get("/regulator/trace.xlsx", book, REGULATOR, tags=["regulator"], responses=_FILE)
    routes.get("/regulator/recall.xlsx", recall_xlsx, REGULATOR, tags=["regulator"], responses=_FILE)
    routes.get("/regulator/recall.csv", recall_csv, REGULATOR, tags=["regulator"], responses=_FILE)


def home(request: Request) -> Response:
    """The log's stages, its newest anchors, and the field for a trace."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        values = {"log": figures.log_state(tx), "anchors": figures.anchor_rows(tx), "alarms": figures.alarms(tx)}
    asked = {"code": "", "at": "", "known": ""}
    return show(
        request, "regulator.html", {**values, **asked, "now_ms": services.now_ms(), "settings": services.settings}
    )


def trace(request: Request, code: CODE = "", at: TIME = "", known: TIME = "") -> Response:
    """Where goods came from, what became of them and who holds them, on one screen, as of any time."""
    services: Services = request.app.state.services
    lang, began = language_of(request), time.perf_counter()
    values: dict[str, Any] = {"code": code, "at": at, "known": known, "view": None, "found": None, "problem": ""}
    try:
        asked = _moment(at, known)
    except BadTime as error:
        if not wants_html(request):
            raise
        return show(request, "trace.html", values | {"problem": error.message})
    with services.db.reading() as tx:
        found = search(tx, code)
        if found.item:
            view = load(tx, found.item, asked, lang, log_size=log_head(tx)[0])
            values["view"] = None if view is None else _shown(view, lang) | {"findings": _findings(tx, view, lang)}
    took_ms = round((time.perf_counter() - began) * 1000)
    values |= {"found": found, "problem": found.problem, "took_ms": took_ms, "query": _query(found, code, at, known)}
    if wants_html(request):
        return show(request, "trace.html", values | {"code_of": _code_of})
    return json_response({name: plain(value) for name, value in values.items() if name != "query"})


def _findings(tx: Any, view: View, lang: str) -> list[dict[str, Any]]:
    """What rules found about everything on the trace."""
    things = list(dict.fromkeys(thing.id for thing in (*view.back.things, *view.forward.things)))
    return [shown(one, lang) for one in about(tx, things)]


def book(request: Request, code: CODE = "", at: TIME = "", known: TIME = "") -> Response:
    """The workbook of a trace: events, holders, mass balance, evidence."""

    def make(view: View, tx: Any, lang: str, services: Services) -> bytes:
        made = sheets(tx, view, lang, settings=services.settings, now_ms=services.now_ms())
        return workbook(made, title=say("trace.title", lang), made_at=_now(services))

    return _file(request, code, at, known, make, "trace", "xlsx", _XLSX)


def recall_xlsx(request: Request, code: CODE = "", at: TIME = "", known: TIME = "") -> Response:
    """The recall list as XLSX: every thing with its holder."""

    def make(view: View, tx: Any, lang: str, services: Services) -> bytes:
        return workbook([holder_sheet(view, lang)], title=say("book.holders", lang), made_at=_now(services))

    return _file(request, code, at, known, make, "recall", "xlsx", _XLSX)


def recall_csv(request: Request, code: CODE = "", at: TIME = "", known: TIME = "") -> Response:
    """The recall list as CSV."""

    def make(view: View, tx: Any, lang: str, services: Services) -> bytes:
        return csv_file(holder_sheet(view, lang))

    return _file(request, code, at, known, make, "recall", "csv", "text/csv; charset=utf-8")


def _file(
    request: Request,
    code: str,
    at: str,
    known: str,
    make: Callable[[View, Any, str, Services], bytes],
    name: str,
    end: str,
    kind: str,
) -> Response:
    services: Services = request.app.state.services
    lang, asked = language_of(request), _moment(at, known)
    with services.db.reading() as tx:
        found = search(tx, code)
        view = load(tx, found.item, asked, lang, log_size=log_head(tx)[0]) if found.item else None
        if view is None:
            raise NotFound("Nothing was recorded under this code then.", code="unknown_item")
        data = make(view, tx, lang, services)
    safe = "".join(char if char.isalnum() and char.isascii() else "-" for char in found.item.partition("gs1.org/")[2])
    headers = {"Content-Disposition": f'attachment; filename="{name}-{safe}.{end}"', "Cache-Control": "no-store"}
    return Response(data, media_type=kind, headers=headers)


def _shown(view: View, lang: str) -> dict[str, Any]:
    links = sorted({*view.back.links, *view.forward.links}, key=lambda one: (one.at_ms, one.leaf, one.number))
    made = {one.events: one for one in (*view.back.transformations, *view.forward.transformations)}
    return {
        "item": view.item,
        "document": view.document,
        "graph": draw(view.back, view.forward, view.holders, view.names, lang),
        "holders": [holding(row, view.names, True) for row in view.holders],
        "transformations": [transformation(row, view.names, True) for row in made.values()],
        "steps": [
            {
                "kind": link.kind, "source": link.source, "target": link.target, "leaf": link.leaf,
                "at_ms": link.at_ms, "who": view.names.org(link.org), "source_name": view.names.thing(link.source),
                "target_name": view.names.thing(link.target), "is_withdrawn": link.is_withdrawn,
                "is_suspect": link.is_suspect,
            }
            for link in links[:_STEPS_SHOWN]
        ],
        "steps_left_out": max(0, len(links) - _STEPS_SHOWN),
        "items_shown": _ITEMS_SHOWN,
        "whole": {"back": truncated(view.back, lang), "forward": truncated(view.forward, lang)},
    }  # fmt: skip


def _moment(at: str, known: str) -> Moment:
    """The moment of two fields of a page; a browser's local time has no zone and means China Standard Time."""
    return moment_of(
        *(f"{text}+08:00" if len(text) in (16, 19) and text[10:11] == "T" else text for text in (at, known))
    )


def _query(found: Found, code: str, at: str, known: str) -> str:
    given = {"code": found.item or code, "at": at, "known": known}
    return urlencode({name: value for name, value in given.items() if value})


def _code_of(identifier: str) -> str:
    return code(identifier)


def _now(services: Services) -> datetime:
    return datetime.fromtimestamp(services.now_ms() / 1000, UTC).replace(tzinfo=None)
