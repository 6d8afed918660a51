"""Payment tokens for partners' programs below ``/partner/v1/tokens``: issue, change, spend, reverse."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from api.answers import PROBLEM
from api.auth.partners import TOKENS, all_partners, caller_of, partner_named, require
from api.consoles.commands import run_as
from api.epcis import policy_of
from api.errors import NotFound
from api.forms import Input, read_input
from api.policy import mark
from api.services import Services
from api.token_schema import SPEND, TOKEN, TOKEN_LIST
from core.errors import Rejected
from finance import token_views, tokens
from finance.model import Actor

PREFIX: Final = "/partner/v1"
_KEY: Final = {
    "name": "Idempotency-Key", "in": "header", "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
    "description": "Repeated with the same body it gives the same answer and has no second effect.",
}  # fmt: skip
_STATE: Final = ("token_suspended", "token_revoked", "token_expired", "token_exhausted")
_CONTROLS: Final = ("bad_amount", "bad_limits", "bad_count", "bad_window", "bad_validity", "bad_merchant")


# PostgreSQL keeps no NUL in a text.
_Text = Annotated[str, Field(max_length=2_000, pattern=r"^[^\x00]*$")]


class ControlsIn(Input):
    """The controls of a token: amounts in yuan as strings, times in unix seconds, the window in Shanghai."""

    merchants: list[_Text] = Field(default_factory=list)
    per_payment: str
    per_day: str
    total: str
    payments: int = 1_000
    window: _Text = ""
    valid_from: int
    valid_until: int
    reason: _Text = "By the partner's program."


class TokenIn(ControlsIn):
    """A new token on a linked account; ``partner`` names who may spend, the caller itself where it is absent."""

    account: _Text
    purpose: _Text
    partner: _Text = ""


class ChangeIn(ControlsIn):
    """New controls over exactly what was seen: ``version`` of the token."""

    version: int


class ReasonIn(Input):
    """Why."""

    reason: _Text = "By the partner's program."


class SpendIn(Input):
    """A payment: ``reference`` is the partner's own name of it, once for each token."""

    amount: str
    purpose: _Text
    merchant: _Text
    reference: _Text


def install(app: FastAPI) -> None:
    """Add the routes."""
    add = _Adder(app)
    add("GET", "/tokens", list_tokens, "The tokens that the caller may spend or manage", schema=TOKEN_LIST)
    add("POST", "/tokens", issue, "Issue a token on an account of one's own organisation", body=TokenIn, status=201,
        schema=TOKEN, codes=("no_such_account", "unknown_purpose", "unknown_partner", *_CONTROLS))  # fmt: skip
    add("GET", "/tokens/{token}", show_token, "One token with its limits and what is left", schema=TOKEN)
    add("POST", "/tokens/{token}/controls", change, "Set new controls", body=ChangeIn, schema=TOKEN,
        codes=("stale_view", "below_spent", *_STATE[1:], *_CONTROLS))  # fmt: skip
    for name in ("suspend", "resume", "revoke"):
        add("POST", f"/tokens/{{token}}/{name}", _mover(name), f"{name.capitalize()} a token", body=ReasonIn,
            schema=TOKEN, codes=("illegal_transition", "stale_view"))  # fmt: skip
    add("GET", "/tokens/{token}/spends", list_spends, "The newest payments by a token",
        schema={"type": "array", "items": SPEND})  # fmt: skip
    add("POST", "/tokens/{token}/spends", spend, "Pay by a token", body=SpendIn, status=201, schema=SPEND,
        codes=("over_payment_limit", "over_day_limit", "over_total_limit", "over_count_limit", "token_not_yet_valid",
               "outside_window", "reference_used", *_STATE, "wrong_purpose", "wrong_merchant", "bad_amount",
               "bad_reference", "closed_period"))  # fmt: skip
    add("POST", "/tokens/{token}/spends/{id}/reversal", reverse, "Take a payment back, whole and once", body=ReasonIn,
        schema=SPEND, codes=("reversed_already", "too_late", "closed_period"))  # fmt: skip


def list_tokens(
    request: Request, after: Annotated[str, Query(max_length=64)] = "", limit: Annotated[int, Query(ge=1, le=200)] = 100
) -> Response:
    """Tokens by their names; ``next`` is the ``after`` of the next page."""
    services, actor = _services(request), _actor(request)
    with services.db.reading() as tx:
        found = token_views.tokens_of(tx, orgs=[actor.org], partner=actor.person, after=after, limit=limit + 1)
        names = _names(tx)
    shown = [_shown(row, services, names) for row in found[:limit]]
    more = {"next": shown[-1]["token"]} if len(found) > limit else {}
    return _answer({"tokens": shown} | more)


def show_token(request: Request, token: str) -> Response:
    """One token."""
    return _token(request, token)


async def issue(request: Request) -> Response:
    """A fresh token."""
    given = await read_input(request, TokenIn)
    return await run_in_threadpool(_issue, request, given)


async def change(request: Request, token: str) -> Response:
    """New controls."""
    given = await read_input(request, ChangeIn)
    await run_in_threadpool(_run, request, "change_token", tokens.change_token, given, token=token)
    return await run_in_threadpool(_token, request, token)


def list_spends(request: Request, token: str) -> Response:
    """The newest payments."""
    services, actor = _services(request), _actor(request)
    with services.db.reading() as tx:
        if token_views.token_row(tx, token, org=actor.org, partner=actor.person) is None:
            raise NotFound("There is no such token.", code="no_such_token", pointer="token")
        found = token_views.spends_of(tx, token)
    return _answer([token_views.spend_view(row) for row in found])


