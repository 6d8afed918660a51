"""Partners' programs: API keys with scopes, stored as hashes, and the caller that a request proves to be."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import IntegrityError
from starlette.requests import HTTPConnection

from api.auth.partner_tables import PARTNER, PARTNER_KEY
from api.auth.sessions import identity_of, require_csrf
from api.identity import Identity, Role
from api.problem import Forbidden, Unauthenticated
from api.services import Services
from core.canonical import b64u, sha256, unb64u
from core.errors import Broken, Conflict, Rejected
from core.identifiers import org_id
from ledger.database import Tx
from ledger.disclosure import Reader

CAPTURE: Final = "capture"
QUERY: Final = "query"
SUBSCRIBE: Final = "subscribe"
PLEDGE: Final = "pledge"
TOKENS: Final = "tokens"
# What a key may be allowed to do. A part that needs a scope of its own adds it here.
SCOPES: Final = (CAPTURE, QUERY, SUBSCRIBE, PLEDGE, TOKENS)
# What regulators' staff may do with their session instead of a key.
STAFF_SCOPES: Final = frozenset({QUERY, SUBSCRIBE})

KEY_BYTES: Final = 32
KEY_PREFIX: Final = "tb_"
HINT_CHARACTERS: Final = 9
NAME_CHARACTERS_MAX: Final = 100
DAY_MS: Final = 86_400_000
# The time of last use is written at most once a minute: an authenticated read stays a read.
_USED_STEP_MS: Final = 60_000


@dataclass(frozen=True)
class Caller:
    """Who calls: a partner's program by its key, or a regulator at a browser.

    Attributes:
        partner_id: number of the partner, None for staff.
        name: the partner's or the person's name.
        org: the organisation's id, ``https://id.gs1.org/417/<GLN>``; None for a partner without one.
        is_regulator: whether everything may be seen.
        scopes: what the caller may do.
        key_id: number of the key, None for staff.
        user_id: number of the user, None for a program.
    """

    partner_id: int | None
    name: str
    org: str | None
    is_regulator: bool
    scopes: frozenset[str]
    key_id: int | None = None
    user_id: int | None = None

    @property
    def speaks_as(self) -> str:
        """The organisation in whose name events are captured, and whose events are the caller's own."""
        if self.org is not None:
            return self.org
        return f"urn:tracebond:partner:{self.partner_id}"

    @property
    def client(self) -> str:
        """The ``client`` of ``on_behalf_of``: which program said it."""
        return f"partner/{self.partner_id}/key/{self.key_id}" if self.partner_id is not None else f"user/{self.user_id}"

    @property
    def reader(self) -> Reader:
        """The kind of reader whose disclosure rules hold."""
        return "regulator" if self.is_regulator else "partner"


@dataclass(frozen=True)
class Partner:
    """A partner as stored."""

    id: int
    name: str
    org: str | None
    is_regulator: bool
    created_ms: int
    disabled_ms: int | None


