"""Answers to devices: promises of inclusion and refusals, signed in bulk under one signature."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from core.crypto import P256Private
from core.receipts import HEARTBEAT_S, PROMISE_S, promise, refusal, sign_receipts
from ingest.tables import promises
from ingest.topics import DeviceName
from ledger.database import Tx, is_sqlite


@dataclass(frozen=True)
class Terms:
    """What a receipt promises: a leaf within ``promise_s``, a heartbeat within ``heartbeat_s`` more."""

    promise_s: int = PROMISE_S
    heartbeat_s: int = HEARTBEAT_S


class Answer(NamedTuple):
    """The payload of a receipt and the device it goes to."""

    name: DeviceName
    payload: dict[str, Any]


class Promises:
    """Which terms were in force when, so that a duplicate gets the terms of its first receipt."""

    def __init__(self, history: Sequence[tuple[int, Terms]]) -> None:
        self._times = [from_s for from_s, _ in history]
        self._terms = [terms for _, terms in history]

    @classmethod
    def put_in_force(cls, tx: Tx, terms: Terms, *, now_s: int) -> "Promises":
        """The history with ``terms`` in force from now on."""
        history = _history(tx)
        if not history or history[-1][1] != terms:
            from_s = 0 if not history else max(now_s, history[-1][0] + 1)
            row = {"from_s": from_s, "promise_s": terms.promise_s, "heartbeat_s": terms.heartbeat_s}
            insert = insert_sqlite if is_sqlite(tx) else insert_postgres
            # Two workers that start together write the same row.
            tx.execute(insert(promises).values(row).on_conflict_do_nothing())
            history = _history(tx)
        return cls(history)

    def at(self, accepted_s: int) -> Terms:
        """The terms for a message accepted at ``accepted_s``."""
        return self._terms[max(0, bisect.bisect_right(self._times, accepted_s) - 1)]


def _history(tx: Tx) -> list[tuple[int, Terms]]:
    query = sa.select(promises.c.from_s, promises.c.promise_s, promises.c.heartbeat_s).order_by(promises.c.from_s)
    return [(row[0], Terms(row[1], row[2])) for row in tx.execute(query)]


def promised(
    name: DeviceName,
    *,
    aud: str,
    log: str,
    message_id: bytes,
    leaf_hash: bytes,
    publish: bytes,
    accepted_ms: int,
    history: Promises,
) -> Answer:
    """The promise for a stored message, equal for each duplicate of the same bytes."""
    accepted_s = accepted_ms // 1000
    terms = history.at(accepted_s)
    payload = promise(
        aud=aud,
        log=log,
        message=message_id,
        leaf=leaf_hash,
        publish=publish,
        accepted_at=accepted_s,
        promise_s=terms.promise_s,
        heartbeat_s=terms.heartbeat_s,
    )
    return Answer(name, payload)


def refused(name: DeviceName, *, aud: str, log: str, message_id: bytes, publish: bytes, code: str) -> Answer:
    """The refusal of an authentic message."""
    return Answer(name, refusal(aud=aud, log=log, message=message_id, publish=publish, code=code))


def sign_answers(answers: Sequence[Answer], key: P256Private, *, aud: str, log: str) -> list[tuple[str, bytes]]:
    """Topic and bytes of each answer, all under one signature."""
    signed = sign_receipts([answer.payload for answer in answers], key, aud=aud, log=log)
    return [(answer.name.receipts, data) for answer, data in zip(answers, signed, strict=True)]
