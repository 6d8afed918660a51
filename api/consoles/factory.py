"""The page of goods-side organisations: their devices and what of theirs was not taken."""

from fastapi import Request
from fastapi.responses import Response

from api.consoles import figures
from api.consoles.common import show
from api.policy import GOODS_STAFF, Routes, identity
from api.services import Services
from core.identifiers import gln_of
from ingest import quarantine


def install(routes: Routes) -> None:
    """Add the route."""
    routes.get("/factory", home, GOODS_STAFF, tags=["goods side"])


def home(request: Request) -> Response:
    """The organisation's devices, when they were last seen, and its quarantined messages with reasons."""
    services: Services = request.app.state.services
    org = identity(request).org
    with services.db.reading() as tx:
        values = {"devices": figures.devices(tx, org), "held": quarantine.search(tx, gln=gln_of(org), limit=50)}
    return show(request, "factory.html", {**values, "org": org})
