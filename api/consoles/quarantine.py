"""The quarantine for the operator, and each organisation's own part of it: why was my message rejected."""

from datetime import datetime, timedelta, timezone
from typing import Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.consoles.commands import Whole
from api.consoles.common import done, show
from api.errors import NotFound
from api.forms import Input, read_input
from api.policy import GOODS_STAFF, OPERATOR, Routes, identity
from api.services import Services
from api.words import has_words
from core.canonical import unb64u
from core.errors import Conflict, Rejected, Unavailable
from core.identifiers import gln_of
from ingest import quarantine
from ingest.quarantine import QuarantineRow
from ingest.quarantine_desk import DAY_MS, QuarantineDesk, decoded, refusal_of

PAGE: Final = 50
STATES: Final = ("open", "accepted", "dismissed", "all")
_LOCAL: Final = timezone(timedelta(hours=8))
_SHOWN_MAX: Final = 20


class ReplayIn(Input):
    """One reason whose rows are all replayed."""

    code: str


class PurgeIn(Input):
    """Rows whose last arrival is older than so many days go."""

    days: Whole


class EmptyIn(Input):
    """Nothing."""


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/operator/quarantine", held, OPERATOR, tags=["operator"])
    routes.post("/operator/quarantine/replay", replay_all, OPERATOR, body=ReplayIn, tags=["operator"])
    routes.post("/operator/quarantine/purge", purge, OPERATOR, body=PurgeIn, tags=["operator"])
    routes.get("/operator/quarantine/{row_id}", detail, OPERATOR, tags=["operator"])
    routes.get("/operator/quarantine/{row_id}/bytes", held_bytes, OPERATOR, tags=["operator"])
    routes.post("/operator/quarantine/{row_id}/replay", replay_one, OPERATOR, body=EmptyIn, tags=["operator"])
    routes.post("/operator/quarantine/{row_id}/dismiss", dismiss, OPERATOR, body=EmptyIn, tags=["operator"])
    routes.get("/factory/quarantine", own, GOODS_STAFF, tags=["goods side"])
    routes.get("/factory/quarantine/{row_id}", own_detail, GOODS_STAFF, tags=["goods side"])
    routes.get("/factory/quarantine/{row_id}/bytes", own_bytes, GOODS_STAFF, tags=["goods side"])


def held(request: Request, before: int = 0) -> Response:
    """A page of the quarantine, newest first, by reason, device, key, message, text and time."""
    values = _page(request, before, org=None) | {"home": "/operator/quarantine", "is_operator": True}
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        values |= {"by_code": quarantine.count_by_code(tx), "fill": round(100 * quarantine.fill(tx))}
    values["days"] = services.quarantine.days if services.quarantine is not None else None
    return show(request, "quarantine.html", values)


def own(request: Request, before: int = 0) -> Response:
    """What your organisation's devices sent and was not taken, and why."""
    values = _page(request, before, org=identity(request).org)
    values |= {"home": "/factory/quarantine", "is_operator": False, "by_code": {}, "fill": 0, "days": None}
    return show(request, "quarantine.html", values)


def detail(request: Request, row_id: int) -> Response:
    """One row: the rule in words, the bytes decoded, the refusal record, and what can be done."""
    return _detail(request, row_id, org=None)


def own_detail(request: Request, row_id: int) -> Response:
    """One message of your organisation's devices that was not taken."""
    return _detail(request, row_id, org=identity(request).org)


def held_bytes(request: Request, row_id: int) -> Response:
    """The very bytes that were not taken."""
    return _bytes(request, row_id, org=None)


def own_bytes(request: Request, row_id: int) -> Response:
    """The very bytes of your organisation's message that was not taken."""
    return _bytes(request, row_id, org=identity(request).org)


async def replay_one(request: Request, row_id: int) -> Response:
    """Decide the same bytes again, after a fix."""
    await read_input(request, EmptyIn)
    outcome = await run_in_threadpool(_desk(request).replay, [row_id])
    if outcome[row_id] == "gone":
        raise NotFound("There is no such row.")
    return done(request, f"/operator/quarantine/{row_id}?result={outcome[row_id]}", {"result": outcome[row_id]})


async def replay_all(request: Request) -> Response:
    """Decide every open row of one reason again; gives how many came to which end."""
    given = await read_input(request, ReplayIn)
    outcome = await run_in_threadpool(_desk(request).replay_code, given.code)
    counts: dict[str, int] = {}
    for result in outcome.values():
        counts[result] = counts.get(result, 0) + 1
    shown = ",".join(f"{code}:{count}" for code, count in sorted(counts.items())[:_SHOWN_MAX])
    return done(request, f"/operator/quarantine?code={given.code}&result={shown}", {"results": counts})


