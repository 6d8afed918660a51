"""What OpenAPI says of the query routes: every parameter, and every answer that can come."""

from collections.abc import Mapping
from typing import Any, Final

from api.answers import PROBLEM
from api.epcis.headers import ANSWER_HEADERS
from ledger.queryindex_terms import EVENT_TYPES

EVENTS: Final[Mapping[int, str]] = {200: "An EPCISQueryDocument"}
_FAULTS: Final[Mapping[int, str]] = {
    400: "A parameter, header or body is wrong",
    401: "No API key, or one that does not work",
    403: "The key does not allow this",
    404: "There is no such resource, or none that you may see",
    406: "No version or form that you accept is spoken here",
    413: "The body, or the answer, would be too large",
    414: "The address is too long",
    500: "The server failed",
    503: "A part of the server is away",
}
_DOCUMENT: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["@context", "type", "schemaVersion", "creationDate", "epcisBody"],
    "properties": {
        "type": {"type": "string", "const": "EPCISQueryDocument"},
        "schemaVersion": {"type": "string"},
        "creationDate": {"type": "string", "format": "date-time"},
        "epcisBody": {"type": "object", "required": ["queryResults"]},
    },
}
COLLECTION: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["@context", "type", "member"],
    "properties": {
        "type": {"type": "string", "const": "Collection"},
        "member": {"type": "array", "items": {"type": "string"}},
    },
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TEXTS: Final = _words(
    "EQ_bizStep EQ_disposition EQ_persistentDisposition_set EQ_persistentDisposition_unset EQ_readPoint "
    "WD_readPoint EQ_bizLocation WD_bizLocation EQ_transformationID MATCH_epc MATCH_parentID "
    "MATCH_inputEPC MATCH_outputEPC MATCH_anyEPC MATCH_epcClass MATCH_inputEPCClass MATCH_outputEPCClass "
    "MATCH_anyEPCClass EQ_eventID EQ_errorReason EQ_correctiveEventID EQ_type EQ_deviceID "
    "EQ_dataProcessingMethod EQ_microorganism EQ_chemicalSubstance EQ_bizRules EQ_stringValue "
    "EQ_hexBinaryValue EQ_uriValue"
)
_TIMES: Final = _words(
    "GE_eventTime LT_eventTime GE_recordTime LT_recordTime GE_errorDeclarationTime "
    "LT_errorDeclarationTime GE_errorDeclaration_Time LT_errorDeclaration_Time GE_time LT_time "
    "GE_startTime LT_startTime GE_endTime LT_endTime"
)
_NUMBERS: Final = _words(
    "EQ_quantity GT_quantity GE_quantity LT_quantity LE_quantity GT_percRank GE_percRank LT_percRank LE_percRank"
)


def _list(name: str, items: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "array", "minItems": 1, "items": dict(items)}
    return {"name": name, "in": "query", "style": "pipeDelimited", "explode": False, "schema": schema}


def _one(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": dict(schema)}


PAGING: Final[tuple[Mapping[str, Any], ...]] = (
    _one("perPage", {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 30}),
    _one("nextPageToken", {"type": "string"}),
)
# The parameters with fixed names. Those with a unit, a type or an extension's name in theirs follow the same rules.
EVENTS_PARAMETERS: Final[tuple[Mapping[str, Any], ...]] = (
    *PAGING,
    _list("eventType", {"type": "string", "enum": list(EVENT_TYPES)}),
    _list("EQ_action", {"type": "string", "enum": ["ADD", "OBSERVE", "DELETE"]}),
    *(_list(name, {"type": "string", "minLength": 1}) for name in _TEXTS),
    *(_one(name, {"type": "string", "format": "date-time"}) for name in _TIMES),
    *(_one(name, {"type": "number"}) for name in _NUMBERS),
    _one("EQ_booleanValue", {"type": "boolean"}),
    _one("EXISTS_errorDeclaration", {"type": "boolean"}),
    _one("EXISTS_sensorElementList", {"type": "boolean"}),
    _one("orderBy", {"type": "string"}),
    _one("orderDirection", {"type": "string", "enum": ["ASC", "DESC"]}),
    _one("eventCountLimit", {"type": "integer", "minimum": 1}),
    _one("maxEventCount", {"type": "integer", "minimum": 1}),
)


def described(
    answers: Mapping[int, str],
    *,
    schema: Mapping[str, Any] | None = None,
    parameters: tuple[Mapping[str, Any], ...] = (),
    path: str = "",
    body: Mapping[str, Any] | None = None,
    faults: tuple[int, ...] = (),
) -> dict[str, Any]:
    """FastAPI options for a route.

    Args:
        answers: status and meaning of what is no fault.
        schema: of a JSON answer; without it the answer is an event document.
        path: name of a parameter in the path.
        body: JSON schema of the request's body.
        faults: statuses besides the common ones.
    """
    responses: dict[int | str, Any] = {}
    headers = {name: {"schema": {"type": "string"}} for name in ANSWER_HEADERS}
    for status, text in answers.items():
        responses[status] = {"description": text, "headers": headers}
        if status != 204:
            kinds = ("application/json", "application/ld+json")
            content: dict[str, Any] = {kind: {"schema": dict(schema or _DOCUMENT)} for kind in kinds}
            if schema is None:
                content |= {kind: {"schema": {"type": "string"}} for kind in ("application/xml", "text/xml")}
            responses[status]["content"] = content
    codes = {**_FAULTS, **({409: "It is there already"} if 409 in faults else {})}
    codes |= {415: "Only JSON is taken here"} if 415 in faults else {}
    for status, text in codes.items():
        content = {
            "application/problem+json": {"schema": dict(PROBLEM)},
            "application/problem+xml": {"schema": {"type": "string"}},
        }
        responses[status] = {"description": text, "content": content}
    extra: dict[str, Any] = {"parameters": [dict(one) for one in parameters]}
    if path:
        extra["parameters"] += [{"name": path, "in": "path", "required": True, "schema": {"type": "string"}}]
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": dict(body)}}}
    return {"responses": responses, "openapi_extra": extra if extra["parameters"] or body is not None else None}
