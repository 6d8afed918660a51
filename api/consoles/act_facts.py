"""What a form shows of the thing it acts on, and the fingerprint that ties a confirmation to exactly that."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256, unb64u
from core.errors import Rejected
from core.money import Money
from finance import token_rules
from finance.casetables import compensations
from finance.inputs import exposure
from finance.tables import applications, claims, facilities, loans, payments, pledges, receipts
from finance.token_tables import account_vault, token_spends, tokens
from ledger import masterdata
from ledger.database import Tx


@dataclass(frozen=True)
class Fact:
    """One line: the word's key, the value, and how it is shown.

    Attributes:
        kind: text, state, money (fen), day (ISO), time (unix seconds), flag, code, purpose.
    """

    name: str
    value: Any
    kind: str = "text"


def facts_of(tx: Tx, kind: str, ident: str, *, org: str, lang: str) -> list[Fact] | None:
    """The facts about a thing that this organisation has a part in; None for any other, and for none."""
    if not ident.isprintable() or not ident.isascii():
        return None
    return _READERS[kind](tx, ident, org, lang)


def fingerprint(kind: str, ident: str, facts: list[Fact]) -> str:
    """The hash of what was seen, names of parties left out: they follow the reader's language."""
    told = {fact.name: fact.value for fact in facts if fact.kind != "party"}
    return b64u(sha256(canonical_bytes({"kind": kind, "id": ident, "facts": told})))


