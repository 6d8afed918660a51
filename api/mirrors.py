"""Routes for mirrors: entry bundles and item lists (signed requests only), cosignatures, and the page of all mirrors.

Who may call what: ``ledger.mirror_auth`` describes how a request is signed. What never changes may be kept by the
mirror's own cache, and by no shared one.
"""

import re
from typing import Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Gauge

from api import pages
from api.errors import NotFound, wants_html
from api.policy import PUBLIC, Policy, Routes
from api.services import Services
from core.canonical import parse_json
from core.errors import Rejected
from core.notes import NOTE_BYTES_MAX
from ledger import cosignatures
from ledger.database import Tx
from ledger.mirror_auth import MirrorKey, NotAMirror, check_request
from ledger.mirror_source import WIDTH, tile_path
from ledger.mirror_tiles import entry_bundle, item_bundle

# No session opens these routes: each request is signed by a registered mirror's key, and the handler checks that.
MIRROR: Final = Policy("mirror", None)
REPORT_BYTES_MAX: Final = 8_000
_KEPT: Final = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Authorization"}
_TILE = re.compile(r"(?P<number>(?:x\d{3}/){0,5}\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?\Z")
_SIZE = re.compile(r"[1-9]\d{0,17}\Z")


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/log/checkpoint/{size}", checkpoint_at, PUBLIC, tags=["log"])
    routes.get("/log/tile/entries/{path:path}", entries, MIRROR, tags=["log"])
    routes.get("/log/tile/items/{path:path}", items, MIRROR, tags=["log"])
    routes.post("/log/cosignature", cosignature, MIRROR, tags=["log"])
    routes.post("/log/refusal", refusal, MIRROR, tags=["log"])
    routes.get("/mirrors", mirrors, PUBLIC, tags=["log"])


def checkpoint_at(request: Request, size: str) -> Response:
    """The checkpoint of exactly this size, with the cosignatures it has."""
    if _SIZE.match(size) is None:
        raise NotFound("A size is a number of leaves.")
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = cosignatures.cosigned_note(tx, int(size))
    if found is None:
        raise NotFound("No checkpoint has this size.")
    return PlainTextResponse(found[0], headers={"Cache-Control": "no-cache"})


def entries(request: Request, path: str) -> Response:
    """An entry bundle (C2SP tlog-tiles), for registered mirrors: u16 length and bytes of each entry."""
    return _tile(request, path, entry_bundle)


def items(request: Request, path: str) -> Response:
    """The item lists of a bundle's entries, for registered mirrors: u32 length and list of each (docs/mirror.md)."""
    return _tile(request, path, item_bundle)


async def cosignature(request: Request) -> Response:
    """A mirror's cosignature: the checkpoint's text, an empty line, and its signature line."""
    body = await request.body()
    if len(body) > NOTE_BYTES_MAX:
        raise Rejected(f"A note has at most {NOTE_BYTES_MAX} bytes.", code="too_large")
    return JSONResponse(await run_in_threadpool(_take, request, body), headers={"Cache-Control": "no-store"})


async def refusal(request: Request) -> Response:
    """A mirror's report of the entry that it refuses."""
    body = await request.body()
    return JSONResponse(await run_in_threadpool(_report, request, body), headers={"Cache-Control": "no-store"})


def mirrors(request: Request) -> Response:
    """What each mirror last confirmed or refused, as a page or as JSON."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = cosignatures.standings(tx)
    if wants_html(request):
        values = {"mirrors": found, "pinned": services.settings.mirror_keys, "now_ms": services.now_ms()}
        return pages.page(request, "mirrors.html", values)
    return JSONResponse({"mirrors": [_described(one) for one in found]}, headers={"Cache-Control": "no-cache"})


def metrics(tx: Tx, registry: CollectorRegistry, *, now_ms: int) -> None:
    """Gauges of each mirror: size and age of what it last confirmed, leaves it is behind, and whether it refuses."""
    gauges = {
        name: Gauge(f"tracebond_mirror_{name}", words, ["mirror"], registry=registry)
        for name, words in (
            ("size", "Largest size that the mirror has cosigned"),
            ("age_seconds", "Age of the mirror's last cosignature"),
            ("lag_leaves", "Leaves of the log beyond the mirror's last cosignature"),
            ("refuses", "1 when the mirror refuses the log"),
        )
    }
    for one in cosignatures.standings(tx):
        gauges["size"].labels(one.name).set(one.size)
        gauges["age_seconds"].labels(one.name).set(now_ms / 1000 - one.time_s if one.time_s else float("inf"))
        gauges["lag_leaves"].labels(one.name).set(one.lag)
        gauges["refuses"].labels(one.name).set(one.refusal is not None)


def _tile(request: Request, path: str, read: Any) -> Response:
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        _mirror(tx, request, b"")
        match = _TILE.match(path)
        number = int(match["number"].replace("x", "").replace("/", "")) if match else 0
        width = int(match["width"] or WIDTH) if match else 0
        if match is None or tile_path(number, width) != path or width > WIDTH:
            raise NotFound("A bundle's path is its number, with .p/width for a partial one.")
        data = read(tx, number, width)
    if data is None:
        raise NotFound("The log does not reach so far.")
    return Response(data, media_type="application/octet-stream", headers=dict(_KEPT))


def _take(request: Request, body: bytes) -> dict[str, Any]:
    services: Services = request.app.state.services
    now_ms = services.now_ms()
    try:
        note = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("A note is UTF-8.", code="bad_note") from error
    with services.db.transaction() as tx:
        mirror = _mirror(tx, request, body)
        return {"size": cosignatures.take(tx, mirror, note, now_ms=now_ms), "mirror": mirror.verifier.name}


def _report(request: Request, body: bytes) -> dict[str, Any]:
    services: Services = request.app.state.services
    with services.db.transaction() as tx:
        mirror = _mirror(tx, request, body)
        said = parse_json(body, bytes_max=REPORT_BYTES_MAX, depth_max=2)
        cosignatures.report(tx, mirror, said, now_ms=services.now_ms())
    return {"mirror": mirror.verifier.name}


def _mirror(tx: Tx, request: Request, body: bytes) -> MirrorKey:
    """The mirror behind a request; its signature covers method, path as sent, and body."""
    services: Services = request.app.state.services
    if not services.settings.origin:
        raise NotAMirror("This process serves no log.")
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("ascii", "replace")
    return check_request(
        tx,
        request.headers.get("authorization"),
        log=services.settings.origin,
        method=request.method,
        path=f"{path}?{query}" if query else path,
        body=body,
        now=services.now_ms() // 1000,
    )


def _described(one: cosignatures.Standing) -> dict[str, Any]:
    said = one.refusal
    return {
        "name": one.name,
        "key": one.verifier,
        "org": one.org,
        "organisation": one.org_name,
        "size": one.size,
        "time": one.time_s,
        "lag": one.lag,
        "refusal": None if said is None else {
            "size": said.size, "leaf": said.leaf, "kind": said.kind, "id": said.entry_id, "code": said.code,
            "detail": said.message, "received_ms": said.received_ms,
        },
    }  # fmt: skip
