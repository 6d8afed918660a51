"""Percent-encoding with one spelling (RFC 3986): decoded once, and all but unreserved characters written as %XX."""

import re

from core.errors import Rejected

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_RESERVED = re.compile(rb"[^A-Za-z0-9._~-]")


def percent_decoded(text: str) -> str:
    """The text with each %XX replaced, once; escapes name bytes of UTF-8.

    Raises:
        Rejected: ``bad_identifier`` for a percent sign without two hex digits, or for bytes that are no UTF-8.
    """
    if "%" not in text:
        return text
    if any(not digits for digits in _ESCAPE.findall(text)):
        raise Rejected(f"{text!r} has a percent sign without two hex digits.", code="bad_identifier")
    try:
        return _decoded(text)
    except UnicodeError as error:
        raise Rejected(f"{text!r} does not decode to text.", code="bad_identifier") from error


def percent_encoded(text: str) -> str:
    """The text with every character but the RFC 3986 unreserved ones as upper-case %XX of its UTF-8 bytes."""
    data = text.encode("utf-8")
    if _RESERVED.search(data) is None:
        return text
    return _RESERVED.sub(lambda match: b"%%%02X" % match[0][0], data).decode("ascii")


def _decoded(text: str) -> str:
    head, *rest = text.encode("utf-8").split(b"%")
    return (head + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in rest)).decode("utf-8")
