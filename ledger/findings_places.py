"""Coordinates of places, and contents and shelf lives of products, as the log knew them at a leaf.

A place counts for the events that come after its record: what is told later about a place does not judge the past, so
that an organisation cannot make findings against another by moving a place, nor undo its own.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from ledger.database import Tx, fetch
from ledger.findings_facts import Where, point, site_of
from ledger.massbalance import net_contents

_KNOWN_MAX: Final = 50_000
_FACTS: Final = ("place", "product")


class Product(NamedTuple):
    """What a record says of a product: net content of one piece, and how many days it keeps."""

    net: tuple[str, str] | None
    shelf_days: int | None


class Places:
    """Remembers what ``master`` records said, for as long as one process follows the log without a break."""

    def __init__(self) -> None:
        self._tx: Tx | None = None
        self._known: dict[tuple[str, str], list[tuple[int, Any]]] = {}

    def begin(self, tx: Tx) -> None:
        """Read through this transaction from now on."""
        self._tx = tx
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()

    def learn(self, leaf: int, payload: Mapping[str, Any]) -> None:
        """A new record."""
        known = self._known.get((str(payload["fact"]), str(payload["subject"])))
        if known is not None and all(one != leaf for one, _ in known):
            known.append((leaf, _read(str(payload["fact"]), str(payload["subject"]), payload["value"])))
            known.sort(key=lambda one: one[0])

    def where(self, place: str, leaf: int) -> Where | None:
        """Coordinates of a place as known before a leaf; a part of a site stands where the site does."""
        found: Where | None = self._at("place", place, leaf)
        if found is None and (site := site_of(place)) != place:
            found = self._at("place", site, leaf)
        return found

    def net(self, product: str, leaf: int) -> tuple[str, str] | None:
        """Net content of one piece of a product as known before a leaf: value and unit."""
        found: Product | None = self._at("product", product, leaf)
        return None if found is None else found.net

    def shelf(self, product: str, leaf: int) -> int | None:
        """Days that a product keeps from when it is made, as known before a leaf."""
        found: Product | None = self._at("product", product, leaf)
        return None if found is None else found.shelf_days

    def _at(self, fact: str, subject: str, leaf: int) -> Any:
        known = self._known.get((fact, subject))
        if known is None:
            known = self._known[fact, subject] = self._load(fact, subject)
        place = bisect_left(known, leaf, key=lambda one: one[0])
        return known[place - 1][1] if place else None

    def _load(self, fact: str, subject: str) -> list[tuple[int, Any]]:
        if self._tx is None:
            return []
        query = "SELECT leaf, value FROM masters WHERE subject = ? AND fact = ? ORDER BY leaf"
        rows = fetch(self._tx, query, (subject, fact))
        return [(leaf, _read(fact, subject, json.loads(value, parse_float=Decimal))) for leaf, value in rows]


def _read(fact: str, subject: str, value: Mapping[str, Any]) -> Any:
    if fact == "place":
        return point(value.get("lat"), value.get("lon"))
    content = net_contents({subject: value}).get(subject)
    days = value.get("shelf_life_days")
    return Product(
        None if content is None or content.quantity is None else (str(content.quantity), content.uom),
        days if isinstance(days, int) and days > 0 else None,
    )
