"""Findings as JSON and as sentences, as far as a reader may see them."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from api.words import has_words, say
from ledger.disclosure import Reader
from ledger.findings_read import Finding, about


def findings_json(
    tx: sa.Connection, item_id: str, *, lot: str | None, reader: Reader, lang: str,
    places: set[tuple[int, int]] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The findings about a thing and its lot: all with their events for staff, serious ones in plain words for all.

    Args:
        places: leaf and number of the events that the answer knows, where it is not about the present.
    """
    found = about(tx, [item_id], lots=[lot] if lot and lot != item_id else [])
    if places is not None:
        known = {f"{leaf}:{number}" for leaf, number in places}
        found = [one for one in found if known.issuperset(one.events)]
    if reader == "consumer":
        return [{"code": one.code, "severity": one.severity, "text": plain(one, lang)} for one in serious(found)]
    return [shown(one, lang) for one in found]


def serious(found: Iterable[Finding]) -> list[Finding]:
    """Those that stand and that everybody must know, one of each kind."""
    first: dict[str, Finding] = {}
    for one in found:
        if one.is_open and one.severity == "serious":
            first.setdefault(one.code, one)
    return list(first.values())


def plain(finding: Finding, lang: str) -> str:
    """A finding for consumers."""
    key = f"finding_plain.{finding.code}"
    return say(key if has_words(key) else "finding_plain.other", lang)


def sentence(finding: Finding, lang: str) -> str:
    """A finding for staff, naming its events."""
    key = f"finding.{finding.code}"
    if not has_words(key):
        text = finding.code.replace("_", " ")
    elif finding.details or "{" not in say(key, lang):
        text = say(key, lang, **{"km": "", "inside": "", **finding.details})
    else:
        # What an erased event said is gone from the finding too.
        text = say("finding_plain.other", lang)
    return text + say("finding.events", lang, events=", ".join(finding.events))


def shown(one: Finding, lang: str) -> dict[str, Any]:
    """A finding for staff."""
    return {
        "id": one.id,
        "code": one.code,
        "severity": one.severity,
        "text": sentence(one, lang),
        "subject": one.subject or None,
        "org": one.org,
        "events": list(one.events),
        "state": one.state,
        "cause": one.cause or None,
        "raised_leaf": one.raised_leaf,
        "history": [
            {"leaf": leaf, "state": state, "cause": cause or None, "event": event}
            for leaf, state, cause, event in one.history
        ],
    }
