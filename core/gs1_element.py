"""GS1 element strings, bracketed or as a scanner sends them, read as GS1 keys.

Source: GS1 General Specifications 25, sections 4.14 (brackets) and 7.8 (FNC1 as the character GS).
"""

import re

from core.errors import Rejected
from core.gs1 import KEYS, checked_key, checked_qualifier, fixed_length, is_fixed_length, pattern

Pairs = tuple[tuple[str, str], ...]

_GS = "\x1d"
_SYMBOLOGIES = ("]C1", "]e0", "]d2", "]Q3", "]J1")
_BRACKET = re.compile(r"\((\d{2,4})\)")
# Keys that may stand beside another on one label: a shipment beside its logistic unit, a place beside anything.
_BESIDE = ("401", "402", "414", "417", "8017", "8018")


def read_element_string(text: str) -> Pairs | None:
    """The one key of an element string with its qualifiers; None when the text is no element string.

    Raises:
        Rejected: ``bad_identifier``, ``bad_check_digit``, or ``ambiguous_identifier`` when two things are named.
    """
    body = text
    for symbology in _SYMBOLOGIES:
        body = body.removeprefix(symbology)
    if body.startswith("("):
        found = _bracketed(body)
    elif body[:1].isdigit() or body.startswith(_GS):
        found = _plain(body.removeprefix(_GS))
    else:
        return None
    return _chosen(text, found)


def _bracketed(text: str) -> list[tuple[str, str]]:
    pieces = _BRACKET.split(text.replace("\\(", _GS))
    if pieces[0] or len(pieces) < 3:
        raise _bad(text, "it starts with an application identifier in brackets")
    return [(ai, value.replace(_GS, "(")) for ai, value in zip(pieces[1::2], pieces[2::2], strict=True)]


def _plain(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    rest = text
    while rest:
        ai = next((rest[:size] for size in (2, 3, 4) if pattern(rest[:size])), None)
        if ai is None:
            raise _bad(text, f"no application identifier starts {rest[:4]!r}")
        rest = rest[len(ai) :]
        if is_fixed_length(ai):
            value, rest = rest[: fixed_length(ai)], rest[fixed_length(ai) :].removeprefix(_GS)
        else:
            value, _, rest = rest.partition(_GS)
        found.append((ai, value))
    return found


def _chosen(text: str, found: list[tuple[str, str]]) -> Pairs:
    values = dict(found)
    if len(values) != len(set(found)):
        raise Rejected(f"{text!r} gives one application identifier two values.", code="ambiguous_identifier")
    for ai, value in values.items():
        values[ai] = checked_key(ai, value) if ai in KEYS else checked_qualifier(ai, value)
    keys = [ai for ai in values if ai in KEYS]
    if len(keys) > 1:
        keys = [ai for ai in keys if ai not in _BESIDE]
    if len(keys) != 1:
        code = "ambiguous_identifier" if keys else "bad_identifier"
        raise Rejected(f"{text!r} names {len(keys) or 'no'} things; one is needed.", code=code)
    key = keys[0]
    qualifiers = {ai for order in KEYS[key].qualifiers for ai in order}
    return ((key, values[key]), *((ai, values[ai]) for ai in values if ai in qualifiers))


def _bad(text: str, why: str) -> Rejected:
    return Rejected(f"{text!r} is no element string: {why}.", code="bad_identifier")
