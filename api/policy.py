"""Default deny: a route exists only with a policy, and the policy runs before the handler.

The table of all routes and their policies can be listed (``policy_table``), so that a test asserts every cell of
routes x roles and a new route without a row fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import BaseModel

from api.answers import problems
from api.auth.sessions import identity_of, require_csrf
from api.identity import BANK, GOODS_SIDE, Identity, Role
from api.problem import Forbidden, Unauthenticated
from core.errors import Broken

_MARK: Final = "tracebond_policy"


@dataclass(frozen=True)
class Policy:
    """Who may call a route: anyone (``roles`` None), or users with at least one of the roles."""

    name: str
    roles: frozenset[Role] | None

    def allows(self, identity: Identity | None) -> bool:
        """Whether this identity may pass."""
        return self.roles is None or (identity is not None and not self.roles.isdisjoint(identity.roles))


PUBLIC: Final = Policy("public", None)
SIGNED_IN: Final = Policy("signed_in", frozenset(Role))
BANK_STAFF: Final = Policy("bank", BANK)
BANK_MAKER: Final = Policy("bank_maker", frozenset({Role.BANK_MAKER}))
BANK_CHECKER: Final = Policy("bank_checker", frozenset({Role.BANK_CHECKER}))
GOODS_STAFF: Final = Policy("goods", GOODS_SIDE)
FACTORY: Final = Policy("factory", frozenset({Role.FACTORY}))
PLEDGE_SIGNERS: Final = Policy("pledge_signers", frozenset({Role.BORROWER, Role.CUSTODIAN}))
CUSTODIAN: Final = Policy("custodian", frozenset({Role.CUSTODIAN}))
BORROWER: Final = Policy("borrower", frozenset({Role.BORROWER}))
REGULATOR: Final = Policy("regulator", frozenset({Role.REGULATOR}))
OPERATOR: Final = Policy("operator", frozenset({Role.OPERATOR}))


class Routes:
    """The only way a part adds routes: each with its policy, in the order of the calls."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def get(self, path: str, handler: Callable[..., Any], policy: Policy, **options: Any) -> None:
        """Add a GET route (HEAD and OPTIONS follow from it)."""
        self._add("GET", path, handler, policy, options)

    def post(
        self,
        path: str,
        handler: Callable[..., Any],
        policy: Policy,
        *,
        body: type[BaseModel] | None = None,
        **options: Any,
    ) -> None:
        """Add a POST route; ``body`` is the model that its JSON or form body must fit."""
        if body is not None:
            schema = body.model_json_schema()
            content = {kind: {"schema": schema} for kind in ("application/json", "application/x-www-form-urlencoded")}
            options["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
        self._add("POST", path, handler, policy, options)

    def _add(
        self, method: str, path: str, handler: Callable[..., Any], policy: Policy, options: dict[str, Any]
    ) -> None:
        options.setdefault("response_class", Response)
        options["responses"] = problems(method, is_guarded=policy is not PUBLIC) | options.get("responses", {})
        self._app.add_api_route(
            path,
            handler,
            methods=[method],
            dependencies=[Depends(_guard(policy))],
            response_model=None,
            **options,
        )
        mark(self._app.router.routes[-1], policy)


def mark(route: object, policy: Policy) -> None:
    """Say which policy guards a route that was added beside ``Routes``, with a guard of its own kind."""
    setattr(route, _MARK, policy)


def policy_table(app: FastAPI) -> list[tuple[str, str, Policy]]:
    """Method, path and policy of every route.

    Raises:
        Broken: ``unguarded_route``: a route stands outside the table; the application must not start.
    """
    rows: list[tuple[str, str, Policy]] = []
    for route in app.router.routes:
        policy = getattr(route, _MARK, None)
        if not isinstance(route, APIRoute | APIWebSocketRoute) or not isinstance(policy, Policy):
            raise Broken(f"The route {getattr(route, 'path', route)!r} has no policy.", code="unguarded_route")
        methods = {"WEBSOCKET"} if isinstance(route, APIWebSocketRoute) else route.methods or ()
        rows.extend((method, route.path, policy) for method in sorted(methods))
    return rows


def identity(request: Request) -> Identity:
    """The signed-in user of a request that passed a policy with roles."""
    found = request.state.identity
    if not isinstance(found, Identity):
        raise Unauthenticated("Sign in first.")
    return found


def _guard(policy: Policy) -> Callable[[Request], Any]:
    async def guard(request: Request) -> None:
        found = identity_of(request)
        request.state.identity = found
        if not policy.allows(found):
            if found is None:
                raise Unauthenticated("Sign in first.")
            raise Forbidden("Your role does not allow this.")
        if policy.roles is not None and found is not None and request.method not in ("GET", "HEAD"):
            await require_csrf(request, found)

    return guard


def roles_of(names: Sequence[str]) -> frozenset[Role]:
    """The roles by name.

    Raises:
        Broken: ``unknown_role``: the database names a role that this version does not know.
    """
    try:
        return frozenset(Role(name) for name in names)
    except ValueError as error:
        raise Broken(f"Unknown role in {list(names)!r}.", code="unknown_role") from error
