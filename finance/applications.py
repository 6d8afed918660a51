"""Applications: decided on evidence, approved by two persons over what they saw, accepted by the borrower."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, dump_json, sha256, unb64u
from core.errors import Conflict, Rejected, Unavailable
from core.identifiers import canonical
from core.money import Money, parse_decimal, parse_money
from finance.commandlog import command, insert_ignore
from finance.consents import CREDIT, need_consent
from finance.decision import decide, replay
from finance.inputs import borrower_file, gather
from finance.model import BANK, Actor, AlreadyPledged, Call, Context
from finance.policy import load_policy
from finance.rating import check_features
from finance.receipts import receipt_row, receipts_over, refuse_pledged
from finance.register import search
from finance.schedule import Kind
from finance.screening import keep_hits, names_of, screen
from finance.states import step
from finance.tables import applications, approvals, borrowers, facilities, pledges, quotes
from ledger.chain_alarms import is_credit_stopped
from ledger.database import Tx


def record_borrower(
    tx: Tx, ctx: Context, actor: Actor, *, borrower: str, controller: str, has_account: bool,
    features: Mapping[str, Any], legal_name: str = "", controller_features: Mapping[str, Any] | None = None, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """The bank keeps what it knows of a borrower: actual controller, account, rated features with source and date.

    Args:
        features: of the firm; each source needs the borrower's live consent to its use for credit.
        controller_features: of the actual controller, in the same form.

    Raises:
        Rejected: ``not_allowed``, ``consent_needed``, or as ``check_features``.
    """
    actor.need(*BANK)
    person = dict(controller_features or {})
    check_features(features)
    check_features(person)

    def act(call: Call) -> dict[str, Any]:
        org = canonical(borrower)
        given = need_consent(tx, lender=actor.org, borrower=org, purpose=CREDIT, features=[*features, *person], now=now)
        own = (borrowers.c.lender == actor.org) & (borrowers.c.org == org)
        tx.execute(borrowers.delete().where(own))
        row = {
            "lender": actor.org, "org": org, "controller": controller, "has_account": bool(has_account),
            "legal_name": legal_name, "features": dump_json(dict(features)).decode(),
            "controller_features": dump_json(person).decode(),
        }  # fmt: skip
        tx.execute(borrowers.insert().values(row))
        return {"borrower": org, "consents": given}

    body = {
        "borrower": borrower, "controller": controller, "has_account": has_account, "features": dict(features),
        "legal_name": legal_name, "controller_features": person,
    }  # fmt: skip
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
    wanted = wanted_from(amount, tenor_days, repayment)

    def act(call: Call) -> dict[str, Any]:
        receipt = receipt_for(tx, ctx, actor.org, goods_item, now)
        bank = canonical(lender)
        made = rated(tx, ctx, lender=bank, borrower=actor.org, receipt=receipt, wanted=wanted, call=call)
        ident = b64u(made["terms_hash"])[:16]
        state, hits = screened(tx, ctx, bank, actor.org, ident, step("application", "DRAFT", "submit"))
        state = after_screening(state, made)
        tx.execute(
            applications.insert().values(
                id=ident, lender=bank, borrower=actor.org, receipt=receipt, purpose=purpose, maker=actor.person,
                state=state, created_s=now, **stored_values(made),
            )
        )  # fmt: skip
        return answer(ident, state, made, hits)

    body = {
        "lender": lender, "goods_item": goods_item, "amount": amount, "tenor_days": tenor_days, "purpose": purpose,
        "repayment": repayment,
    }  # fmt: skip
    return command(tx, ctx, name="submit_application", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


@dataclass(frozen=True)
class Wanted:
    """What a borrower asks for."""

    amount: Money
    tenor_days: int
    repayment: str


def wanted_of(row: Any) -> Wanted:
    """What a stored application asks for."""
    return Wanted(Money(row.amount), row.tenor_days, json.loads(row.terms)["repayment"])


def rated(
    tx: Tx, ctx: Context, *, lender: str, borrower: str, receipt: bytes, wanted: Wanted, call: Call,
    application: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Decide on what is wanted: inputs, decision, terms and their hash; the terms bind decision, policy and key.

    Args:
        application: whose mortgages count, once there is one.

    Raises:
        Rejected: ``unknown_borrower``, ``consent_needed``.
    """
    inputs = gather(
        tx, ctx, lender=lender, borrower=borrower, receipts=[receipt], amount=wanted.amount,
        tenor_days=wanted.tenor_days, call=call, purpose=CREDIT, application=application,
    )  # fmt: skip
    decision = decide(inputs, ctx.policy)
    terms = {
        "lender": lender, "borrower": borrower, "receipt": b64u(receipt), "amount": wanted.amount.text(),
        "tenor_days": wanted.tenor_days, "repayment": wanted.repayment, "rate": str(ctx.policy.text("loan", "rate")),
        "day_count": ctx.policy.text("loan", "day_count"), "policy": ctx.policy.version,
        "policy_hash": b64u(ctx.policy.digest), "decision": b64u(sha256(canonical_bytes(decision))), "key": call.key,
    }  # fmt: skip
    return {
        "inputs": inputs, "decision": decision, "terms": terms, "terms_hash": sha256(canonical_bytes(terms)),
        "wanted": wanted, "expires_s": call.now_s + ctx.policy.integer("loan", "offer_life_s"),
    }  # fmt: skip


