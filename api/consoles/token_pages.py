"""The bank's payment tokens: linked accounts, tokens with limits and what is spent, and the payments of one."""

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from api.auth.partners import all_partners
from api.consoles.act_facts import party_name
from api.consoles.common import show
from api.errors import NotFound
from api.language import language_of
from api.policy import BANK_STAFF, Routes, identity
from api.services import Services
from finance import token_views, tokens
from ledger.database import Tx


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/bank/tokens", token_list, BANK_STAFF, tags=["bank"])
    routes.get("/bank/tokens/{token}", token_page, BANK_STAFF, tags=["bank"])


def token_list(request: Request) -> Response:
    """The bank's tokens, those that work first, and the accounts behind them."""
    services: Services = request.app.state.services
    who, lang, now = identity(request), language_of(request), services.now_ms() // 1_000
    with services.db.reading() as tx:
        rows = [_shown(tx, row, lang, now) for row in token_views.bank_tokens(tx, bank=who.org)]
        accounts = [
            {
                "id": row.id,
                "owner": party_name(tx, row.owner, lang),
                "hint": row.hint,
                "created_ms": row.created_s * 1_000,
            }
            for row in token_views.accounts_of(tx, bank=who.org)
        ]
    order = {"ACTIVE": 0, "SUSPENDED": 1}
    rows.sort(key=lambda row: (order.get(row["state"], 2), row["owner"], row["token"]))
    return show(request, "bank_tokens.html", {"rows": rows, "accounts": accounts})


def token_page(request: Request, token: str) -> Response:
    """One token with its payments."""
    services: Services = request.app.state.services
    who, lang, now = identity(request), language_of(request), services.now_ms() // 1_000
    with services.db.reading() as tx:
        row = token_views.token_row(tx, token, org=who.org)
        if row is None or row.bank != who.org:
            raise NotFound("There is no such token.")
        found = _shown(tx, row, lang, now)
        spends = [token_views.spend_view(one) | {"fen": int(one.amount)} for one in token_views.spends_of(tx, token)]
    return show(request, "bank_token.html", {"row": found, "spends": spends})


def _shown(tx: Tx, row: Any, lang: str, now: int) -> dict[str, Any]:
    names = {tokens.partner_person(one.id): one.name for one in all_partners(tx)}
    found = token_views.token_view(row, now)
    spent_today = 0 if found["spent_today"] == "0.00" else int(row.spent_day)
    return found | {
        "owner": party_name(tx, row.owner, lang), "partner": names.get(row.partner, row.partner),
        "fen": {"per_payment": int(row.per_payment), "per_day": int(row.per_day), "total": int(row.total),
                "spent_total": int(row.spent_total), "spent_today": spent_today},
    }  # fmt: skip
