"""The consumer page: loads an item's view, decides the verdict, draws the pictures, renders."""

import json
from functools import lru_cache
from urllib.parse import quote, urlsplit

import segno
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from markupsafe import Markup

from api import language, pages
from api.auth.routes import address_of
from api.consumer import load
from api.consumer.cache import Kept, stamp_of
from api.consumer.model import TONE, ItemView, Looks, Verdict
from api.drawing import route_map, temperature
from api.services import Services
from api.words import CATALOGUE, say

_NARROW, _WIDE = 360, 720


async def item_page(request: Request, item_id: str, path: str) -> Response:
    """The page of an item for whoever scanned it; an unknown code is a 404 with its own verdict."""
    services: Services = request.app.state.services
    scans, throttle = request.app.state.scans, request.app.state.throttle
    address, now_ms = address_of(request), services.now_ms()
    throttle.check_unknown_codes(address)
    lang = language.language_of(request)
    visitor = scans.visitor(address, request.headers.get("user-agent", ""), now_ms=now_ms)
    key = _key(request, item_id, path, lang)
    kept = _still_good(request, key, item_id, visitor)
    if kept is not None:
        scans.look(item_id, visitor, now_ms=now_ms)
        response = Response(kept.body, status_code=kept.status)
        response.raw_headers = [(name.encode(), value.encode()) for name, value in kept.headers]
        return response
    return await run_in_threadpool(_fresh, request, key, item_id, path, lang, visitor)


def _fresh(
    request: Request, key: tuple[str, ...] | None, item_id: str, path: str, lang: str, visitor: bytes
) -> Response:
    """The page made anew, and kept with the stamp of the same snapshot."""
    services: Services = request.app.state.services
    scans, throttle = request.app.state.scans, request.app.state.throttle
    with services.db.reading() as tx:

        def looks(since_ms: int) -> Looks:
            return scans.looks_since(tx, item_id, visitor, since_ms=since_ms)  # type: ignore[no-any-return]

        view = load.item_view(tx, item_id, path, lang, looks=looks)
        stamp = stamp_of(tx, view.rests) if view.rests.things else ()
    if not view.lifecycle.is_known:
        if not view.lifecycle.is_described:
            throttle.count_unknown_code(address_of(request))
        return render(request, view, lang)
    scans.look(item_id, visitor, now_ms=services.now_ms())
    response = render(request, view, lang)
    if key is not None:
        headers = tuple((name.decode(), value.decode()) for name, value in response.raw_headers)
        since_ms = view.lifecycle.sale.at_ms if view.lifecycle.sale is not None else None
        body = bytes(response.body)
        answer = Kept(view.rests, (*stamp, view.lifecycle.looks), response.status_code, body, headers, since_ms)
        request.app.state.pages.put(key, answer)
    return response


def _key(request: Request, item_id: str, path: str, lang: str) -> tuple[str, ...] | None:
    """The name under which a page is kept; None for somebody signed in and for queries that only pass through."""
    if getattr(request.state, "identity", None) is not None or set(request.query_params) - {"lang"}:
        return None
    asked, cookie = request.query_params.get("lang", ""), request.cookies.get(language.COOKIE, "")
    return item_id, path, lang, asked, cookie, request.url.path, str(request.base_url)


def _still_good(request: Request, key: tuple[str, ...] | None, item_id: str, visitor: bytes) -> Kept | None:
    """The page kept under a key, if nothing that it rests on has changed in the snapshot of this moment."""
    kept: Kept | None = request.app.state.pages.get(key) if key is not None else None
    if kept is None:
        return None
    services: Services = request.app.state.services
    scans = request.app.state.scans
    with services.db.reading() as tx:
        stamp = stamp_of(tx, kept.rests)
        looks = Looks()
        if kept.since_ms is not None:
            looks = scans.looks_since(tx, item_id, visitor, since_ms=kept.since_ms)
    return kept if (*stamp, looks) == kept.stamp else None