async def dismiss(request: Request, row_id: int) -> Response:
    """Mark a row as looked at and dropped."""
    await read_input(request, EmptyIn)
    try:
        await run_in_threadpool(_desk(request).dismiss, row_id)
    except Conflict as error:
        if error.code == "no_such_row":
            raise NotFound("There is no such row.") from error
        raise
    return done(request, f"/operator/quarantine/{row_id}", {"state": "dismissed"})


async def purge(request: Request) -> Response:
    """Remove rows whose last arrival is older than so many days."""
    given = await read_input(request, PurgeIn)
    services: Services = request.app.state.services
    if given.days < 1:
        raise Rejected("At least one day is kept.", code="invalid_field", pointer="/days")
    before_ms = services.now_ms() - given.days * DAY_MS
    removed = await run_in_threadpool(lambda: _desk(request).purge(before_ms=before_ms))
    return done(request, f"/operator/quarantine?purged={removed}", {"removed": removed})


def _desk(request: Request) -> QuarantineDesk:
    services: Services = request.app.state.services
    if services.quarantine is None:
        raise Unavailable("This process does not work on the quarantine.", code="no_quarantine_desk")
    return services.quarantine


def _page(request: Request, before: int, *, org: str | None) -> dict[str, Any]:
    query = request.query_params
    given = {name: query.get(name, "").strip()[:200] for name in ("state", "code", "device", "kid", "gln", "message")}
    given |= {name: query.get(name, "").strip()[:200] for name in ("text", "since", "until")}
    given["state"] = given["state"] or "open"
    if given["state"] not in STATES:
        raise Rejected(f"state is one of {', '.join(STATES)}.", code="bad_parameter", pointer="state")
    gln = gln_of(org) if org is not None else given["gln"] or None
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        rows = quarantine.search(
            tx,
            state=None if given["state"] == "all" else given["state"],
            code=given["code"] or None,
            gln=gln,
            device=given["device"] or None,
            kid=given["kid"] or None,
            message_id=_message(given["message"]),
            since_ms=_moment(given["since"], "since"),
            until_ms=_moment(given["until"], "until"),
            text=given["text"] or None,
            before_id=before or None,
            limit=PAGE,
        )
    more = rows[-1].id if len(rows) == PAGE else None
    results = [part.partition(":") for part in query.get("result", "").split(",") if ":" in part][:_SHOWN_MAX]
    return {
        "held": rows, "given": given, "states": STATES, "before": more, "purged": query.get("purged", "")[:12],
        "results": [(code[:60], count[:12]) for code, _, count in results],
    }  # fmt: skip


def _detail(request: Request, row_id: int, *, org: str | None) -> Response:
    services: Services = request.app.state.services
    row = _load(services, row_id, org)
    with services.db.reading() as tx:
        refusal = refusal_of(tx, row)
    values = {
        "row": row, "decoded": decoded(row.raw or b""), "size": len(row.raw or b""), "refusal": refusal,
        "has_rule": has_words(f"rule.{row.code}"), "is_operator": org is None,
        "home": "/operator/quarantine" if org is None else "/factory/quarantine",
        "result": request.query_params.get("result", "")[:60],
    }  # fmt: skip
    return show(request, "quarantine_row.html", values)


def _bytes(request: Request, row_id: int, *, org: str | None) -> Response:
    row = _load(request.app.state.services, row_id, org)
    name = f'attachment; filename="quarantine-{row.id}.bin"'
    return Response(row.raw, media_type="application/octet-stream", headers={"Content-Disposition": name})


def _load(services: Services, row_id: int, org: str | None) -> QuarantineRow:
    """A row with its bytes, for an organisation only where its topic names it.

    Raises:
        NotFound: there is none, or it is another organisation's.
    """
    try:
        with services.db.reading() as tx:
            row = quarantine.load(tx, row_id)
    except Conflict as error:
        raise NotFound("There is no such row.") from error
    if org is not None and row.gln != gln_of(org):
        raise NotFound("There is no such row.")
    return row


def _message(text: str) -> bytes | None:
    try:
        return unb64u(text, length=32) if text else None
    except Rejected as error:
        raise Rejected("A message id is 43 base64url characters.", code="bad_parameter", pointer="message") from error


def _moment(text: str, name: str) -> int | None:
    """Unix ms of a time as a form writes it, local to China where it names no zone."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Rejected("A time is written as 2026-11-25T08:00.", code="bad_parameter", pointer=name) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=_LOCAL)).timestamp() * 1_000)
