"""A mirror: replays an operator's whole log, and cosigns the checkpoints that the contract holds, or refuses.

It follows the *anchored* sizes, in ascending order. A cosignature says that this is the largest consistent tree its
maker has seen (C2SP tlog-cosignature), so a mirror that ran ahead of the anchors could never go back to the size that
proof bundles stand on. It replays no further than that either, unless a signed checkpoint is handed to it
(``add-checkpoint``).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.bundle import origin_hash
from core.crypto import Ed25519Private, Ed25519Public
from core.errors import Conflict, Rejected, Unavailable
from core.merkle import verify_consistency
from core.notes import COSIGNATURE, Checkpoint, Verifier, cosign, open_note, read_checkpoint
from ledger import mirror_tables, tiles
from ledger.database import Database, Tx
from ledger.mirror_chain import ChainView, Tip
from ledger.mirror_replay import AUD, SIZE, STATE, Replay, first_difference, get_pin, head_root, set_pin
from ledger.mirror_rules import Fault, Pinned
from ledger.mirror_source import LogSource, Withheld
from ledger.mirror_tables import cosigned, heads, orgs, pins, refusals
from ledger.tables import tiles as tiles_table

# A change of an organisation must be logged this soon after a state leaf whose block contains it.
ORG_GRACE_S = 3_600
UNSENT_MAX = 16
EVIDENCE_BYTES_MAX = 60_000
# What one add-checkpoint call may make the mirror replay before it answers.
CATCH_UP_MAX = 50_000

Say = Callable[[int, int], None]


@dataclass(frozen=True)
class Round:
    """What one round came to.

    Attributes:
        state: ``cosigned``, ``current`` (nothing new is anchored), ``waiting`` (nothing anchored yet) or ``refused``.
        size: leaves replayed.
        cosigned: largest size cosigned, 0 for none.
    """

    state: str
    size: int
    cosigned: int
    refusal: "Refusal | None" = None


@dataclass(frozen=True)
class Refusal:
    """A stored refusal: the exact entry, the rule's code, a sentence, and when it was found."""

    number: int
    found_s: int
    size: int
    leaf: int | None
    kind: str
    entry_id: str
    code: str
    message: str