async def spend(request: Request, token: str) -> Response:
    """A payment within all limits."""
    given = await read_input(request, SpendIn)
    why = f"Payment {given.reference}"
    result = await run_in_threadpool(_run, request, "spend_token", tokens.spend_token, given, token=token, reason=why)
    return _answer(result, status=201)


async def reverse(request: Request, token: str, id: str) -> Response:  # noqa: A002 - the path's own word
    """A payment taken back."""
    given = await read_input(request, ReasonIn)
    result = await run_in_threadpool(_reverse, request, given, token, id)
    return _answer(result)


def _issue(request: Request, given: TokenIn) -> Response:
    services, actor = _services(request), _actor(request)
    partner = actor.person
    if given.partner:
        with services.db.reading() as tx:
            partner = tokens.partner_person(partner_named(tx, given.partner).id)
    secret = services.random(tokens.TOKEN_BYTES)
    result = _run(request, "issue_token", tokens.issue_token, given, partner=partner, secret=secret)
    return _token(request, str(result["token"]), status=201)


def _reverse(request: Request, given: ReasonIn, token: str, spend_id: str) -> dict[str, Any]:
    services, actor = _services(request), _actor(request)
    with services.db.reading() as tx:
        if token_views.token_row(tx, token, org=actor.org, partner=actor.person) is None:
            raise NotFound("There is no such token.", code="no_such_token", pointer="token")
    return _run(request, "reverse_spend", tokens.reverse_spend, given, spend=spend_id)


def _mover(name: str) -> Callable[..., Any]:
    command = getattr(tokens, f"{name}_token")

    async def move(request: Request, token: str) -> Response:
        given = await read_input(request, ReasonIn)
        await run_in_threadpool(_run, request, f"{name}_token", command, given, token=token)
        return await run_in_threadpool(_token, request, token)

    move.__doc__ = f"{name.capitalize()} a token."
    return move


def _run(request: Request, name: str, command: Any, given: Input, **values: Any) -> dict[str, Any]:
    key = request.headers.get("idempotency-key", "")
    if not key:
        raise Rejected("Send an Idempotency-Key.", code="missing_key", pointer="Idempotency-Key")
    return run_as(_services(request), _actor(request), name, command, key=key, **(given.model_dump() | values))


def _token(request: Request, token: str, *, status: int = 200) -> Response:
    services, actor = _services(request), _actor(request)
    with services.db.reading() as tx:
        row = token_views.token_row(tx, token, org=actor.org, partner=actor.person)
        if row is None:
            raise NotFound("There is no such token.", code="no_such_token", pointer="token")
        names = _names(tx)
    return _answer(_shown(row, services, names), status=status)


def _shown(row: Any, services: Services, names: dict[str, str]) -> dict[str, Any]:
    found = token_views.token_view(row, services.now_ms() // 1_000)
    return found | {"partner": names.get(row.partner, row.partner)}


def _names(tx: Any) -> dict[str, str]:
    return {tokens.partner_person(one.id): one.name for one in all_partners(tx)}


def _actor(request: Request) -> Actor:
    caller = caller_of(request)
    return Actor(
        tokens.partner_person(caller.partner_id or 0), caller.client, caller.speaks_as, frozenset({tokens.PARTNER})
    )


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _answer(value: Any, *, status: int = 200) -> Response:
    return JSONResponse(value, status_code=status, headers={"Cache-Control": "no-store"})


class _Adder:
    """Adds routes that ask for a key with the scope ``tokens``, with their bodies, answers and codes described."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def __call__(
        self, method: str, path: str, handler: Any, summary: str, *, schema: dict[str, Any],
        body: type[Input] | None = None, status: int = 200, codes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        extra: dict[str, Any] = {}
        if body is not None:
            content = {"application/json": {"schema": body.model_json_schema()}}
            extra = {"requestBody": {"required": True, "content": content}, "parameters": [_KEY]}
        self._app.router.add_api_route(
            PREFIX + path, handler, methods=[method], response_model=None, response_class=Response, tags=["tokens"],
            dependencies=[Depends(require(TOKENS))], status_code=status, summary=summary, openapi_extra=extra,
            description=_said(handler, codes), responses=_answers(method, status, schema),
        )  # fmt: skip
        mark(self._app.router.routes[-1], policy_of(TOKENS))


def _said(handler: Any, codes: tuple[str, ...]) -> str:
    text = str(handler.__doc__)
    return f"{text}\n\nStable codes of refusals: {', '.join(f'`{code}`' for code in codes)}." if codes else text


def _answers(method: str, status: int, schema: dict[str, Any]) -> dict[int | str, Any]:
    words = {
        400: "The body cannot be read", 401: "No key, or one that does not work", 403: "The key lacks the scope tokens",
        404: "No such token, account or payment, or none that you may see", 413: "The body is too large",
        415: "Send application/json", 422: "A value is wrong; `pointer` names the field", 503: "Try again",
    }  # fmt: skip
    if method == "POST":
        words[409] = "It does not fit how things stand now; `code` tells which limit or state"
    problem = {"application/problem+json": {"schema": dict(PROBLEM)}}
    answers: dict[int | str, Any] = {code: {"description": text, "content": problem} for code, text in words.items()}
    answers[status] = {"description": "Done", "content": {"application/json": {"schema": schema}}}
    return answers