def stored_values(made: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an application that a decision fills."""
    stored = {"inputs": made["inputs"], "decision": made["decision"]}
    return {
        "amount": made["wanted"].amount.minor, "tenor_days": made["wanted"].tenor_days,
        "decision": canonical_bytes(stored).decode(), "terms": canonical_bytes(made["terms"]).decode(),
        "terms_hash": made["terms_hash"], "expires_s": made["expires_s"],
    }  # fmt: skip


def screened(
    tx: Tx, ctx: Context, lender: str, borrower: str, application: str, state: str
) -> tuple[str, list[dict[str, Any]]]:
    """A submitted application after name screening: held by any hit, which is kept."""
    found = screen(tx, lender, names_of(tx, borrower_file(tx, lender, borrower)), ctx.policy)
    return step("application", state, "hit" if found else "screen_ok"), keep_hits(tx, application, found)


def after_screening(state: str, made: Mapping[str, Any]) -> str:
    """The state of an application that screening let pass, after its decision; a held one stays held."""
    if state == "HELD":
        return state
    return step("application", step("application", state, "rate"), made["decision"]["outcome"])


def answer(ident: str, state: str, made: Mapping[str, Any], hits: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What a command says of an application. A borrower is not told whom its names are like."""
    return {
        "application": ident, "state": state, "terms_hash": b64u(made["terms_hash"]), "hits": len(hits),
        "reasons": made["decision"]["reasons"],
    }  # fmt: skip


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
    shown, digest = search(ctx, receipt)
    earlier = sa.select(sa.func.count()).select_from(pledges).where(pledges.c.facility == facility)
    count = tx.execute(earlier).scalar_one()
    values = {
        "id": f"{facility}-{count + 1}", "facility": facility, "lender": lender, "receipt": receipt,
        "terms_hash": terms_hash, "nonce": ctx.registry.nonce_of(receipt),
        # The contract compares the deadline with its own clock, which may run ahead of ours.
        "deadline_s": max(now, _chain_time(ctx)) + ctx.policy.integer("loan", "pledge_deadline_s"),
        "state": step("pledge", "REQUESTED", "reserve"), "note": "", "rank": 1,
        "search": canonical_bytes(shown).decode(), "search_hash": digest,
    }  # fmt: skip
    if not insert_ignore(tx, pledges, values):
        raise AlreadyPledged()
    return str(values["id"])


def _chain_time(ctx: Context) -> int:
    head = ctx.registry.chain.block("latest")
    if head is None:
        raise Unavailable("The chain has no latest block.", code="chain_away")
    return head.time_s


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


def wanted_from(amount: str, tenor_days: int, repayment: str) -> Wanted:
    """What a borrower asks for, checked.

    Raises:
        Rejected: ``bad_amount``, ``bad_period``, ``unknown_kind``.
    """
    money = parse_money(amount, pointer="amount")
    if type(tenor_days) is not int or not 1 <= tenor_days <= 360:
        raise Rejected("A tenor is 1 to 360 days.", code="bad_period", pointer="tenor_days")
    if repayment not in get_args(Kind):
        kinds = ", ".join(get_args(Kind))
        raise Rejected(f"A loan is repaid by {kinds}.", code="unknown_kind", pointer="repayment")
    return Wanted(money, tenor_days, repayment)


def receipt_for(tx: Tx, ctx: Context, owner: str, item: str, now: int) -> bytes:
    """The sealed receipt over an owner's free goods.

    Raises:
        Rejected: ``no_receipt``, ``not_allowed``. AlreadyPledged: they secure a loan.
        Conflict: ``receipt_not_sealed``, ``receipt_expired``.
    """
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
