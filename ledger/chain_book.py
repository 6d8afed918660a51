"""The book of chain_txs: what is queued, signed, sent and final, and the alarms; database work only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from contracts.chain import Chain, ChainReceipt, WrongChain, to_address
from contracts.deploy import Deployment, check_deployment
from core.errors import Broken, Conflict, Rejected
from ledger.chain_alarms import clear_alarm
from ledger.chain_tx_tables import anchors, chain_accounts, chain_tx, chain_tx_attempt, deployments
from ledger.database import Database, Tx

CALLDATA_BYTES_MAX = 128 * 1024
_OPEN = ("sent", "mined")


@dataclass(frozen=True)
class Attempt:
    """One signed form of a chain_tx."""

    number: int
    nonce: int
    tx_hash: str
    raw: bytes
    max_fee: int
    priority_fee: int
    signed_ms: int
    sent_ms: int | None


@dataclass(frozen=True)
class ChainTx:
    """A chain_tx. ``state``: queued, sent (signed, so maybe sent), mined, final, reverted, lost.

    ``reverted`` without a block was refused before it was sent. ``lost``: its nonce was used by somebody else in a
    final block, so it can never be mined.
    """

    id: int
    account: str
    purpose: str
    reference: str
    to: str | None
    data: bytes
    value: int
    gas: int | None
    nonce: int | None
    state: str
    tx_hash: str | None
    block_number: int | None
    block_hash: str | None
    gas_used: int | None
    fee_per_gas: int | None
    reason: str | None
    created_ms: int
    is_replaced_by_caller: bool

    @property
    def is_settled(self) -> bool:
        """Whether its fate is decided."""
        return self.state in ("final", "reverted", "lost")


@dataclass(frozen=True)
class Account:
    """A sending account and its counter."""

    name: str
    address: str
    nonce0: int
    next_nonce: int
    is_halted: bool


def record_deployment(tx: Tx, deployment: Deployment, *, now_ms: int, is_new_chain: bool = False) -> int:
    """Note in the database which contracts it works with; gives the row's id.

    Raises:
        WrongChain: the database belongs to other contracts, and this is not a new chain.
    """
    row = tx.execute(sa.select(deployments).where(deployments.c.is_current)).one_or_none()
    if row is not None:
        known = Deployment.from_json(row.description)
        if (known.chain_id, known.genesis_hash, known.log_contract, known.log_id) == (
            deployment.chain_id, deployment.genesis_hash, deployment.log_contract, deployment.log_id
        ):  # fmt: skip
            return int(row.id)
        if not is_new_chain and known.log_contract == deployment.log_contract and known.log_id < deployment.log_id:
            raise WrongChain(
                f"This database still writes log {known.log_id}, but deployment.json names its successor "
                f"{deployment.log_id}: an old backup was restored. Restore a newer one, or its own deployment.json."
            )
        if not is_new_chain:
            raise WrongChain(
                f"This database belongs to the log contract {known.log_contract} on chain {known.chain_id}. If that "
                "chain is gone for good, start once with --new-chain."
            )
        tx.execute(deployments.update().where(deployments.c.id == row.id).values(is_current=False))
    result = tx.execute(
        deployments.insert().values(
            chain_id=deployment.chain_id,
            genesis_hash=deployment.genesis_hash,
            log_contract=deployment.log_contract,
            description=deployment.to_json(),
            is_current=True,
            recorded_ms=now_ms,
        )
    )
    return int(_first(result.inserted_primary_key))


def current_deployment(tx: Tx) -> tuple[int, Deployment]:
    """The row id and description of the contracts in use.

    Raises:
        Broken: ``no_deployment``.
    """
    row = tx.execute(sa.select(deployments).where(deployments.c.is_current)).one_or_none()
    if row is None:
        raise Broken("No contracts are recorded in this database; deploy first.", code="no_deployment")
    return int(row.id), Deployment.from_json(row.description)


def check_start(db: Database, chain: Chain, deployment: Deployment, *, now_ms: int, is_new_chain: bool = False) -> None:
    """The first thing at every start: chain, code and database belong together, else refuse.

    Raises:
        WrongChain: they do not; the message names ``--new-chain``.
    """
    check_deployment(chain, deployment)
    with db.transaction() as tx:
        record_deployment(tx, deployment, now_ms=now_ms, is_new_chain=is_new_chain)


def enqueue(
    tx: Tx,
    *,
    account: str,
    to: str | None,
    data: bytes,
    purpose: str,
    reference: str,
    now_ms: int,
    gas: int | None = None,
    value: int = 0,
    is_replaced_by_caller: bool = False,
) -> int:
    """Put a chain_tx in the queue, inside the caller's transaction; gives its id.

    The same purpose and reference again gives the same id, so that a repeated command sends nothing twice. After a
    revert a new try needs a new reference.

    Args:
        account: name of the sending account in the signer; it sends in the order of ids.
        purpose: what for, in one word: anchor, pledge, register, ...
        reference: idempotency key within the purpose.
        gas: gas limit; None estimates it when its turn comes, which then waits for the account's earlier chain_txs.
        is_replaced_by_caller: if the nonce is stolen, the caller makes a new one; else it is queued again by itself.

    Raises:
        Conflict: ``other_contents`` for the same reference with other contents.
        Rejected: ``too_large``.
    """
    if len(data) > CALLDATA_BYTES_MAX or value < 0:
        raise Rejected(f"Calldata has at most {CALLDATA_BYTES_MAX} bytes.", code="too_large")
    deployment, _ = current_deployment(tx)
    target = None if to is None else to_address(to)
    key = (chain_tx.c.deployment == deployment, chain_tx.c.purpose == purpose, chain_tx.c.reference == reference)
    row = tx.execute(sa.select(chain_tx).where(*key)).one_or_none()
    if row is not None:
        if (row.account, row.to_address, bytes(row.data), int(row.value_wei)) != (account, target, data, value):
            raise Conflict(f"The chain_tx {purpose} {reference} exists with other contents.", code="other_contents")
        return int(row.id)
    result = tx.execute(
        chain_tx.insert().values(
            deployment=deployment,
            account=account,
            purpose=purpose,
            reference=reference,
            to_address=target,
            data=data,
            value_wei=str(value),
            gas=gas,
            is_replaced_by_caller=is_replaced_by_caller,
            state="queued",
            created_ms=now_ms,
            changed_ms=now_ms,
        )
    )
    return int(_first(result.inserted_primary_key))


def enqueue_funding(tx: Tx, *, address: str, value: int, reference: str, now_ms: int) -> int:
    """Let the admin send wei to an account, on a development chain."""
    return enqueue(
        tx, account="admin", to=address, data=b"", purpose="fund", reference=reference, now_ms=now_ms, value=value,
        gas=21_000,
    )  # fmt: skip


def state_of(tx: Tx, ident: int) -> ChainTx:
    """A chain_tx by its id.

    Raises:
        Rejected: ``unknown_chain_tx``.
    """
    row = tx.execute(sa.select(chain_tx).where(chain_tx.c.id == ident)).one_or_none()
    if row is None:
        raise Rejected(f"There is no chain_tx {ident}.", code="unknown_chain_tx")
    return _chain_tx(row)


def attempts_of(tx: Tx, idents: Iterable[int]) -> dict[int, list[Attempt]]:
    """The attempts of some chain_txs, oldest first."""
    found: dict[int, list[Attempt]] = {ident: [] for ident in idents}
    query = (
        sa.select(chain_tx_attempt).where(chain_tx_attempt.c.chain_tx.in_(found)).order_by(chain_tx_attempt.c.number)
    )
    for row in tx.execute(query):
        found[row.chain_tx].append(
            Attempt(
                row.number,
                row.nonce,
                row.tx_hash,
                bytes(row.raw),
                row.max_fee,
                row.priority_fee,
                row.signed_ms,
                row.sent_ms,
            )
        )
    return found


def open_txs(tx: Tx, deployment: int, *, account: str | None = None) -> list[ChainTx]:
    """Signed and not final, by account and nonce."""
    query = sa.select(chain_tx).where(chain_tx.c.deployment == deployment, chain_tx.c.state.in_(_OPEN))
    if account is not None:
        query = query.where(chain_tx.c.account == account)
    return [_chain_tx(row) for row in tx.execute(query.order_by(chain_tx.c.account, chain_tx.c.nonce))]


def queued_txs(tx: Tx, deployment: int, account: str, limit: int) -> list[ChainTx]:
    """The next unsigned ones of an account, in order."""
    query = sa.select(chain_tx).where(
        chain_tx.c.deployment == deployment, chain_tx.c.account == account, chain_tx.c.state == "queued"
    )
    return [_chain_tx(row) for row in tx.execute(query.order_by(chain_tx.c.id).limit(limit))]


def waiting_accounts(tx: Tx, deployment: int) -> list[str]:
    """Accounts with something queued."""
    query = sa.select(chain_tx.c.account).where(chain_tx.c.deployment == deployment, chain_tx.c.state == "queued")
    return sorted(tx.execute(query.distinct()).scalars())


def accounts(tx: Tx, deployment: int) -> list[Account]:
    """The accounts that have sent something."""
    query = sa.select(chain_accounts).where(chain_accounts.c.deployment == deployment)
    return [_account(row) for row in tx.execute(query.order_by(chain_accounts.c.name))]


def lock_account(tx: Tx, deployment: int, name: str) -> Account | None:
    """The account, locked until the end of the transaction; None when another sender has it, or it is not there yet."""
    query = sa.select(chain_accounts).where(chain_accounts.c.deployment == deployment, chain_accounts.c.name == name)
    row = tx.execute(query.with_for_update(skip_locked=True)).one_or_none()
    return None if row is None else _account(row)


def open_account(tx: Tx, deployment: int, name: str, address: str, nonce0: int) -> None:
    """Begin an account's counter, once; a second caller changes nothing."""
    query = sa.select(chain_accounts.c.name).where(
        chain_accounts.c.deployment == deployment, chain_accounts.c.name == name
    )
    if tx.execute(query).one_or_none() is None:
        tx.execute(
            chain_accounts.insert().values(
                deployment=deployment, name=name, address=address, nonce0=nonce0, next_nonce=nonce0
            )
        )


