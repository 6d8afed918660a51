"""Records that organisations sign: handed in at ``POST /factory/records``, listed with how far each has come."""

from typing import Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from api.auth.partners import caller_by_key, key_in
from api.auth.routes import address_of
from api.consoles.common import show
from api.errors import NotFound, Unauthenticated
from api.forms import media_type
from api.identity import GOODS_SIDE, Identity
from api.policy import GOODS_STAFF, PUBLIC, Routes, identity
from api.services import Services
from core.canonical import b64u, parse_json, unb64u
from core.errors import Rejected, Unavailable
from core.records import RECORD_BYTES_MAX
from ingest import recorddesk
from ingest.devicedesk import DeviceDesk
from ingest.recorddesk import RECORDS_MAX, Taken

BODY_BYTES_MAX: Final = 1_000_000
KINDS: Final = ("key", "end", "master", "org")
_TEXT: Final = {"type": "string", "description": "Compact JWS, typ tb-record+jwt, at most 60,000 bytes"}
_TAKEN: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "t", "leaf_hash", "accepted_ms", "state", "receipt"],
    "properties": {
        "id": {"type": "string", "description": "SHA-256 of the signing input, base64url"},
        "t": {"type": "string"},
        "leaf_hash": {"type": "string", "description": "RFC 6962 leaf hash of the record's bytes, base64url"},
        "accepted_ms": {"type": "integer"},
        "state": {"type": "string"},
        "receipt": {"type": "object", "description": "Our signed promise of inclusion, as devices get it"},
    },
}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/jose": {"schema": _TEXT},
            "text/plain": {"schema": _TEXT},
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"type": "object", "required": ["record"], "properties": {"record": _TEXT},
                         "additionalProperties": False},
                        {"type": "object", "required": ["records"], "additionalProperties": False,
                         "properties": {"records": {"type": "array", "items": _TEXT, "minItems": 1,
                                                    "maxItems": RECORDS_MAX}}},
                    ]
                }
            },
        },
    }
}  # fmt: skip
_ANSWER: Final = {
    201: {
        "description": "Stored. Promised to stand in the log in time; the same bytes again give the same answer",
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        _TAKEN,
                        {"type": "object", "properties": {"records": {"type": "array", "items": _TAKEN}}},
                    ]
                }
            }
        },
    }
}


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.post("/factory/records", take, PUBLIC, tags=["records"], openapi_extra=_BODY, responses=_ANSWER)
    routes.get("/factory/records", listed, GOODS_STAFF, tags=["records"])
    routes.get("/factory/records/{record_id}", standing, PUBLIC, tags=["records"])


async def take(request: Request) -> Response:
    """Hand in records signed by your organisation: `key`, `end`, `master`.

    A record is a compact JWS (`typ` `tb-record+jwt`, ES256) by the organisation's registered record-signing key over
    the RFC 8785 bytes of its payload. The signature is what authorises it; no session is needed. With a session or an
    API key of an organisation, records of another one are refused. Send one record as the body, or JSON with `record`
    or `records` (all are stored or none). A key counts from its place in the log, which `GET /factory/records/{id}`
    tells.
    """
    services: Services = request.app.state.services
    request.app.state.throttle.check_signed(address_of(request))
    body = await request.body()
    raws, is_single = _records_in(request, body)
    taken = await run_in_threadpool(_take, request, services, raws, is_single)
    shown = [_shown(one) for one in taken]
    headers = {"Cache-Control": "no-store"}
    if is_single:
        headers["Location"] = f"/factory/records/{b64u(taken[0].id)}"
    return JSONResponse(shown[0] if is_single else {"records": shown}, status_code=201, headers=headers)


