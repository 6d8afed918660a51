"""Subscriptions to named queries by webhook: make, list, look at, replay, end."""

import json
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.auth.partners import SUBSCRIBE, Caller, caller_of
from api.epcis import EpcisRoutes
from api.epcis.headers import epc_format
from api.epcis.named import BadQuery, json_body, query_row
from api.epcis.query_answers import json_response, viewer_of
from api.epcis.query_docs import PAGING, described
from api.epcis.query_pages import (
    TOKEN_LIFE_MS,
    Token,
    next_headers,
    page_size,
    question_of,
    refuse_parameters,
    time_text,
    token_in,
)
from api.epcis.query_tables import deliveries, subscriptions
from api.epcis.subscriptions_schedule import BadSchedule, Schedule, read_schedule
from api.epcis.webhooks import ACTIVE, DEADLINE_MS, FAILED, WAITING
from api.epcis.webhooks_target import read_target
from api.errors import NotFound
from api.services import Services
from core.errors import Conflict
from ledger.database import Tx
from ledger.queryindex_search import newest
from ledger.queryindex_tables import query_events
from ledger.queryindex_terms import time_of

SUBSCRIPTIONS_MAX: Final = 200
SECRET_CHARACTERS_MAX: Final = 512
_MEMBERS: Final = frozenset(
    {"dest", "signatureToken", "secret", "initialRecordTime", "reportIfEmpty", "stream", "schedule", "epcFormat"}
)
REQUEST: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["dest"],
    "additionalProperties": False,
    "properties": {
        "dest": {"type": "string", "format": "uri"},
        "signatureToken": {"type": "string", "maxLength": SECRET_CHARACTERS_MAX},
        "secret": {"type": "string", "maxLength": SECRET_CHARACTERS_MAX},
        "initialRecordTime": {"type": "string", "format": "date-time"},
        "reportIfEmpty": {"type": "boolean"},
        "stream": {"type": "boolean"},
        "schedule": {"type": "object", "additionalProperties": {"type": "string"}},
        "epcFormat": {"type": "string"},
    },
}
RESPONSE: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["subscriptionID", "queryName", "dest", "createdAt", "state"],
    "properties": {
        "subscriptionID": {"type": "string"},
        "dest": {"type": "string"},
        "createdAt": {"type": "string", "format": "date-time"},
    },
}
REPLAY: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
    "properties": {"failed": {"const": True}, "since": {"type": "string", "format": "date-time"}},
}


def install(routes: EpcisRoutes) -> None:
    """Add the routes."""
    path, listed = "/queries/{name}/subscriptions", {"type": "array", "items": dict(RESPONSE)}
    several = described({200: "Subscriptions"}, schema=listed, parameters=PAGING, path="name")
    routes.add("GET", path, list_subscriptions, SUBSCRIBE, **several)
    made = described({201: "Subscribed"}, schema=RESPONSE, body=REQUEST, path="name", faults=(409, 415))
    routes.add("POST", path, create_subscription, SUBSCRIBE, **made)
    path += "/{subscription}"
    both = ({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},)
    one = described({200: "The subscription"}, schema=RESPONSE, parameters=both, path="subscription")
    routes.add("GET", path, one_subscription, SUBSCRIBE, **one)
    ended = described({204: "Ended"}, parameters=both, path="subscription")
    routes.add("DELETE", path, delete_subscription, SUBSCRIBE, **ended)
    sent = described({200: "Deliveries"}, schema={"type": "array"}, parameters=(*both, *PAGING), path="subscription")
    routes.add("GET", path + "/deliveries", list_deliveries, SUBSCRIBE, **sent)
    again = described(
        {200: "The subscription"}, schema=RESPONSE, parameters=both, path="subscription", body=REPLAY, faults=(415,)
    )
    routes.add("POST", path + "/replay", replay, SUBSCRIBE, **again)


def list_subscriptions(request: Request, name: str) -> Response:
    """The subscriptions to a query of the caller."""
    refuse_parameters(request)
    services: Services = request.app.state.services
    caller, limit, question = caller_of(request), page_size(request), question_of(request.url.path)
    with services.db.reading() as tx:
        query_row(tx, caller, name)
        token = token_in(request, tx, question)
        start = "" if token is None else str(token.place[0])
        query = sa.select(subscriptions).where(*_of(caller, name), subscriptions.c.id > start)
        rows = list(tx.execute(query.order_by(subscriptions.c.id).limit(limit + 1)))
    headers: dict[str, str] = {}
    if len(rows) > limit:
        place = Token(question, (rows[limit - 1].id,), 0, None, services.now_ms() + TOKEN_LIFE_MS)
        headers = next_headers(request, place)
    return json_response(request, [described_row(row) for row in rows[:limit]], headers=headers)


