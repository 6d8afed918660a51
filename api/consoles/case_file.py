"""The case of an application as a signed file, as ``tracebond finance case`` writes it; who took it is noted."""

from fastapi import Request
from fastapi.responses import Response

from api.consoles.commands import actor_of, context_of, fresh_key
from api.errors import NotFound
from api.policy import BANK_STAFF, Routes, identity
from api.services import Services
from core.canonical import b64u, sha256
from core.errors import Rejected, Unavailable
from finance.commandlog import command
from finance.model import Call

MEDIA: str = "application/jose"


def install(routes: Routes) -> None:
    """Add the route."""
    files: dict[int | str, dict[str, str]] = {200: {"description": "The case file, a compact JWS"}}
    routes.get("/bank/applications/{id}/case", case_file, BANK_STAFF, tags=["bank"], responses=files)


def case_file(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
    """The signed case of an application of one's own bank; who took it, and its hash, is a row of the command log."""
    services: Services = request.app.state.services
    if services.sign_case is None:
        raise Unavailable("This process holds no operator's key to sign a case with.", code="no_operator_key")
    sign, actor, now = services.sign_case, actor_of(identity(request)), services.now_ms() // 1_000
    try:
        with services.db.transaction() as tx:
            data = sign(tx, id, actor.org, now)

            def act(_: Call) -> dict[str, str]:
                return {"application": id, "sha256": b64u(sha256(data))}

            command(
                tx, context_of(services), name="export_case", actor=actor, key=f"case/{fresh_key(services)}",
                reason="case file taken", now=now, body={"application": id}, act=act,
            )  # fmt: skip
    except Rejected as error:
        if error.code.startswith("no_such_"):
            raise NotFound(error.message) from error
        raise
    headers = {"Content-Disposition": f'attachment; filename="{_name(id)}"', "Cache-Control": "no-store"}
    return Response(data, media_type=MEDIA, headers=headers)


def _name(ident: str) -> str:
    plain = "".join(char if char.isalnum() and char.isascii() else "-" for char in ident)
    return f"case-{plain[:40]}.jws"
