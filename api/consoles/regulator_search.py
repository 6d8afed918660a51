"""Search for goods by what a regulator has at hand: a key in any spelling, a bare lot or serial number, a document."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from api.consumer.load import is_known
from core.errors import Rejected
from core.identifiers import Identifier, lot_id, org_id, parse, sgtin_id
from ledger.followers import read_messages
from ledger.queryindex import place_of
from ledger.queryindex_tables import query_postings
from ledger.queryindex_terms import term, term_hash
from ledger.state import items_at, items_held_by
from ledger.tables import item_states, masters

FOUND_MAX: Final = 200
_PRODUCTS_MAX: Final = 2_000
_DOCUMENTS: Final = (
    "bol", "cert", "desadv", "inv", "pedigree", "po", "poc", "prodorder", "recadv", "rma", "testprd", "testres",
    "upevt", "",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a search leads to: one thing to trace, or things to choose from and how they were found.

    Attributes:
        item: the thing itself, "" when there is a choice or nothing.
        how: lot, serial, place, org or document.
    """

    item: str = ""
    how: str = ""
    choices: tuple[str, ...] = ()
    problem: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether there were more than are listed."""
        return len(self.choices) >= FOUND_MAX


def search(tx: sa.Connection, text: str) -> Found:
    """Find goods for a text that a person typed."""
    text = text.strip()
    if not text:
        return Found()
    problem = ""
    try:
        identifier = parse(text)
    except Rejected as error:
        identifier, problem = None, error.message
    if identifier is not None and identifier.ai:
        return _named(tx, identifier)
    if text.isascii() and text.isdigit() and len(text) in (8, 12, 13, 14, 18):
        found = _digits(tx, text)
        if found is not None:
            return found
    documents = _documents(tx, text)
    if documents:
        return Found(how="document", choices=documents)
    for how, choices in (("lot", _numbered(tx, text, is_lot=True)), ("serial", _numbered(tx, text, is_lot=False))):
        if choices:
            return Found(item=choices[0] if len(choices) == 1 else "", how=how, choices=choices)
    return Found(problem=problem if identifier is None and not text.isalnum() else "")


def _named(tx: sa.Connection, identifier: Identifier) -> Found:
    if identifier.kind in ("gln", "sgln"):
        inside = tuple(state.id for state in items_at(tx, identifier.canonical, limit=FOUND_MAX))
        return Found(how="place", choices=inside) if inside else Found()
    if identifier.kind == "pgln":
        held = tuple(state.id for state in items_held_by(tx, identifier.canonical, limit=FOUND_MAX))
        return Found(how="org", choices=held) if held else Found()
    if identifier.kind == "gtin":
        query = sa.select(item_states.c.id).where(item_states.c.product == identifier.canonical)
        lots = query.where(item_states.c.lot == item_states.c.id).order_by(item_states.c.id).limit(FOUND_MAX)
        found = tuple(tx.execute(lots).scalars())
        return Found(how="lot", choices=found) if found else Found(item=identifier.canonical)
    return Found(item=identifier.canonical)


def _digits(tx: sa.Connection, text: str) -> Found | None:
    """Bare digits: an SSCC, a GTIN, or a GLN of a place or an organisation."""
    paths = {18: ("00",), 13: ("414", "417", "01")}.get(len(text), ("01",))
    for ai in paths:
        try:
            identifier = parse(f"https://id.gs1.org/{ai}/{text}")
        except Rejected:
            continue
        found = _named(tx, identifier)
        if found.choices or (found.item and is_known(tx, found.item)):
            return found
        if ai == "414":
            held = _named(tx, parse(org_id(text)))
            if held.choices:
                return held
    return None


def _numbered(tx: sa.Connection, text: str, *, is_lot: bool) -> tuple[str, ...]:
    """Lots or items of any registered product with this number."""
    query = sa.select(masters.c.subject).where(masters.c.fact == "product").distinct().limit(_PRODUCTS_MAX)
    wanted = []
    for product in tx.execute(query).scalars():
        gtin = dict(parse(product).ai).get("01")
        if gtin is None:
            continue
        try:
            wanted.append(lot_id(gtin, text) if is_lot else sgtin_id(gtin, text))
        except Rejected:
            return ()
    found: list[str] = []
    for start in range(0, len(wanted), 500):
        named = sa.select(item_states.c.id).where(item_states.c.id.in_(wanted[start : start + 500]))
        found += tx.execute(named.order_by(item_states.c.id)).scalars()
    return tuple(found[:FOUND_MAX])


def _documents(tx: sa.Connection, text: str) -> tuple[str, ...]:
    """Things of the events that name a business document, by its whole identifier."""
    terms = [term_hash(term(f"bizTransaction:{kind}", text)) for kind in _DOCUMENTS]
    query = sa.select(query_postings.c.ev).where(query_postings.c.term.in_(terms))
    places = [place_of(ev) for ev in tx.execute(query.order_by(query_postings.c.ev).limit(FOUND_MAX)).scalars()]
    loaded = read_messages(tx, [leaf for leaf, _ in places])
    found: dict[str, None] = {}
    for leaf, number in places:
        if leaf in loaded:
            event = loaded[leaf].events[number]
            found |= dict.fromkeys(event.names(1, 6, 7, 8, 9, 10, 11))
    return tuple(sorted(found)[:FOUND_MAX])
