"""Who may sign what, by log order alone: the audit's own register, built from the records as they come."""

from typing import Any

import sqlalchemy as sa

from core.crypto import P256Public, thumbprint
from core.errors import Rejected
from core.jws import split_jws
from core.message import JWT_BYTES_MAX, TYP, Signed
from core.records import BY_OPERATOR, Record, read_record
from ledger.database import Tx
from ledger.tables import entries, records


class AuditedKeys:
    """Organisations' and devices' keys as the log has told them so far."""

    def __init__(self) -> None:
        self._orgs: dict[str, tuple[P256Public, int]] = {}
        self._keys: dict[str, tuple[P256Public, str, str]] = {}
        self._erasures: dict[tuple[int, int], int] | None = None

    def check_record(self, record: Record) -> str | None:
        """Why the record is not authentic, None when it is; it counts from here on."""
        payload = record.payload
        public = self._signer(record)
        if public is None:
            return "its signer may not say this"
        try:
            record.jws.check(public)
        except Rejected as error:
            return error.message
        if record.t == "org":
            self._orgs[payload["org"]] = (P256Public.from_jwk(payload["jwk"]), payload["roles"])
        elif record.t == "key":
            if payload["kid"] in self._keys:
                return "its key had a record before"
            self._keys[payload["kid"]] = (P256Public.from_jwk(payload["jwk"]), payload["org"], payload["iss"])
        return None

    def iss_of(self, kid: str) -> str | None:
        """The device of a key by its ``key`` record, None while none came."""
        known = self._keys.get(kid)
        return None if known is None else known[2]

    def check_message(self, jwt: bytes, signed: Signed, row: Any) -> str | None:
        """Why the message is not authentic, None when it is. ``row`` is the register's row it refers to."""
        known = self._keys.get(signed.kid)
        if known is None:
            return "no key record of its key stands before it"
        public, org, iss = known
        if (signed.org, signed.iss) != (org, iss) or row.kid != signed.kid or (row.org, row.iss) != (org, iss):
            return "it names another device than its key's record"
        try:
            split_jws(jwt, typ=TYP, bytes_max=JWT_BYTES_MAX).check(public)
        except Rejected as error:
            return error.message
        return None

    def erased(self, leaf: int, event: int, tx: Tx) -> int:
        """How many disclosures of an event the erasure records of the whole log name."""
        if self._erasures is None:
            self._erasures = {}
            query = sa.select(records.c.raw).join(entries, entries.c.arrival == records.c.arrival)
            for data in tx.execute(query.where(records.c.t == "erasure")).scalars():
                payload = read_record(bytes(data)).payload
                place = (payload["leaf"], payload["event"])
                self._erasures[place] = self._erasures.get(place, 0) + len(payload["names"])
        return self._erasures.get((leaf, event), 0)

    def _signer(self, record: Record) -> P256Public | None:
        payload = record.payload
        if record.t not in BY_OPERATOR:
            known = self._orgs.get(payload["org"])
            return known[0] if known and known[0].thumbprint() == record.jws.kid else None
        if record.t == "org" and not self._orgs:
            is_own = payload["roles"] & 1 and thumbprint(payload["jwk"]) == record.jws.kid
            return P256Public.from_jwk(payload["jwk"]) if is_own else None
        for public, roles in self._orgs.values():
            if roles & 1 and public.thumbprint() == record.jws.kid:
                return public
        return None
