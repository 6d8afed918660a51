"""``tracebond bench lookup``: consumer pages and JSON look-ups over HTTP, beside a bare indexed look-up."""

import asyncio
import http.client
import json
import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from urllib.parse import quote, urlsplit

import sqlalchemy as sa

from core.prefixmap import map_key
from ledger.database import open_database
from ledger.tables import item_steps
from tracebond.bench.databases import sqlite_database
from tracebond.bench.items_load import load, sample
from tracebond.bench.report import Row, Say

RATE = 300  # pages a second at which the 95th percentile counts
TARGET_MS = 50.0
TARGET_SHARE = 0.5
CLIENTS = 4
Fetch = Callable[[str], str]


def run(quick: bool, say: Say) -> list[Row]:
    """Measure over SQLite; ``quick`` with 20 thousand events and two seconds of load."""
    events, items, seconds = (20_000, 60, 2) if quick else (1_000_000, 400, 10)
    with sqlite_database() as database:
        ids = load(database, events=events, items=items, say=say)
        url = "sqlite:///" + database.url.removeprefix("sqlite:///")
        port = _free_port()
        context = multiprocessing.get_context("spawn")
        server = context.Process(target=_serve, args=(url, port), daemon=True)
        server.start()
        try:
            _await(port)
            return _measure(ids, port, url, seconds, events, say)
        finally:
            server.terminate()
            server.join(10)


def _measure(ids: list[str], port: int, url: str, seconds: int, events: int, say: Say) -> list[Row]:
    kinds: dict[str, Fetch] = {
        "page": lambda item: urlsplit(item).path + "?lang=en",
        "JSON": lambda item: "/items/" + quote(item, safe=""),
        "bare": lambda item: "/bench/bare?item=" + quote(item, safe=""),
    }
    rates, late, first = {}, {}, {}
    for name in ("page", "JSON"):
        say(f"{name}: the first look at each of {len(ids)} items")
        first[name] = _first(ids, port, kinds[name])
    for name, path in kinds.items():
        say(f"{name}: as fast as {CLIENTS} clients can, {seconds} s")
        rates[name] = _closed(ids, port, path, seconds)
    for name in ("page", "JSON"):
        say(f"{name}: at {RATE} a second, {seconds} s")
        late[name] = _open(ids, port, kinds[name], seconds)
    naive = _naive(url, ids[0])
    size = f"{events:,} events"
    shares = {"is_share_target": True, "target": TARGET_SHARE, "ceiling": rates["bare"], "naive": 1000 / naive}
    times = {"is_lower_better": True, "target": TARGET_MS, "naive": naive}
    return [
        Row(f"consumer page, p95 at {RATE}/s, {size}", late["page"], "ms", **times),  # type: ignore[arg-type]
        Row(f"JSON look-up, p95 at {RATE}/s, {size}", late["JSON"], "ms", **times),  # type: ignore[arg-type]
        Row(
            f"consumer page, first look, p95 one by one, {size}", first["page"], "ms", naive=naive, is_lower_better=True
        ),
        Row(
            f"JSON look-up, first look, p95 one by one, {size}", first["JSON"], "ms", naive=naive, is_lower_better=True
        ),
        Row(f"consumer pages looked at before, {size}", rates["page"], "1/s", **shares),  # type: ignore[arg-type]
        Row(f"JSON look-ups asked before, {size}", rates["JSON"], "1/s", **shares),  # type: ignore[arg-type]
    ]


def _first(ids: list[str], port: int, path: Fetch) -> float:
    """95th percentile of the first look at each item: nothing is kept yet."""
    times = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as line:
        for item in ids:
            began = time.perf_counter()
            _get(line, path(item))
            times.append((time.perf_counter() - began) * 1000)
    return statistics.quantiles(times, n=20)[-1]


def _closed(ids: list[str], port: int, path: Fetch, seconds: float) -> float:
    """Answers a second with each client asking again at once."""
    counts: list[int] = []

    def ask(seed: int) -> None:
        done, until = 0, time.perf_counter() + seconds
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as line:
            for item in sample(ids[seed:] + ids[:seed], 10_000_000):
                _get(line, path(item))
                done += 1
                if time.perf_counter() > until:
                    break
        counts.append(done)

    threads = [threading.Thread(target=ask, args=(number * 7 % len(ids),)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _open(ids: list[str], port: int, path: Fetch, seconds: float) -> float:
    """95th percentile from the moment an answer was due to be asked for, so that waiting in a queue counts."""
    times: list[float] = []
    began = time.perf_counter() + 0.2

    def ask(first: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as line:
            for number, item in enumerate(sample(ids, int(RATE * seconds / CLIENTS))):
                due = began + (number * CLIENTS + first) / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                _get(line, path(item))
                times.append((time.perf_counter() - due) * 1000)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.quantiles(times, n=20)[-1]


def _get(line: http.client.HTTPConnection, path: str) -> None:
    line.request("GET", path, headers={"Accept": "text/html, application/json;q=0.5"})
    answer = line.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} answers {answer.status}: {body[:200]!r}")


def _naive(url: str, item: str) -> float:
    """The look-up without an index: every row's names are read."""
    with closing(open_database(url)) as database, database.reading() as tx:
        began = time.perf_counter()
        for (ids,) in tx.execute(sa.text("SELECT item_ids FROM messages")):
            if item.encode() in bytes(ids):
                json.loads(bytes(ids))
        return (time.perf_counter() - began) * 1000


def _serve(url: str, port: int) -> None:
    """The product's application, and beside it the bare look-up: one indexed read, a few bytes of JSON."""
    import uvicorn
    from fastapi import Request
    from fastapi.responses import JSONResponse, Response

    from api.app import create_app
    from api.policy import PUBLIC, mark
    from api.services import Services, WebSettings

    database = open_database(url)
    app = create_app(Services(db=database, settings=WebSettings(base_url=f"http://127.0.0.1:{port}")))

    async def bare(request: Request, item: str) -> Response:
        key64 = int.from_bytes(map_key("item", item)[:8], signed=True)
        with database.reading() as tx:
            leaf = tx.scalar(sa.select(sa.func.max(item_steps.c.leaf)).where(item_steps.c.key64 == key64))
        return JSONResponse({"item": item, "leaf": leaf})

    app.add_api_route("/bench/bare", bare, methods=["GET"])
    route = app.router.routes.pop()
    mark(route, PUBLIC)
    app.router.routes.insert(0, route)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
    asyncio.run(uvicorn.Server(config).serve())


def _await(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("The server did not start.")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