def halt_account(tx: Tx, deployment: int, name: str, *, now_ms: int | None) -> None:
    """Stop signing for an account; None lets it go on."""
    tx.execute(
        chain_accounts.update()
        .where(chain_accounts.c.deployment == deployment, chain_accounts.c.name == name)
        .values(halted_ms=now_ms)
    )


def has_lost(tx: Tx, deployment: int, name: str) -> bool:
    """Whether chain_txs of the account were lost since its counter last began."""
    query = (
        sa.select(chain_tx.c.id)
        .join(
            chain_accounts,
            (chain_accounts.c.deployment == chain_tx.c.deployment) & (chain_accounts.c.name == chain_tx.c.account),
        )
        .where(
            chain_tx.c.deployment == deployment,
            chain_tx.c.account == name,
            chain_tx.c.state == "lost",
            chain_tx.c.nonce >= chain_accounts.c.nonce0,
        )
    )
    return tx.execute(query.limit(1)).one_or_none() is not None


def lost_txs(tx: Tx, deployment: int, name: str) -> list[ChainTx]:
    """All lost chain_txs of an account."""
    query = sa.select(chain_tx).where(
        chain_tx.c.deployment == deployment, chain_tx.c.account == name, chain_tx.c.state == "lost"
    )
    return [_chain_tx(row) for row in tx.execute(query.order_by(chain_tx.c.id))]


