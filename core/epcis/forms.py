"""Other spellings of the same event: identifiers as Digital Links or EPC URNs, CBV terms as web addresses or URNs.

A Digital Link does not say how long the GS1 Company Prefix in it is, an EPC URN must. So an identifier becomes a URN
only where the length is known: from a URN of the same company in the same event, or from the caller.

Source: GS1 CBV 2.0, section 8; GS1 EPC Tag Data Standard 2.1, section 6.3; GS1 EPCIS 2.0.1, section 12.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from core.epcis.vocabulary import CBV, WEB_LISTS, WORDS, local_name
from core.errors import Rejected
from core.identifiers import Identifier, parse

EpcFormat = Literal["No_Preference", "Always_GS1_Digital_Link", "Always_EPC_URN", "Never_Translates"]
CbvFormat = Literal["No_Preference", "Always_Web_URI", "Always_URN", "Never_Translates"]
PrefixLength = Callable[[str], int | None]

_LISTS: Final = ("epcList", "childEPCs", "inputEPCList", "outputEPCList")
_QUANTITIES: Final = ("quantityList", "childQuantityList", "inputQuantityList", "outputQuantityList")
_ONE: Final = ("parentID", "transformationID")
_PLACES: Final = ("readPoint", "bizLocation")
_TYPED: Final = (("bizTransactionList", "bizTransaction"), ("sourceList", "source"), ("destinationList", "destination"))
_URN_PREFIX: Final = re.compile(r"urn:epc:(?:id|idpat|class):[a-z]+:([0-9]{6,12})\.", re.IGNORECASE)
_URN_LISTS: Final = {"bizStep": "bizstep", "disposition": "disp", "bizTransaction": "btt", "sourceDest": "sdt"} | {
    "reason": "er",
    "component": "comp",
}
# Characters that stand for themselves in the parts of a URN (TDS 2.1, table A-1).
_PLAIN: Final = re.compile(r"[A-Za-z0-9!'()*+,\-.:;=_]")


class CompanyPrefixes:
    """Company prefixes that were seen in URNs, by which those of Digital Links are recognised."""

    def __init__(self, prefixes: Iterable[str] = ()) -> None:
        self._known = set(prefixes)

    def learn(self, text: str) -> None:
        """Take up the company prefix of an EPC URN; anything else is passed over."""
        match = _URN_PREFIX.match(text)
        if match is not None:
            self._known.add(match[1])

    def length(self, digits: str) -> int | None:
        """The length of the company prefix at the beginning of ``digits``; None when it is not known."""
        return next((n for n in range(12, 5, -1) if digits[:n] in self._known), None)


def translated(
    event: Mapping[str, Any], form: EpcFormat, prefix_length: PrefixLength = lambda digits: None
) -> dict[str, Any]:
    """The event with its identifiers in the form asked for; one that has no such form stays as it is.

    Args:
        prefix_length: gives the length of the company prefix at the beginning of the digits, or None.
    """
    if form in ("Never_Translates", "No_Preference"):
        return dict(event)
    if form == "Always_GS1_Digital_Link":
        return _mapped(event, digital_link)
    own = CompanyPrefixes()
    for text in _identifiers(event):
        own.learn(text)
    return _mapped(event, lambda text: epc_urn(text, lambda digits: own.length(digits) or prefix_length(digits)))


def digital_link(text: str) -> str:
    """The Digital Link of an EPC URN; anything else unchanged."""
    if text[:8].lower() != "urn:epc:":
        return text
    try:
        found = parse(text)
    except Rejected:
        return text
    return found.canonical if found.ai else text


def epc_urn(text: str, prefix_length: PrefixLength) -> str:
    """The EPC URN of a Digital Link whose company prefix is known; anything else unchanged."""
    if text[:4].lower() != "http":
        return text
    try:
        found = parse(text)
    except Rejected:
        return text
    build = _BUILDERS.get(found.kind)
    if build is None:
        return text
    urn = build(found, prefix_length)
    if urn is None:
        return text
    try:
        return urn if parse(urn).canonical == found.canonical else text
    except Rejected:
        return text


def cbv_term(term: str, field: str, form: CbvFormat) -> str:
    """A vocabulary term as XML writes it: a web address or a URN; a term of somebody else's vocabulary unchanged.

    Args:
        field: as of ``vocabulary.local_name``.
        form: with ``Never_Translates`` a whole address or URN stays as it is; a bare word, which XML does not know,
            becomes a web address.
    """
    if form == "Never_Translates" and ":" in term and not term.startswith("cbv:"):
        return term
    word = local_name(term, field)
    if word not in WORDS[field]:
        return term
    if form == "Always_URN":
        return f"urn:epcglobal:cbv:{_URN_LISTS[field]}:{word}"
    return f"{CBV}{WEB_LISTS[field]}-{word}"


def _mapped(event: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    found = dict(event)
    for name in _ONE:
        if isinstance(found.get(name), str):
            found[name] = change(found[name])
    for name in _LISTS:
        if isinstance(found.get(name), list):
            found[name] = [change(one) if isinstance(one, str) else one for one in found[name]]
    for name in _QUANTITIES:
        if isinstance(found.get(name), list):
            found[name] = [_member(one, "epcClass", change) for one in found[name]]
    for name in _PLACES:
        if name in found:
            found[name] = _member(found[name], "id", change)
    for name, member in _TYPED:
        if isinstance(found.get(name), list):
            found[name] = [_member(one, member, change) for one in found[name]]
    return found


def _member(value: Any, name: str, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get(name), str):
        return {**value, name: change(value[name])}
    return value


def _identifiers(event: Mapping[str, Any]) -> Iterator[str]:
    seen: list[str] = []

    def note(text: str) -> str:
        seen.append(text)
        return text

    _mapped(event, note)
    yield from seen


def _escaped(text: str) -> str:
    return "".join(one if _PLAIN.match(one) else f"%{ord(one):02X}" for one in text)


def _detail(found: Identifier) -> str:
    return found.ai[1][1] if len(found.ai) > 1 else ""


def _trade_item(scheme: str, form: str = "id") -> Callable[[Identifier, PrefixLength], str | None]:
    def build(found: Identifier, prefix_length: PrefixLength) -> str | None:
        gtin = found.ai[0][1]
        n = prefix_length(gtin[1:13])
        if n is None:
            return None
        serial = "*" if form == "idpat" else _escaped(_detail(found))
        return f"urn:epc:{form}:{scheme}:{gtin[1 : 1 + n]}.{gtin[0]}{gtin[1 + n : 13]}.{serial}"

    return build


def _piece(found: Identifier, prefix_length: PrefixLength) -> str | None:
    value = found.ai[0][1]
    n = prefix_length(value[1:13])
    if n is None:
        return None
    item = f"{value[1 : 1 + n]}.{value[0]}{value[1 + n : 13]}.{value[14:16]}.{value[16:18]}"
    return f"urn:epc:id:itip:{item}.{_escaped(_detail(found))}"


def _logistic_unit(found: Identifier, prefix_length: PrefixLength) -> str | None:
    value = found.ai[0][1]
    n = prefix_length(value[1:])
    return None if n is None else f"urn:epc:id:sscc:{value[1 : 1 + n]}.{value[0]}{value[1 + n : 17]}"


def _digits(
    scheme: str, length: int, *, skip: int = 0, tail: Callable[[Identifier], str] = lambda found: "", form: str = "id"
) -> Callable[[Identifier, PrefixLength], str | None]:
    """Keys that begin with the company prefix: ``length`` digits, then a check digit, then what ``tail`` gives."""

    def build(found: Identifier, prefix_length: PrefixLength) -> str | None:
        value = found.ai[0][1][skip:]
        n = prefix_length(value)
        return None if n is None else f"urn:epc:{form}:{scheme}:{value[:n]}.{value[n:length]}{tail(found)}"

    return build


def _free(scheme: str, tail: Callable[[Identifier], str] = lambda found: "") -> Any:
    """Keys whose reference is free text."""

    def build(found: Identifier, prefix_length: PrefixLength) -> str | None:
        value = found.ai[0][1]
        n = prefix_length(value)
        return None if n is None else f"urn:epc:id:{scheme}:{value[:n]}.{_escaped(value[n:])}{tail(found)}"

    return build


def _after(start: int) -> Callable[[Identifier], str]:
    """A serial that stands in the key itself; a key without one is written as the pattern over all serials."""
    return lambda found: f".{_escaped(found.ai[0][1][start:]) or '*'}"


def _serialised(scheme: str, length: int, start: int, skip: int = 0) -> Any:
    """A document, coupon or returnable asset, with or without its serial."""

    def build(found: Identifier, prefix_length: PrefixLength) -> str | None:
        form = "id" if len(found.ai[0][1]) > start else "idpat"
        return _digits(scheme, length, skip=skip, tail=_after(start), form=form)(found, prefix_length)

    return build


_BUILDERS: Final[Mapping[str, Callable[[Identifier, PrefixLength], str | None]]] = {
    "sgtin": _trade_item("sgtin"),
    "gtin": _trade_item("sgtin", "idpat"),
    "lgtin": _trade_item("lgtin", "class"),
    "upui": _trade_item("upui"),
    "sitip": _piece,
    "sscc": _logistic_unit,
    "gln": _digits("sgln", 12, tail=lambda found: ".0"),
    "sgln": _digits("sgln", 12, tail=lambda found: f".{_escaped(_detail(found))}"),
    "pgln": _digits("pgln", 12),
    "gsrn": _digits("gsrn", 17),
    "gsrnp": _digits("gsrnp", 17),
    "gsin": _digits("gsin", 16),
    "gdti": _serialised("gdti", 12, 13),
    "sgcn": _serialised("sgcn", 12, 13),
    "grai": _serialised("grai", 12, 14, skip=1),
    "giai": _free("giai"),
    "ginc": _free("ginc"),
    "cpi": _free("cpi", lambda found: f".{_escaped(_detail(found))}"),
}
