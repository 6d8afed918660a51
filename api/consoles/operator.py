"""The operator's page: stages and lag, chain, alarms, quarantine."""

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from api.consoles import figures
from api.consoles.common import show
from api.policy import OPERATOR, Routes
from api.services import Services
from core.errors import TracebondError
from ingest import alarms_book, quarantine


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/operator", home, OPERATOR, tags=["operator"])


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
            "open_alarms": alarms_book.count_open(tx),
        }
    problem = services.broker_problem
    values |= {"now_ms": services.now_ms(), "block": _block(services), "broker": None if problem is None else problem()}
    return show(request, "operator.html", values)


def _block(services: Services) -> int | None:
    """The chain's height for the operator, None while the chain is away."""
    if services.chain is None:
        return None
    try:
        return services.chain.block_number()
    except TracebondError:
        return None