async def create_subscription(request: Request, name: str) -> Response:
    """Report a query's new events to an address: as they come (``stream``) or by ``schedule``."""
    body = await json_body(request)
    return await run_in_threadpool(_create, request, name, body)


def one_subscription(request: Request, name: str, subscription: str) -> Response:
    """How a subscription stands; its secret is never shown."""
    refuse_parameters(request)
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        row = _row(tx, caller_of(request), name, subscription)
        counts = sa.select(deliveries.c.state, sa.func.count().label("number"))
        counts = counts.where(deliveries.c.subscription == row.id)
        found = {one.state: one.number for one in tx.execute(counts.group_by(deliveries.c.state))}
    return json_response(request, described_row(row) | {"deliveries": found})


def delete_subscription(request: Request, name: str, subscription: str) -> Response:
    """End a subscription; what waits is not sent any more."""
    services: Services = request.app.state.services
    with services.db.transaction() as tx:
        row = _row(tx, caller_of(request), name, subscription)
        tx.execute(deliveries.delete().where(deliveries.c.subscription == row.id))
        tx.execute(subscriptions.delete().where(subscriptions.c.id == row.id))
    return Response(status_code=204)


def list_deliveries(request: Request, name: str, subscription: str) -> Response:
    """What was and is to be reported, newest first, without the bodies."""
    refuse_parameters(request)
    services: Services = request.app.state.services
    limit, question = page_size(request), question_of(request.url.path)
    with services.db.reading() as tx:
        row = _row(tx, caller_of(request), name, subscription)
        token = token_in(request, tx, question)
        columns = [column for column in deliveries.c if column.name != "body"]
        query = sa.select(*columns).where(deliveries.c.subscription == row.id)
        if token is not None:
            query = query.where(deliveries.c.number < int(token.place[0]))
        rows = list(tx.execute(query.order_by(deliveries.c.number.desc()).limit(limit + 1)))
    headers: dict[str, str] = {}
    if len(rows) > limit:
        place = Token(question, (rows[limit - 1].number,), 0, None, services.now_ms() + TOKEN_LIFE_MS)
        headers = next_headers(request, place)
    shown = [
        {
            "deliveryID": one.id, "state": one.state, "events": one.events, "attempts": one.attempts,
            "createdAt": time_text(one.created_ms), "deadline": time_text(one.deadline_ms), "answer": one.answer,
        }
        for one in rows[:limit]
    ]  # fmt: skip
    return json_response(request, shown, headers=headers)


async def replay(request: Request, name: str, subscription: str) -> Response:
    """Send again: what was given up (``failed``), or everything recorded from a time on (``since``)."""
    body = await json_body(request)
    return await run_in_threadpool(_replay, request, name, subscription, body)


def described_row(row: Any) -> dict[str, Any]:
    """A subscription as the binding writes it."""
    found: dict[str, Any] = {"subscriptionID": row.id, "queryName": row.query_name, "dest": row.dest}
    found |= {"createdAt": time_text(row.created_ms), "epcFormat": row.epc_format, "state": row.state}
    if row.schedule is None:
        found["stream"] = True
    else:
        found |= {"schedule": json.loads(row.schedule), "reportIfEmpty": row.report_if_empty}
    for name, value in (
        ("initialRecordTime", row.initial_ms),
        ("minRecordTime", row.min_record_ms),
        ("lastNotifiedAt", row.notified_ms),
    ):
        if value is not None:
            found[name] = time_text(value)
    return found


def trigger_of(value: Mapping[str, Any]) -> Schedule | None:
    """The schedule of a subscription, None for a stream.

    Raises:
        BadSchedule: neither or both are given.
    """
    stream, schedule = value.get("stream", False), value.get("schedule")
    if not isinstance(stream, bool):
        raise BadSchedule("stream is true or false.", pointer="/stream")
    if stream == (schedule is not None):
        raise BadSchedule("Give either stream: true or a schedule.", pointer="/schedule")
    return None if stream else read_schedule(schedule)


def cursor_before(tx: Tx, record_ms: int) -> int:
    """The key of the last event recorded before a time, -1 when there is none."""
    column = query_events.c.record_ms
    query = sa.select(query_events.c.ev).where(column < record_ms).order_by(column.desc(), query_events.c.ev.desc())
    found = tx.execute(query.limit(1)).scalar_one_or_none()
    return -1 if found is None else found


