"""The start page: enter a code, get to its page."""

from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from api import pages
from api.language import language_of
from api.policy import PUBLIC, Routes
from api.words import has_words, say
from core.errors import Rejected
from core.identifiers import parse


def install(routes: Routes) -> None:
    """Add the route."""
    routes.get("/", home, PUBLIC, include_in_schema=False)


async def home(request: Request, code: str = "") -> Response:
    """The field for a code, or the way to the page of the code that was entered."""
    problem = ""
    if code.strip():
        try:
            found = parse(code.strip())
        except Rejected as error:
            key = f"problem.{error.code}"
            problem = say(key, language_of(request)) if has_words(key) else error.message
        else:
            if found.ai:
                return RedirectResponse("/page" + urlsplit(found.canonical).path, status_code=303)
            problem = say("problem.bad_identifier", language_of(request))
    return pages.page(request, "home.html", {"code": code, "problem": problem}, status=400 if problem else 200)
