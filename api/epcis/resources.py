"""The top-level resources: event types, EPCs, business steps, locations, read points and dispositions.

A list names what occurs in events that the caller may see, and nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.responses import Response

from api.auth.partners import QUERY, caller_of
from api.epcis import EpcisRoutes
from api.epcis.events import answer, check_length
from api.epcis.headers import epc_format
from api.epcis.query_answers import CONTEXT, json_response, viewer_of
from api.epcis.query_docs import COLLECTION, EVENTS, EVENTS_PARAMETERS, PAGING, described
from api.epcis.query_language import BadParameter, event_type
from api.epcis.query_match import match
from api.epcis.query_pages import (
    TOKEN_LIFE_MS,
    Token,
    next_headers,
    page_size,
    parameters_of,
    question_of,
    refuse_parameters,
    token_in,
)
from api.errors import NotFound
from api.services import Services
from core.epcis.forms import translated
from core.epcis.vocabulary import local_name
from core.errors import Rejected
from core.identifiers import canonical
from ledger.database import Tx
from ledger.queryindex import NAME_KINDS
from ledger.queryindex_query import AnyOf, Query
from ledger.queryindex_search import Viewer, is_visible, newest, search
from ledger.queryindex_tables import query_names
from ledger.queryindex_terms import EPC_ROLES, EVENT_TYPES, term

# Ours: how many names one page looks at. A caller who sees few of many gets short pages, never slow ones.
SCANNED_MAX: Final = 2_000
CAPTION: Final = ("capture", "events", "queries")


@dataclass(frozen=True)
class _Resource:
    """One top-level resource.

    Attributes:
        kind: of its names in the index.
        field: the query parameter that means the same, which its events do not take.
        read: the index's name of what stands in a path.
        terms: the index's terms of a name.
    """

    name: str
    kind: str
    field: str
    read: Callable[[str], str]
    terms: Callable[[str], tuple[str, ...]]
    is_identifier: bool = False


def _word(vocabulary: str) -> Callable[[str], str]:
    return lambda text: local_name(text, vocabulary)


def _term(name: str) -> Callable[[str], tuple[str, ...]]:
    return lambda value: (term(name, value),)


RESOURCES: Final[tuple[_Resource, ...]] = (
    _Resource("eventTypes", "eventType", "eventType", event_type, _term("eventType")),
    _Resource(
        "epcs", "epc", "MATCH_anyEPC", canonical, lambda value: tuple(term(role, value) for role in EPC_ROLES), True
    ),
    _Resource("bizSteps", "bizStep", "EQ_bizStep", _word("bizStep"), _term("bizStep")),
    _Resource("bizLocations", "bizLocation", "EQ_bizLocation", canonical, _term("bizLocation"), True),
    _Resource("readPoints", "readPoint", "EQ_readPoint", canonical, _term("readPoint"), True),
    _Resource("dispositions", "disposition", "EQ_disposition", _word("disposition"), _term("disposition")),
)


def install(routes: EpcisRoutes) -> None:
    """Add the routes of every resource, and of the list of resources."""
    collection: dict[str, Any] = described({200: "A collection"}, schema=COLLECTION)
    routes.add("GET", "", top_level, QUERY, **collection)
    routes.add("GET", "/", top_level, QUERY, include_in_schema=False)
    for resource in RESOURCES:
        listing, sub, events = _handlers(resource)
        path = f"/{resource.name}/{{value:path}}"
        paged = described({200: "A collection"}, schema=COLLECTION, parameters=PAGING)
        asked = tuple(one for one in EVENTS_PARAMETERS if one["name"] != resource.field)
        routes.add("GET", f"/{resource.name}", listing, QUERY, **paged)
        routes.add("GET", f"{path}/events", events, QUERY, **described(EVENTS, parameters=asked, path="value"))
        single = described({200: "A collection"}, schema=COLLECTION, path="value")
        routes.add("GET", path, sub, QUERY, **single)


def top_level(request: Request) -> Response:
    """The resources there are."""
    refuse_parameters(request)
    return json_response(request, collection_of([*CAPTION, *(resource.name for resource in RESOURCES)]))


def collection_of(members: Sequence[str]) -> dict[str, Any]:
    """The Collection that the binding gives lists as."""
    return {"@context": CONTEXT, "type": "Collection", "member": list(members)}


def _handlers(
    resource: _Resource,
) -> tuple[Callable[[Request], Response], Callable[[Request, str], Response], Callable[[Request, str], Response]]:
    def listing(request: Request) -> Response:
        return _list(request, resource)

    def sub(request: Request, value: str) -> Response:
        refuse_parameters(request)
        services: Services = request.app.state.services
        name = _name(resource, value)
        with services.db.reading() as tx:
            if not _is_there(tx, resource, name, viewer_of(caller_of(request))):
                raise NotFound(f"None of the {resource.name} that you may see has that name.")
        return json_response(request, collection_of(["events"]))

    def events(request: Request, value: str) -> Response:
        parameters = parameters_of(request)
        if any(name == resource.field for name, _ in parameters):
            raise BadParameter(f"{resource.field} stands in the path already.", pointer=resource.field)
        name = _name(resource, value)
        services: Services = request.app.state.services
        with services.db.reading() as tx:
            if not _is_there(tx, resource, name, viewer_of(caller_of(request))):
                raise NotFound(f"None of the {resource.name} that you may see has that name.")
        condition = match("anyEPC", [value]) if resource.name == "epcs" else AnyOf(frozenset(resource.terms(name)))
        return answer(request, parameters, more=(condition,), subject=name)

    listing.__doc__ = f"The {resource.name} of events that the caller may see."
    sub.__doc__ = "What there is below this name."
    events.__doc__ = "The events of this name, filtered further by the query language."
    for handler, what in ((listing, "list"), (sub, "one"), (events, "events")):
        handler.__name__ = f"{what}_of_{resource.name}"
    return listing, sub, events


def _name(resource: _Resource, value: str) -> str:
    try:
        return resource.read(value)
    except Rejected as error:
        raise NotFound(f"None of the {resource.name} that you may see has that name.") from error


def _is_there(tx: Tx, resource: _Resource, name: str, viewer: Viewer) -> bool:
    if resource.name == "eventTypes":
        return name in EVENT_TYPES or _has_type(tx, name, viewer)
    return any(is_visible(tx, one, viewer) for one in resource.terms(name))


def _has_type(tx: Tx, name: str, viewer: Viewer) -> bool:
    # Event types have no list of their own in the index: they select too little.
    query = Query((AnyOf(frozenset({term("eventType", name)})),))
    return bool(search(tx, query, viewer, limit=1, top=newest(tx)).events)


def _list(request: Request, resource: _Resource) -> Response:
    check_length(request)
    refuse_parameters(request)
    services: Services = request.app.state.services
    viewer, limit, form = viewer_of(caller_of(request)), page_size(request), epc_format(request)
    question = question_of(request.url.path)
    with services.db.reading() as tx:
        token = token_in(request, tx, question)
        start = "" if token is None else str(token.place[0])
        if resource.name == "eventTypes":
            names = [name for name in _types(tx, viewer) if name > start]
            found, last = names[:limit], names[limit - 1] if len(names) > limit else None
        else:
            found, last = _scan(tx, resource, viewer, start, limit)
    if resource.is_identifier:
        found = [translated({"epcList": [name]}, form)["epcList"][0] for name in found]
    headers: dict[str, str] = {"GS1-EPC-Format": form}
    if last is not None:
        headers |= next_headers(request, Token(question, (last,), 0, None, services.now_ms() + TOKEN_LIFE_MS))
    return json_response(request, collection_of(found), headers=headers)


def _scan(tx: Tx, resource: _Resource, viewer: Viewer, start: str, limit: int) -> tuple[list[str], str | None]:
    """Names behind ``start`` that the viewer sees, and where the next page begins."""
    found: list[str] = []
    seen = start
    for number, name in enumerate(_names(tx, resource.kind, start)):
        if len(found) == limit or number == SCANNED_MAX:
            return found, seen
        seen = name
        if any(is_visible(tx, one, viewer) for one in resource.terms(name)):
            found.append(name)
    return found, None


def _names(tx: Tx, kind: str, start: str) -> Iterator[str]:
    name = query_names.c.name
    query = sa.select(name).where(query_names.c.kind == NAME_KINDS.index(kind), name > start)
    yield from tx.execute(query.order_by(name).limit(SCANNED_MAX + 1)).scalars()


def _types(tx: Tx, viewer: Viewer) -> list[str]:
    """The event types of the standard, which this repository takes, and extension types that the viewer sees."""
    others = [name for name in _names(tx, "eventType", "") if name not in EVENT_TYPES]
    return sorted({*EVENT_TYPES, *(name for name in others if _has_type(tx, name, viewer))})
