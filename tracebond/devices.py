"""Devices as an operator handles them: enrol one or many, list, rotate and end, each as organisation-signed records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.crypto import Jwk, generate_p256, thumbprint
from core.errors import Conflict, Rejected
from core.identifiers import org_id, parse
from ingest.enrolment import COLUMNS, Wanted, read_csv, read_jwk, scope_of
from ingest.topics import device_name
from ledger.chains import gaps
from ledger.database import Tx
from ledger.keys import KeyInfo, key_info, keys_of, org_info
from ledger.tables import messages
from simulators.devices import Device, DeviceConfig
from tracebond.desks import device_desk
from tracebond.enrol import Enrolment
from tracebond.parts import Parts
from tracebond.running import broker_access

__all__ = ["COLUMNS", "Enrolled", "Wanted", "end", "enrol", "listed", "read_csv", "read_jwk", "rotate", "scope_of"]


@dataclass(frozen=True)
class Enrolled:
    """A device that may publish from now on; ``password`` is shown once and kept hashed by the broker."""

    wanted: Wanted
    kid: str
    username: str
    password: str
    folder: Path | None


@dataclass(frozen=True)
class DeviceRow:
    """A line of the device list."""

    key: KeyInfo
    messages: int
    highest: int | None
    last_ms: int | None
    gaps: tuple[tuple[int, int], ...]


def enrol(parts: Parts, wanted: Sequence[Wanted], *, folder: Path | None, say: Callable[[str], None]) -> list[Enrolled]:
    """Give each device its ``key`` record and its login at the broker; ready to publish when this returns.

    Args:
        folder: where keys made here and their configurations go, one folder a device.

    Raises:
        Rejected: ``unknown_organisation``, ``no_folder``. Conflict: ``key_ended``.
    """
    enrolment = Enrolment(parts)
    keys = [_key_of(device, folder) for device in wanted]
    for gln in sorted({device.gln for device in wanted}):
        _need_organisation(parts, gln)
        own = [
            (jwk, device.iss, "device", device.scope)
            for device, jwk in zip(wanted, keys, strict=True)
            if device.gln == gln
        ]
        enrolment.keys(org_id(gln), parts.keyfiles.organisation(gln), own)
    with parts.db.reading() as tx:
        for jwk in keys:
            if (known := key_info(tx, thumbprint(jwk))) is not None and known.is_ended:
                raise Conflict(f"The key {known.kid} has ended; a device needs a new one.", code="key_ended")
    say(f"waiting until the log has taken {len(keys)} key records")
    enrolment.wait_sequenced([thumbprint(jwk) for jwk in keys])
    access = broker_access(parts.settings)
    names = [device_name(org_id(device.gln), device.iss) for device in wanted]
    done = []
    for device, jwk, name in zip(wanted, keys, names, strict=True):
        password = "" if access is None else access.add(name)
        home = None if folder is None or device.jwk is not None else _home(folder, device)
        if home is not None:
            _configure(parts, device, home, name.username, password)
        done.append(Enrolled(device, thumbprint(jwk), name.username, password, home))
    return done


def connection_of(parts: Parts, enrolled: Enrolled) -> dict[str, Any]:
    """What the device's engineer needs to connect it, as JSON."""
    return device_desk(parts).connection(
        org_id(enrolled.wanted.gln), enrolled.wanted.iss, enrolled.kid, enrolled.password
    )


def listed(tx: Tx, *, org: str | None = None) -> list[DeviceRow]:
    """Every device key with what the log has of it, oldest first."""
    holes: dict[str, list[tuple[int, int]]] = {}
    for gap in gaps(tx):
        holes.setdefault(gap.kid, []).append((gap.first, gap.last))
    query = sa.select(
        messages.c.key_no, sa.func.count(), sa.func.max(messages.c.seq), sa.func.max(messages.c.received_ms)
    ).group_by(messages.c.key_no)
    told = {key_no: (count, highest, last_ms) for key_no, count, highest, last_ms in tx.execute(query)}
    return [
        DeviceRow(key, count, highest, last_ms, tuple(holes.get(key.kid, ())))
        for key in keys_of(tx, org=org)
        if key.use in ("device", "gateway")
        for count, highest, last_ms in [told.get(key.key_no, (0, None, None))]
    ]


