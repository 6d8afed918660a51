"""Routes for machines: health, readiness, metrics, the read-only node, the log's checkpoint and tiles, OpenAPI."""

import re
from typing import Any, Final

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client import REGISTRY as DEFAULT_REGISTRY

from api import mirrors, pages
from api.errors import NotFound
from api.policy import PUBLIC, Routes
from api.services import Services
from contracts.node import answer_bytes
from core.canonical import sha256
from core.errors import TracebondError, Unavailable
from ledger.cosignatures import newest_note
from ledger.tables import checkpoints, entries, tiles, waiting

_FOREVER: Final = "public, max-age=31536000, immutable"
_TILE_PATH = re.compile(
    r"(?P<level>[0-9]|[1-5][0-9]|6[0-3])/(?P<number>(?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?\Z"
)
TILE_WIDTH: Final = 256
HASH_BYTES: Final = 32


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/healthz", healthz, PUBLIC, tags=["operation"])
    routes.get("/readyz", readyz, PUBLIC, tags=["operation"])
    routes.get("/metrics", metrics, PUBLIC, tags=["operation"])
    routes.post("/rpc", rpc, PUBLIC, tags=["proof"])
    routes.get("/log/checkpoint", checkpoint, PUBLIC, tags=["log"])
    routes.get("/log/tile/{path:path}", tile, PUBLIC, tags=["log"])
    routes.get("/openapi.json", openapi, PUBLIC, include_in_schema=False)
    routes.get("/docs", docs, PUBLIC, include_in_schema=False)
    routes.get("/static/{name}", static, PUBLIC, include_in_schema=False)


async def healthz() -> Response:
    """Whether this process answers at all."""
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


def readyz(request: Request) -> Response:
    """Whether the parts this process needs answer: database, chain, and the broker where it has a worker."""
    services: Services = request.app.state.services
    parts = {"database": _trial(services.db.ping), "chain": _chain(services)}
    if services.broker_problem is not None:
        parts["broker"] = services.broker_problem()
    is_ready = not any(parts.values())
    body = {"status": "ok" if is_ready else "unready", "parts": {name: fault or "ok" for name, fault in parts.items()}}
    return JSONResponse(body, status_code=200 if is_ready else 503, headers={"Cache-Control": "no-store"})


def metrics(request: Request) -> Response:
    """Prometheus metrics: those of the process, and how far the log has come."""
    services: Services = request.app.state.services
    registry = CollectorRegistry()
    with services.db.reading() as tx:
        size, time_s = log_head(tx)
        queue = tx.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one()
        mirrors.metrics(tx, registry, now_ms=services.now_ms())
    for name, words, value in (
        ("tracebond_log_size", "Leaves under the newest checkpoint", size),
        ("tracebond_log_checkpoint_age_seconds", "Age of the newest checkpoint", services.now_ms() / 1000 - time_s),
        ("tracebond_waiting_entries", "Stored entries that have no leaf index yet", queue),
    ):
        Gauge(name, words, registry=registry).set(value)
    body = generate_latest(DEFAULT_REGISTRY) + generate_latest(registry)
    return Response(body, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


async def rpc(request: Request) -> Response:
    """Read-only JSON-RPC to the configured chain: the default node of the pages' proof check."""
    services: Services = request.app.state.services
    if services.chain is None:
        raise Unavailable("This process has no chain.", code="chain_away")
    body = await request.body()
    return Response(await run_in_threadpool(answer_bytes, services.chain, body), media_type="application/json")


def checkpoint(request: Request) -> Response:
    """The newest signed checkpoint (C2SP tlog-checkpoint), with the cosignatures that mirrors have sent for it."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        note = newest_note(tx)
    if note is None:
        raise NotFound("There is no checkpoint yet.")
    return tagged(request, note.encode(), kind="text/plain; charset=utf-8", cache="no-cache")


def tile(request: Request, path: str) -> Response:
    """A tile of hashes (C2SP tlog-tiles): full and partial ones never change."""
    level, number, width = read_tile_path(path)
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        hashes = tx.scalar(sa.select(tiles.c.hashes).where(tiles.c.level == level, tiles.c.number == number))
    if hashes is None or len(hashes) < width * HASH_BYTES:
        raise NotFound("There is no such tile.")
    return tagged(request, bytes(hashes)[: width * HASH_BYTES], kind="application/octet-stream", cache=_FOREVER)


def read_tile_path(path: str) -> tuple[int, int, int]:
    """Level, number and width of a tile's path below ``/log/tile/``.

    Raises:
        NotFound: no tile of any log has this path; a log is a set of static resources, so that it is just not there.
    """
    match = _TILE_PATH.match(path)
    if match is None:
        raise NotFound(
            "A tile's path is level/number, the number in groups of three digits, all but the last after an x, and "
            "/width behind .p for a partial tile."
        )
    number = int(match["number"].replace("/", "").replace("x", ""))
    if tile_path(number) != match["number"]:
        raise NotFound("The tile's number has leading groups of zeroes.")
    width = int(match["width"] or TILE_WIDTH)
    if match["width"] is not None and width >= TILE_WIDTH:
        raise NotFound("A partial tile is 1 to 255 hashes wide.")
    return int(match["level"]), number, width


def tagged(request: Request, data: bytes, *, kind: str, cache: str) -> Response:
    """The bytes with a strong validator, or 304 when the client holds them already (RFC 9110, section 13.1.2)."""
    tag = f'"{sha256(data)[:16].hex()}"'
    headers = {"ETag": tag, "Cache-Control": cache}
    held = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in held or "*" in held:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers | {"Content-Type": kind})


def tile_path(number: int) -> str:
    """A tile's number as C2SP writes it: groups of three digits, all but the last with an x."""
    groups = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups)


async def static(request: Request, name: str) -> Response:
    """A file of the pages, kept by caches for ever under its hash."""
    found = pages.static_files().get(name)
    if found is None:
        raise NotFound("There is no such file.")
    data, kind, tag = found
    is_pinned = request.query_params.get("v") == tag
    headers = {"ETag": f'"{tag}"', "Cache-Control": _FOREVER if is_pinned else "no-cache"}
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)


async def openapi(request: Request) -> Response:
    """The OpenAPI 3.1 description of all routes for programs."""
    return JSONResponse(describe(request.app), headers={"Cache-Control": "no-cache"})


async def docs(request: Request) -> Response:
    """The description as a page."""
    return pages.page(request, "docs.html", {"operations": operations(describe(request.app))})


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title="Tracebond", version="0.1.0", openapi_version="3.1.0", routes=app.router.routes
        )
    return app.openapi_schema


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The document's operations as rows for the page."""
    rows: list[dict[str, Any]] = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            fields = [(name, name in body.get("required", [])) for name in body.get("properties", {})]
            rows.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "tag": (operation.get("tags") or [""])[0],
                    "summary": operation.get("description") or operation.get("summary") or "",
                    "fields": fields,
                }
            )
    return rows


def log_head(tx: sa.Connection) -> tuple[int, int]:
    """Size and time (unix seconds) of the newest checkpoint; zeros before the first."""
    newest = sa.select(checkpoints.c.size, checkpoints.c.time_s).order_by(checkpoints.c.size.desc()).limit(1)
    row = tx.execute(newest).first()
    return (0, 0) if row is None else (int(row.size), int(row.time_s))


def entry_count(tx: sa.Connection) -> int:
    """Entries with a leaf index."""
    return int(tx.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one())


def _chain(services: Services) -> str:
    return "" if services.chain is None else _trial(services.chain.block_number)


def _trial(call: Any) -> str:
    try:
        call()
    except TracebondError as error:
        return error.message
    return ""
