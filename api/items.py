"""The JSON of an item, its state, journey and contents, and its proof bundle."""

from typing import Any
from urllib.parse import unquote

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.auth.routes import address_of
from api.auth.sessions import identity_of
from api.consumer import load
from api.errors import NotFound
from api.identity import BANK, GOODS_SIDE, Identity, Role
from api.language import language_of
from api.policy import PUBLIC, Routes
from api.resolver import raw_path
from api.services import Services
from core.canonical import dump_json
from core.errors import Rejected, Unavailable
from core.identifiers import Identifier, parse
from ledger.disclosure import Reader
from ledger.proofs import build_bundle

_START = "/items/"
_PROOF = "/proof"


def install(routes: Routes) -> None:
    """Add the route; the proof of an item is told apart by the end of its path."""
    routes.get("/items/{epc:path}", item, PUBLIC, tags=["items"])


async def item(request: Request, epc: str) -> Response:
    """An item's state and journey as JSON; with ``/proof`` at the end its proof bundle.

    ``epc`` is an EPC URN, an element string, or a Digital Link, plain or percent-encoded as one segment.
    """
    path = raw_path(request).removeprefix(_START)
    is_proof, found = read_item(path)
    services: Services = request.app.state.services
    request.app.state.throttle.check_unknown_codes(address_of(request))
    reader = reader_of(identity_of(request))
    if is_proof:
        return await run_in_threadpool(_bundle, services, found, reader)
    with services.db.reading() as tx:
        document = load.item_document(tx, found.canonical, reader=reader, lang=language_of(request))
    if document is None:
        request.app.state.throttle.count_unknown_code(address_of(request))
        raise NotFound("Nothing is recorded under this code.", code="unknown_item")
    return json_response(document)


def read_item(path: str) -> tuple[bool, Identifier]:
    """Whether a path asks for a proof, and the item it names.

    A serial number may itself end in ``proof``: a GS1 path is pairs, so that only one of the two readings is an item.

    Raises:
        Rejected: it names no item.
    """
    if path.endswith(_PROOF):
        try:
            return True, parse(_spelled(path.removesuffix(_PROOF)))
        except Rejected:
            return False, parse(_spelled(path))
    return False, parse(_spelled(path))


def reader_of(identity: Identity | None) -> Reader:
    """What kind of reader somebody is; nobody signed in is a consumer."""
    if identity is None:
        return "consumer"
    if identity.has(Role.REGULATOR, Role.OPERATOR):
        return "regulator"
    if identity.has(*BANK):
        return "bank"
    return "partner" if identity.has(*GOODS_SIDE) else "consumer"


def json_response(document: Any, *, status: int = 200) -> Response:
    """A JSON answer in which decimals keep their digits."""
    return Response(
        dump_json(document),
        status_code=status,
        media_type="application/json",
        headers={"Vary": "Cookie, Accept-Language", "Cache-Control": "no-store"},
    )


def _bundle(services: Services, found: Identifier, reader: Reader) -> Response:
    if services.maps is None or services.place is None:
        raise Unavailable("This process makes no proofs.", code="no_proofs")
    with services.proof_lock, services.db.reading() as tx:
        data = build_bundle(tx, services.maps, services.place, found.canonical, reader=reader)
    name = "-".join(part for _, part in found.ai) or "item"
    safe = "".join(char if char.isalnum() or char in "-_" else "_" for char in name)
    return Response(
        data,
        media_type="application/json",
        headers={
            "Content-Disposition": f'attachment; filename="{safe}.proof.json"',
            "Cache-Control": "no-store",
            "Vary": "Cookie",
        },
    )


def _spelled(path: str) -> str:
    """An item out of a path: one encoded segment is decoded once, a bare GS1 path gets its domain."""
    text = unquote(path) if "/" not in path else path
    if text[:1].isdigit() and "/" in text:
        return "https://id.gs1.org/" + text
    return text
