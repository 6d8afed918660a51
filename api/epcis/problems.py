"""EPCISException bodies: problem documents whose type is the standard's name for the fault.

Source: GS1 EPCIS 2.0.1, section 12.6.2, and the schemas of its OpenAPI description.
"""

from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

from fastapi.responses import JSONResponse, Response

from api.epcis.headers import ANSWER_HEADERS, LIMIT_HEADERS, VERSION_HEADERS
from api.problem import Problem, problem_of
from core.errors import TracebondError

PREFIX: Final = "epcisException:"
VALIDATION: Final = "ValidationException"

# By our stable code where one status covers several exceptions of the standard, else by status.
_OF_CODE: Final[Mapping[str, str]] = {
    "query_parameter": "QueryParameterException",
    "query_validation": "QueryValidationException",
    "query_too_complex": "QueryTooComplexException",
    "query_too_large": "QueryTooLargeException",
    "subscription_controls": "SubscriptionControlsException",
    "subscribe_not_permitted": "SubscribeNotPermittedException",
    "invalid_uri": "InvalidURIException",
}
_OF_STATUS: Final[Mapping[int, str]] = {
    400: VALIDATION,
    401: "SecurityException",
    403: "SecurityException",
    404: "NoSuchNameException",
    405: "ValidationException",
    406: "NotAcceptableException",
    409: "ResourceAlreadyExistsException",
    413: "CaptureLimitExceededException",
    414: "URITooLongException",
    415: "UnsupportedMediaTypeException",
    422: VALIDATION,
    500: "ImplementationException",
    501: "ImplementationException",
    503: "ImplementationException",
}
_TITLES: Final[Mapping[str, str]] = {
    "ValidationException": "The request or an event is not valid",
    "SecurityException": "You may not do this",
    "NoSuchNameException": "There is no such resource",
    "NotAcceptableException": "No version or form that you accept is spoken here",
    "ResourceAlreadyExistsException": "The resource is there already",
    "CaptureLimitExceededException": "The capture is larger than the limits",
    "URITooLongException": "The address is too long",
    "UnsupportedMediaTypeException": "This media type is not taken",
    "ImplementationException": "The server failed; try again later",
    "QueryParameterException": "A query parameter is wrong",
    "QueryValidationException": "The query is not valid",
    "QueryTooComplexException": "The query is too complex",
    "QueryTooLargeException": "The query gives too much",
    "SubscriptionControlsException": "The subscription's schedule or trigger is wrong",
    "SubscribeNotPermittedException": "This query cannot be subscribed to",
    "InvalidURIException": "The address to report to is wrong",
}


def exception_name(status: int, code: str = "") -> str:
    """The standard's name for a fault, without the prefix."""
    return _OF_CODE.get(code) or _OF_STATUS.get(status) or ("ImplementationException" if status >= 500 else VALIDATION)


def exception_body(
    status: int, code: str, detail: str, *, pointer: str = "", more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The members of an EPCISException: type, title, status and detail, and our stable code and pointer."""
    # Our 422 (understood but wrong) is the standard's 400.
    status = 400 if status == 422 else status
    name = exception_name(status, code)
    body: dict[str, Any] = {"type": PREFIX + name, "title": _TITLES[name], "status": status, "detail": detail}
    body["code"] = code
    if pointer:
        body["pointer"] = pointer
    return body | dict(more or {})


def error_body(error: TracebondError) -> dict[str, Any]:
    """The EPCISException that says one of our own errors."""
    problem = problem_of(error)
    return exception_body(problem.status, problem.code, problem.detail, pointer=problem.pointer)


def epcis_problem(problem: Problem, accept: str = "") -> Response:
    """The answer to a request below ``/epcis`` that failed, as JSON, or as XML where that is asked for."""
    body = exception_body(problem.status, problem.code, problem.detail, pointer=problem.pointer, more=problem.more)
    headers = dict(ANSWER_HEADERS) | dict(problem.headers or {}) | {"Cache-Control": "no-store"}
    if body["status"] == 406:
        headers |= dict(VERSION_HEADERS)
    if body["status"] == 413:
        headers |= dict(LIMIT_HEADERS)
    if body["status"] == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="epcis"'
    if "xml" in accept and "json" not in accept:
        return Response(_xml(body), body["status"], headers=headers, media_type="application/problem+xml")
    return JSONResponse(body, body["status"], headers=headers, media_type="application/problem+json")


def members_xml(body: Mapping[str, Any]) -> str:
    """The members of an EPCISException as XML elements."""
    names = ("type", "title", "status", "detail", "code", "pointer")
    return "".join(f"<{name}>{escape(str(body[name]))}</{name}>" for name in names if name in body)


def _xml(body: Mapping[str, Any]) -> str:
    members = members_xml(body)
    return f'<epcis:EPCISException xmlns:epcis="urn:epcglobal:epcis:xsd:2">{members}</epcis:EPCISException>'
