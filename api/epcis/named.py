"""Named queries: ``POST /queries``, their list, one of them, its events, and its end."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.auth.partners import QUERY, Caller, caller_of
from api.epcis import EpcisRoutes
from api.epcis.events import answer
from api.epcis.query_answers import encoded, json_response
from api.epcis.query_docs import EVENTS, PAGING, described
from api.epcis.query_language import context_prefixes, read_query
from api.epcis.query_lookup import DatabaseLookup
from api.epcis.query_pages import (
    TOKEN_LIFE_MS,
    Token,
    next_headers,
    page_size,
    question_of,
    refuse_parameters,
    token_in,
)
from api.epcis.query_tables import deliveries, queries, subscriptions
from api.epcis.webhooks import stored_query
from api.errors import NotFound
from api.services import Services
from core.canonical import parse_json
from core.errors import Conflict, Rejected
from ledger.database import Tx

BODY_BYTES_MAX: Final = 262_144
QUERIES_MAX: Final = 1_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}\Z")
# What the body of POST /queries is, for those who read the description.
DEFINITION: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["name", "query"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$"},
        "query": {"type": "object", "description": "Parameters of the EPCIS query language by name."},
        "@context": {},
    },
}


class QueryExists(Conflict):
    """There is a query of that name already."""

    code = "query_exists"


class BadQuery(Rejected):
    """A named query or its request is not what it has to be."""

    code = "query_validation"


def install(routes: EpcisRoutes) -> None:
    """Add the routes."""
    listed = {"type": "array", "items": dict(DEFINITION)}
    routes.add("GET", "/queries", list_queries, QUERY, **described({200: "Queries"}, schema=listed, parameters=PAGING))
    made = described({201: "The query is made"}, schema=DEFINITION, body=DEFINITION, faults=(409, 415))
    routes.add("POST", "/queries", create_query, QUERY, **made)
    one = described({200: "The query"}, schema=DEFINITION, path="name")
    routes.add("GET", "/queries/{name}", one_query, QUERY, **one)
    routes.add("DELETE", "/queries/{name}", delete_query, QUERY, **described({204: "It is gone"}, path="name"))
    paged = described(EVENTS, parameters=PAGING, path="name")
    routes.add("GET", "/queries/{name}/events", events_of_query, QUERY, **paged)


def list_queries(request: Request) -> Response:
    """The caller's named queries, by name."""
    refuse_parameters(request)
    services: Services = request.app.state.services
    limit, owner, question = page_size(request), caller_of(request).speaks_as, question_of(request.url.path)
    with services.db.reading() as tx:
        token = token_in(request, tx, question)
        query = sa.select(queries).where(queries.c.owner == owner).order_by(queries.c.name).limit(limit + 1)
        rows = list(tx.execute(query if token is None else query.where(queries.c.name > str(token.place[0]))))
    headers: dict[str, str] = {}
    if len(rows) > limit:
        place = Token(question, (rows[limit - 1].name,), 0, None, services.now_ms() + TOKEN_LIFE_MS)
        headers = next_headers(request, place)
    return json_response(request, [definition(row) for row in rows[:limit]], headers=headers)


async def create_query(request: Request) -> Response:
    """Give a query a name; it is checked now and answered whenever it is asked."""
    body = await json_body(request)
    return await run_in_threadpool(_create, request, body)


def one_query(request: Request, name: str) -> Response:
    """The definition of a query."""
    refuse_parameters(request)
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        row = query_row(tx, caller_of(request), name)
    return json_response(request, definition(row))


def delete_query(request: Request, name: str) -> Response:
    """Take a query away, with its subscriptions and what they still had to report."""
    services: Services = request.app.state.services
    caller = caller_of(request)
    with services.db.transaction() as tx:
        query_row(tx, caller, name)
        mine = (subscriptions.c.owner == caller.speaks_as) & (subscriptions.c.query_name == name)
        of_mine = deliveries.c.subscription.in_(sa.select(subscriptions.c.id).where(mine))
        tx.execute(deliveries.delete().where(of_mine))
        tx.execute(subscriptions.delete().where(mine))
        tx.execute(queries.delete().where(queries.c.owner == caller.speaks_as, queries.c.name == name))
    return Response(status_code=204)


def events_of_query(request: Request, name: str) -> Response:
    """The events that a query finds now, page by page."""
    refuse_parameters(request)
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        text = query_row(tx, caller_of(request), name).query
    value = stored_query(text)
    prefixes = context_prefixes(value.pop("@context", None))
    return answer(request, list(value.items()), prefixes=prefixes, query_name=name, subject=name)


def query_row(tx: Tx, caller: Caller, name: str) -> Any:
    """The stored query of a caller's name.

    Raises:
        NotFound: the caller has none of that name.
    """
    row = tx.execute(
        sa.select(queries).where(queries.c.owner == caller.speaks_as, queries.c.name == name)
    ).one_or_none()
    if row is None:
        raise NotFound("You have no query of that name.")
    return row


def definition(row: Any) -> dict[str, Any]:
    """What a query is, as the binding writes it."""
    return {"name": row.name, "query": stored_query(row.query)}


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        Rejected: it is none, or too large, or of another media type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/ld+json"):
        raise Rejected("Send JSON: Content-Type application/json.", code="unsupported_media_type")
    value = parse_json(await request.body(), bytes_max=BODY_BYTES_MAX)
    if not isinstance(value, dict):
        raise BadQuery("The body is a JSON object.")
    return value


def _create(request: Request, body: Mapping[str, Any]) -> Response:
    name, query = body.get("name"), body.get("query")
    if not isinstance(name, str) or not _NAME.match(name):
        raise BadQuery("name has 1 to 100 letters, digits, dots, hyphens, underscores or tildes.", pointer="/name")
    if not isinstance(query, dict):
        raise BadQuery("query is an object of parameters.", pointer="/query")
    unknown = sorted(set(body) - {"name", "query", "@context"})
    if unknown:
        raise BadQuery(f"A query has no member {unknown[0][:100]!r}.", pointer=f"/{unknown[0][:100]}")
    whole = dict(query)
    if "@context" in body and "@context" not in whole:
        whole["@context"] = body["@context"]
    services: Services = request.app.state.services
    owner = caller_of(request).speaks_as
    with services.db.transaction() as tx:
        parameters = {key: value for key, value in whole.items() if key != "@context"}
        read_query(list(parameters.items()), DatabaseLookup(tx), context_prefixes(whole.get("@context")))
        if tx.execute(sa.select(queries.c.name).where(queries.c.owner == owner, queries.c.name == name)).first():
            raise QueryExists(f"You have a query {name!r} already; delete it first.", pointer="/name")
        held = tx.execute(sa.select(sa.func.count()).where(queries.c.owner == owner)).scalar_one()
        if held >= QUERIES_MAX:
            raise Conflict(f"You have {QUERIES_MAX} queries; delete some first.", code="too_many_queries")
        row = {"owner": owner, "name": name, "query": encoded(whole).decode(), "created_ms": services.now_ms()}
        tx.execute(queries.insert().values(row))
    location = f"{services.settings.base_url}/epcis/queries/{name}"
    return json_response(
        request, {"name": name, "query": json.loads(encoded(whole))}, status=201, headers={"Location": location}
    )