def _loan(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    query = sa.select(loans, facilities.c.lender, facilities.c.borrower).join(
        facilities, facilities.c.id == loans.c.facility
    )
    row = tx.execute(query.where(loans.c.id == ident)).one_or_none()
    if row is None or org not in (row.lender, row.borrower):
        return None
    return [
        *_sides(tx, row, lang),
        Fact("state", row.state, "state"), Fact("principal", int(row.principal), "money"),
        Fact("balance", int(row.balance), "money"), Fact("interest", int(row.interest_due + row.suspended), "money"),
        Fact("overpaid", int(row.overpaid), "money"), Fact("to_date", row.accrued_to.isoformat(), "day"),
    ]  # fmt: skip


def _facility(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    row = tx.execute(sa.select(facilities).where(facilities.c.id == ident)).one_or_none()
    if row is None or org not in (row.lender, row.borrower):
        return None
    return [
        *_sides(tx, row, lang),
        Fact("state", row.state, "state"), Fact("limit", int(row.limit_minor), "money"),
        Fact("owed", exposure(tx, row.lender, row.borrower).minor, "money"),
        Fact("margin_cash", int(row.margin_cash), "money"), Fact("disputed", bool(row.is_disputed), "flag"),
        Fact("until", row.available_until.isoformat(), "day"),
    ]  # fmt: skip


def _application(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    row = tx.execute(sa.select(applications).where(applications.c.id == ident)).one_or_none()
    if row is None or org not in (row.lender, row.borrower):
        return None
    goods = tx.execute(sa.select(receipts.c.item).where(receipts.c.id == row.receipt)).scalar_one_or_none()
    return [
        *_sides(tx, row, lang),
        Fact("state", row.state, "state"), Fact("amount", int(row.amount), "money"),
        Fact("tenor", int(row.tenor_days)), Fact("goods", goods or "", "code"),
        Fact("deadline", int(row.expires_s), "time"),
    ]  # fmt: skip


def _pledge(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    query = sa.select(pledges, receipts.c.item).join(receipts, receipts.c.id == pledges.c.receipt)
    row = tx.execute(query.where(pledges.c.id == ident)).one_or_none()
    owner = None if row is None else _facility(tx, row.facility, org, lang)
    if row is None or owner is None:
        return None
    return [*owner[:2], Fact("state", row.state, "state"), Fact("goods", row.item, "code"), *owner[3:5]]


def _receipt(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    try:
        raw = unb64u(ident, length=32)
    except Rejected:
        return None
    row = tx.execute(sa.select(receipts).where(receipts.c.id == raw)).one_or_none()
    if row is None or org not in (row.custodian, row.owner):
        return None
    count = sa.select(sa.func.count()).select_from(claims).where(claims.c.receipt == raw)
    return [
        Fact("borrower", party_name(tx, row.owner, lang), "party"), Fact("goods", row.item, "code"),
        Fact("state", row.state, "state"), Fact("claims", int(tx.execute(count).scalar_one())),
        Fact("deadline", int(row.expires_s), "time"),
    ]  # fmt: skip


def _payment(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    own = (payments.c.lender == org) & (payments.c.reference == ident)
    row = tx.execute(sa.select(payments).where(own)).one_or_none()
    facts = None if row is None else _loan(tx, row.loan, org, lang)
    return None if row is None or facts is None else [Fact("amount", int(row.amount), "money"),
                                                      Fact("reference", ident, "code"), *facts]  # fmt: skip


def _claim(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    row = tx.execute(sa.select(compensations).where(compensations.c.id == ident)).one_or_none()
    if row is None or org not in (row.lender, row.claimant):
        return None
    return [Fact("amount", int(row.amount), "money"), Fact("state", row.state, "state")]


def _account(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    row = tx.execute(sa.select(account_vault).where(account_vault.c.id == ident)).one_or_none()
    if row is None or org not in (row.bank, row.owner):
        return None
    return [Fact("borrower", party_name(tx, row.owner, lang), "party"), Fact("account", f"•••• {row.hint}", "code")]


def _token(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    query = sa.select(tokens, account_vault.c.hint).join(account_vault, account_vault.c.id == tokens.c.account)
    row = tx.execute(query.where(tokens.c.id == ident)).one_or_none()
    if row is None or org not in (row.bank, row.owner):
        return None
    return [
        Fact("borrower", party_name(tx, row.owner, lang), "party"), Fact("account", f"•••• {row.hint}", "code"),
        Fact("state", row.state, "state"), Fact("purpose", row.purpose, "purpose"),
        Fact("limits", [int(row.per_payment), int(row.per_day), int(row.total)], "monies"),
        Fact("spent", [int(row.spent_day), int(row.spent_total)], "monies"), Fact("version", int(row.version)),
    ]  # fmt: skip


def _spend(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    row = tx.execute(sa.select(token_spends).where(token_spends.c.id == ident)).one_or_none()
    owner = None if row is None else _token(tx, row.token, org, lang)
    if row is None or owner is None:
        return None
    return [
        *owner[:2], Fact("state", row.state, "state"), Fact("amount", int(row.amount), "money"),
        Fact("merchant", row.merchant), Fact("reference", row.reference, "code"),
    ]  # fmt: skip


def party_name(tx: Tx, org: str, lang: str) -> str:
    """An organisation's name in a language, else its id."""
    fact = masterdata.party(tx, org) or {}
    return str(fact.get(f"name_{lang}") or fact.get("name_en") or org)


def _sides(tx: Tx, row: Any, lang: str) -> list[Fact]:
    return [
        Fact("borrower", party_name(tx, row.borrower, lang), "party"),
        Fact("bank", party_name(tx, row.lender, lang), "party"),
    ]


def _nothing(tx: Tx, ident: str, org: str, lang: str) -> list[Fact] | None:
    return [] if ident == "" else None


def controls_shown(row: Any, day_of: Callable[[int], str]) -> dict[str, str]:
    """The present controls of a token as its form shows them."""
    return {
        "per_payment": Money(row.per_payment).text(), "per_day": Money(row.per_day).text(),
        "total": Money(row.total).text(), "payments": str(row.count_max),
        "merchants": " ".join(json.loads(row.merchants)),
        "window": token_rules.window_text(row.window_from_s, row.window_until_s),
        "valid_from": day_of(row.valid_from_s), "valid_until": day_of(row.valid_until_s),
    }  # fmt: skip


_READERS: Final[Mapping[str, Callable[[Tx, str, str, str], list[Fact] | None]]] = {
    "": _nothing, "loan": _loan, "facility": _facility, "application": _application, "pledge": _pledge,
    "receipt": _receipt, "payment": _payment, "claim": _claim, "account": _account, "token": _token, "spend": _spend,
}  # fmt: skip
