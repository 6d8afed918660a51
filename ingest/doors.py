"""The broker's doors: a device whose key counts is let in, one without an open key is shut out."""

from collections.abc import Callable
from typing import Protocol

import sqlalchemy as sa

from core.errors import Rejected
from ingest.topics import DeviceName, device_name
from ledger.database import Database, Tx
from ledger.tables import counters, key_ends, keys


class Access(Protocol):
    """Who may log in at the broker (``ingest.access.BrokerAccess``)."""

    def devices(self) -> set[DeviceName]:
        """The devices that may log in now."""

    def add(self, name: DeviceName, password: str | None = None) -> str:
        """Let one device in, or give it a new password; returns the password."""

    def remove(self, name: DeviceName) -> None:
        """Shut one device out and disconnect it."""


class Doors:
    """Keeps the broker's list of devices in step with the register of keys.

    Args:
        access: gives the broker's access, None where the broker is run by somebody else.
    """

    def __init__(self, database: Database, access: Callable[[], Access | None]) -> None:
        self._database = database
        self._access = access
        self._seen = -1

    def let_in(self, org: str, iss: str) -> str:
        """Let a device in under a fresh password, which is given this once; "" where the broker is not ours.

        Raises:
            Unavailable: the broker does not answer.
        """
        access = self._access()
        return "" if access is None else access.add(device_name(org, iss))

    def shut_out(self, org: str, iss: str) -> bool:
        """Shut a device out when it has no open key any more; whether it was.

        Raises:
            Unavailable: the broker does not answer.
        """
        with self._database.reading() as tx:
            is_open = (org, iss) in _open(tx, org=org)
        access = self._access()
        if is_open or access is None:
            return False
        access.remove(device_name(org, iss))
        return True

    def tidy(self) -> int:
        """Shut out every device whose keys have all ended; gives how many. Looks only when the register has changed.

        Raises:
            Unavailable: broker or database are away; call again.
        """
        with self._database.reading() as tx:
            version = int(tx.execute(sa.select(counters.c.value).where(counters.c.name == "register")).scalar_one())
            if version == self._seen:
                return 0
            ended = {_name(org, iss) for org, iss in _ended(tx)} - {_name(org, iss) for org, iss in _open(tx)}
        access = self._access()
        gone = set() if access is None else ended & access.devices()
        for name in gone:
            if access is not None and name is not None:
                access.remove(name)
        self._seen = version
        return len(gone)


def _open(tx: Tx, *, org: str | None = None) -> set[tuple[str, str]]:
    """(org, iss) of devices with a key that has no ``end`` record."""
    query = sa.select(keys.c.org, keys.c.iss).outerjoin(key_ends, key_ends.c.kid == keys.c.kid)
    query = query.where(keys.c.use == "device", key_ends.c.kid.is_(None))
    if org is not None:
        query = query.where(keys.c.org == org)
    return {(row.org, row.iss) for row in tx.execute(query)}


def _ended(tx: Tx) -> set[tuple[str, str]]:
    query = sa.select(keys.c.org, keys.c.iss).join(key_ends, key_ends.c.kid == keys.c.kid)
    return {(row.org, row.iss) for row in tx.execute(query.where(keys.c.use == "device"))}


def _name(org: str, iss: str) -> DeviceName | None:
    try:
        return device_name(org, iss)
    except Rejected:
        return None
