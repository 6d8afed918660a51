"""The EPCIS 2.0 REST interface below ``/epcis``: how its routes are made, and the list of its parts."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from api.answers import exceptions
from api.auth.partners import STAFF_SCOPES, require
from api.epcis.headers import ANSWER_HEADERS, negotiate
from api.identity import Role
from api.policy import Policy, mark

PREFIX: Final = "/epcis"
# Each has `install(routes: EpcisRoutes) -> None`. Order counts where one path pattern fits another's paths.
PARTS: Final[tuple[str, ...]] = ("capture", "events", "resources", "named", "subscriptions", "socket")


async def _agreed(connection: HTTPConnection) -> None:
    negotiate(connection)


class _EpcisRoute(APIRoute):
    """A route whose answers name the versions."""

    def get_route_handler(self) -> Callable[..., Any]:
        """The handler with the version headers on its answers."""
        inner = super().get_route_handler()

        async def handler(request: Any) -> Response:
            response: Response = await inner(request)
            for name, value in ANSWER_HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handler


class EpcisRoutes:
    """The only way a part adds EPCIS routes: each with the scope that its callers need."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def add(self, method: str, path: str, handler: Callable[..., Any], scope: str | None, **options: Any) -> None:
        """Add a route.

        Args:
            path: below ``/epcis``, as in ``/events``.
            handler: gets the caller by ``api.auth.partners.caller_of(request)``; raises our own errors.
            scope: one of ``api.auth.partners.SCOPES``; None for every caller.
            options: of FastAPI; ``openapi_extra`` and ``responses`` describe bodies.
        """
        options.setdefault("response_class", Response)
        options.setdefault("tags", ["epcis"])
        options.setdefault("responses", exceptions())
        options.setdefault("dependencies", []).extend([Depends(require(scope)), Depends(_agreed)])
        self._app.router.add_api_route(
            PREFIX + path,
            handler,
            methods=[method],
            response_model=None,
            route_class_override=_EpcisRoute,
            **options,
        )
        mark(self._app.router.routes[-1], policy_of(scope))

    def websocket(self, path: str, handler: Callable[..., Any], scope: str) -> None:
        """Add a WebSocket route; the caller is checked before it is accepted."""
        self._app.router.add_api_websocket_route(PREFIX + path, handler, dependencies=[Depends(require(scope))])
        mark(self._app.router.routes[-1], policy_of(scope))


def policy_of(scope: str | None) -> Policy:
    """The policy of a route that needs a scope: a key that has it, or staff that stands for it."""
    is_for_staff = scope is None or scope in STAFF_SCOPES
    return Policy(f"partner:{scope or 'any'}", frozenset({Role.REGULATOR}) if is_for_staff else frozenset())


def install(app: FastAPI) -> None:
    """Add the routes of every part."""
    routes = EpcisRoutes(app)
    for name in PARTS:
        import_module(f"api.epcis.{name}").install(routes)
