"""``tracebond log trace``: where one message is, and when it came there."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from core.errors import Rejected
from tracebond.parts import open_books
from tracebond.settings import load_settings
from tracebond.way import Stop, way_of


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (default: ./var).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a stage.")
@click.argument("message")
def trace(data: Path | None, message: str, as_json: bool) -> None:
    """Print every stage that MESSAGE has come to, with its times: stored, sequenced, anchored, sent, mined, final.

    MESSAGE is the message's id (43 characters of base64url), as its receipt, the log lines of every process and
    `tracebond device` name it. An id that begins with a hyphen goes after `--`. Exits 1 when no such message ever came.
    """
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        stops = way_of(tx, message)
    if not stops:
        raise Rejected(f"No message {message} was ever stored, refused or quarantined here.", code="unknown_message")
    first = next((stop.at_ms for stop in stops if stop.at_ms is not None), None)
    for stop in stops:
        if as_json:
            line = {"message": message, "stage": stop.stage, "at_ms": stop.at_ms, **stop.facts}
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            click.echo(_line(stop, first))


def _line(stop: Stop, first_ms: int | None) -> str:
    when, after = "", ""
    if stop.at_ms is not None:
        when = datetime.fromtimestamp(stop.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:23] + "Z"
        after = f"+{max(0, stop.at_ms - (first_ms or stop.at_ms)) / 1000:.3f} s"
    facts = "  ".join(f"{name} {value}" for name, value in stop.facts.items())
    return f"{stop.stage:<11}  {when:<24}  {after:>12}  {facts}"
