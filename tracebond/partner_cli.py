"""``tracebond partner``: partners' programs and their API keys."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from api.auth import partners
from ledger.database import Database, open_database, upgrade
from tracebond.settings import load_settings

DAY_MS = 86_400_000
_FOLDER = click.Path(path_type=Path, file_okay=False)


def _data_option(command: Any) -> Any:
    return click.option("--data", type=_FOLDER, help="Folder that holds all state (default: ./var).")(command)


@click.group()
def partner() -> None:
    """Let partners' programs in: API keys with scopes, for the EPCIS interface and the open API.

    A key is shown once, when it is made; the database keeps its hash alone.
    """


@partner.command("create")
@click.argument("name")
@_data_option
@click.option("--org", "gln", metavar="GLN", help="GLN of the organisation the partner speaks for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(partners.SCOPES),
    help="What the key may do; may be repeated.",
)
@click.option("--days", type=click.IntRange(1, 3_650), help="Let the key expire after so many days.")
@click.option("--regulator", "is_regulator", is_flag=True, help="A regulator's program: it sees everything.")
def create(
    name: str, data: Path | None, gln: str | None, scopes: tuple[str, ...], days: int | None, is_regulator: bool
) -> None:
    """Add the partner NAME and print its key.

    Without --org the partner speaks for itself alone: what it captures is seen by itself and by regulators.
    """
    now_ms = _now_ms()
    with _database(data) as db, db.transaction() as tx:
        number = partners.create_partner(tx, name=name, gln=gln, is_regulator=is_regulator, now_ms=now_ms)
        click.echo(_new_key(tx, number, scopes, days, now_ms))


@partner.command("key")
@click.argument("name")
@_data_option
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(partners.SCOPES))
@click.option("--days", type=click.IntRange(1, 3_650), help="Let the key expire after so many days.")
def key(name: str, data: Path | None, scopes: tuple[str, ...], days: int | None) -> None:
    """Print one more key for the partner NAME."""
    with _database(data) as db, db.transaction() as tx:
        number = partners.partner_named(tx, name).id
        click.echo(_new_key(tx, number, scopes, days, _now_ms()))


@partner.command("list")
@_data_option
def list_(data: Path | None) -> None:
    """List partners and their keys: number, first characters, scopes, state, last use."""
    now_ms = _now_ms()
    with _database(data) as db, db.reading() as tx:
        for one in partners.all_partners(tx):
            state = "disabled" if one.disabled_ms is not None else "regulator" if one.is_regulator else ""
            click.echo("  ".join(part for part in (one.name, one.org or "(no organisation)", state) if part))
            for found in partners.keys_of_partner(tx, one.id):
                used = "never used" if found.used_ms is None else f"used {_day(found.used_ms)}"
                ends = "" if found.expires_ms is None else f"  expires {_day(found.expires_ms)}"
                word = "good" if found.is_good(now_ms) else "ended"
                click.echo(f"  {found.id:5}  {found.hint}..  {' '.join(found.scopes)}  {word}  {used}{ends}")


@partner.command("revoke")
@click.argument("number", type=int)
@_data_option
def revoke(number: int, data: Path | None) -> None:
    """End key NUMBER at once; `tracebond partner list` shows the numbers."""
    with _database(data) as db, db.transaction() as tx:
        partners.revoke_key(tx, number, now_ms=_now_ms())
    click.echo(f"Key {number} is revoked.")


@partner.command("rotate")
@click.argument("number", type=int)
@_data_option
@click.option(
    "--overlap-hours",
    type=click.IntRange(0, 720),
    default=24,
    show_default=True,
    help="How long the old key still works.",
)
def rotate(number: int, data: Path | None, overlap_hours: int) -> None:
    """Print a new key in place of key NUMBER, with the same scopes."""
    now_ms = _now_ms()
    with _database(data) as db, db.transaction() as tx:
        secret = secrets.token_bytes(partners.KEY_BYTES)
        click.echo(partners.rotate_key(tx, number, now_ms=now_ms, secret=secret, overlap_ms=overlap_hours * 3_600_000))


@partner.command("disable")
@click.argument("name")
@_data_option
def disable(name: str, data: Path | None) -> None:
    """Shut the partner NAME out with all its keys; what it captured stays."""
    with _database(data) as db, db.transaction() as tx:
        partners.disable_partner(tx, partners.partner_named(tx, name).id, now_ms=_now_ms())
    click.echo(f"{name} is disabled.")


@contextmanager
def _database(data: Path | None) -> Iterator[Database]:
    settings = load_settings(data=data)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    db = open_database(settings.database)
    try:
        upgrade(db)
        yield db
    finally:
        db.close()


def _new_key(tx: Any, number: int, scopes: tuple[str, ...], days: int | None, now_ms: int) -> str:
    expires_ms = None if days is None else now_ms + days * DAY_MS
    secret = secrets.token_bytes(partners.KEY_BYTES)
    return partners.create_key(tx, number, scopes=scopes, now_ms=now_ms, secret=secret, expires_ms=expires_ms)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
