"""Answers to queries: the EPCISQueryDocument in JSON or XML, from one page of found events."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response

from api.auth.partners import Caller
from api.epcis.headers import EpcFormat, NotAcceptable, cbv_format, epc_format
from api.epcis.query_pages import time_text
from core.canonical import dump_json
from core.epcis.forms import translated
from core.epcis.xml_out import document_xml
from ledger.queryindex_search import Found, Viewer

CONTEXT: Final = "https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld"
QUERY_NAME: Final = "SimpleEventQuery"
SUSPECT: Final = "tb:suspect"
TB_NAMESPACE: Final = "urn:tracebond:event:"
JSON_TYPES: Final = ("application/json", "application/ld+json")
XML_TYPES: Final = ("application/xml", "text/xml")
_GS1_CONTEXT = re.compile(r"https?://(ref\.)?gs1\.(org|github\.io)/[^?#]*epcis[^?#]*context[^?#]*\Z")


def viewer_of(caller: Caller) -> Viewer:
    """What a caller may see."""
    return Viewer(caller.speaks_as, caller.is_regulator, caller.reader)


def shown(found: Found, form: EpcFormat) -> dict[str, Any]:
    """One event as it goes out: in the identifiers asked for, with its record time, and marked when it is suspect."""
    event = translated(found.event, form) | {"recordTime": time_text(found.record_ms)}
    if found.suspect is not None:
        event[SUSPECT] = found.suspect
        event["@context"] = [*_parts(event.get("@context")), {"tb": TB_NAMESPACE}]
    return event


def query_document(
    events: Sequence[dict[str, Any]], *, now_ms: int, query_name: str = QUERY_NAME, subscription: str | None = None
) -> dict[str, Any]:
    """The EPCISQueryDocument of events; prefixes that all agree on stand once, in the document's own context."""
    prefixes = _common_prefixes(events)
    results: dict[str, Any] = {"queryName": query_name}
    if subscription is not None:
        results["subscriptionID"] = subscription
    results["resultsBody"] = {"eventList": [_hoisted(event, prefixes) for event in events]}
    return {
        "@context": [CONTEXT, prefixes] if prefixes else [CONTEXT],
        "type": "EPCISQueryDocument",
        "schemaVersion": "2.0",
        "creationDate": time_text(now_ms),
        "epcisBody": {"queryResults": results},
    }


def document_response(
    request: Request,
    found: Sequence[Found],
    *,
    now_ms: int,
    query_name: str = QUERY_NAME,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer in the form that the request accepts.

    Raises:
        NotAcceptable: neither JSON nor XML is accepted.
    """
    form = epc_format(request)
    events = [shown(one, form) for one in found]
    more = dict(headers or {}) | {"GS1-EPC-Format": form, "Cache-Control": "no-store", "Vary": "Accept, Authorization"}
    kind = accepted(request, (*JSON_TYPES, *XML_TYPES))
    if kind in XML_TYPES:
        cbv = cbv_format(request)
        body = document_xml(events, created=time_text(now_ms), query_name=query_name, cbv_format=cbv)
        return Response(body, media_type=kind, headers=more)
    return Response(
        encoded(query_document(events, now_ms=now_ms, query_name=query_name)), media_type=kind, headers=more
    )


def json_response(
    request: Request, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer that is no event document.

    Raises:
        NotAcceptable: JSON is not accepted.
    """
    kind = accepted(request, JSON_TYPES)
    more = dict(headers or {}) | {"Cache-Control": "no-store"}
    return Response(encoded(value), status, media_type=kind, headers=more)


def accepted(request: Request, kinds: Sequence[str]) -> str:
    """The best of these media types for the request's Accept header (RFC 9110, section 12.5.1).

    Raises:
        NotAcceptable: none of them is accepted.
    """
    header = request.headers.get("accept", "").strip()
    if not header:
        return kinds[0]
    best, quality = "", 0.0
    ranges = [_range(part) for part in header.split(",") if part.strip()]
    for kind in kinds:
        fitting = [one for one in ranges if one[0] in (kind, kind.partition("/")[0] + "/*", "*/*")]
        if fitting:
            # The most specific range counts for this type.
            weight = max(fitting, key=lambda one: (one[0] == kind, "/*" not in one[0], one[0] != "*/*"))[1]
            if weight > quality:
                best, quality = kind, weight
    if not best:
        raise NotAcceptable(f"This is given as {' or '.join(kinds)}.", pointer="Accept")
    return best


def encoded(value: Any) -> bytes:
    """JSON bytes in which decimals keep their digits."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except TypeError:
        return dump_json(value)


def _range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                return name, 0.0
    return name, 1.0


def _parts(context: Any) -> list[Any]:
    if context is None:
        return []
    return list(context) if isinstance(context, list) else [context]


def _prefixes(event: Mapping[str, Any]) -> dict[str, str] | None:
    """The prefixes of an event's context; None when it says more than prefixes."""
    found: dict[str, str] = {}
    for part in _parts(event.get("@context")):
        if isinstance(part, str):
            if _GS1_CONTEXT.match(part) is None:
                return None
        elif isinstance(part, Mapping) and all(isinstance(value, str) for value in part.values()):
            for prefix, iri in part.items():
                if found.setdefault(prefix, iri) != iri or prefix.startswith("@"):
                    return None
        else:
            return None
    return found


def _common_prefixes(events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    clashing: set[str] = set()
    for event in events:
        for prefix, iri in (_prefixes(event) or {}).items():
            if found.setdefault(prefix, iri) != iri:
                clashing.add(prefix)
    return {prefix: iri for prefix, iri in found.items() if prefix not in clashing}


def _hoisted(event: dict[str, Any], common: Mapping[str, str]) -> dict[str, Any]:
    own = _prefixes(event)
    if own is not None and all(common.get(prefix) == iri for prefix, iri in own.items()):
        return {name: value for name, value in event.items() if name != "@context"}
    return event