@dataclass(frozen=True)
class PartnerKey:
    """A key as stored; the key itself is known to its owner alone.

    Attributes:
        hint: its first characters, so that people can tell keys apart.
    """

    id: int
    partner_id: int
    hint: str
    scopes: tuple[str, ...]
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    used_ms: int | None

    def is_good(self, now_ms: int) -> bool:
        """Whether it opens anything now."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


def create_partner(tx: Tx, *, name: str, gln: str | None, is_regulator: bool, now_ms: int) -> int:
    """Add a partner and give its number.

    Args:
        gln: the GLN of the organisation it speaks for; None for a program that speaks for none.

    Raises:
        Conflict: ``partner_exists``.
        Rejected: ``bad_name``, or the GLN's fault.
    """
    if not name.strip() or len(name) > NAME_CHARACTERS_MAX:
        raise Rejected(f"A partner's name has 1 to {NAME_CHARACTERS_MAX} characters.", code="bad_name", pointer="/name")
    org = None if gln is None else org_id(gln)
    row = {"name": name, "org": org, "is_regulator": is_regulator, "created_ms": now_ms, "disabled_ms": None}
    try:
        return _number(tx.execute(sa.insert(PARTNER).values(row)))
    except IntegrityError as error:
        raise Conflict(f"There is a partner {name!r} already; give it another name.", code="partner_exists") from error


def partner_named(tx: Tx, name: str) -> Partner:
    """The partner of a name.

    Raises:
        Rejected: ``unknown_partner``.
    """
    row = tx.execute(sa.select(PARTNER).where(PARTNER.c.name == name)).one_or_none()
    if row is None:
        raise Rejected(f"There is no partner {name!r}; `tracebond partner list` names all.", code="unknown_partner")
    return Partner(**row._mapping)


def all_partners(tx: Tx) -> list[Partner]:
    """Every partner, by name."""
    return [Partner(**row._mapping) for row in tx.execute(sa.select(PARTNER).order_by(PARTNER.c.name))]


def disable_partner(tx: Tx, partner_id: int, *, now_ms: int) -> None:
    """Shut a partner out, all its keys at once; what it captured stays."""
    change = sa.update(PARTNER).where(PARTNER.c.id == partner_id, PARTNER.c.disabled_ms.is_(None))
    tx.execute(change.values(disabled_ms=now_ms))


def create_key(
    tx: Tx,
    partner_id: int,
    *,
    scopes: Iterable[str],
    now_ms: int,
    secret: bytes,
    expires_ms: int | None = None,
) -> str:
    """Store the hash of a fresh key and give the key's text, which is not stored anywhere.

    The key holds 256 random bits, so a plain SHA-256 of it cannot be turned back by guessing.

    Args:
        scopes: names out of ``SCOPES``.
        secret: 32 fresh random bytes.
        expires_ms: when it stops to work; None for never.

    Raises:
        Rejected: ``unknown_scope``, ``no_scope`` or ``bad_expiry``.
    """
    names = sorted(set(scopes))
    unknown = [name for name in names if name not in SCOPES]
    if unknown:
        raise Rejected(f"There is no scope {unknown[0]!r}; there are {', '.join(SCOPES)}.", code="unknown_scope")
    if not names:
        raise Rejected(f"A key needs a scope: {', '.join(SCOPES)}.", code="no_scope")
    if expires_ms is not None and expires_ms <= now_ms:
        raise Rejected("A key must expire in the future.", code="bad_expiry")
    if len(secret) != KEY_BYTES:
        raise Broken("A key needs 32 random bytes.", code="bad_token")
    text = KEY_PREFIX + b64u(secret)
    row = {"partner_id": partner_id, "key_hash": sha256(text.encode()), "hint": text[:HINT_CHARACTERS]}
    row |= {"scopes": " ".join(names), "created_ms": now_ms, "expires_ms": expires_ms}
    tx.execute(sa.insert(PARTNER_KEY).values(row | {"revoked_ms": None, "used_ms": None}))
    return text


def keys_of_partner(tx: Tx, partner_id: int) -> list[PartnerKey]:
    """A partner's keys, oldest first."""
    query = sa.select(PARTNER_KEY).where(PARTNER_KEY.c.partner_id == partner_id).order_by(PARTNER_KEY.c.id)
    return [_key(row) for row in tx.execute(query)]


def revoke_key(tx: Tx, key_id: int, *, now_ms: int) -> None:
    """End a key at once; ending it twice changes nothing.

    Raises:
        Rejected: ``unknown_key``.
    """
    if tx.execute(sa.select(PARTNER_KEY.c.id).where(PARTNER_KEY.c.id == key_id)).first() is None:
        raise Rejected(f"There is no key number {key_id}.", code="unknown_key")
    change = sa.update(PARTNER_KEY).where(PARTNER_KEY.c.id == key_id, PARTNER_KEY.c.revoked_ms.is_(None))
    tx.execute(change.values(revoked_ms=now_ms))


def rotate_key(tx: Tx, key_id: int, *, now_ms: int, secret: bytes, overlap_ms: int = 0) -> str:
    """A new key with the same scopes; the old one works for ``overlap_ms`` more, so that programs can change over.

    Raises:
        Rejected: ``unknown_key``; ``key_ended`` when it works no longer.
    """
    row = tx.execute(sa.select(PARTNER_KEY).where(PARTNER_KEY.c.id == key_id)).one_or_none()
    if row is None:
        raise Rejected(f"There is no key number {key_id}.", code="unknown_key")
    old = _key(row)
    if not old.is_good(now_ms):
        raise Rejected(f"Key number {key_id} has ended; create a new one.", code="key_ended")
    text = create_key(tx, old.partner_id, scopes=old.scopes, now_ms=now_ms, secret=secret, expires_ms=old.expires_ms)
    ends = now_ms + overlap_ms
    end = ends if old.expires_ms is None else min(ends, old.expires_ms)
    tx.execute(sa.update(PARTNER_KEY).where(PARTNER_KEY.c.id == key_id).values(expires_ms=end))
    return text


