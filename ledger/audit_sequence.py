"""The audit of order: sequences of keys, equivocations and their records, and whether our receipts were kept."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u
from core.errors import Rejected
from core.message import Signed
from core.records import read_record
from ledger.database import Tx
from ledger.tables import checkpoints, counters, entries, keys, messages, records

Report = Callable[..., None]
_LEAD_S = 2


class Sequences:
    """What the order of entries must keep, from a leaf on.

    Args:
        promise_s: what a receipt given at that second promises.
        report: takes leaf, code, sentence and the message's row.
    """

    def __init__(self, tx: Tx, start: int, promise_s: Callable[[int], int], report: Report) -> None:
        self._tx = tx
        self._promise_s = promise_s
        self._report = report
        self._pending: list[tuple[int, Any]] = []
        self._kids: dict[int, str] = {row.key_no: row.kid for row in tx.execute(sa.select(keys))}
        last = checkpoints.c.size <= start
        row = tx.execute(sa.select(checkpoints).where(last).order_by(checkpoints.c.size.desc()).limit(1)).first()
        self._time_s = row.time_s if row is not None else 0
        self._epoch = row.epoch if row is not None else 0

    def message(self, leaf: int, row: Any, signed: Signed) -> None:
        """The next message; its receipt is judged when the next state leaf comes."""
        if (signed.seq == 0) != (signed.prev is None):
            self._report(leaf, "sequence_differs", f"Leaf {leaf} is first of its key and names another, or not.", row)
        self._pending.append((leaf, row))

    def checkpoint(self, row: Any) -> None:
        """A state leaf: what waited for it was received before it, and within the promise."""
        for leaf, message in self._pending:
            received_s = message.received_ms // 1000
            deadline = received_s + self._promise_s(received_s)
            if self._time_s > deadline:
                text = f"Leaf {leaf} was received at {received_s} and left out of the checkpoint at {self._time_s}."
                self._report(leaf, "promise_broken", text, message)
            elif received_s > row.time_s + _LEAD_S:
                text = f"Leaf {leaf} is said to be received after the checkpoint that holds it."
                self._report(leaf, "row_differs", text, message)
        self._pending = []
        if row.epoch < self._epoch:
            self._report(row.size - 1, "checkpoint_differs", f"The epoch of the checkpoint of {row.size} goes back.")
        self._time_s, self._epoch = max(self._time_s, row.time_s), max(self._epoch, row.epoch)

    def finish(self) -> None:
        """Every seq that two messages share has its ``equivocation`` record."""
        epoch = self._tx.execute(sa.select(counters.c.value).where(counters.c.name == "epoch")).scalar_one_or_none()
        if epoch is not None and self._epoch > epoch:
            self._report(None, "checkpoint_differs", "A checkpoint is of an epoch that no sequencer has opened.")
        # By the index on (key_no, seq), in SQL: nothing is kept in memory for each message.
        shared = sa.select(messages.c.key_no, messages.c.seq).group_by(messages.c.key_no, messages.c.seq)
        for key_no, seq in self._tx.execute(shared.having(sa.func.count() > 1)).all():
            kid = self._kids.get(key_no, "")
            query = sa.select(messages.c.id).join(entries, entries.c.arrival == messages.c.arrival)
            same = (messages.c.key_no == key_no) & (messages.c.seq == seq)
            ids = {b64u(bytes(ident)) for ident in self._tx.execute(query.where(same)).scalars()}
            if len(ids) > 1 and not ids <= self._told(kid, seq):
                text = f"The key {kid} signed two messages under seq {seq} and no equivocation record says so."
                self._report(None, "equivocation_untold", text)

    def _told(self, kid: str, seq: int) -> set[str]:
        """The ids that equivocation records name, sequenced or waiting."""
        query = sa.select(records.c.raw).where(records.c.t == "equivocation", records.c.subject_kid == kid)
        told: set[str] = set()
        for data in self._tx.execute(query).scalars():
            try:
                payload = read_record(bytes(data)).payload
            except Rejected:
                continue
            if payload["seq"] == seq:
                told |= set(payload["ids"])
        return told
