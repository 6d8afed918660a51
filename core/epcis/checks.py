"""The checks that every part of an EPCIS document is made of; each adds what it finds to a list of problems."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

from core.epcis.context import Namespaces, namespaces
from core.errors import Rejected
from core.identifiers import parse

_PCHAR = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2}"
_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.\-]*:"
    r"(?://(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=:]|%[0-9A-Fa-f]{2})*@)?"
    r"(?:\[[0-9A-Fa-fv:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?(?=[/?#]|\Z)|(?!//))"
    rf"(?:{_PCHAR})*(?:\?(?:{_PCHAR}|\?)*)?(?:#(?:{_PCHAR}|\?)*)?\Z"
)
# The plain form of nearly all URIs and names, tried first because it is quick.
_PLAIN_URI = re.compile(r"(?:urn:|https?://[A-Za-z0-9.\-]+/|[A-Za-z][A-Za-z0-9+.\-]*:(?=[A-Za-z]))[A-Za-z0-9:./_\-]*\Z")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\Z"
)
_CACHED = 32_768  # ours: about 10 MB
_SHORT = 256  # ours: longer texts are not kept in memory
_CBV_URI = re.compile(r"urn:epcglobal:cbv|https?://ns\.gs1\.org/cbv/")
_VOC_URI = re.compile(r"https?://(?:www\.)?gs1\.org/voc/")


class Problem(NamedTuple):
    """One fault of a document: where (JSON pointer), its stable code, and a sentence for a person."""

    pointer: str
    code: str
    message: str


class Walk:
    """One walk over an event or document: what was found, and the namespaces in force.

    Attributes:
        contexts: the contexts in force, outermost first.
        problems: what was found so far.
    """

    __slots__ = ("_namespaces", "contexts", "problems")

    def __init__(self, contexts: tuple[object, ...], problems: list[Problem]) -> None:
        self.problems = problems
        self.contexts = contexts
        self._namespaces: Namespaces | None = None

    @property
    def namespaces(self) -> Namespaces:
        """The namespaces that the contexts declare."""
        if self._namespaces is None:
            self._namespaces = namespaces(*self.contexts)
        return self._namespaces

    def add(self, place: str, code: str, message: str) -> None:
        """Note one problem."""
        self.problems.append(Problem(place, code, message))


def escaped(name: str) -> str:
    """A member's name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1") if "~" in name or "/" in name else name


def is_uri(value: object) -> bool:
    """Whether the value is a string that is an absolute URI (RFC 3986); a CURIE is one, too."""
    if not isinstance(value, str):
        return False
    return _is_uri(value) if len(value) <= _SHORT else _is_uri.__wrapped__(value)


# Names, places and parties come again and again; what the checks say about a text depends on nothing else.
@lru_cache(maxsize=4_096)
def _is_uri(text: str) -> bool:
    return _PLAIN_URI.match(text) is not None or _URI.match(text) is not None


@lru_cache(maxsize=_CACHED)
def _uri_fault(text: str) -> tuple[str, str] | None:
    """Code and sentence of what is wrong with a text as a URI or the GS1 key in it, None when nothing is."""
    if _PLAIN_URI.match(text) is None and _URI.match(text) is None:
        return "bad_uri", f"{text!r} is no absolute URI."
    try:
        parse(text)
    except Rejected as error:
        return error.code, error.message
    return None


def is_number(value: object) -> bool:
    """Whether the value is a JSON number."""
    return isinstance(value, int | Decimal | float) and not isinstance(value, bool)


def instant(value: object) -> datetime | None:
    """The moment an RFC 3339 time with its zone means, None for anything else."""
    if not isinstance(value, str):
        return None
    return _instant(value) if len(value) <= _SHORT else _instant.__wrapped__(value)


# One event's time is read several times on its way.
@lru_cache(maxsize=4_096)
def _instant(text: str) -> datetime | None:
    if _TIME.match(text) is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def check_object(value: object, walk: Walk, place: str) -> TypeGuard[Mapping[str, Any]]:
    """Whether the value is an object."""
    if type(value) is dict or isinstance(value, Mapping):
        return True
    walk.add(place, "wrong_type", "An object is needed here.")
    return False


def check_list(value: object, walk: Walk, place: str, *, items_min: int = 0) -> TypeGuard[list[Any]]:
    """Whether the value is a list of at least so many items."""
    if not isinstance(value, list):
        walk.add(place, "wrong_type", "A list is needed here.")
        return False
    if len(value) < items_min:
        walk.add(place, "empty_list", f"At least {items_min} entry is needed here.")
    return True


def check_string(walk: Walk, value: object, place: str) -> None:
    """The value must be a string."""
    if not isinstance(value, str):
        walk.add(place, "wrong_type", "A string is needed here.")


def check_boolean(walk: Walk, value: object, place: str) -> None:
    """The value must be true or false."""
    if not isinstance(value, bool):
        walk.add(place, "wrong_type", "true or false is needed here.")


def check_number(walk: Walk, value: object, place: str) -> None:
    """The value must be a number."""
    if not is_number(value):
        walk.add(place, "wrong_type", "A number is needed here.")


