"""What the regulator's trace shows, and the same as sheets: both directions, holders, balance, events, evidence."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from api.consumer import story
from api.consumer.readings import place_id
from api.items_document import item_document, text_of
from api.items_trace import Names, names_of
from api.services import WebSettings
from api.words import has_words, say
from api.workbook import Cell, Sheet, moment, words
from core.canonical import b64u
from core.epcis.vocabulary import local_name
from core.identifiers import element_string, parse
from ledger import masterdata
from ledger.anchor import Anchor, final_anchor_over
from ledger.asof import Book, Moment, is_declaration, name_of, withdrawn
from ledger.chain_tx_tables import deployments
from ledger.followers import LoggedEvent
from ledger.lineage import Holding, Trace, holdings, trace
from ledger.massbalance import PIECES, Amount, amounts_of

_CTES: Final[Mapping[str, str]] = {
    "harvesting": "harvesting", "cooling": "cooling", "initial_packing": "initial_packing", "shipping": "shipping",
    "departing": "shipping", "receiving": "receiving", "arriving": "receiving", "accepting": "receiving",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """One question answered: what was recorded of a thing, where it came from, what became of it, who holds it."""

    item: str
    moment: Moment
    document: dict[str, Any]
    back: Trace
    forward: Trace
    holders: list[Holding]
    names: Names
    book: Book


@dataclass(frozen=True)
class Row:
    """One event of the trace with the traced goods it names: lot -> amount."""

    event: LoggedEvent
    lots: dict[str, Amount]
    is_withdrawn: bool


def load(tx: sa.Connection, item_id: str, asked: Moment, lang: str, *, log_size: int) -> View | None:
    """Everything about a thing as of a moment; None when nothing was known of it then."""
    book = Book(tx, asked)
    document = item_document(tx, item_id, reader="regulator", lang=lang, moment=asked, log_size=log_size, book=book)
    if document is None:
        return None
    back, forward = trace(tx, book, item_id, "back"), trace(tx, book, item_id, "forward")
    rows = holdings(tx, book, forward)
    things = (*back.things, *forward.things)
    whole = Trace(
        item_id, "back", things, (*back.links, *forward.links), (*back.transformations, *forward.transformations),
        "", 0, 0,
    )  # fmt: skip
    return View(item_id, asked, document, back, forward, rows, names_of(tx, whole, rows, lang), book)


def code(identifier: str) -> str:
    """A thing as people write it: the bracketed element string, else its id."""
    return element_string(identifier) if parse(identifier).ai else identifier


def rows_of(view: View) -> list[Row]:
    """Every event of the traced things, each once, by device time; carriers count for the traced goods inside them."""
    inside = _carried(view)
    found: dict[tuple[int, int], dict[str, Amount]] = {}
    events: dict[tuple[int, int], LoggedEvent] = {}
    wrong: set[tuple[str, str]] = set()
    for thing in {one.id: one for one in (*view.back.things, *view.forward.things)}.values():
        named = view.book.events(thing.id)
        wrong |= withdrawn(named)
        goods = sorted(inside.get(thing.id, {thing.id})) if thing.is_carrier else [thing.id]
        for event in named:
            place = (event.leaf, event.number)
            events[place] = event
            lots = found.setdefault(place, {})
            for name in goods:
                _add(lots, view, event, name)
    made = [
        Row(event, found[place], not is_declaration(event) and bool(name_of(event)[1]) and name_of(event) in wrong)
        for place, event in events.items()
    ]
    return sorted(made, key=lambda one: (one.event.device_ms, one.event.leaf, one.event.number))


def holder_sheet(view: View, lang: str) -> Sheet:
    """The recall list: one row for each thing with its holder."""
    heads = words(
        lang, "trace.holder", "book.location_id", "trace.place", "book.location_id", "trace.state", "book.item",
        "book.tlc", "book.quantity", "book.uom",
    )  # fmt: skip
    rows: list[list[Cell]] = []
    made = {thing.id: thing.made for thing in (*view.back.things, *view.forward.things)}
    for row in view.holders:
        for item in row.items:
            state = view.book.state(item)
            lot = state.lot if state is not None else None
            amount = made.get(item) or Amount(item, Decimal(1))
            rows.append(
                [
                    view.names.org(row.org), row.org, view.names.place(row.place), row.place,
                    say(f"trace.state_{row.state}", lang), code(item), lot or item, amount.quantity, amount.uom,
                ]
            )  # fmt: skip
    return Sheet(say("book.holders", lang), heads, rows)


def sheets(tx: sa.Connection, view: View, lang: str, *, settings: WebSettings, now_ms: int) -> list[Sheet]:
    """The whole workbook."""
    rows = rows_of(view)
    places = masterdata.facts_of(tx, {place_id(row.event.event) for row in rows}, "place")
    parties = masterdata.facts_of(tx, {row.event.org for row in rows}, "party")
    return [
        _events_sheet(view, rows, lang, places=places, parties=parties),
        holder_sheet(view, lang),
        _balance_sheet(view, lang),
        _evidence_sheet(tx, rows, lang),
        _about_sheet(tx, view, lang, settings=settings, now_ms=now_ms),
    ]


def _events_sheet(view: View, rows: list[Row], lang: str, *, places: story.Names, parties: story.Names) -> Sheet:
    heads = words(
        lang, "book.row", "book.cte", "book.time", "book.tlc", "book.product", "book.quantity", "book.uom", "book.org",
        "book.location", "book.location_id", "book.tlc_source", "book.documents", "trace.what", "book.status",
        "book.received",
    )  # fmt: skip
    made: list[list[Cell]] = []
    for number, row in enumerate(rows, start=1):
        body, place = row.event.event, place_id(row.event.event)
        step = local_name(str(body.get("bizStep", "")), "bizStep")
        for lot, amount in sorted(row.lots.items()) or [("", Amount("", None, ""))]:
            made.append(
                [
                    number, _cte(row.event, step, lang), moment(row.event.device_ms), lot, view.names.thing(lot),
                    amount.quantity, amount.uom, story.name_in(parties, row.event.org, lang) or row.event.org,
                    story.name_in(places, place, lang) or place, place, _source(view, lot),
                    "\n".join(_documents(body)), say(f"step.{step}", lang) if has_words(f"step.{step}") else step,
                    _status(row, lang), moment(row.event.received_ms),
                ]
            )  # fmt: skip
    return Sheet(say("book.events", lang), heads, made)


def _balance_sheet(view: View, lang: str) -> Sheet:
    heads = words(
        lang, "trace.process", "book.time", "book.org", "book.uom", "trace.inputs", "trace.outputs", "trace.loss"
    )
    rows: list[list[Cell]] = []
    for made in {one.events: one for one in (*view.back.transformations, *view.forward.transformations)}.values():
        for line in made.balance:
            loss: Cell = line.loss if line.loss is not None else say("trace.loss_none", lang)
            org = view.names.org(made.org)
            rows.append([made.id, moment(made.at_ms), org, line.uom, line.inputs, line.outputs, loss])
    return Sheet(say("book.balance", lang), heads, rows)


def _evidence_sheet(tx: sa.Connection, rows: list[Row], lang: str) -> Sheet:
    heads = words(
        lang, "book.row", "book.leaf", "book.number", "book.leaf_hash", "book.size", "book.root", "book.chain_tx",
        "book.block", "book.signed", "book.org",
    )  # fmt: skip
    over = anchors_over(tx, [row.event.leaf for row in rows])
    made: list[list[Cell]] = []
    for number, row in enumerate(rows, start=1):
        event, anchor = row.event, over[row.event.leaf]
        pinned: list[Cell] = [None, say("book.pending", lang), None, None]
        if anchor is not None:
            pinned = [anchor.size, b64u(anchor.root), anchor.tx_hash or "", anchor.block_number]
        made.append([number, event.leaf, event.number, b64u(event.leaf_hash), *pinned, event.iss, event.org])
    return Sheet(say("book.evidence", lang), heads, made)


def anchors_over(tx: sa.Connection, leaves: list[int]) -> dict[int, Anchor | None]:
    """The first final anchor over each leaf, asked once for each anchor."""
    found: dict[int, Anchor | None] = {}
    sizes: list[int] = []
    known: dict[int, Anchor] = {}
    has_chain = tx.execute(sa.select(deployments.c.id).where(deployments.c.is_current)).first() is not None
    for leaf in sorted(set(leaves)):
        at = bisect_right(sizes, leaf)
        if at < len(sizes) and known[sizes[at]].prev_size <= leaf:
            found[leaf] = known[sizes[at]]
            continue
        anchor = final_anchor_over(tx, leaf) if has_chain else None
        found[leaf] = anchor
        if anchor is not None and anchor.size not in known:
            known[anchor.size] = anchor
            sizes.append(anchor.size)
    return found


def _about_sheet(tx: sa.Connection, view: View, lang: str, *, settings: WebSettings, now_ms: int) -> Sheet:
    from api.items_trace import truncated

    rows: list[list[Cell]] = [
        [say("book.question", lang), code(view.item)],
        [say("trace.at", lang), text_of(view.moment.at_ms) or say("trace.now", lang)],
        [say("trace.known", lang), text_of(view.moment.known_ms) or say("trace.now", lang)],
        [say("book.made_at", lang), moment(now_ms)],
        [say("book.log_size", lang), int(view.document["as_of"]["log_size"])],
        [say("book.contract", lang), settings.log_contract],
        [say("trace.direction_back", lang), str(truncated(view.back, lang)["sentence"])],
        [say("trace.direction_forward", lang), str(truncated(view.forward, lang)["sentence"])],
        [say("book.check", lang), say("book.check_words", lang)],
    ]
    return Sheet(say("book.about", lang), [say("book.about", lang), settings.service], rows)


def _carried(view: View) -> dict[str, set[str]]:
    """The traced goods that each carrier ever held, also through units inside it."""
    carriers = {thing.id for thing in (*view.back.things, *view.forward.things) if thing.is_carrier}
    direct: dict[str, set[str]] = {}
    for link in (*view.back.links, *view.forward.links):
        if link.kind in ("packing", "association") and link.target in carriers:
            direct.setdefault(link.target, set()).add(link.source)
    found: dict[str, set[str]] = {name: set() for name in carriers}
    for name in carriers:
        open_, seen = [name], {name}
        while open_:
            for child in direct.get(open_.pop(), ()):
                if child in seen:
                    continue
                seen.add(child)
                if child in carriers:
                    open_.append(child)
                else:
                    found[name].add(child)
    return found


def _add(lots: dict[str, Amount], view: View, event: LoggedEvent, name: str) -> None:
    """Count a traced thing under its lot in one event: stated amounts of a lot, else one piece for each item."""
    state = view.book.state(name)
    lot = (state.lot if state is not None else None) or name
    if lot == name:
        for member in ("quantityList", "outputQuantityList", "inputQuantityList", "childQuantityList"):
            for amount in amounts_of(event.event, (), member):
                if amount.id == name:
                    lots[lot] = amount
                    return
    before = lots.get(lot)
    if lot == name and before is None:
        lots[lot] = Amount(lot, None, "")
    elif lot != name:
        count = (before.quantity or Decimal(0)) if before is not None and before.uom == PIECES else Decimal(0)
        lots[lot] = Amount(lot, count + 1, PIECES)


def _cte(event: LoggedEvent, step: str, lang: str) -> str:
    if event.clear.get("type") == "TransformationEvent":
        return say("cte.transformation", lang)
    return say(f"cte.{_CTES.get(step, 'other')}", lang)


def _source(view: View, lot: str) -> str:
    """Who assigned the lot code: the organisation of the event that made it."""
    for event in view.book.good(lot) if lot else ():
        if event.clear.get("type") == "TransformationEvent" or event.clear.get("action") == "ADD":
            return view.names.org(event.org)
    return ""


def _documents(body: Mapping[str, Any]) -> list[str]:
    value = body.get("bizTransactionList")
    rows = value if isinstance(value, list) else []
    return [
        f"{local_name(str(row.get('type', '')), 'bizTransaction')} {row.get('bizTransaction', '')}".strip()
        for row in rows
        if isinstance(row, Mapping)
    ]


def _status(row: Row, lang: str) -> str:
    if is_declaration(row.event):
        return (
            say("step.error_declaration", lang) if has_words("step.error_declaration") else say("trace.withdrawn", lang)
        )
    if row.is_withdrawn:
        return say("trace.withdrawn", lang)
    return say("trace.suspect", lang) if row.event.suspect else say("book.stands", lang)
