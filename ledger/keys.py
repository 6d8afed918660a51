"""The register of organisations' and devices' keys, by log order."""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.canonical import unb64u
from core.crypto import P256Public, thumbprint
from core.prefixmap import map_key
from core.records import Record, read_record
from ledger.database import Database, Tx
from ledger.tables import counters, key_ends, keys, masters, orgs, records

CACHE_MAX = 200_000


@dataclass(frozen=True)
class KeyInfo:
    """A key whose ``key`` record is sequenced.

    Attributes:
        scope: what it may sign; absent members do not limit.
        is_ended: an ``end`` record is stored (sequenced or not).
        last: id of its last good message, None when there is none or no end.
        last_seq: the seq of ``last``, -1 when there is none; None without an end.
        leaf: where its ``key`` record stands in the log.
        end_leaf: where its ``end`` record stands, None while it waits or when there is none.
    """

    key_no: int
    kid: str
    public: P256Public
    org: str
    iss: str
    use: str
    scope: Mapping[str, Any]
    leaf: int
    is_ended: bool
    last: bytes | None
    last_seq: int | None
    end_leaf: int | None


@dataclass(frozen=True)
class OrgInfo:
    """An organisation as its newest ``org`` record says; ``leaf`` is None while the record waits."""

    org: str
    name: str
    roles: int
    account: str
    kid: str
    public: P256Public
    version: int
    place: Mapping[str, Any]
    leaf: int | None


class KeyRegister:
    """The register with a cache for hot look-ups; safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._version = -1
        self._cache: dict[str, KeyInfo | None] = {}

    def lookup(self, kid: str) -> KeyInfo | None:
        """The key's newest standing, or None when no ``key`` record of it is sequenced."""
        with self._database.reading() as tx:
            self.refresh(tx)
            return self.find(tx, kid)

    def remembered(self, kids: Iterable[str]) -> tuple[dict[str, KeyInfo | None], int] | None:
        """What is known of these keys without asking, and the version of the register it was true in.

        None unless all are known to be in the log. Whoever acts on it must see that the version still holds.
        """
        with self._lock:
            found = {kid: self._cache.get(kid) for kid in kids}
            return None if None in found.values() else (found, self._version)

    def refresh(self, tx: Tx) -> int:
        """Forget what is no longer so; call it once per bulk of look-ups, then :meth:`find` for each.

        Gives the version of the register: a number that changes with every key that comes or ends.
        """
        version = tx.execute(sa.select(counters.c.value).where(counters.c.name == "register")).scalar_one()
        with self._lock:
            if version != self._version or len(self._cache) > CACHE_MAX:
                self._cache.clear()
                self._version = version
        return int(version)

    def find(self, tx: Tx, kid: str) -> KeyInfo | None:
        """The key as of the last :meth:`refresh`."""
        found = self._cache.get(kid)
        if found is None and kid not in self._cache:
            found = key_info(tx, kid)
            with self._lock:
                self._cache[kid] = found
        return found


def key_info(tx: Tx, kid: str) -> KeyInfo | None:
    """The key's standing in this snapshot."""
    joined = sa.outerjoin(keys, key_ends, keys.c.kid == key_ends.c.kid)
    query = sa.select(keys, key_ends.c.last, key_ends.c.seq.label("end_seq"), key_ends.c.leaf.label("end_leaf"))
    row = tx.execute(query.select_from(joined).where(keys.c.kid == kid)).one_or_none()
    return None if row is None else _key_info(row)


def keys_of(tx: Tx, *, org: str | None = None, iss: str | None = None, use: str | None = None) -> list[KeyInfo]:
    """All keys of an organisation, a device or a use, oldest first."""
    joined = sa.outerjoin(keys, key_ends, keys.c.kid == key_ends.c.kid)
    query = sa.select(keys, key_ends.c.last, key_ends.c.seq.label("end_seq"), key_ends.c.leaf.label("end_leaf"))
    query = query.select_from(joined).order_by(keys.c.leaf)
    for column, value in ((keys.c.org, org), (keys.c.iss, iss), (keys.c.use, use)):
        if value is not None:
            query = query.where(column == value)
    return [_key_info(row) for row in tx.execute(query)]


def org_info(tx: Tx, org: str) -> OrgInfo | None:
    """The organisation by its newest ``org`` record in arrival order, sequenced or waiting."""
    query = sa.select(records.c.raw).where(records.c.org == org, records.c.t == "org")
    data = tx.execute(query.order_by(records.c.arrival.desc()).limit(1)).scalar_one_or_none()
    return None if data is None else _org_info(tx, read_record(data))


