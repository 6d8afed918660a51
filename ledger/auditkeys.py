"""Who may sign what, by log order alone: the audit's own register, built from the records as they come."""

from typing import Any

import sqlalchemy as sa

from core.crypto import P256Public, thumbprint
from core.errors import Rejected
from core.jws import split_jws
from core.merkle import leaf_hash, verify_inclusion
from core.message import JWT_BYTES_MAX, TYP, Signed
from core.records import BY_OPERATOR, Record, read_record
from ledger import tiles
from ledger.database import Tx
from ledger.erasure_request import check_request
from ledger.tables import entries, records

MESSAGE_USES = frozenset({"device", "gateway"})


class AuditedKeys:
    """Organisations' and devices' keys as the log has told them so far.

    Args:
        size, root: where an earlier audit stopped; records below it are fetched when they are needed, and each is held
            against this root first. 0: nothing is known yet.
    """

    def __init__(self, tx: Tx, origin: str, size: int = 0, root: bytes = b"") -> None:
        self._tx = tx
        self._origin = origin
        self._size, self._root = size, root
        self._orgs: dict[str, tuple[P256Public, int]] = {}
        self._keys: dict[str, dict[str, Any] | None] = {}
        self._publics: dict[str, P256Public] = {}
        self._ends: dict[str, tuple[str | None, int] | None] = {}
        self._erasures: dict[tuple[int, int], set[str]] | None = None
        if size:
            for record in self._below("org"):
                self.check_record(record)

    def check_record(self, record: Record) -> str | None:
        """Why the record is not authentic, None when it is; it counts from here on."""
        payload = record.payload
        if payload["log"] != self._origin:
            return "it is of another log"
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
            if self._key(payload["kid"]) is not None:
                return "its key had a record before"
            self._keys[payload["kid"]] = dict(payload)
        elif record.t == "end":
            return self._check_end(payload)
        elif record.t == "erasure":
            return self._check_erasure(payload)
        return None

    def check_message(self, jwt: bytes, signed: Signed, row: Any) -> str | None:
        """Why the message is not authentic, None when it is. ``row`` is the register's row it refers to."""
        known = self._key(signed.kid)
        if known is None:
            return "no key record of its key stands before it"
        named = (known["org"], known["iss"])
        if (signed.org, signed.iss) != named or row.kid != signed.kid or (row.org, row.iss) != named:
            return "it names another device than its key's record"
        if known["use"] not in MESSAGE_USES:
            return "its key's record does not let it sign messages"
        end = self._end(signed.kid)
        if end is not None and signed.seq > end[1]:
            return "its key had ended before it"
        if signed.kid not in self._publics:
            self._publics[signed.kid] = P256Public.from_jwk(known["jwk"])
        try:
            split_jws(jwt, typ=TYP, bytes_max=JWT_BYTES_MAX).check(self._publics[signed.kid])
        except Rejected as error:
            return error.message
        return None

    def iss_of(self, kid: str) -> str | None:
        """The device whose key this is, as a ``key`` record before has told."""
        known = self._key(kid)
        return None if known is None else str(known["iss"])

    def erased(self, leaf: int, event: int) -> set[str]:
        """The members of an event that the erasure records of the whole log name."""
        if self._erasures is None:
            self._erasures = {}
            query = sa.select(records.c.raw).join(entries, entries.c.arrival == records.c.arrival)
            for data in self._tx.execute(query.where(records.c.t == "erasure")).scalars():
                try:
                    payload = read_record(bytes(data)).payload
                except Rejected:
                    continue
                self._erasures.setdefault((payload["leaf"], payload["event"]), set()).update(payload["names"])
        return self._erasures.get((leaf, event), set())

    def _check_end(self, payload: Any) -> str | None:
        known = self._key(payload["kid"])
        if known is None or known["org"] != payload["org"]:
            return "it ends a key that its organisation does not have"
        if self._end(payload["kid"]) is not None:
            return "its key had ended before"
        self._ends[payload["kid"]] = (payload["last"], payload["seq"])
        return None

    def _check_erasure(self, payload: Any) -> str | None:
        known = self._orgs.get(payload["org"])
        if known is None:
            return "the owner of the data has no org record before it"
        try:
            check_request(payload, known[0])
        except Rejected as error:
            return error.message
        return None

    def _key(self, kid: str) -> dict[str, Any] | None:
        if kid not in self._keys:
            found = self._below("key", f"key:{kid}") if self._size else []
            self._keys[kid] = dict(found[0].payload) if found else None
        return self._keys[kid]

    def _end(self, kid: str) -> tuple[str | None, int] | None:
        if kid not in self._ends:
            found = self._below("end", f"end:{kid}") if self._size else []
            self._ends[kid] = (found[0].payload["last"], found[0].payload["seq"]) if found else None
        return self._ends[kid]

    def _below(self, kind: str, once: str | None = None) -> list[Record]:
        """Records that an earlier audit has checked, each held against the root it computed then."""
        query = sa.select(entries.c.leaf, records.c.raw).join(entries, entries.c.arrival == records.c.arrival)
        query = query.where(records.c.t == kind, entries.c.leaf < self._size).order_by(entries.c.leaf)
        if once is not None:
            query = query.where(records.c.once == once)
        found = []
        for leaf, data in self._tx.execute(query).all():
            proof = tiles.inclusion_proof(self._tx, leaf, self._size)
            try:
                verify_inclusion(leaf, self._size, leaf_hash(bytes(data)), proof, self._root)
                found.append(read_record(bytes(data)))
            except Rejected:
                # It is not the record that was logged: it lends nobody authority. What leans on it is then named.
                continue
        return found

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
