"""What ``MATCH_`` parameters stand for: identifiers in either form, classes, and pure identity patterns.

Source: GS1 EPCIS 2.0.1, section 8.2.7.1.1; GS1 EPC Tag Data Standard 2.1, section 8 (pure identity patterns).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from core.errors import Rejected
from core.identifiers import HOST, parse
from ledger.queryindex_facts import CLASS_MARK
from ledger.queryindex_query import AnyOf
from ledger.queryindex_terms import CLASS_ROLES, EPC_ROLES, term

_PATTERN = re.compile(r"urn:epc:idpat:([a-z]+)(?:-(?:\d+|var|\+))?:(.+)\Z", re.IGNORECASE)
_COMPANY = re.compile(r"[0-9]{6,12}\Z")
_REFERENCE = re.compile(r"[0-9A-Za-z#\-/]*\Z")
# Key, how many digits stand before the company prefix, and whether the reference's first digit is one of them.
_SCHEMES: Final[Mapping[str, tuple[str, str]]] = {
    "sgtin": ("01", "indicator"), "upui": ("01", "indicator"), "itip": ("8006", "indicator"),
    "sscc": ("00", "indicator"), "sgln": ("414", ""), "pgln": ("417", ""), "grai": ("8003", "zero"),
    "giai": ("8004", ""), "gsrn": ("8018", ""), "gsrnp": ("8017", ""), "gdti": ("253", ""), "sgcn": ("255", ""),
    "cpi": ("8010", ""), "ginc": ("401", ""), "gsin": ("402", ""),
}  # fmt: skip
_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "epc": ("epc",), "parentID": ("parentID",), "inputEPC": ("inputEPC",), "outputEPC": ("outputEPC",),
    "anyEPC": EPC_ROLES, "epcClass": ("epcClass",), "inputEPCClass": ("inputEPCClass",),
    "outputEPCClass": ("outputEPCClass",), "anyEPCClass": CLASS_ROLES,
}  # fmt: skip
MATCHED: Final = frozenset(_ROLES)


def match(field: str, values: Iterable[str]) -> AnyOf:
    """The condition of ``MATCH_<field>``.

    Raises:
        Rejected: a value is neither an identifier nor a pattern.
    """
    terms: set[str] = set()
    prefixes: list[str] = []
    stems: set[str] = set()
    is_open = False
    for value in values:
        starts = _starts(value)
        for role in _ROLES[field]:
            if starts is None:
                terms |= _terms(role, value)
                continue
            for start, stem in starts:
                marks = (role, role + CLASS_MARK) if start.startswith("01/") else (role,)
                prefixes += [term(mark, f"{HOST}/{start}") for mark in marks]
                if stem:
                    stems.add(term(role + "^", stem))
                elif not start.startswith("01/"):
                    is_open = True
    return AnyOf(frozenset(terms), tuple(prefixes), frozenset(stems), is_open)


def _terms(role: str, value: str) -> set[str]:
    identifier = parse(value)
    found = {term(role, identifier.canonical)}
    if identifier.kind == "gtin" and role in EPC_ROLES:
        # The Digital Link of a GTIN and the pattern of all its serial numbers are one identifier in two spellings.
        found.add(term(role + CLASS_MARK, identifier.canonical))
    return found


def _starts(value: str) -> list[tuple[str, str]] | None:
    """The beginnings of canonical ids that a pattern matches, each with its stem; None for what is no open pattern."""
    pattern = _PATTERN.match(value)
    if pattern is None or "*" not in value:
        return None
    scheme, parts = pattern[1].lower(), pattern[2].split(".")
    if scheme not in _SCHEMES:
        raise Rejected(f"{value!r} is a pattern of an unknown scheme.", code="bad_identifier")
    if scheme in ("sgtin", "upui") and len(parts) == 3 and "*" not in parts[:2]:
        return None
    company, reference = parts[0], parts[1] if len(parts) > 1 else "*"
    later = parts[2:]
    is_ordered = all(part == "*" for part in parts[parts.index("*") :]) if "*" in parts else False
    if not is_ordered or (company != "*" and not _COMPANY.match(company)) or not _is_reference(reference):
        raise Rejected(f"{value!r} is no pattern: once a part is *, all that follow are.", code="bad_identifier")
    ai, lead = _SCHEMES[scheme]
    if company == "*":
        return [(f"{ai}/", "")]
    if any(part != "*" for part in later):
        raise Rejected(f"{value!r}: only the last part of a pattern may stay open here.", code="bad_identifier")
    digits = "" if reference == "*" else reference
    if lead == "indicator":
        leads = [digits[0]] if digits else [str(number) for number in range(10)]
        digits = digits[1:]
    else:
        leads = ["0"] if lead == "zero" else [""]
    stem = "" if ai == "01" else f"{ai}/{company[:6]}"
    return [(f"{ai}/{first}{company}{digits}", stem) for first in leads]


def _is_reference(text: str) -> bool:
    return text == "*" or _REFERENCE.match(text) is not None
