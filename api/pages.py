"""HTML pages: the template environment, what every template can use, and the error page."""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api import language
from api.identity import BANK, GOODS_SIDE, Identity, Role
from api.problem import Problem
from api.words import HTML_LANG, say, say_code

_FIGURE: Final = re.compile(r"\d[\d,]*\.\d{2}\b")
_HERE: Final = Path(__file__).parent
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(static=static_url, say_code=say_code)
    return environment


@lru_cache(maxsize=1)
def static_files() -> Mapping[str, tuple[bytes, str, str]]:
    """Every static file by name: bytes, media type, entity tag."""
    files: dict[str, tuple[bytes, str, str]] = {}
    for path in sorted((_HERE / "static").iterdir()):
        if path.suffix in _TYPES:
            data = path.read_bytes()
            files[path.name] = (data, _TYPES[path.suffix], hashlib.sha256(data).hexdigest()[:16])
    return files


def static_url(name: str) -> str:
    """The address of a static file with its content's hash, so that caches may keep it for ever."""
    return f"/static/{name}?v={static_files()[name][2]}"


def page(
    request: Request,
    template: str,
    values: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A rendered page in the reader's language."""
    lang = language.language_of(request)
    who = getattr(request.state, "identity", None)
    html = _environment().get_template(template).render({**_common(request, lang, who), **values})
    response = HTMLResponse(html, status_code=status, headers=dict(headers or {}))
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Vary"] = "Accept, Accept-Language, Cookie"
    response.headers["Content-Language"] = HTML_LANG[lang]
    if request.query_params.get("lang") and request.cookies.get(language.COOKIE) != lang:
        response.set_cookie(language.COOKIE, lang, max_age=31_536_000, samesite="lax", path="/")
    return response


def error_page(request: Request, problem: Problem) -> Response:
    """A problem for a person; somebody who is not signed in is led to the sign-in page."""
    if problem.status == 401 and request.method == "GET":
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse("/login?" + urlencode({"next": target}), status_code=303)
    lang = language.language_of(request)
    return page(
        request,
        "error.html",
        {"problem": problem, "detail": say_code_or(problem, lang)},
        status=problem.status,
        headers=problem.headers,
    )


def say_code_or(problem: Problem, lang: str) -> str:
    """The reader's own words for the problem's code, else the words it came with."""
    from api.words import has_words

    key = f"problem.{problem.code}"
    if not has_words(key) and lang == "zh":
        key = f"refusal.{problem.code}"
    return say(key, lang) if has_words(key) else problem.detail


def refusal_words(code: str, detail: str, lang: str) -> str:
    """A refusal in the reader's language, with the amounts that it names."""
    from api.words import has_words

    if lang != "zh" or not has_words(f"refusal.{code}"):
        return detail
    figures = _FIGURE.findall(detail)
    return say(f"refusal.{code}", "zh") + (f"({'、'.join(figures)} 元)" if figures and code != "bad_amount" else "")


def remedy_words(reason: Mapping[str, Any], lang: str) -> str:
    """What would change a reason, in the reader's language; figures stand in the English text alone."""
    from api.words import has_words

    key = f"remedy.{reason['code']}"
    text = str(reason.get("remedy") or "")
    return say(key, "zh") if lang == "zh" and text and has_words(key) else text


def _common(request: Request, lang: str, who: Identity | None) -> dict[str, Any]:
    query = {name: value for name, value in request.query_params.items() if name != "lang"}
    other = language.other_language(lang)
    return {
        "lang": lang,
        "html_lang": HTML_LANG[lang],
        "t": lambda key, **values: say(key, lang, **values),
        "code_words": lambda group, code: say_code(group, code, lang),
        "time": lambda at_ms, offset="+08:00": language.show_time(at_ms, lang, offset=offset),
        "date": lambda at_ms, offset="+08:00": language.show_date(at_ms, lang, offset=offset),
        "day": lambda text: language.show_day_text(text, lang),
        "number": lambda value: language.show_number(value, lang),
        "money": lambda minor, currency="CNY": language.show_money(minor, lang, currency),
        "remedy": lambda reason: remedy_words(reason, lang),
        "yuan": lambda text: language.show_yuan(str(text), lang),
        "exact": language.show_exact,
        "span": lambda seconds: language.show_duration(seconds, lang),
        "who": who,
        "csrf": who.csrf if who else "",
        "areas": _areas(who),
        "path": request.url.path,
        "switch_lang": other,
        "switch_url": "?" + urlencode({**query, "lang": HTML_LANG[other]}),
    }


def _areas(who: Identity | None) -> list[tuple[str, str]]:
    """The consoles that this user may open: (address, catalogue key)."""
    if who is None:
        return []
    doors = (
        ("/bank", "area.bank", BANK),
        ("/factory", "area.factory", GOODS_SIDE),
        ("/regulator", "area.regulator", frozenset({Role.REGULATOR})),
        ("/operator", "area.operator", frozenset({Role.OPERATOR})),
    )
    return [(address, key) for address, key, roles in doors if not roles.isdisjoint(who.roles)]
