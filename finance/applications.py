"""Applications: decided on evidence, approved by two persons over what they saw, accepted by the borrower."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from fractions import Fraction
from typing import Any, get_args

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, dump_json, sha256, unb64u
from core.errors import Conflict, Rejected, Unavailable
from core.identifiers import canonical, class_of
from core.money import Money, parse_decimal, parse_money
from finance.commandlog import command, insert_ignore
from finance.decision import decide, replay
from finance.model import BANK, Actor, AlreadyPledged, Call, Context
from finance.policy import load_policy
from finance.provenance import grounds
from finance.rating import check_features
from finance.receipts import receipt_row, receipts_over, refuse_pledged
from finance.schedule import Kind
from finance.states import OPEN_LOANS, step
from finance.tables import applications, approvals, borrowers, claims, facilities, goods, loans, pledges, quotes
from ledger.chain_alarms import is_credit_stopped
from ledger.database import Tx


def record_borrower(
    tx: Tx, ctx: Context, actor: Actor, *, borrower: str, controller: str, has_account: bool,
    features: Mapping[str, Any], key: str, reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """The bank keeps what it knows of a borrower: actual controller, account, rated features with source and date.

    Raises:
        Rejected: ``not_allowed``, or as ``check_features``.
    """
    actor.need(*BANK)
    check_features(features)

    def act(call: Call) -> dict[str, Any]:
        org = canonical(borrower)
        own = (borrowers.c.lender == actor.org) & (borrowers.c.org == org)
        tx.execute(borrowers.delete().where(own))
        row = {"lender": actor.org, "org": org, "controller": controller, "has_account": bool(has_account)}
        tx.execute(borrowers.insert().values(row | {"features": dump_json(dict(features)).decode()}))
        return {"borrower": org}

    body = {"borrower": borrower, "controller": controller, "has_account": has_account, "features": dict(features)}
    return command(tx, ctx, name="record_borrower", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def record_quote(
    tx: Tx, ctx: Context, actor: Actor, *, product: str, category: str, unit: str, price: str, cost: str, source: str,
    median: str | None = None, key: str, reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """The bank takes a market price and the cost of a product, in yuan a unit, as of its business date.

    Raises:
        Rejected: ``not_allowed``, ``unknown_category``, ``bad_number`` or ``zero_price``.
    """
    actor.need(*BANK)
    ctx.policy.category(category)
    values = {
        name: None if text is None else parse_decimal(text, pointer=name, decimals_max=6, most=10**9)
        for name, text in (("price", price), ("cost", cost), ("median", median or price))
    }
    if not values["price"] or not values["cost"]:
        raise Rejected("A price is more than zero.", code="zero_price", pointer="price")

    def act(call: Call) -> dict[str, Any]:
        row = {f"{name}_e6": int((value or 0) * 10**6) for name, value in values.items()}
        own = (quotes.c.lender == actor.org) & (quotes.c.product == canonical(product))
        earlier = tx.execute(sa.select(sa.func.coalesce(sa.func.max(quotes.c.number), 0)).where(own)).scalar_one()
        tx.execute(
            quotes.insert().values(
                id=f"{actor.org}/{key}", lender=actor.org, product=canonical(product), category=category, unit=unit,
                source=source, as_of=call.business_date, number=earlier + 1, **row,
            )
        )  # fmt: skip
        return {"quote": f"{actor.org}/{key}"}

    body = {
        "product": product, "category": category, "unit": unit, "price": price, "cost": cost, "source": source,
        "median": median,
    }  # fmt: skip
    return command(tx, ctx, name="record_quote", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def submit_application(
    tx: Tx, ctx: Context, actor: Actor, *, lender: str, goods_item: str, amount: str, tenor_days: int, purpose: str,
    repayment: str = "bullet", key: str, reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """The owner of goods under a sealed receipt asks for credit; the decision follows in the same command.

    Args:
        goods_item: the goods or their container, in any spelling.
        repayment: ``bullet`` at the end of the tenor; ``equal_instalment`` or ``interest_only`` month by month.

    Raises:
        Rejected: ``not_allowed``, ``bad_amount``, ``bad_period``, ``unknown_kind``, ``no_receipt``,
            ``unknown_borrower``.
        AlreadyPledged: the goods, what is inside or what they are inside of secure another loan.
        Conflict: ``receipt_not_sealed``, ``receipt_expired``.
    """
    actor.need("borrower")
    money = parse_money(amount, pointer="amount")
    if type(tenor_days) is not int or not 1 <= tenor_days <= 360:
        raise Rejected("A tenor is 1 to 360 days.", code="bad_period", pointer="tenor_days")
    if repayment not in get_args(Kind):
        kinds = ", ".join(get_args(Kind))
        raise Rejected(f"A loan is repaid by {kinds}.", code="unknown_kind", pointer="repayment")

    def act(call: Call) -> dict[str, Any]:
        receipt = _receipt_for(tx, ctx, actor.org, goods_item, now)
        bank = canonical(lender)
        inputs = gather(
            tx, ctx, lender=bank, borrower=actor.org, receipt=receipt, amount=money, tenor_days=tenor_days, call=call
        )
        decision = decide(inputs, ctx.policy)
        state = "DRAFT"
        for event in ("submit", "screen_ok", "rate", decision["outcome"]):
            state = step("application", state, event)
        terms = {
            "lender": bank, "borrower": actor.org, "receipt": b64u(receipt), "amount": money.text(),
            "tenor_days": tenor_days, "repayment": repayment, "rate": str(ctx.policy.text("loan", "rate")),
            "day_count": ctx.policy.text("loan", "day_count"), "policy": ctx.policy.version,
            "policy_hash": b64u(ctx.policy.digest), "decision": b64u(sha256(canonical_bytes(decision))), "key": key,
        }  # fmt: skip
        terms_hash = sha256(canonical_bytes(terms))
        ident = b64u(terms_hash)[:16]
        tx.execute(
            applications.insert().values(
                id=ident, lender=bank, borrower=actor.org, receipt=receipt, amount=money.minor, tenor_days=tenor_days,
                purpose=purpose, maker=actor.person, state=state,
                decision=canonical_bytes({"inputs": inputs, "decision": decision}).decode(),
                terms=canonical_bytes(terms).decode(), terms_hash=terms_hash, created_s=now,
                expires_s=now + ctx.policy.integer("loan", "offer_life_s"),
            )
        )  # fmt: skip
        return {"application": ident, "state": state, "terms_hash": b64u(terms_hash), "reasons": decision["reasons"]}

    body = {
        "lender": lender, "goods_item": goods_item, "amount": amount, "tenor_days": tenor_days, "purpose": purpose,
        "repayment": repayment,
    }  # fmt: skip
    return command(tx, ctx, name="submit_application", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def approve_application(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, terms_hash: str, is_approved: bool, key: str, reason: str,
    now: int,
) -> dict[str, Any]:  # fmt: skip
    """A person of the bank approves, or rejects, exactly the terms seen; with enough persons the offer stands.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``, ``above_authority``.
        Conflict: ``own_command``, ``approved_already``, ``changed_since_seen``, ``expired``, ``illegal_transition``.
    """
    actor.need(*BANK)

    def act(call: Call) -> dict[str, Any]:
        row = application_row(tx, application, for_update=True)
        if row.lender != actor.org:
            raise Rejected("There is no such application.", code="no_such_application")
        seen = unb64u(terms_hash, length=32)
        target = step("application", row.state, "approve" if is_approved else "reject")
        if seen != bytes(row.terms_hash):
            raise Conflict("The terms are not those you saw.", code="changed_since_seen", pointer="terms_hash")
        if now >= row.expires_s:
            raise Conflict("The application has expired.", code="expired")
        given = _approve(tx, ctx, actor, f"application/{application}", seen, row.maker, Money(row.amount), call,
                         is_approved=is_approved)  # fmt: skip
        enough = not is_approved or _is_enough(tx, ctx, given)
        if enough:
            tx.execute(applications.update().where(applications.c.id == application).values(state=target))
        return {"application": application, "state": target if enough else row.state, "approvals": len(given)}

    body = {"application": application, "terms_hash": terms_hash, "is_approved": is_approved}
    return command(
        tx, ctx, name="approve_application", actor=actor, key=key, reason=reason, now=now, body=body, act=act
    )


def accept_offer(
    tx: Tx, ctx: Context, actor: Actor, *, application: str, terms_hash: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """The borrower accepts: a facility waits for its pledge, and the goods are reserved for this lender.

    Raises:
        Rejected: ``not_allowed``, ``no_such_application``.
        AlreadyPledged: another live pledge came first.
        Conflict: ``changed_since_seen``, ``expired``, ``illegal_transition``.
    """
    actor.need("borrower")

    def act(call: Call) -> dict[str, Any]:
        row = application_row(tx, application, for_update=True)
        if row.borrower != actor.org:
            raise Rejected("There is no such application.", code="no_such_application")
        state = step("application", row.state, "accept")
        if unb64u(terms_hash, length=32) != bytes(row.terms_hash):
            raise Conflict("The terms are not those you saw.", code="changed_since_seen", pointer="terms_hash")
        if now >= row.expires_s:
            raise Conflict("The offer has expired.", code="expired")
        if is_credit_stopped(tx):
            raise Conflict("No new credit while the chain is in doubt.", code="credit_stopped")
        tx.execute(applications.update().where(applications.c.id == application).values(state=state))
        decision = json.loads(row.decision)["decision"]
        until = call.business_date + timedelta(days=ctx.policy.integer("loan", "facility_days"))
        tx.execute(
            facilities.insert().values(
                id=application, application=application, lender=row.lender, borrower=row.borrower,
                limit_minor=row.amount, rate_e10=int(ctx.policy.number("loan", "rate") * 10**10),
                day_count=ctx.policy.text("loan", "day_count"), grade=decision["grade"], policy=ctx.policy.version,
                tenor_days=row.tenor_days, available_until=until, state="PENDING", is_disputed=False, version=0,
                repayment=json.loads(row.terms)["repayment"],
            )
        )  # fmt: skip
        pledge = reserve(tx, ctx, facility=application, lender=row.lender, receipt=bytes(row.receipt),
                         terms_hash=bytes(row.terms_hash), now=now)  # fmt: skip
        return {"application": application, "facility": application, "state": state, "pledge": pledge}

    body = {"application": application, "terms_hash": terms_hash}
    return command(tx, ctx, name="accept_offer", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def reserve(tx: Tx, ctx: Context, *, facility: str, lender: str, receipt: bytes, terms_hash: bytes, now: int) -> str:
    """Reserve a receipt for a lender; the unique index on live pledges decides who was first.

    Raises:
        AlreadyPledged: somebody was.
        Conflict: the receipt is not sealed.
    """
    row = receipt_row(tx, receipt, for_update=True)
    refuse_pledged(tx, ctx, row.item)
    if row.state != "SEALED":
        raise Conflict("The receipt is not sealed on the chain.", code="receipt_not_sealed")
    earlier = sa.select(sa.func.count()).select_from(pledges).where(pledges.c.receipt == receipt)
    count = tx.execute(earlier).scalar_one()
    values = {
        "id": f"{facility}-{count + 1}", "facility": facility, "lender": lender, "receipt": receipt,
        "terms_hash": terms_hash, "nonce": ctx.registry.nonce_of(receipt),
        # The contract compares the deadline with its own clock, which may run ahead of ours.
        "deadline_s": max(now, _chain_time(ctx)) + ctx.policy.integer("loan", "pledge_deadline_s"),
        "state": step("pledge", "REQUESTED", "reserve"), "note": "", "rank": 1,
    }  # fmt: skip
    if not insert_ignore(tx, pledges, values):
        raise AlreadyPledged()
    return str(values["id"])


def _chain_time(ctx: Context) -> int:
    head = ctx.registry.chain.block("latest")
    if head is None:
        raise Unavailable("The chain has no latest block.", code="chain_away")
    return head.time_s


def gather(
    tx: Tx, ctx: Context, *, lender: str, borrower: str, receipt: bytes, amount: Money, tenor_days: int, call: Call
) -> dict[str, Any]:
    """Everything that a decision is made of, as JSON, from goods history, prices and the borrower's file.

    Raises:
        Rejected: ``unknown_borrower``.
    """
    own = (borrowers.c.lender == lender) & (borrowers.c.org == borrower)
    file = tx.execute(sa.select(borrowers).where(own)).one_or_none()
    if file is None:
        raise Rejected("The bank does not know this borrower yet.", code="unknown_borrower", pointer="borrower")
    row = receipt_row(tx, receipt)
    evidence = ctx.assess(tx, row.item, call.now_s)
    query = (
        sa.select(goods.c.item)
        .select_from(claims.join(goods, goods.c.goods_key == claims.c.goods_key))
        .where(claims.c.receipt == receipt, goods.c.kind == "SERIAL")
    )
    units = sorted(tx.execute(query).scalars())
    lots = ctx.lots(tx, units)
    counts = Counter((class_of(unit) or unit, lots.get(unit)) for unit in units)
    lines = []
    for (product, lot), count in sorted(counts.items(), key=str):
        newest = sa.select(quotes).where(quotes.c.lender == lender, quotes.c.product == product)
        quote = tx.execute(newest.order_by(quotes.c.as_of.desc(), quotes.c.number.desc()).limit(1)).one_or_none()
        lines.append(_line(product, lot, count, row.place, evidence, quote))
    return {
        "amount": amount.text(), "tenor_days": tenor_days, "today": call.business_date.isoformat(),
        "has_account": bool(file.has_account), "features": json.loads(file.features), "lines": lines,
        "grounds": grounds(evidence, ctx.policy).stored(), "exposure": exposure(tx, lender, borrower).text(),
    }  # fmt: skip


def exposure(tx: Tx, lender: str, borrower: str) -> Money:
    """Principal, interest and charges of a borrower's open loans at one bank, those too that are no income now."""
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(loans.c.balance + loans.c.interest_due + loans.c.suspended), 0))
        .select_from(loans.join(facilities, facilities.c.id == loans.c.facility))
        .where(facilities.c.lender == lender, facilities.c.borrower == borrower, loans.c.state.in_(OPEN_LOANS))
    )
    return Money(int(tx.execute(query).scalar_one()))


