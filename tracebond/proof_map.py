"""The item map that proofs are made from, moved on as anchors become final."""

import threading
import time
from dataclasses import dataclass

from ledger.cosignatures import is_awaited
from ledger.database import Tx
from ledger.itemmap import ProofMap, proof_size
from tracebond.parts import Parts

# Our choice: a mirror that follows needs a few seconds; one that is away must not hold proofs up for long.
MIRROR_WAIT_S = 10.0


@dataclass
class Proofs:
    """The item map at the last final anchored size, and the one who may touch it."""

    maps: ProofMap
    lock: threading.Lock
    waiting_since: float | None = None

    def advance(self, parts: Parts) -> bool:
        """Move the map to the newest final size; true when it moved."""
        with parts.db.reading() as tx:
            size = proof_size(tx)
            if size <= self.maps.size or self._waits_for_mirror(tx, size):
                return False
            with self.lock:
                self.maps.advance(tx, size)
        self.waiting_since = None
        return True

    def _waits_for_mirror(self, tx: Tx, size: int) -> bool:
        """Bundles stay a moment on the last size, so that the next ones carry the cosignature that is on its way."""
        if self.maps.size == 0 or not is_awaited(tx, size):
            return False
        now = time.monotonic()
        self.waiting_since = self.waiting_since or now
        return now - self.waiting_since < MIRROR_WAIT_S
