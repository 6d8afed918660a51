"""Bytes and JSON with one meaning: the strict parser, RFC 8785 bytes, unpadded base64url."""

import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NoReturn

import msgspec
import rfc8785

from core.errors import Rejected

INTEGER_MAX = 2**53 - 1
DIGITS_MAX = 38
EXPONENT_MAX = 38
DEPTH_MAX = 16

_quoted = json.JSONEncoder(ensure_ascii=False).encode
# The same bytes as the standard library's, several times quicker; floats and bytes must not reach them.
_encode = msgspec.json.Encoder(decimal_format="number").encode
_encode_sorted = msgspec.json.Encoder(decimal_format="number", order="sorted").encode
_COMPACT_MAX = 65_536  # ours: a larger text is a document of somebody else, which is seldom written in our way
_NOT_COMPACT = object()
_URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_URL = bytes.maketrans(b"+/", b"-_")
# What is no base64url becomes "!", which the strict decoder refuses; padding too, before our own is added.
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
# By the length's rest modulo 4; one character alone makes no byte, so its padding is a wrong one.
_PADDING = (b"", b"!", b"==", b"=")
# The last character carries bits of no byte: they are zero.
_LAST = ("", "", _URL[::16], _URL[::4])


def sha256(data: bytes) -> bytes:
    """The 32-byte SHA-256 digest."""
    return hashlib.sha256(data).digest()


def b64u(data: bytes) -> str:
    """Base64url without padding (RFC 7515, appendix C)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode("ascii")


def b64u_bytes(data: bytes) -> bytes:
    """:func:`b64u` as ASCII bytes."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=")


def b64u_each(parts: Sequence[bytes], length: int) -> list[str]:
    """:func:`b64u` of each of many strings of ``length`` bytes."""
    # With zero bytes behind it, each takes a whole number of quartets, whose last characters say nothing.
    filler = bytes(-length % 3)
    text = binascii.b2a_base64(filler.join(parts) + filler, newline=False).translate(_TO_URL).decode("ascii")
    step, size = (length + 2) // 3 * 4, (length * 4 + 2) // 3
    return [text[start : start + size] for start in range(0, step * len(parts), step)]


def unb64u(text: str, *, length: int | None = None) -> bytes:
    """The bytes of unpadded base64url, of which each byte string has exactly one spelling.

    Args:
        text: base64url; padding, other alphabets and stray bits are refused.
        length: the number of bytes it must hold, when it is fixed.

    Raises:
        Rejected: ``bad_base64url``.
    """
    rest = len(text) % 4
    try:
        data = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + _PADDING[rest], strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise Rejected("This is not base64url without padding.", code="bad_base64url") from error
    if rest and text[-1] not in _LAST[rest]:
        raise Rejected("The last base64url character has stray bits.", code="bad_base64url")
    if length is not None and len(data) != length:
        raise Rejected(f"Expected {length} bytes, found {len(data)}.", code="bad_base64url")
    return data


def parse_json(data: bytes, *, bytes_max: int, depth_max: int = DEPTH_MAX) -> Any:
    """The value of strict JSON: UTF-8, no duplicate keys, no NaN, bounded size, depth and numbers.

    Integers stay ``int`` within 2**53 - 1 (RFC 7493); other numbers are ``Decimal`` with at most 38 digits, so
    that a decimal keeps the digits it was given with.

    Args:
        data: the raw bytes, checked for size before anything else.
        bytes_max: the largest size taken.
        depth_max: how deep arrays and objects may nest.

    Raises:
        Rejected: ``too_large``, ``too_deep``, ``bad_json``, ``duplicate_key`` or ``bad_number``.
    """
    if len(data) > bytes_max:
        raise Rejected(f"The JSON text has {len(data)} bytes; at most {bytes_max} are taken.", code="too_large")
    if len(data) <= _COMPACT_MAX:
        found = _compact(data, depth_max)
        if found is not _NOT_COMPACT:
            return found
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("The JSON text is not UTF-8.", code="bad_json") from error
    try:
        value = _decoder(text)
    except json.JSONDecodeError as error:
        raise Rejected(f"Not JSON: {error.msg} at character {error.pos}.", code="bad_json") from error
    except RecursionError as error:
        raise Rejected(f"The JSON nests deeper than {depth_max}.", code="too_deep") from error
    if text.count("[") + text.count("{") > depth_max:
        _check_depth(value, depth_max)
    if "\\u" in text:
        _refuse_lone_surrogates(value)
    return value


def canonical_bytes(value: Any) -> bytes:
    """The RFC 8785 bytes of a value made of str, int, bool, None, list and dict.

    Raises:
        Rejected: ``bad_number`` for floats, decimals and integers above 2**53 - 1; ``bad_json`` for other types.
    """
    try:
        if _is_plain(value):
            return _encode_sorted(value)
        _refuse_fractions(value)
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError as error:
        raise Rejected("An integer lies beyond 2^53 - 1.", code="bad_number") from error
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise Rejected(f"No canonical form: {error}", code="bad_json") from error


def dump_json(value: Any) -> bytes:
    """Compact JSON text in which a Decimal keeps its digits; key order is kept.

    Raises:
        Rejected: ``bad_number`` for a float, ``bad_json`` for a type JSON does not know.
    """
    if _is_parsed(value):
        return _encode(value)
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts).encode("utf-8")


