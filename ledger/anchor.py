"""Anchors: checkpoints' roots on the chain, each rebuilt from stored bytes first, each fixed by one transaction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from contracts.chain import Chain
from contracts.clients import ANCHOR_GAS, LogHead, TransparencyLogClient
from core.errors import Broken, Conflict
from core.merkle import Frontier, consistency_ranges, leaf_hash, tree_root
from ledger import chain_book as book
from ledger.chain_alarms import clear_alarm, raise_alarm
from ledger.chain_logs import PUBLISHER, log_of
from ledger.chain_tx_tables import anchors, chain_tx
from ledger.database import Database, Tx
from ledger.itemmap import set_proof_size
from ledger.tables import checkpoints
from ledger.tiles import read_entries

_READ_CHUNK = 5_000
_HASH_BYTES = 32


@dataclass(frozen=True)
class AnchorSettings:
    """When to anchor; figures of our own choice.

    Attributes:
        interval_ms: from one anchor to the next, when there is something new.
        leaves: anchor earlier when so many leaves are new.
        unfinal_max: anchors that may wait for finality at once; beyond it we wait too.
    """

    interval_ms: int = 10_000
    leaves: int = 50_000
    unfinal_max: int = 4


@dataclass(frozen=True)
class Anchor:
    """An anchor. ``state``: pending, final, failed. Block, hash and gas are known once it was mined."""

    id: int
    prev_size: int
    size: int
    root: bytes
    state: str
    chain_tx: int | None
    created_ms: int
    tx_hash: str | None
    block_number: int | None
    block_hash: str | None
    gas_used: int | None


def anchors_between(tx: Tx, *, after_size: int = 0, limit: int = 100) -> list[Anchor]:
    """The anchors that count, pending and final, by size."""
    return [_anchor(row) for row in tx.execute(_live().where(anchors.c.size > after_size).limit(limit))]


def last_anchor(tx: Tx) -> Anchor | None:
    """The anchor of the highest size, pending or final."""
    row = tx.execute(_live().order_by(None).order_by(anchors.c.size.desc()).limit(1)).one_or_none()
    return None if row is None else _anchor(row)


def last_final_anchor(tx: Tx) -> Anchor | None:
    """The highest anchor that is final; what proofs and credit stand on."""
    query = _live().where(anchors.c.state == "final", _chain_says_final())
    row = tx.execute(query.order_by(None).order_by(anchors.c.size.desc()).limit(1)).one_or_none()
    return None if row is None else _anchor(row)


def final_anchor_over(tx: Tx, leaf: int) -> Anchor | None:
    """The first final anchor that covers a leaf."""
    query = _live().where(anchors.c.state == "final", _chain_says_final(), anchors.c.size > leaf)
    row = tx.execute(query.limit(1)).one_or_none()
    return None if row is None else _anchor(row)


def unfinal_count(tx: Tx) -> int:
    """How many anchors wait for finality."""
    deployment, _ = book.current_deployment(tx)
    query = sa.select(sa.func.count()).where(anchors.c.deployment == deployment, anchors.c.state == "pending")
    return int(tx.execute(query).scalar_one())


def is_due(*, tip: int, size: int, last_ms: int | None, unfinal: int, now_ms: int, settings: AnchorSettings) -> bool:
    """Whether the checkpoint of ``size`` is to be anchored now, the last anchor being of size ``tip``."""
    if size <= tip or unfinal >= settings.unfinal_max:
        return False
    if last_ms is None or size - tip >= settings.leaves:
        return True
    # A clock set back by hours must not stop anchoring for hours.
    return abs(now_ms - last_ms) >= settings.interval_ms


def read_leaves(tx: Tx, start: int, end: int) -> list[bytes]:
    """Leaf hashes made anew from the stored bytes of the entries ``[start, end)``, in log order.

    Raises:
        Broken: ``entry_missing``.
    """
    found: list[bytes] = []
    for low in range(start, end, _READ_CHUNK):
        high = min(end, low + _READ_CHUNK)
        part = read_entries(tx, low, high)
        if [entry.leaf for entry in part] != list(range(low, high)):
            raise Broken(f"Entries between leaf {low} and {high} are not in the database.", code="entry_missing")
        found.extend(leaf_hash(entry.data) for entry in part)
    return found


@dataclass(frozen=True)
class Extension:
    """What the stored bytes say about the tree from one size to another."""

    frontier: Frontier
    root: bytes
    proof: tuple[bytes, ...]


def extend(before: Frontier, new: list[bytes]) -> Extension:
    """The tree after appending leaf hashes, with the consistency proof from ``before`` (empty from an empty tree)."""
    size = before.size + len(new)
    after = Frontier(before.size, tuple(before.nodes))
    for one in new:
        after.append(one)
    proof: list[bytes] = []
    if before.size:
        nodes = dict(zip(_starts(before.size), before.nodes, strict=True))
        for start, end in consistency_ranges(before.size, size):
            # A range inside the old tree is one of its perfect subtrees; every other one is made of new leaves alone.
            old = end <= before.size
            proof.append(nodes[start] if old else tree_root(new[start - before.size : end - before.size]))
    return Extension(after, after.root(), tuple(proof))


class Anchorer:
    """Fixes anchors and follows them; :class:`ledger.chain_tx.ChainSender` sends them. Call :meth:`step` regularly."""

    def __init__(
        self,
        db: Database,
        chain: Chain,
        settings: AnchorSettings | None = None,
        *,
        at: Callable[[str], None] | None = None,
    ) -> None:
        """Anchor for the contracts in use; ``at`` is called where a crash must do no harm, for tests."""
        self._db, self._chain = db, chain
        self._settings = settings or AnchorSettings()
        self._at = at or (lambda point: None)
        self._load()

    def _load(self) -> None:
        with self._db.reading() as tx:
            self._deployment, self._description = book.current_deployment(tx)
        self._log = TransparencyLogClient(self._chain, self._description.log_contract)
        self._log_id = self._description.log_id

    def check_start(self, *, now_ms: int) -> None:
        """Compare the chain's head with the database before anything is anchored.

        Raises:
            Broken: ``database_behind_chain`` when the contract holds an anchor that the database cannot know of
                (a restored backup), ``root_mismatch`` when the database has another root there.
        """
        head = self._log.log_at(self._log_id)
        if head.size == 0:
            return
        with self._db.reading() as tx:
            root = tx.execute(sa.select(checkpoints.c.root).where(checkpoints.c.size == head.size)).scalar_one_or_none()
        if root is None:
            raise Broken(
                f"The contract holds an anchor of size {head.size}, but this database has no such checkpoint: it is "
                "behind the chain, as after restoring an old backup. Restore a newer one.",
                code="database_behind_chain",
            )
        if bytes(root) != head.root:
            raise Broken(
                f"At size {head.size} the contract holds another root than the database.", code="root_mismatch"
            )
        self._adopt(head, now_ms)

    def step(self, now_ms: int) -> Anchor | None:
        """Follow what was sent; fix the next anchor if it is due, and give it.

        Raises:
            Broken: stored bytes do not give the checkpoint's root; nothing is anchored and an alarm is open.
            Unavailable: chain or database is away.
        """
        # The operator may have gone on with a successor log since the last step.
        self._load()
        self._follow(now_ms)
        plan = self._plan(now_ms)
        if plan is None or not self._is_welcome(plan.tip, now_ms):
            return None
        try:
            extension = self._rebuild(plan)
        except Broken as error:
            self._alarm("root_mismatch", error.message, now_ms)
            raise
        self._at("before_fix")
        try:
            anchor = self._fix(plan, extension, now_ms)
        except Conflict:
            # Another anchorer fixed one from the same size, or the log has a successor.
            return None
        self._at("fixed")
        return anchor

    def _plan(self, now_ms: int) -> "_Plan | None":
        with self._db.reading() as tx:
            newest = tx.execute(
                sa.select(checkpoints.c.size, checkpoints.c.root).order_by(checkpoints.c.size.desc()).limit(1)
            ).one_or_none()
            last = tx.execute(_live_rows(self._deployment).order_by(anchors.c.size.desc()).limit(1)).one_or_none()
            unfinal = unfinal_count(tx)
        if newest is None:
            return None
        tip = 0 if last is None else int(last.size)
        last_ms = None if last is None else int(last.created_ms)
        due = is_due(
            tip=tip, size=newest.size, last_ms=last_ms, unfinal=unfinal, now_ms=now_ms, settings=self._settings
        )
        if not due:
            return None
        frontier = Frontier() if last is None else Frontier(tip, _split(bytes(last.frontier)))
        if last is not None and frontier.root() != bytes(last.root):
            raise Broken(f"The stored frontier at size {tip} does not give its root.", code="root_mismatch")
        return _Plan(tip, frontier, int(newest.size), bytes(newest.root))

    def _is_welcome(self, tip: int, now_ms: int) -> bool:
        """Whether the contract would take an anchor that follows what we sent; alarms when it tells another story."""
        head = self._log.log_at(self._log_id)
        if head.is_frozen:
            self._alarm("log_frozen", "The log is frozen; a successor log goes on.", now_ms)
            return False
        if self._log.paused():
            self._alarm("log_paused", "The contract is paused.", now_ms)
            return False
        with self._db.transaction() as tx:
            clear_alarm(tx, self._deployment, "log_paused", account=PUBLISHER, now_ms=now_ms)
            known = _live_rows(self._deployment).where(anchors.c.size == head.size)
            row = tx.execute(known).one_or_none()
        # A size we never sent, or ours with another root, was anchored by somebody with the publisher's key.
        if head.size and (row is None or bytes(row.root) != head.root):
            self._alarm("foreign_anchor", f"The contract holds size {head.size}, which is not ours.", now_ms)
            return False
        return head.size <= tip

    def _rebuild(self, plan: "_Plan") -> Extension:
        with self._db.reading() as tx:
            new = read_leaves(tx, plan.tip, plan.size)
        extension = extend(plan.frontier, new)
        if extension.root != plan.root:
            raise Broken(
                f"The stored entries up to leaf {plan.size} do not give the checkpoint's root; nothing is anchored.",
                code="root_mismatch",
            )
        return extension

    def _fix(self, plan: "_Plan", extension: Extension, now_ms: int) -> Anchor:
        data = self._log.anchor_call(
            self._log_id, prev_size=plan.tip, size=plan.size, root=plan.root, proof=extension.proof
        )
        with self._db.transaction() as tx:
            if book.current_deployment(tx)[1].log_id != self._log_id:
                raise Conflict("A successor log goes on.", code="other_log")
            result = tx.execute(
                anchors.insert().values(
                    deployment=self._deployment,
                    prev_size=plan.tip,
                    size=plan.size,
                    root=plan.root,
                    proof=b"".join(extension.proof),
                    frontier=b"".join(extension.frontier.nodes),
                    state="pending",
                    created_ms=now_ms,
                )
            )
            key = result.inserted_primary_key
            ident = int(key[0]) if key is not None else 0
            # Gas is given, so that several anchors can be under way, each on top of the one before.
            sent = book.enqueue(
                tx, account=self._description.publisher_account, to=self._log.address, data=data, purpose="anchor",
                reference=str(ident), now_ms=now_ms, gas=ANCHOR_GAS, is_replaced_by_caller=True,
            )  # fmt: skip
            tx.execute(anchors.update().where(anchors.c.id == ident).values(chain_tx=sent))
            return _anchor(tx.execute(_live().where(anchors.c.id == ident)).one())

    def _follow(self, now_ms: int) -> None:
        """Carry over what became of the anchors' chain_txs, and read final ones back from the contract."""
        with self._db.reading() as tx:
            rows = tx.execute(
                sa.select(anchors.c.id, anchors.c.size, anchors.c.root, anchors.c.state, chain_tx.c.state.label("sent"))
                .join(chain_tx, chain_tx.c.id == anchors.c.chain_tx)
                .where(
                    anchors.c.deployment == self._deployment,
                    sa.or_(
                        sa.and_(anchors.c.state == "pending", chain_tx.c.state.in_(("final", "reverted", "lost"))),
                        sa.and_(anchors.c.state == "final", chain_tx.c.state != "final"),
                    ),
                )
                .order_by(anchors.c.size)
            ).all()
        for row in rows:
            if row.state == "final":
                self._mark(row.id, "final", "pending", None)
            elif row.sent == "final":
                self._check_on_chain(int(row.size), bytes(row.root), now_ms)
                self._at("before_final")
                self._mark(row.id, "pending", "final", now_ms)
            else:
                self._mark(row.id, "pending", "failed", None)
        if any(row.sent in ("reverted", "lost") for row in rows):
            self._drop_followers()

    def _check_on_chain(self, size: int, root: bytes, now_ms: int) -> None:
        with self._db.reading() as tx:
            log_id = log_of(tx, size)
        stored = self._log.root_at(log_id, size, block=self._chain.final_block_number())
        if stored != root:
            detail = f"The contract does not hold the root that was anchored at size {size}."
            self._alarm("root_mismatch", detail, now_ms)
            raise Broken(detail, code="root_mismatch")

    def _drop_followers(self) -> None:
        """An anchor that failed takes with it those that were never sent on top of it; sent ones fail by themselves."""
        with self._db.transaction() as tx:
            rows = tx.execute(_live_rows(self._deployment).order_by(anchors.c.size)).all()
            reached = {0} | {int(row.size) for row in rows if row.state == "final"}
            for row in rows:
                if row.state == "pending" and int(row.prev_size) not in reached:
                    moved = book.move(
                        tx, row.chain_tx, before=("queued",), after="reverted", now_ms=int(row.created_ms),
                        reason="the anchor before it failed",
                    )  # fmt: skip
                    if moved:
                        tx.execute(anchors.update().where(anchors.c.id == row.id).values(state="failed"))
                elif row.state == "pending":
                    reached.add(int(row.size))

    def _adopt(self, head: LogHead, now_ms: int) -> None:
        """Know the contract's head as an anchor, where it came from a predecessor log or from a lost row."""
        with self._db.reading() as tx:
            if tx.execute(_live_rows(self._deployment).where(anchors.c.size >= head.size).limit(1)).first() is not None:
                return
            last = tx.execute(_live_rows(self._deployment).order_by(anchors.c.size.desc()).limit(1)).one_or_none()
            new = read_leaves(tx, 0, head.size)
        extension = extend(Frontier(), new)
        if extension.root != head.root:
            raise Broken(f"The stored entries do not give the root at size {head.size}.", code="root_mismatch")
        with self._db.transaction() as tx:
            tx.execute(
                anchors.insert().values(
                    deployment=self._deployment,
                    prev_size=0 if last is None else last.size,
                    size=head.size,
                    root=head.root,
                    proof=b"",
                    frontier=b"".join(extension.frontier.nodes),
                    state="final",
                    created_ms=now_ms,
                    final_ms=now_ms,
                )
            )
            _set_proof_size(tx)

    def _mark(self, ident: int, before: str, after: Literal["pending", "final", "failed"], now_ms: int | None) -> None:
        with self._db.transaction() as tx:
            tx.execute(
                anchors.update()
                .where(anchors.c.id == ident, anchors.c.state == before)
                .values(state=after, final_ms=now_ms)
            )
            if after == "final":
                _set_proof_size(tx)

    def _alarm(self, code: str, detail: str, now_ms: int) -> None:
        with self._db.transaction() as tx:
            raise_alarm(tx, self._deployment, code, account=PUBLISHER, detail=detail, now_ms=now_ms)


