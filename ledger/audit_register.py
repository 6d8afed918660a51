"""The audit of the register: what is kept in columns about organisations, keys and master data is what records say."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from core.canonical import unb64u
from core.crypto import thumbprint
from core.prefixmap import map_key
from core.records import Record
from ledger.database import Tx
from ledger.tables import key_ends, keys, masters, orgs

_KEY = ("kid", "org", "iss", "use")
_ORG = ("org", "version", "name", "roles", "account")
_MASTER = ("subject", "fact", "org")


class Register:
    """The register's rows from a leaf on, held against the records one by one."""

    def __init__(self, tx: Tx, start: int) -> None:
        self._rows: dict[str, dict[int, Any]] = {}
        for name, table in (("key", keys), ("org", orgs), ("master", masters)):
            found = tx.execute(sa.select(table).where(table.c.leaf >= start))
            self._rows[name] = {row.leaf: row for row in found}
        self._ends = {row.kid: row for row in tx.execute(sa.select(key_ends).where(key_ends.c.leaf >= start))}

    def record(self, leaf: int, record: Record) -> Iterator[str]:
        """What the register says of this record that it does not say itself."""
        payload = record.payload
        if record.t == "end":
            row = self._ends.pop(payload["kid"], None)
            last = None if payload["last"] is None else unb64u(payload["last"], length=32)
            said = (leaf, last, payload["seq"], payload["reason"])
            noted = None if row is None else (row.leaf, row.last and bytes(row.last), row.seq, row.reason)
        elif record.t in self._rows:
            row = self._rows[record.t].pop(leaf, None)
            said = _SAID[record.t](payload)
            noted = None if row is None else _noted(record.t, row)
        else:
            return
        if noted != said:
            yield f"The register of keys and names does not say what the {record.t} record at leaf {leaf} says."

    def finish(self) -> Iterator[tuple[int | None, str]]:
        """Rows that no record stands behind."""
        for name, rows in self._rows.items():
            for leaf in rows:
                yield leaf, f"The register has a {name} of leaf {leaf}, where no such record stands."
        for kid in self._ends:
            yield None, f"The register has an end of the key {kid}, and no record says so."


def _said_key(payload: Any) -> tuple[Any, ...]:
    named = tuple(payload[name] for name in _KEY)
    return (*named, payload["scope"], payload["jwk"], map_key("device", payload["iss"]))


def _said_org(payload: Any) -> tuple[Any, ...]:
    named = tuple(payload[name] for name in _ORG)
    return (*named, payload["jwk"], payload["place"], thumbprint(payload["jwk"]))


def _said_master(payload: Any) -> tuple[Any, ...]:
    return (*(payload[name] for name in _MASTER), payload["value"])


_SAID = {"key": _said_key, "org": _said_org, "master": _said_master}


def _noted(kind: str, row: Any) -> tuple[Any, ...] | None:
    try:
        if kind == "key":
            named = tuple(getattr(row, name) for name in _KEY)
            return (*named, json.loads(row.scope), json.loads(row.jwk), bytes(row.device_key))
        if kind == "org":
            named = tuple(getattr(row, name) for name in _ORG)
            return (*named, json.loads(row.jwk), json.loads(row.place), row.kid)
        return (*(getattr(row, name) for name in _MASTER), json.loads(row.value))
    except ValueError:
        return None
