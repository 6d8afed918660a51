"""Parties, places, products and owners, as the newest ``master`` records tell them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from ledger.database import Tx
from ledger.tables import masters


def party(tx: Tx, org_id: str) -> Mapping[str, Any] | None:
    """``name_en``, ``name_zh``, ``role`` of an organisation."""
    return fact(tx, org_id, "party")


def place(tx: Tx, place_id: str) -> Mapping[str, Any] | None:
    """``name_en``, ``name_zh``, ``lat``, ``lon``, ``address`` of a place."""
    return fact(tx, place_id, "place")


def product(tx: Tx, gtin_id: str) -> Mapping[str, Any] | None:
    """``name_en``, ``name_zh``, ``category``, ``shelf_life_days``, ``unit`` of a product."""
    return fact(tx, gtin_id, "product")


def owner(tx: Tx, item_id: str) -> str | None:
    """The organisation that the newest ownership record names as owner."""
    value = fact(tx, item_id, "ownership")
    return None if value is None else str(value["owner"])


def fact(tx: Tx, subject: str, kind: str) -> Mapping[str, Any] | None:
    """The newest value of one kind of fact about a subject (canonical id)."""
    query = sa.select(masters.c.value).where(masters.c.subject == subject, masters.c.fact == kind)
    value = tx.execute(query.order_by(masters.c.leaf.desc()).limit(1)).scalar_one_or_none()
    return None if value is None else json.loads(value)


def facts_of(tx: Tx, subjects: Iterable[str], kind: str) -> dict[str, Mapping[str, Any]]:
    """The newest value for each subject that has one."""
    wanted = sorted(set(subjects))
    found: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(wanted), 500):
        query = sa.select(masters.c.subject, masters.c.value).where(
            masters.c.subject.in_(wanted[start : start + 500]), masters.c.fact == kind
        )
        found.update((subject, json.loads(value)) for subject, value in tx.execute(query.order_by(masters.c.leaf)))
    return found
