"""Routes that devices themselves call: claim a place by code and key, and ask for a connection by key."""

import asyncio
from typing import Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from api.auth.routes import address_of
from api.consoles.records import desk_of
from api.errors import NotFound
from api.forms import media_type
from api.policy import PUBLIC, Routes
from api.services import Services
from core.canonical import parse_json
from core.errors import Conflict, Rejected
from ingest.claims import CLAIM_BYTES_MAX, SKEW_S_MAX, TYP, Claimed
from ingest.devicedesk import DeviceDesk

# A checkpoint is made each second; a device whose record takes longer asks again.
WAIT_S: Final = 10.0
_POLL_S: Final = 0.25
_AGAIN_S: Final = 2
_WRONG: Final = frozenset({"bad_claim_code", "claim_code_used", "claim_code_expired"})
_TEXT: Final = {"type": "string", "description": f"Compact JWS, typ {TYP}, signed by the device's key"}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/jose": {"schema": _TEXT},
            "text/plain": {"schema": _TEXT},
            "application/json": {
                "schema": {
                    "type": "object", "required": ["claim"], "properties": {"claim": _TEXT},
                    "additionalProperties": False,
                }
            },
        },
    }
}  # fmt: skip
_CONNECTION: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "state": {"type": "string", "enum": ["active", "waiting", "unsigned"]},
        "kid": {"type": "string"},
        "broker": {"type": "string"},
        "client_id": {"type": "string"},
        "username": {"type": "string"},
        "password": {"type": "string"},
        "publish": {"type": "string"},
        "subscribe": {"type": "array", "items": {"type": "string"}},
        "aud": {"type": "string"},
        "log": {"type": "string"},
        "org": {"type": "string"},
        "iss": {"type": "string"},
        "receipt_keys": {"type": "array", "items": {"type": "object"}},
        "record": {"type": "object", "description": "What the organisation signs, while the state is unsigned"},
    },
}
_JSON: Final = {"application/json": {"schema": _CONNECTION}}
_ANSWERS: Final = {
    201: {"description": "The key stands in the log; connect with these credentials", "content": _JSON},
    202: {"description": "The key waits for its organisation or for the log; ask again", "content": _JSON},
}


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/factory/devices/claim", service, PUBLIC, tags=["devices"])
    routes.post("/factory/devices/claim", claim, PUBLIC, tags=["devices"], openapi_extra=_BODY, responses=_ANSWERS)
    routes.post(
        "/factory/devices/credentials", credentials, PUBLIC, tags=["devices"], openapi_extra=_BODY,
        responses={201: _ANSWERS[201]},
    )  # fmt: skip


def service(request: Request) -> Response:
    """What a device needs to know before it claims its place: the service's name, its clock, its receipts' keys."""
    services: Services = request.app.state.services
    desk = desk_of(services)
    body = {
        "aud": desk.records.aud, "log": desk.records.log, "time": services.now_ms() // 1_000,
        "skew_s_max": SKEW_S_MAX, "receipt_keys": list(desk.receipt_keys),
    }  # fmt: skip
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


async def claim(request: Request) -> Response:
    """Claim a device's place with a one-time code and a key.

    The body is a JWS (`typ` `tb-claim+jwt`, ES256, `kid` the key's thumbprint) by the device's new key over
    `{"v":1,"aud":..,"iat":<unix s>,"code":..,"jwk":{..},"giai":..}`; `giai` may be left out where the code is for one
    device. The answer comes when the key has its place in the log; 202 means: sign again with a newer `iat` and ask
    again. A code counts once; the key that used it may ask for its connection as often as it needs to.
    """
    services: Services = request.app.state.services
    desk, throttle, address = desk_of(services), request.app.state.throttle, address_of(request)
    throttle.check_signed(address)
    throttle.check_codes(address)
    raw = _jws(request, await request.body())
    try:
        claimed = await run_in_threadpool(desk.claims.claim, raw)
    except (Rejected, Conflict) as error:
        if error.code in _WRONG:
            throttle.count_wrong_code(address)
        raise
    waited = 0.0
    while claimed.state == "waiting" and waited < WAIT_S:
        await asyncio.sleep(_POLL_S)
        waited += _POLL_S
        claimed = await run_in_threadpool(desk.claims.standing, claimed.kid)
    return await run_in_threadpool(_answer, desk, claimed)


async def credentials(request: Request) -> Response:
    """Get a fresh password for the broker: the body is a JWS as for a claim, by the key in the log, over
    `{"v":1,"aud":..,"iat":..}`. The password before it stops working.
    """
    services: Services = request.app.state.services
    desk = desk_of(services)
    request.app.state.throttle.check_signed(address_of(request))
    key = await run_in_threadpool(desk.claims.asks_by_key, _jws(request, await request.body()))
    shown = await run_in_threadpool(desk.open_connection, key.kid)
    return JSONResponse({"state": "active", **shown}, status_code=201, headers={"Cache-Control": "no-store"})


def _answer(desk: DeviceDesk, claimed: Claimed) -> Response:
    headers = {"Cache-Control": "no-store"}
    if claimed.state == "active":
        shown = desk.open_connection(claimed.kid)
        return JSONResponse({"state": "active", **shown}, status_code=201, headers=headers)
    body: dict[str, Any] = {"state": claimed.state, "kid": claimed.kid, "org": claimed.org, "iss": claimed.iss}
    if claimed.state == "unsigned":
        body["record"] = dict(claimed.record)
    return JSONResponse(body, status_code=202, headers=headers | {"Retry-After": str(_AGAIN_S)})


def _jws(request: Request, body: bytes) -> bytes:
    if media_type(request) == "application/x-www-form-urlencoded":
        raise Rejected("Send a compact JWS or JSON.", code="unsupported_media_type")
    if len(body) > 2 * CLAIM_BYTES_MAX:
        raise Rejected(f"A claim has at most {CLAIM_BYTES_MAX} bytes.", code="too_large")
    if not body.lstrip().startswith(b"{"):
        return body.strip()
    value = parse_json(body, bytes_max=2 * CLAIM_BYTES_MAX, depth_max=2)
    if set(value) != {"claim"} or not isinstance(value["claim"], str):
        raise Rejected("Send a compact JWS, or JSON with claim.", code="bad_claim")
    text: str = value["claim"]
    return text.strip().encode("utf-8", "replace")


def not_found(error: Rejected) -> Rejected:
    """The error as a reader sees it who may not know whether another organisation's key exists."""
    return NotFound("There is no such device.") if error.code == "unknown_key" else error
