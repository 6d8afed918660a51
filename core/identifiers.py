"""Identifiers of things, places and parties: one canonical string for every spelling.

A GS1 key becomes its uncompressed Digital Link on ``id.gs1.org`` at the finest level, whether it came as an EPC URN, a
Digital Link on any domain or an element string. Any other absolute URI stays byte for byte.

Source: GS1 CBV 2.0, section 8.9 (the keys that are kept); GS1 EPC Tag Data Standard 2.1; GS1 Digital Link 1.4.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from core.errors import Rejected
from core.gs1 import KEYS, checked_key, checked_qualifier, has_check_digit, kept
from core.gs1 import check_digit as check_digit  # noqa: PLC0414 (public name of this module too)
from core.gs1_element import read_element_string
from core.gs1_link import read_link
from core.gs1_urn import read_urn
from core.percent import percent_encoded

HOST = "https://id.gs1.org"
LENGTH_MAX = 2048  # ours: longer than any URI that a browser is sure to carry
_CACHED = 32_768  # ours: a supply chain names the same things again and again
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`\x00-\x20]+\Z")
# The forms that nearly every event uses, read at once; every other spelling takes the long way to the same result.
_PLAIN_LINK = re.compile(
    r"https?://[^/?#]+/(?:01/([0-9]{14})(?:/(21|10)/([A-Za-z0-9._-]{1,20}))?|00/([0-9]{18}))\Z", re.ASCII
)
_PLAIN_SGTIN = re.compile(r"urn:epc:id:sgtin:([0-9]{6,12}\.[0-9]{1,7})\.([A-Za-z0-9._-]{1,20})\Z")
_KINDS = {
    ("00", ""): "sscc", ("01", ""): "gtin", ("01", "21"): "sgtin", ("01", "10"): "lgtin", ("01", "235"): "upui",
    ("253", ""): "gdti", ("255", ""): "sgcn", ("401", ""): "ginc", ("402", ""): "gsin", ("414", ""): "gln",
    ("414", "254"): "sgln", ("415", ""): "payto", ("415", "8020"): "payto", ("417", ""): "pgln", ("8003", ""): "grai",
    ("8004", ""): "giai", ("8006", ""): "itip", ("8006", "21"): "sitip", ("8006", "10"): "litip", ("8010", ""): "cpid",
    ("8010", "8011"): "cpi", ("8013", ""): "gmn", ("8017", ""): "gsrnp", ("8018", ""): "gsrn",
}  # fmt: skip


class Identifier(NamedTuple):
    """One thing, whatever spelling it came in.

    Attributes:
        kind: sgtin, lgtin, gtin, upui, sscc, gln, sgln, pgln, giai, grai, gdti, sgcn, ginc, gsin, itip, sitip, litip,
            cpi, cpid, gmn, gsrn, gsrnp, payto, or uri for anything that is no GS1 key.
        canonical: the one string for it.
        ai: application identifiers and values that are kept, the key first; empty for a uri.
    """

    kind: str
    canonical: str
    ai: tuple[tuple[str, str], ...] = ()


@lru_cache(maxsize=_CACHED)
def parse(text: str) -> Identifier:
    """What an EPC URN, Digital Link, element string or other absolute URI names.

    Raises:
        Rejected: ``bad_identifier``, ``bad_check_digit``, ``compressed_link`` or ``ambiguous_identifier``.
    """
    if len(text) > LENGTH_MAX:
        raise Rejected(f"An identifier has at most {LENGTH_MAX} characters.", code="bad_identifier")
    plain = _plain(text)
    if plain is not None:
        return plain
    start = text[:4].lower()
    if start == "urn:":
        pairs = read_urn(text)
    elif start == "http":
        pairs = read_link(text)
    else:
        pairs = read_element_string(text)
    if pairs is not None:
        (ai, value), *given = pairs
        qualifiers = {name: checked_qualifier(name, text) for name, text in given}
        return _key(ai, checked_key(ai, value), qualifiers)
    if not _URI.match(text):
        raise Rejected(f"{text!r} is neither a GS1 identifier nor an absolute URI.", code="bad_identifier")
    return Identifier("uri", text)


def canonical(text: str) -> str:
    """The one string for a thing in any spelling.

    Raises:
        Rejected: as ``parse``.
    """
    return parse(text).canonical


def gtin_of(identifier: Identifier) -> str | None:
    """The 14-digit GTIN inside an item, lot, class or piece, None for anything else."""
    if not identifier.ai or identifier.ai[0][0] not in ("01", "8006"):
        return None
    return identifier.ai[0][1][:14]


def class_of(identifier: str) -> str | None:
    """The canonical id of the GTIN of a serialised item or a lot, None for anything else.

    Raises:
        Rejected: as ``parse``.
    """
    parsed = parse(identifier)
    gtin = gtin_of(parsed)
    return gtin_id(gtin) if gtin is not None and parsed.kind != "gtin" else None


def gtin_id(gtin: str) -> str:
    """The canonical id of a GTIN of 8, 12, 13 or 14 digits.

    Raises:
        Rejected: ``bad_identifier`` or ``bad_check_digit``.
    """
    return _key("01", checked_key("01", gtin), {}).canonical


def lot_id(gtin: str, lot: str) -> str:
    """The canonical id of a lot of a GTIN.

    Raises:
        Rejected: ``bad_identifier`` or ``bad_check_digit``.
    """
    return _key("01", checked_key("01", gtin), {"10": checked_qualifier("10", lot)}).canonical


def sgtin_id(gtin: str, serial: str) -> str:
    """The canonical id of one item of a GTIN.

    Raises:
        Rejected: ``bad_identifier`` or ``bad_check_digit``.
    """
    return _key("01", checked_key("01", gtin), {"21": checked_qualifier("21", serial)}).canonical


def sscc_id(sscc: str) -> str:
    """The canonical id of a logistic unit.

    Raises:
        Rejected: ``bad_identifier`` or ``bad_check_digit``.
    """
    return _key("00", checked_key("00", sscc), {}).canonical


def giai_id(value: str) -> str:
    """The canonical id of an individual asset, a device for example.

    Raises:
        Rejected: ``bad_identifier``.
    """
    return _key("8004", checked_key("8004", value), {}).canonical


def org_id(gln: str) -> str:
    """The id of an organisation: the Digital Link of its party GLN (AI 417).

    Raises:
        Rejected: ``bad_identifier`` or ``bad_check_digit``.
    """
    return _key("417", checked_key("417", gln), {}).canonical


def gln_of(org: str) -> str:
    """The 13-digit GLN of an organisation's id, or of a place.

    Raises:
        Rejected: ``bad_identifier`` when it names neither party nor place.
    """
    identifier = parse(org)
    if identifier.kind not in ("pgln", "gln", "sgln"):
        raise Rejected(f"{org!r} names no party or place.", code="bad_identifier")
    return identifier.ai[0][1]


def element_string(identifier: Identifier | str) -> str:
    """The bracketed element string, as printed under a barcode; brackets inside a value are escaped by a backslash.

    Raises:
        Rejected: ``bad_identifier`` when it is no GS1 key.
    """
    parsed = parse(identifier) if isinstance(identifier, str) else identifier
    if not parsed.ai:
        raise Rejected(f"{parsed.canonical!r} is no GS1 key.", code="bad_identifier")
    return "".join(f"({ai})" + value.replace("(", "\\(") for ai, value in parsed.ai)


def _plain(text: str) -> Identifier | None:
    link = _PLAIN_LINK.match(text)
    if link is not None:
        gtin, name, detail, sscc = link.groups()
        digits = gtin or sscc
        if not has_check_digit(digits):
            return None
        if sscc is not None:
            return Identifier("sscc", f"{HOST}/00/{sscc}", (("00", sscc),))
        if name is None:
            return Identifier("gtin", f"{HOST}/01/{gtin}", (("01", gtin),))
        kind = "sgtin" if name == "21" else "lgtin"
        return Identifier(kind, f"{HOST}/01/{gtin}/{name}/{detail}", (("01", gtin), (name, detail)))
    urn = _PLAIN_SGTIN.match(text)
    product = None if urn is None else _product(urn[1])
    if urn is None or product is None:
        return None
    return Identifier("sgtin", f"{HOST}/01/{product[1]}/21/{urn[2]}", (product, ("21", urn[2])))


@lru_cache(maxsize=4_096)
def _product(text: str) -> tuple[str, str] | None:
    """The key in a company prefix and an item reference between dots, None for another length than theirs."""
    prefix, _, reference = text.partition(".")
    if len(text) != 14:
        return None
    digits = reference[0] + prefix + reference[1:]
    return "01", digits + check_digit(digits)


def _key(ai: str, value: str, qualifiers: dict[str, str]) -> Identifier:
    qualifier = kept(ai, qualifiers) if KEYS[ai].finest else None
    text = f"{HOST}/{ai}/{percent_encoded(value)}"
    if qualifier is None:
        return Identifier(_KINDS[ai, ""], text, ((ai, value),))
    name, detail = qualifier
    return Identifier(_KINDS[ai, name], f"{text}/{name}/{percent_encoded(detail)}", ((ai, value), qualifier))
