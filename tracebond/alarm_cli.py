"""``tracebond alarm``: rules and alarms of sensors, on the data of this machine."""

import json
import secrets
from pathlib import Path
from typing import Any

import click

from core.canonical import b64u, parse_json
from core.errors import Rejected
from core.identifiers import org_id
from ingest import alarms as following
from ingest import alarms_book as book
from ingest.alarms_rules import read_rule
from tracebond.loops import now_ms
from tracebond.parts import open_books
from tracebond.settings import load_settings

_DATA = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (default: ./var).")
_ORG = click.option("--org", "gln", help="Only this organisation (GLN).")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
_NOTE = click.option("--note", default="", help="Why, for those who read it later.")
_WHO = click.option("--by", "who", default="operator", show_default=True, help="Who does it.")
RULE_BYTES_MAX = 65_536


@click.group()
def alarm() -> None:
    """Alarms of sensors: what rules judge, what is open, and who has seen it."""


@alarm.command()
@_DATA
@_ORG
@_JSON
@click.option(
    "--add",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Add the rule of a JSON file, the object that POST /factory/alarms/rules takes; needs --org.",
)
@click.option("--end", "end_id", help="End the rule with this id and clear its open alarms.")
@_WHO
def rules(data: Path | None, gln: str | None, as_json: bool, add: Path | None, end_id: str | None, who: str) -> None:
    """List the active rules, add one, or end one.

    A rule: {"kind": "threshold|excursion|silence|geofence", "name": "..", "measurement": "Temperature",
    "high": "8", "low": "2", "degree_minutes_max": "60", "for_s": 600, "clear_s": 300, "devices": [], "places": [],
    "hook": "https://.."}.
    """
    with open_books(load_settings(data=data)) as db:
        if add is not None:
            if gln is None:
                raise Rejected("Say whose rule it is by --org GLN.", code="no_org", pointer="--org")
            given = parse_json(add.read_bytes(), bytes_max=RULE_BYTES_MAX)
            if not isinstance(given, dict):
                raise Rejected("The file holds one JSON object.", code="bad_alarm_rule")
            rule = read_rule(b64u(secrets.token_bytes(12)), org_id(gln), given)
            secret = b64u(secrets.token_bytes(24)) if rule.hook else ""
            with db.transaction() as tx:
                book.add_rule(tx, rule, secret=secret, who=who, now_ms=now_ms())
                following.judge_again(tx, rule, now_ms())
            click.echo(rule.id)
            if secret:
                click.echo(f"webhook secret (shown once): {secret}")
            return
        if end_id is not None:
            with db.transaction() as tx:
                book.end_rule(tx, end_id, org=_org(gln), who=who, now_ms=now_ms())
            click.echo(f"{end_id} ended")
            return
        with db.reading() as tx:
            found = book.rules_of(tx, org=_org(gln))
    for rule in found:
        value: dict[str, Any] = {
            "id": rule.id,
            "org": rule.org,
            "name": rule.name,
            "kind": rule.kind,
            "hook": rule.hook or None,
        }
        value |= json.loads(rule.definition())
        bounds = " ".join(f"{name}={number}" for name, number in value["numbers"].items())
        line = f"{rule.id}  {rule.kind:10} {rule.name}  {rule.measurement} {bounds} for {rule.for_s} s  {rule.org}"
        click.echo(json.dumps(value, ensure_ascii=False) if as_json else line)
    if not found and not as_json:
        click.echo("no rules")


@alarm.command("list")
@_DATA
@_ORG
@_JSON
@click.option("--all", "all_", is_flag=True, help="Cleared ones too.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=200, show_default=True)
def list_(data: Path | None, gln: str | None, as_json: bool, all_: bool, limit: int) -> None:
    """Open alarms, the newest first."""
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        rows = book.alarms_of(tx, org=_org(gln), is_open=not all_, limit=limit)
        found = [book.shown(row, book.rule_of(tx, row.rule)) for row in rows]
    for one in found:
        click.echo(json.dumps(one, ensure_ascii=False) if as_json else _line(one))
    if not found and not as_json:
        click.echo("no alarms")


@alarm.command()
@_DATA
@click.argument("alarm_id")
@_NOTE
@_WHO
def ack(data: Path | None, alarm_id: str, note: str, who: str) -> None:
    """Note that somebody has seen the alarm."""
    with open_books(load_settings(data=data)) as db, db.transaction() as tx:
        row = book.acknowledge(tx, alarm_id, org=None, who=who, note=note, now_ms=now_ms())
        click.echo(_line(book.shown(row, book.rule_of(tx, row.rule))))


@alarm.command()
@_DATA
@click.argument("alarm_id")
@_NOTE
@_WHO
def clear(data: Path | None, alarm_id: str, note: str, who: str) -> None:
    """End the alarm; it does not come back for the episode that it is about."""
    with open_books(load_settings(data=data)) as db, db.transaction() as tx:
        row = book.clear(tx, alarm_id, org=None, who=who, note=note, now_ms=now_ms())
        click.echo(_line(book.shown(row, book.rule_of(tx, row.rule))))


def _line(one: dict[str, Any]) -> str:
    figures = " ".join(f"{name}={one[name]}" for name in ("peak", "degree_minutes", "mkt") if name in one)
    return f"{one['id']}  {one['state']:12} {one['rule']['name']}  {one['device']}  {figures}  since {one['start_ms']}"


def _org(gln: str | None) -> str | None:
    return None if gln is None else org_id(gln)
