"""Stored messages, read in the quickest way: what was checked at admission is not checked again.

The one thing looked at is what the store itself could break: a disclosure counts only under its digest in the log.
"""

import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec

from core.canonical import b64u
from core.errors import Rejected
from core.message import CLEAR, ERROR_REST

_DECODE: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


def decoded(data: bytes) -> Any:
    """The value of JSON that stands in the store; decimals keep their digits."""
    try:
        return _DECODE(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Half of a surrogate pair: JSON may hold it, UTF-8 may not.
        return json.loads(data, parse_float=Decimal)


def payload_of(jwt: bytes) -> Mapping[str, Any]:
    """The payload of a stored message.

    Raises:
        Rejected: it is none.
    """
    try:
        value = decoded(_unpacked(jwt.split(b".", 2)[1]))
    except (ValueError, IndexError) as error:
        raise Rejected("A stored message cannot be read.", code="bad_form") from error
    if not isinstance(value, dict) or not isinstance(value.get("events"), list):
        raise Rejected("A stored message has no events.", code="bad_payload")
    return value


def kid_of(jwt: bytes) -> str:
    """The key of a stored message."""
    return _kid(jwt.partition(b".")[0])


def event_of(clear: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """The event as far as it is disclosed: members in clear, then disclosed ones in the order of their digests.

    Raises:
        Rejected: ``bad_disclosure``: a text belongs to no digest of the event.
    """
    by_digest = {b64u(hashlib.sha256(text.encode("ascii")).digest()): text for text in texts}
    found = {name: clear[name] for name in CLEAR if name in clear}
    declaration = dict(clear["errorDeclaration"]) if "errorDeclaration" in clear else None
    for digest in clear["_sd"]:
        if (text := by_digest.pop(digest, None)) is None:
            continue
        _, name, value = decoded(_unpacked(text.encode("ascii")))
        if name == ERROR_REST:
            declaration = {**(declaration or {}), **value}
        else:
            found[name] = value
    if by_digest:
        raise Rejected("A stored disclosure belongs to no digest of its event.", code="bad_disclosure")
    if declaration is not None:
        found["errorDeclaration"] = declaration
    return found


@lru_cache(maxsize=4_096)
def _kid(header: bytes) -> str:
    return str(decoded(_unpacked(header))["kid"])


def _unpacked(text: bytes) -> bytes:
    return binascii.a2b_base64(text.translate(_FROM_URL) + b"==")
