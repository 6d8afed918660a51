"""What the chain made of a warehouse receipt's registration or split, and the calls that are sent again."""

from typing import Any, Final

import sqlalchemy as sa

from contracts.clients import KEYS_PER_CALL, claims_gas
from core.canonical import b64u
from finance.model import Context
from finance.tables import claims, receipts
from ledger.chain_book import ChainTx, current_deployment, enqueue, state_of
from ledger.chain_tx_tables import chain_tx
from ledger.database import Tx

GIVE_BACK: Final = "cancel_failed"
"""Purpose of the chain_tx that ends on the chain a receipt of which only a part was registered there."""


def receipt_event(tx: Tx, ctx: Context, row: Any) -> str | None:
    """The event that follows from a receipt's settled chain_tx; None while it can only wait."""
    outcome = state_of(tx, row.chain_tx)
    shown = ctx.registry.receipt_at(bytes(row.id)).state
    if row.state == "REGISTERING":
        return _registered(tx, row, outcome, shown)
    if row.state == "SPLITTING" and shown == "splitting":
        # Claims have begun to move: on the chain such a split can only go on.
        return None
    if row.state == "CANCELLING" and outcome.purpose == GIVE_BACK and outcome.state != "final":
        # It was never a whole receipt, so it is none again: a person sends the cancellation once more.
        return None
    return "final" if outcome.state == "final" else "reverted"


def _registered(tx: Tx, row: Any, outcome: ChainTx, shown: str) -> str | None:
    if row.parent is not None:
        parent = tx.execute(sa.select(receipts.c.state).where(receipts.c.id == bytes(row.parent))).scalar_one()
        if outcome.state != "final" and (parent == "SPLITTING" or shown == "registering"):
            # Its seal was refused, maybe because the split has not come to its end: a person sends it again.
            return None
        parts_final = True
    else:
        parts = [one for calls in parts_of(tx, row, "register").values() for one in calls]
        if not all(one.is_settled for one in parts):
            return None
        parts_final = all(one.state == "final" for one in parts)
    if outcome.state == "final" and shown == "sealed" and parts_final:
        return "sealed"
    # The contract sealed or kept what was registered before a part was refused: those goods would be claimed for ever.
    return "failed_in_part" if shown in ("registering", "sealed") else "failed"


def give_back(tx: Tx, ctx: Context, row: Any, *, key: str, now: int) -> int:
    """Cancel on the chain what was registered of a receipt that failed; its claims end when that is final."""
    receipt = b64u(bytes(row.id))
    sent = enqueue(
        tx, account=ctx.account(row.custodian), to=ctx.registry.address, purpose=GIVE_BACK,
        data=ctx.registry.cancel_call(bytes(row.id)), reference=f"{receipt}/{key}", now_ms=now * 1_000,
    )  # fmt: skip
    tx.execute(receipts.update().where(receipts.c.id == bytes(row.id)).values(chain_tx=sent))
    return sent


def parts_of(tx: Tx, row: Any, purpose: str) -> dict[int, list[ChainTx]]:
    """By the place of its first claim, every chain_tx that was sent for each part of a receipt's claims."""
    receipt = b64u(bytes(row.id))
    deployment, _ = current_deployment(tx)
    own = (chain_tx.c.deployment == deployment) & (chain_tx.c.purpose == purpose)
    count = tx.execute(sa.select(sa.func.count()).select_from(claims).where(claims.c.receipt == bytes(row.id)))
    starts = range(0, int(count.scalar_one()), KEYS_PER_CALL)
    found = {}
    for start in starts:
        first = f"{receipt}/{start}"
        named = chain_tx.c.reference == first
        if purpose == "split":
            named |= chain_tx.c.reference.startswith(f"{first}/", autoescape=True)
        idents = tx.execute(sa.select(chain_tx.c.id).where(own, named).order_by(chain_tx.c.id)).scalars().all()
        found[start] = [state_of(tx, ident) for ident in idents]
    return found


def split_again(tx: Tx, ctx: Context, row: Any, *, key: str, now: int) -> list[int]:
    """Send again what the chain refused of a split: parts first, then the seals of the children."""
    query = sa.select(receipts).where(receipts.c.parent == bytes(row.id), receipts.c.state == "REGISTERING")
    children = tx.execute(query.order_by(receipts.c.id)).all()
    sent: list[int] = []
    for child in children:
        own = sa.select(claims.c.goods_key, claims.c.quantity).where(claims.c.receipt == bytes(child.id))
        wanted = [(bytes(goods_key), quantity) for goods_key, quantity in tx.execute(own.order_by(claims.c.goods_key))]
        for start, calls in parts_of(tx, child, "split").items():
            if any(one.state == "final" or not one.is_settled for one in calls):
                continue
            part = wanted[start : start + KEYS_PER_CALL]
            data = ctx.registry.split_call(bytes(row.id), bytes(child.id), part)
            sent.append(
                enqueue(
                    tx, account=ctx.account(row.custodian), to=ctx.registry.address, data=data, purpose="split",
                    reference=f"{b64u(bytes(child.id))}/{start}/{key}", gas=claims_gas(len(part)), now_ms=now * 1_000,
                )
            )  # fmt: skip
    if sent:
        tx.execute(receipts.update().where(receipts.c.id == bytes(row.id)).values(chain_tx=sent[-1]))
    for child in children:
        if state_of(tx, child.chain_tx).state in ("final", "queued", "sent", "mined"):
            continue
        seal = enqueue(
            tx, account=ctx.account(row.custodian), to=ctx.registry.address, purpose="seal",
            data=ctx.registry.seal_call(bytes(child.id)), reference=f"{b64u(bytes(child.id))}/{key}",
            now_ms=now * 1_000,
        )  # fmt: skip
        tx.execute(receipts.update().where(receipts.c.id == bytes(child.id)).values(chain_tx=seal))
        sent.append(seal)
    return sent
