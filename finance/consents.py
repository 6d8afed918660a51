"""Consent: a borrower says who may use which of its data, for what and until when; every use is a row of the log."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Rejected
from core.identifiers import canonical
from finance.casetables import consents
from finance.commandlog import by_itself, command
from finance.model import Actor, Call, Context
from ledger.database import Tx

CREDIT: Final = "credit"
"""Deciding on this borrower's own loan business; nothing else may be done with data that were given for it."""
PURPOSES: Final = (CREDIT, "statistics")
SOURCE_OF: Final[Mapping[str, str]] = {
    "account": "account", "tax": "tax", "annual_turnover": "tax", "secured": "credit_bureau", "sales": "sales",
    "monthly_sales": "sales",
}  # fmt: skip
"""By feature, the source whose data it is made of."""
SOURCES: Final = tuple(dict.fromkeys(SOURCE_OF.values()))
DAYS_MAX: Final = 720


def grant_consent(
    tx: Tx, ctx: Context, actor: Actor, *, lender: str, purpose: str, sources: Sequence[str], days: int, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """A borrower lets a bank use data of these sources for one purpose, for some days.

    Raises:
        Rejected: ``not_allowed``, ``unknown_purpose``, ``unknown_source``, ``bad_period``.
    """
    actor.need("borrower")
    if purpose not in PURPOSES:
        raise Rejected(f"The purposes are {', '.join(PURPOSES)}.", code="unknown_purpose", pointer="purpose")
    if not sources or not set(sources) <= set(SOURCES):
        raise Rejected(f"The sources are {', '.join(SOURCES)}.", code="unknown_source", pointer="sources")
    if type(days) is not int or not 1 <= days <= DAYS_MAX:
        raise Rejected(f"A consent lasts 1 to {DAYS_MAX} days.", code="bad_period", pointer="days")

    def act(call: Call) -> dict[str, Any]:
        bank, wanted = canonical(lender), sorted(set(sources))
        rows = [
            {"id": _ident(actor.org, key, source), "borrower": actor.org, "lender": bank, "purpose": purpose,
             "source": source, "given_s": now, "until_s": now + days * 86_400}
            for source in wanted
        ]  # fmt: skip
        tx.execute(consents.insert(), rows)
        return {"consents": [row["id"] for row in rows], "until_s": now + days * 86_400}

    body = {"lender": lender, "purpose": purpose, "sources": list(sources), "days": days}
    return command(tx, ctx, name="grant_consent", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def withdraw_consent(
    tx: Tx, ctx: Context, actor: Actor, *, consent: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """The borrower takes a consent back: no new decision rests on these data from now on.

    Raises:
        Rejected: ``not_allowed``, ``no_such_consent``, also when it was withdrawn before.
    """
    actor.need("borrower")

    def act(call: Call) -> dict[str, Any]:
        own = (consents.c.id == consent) & (consents.c.borrower == actor.org) & consents.c.withdrawn_s.is_(None)
        if tx.execute(consents.update().where(own).values(withdrawn_s=now)).rowcount != 1:
            raise Rejected("There is no such consent.", code="no_such_consent", pointer="consent")
        return {"consent": consent, "withdrawn_s": now}

    body = {"consent": consent}
    return command(tx, ctx, name="withdraw_consent", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def need_consent(
    tx: Tx, *, lender: str, borrower: str, purpose: str, features: Iterable[str], now: int
) -> dict[str, str]:
    """By source, the live consent under which these features may be used.

    Raises:
        Rejected: ``consent_needed``, naming the sources that the borrower must open.
    """
    wanted = {SOURCE_OF[name] for name in features if name in SOURCE_OF}
    query = sa.select(consents).where(
        consents.c.lender == lender, consents.c.borrower == borrower, consents.c.purpose == purpose,
        consents.c.withdrawn_s.is_(None), consents.c.given_s <= now, consents.c.until_s > now,
    )  # fmt: skip
    live = {row.source: str(row.id) for row in tx.execute(query.order_by(consents.c.until_s, consents.c.id))}
    missing = sorted(wanted - set(live))
    if missing:
        raise Rejected(
            f"The borrower's consent for the purpose {purpose} is needed: {', '.join(missing)}.",
            code="consent_needed", pointer="features",
        )  # fmt: skip
    return {source: live[source] for source in sorted(wanted)}


def log_reading(
    tx: Tx, ctx: Context, call: Call, *, lender: str, borrower: str, purpose: str, given: Mapping[str, str]
) -> None:
    """Keep who read which of a borrower's data, for which command and under which consents."""
    body = {"borrower": borrower, "purpose": purpose, "consents": dict(given), "for": call.key, "by": call.actor.person}

    def act(_: Call) -> dict[str, Any]:
        return {"sources": sorted(given)}

    by_itself(tx, ctx, name="read_borrower_data", org=lender, subject=f"{purpose} of {borrower}", now=call.now_s,
              body=body, act=act)  # fmt: skip


def _ident(org: str, key: str, source: str) -> str:
    return b64u(sha256(canonical_bytes([org, key, source])))[:16]


def consents_of(tx: Tx, borrower: str) -> list[Any]:
    """A borrower's consents, the newest first."""
    query = sa.select(consents).where(consents.c.borrower == borrower)
    return list(tx.execute(query.order_by(consents.c.given_s.desc(), consents.c.id).limit(200)).all())
