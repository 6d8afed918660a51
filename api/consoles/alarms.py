"""Alarms of sensors: the list and its rules, one alarm with its picture, acknowledge and clear."""

import json
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.consoles.common import done, show
from api.drawing.alarm_chart import Chart, draw
from api.errors import Forbidden, NotFound
from api.forms import Input, read_input
from api.identity import GOODS_SIDE, Identity, Role
from api.language import language_of
from api.policy import Policy, Routes, identity
from api.services import Services
from core.canonical import b64u
from core.errors import Rejected
from ingest import alarms as following
from ingest import alarms_book as book
from ingest.alarms_rules import CLEAR_S, KINDS, POSITION, Rule, read_rule
from ingest.alarms_tables import alarm_deliveries, sensor_readings, sensor_states
from ledger.database import Tx

ALARM_STAFF: Final = Policy("alarms", GOODS_SIDE | {Role.OPERATOR})
_AROUND_MS: Final = 6 * 3_600_000
_POINTS_MAX: Final = 20_000
_SHOWN_MAX: Final = 200


class RuleIn(Input):
    """An alarm rule; numbers may be texts. ``devices`` and ``places``: ids with spaces between, empty for all."""

    kind: str
    name: str
    measurement: str = ""
    devices: str | list[str] = ""
    places: str | list[str] = ""
    for_s: str | int = 0
    clear_s: str | int = CLEAR_S
    above: str | int | Decimal = ""
    below: str | int | Decimal = ""
    low: str | int | Decimal = ""
    high: str | int | Decimal = ""
    hysteresis: str | int | Decimal = ""
    degree_minutes_max: str | int | Decimal = ""
    mkt_max: str | int | Decimal = ""
    lat: str | int | Decimal = ""
    lon: str | int | Decimal = ""
    radius_km: str | int | Decimal = ""
    hook: str = ""


class NoteIn(Input):
    """What a person says to it."""

    note: str = ""


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/factory/alarms", home, ALARM_STAFF, tags=["alarms"])
    routes.get("/factory/alarms/rules", rules, ALARM_STAFF, tags=["alarms"])
    routes.post("/factory/alarms/rules", add_rule, ALARM_STAFF, body=RuleIn, tags=["alarms"])
    routes.post("/factory/alarms/rules/{id}/end", end_rule, ALARM_STAFF, body=NoteIn, tags=["alarms"])
    routes.get("/factory/alarms/{id}", detail, ALARM_STAFF, tags=["alarms"])
    routes.post("/factory/alarms/{id}/ack", acknowledge, ALARM_STAFF, body=NoteIn, tags=["alarms"])
    routes.post("/factory/alarms/{id}/clear", clear, ALARM_STAFF, body=NoteIn, tags=["alarms"])


def home(request: Request, state: str = "open") -> Response:
    """Alarms of the organisation, or of all for the operator; rules; last readings per device and place."""
    return show(request, "alarms.html", _home(request, state=state))


