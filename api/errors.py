"""Problem documents (RFC 9457) for every error, with the stable codes of ``core.errors``."""

import json

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from api.epcis.problems import epcis_problem
from api.pages import error_page
from api.problem import Forbidden as Forbidden  # noqa: PLC0414 (public names of this module too)
from api.problem import NotFound as NotFound  # noqa: PLC0414
from api.problem import Problem, problem_of
from api.problem import Unauthenticated as Unauthenticated  # noqa: PLC0414
from core.errors import TracebondError


def problem_response(problem: Problem, lang: str = "en") -> Response:
    """The problem as ``application/problem+json``."""
    return JSONResponse(
        problem.document(lang),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=dict(problem.headers or {}) | {"Cache-Control": "no-store"},
    )


async def send_problem(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a problem from inside an ASGI middleware."""
    response = epcis_problem(problem, Headers(scope=scope).get("accept", "")) if is_epcis(scope["path"]) else None
    await (response or problem_response(problem))(scope, receive, send)


def is_epcis(path: str) -> bool:
    """Whether a path belongs to the EPCIS interface, whose errors have a form of their own."""
    return path == "/epcis" or path.startswith("/epcis/")


def of_http(error: HTTPException) -> Problem:
    """The problem for what the router itself refuses (no such page, wrong method)."""
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}
    detail = str(error.detail) if error.detail else ""
    return Problem(error.status_code, codes.get(error.status_code, "http_error"), detail, headers=error.headers)


def of_validation(error: RequestValidationError) -> Problem:
    """The problem for path and query parameters that do not fit their types."""
    faults = [
        {"pointer": "/".join(str(part) for part in fault["loc"]), "code": fault["type"], "detail": fault["msg"]}
        for fault in error.errors()[:20]
    ]
    first = faults[0] if faults else {"pointer": "", "detail": "The request does not fit."}
    return Problem(
        422, "bad_request", first["detail"], first["pointer"], more={"errors": json.loads(json.dumps(faults))}
    )


def wants_html(request: Request) -> bool:
    """Whether the reader is a person with a browser (``text/html`` named and not below JSON)."""
    accept = request.headers.get("accept", "")
    return "text/html" in accept and "json" not in accept.split("text/html")[0]


def install(app: FastAPI) -> None:
    """Put the handlers for all error families into the application."""

    def answer(request: Request, problem: Problem) -> Response:
        if is_epcis(request.url.path):
            return epcis_problem(problem, request.headers.get("accept", ""))
        if wants_html(request):
            return error_page(request, problem)
        return problem_response(problem)

    @app.exception_handler(TracebondError)
    async def _ours(request: Request, error: TracebondError) -> Response:
        return answer(request, problem_of(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return answer(request, of_http(error))

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return answer(request, of_validation(error))

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, so the server's log keeps its whole trace.
        return answer(request, Problem(500, "internal_error", "An unexpected error. The operator has been told."))
