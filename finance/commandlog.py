"""The command log: each command once, with person, reason and policy; each row's hash on its way to the log."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Broken, Conflict, Rejected, TracebondError
from finance.model import Actor, Call
from finance.policy import Policy
from finance.tables import audit_outbox, command_keys, command_log, policies, refusals, settings
from ledger.database import Database, Tx

KEY_MAX: Final = 200
REASON_MAX: Final = 2_000
_SHANGHAI: Final = timezone(timedelta(hours=8))


class HasPolicy(Protocol):
    """What a command needs of its context."""

    @property
    def policy(self) -> Policy:
        """The policy version that its row names."""
        ...


def shanghai_date(now_s: int) -> date:
    """The calendar date in Asia/Shanghai, which has no summer time."""
    return datetime.fromtimestamp(now_s, tz=UTC).astimezone(_SHANGHAI).date()


def business_date(tx: Tx, now_s: int) -> date:
    """The bank's business date: what the end of day set, else today's date in Shanghai."""
    value = tx.execute(sa.select(settings.c.value).where(settings.c.name == "business_date")).scalar_one_or_none()
    return date.fromisoformat(value) if value is not None else shanghai_date(now_s)


def insert_ignore(tx: Tx, table: sa.Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is there; whether it was inserted. On PostgreSQL it waits for a rival to end."""
    make = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
    insert = make(table).values(values).on_conflict_do_nothing().returning(sa.literal(1))
    return tx.execute(insert).first() is not None


def command(
    tx: Tx,
    ctx: HasPolicy,
    *,
    name: str,
    actor: Actor,
    key: str,
    reason: str,
    now: int,
    body: Mapping[str, Any],
    act: Callable[[Call], Mapping[str, Any]],
) -> dict[str, Any]:
    """Run a command once for its key: the same key and body give the stored result, another body is refused.

    Raises:
        Rejected: ``bad_key``, ``missing_reason``, ``idempotency_key_reused``, or whatever the command refuses.
        Conflict: what the command's state forbids.
    """
    if not 0 < len(key) <= KEY_MAX:
        raise Rejected(f"An idempotency key has 1 to {KEY_MAX} characters.", code="bad_key", pointer="key")
    if not 0 < len(reason.strip()) <= REASON_MAX:
        raise Rejected("A command needs a reason.", code="missing_reason", pointer="reason")
    body_hash = sha256(canonical_bytes({"name": name, "person": actor.person, "body": dict(body)}))
    if not insert_ignore(tx, command_keys, {"org": actor.org, "key": key, "body_hash": body_hash}):
        return _stored(tx, actor, key, body_hash)
    use_policy(tx, ctx.policy)
    call = Call(actor, key, reason, now, business_date(tx, now))
    result = dict(act(call))
    _record(tx, ctx, name, call, body, result)
    return result


def by_itself(
    tx: Tx, ctx: HasPolicy, *, name: str, org: str, subject: str, now: int, body: Mapping[str, Any],
    act: Callable[[Call], Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """A change that no person asked for (monitoring, end of day), as a row of the command log all the same (V10)."""
    actor = Actor("tracebond", "tracebond", org)
    key = b64u(sha256(canonical_bytes({"name": name, "subject": subject, "at": now, "body": dict(body)})))
    return command(tx, ctx, name=name, actor=actor, key=key, reason=subject, now=now, body=body, act=act)


def use_policy(tx: Tx, policy: Policy) -> None:
    """Fix a policy version's content on first use.

    Raises:
        Broken: ``policy_changed`` when the version was used with another content.
    """
    insert_ignore(tx, policies, {"version": policy.version, "digest": policy.digest})
    digest = tx.execute(sa.select(policies.c.digest).where(policies.c.version == policy.version)).scalar_one()
    if bytes(digest) != policy.digest:
        raise Broken(f"Policy {policy.version} was changed after it was used.", code="policy_changed")


def log_refusal(db: Database, *, name: str, actor: Actor, error: TracebondError, now: int) -> None:
    """Keep that a command was refused, in a transaction of its own."""
    with db.transaction() as tx:
        tx.execute(
            refusals.insert().values(
                org=actor.org, name=name, person=actor.person, code=error.code, message=error.message, at_s=now
            )
        )


def waiting_audits(tx: Tx, limit: int = 1_000) -> list[tuple[int, bytes]]:
    """Row numbers and hashes that no ``audit`` record carries yet; the process signs and admits them."""
    query = sa.select(audit_outbox.c.number, audit_outbox.c.row_hash).where(audit_outbox.c.sent_s.is_(None))
    return [(number, bytes(hash_)) for number, hash_ in tx.execute(query.order_by(audit_outbox.c.number).limit(limit))]


def mark_audited(tx: Tx, number: int, *, now: int) -> None:
    """A row's ``audit`` record was admitted, in this same transaction."""
    tx.execute(audit_outbox.update().where(audit_outbox.c.number == number).values(sent_s=now))


def row_hash(row: Mapping[str, Any]) -> bytes:
    """SHA-256 over the RFC 8785 bytes of a command-log row without number and hash."""
    names = ("org", "key", "name", "person", "user", "reason", "policy", "at_s", "body", "result")
    value = {name: row[name] for name in names} | {"business_date": row["business_date"].isoformat()}
    return sha256(canonical_bytes(value))


def _stored(tx: Tx, actor: Actor, key: str, body_hash: bytes) -> dict[str, Any]:
    own = (command_keys.c.org == actor.org) & (command_keys.c.key == key)
    known = tx.execute(sa.select(command_keys.c.body_hash).where(own)).scalar_one_or_none()
    if known is None or bytes(known) != body_hash:
        raise Rejected(
            "This idempotency key was used for another command.", code="idempotency_key_reused", pointer="key"
        )
    logged = (command_log.c.org == actor.org) & (command_log.c.key == key)
    result = tx.execute(sa.select(command_log.c.result).where(logged)).scalar_one_or_none()
    if result is None:
        raise Conflict("This command is still at work.", code="in_progress")
    return dict(json.loads(result))


def _record(tx: Tx, ctx: HasPolicy, name: str, call: Call, body: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    row: dict[str, Any] = {
        "org": call.actor.org, "key": call.key, "name": name, "person": call.actor.person, "user": call.actor.user,
        "reason": call.reason, "policy": ctx.policy.version, "at_s": call.now_s, "business_date": call.business_date,
        "body": canonical_bytes(dict(body)).decode(), "result": canonical_bytes(dict(result)).decode(),
    }  # fmt: skip
    row["row_hash"] = row_hash(row)
    number = tx.execute(command_log.insert().values(row).returning(command_log.c.number)).scalar_one()
    tx.execute(audit_outbox.insert().values(number=number, row_hash=row["row_hash"]))
