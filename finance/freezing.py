"""Freezing a facility by hand, and thawing it again: one person stops new money, two let it flow."""

from typing import Any

from core.errors import Conflict
from finance.commandlog import command
from finance.foureyes import approved, propose
from finance.lending import bank_facility
from finance.model import BANK, Actor, Call, Context
from finance.monitoring import Health, health_of
from finance.states import step
from finance.tables import facilities
from ledger.database import Tx


def freeze(tx: Tx, ctx: Context, actor: Actor, *, facility: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Stop every draw on a facility at once.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``. Conflict: ``illegal_transition``.
    """
    actor.need(*BANK)

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        return _move(tx, facility, step("facility", row.state, "freeze"))

    body = {"facility": facility}
    return command(tx, ctx, name="freeze_facility", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def propose_unfreeze(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank proposes to let draws go on, over the cover of this moment.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``. Conflict: ``still_knocked_out``, ``illegal_transition``.
    """
    actor.need(*BANK)
    row = bank_facility(tx, actor, facility)
    step("facility", row.state, "unfreeze")
    seen = _seen(_sound(tx, ctx, row, now))
    return propose(tx, ctx, actor, action="unfreeze", subject=facility, seen=seen, key=key, reason=reason, now=now)


def unfreeze(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, request: str, proposal: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Another person approves, while the goods still testify.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``no_such_proposal``.
        Conflict: ``own_command``, ``changed_since_seen``, ``expired``, ``still_knocked_out``, ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = bank_facility(tx, actor, facility)
        state = step("facility", row.state, "unfreeze")
        seen = _seen(_sound(tx, ctx, row, now))
        approved(tx, ctx, call, action="unfreeze", subject=facility, seen=seen, request=request, proposal=proposal)
        return _move(tx, facility, state)

    body = {"facility": facility, "request": request, "proposal": proposal}
    return command(tx, ctx, name="unfreeze_facility", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _sound(tx: Tx, ctx: Context, row: Any, now: int) -> Health:
    health = health_of(tx, ctx, row, now=now)
    if health.knock_outs:
        codes = ", ".join(health.knock_outs)
        raise Conflict(f"The goods do not secure credit now: {codes}.", code="still_knocked_out")
    return health


def _seen(health: Health) -> dict[str, Any]:
    # Exposure grows with every night; what an approver rests on is that the goods count again.
    return {"is_eligible": health.is_eligible, "knock_outs": list(health.knock_outs), "net": health.net.text()}


def _move(tx: Tx, facility: str, state: str) -> dict[str, Any]:
    tx.execute(facilities.update().where(facilities.c.id == facility).values(state=state))
    return {"facility": facility, "state": state}
