"""Capture: ``/epcis/capture`` with its jobs, ``POST /epcis/events``, and a trial that stores nothing."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.auth.partners import CAPTURE, caller_of
from api.epcis import EpcisRoutes, jobs
from api.epcis.bodies import answer_media, media_of, read_document, read_event, read_messages
from api.epcis.headers import error_behaviour
from api.epcis.problems import members_xml
from api.epcis.worker import as_json
from api.errors import NotFound
from api.services import Services
from core.canonical import b64u, dump_json, dump_parsed, sha256, unb64u
from core.errors import Conflict, Rejected, Unavailable
from ingest.captured import publishes
from ingest.gateway import Gateway, Outcome, Speaker, Submitted
from ledger.database import Tx

PER_PAGE: Final = 30
PER_PAGE_MAX: Final = 1_000
_JSON: Final = "application/json"
_XML: Final = "application/xml"


def install(routes: EpcisRoutes) -> None:
    """Add the routes."""
    documents: dict[str, Any] = {"application/json": {}, "application/ld+json": {}, _XML: {}}
    body = {"required": True, "content": documents}
    signed = {"required": True, "content": documents | {"application/epcis+sd-jwt": {}}}
    routes.add("POST", "/capture", capture, CAPTURE, status_code=202, openapi_extra={"requestBody": signed})
    routes.add("GET", "/capture", list_jobs, CAPTURE)
    routes.add("GET", "/capture/{capture_id}", show_job, CAPTURE)
    routes.add("GET", "/capture/{capture_id}/messages", show_messages, CAPTURE)
    routes.add("POST", "/validate", validate, CAPTURE, openapi_extra={"requestBody": body})
    one = {"required": True, "content": {"application/json": {}, "application/ld+json": {}}}
    routes.add("POST", "/events", capture_event, CAPTURE, status_code=201, openapi_extra={"requestBody": one})


async def capture(request: Request) -> Response:
    """Take a document, or ready signed messages, as a capture job; 202 once the job is stored."""
    media = media_of(request, allowed=("json", "xml", "sd-jwt"))
    body = await request.body()
    return await run_in_threadpool(_open, request, media, body)


def list_jobs(request: Request) -> Response:
    """The caller's own capture jobs, newest first."""
    answer_media(request, _JSON)
    caller, services = caller_of(request), _services(request)
    per_page = _number(request, "perPage", PER_PAGE, PER_PAGE_MAX)
    before = _page(request.query_params.get("nextPageToken"))
    with services.db.reading() as tx:
        found = jobs.own_jobs(tx, caller, per_page=per_page, before=before)
    shown, headers = found[:per_page], {"Cache-Control": "no-store"}
    if len(found) > per_page:
        token = b64u(shown[-1].number.to_bytes(8))
        headers["Link"] = f'</epcis/capture?perPage={per_page}&nextPageToken={token}>; rel="next"'
    return _json_answer([job.heading for job in shown], headers=headers)


def show_job(request: Request, capture_id: str) -> Response:
    """One capture job: what the standard says about it, and what became of each event, with receipts."""
    kind = answer_media(request, _JSON, _XML)
    services = _services(request)
    with services.db.reading() as tx:
        job = jobs.own_job(tx, caller_of(request), capture_id)
    if kind == _XML:
        return Response(_job_xml(job), media_type=_XML, headers={"Cache-Control": "no-store"})
    members = job.heading | {"errors": []} | dict(job.result or {})
    return _json_answer(members | {"bodyHash": b64u(job.body_hash)}, headers={"Cache-Control": "no-store"})


def show_messages(request: Request, capture_id: str) -> Response:
    """The signed messages of one's own capture, one a line, so that a partner can check what was said in its name.

    The SHA-256 of each line is the ``bytes`` of its receipt. What was erased since is left out of its line.
    """
    services = _services(request)
    with services.db.reading() as tx:
        job = jobs.own_job(tx, caller_of(request), capture_id)
        lines = publishes(tx, [unb64u(text, length=32) for text in (job.result or {}).get("receipts", {})])
    return Response(b"\n".join(lines), media_type="application/epcis+sd-jwt", headers={"Cache-Control": "no-store"})


async def validate(request: Request) -> Response:
    """What a capture of this document would find wrong; nothing is stored."""
    media = media_of(request, allowed=("json", "xml"))
    body = await request.body()
    return await run_in_threadpool(_validate, request, media, body)


