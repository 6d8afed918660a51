"""Prepared entries for benchmarks: rows as ``store.admit`` would write them, without signatures."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.canonical import sha256
from core.merkle import leaf_hash
from ledger import store
from ledger.database import Tx
from ledger.tables import keys

JWT_BYTES = 620
_ORG = "bench"


@dataclass(frozen=True)
class Load:
    """What one message of a benchmark holds.

    Attributes:
        keys_per_event: mean number of things an event names.
        new_share: share of those that the map has not seen.
        devices: number of signing keys.
    """

    keys_per_event: float = 2.5
    new_share: float = 0.6
    devices: int = 50


def prepare_devices(tx: Tx, load: Load) -> None:
    """Register the benchmark's signing keys, if they are not there yet."""
    if not _numbers(tx):
        for number in range(load.devices):
            row: dict[str, Any] = {
                "kid": f"bench-{number}",
                "org": _ORG,
                "iss": f"bench-{number}",
                "use": "device",
                "scope": "{}",
            }
            row |= {"device_key": sha256(b"device %d" % number), "jwk": "{}", "leaf": 0}
            tx.execute(keys.insert().values(row))


def prepare_messages(
    tx: Tx, load: Load, *, messages: int, seed: int, known: Sequence[bytes], start: int = 0, now_ms: int = 0
) -> None:
    """Store messages of one event each, waiting to be sequenced.

    Args:
        known: item keys that the map has, of which the repeated ones are drawn.
        start: number of messages stored by earlier calls (keeps ids distinct).
    """
    rng = random.Random(seed)
    numbers = _numbers(tx)
    low = int(load.keys_per_event)
    arrivals = store.next_arrivals(tx, messages)
    rows: list[tuple[Any, ...]] = []
    for number, arrival in enumerate(arrivals, start=start):
        named = set()
        for _ in range(low + (rng.random() < load.keys_per_event - low)):
            is_new = not known or rng.random() < load.new_share
            named.add(b"\x06" + (rng.randbytes(32) if is_new else known[rng.randrange(len(known))]))
        jwt = rng.randbytes(JWT_BYTES)
        items = len(named).to_bytes(2) + b"".join(sorted(named))
        key_no = numbers[number % len(numbers)]
        rows.append(
            (arrival, sha256(jwt), leaf_hash(jwt), key_no, number, None, now_ms, JWT_BYTES, 1, jwt, items, b"[]")
        )
    texts = [b""] * len(rows)
    store.insert_messages(tx, rows, texts)


def _numbers(tx: Tx) -> list[int]:
    query = sa.select(keys.c.key_no).where(keys.c.org == _ORG).order_by(keys.c.key_no)
    return list(tx.execute(query).scalars())
