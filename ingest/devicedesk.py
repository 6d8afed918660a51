"""All that an organisation does with its devices, for pages, routes and the command line alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from core.canonical import unb64u
from core.crypto import Jwk, thumbprint
from core.errors import Conflict, Rejected, Unavailable
from core.records import key_members
from ingest.claims import ClaimDesk, make_codes
from ingest.doors import Doors
from ingest.enrolment import Wanted
from ingest.record_rules import newest_message
from ingest.recorddesk import RecordDesk
from ingest.topics import device_name
from ledger.database import Database, Tx
from ledger.keys import KeyInfo, key_info
from ledger.tables import messages

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Imported:
    """What became of one row of an import: a key in the log, or a code for the device."""

    line: int
    giai: str
    kid: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class DeviceDesk:
    """The desk.

    Attributes:
        records: takes signed records. claims: claim codes and the records that are signed here. doors: the broker's.
        broker: gives the address that devices connect to, without credentials.
        receipt_keys: public keys by which receipts are signed.
    """

    database: Database
    records: RecordDesk
    claims: ClaimDesk
    doors: Doors
    broker: Callable[[], str]
    receipt_keys: tuple[Jwk, ...]
    now_ms: Callable[[], int]
    random: Callable[[int], bytes]

    def connection(self, org: str, iss: str, kid: str, password: str) -> dict[str, Any]:
        """What a device needs to connect, as JSON."""
        name = device_name(org, iss)
        return {
            "broker": self.broker(), "client_id": name.username, "username": name.username, "password": password,
            "publish": name.events, "subscribe": [name.receipts, name.commands], "kid": kid, "aud": self.records.aud,
            "log": self.records.log, "org": org, "iss": iss, "receipt_keys": list(self.receipt_keys),
        }  # fmt: skip

    def open_connection(self, kid: str) -> dict[str, Any]:
        """Give the device of a key that is in the log a fresh password; a key that it replaces ends now.

        Raises:
            Rejected: ``unknown_key``. Conflict: ``key_ended``. Unavailable: the broker is away.
        """
        with self.database.reading() as tx:
            key = _device_key(tx, kid)
        self.claims.take_over(kid)
        password = self.doors.let_in(key.org, key.iss)
        return self.connection(key.org, key.iss, kid, password)

    def is_in_log(self, kid: str) -> bool:
        """Whether the key's record has its place in the log."""
        with self.database.reading() as tx:
            return key_info(tx, kid) is not None

    def shut_out_of(self, kid: str) -> None:
        """Shut out the device of a key that has ended, where it has no other and the broker answers."""
        with self.database.reading() as tx:
            key = key_info(tx, kid)
        if key is None or key.use != "device":
            return
        try:
            self.doors.shut_out(key.org, key.iss)
        except Unavailable as error:
            # The register of keys decides what counts; the loop that tidies the broker's list comes by later.
            _log.warning("door_left_open", device=key.iss, reason=error.message)

    def end(
        self, kid: str, *, org: str | None = None, reason: str, last: str | None = None, is_nothing_good: bool = False
    ) -> tuple[str | None, int]:
        """End a key and shut its device out where it has no other; id and seq of the last good message.

        Args:
            org: the organisation that asks; another one's key is unknown to it.
            last: id of the last good message; None takes the newest that is stored, by seq.
            is_nothing_good: nothing that the key ever signed counts.

        Raises:
            Rejected: ``unknown_key``, ``unknown_message``, ``missing_reason``. Conflict: ``key_ended``,
                ``foreign_key``.
        """
        if not reason.strip():
            raise Rejected("An end needs a reason.", code="missing_reason", pointer="reason")
        with self.database.transaction() as tx:
            key = _device_key(tx, kid, org=org, is_any_use=True)
            good = (None, -1) if is_nothing_good else last_good(tx, key, last)
            members = {"kid": kid, "last": good[0], "seq": good[1], "reason": reason.strip()}
            self.claims.write(tx, key.org, "end", members)
        self.shut_out_of(kid)
        return good

    def enrol(self, org: str, wanted: Sequence[tuple[int, Wanted]], *, made_by: str) -> list[Imported]:
        """Enrol devices of one organisation, all or none: a ``key`` record for each public key, a code for the rest.

        Args:
            wanted: line of the file, and the device.

        Raises:
            Rejected, Conflict: what a record breaks, with the line in the pointer.
        """
        done: list[Imported] = []
        with self.database.transaction() as tx:
            for line, device in wanted:
                try:
                    done.append(self._enrol_one(tx, org, line, device, made_by))
                except (Rejected, Conflict) as error:
                    raise type(error)(
                        error.message, code=error.code, pointer=f"/lines/{line}{error.pointer}"
                    ) from error
        return done

    def rotate(self, kid: str, jwk: Jwk, *, org: str) -> str:
        """A new key for the device of ``kid`` with the same scope, and the end of the old one; the new kid.

        Raises:
            Rejected: ``unknown_key``. Conflict: ``key_ended``, ``key_exists``, ``foreign_key``.
        """
        with self.database.transaction() as tx:
            old = _device_key(tx, kid, org=org)
            members = key_members(jwk, iss=old.iss, use="device", scope=old.scope)
            self.claims.write(tx, old.org, "key", members)
            good = newest_message(tx, old.key_no)
            reason = f"rotated to {thumbprint(jwk)}"
            end: Mapping[str, Any] = {"kid": kid, "last": good[0], "seq": good[1], "reason": reason}
            self.claims.write(tx, old.org, "end", end)
        return thumbprint(jwk)

    def _enrol_one(self, tx: Tx, org: str, line: int, device: Wanted, made_by: str) -> Imported:
        if device.jwk is None:
            [code] = make_codes(
                tx, org=org, giai=device.giai, scope=device.scope, made_by=made_by, now_ms=self.now_ms(),
                random=self.random,
            )  # fmt: skip
            return Imported(line, device.giai, code=code)
        members = key_members(device.jwk, iss=device.iss, use="device", scope=device.scope)
        self.claims.write(tx, org, "key", members)
        return Imported(line, device.giai, kid=thumbprint(device.jwk))


def last_good(tx: Tx, key: KeyInfo, last: str | None) -> tuple[str | None, int]:
    """Id and seq of a key's last good message: the one named, else the newest that is stored.

    Raises:
        Rejected: ``unknown_message``.
    """
    if last is None:
        return newest_message(tx, key.key_no)
    query = sa.select(messages.c.seq).where(messages.c.key_no == key.key_no)
    row = tx.execute(query.where(messages.c.id == unb64u(last, length=32))).first()
    if row is None:
        raise Rejected("The key signed no such message.", code="unknown_message", pointer="last")
    return last, int(row.seq)


def _device_key(tx: Tx, kid: str, *, org: str | None = None, is_any_use: bool = False) -> KeyInfo:
    key = key_info(tx, kid)
    if key is None or (org is not None and key.org != org) or not (is_any_use or key.use == "device"):
        raise Rejected("The log knows no such key.", code="unknown_key", pointer="kid")
    if key.is_ended:
        raise Conflict("The key has ended already.", code="key_ended", pointer="kid")
    return key
