"""Freeze a log on the contract and go on with its successor; each step may be interrupted and repeated.

What a thief of the publisher's key anchored is cut off by the freeze. Our own entries keep their places: the successor
starts at the last good root and its first anchor proves, to the contract, that our tree extends it. Nothing is
sequenced again, so receipts, checkpoints and mirrors of the old log bind the successor as they are.
"""

from dataclasses import dataclass, replace

import sqlalchemy as sa

from contracts.chain import Chain
from contracts.clients import LogHead, TransparencyLogClient
from contracts.deploy import ACCOUNT_WEI, Deployment
from contracts.signer import Signer
from core.bundle import origin_hash
from core.errors import Broken, Conflict, Rejected
from core.merkle import Frontier
from ledger import chain_book as book
from ledger.anchor import read_leaves
from ledger.chain_logs import (
    PUBLISHER,
    Wait,
    checked_reason,
    log_lines,
    next_reference,
    note_frozen,
    note_publisher,
    note_successor,
)
from ledger.chain_tx_tables import anchors
from ledger.database import Database
from ledger.tables import checkpoints

_CHUNK = 20_000
_ADMIN = "admin"


@dataclass(frozen=True)
class FreezePlan:
    """What a freeze would do.

    Attributes:
        tip: the size that the contract holds now.
        cut: our anchors above ``last_good``, which count no longer.
        leaves: how many leaves of ours lie above and will be anchored by the successor.
    """

    log_id: int
    last_good: int
    tip: int
    cut: tuple[int, ...]
    leaves: int


def plan_freeze(db: Database, chain: Chain, last_good: int) -> FreezePlan:
    """What freezing the present log at ``last_good`` would do; nothing is done.

    Raises:
        Rejected: ``size_not_anchored``.
        Conflict: ``frozen`` when the log is frozen already.
        Broken: ``root_mismatch`` when our stored bytes do not give the root that would be kept.
    """
    with db.reading() as tx:
        deployment, description = book.current_deployment(tx)
        sizes = sa.select(anchors.c.size).where(
            anchors.c.deployment == deployment, anchors.c.state != "failed", anchors.c.size > last_good
        )
        cut = tuple(tx.execute(sizes.order_by(anchors.c.size)).scalars())
        newest = tx.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one() or 0
    log = TransparencyLogClient(chain, description.log_contract)
    head = log.log_at(description.log_id)
    if head.is_frozen:
        raise Conflict(f"Log {description.log_id} is frozen already, at size {head.last_good}.", code="frozen")
    root = log.root_at(description.log_id, last_good) if last_good else None
    if last_good and root is None:
        raise Rejected(f"Size {last_good} was never anchored; name an anchored size.", code="size_not_anchored")
    check_stored(db, {last_good: root} if root is not None else {})
    return FreezePlan(description.log_id, last_good, head.size, cut, max(0, newest - last_good))


def freeze(db: Database, chain: Chain, plan: FreezePlan, *, reason: str, now_ms: int, wait: Wait) -> int:
    """Freeze the log for ever; gives how many of our anchors fell away.

    Args:
        wait: returns when the chain_txs of these ids are final.

    Raises:
        Conflict: the contract refused, or froze elsewhere.
    """
    text = checked_reason(reason)
    with db.transaction() as tx:
        _, description = book.current_deployment(tx)
        if description.log_id != plan.log_id:
            raise Conflict("Another log is written meanwhile; look again.", code="other_log")
        log = TransparencyLogClient(chain, description.log_contract)
        sent = book.enqueue(
            tx, account=_ADMIN, to=log.address, data=log.freeze_call(plan.log_id, plan.last_good), purpose="freeze",
            reference=next_reference(tx, "freeze", f"{plan.log_id}:{plan.last_good}"), now_ms=now_ms,
        )  # fmt: skip
    wait([sent])
    head = _final_head(chain, log, plan.log_id)
    with db.transaction() as tx:
        return note_frozen(tx, last_good=head.last_good, reason=text, now_ms=now_ms)


