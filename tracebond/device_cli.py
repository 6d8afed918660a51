"""``tracebond device`` and ``tracebond org``: who may tell events, enrolled and ended from the command line."""

import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from core.canonical import parse_json
from core.crypto import P256Private, P256Public, generate_p256
from core.errors import Conflict
from core.identifiers import gln_of, org_id
from core.records import RECORD_BYTES_MAX, ROLES, sign_record
from ingest.claims import codes_of, make_codes, revoke_code, unsigned_claims
from ledger.keys import all_orgs
from tracebond.desks import device_desk
from tracebond.devices import (
    COLUMNS,
    DeviceRow,
    Enrolled,
    Wanted,
    connection_of,
    end,
    enrol,
    listed,
    read_csv,
    read_jwk,
    rotate,
    scope_of,
)
from tracebond.enrol import Enrolment, OrganisationSpec
from tracebond.loops import now_ms
from tracebond.parts import Parts, open_parts
from tracebond.settings import load_settings
from tracebond.spans import read_span_ms

_HYPHEN_KID = re.compile(r"-[A-Za-z0-9_-]{42}")
_DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder of the running server."
)
_OUT = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Make the key here, in a folder per device."
)
_JWK = click.option(
    "--jwk", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The device's public key (JSON)."
)


class _KidCommand(click.Command):
    """Takes a KID that begins with a hyphen, as one in 64 does, for what it is and not for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put such a KID behind ``--``; what follows an option is that option's value."""
        kids = [
            arg
            for place, arg in enumerate(args)
            if _HYPHEN_KID.fullmatch(arg) and not (place and args[place - 1].startswith("--"))
        ]
        rest = [arg for arg in args if arg not in kids]
        return super().parse_args(ctx, [*rest, "--", *kids] if kids else args)


@click.group()
def org() -> None:
    """Organisations: registered on the chain with their signing key and roles, then in the log.

    A server (`tracebond up`) must be running on the same data folder: it sends to the chain and sequences the log.
    """


@org.command("add")
@_DATA
@click.argument("gln")
@click.option("--name", required=True, help="Its name, as people know it.")
@click.option(
    "--role", "roles", multiple=True, required=True, type=click.Choice(sorted(ROLES)), help="May be repeated."
)
@click.option(
    "--jwk", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Its public record-signing key (JSON), where it keeps the private one itself.",
)  # fmt: skip
def org_add(data: Path | None, gln: str, name: str, roles: tuple[str, ...], jwk: Path | None) -> None:
    """Register the organisation GLN with a record-signing key kept in the data folder, or with its own (--jwk)."""
    spec = OrganisationSpec(gln, name, roles[0], roles[1:])
    with _parts(data) as parts:
        own = None if jwk is None else P256Public.from_jwk(read_jwk(jwk.read_text(encoding="utf-8")))
        Enrolment(parts).organisations([spec], {gln: own or parts.keyfiles.organisation(gln)})
    kept = f"its key is keys/org-{gln}.pem in the data folder" if own is None else "it signs its records itself"
    click.echo(f"{spec.id} is registered as {', '.join(roles)}; {kept}")


@org.command("keygen")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def org_keygen(file: Path) -> None:
    """Make a record-signing key for an organisation that keeps it itself: FILE, mode 600. Prints the public JWK."""
    key = generate_p256()
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(key.to_pem())
    click.echo(json.dumps(key.jwk()))


