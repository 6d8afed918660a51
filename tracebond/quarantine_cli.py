"""``tracebond quarantine``: what was not taken, why, and what to do about it."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from api.words import has_words, say
from core.canonical import b64u
from core.errors import Conflict
from ingest import quarantine as store
from ingest.quarantine import QuarantineRow
from ingest.quarantine_desk import decoded, refusal_of
from tracebond.desks import quarantine_desk
from tracebond.loops import now_ms
from tracebond.parts import open_books, open_parts
from tracebond.settings import load_settings
from tracebond.spans import read_span_ms

_DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder of the running server."
)


@click.group()
def quarantine() -> None:
    """Messages that were not taken, each with its reason and its very bytes.

    The same bytes on the same topic stay one row that counts. Intake slows when it is 80 % full and stands still when
    it is full: nothing is dropped, devices keep what has no receipt. Retention: TRACEBOND_QUARANTINE_DAYS.
    """


@quarantine.command("list")
@_DATA
@click.option("--state", type=click.Choice(["open", "accepted", "dismissed", "all"]), default="open", show_default=True)
@click.option("--reason", "code", help="Only this reason (code).")
@click.option("--org", "gln", help="Only devices of this GLN.")
@click.option("--device", help="Only this device, as its topic writes it.")
@click.option("--kid", help="Only this key.")
@click.option("--text", help="Text in sentence, place, topic or code.")
@click.option("--since", help="Only what arrived within this span: 30m, 12h, 7d.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--before", type=int, help="Rows below this number: the next page.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def quarantine_list(
    data: Path | None, state: str, code: str | None, gln: str | None, device: str | None, kid: str | None,
    text: str | None, since: str | None, limit: int, before: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Rows, newest first, then how many open ones each reason has and how full the quarantine is."""
    since_ms = None if since is None else now_ms() - read_span_ms(since)
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        rows = store.search(
            tx, state=None if state == "all" else state, code=code, gln=gln, device=device, kid=kid, text=text,
            since_ms=since_ms, before_id=before, limit=limit,
        )  # fmt: skip
        counts, fill = store.count_by_code(tx), store.fill(tx)
    for row in rows:
        click.echo(json.dumps(_json(row)) if as_json else _line(row))
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
    click.echo(f"open: {reasons}; {fill:.1%} full", err=True)


@quarantine.command("show")
@_DATA
@click.argument("number", type=int)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the very bytes to this file.")
def quarantine_show(data: Path | None, number: int, out: Path | None) -> None:
    """One row: the rule in words, the bytes decoded, and the refusal record of an authentic one."""
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        row = store.load(tx, number)
        refusal = refusal_of(tx, row)
    if out is not None:
        out.write_bytes(row.raw or b"")
    parts = decoded(row.raw or b"")
    rule = say(f"rule.{row.code}", "en") if has_words(f"rule.{row.code}") else None
    record = None if refusal is None else {"code": refusal.code, "leaf": refusal.leaf}
    more: dict[str, Any] = {"rule": rule, "detail": row.detail, "refusal_record": record}
    click.echo(json.dumps(_json(row) | more, indent=2, ensure_ascii=False))
    for name, text in (("header", parts.header), ("payload", parts.payload)):
        if text is not None:
            click.echo(f"{name}:\n{text}")
    for text in parts.disclosures:
        click.echo(f"disclosure:\n{text}")
    if parts.payload is None:
        click.echo(parts.start)


@quarantine.command("replay")
@_DATA
@click.argument("numbers", type=int, nargs=-1)
@click.option("--reason", "code", help="Every open row of this reason, oldest first.")
def quarantine_replay(data: Path | None, numbers: tuple[int, ...], code: str | None) -> None:
    """Decide the very bytes of rows again, after a fix, through the same pipeline. Exits 1 when one is refused."""
    if bool(numbers) == (code is not None):
        raise Conflict("Name rows by number, or a reason with --reason.", code="bad_option")
    parts = open_parts(load_settings(data=data))
    try:
        desk = quarantine_desk(parts)
        outcome = desk.replay(numbers) if code is None else desk.replay_code(code)
    finally:
        parts.close()
    for row_id, result in outcome.items():
        click.echo(f"{row_id}  {result}")
    sys.exit(0 if all(result == "accepted" for result in outcome.values()) else 1)


@quarantine.command("purge")
@_DATA
@click.option("--older", help="Older than this span (7d, 12h) instead of the retention that is set.")
def quarantine_purge(data: Path | None, older: str | None) -> None:
    """Remove rows whose last arrival lies behind the retention. What the log says of them stays for ever."""
    parts = open_parts(load_settings(data=data))
    try:
        before_ms = None if older is None else now_ms() - read_span_ms(older)
        click.echo(f"{quarantine_desk(parts).purge(before_ms=before_ms)} removed")
    finally:
        parts.close()


def _line(row: QuarantineRow) -> str:
    moment = datetime.fromtimestamp(row.last_ms / 1_000, UTC)
    place = f" at {row.pointer}" if row.pointer else ""
    who = f"{row.gln}/{row.device}" if row.gln else row.topic
    kind = "authentic" if row.is_authentic else "unproven"
    return f"{row.id}  {moment:%Y-%m-%d %H:%M:%SZ}  {row.code}{place}  {kind}  {who}  x{row.times}  {row.sentence}"


def _json(row: QuarantineRow) -> dict[str, Any]:
    return {
        "id": row.id, "state": row.state, "code": row.code, "sentence": row.sentence, "pointer": row.pointer,
        "topic": row.topic, "gln": row.gln, "device": row.device, "kid": row.kid,
        "message": None if row.message_id is None else b64u(row.message_id), "is_authentic": row.is_authentic,
        "times": row.times, "first_ms": row.first_ms, "last_ms": row.last_ms, "bytes": row.raw and len(row.raw),
    }  # fmt: skip