def dump_parsed(value: Any) -> bytes:
    """As :func:`dump_json`, quicker, for a value that :func:`parse_json` gave, or one made of its parts: no floats."""
    try:
        return _encode(value)
    except TypeError:
        return dump_json(value)


def _is_parsed(value: Any) -> bool:
    """Whether the value is made of the very types that :func:`parse_json` gives, and tuples."""
    kind = type(value)
    if kind is dict:
        for name, member in value.items():
            if type(name) is not str or (type(member) is not str and not _is_parsed(member)):
                return False
        return True
    if kind is list or kind is tuple:
        return not [member for member in value if type(member) is not str and not _is_parsed(member)]
    return kind is str or kind is int or kind is bool or kind is Decimal or value is None


def _compact(data: bytes, depth_max: int) -> Any:
    """The value of a text that is written as :func:`dump_json` writes, which nearly all of ours is.

    What is written again byte for byte had no member twice, no odd escape and no other spelling of a number. Any other
    text gives ``_NOT_COMPACT`` and is read the long way, which alone says what is wrong.
    """
    try:
        value = _decode(data)
        return value if _encode(value) == data and _is_safe(value, depth_max) else _NOT_COMPACT
    except (ValueError, RecursionError, msgspec.MsgspecError, Rejected):
        return _NOT_COMPACT


def _is_safe(value: Any, depth_max: int) -> bool:
    """Whether all integers lie within 2**53 - 1 and nothing nests deeper than ``depth_max``."""
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is int:
        return bool(-INTEGER_MAX <= value <= INTEGER_MAX)
    elif kind is not list:
        return True
    if depth_max == 0:
        return False
    for member in value:
        kind = type(member)
        if kind is not str and (kind is dict or kind is list or kind is int) and not _is_safe(member, depth_max - 1):
            return False
    return True


def _is_plain(value: Any) -> bool:
    """Whether the standard library's sorted JSON is RFC 8785: ASCII names, and of numbers safe integers alone."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-INTEGER_MAX <= value <= INTEGER_MAX)
    if kind is dict:
        for name, member in value.items():
            if type(name) is not str or not name.isascii() or (type(member) is not str and not _is_plain(member)):
                return False
        return True
    if kind is not list and kind is not tuple:
        return False
    return not [member for member in value if type(member) is not str and not _is_plain(member)]


def dump_sorted(value: Any) -> bytes:
    """As :func:`dump_parsed`, with the members of every object in the order of their names, to compare values by."""
    return _encode_sorted(value)


def _write(value: Any, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(_quoted(value))
    elif value is None or isinstance(value, bool):
        put("null" if value is None else "true" if value else "false")
    elif isinstance(value, int | Decimal):
        put(str(value))
    elif isinstance(value, dict):
        put("{")
        for position, (key, member) in enumerate(value.items()):
            put(f",{_quoted(key)}:" if position else f"{_quoted(key)}:")
            _write(member, put)
        put("}")
    elif isinstance(value, list | tuple):
        put("[")
        for position, member in enumerate(value):
            if position:
                put(",")
            _write(member, put)
        put("]")
    else:
        _refuse_type(value)


def _refuse_type(value: Any) -> NoReturn:
    code = "bad_number" if isinstance(value, float) else "bad_json"
    raise Rejected(f"A {type(value).__name__} has no place in this JSON.", code=code)


def _check_depth(value: Any, depth_max: int) -> None:
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > depth_max:
            raise Rejected(f"The JSON nests deeper than {depth_max}.", code="too_deep")
        level = [
            member
            for one in level
            for member in (one.values() if type(one) is dict else one)
            if type(member) is dict or type(member) is list
        ]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Rejected(f"The member {twice!r} stands twice in one object.", code="duplicate_key")
    return members


def _integer(text: str) -> int:
    if len(text) <= 17:
        value = int(text)
        if -INTEGER_MAX <= value <= INTEGER_MAX:
            return value
    raise Rejected("An integer lies beyond 2^53 - 1.", code="bad_number")


def _decimal(text: str) -> Decimal:
    if len(text) <= DIGITS_MAX + 8:
        value = Decimal(text)
        digits, exponent = value.as_tuple().digits, value.as_tuple().exponent
        if len(digits) <= DIGITS_MAX and isinstance(exponent, int) and abs(exponent) <= EXPONENT_MAX:
            return value
    raise Rejected("A number has more digits or a larger exponent than is taken.", code="bad_number")


def _constant(text: str) -> NoReturn:
    raise Rejected(f"{text} is not a JSON number.", code="bad_number")


_decode = msgspec.json.Decoder(float_hook=_decimal).decode
_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_decimal, parse_int=_integer, parse_constant=_constant
).decode


def _refuse_lone_surrogates(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Rejected("A string holds half a surrogate pair.", code="bad_json") from error
    elif isinstance(value, dict):
        for name, member in value.items():
            _refuse_lone_surrogates(name)
            _refuse_lone_surrogates(member)
    elif isinstance(value, list):
        for member in value:
            _refuse_lone_surrogates(member)


def _refuse_fractions(value: Any) -> None:
    if isinstance(value, float | Decimal):
        raise Rejected("Canonical bytes hold integers only.", code="bad_number")
    if isinstance(value, dict):
        for member in value.values():
            _refuse_fractions(member)
    elif isinstance(value, list | tuple):
        for member in value:
            _refuse_fractions(member)