def replay_decision(tx: Tx, application: str) -> dict[str, Any]:
    """The stored decision, after computing it again from its stored inputs and policy version (V16).

    Raises:
        Rejected: ``no_such_application``.
        Conflict: ``not_reproducible``.
    """
    stored = json.loads(application_row(tx, application).decision)
    policy = load_policy(stored["decision"]["policy"])
    replay(stored["inputs"], stored["decision"], policy)
    return dict(stored["decision"])


def application_row(tx: Tx, application: str, *, for_update: bool = False) -> Any:
    """An application's row.

    Raises:
        Rejected: ``no_such_application``.
    """
    query = sa.select(applications).where(applications.c.id == application)
    row = tx.execute(query.with_for_update() if for_update else query).one_or_none()
    if row is None:
        raise Rejected("There is no such application.", code="no_such_application", pointer="application")
    return row


def _line(product: str, lot: str | None, count: int, place: str, evidence: Any, quote: Any) -> dict[str, Any]:
    line = {
        "id": f"{product}|{lot or ''}", "product": product, "lot": lot, "warehouse": place, "quantity": str(count),
        "sensor_quantity": None if evidence.sensor_quantity is None else str(evidence.sensor_quantity),
        "quality": evidence.quality, "life": None if evidence.life is None else str(evidence.life),
        "revaluation_days": 1, "category": "general", "unit": "EA", "cost": "1", "quote": None,
    }  # fmt: skip
    if quote is None:
        return line
    return line | {
        "category": quote.category, "unit": quote.unit, "cost": str(Fraction(quote.cost_e6, 10**6)),
        "quote": {
            "source": quote.source, "as_of": quote.as_of.isoformat(), "unit": quote.unit,
            "price": str(Fraction(quote.price_e6, 10**6)),
            "median": None if quote.median_e6 is None else str(Fraction(quote.median_e6, 10**6)),
        },
    }  # fmt: skip