def revive(tx: Tx, ident: int, *, now_ms: int) -> bool:
    """Follow a chain_tx again that seemed lost and was mined after all: a node had hidden its receipt.

    Its anchor waits again. One that was fixed in its place was never signed, since the account is halted: it goes.
    """
    if not move(tx, ident, before=("lost",), after="sent", now_ms=now_ms):
        return False
    row = tx.execute(sa.select(anchors).where(anchors.c.chain_tx == ident)).one_or_none()
    if row is None or row.state != "failed":
        return True
    in_place = sa.select(anchors.c.id, anchors.c.chain_tx).where(
        anchors.c.deployment == row.deployment,
        anchors.c.state == "pending",
        sa.or_(anchors.c.prev_size == row.prev_size, anchors.c.size == row.size),
    )
    for other in tx.execute(in_place).all():
        move(tx, other.chain_tx, before=("queued",), after="reverted", now_ms=now_ms, reason="not the tip")
        tx.execute(anchors.update().where(anchors.c.id == other.id).values(state="failed"))
    tx.execute(anchors.update().where(anchors.c.id == row.id).values(state="pending"))
    return True


def restart_account(tx: Tx, deployment: int, name: str, *, nonce0: int, now_ms: int) -> int:
    """Begin an account's counter again at or above ``nonce0``, queue again what was lost, and end the alarm."""
    account = next(one for one in accounts(tx, deployment) if one.name == name)
    begin = max(nonce0, account.next_nonce)
    tx.execute(
        chain_tx.update()
        .where(
            chain_tx.c.deployment == deployment,
            chain_tx.c.account == name,
            chain_tx.c.state == "lost",
            sa.not_(chain_tx.c.is_replaced_by_caller),
        )
        .values(state="queued", nonce=None, reason=None, changed_ms=now_ms)
    )
    tx.execute(
        chain_accounts.update()
        .where(chain_accounts.c.deployment == deployment, chain_accounts.c.name == name)
        .values(nonce0=begin, next_nonce=begin, halted_ms=None)
    )
    clear_alarm(tx, deployment, "foreign_nonce", account=name, now_ms=now_ms)
    return begin


