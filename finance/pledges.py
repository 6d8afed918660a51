"""Pledges: signed by owner and custodian, sent by the lender, active when final on the chain; and their release."""

from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, sha256
from core.errors import Conflict, Rejected
from finance.commandlog import command
from finance.cover import check_release
from finance.model import BANK, Actor, Call, Context
from finance.receipts import receipt_row
from finance.states import step
from finance.tables import approvals, facilities, pledges
from ledger.chain_book import enqueue
from ledger.database import Tx


def sign_pledge(tx: Tx, ctx: Context, actor: Actor, *, pledge: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Owner or custodian signs the pledge (EIP-712) with its organisation's chain key; the second signature completes.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``.
        Conflict: ``signed_already``, ``too_late``, ``illegal_transition``.
    """
    actor.need("borrower", "custodian")

    def act(call: Call) -> dict[str, Any]:
        row = pledge_row(tx, pledge, for_update=True)
        receipt = receipt_row(tx, bytes(row.receipt))
        sides = {"owner_sig": (receipt.owner, "borrower"), "custodian_sig": (receipt.custodian, "custodian")}
        mine = [side for side, (org, role) in sides.items() if actor.org == org and role in actor.roles]
        if not mine:
            raise Rejected("You may not do this.", code="not_allowed")
        target = step("pledge", row.state, "signed")
        if now >= row.deadline_s:
            raise Conflict("The time to sign has passed.", code="too_late")
        open_sides = [side for side in mine if getattr(row, side) is None]
        if not open_sides:
            raise Conflict("You have signed this already.", code="signed_already")
        typed = ctx.registry.typed_pledge(
            bytes(row.receipt), pledgee=ctx.signer.address(ctx.account(row.lender)), terms_hash=bytes(row.terms_hash),
            nonce=row.nonce, deadline=row.deadline_s,
        )  # fmt: skip
        signature = ctx.signer.sign_typed(ctx.account(actor.org), typed)
        values: dict[str, Any] = dict.fromkeys(open_sides, signature)
        others = [side for side in sides if side not in open_sides and getattr(row, side) is None]
        state = row.state if others else target
        tx.execute(pledges.update().where(pledges.c.id == pledge).values(state=state, **values))
        return {"pledge": pledge, "state": state}

    return command(
        tx, ctx, name="sign_pledge", actor=actor, key=key, reason=reason, now=now, body={"pledge": pledge}, act=act
    )


def send_pledge(tx: Tx, ctx: Context, actor: Actor, *, pledge: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """The lender sends the signed pledge to the chain, in the same transaction that says so.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``.
        Conflict: ``too_late``, ``illegal_transition``.
    """
    actor.need(*BANK)

    def act(call: Call) -> dict[str, Any]:
        row = pledge_row(tx, pledge, for_update=True)
        if row.lender != actor.org:
            raise Rejected("There is no such pledge.", code="no_such_pledge")
        state = step("pledge", row.state, "send")
        if now >= row.deadline_s:
            raise Conflict("The signatures have expired.", code="too_late")
        data = ctx.registry.pledge_call(
            bytes(row.receipt), terms_hash=bytes(row.terms_hash), deadline=row.deadline_s,
            owner_sig=bytes(row.owner_sig), custodian_sig=bytes(row.custodian_sig),
        )  # fmt: skip
        chain_tx = enqueue(
            tx, account=ctx.account(row.lender), to=ctx.registry.address, data=data, purpose="pledge",
            reference=pledge, now_ms=now * 1_000,
        )  # fmt: skip
        tx.execute(pledges.update().where(pledges.c.id == pledge).values(state=state, chain_tx=chain_tx))
        return {"pledge": pledge, "state": state, "chain_tx": chain_tx}

    return command(
        tx, ctx, name="send_pledge", actor=actor, key=key, reason=reason, now=now, body={"pledge": pledge}, act=act
    )


def void_pledge(tx: Tx, ctx: Context, actor: Actor, *, pledge: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """The lender gives up a pledge that was not sent yet; its facility closes.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``.
        IllegalTransition: it was sent already.
    """
    actor.need(*BANK)

    def act(call: Call) -> dict[str, Any]:
        row = pledge_row(tx, pledge, for_update=True)
        if row.lender != actor.org:
            raise Rejected("There is no such pledge.", code="no_such_pledge")
        state = step("pledge", row.state, "void")
        tx.execute(pledges.update().where(pledges.c.id == pledge).values(state=state, note=reason))
        lapse(tx, row.facility)
        return {"pledge": pledge, "state": state}

    return command(
        tx, ctx, name="void_pledge", actor=actor, key=key, reason=reason, now=now, body={"pledge": pledge}, act=act
    )


def request_release(
    tx: Tx, ctx: Context, actor: Actor, *, pledge: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A person of the bank asks to release a pledge; another must approve what stands in ``release_hash``.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``.
        Conflict: ``exposure_uncovered``, ``guarantee_needed``, ``call_open``, ``disputed``,
            ``illegal_transition``.
    """
    actor.need(*BANK)

    def act(call: Call) -> dict[str, Any]:
        row = _releasable(tx, ctx, actor, pledge, call)
        return {"pledge": pledge, "release_hash": b64u(_release_hash(row, actor.person, key)), "request": key}

    return command(
        tx, ctx, name="request_release", actor=actor, key=key, reason=reason, now=now, body={"pledge": pledge}, act=act
    )


def approve_release(
    tx: Tx, ctx: Context, actor: Actor, *, pledge: str, request: str, maker: str, release_hash: str, key: str,
    reason: str, now: int,
) -> dict[str, Any]:  # fmt: skip
    """Another person approves the release; it goes to the chain, and the goods are free when it is final there.

    Args:
        request: the idempotency key of the request.
        maker: the person who asked.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``.
        Conflict: ``own_command``, ``changed_since_seen``, ``exposure_uncovered``, ``disputed``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        row = _releasable(tx, ctx, actor, pledge, call)
        asked = _release_hash(row, maker, request)
        if b64u(asked) != release_hash or not _was_requested(tx, actor.org, request, maker):
            raise Conflict("The release is not the one you saw.", code="changed_since_seen", pointer="release_hash")
        if actor.person == maker:
            raise Conflict("Nobody approves an own command.", code="own_command")
        tx.execute(
            approvals.insert().values(
                subject=f"release/{pledge}", seen_hash=asked, checker=actor.person, maker=maker,
                decision="approve/bank_checker", reason=reason, at_s=now, expires_s=now + 86_400,
            )
        )  # fmt: skip
        return send_release(tx, ctx, row, key=key, now=now)

    body = {"pledge": pledge, "request": request, "maker": maker, "release_hash": release_hash}
    return command(tx, ctx, name="approve_release", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def send_release(tx: Tx, ctx: Context, row: Any, *, key: str, now: int) -> dict[str, Any]:
    """Send an approved release to the chain; the goods count no more from this moment."""
    chain_tx = enqueue(
        tx, account=ctx.account(row.lender), to=ctx.registry.address, purpose="release",
        data=ctx.registry.release_call(bytes(row.receipt)), reference=f"{row.id}/{key}", now_ms=now * 1_000,
    )  # fmt: skip
    state = step("pledge", row.state, "release_approved")
    tx.execute(pledges.update().where(pledges.c.id == row.id).values(state=state, chain_tx=chain_tx))
    return {"pledge": row.id, "state": state, "chain_tx": chain_tx}


def pledge_row(tx: Tx, pledge: str, *, for_update: bool = False) -> Any:
    """A pledge's row.

    Raises:
        Rejected: ``no_such_pledge``.
    """
    query = sa.select(pledges).where(pledges.c.id == pledge)
    row = tx.execute(query.with_for_update() if for_update else query).one_or_none()
    if row is None:
        raise Rejected("There is no such pledge.", code="no_such_pledge", pointer="pledge")
    return row


def lapse(tx: Tx, facility: str) -> None:
    """Close a facility whose pledge never came to be."""
    row = tx.execute(sa.select(facilities).where(facilities.c.id == facility).with_for_update()).one()
    if row.state == "PENDING":
        tx.execute(
            facilities.update().where(facilities.c.id == facility).values(state=step("facility", row.state, "lapse"))
        )


def _releasable(tx: Tx, ctx: Context, actor: Actor, pledge: str, call: Call) -> Any:
    found = pledge_row(tx, pledge)
    if found.lender != actor.org:
        raise Rejected("There is no such pledge.", code="no_such_pledge")
    # Facility first, as a draw-down does: the two then wait for one another and see each other's effect.
    facility = tx.execute(sa.select(facilities).where(facilities.c.id == found.facility).with_for_update()).one()
    row = pledge_row(tx, pledge, for_update=True)
    step("pledge", row.state, "release_approved")
    check_release(tx, ctx, facility, without=[pledge], call=call)
    return row


def _release_hash(row: Any, maker: str, key: str) -> bytes:
    return sha256(
        canonical_bytes({"release": row.id, "terms": b64u(bytes(row.terms_hash)), "maker": maker, "key": key})
    )


def _was_requested(tx: Tx, org: str, request: str, maker: str) -> bool:
    from finance.tables import command_log

    query = sa.select(command_log.c.person).where(
        command_log.c.org == org, command_log.c.key == request, command_log.c.name == "request_release"
    )
    return bool(tx.execute(query).scalar_one_or_none() == maker)
