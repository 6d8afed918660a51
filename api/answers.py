"""What OpenAPI says of the answers that any route of a group may give beside its own."""

from collections.abc import Mapping
from typing import Any, Final

PROBLEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "pointer": {"type": "string"},
    },
}
_WORDS: Final[Mapping[int, str]] = {
    303: "Done; a browser's form is led on",
    307: "The address that the link leads to",
    304: "The copy you hold is the present one",
    400: "A parameter or the body cannot be read",
    401: "Not signed in, or a key that does not work",
    403: "You may not do this",
    404: "There is nothing here, or nothing that you may see",
    406: "No version or form that you accept is spoken here",
    409: "It does not fit how things stand now",
    413: "The body, or the answer, would be too large",
    414: "The address is too long",
    415: "This media type is not taken",
    422: "The request can be read, but a value is wrong",
    429: "Too many tries; wait",
    503: "A part of the server is away; try again",
}
_READ: Final = (400, 404, 413, 415, 422, 503)
_EPCIS: Final = (400, 401, 403, 404, 406, 409, 413, 415, 503)


def problems(method: str, *, is_guarded: bool) -> dict[int | str, Any]:
    """The answers of a route of pages and programs: problem documents, pages that tell a browser's user, redirects."""
    codes = _READ + ((303, 409) if method == "POST" else (303, 304, 307, 406, 414))
    codes += (401, 403) if is_guarded else (401, 403, 429) if method == "POST" else (429,)
    return {code: _answer(code, ("application/problem+json", "text/html")) for code in sorted(codes)}


def exceptions() -> dict[int | str, Any]:
    """The answers of an EPCIS route that took no care of its own: EPCISException bodies."""
    return {code: _answer(code, ("application/problem+json", "application/problem+xml")) for code in _EPCIS}


def _answer(code: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    if code < 400:
        return {"description": _WORDS[code]}
    content = {kind: {"schema": dict(PROBLEM) if "json" in kind else {"type": "string"}} for kind in kinds}
    return {"description": _WORDS[code], "content": content}
