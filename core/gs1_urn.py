"""EPC URNs read as GS1 keys: pure identities, classes, patterns and tag URIs.

Source: GS1 EPC Tag Data Standard 2.1, sections 6.3, 8, 12 and 13; GS1 check digits are computed, not carried by a URN.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from core.errors import Rejected
from core.gs1 import check_digit
from core.percent import percent_decoded

Pairs = tuple[tuple[str, str], ...]

_URN = re.compile(r"urn:epc:(id|idpat|class|tag|pat):([a-z]+)(?:-(?:\d+|var|\+))?:(.*)\Z", re.IGNORECASE | re.DOTALL)
_DIGITS = re.compile(r"[0-9]+\Z")
_PREFIX = re.compile(r"[0-9]{6,12}\Z")


class _Scheme(NamedTuple):
    """How the parts of one URN scheme become a key.

    Attributes:
        digits: how many digits company prefix and reference have together, 0 when the reference is free text.
        extra: names of the parts behind the reference.
        serial: whether the last part is a serial, which a pattern may leave open with ``*``.
    """

    ai: str
    digits: int
    parts: int
    build: Callable[[str, str, list[str]], Pairs]
    serial: bool = True


def read_urn(text: str) -> Pairs | None:
    """The application identifiers an EPC URN stands for; None for a URN that names no GS1 key.

    Raises:
        Rejected: ``bad_identifier`` for a URN of a GS1 scheme that breaks the scheme's rules.
    """
    match = _URN.match(text)
    if match is None:
        return None
    form, name, rest = match[1].lower(), match[2].lower(), match[3]
    if form in ("tag", "pat"):
        _filter, dot, rest = rest.partition(".")
        if not dot:
            return None
    scheme = _CLASSES.get(name) if form == "class" else _SCHEMES.get(name)
    if scheme is None:
        return None
    parts = rest.split(".", scheme.parts - 1)
    if len(parts) != scheme.parts:
        raise _bad(text, f"it has {scheme.parts} parts between dots")
    is_open = form in ("idpat", "pat") and scheme.serial and parts[-1] == "*"
    if form in ("idpat", "pat") and "*" in parts[:-1]:
        return None  # a pattern over many keys names no single thing
    prefix, reference = parts[0], parts[1]
    if not _PREFIX.match(prefix):
        raise _bad(text, "a GS1 Company Prefix has 6 to 12 digits")
    if scheme.digits and (not _DIGITS.match(prefix + reference) or len(prefix + reference) != scheme.digits):
        raise _bad(text, f"company prefix and reference together have {scheme.digits} digits")
    extras = [percent_decoded(part) for part in parts[2:]]
    if is_open:
        extras[-1] = ""
    elif scheme.serial and not extras[-1]:
        raise _bad(text, "its serial is empty")
    return scheme.build(prefix, percent_decoded(reference), extras)


def _bad(text: str, why: str) -> Rejected:
    return Rejected(f"{text!r} is no EPC URN of its scheme: {why}.", code="bad_identifier")


def _pairs(ai: str, value: str, *qualifiers: tuple[str, str]) -> Pairs:
    return ((ai, value), *(pair for pair in qualifiers if pair[1]))


def _checked(digits: str) -> str:
    return digits + check_digit(digits)


def _gtin(prefix: str, reference: str) -> str:
    return _checked(reference[0] + prefix + reference[1:]) if reference else ""


def _sgln(prefix: str, reference: str, extras: list[str]) -> Pairs:
    extension = "" if extras[0] == "0" else extras[0]
    return _pairs("414", _checked(prefix + reference), ("254", extension))


def _itip(prefix: str, reference: str, extras: list[str]) -> Pairs:
    return _pairs("8006", _gtin(prefix, reference) + extras[0] + extras[1], ("21", extras[2]))


_SCHEMES: Mapping[str, _Scheme] = {
    "sgtin": _Scheme("01", 13, 3, lambda p, r, x: _pairs("01", _gtin(p, r), ("21", x[0]))),
    "upui": _Scheme("01", 13, 3, lambda p, r, x: _pairs("01", _gtin(p, r), ("235", x[0]))),
    "itip": _Scheme("8006", 13, 5, _itip),
    "sscc": _Scheme("00", 17, 2, lambda p, r, _: _pairs("00", _checked(r[:1] + p + r[1:])), serial=False),
    "sgln": _Scheme("414", 12, 3, _sgln),
    "pgln": _Scheme("417", 12, 2, lambda p, r, _: _pairs("417", _checked(p + r)), serial=False),
    "grai": _Scheme("8003", 12, 3, lambda p, r, x: _pairs("8003", "0" + _checked(p + r) + x[0])),
    "giai": _Scheme("8004", 0, 2, lambda p, r, _: _pairs("8004", p + r), serial=False),
    "gsrn": _Scheme("8018", 17, 2, lambda p, r, _: _pairs("8018", _checked(p + r)), serial=False),
    "gsrnp": _Scheme("8017", 17, 2, lambda p, r, _: _pairs("8017", _checked(p + r)), serial=False),
    "gdti": _Scheme("253", 12, 3, lambda p, r, x: _pairs("253", _checked(p + r) + x[0])),
    "sgcn": _Scheme("255", 12, 3, lambda p, r, x: _pairs("255", _checked(p + r) + x[0])),
    "cpi": _Scheme("8010", 0, 3, lambda p, r, x: _pairs("8010", p + r, ("8011", x[0]))),
    "ginc": _Scheme("401", 0, 2, lambda p, r, _: _pairs("401", p + r), serial=False),
    "gsin": _Scheme("402", 16, 2, lambda p, r, _: _pairs("402", _checked(p + r)), serial=False),
}
_CLASSES: Mapping[str, _Scheme] = {
    "lgtin": _Scheme("01", 13, 3, lambda p, r, x: _pairs("01", _gtin(p, r), ("10", x[0]))),
}
