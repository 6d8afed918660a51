"""Loads what pages and JSON show of an item, in one short read transaction; nothing here asks the chain."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from api.consumer import story
from api.consumer.cache import Rests, things_of
from api.consumer.model import Gap, ItemView, Lifecycle, Looks, Sale
from api.consumer.readings import ilmd, place_id
from api.consumer.seen import Seen, records_of, withdrawn
from api.findings import plain, serious
from api.language import show_day_text
from api.words import has_words, say
from core.identifiers import class_of, parse
from ledger import masterdata
from ledger.asof import Book
from ledger.disclosure import Reader
from ledger.findings_read import about
from ledger.state import Standing, contents, item_state
from ledger.tables import chains, keys

_SOLD_STEPS = frozenset({"retail_selling", "dispensing"})
_OUT_OF_USE = frozenset({"destroyed", "disposed", "inactive", "expired", "stolen", "dispensed", "non_sellable_other"})


def item_view(
    tx: sa.Connection, item_id: str, path: str, lang: str, *, looks: Callable[[int], Looks], reader: Reader = "consumer"
) -> ItemView:
    """Everything on the page of an item.

    Args:
        looks: gives the looks of others since a moment (unix ms).
    """
    found = parse(item_id)
    product_id = class_of(item_id) or (item_id if found.kind == "gtin" else "")
    product = (masterdata.product(tx, product_id) or {}) if product_id else {}
    state = item_state(tx, item_id)
    records = records_of(Book(tx), item_id, reader, lot=_lot(state), tx=tx)
    if not records:
        is_described = any(masterdata.fact(tx, item_id, kind) is not None for kind in ("product", "place", "party"))
        life = Lifecycle(found.kind, is_known=False, is_product_known=bool(product), is_described=is_described)
        return ItemView(item_id, path, found.kind, life, name=name_of(tx, item_id, lang))
    facts = masterdata.facts_about(
        tx,
        {
            "party": {record.org for record in records} | {_maker(product_id, records)},
            "place": {place_id(record.event) for record in records},
        },
    )
    parties, places = facts["party"], facts["place"]
    series = story.series_of(records, product)
    steps = story.steps_of(records, lang, parties=parties, places=places, series=series)
    stops, route = story.stops_of(records, lang, places=places)
    sale = _sale(records, lang, parties=parties, places=places)
    last = _last(records)
    is_out = last is not None and last.disposition in _OUT_OF_USE
    life = Lifecycle(
        found.kind,
        is_known=True,
        is_product_known=bool(product),
        is_recalled=state is not None and state.is_recalled,
        is_out_of_use=is_out or (state is not None and state.is_decommissioned),
        sale=sale,
        looks=looks(sale.at_ms) if sale is not None else Looks(),
    )
    disposition = f"disposition.{last.disposition}" if last is not None else ""
    return ItemView(
        id=item_id,
        path=path,
        kind=found.kind,
        lifecycle=life,
        name=_name(product, lang),
        facts=tuple(_facts(found.ai, records, state, parties=parties, product_id=product_id, lang=lang)),
        steps=tuple(reversed(steps)),
        organisations=len({record.org for record in records}),
        stops=stops,
        route=route,
        series=series,
        corrections=tuple(story.corrections_of(records, lang, parties=parties)),
        hidden=tuple(story.hidden_of(records, lang)),
        gaps=tuple(_gaps(tx, {record.device_id for record in records})),
        contents=len(contents(tx, item_id)) if found.kind == "sscc" else 0,
        out_of_use=say(disposition, lang) if has_words(disposition) else "",
        findings=_findings(tx, item_id, _lot(state), lang),
        rests=rests_of(item_id, records, state),
    )


def _findings(tx: sa.Connection, item_id: str, lot: str | None, lang: str) -> tuple[str, ...]:
    """What rules found wrong and everybody must know, in plain words."""
    lots = [lot] if lot and lot != item_id else []
    return tuple(plain(one, lang) for one in serious(about(tx, [item_id], lots=lots)))


def rests_of(item_id: str, records: list[Seen], state: Standing | None) -> Rests:
    """What an answer about an item rests on: every unit it was ever in, its lot and product, its devices."""
    containers = {record.container for record in records if record.via == "inside"}
    containers |= set(state.containers) if state is not None else set()
    return Rests(
        things=things_of(item_id, sorted(containers), _lot(state)),
        devices=tuple(sorted({record.device_id for record in records})),
        is_pending=any(record.is_pending for record in records),
    )


def is_known(tx: sa.Connection, item_id: str) -> bool:
    """Whether anything is recorded under a code: events of its own, or product data."""
    if item_state(tx, item_id) is not None:
        return True
    return any(masterdata.fact(tx, item_id, kind) is not None for kind in ("product", "place", "party"))


def name_of(tx: sa.Connection, item_id: str, lang: str) -> str:
    """The registered name of what a code names, "" where there is none."""
    product = class_of(item_id) or item_id
    facts = masterdata.facts_about(tx, {"product": {item_id, product}, "place": {item_id}, "party": {item_id}})
    for kind, subject in (("product", item_id), ("product", product), ("place", item_id), ("party", item_id)):
        if subject in facts[kind]:
            return _name(facts[kind][subject], lang)
    return ""


def _name(fact: Any, lang: str) -> str:
    return str(fact.get(f"name_{lang}") or fact.get("name_en") or "")


def _last(records: list[Seen]) -> Seen | None:
    wrong = withdrawn(records)
    good = [r for r in records if r.declaration is None and r.name not in wrong and not r.via and not r.is_suspect]
    return good[-1] if good else None


def _sale(records: list[Seen], lang: str, *, parties: story.Names, places: story.Names) -> Sale | None:
    wrong = withdrawn(records)
    for record in reversed(records):
        if record.declaration is not None or record.via or record.name in wrong or record.is_suspect:
            continue
        if record.step in _SOLD_STEPS or record.disposition == "retail_sold":
            who = story.name_in(parties, record.org, lang)
            where = story.name_in(places, place_id(record.event), lang)
            joined = " · ".join(part for part in (who, where) if part)
            return Sale(record.device_ms, joined)
        if record.disposition == "returned":
            return None
    return None


def _lot(state: Standing | None) -> str | None:
    return None if state is None else state.own.lot


def _maker(product_id: str, records: list[Seen]) -> str:
    return records[0].org if records else ""


def _facts(
    ai: tuple[tuple[str, str], ...],
    records: list[Seen],
    state: Standing | None,
    *,
    parties: story.Names,
    product_id: str,
    lang: str,
) -> list[tuple[str, str]]:
    values = dict(ai)
    facts: list[tuple[str, str]] = []
    maker = story.name_in(parties, _maker(product_id, records), lang)
    if maker and ai and ai[0][0] != "00":
        facts.append(("fact.maker", maker))
    lot = values.get("10") or next((text for r in records if (text := ilmd(r.event, "lotNumber"))), "")
    lot_id = _lot(state)
    if not lot and lot_id:
        lot = dict(parse(lot_id).ai).get("10", "")
    made = next((r for r in records if r.step in ("commissioning", "creating_class_instance")), None)
    expires = next((text for r in records if (text := ilmd(r.event, "itemExpirationDate"))), "")
    for key, text in (("fact.serial", values.get("21", "")), ("fact.lot", lot)):
        if text:
            facts.append((key, text))
    if made is not None and ai and ai[0][0] != "00":
        facts.append(("fact.made", show_day_text(str(made.event.get("eventTime", "")), lang)))
    if expires:
        facts.append(("fact.expires", show_day_text(expires, lang)))
    for key, name in (("fact.gtin", "01"), ("fact.sscc", "00")):
        if name in values:
            facts.append((key, values[name]))
    if not facts:
        facts.append(("fact.code", "".join(f"({name}) {value} " for name, value in ai).strip()))
    return facts


def _gaps(tx: sa.Connection, devices: set[str]) -> list[Gap]:
    query = (
        sa.select(keys.c.iss, chains.c.highest, chains.c.distinct.label("seen"))
        .join(chains, chains.c.key_no == keys.c.key_no)
        .where(keys.c.iss.in_(sorted(devices)))
    )
    missing = [(row.iss.rpartition("/")[2], int(row.highest) + 1 - int(row.seen)) for row in tx.execute(query)]
    return [Gap(device, count) for device, count in missing if count > 0]
