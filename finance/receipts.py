"""Electronic warehouse receipts: a custodian claims goods for their owner, in the database and on the chain."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from contracts.clients import KEYS_PER_CALL, claims_gas
from core.canonical import b64u, sha256, unb64u
from core.errors import Conflict, Rejected
from core.identifiers import canonical, parse
from finance.commandlog import command, insert_ignore
from finance.model import Actor, AlreadyPledged, Call, Context
from finance.states import LIVE_PLEDGES, step
from finance.tables import claims, goods, pledges, receipts
from ledger.chain_book import enqueue, state_of
from ledger.database import Tx

UNITS_MAX: Final = 10_000
LOT_UNIT: Final = 1_000_000


class AlreadyClaimed(Conflict):
    """Another live warehouse receipt claims these goods."""

    code = "already_claimed"


@dataclass(frozen=True)
class Claim:
    """One thing, or some of a lot, under a receipt; ``quantity`` in the contract's units."""

    item: str
    kind: str
    key: bytes
    quantity: int


def set_lot_capacity(
    tx: Tx, ctx: Context, actor: Actor, *, lot: str, quantity: int, key: str, reason: str, now: int
) -> dict[str, Any]:
    """A maker registers once how many units of a lot were made, before anything of it is claimed.

    Raises:
        Rejected: ``not_allowed``, ``not_a_lot`` or ``bad_number``.
        Conflict: ``capacity_set``.
    """
    actor.need("factory", "maker")
    identifier = parse(lot)
    if identifier.kind != "lgtin":
        raise Rejected("Only a lot has a capacity.", code="not_a_lot", pointer="lot")
    if type(quantity) is not int or not 0 < quantity <= 10**9:
        raise Rejected("A lot has 1 to 1,000,000,000 units.", code="bad_number", pointer="quantity")

    def act(call: Call) -> dict[str, Any]:
        goods_key = ctx.goods_key(lot)
        row = {"goods_key": goods_key, "item": identifier.canonical, "kind": "LOT", "capacity": quantity * LOT_UNIT}
        reference = b64u(goods_key)
        if not insert_ignore(tx, goods, row | {"claimed": 0}):
            _check_capacity_failed(tx, goods_key)
            reference = f"{reference}/{key}"
        chain_tx = enqueue(
            tx, account=ctx.account(actor.org), to=ctx.registry.address, purpose="set_capacity",
            data=ctx.registry.set_capacity_call(goods_key, quantity * LOT_UNIT), reference=reference,
            now_ms=now * 1_000,
        )  # fmt: skip
        values = {"chain_tx": chain_tx, "capacity": quantity * LOT_UNIT, "kind": "LOT"}
        tx.execute(goods.update().where(goods.c.goods_key == goods_key).values(values))
        return {"lot": identifier.canonical, "chain_tx": chain_tx}

    body = {"lot": lot, "quantity": quantity}
    return command(tx, ctx, name="set_lot_capacity", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def register_receipt(
    tx: Tx, ctx: Context, actor: Actor, *, item: str, owner: str, place: str, days: int = 180, key: str, reason: str,
    now: int,
) -> dict[str, Any]:  # fmt: skip
    """A custodian issues a receipt over a thing, everything packed inside it, and the lots concerned.

    Claims the goods in the database at once, and enqueues their registration and the seal on the chain.

    Args:
        item: the container or unit in any spelling.
        owner: the organisation that owns the goods.

    Raises:
        Rejected: ``not_allowed``, ``bad_identifier``, ``too_large`` or ``bad_period``.
        AlreadyPledged: any of the goods secure a loan.
        AlreadyClaimed: any of the goods are under another live receipt.
    """
    actor.need("custodian")
    if type(days) is not int or not 1 <= days <= 720:
        raise Rejected("A receipt lasts 1 to 720 days.", code="bad_period", pointer="days")

    def act(call: Call) -> dict[str, Any]:
        wanted = claims_of(tx, ctx, item)
        address = ctx.signer.address(ctx.account(actor.org))
        receipt = bytes.fromhex(address[2:]) + sha256(f"{actor.org}\x00{key}".encode())[:12]
        row = {
            "id": receipt, "custodian": actor.org, "owner": canonical(owner), "item": canonical(item), "place": place,
            "issued_s": now, "expires_s": now + days * 86_400, "state": "REGISTERING",
        }  # fmt: skip
        tx.execute(receipts.insert().values(row))
        for claim in wanted:
            _take(tx, claim)
        tx.execute(
            claims.insert(),
            [{"receipt": receipt, "goods_key": c.key, "quantity": c.quantity, "is_live": True} for c in wanted],
        )
        last = _enqueue(tx, ctx, actor, receipt, canonical(owner), wanted, now)
        tx.execute(receipts.update().where(receipts.c.id == receipt).values(chain_tx=last))
        return {"receipt": b64u(receipt), "item": canonical(item), "claims": len(wanted), "chain_tx": last}

    body = {"item": item, "owner": owner, "place": place, "days": days}
    return command(tx, ctx, name="register_receipt", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def end_receipt(
    tx: Tx, ctx: Context, actor: Actor, *, receipt: str, deliver: bool, key: str, reason: str, now: int
) -> dict[str, Any]:
    """The custodian delivers goods that are free, or cancels a receipt; claims end when the chain is final.

    Raises:
        Rejected: ``not_allowed``, ``no_such_receipt``.
        AlreadyPledged: the goods secure a loan.
        IllegalTransition: the receipt is not sealed.
    """
    actor.need("custodian")

    def act(call: Call) -> dict[str, Any]:
        row = receipt_row(tx, unb64u(receipt, length=32), for_update=True)
        if row.custodian != actor.org:
            raise Rejected("This is another custodian's receipt.", code="not_allowed")
        if live_pledge(tx, bytes(row.id)) is not None:
            raise AlreadyPledged()
        state = step("receipt", row.state, "deliver" if deliver else "cancel")
        data = ctx.registry.deliver_call(bytes(row.id)) if deliver else ctx.registry.cancel_call(bytes(row.id))
        chain_tx = enqueue(
            tx, account=ctx.account(actor.org), to=ctx.registry.address, data=data,
            purpose="deliver" if deliver else "cancel", reference=f"{receipt}/{key}", now_ms=now * 1_000,
        )  # fmt: skip
        tx.execute(receipts.update().where(receipts.c.id == bytes(row.id)).values(state=state, chain_tx=chain_tx))
        return {"receipt": receipt, "state": state, "chain_tx": chain_tx}

    body = {"receipt": receipt, "deliver": deliver}
    return command(tx, ctx, name="end_receipt", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def split_receipt(
    tx: Tx, ctx: Context, actor: Actor, *, receipt: str, parts: Sequence[str], key: str, reason: str, now: int
) -> dict[str, Any]:
    """The custodian splits a receipt: one child for each part, with what is packed in it; together they are the whole.

    Args:
        parts: things or containers that the receipt claims, in any spelling; each claim goes to the innermost part.

    Raises:
        Rejected: ``not_allowed``, ``no_such_receipt``, ``bad_parts``. AlreadyPledged: the goods secure a loan.
        Conflict: ``parts_do_not_sum``, ``illegal_transition``.
    """
    actor.need("custodian")
    roots = [canonical(part) for part in parts]
    if not 2 <= len(roots) <= 100 or len(set(roots)) != len(roots):
        raise Rejected("A receipt is split into 2 to 100 different parts.", code="bad_parts", pointer="parts")

    def act(call: Call) -> dict[str, Any]:
        row = receipt_row(tx, unb64u(receipt, length=32), for_update=True)
        if row.custodian != actor.org:
            raise Rejected("This is another custodian's receipt.", code="not_allowed")
        if live_pledge(tx, bytes(row.id)) is not None:
            raise AlreadyPledged()
        state = step("receipt", row.state, "split")
        shares = _shares(tx, ctx, bytes(row.id), roots)
        address = bytes.fromhex(ctx.signer.address(ctx.account(actor.org))[2:])
        children = {root: address + sha256(f"{actor.org}\x00{key}\x00{root}".encode())[:12] for root in roots}
        last = 0
        for root, child in children.items():
            last = _split_off(tx, ctx, row, child, root, shares[root], now)
        for child in children.values():
            seal = _send(tx, ctx, actor.org, ctx.registry.seal_call(child), "seal", b64u(child), now)
            tx.execute(receipts.update().where(receipts.c.id == child).values(chain_tx=seal))
        tx.execute(receipts.update().where(receipts.c.id == bytes(row.id)).values(state=state, chain_tx=last))
        return {"receipt": receipt, "state": state, "children": {root: b64u(one) for root, one in children.items()}}

    body = {"receipt": receipt, "parts": list(parts)}
    return command(tx, ctx, name="split_receipt", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def end_split(tx: Tx, receipt: bytes) -> None:
    """The chain has moved every claim of a receipt to its children: so does the database, key by key (V2)."""
    children = sa.select(receipts.c.id).where(receipts.c.parent == receipt, receipts.c.state != "CANCELLED")
    tx.execute(claims.update().where(claims.c.receipt == receipt).values(is_live=False))
    tx.execute(claims.update().where(claims.c.receipt.in_(children)).values(is_live=True))


def claims_of(tx: Tx, ctx: Context, item: str) -> list[Claim]:
    """What a receipt over a thing claims: it, everything inside it, and each lot concerned with its quantity.

    Raises:
        Rejected: ``bad_identifier``, ``not_pledgeable``, ``too_large``.
        Conflict: ``lot_without_capacity``, or ``capacity_not_final``.
    """
    root = canonical(item)
    units = sorted({root, *(canonical(inside) for inside in ctx.contents(tx, root))})
    if len(units) > UNITS_MAX:
        raise Rejected(f"A receipt claims at most {UNITS_MAX} things.", code="too_large", pointer="item")
    wanted = [Claim(unit, _kind(unit), ctx.goods_key(unit), 1) for unit in units]
    lots = Counter(canonical(lot) for lot in ctx.lots(tx, units).values())
    for lot, count in sorted(lots.items()):
        goods_key = ctx.goods_key(lot)
        row = tx.execute(sa.select(goods).where(goods.c.goods_key == goods_key)).one_or_none()
        if row is None:
            raise Conflict("The maker has not registered this lot's quantity.", code="lot_without_capacity")
        if row.chain_tx is not None and state_of(tx, row.chain_tx).state != "final":
            raise Conflict("The lot's quantity is not final on the chain yet.", code="capacity_not_final")
        wanted.append(Claim(lot, "LOT", goods_key, count * LOT_UNIT))
    return wanted


def receipts_over(tx: Tx, ctx: Context, item: str) -> list[bytes]:
    """The live receipts that claim a thing, in any spelling, or anything packed inside it."""
    root = canonical(item)
    keys = [ctx.goods_key(unit) for unit in {root, *ctx.contents(tx, root)}]
    found: set[bytes] = set()
    for start in range(0, len(keys), 500):
        query = sa.select(claims.c.receipt).where(claims.c.is_live, claims.c.goods_key.in_(keys[start : start + 500]))
        found |= {bytes(value) for value in tx.execute(query.distinct()).scalars()}
    return sorted(found)


def live_pledge(tx: Tx, receipt: bytes) -> Any:
    """The live pledge of a receipt, or None."""
    query = sa.select(pledges).where(pledges.c.receipt == receipt, pledges.c.state.in_(LIVE_PLEDGES))
    return tx.execute(query).one_or_none()


def refuse_pledged(tx: Tx, ctx: Context, item: str) -> None:
    """Return if no live pledge rests on a thing, on what is inside it, or on what it is inside of.

    Raises:
        AlreadyPledged: one does; no other lender is named.
    """
    if any(live_pledge(tx, receipt) is not None for receipt in receipts_over(tx, ctx, item)):
        raise AlreadyPledged()


def receipt_row(tx: Tx, receipt: bytes, *, for_update: bool = False) -> Any:
    """A receipt's row.

    Raises:
        Rejected: ``no_such_receipt``.
    """
    query = sa.select(receipts).where(receipts.c.id == receipt)
    row = tx.execute(query.with_for_update() if for_update else query).one_or_none()
    if row is None:
        raise Rejected("There is no such receipt.", code="no_such_receipt", pointer="receipt")
    return row


def free_claims(tx: Tx, receipt: bytes) -> None:
    """Give back what a dead receipt claimed."""
    query = sa.select(claims.c.goods_key, claims.c.quantity).where(claims.c.receipt == receipt, claims.c.is_live)
    for goods_key, quantity in tx.execute(query.order_by(claims.c.goods_key)).all():
        tx.execute(goods.update().where(goods.c.goods_key == goods_key).values(claimed=goods.c.claimed - quantity))
    tx.execute(claims.update().where(claims.c.receipt == receipt).values(is_live=False))


def _check_capacity_failed(tx: Tx, goods_key: bytes) -> None:
    """Return if the chain refused the quantity that stands here, so that the maker may say it again."""
    row = tx.execute(sa.select(goods).where(goods.c.goods_key == goods_key).with_for_update()).one()
    outcome = None if row.chain_tx is None else state_of(tx, row.chain_tx).state
    if outcome not in ("reverted", "lost") or row.claimed:
        raise Conflict("The lot's quantity is registered for ever.", code="capacity_set", pointer="lot")


def _take(tx: Tx, claim: Claim) -> None:
    # The row update is the decision: whoever comes second finds no room, however the two race.
    row = {"goods_key": claim.key, "item": claim.item, "kind": claim.kind, "capacity": 1, "claimed": 0}
    if claim.kind != "LOT":
        insert_ignore(tx, goods, row)
    room = goods.c.claimed + claim.quantity <= goods.c.capacity
    taken = tx.execute(
        goods.update().where(goods.c.goods_key == claim.key, room).values(claimed=goods.c.claimed + claim.quantity)
    )
    if taken.rowcount != 1:
        held = sa.select(claims.c.receipt).where(claims.c.goods_key == claim.key, claims.c.is_live)
        for receipt in tx.execute(held).scalars():
            if live_pledge(tx, bytes(receipt)) is not None:
                raise AlreadyPledged()
        raise AlreadyClaimed()


def _enqueue(tx: Tx, ctx: Context, actor: Actor, receipt: bytes, owner: str, wanted: Sequence[Claim], now: int) -> int:
    account, to, reference = ctx.account(actor.org), ctx.registry.address, b64u(receipt)
    owner_account = ctx.signer.address(ctx.account(owner))
    for start in range(0, len(wanted), KEYS_PER_CALL):
        part = [(claim.key, claim.quantity) for claim in wanted[start : start + KEYS_PER_CALL]]
        enqueue(
            tx, account=account, to=to, data=ctx.registry.register_call(receipt, owner_account, part),
            purpose="register", reference=f"{reference}/{start}", gas=claims_gas(len(part)), now_ms=now * 1_000,
        )  # fmt: skip
    return enqueue(
        tx, account=account, to=to, data=ctx.registry.seal_call(receipt), purpose="seal", reference=reference,
        now_ms=now * 1_000,
    )  # fmt: skip


def _shares(tx: Tx, ctx: Context, receipt: bytes, roots: Sequence[str]) -> dict[str, dict[bytes, int]]:
    """By part the claims that go with it; every claim of the receipt goes with exactly one."""
    query = (
        sa.select(goods.c.item, goods.c.kind, claims.c.goods_key, claims.c.quantity)
        .select_from(claims.join(goods, goods.c.goods_key == claims.c.goods_key))
        .where(claims.c.receipt == receipt, claims.c.is_live)
    )
    held = {row.item: row for row in tx.execute(query)}
    units = {item: bytes(row.goods_key) for item, row in held.items() if row.kind != "LOT"}
    if not set(roots) <= set(units):
        raise Rejected("Each part is a thing under this receipt.", code="bad_parts", pointer="parts")
    inside = {root: {root, *ctx.contents(tx, root)} & set(units) for root in roots}
    lots = ctx.lots(tx, sorted(units))
    shares: dict[str, dict[bytes, int]] = {root: {} for root in roots}
    for unit in sorted(units):
        # The innermost part is the one with the fewest things in it.
        around = sorted((root for root in roots if unit in inside[root]), key=lambda root: (len(inside[root]), root))
        if not around:
            raise Conflict(f"{unit} is in none of the parts.", code="parts_do_not_sum", pointer="parts")
        own = shares[around[0]]
        own[units[unit]] = 1
        if unit in lots:
            lot = ctx.goods_key(lots[unit])
            own[lot] = own.get(lot, 0) + LOT_UNIT
    whole = {bytes(row.goods_key): row.quantity for row in held.values()}
    sums = Counter[bytes]()
    for own in shares.values():
        sums.update(own)
    if dict(sums) != whole:
        raise Conflict("The parts do not sum to the whole receipt.", code="parts_do_not_sum", pointer="parts")
    return shares


def _split_off(tx: Tx, ctx: Context, row: Any, child: bytes, root: str, own: Mapping[bytes, int], now: int) -> int:
    values = {
        "id": child, "custodian": row.custodian, "owner": row.owner, "item": root, "place": row.place, "issued_s": now,
        "expires_s": row.expires_s, "state": "REGISTERING", "parent": bytes(row.id),
    }  # fmt: skip
    tx.execute(receipts.insert().values(values))
    wanted = sorted(own.items())
    # The parent's claims stay live until the chain has moved them.
    rows = [{"receipt": child, "goods_key": key, "quantity": quantity, "is_live": False} for key, quantity in wanted]
    tx.execute(claims.insert(), rows)
    last = 0
    for start in range(0, len(wanted), KEYS_PER_CALL):
        part = wanted[start : start + KEYS_PER_CALL]
        data = ctx.registry.split_call(bytes(row.id), child, part)
        last = _send(tx, ctx, row.custodian, data, "split", f"{b64u(child)}/{start}", now, gas=claims_gas(len(part)))
    return last


def _send(
    tx: Tx, ctx: Context, org: str, data: bytes, purpose: str, reference: str, now: int, *, gas: int | None = None
) -> int:
    return enqueue(
        tx, account=ctx.account(org), to=ctx.registry.address, data=data, purpose=purpose, reference=reference, gas=gas,
        now_ms=now * 1_000,
    )  # fmt: skip


def _kind(item: str) -> str:
    kind = parse(item).kind
    if kind == "sscc":
        return "LOGISTIC"
    if kind in ("lgtin", "gtin", "gln", "sgln", "pgln"):
        raise Rejected("A receipt is over single things and containers.", code="not_pledgeable", pointer="item")
    return "SERIAL"
