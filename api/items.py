"""The JSON of an item, its state, journey and contents as of any time, its trace, and its proof bundle."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import unquote

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api import items_schema as schema
from api.auth.partners import caller_by_key, key_in
from api.auth.routes import address_of
from api.auth.sessions import identity_of
from api.consumer.cache import Kept, Rests, stamp_of
from api.errors import NotFound
from api.identity import BANK, GOODS_SIDE, Identity, Role
from api.items_document import BadTime, item_document, moment_of
from api.items_trace import LIMIT, LIMIT_MAX, trace_document
from api.language import language_of
from api.machine import log_head
from api.policy import PUBLIC, Routes
from api.resolver import raw_path, read_path
from api.services import Services
from core.canonical import dump_json
from core.errors import Rejected, Unavailable
from core.identifiers import Identifier, parse
from core.percent import percent_encoded
from ledger.asof import Book
from ledger.disclosure import Reader
from ledger.lineage import DEPTH_MAX
from ledger.proofs import build_bundle

_START: Final = "/items/"
_ENDS: Final = ("/proof", "/trace")
_HEADERS: Final = {"Vary": "Cookie, Accept-Language, Authorization, X-API-Key", "Cache-Control": "no-store"}
Out = TypeVar("Out")

AT = Annotated[str, Query(max_length=40, description=schema.AT)]
KNOWN = Annotated[str, Query(max_length=40, description=schema.KNOWN)]
AS_OF = Annotated[str, Query(alias="asOf", max_length=40, description="Another name of `at`.")]
KNOWN_AT = Annotated[str, Query(alias="knownAt", max_length=40, description="Another name of `known`.")]


def install(routes: Routes) -> None:
    """Add the routes; a path that ends in ``/trace`` or ``/proof`` may still be an item, whose serial ends so."""
    routes.get("/items/{epc:path}/trace", traced, PUBLIC, tags=["items"], responses=schema.TRACE)
    routes.get("/items/{epc:path}/proof", proof, PUBLIC, tags=["items"], responses=schema.PROOF)
    routes.get("/items/{epc:path}", item, PUBLIC, tags=["items"], responses=schema.ITEM)


async def item(
    request: Request, epc: str, at: AT = "", known: KNOWN = "", as_of: AS_OF = "", known_at: KNOWN_AT = ""
) -> Response:
    """An item's state, alarms, journey, contents and lineage, now or as of a moment in two times.

    ``epc`` is an EPC URN, an element string, or a Digital Link of any domain, plain or percent-encoded as one segment.
    """
    return await _answer(request, at=_one_of("at", at, as_of), known=_one_of("known", known, known_at))


async def traced(
    request: Request,
    epc: str,
    direction: Annotated[Literal["forward", "back"], Query(description=schema.DIRECTION)] = "back",
    at: AT = "",
    known: KNOWN = "",
    as_of: AS_OF = "",
    known_at: KNOWN_AT = "",
    depth: Annotated[int, Query(ge=1, le=DEPTH_MAX, description=schema.DEPTH)] = 20,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Things on a page.")] = LIMIT,
    page: Annotated[int, Query(ge=0, le=10_000, description="Which page, from 0.")] = 0,
) -> Response:
    """Where goods came from, or what became of them and who holds it, with mass balance, as of a moment."""
    at, known = _one_of("at", at, as_of), _one_of("known", known, known_at)
    if _kind(request) != "trace":
        return await _answer(request, at=at, known=known)
    found, moment = _named(request), moment_of(at, known)
    reader, party = readers(request)
    services: Services = request.app.state.services

    def read(tx: Any) -> dict[str, Any] | None:
        book = Book(tx, moment)
        mine = reader
        if party and party not in {event.org for event in book.events(found.canonical)}:
            mine = "consumer"
        return trace_document(
            tx, book, found.canonical, direction, reader=mine, lang=language_of(request), depth=depth, limit=limit,
            page=page, log_size=log_head(tx)[0],
        )  # fmt: skip

    return await _found(request, services, read)


async def proof(request: Request, epc: str) -> Response:
    """An item's proof bundle: its whole history with every path to the anchored root."""
    if _kind(request) != "proof":
        return await _answer(request, at="", known="")
    services: Services = request.app.state.services
    request.app.state.throttle.check_unknown_codes(address_of(request))
    return await run_in_threadpool(_bundle, services, _named(request), readers(request)[0])


def _one_of(name: str, given: str, also: str) -> str:
    """A time under one of its two names; two different ones would be answered for one of them in silence.

    Raises:
        Rejected: ``bad_time``.
    """
    if given and also and given != also:
        raise BadTime(f"{name} is given twice, and differently.", pointer=name)
    return given or also


