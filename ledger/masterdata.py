"""Parties, places, products and owners, as the newest ``master`` records tell them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ledger.database import Tx, fetch, fetch_among


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
    query = "SELECT value FROM masters WHERE subject = ? AND fact = ? ORDER BY leaf DESC LIMIT 1"
    rows = fetch(tx, query, (subject, kind))
    return json.loads(rows[0][0]) if rows else None


def facts_of(tx: Tx, subjects: Iterable[str], kind: str) -> dict[str, Mapping[str, Any]]:
    """The newest value for each subject that has one."""
    return facts_about(tx, {kind: subjects})[kind]


def facts_about(tx: Tx, wanted: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """By kind of fact and subject the newest values, of all kinds in one statement.

    Args:
        wanted: kind of fact -> subjects.
    """
    subjects = {kind: set(names) for kind, names in wanted.items()}
    query = "SELECT subject, fact, leaf, value FROM masters WHERE subject AMONG"
    rows = fetch_among(tx, query, sorted(set().union(*subjects.values())))
    newest: dict[tuple[str, str], tuple[int, str]] = {}
    for subject, fact, leaf, value in rows:
        before = newest.get((fact, subject))
        if before is None or before[0] < leaf:
            newest[fact, subject] = (leaf, value)
    found: dict[str, dict[str, Mapping[str, Any]]] = {kind: {} for kind in subjects}
    for (kind, subject), (_, value) in newest.items():
        if subject in subjects.get(kind, ()):
            found[kind][subject] = json.loads(value)
    return found
