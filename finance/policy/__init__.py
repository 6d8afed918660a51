"""Credit policy: versioned TOML files, immutable once used, read into exact numbers."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from core.canonical import sha256
from core.errors import Rejected
from core.money import Money, parse_money

LATEST: Final = "v2"
"""The version that new decisions rest on; earlier ones stay, for what was decided under them."""
_FOLDER: Final = Path(__file__).resolve().parent
_VERSION: Final = re.compile(r"v[0-9]{1,6}", re.ASCII)


@dataclass(frozen=True)
class Policy:
    """One version of the credit policy.

    Attributes:
        digest: SHA-256 of its file; a decision records it.
        data: the file's content; numbers stand in it as decimal texts.
    """

    version: str
    digest: bytes
    data: Mapping[str, Any]

    def number(self, *path: str) -> Fraction:
        """An exact number.

        Raises:
            Rejected: ``bad_policy`` when there is none at that place.
        """
        value = self._at(path)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Rejected(f"The policy has no number at {'.'.join(path)}.", code="bad_policy")
        return Fraction(value)

    def integer(self, *path: str) -> int:
        """A whole number.

        Raises:
            Rejected: ``bad_policy``.
        """
        value = self.number(*path)
        if value.denominator != 1:
            raise Rejected(f"The policy has no whole number at {'.'.join(path)}.", code="bad_policy")
        return value.numerator

    def money(self, *path: str) -> Money:
        """An amount of money."""
        return parse_money(self._at(path), pointer=".".join(path), currency=self.data["currency"])

    def numbers(self, *path: str) -> dict[str, Fraction]:
        """A table of exact numbers."""
        return {name: Fraction(value) for name, value in self._at(path).items()}

    def text(self, *path: str) -> str:
        """A text."""
        return str(self._at(path))

    def rows(self, *path: str) -> list[Any]:
        """A list."""
        return list(self._at(path))

    def category(self, name: str) -> Mapping[str, Any]:
        """The row of a category of goods.

        Raises:
            Rejected: ``unknown_category``.
        """
        row = self.data["categories"].get(name)
        if row is None:
            raise Rejected(f"The policy knows no category {name!r}.", code="unknown_category", pointer="category")
        return dict(row)

    def _at(self, path: tuple[str, ...]) -> Any:
        value: Any = self.data
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                raise Rejected(f"The policy has nothing at {'.'.join(path)}.", code="bad_policy")
            value = value[name]
        return value


def read_policy(raw: bytes) -> Policy:
    """The policy in a TOML file's bytes.

    Raises:
        Rejected: ``bad_policy``.
    """
    try:
        data = tomllib.loads(raw.decode("utf-8"), parse_float=_no_float)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected(f"This is no policy file: {error}", code="bad_policy") from error
    if not isinstance(data.get("version"), str) or not _VERSION.fullmatch(data["version"]):
        raise Rejected("A policy's version is v and a number.", code="bad_policy", pointer="version")
    return Policy(data["version"], sha256(raw), data)


def load_policy(version: str = LATEST) -> Policy:
    """The policy of a version that ships with the program.

    Raises:
        Rejected: ``unknown_policy``.
    """
    policy = read_policy(source(version))
    if policy.version != version:
        raise Rejected(f"{version}.toml calls itself {policy.version}.", code="bad_policy")
    return policy


def source(version: str) -> bytes:
    """The bytes of the policy file of a version that ships with the program.

    Raises:
        Rejected: ``unknown_policy``.
    """
    path = _FOLDER / f"{version}.toml"
    if not _VERSION.fullmatch(version) or not path.is_file():
        raise Rejected(f"There is no policy {version!r}.", code="unknown_policy", pointer="policy")
    return path.read_bytes()


def _no_float(text: str) -> Fraction:
    raise Rejected(f"Write {text} as a string: a policy has no floats.", code="bad_policy")