def end(
    parts: Parts, kid: str, *, reason: str, last: str | None = None, is_nothing_good: bool = False
) -> tuple[str | None, int]:
    """End a key: an ``end`` record of its organisation names the last good message. That message's id and seq.

    Args:
        last: id of the last good message; None takes the newest that was stored, by seq.
        is_nothing_good: nothing that the key ever signed counts.

    Raises:
        Rejected: ``unknown_key``, ``unknown_message``, ``missing_reason``. Conflict: ``key_ended``.
    """
    return device_desk(parts).end(kid, reason=reason, last=last, is_nothing_good=is_nothing_good)


def rotate(parts: Parts, kid: str, *, jwk: Jwk | None, folder: Path | None, say: Callable[[str], None]) -> Enrolled:
    """A new key for the device of ``kid`` with the same scope, then the end of the old one at its newest message.

    Raises:
        Rejected: ``unknown_key``, ``no_folder``. Conflict: ``key_ended``.
    """
    with parts.db.reading() as tx:
        key = _open_key(tx, kid)
    device = Wanted(key.org.rsplit("/", 1)[-1], parse(key.iss).ai[0][1], jwk, key.scope)
    if jwk is None and folder is not None and (_home(folder, device) / "key.pem").exists():
        # The old key's folder stays as it is: its outbox may still hold what has no receipt.
        folder = folder / f"after-{kid[:8]}"
    done = enrol(parts, [device], folder=folder, say=say)[0]
    end(parts, kid, reason=f"rotated to {done.kid}")
    return done


def _key_of(device: Wanted, folder: Path | None) -> Jwk:
    if device.jwk is not None:
        return device.jwk
    if folder is None:
        raise Rejected("Give a public key, or a folder for a key made here.", code="no_folder", pointer="out")
    home = _home(folder, device)
    if not (home / "key.pem").exists():
        # The configuration is written again once the broker's password is known.
        config = DeviceConfig.of(home.name, aud="", org=org_id(device.gln), iss=device.iss)
        Device.create(home, config, generate_p256()).close()
    opened = Device.open(home)
    jwk = opened.key.jwk()
    opened.close()
    return jwk


def _home(folder: Path, device: Wanted) -> Path:
    return folder / device_name(org_id(device.gln), device.iss).device


def _configure(parts: Parts, device: Wanted, home: Path, username: str, password: str) -> None:
    opened = Device.open(home)
    config = DeviceConfig.of(
        home.name, aud=parts.settings.service_id, org=org_id(device.gln), iss=device.iss,
        receipt_keys=(parts.keyfiles.receipt.jwk(),), username=username, password=password,
    )  # fmt: skip
    opened.configure(home, config)
    opened.close()


def _need_organisation(parts: Parts, gln: str) -> None:
    with parts.db.reading() as tx:
        known = org_info(tx, org_id(gln))
    if known is None:
        raise Rejected(
            f"The log knows no organisation {gln}; first `tracebond org add {gln}`.", code="unknown_organisation",
            pointer="gln",
        )  # fmt: skip
    if not parts.keyfiles.has(f"org-{gln}"):
        raise Rejected(
            f"The record-signing key of {gln} is not kept here: its owner signs the key record and sends it to "
            "POST /factory/records.",
            code="foreign_key",
            pointer="gln",
        )


def _open_key(tx: Tx, kid: str) -> KeyInfo:
    key = key_info(tx, kid)
    if key is None:
        raise Rejected("The log knows no such key.", code="unknown_key", pointer="kid")
    if key.is_ended:
        raise Conflict("The key has ended already.", code="key_ended", pointer="kid")
    return key
