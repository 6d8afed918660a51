"""Routes by which anyone audits receipts: state leaves, the records that receipt keys rest on, refusal records.

None of them tells anything about goods or persons; entries of messages go to mirrors only.
"""

import sqlalchemy as sa
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from api.errors import NotFound
from api.policy import PUBLIC, Routes
from api.services import Services
from core.canonical import unb64u
from core.errors import Rejected
from ingest.tables import refusals
from ledger.receipt_source import receipt_key_records, refusal_record, states_below


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/log/states", states, PUBLIC, tags=["log"])
    routes.get("/log/receipt-keys", receipt_keys, PUBLIC, tags=["log"])
    routes.get("/log/refusals/{message}", refusal, PUBLIC, tags=["log"])


def states(request: Request) -> Response:
    """State leaves below the leaf ``below``, newest first, one a line: the very bytes that are hashed."""
    services: Services = request.app.state.services
    text = request.query_params.get("below", "")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Rejected("below is a leaf index.", code="bad_parameter", pointer="below")
    with services.db.reading() as tx:
        found = states_below(tx, int(text))
    return Response(
        b"".join(state + b"\n" for state in found),
        media_type="application/jsonl",
        headers={"Cache-Control": "public, max-age=60"},
    )


def receipt_keys(request: Request) -> Response:
    """The operator's ``org`` records and the ``key`` records of use receipt, each with its leaf."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = receipt_key_records(tx)
    body = [{"leaf": leaf, "entry": data.decode("ascii")} for leaf, data in found]
    return JSONResponse(body, headers={"Cache-Control": "public, max-age=60"})


def refusal(request: Request, message: str) -> Response:
    """The ``refusal`` record of a message, by the message's id."""
    services: Services = request.app.state.services
    ident = unb64u(message, length=32)
    with services.db.reading() as tx:
        kid = tx.execute(sa.select(refusals.c.kid).where(refusals.c.message_id == ident)).scalar_one_or_none()
        found = None if kid is None else refusal_record(tx, message, kid=kid)
    if found is None:
        raise NotFound("No refusal of this message is in the log.")
    body = {"leaf": found[0], "entry": found[1].decode("ascii")}
    return JSONResponse(body, headers={"Cache-Control": "no-cache"})
