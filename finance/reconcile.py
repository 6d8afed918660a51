"""The reconciler: what became final on the chain moves receipts, pledges and facilities; mismatches stop credit.

It only reads the chain and the book of chain_txs, so a crash before, between or after its steps loses nothing: the next
run finds the same facts. Each step is a row of the command log (V10).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa

from core.errors import Broken
from finance.commandlog import by_itself
from finance.model import Context
from finance.pledges import lapse
from finance.receipts import end_split, free_claims
from finance.register import filing
from finance.states import LIVE_PLEDGES, step
from finance.tables import facilities, pledges, receipts
from ledger.chain_book import state_of
from ledger.database import Database, Tx

_OPEN_PLEDGES = ("RESERVED", "SIGNED", "CHAIN_PENDING", "RELEASING")
_OPEN_RECEIPTS = ("REGISTERING", "SPLITTING", "DELIVERING", "CANCELLING")
_ON_CHAIN = {"ACTIVE": "active", "ENFORCING": "enforcing"}


@dataclass
class Steps:
    """What one run changed, and pledges whose database and chain disagree (V12)."""

    moved: list[tuple[str, str, str]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


def reconcile(db: Database, ctx: Context, *, now: int) -> Steps:
    """Step every open receipt and pledge by what is final on the chain; each in a transaction of its own.

    Raises:
        Unavailable: database or chain is away; run again.
    """
    steps = Steps()
    with db.reading() as tx:
        open_receipts = tx.execute(sa.select(receipts.c.id).where(receipts.c.state.in_(_OPEN_RECEIPTS))).scalars().all()
        open_pledges = tx.execute(sa.select(pledges.c.id).where(pledges.c.state.in_(_OPEN_PLEDGES))).scalars().all()
    for receipt in open_receipts:
        with db.transaction() as tx:
            _receipt(tx, ctx, bytes(receipt), now, steps)
    for pledge in open_pledges:
        try:
            with db.transaction() as tx:
                _pledge(tx, ctx, pledge, now, steps)
        except Broken:
            # One pledge that nobody can explain stays as it is, without money, and holds up no other.
            steps.mismatches.append(pledge)
    _free_sold(db, ctx, now, steps)
    return steps


def _free_sold(db: Database, ctx: Context, now: int, steps: Steps) -> None:
    """Receipts whose goods were sold in enforcement go to the buyer once the settlement is final on the chain."""
    query = (
        sa.select(pledges.c.id)
        .join(receipts, receipts.c.id == pledges.c.receipt)
        .where(pledges.c.state == "REALISED", receipts.c.state == "PLEDGED")
    )
    with db.reading() as tx:
        sold = list(tx.execute(query).scalars())
    for pledge in sold:
        with db.transaction() as tx:
            row = tx.execute(sa.select(pledges).where(pledges.c.id == pledge).with_for_update()).one()
            if row.chain_tx is not None and state_of(tx, row.chain_tx).state == "final":
                _logged(tx, ctx, row.lender, row, now, steps, partial(_sold, tx, row))


def _sold(tx: Tx, row: Any, moved: Steps) -> None:
    _move_receipt(tx, row, "freed")
    moved.moved.append(("receipt", bytes(row.receipt).hex(), "SEALED"))


def compare(db: Database, ctx: Context) -> list[str]:
    """Pledges that the database calls active or in enforcement and the chain does not (V12)."""
    with db.reading() as tx:
        rows = tx.execute(sa.select(pledges).where(pledges.c.state.in_(tuple(_ON_CHAIN)))).all()
    return [row.id for row in rows if not _agrees(ctx, row)]


def freeze_mismatches(db: Database, ctx: Context, *, now: int) -> list[str]:
    """Compare every active pledge with the chain and freeze the facilities of those that disagree."""
    wrong = compare(db, ctx)
    for pledge in wrong:
        with db.transaction() as tx:
            facility = tx.execute(sa.select(pledges.c.facility).where(pledges.c.id == pledge)).scalar_one()
            row = tx.execute(sa.select(facilities).where(facilities.c.id == facility).with_for_update()).one()
            if row.state in ("ACTIVE", "WATCH"):
                _freeze(tx, ctx, row, pledge, now)
    return wrong


def _freeze(tx: Tx, ctx: Context, row: Any, pledge: str, now: int) -> None:
    state = step("facility", row.state, "freeze")

    def act(_: object) -> dict[str, Any]:
        own = facilities.c.id == row.id
        tx.execute(facilities.update().where(own).values(state=state, version=facilities.c.version + 1))
        return {"facility": row.id, "state": state}

    by_itself(tx, ctx, name="freeze_mismatch", org=row.lender, subject=f"pledge {pledge}", now=now,
              body={"facility": row.id, "pledge": pledge, "version": row.version}, act=act)  # fmt: skip


def _logged(tx: Tx, ctx: Context, org: str, row: Any, now: int, steps: Steps, change: Callable[[Steps], None]) -> None:
    """Carry out a change and keep what it moved as one row of the command log."""
    moved = Steps()

    def act(_: object) -> dict[str, Any]:
        change(moved)
        return {"moved": [list(one) for one in moved.moved]}

    ident = row.id if isinstance(row.id, str) else bytes(row.id).hex()
    by_itself(tx, ctx, name="reconcile", org=org, subject=f"chain and {ident}", now=now,
              body={"subject": ident, "from": row.state, "chain_tx": row.chain_tx}, act=act)  # fmt: skip
    steps.moved += moved.moved


def _receipt(tx: Tx, ctx: Context, receipt: bytes, now: int, steps: Steps) -> None:
    row = tx.execute(sa.select(receipts).where(receipts.c.id == receipt).with_for_update()).one()
    if row.state not in _OPEN_RECEIPTS or row.chain_tx is None:
        return
    outcome = state_of(tx, row.chain_tx).state
    if outcome not in ("final", "reverted", "lost"):
        return
    shown = ctx.registry.receipt_at(receipt).state
    if row.state == "SPLITTING" and shown == "splitting":
        # Claims have begun to move: on the chain such a split can only go on.
        return
    if row.state == "REGISTERING":
        event = "sealed" if outcome == "final" and shown == "sealed" else "failed"
    else:
        event = "final" if outcome == "final" else "reverted"
    state = step("receipt", row.state, event)

    def change(moved: Steps) -> None:
        if state in ("CANCELLED", "DELIVERED"):
            free_claims(tx, receipt)
        if state == "SPLIT":
            end_split(tx, receipt)
        tx.execute(receipts.update().where(receipts.c.id == receipt).values(state=state))
        moved.moved.append(("receipt", receipt.hex(), state))

    _logged(tx, ctx, row.custodian, row, now, steps, change)


def _pledge(tx: Tx, ctx: Context, pledge: str, now: int, steps: Steps) -> None:
    row = tx.execute(sa.select(pledges).where(pledges.c.id == pledge).with_for_update()).one()
    if row.state in ("RESERVED", "SIGNED"):
        # Nothing was sent: past its deadline nobody can use the signatures, so the goods are free again.
        if now > row.deadline_s:
            late = "The time to sign has passed."
            _logged(tx, ctx, row.lender, row, now, steps, lambda moved: _void(tx, row, "void", late, moved))
        return
    if row.state not in _OPEN_PLEDGES or row.chain_tx is None:
        return
    outcome = state_of(tx, row.chain_tx)
    if outcome.state in ("final", "reverted", "lost"):
        _logged(tx, ctx, row.lender, row, now, steps, lambda moved: _settled(tx, ctx, row, outcome, now, moved))


def _settled(tx: Tx, ctx: Context, row: Any, outcome: Any, now: int, steps: Steps) -> None:
    if outcome.state == "final":
        _final(tx, ctx, row, outcome, now, steps)
    elif row.state == "CHAIN_PENDING":
        _void(tx, row, "reverted", outcome.reason or outcome.state, steps)
    else:
        _set(tx, row, step("pledge", row.state, "reverted"), steps, note=outcome.reason or outcome.state)


def _final(tx: Tx, ctx: Context, row: Any, outcome: Any, now: int, steps: Steps) -> None:
    state = step("pledge", row.state, "final")
    if state == "ACTIVE":
        if not _agrees(ctx, row, "active"):
            raise Broken(f"Pledge {row.id} is final, but the contract does not show it.", code="pledge_mismatch")
        number, digest = filing(row, block=outcome.block_number, registered_s=now)
        _set(tx, row, state, steps, final_block=outcome.block_number, registered_s=now, filing_number=number,
             filing_hash=digest)  # fmt: skip
        _move_receipt(tx, row, "pledged")
        facility = tx.execute(sa.select(facilities).where(facilities.c.id == row.facility).with_for_update()).one()
        if facility.state == "PENDING":
            ready = step("facility", facility.state, "conditions_met")
            tx.execute(facilities.update().where(facilities.c.id == facility.id).values(state=ready))
            steps.moved.append(("facility", facility.id, ready))
        return
    _set(tx, row, state, steps)
    _move_receipt(tx, row, "freed")
    facility = tx.execute(sa.select(facilities).where(facilities.c.id == row.facility).with_for_update()).one()
    live = sa.select(pledges.c.id).where(pledges.c.facility == row.facility, pledges.c.state.in_(LIVE_PLEDGES))
    if facility.state in ("ACTIVE", "WATCH") and tx.execute(live).first() is None:
        # Nothing owed and nothing pledged: the line ends with its cover.
        ended = step("facility", step("facility", facility.state, "avail_end"), "close")
        tx.execute(facilities.update().where(facilities.c.id == facility.id).values(state=ended))
        steps.moved.append(("facility", facility.id, ended))


def _move_receipt(tx: Tx, row: Any, event: str) -> None:
    own = receipts.c.id == bytes(row.receipt)
    state = tx.execute(sa.select(receipts.c.state).where(own)).scalar_one()
    tx.execute(receipts.update().where(own).values(state=step("receipt", state, event)))


def _void(tx: Tx, row: Any, event: str, note: str, steps: Steps) -> None:
    _set(tx, row, step("pledge", row.state, event), steps, note=note)
    lapse(tx, row.facility)


def _set(tx: Tx, row: Any, state: str, steps: Steps, **values: Any) -> None:
    tx.execute(pledges.update().where(pledges.c.id == row.id).values(state=state, **values))
    steps.moved.append(("pledge", row.id, state))


def _agrees(ctx: Context, row: Any, wanted: str | None = None) -> bool:
    shown = ctx.registry.pledge_of(bytes(row.receipt))
    account = ctx.signer.address(ctx.account(row.lender))
    return (
        shown.state == (wanted or _ON_CHAIN[row.state])
        and shown.pledgee.lower() == account.lower()
        and shown.terms_hash == bytes(row.terms_hash)
    )
