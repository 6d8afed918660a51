"""The GS1 resolver: every GS1 key path leads people to the page of the goods and programs to its links."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import sqlalchemy as sa
from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.convertors import Convertor, register_url_convertor

from api import linkset
from api.answers import problems
from api.auth.routes import address_of
from api.consumer import load
from api.consumer import routes as consumer
from api.errors import NotFound, wants_html
from api.limits import methods_at
from api.policy import PUBLIC, Routes
from api.services import Services
from core.errors import Rejected
from core.gs1 import KEYS, SHORT_NAMES, checked_attribute, pattern
from core.gs1_compress import expand, looks_compressed
from core.gs1_link import read_link
from core.identifiers import parse
from core.percent import percent_encoded
from ledger import masterdata
from ledger.history import events_of
from ledger.state import item_state

# Certificates are read out of events of things with few events alone; a GTIN's certificates come from master data.
_CERTIFIED = frozenset({"sgtin", "sscc", "lgtin", "grai", "giai"})
_EVENTS_MAX = 500
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Link, Location, ETag",
}


class BadDigitalLink(Rejected):
    """This is not a valid GS1 Digital Link."""

    code = "bad_digital_link"


def install(routes: Routes) -> None:
    """Add the routes; the pattern of the last two catches every GS1 key path, uncompressed or compressed."""
    routes.get("/.well-known/gs1resolver", description, PUBLIC, tags=["resolver"])
    routes.get(linkset.CONTEXT, context, PUBLIC, tags=["resolver"])
    routes.get("/page/{path:path}", page, PUBLIC, include_in_schema=False)
    # A path that is no code may be a page that asks to sign in.
    answers = problems("GET", is_guarded=True) | {405: {"description": "Another page's path, which takes no GET"}}
    routes.get("/{ai}/{path:path}", resolve, PUBLIC, tags=["resolver"], responses=answers)
    routes.get("/{compressed}", resolve_compressed, PUBLIC, tags=["resolver"], responses=answers)


def install_numbered(routes: Routes) -> None:
    """Add the route of GS1 key paths that begin with a number, as every printed code does; nothing else begins so.

    It stands before all others: scanned codes are the most frequent requests, and a route is found by trying one
    after the other.
    """
    routes.get("/{ai:gs1}/{path:path}", resolve, PUBLIC, include_in_schema=False)


class _Numbered(Convertor[str]):
    """The number of a GS1 application identifier in a path."""

    regex = "[0-9]{2,4}"

    def convert(self, value: str) -> str:
        """The number as it stands."""
        return value

    def to_string(self, value: str) -> str:
        """The number as it stands."""
        return value


register_url_convertor("gs1", _Numbered())


async def resolve(request: Request, ai: str, path: str) -> Response:
    """Resolve a GS1 Digital Link: a page for people, a linkset, the link of a type, or the default link (307)."""
    raw = raw_path(request)
    if not is_gs1(ai):
        if methods_at(request.scope):
            raise HTTPException(405)
        raise NotFound("There is nothing here.")
    pairs, more = read_path(raw)
    return await _answer(request, pairs, more)


async def resolve_compressed(request: Request, compressed: str) -> Response:
    """Resolve a compressed GS1 Digital Link; it is answered as the uncompressed one, which the Link header names."""
    if not looks_compressed(compressed):
        raise NotFound("There is nothing here.")
    pairs, more = read_path("/" + compressed)
    return await _answer(request, pairs, more)


async def _answer(request: Request, pairs: linkset.Pairs, more: Sequence[tuple[str, str]]) -> Response:
    check_attributes([*more, *request.query_params.multi_items()])
    services: Services = request.app.state.services
    request.app.state.throttle.check_unknown_codes(address_of(request))
    base = base_url(request)
    levels = linkset.levels(pairs)
    headers = linkset.headers(levels, base) | _CORS
    accept = request.headers.get("accept", "")
    asked = linkset.link_type_of(request.query_params.get("linkType", ""))
    is_linkset = asked in ("linkset", "all") or (not asked and "application/linkset+json" in accept)
    if not asked and not is_linkset and wants_html(request):
        response = await consumer.item_page(request, levels[0].id, levels[0].path)
        for name, value in (headers | {"Vary": "Accept, Accept-Language, Cookie"}).items():
            response.headers[name] = value
        return response
    found = await run_in_threadpool(_known, services, levels, is_linkset or asked == "certificationInfo")
    if not found:
        request.app.state.throttle.count_unknown_code(address_of(request))
        raise NotFound("Nothing is recorded under this code or anything above it.", code="unknown_item")
    if is_linkset:
        return _linkset(found, base, accept, headers)
    chosen = linkset.choose(
        found,
        base,
        linkset.Asked(asked, accept, _language(request), request.query_params.get("context", "")),
    )
    if chosen is None:
        raise NotFound(f"There is no link of the type {asked}.", code="no_such_link")
    return RedirectResponse(_with_query(chosen.href, request, more), status_code=307, headers=headers)


async def page(request: Request, path: str) -> Response:
    """The page of a GS1 key path, whatever the reader accepts: where the default link leads."""
    pairs, _ = read_path(raw_path(request).removeprefix("/page"))
    level = linkset.levels(pairs)[0]
    return await consumer.item_page(request, level.id, level.path)


async def description(request: Request) -> Response:
    """The resolver description file."""
    base = base_url(request)
    services: Services = request.app.state.services
    body: dict[str, Any] = {
        "name": "Tracebond resolver",
        "resolverRoot": base,
        "supportedPrimaryKeys": sorted(KEYS),
        "supportedLinkType": [{"namespace": linkset.VOC, "prefix": "gs1:"}],
        "activeLinkTypes": {lang: dict(_ACTIVE[lang]) for lang in ("en", "zh")},
        "linkTypeDefaultCanBeLinkset": False,
        "jsonLdContextLocation": base + linkset.CONTEXT,
        "contact": {"fn": services.settings.service},
    }
    return JSONResponse(body, headers=_CORS)


async def context() -> Response:
    """The JSON-LD context that turns a linkset into RDF."""
    return JSONResponse({"@context": _TERMS}, media_type="application/ld+json", headers=_CORS)


def read_path(path: str) -> tuple[linkset.Pairs, tuple[tuple[str, str], ...]]:
    """The key with its qualifiers, and attributes packed with it, of a path that may be compressed, whole or in part.

    Raises:
        Rejected: ``bad_digital_link`` or ``bad_check_digit``.
    """
    trimmed = path.rstrip("/")
    more: tuple[tuple[str, str], ...] = ()
    segments = trimmed.split("/")[1:]
    if len(segments) % 2 == 1:
        trimmed, more = _uncompressed(segments)
    try:
        pairs = read_link("https://id.gs1.org" + trimmed)
    except Rejected as error:
        if error.code == "bad_check_digit":
            raise
        raise BadDigitalLink(error.message) from error
    if pairs is None:
        raise BadDigitalLink("This path holds no GS1 key.")
    return pairs, more


def check_attributes(query: Sequence[tuple[str, str]]) -> None:
    """Refuse a query whose GS1 data attributes break the form of their application identifier.

    Raises:
        Rejected: ``bad_digital_link`` or ``bad_check_digit``; the pointer names the attribute.
    """
    for name, value in query:
        if not (name.isascii() and name.isdigit()):
            continue
        if pattern(name) is None:
            raise BadDigitalLink(f"No GS1 application identifier has the number {name}.", pointer=name)
        try:
            checked_attribute(name, value)
        except Rejected as error:
            code = error.code if error.code == "bad_check_digit" else BadDigitalLink.code
            raise Rejected(error.message, code=code, pointer=name) from error


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


def _uncompressed(segments: Sequence[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The path in full: keys given plainly first, then what the last segment packs, qualifiers in their order."""
    try:
        packed, others = expand(segments[-1])
    except Rejected as error:
        raise BadDigitalLink(error.message) from error
    values = dict(packed)
    given = list(segments[:-1])
    key = unquote(given[0]) if given else next((ai for ai in values if ai in KEYS), "")
    key = SHORT_NAMES.get(key.lower(), key)
    if key not in KEYS:
        raise BadDigitalLink("This compressed link holds no GS1 key.")
    if not given:
        given = [key, percent_encoded(values.pop(key))]
    for order in KEYS[key].qualifiers:
        if not set(order).isdisjoint(values):
            for ai in order:
                if ai in values:
                    given += [ai, percent_encoded(values.pop(ai))]
            break
    return "/" + "/".join(given), (*values.items(), *others)


