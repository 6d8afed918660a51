"""GS1 Digital Link URIs read as GS1 keys, on any domain and behind any path.

Source: GS1 Digital Link URI Syntax 1.4, section 4 (uncompressed form only).
"""

import re
from itertools import pairwise
from typing import NoReturn

from core.errors import Rejected
from core.gs1 import KEYS, QUALIFIERS, SHORT_NAMES, checked_key, checked_qualifier, has_check_digit
from core.percent import percent_decoded

Pairs = tuple[tuple[str, str], ...]

_LINK = re.compile(r"https?://([^/?#]*)([^?#]*)", re.IGNORECASE)
_OWN_HOST = re.compile(r"id\.gs1\.[a-z.]+\Z")
_COMPRESSED = re.compile(r"[A-Za-z0-9_-]{8,}\Z")
_PAIRS_MAX = 5


def read_link(text: str) -> Pairs | None:
    """The key and its qualifiers at the end of a web address; None for an address that is no GS1 Digital Link.

    An address on a domain of GS1 (``id.gs1.org``, ``id.gs1.de``) must be one. Elsewhere the end of the path counts as a
    key when its value has the key's form; only then a wrong check digit or a wrong qualifier is refused.

    Raises:
        Rejected: ``bad_identifier``, ``bad_check_digit`` or ``compressed_link``.
    """
    match = _LINK.match(text)
    if match is None:
        return None
    host, path = match[1].lower(), match[2]
    is_own = _OWN_HOST.match(host.rpartition("@")[2].partition(":")[0]) is not None
    segments = path.removesuffix("/").split("/")
    for start in range(len(segments) - 2, max(-1, len(segments) - 2 * _PAIRS_MAX - 1), -2):
        ai = _ai(segments[start])
        if ai in KEYS:
            return _read(ai, segments[start + 1 :], is_own)
        if ai not in QUALIFIERS and not is_own:
            break
    if is_own:
        _refuse(text, segments)
    return None


def _read(ai: str, rest: list[str], is_own: bool) -> Pairs | None:
    try:
        value = checked_key(ai, percent_decoded(rest[0]))
    except Rejected as error:
        if is_own or error.code == "bad_check_digit":
            raise
        return None
    given = [(_ai(name), percent_decoded(value)) for name, value in zip(rest[1::2], rest[2::2], strict=True)]
    names = [name for name, _ in given]
    if not any(_is_ordered(names, order) for order in KEYS[ai].qualifiers or ((),)):
        raise Rejected(f"({ai}) is not qualified by {' '.join(names)} in this order.", code="bad_identifier")
    return ((ai, value), *((name, checked_qualifier(name, value)) for name, value in given))


def _is_ordered(names: list[str], order: tuple[str, ...]) -> bool:
    places = [order.index(name) if name in order else -1 for name in names]
    return -1 not in places and all(left < right for left, right in pairwise(places))


def _ai(segment: str) -> str:
    if "%" in segment:
        try:
            segment = percent_decoded(segment)
        except Rejected:
            return ""
    return SHORT_NAMES.get(segment.lower(), segment)


def _refuse(text: str, segments: list[str]) -> NoReturn:
    last = segments[-1]
    if _COMPRESSED.match(last) and not (last.isdigit() and has_check_digit(last)):
        raise Rejected(f"{text!r} is a compressed Digital Link; send it uncompressed.", code="compressed_link")
    raise Rejected(f"{text!r} holds no GS1 identification key.", code="bad_identifier")
