"""The web application: routes with their policies, middleware, error handlers, start-up checks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import epcis, errors, home, items, machine, mirrors, partner_tokens, promises, resolver
from api.auth import routes as auth_routes
from api.consumer.cache import Cache
from api.consumer.scans import ScanBook
from api.limits import BodyLimit, Methods, SecurityHeaders
from api.policy import Routes, policy_table
from api.services import Services

__all__ = ["Services", "create_app"]


def create_app(services: Services) -> FastAPI:
    """The application over open parts.

    Raises:
        Broken: ``unguarded_route``: a route without a policy; the application does not start.
    """
    scans = ScanBook(services.db, services.random)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with scans.running():
            yield

    app = FastAPI(
        title="Tracebond", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.state.services = services
    app.state.scans = scans
    app.state.pages = Cache()
    routes = Routes(app)
    resolver.install_numbered(routes)
    home.install(routes)
    mirrors.install(routes)
    promises.install(routes)
    machine.install(routes)
    auth_routes.install(app, routes)
    install_consoles(routes)
    items.install(routes)
    epcis.install(app)
    partner_tokens.install(app)
    # Last, because GS1 key paths are caught by a pattern that every other path would fit.
    resolver.install(routes)
    errors.install(app)
    app.add_middleware(Methods)
    app.add_middleware(BodyLimit)
    app.add_middleware(SecurityHeaders)
    policy_table(app)
    return app


def install_consoles(routes: Routes) -> None:
    """Add the consoles of bank, goods side, regulator and operator."""
    from api.consoles import (
        acts,
        alarms,
        bank,
        books,
        case_file,
        cases,
        claims,
        credit,
        devices,
        factory,
        master,
        operator,
        portfolio,
        quarantine,
        records,
        regulator,
        reports,
        reports_regulator,
        token_pages,
    )

    parts = (
        acts, alarms, bank, books, case_file, cases, claims, credit, devices, factory, master, operator, portfolio,
        quarantine, records, regulator, reports, reports_regulator, token_pages,
    )  # fmt: skip
    for part in parts:
        part.install(routes)