def all_orgs(tx: Tx) -> list[OrgInfo]:
    """Every organisation in its newest form, in order of its id."""
    names = tx.execute(sa.select(records.c.org).where(records.c.t == "org").distinct().order_by(records.c.org))
    found = (org_info(tx, name) for name in names.scalars().all())
    return [info for info in found if info is not None]


def operator_by_kid(tx: Tx, kid: str) -> OrgInfo | None:
    """The organisation with the operator role whose newest record names this key, or None."""
    query = sa.select(records.c.org).where(records.c.t == "org", records.c.subject_kid == kid).distinct()
    for org in tx.execute(query).scalars().all():
        info = org_info(tx, org)
        if info is not None and info.kid == kid and info.roles & 1:
            return info
    return None


def has_operator(tx: Tx) -> bool:
    """Whether any ``org`` record is stored yet; the first one signs itself."""
    return tx.execute(sa.select(records.c.arrival).where(records.c.t == "org").limit(1)).first() is not None


def bump(tx: Tx) -> None:
    """Tell every cache that the register changed; the row also serialises such changes."""
    tx.execute(counters.update().where(counters.c.name == "register").values(value=counters.c.value + 1))


def apply_records(tx: Tx, sequenced: Sequence[tuple[int, Record]]) -> None:
    """Take newly sequenced ``key``, ``end``, ``org`` and ``master`` records into the register.

    Args:
        sequenced: leaf index and record, in log order.
    """
    is_changed = False
    for leaf, record in sequenced:
        payload = record.payload
        if record.t == "key":
            row = {name: payload[name] for name in ("kid", "org", "iss", "use")}
            row |= {"scope": _dump(payload["scope"]), "jwk": _dump(payload["jwk"]), "leaf": leaf}
            tx.execute(keys.insert().values(device_key=map_key("device", payload["iss"]), **row))
        elif record.t == "end":
            tx.execute(key_ends.update().where(key_ends.c.kid == payload["kid"]).values(leaf=leaf))
        elif record.t == "org":
            row = {name: payload[name] for name in ("org", "version", "name", "roles", "account")}
            row |= {"kid": thumbprint(payload["jwk"]), "jwk": _dump(payload["jwk"]), "place": _dump(payload["place"])}
            tx.execute(orgs.insert().values(leaf=leaf, **row))
        elif record.t == "master":
            row = {name: payload[name] for name in ("subject", "fact", "org")}
            tx.execute(masters.insert().values(leaf=leaf, value=_dump(payload["value"]), **row))
        is_changed |= record.t in ("key", "end", "org")
    if is_changed:
        bump(tx)


def store_end(tx: Tx, payload: Mapping[str, Any], arrival: int) -> None:
    """An ``end`` record counts from its arrival on: what comes later is held against it."""
    last = None if payload["last"] is None else unb64u(payload["last"], length=32)
    row = {"kid": payload["kid"], "last": last, "seq": payload["seq"], "reason": payload["reason"]}
    tx.execute(key_ends.insert().values(arrival=arrival, **row))
    bump(tx)


def key_numbers(tx: Tx, kids: Iterable[str]) -> dict[str, int]:
    """The numbers under which the messages table knows these keys; unknown ones are left out."""
    wanted = sorted(set(kids))
    found: dict[str, int] = {}
    for start in range(0, len(wanted), 500):
        query = sa.select(keys.c.kid, keys.c.key_no).where(keys.c.kid.in_(wanted[start : start + 500]))
        found.update((kid, number) for kid, number in tx.execute(query))
    return found


def _key_info(row: Any) -> KeyInfo:
    return KeyInfo(
        key_no=row.key_no,
        kid=row.kid,
        public=P256Public.from_jwk(json.loads(row.jwk)),
        org=row.org,
        iss=row.iss,
        use=row.use,
        scope=json.loads(row.scope),
        leaf=row.leaf,
        is_ended=row.end_seq is not None,
        last=row.last,
        last_seq=row.end_seq,
        end_leaf=row.end_leaf,
    )


def _org_info(tx: Tx, record: Record) -> OrgInfo:
    payload = record.payload
    query = sa.select(orgs.c.leaf).where(orgs.c.org == payload["org"], orgs.c.version == payload["version"])
    return OrgInfo(
        org=payload["org"],
        name=payload["name"],
        roles=payload["roles"],
        account=payload["account"],
        kid=thumbprint(payload["jwk"]),
        public=P256Public.from_jwk(payload["jwk"]),
        version=payload["version"],
        place=payload["place"],
        leaf=tx.execute(query.order_by(orgs.c.leaf.desc()).limit(1)).scalar_one_or_none(),
    )


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