def rules(request: Request) -> Response:
    """The active rules."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        return show(request, "alarms.html", {**_home(request), "rules": _rules(tx, _org(identity(request)))})


async def add_rule(request: Request) -> Response:
    """Store a rule; with a webhook its secret is shown once, in the answer."""
    given = await read_input(request, RuleIn)
    return await run_in_threadpool(_add, request, given)


async def end_rule(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
    """A rule judges nothing any more; its open alarms are cleared."""
    await read_input(request, NoteIn)

    def run(tx: Tx, who: Identity, now_ms: int) -> dict[str, Any]:
        book.end_rule(tx, id, org=_org(who), who=who.login, now_ms=now_ms)
        return {"id": id, "state": "ended"}

    return await _command(request, run, "/factory/alarms")


def detail(request: Request, id: str) -> Response:  # noqa: A002
    """One alarm: picture, figures, goods, what was done, webhooks."""
    services: Services = request.app.state.services
    lang, org = language_of(request), _org(identity(request))
    with services.db.reading() as tx:
        row = _alarm(tx, id, org)
        rule = book.rule_of(tx, row.rule)
        chart = _chart(tx, row, rule, services.now_ms())
        query = sa.select(alarm_deliveries).where(alarm_deliveries.c.alarm == id)
        hooks = tx.execute(query.order_by(alarm_deliveries.c.created_ms)).all()
    values = {
        "alarm": book.shown(row, rule),
        "told": {"raise_event": row.raise_event, "clear_event": row.clear_event},
        "hooks": [{"what": one.what, "state": one.state, "attempts": one.attempts, "answer": one.answer,
                   "created_ms": one.created_ms} for one in hooks],
        "chart_wide": draw(chart, lang, width=860, height=300),
        "chart_thin": draw(chart, lang, width=360, height=240),
        "is_open": row.state != book.CLEARED,
    }  # fmt: skip
    return show(request, "alarm.html", values)


async def acknowledge(request: Request, id: str) -> Response:  # noqa: A002
    """Somebody has seen the alarm."""
    return await _touch(request, id, book.acknowledge)


async def clear(request: Request, id: str) -> Response:  # noqa: A002
    """Somebody ends the alarm; it does not come back for this episode."""
    return await _touch(request, id, book.clear)


async def _touch(request: Request, alarm_id: str, move: Any) -> Response:
    given = await read_input(request, NoteIn)

    def run(tx: Tx, who: Identity, now_ms: int) -> dict[str, Any]:
        row = _found(lambda: move(tx, alarm_id, org=_org(who), who=who.login, note=given.note[:500], now_ms=now_ms))
        return book.shown(row, book.rule_of(tx, row.rule))

    return await _command(request, run, f"/factory/alarms/{alarm_id}")


async def _command(request: Request, run: Any, target: str) -> Response:
    services: Services = request.app.state.services
    who, now_ms = identity(request), services.now_ms()

    def commit() -> dict[str, Any]:
        with services.db.transaction() as tx:
            return _found(lambda: run(tx, who, now_ms))  # type: ignore[no-any-return]

    return done(request, target, await run_in_threadpool(commit))


def _add(request: Request, given: RuleIn) -> Response:
    services: Services = request.app.state.services
    who, now_ms = identity(request), services.now_ms()
    if not who.has(*GOODS_SIDE):
        raise Forbidden("Rules are set by the organisation whose devices they judge.")
    rule = read_rule(b64u(services.random(12)), who.org, given.model_dump())
    if rule.hook:
        _check_hook(rule.hook, may_be_private=services.settings.webhook_private)
    secret = b64u(services.random(24)) if rule.hook else ""
    with services.db.transaction() as tx:
        book.add_rule(tx, rule, secret=secret, who=who.login, now_ms=now_ms)
        following.judge_again(tx, rule, now_ms)
    if secret and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return show(request, "alarms.html", _home(request, secret=secret))
    return done(request, "/factory/alarms", {"id": rule.id, "secret": secret or None})


def _check_hook(address: str, *, may_be_private: bool) -> None:
    from api.epcis.webhooks_target import read_target

    try:
        read_target(address, may_be_private=may_be_private)
    except Rejected as error:
        raise Rejected(error.message.replace("dest", "hook"), code="bad_alarm_rule", pointer="/hook") from error


def _home(request: Request, *, state: str = "open", secret: str = "") -> dict[str, Any]:
    services: Services = request.app.state.services
    who = identity(request)
    org = _org(who)
    with services.db.reading() as tx:
        rows = book.alarms_of(tx, org=org, is_open=state != "all", limit=_SHOWN_MAX)
        by_id = {rule.id: rule for rule in [book.rule_of(tx, name) for name in {row.rule for row in rows}]}
        return {
            "alarms": [book.shown(row, by_id[row.rule]) for row in rows],
            "rules": _rules(tx, org),
            "last": _last(tx, org),
            "kinds": KINDS,
            "state": state,
            "secret": secret,
            "may_set": who.has(*GOODS_SIDE),
            "sees_all": org is None,
        }


def _rules(tx: Tx, org: str | None) -> list[dict[str, Any]]:
    return [
        {"id": rule.id, "org": rule.org, "name": rule.name, "kind": rule.kind, "hook": rule.hook or None,
         **json.loads(rule.definition())}
        for rule in book.rules_of(tx, org=org)
    ]  # fmt: skip


def _last(tx: Tx, org: str | None) -> list[dict[str, Any]]:
    query = sa.select(sensor_states).where(sensor_states.c.measurement != POSITION)
    query = query.where(sensor_states.c.org == org) if org is not None else query
    rows = tx.execute(query.order_by(sensor_states.c.at_ms.desc()).limit(_SHOWN_MAX))
    names = ("scope", "id", "measurement", "value", "uom", "at_ms", "place", "source")
    return [{name: getattr(row, name) for name in names} for row in rows]


def _chart(tx: Tx, row: Any, rule: Rule, now_ms: int) -> Chart:
    found = sensor_readings.c
    end_ms = row.end_ms or now_ms
    query = sa.select(found.at_ms, found.value, found.uom).where(
        found.device == row.device, found.measurement == rule.measurement,
        found.at_ms.between(row.start_ms - _AROUND_MS, end_ms + _AROUND_MS),
    )  # fmt: skip
    rows = tx.execute(query.order_by(found.at_ms, found.ev).limit(_POINTS_MAX)).all()
    bounds = [rule.numbers[name] for name in ("above", "below", "high", "low") if name in rule.numbers]
    unit = {"CEL": "°C", "P1": "%", "DD": "°"}.get(rows[0].uom, rows[0].uom) if rows else ""
    points = [(one.at_ms // 1000, Decimal(one.value)) for one in rows]
    last_s = points[-1][0] if points else 0
    until_s = row.end_ms // 1000 if row.end_ms else last_s
    return Chart(
        points, bounds if rule.kind in ("threshold", "excursion") else [], (row.start_ms // 1000, until_s), unit
    )


def _alarm(tx: Tx, alarm_id: str, org: str | None) -> Any:
    row = _found(lambda: book.alarm(tx, alarm_id))
    if org is not None and row.org != org:
        raise NotFound("There is no such alarm.")
    return row


def _found(run: Any) -> Any:
    try:
        return run()
    except Rejected as error:
        if error.code.startswith("no_such_"):
            raise NotFound(error.message) from error
        raise


def _org(who: Identity) -> str | None:
    """Whose alarms somebody sees: their own organisation's, or all for the operator."""
    return None if who.has(Role.OPERATOR) else who.org
