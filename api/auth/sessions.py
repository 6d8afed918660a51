"""Server-side sessions: a random token in a cookie, its hash in the database; and the CSRF token derived from it."""

import hmac
from typing import Final
from urllib.parse import parse_qs, urlsplit

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import Connection, insert, select, update
from starlette.requests import HTTPConnection

from api.identity import Identity, Role
from api.problem import Forbidden
from api.services import Services
from api.tables import ONE_TIME_LOGIN, PERSON, SESSION, USER
from core.canonical import b64u, sha256, unb64u
from core.errors import Broken, Rejected

TOKEN_BYTES: Final = 32
CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "x-csrf-token"
# The last-seen time is written at most once a minute: a page view stays a read.
_SEEN_STEP_MS: Final = 60_000


def cookie_name(is_https: bool) -> str:
    """``__Host-`` binds the cookie to this host and to https, where there is https."""
    return "__Host-tracebond" if is_https else "tracebond"


def open_session(tx: Connection, user_id: int, *, now_ms: int, token: bytes) -> str:
    """Store a session for a fresh random token and give the cookie's text."""
    tx.execute(
        insert(SESSION).values(
            token_hash=sha256(token), user_id=user_id, opened_ms=now_ms, seen_ms=now_ms, ended_ms=None
        )
    )
    return b64u(token)


def end_session(tx: Connection, session_hash: bytes, *, now_ms: int) -> None:
    """End a session; ending it twice changes nothing."""
    ended = update(SESSION).where(SESSION.c.token_hash == session_hash, SESSION.c.ended_ms.is_(None))
    tx.execute(ended.values(ended_ms=now_ms))


def create_one_time_login(tx: Connection, user_id: int, *, now_ms: int, token: bytes, life_s: int = 86_400) -> str:
    """Store a login that works once until it expires, and give its token for ``/login/once/{token}``.

    Args:
        token: 32 fresh random bytes; only their hash is stored.
    """
    if len(token) != TOKEN_BYTES:
        raise Broken("A one-time login needs 32 random bytes.", code="bad_token")
    tx.execute(
        insert(ONE_TIME_LOGIN).values(
            token_hash=sha256(token), user_id=user_id, expires_ms=now_ms + life_s * 1_000, used_ms=None
        )
    )
    return b64u(token)


def one_time_user(tx: Connection, token: str, *, now_ms: int) -> int | None:
    """The user of a one-time login that still works, without using it up."""
    row = tx.execute(select(ONE_TIME_LOGIN).where(ONE_TIME_LOGIN.c.token_hash == _hash(token))).first()
    if row is None or row.used_ms is not None or row.expires_ms <= now_ms:
        return None
    return int(row.user_id)


def use_one_time_login(tx: Connection, token: str, *, now_ms: int) -> int:
    """Use a one-time login up and give its user; one atomic update decides between two who try at once.

    Raises:
        Rejected: ``bad_login``: unknown, used or expired, which look the same from outside.
    """
    one = ONE_TIME_LOGIN.c
    used = (
        update(ONE_TIME_LOGIN)
        .where(one.token_hash == _hash(token), one.used_ms.is_(None), one.expires_ms > now_ms)
        .values(used_ms=now_ms)
    )
    if tx.execute(used).rowcount != 1:
        raise Rejected("This one-time login is unknown, used or expired.", code="bad_login")
    return int(tx.execute(select(one.user_id).where(one.token_hash == _hash(token))).scalar_one())


def csrf_of(token: bytes) -> str:
    """The CSRF token of a session: known to pages of this site, never to another site."""
    return b64u(sha256(b"tracebond/csrf/1\x00" + token))


def identity_of(request: HTTPConnection) -> Identity | None:
    """The signed-in user behind the session cookie, or None."""
    text = request.cookies.get(cookie_name(request.url.scheme == "https"), "")
    if not text:
        return None
    try:
        token = unb64u(text, length=TOKEN_BYTES)
    except Rejected:
        return None
    services: Services = request.app.state.services
    now_ms, settings, token_hash = services.now_ms(), services.settings, sha256(token)
    query = (
        select(SESSION.c.opened_ms, SESSION.c.seen_ms, USER, PERSON.c.name)
        .join(USER, USER.c.id == SESSION.c.user_id)
        .join(PERSON, PERSON.c.id == USER.c.person_id)
        .where(SESSION.c.token_hash == token_hash, SESSION.c.ended_ms.is_(None), USER.c.is_active)
    )
    with services.db.reading() as tx:
        row = tx.execute(query).first()
    if row is None or now_ms - row.seen_ms > settings.session_idle_s * 1_000:
        return None
    if now_ms - row.opened_ms > settings.session_life_s * 1_000:
        return None
    if now_ms - row.seen_ms > _SEEN_STEP_MS:
        with services.db.transaction() as tx:
            tx.execute(update(SESSION).where(SESSION.c.token_hash == token_hash).values(seen_ms=now_ms))
    return Identity(
        user_id=row.id,
        person_id=row.person_id,
        login=row.login,
        name=row.name,
        org=row.org,
        roles=frozenset(Role(name) for name in row.roles.split()),
        csrf=csrf_of(token),
        session_hash=token_hash,
    )


async def require_csrf(request: Request, identity: Identity) -> None:
    """Return if the request carries the session's CSRF token, in a header or in its form.

    Raises:
        Forbidden: ``bad_csrf``.
    """
    given = request.headers.get(CSRF_HEADER, "")
    if not given and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=200)
        given = fields.get(CSRF_FIELD, [""])[0]
    if not hmac.compare_digest(given.encode(), identity.csrf.encode()):
        raise Forbidden("The form is too old or came from elsewhere; open the page again.", code="bad_csrf")


def require_same_site(request: Request) -> None:
    """Return if a sign-in came from a page of this site or from a program that is no browser.

    There is no session yet to derive a token from, so the browser's own words are used.

    Raises:
        Forbidden: ``bad_csrf``.
    """
    origin = request.headers.get("origin", "")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (
        origin not in ("", "null") and urlsplit(origin).netloc != request.headers.get("host", "")
    ):
        raise Forbidden("Sign in from this site's own page.", code="bad_csrf")


def set_session_cookie(request: Request, response: Response, text: str, life_s: int) -> None:
    """Put the session into an HttpOnly, SameSite cookie, Secure where there is https."""
    is_https = request.url.scheme == "https"
    response.set_cookie(
        cookie_name(is_https), text, max_age=life_s, httponly=True, samesite="lax", secure=is_https, path="/"
    )


def clear_session_cookie(request: Request, response: Response) -> None:
    """Tell the browser to forget the session."""
    is_https = request.url.scheme == "https"
    response.delete_cookie(cookie_name(is_https), path="/", secure=is_https, httponly=True, samesite="lax")


def _hash(token: str) -> bytes:
    try:
        return sha256(unb64u(token, length=TOKEN_BYTES))
    except Rejected:
        return b""
