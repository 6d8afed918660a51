"""``tracebond device`` and ``tracebond org``: who may tell events, enrolled and ended from the command line."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from core.errors import Conflict
from core.identifiers import gln_of, org_id
from core.records import ROLES
from ledger.keys import all_orgs
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
from tracebond.parts import Parts, open_parts
from tracebond.settings import load_settings

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
def org_add(data: Path | None, gln: str, name: str, roles: tuple[str, ...]) -> None:
    """Register the organisation GLN with a record-signing key kept in the data folder."""
    spec = OrganisationSpec(gln, name, roles[0], roles[1:])
    with _parts(data) as parts:
        Enrolment(parts).organisations([spec], {gln: parts.keyfiles.organisation(gln)})
    click.echo(f"{spec.id} is registered as {', '.join(roles)}; its key is keys/org-{gln}.pem in the data folder")


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
