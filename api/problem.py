"""One error as its reader sees it: status, stable code and words (RFC 9457)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.words import say
from core.errors import Broken, Conflict, Rejected, TracebondError, Unavailable

PROBLEM_TYPE = "urn:tracebond:problem:"

# Codes that say more than their family. Everything else: Rejected 422, Conflict 409, Unavailable 503, Broken 500.
_STATUS_OF_CODE = {
    "too_large": 413,
    "query_too_large": 413,
    "query_too_complex": 413,
    "uri_too_long": 414,
    "too_deep": 400,
    "bad_json": 400,
    "duplicate_key": 400,
    "bad_number": 400,
    "bad_identifier": 400,
    "bad_check_digit": 400,
    "bad_digital_link": 400,
    "bad_time": 400,
    "compressed_link": 400,
    "ambiguous_identifier": 400,
    "bad_base64url": 400,
    "unauthenticated": 401,
    "bad_login": 401,
    "forbidden": 403,
    "not_allowed": 403,
    "above_authority": 403,
    "bad_csrf": 403,
    "not_found": 404,
    "unknown_item": 404,
    "no_such_link": 404,
    "no_such_token": 404,
    "no_such_spend": 404,
    "no_such_account": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "unsupported_media_type": 415,
    "throttled": 429,
}
_STATUS_OF_FAMILY: tuple[tuple[type[TracebondError], int], ...] = (
    (Rejected, 422),
    (Conflict, 409),
    (Unavailable, 503),
    (Broken, 500),
)


class NotFound(Rejected):
    """There is nothing here, or nothing that you may see."""

    code = "not_found"


class Forbidden(Rejected):
    """Your role does not allow this."""

    code = "forbidden"


class Unauthenticated(Rejected):
    """Sign in first."""

    code = "unauthenticated"


@dataclass(frozen=True)
class Problem:
    """One error as its reader sees it."""

    status: int
    code: str
    detail: str
    pointer: str = ""
    headers: Mapping[str, str] | None = None
    more: Mapping[str, Any] | None = None

    def document(self, lang: str = "en") -> dict[str, Any]:
        """The members of the RFC 9457 document."""
        body: dict[str, Any] = {
            "type": PROBLEM_TYPE + self.code,
            "title": say(f"http.{self.status}", lang),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.pointer:
            body["pointer"] = self.pointer
        return body | dict(self.more or {})


def problem_of(error: TracebondError) -> Problem:
    """The status and words for one of our own errors; a Broken tells the outside nothing of its inside."""
    status = _STATUS_OF_CODE.get(error.code)
    if status is None:
        status = next((number for family, number in _STATUS_OF_FAMILY if isinstance(error, family)), 500)
    if status == 500:
        return Problem(500, error.code, "An internal check failed. The operator has been told.")
    headers = {"Retry-After": "5"} if status in (429, 503) else None
    return Problem(status, error.code, error.message, error.pointer, headers)
