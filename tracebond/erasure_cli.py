"""``tracebond erasure``: take a person's data out, with the owner's signature, so that proofs still verify."""

import json
import time
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from api.epcis.forgetting import TABLE as REPORTS
from api.epcis.forgetting import forget_reports
from core.canonical import b64u, unb64u
from core.crypto import P256Private
from core.errors import Broken, Rejected
from ingest.tables import quarantine, quarantine_totals
from ledger import erasure as ledger_erasure
from ledger.database import Tx
from ledger.erasure_derived import purge
from ledger.erasure_request import read_request, sign_request
from ledger.store import get_fact
from tracebond.parts import open_parts
from tracebond.settings import load_settings

VALUE_SHOWN_MAX = 200
COPIES = ("quarantine", REPORTS)


@click.group()
def erasure() -> None:
    """Erase the disclosures of an event: preview, then the owner's signed request, then the erasure.

    The signed message with its digests stays, so every proof still verifies and says what was erased.
    """


_data = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder that holds all state.")
_event = click.option("--event", type=click.IntRange(0), default=0, show_default=True, help="Number of the event.")
_names = click.option("--name", "names", multiple=True, help="Member to erase (default: every disclosure).")


def _place(command: Any) -> Any:
    for option in (
        click.option("--message", help="Message id (base64url)."),
        click.option("--leaf", type=click.IntRange(0), help="Or its leaf in the log."),
        click.option("--event-id", help="Or the eventID; reads all disclosures."),
    ):
        command = option(command)
    return command


@erasure.command()
@_data
@_event
@_names
@_place
def preview(
    data: Path | None,
    event: int,
    names: tuple[str, ...],
    message: str | None,
    leaf: int | None,
    event_id: str | None,
) -> None:
    """Show what would go and what would stay; changes nothing."""
    parts = open_parts(load_settings(data=data))
    try:
        with parts.db.reading() as tx:
            for place in _found(tx, message, leaf, event_id, event):
                _show(ledger_erasure.plan(tx, leaf=place[0], event=place[1], names=names or None))
    finally:
        parts.close()


@erasure.command()
@_data
@_event
@_names
@_place
@click.option("--key", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="PEM file.")
@click.option("--reason", required=True, help="Stays in the log for ever: no personal data in it.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where the request goes.")
def request(
    data: Path | None,
    event: int,
    names: tuple[str, ...],
    message: str | None,
    leaf: int | None,
    event_id: str | None,
    key: Path,
    reason: str,
    out: Path,
) -> None:
    """Sign the request of the data's owner with its record-signing key."""
    owner = P256Private.from_pem(key.read_bytes())
    parts = open_parts(load_settings(data=data))
    try:
        with parts.db.reading() as tx:
            places = _found(tx, message, leaf, event_id, event)
            if len(places) != 1:
                raise Rejected(f"{len(places)} events have this eventID; name one by --leaf.", code="ambiguous")
            plan = ledger_erasure.plan(tx, leaf=places[0][0], event=places[0][1], names=names or None)
            aud, log = get_fact(tx, "aud"), get_fact(tx, "log")
    finally:
        parts.close()
    _show(plan)
    text = sign_request(
        owner,
        aud=str(aud),
        log=str(log),
        org=plan.org,
        message=b64u(plan.message),
        leaf=plan.leaf,
        event=plan.event,
        names=plan.names,
        iat=int(time.time()),
        reason=reason,
    )
    out.write_text(text + "\n", encoding="ascii")
    click.echo(f"request written to {out}; the operator runs: tracebond erasure carry-out {out}")


@erasure.command("carry-out")
@_data
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
def carry_out(data: Path | None, file: Path, yes: bool) -> None:
    """Erase what the request in FILE asks for, after showing it. There is no way back.

    The record enters the log, the disclosures and what was derived from them go, the database's files are rewritten,
    and every table is searched for what was erased. Exits 4 when something is left.
    """
    text = file.read_text(encoding="ascii").strip()
    asked = read_request(text)
    parts = open_parts(load_settings(data=data))
    try:
        with parts.db.reading() as tx:
            plan = ledger_erasure.plan(tx, leaf=asked["leaf"], event=asked["event"], names=asked["names"])
        _show(plan)
        if not yes:
            click.confirm("Erase this for good?", abort=True)
        now_ms = time.time_ns() // 1_000_000
        with parts.db.transaction() as tx:
            done = ledger_erasure.carry_out(
                tx, text, operator=parts.keyfiles.operator, now_ms=now_ms, copies=[forget_quarantined, forget_reports]
            )
        purge(parts.db, COPIES)
        left = ledger_erasure.leftovers(parts.db, plan.texts, list(plan.values.values()))
    finally:
        parts.close()
    click.echo(f"erased {done.disclosures} disclosures and {done.copies} copies; record {b64u(done.record)}")
    for line in left:
        click.echo(f"still there: {line}")
    if any(line.startswith("disclosure") for line in left):
        raise Broken("Erased disclosures are still in the database; see above.", code="erasure_incomplete")


def forget_quarantined(tx: Tx, message: bytes) -> int:
    """Delete the quarantine's copies of a message; gives how many there were."""
    rows = tx.execute(sa.select(quarantine.c.id, quarantine.c.raw).where(quarantine.c.message_id == message)).all()
    if rows:
        tx.execute(quarantine.delete().where(quarantine.c.id.in_([row.id for row in rows])))
        less = sum(len(row.raw) for row in rows)
        totals = quarantine_totals.c
        tx.execute(quarantine_totals.update().values(rows=totals.rows - len(rows), bytes=totals.bytes - less))
    return len(rows)


def _found(tx: Tx, message: str | None, leaf: int | None, event_id: str | None, event: int) -> list[tuple[int, int]]:
    if sum(one is not None for one in (message, leaf, event_id)) != 1:
        raise Rejected("Name the event by one of --message, --leaf, --event-id.", code="no_event")
    if event_id is not None:
        found = ledger_erasure.find_event(tx, event_id)
        if not found:
            raise Rejected("No event in the log discloses this eventID.", code="no_such_event", pointer="--event-id")
        return found
    if message is not None:
        return [(ledger_erasure.find(tx, message=unb64u(message, length=32)), event)]
    return [(leaf or 0, event)]


def _show(plan: ledger_erasure.Plan) -> None:
    click.echo(f"message {b64u(plan.message)}, leaf {plan.leaf}, event {plan.event}, of {plan.org} by {plan.device}")
    for name in plan.names:
        value = json.dumps(plan.values.get(name, "(erased before)"), ensure_ascii=False)
        click.echo(f"  goes   {name} = {value[:VALUE_SHOWN_MAX]}")
    for name in plan.stay:
        click.echo(f"  stays  {name}")
    for name in plan.gone:
        click.echo(f"  gone   {name}, by an earlier erasure")
    click.echo(f"  stays  the signed message with its digests, and the list of its {len(plan.items)} items")
    if plan.added:
        click.echo(f"  {', '.join(plan.added)} goes too: it is a hash over what is erased")
