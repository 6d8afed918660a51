"""Limit reviews (N-2): when what a limit rests on changes or grows old, it is computed anew, stored and replayable.

A review lowers a limit at once and raises it again at most to what was contracted; more needs an application.
"""

import json
from typing import Any

import sqlalchemy as sa

from core.canonical import canonical_bytes, sha256
from core.errors import Rejected, Unavailable
from core.money import Money, parse_money
from finance.casetables import limit_reviews
from finance.commandlog import business_date, by_itself, command
from finance.consents import CREDIT
from finance.cover import cover_of
from finance.decision import replay
from finance.inputs import borrower_file
from finance.lending import bank_facility
from finance.model import BANK, Actor, Call, Context
from finance.policy import Policy, load_policy
from finance.rating import stale_features
from finance.tables import applications, facilities
from ledger.database import Database, Tx

REVIEWED = ("ACTIVE", "WATCH")


def review_limit(
    tx: Tx, ctx: Context, actor: Actor, *, facility: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Compute a facility's limit anew now.

    Raises:
        Rejected: ``not_allowed``, ``no_such_facility``, ``consent_needed``, ``nothing_pledged``.
    """
    actor.need(*BANK)

    def act(call: Call) -> dict[str, Any]:
        return _review(tx, ctx, bank_facility(tx, actor, facility), "asked", call)

    body = {"facility": facility}
    return command(tx, ctx, name="review_limit", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def review_limits(db: Database, ctx: Context, *, now: int) -> list[str]:
    """Review every running facility whose borrower's file changed or grew old since its last decision; their ids.

    Without the borrower's consent nothing new is decided; what cannot be read now is left for the next run.
    """
    with db.reading() as tx:
        query = sa.select(facilities).where(facilities.c.state.in_(REVIEWED)).order_by(facilities.c.id)
        today = business_date(tx, now)
        due = [row.id for row in tx.execute(query).all() if _cause(tx, ctx.policy, row, today)]
    done = []
    for ident in due:
        try:
            with db.transaction() as tx:
                row = tx.execute(sa.select(facilities).where(facilities.c.id == ident).with_for_update()).one()
                cause = _cause(tx, ctx.policy, row, business_date(tx, now))
                if cause and row.state in REVIEWED:
                    _by_itself(tx, ctx, row, cause, now)
                    done.append(ident)
        except (Unavailable, Rejected):
            continue
    return done


def replay_review(tx: Tx, facility: str, number: int) -> dict[str, Any]:
    """A stored review, after computing its decision again from its inputs and policy version (V16).

    Raises:
        Rejected: ``no_such_review``. Conflict: ``not_reproducible``.
    """
    own = (limit_reviews.c.facility == facility) & (limit_reviews.c.number == number)
    text = tx.execute(sa.select(limit_reviews.c.decision).where(own)).scalar_one_or_none()
    if text is None:
        raise Rejected("There is no such review.", code="no_such_review", pointer="number")
    stored = json.loads(text)
    replay(stored["inputs"], stored["decision"], load_policy(stored["decision"]["policy"]))
    return dict(stored["decision"])


def reviews_of(tx: Tx, facility: str) -> list[dict[str, Any]]:
    """A facility's reviews, the newest first: cause, limit before and after, grade, and the reasons."""
    query = sa.select(limit_reviews).where(limit_reviews.c.facility == facility)
    return [
        {
            "number": row.number, "at_ms": row.at_s * 1_000, "cause": row.cause, "before": int(row.limit_before),
            "after": int(row.limit_after), "grade": json.loads(row.decision)["decision"]["grade"],
            "reasons": json.loads(row.decision)["decision"]["reasons"],
        }
        for row in tx.execute(query.order_by(limit_reviews.c.number.desc()).limit(20))
    ]  # fmt: skip


def _by_itself(tx: Tx, ctx: Context, row: Any, cause: str, now: int) -> None:
    body = {"facility": row.id, "cause": cause, "version": row.version}

    def act(call: Call) -> dict[str, Any]:
        return _review(tx, ctx, row, cause, call)

    by_itself(tx, ctx, name="review_limit", org=row.lender, subject=f"limit of {row.id}", now=now, body=body, act=act)


def _review(tx: Tx, ctx: Context, row: Any, cause: str, call: Call) -> dict[str, Any]:
    cover = cover_of(tx, ctx, row, call=call, purpose=CREDIT)
    if not cover.stored:
        raise Rejected("Nothing is pledged: there is no limit to compute.", code="nothing_pledged", pointer="facility")
    contracted = tx.execute(sa.select(applications.c.amount).where(applications.c.id == row.application)).scalar_one()
    decision = cover.stored["decision"]
    after = min(Money(int(contracted)), parse_money(decision["limit"], is_zero_allowed=True))
    earlier = sa.select(sa.func.count()).select_from(limit_reviews).where(limit_reviews.c.facility == row.id)
    number = int(tx.execute(earlier).scalar_one()) + 1
    tx.execute(
        limit_reviews.insert().values(
            facility=row.id, number=number, at_s=call.now_s, cause=cause,
            basis_hash=_basis(tx, ctx.policy, row, call.business_date),
            decision=canonical_bytes(cover.stored).decode(), limit_before=row.limit_minor, limit_after=after.minor,
        )
    )  # fmt: skip
    more = facilities.c.version + 1
    tx.execute(facilities.update().where(facilities.c.id == row.id).values(limit_minor=after.minor, version=more))
    return {
        "facility": row.id, "number": number, "cause": cause, "before": Money(row.limit_minor).text(),
        "limit": after.text(), "grade": decision["grade"], "reasons": decision["reasons"],
    }  # fmt: skip


def _cause(tx: Tx, policy: Policy, row: Any, today: Any) -> str:
    """Why a facility is due for review: ``features_changed``, ``features_stale``; empty when it is not."""
    newest = sa.select(limit_reviews.c.basis_hash).where(limit_reviews.c.facility == row.id)
    last = tx.execute(newest.order_by(limit_reviews.c.number.desc()).limit(1)).scalar_one_or_none()
    if last is None:
        stored = tx.execute(sa.select(applications.c.decision).where(applications.c.id == row.application)).scalar_one()
        inputs = json.loads(stored)["inputs"]
        last = _hash(inputs["features"], inputs["has_account"], ())
    if bytes(last) == _basis(tx, policy, row, today):
        return ""
    file = borrower_file(tx, row.lender, row.borrower)
    return "features_stale" if stale_features(json.loads(file.features), policy, today) else "features_changed"


def _basis(tx: Tx, policy: Policy, row: Any, today: Any) -> bytes:
    """What of a borrower's file a limit rests on, and which parts of it are too old today."""
    file = borrower_file(tx, row.lender, row.borrower)
    features = json.loads(file.features)
    return _hash(features, bool(file.has_account), stale_features(features, policy, today))


def _hash(features: Any, has_account: bool, stale: Any) -> bytes:
    return sha256(canonical_bytes({"features": features, "has_account": has_account, "stale": sorted(stale)}))
