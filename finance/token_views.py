"""What people and programs are shown of tokens: limits, what is spent and left, and each payment."""

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from core.money import Money
from finance import token_rules as rules
from finance.token_tables import account_vault, token_spends, tokens
from ledger.database import Tx

PAGE_MAX: Final = 200


def token_view(row: Any, now: int) -> dict[str, Any]:
    """A token as it stands at a unix second; one that is over shows as EXPIRED before the night has said so."""
    left = rules.left_of(row, rules.today_of(now))
    is_over = row.state in ("ACTIVE", "SUSPENDED") and now >= row.valid_until_s
    spent_today = row.spent_day if row.day >= rules.today_of(now) else 0
    return {
        "token": row.id, "account": row.account, "partner": row.partner, "purpose": row.purpose,
        "merchants": json.loads(row.merchants), "per_payment": _yuan(row.per_payment), "per_day": _yuan(row.per_day),
        "total": _yuan(row.total), "payments": row.count_max,
        "window": rules.window_text(row.window_from_s, row.window_until_s), "valid_from": row.valid_from_s,
        "valid_until": row.valid_until_s, "state": "EXPIRED" if is_over else row.state, "version": row.version,
        "spent_today": _yuan(spent_today), "spent_total": _yuan(row.spent_total), "paid": row.count,
        "left_today": _yuan(min(left.day, left.total)), "left_total": _yuan(left.total), "created": row.created_s,
    }  # fmt: skip


def spend_view(row: Any) -> dict[str, Any]:
    """A payment as it stands."""
    return {
        "spend": row.id, "token": row.token, "reference": row.reference, "amount": _yuan(row.amount),
        "merchant": row.merchant, "at": row.at_s, "day": row.day.isoformat(), "state": row.state,
        "reversed_at": row.reversed_s,
    }  # fmt: skip


def tokens_of(tx: Tx, *, orgs: Sequence[str], partner: str = "", after: str = "", limit: int = 100) -> list[Any]:
    """Rows of tokens on accounts of these organisations or at these banks, and of those given to a partner."""
    own = tokens.c.owner.in_(orgs) | tokens.c.bank.in_(orgs) | (tokens.c.partner == partner)
    query = sa.select(tokens).where(own, tokens.c.id > after).order_by(tokens.c.id)
    return list(tx.execute(query.limit(min(limit, PAGE_MAX))).all())


def token_row(tx: Tx, token: str, *, org: str, partner: str = "") -> Any:
    """A token that this organisation or partner may see; None for any other."""
    query = sa.select(tokens).where(tokens.c.id == token)
    row = tx.execute(query).one_or_none() if token.isprintable() else None
    return row if row is not None and (org in (row.owner, row.bank) or partner == row.partner) else None


def spends_of(tx: Tx, token: str, *, limit: int = 100) -> list[Any]:
    """The newest payments by a token."""
    query = sa.select(token_spends).where(token_spends.c.token == token)
    query = query.order_by(token_spends.c.at_s.desc(), token_spends.c.id)
    return list(tx.execute(query.limit(min(limit, PAGE_MAX))).all())


def accounts_of(tx: Tx, *, bank: str) -> list[Any]:
    """The linked accounts of a bank: reference, owner and the last four characters."""
    names = (account_vault.c.id, account_vault.c.owner, account_vault.c.hint, account_vault.c.created_s)
    query = (
        sa.select(*names).where(account_vault.c.bank == bank).order_by(account_vault.c.created_s, account_vault.c.id)
    )
    return list(tx.execute(query.limit(PAGE_MAX)).all())


def bank_tokens(tx: Tx, *, bank: str) -> list[Any]:
    """The tokens on accounts at a bank, newest first."""
    query = sa.select(tokens).where(tokens.c.bank == bank).order_by(tokens.c.created_s.desc(), tokens.c.id)
    return list(tx.execute(query.limit(PAGE_MAX)).all())


def _yuan(fen: int) -> str:
    return Money(fen).text()
