"""Devices as an operator handles them: enrol one or many, list, rotate and end, each as organisation-signed records."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, unb64u
from core.crypto import Jwk, P256Public, generate_p256, thumbprint
from core.errors import Conflict, Rejected
from core.identifiers import canonical, giai_id, org_id, parse
from core.records import common, sign_record
from ingest.topics import device_name
from ledger.chains import gaps
from ledger.database import Tx
from ledger.keys import KeyInfo, key_info, keys_of, org_info
from ledger.store import admit_record
from ledger.tables import messages
from simulators.devices import Device, DeviceConfig
from tracebond.enrol import Enrolment
from tracebond.loops import now_ms, now_s
from tracebond.parts import Parts
from tracebond.running import broker_access, broker_url

COLUMNS = ("gln", "giai", "jwk", "steps", "products", "places", "rate_per_s")
ROWS_MAX = 10_000


@dataclass(frozen=True)
class Wanted:
    """A device to enrol.

    Attributes:
        jwk: its public key; None lets a key be made here.
        scope: what its key may sign; absent members do not limit.
    """

    gln: str
    giai: str
    jwk: Jwk | None = None
    scope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def iss(self) -> str:
        """The device's Digital Link (AI 8004)."""
        return giai_id(self.giai)


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


def scope_of(
    *,
    steps: Iterable[str] = (),
    products: Iterable[str] = (),
    places: Iterable[str] = (),
    rate_per_s: int | None = None,
) -> dict[str, Any]:
    """A key's scope from what a person wrote; identifiers in any spelling.

    Raises:
        Rejected: an identifier or the rate is malformed.
    """
    scope: dict[str, Any] = {}
    if steps := [step.strip() for step in steps if step.strip()]:
        scope["steps"] = sorted(steps)
    if products := [canonical(text.strip()) for text in products if text.strip()]:
        scope["products"] = sorted(products)
    if places := [canonical(text.strip()) for text in places if text.strip()]:
        scope["places"] = sorted(places)
    if rate_per_s is not None:
        if rate_per_s < 1:
            raise Rejected("A rate is at least one message a second.", code="bad_rate", pointer="rate_per_s")
        scope["rate"] = {"per_s": rate_per_s, "burst": 5 * rate_per_s}
    return scope


def read_csv(text: str) -> tuple[list[Wanted], list[str]]:
    """The devices of a CSV file and a sentence for each bad row, by its line number; lists inside a cell part by ``|``.

    Raises:
        Rejected: ``bad_columns`` or ``too_many_rows``: nothing of the file can be read.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    unknown = set(reader.fieldnames or ()) - set(COLUMNS)
    if unknown or not {"gln", "giai"} <= set(reader.fieldnames or ()):
        raise Rejected(
            f"The first line names columns of {', '.join(COLUMNS)}; gln and giai are needed.", code="bad_columns"
        )
    wanted: list[Wanted] = []
    wrong: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(reader, start=2):
        if number > ROWS_MAX + 1:
            raise Rejected(f"At most {ROWS_MAX} devices in one file.", code="too_many_rows")
        try:
            device = _wanted(row)
            earlier = seen.setdefault((device.gln, device.giai), number)
            if earlier != number:
                raise Rejected(f"The device stands in line {earlier} already.", code="twice", pointer="giai")
            wanted.append(device)
        except Rejected as error:
            wrong.append(f"line {number}, {error.pointer or 'row'}: {error.message}")
    return wanted, wrong


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
    name = device_name(org_id(enrolled.wanted.gln), enrolled.wanted.iss)
    return {
        "broker": broker_url(parts.settings), "client_id": name.username, "username": enrolled.username,
        "password": enrolled.password, "publish": name.events, "subscribe": [name.receipts, name.commands],
        "kid": enrolled.kid, "aud": parts.settings.service_id, "org": org_id(enrolled.wanted.gln),
        "iss": enrolled.wanted.iss, "receipt_keys": [parts.keyfiles.receipt.jwk()],
    }  # fmt: skip


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
    if not reason.strip():
        raise Rejected("An end needs a reason.", code="missing_reason", pointer="reason")
    with parts.db.transaction() as tx:
        key = _open_key(tx, kid)
        good = (None, -1) if is_nothing_good else _last_good(tx, key, last)
        settings = parts.settings
        gln = key.org.rsplit("/", 1)[-1]
        payload = common(t="end", aud=settings.service_id, log=settings.origin, org=key.org, iat=now_s()) | {
            "kid": kid, "last": good[0], "seq": good[1], "reason": reason.strip(),
        }  # fmt: skip
        admit_record(tx, sign_record(payload, parts.keyfiles.organisation(gln)), now_ms=now_ms())
    return good


def rotate(parts: Parts, kid: str, *, jwk: Jwk | None, folder: Path | None, say: Callable[[str], None]) -> Enrolled:
    """A new key for the device of ``kid`` with the same scope, then the end of the old one at its newest message.

    Raises:
        Rejected: ``unknown_key``, ``no_folder``. Conflict: ``key_ended``.
    """
    with parts.db.reading() as tx:
        key = _open_key(tx, kid)
    device = Wanted(key.org.rsplit("/", 1)[-1], parse(key.iss).ai[0][1], jwk, key.scope)
    done = enrol(parts, [device], folder=folder, say=say)[0]
    end(parts, kid, reason=f"rotated to {done.kid}")
    return done


def _wanted(row: Mapping[str, Any]) -> Wanted:
    if None in row or any(value is None for value in row.values()):
        raise Rejected("The row has another number of cells than the first line.", code="bad_row")
    cells = {name: str(value).strip() for name, value in row.items()}
    for name, check in (("gln", org_id), ("giai", giai_id)):
        try:
            check(cells[name])
        except Rejected as error:
            raise Rejected(error.message, code=error.code, pointer=name) from error
    rate = cells.get("rate_per_s") or None
    if rate is not None and not (rate.isascii() and rate.isdigit()):
        raise Rejected("rate_per_s is a whole number.", code="bad_rate", pointer="rate_per_s")
    return Wanted(
        cells["gln"],
        cells["giai"],
        read_jwk(cells["jwk"]) if cells.get("jwk") else None,
        scope_of(
            steps=cells.get("steps", "").split("|"),
            products=cells.get("products", "").split("|"),
            places=cells.get("places", "").split("|"),
            rate_per_s=None if rate is None else int(rate),
        ),
    )


def read_jwk(text: str) -> Jwk:
    """A public P-256 key as JSON.

    Raises:
        Rejected: ``bad_jwk``; a private key is refused too, for it must never leave its device.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Rejected("The key is no JSON object.", code="bad_jwk", pointer="jwk") from error
    if not isinstance(found, dict) or "d" in found:
        raise Rejected("Give the public key alone: kty, crv, x, y.", code="bad_jwk", pointer="jwk")
    jwk = {str(name): str(found[name]) for name in ("kty", "crv", "x", "y") if name in found}
    P256Public.from_jwk(jwk)
    return jwk


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


def _last_good(tx: Tx, key: KeyInfo, last: str | None) -> tuple[str | None, int]:
    query = sa.select(messages.c.id, messages.c.seq).where(messages.c.key_no == key.key_no)
    if last is not None:
        row = tx.execute(query.where(messages.c.id == unb64u(last, length=32))).first()
        if row is None:
            raise Rejected("The key signed no such message.", code="unknown_message", pointer="last")
    else:
        row = tx.execute(query.order_by(messages.c.seq.desc(), messages.c.arrival).limit(1)).first()
    return (None, -1) if row is None else (b64u(bytes(row.id)), int(row.seq))
