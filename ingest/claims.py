"""Enrolment by a one-time claim code: a device proves that it holds a key and a code, its organisation signs the key.

A claim is a JWS by the device's own new key (``typ`` ``tb-claim+jwt``) over ``{"v","aud","iat","code","jwk","giai"}``.
Codes are stored hashed, count once, and expire. The broker's password is made when the key has its place in the log
and is told only to whoever signs with that key; a device that lost it asks again with a newer ``iat``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgres
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from core.canonical import parse_json, sha256
from core.crypto import Jwk, P256Private, P256Public
from core.errors import Conflict, Rejected
from core.identifiers import giai_id, gln_of
from core.jws import Jws, split_jws
from core.records import common, key_members, sign_record
from ingest.claim_tables import claim_codes, claims, key_requests
from ingest.record_rules import newest_message
from ingest.recorddesk import RecordDesk
from ledger.database import Database, Tx, is_sqlite
from ledger.keyfiles import KeyFiles
from ledger.keys import KeyInfo, key_info, keys_of, org_info
from ledger.tables import records

TYP: Final = "tb-claim+jwt"
CLAIM_BYTES_MAX: Final = 4_000
CODE_BYTES: Final = 17
CODES_MAX: Final = 1_000
LIFE_MS: Final = 7 * 86_400_000
LIFE_MS_MAX: Final = 366 * 86_400_000
# How far a device's clock may be off when it asks; it reads ours from GET /factory/devices/claim.
SKEW_S_MAX: Final = 300
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOOKALIKE: Final = str.maketrans("OIL", "011")
_CODE_CHARACTERS: Final = 26


@dataclass(frozen=True)
class Code:
    """A claim code as stored; ``hint`` is its first characters, the rest is known to whoever it was shown to.

    Attributes:
        giai: the one device that it is for, None for any device of the organisation that has no open key.
        state: open, used, revoked or expired.
    """

    id: int
    hint: str
    org: str
    giai: str | None
    scope: Mapping[str, Any]
    made_by: str
    made_ms: int
    expires_ms: int
    used_ms: int | None
    used_kid: str | None
    state: str


@dataclass(frozen=True)
class Claimed:
    """Where a claimed key stands.

    Attributes:
        state: ``unsigned`` (its organisation has to sign ``record``), ``waiting`` (for its place in the log) or
            ``active``.
        record: the payload of the ``key`` record that the organisation signs.
    """

    kid: str
    org: str
    iss: str
    state: str
    record: Mapping[str, Any]
    claimed_ms: int = 0


def new_code(random: Callable[[int], bytes]) -> str:
    """A code of 130 random bits, in groups that people can read out."""
    number = int.from_bytes(random(CODE_BYTES))
    text = "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_CODE_CHARACTERS)))
    return "-".join((text[:6], text[6:11], text[11:16], text[16:21], text[21:]))


def code_hash(text: str) -> bytes:
    """The hash of a code in any spelling: hyphens, spaces and case do not count, O is 0, I and L are 1."""
    plain = "".join(part for part in text.upper().translate(_LOOKALIKE) if part not in "- ")
    return sha256(b"tracebond/claim/1\x00" + plain.encode("utf-8", "replace"))


def make_codes(
    tx: Tx,
    *,
    org: str,
    count: int = 1,
    giai: str | None = None,
    scope: Mapping[str, Any] | None = None,
    made_by: str,
    now_ms: int,
    life_ms: int = LIFE_MS,
    random: Callable[[int], bytes],
) -> list[str]:
    """Store fresh codes as hashes and give their texts, this once.

    Args:
        giai: the device they are for; one code then. A device with an open key gets a new one by it (rotation).
        scope: what keys claimed by them may sign.

    Raises:
        Rejected: ``unknown_organisation``, ``bad_count``, ``bad_expiry`` or the GIAI's fault.
    """
    if org_info(tx, org) is None:
        raise Rejected("The log knows no such organisation.", code="unknown_organisation", pointer="org")
    if not 1 <= count <= (CODES_MAX if giai is None else 1):
        raise Rejected(f"1 to {CODES_MAX} codes at once, for one device one.", code="bad_count", pointer="count")
    if not 0 < life_ms <= LIFE_MS_MAX:
        raise Rejected("A code works for at most a year.", code="bad_expiry", pointer="expires")
    if giai is not None:
        giai_id(giai)
    codes = [new_code(random) for _ in range(count)]
    row = {"org": org, "giai": giai, "scope": json.dumps(dict(scope or {})), "made_by": made_by, "made_ms": now_ms}
    row |= {"expires_ms": now_ms + life_ms}
    tx.execute(claim_codes.insert(), [row | {"code_hash": code_hash(text), "hint": text[:6]} for text in codes])
    return codes


def codes_of(tx: Tx, org: str, *, now_ms: int, limit: int = 200) -> list[Code]:
    """An organisation's codes, newest first."""
    query = sa.select(claim_codes).where(claim_codes.c.org == org).order_by(claim_codes.c.id.desc()).limit(limit)
    return [_code(row, now_ms) for row in tx.execute(query)]