def add_attempt(tx: Tx, ident: int, attempt: Attempt) -> None:
    """Keep a signed form; the primary key refuses a second one of the same number."""
    tx.execute(
        chain_tx_attempt.insert().values(
            chain_tx=ident,
            number=attempt.number,
            nonce=attempt.nonce,
            tx_hash=attempt.tx_hash,
            raw=attempt.raw,
            max_fee=attempt.max_fee,
            priority_fee=attempt.priority_fee,
            signed_ms=attempt.signed_ms,
        )
    )


def note_sent(tx: Tx, ident: int, number: int, *, now_ms: int, answer: str) -> None:
    """When an attempt was last handed to the node, and what it said."""
    tx.execute(
        chain_tx_attempt.update()
        .where(chain_tx_attempt.c.chain_tx == ident, chain_tx_attempt.c.number == number)
        .values(sent_ms=now_ms, answer=answer[:400])
    )


def give_nonce(tx: Tx, deployment: int, account: Account, ident: int, *, now_ms: int) -> int | None:
    """The account's next nonce for a queued chain_tx; None when it is queued no longer. The account must be locked."""
    changed = tx.execute(
        chain_tx.update()
        .where(chain_tx.c.id == ident, chain_tx.c.state == "queued")
        .values(state="sent", nonce=account.next_nonce, changed_ms=now_ms)
    )
    if changed.rowcount != 1:
        return None
    tx.execute(
        chain_accounts.update()
        .where(chain_accounts.c.deployment == deployment, chain_accounts.c.name == account.name)
        .values(next_nonce=account.next_nonce + 1)
    )
    return account.next_nonce


def move(
    tx: Tx,
    ident: int,
    *,
    before: Sequence[str],
    after: str,
    now_ms: int,
    receipt: ChainReceipt | None = None,
    reason: str | None = None,
) -> bool:
    """Change a state only from one of ``before``, so that a sender that slept cannot undo what another found."""
    changed = tx.execute(
        chain_tx.update()
        .where(chain_tx.c.id == ident, chain_tx.c.state.in_(before))
        .values(
            state=after,
            tx_hash=receipt.tx_hash if receipt else None,
            block_number=receipt.block_number if receipt else None,
            block_hash=receipt.block_hash if receipt else None,
            gas_used=receipt.gas_used if receipt else None,
            fee_per_gas=receipt.fee_per_gas if receipt else None,
            reason=None if reason is None else reason[:400],
            changed_ms=now_ms,
        )
    )
    return changed.rowcount == 1


def last_final(tx: Tx, deployment: int, *, limit: int) -> list[ChainTx]:
    """The final chain_txs in the highest blocks, highest first."""
    query = sa.select(chain_tx).where(
        chain_tx.c.deployment == deployment,
        chain_tx.c.state.in_(("final", "reverted")),
        chain_tx.c.block_number.is_not(None),
    )
    return [_chain_tx(row) for row in tx.execute(query.order_by(chain_tx.c.block_number.desc()).limit(limit))]


def _chain_tx(row: Any) -> ChainTx:
    return ChainTx(
        id=row.id,
        account=row.account,
        purpose=row.purpose,
        reference=row.reference,
        to=row.to_address,
        data=bytes(row.data),
        value=int(row.value_wei),
        gas=row.gas,
        nonce=row.nonce,
        state=row.state,
        tx_hash=row.tx_hash,
        block_number=row.block_number,
        block_hash=row.block_hash,
        gas_used=row.gas_used,
        fee_per_gas=row.fee_per_gas,
        reason=row.reason,
        created_ms=row.created_ms,
        is_replaced_by_caller=row.is_replaced_by_caller,
    )


def _account(row: Any) -> Account:
    return Account(row.name, row.address, row.nonce0, row.next_nonce, row.halted_ms is not None)


def _first(key: Any) -> Any:
    if key is None:
        raise Broken("The database gave no key for a new row.")
    return key[0]
