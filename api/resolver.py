"""The GS1 resolver: every GS1 key path leads people to the page of the goods and programs to its links."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from api import linkset
from api.consumer import routes as consumer
from api.errors import NotFound, wants_html
from api.policy import PUBLIC, Routes
from api.services import Services
from core.errors import Rejected
from core.gs1 import KEYS, SHORT_NAMES
from core.gs1_link import read_link


class BadDigitalLink(Rejected):
    """This is not a valid GS1 Digital Link."""

    code = "bad_digital_link"


def install(routes: Routes) -> None:
    """Add the routes; the pattern of the last one catches every GS1 key path."""
    routes.get("/.well-known/gs1resolver", description, PUBLIC, tags=["resolver"])
    routes.get(linkset.CONTEXT, context, PUBLIC, tags=["resolver"])
    routes.get("/page/{path:path}", page, PUBLIC, include_in_schema=False)
    routes.get("/{ai}/{path:path}", resolve, PUBLIC, tags=["resolver"])


async def resolve(request: Request, ai: str, path: str) -> Response:
    """Resolve a GS1 Digital Link: a page for people, a linkset, the link of a type, or the default link (307)."""
    raw = raw_path(request)
    if not is_gs1(ai):
        raise NotFound("There is nothing here.")
    pairs = _pairs(raw)
    services: Services = request.app.state.services
    base = base_url(request)
    levels = linkset.levels(pairs)
    headers = linkset.headers(levels, base)
    accept = request.headers.get("accept", "")
    asked = linkset.link_type_of(request.query_params.get("linkType", ""))
    if asked in ("linkset", "all") or (not asked and "application/linkset+json" in accept):
        known = [level for level in levels if await consumer.is_known(services, level.id)]
        if not known:
            raise NotFound("Nothing is recorded under this code.")
        document = linkset.linkset(known, base, await consumer.description(services, levels[0].id))
        return JSONResponse(document, media_type="application/linkset+json", headers=headers)
    if not asked and wants_html(request):
        response = await consumer.item_page(request, levels[0].id, levels[0].path)
        response.headers["Link"] = headers["Link"]
        return response
    link = linkset.choose(
        levels[0],
        base,
        link_type=asked,
        accept=accept,
        accept_language=_language(request),
    )
    if link is None:
        raise NotFound(f"There is no link of the type {asked}.")
    return RedirectResponse(_with_query(link.href, request), status_code=307, headers=headers)


async def page(request: Request, path: str) -> Response:
    """The page of a GS1 key path, whatever the reader accepts: where the default link leads."""
    pairs = _pairs(raw_path(request).removeprefix("/page"))
    level = linkset.levels(pairs)[0]
    return await consumer.item_page(request, level.id, level.path)


async def description(request: Request) -> Response:
    """The resolver description file."""
    base = base_url(request)
    body: dict[str, Any] = {
        "name": "Tracebond resolver",
        "resolverRoot": base,
        "supportedPrimaryKeys": sorted(KEYS),
        "supportedLinkType": [{"namespace": linkset.VOC, "prefix": "gs1:"}],
        "supportedLinkTypes": [f"gs1:{name}" for name in ("defaultLink", *linkset.LINK_TYPES[:3])],
        "linkTypeDefaultCanBeLinkset": False,
        "extractsAllGS1Keys": True,
        "validatesAICombinations": True,
        "supportsMultipleLinks": True,
        "jsonLdContext": base + linkset.CONTEXT,
    }
    return JSONResponse(body)


async def context() -> Response:
    """The JSON-LD context that turns a linkset into RDF."""
    terms: dict[str, Any] = {
        "@version": 1.1,
        "gs1": linkset.VOC,
        "dcterms": "http://purl.org/dc/terms/",
        "linkset": {"@id": "@graph", "@container": "@set"},
        "anchor": "@id",
        "href": "@id",
        "title": "dcterms:title",
        "hreflang": "dcterms:language",
        "type": "dcterms:format",
        "itemDescription": "dcterms:description",
    }
    return JSONResponse({"@context": terms}, media_type="application/ld+json")


def is_gs1(segment: str) -> bool:
    """Whether a first path segment is a GS1 primary key, by number or by its old short name."""
    name = unquote(segment)
    return name in KEYS or SHORT_NAMES.get(name.lower()) in KEYS


def raw_path(request: Request) -> str:
    """The path as it was sent: an encoded slash inside a serial number stays one."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return raw.split(b"?")[0].decode("latin-1")


def base_url(request: Request) -> str:
    """The address of this site as links name it."""
    services: Services = request.app.state.services
    return services.settings.base_url.rstrip("/") or str(request.base_url).rstrip("/")


def _pairs(path: str) -> linkset.Pairs:
    try:
        pairs = read_link("https://id.gs1.org" + path)
    except Rejected as error:
        if error.code == "bad_check_digit":
            raise
        raise BadDigitalLink(error.message) from error
    if pairs is None:
        raise BadDigitalLink("This path holds no GS1 key.")
    return pairs


def _language(request: Request) -> str:
    return request.query_params.get("lang", "") or request.headers.get("accept-language", "")


def _with_query(href: str, request: Request) -> str:
    own = {name for name, _ in parse_qsl(urlsplit(href).query)}
    passed = [(name, value) for name, value in request.query_params.multi_items() if name not in own]
    return href + ("&" if "?" in href else "?") + urlencode(passed) if passed else href
