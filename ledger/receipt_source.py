"""The log's bytes for the receipt auditor, from the database; the public routes serve the same."""

from typing import Any

import sqlalchemy as sa

from core.canonical import b64u
from core.records import read_record
from ledger import tiles
from ledger.database import Database, Tx
from ledger.tables import checkpoints, entries, records

STATES_MAX = 1_000
RECORDS_MAX = 10_000


def states_below(tx: Tx, below: int, limit: int = STATES_MAX) -> list[bytes]:
    """The state leaves at leaves below ``below``, newest first."""
    query = sa.select(checkpoints.c.state).where(checkpoints.c.size <= below)
    rows = tx.execute(query.order_by(checkpoints.c.size.desc()).limit(min(limit, STATES_MAX))).scalars()
    return [bytes(state) for state in rows]


def receipt_key_records(tx: Tx) -> list[tuple[int, bytes]]:
    """(leaf, entry) of the operators' ``org`` records and of the ``key`` records whose use is receipt."""
    found: list[tuple[int, bytes]] = []
    operators: set[str] = set()
    for leaf, data in _records(tx, records.c.t == "org"):
        payload = read_record(data).payload
        if payload["roles"] & 1:
            operators.add(payload["org"])
            found.append((leaf, data))
    # The operator's organisation has few keys of its own; devices belong to others.
    for leaf, data in _records(tx, (records.c.t == "key") & records.c.org.in_(sorted(operators))):
        if read_record(data).payload["use"] == "receipt":
            found.append((leaf, data))
    return sorted(found)


def refusal_record(tx: Tx, message: str, *, kid: str | None = None) -> tuple[int, bytes] | None:
    """(leaf, entry) of a message's ``refusal`` record.

    Args:
        message: its id, base64url. kid: its key, when it is known; otherwise all refusals are read.
    """
    where = records.c.t == "refusal"
    if kid is not None:
        where &= records.c.subject_kid == kid
    found = (one for one in _records(tx, where) if read_record(one[1]).payload["message"] == message)
    return next(found, None)


class DatabaseSource:
    """The log's bytes from our own database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tile(self, number: int, width: int) -> bytes:
        """A level-0 hash tile."""
        with self._database.reading() as tx:
            return tiles.tile(tx, 0, number, width)

    def states(self, below: int) -> list[bytes]:
        """State leaves below a leaf, newest first."""
        with self._database.reading() as tx:
            return states_below(tx, below)

    def receipt_keys(self) -> list[tuple[int, bytes]]:
        """The records that receipt keys rest on."""
        with self._database.reading() as tx:
            return receipt_key_records(tx)

    def refusal(self, message: bytes) -> tuple[int, bytes] | None:
        """A message's refusal record."""
        with self._database.reading() as tx:
            return refusal_record(tx, b64u(message))


def _records(tx: Tx, where: Any) -> list[tuple[int, bytes]]:
    query = sa.select(entries.c.leaf, records.c.raw).join(entries, entries.c.arrival == records.c.arrival)
    rows = tx.execute(query.where(where).order_by(entries.c.leaf).limit(RECORDS_MAX)).all()
    return [(row.leaf, bytes(row.raw)) for row in rows]