def _receipt_for(tx: Tx, ctx: Context, owner: str, item: str, now: int) -> bytes:
    refuse_pledged(tx, ctx, item)
    found = receipts_over(tx, ctx, item)
    if len(found) != 1:
        raise Rejected("The goods are not under one warehouse receipt.", code="no_receipt", pointer="goods_item")
    row = receipt_row(tx, found[0])
    if row.owner != owner:
        raise Rejected("The goods belong to somebody else.", code="not_allowed", pointer="goods_item")
    if row.state != "SEALED":
        raise Conflict("The receipt is not sealed on the chain yet.", code="receipt_not_sealed")
    if now >= row.expires_s:
        raise Conflict("The receipt has expired.", code="receipt_expired")
    return found[0]


def _approve(
    tx: Tx, ctx: Context, actor: Actor, subject: str, seen: bytes, maker: str, amount: Money, call: Call, *,
    is_approved: bool,
) -> list[Any]:  # fmt: skip
    if actor.person == maker:
        raise Conflict("Nobody approves an own command.", code="own_command")
    authority = ctx.policy.data["approval"]["authority"]
    most = max((parse_money(authority[role]) for role in actor.roles if role in authority), default=Money(0))
    if is_approved and amount > most:
        raise Rejected(f"Your authority ends at {most.text()}.", code="above_authority")
    mine = (approvals.c.subject == subject) & (approvals.c.seen_hash == seen)
    if tx.execute(sa.select(approvals.c.checker).where(mine, approvals.c.checker == actor.person)).first():
        raise Conflict("You have approved this already.", code="approved_already")
    role = "bank_checker" if "bank_checker" in actor.roles else "bank_maker"
    tx.execute(
        approvals.insert().values(
            subject=subject, seen_hash=seen, checker=actor.person, maker=maker,
            decision=f"approve/{role}" if is_approved else "reject", reason=call.reason, at_s=call.now_s,
            expires_s=call.now_s + ctx.policy.integer("approval", "life_s"),
        )
    )  # fmt: skip
    live = (approvals.c.expires_s > call.now_s) & approvals.c.decision.like("approve/%")
    return list(tx.execute(sa.select(approvals).where(mine, live)).all())


def _is_enough(tx: Tx, ctx: Context, given: list[Any]) -> bool:
    has_checker = any(approval.decision == "approve/bank_checker" for approval in given)
    return has_checker and len(given) >= ctx.policy.integer("approval", "checkers")