def succeed(db: Database, chain: Chain, signer: Signer, *, keep_publisher: bool, now_ms: int, wait: Wait) -> Deployment:
    """Open the successor of the frozen log, with a new publisher's key unless the old one is known to be safe.

    Args:
        keep_publisher: the publisher's key was not why the log was frozen.
        wait: returns when the chain_txs of these ids are final.

    Raises:
        Conflict: ``not_frozen``; the contract refused.
        Broken: ``root_mismatch`` when what we stored does not extend the last good root.
    """
    with db.reading() as tx:
        _, description = book.current_deployment(tx)
        lines = log_lines(tx)
        newest = tx.execute(
            sa.select(checkpoints.c.size, checkpoints.c.root).order_by(checkpoints.c.size.desc()).limit(1)
        ).one_or_none()
    log = TransparencyLogClient(chain, description.log_contract)
    head = _final_head(chain, log, description.log_id)
    expected = {head.size: head.root} if head.size else {}
    if newest is not None and newest.size > head.size:
        expected[newest.size] = bytes(newest.root)
    check_stored(db, expected)
    if lines[-1].last_good is None:
        # Frozen by the admin's key without this command; the database learns of it now.
        with db.transaction() as tx:
            note_frozen(tx, last_good=head.last_good, reason="frozen on the chain", now_ms=now_ms)
    if not keep_publisher:
        description = _new_publisher(db, chain, signer, description, now_ms=now_ms, wait=wait)
    log_id = _successor_of(log, description.log_id)
    if log_id is None:
        data = log.open_log_call(
            origin_hash(description.origin), bytes.fromhex(description.checkpoint_key), description.log_id
        )
        with db.transaction() as tx:
            sent = book.enqueue(
                tx, account=_ADMIN, to=log.address, data=data, purpose="successor",
                reference=next_reference(tx, "successor", str(description.log_id)), now_ms=now_ms,
            )  # fmt: skip
        wait([sent])
        log_id = _successor_of(log, description.log_id)
    if log_id is None:
        raise Broken("The successor was opened, but the contract does not name it.", code="wrong_code")
    found = replace(description, log_id=log_id)
    with db.transaction() as tx:
        note_successor(tx, found, start=head.size, now_ms=now_ms)
    return found


def rotate_publisher(db: Database, chain: Chain, signer: Signer, *, now_ms: int, wait: Wait) -> tuple[Deployment, bool]:
    """Give the right to anchor on the present log to a new key; nothing else changes.

    The flag is False while chain_txs of the old key are under way: its counter and alarms stay until they are settled.
    """
    with db.reading() as tx:
        _, before = book.current_deployment(tx)
    found = _new_publisher(db, chain, signer, before, now_ms=now_ms, wait=wait)
    with db.transaction() as tx:
        return found, note_publisher(tx, found, now_ms=now_ms)


def check_stored(db: Database, expected: dict[int, bytes]) -> None:
    """Rebuild the tree from the stored bytes and compare it with roots at some sizes.

    Raises:
        Broken: ``root_mismatch``, ``entry_missing``.
    """
    frontier = Frontier()
    for size in sorted(expected):
        while frontier.size < size:
            with db.reading() as tx:
                for leaf in read_leaves(tx, frontier.size, min(size, frontier.size + _CHUNK)):
                    frontier.append(leaf)
        if frontier.root() != expected[size]:
            raise Broken(
                f"The stored bytes of the first {size} leaves give another root than the one that is to be kept. "
                "Restore the database, or name an earlier size.",
                code="root_mismatch",
            )


def _final_head(chain: Chain, log: TransparencyLogClient, log_id: int) -> LogHead:
    head = log.log_at(log_id, block=chain.final_block_number())
    if not head.is_frozen:
        raise Conflict(f"Log {log_id} is not frozen, or not finally yet; freeze it first.", code="not_frozen")
    return head


def _successor_of(log: TransparencyLogClient, log_id: int) -> int | None:
    for number in range(log.log_count() - 1, log_id, -1):
        if log.log_at(number).predecessor == log_id:
            return number
    return None


def _new_publisher(
    db: Database, chain: Chain, signer: Signer, before: Deployment, *, now_ms: int, wait: Wait
) -> Deployment:
    """Give the right to anchor to a key that nobody has seen, before the successor is open for anchors."""
    number = before.publisher_account.removeprefix(PUBLISHER).removeprefix("-") or "1"
    name = f"{PUBLISHER}-{int(number) + 1}"
    address = signer.address(name)
    log = TransparencyLogClient(chain, before.log_contract)
    with db.transaction() as tx:
        base = f"{before.log_id}:{address}"
        ids = [
            book.enqueue(
                tx, account=_ADMIN, to=log.address, data=log.set_publisher_call(address), purpose="set-publisher",
                reference=next_reference(tx, "set-publisher", base), now_ms=now_ms,
            )
        ]  # fmt: skip
        if chain.is_development:
            ids.append(book.enqueue_funding(tx, address=address, value=ACCOUNT_WEI, reference=base, now_ms=now_ms))
    wait(ids)
    return replace(before, publisher=address, publisher_account=name)