def _known(services: Services, levels: Sequence[linkset.Level], with_certificates: bool) -> list[linkset.Known]:
    """What is recorded at each level, the levels without anything left out."""
    with services.db.reading() as tx:
        found = [_known_at(tx, level, with_certificates) for level in levels]
    return [known for known in found if known is not None]


def _known_at(tx: sa.Connection, level: linkset.Level, with_certificates: bool) -> linkset.Known | None:
    facts = [fact for kind in ("product", "place", "party") if (fact := masterdata.fact(tx, level.id, kind))]
    has_events = item_state(tx, level.id) is not None
    if not has_events and not facts:
        return None
    certificates: tuple[str, ...] = ()
    if with_certificates and has_events and parse(level.id).kind in _CERTIFIED:
        certificates = linkset.certificates_of(event.event for event in events_of(tx, level.id)[-_EVENTS_MAX:])
    return linkset.Known(
        level=level,
        name=load.name_of(tx, level.id, "en"),
        has_events=has_events,
        managed=tuple(link for fact in facts for link in linkset.managed_links(fact)),
        certificates=certificates,
    )


def _linkset(found: Sequence[linkset.Known], base: str, accept: str, headers: dict[str, str]) -> Response:
    document = linkset.linkset(found, base)
    if "application/ld+json" in accept and "application/linkset+json" not in accept:
        document = {"@context": base + linkset.CONTEXT, **document}
        return JSONResponse(document, media_type="application/ld+json", headers=headers)
    return JSONResponse(document, media_type="application/linkset+json", headers=headers)


def _language(request: Request) -> str:
    return request.query_params.get("lang", "") or request.headers.get("accept-language", "")


def _with_query(href: str, request: Request, more: Sequence[tuple[str, str]]) -> str:
    own = {name for name, _ in parse_qsl(urlsplit(href).query)}
    passed = [(name, value) for name, value in (*request.query_params.multi_items(), *more) if name not in own]
    return href + ("&" if "?" in href else "?") + urlencode(passed) if passed else href


_ACTIVE = {
    "en": {
        "defaultLink": "Default link", "pip": "Product information page", "traceability": "Traceability information",
        "recallStatus": "Recall status", "epcis": "EPCIS repository", "certificationInfo": "Certification information",
        "hasRetailers": "Retailers",
    },
    "zh": {
        "defaultLink": "默认链接", "pip": "商品信息页", "traceability": "追溯信息", "recallStatus": "召回状态",
        "epcis": "EPCIS 存储库", "certificationInfo": "认证信息", "hasRetailers": "零售商",
    },
}  # fmt: skip
_TERMS: dict[str, Any] = {
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
