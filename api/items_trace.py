"""The JSON of a trace: things, links, transformations with their balance, holders, and what was left out."""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import sqlalchemy as sa

from api.consumer import story
from api.items_document import text_of
from api.words import say
from core.identifiers import class_of
from ledger import masterdata
from ledger.asof import Book
from ledger.disclosure import Reader, may_see
from ledger.lineage import Direction, Holding, Link, Thing, Trace, Transformation, holdings, trace
from ledger.massbalance import Amount

LIMIT_MAX: Final = 1_000
LIMIT: Final = 200
ITEMS_SHOWN: Final = 100  # of one holding in JSON; the recall list has all
# The member of an event that names a neighbour in each role.
_MEMBERS: Final = {
    1: "parentID", 2: "inputEPCList", 3: "inputQuantityList", 4: "ilmd", 5: "transformationID", 6: "epcList",
    7: "childEPCs", 8: "outputEPCList", 9: "quantityList", 10: "childQuantityList", 11: "outputQuantityList",
}  # fmt: skip


def visible_roles(reader: Reader) -> frozenset[int]:
    """The roles whose names a reader may see, and so follow."""
    return frozenset(role for role, member in _MEMBERS.items() if may_see(reader, member))


def trace_document(
    tx: sa.Connection,
    book: Book,
    start: str,
    direction: Direction,
    *,
    reader: Reader,
    lang: str,
    depth: int,
    limit: int,
    page: int,
    log_size: int,
) -> dict[str, Any] | None:
    """The JSON of one page of a trace; None when nothing was known of the thing.

    Transformations and holders stand on the first page, links on the page of the thing they led to.
    """
    if not book.events(start):
        return None
    found = trace(tx, book, start, direction, depth_max=depth, roles=visible_roles(reader))
    shown = found.things[page * limit : (page + 1) * limit]
    rows = holdings(tx, book, found) if page == 0 else []
    names = names_of(tx, found, rows, lang)
    is_first, sees_amounts = page == 0, may_see(reader, "quantityList")
    place = {thing.id: number // limit for number, thing in enumerate(found.things)}
    links = [link for link in found.links if max(place.get(link.source, 0), place.get(link.target, 0)) == page]
    pages = max(1, -(-len(found.things) // limit))
    return {
        "item": start,
        "direction": direction,
        "as_of": {
            "at": text_of(book.moment.at_ms),
            "known": text_of(book.moment.known_ms),
            "log_size": log_size,
        },
        "things": [_thing(thing, names, sees_amounts) for thing in shown],
        "links": [_link(link, names) for link in links],
        "transformations": [transformation(row, names, sees_amounts) for row in found.transformations if is_first],
        "holders": [holding(row, names, sees_amounts) for row in rows],
        "truncated": truncated(found, lang),
        "hidden": found.hidden,
        "page": {
            "number": page,
            "of": pages,
            "things": len(found.things),
            "next": _next(book, start, direction, depth, limit, page + 1) if page + 1 < pages else None,
        },
    }


def truncated(found: Trace, lang: str) -> dict[str, Any]:
    """Whether the trace is the whole, and if not, why and how much was seen and not followed."""
    key = f"trace.truncated_{found.truncated}"
    return {
        "is_truncated": bool(found.truncated),
        "because": found.truncated or None,
        "unexplored": found.unexplored,
        "sentence": say(key, lang, count=found.unexplored) if found.truncated else say("trace.whole", lang),
    }


class Names:
    """Registered names of products, organisations and places in the reader's language."""

    def __init__(self, products: story.Names, parties: story.Names, places: story.Names, lang: str) -> None:
        self._products, self._parties, self._places, self._lang = products, parties, places, lang

    def thing(self, identifier: str) -> str:
        """The product's name, "" without one."""
        return story.name_in(self._products, class_of_or_self(identifier), self._lang)

    def org(self, identifier: str) -> str:
        """The organisation's name, else its id."""
        return story.name_in(self._parties, identifier, self._lang) or identifier

    def place(self, identifier: str) -> str:
        """The place's name, else its id."""
        return story.name_in(self._places, identifier, self._lang) or identifier


def names_of(tx: sa.Connection, found: Trace, rows: Sequence[Holding], lang: str) -> Names:
    """The names that a trace and its holdings need."""
    ids = {thing.id for thing in found.things}
    ids |= {amount.id for row in found.transformations for amount in (*row.inputs, *row.outputs)}
    orgs = {link.org for link in found.links} | {made.org for made in found.transformations} | {row.org for row in rows}
    return Names(
        masterdata.facts_of(tx, {class_of_or_self(one) for one in ids}, "product"),
        masterdata.facts_of(tx, orgs, "party"),
        masterdata.facts_of(tx, {row.place for row in rows}, "place"),
        lang,
    )


def class_of_or_self(identifier: str) -> str:
    """The GTIN of an item or lot, else the thing itself."""
    return class_of(identifier) or identifier


def transformation(row: Transformation, names: Names, sees_amounts: bool) -> dict[str, Any]:
    """A transformation as JSON."""
    return {
        "id": row.id or None,
        "leaf": row.leaf,
        "event_number": row.number,
        "time": text_of(row.at_ms),
        "org": row.org,
        "who": names.org(row.org),
        "inputs": _amounts(row.inputs, names, sees_amounts),
        "outputs": _amounts(row.outputs, names, sees_amounts),
        "balance": [
            {
                "uom": one.uom,
                "inputs": one.inputs,
                "outputs": one.outputs,
                "unexplained_loss": one.loss,
                "loss_share": one.loss_share,
            }
            for one in row.balance
            if sees_amounts
        ],
    }


def holding(row: Holding, names: Names, sees_amounts: bool) -> dict[str, Any]:
    """A holding as JSON, with the first items."""
    return {
        "org": row.org,
        "who": names.org(row.org),
        "place": row.place or None,
        "where": names.place(row.place) or None,
        "state": row.state,
        "count": row.count,
        "amounts": [{"quantity": one.quantity, "uom": one.uom} for one in row.amounts if sees_amounts],
        "products": list(row.products),
        "lots": list(row.lots),
        "items": list(row.items[:ITEMS_SHOWN]),
        "items_truncated": row.count > ITEMS_SHOWN,
    }


def _thing(thing: Thing, names: Names, sees_amounts: bool) -> dict[str, Any]:
    return {
        "id": thing.id,
        "kind": thing.kind,
        "name": names.thing(thing.id) or None,
        "depth": thing.depth,
        "is_carrier": thing.is_carrier,
        "made": _amount(thing.made) if sees_amounts else None,
        "used": _amount(thing.used) if sees_amounts else None,
    }


def _link(link: Link, names: Names) -> dict[str, Any]:
    return {
        "kind": link.kind,
        "source": link.source,
        "target": link.target,
        "leaf": link.leaf,
        "event_number": link.number,
        "time": text_of(link.at_ms),
        "org": link.org,
        "who": names.org(link.org),
        "is_withdrawn": link.is_withdrawn,
        "is_suspect": link.is_suspect,
    }


def _amount(amount: Amount | None) -> dict[str, Any] | None:
    return None if amount is None else {"quantity": amount.quantity, "uom": amount.uom}


def _amounts(amounts: Iterable[Amount], names: Names, sees_amounts: bool) -> list[dict[str, Any]]:
    return [
        {"id": one.id, "name": names.thing(one.id) or None, "quantity": one.quantity, "uom": one.uom}
        for one in amounts
        if sees_amounts
    ]


def _next(book: Book, start: str, direction: str, depth: int, limit: int, page: int) -> str:
    query: dict[str, Any] = {"direction": direction, "depth": depth, "limit": limit, "page": page}
    for name, value in (("at", book.moment.at_ms), ("known", book.moment.known_ms)):
        if value is not None:
            query[name] = text_of(value)
    return f"/items/{quote(start, safe='')}/trace?{urlencode(query)}"