class Mirror:
    """One log's mirror on its own database. Not two at once on one folder: the database's lock serialises them.

    Args:
        name: name of its verifier key. key: signs cosignatures, and nothing else.
        earlier: registries of chains that were given up, which the mirror's keeper accepts without asking them.
    """

    def __init__(
        self,
        database: Database,
        source: LogSource,
        chain: ChainView,
        *,
        name: str,
        key: Ed25519Private,
        log_id: int | None = None,
        earlier: frozenset[str] = frozenset(),
    ) -> None:
        self._database = database
        self._source = source
        self._chain = chain
        self._name = name
        self._key = key
        self._log_id = log_id
        self._earlier = earlier
        self._replay: Replay | None = None
        self._pinned: Pinned | None = None
        self._log_verifier: Verifier | None = None
        self._lock = threading.RLock()
        mirror_tables.create(database)

    @property
    def verifier(self) -> Verifier:
        """The verifier of its cosignatures."""
        return Verifier(self._name, self._key.public, COSIGNATURE)

    def round(self, now: int, say: Say = lambda done, target: None) -> Round:
        """Go on to the newest anchored size and cosign it; a fault is stored, told and held against the log for good.

        Args:
            now: unix seconds, the time of a cosignature.
            say: told (leaves replayed, target) as the replay goes on.

        Raises:
            Unavailable: operator or node are away; nothing is decided. Conflict: they are not the pinned ones.
            Rejected: the operator does not take this mirror's key.
        """
        with self._lock:
            held = self.refusal()
            if held is None:
                try:
                    self._go_on(now, say)
                except Fault as fault:
                    self._refuse(fault, now)
            held = self.refusal()
            self._send(is_refused=held is not None)
            last, size = self.last_cosigned(), self._size()
            if held is not None:
                return Round("refused", size, last.size if last else 0, held)
            if last is None:
                return Round("waiting", size, 0)
            return Round("cosigned" if last.time_s == now else "current", size, last.size)

    def refusal(self) -> Refusal | None:
        """The oldest refusal that is not closed."""
        return open_refusal(self._database)

    def last_cosigned(self) -> Any:
        """The row of the largest size cosigned, or None."""
        with self._database.reading() as tx:
            return tx.execute(sa.select(cosigned).order_by(cosigned.c.size.desc()).limit(1)).first()

    def pinned(self) -> Pinned:
        """What this mirror pins; on the first use it is read from contract and checkpoint, and kept.

        Raises:
            Conflict: the contract or its chain are not the ones pinned. Rejected: they do not fit one another.
        """
        if self._pinned is None:
            self._pinned = self._open()
        return self._pinned

    def log_verifier(self) -> Verifier:
        """The key that signs the log's checkpoints, as the contract names it."""
        if self._log_verifier is None:
            self._log_verifier = self._log_key(self._chain.tip(self._number()))
        return self._log_verifier

    def cosign_handed(self, old: int, proof: list[bytes], head: Checkpoint, note: str, now: int) -> str:
        """The cosignature line for a checkpoint that was handed over with its consistency proof (tlog-witness).

        Raises:
            Conflict: ``wrong_old_size`` or ``other_root``.
            Rejected: ``bad_proof``; ``forked`` when the replay gives another root: that is a refusal for good.
            Unavailable: ``not_replayed``: the log has not been replayed so far; ask again.
        """
        with self._lock:
            last = self.last_cosigned()
            size = last.size if last else 0
            if old != size:
                raise Conflict("The old size is not the one last cosigned here.", code="wrong_old_size")
            if old == head.size and bytes(last.root) != head.root:
                raise Conflict("This size was cosigned with another root.", code="other_root")
            _check_proof(old, bytes(last.root) if last else b"", proof, head)
            held = self.refusal()
            if held is not None:
                raise Unavailable(f"This mirror refuses the log: {held.message}", code="refused")
            try:
                self._reach(head, now)
            except Fault as fault:
                self._refuse(fault, now)
                raise Rejected(fault.message, code="forked") from fault
            return self._cosign(head, note, now)

    def _reach(self, head: Checkpoint, now: int) -> None:
        replay = self._open_replay()
        if head.size - replay.size > CATCH_UP_MAX:
            raise Unavailable("This mirror has not replayed so far yet.", code="not_replayed")
        while replay.size < head.size:
            replay.step(head.size)
        with self._database.reading() as tx:
            root = head_root(tx, head.size)
        if root != head.root:
            raise Fault(
                f"The checkpoint of {head.size} leaves has another root than the entries give.",
                code="forked",
                leaf=head.size - 1,
                kind="checkpoint",
            )

    def _go_on(self, now: int, say: Say) -> None:
        pinned = self.pinned()
        tip = self._chain.tip(self._number())
        if tip.is_frozen:
            # A successor keeps origin, entries and sizes; only its number on the contract is another.
            self._pinned, self._log_id, self._log_verifier = None, None, None
            pinned = self.pinned()
            tip = self._chain.tip(self._number())
        self._check_newest(tip)
        if tip.size == 0:
            return
        replay = self._open_replay()
        while replay.size < tip.size:
            say(replay.step(tip.size), tip.size)
        with self._database.reading() as tx:
            root = head_root(tx, tip.size)
            if root != tip.root or self._chain.root_at(self._number(), tip.size) != tip.root:
                raise self._other_root(tx, tip)
            late = self._unlogged_change(tx, pinned, tip.size)
        if late is not None:
            raise late
        last = self.last_cosigned()
        if last is None or tip.size > last.size:
            note = self._note_at(tip)
            self._cosign(Checkpoint(pinned.origin, tip.size, tip.root), note, now)

    def _check_newest(self, tip: Tip) -> None:
        """The operator's newest checkpoint: signed, and not behind what is anchored, replayed or cosigned."""
        note = self._source.checkpoint()
        last = self.last_cosigned()
        known = max(tip.size, self._size(), last.size if last else 0)
        size = 0 if note is None else self._read_note(note, tip).size
        if size < known:
            raise Fault(
                f"The operator's newest checkpoint has {size} leaves; {known} were anchored or replayed before: "
                f"leaf {size} and what follows was taken back.",
                code="rolled_back",
                leaf=size,
                kind="checkpoint",
                evidence=(note or "").encode(),
            )
        if note is not None:
            head = read_checkpoint(open_note(note, [self._log_key(tip)])[0])
            with self._database.reading() as tx:
                root = head_root(tx, head.size)
            if root is not None and root != head.root:
                raise self._fork(head, note)

    def _read_note(self, note: str, tip: Tip) -> Checkpoint:
        try:
            text, _ = open_note(note, [self._log_key(tip)])
            head = read_checkpoint(text)
            if head.text() != text:
                raise Rejected("It has lines of another kind.", code="bad_checkpoint")
            return head
        except Rejected as error:
            raise Fault(
                f"The operator's checkpoint is not one of this log: {error.message}",
                code=error.code,
                leaf=None,
                kind="checkpoint",
                evidence=note.encode(),
            ) from error

    def _log_key(self, tip: Tip) -> Verifier:
        return Verifier(self.pinned().origin, Ed25519Public(tip.checkpoint_key))

    def _note_at(self, tip: Tip) -> str:
        note = self._source.checkpoint(tip.size)
        if note is None:
            raise Fault(
                f"The checkpoint of {tip.size} leaves is anchored and not served.",
                code="withheld",
                leaf=tip.size - 1,
                kind="checkpoint",
            )
        head = self._read_note(note, tip)
        if (head.size, head.root) != (tip.size, tip.root):
            raise self._fork(head, note)
        return note

    def _fork(self, head: Checkpoint, note: str) -> Fault:
        return Fault(
            f"The operator signed a checkpoint of {head.size} leaves with another root than its entries give.",
            code="forked",
            leaf=head.size - 1,
            kind="checkpoint",
            evidence=note.encode(),
        )

    def _other_root(self, tx: Tx, tip: Tip) -> Fault:
        try:
            leaf = first_difference(tx, tip.size, self._source.hashes)
        except Withheld:
            leaf = None
        what = f"leaf {leaf} is another one now" if leaf is not None else "its entries give another"
        return Fault(
            f"The contract holds another root at {tip.size} leaves than was replayed: {what}.",
            code="root_differs",
            leaf=tip.size - 1 if leaf is None else leaf,
            kind="checkpoint" if leaf is None else "entry",
        )

    def _unlogged_change(self, tx: Tx, pinned: Pinned, size: int) -> Fault | None:
        newest = sa.select(orgs.c.org, sa.func.max(orgs.c.version)).where(orgs.c.registry == pinned.registry)
        logged = [(str(org), int(version)) for org, version in tx.execute(newest.group_by(orgs.c.org)).all()]
        counts = self._chain.version_counts(pinned.registry, [org for org, _ in logged])
        late = [(org, count - 1) for (org, v), count in zip(logged, counts, strict=True) if count - 1 > v]
        time_s = tx.execute(sa.select(heads.c.time_s).where(heads.c.size == size)).scalar_one()
        for (org, version), there in zip(late, self._chain.organisations(pinned.registry, late), strict=True):
            named = (heads.c.chain_id == pinned.chain_id) & (heads.c.block >= there.block)
            first = tx.execute(sa.select(heads).where(named).order_by(heads.c.size).limit(1)).first()
            if first is not None and time_s - first.time_s > ORG_GRACE_S:
                return Fault(
                    f"Version {version} of {org} stands in the registry since block {there.block}; no org record "
                    f"before the state leaf {size - 1} says so.",
                    code="org_withheld",
                    leaf=size - 1,
                    kind="state",
                )
        return None

    def _cosign(self, head: Checkpoint, note: str, now: int) -> str:
        line = cosign(head.text(), self._name, self._key, time=now)
        row = {"root": head.root, "note": note, "line": line, "time_s": now, "is_sent": False}
        # Kept before it leaves the house: what was cosigned is never forgotten.
        with self._database.transaction() as tx:
            if tx.execute(cosigned.update().where(cosigned.c.size == head.size).values(row)).rowcount == 0:
                tx.execute(cosigned.insert().values(size=head.size, **row))
        return line

    def _send(self, *, is_refused: bool) -> None:
        with self._database.reading() as tx:
            query = sa.select(cosigned).where(cosigned.c.is_sent.is_(False)).order_by(cosigned.c.size.desc())
            lines = tx.execute(query.limit(UNSENT_MAX)).all()
            unsaid = tx.execute(sa.select(refusals).where(refusals.c.is_sent.is_(False)).limit(UNSENT_MAX)).all()
        for row in [] if is_refused else reversed(lines):
            text = Checkpoint(self.pinned().origin, row.size, bytes(row.root)).text()
            self._source.send_cosignature(f"{text}\n{row.line}")
            with self._database.transaction() as tx:
                tx.execute(cosigned.update().where(cosigned.c.size == row.size).values(is_sent=True))
        for row in unsaid:
            names = ("size", "leaf", "kind", "entry_id", "code", "message")
            try:
                self._source.send_refusal({name: row._mapping[name] for name in names})
            except (Unavailable, Rejected, Conflict):
                # Whoever is accused may not want to hear it; the refusal stands here all the same.
                return
            with self._database.transaction() as tx:
                tx.execute(refusals.update().where(refusals.c.number == row.number).values(is_sent=True))

    def _refuse(self, fault: Fault, now: int) -> None:
        row = {"found_s": now, "size": self._size(), "leaf": fault.leaf, "kind": fault.kind, "code": fault.code}
        row |= {"entry_id": fault.entry_id, "message": fault.message[:2_000], "is_sent": False}
        with self._database.transaction() as tx:
            tx.execute(refusals.insert().values(evidence=fault.evidence[:EVIDENCE_BYTES_MAX], **row))
        self._replay = None

    def _size(self) -> int:
        with self._database.reading() as tx:
            return int(get_pin(tx, SIZE) or 0)

    def _number(self) -> int:
        self.pinned()
        if self._log_id is None:
            raise Conflict("This mirror has not pinned a log yet.", code="not_pinned")
        return self._log_id

    def _open_replay(self) -> Replay:
        if self._replay is None:
            self._replay = Replay(self._database, self._source, self._chain, self.pinned())
            self._replay.open()
        return self._replay

    def _open(self) -> Pinned:
        with self._database.reading() as tx:
            kept = {name: get_pin(tx, name) for name in ("contract", "chain_id", "genesis", "log_id", "origin")}
        if kept["contract"] is not None and kept["contract"] != self._chain.contract:
            raise Conflict(f"This folder mirrors {kept['contract']}; use another folder.", code="other_contract")
        if kept["genesis"] is not None:
            self._chain.chain = (int(kept["chain_id"] or 0), kept["genesis"])
        _, registry, live = self._chain.open()
        if self._log_id is None:
            self._log_id = live if kept["log_id"] is None else int(kept["log_id"])
            if self._chain.tip(self._log_id).is_frozen and self._is_same_log(live, self._log_id):
                self._log_id = live
        tip = self._chain.tip(self._log_id)
        origin = kept["origin"] or self._origin()
        if origin_hash(origin) != tip.origin_hash:
            raise Rejected(f"The contract keeps this log under another origin than {origin}.", code="wrong_log")
        if self._chain.chain is None:
            raise Conflict("The chain was not pinned.", code="not_pinned")
        chain_id, genesis = self._chain.chain
        found = {"contract": self._chain.contract, "chain_id": str(chain_id), "genesis": genesis, "origin": origin}
        with self._database.transaction() as tx:
            for name, value in {**found, "log_id": str(self._log_id), "registry": registry}.items():
                set_pin(tx, name, value)
        self._source.log = origin
        return Pinned(origin, "", chain_id, registry, self._earlier)

    def _is_same_log(self, one: int, other: int) -> bool:
        return self._chain.tip(one).origin_hash == self._chain.tip(other).origin_hash

    def _origin(self) -> str:
        note = self._source.checkpoint()
        if note is None:
            raise Unavailable("The operator has no checkpoint yet.", code="no_checkpoint")
        return note.split("\n", 1)[0]


