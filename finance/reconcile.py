"""The reconciler: what became final on the chain moves receipts, pledges and facilities; mismatches stop credit.

It only reads the chain and the book of chain_txs, so a crash before, between or after its steps loses nothing: the next
run finds the same facts. Each step is a row of the command log (V10).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from core.errors import Broken
from finance.commandlog import by_itself
from finance.model import Context
from finance.pledges import lapse
from finance.receiptchain import give_back, receipt_event
from finance.receipts import end_split, free_claims
from finance.register import filing
from finance.states import LIVE_PLEDGES, step
from finance.tables import facilities, pledges, receipts
from ledger.chain_book import state_of
from ledger.database import Database, Tx

_OPEN_PLEDGES = ("RESERVED", "SIGNED", "CHAIN_PENDING", "RELEASING", "ENFORCING")
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
        open_receipts = tx.execute(sa.select(receipts).where(receipts.c.state.in_(_OPEN_RECEIPTS))).all()
        due_receipts = [bytes(row.id) for row in open_receipts if _is_settled(tx, row.chain_tx)]
        open_pledges = tx.execute(sa.select(pledges).where(pledges.c.state.in_(_OPEN_PLEDGES))).all()
        due_pledges = [row.id for row in open_pledges if _is_due(tx, row, now)]
    for receipt in due_receipts:
        with db.transaction() as tx:
            _receipt(tx, ctx, receipt, now, steps)
    for pledge in due_pledges:
        try:
            with db.transaction() as tx:
                _pledge(tx, ctx, pledge, now, steps)
        except Broken:
            # One pledge that nobody can explain stays as it is, without money, and holds up no other.
            steps.mismatches.append(pledge)
    return steps


def _is_settled(tx: Tx, chain_tx: int | None) -> bool:
    return chain_tx is not None and state_of(tx, chain_tx).is_settled


def _is_due(tx: Tx, row: Any, now: int) -> bool:
    """Whether something follows for a pledge: looked at before a transaction is begun, since most have to wait."""
    if row.state in ("RESERVED", "SIGNED"):
        return bool(now > row.deadline_s)
    if row.chain_tx is None:
        return False
    outcome = state_of(tx, row.chain_tx)
    return outcome.is_settled and (row.state != "ENFORCING" or _after_enforcement(outcome) is not None)


def _after_enforcement(outcome: Any) -> str | None:
    """The event of a pledge in enforcement; a sale or a cure that the chain refused waits for a retry by a person."""
    if outcome.state == "final":
        return {"settle": "sold", "cure": "cured"}.get(outcome.purpose)
    return "reverted" if outcome.purpose == "enforce" else None


def compare(db: Database, ctx: Context) -> list[str]:
    """Pledges that the database calls active or in enforcement and the chain does not (V12).

    One whose step of enforcement is still on its way to the chain is looked at when it has come there.
    """
    with db.reading() as tx:
        found = tx.execute(sa.select(pledges).where(pledges.c.state.in_(tuple(_ON_CHAIN)))).all()
        rows = [row for row in found if row.state == "ACTIVE" or not _is_under_way(tx, row)]
    return [row.id for row in rows if not _agrees(ctx, row)]


def _is_under_way(tx: Tx, row: Any) -> bool:
    outcome = state_of(tx, row.chain_tx)
    return not outcome.is_settled or _after_enforcement(outcome) is not None


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
    if row.state not in _OPEN_RECEIPTS or not _is_settled(tx, row.chain_tx):
        return
    event = receipt_event(tx, ctx, row)
    if event is None:
        return
    state = step("receipt", row.state, event)

    def change(moved: Steps) -> None:
        if state in ("CANCELLED", "DELIVERED"):
            free_claims(tx, receipt)
        if state == "SPLIT":
            end_split(tx, receipt)
        tx.execute(receipts.update().where(receipts.c.id == receipt).values(state=state))
        if event == "failed_in_part":
            give_back(tx, ctx, row, key="failed", now=now)
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
    if row.state == "ENFORCING":
        _enforced(tx, row, outcome, steps)
    elif outcome.state == "final":
        _final(tx, ctx, row, outcome, now, steps)
    elif row.state == "CHAIN_PENDING":
        _void(tx, row, "reverted", outcome.reason or outcome.state, steps)
    else:
        _set(tx, row, step("pledge", row.state, "reverted"), steps, note=outcome.reason or outcome.state)


def _enforced(tx: Tx, row: Any, outcome: Any, steps: Steps) -> None:
    """What the chain made of an enforcement, a sale or a cure."""
    event = _after_enforcement(outcome)
    if event is None:
        return
    note = outcome.reason or outcome.state
    _set(tx, row, step("pledge", row.state, event), steps, **({"note": note} if event == "reverted" else {}))
    if event == "sold":
        # The goods go to the buyer: the custodian delivers them, nobody pledges them again.
        _move_receipt(tx, row, "freed")
        steps.moved.append(("receipt", bytes(row.receipt).hex(), "SEALED"))
        return
    others = sa.select(pledges.c.id).where(pledges.c.facility == row.facility, pledges.c.state == "ENFORCING")
    facility = tx.execute(sa.select(facilities).where(facilities.c.id == row.facility).with_for_update()).one()
    if facility.state == "ENFORCING" and tx.execute(others).first() is None:
        ended = step("facility", facility.state, "enforce_failed" if event == "reverted" else "close")
        tx.execute(facilities.update().where(facilities.c.id == facility.id).values(state=ended))
        steps.moved.append(("facility", facility.id, ended))


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