def listed(request: Request, t: str = "", before: int = 0) -> Response:
    """Your organisation's records, newest first, with how far each has come."""
    services: Services = request.app.state.services
    who = identity(request)
    if t and t not in KINDS:
        raise Rejected(f"t is one of {', '.join(KINDS)}.", code="bad_parameter", pointer="t")
    with services.db.reading() as tx:
        page, after = recorddesk.listed(tx, org=who.org, t=t or None, before=before or None)
    values = {"records": [one.as_json() for one in page], "before": after, "kind": t, "kinds": KINDS, "org": who.org}
    return show(request, "records.html", values)


def standing(request: Request, record_id: str) -> Response:
    """How far a record has come: waiting, sequenced, in a checkpoint, final. Whoever has its bytes knows its id."""
    services: Services = request.app.state.services
    try:
        number = unb64u(record_id, length=32)
    except Rejected as error:
        raise NotFound("There is no such record.") from error
    with services.db.reading() as tx:
        found = recorddesk.standing(tx, number)
    who: Identity | None = request.state.identity
    if found is None:
        raise NotFound("There is no such record.")
    shown = found.as_json()
    if who is None or who.org != found.org:
        # Entries go to registered mirrors only; a stranger with the bytes learns where they stand and no more.
        shown = {name: shown[name] for name in ("id", "t", "state", "leaf", "checkpoint")}
    return JSONResponse(shown, headers={"Cache-Control": "no-store"})


def desk_of(services: Services) -> DeviceDesk:
    """The desk for devices and records.

    Raises:
        Unavailable: this process has none.
    """
    if services.devices is None:
        raise Unavailable("This process takes no records.", code="no_device_desk")
    return services.devices


def _take(request: Request, services: Services, raws: list[bytes], is_single: bool) -> list[Taken]:
    org = _speaker(request, services)
    desk = desk_of(services)
    taken = desk.records.take(raws, org=org, is_single=is_single)
    for one in taken:
        if one.record.t == "end" and one.is_new:
            desk.shut_out_of(str(one.record.payload["kid"]))
    return taken


def _speaker(request: Request, services: Services) -> str | None:
    """The organisation whose session or API key the request carries, None without either."""
    text = key_in(request)
    if text:
        with services.db.reading() as tx:
            found = caller_by_key(tx, text, now_ms=services.now_ms())
        if found is None:
            raise Unauthenticated("This API key is unknown, expired or revoked.")
        return found[0].org
    who: Identity | None = request.state.identity
    return who.org if who is not None and not who.roles.isdisjoint(GOODS_SIDE) else None


def _records_in(request: Request, body: bytes) -> tuple[list[bytes], bool]:
    kind = media_type(request)
    if kind == "application/x-www-form-urlencoded":
        raise Rejected("Send a compact JWS or JSON.", code="unsupported_media_type")
    if not kind.endswith("json") and body.lstrip()[:1] not in (b"{", b"["):
        return [body.strip()], True
    value = parse_json(body, bytes_max=BODY_BYTES_MAX, depth_max=3)
    if isinstance(value, dict) and set(value) == {"record"} and isinstance(value["record"], str):
        return [_ascii(value["record"])], True
    many = value.get("records") if isinstance(value, dict) and set(value) == {"records"} else None
    if not isinstance(many, list) or not all(isinstance(text, str) for text in many):
        raise Rejected("Send a compact JWS, or JSON with record or records.", code="bad_record")
    return [_ascii(text) for text in many], False


def _ascii(text: str) -> bytes:
    data = text.strip().encode("utf-8", "replace")
    if len(data) > RECORD_BYTES_MAX:
        raise Rejected(f"A record has at most {RECORD_BYTES_MAX} bytes.", code="too_large")
    return data


def _shown(taken: Taken) -> dict[str, Any]:
    # The same for the first time and every repeat, but for the signature of the receipt, which is another each time.
    return {
        "id": b64u(taken.id), "t": taken.record.t, "leaf_hash": b64u(taken.leaf_hash),
        "accepted_ms": taken.accepted_ms, "state": "accepted", "receipt": taken.receipt,
    }  # fmt: skip
