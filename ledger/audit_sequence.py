"""The audit of order: sequences of keys, equivocations and their records, and whether our receipts were kept."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u
from core.message import Signed
from core.records import Record, read_record
from ledger.database import Tx
from ledger.tables import checkpoints, counters, entries, keys, messages, records

Report = Callable[..., None]
_LEAD_S = 2
_PARTS = 500


class Sequences:
    """What the order of entries must keep, from a leaf on.

    Args:
        promise_s: what a receipt given at that second promises.
        report: takes leaf, code, sentence and the message's row.
    """

    def __init__(self, tx: Tx, start: int, promise_s: Callable[[int], int], report: Report) -> None:
        self._tx = tx
        self._start = start
        self._promise_s = promise_s
        self._report = report
        self._pending: list[tuple[int, Any]] = []
        self._shared: dict[tuple[str, int], set[str]] = {}
        self._told: dict[tuple[str, int], set[str]] = {}
        self._seqs: dict[tuple[int, int], str] = {}
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
        place, name = (row.key_no, signed.seq), b64u(signed.id)
        if place in self._seqs:
            shared = self._shared.setdefault((signed.kid, signed.seq), {self._seqs[place]})
            shared.add(name)
        else:
            self._seqs[place] = name

    def record(self, record: Record) -> None:
        """The next record."""
        if record.t == "equivocation":
            payload = record.payload
            self._told.setdefault((payload["kid"], payload["seq"]), set()).update(payload["ids"])

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
        if self._start:
            self._earlier()
        for (kid, seq), ids in self._shared.items():
            if not ids <= self._told.get((kid, seq), set()) and not self._is_waiting(kid, seq):
                text = f"The key {kid} signed two messages under seq {seq} and no equivocation record says so."
                self._report(None, "equivocation_untold", text)

    def _earlier(self) -> None:
        """Messages below the start under the same (key, seq) as one above it."""
        places = sorted(self._seqs)
        for first in range(0, len(places), _PARTS):
            part = places[first : first + _PARTS]
            query = sa.select(messages.c.key_no, messages.c.seq, messages.c.id)
            query = query.join(entries, entries.c.arrival == messages.c.arrival).where(entries.c.leaf < self._start)
            for key_no, seq, ident in self._tx.execute(query.where(_among(part))):
                shared = self._shared.setdefault((self._kids.get(key_no, ""), seq), {self._seqs[key_no, seq]})
                shared.add(b64u(bytes(ident)))

    def _is_waiting(self, kid: str, seq: int) -> bool:
        """Whether the record is stored and has no leaf yet, or stands below the start."""
        query = sa.select(records.c.raw).where(records.c.t == "equivocation", records.c.subject_kid == kid)
        found = (read_record(bytes(data)).payload for data in self._tx.execute(query).scalars())
        return any(payload["seq"] == seq for payload in found)


def _among(places: list[tuple[int, int]]) -> Any:
    return sa.tuple_(messages.c.key_no, messages.c.seq).in_(places)