def record_time(value: Any, pointer: str) -> int | None:
    """The unix ms of a time in a body, None for none.

    Raises:
        BadQuery: it is no time with a zone.
    """
    if value is None:
        return None
    seconds = time_of(value) if isinstance(value, str) else None
    if seconds is None:
        raise BadQuery("A date and time with a zone is needed here.", pointer=pointer)
    return int(-((-seconds * 1000) // 1))


def _create(request: Request, name: str, body: Mapping[str, Any]) -> Response:
    unknown = sorted(set(body) - _MEMBERS)
    if unknown:
        raise BadQuery(f"A subscription has no member {unknown[0][:100]!r}.", pointer=f"/{unknown[0][:100]}")
    services: Services = request.app.state.services
    caller, now_ms = caller_of(request), services.now_ms()
    dest, secret = body.get("dest"), body.get("signatureToken", body.get("secret", ""))
    if not isinstance(dest, str):
        raise BadQuery("dest is the address to report to.", pointer="/dest")
    if not isinstance(secret, str) or len(secret) > SECRET_CHARACTERS_MAX:
        raise BadQuery(
            f"signatureToken is a text of at most {SECRET_CHARACTERS_MAX} characters.", pointer="/signatureToken"
        )
    if not isinstance(body.get("reportIfEmpty", False), bool):
        raise BadQuery("reportIfEmpty is true or false.", pointer="/reportIfEmpty")
    initial_ms = record_time(body.get("initialRecordTime"), "/initialRecordTime")
    with services.db.reading() as tx:
        query_row(tx, caller, name)
    schedule = trigger_of(body)
    read_target(dest, may_be_private=services.settings.webhook_private)
    viewer = viewer_of(caller)
    row: dict[str, Any] = {
        "id": services.random(16).hex(), "owner": caller.speaks_as, "query_name": name, "partner_id": caller.partner_id,
        "viewer": json.dumps({"org": viewer.org, "sees_all": viewer.sees_all, "reader": viewer.reader}),
        "dest": dest, "secret": secret, "schedule": None if schedule is None else json.dumps(dict(schedule.given)),
        "report_if_empty": body.get("reportIfEmpty", False), "epc_format": epc_format(request),
        "initial_ms": initial_ms, "min_record_ms": now_ms if initial_ms is None else initial_ms, "created_ms": now_ms,
        "notified_ms": None, "next_ms": None if schedule is None else schedule.after(now_ms), "state": ACTIVE,
    }  # fmt: skip
    with services.db.transaction() as tx:
        query_row(tx, caller, name)
        held = sa.select(sa.func.count()).where(subscriptions.c.owner == caller.speaks_as)
        if tx.execute(held).scalar_one() >= SUBSCRIPTIONS_MAX:
            raise Conflict(
                f"You have {SUBSCRIPTIONS_MAX} subscriptions; end some first.", code="too_many_subscriptions"
            )
        row["cursor_ev"] = newest(tx) if initial_ms is None else cursor_before(tx, initial_ms)
        tx.execute(subscriptions.insert().values(row))
        made = _row(tx, caller, name, row["id"])
    location = f"{services.settings.base_url}/epcis/queries/{name}/subscriptions/{row['id']}"
    return json_response(request, described_row(made), status=201, headers={"Location": location})


def _replay(request: Request, name: str, subscription: str, body: Mapping[str, Any]) -> Response:
    if set(body) - {"failed", "since"} or len(body) != 1:
        raise BadQuery("Give either failed: true or since: a time.")
    if "failed" in body and body["failed"] is not True:
        raise BadQuery("failed is true.", pointer="/failed")
    since_ms = record_time(body.get("since"), "/since")
    services: Services = request.app.state.services
    now_ms = services.now_ms()
    with services.db.transaction() as tx:
        row = _row(tx, caller_of(request), name, subscription)
        change: dict[str, Any] = {"state": ACTIVE}
        if since_ms is not None:
            change |= {"cursor_ev": cursor_before(tx, since_ms), "initial_ms": since_ms}
        else:
            again = deliveries.update().where(deliveries.c.subscription == row.id, deliveries.c.state == FAILED)
            values = {"state": WAITING, "next_ms": now_ms, "deadline_ms": now_ms + DEADLINE_MS, "attempts": 0}
            tx.execute(again.values(values))
        tx.execute(subscriptions.update().where(subscriptions.c.id == row.id).values(change))
        row = _row(tx, caller_of(request), name, subscription)
    return json_response(request, described_row(row))


def _of(caller: Caller, name: str) -> tuple[Any, Any]:
    return subscriptions.c.owner == caller.speaks_as, subscriptions.c.query_name == name


def _row(tx: Tx, caller: Caller, name: str, subscription: str) -> Any:
    query = sa.select(subscriptions).where(*_of(caller, name), subscriptions.c.id == subscription)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound("You have no subscription of that id to that query.")
    return row