def caller_by_key(tx: Tx, text: str, *, now_ms: int) -> tuple[Caller, bool] | None:
    """The caller of a key that works, and whether its time of last use is due to be written; else None."""
    if not text.startswith(KEY_PREFIX):
        return None
    try:
        unb64u(text.removeprefix(KEY_PREFIX), length=KEY_BYTES)
    except Rejected:
        return None
    query = (
        sa.select(PARTNER_KEY, PARTNER.c.name, PARTNER.c.org, PARTNER.c.is_regulator)
        .join(PARTNER, PARTNER.c.id == PARTNER_KEY.c.partner_id)
        .where(PARTNER_KEY.c.key_hash == sha256(text.encode()), PARTNER.c.disabled_ms.is_(None))
    )
    row = tx.execute(query).one_or_none()
    if row is None or row.revoked_ms is not None or (row.expires_ms is not None and row.expires_ms <= now_ms):
        return None
    caller = Caller(
        partner_id=row.partner_id,
        name=row.name,
        org=row.org,
        is_regulator=row.is_regulator,
        scopes=frozenset(row.scopes.split()),
        key_id=row.id,
    )
    return caller, row.used_ms is None or now_ms - row.used_ms > _USED_STEP_MS


def note_use(tx: Tx, key_id: int, *, now_ms: int) -> None:
    """Write when a key was last used."""
    tx.execute(sa.update(PARTNER_KEY).where(PARTNER_KEY.c.id == key_id).values(used_ms=now_ms))


@lru_cache
def require(scope: str | None) -> Callable[[HTTPConnection], Awaitable[Caller]]:
    """A dependency that gives the caller, who must hold ``scope``; None: whoever proves to be somebody.

    Accepted are ``Authorization: Bearer tb_..``, ``X-API-Key: tb_..``, ``Authorization: Basic`` with the key as
    password, and the session of a regulator's user (with its CSRF token on anything but a read).

    Raises:
        Unauthenticated: no key, or one that does not work. Forbidden: ``scope`` is not among its scopes.
    """

    async def dependency(connection: HTTPConnection) -> Caller:
        # The database is asked in a thread: an event loop that waits for it would hold up everybody.
        caller = await run_in_threadpool(_caller, connection)
        if scope is not None and scope not in caller.scopes:
            raise Forbidden(f"This needs the scope {scope}; ask the operator for a key that has it.")
        if caller.user_id is not None and connection.scope.get("method", "GET") not in ("GET", "HEAD"):
            request = connection if isinstance(connection, Request) else Request(connection.scope, _receive(connection))
            await require_csrf(request, connection.state.identity)
        connection.state.caller = caller
        return caller

    return dependency


def caller_of(connection: HTTPConnection) -> Caller:
    """The caller of a request that passed :func:`require`."""
    found = getattr(connection.state, "caller", None)
    if not isinstance(found, Caller):
        raise Unauthenticated("Send an API key.")
    return found


def key_in(connection: HTTPConnection) -> str:
    """The key that a request carries, "" for none."""
    direct = connection.headers.get("x-api-key", "")
    if direct:
        return direct
    kind, _, rest = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode("ascii").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    return ""


def _caller(connection: HTTPConnection) -> Caller:
    services: Services = connection.app.state.services
    text = key_in(connection)
    if text:
        now_ms = services.now_ms()
        with services.db.reading() as tx:
            found = caller_by_key(tx, text, now_ms=now_ms)
        if found is None:
            raise Unauthenticated("This API key is unknown, expired or revoked.")
        caller, is_due = found
        if is_due and caller.key_id is not None:
            with services.db.transaction() as tx:
                note_use(tx, caller.key_id, now_ms=now_ms)
        return caller
    identity = identity_of(connection)
    connection.state.identity = identity
    if identity is None:
        raise Unauthenticated("Send an API key: Authorization: Bearer tb_...")
    if not identity.has(Role.REGULATOR):
        raise Forbidden("Programs use this with an API key; among people only regulators may.")
    return _staff(identity)


def _staff(identity: Identity) -> Caller:
    return Caller(None, identity.name, identity.org, True, STAFF_SCOPES, user_id=identity.user_id)


def _receive(connection: HTTPConnection) -> Any:
    return getattr(connection, "receive", None) or getattr(connection, "_receive", None)


def _key(row: Any) -> PartnerKey:
    return PartnerKey(
        id=row.id,
        partner_id=row.partner_id,
        hint=row.hint,
        scopes=tuple(row.scopes.split()),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
        used_ms=row.used_ms,
    )


def _number(result: Any) -> int:
    return int(result.inserted_primary_key[0])
