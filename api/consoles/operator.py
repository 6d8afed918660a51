"""The operator's page: stages and lag, chain, alarms, quarantine."""

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from api.consoles import figures
from api.consoles.common import show
from api.errors import NotFound
from api.policy import OPERATOR, Routes
from api.services import Services
from core.errors import Conflict, TracebondError
from ingest import quarantine


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/operator", home, OPERATOR, tags=["operator"])
    routes.get("/operator/quarantine", held, OPERATOR, tags=["operator"])
    routes.get("/operator/quarantine/{row_id}", held_bytes, OPERATOR, tags=["operator"])


def home(request: Request) -> Response:
    """How far each stage has come, what is sent to the chain, open alarms, and what was not taken."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        values: dict[str, Any] = {
            "log": figures.log_state(tx),
            "chain_counts": figures.chain_counts(tx),
            "alarms": figures.alarms(tx),
            "anchors": figures.anchor_rows(tx, limit=10),
            "held_by_code": quarantine.count_by_code(tx),
            "held": quarantine.search(tx, limit=20),
            "quarantine_fill": quarantine.fill(tx),
        }
    values |= {"now_ms": services.now_ms(), "block": _block(services), "broker": services.broker_problem()}
    return show(request, "operator.html", values)


def held(request: Request, state: str = "open", code: str = "", before: int = 0) -> Response:
    """A page of the quarantine, newest first."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        rows = quarantine.search(
            tx, state=None if state == "all" else state, code=code or None, before_id=before or None
        )
    return show(request, "quarantine.html", {"held": rows, "state": state, "code": code})


def held_bytes(request: Request, row_id: int) -> Response:
    """The very bytes that were not taken."""
    services: Services = request.app.state.services
    try:
        with services.db.reading() as tx:
            row = quarantine.load(tx, row_id)
    except Conflict as error:
        raise NotFound("There is no such row.") from error
    name = f'attachment; filename="quarantine-{row.id}.bin"'
    return Response(row.raw, media_type="application/octet-stream", headers={"Content-Disposition": name})


def _block(services: Services) -> int | None:
    """The chain's height for the operator, None while the chain is away."""
    if services.chain is None:
        return None
    try:
        return services.chain.block_number()
    except TracebondError:
        return None
