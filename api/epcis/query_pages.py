"""Pages of an answer: how many per page, where the next one begins, and the tokens that say so.

A token holds a place in an answer and nothing that opens a door: whoever shows it sees what he may see.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import sqlalchemy as sa
from fastapi import Request

from api.epcis.query_language import BadParameter
from api.epcis.query_tables import dropped_tokens
from api.errors import NotFound
from api.services import Services
from core.canonical import b64u, sha256, unb64u
from core.errors import Rejected
from ledger.database import Tx

PER_PAGE: Final = 30
PER_PAGE_MAX: Final = 1_000
TOKEN_LIFE_MS: Final = 3_600_000
TOKEN_CHARACTERS_MAX: Final = 2_048
_COUNT = re.compile(r"[1-9][0-9]{0,8}\Z", re.ASCII)
_INTEGER_MAX: Final = 2**63 - 1


class NoSuchToken(NotFound):
    """The token leads nowhere: it was not given out here, it has expired, or it was given up."""


@dataclass(frozen=True)
class Token:
    """A place in an answer.

    Attributes:
        question: what it is an answer to.
        place: where the next page begins.
        top: the newest event of the answer.
        left: how many more events may come, None without a limit.
    """

    question: bytes
    place: tuple[int | str, ...]
    top: int
    left: int | None
    expires_ms: int

    def encode(self) -> str:
        """Its text."""
        value = [1, b64u(self.question), list(self.place), self.top, self.left, self.expires_ms]
        return b64u(json.dumps(value, separators=(",", ":")).encode())


def read_token(text: str) -> Token:
    """The token of a text.

    Raises:
        NoSuchToken: it is none of ours.
    """
    wrong = NoSuchToken("This nextPageToken was not given out here.", pointer="nextPageToken")
    if len(text) > TOKEN_CHARACTERS_MAX:
        raise wrong
    try:
        version, question, place, top, left, expires_ms = json.loads(unb64u(text))
        found = Token(unb64u(question, length=8), tuple(place), top, left, expires_ms)
    except (Rejected, ValueError, TypeError, RecursionError) as error:
        raise wrong from error
    integers = (top, expires_ms, *((left,) if left is not None else ()))
    places = all(isinstance(part, str) or _is_integer(part) for part in found.place)
    if version != 1 or not found.place or len(found.place) > 2 or not places or not all(map(_is_integer, integers)):
        raise wrong
    return found


def page_size(request: Request) -> int:
    """How many a page holds: ``perPage``, at most our own limit.

    Raises:
        BadParameter: it is no whole number from 1 on.
    """
    text = request.query_params.get("perPage", str(PER_PAGE))
    if not _COUNT.match(text):
        raise BadParameter("perPage is a whole number from 1 on.", pointer="perPage")
    return min(int(text), PER_PAGE_MAX)


def question_of(*parts: Any) -> bytes:
    """What an answer answers, as 8 bytes: a token fits the question it was given out for."""
    return sha256(json.dumps(parts, default=str, sort_keys=True).encode())[:8]


def token_in(request: Request, tx: Tx, question: bytes) -> Token | None:
    """The token that a request carries, None for a first page.

    Raises:
        NoSuchToken: it is unknown, expired or given up.
        BadParameter: it belongs to another question.
    """
    text = request.query_params.get("nextPageToken")
    if text is None:
        return None
    token = read_token(text)
    services: Services = request.app.state.services
    is_dropped = tx.execute(sa.select(dropped_tokens.c.hash).where(dropped_tokens.c.hash == sha256(text.encode())))
    if token.expires_ms <= services.now_ms() or is_dropped.first() is not None:
        raise NoSuchToken("This nextPageToken has expired; ask for the first page again.", pointer="nextPageToken")
    if token.question != question:
        raise BadParameter("This nextPageToken belongs to another query.", pointer="nextPageToken")
    return token


def drop_token(tx: Tx, text: str, *, now_ms: int) -> None:
    """Give a token up.

    Raises:
        NoSuchToken: it is none of ours.
    """
    token = read_token(text)
    tx.execute(dropped_tokens.delete().where(dropped_tokens.c.expires_ms < now_ms))
    key = sha256(text.encode())
    if tx.execute(sa.select(dropped_tokens.c.hash).where(dropped_tokens.c.hash == key)).first() is None:
        expires_ms = min(token.expires_ms, now_ms + TOKEN_LIFE_MS)
        tx.execute(dropped_tokens.insert().values(hash=key, expires_ms=expires_ms))


def next_headers(request: Request, token: Token) -> dict[str, str]:
    """The headers that lead to the next page."""
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "nextPageToken"]
    pairs.append(("nextPageToken", token.encode()))
    services: Services = request.app.state.services
    path = quote(request.url.path, safe="/:;,@!$&'()*+=~%-._")
    url = f"{services.settings.base_url}{path}?{urlencode(pairs, quote_via=quote)}"
    return {"Link": f'<{url}>; rel="next"', "GS1-Next-Page-Token-Expires": time_text(token.expires_ms)}


def time_text(ms: int) -> str:
    """A time in UTC with milliseconds, as EPCIS writes it."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


def parameters_of(request: Request, *leave_out: str) -> Sequence[tuple[str, str]]:
    """The query parameters of a request, without those that say how it is paged."""
    out = {"perPage", "nextPageToken", *leave_out}
    return [(name, value) for name, value in request.query_params.multi_items() if name not in out]


def refuse_parameters(request: Request, known: Mapping[str, object] | frozenset[str] = frozenset()) -> None:
    """Refuse parameters that a resource does not have.

    Raises:
        BadParameter: there is one.
    """
    for name, _ in parameters_of(request):
        if name not in known:
            raise BadParameter(f"There is no query parameter {name[:200]!r} here.", pointer=name[:200])


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= _INTEGER_MAX