def open_refusal(database: Database) -> Refusal | None:
    """The oldest refusal of a mirror that is not closed."""
    query = sa.select(refusals).where(refusals.c.closed_s.is_(None)).order_by(refusals.c.number).limit(1)
    with database.reading() as tx:
        row = tx.execute(query).first()
    return None if row is None else _refusal(row)


def close_refusals(database: Database, now: int, reason: str) -> int:
    """Close what was refused, for a reason that is kept, and forget the replay: all is checked again from leaf 0.

    What was cosigned stays, and the log is held to it. Gives the number of refusals closed. No mirror may be running.
    """
    with database.transaction() as tx:
        update = refusals.update().where(refusals.c.closed_s.is_(None))
        count = tx.execute(update.values(closed_s=now, closed_reason=reason)).rowcount
        for table in mirror_tables.metadata.sorted_tables:
            if table.name not in (pins.name, cosigned.name, refusals.name):
                tx.execute(table.delete())
        tx.execute(tiles_table.delete())
        tiles.forget(tx)
        tx.execute(pins.delete().where(pins.c.name.in_((SIZE, STATE, AUD))))
    return int(count)


def summary(database: Database) -> tuple[int, int, int]:
    """Leaves replayed, largest size cosigned, and when (unix seconds); zeros for never."""
    with database.reading() as tx:
        row = tx.execute(sa.select(cosigned).order_by(cosigned.c.size.desc()).limit(1)).first()
        size = int(get_pin(tx, SIZE) or 0)
    return (size, 0, 0) if row is None else (size, int(row.size), int(row.time_s))


def _check_proof(old: int, old_root: bytes, proof: list[bytes], head: Checkpoint) -> None:
    try:
        if old == 0:
            if proof:
                raise Rejected("From size 0 the proof is empty.")
            return
        verify_consistency(old, head.size, proof, old_root, head.root)
    except Rejected as error:
        raise Rejected(error.message, code="bad_proof") from error


def _refusal(row: Any) -> Refusal:
    names = ("number", "found_s", "size", "leaf", "kind", "entry_id", "code", "message")
    return Refusal(**{name: row._mapping[name] for name in names})