@org.command("sign")
@click.argument("key", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("payload", type=click.File("rb"))
def org_sign(key: Path, payload: BinaryIO) -> None:
    """Sign the record PAYLOAD (JSON; - reads standard input) with KEY and print it for POST /factory/records.

    Needs neither server nor database: an organisation that keeps its key runs this where the key is.
    """
    value = parse_json(payload.read(), bytes_max=RECORD_BYTES_MAX)
    click.echo(sign_record(value, P256Private.from_pem(key.read_bytes())).decode("ascii"))


@org.command("list")
@_DATA
def org_list(data: Path | None) -> None:
    """Every organisation: GLN, roles, chain account, name."""
    with _parts(data) as parts, parts.db.reading() as tx:
        for info in all_orgs(tx):
            roles = ",".join(name for name, bit in ROLES.items() if info.roles & bit)
            click.echo(f"{gln_of(info.org)}  {roles:24}  {info.account}  {info.name}")


@click.group()
def device() -> None:
    """Devices: enrolled with a key and a scope, listed, rotated and ended.

    Each step is a record signed by the device's organisation, an entry of the log that mirrors check. The usual way:

    \b
      tracebond org add 9521234000013 --name "Dairy Works" --role maker
      tracebond device enrol 9521234000013 9521234LINE7 --out ./devices --step commissioning
      tracebond device claim-code --org 9521234000013     (a device then enrols itself: docs/device-guide.md)
      tracebond device list
      tracebond device rotate KID --out ./devices
      tracebond device end KID --reason "stolen"
    """


@device.command("enrol")
@_DATA
@_JWK
@_OUT
@click.argument("gln")
@click.argument("giai")
@click.option("--step", "steps", multiple=True, help="A business step it may tell (CBV name); may be repeated.")
@click.option("--product", "products", multiple=True, help="A GTIN it may tell about, in any spelling.")
@click.option("--place", "places", multiple=True, help="A place (GLN, SGLN) it may tell from.")
@click.option("--rate", type=click.IntRange(1), help="Messages a second that are taken from it.")
def device_enrol(
    data: Path | None, jwk: Path | None, out: Path | None, gln: str, giai: str, steps: tuple[str, ...],
    products: tuple[str, ...], places: tuple[str, ...], rate: int | None,
) -> None:  # fmt: skip
    """Enrol the device GIAI of the organisation GLN and print how it connects, as JSON.

    Give its public key (--jwk), best from a secure element, or let the key be made here (--out). The broker's
    password is printed this once.
    """
    public = None if jwk is None else read_jwk(jwk.read_text(encoding="utf-8"))
    scope = scope_of(steps=steps, products=products, places=places, rate_per_s=rate)
    with _parts(data) as parts:
        done = enrol(parts, [Wanted(gln, giai, public, scope)], folder=out, say=_say)
        _show(parts, done)


@device.command("import", epilog=f"Columns: {', '.join(COLUMNS)}. Cells that hold a list part it by |.")
@_DATA
@_OUT
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--apply", is_flag=True, help="Enrol them; without it the file is only checked.")
def device_import(data: Path | None, out: Path | None, file: Path, apply: bool) -> None:
    """Enrol every device of a CSV FILE: first a preview with each bad row's reason, then --apply.

    Nothing is enrolled while any row is bad. Prints one JSON object a device.
    """
    wanted, wrong = read_csv(file.read_text(encoding="utf-8"))
    for sentence in wrong:
        click.echo(sentence, err=True)
    if not apply or wrong:
        for found in wanted:
            key = "own key" if found.jwk else "key made here"
            click.echo(f"would enrol {found.giai} of {found.gln} ({key}), scope {json.dumps(dict(found.scope))}")
        click.echo(f"{len(wanted)} devices are right, {len(wrong)} rows are wrong", err=True)
        sys.exit(1 if wrong else 0)
    with _parts(data) as parts:
        _show(parts, enrol(parts, wanted, folder=out, say=_say))


@device.command("claim-code")
@_DATA
@click.option("--org", "gln", required=True, help="GLN of the organisation whose devices may use them.")
@click.option("--device", "giai", help="The one device (GIAI) it is for; with an open key it gets a new one by it.")
@click.option("--count", type=click.IntRange(1, 1_000), default=1, show_default=True, help="How many codes.")
@click.option("--expires", default="7d", show_default=True, help="How long they work: 30m, 12h, 7d.")
@click.option("--step", "steps", multiple=True, help="A business step the key may tell; may be repeated.")
@click.option("--product", "products", multiple=True, help="A GTIN it may tell about; may be repeated.")
@click.option("--place", "places", multiple=True, help="A place (GLN, SGLN) it may tell from; may be repeated.")
@click.option("--rate", type=click.IntRange(1), help="Messages a second that are taken from it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def device_claim_code(
    data: Path | None, gln: str, giai: str | None, count: int, expires: str, steps: tuple[str, ...],
    products: tuple[str, ...], places: tuple[str, ...], rate: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Make one-time claim codes and print them, one a line. They are stored hashed: nobody can show them again.

    A device claims its place with a code and a key of its own at POST /factory/devices/claim (docs/device-guide.md).
    """
    scope = scope_of(steps=steps, products=products, places=places, rate_per_s=rate)
    life_ms = read_span_ms(expires)
    with _parts(data) as parts, parts.db.transaction() as tx:
        codes = make_codes(
            tx, org=org_id(gln), count=count, giai=giai, scope=scope, made_by="command line", now_ms=now_ms(),
            life_ms=life_ms, random=secrets.token_bytes,
        )  # fmt: skip
        aud = parts.settings.service_id
    for code in codes:
        shown = {"code": code, "org": org_id(gln), "giai": giai, "aud": aud, "expires_ms": now_ms() + life_ms}
        click.echo(json.dumps(shown) if as_json else code)


@device.command("codes")
@_DATA
@click.option("--org", "gln", required=True, help="GLN of the organisation.")
@click.option("--revoke", type=int, help="Take the code of this number back.")
def device_codes(data: Path | None, gln: str, revoke: int | None) -> None:
    """Claim codes of an organisation, newest first: number, first characters, state, device, key that used it.

    Claims whose key record the organisation has to sign itself follow, each with the payload to sign.
    """
    org_ = org_id(gln)
    with _parts(data) as parts:
        if revoke is not None:
            with parts.db.transaction() as tx:
                revoke_code(tx, revoke, org=org_, now_ms=now_ms())
        with parts.db.reading() as tx:
            codes = codes_of(tx, org_, now_ms=now_ms())
            waiting = [row.kid for row in unsigned_claims(tx, org_)]
        for code in codes:
            until = f"{datetime.fromtimestamp(code.expires_ms / 1_000, UTC):%Y-%m-%d %H:%M:%SZ}"
            used = f"  used by {code.used_kid}" if code.used_kid else ""
            click.echo(f"{code.id}  {code.hint}...  {code.state:7}  {code.giai or 'any device'}  until {until}{used}")
        desk = device_desk(parts)
        for kid in waiting:
            click.echo(json.dumps(desk.claims.standing(kid).record))


@device.command("list")
@_DATA
@click.option("--org", "gln", help="Only those of this GLN.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def device_list(data: Path | None, gln: str | None, as_json: bool) -> None:
    """Every device key: standing, messages in the log, newest seq, when last heard, gaps."""
    with _parts(data) as parts, parts.db.reading() as tx:
        rows = listed(tx, org=None if gln is None else org_id(gln))
    for row in rows:
        click.echo(json.dumps(_json(row)) if as_json else _line(row))


@device.command("rotate", cls=_KidCommand)
@_DATA
@_JWK
@_OUT
@click.argument("kid")
def device_rotate(data: Path | None, jwk: Path | None, out: Path | None, kid: str) -> None:
    """Give the device of KID a new key with the same scope, and end the old one at its newest message."""
    public = None if jwk is None else read_jwk(jwk.read_text(encoding="utf-8"))
    with _parts(data) as parts:
        _show(parts, [rotate(parts, kid, jwk=public, folder=out, say=_say)])


@device.command("end", cls=_KidCommand)
@_DATA
@click.argument("kid")
@click.option("--reason", required=True, help="Why: stolen, scrapped, sold ... It stands in the log for ever.")
@click.option("--last", help="Id of its last good message (default: the newest in the log).")
@click.option("--nothing-good", is_flag=True, help="No message that it ever signed counts as evidence.")
def device_end(data: Path | None, kid: str, reason: str, last: str | None, nothing_good: bool) -> None:
    """End the key KID. What it signed up to its last good message stays evidence; nothing after it does."""
    if last is not None and nothing_good:
        raise Conflict("Name a last good message or say that nothing is good, not both.", code="bad_option")
    with _parts(data) as parts:
        found, seq = end(parts, kid, reason=reason, last=last, is_nothing_good=nothing_good)
    click.echo(f"{kid} ends; its last good message is {found} (seq {seq})" if found else f"{kid} ends; nothing counts")


@contextmanager
def _parts(data: Path | None) -> Iterator[Parts]:
    parts = open_parts(load_settings(data=data))
    try:
        yield parts
    finally:
        parts.close()


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(parts: Parts, done: list[Enrolled]) -> None:
    for enrolled in done:
        shown = connection_of(parts, enrolled)
        if enrolled.folder is not None:
            shown["folder"] = str(enrolled.folder)
        click.echo(json.dumps(shown))


def _line(row: DeviceRow) -> str:
    heard = "never" if row.last_ms is None else f"{datetime.fromtimestamp(row.last_ms / 1_000, UTC):%Y-%m-%d %H:%M:%SZ}"
    holes = " ".join(f"{first}-{last}" for first, last in row.gaps[:5]) or "none"
    standing = "ended" if row.key.is_ended else "open"
    giai = row.key.iss.rsplit("/", 1)[-1]
    return (
        f"{row.key.kid}  {standing:5}  {gln_of(row.key.org)}/{giai}  messages {row.messages}  "
        f"newest seq {'-' if row.highest is None else row.highest}  last heard {heard}  gaps {holes}"
    )


def _json(row: DeviceRow) -> dict[str, object]:
    return {
        "kid": row.key.kid, "org": row.key.org, "iss": row.key.iss, "use": row.key.use, "scope": dict(row.key.scope),
        "is_ended": row.key.is_ended, "messages": row.messages, "highest_seq": row.highest,
        "last_heard_ms": row.last_ms, "gaps": [list(gap) for gap in row.gaps],
    }  # fmt: skip
