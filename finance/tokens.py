"""Payment tokens: a random name for an account, bound to partner, purpose and merchants, that pays within limits.

Spending is one conditional row update: the database itself decides whether the amount still fits, so no number of
partners' programs at once can pass a limit. Reversing gives back what was spent, once.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Broken, Conflict, Rejected, Unavailable
from core.money import Money, parse_money
from finance import token_rules as rules
from finance.commandlog import by_itself, command, insert_ignore
from finance.journal import CLEARING, DEPOSITS, Entry, post, reversed_entry
from finance.model import BANK, Actor, Call, Context
from finance.states import step
from finance.token_tables import account_vault, token_spends, tokens
from ledger.database import Tx

PARTNER: Final = "partner"
"""The role of a partner's program."""
TOKEN_BYTES: Final = 24
PREFIX: Final = "tbt_"
REFERENCE_MAX: Final = 64
_TRIES: Final = 8


def issue_token(
    tx: Tx, ctx: Context, actor: Actor, *, account: str, partner: str, purpose: str, merchants: Sequence[str],
    per_payment: str, per_day: str, total: str, payments: int, window: str, valid_from: int, valid_until: int,
    secret: bytes, key: str, reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """The holder of an account, or its bank, gives a partner a token for one purpose.

    Args:
        partner: whose program may spend, as :func:`partner_person` names it.
        payments: how often it pays at most.
        secret: 24 fresh random bytes; the token is these alone, so nobody can tell that two are of one account.

    Raises:
        Rejected: ``not_allowed``, ``no_such_account``, ``unknown_purpose``, or what the controls refuse.
    """
    if purpose not in rules.PURPOSES:
        raise Rejected(f"The purposes are {', '.join(rules.PURPOSES)}.", code="unknown_purpose", pointer="purpose")
    controls = rules.read_controls(
        merchants=merchants, per_payment=per_payment, per_day=per_day, total=total, payments=payments, window=window,
        valid_from=valid_from, valid_until=valid_until,
    )  # fmt: skip
    if len(secret) != TOKEN_BYTES:
        raise Broken(f"A token needs {TOKEN_BYTES} random bytes.", code="bad_token")

    def act(call: Call) -> dict[str, Any]:
        link = _account(tx, actor, account)
        if controls.valid_until_s <= now:
            raise Rejected("A token must end in the future.", code="bad_validity", pointer="valid_until")
        ident = PREFIX + b64u(secret)
        row = {
            "id": ident, "account": account, "bank": link.bank, "owner": link.owner, "partner": partner,
            "purpose": purpose, "state": "ACTIVE", "version": 1, "day": rules.today_of(now), "spent_day": 0,
            "spent_total": 0, "count": 0, "created_s": now, "last_s": now,
        }  # fmt: skip
        tx.execute(tokens.insert().values(row | controls.columns()))
        return {"token": ident, "state": "ACTIVE", "version": 1}

    body = {
        "account": account, "partner": partner, "purpose": purpose, "merchants": list(merchants),
        "per_payment": per_payment, "per_day": per_day, "total": total, "payments": payments, "window": window,
        "valid_from": valid_from, "valid_until": valid_until,
    }  # fmt: skip
    return command(tx, ctx, name="issue_token", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def change_token(
    tx: Tx, ctx: Context, actor: Actor, *, token: str, merchants: Sequence[str], per_payment: str, per_day: str,
    total: str, payments: int, window: str, valid_from: int, valid_until: int, version: int, key: str, reason: str,
    now: int,
) -> dict[str, Any]:  # fmt: skip
    """New controls, from the next payment on; ``version`` is that of the controls which the person saw.

    Raises:
        Rejected: ``not_allowed``, ``no_such_token``, or what the controls refuse.
        Conflict: ``stale_view``, ``below_spent``, ``token_revoked``, ``token_expired``, ``token_exhausted``.
    """
    controls = rules.read_controls(
        merchants=merchants, per_payment=per_payment, per_day=per_day, total=total, payments=payments, window=window,
        valid_from=valid_from, valid_until=valid_until,
    )  # fmt: skip

    def act(call: Call) -> dict[str, Any]:
        row = managed(tx, actor, token)
        if row.state not in ("ACTIVE", "SUSPENDED"):
            raise Conflict(f"This token is {row.state.lower()}.", code=f"token_{row.state.lower()}")
        fits = (tokens.c.spent_total <= controls.total) & (tokens.c.count <= controls.count_max)
        change = tokens.update().where(tokens.c.id == token, tokens.c.version == version, fits)
        if tx.execute(change.values(**controls.columns(), version=version + 1)).rowcount != 1:
            if _row(tx, token).version != version:
                raise Conflict("The token has changed since you saw it; read it again.", code="stale_view")
            raise Conflict("More than that is spent already.", code="below_spent", pointer="total")
        return {"token": token, "state": row.state, "version": version + 1}

    body = {
        "token": token, "merchants": list(merchants), "per_payment": per_payment, "per_day": per_day, "total": total,
        "payments": payments, "window": window, "valid_from": valid_from, "valid_until": valid_until,
        "version": version,
    }  # fmt: skip
    return command(tx, ctx, name="change_token", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def suspend_token(tx: Tx, ctx: Context, actor: Actor, *, token: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Stop a token until it is resumed. Raises: Rejected ``no_such_token``; Conflict ``illegal_transition``."""
    return _move(tx, ctx, actor, "suspend", token, key=key, reason=reason, now=now)


def resume_token(tx: Tx, ctx: Context, actor: Actor, *, token: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Let a suspended token work again. Raises: Rejected ``no_such_token``; Conflict ``illegal_transition``."""
    return _move(tx, ctx, actor, "resume", token, key=key, reason=reason, now=now)


def revoke_token(tx: Tx, ctx: Context, actor: Actor, *, token: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """End a token for good. Raises: Rejected ``no_such_token``; Conflict ``illegal_transition``."""
    return _move(tx, ctx, actor, "revoke", token, key=key, reason=reason, now=now)


def spend_token(
    tx: Tx, ctx: Context, actor: Actor, *, token: str, amount: str, purpose: str, merchant: str, reference: str,
    key: str, reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """The token's partner pays a merchant by it: all limits hold, or nothing happens.

    Args:
        reference: the partner's own name of the payment, once for each token.

    Raises:
        Rejected: ``not_allowed``, ``no_such_token``, ``bad_amount``, ``bad_reference``, ``wrong_purpose``,
            ``wrong_merchant``.
        Conflict: ``over_payment_limit``, ``over_day_limit``, ``over_total_limit``, ``over_count_limit``,
            ``reference_used``, or that the token does not work now (``token_rules.refuse``).
    """
    actor.need(PARTNER)
    money = parse_money(amount, pointer="amount")
    if not 0 < len(reference) <= REFERENCE_MAX or not reference.isprintable():
        raise Rejected(
            f"A reference has 1 to {REFERENCE_MAX} printable characters.", code="bad_reference", pointer="reference"
        )

    def act(call: Call) -> dict[str, Any]:
        payment = rules.Payment(money.minor, purpose, merchant, now)
        row = _take(tx, actor, token, payment)
        spend = _ident("spend", actor.org, key)
        values = {
            "id": spend, "token": token, "reference": reference, "amount": money.minor, "merchant": merchant,
            "day": row.day, "at_s": now, "state": "AUTHORISED", "entry": 0,
        }  # fmt: skip
        # The token's row is held by this transaction by now, so a rival with the same reference waits and finds it.
        if not insert_ignore(tx, token_spends, values):
            raise Conflict("This reference was paid by this token already.", code="reference_used", pointer="reference")
        entry = Entry("token_spend", f"token/{spend}", {DEPOSITS: money}, {CLEARING: money})
        number = _post(tx, entry, row.bank, call)
        tx.execute(token_spends.update().where(token_spends.c.id == spend).values(entry=number))
        left = rules.left_of(row, row.day)
        return {
            "spend": spend, "token": token, "state": "AUTHORISED", "amount": money.text(), "entry": number,
            "left_today": Money(min(left.day, left.total)).text(), "left_total": Money(left.total).text(),
            "left_payments": left.payments,
        }  # fmt: skip

    body = {"token": token, "amount": amount, "purpose": purpose, "merchant": merchant, "reference": reference}
    return command(tx, ctx, name="spend_token", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def reverse_spend(tx: Tx, ctx: Context, actor: Actor, *, spend: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Take a payment back, whole and once: the money returns, and so does what the limits had left.

    The partner may, and the account's bank. A token that was revoked or has expired stays so.

    Raises:
        Rejected: ``not_allowed``, ``no_such_spend``.
        Conflict: ``reversed_already``, ``too_late`` after 30 days.
    """
    actor.need(PARTNER, *BANK)

    def act(call: Call) -> dict[str, Any]:
        found = _spend(tx, actor, spend)
        if now - found.at_s > rules.REVERSAL_DAYS * rules.DAY_S:
            raise Conflict(f"A payment is reversed within {rules.REVERSAL_DAYS} days.", code="too_late")
        open_ = token_spends.update().where(token_spends.c.id == spend, token_spends.c.state == "AUTHORISED")
        if tx.execute(open_.values(state="REVERSED", reversed_s=now)).rowcount != 1:
            raise Conflict("This payment was reversed before.", code="reversed_already")
        on_day = sa.case((tokens.c.day == found.day, tokens.c.spent_day - found.amount), else_=tokens.c.spent_day)
        back = tokens.update().where(tokens.c.id == found.token).values(
            spent_total=tokens.c.spent_total - found.amount, spent_day=on_day, count=tokens.c.count - 1,
        )  # fmt: skip
        row = tx.execute(back.returning(tokens)).one()
        number = _post(tx, reversed_entry(tx, f"token/{spend}"), row.bank, call)
        return {
            "spend": spend, "token": found.token, "state": "REVERSED", "amount": Money(found.amount).text(),
            "entry": number, "left_total": Money(row.total - row.spent_total).text(),
        }  # fmt: skip

    body = {"spend": spend}
    return command(tx, ctx, name="reverse_spend", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def close_tokens(tx: Tx, ctx: Context, *, now: int, limit: int = 1_000) -> list[str]:
    """Expire what is over, and close what is used up once nothing on it can be reversed; the tokens that ended."""
    live = tokens.c.state.in_(("ACTIVE", "SUSPENDED"))
    used = (tokens.c.spent_total >= tokens.c.total) | (tokens.c.count >= tokens.c.count_max)
    settled = (tokens.c.state == "ACTIVE") & used & (tokens.c.last_s < now - rules.REVERSAL_DAYS * rules.DAY_S)
    query = sa.select(tokens).where((live & (tokens.c.valid_until_s <= now)) | settled).order_by(tokens.c.id)
    ended: list[str] = []
    for row in tx.execute(query.limit(limit).with_for_update()).all():
        event = "expire" if row.valid_until_s <= now else "exhaust"
        by_itself(
            tx, ctx, name=f"{event}_token", org=row.bank, subject=row.id, now=now, body={"token": row.id},
            act=_closing(tx, row, event),
        )  # fmt: skip
        ended.append(row.id)
    return ended


def managed(tx: Tx, actor: Actor, token: str) -> Any:
    """The row of a token that the actor may change: the account's holder or its bank.

    Raises:
        Rejected: ``not_allowed``, ``no_such_token``.
    """
    row = _row(tx, token)
    if row is None or not _may_manage(actor, bank=row.bank, owner=row.owner):
        raise Rejected("There is no such token.", code="no_such_token", pointer="token")
    return row


def partner_person(number: int | str) -> str:
    """How a partner's program is named as a person, and as the one that a token is for."""
    return f"partner/{number}"


def _take(tx: Tx, actor: Actor, token: str, payment: rules.Payment) -> Any:
    """Move an amount into what is spent, by one conditional update of the row as it was read."""
    today = rules.today_of(payment.now)
    for _ in range(_TRIES):
        row = _row(tx, token)
        if row is None or row.partner != actor.person:
            raise Rejected("There is no such token.", code="no_such_token", pointer="token")
        rules.refuse(row, payment)
        changed = tx.execute(_taken(token, row.version, payment, today)).one_or_none()
        if changed is not None:
            return changed
        # Another payment, or a change of the controls, came first: say why against what stands now.
        again = _row(tx, token)
        refusal = rules.over_limit(again, amount=payment.amount, today=today)
        if refusal is not None and again.version == row.version:
            raise refusal
    raise Unavailable("This token is being changed all the time; try again.", code="busy")


def _taken(token: str, version: int, payment: rules.Payment, today: date) -> Any:
    # The day never goes back: two payments around midnight may come in either order.
    day = sa.case((tokens.c.day < today, sa.literal(today, sa.Date)), else_=tokens.c.day)
    spent_day = sa.case((tokens.c.day < today, 0), else_=tokens.c.spent_day) + payment.amount
    spent_total = tokens.c.spent_total + payment.amount
    own = (tokens.c.id == token) & (tokens.c.version == version) & (tokens.c.state == "ACTIVE")
    fits = (
        (tokens.c.per_payment >= payment.amount)
        & (spent_day <= tokens.c.per_day)
        & (spent_total <= tokens.c.total)
        & (tokens.c.count < tokens.c.count_max)
    )
    after = {"day": day, "spent_day": spent_day, "spent_total": spent_total, "count": tokens.c.count + 1}
    return tokens.update().where(own, fits).values(after | {"last_s": payment.now}).returning(tokens)


def _move(
    tx: Tx, ctx: Context, actor: Actor, event: str, token: str, *, key: str, reason: str, now: int
) -> dict[str, Any]:
    def act(call: Call) -> Mapping[str, Any]:
        return _closing(tx, managed(tx, actor, token), event)(call)

    body = {"token": token}
    return command(tx, ctx, name=f"{event}_token", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def _closing(tx: Tx, row: Any, event: str) -> Callable[[Call], Mapping[str, Any]]:
    def act(_: Call) -> Mapping[str, Any]:
        state = step("token", row.state, event)
        change = tokens.update().where(tokens.c.id == row.id, tokens.c.version == row.version)
        if tx.execute(change.values(state=state, version=row.version + 1)).rowcount != 1:
            raise Conflict("The token has changed meanwhile; read it again.", code="stale_view")
        return {"token": row.id, "state": state, "version": row.version + 1}

    return act


def _account(tx: Tx, actor: Actor, account: str) -> Any:
    link = tx.execute(sa.select(account_vault).where(account_vault.c.id == account)).one_or_none()
    if link is None or not _may_manage(actor, bank=link.bank, owner=link.owner):
        raise Rejected("There is no such account.", code="no_such_account", pointer="account")
    return link


def _may_manage(actor: Actor, *, bank: str, owner: str) -> bool:
    actor.need("borrower", PARTNER, *BANK)
    roles = {owner: {"borrower", PARTNER}, bank: {PARTNER, *BANK}}.get(actor.org, set())
    return not actor.roles.isdisjoint(roles)


def _spend(tx: Tx, actor: Actor, spend: str) -> Any:
    query = sa.select(token_spends, tokens.c.partner, tokens.c.bank).join(tokens, tokens.c.id == token_spends.c.token)
    row = tx.execute(query.where(token_spends.c.id == spend)).one_or_none() if spend.isprintable() else None
    is_bank = row is not None and row.bank == actor.org and not actor.roles.isdisjoint(BANK)
    if row is None or not (is_bank or row.partner == actor.person):
        raise Rejected("There is no such payment.", code="no_such_spend", pointer="spend")
    return row


def _row(tx: Tx, token: str) -> Any:
    query = sa.select(tokens).where(tokens.c.id == token)
    return tx.execute(query).one_or_none() if token.isprintable() else None


def _post(tx: Tx, entry: Entry, bank: str, call: Call) -> int:
    return post(tx, entry, lender=bank, business_date=call.business_date, today=call.business_date, now=call.now_s)


def _ident(*parts: str) -> str:
    return b64u(sha256(canonical_bytes(list(parts)))[:18])