def revoke_code(tx: Tx, code_id: int, *, org: str, now_ms: int) -> None:
    """Make a code of this organisation worthless; one that was used stays used.

    Raises:
        Conflict: ``no_such_code``.
    """
    mine = sa.and_(claim_codes.c.id == code_id, claim_codes.c.org == org)
    if tx.execute(sa.select(claim_codes.c.id).where(mine)).first() is None:
        raise Conflict("There is no such code.", code="no_such_code")
    change = claim_codes.update().where(mine, claim_codes.c.used_ms.is_(None), claim_codes.c.revoked_ms.is_(None))
    tx.execute(change.values(revoked_ms=now_ms))


def unsigned_claims(tx: Tx, org: str, *, limit: int = 200) -> list[Any]:
    """Rows of claims whose ``key`` record nobody has handed in yet, oldest first."""
    query = sa.select(claims).outerjoin(records, records.c.once == sa.literal("key:") + claims.c.kid)
    query = query.where(claims.c.org == org, records.c.arrival.is_(None)).order_by(claims.c.claimed_ms)
    return list(tx.execute(query.limit(limit)))


class ClaimDesk:
    """Takes claims, signs ``key`` records where the organisation's key is kept here.

    Args:
        keyfiles: the platform's keys; None where this process has none, so that every claim waits for its organisation.
    """

    def __init__(
        self, database: Database, records: RecordDesk, *, keyfiles: KeyFiles | None, now_ms: Callable[[], int]
    ) -> None:
        self._database = database
        self._records = records
        self._keyfiles = keyfiles
        self._now_ms = now_ms

    def claim(self, raw: bytes) -> Claimed:
        """Let a device claim its place by code and key; the same claim signed anew tells how far it has come.

        Raises:
            Rejected: ``bad_claim``, ``bad_signature``, ``wrong_audience``, ``stale_request``, ``bad_claim_code``.
            Conflict: ``claim_code_used``, ``claim_code_expired``, ``device_exists``, ``key_exists``.
        """
        jws, payload = _read(raw, {"v", "aud", "iat", "code", "jwk", "giai"}, {"giai"})
        jwk = payload["jwk"]
        public = P256Public.from_jwk(jwk)
        if public.thumbprint() != jws.kid:
            raise Rejected("kid is the thumbprint of jwk.", code="bad_claim", pointer="/jwk")
        jws.check(public)
        self._check_audience(payload)
        with self._database.transaction() as tx:
            self._check_fresh(tx, jws.kid, payload["iat"])
            self._enter(tx, jws.kid, jwk, payload)
            return self._sign(tx, jws.kid)

    def standing(self, kid: str) -> Claimed:
        """How far a claimed key has come; its record is signed here as soon as that can be.

        Raises:
            Conflict: ``no_such_claim``.
        """
        with self._database.transaction() as tx:
            return self._sign(tx, kid)

    def asks_by_key(self, raw: bytes) -> KeyInfo:
        """The device key that signed a request for its connection: ``{"v":1,"aud","iat"}``.

        Raises:
            Rejected: ``bad_claim``, ``unknown_key``, ``bad_signature``, ``stale_request``. Conflict: ``key_ended``.
        """
        jws, payload = _read(raw, {"v", "aud", "iat"}, set())
        with self._database.transaction() as tx:
            key = key_info(tx, jws.kid)
            if key is None or key.use != "device":
                raise Rejected("No device's key record of this key is in the log.", code="unknown_key", pointer="/kid")
            jws.check(key.public)
            self._check_audience(payload)
            if key.is_ended:
                raise Conflict("The key has ended.", code="key_ended")
            self._check_fresh(tx, jws.kid, payload["iat"])
            return key

    def take_over(self, kid: str) -> str | None:
        """End the key that a claimed one replaces, at its newest message; gives its kid, None when there is none.

        Called when the new key is in the log and its device is about to use it.
        """
        with self._database.transaction() as tx:
            row = tx.execute(sa.select(claims).where(claims.c.kid == kid)).first()
            old = None if row is None or row.replaces is None else key_info(tx, row.replaces)
            if old is None or old.is_ended:
                return None
            key = self._organisation_key(tx, old.org)
            if key is None:
                return None
            self.end(tx, old, key, reason=f"rotated to {kid}")
            return old.kid

    def end(
        self, tx: Tx, key: KeyInfo, org_key: P256Private, *, reason: str, last: tuple[str | None, int] | None = None
    ) -> tuple[str | None, int]:
        """Write the ``end`` record of a key whose organisation's key is at hand; its last good message.

        Args:
            last: id and seq of the last good message; None takes the newest that is stored.
        """
        good = newest_message(tx, key.key_no) if last is None else last
        payload = self._common("end", key.org) | {"kid": key.kid, "last": good[0], "seq": good[1], "reason": reason}
        self._records.admit(tx, sign_record(payload, org_key))
        return good

    def organisation_key(self, org: str) -> P256Private | None:
        """The record-signing key of an organisation, None where it keeps that itself."""
        with self._database.reading() as tx:
            return self._organisation_key(tx, org)

    def write(self, tx: Tx, org: str, t: str, members: Mapping[str, Any]) -> bytes:
        """Sign a record for an organisation whose key is kept here, and store it; gives its id.

        Raises:
            Conflict: ``foreign_key``: the organisation keeps its key itself and hands records in.
        """
        key = self._organisation_key(tx, org)
        if key is None:
            raise Conflict(
                "Your organisation keeps its record-signing key itself: sign the record there and send it to "
                "POST /factory/records.",
                code="foreign_key",
            )
        raw = sign_record(self._common(t, org) | dict(members), key)
        return self._records.admit(tx, raw, org=org)[1]

    def _enter(self, tx: Tx, kid: str, jwk: Jwk, payload: Mapping[str, Any]) -> None:
        """Use the code up for this key, once; the same key may come again."""
        code = claim_codes.c
        row = tx.execute(sa.select(claim_codes).where(code.code_hash == code_hash(payload["code"]))).first()
        if row is None or row.revoked_ms is not None:
            raise Rejected("This claim code is unknown or was taken back.", code="bad_claim_code", pointer="/code")
        if row.used_kid == kid:
            return
        now_ms = self._now_ms()
        giai = self._device_of(row, payload)
        iss = giai_id(giai)
        replaces = self._replaced(tx, row, iss, kid)
        open_still = (code.id == row.id, code.used_ms.is_(None), code.revoked_ms.is_(None), code.expires_ms > now_ms)
        used = claim_codes.update().where(*open_still).values(used_ms=now_ms, used_kid=kid)
        if tx.execute(used).rowcount != 1:
            if row.used_ms is None:
                raise Conflict("This claim code has expired; ask for a new one.", code="claim_code_expired")
            raise Conflict("This claim code was used by another key.", code="claim_code_used")
        scope = row.scope
        if replaces is not None and json.loads(scope) == {}:
            scope = json.dumps(dict(replaces.scope))
        claim = {"kid": kid, "code_id": row.id, "org": row.org, "iss": iss, "jwk": json.dumps(jwk), "scope": scope}
        claim |= {"replaces": None if replaces is None else replaces.kid, "claimed_ms": now_ms}
        tx.execute(claims.insert().values(claim))

    def _device_of(self, code: Any, payload: Mapping[str, Any]) -> str:
        told = payload.get("giai")
        if told is not None and not isinstance(told, str):
            raise Rejected("giai is a text.", code="bad_claim", pointer="/giai")
        if code.giai is None and not told:
            raise Rejected("The code is for any device: say which one you are.", code="bad_claim", pointer="/giai")
        if code.giai is not None and told and told != code.giai:
            raise Rejected("The code is for another device.", code="bad_claim_code", pointer="/giai")
        giai = str(code.giai or told)
        try:
            giai_id(giai)
        except Rejected as error:
            raise Rejected(error.message, code=error.code, pointer="/giai") from error
        return giai

    def _replaced(self, tx: Tx, code: Any, iss: str, kid: str) -> KeyInfo | None:
        """The open key of the device, which only a code for this very device may replace."""
        if tx.execute(sa.select(claims.c.kid).where(claims.c.kid == kid)).first() is not None:
            raise Conflict("This key was claimed with another code.", code="key_exists")
        if key_info(tx, kid) is not None:
            raise Conflict("This key has its record already; one for ever.", code="key_exists")
        present = [key for key in keys_of(tx, iss=iss) if not key.is_ended]
        if any(key.org != code.org for key in present):
            raise Conflict("The device belongs to another organisation.", code="device_of_other_org", pointer="/giai")
        if present and code.giai is None:
            raise Conflict(
                "The device has an open key: a new one needs a code for this very device.",
                code="device_exists",
                pointer="/giai",
            )
        return present[-1] if present else None

    def _sign(self, tx: Tx, kid: str) -> Claimed:
        row = tx.execute(sa.select(claims).where(claims.c.kid == kid)).first()
        if row is None:
            raise Conflict("No claim of this key is known.", code="no_such_claim")
        members = key_members(json.loads(row.jwk), iss=row.iss, use="device", scope=json.loads(row.scope))
        payload = self._common("key", row.org) | members
        state = "active"
        if key_info(tx, kid) is None:
            state = "waiting"
            if not _has_record(tx, kid):
                key = self._organisation_key(tx, row.org)
                state = "unsigned" if key is None else "waiting"
                if key is not None:
                    self._records.admit(tx, sign_record(payload, key))
        return Claimed(kid, row.org, row.iss, state, payload, row.claimed_ms)

    def _organisation_key(self, tx: Tx, org: str) -> P256Private | None:
        """The key file of an organisation, when it is the key that its newest ``org`` record names."""
        info = org_info(tx, org)
        name = f"org-{gln_of(org)}"
        if info is None or self._keyfiles is None or not self._keyfiles.has(name):
            return None
        key = self._keyfiles.p256(name)
        return key if key.thumbprint() == info.kid else None

    def _check_audience(self, payload: Mapping[str, Any]) -> None:
        if payload["aud"] != self._records.aud:
            raise Rejected(
                f"The request is for {payload['aud']}, this is {self._records.aud}.",
                code="wrong_audience",
                pointer="/aud",
            )

    def _check_fresh(self, tx: Tx, kid: str, iat: Any) -> None:
        """Refuse what was signed long ago or stands behind a request that came already: somebody replays it."""
        now_s = self._now_ms() // 1_000
        if type(iat) is not int or abs(iat - now_s) > SKEW_S_MAX:
            raise Rejected(
                f"iat is unix seconds within {SKEW_S_MAX} of our clock, which says {now_s}.",
                code="stale_request",
                pointer="/iat",
            )
        insert = insert_sqlite if is_sqlite(tx) else insert_postgres
        put = insert(key_requests).values(kid=kid, iat=iat)
        newer = put.on_conflict_do_update(
            index_elements=["kid"], set_={"iat": put.excluded.iat}, where=key_requests.c.iat < put.excluded.iat
        )
        if tx.execute(newer.returning(key_requests.c.iat)).first() is None:
            raise Rejected(
                "A request of this key with the same iat or a later one came already; sign a new one.",
                code="stale_request",
                pointer="/iat",
            )

    def _common(self, t: str, org: str) -> dict[str, Any]:
        return common(t=t, aud=self._records.aud, log=self._records.log, org=org, iat=self._now_ms() // 1_000)


def _read(raw: bytes, members: set[str], optional: set[str]) -> tuple[Jws, Mapping[str, Any]]:
    jws = split_jws(raw, typ=TYP, bytes_max=CLAIM_BYTES_MAX)
    payload = parse_json(jws.payload, bytes_max=CLAIM_BYTES_MAX, depth_max=3)
    if not isinstance(payload, dict) or not members - optional <= set(payload) <= members:
        raise Rejected(f"The request's members are {', '.join(sorted(members))}.", code="bad_claim")
    if type(payload["v"]) is not int or payload["v"] != 1:
        raise Rejected("v is 1.", code="bad_claim", pointer="/v")
    if "code" in members and not isinstance(payload["code"], str):
        raise Rejected("code is a text.", code="bad_claim", pointer="/code")
    return jws, payload


def _has_record(tx: Tx, kid: str) -> bool:
    return tx.execute(sa.select(records.c.arrival).where(records.c.once == f"key:{kid}")).first() is not None


def _code(row: Any, now_ms: int) -> Code:
    if row.used_ms is not None:
        state = "used"
    elif row.revoked_ms is not None:
        state = "revoked"
    else:
        state = "expired" if row.expires_ms <= now_ms else "open"
    names = ("id", "hint", "org", "giai", "made_by", "made_ms", "expires_ms", "used_ms", "used_kid")
    return Code(**{name: getattr(row, name) for name in names}, scope=json.loads(row.scope), state=state)
