"""Which log of the contract this database writes: the first one, and after a freeze its successor.

A successor keeps its predecessor's origin, entries and sizes; on the contract it has a number of its own, and begins at
the predecessor's last good root. What the predecessor held above that counts no longer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, Table, Text

from contracts.deploy import Deployment
from core.errors import Broken, Conflict, Rejected
from ledger import chain_book as book
from ledger.chain_alarms import clear_alarm, raise_alarm
from ledger.chain_tx_tables import anchors, chain_accounts, chain_tx, deployments
from ledger.database import Database, Tx
from ledger.tables import metadata

PUBLISHER: Final = "publisher"
_BIG = BigInteger().with_variant(Integer(), "sqlite")

# A row for each log that was frozen or is a successor; a deployment's first log has none while it goes on.
chain_logs: Final = Table(
    "chain_logs",
    metadata,
    Column("deployment", Integer, ForeignKey("deployments.id"), primary_key=True),
    Column("log_id", _BIG, primary_key=True, autoincrement=False),
    Column("predecessor", _BIG),
    Column("start", _BIG, nullable=False),
    Column("opened_ms", _BIG),
    Column("last_good", _BIG),
    Column("reason", Text),
    Column("frozen_ms", _BIG),
    sa.CheckConstraint("(last_good IS NULL) = (frozen_ms IS NULL)", name="chain_logs_frozen"),
)

TABLES: Final = (chain_logs,)


@dataclass(frozen=True)
class LogLine:
    """One log of the contract. ``start``: the size copied from the predecessor; ``last_good``: where it was frozen."""

    log_id: int
    predecessor: int | None
    start: int
    last_good: int | None
    reason: str | None


def present(db: Database, recorded: Deployment) -> Deployment:
    """The deployment as the database knows it, when its log is a successor of the recorded one.

    A process may start with the description of before: the succession was made elsewhere, or was interrupted before
    the file was written.
    """
    with db.reading() as tx:
        row = tx.execute(sa.select(deployments.c.description).where(deployments.c.is_current)).one_or_none()
    known = recorded if row is None else Deployment.from_json(row.description)
    is_same = (known.chain_id, known.genesis_hash, known.log_contract) == (
        recorded.chain_id, recorded.genesis_hash, recorded.log_contract
    )  # fmt: skip
    is_later = known.log_id > recorded.log_id
    is_rotated = known.log_id == recorded.log_id and known.publisher_account != recorded.publisher_account
    return known if is_same and (is_later or is_rotated) else recorded


def check_present(db: Database, started: Deployment) -> None:
    """Return while the log that a process started with is the one that is written.

    Raises:
        Broken: ``log_succeeded``; the process must be started again, so that its proofs name the successor.
    """
    found = present(db, started)
    if found.log_id != started.log_id:
        raise Broken(
            f"This process started on log {started.log_id}, but its successor {found.log_id} goes on; start it again.",
            code="log_succeeded",
        )


def log_lines(tx: Tx) -> list[LogLine]:
    """The logs of the contracts in use, first to last; the last one is written now, unless it is frozen."""
    deployment, description = book.current_deployment(tx)
    query = sa.select(chain_logs).where(chain_logs.c.deployment == deployment).order_by(chain_logs.c.log_id)
    found = [LogLine(row.log_id, row.predecessor, row.start, row.last_good, row.reason) for row in tx.execute(query)]
    return found or [LogLine(description.log_id, None, 0, None, None)]


def log_of(tx: Tx, size: int) -> int:
    """The number of the log that holds the anchor of a size."""
    return holder(log_lines(tx), size)


def holder(lines: Sequence[LogLine], size: int) -> int:
    """The same over :func:`log_lines`."""
    return next((line.log_id for line in reversed(lines) if line.start < size), lines[0].log_id)


def note_frozen(tx: Tx, *, last_good: int, reason: str, now_ms: int) -> int:
    """Note that the present log is frozen: what was anchored above ``last_good`` counts no longer.

    Gives how many anchors fell away. New credit stops until a successor goes on.
    """
    deployment, description = book.current_deployment(tx)
    here = (chain_logs.c.deployment == deployment, chain_logs.c.log_id == description.log_id)
    row = tx.execute(sa.select(chain_logs).where(*here)).one_or_none()
    if row is None:
        tx.execute(
            chain_logs.insert().values(
                deployment=deployment, log_id=description.log_id, start=0, last_good=last_good, reason=reason,
                frozen_ms=now_ms,
            )
        )  # fmt: skip
    elif row.frozen_ms is None:
        tx.execute(chain_logs.update().where(*here).values(last_good=last_good, reason=reason, frozen_ms=now_ms))
    detail = f"Log {description.log_id} is frozen at size {last_good}: {reason}. Open its successor."
    raise_alarm(tx, deployment, "log_frozen", account=PUBLISHER, detail=detail, now_ms=now_ms)
    return _cut(tx, deployment, last_good, now_ms=now_ms)


def note_successor(tx: Tx, successor: Deployment, *, start: int, now_ms: int) -> None:
    """Go on with a successor log from now on; the alarms about its predecessor and a replaced publisher end.

    Args:
        successor: the present deployment with the successor's number and publisher.
        start: the size that it copied.

    Raises:
        Conflict: ``other_log`` when another log is written meanwhile, ``not_frozen``.
    """
    deployment, before = book.current_deployment(tx)
    if before.log_id == successor.log_id:
        return
    lines = log_lines(tx)
    if replace(successor, log_id=before.log_id, publisher=before.publisher,
               publisher_account=before.publisher_account) != before:  # fmt: skip
        raise Conflict("The contracts in use have changed meanwhile; look again.", code="other_log")
    if lines[-1].last_good != start:
        raise Conflict(f"Log {before.log_id} is not frozen at size {start}.", code="not_frozen")
    tx.execute(
        chain_logs.insert().values(
            deployment=deployment, log_id=successor.log_id, predecessor=before.log_id, start=start, opened_ms=now_ms
        )
    )
    tx.execute(deployments.update().where(deployments.c.id == deployment).values(description=successor.to_json()))
    _cut(tx, deployment, start, now_ms=now_ms)
    for code in ("log_frozen", "log_paused"):
        clear_alarm(tx, deployment, code, account=PUBLISHER, now_ms=now_ms)
    if successor.publisher_account != before.publisher_account:
        _retire(tx, deployment, before.publisher_account, now_ms=now_ms)


def note_publisher(tx: Tx, changed: Deployment, *, now_ms: int) -> bool:
    """Publish with another key from now on; True when the old one has nothing under way and is done with.

    Raises:
        Conflict: ``other_log`` when the contracts in use have changed meanwhile.
    """
    deployment, before = book.current_deployment(tx)
    if replace(changed, publisher=before.publisher, publisher_account=before.publisher_account) != before:
        raise Conflict("The contracts in use have changed meanwhile; look again.", code="other_log")
    old = before.publisher_account
    tx.execute(deployments.update().where(deployments.c.id == deployment).values(description=changed.to_json()))
    # What was not signed yet would be refused by the contract; the anchorer makes one new anchor of it.
    tx.execute(
        chain_tx.update()
        .where(chain_tx.c.deployment == deployment, chain_tx.c.account == old, chain_tx.c.state == "queued")
        .values(state="reverted", reason="its publisher was replaced", changed_ms=now_ms)
    )
    if old == changed.publisher_account or book.open_txs(tx, deployment, account=old):
        return False
    _retire(tx, deployment, old, now_ms=now_ms)
    return True


def _retire(tx: Tx, deployment: int, account: str, *, now_ms: int) -> None:
    """End the counter and the alarms of a publisher that was replaced: whoever has its key anchors nothing any more."""
    clear_alarm(tx, deployment, "foreign_anchor", account=PUBLISHER, now_ms=now_ms)
    for code in ("foreign_nonce", "empty_balance", "send_refused", "fee_cap"):
        clear_alarm(tx, deployment, code, account=account, now_ms=now_ms)
    # What it sent and nobody mined could only be refused by the contract; nobody waits for it.
    tx.execute(
        chain_tx.update()
        .where(chain_tx.c.deployment == deployment, chain_tx.c.account == account, chain_tx.c.state == "sent")
        .values(state="lost", reason="its publisher was replaced", changed_ms=now_ms)
    )
    tx.execute(
        chain_accounts.delete().where(chain_accounts.c.deployment == deployment, chain_accounts.c.name == account)
    )


def _cut(tx: Tx, deployment: int, last_good: int, *, now_ms: int) -> int:
    """Anchors above a size fail; those never signed are not sent any more."""
    above = (anchors.c.deployment == deployment, anchors.c.size > last_good, anchors.c.state != "failed")
    rows = tx.execute(sa.select(anchors.c.id, anchors.c.chain_tx).where(*above)).all()
    for row in rows:
        if row.chain_tx is not None:
            book.move(tx, row.chain_tx, before=("queued",), after="reverted", now_ms=now_ms, reason="log frozen")
    tx.execute(anchors.update().where(*above).values(state="failed"))
    return len(rows)


def next_reference(tx: Tx, purpose: str, base: str) -> str:
    """A reference for a chain_tx that may have to be tried again: the one under way, or a new one after a refusal."""
    deployment, _ = book.current_deployment(tx)
    tried = chain_tx.c.reference.like(f"{base}/%")
    query = sa.select(sa.func.count()).where(
        chain_tx.c.deployment == deployment, chain_tx.c.purpose == purpose, tried, chain_tx.c.state == "reverted"
    )
    return f"{base}/{tx.execute(query).scalar_one()}"


Wait = Callable[[list[int]], None]


def checked_reason(reason: str) -> str:
    """The reason of a freeze, for the people who read it later.

    Raises:
        Rejected: ``no_reason``.
    """
    text = " ".join(reason.split())
    if not 3 <= len(text) <= 200:
        raise Rejected("Give a reason of 3 to 200 characters; it is kept for ever.", code="no_reason", pointer="reason")
    return text
