"""ASGI middleware: a body limit by bytes read, HEAD and OPTIONS for every route, and the security headers."""

import re
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.epcis.headers import CAPTURE_BYTES_MAX, discovery_headers
from api.errors import is_epcis, send_problem
from api.problem import Problem
from core.errors import Rejected
from core.gs1 import KEYS, SHORT_NAMES
from core.gs1_compress import looks_compressed

BODY_BYTES_MAX: Final = 1_048_576
HEADERS_MAX: Final = 100
CAPTURE_PATHS: Final = ("/epcis/capture", "/epcis/events")

# No inline script, no inline style, nothing from elsewhere; a page may ask a node that its reader names.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self' http: https:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_PUBLIC_PATHS = re.compile(r"/(items/|\.well-known/|log/|rpc\Z|\d{2,4}/|openapi\.json)")
# GS1 key paths by their old short names, and compressed links: one segment of file-safe base64.
_KEY_NAMES = re.compile(rf"/(?i:{'|'.join(name for name, ai in SHORT_NAMES.items() if ai in KEYS)})/")
_PACKED = re.compile(r"/([A-Za-z0-9_-]{8,400})\Z")


# The resolver's patterns fit every path; what they do not answer has no methods.
_CATCH_ALL: Final = frozenset({"/{ai}/{path:path}", "/{compressed}"})


class BodyLimit:
    """Refuse a request whose body is larger than the limit, whatever its Content-Length says.

    A chunked body has no length, and a stated one may be a lie: bytes are counted as they arrive (T23).
    """

    def __init__(self, app: ASGIApp, bytes_max: int = BODY_BYTES_MAX) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while its body stays within the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if len(headers) > HEADERS_MAX:
            await send_problem(Problem(431, "too_many_headers", "Too many header fields."), scope, receive, send)
            return
        bytes_max = CAPTURE_BYTES_MAX if scope["path"] in CAPTURE_PATHS else self._bytes_max
        too_large = Problem(413, "too_large", f"A request body has at most {bytes_max} bytes.")
        stated = headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdigit() or len(stated) > 12 or int(stated) > bytes_max:
            await send_problem(too_large, scope, receive, send)
            return
        if headers.get("content-encoding", "identity") != "identity":
            problem = Problem(415, "unsupported_media_type", "Compressed request bodies are not taken.")
            await send_problem(problem, scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > bytes_max:
                raise Rejected(too_large.detail, code="too_large")
            return message

        await self._app(scope, counted, send)


class Methods:
    """HEAD as GET without its body, and OPTIONS answered from the route table."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve HEAD and OPTIONS here, pass everything else on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] not in ("HEAD", "OPTIONS"):
            await self._app(scope, receive, _with_allow(scope, send))
            return
        if scope["method"] == "OPTIONS":
            await self._options(scope, send)
            return

        async def bodiless(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET", "tracebond.head": True}, receive, bodiless)

    async def _options(self, scope: Scope, send: Send) -> None:
        allowed = sorted(methods_at(scope))
        status = 204 if allowed else 404
        headers = MutableHeaders()
        if allowed:
            headers["Allow"] = ", ".join([*allowed, "OPTIONS"])
            if is_epcis(scope["path"]):
                headers.update(discovery_headers(scope["path"]))
            if is_public_path(scope["path"]):
                headers["Access-Control-Allow-Methods"] = headers["Allow"]
                headers["Access-Control-Allow-Headers"] = "Accept, Accept-Language, Content-Type"
                headers["Access-Control-Max-Age"] = "86400"
        await send({"type": "http.response.start", "status": status, "headers": headers.raw})
        await send({"type": "http.response.body", "body": b""})


def _with_allow(scope: Scope, send: Send) -> Send:
    """A 405 names every method of its path; the router knows only those of the first route that fits."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            MutableHeaders(scope=message)["Allow"] = ", ".join([*sorted(methods_at(scope)), "OPTIONS"])
        await send(message)

    return named


class SecurityHeaders:
    """The security headers on every answer, and open CORS on what is public to machines anyway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers as the answer starts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
                if is_public_path(scope["path"]):
                    headers.setdefault("Access-Control-Allow-Origin", "*")
                    headers.setdefault("Access-Control-Expose-Headers", "Link, Location, ETag")
            await send(message)

        await self._app(scope, receive, dressed)


def is_public_path(path: str) -> bool:
    """Whether any origin may read the answer: resolver, items, log and node, none of which use the session."""
    if _PUBLIC_PATHS.match(path) or _KEY_NAMES.match(path):
        return True
    packed = _PACKED.match(path)
    return packed is not None and looks_compressed(packed[1])


def methods_at(scope: Scope) -> Iterable[str]:
    """The methods of all routes that fit a path, HEAD with GET; none where there is nothing."""
    found: set[str] = set()
    for route in scope["app"].routes:
        match, _ = route.matches({**scope, "method": "GET"})
        if match is not Match.NONE:
            methods = set(getattr(route, "methods", None) or ())
            if getattr(route, "path", "") in _CATCH_ALL and not is_public_path(scope["path"]):
                continue
            found |= methods | ({"HEAD"} if "GET" in methods else set())
    return found