@dataclass(frozen=True)
class _Plan:
    tip: int
    frontier: Frontier
    size: int
    root: bytes


def _set_proof_size(tx: Tx) -> None:
    final = last_final_anchor(tx)
    if final is not None:
        set_proof_size(tx, final.size)


def _live_rows(deployment: int) -> "sa.Select[Any]":
    return sa.select(anchors).where(anchors.c.deployment == deployment, anchors.c.state != "failed")


def _live() -> "sa.Select[Any]":
    from ledger.chain_tx_tables import deployments

    return (
        sa.select(anchors, chain_tx.c.tx_hash, chain_tx.c.block_number, chain_tx.c.block_hash, chain_tx.c.gas_used)
        .join(deployments, deployments.c.id == anchors.c.deployment)
        .join(chain_tx, chain_tx.c.id == anchors.c.chain_tx, isouter=True)
        .where(deployments.c.is_current, anchors.c.state != "failed")
        .order_by(anchors.c.size)
    )


def _chain_says_final() -> "sa.ColumnElement[bool]":
    # The moment a final chain_tx is found gone, its anchor is final no longer, before the anchorer's next step.
    return sa.or_(anchors.c.chain_tx.is_(None), chain_tx.c.state == "final")


def _anchor(row: Any) -> Anchor:
    return Anchor(
        id=row.id,
        prev_size=row.prev_size,
        size=row.size,
        root=bytes(row.root),
        state=row.state,
        chain_tx=row.chain_tx,
        created_ms=row.created_ms,
        tx_hash=row.tx_hash,
        block_number=row.block_number,
        block_hash=row.block_hash,
        gas_used=row.gas_used,
    )


def _split(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[at : at + _HASH_BYTES] for at in range(0, len(data), _HASH_BYTES))


def _starts(size: int) -> list[int]:
    """Where the perfect subtrees of a tree of ``size`` begin, largest first."""
    starts, at = [], 0
    for bit in range(size.bit_length() - 1, -1, -1):
        if size >> bit & 1:
            starts.append(at)
            at += 1 << bit
    return starts
