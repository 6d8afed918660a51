"""How a console runs a finance command: one transaction, an idempotency key, a reason, and every refusal logged."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Request
from pydantic import BeforeValidator

from api.errors import NotFound
from api.forms import Input
from api.identity import Identity
from api.policy import identity
from api.services import Services
from core.canonical import b64u
from core.errors import Rejected, TracebondError, Unavailable
from finance.commandlog import log_refusal
from finance.model import Actor, Context

Run = Callable[..., dict[str, Any]]


class Command(Input):
    """What every command carries: why, and a key under which it happens once."""

    reason: str
    key: str = ""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16 else value


def _flag(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _names(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_names)]
Whole = Annotated[int, BeforeValidator(_whole)]
Flag = Annotated[bool, BeforeValidator(_flag)]


def actor_of(who: Identity) -> Actor:
    """The signed-in user as finance knows an actor: four eyes count the person, never the account."""
    return Actor(str(who.person_id), who.login, who.org, frozenset(str(role) for role in who.roles))


def context_of(services: Services) -> Context:
    """The finance context.

    Raises:
        Unavailable: this process has none.
    """
    if not isinstance(services.finance, Context):
        raise Unavailable("This process does no finance.", code="no_finance")
    return services.finance


def run(request: Request, given: Command, name: str, command: Run, /, **values: Any) -> dict[str, Any]:
    """Run one command as the signed-in user.

    The key comes from the header ``Idempotency-Key`` or from the form; repeated, it gives the same answer once more.

    Raises:
        TracebondError: what the command refuses, after it was noted in the list of refusals.
    """
    services: Services = request.app.state.services
    key = request.headers.get("idempotency-key", "") or given.key
    if not key:
        raise Rejected("Send an Idempotency-Key.", code="missing_key", pointer="/key")
    actor = actor_of(identity(request))
    try:
        return run_as(services, actor, name, command, key=key, reason=given.reason, **values)
    except TracebondError as error:
        if error.code.startswith("no_such_"):
            raise NotFound(error.message) from error
        raise


def run_as(services: Services, actor: Actor, name: str, command: Run, /, **values: Any) -> dict[str, Any]:
    """Run one command in a transaction of its own, and note a refusal in the list of refusals.

    Raises:
        TracebondError: what the command refuses.
    """
    ctx, now = context_of(services), services.now_ms() // 1_000
    try:
        with services.db.transaction() as tx:
            return command(tx, ctx, actor, **values, now=now)
    except Unavailable:
        raise
    except TracebondError as error:
        log_refusal(services.db, name=name, actor=actor, error=error, now=now)
        raise


def fresh_key(services: Services) -> str:
    """A key for a form, so that sending it twice does one thing."""
    return b64u(services.random(18))


def fields(given: Command, *leave_out: str) -> Mapping[str, Any]:
    """The command's own fields."""
    return given.model_dump(exclude={"reason", "key", *leave_out})
