"""``GET /events`` and ``GET /events/{eventID}``: the query language in an address, and one event by its id."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response

from api.auth.partners import QUERY, caller_of
from api.epcis import EpcisRoutes
from api.epcis.query_answers import QUERY_NAME, document_response, viewer_of
from api.epcis.query_docs import EVENTS, EVENTS_PARAMETERS, described
from api.epcis.query_language import header_prefixes, read_query
from api.epcis.query_lookup import DatabaseLookup
from api.epcis.query_pages import (
    TOKEN_LIFE_MS,
    Token,
    drop_token,
    next_headers,
    page_size,
    parameters_of,
    question_of,
    token_in,
)
from api.errors import NotFound
from api.services import Services
from core.errors import Rejected
from ledger.queryindex_query import AnyOf, Condition, Query
from ledger.queryindex_search import COUNT_MAX, Page, TooLarge, count, newest, search
from ledger.queryindex_terms import term

URL_CHARACTERS_MAX: Final = 8_192
EVENT_ID_CHARACTERS_MAX: Final = 2_048


def install(routes: EpcisRoutes) -> None:
    """Add the routes."""
    routes.add("GET", "/events", list_events, QUERY, **described(EVENTS, parameters=EVENTS_PARAMETERS))
    routes.add("GET", "/events/{event_id:path}", one_event, QUERY, **described(EVENTS, path="event_id"))
    routes.add("DELETE", "/nextPageToken/{token}", delete_token, QUERY, **described({204: "Given up"}, path="token"))


def list_events(request: Request) -> Response:
    """Events that fulfil the query of the address, page by page."""
    return answer(request, parameters_of(request))


def one_event(request: Request, event_id: str) -> Response:
    """Every event with this id that the caller may see: the event, and its error declarations."""
    check_length(request)
    # The hash form holds a question mark; a client that did not escape it sends the rest as a parameter.
    version = request.query_params.get("ver")
    if version is not None and event_id.startswith("ni:"):
        event_id = f"{event_id}?ver={version}"
    if len(event_id) > EVENT_ID_CHARACTERS_MAX:
        raise NotFound("No event of that id may be seen here.")
    services: Services = request.app.state.services
    query = Query((AnyOf(frozenset({term("eventID", event_id)})),))
    with services.db.reading() as tx:
        page = search(tx, query, viewer_of(caller_of(request)), limit=COUNT_MAX, top=newest(tx))
    if not page.events:
        raise NotFound("No event of that id may be seen here.")
    return document_response(request, page.events, now_ms=services.now_ms())


def delete_token(request: Request, token: str) -> Response:
    """Give a page token up."""
    services: Services = request.app.state.services
    with services.db.transaction() as tx:
        drop_token(tx, token, now_ms=services.now_ms())
    return Response(status_code=204)


def answer(
    request: Request,
    parameters: Sequence[tuple[str, Any]],
    *,
    more: Sequence[Condition] = (),
    prefixes: Mapping[str, str] | None = None,
    query_name: str = QUERY_NAME,
    subject: str = "",
) -> Response:
    """One page of the answer to a query.

    Args:
        parameters: named parameters of the query language.
        more: conditions that the path adds.
        prefixes: namespaces that the query itself declares.
        subject: what else tells this question from others.

    Raises:
        Rejected: a parameter, the token or the size of the answer is wrong.
    """
    check_length(request)
    services: Services = request.app.state.services
    caller = caller_of(request)
    viewer, limit, now_ms = viewer_of(caller), page_size(request), services.now_ms()
    known = header_prefixes(request.headers.get("GS1-Extensions", "")) | dict(prefixes or {})
    question = question_of(request.url.path, subject, sorted((name, str(value)) for name, value in parameters), known)
    headers: dict[str, str] = {}
    with services.db.reading() as tx:
        query = read_query(parameters, DatabaseLookup(tx), known)
        query = replace(query, conditions=(*more, *query.conditions))
        token = token_in(request, tx, question)
        top = newest(tx) if token is None else token.top
        if query.count_max is not None and token is None:
            most = min(query.count_max, COUNT_MAX)
            if count(tx, query, viewer, top=top, at_most=most) > most:
                raise TooLarge(f"More than {most} events match.")
        left = query.count_limit if token is None else token.left
        taken = limit if left is None else min(limit, left)
        page = Page([], None)
        if taken:
            page = search(tx, query, viewer, limit=taken, top=top, after=None if token is None else token.place)
        left = None if left is None else left - len(page.events)
    if page.next is not None and left != 0:
        headers = next_headers(request, Token(question, page.next, top, left, now_ms + TOKEN_LIFE_MS))
    return document_response(request, page.events, now_ms=now_ms, query_name=query_name, headers=headers)


def check_length(request: Request) -> None:
    """Refuse an address that is too long to be a sane query.

    Raises:
        Rejected: ``uri_too_long``.
    """
    if len(request.url.path) + len(request.url.query) > URL_CHARACTERS_MAX:
        text = f"An address has at most {URL_CHARACTERS_MAX} characters; make a named query by POST /epcis/queries."
        raise Rejected(text, code="uri_too_long")
