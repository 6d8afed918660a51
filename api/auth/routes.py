"""Sign-in pages and their JSON form."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy import select

from api import pages
from api.auth import sessions, users
from api.auth.throttle import Throttle
from api.errors import wants_html
from api.forms import Input, is_form, read_input
from api.language import language_of
from api.policy import PUBLIC, SIGNED_IN, Routes, identity
from api.services import Services
from api.tables import SESSION
from api.words import say
from core.canonical import sha256, unb64u
from core.errors import Rejected


class LoginIn(Input):
    """Name and password; ``next`` is where a page goes afterwards."""

    login: str
    password: str
    next: str = "/"


class OnceIn(Input):
    """The token of a one-time login."""

    token: str


def install(app: FastAPI, routes: Routes) -> None:
    """Add the routes; the throttle lives with the application."""
    app.state.throttle = Throttle()
    routes.get("/login", login_page, PUBLIC, include_in_schema=False)
    routes.post("/login", login, PUBLIC, body=LoginIn, tags=["sign-in"])
    routes.get("/login/once/{token}", once_page, PUBLIC, include_in_schema=False)
    routes.post("/login/once", once, PUBLIC, body=OnceIn, tags=["sign-in"])
    routes.post("/logout", logout, SIGNED_IN, tags=["sign-in"])
    routes.get("/me", me, SIGNED_IN, tags=["sign-in"])


async def login_page(request: Request) -> Response:
    """The sign-in page."""
    target = safe_target(request.query_params.get("next", "/"))
    return pages.page(request, "login.html", {"problem": "", "login": "", "target": target})


async def login(request: Request) -> Response:
    """Sign in by name and password; JSON answers with the CSRF token for later requests."""
    sessions.require_same_site(request)
    given = await read_input(request, LoginIn)
    services: Services = request.app.state.services
    request.app.state.throttle.check_sign_in(given.login, address_of(request))
    with services.db.reading() as tx:
        stored = users.password_hash_of(tx, given.login)
        user = users.user_by_login(tx, given.login)
    if not await run_in_threadpool(users.fits, stored, given.password) or user is None or not user.is_active:
        if is_form(request):
            problem = say("login.bad", language_of(request))
            shown = {"problem": problem, "login": given.login, "target": safe_target(given.next)}
            return pages.page(request, "login.html", shown, status=401)
        raise Rejected("The user name or the password is wrong.", code="bad_login")
    return _signed_in(request, user.id, safe_target(given.next))


async def once_page(request: Request, token: str) -> Response:
    """Show whose one-time login this is; only the button uses it up, so that a link preview does not."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        user_id = sessions.one_time_user(tx, token, now_ms=services.now_ms())
        user = None if user_id is None else users.user_by_id(tx, user_id)
    return pages.page(request, "once.html", {"user": user, "token": token}, status=200 if user else 410)


async def once(request: Request) -> Response:
    """Sign in by a one-time login, which is used up by it."""
    sessions.require_same_site(request)
    given = await read_input(request, OnceIn)
    services: Services = request.app.state.services
    request.app.state.throttle.check_one_time(address_of(request))
    with services.db.transaction() as tx:
        user_id = sessions.use_one_time_login(tx, given.token, now_ms=services.now_ms())
    return _signed_in(request, user_id, "/")


async def logout(request: Request) -> Response:
    """End the session."""
    services: Services = request.app.state.services
    with services.db.transaction() as tx:
        sessions.end_session(tx, identity(request).session_hash, now_ms=services.now_ms())
    response: Response = RedirectResponse("/", status_code=303) if wants_html(request) else Response(status_code=204)
    sessions.clear_session_cookie(request, response)
    return response


async def me(request: Request) -> Response:
    """Who is signed in, with the CSRF token."""
    return JSONResponse(_who(request.app.state.services, identity(request).user_id, identity(request).csrf))


def address_of(request: Request) -> str:
    """The address a request came from, as the server sees it."""
    return request.client.host if request.client else ""


def safe_target(target: str) -> str:
    """A path of this site; an address elsewhere becomes the start page (no open redirect)."""
    is_local = target.startswith("/") and not target.startswith(("//", "/\\")) and "\\" not in target
    return target if is_local and target.isprintable() else "/"


def _signed_in(request: Request, user_id: int, target: str) -> Response:
    services: Services = request.app.state.services
    now_ms = services.now_ms()
    token = services.random(sessions.TOKEN_BYTES)
    with services.db.transaction() as tx:
        before = request.cookies.get(sessions.cookie_name(request.url.scheme == "https"))
        if before:
            _end_before(tx, before, now_ms)
        cookie = sessions.open_session(tx, user_id, now_ms=now_ms, token=token)
    if is_form(request):
        with services.db.reading() as tx:
            user = users.user_by_id(tx, user_id)
        response: Response = RedirectResponse(_door(user, target), status_code=303)
    else:
        response = JSONResponse(_who(services, user_id, sessions.csrf_of(token)))
    sessions.set_session_cookie(request, response, cookie, services.settings.session_life_s)
    return response


def _end_before(tx: Any, cookie: str, now_ms: int) -> None:
    """A new sign-in ends the session that the browser held before (no fixation, no stale session)."""
    try:
        old = sha256(unb64u(cookie, length=sessions.TOKEN_BYTES))
    except Rejected:
        return
    if tx.execute(select(SESSION.c.user_id).where(SESSION.c.token_hash == old)).first() is not None:
        sessions.end_session(tx, old, now_ms=now_ms)


def _door(user: users.User | None, target: str) -> str:
    if target != "/" or user is None:
        return target
    doors = {"bank": "/bank", "regulator": "/regulator", "operator": "/operator"}
    return next((path for name, path in doors.items() for role in user.roles if role.startswith(name)), "/factory")


def _who(services: Services, user_id: int, csrf: str) -> dict[str, Any]:
    with services.db.reading() as tx:
        user = users.user_by_id(tx, user_id)
    if user is None:
        raise Rejected("The user is gone.", code="unauthenticated")
    return {
        "login": user.login,
        "name": user.name,
        "person": user.person_id,
        "org": user.org,
        "roles": list(user.roles),
        "csrf": csrf,
    }