async def _answer(request: Request, *, at: str, known: str) -> Response:
    found, moment = _named(request), moment_of(at, known)
    reader, party = readers(request)
    lang, services = language_of(request), request.app.state.services
    # Only what everybody may see is kept, and only as of now.
    key = ("json", found.canonical, lang) if reader == "consumer" and not party and moment.is_now else None
    kept: Kept | None = request.app.state.pages.get(key) if key is not None else None
    if kept is not None:
        request.app.state.throttle.check_unknown_codes(address_of(request))
        with services.db.reading() as tx:
            if stamp_of(tx, kept.rests) == kept.stamp:
                return Response(kept.body, media_type="application/json", headers=_HEADERS)

    def read(tx: Any) -> dict[str, Any] | None:
        rests: list[Rests] = []
        document = item_document(
            tx, found.canonical, reader=reader, lang=lang, moment=moment, log_size=log_head(tx)[0], party=party,
            note=rests.append,
        )  # fmt: skip
        if key is not None and document is not None:
            answer = Kept(rests[-1], stamp_of(tx, rests[-1]), 200, dump_json(document), ())
            request.app.state.pages.put(key, answer)
        return document

    return await _found(request, services, read)


async def _found(request: Request, services: Services, read: Callable[[Any], dict[str, Any] | None]) -> Response:
    throttle, address = request.app.state.throttle, address_of(request)
    throttle.check_unknown_codes(address)

    def run() -> dict[str, Any] | None:
        with services.db.reading() as tx:
            return read(tx)

    document = await run_in_threadpool(run)
    if document is None:
        throttle.count_unknown_code(address)
        raise NotFound("Nothing was recorded under this code then.", code="unknown_item")
    return json_response(document)


def read_item(path: str) -> tuple[str, Identifier]:
    """What a path asks for ("trace", "proof" or "" for the item itself), and the item it names.

    A serial number may itself be ``proof`` or ``trace``: a GS1 path is pairs, so only one reading names an item.

    Raises:
        Rejected: it names no item.
    """
    for end in _ENDS:
        if path.endswith(end):
            try:
                return end[1:], parse(_spelled(path.removesuffix(end)))
            except Rejected:
                return "", parse(_spelled(path))
    return "", parse(_spelled(path))


def readers(request: Request) -> tuple[Reader, str]:
    """What kind of reader asks, and for a partner's key the organisation whose own events it sees as a partner.

    A key that does not work is nobody's: a public route asks for none.
    """
    identity = identity_of(request)
    text = key_in(request)
    if identity is not None or not text:
        return reader_of(identity), ""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = caller_by_key(tx, text, now_ms=services.now_ms())
    if found is None:
        return "consumer", ""
    caller = found[0]
    return caller.reader, "" if caller.is_regulator else caller.speaks_as


def reader_of(identity: Identity | None) -> Reader:
    """What kind of reader somebody is; nobody signed in is a consumer."""
    if identity is None:
        return "consumer"
    if identity.has(Role.REGULATOR, Role.OPERATOR):
        return "regulator"
    if identity.has(*BANK):
        return "bank"
    return "partner" if identity.has(*GOODS_SIDE) else "consumer"


def json_response(document: Any, *, status: int = 200) -> Response:
    """A JSON answer in which decimals keep their digits."""
    return Response(
        dump_json(document),
        status_code=status,
        media_type="application/json",
        headers=_HEADERS,
    )


def _kind(request: Request) -> str:
    return read_item(raw_path(request).removeprefix(_START))[0]


def _named(request: Request) -> Identifier:
    return read_item(raw_path(request).removeprefix(_START))[1]


def _bundle(services: Services, found: Identifier, reader: Reader) -> Response:
    if services.maps is None or services.place is None:
        raise Unavailable("This process makes no proofs.", code="no_proofs")
    with services.proof_lock, services.db.reading() as tx:
        data = build_bundle(tx, services.maps, services.place, found.canonical, reader=reader)
    name = "-".join(part for _, part in found.ai) or "item"
    safe = "".join(char if char.isalnum() or char in "-_" else "_" for char in name)
    return Response(
        data,
        media_type="application/json",
        headers={
            "Content-Disposition": f'attachment; filename="{safe}.proof.json"',
            "Cache-Control": "no-store",
            "Vary": "Cookie",
        },
    )


def _spelled(path: str) -> str:
    """An item out of a path: one encoded segment is decoded once, a bare GS1 path gets its domain."""
    text = unquote(path) if "/" not in path else path
    if text[:1].isdigit() and "/" in text:
        text = "https://id.gs1.org/" + text
    try:
        parse(text)
    except Rejected as error:
        if error.code != "compressed_link":
            raise
        pairs, _ = read_path("/" + text.split("?")[0].rstrip("/").rpartition("/")[2])
        return "https://id.gs1.org" + "".join(f"/{ai}/{percent_encoded(value)}" for ai, value in pairs)
    return text
