"""Compressed GS1 Digital Links read as application identifiers and values.

The last path segment holds a bit string in file-safe base64: application identifiers as decimal nibbles (or one byte
for a usual group of them), each followed by its value in as few bits as its format allows.

Source: GS1 Digital Link URI Syntax 1.2, section 8 and annex (tables F, Opt and P); the compression standard kept since.
"""

import re
from collections.abc import Mapping
from typing import Final, NoReturn

from core.errors import Rejected
from core.gs1 import KEYS, fields_of, pattern

Pairs = tuple[tuple[str, str], ...]

_WHOLE_MIN: Final = 8  # ours: a key and its value never take less; shorter words are other pages
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TEXT = re.compile(r"[A-Za-z0-9_-]{4,400}\Z")
_HEX: Final = "0123456789abcdef"
# Table Opt: usual groups of application identifiers under one byte that is no decimal number.
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "0A": ("01", "22"), "0B": ("01", "10"), "0C": ("01", "21"), "0D": ("01", "17"), "0E": ("01", "7003"),
    "0F": ("01", "30"), "1A": ("01", "10", "21", "17"), "1B": ("01", "15"), "1C": ("01", "11"), "1D": ("01", "16"),
    "1E": ("01", "91"), "1F": ("01", "10", "15"),
    **{f"2{'ABCDEF'[n]}": ("01", f"310{n}") for n in range(6)},
    **{f"3{'ABCDEF'[n]}": ("01", f"320{n}") for n in range(6)},
    "9A": ("8010", "8011"), "9B": ("8017", "8019"), "9C": ("8018", "8019"), "9D": ("414", "254"),
    **{f"A{n}": ("01", f"392{n}") for n in range(10)},
    **{f"C{n}": ("255", f"390{n}") for n in range(10)},
    **{f"C{'ABCD'[n]}": ("255", f"394{n}") for n in range(4)},
}  # fmt: skip


def looks_compressed(segment: str) -> bool:
    """Whether a path segment is meant as a compressed link: it holds a GS1 key, or begins with one."""
    if len(segment) < _WHOLE_MIN or not _TEXT.match(segment):
        return False
    try:
        return any(name in KEYS for name, _ in expand(segment)[0])
    except Rejected:
        pass
    try:
        return _Bits(segment).names()[0] in KEYS
    except Rejected:
        return False


def expand(segment: str) -> tuple[Pairs, tuple[tuple[str, str], ...]]:
    """The application identifiers with their values, and other key=value pairs, of a compressed segment.

    Raises:
        Rejected: ``bad_identifier``: it is no compressed link, or a value does not have its identifier's form.
    """
    if not _TEXT.match(segment):
        _refuse("it is not file-safe base64 of 4 to 400 characters")
    bits = _Bits(segment)
    found: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    while bits.left > 8:
        if bits.peek(4) == 15:
            others.append(bits.other())
            continue
        for name in bits.names():
            value = bits.value(name)
            form = pattern(name)
            if name in found or form is None or form.fullmatch(value) is None:
                _refuse(f"({name}) {value!r} does not fit or stands twice")
            found[name] = value
    if bits.rest():
        _refuse("bits are left over at its end")
    return tuple(found.items()), tuple(others)


class _Bits:
    def __init__(self, segment: str) -> None:
        self._text = "".join(f"{_ALPHABET.index(char):06b}" for char in segment)
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._text) - self._at

    def peek(self, size: int) -> int:
        return int(self._text[self._at : self._at + size] or "0", 2)

    def rest(self) -> int:
        return int(self._text[self._at :] or "0", 2)

    def take(self, size: int) -> int:
        if size > self.left:
            _refuse("it ends within a value")
        value = self.peek(size) if size else 0
        self._at += size
        return value

    def names(self) -> tuple[str, ...]:
        """The next application identifier, or those of the next group."""
        start = f"{self.take(8):02X}"
        if not start.isdecimal():
            return _GROUPS.get(start) or _refuse(f"no group of identifiers has the number {start}")
        name = start
        while pattern(name) is None:
            digit = self.take(4)
            name += str(digit)
            if digit > 9 or len(name) > 4:
                _refuse(f"no application identifier starts {start}")
        return (name,)

    def value(self, name: str) -> str:
        """The value of an application identifier, component by component."""
        text = ""
        for kind, size, is_fixed in fields_of(name):
            if kind == "N":
                digits = size if is_fixed else self.take(size.bit_length())
                text += self.digits(digits)
                continue
            encoding = self.take(3)
            text += self.chars(encoding, size if is_fixed else self.take(size.bit_length()))
        return text

    def digits(self, count: int) -> str:
        # As many bits as the largest number of that many digits has (log2 10 per digit, rounded up).
        text = str(self.take((10**count - 1).bit_length())) if count else ""
        if len(text) > count:
            _refuse(f"a number of {count} digits is too large")
        return text.rjust(count, "0")

    def chars(self, encoding: int, count: int) -> str:
        if encoding == 0:
            return self.digits(count)
        if encoding in (1, 2):
            text = "".join(_HEX[self.take(4)] for _ in range(count))
            return text.upper() if encoding == 2 else text
        if encoding == 3:
            return "".join(_ALPHABET[self.take(6)] for _ in range(count))
        if encoding == 4:
            return "".join(chr(self.take(7)) for _ in range(count))
        return _refuse(f"no encoding has the number {encoding}")

    def other(self) -> tuple[str, str]:
        """A key=value pair that is no GS1 data: F, length of the key, key, encoding, length, value."""
        self.take(4)
        key = "".join(_ALPHABET[self.take(6)] for _ in range(self.take(7)))
        encoding = self.take(3)
        return key, self.chars(encoding, self.take(7))


def _refuse(why: str) -> NoReturn:
    raise Rejected(f"This is no compressed GS1 Digital Link: {why}.", code="bad_identifier")