def check_time(walk: Walk, value: object, place: str) -> None:
    """The value must be a time with date, seconds and zone (RFC 3339)."""
    if instant(value) is None:
        text = value if isinstance(value, str) else type(value).__name__
        walk.add(place, "bad_time", f"{text!r} is no time with date, seconds and time zone.")


def check_uri(walk: Walk, value: object, place: str) -> bool:
    """Whether the value is an absolute URI; a GS1 key in it must carry the right check digit."""
    if not isinstance(value, str):
        walk.add(place, "wrong_type", "A URI is needed here.")
        return False
    fault = _uri_fault(value) if len(value) <= _SHORT else _uri_fault.__wrapped__(value)
    if fault is not None and fault[0] in ("bad_uri", "bad_check_digit"):
        walk.add(place, *fault)
        return fault[0] != "bad_uri"
    return True


def check_identifier(walk: Walk, value: object, place: str) -> None:
    """The value must be a URI and, where it names a GS1 key, a right one."""
    if not isinstance(value, str):
        walk.add(place, "wrong_type", "An identifier is needed here.")
        return
    fault = _uri_fault(value) if len(value) <= _SHORT else _uri_fault.__wrapped__(value)
    if fault is not None:
        walk.add(place, *fault)


def check_identifiers(walk: Walk, value: object, place: str, *, is_set: bool) -> None:
    """The value must be a list of identifiers, each once where the list is a set."""
    if not check_list(value, walk, place):
        return
    for number, member in enumerate(value):
        if type(member) is not str or len(member) > _SHORT or _uri_fault(member) is not None:
            check_identifier(walk, member, f"{place}/{number}")
    if is_set and len(value) > 1:
        check_unique(walk, value, place)


def check_unique(walk: Walk, values: list[Any], place: str) -> None:
    """No value may stand twice in the list."""
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) == len(values) == len(set(texts)):
        return
    if len(set(texts)) != len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        walk.add(place, "duplicate_value", f"{twice!r} stands twice in this list.")
    others = [value for value in values if not isinstance(value, str)]
    if any(value in others[:number] for number, value in enumerate(others)):
        walk.add(place, "duplicate_value", "One value stands twice in this list.")


def check_term(walk: Walk, value: object, place: str, words: frozenset[str], *, is_web: bool = False) -> None:
    """The value must be a bare word of the vocabulary, or a URI (CURIE) of somebody else's.

    Args:
        words: the bare words of the standard.
        is_web: the words are of the GS1 web vocabulary (measurements, alerts), not of the CBV.
    """
    if not isinstance(value, str):
        walk.add(place, "wrong_type", "A word of the vocabulary or a URI is needed here.")
        return
    if value in words:
        return
    if not is_uri(value):
        walk.add(place, "unknown_term", f"{value!r} is neither a word of the standard nor a URI.")
    elif (_VOC_URI if is_web else _CBV_URI).match(value):
        walk.add(place, "standard_term_as_uri", f"JSON uses the bare word of the standard instead of {value!r}.")


def check_names(walk: Walk, value: Mapping[str, Any], place: str, known: Iterable[str]) -> None:
    """Every member is a known field or an extension: a name with a declared namespace."""
    for name in value:
        if name not in known:
            check_extension(walk, name, value[name], f"{place}/{escaped(name)}")


def check_closed(walk: Walk, value: Mapping[str, Any], place: str, known: frozenset[str]) -> None:
    """Every member is a known field; extensions have no place here."""
    for name in value:
        if name not in known:
            walk.add(f"{place}/{escaped(name)}", "unknown_field", f"The field {name!r} has no place here.")


def check_required(walk: Walk, value: Mapping[str, Any], place: str, names: Iterable[str]) -> None:
    """Each of these fields must be there."""
    for name in names:
        if name not in value:
            walk.add(f"{place}/{name}", "missing_field", f"The field {name} is missing.")


def check_extension(walk: Walk, name: str, value: object, place: str) -> None:
    """An extension's name must be a URI or a CURIE whose prefix is declared; so must the names inside it."""
    if not is_uri(name):
        walk.add(place, "unknown_field", f"{name!r} is no field of the standard and has no namespace.")
        return
    _check_declared(walk, walk.namespaces, name, place)
    if type(value) is not str and isinstance(value, Mapping | list):
        _check_inside(walk, walk.namespaces, value, place)


def _check_declared(walk: Walk, scope: Namespaces, name: str, place: str) -> None:
    if not scope.is_open and scope.split(name) is None:
        prefix = name.partition(":")[0]
        walk.add(place, "undeclared_namespace", f"The prefix {prefix!r} is not declared in @context.")


def _check_inside(walk: Walk, scope: Namespaces, value: object, place: str) -> None:
    if isinstance(value, list):
        for number, member in enumerate(value):
            if isinstance(member, Mapping | list):
                _check_inside(walk, scope, member, f"{place}/{number}")
    elif isinstance(value, Mapping):
        if "@context" in value:
            scope = scope.within(value["@context"])
        for name, member in value.items():
            inner = f"{place}/{escaped(name)}"
            if ":" in name and not name.startswith("@"):
                _check_declared(walk, scope, name, inner)
            if isinstance(member, Mapping | list) and name != "@context":
                _check_inside(walk, scope, member, inner)
