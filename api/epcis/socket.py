"""A query's new events over a WebSocket: ``/queries/{name}/events`` with ``stream`` or the fields of a schedule."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa
from fastapi import WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from api.auth.partners import QUERY, Caller, caller_by_key, caller_of, key_in
from api.epcis import EpcisRoutes
from api.epcis.headers import EpcFormat, epc_format
from api.epcis.named import query_row
from api.epcis.problems import error_body
from api.epcis.query_answers import encoded, query_document, shown, viewer_of
from api.epcis.subscriptions import cursor_before, record_time, trigger_of
from api.epcis.subscriptions_schedule import FIELDS, BadSchedule, Schedule
from api.epcis.webhooks import BATCH, standing_query
from api.identity import Role
from api.services import Services
from api.tables import SESSION, USER
from core.errors import TracebondError
from ledger.database import Tx
from ledger.queryindex_search import newest, search

POLL_S: Final = 0.5
GONE, REFUSED, FAULT = 1001, 1008, 1011
Ended = tuple[int, str]
QUERY_GONE: Final[Ended] = (GONE, "The query is gone.")
SHUT_OUT: Final[Ended] = (REFUSED, "You are no longer let in: your key or session has ended.")


@dataclass
class _Report:
    """What a connection has been told so far.

    Attributes:
        next_ms: when the schedule comes next, None for a stream.
    """

    caller: Caller
    name: str
    form: EpcFormat
    schedule: Schedule | None
    is_empty_told: bool
    initial_ms: int | None
    cursor: int
    next_ms: int | None


def install(routes: EpcisRoutes) -> None:
    """Add the route."""
    routes.websocket("/queries/{name}/events", subscribe, QUERY)


async def subscribe(websocket: WebSocket, name: str) -> None:
    """Report a query's new events until the client goes, or the query does."""
    await websocket.accept()
    try:
        report = await run_in_threadpool(_open, websocket, name)
    except TracebondError as error:
        await websocket.send_text(json.dumps(error_body(error)))
        await websocket.close(REFUSED, "The subscription was refused.")
        return
    listener = asyncio.create_task(_until_gone(websocket))
    try:
        while not listener.done():
            documents, ended = await run_in_threadpool(_new, websocket, report)
            for document in documents:
                await websocket.send_text(document.decode())
            if ended is not None:
                await websocket.close(*ended)
                return
            if not documents:
                await asyncio.wait([listener], timeout=POLL_S)
    except TracebondError as error:
        await websocket.send_text(json.dumps(error_body(error)))
        await websocket.close(FAULT, "The query cannot be answered.")
    except (WebSocketDisconnect, RuntimeError):
        # The client went while something was being sent.
        return
    finally:
        listener.cancel()


async def _until_gone(websocket: WebSocket) -> None:
    """Read and forget what the client sends, which is nothing that the standard knows, until it goes."""
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
    except (WebSocketDisconnect, RuntimeError):
        return


def _open(websocket: WebSocket, name: str) -> _Report:
    services: Services = websocket.app.state.services
    caller, given = caller_of(websocket), dict(websocket.query_params)
    schedule = trigger_of(_trigger(given))
    initial_ms = record_time(given.get("initialRecordTime"), "initialRecordTime")
    with services.db.reading() as tx:
        query_row(tx, caller, name)
        standing_query(tx, caller.speaks_as, name)
        cursor = newest(tx) if initial_ms is None else cursor_before(tx, initial_ms)
    next_ms = None if schedule is None else schedule.after(services.now_ms())
    is_empty_told = given.get("reportIfEmpty") == "true"
    return _Report(caller, name, epc_format(websocket), schedule, is_empty_told, initial_ms, cursor, next_ms)


def _trigger(given: Mapping[str, str]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(FIELDS) - {"stream", "reportIfEmpty", "initialRecordTime"})
    if unknown:
        raise BadSchedule(f"There is no parameter {unknown[0][:100]!r} here.", pointer=unknown[0][:100])
    for name in ("stream", "reportIfEmpty"):
        if given.get(name, "true") not in ("true", "false"):
            raise BadSchedule(f"{name} is true or false.", pointer=name)
    found: dict[str, Any] = {"stream": given.get("stream") == "true"}
    fields = {name: given[name] for name in FIELDS if name in given}
    return found | ({"schedule": fields} if fields else {})


def _is_let_in(websocket: WebSocket, tx: Tx, now_ms: int) -> bool:
    """Whether the caller would be let in now: a connection outlives no key, no scope and no session."""
    text = key_in(websocket)
    if text:
        found = caller_by_key(tx, text, now_ms=now_ms)
        return found is not None and QUERY in found[0].scopes
    identity, settings = websocket.state.identity, websocket.app.state.services.settings
    query = sa.select(USER.c.roles).join(SESSION, USER.c.id == SESSION.c.user_id)
    query = query.where(SESSION.c.token_hash == identity.session_hash, SESSION.c.ended_ms.is_(None), USER.c.is_active)
    # Listening is no use of a session: one that idles elsewhere ends here too.
    query = query.where(
        SESSION.c.seen_ms >= now_ms - settings.session_idle_s * 1_000,
        SESSION.c.opened_ms >= now_ms - settings.session_life_s * 1_000,
    )
    roles = tx.execute(query).scalar_one_or_none()
    return roles is not None and Role.REGULATOR in roles.split()


def _new(websocket: WebSocket, report: _Report) -> tuple[list[bytes], Ended | None]:
    """Documents of what came since the last call, and why the connection ends, if it does."""
    services: Services = websocket.app.state.services
    now_ms = services.now_ms()
    with services.db.reading() as tx:
        # Before anything else: nothing is told to a key that was revoked since.
        if not _is_let_in(websocket, tx, now_ms):
            return [], SHUT_OUT
        if report.next_ms is not None and now_ms < report.next_ms:
            return [], None
        try:
            query = standing_query(tx, report.caller.speaks_as, report.name)
        except TracebondError:
            return [], QUERY_GONE
        if report.initial_ms is not None:
            query = replace(query, record_ge_ms=max(report.initial_ms, query.record_ge_ms or 0))
        top = newest(tx)
        if top <= report.cursor and report.schedule is None:
            return [], None
        page = search(tx, query, viewer_of(report.caller), limit=BATCH, top=top, after=(report.cursor,))
    report.cursor = max(top, report.cursor) if page.next is None else int(page.next[0])
    is_done = page.next is None
    if report.schedule is not None and is_done:
        report.next_ms = report.schedule.after(now_ms)
    if not page.events and not (report.schedule is not None and report.is_empty_told):
        return [], None
    events = [shown(found, report.form) for found in page.events]
    return [encoded(query_document(events, now_ms=now_ms, query_name=report.name))], None
