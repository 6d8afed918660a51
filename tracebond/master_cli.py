"""``tracebond master``: facts that an organisation tells about itself, its places, products and goods."""

import json
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from core.canonical import b64u
from core.identifiers import canonical, org_id
from core.records import FACTS
from ledger.masterdata import fact as newest_fact
from ledger.tables import masters
from tracebond.desks import device_desk
from tracebond.parts import open_books, open_parts
from tracebond.settings import load_settings

_DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder of the running server."
)


@click.group()
def master() -> None:
    """Master data as records signed by its organisation, entries of the log that mirrors check.

    \b
      tracebond master set 9521234000013 place "(414)9521234000020" name_en="Cold store" lat=31.2304 lon=121.4737
      tracebond master set 9521234000013 product 09521234123453 name_en=Milk category=dairy shelf_life_days=21
      tracebond master set 9521234000013 ownership "https://id.gs1.org/01/.../21/7" owner=9529999000019
    """


@master.command("set")
@_DATA
@click.argument("gln")
@click.argument("fact", type=click.Choice(sorted(FACTS)))
@click.argument("subject")
@click.argument("members", nargs=-1)
def master_set(data: Path | None, gln: str, fact: str, subject: str, members: tuple[str, ...]) -> None:
    """Sign the FACT of organisation GLN about SUBJECT (a GS1 code in any spelling) with MEMBERS name=value.

    Where the organisation keeps its key itself, it signs with `tracebond org sign` and posts to /factory/records.
    """
    parts = open_parts(load_settings(data=data))
    try:
        with parts.db.transaction() as tx:
            told = {"subject": _subject(fact, subject), "fact": fact, "value": _value(members)}
            record_id = device_desk(parts).claims.write(tx, org_id(gln), "master", told)
    finally:
        parts.close()
    click.echo(b64u(record_id))


@master.command("list")
@_DATA
@click.option("--org", "gln", help="Only what this GLN told.")
@click.option("--fact", type=click.Choice(sorted(FACTS)), help="Only this kind.")
def master_list(data: Path | None, gln: str | None, fact: str | None) -> None:
    """The newest of each fact in the log, one JSON object a line."""
    query = sa.select(masters.c.org, masters.c.subject, masters.c.fact).distinct()
    if gln is not None:
        query = query.where(masters.c.org == org_id(gln))
    if fact is not None:
        query = query.where(masters.c.fact == fact)
    with open_books(load_settings(data=data)) as db, db.reading() as tx:
        for row in tx.execute(query.order_by(masters.c.fact, masters.c.subject)).all():
            shown = {"org": row.org, "fact": row.fact, "subject": row.subject}
            click.echo(json.dumps(shown | {"value": newest_fact(tx, row.subject, row.fact)}, ensure_ascii=False))


def _subject(fact: str, text: str) -> str:
    """A subject in any spelling; a bare number is a GTIN, the GLN of a place or the GLN of a party, by the fact."""
    if text.isascii() and text.isdigit():
        ai, width = {"product": ("01", 14), "place": ("414", 13), "party": ("417", 13)}.get(fact, ("01", 14))
        return canonical(f"({ai}){text.zfill(width)}")
    return canonical(text)


def _value(members: tuple[str, ...]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for member in members:
        name, found, text = member.partition("=")
        if not found or not name:
            raise click.BadParameter(f"{member!r} is not name=value")
        value[name] = int(text) if name == "shelf_life_days" and text.isdigit() else text
    if "owner" in value:
        owner = str(value["owner"])
        value["owner"] = org_id(owner) if owner.isdigit() else canonical(owner)
    return value