def render(request: Request, view: ItemView, lang: str) -> Response:
    """The page of a view."""
    services: Services = request.app.state.services
    base = services.settings.base_url.rstrip("/") or str(request.base_url).rstrip("/")
    headline, explanation = verdict_words(view, lang)
    line, tone = temperature_words(view, lang)
    values = {
        "item": view,
        "headline": headline,
        "explanation": explanation,
        "tone": TONE[view.verdict],
        "temperature_line": line,
        "temperature_tone": tone,
        "temperature_words": temperature.describe(view.series, lang),
        "chart_wide": temperature.draw(view.series, lang, width=_WIDE, height=240),
        "chart_thin": temperature.draw(view.series, lang, width=_NARROW, height=210),
        "map_wide": route_map.draw(view.stops, view.route, lang, width=_WIDE, height=400),
        "map_thin": route_map.draw(view.stops, view.route, lang, width=_NARROW, height=300),
        "qr": qr_code(base + view.path),
        "bundle_url": f"/items/{quote(view.id, safe='')}/proof",
        "json_url": f"/items/{quote(view.id, safe='')}",
        "proof_words": proof_words(lang),
        "settings": services.settings,
        "is_demo": services.settings.is_demo,
    }
    is_found = view.lifecycle.is_known or view.lifecycle.is_described
    return pages.page(request, "item.html", values, status=200 if is_found else 404)


def verdict_words(view: ItemView, lang: str) -> tuple[str, str]:
    """The verdict's headline and what it means for the reader."""
    life, last, verdict = view.lifecycle, view.last, view.verdict
    where = (last.where if last else "") or say("journey.somewhere", lang)
    values: dict[str, object] = {"where": where, "count": view.contents, "state": view.out_of_use}
    if last is not None:
        values["date"] = language.show_date(last.at_ms, lang, offset=last.offset)
    if life.sale is not None:
        channel = life.sale.channel or say("journey.somewhere", lang)
        values |= {"date": language.show_date(life.sale.at_ms, lang), "channel": channel}
        first_ms = life.looks.first_ms or life.sale.at_ms
        values |= {"looks": life.looks.count, "first": language.show_date(first_ms, lang)}
    more = "verdict.unknown_more" if verdict is Verdict.UNKNOWN_SERIAL else f"verdict.{verdict}_more"
    return say(f"verdict.{verdict}", lang), say(more, lang, **values)


def temperature_words(view: ItemView, lang: str) -> tuple[str, str]:
    """The temperature in a few words and the tone they are shown in."""
    summary = temperature.summarise(view.series)
    if summary is None:
        return say("tile.temperature_none", lang), ""
    if summary.outside_count:
        span = language.show_duration(summary.outside_s, lang)
        return say("tile.temperature_out", lang, high=summary.high, span=span), "bad"
    has_band = view.series.band_low is not None or view.series.band_high is not None
    key = "tile.temperature_in" if has_band else "tile.temperature_plain"
    return say(key, lang, low=summary.low, high=summary.high), "good" if has_band else ""


@lru_cache(maxsize=512)
def qr_code(address: str) -> Markup:
    """The QR code of an address as inline SVG (GS1 asks for at least level M)."""
    code = segno.make(address, error="m", micro=False)
    return Markup(code.svg_inline(border=2, omitsize=True, dark="#16202c"))  # noqa: S704 - made here from an address


@lru_cache(maxsize=4)
def proof_words(lang: str) -> str:
    """The words that the page's script needs, as JSON for a data attribute."""
    start = "proof."
    words = {key.removeprefix(start): say_raw(key, lang) for key in CATALOGUE if key.startswith(start)}
    return json.dumps(words, ensure_ascii=False)


def say_raw(key: str, lang: str) -> str:
    """The words of a key with their places unfilled."""
    return CATALOGUE[key][0 if lang == "zh" else 1]


async def is_known(services: Services, item_id: str) -> bool:
    """Whether anything is recorded under a code: an event of its own or product data."""
    with services.db.reading() as tx:
        return load.is_known(tx, item_id)


async def description(services: Services, item_id: str) -> str:
    """What a code names, in a few words for a linkset."""
    with services.db.reading() as tx:
        return load.name_of(tx, item_id, "en") or urlsplit(item_id).path