async def capture_event(request: Request) -> Response:
    """Capture one event at once: 201 with its address, 409 when its eventID belongs to another event."""
    media_of(request, allowed=("json",))
    answer_media(request, _JSON, "application/ld+json")
    body = await request.body()
    return await run_in_threadpool(_capture_event, request, body)


def _open(request: Request, media: Any, body: bytes) -> Response:
    services, caller = _services(request), caller_of(request)
    _gateway(services)
    behaviour = error_behaviour(request)
    # The document is read here already: what is no EPCIS document gets its 400 at once, not a job.
    document = None
    if media == "sd-jwt":
        read_messages(body)
    else:
        document = read_document(body, media)
    with services.db.transaction() as tx:
        job, is_new = jobs.open_job(
            tx,
            caller,
            body,
            media=media,
            behaviour=behaviour,
            now_ms=services.now_ms(),
            random=services.random(jobs.ID_BYTES),
            idempotency_key=request.headers.get("idempotency-key"),
        )
    if is_new and services.capture_worker is not None:
        services.capture_worker.call(job.number, document)
    headers = {"Location": f"/epcis/capture/{job.id}", "GS1-Capture-Error-Behaviour": job.behaviour}
    return Response(status_code=202, headers=headers)


def _validate(request: Request, media: Any, body: bytes) -> Response:
    services = _services(request)
    document = read_document(body, media)
    outcome = _gateway(services).trial(document.events, caller_of(request).speaks_as)
    return _json_answer({"success": outcome.is_success} | as_json(outcome, document.warnings))


def _capture_event(request: Request, body: bytes) -> Response:
    services, caller = _services(request), caller_of(request)
    event = read_event(body)
    gateway = _gateway(services)
    gateway.check_ready()
    speaker = Speaker(caller.speaks_as, caller.client, sha256(body))
    stored: list[jobs.Job] = []

    def settle(tx: Tx, outcome: Outcome) -> None:
        now_ms = services.now_ms()
        stored.clear()
        job, _ = jobs.open_job(
            tx,
            caller,
            body,
            media="json",
            behaviour="rollback",
            now_ms=now_ms,
            random=services.random(jobs.ID_BYTES),
        )
        result = dump_parsed(as_json(outcome))
        jobs.finish(tx, job.number, is_success=outcome.is_success, result=result, now_ms=now_ms)
        stored.append(job)

    outcome = gateway.capture([Submitted(event)], speaker, settle=settle)
    result, kept = outcome.results[0], outcome.events[0]
    if kept is None:
        first = result.faults[0]
        if first.code == "event_id_taken":
            raise Conflict(first.message, code=first.code, pointer=first.pointer)
        raise Rejected(first.message, code=first.code, pointer=first.pointer)
    headers = {
        "Location": f"/epcis/events/{quote(result.event_id, safe='')}",
        "Link": f'</epcis/capture/{stored[0].id}>; rel="monitor"',
        "Tracebond-Result": result.status,
        "Tracebond-Event-Hash": result.hash,
    }
    return _json_answer(dict(kept), status=201, headers=headers)


def _job_xml(job: jobs.Job) -> str:
    attributes = "".join(
        f" {name}={quoteattr(str(value).lower() if isinstance(value, bool) else str(value))}"
        for name, value in job.heading.items()
    )
    errors = "".join(_error_xml(error) for error in (job.result or {}).get("errors", ()))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<epcis:EPCISCaptureJob xmlns:epcis="urn:epcglobal:epcis:xsd:2"{attributes}>{errors}</epcis:EPCISCaptureJob>'
    )


def _error_xml(error: Mapping[str, Any]) -> str:
    return f"<errors>{members_xml(error)}</errors>"


def _services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def _gateway(services: Services) -> Gateway:
    if services.gateway is None:
        raise Unavailable("This process takes no captures.", code="no_gateway")
    return services.gateway


def _json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dump_json(value), status, headers=dict(headers or {}), media_type=_JSON)


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise Rejected(f"{name} is a number from 1 to {most}.", code="query_parameter", pointer=name)
    return int(text)


def _page(token: str | None) -> int | None:
    if token is None:
        return None
    try:
        return int.from_bytes(unb64u(token, length=8))
    except Rejected as error:
        raise NotFound("This page token was not given by this service.", pointer="nextPageToken") from error
