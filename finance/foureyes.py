"""Four eyes: one person proposes a step, another approves exactly what was proposed, within a week."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256, unb64u
from core.errors import Conflict, Rejected
from finance.commandlog import HasPolicy, command
from finance.model import Actor, Call
from finance.tables import approvals, command_log
from ledger.database import Tx


def propose(
    tx: Tx, ctx: HasPolicy, actor: Actor, *, action: str, subject: str, seen: Mapping[str, Any], key: str, reason: str,
    now: int,
) -> dict[str, Any]:  # fmt: skip
    """Propose ``action`` on ``subject``; what another must approve is bound by the ``proposal`` hash to what was seen.

    Args:
        seen: the facts that the decision rests on, as JSON.
    """
    body = {"action": action, "subject": subject, "seen": dict(seen)}

    def act(call: Call) -> dict[str, Any]:
        bound = body | {"maker": actor.person, "key": key}
        return {"proposal": b64u(sha256(canonical_bytes(bound))), "request": key, "maker": actor.person}

    return command(tx, ctx, name=f"propose_{action}", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def approved(
    tx: Tx,
    ctx: HasPolicy,
    call: Call,
    *,
    action: str,
    subject: str,
    seen: Mapping[str, Any],
    request: str,
    proposal: str,
) -> None:
    """Keep an approval, if the proposal is the one the approver saw, still true, fresh and somebody else's.

    Raises:
        Rejected: ``no_such_proposal``.
        Conflict: ``own_command``, ``changed_since_seen``, ``expired``.
    """
    query = sa.select(command_log).where(
        command_log.c.org == call.actor.org, command_log.c.key == request, command_log.c.name == f"propose_{action}"
    )
    row = tx.execute(query).one_or_none()
    if row is None or json.loads(row.body)["subject"] != subject:
        raise Rejected("There is no such proposal.", code="no_such_proposal", pointer="request")
    if row.person == call.actor.person:
        raise Conflict("Nobody approves an own command.", code="own_command")
    now_seen = {"action": action, "subject": subject, "seen": dict(seen), "maker": row.person, "key": request}
    wanted = b64u(sha256(canonical_bytes(now_seen)))
    if json.loads(row.result)["proposal"] != proposal or proposal != wanted:
        raise Conflict("The facts are not those that were proposed on.", code="changed_since_seen", pointer="proposal")
    life = ctx.policy.integer("approval", "life_s")
    if call.now_s >= row.at_s + life:
        raise Conflict("The proposal has expired.", code="expired")
    tx.execute(
        approvals.insert().values(
            subject=f"{action}/{subject}", seen_hash=unb64u(proposal, length=32), checker=call.actor.person,
            maker=row.person, decision="approve/bank_checker", reason=call.reason, at_s=call.now_s,
            expires_s=row.at_s + life,
        )
    )  # fmt: skip
