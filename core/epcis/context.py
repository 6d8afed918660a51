"""The namespaces that the ``@context`` of a document or event declares."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

# Prefixes of the GS1 EPCIS context, declared wherever that context is used.
GS1_PREFIXES: Mapping[str, str] = {
    "epcis": "https://ref.gs1.org/epcis/",
    "cbv": "https://ref.gs1.org/cbv/",
    "cbvmda": "urn:epcglobal:cbv:mda:",
    "gs1": "https://gs1.org/voc/",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "owl": "http://www.w3.org/2002/07/owl#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "dcterms": "http://purl.org/dc/terms/",
}
LOT_IRI = "urn:epcglobal:cbv:mda:lotNumber"
_GS1_CONTEXT = re.compile(r"https?://(ref\.)?gs1\.(org|github\.io)/[^?#]*epcis[^?#]*context[^?#]*\Z")
_NAMES_MAX = 1_000
_ABSOLUTE = re.compile(r"(?:https?|urn|ni|did|tag|info|geo|data|file|ftp):", re.IGNORECASE)


class Namespaces:
    """Prefixes in force at one place.

    Attributes:
        prefixes: prefix to IRI; never changed.
        is_open: whether a context stands elsewhere on the web, so that prefixes we cannot see may be declared.
    """

    __slots__ = ("_found", "is_open", "prefixes")

    def __init__(self, prefixes: Mapping[str, str], is_open: bool) -> None:
        self.prefixes = prefixes
        self.is_open = is_open
        # The same few names come in every event of a document.
        self._found: dict[str, tuple[str, str] | None] = {}

    def within(self, context: object) -> "Namespaces":
        """The namespaces inside an object that carries its own ``@context``."""
        prefixes = dict(self.prefixes)
        is_open = self.is_open
        for part in _parts(context):
            if isinstance(part, str):
                is_open = is_open or _GS1_CONTEXT.match(part) is None
            elif isinstance(part, Mapping):
                prefixes |= _declared(part)
        return Namespaces(prefixes, is_open)

    def split(self, name: str) -> tuple[str, str] | None:
        """Namespace IRI and local name of a property, None when its prefix is not declared."""
        try:
            return self._found[name]
        except KeyError:
            if len(self._found) >= _NAMES_MAX:
                self._found.clear()
            found = self._found[name] = self._split(name)
            return found

    def expand(self, name: str) -> str:
        """The IRI of a property, the name itself when its prefix is not declared."""
        found = self.split(name)
        return name if found is None else found[0] + found[1]

    def _split(self, name: str) -> tuple[str, str] | None:
        prefix, colon, local = name.partition(":")
        if colon and not local.startswith("//") and prefix in self.prefixes:
            return self.prefixes[prefix], local
        if colon and _ABSOLUTE.match(name):
            cut = max(name.rfind("/"), name.rfind("#"), -1)
            cut = cut if cut >= 0 else name.rfind(":")
            return name[: cut + 1], name[cut + 1 :]
        return None


GS1 = Namespaces(GS1_PREFIXES, is_open=False)


def namespaces(*contexts: object) -> Namespaces:
    """The namespaces in force after these contexts, outermost first; None stands for no context.

    A context is a part of a parsed document, and nobody changes it afterwards.
    """
    if len(contexts) == 2 and contexts[1] is None:
        # All events of a document hand in its context, the very same object.
        last, found = _last[0]
        if last is contexts[0]:
            return found
        found = _namespaces(contexts)
        _last[0] = (contexts[0], found)
        return found
    return _namespaces(contexts)


def _namespaces(contexts: tuple[object, ...]) -> Namespaces:
    given = [context for context in contexts if context is not None]
    if not given:
        return GS1
    try:
        return _known(tuple(_frozen(context) for context in given))
    except TypeError:
        # A context with more in it than prefixes: worked out each time.
        found = GS1
        for context in given:
            found = found.within(context)
        return found


_last: list[tuple[object, Namespaces]] = [(None, GS1)]


def merged(outer: object, inner: object) -> object:
    """One ``@context`` that says what the outer one and then the inner one say; None when both are None."""
    if inner is None:
        return outer
    if outer is None:
        return inner
    parts: list[Any] = []
    for part in (*_parts(outer), *_parts(inner)):
        if part not in parts:
            parts.append(part)
    return parts


def declares(context: object, prefix: str) -> bool:
    """Whether a context itself, not only the GS1 context that it may name, declares a prefix."""
    return any(isinstance(part, Mapping) and prefix in part for part in _parts(context))


def _frozen(context: object) -> object:
    """A context as a key of the cache; it is rebuilt from the key, so the two cannot differ."""
    if isinstance(context, str):
        return context
    if isinstance(context, Mapping):
        return ("{}", *context.items())
    if isinstance(context, list | tuple):
        return ("[]", *map(_frozen, context))
    raise TypeError


def _thawed(key: Any) -> Any:
    if isinstance(key, str):
        return key
    kind, *members = key
    return dict(members) if kind == "{}" else [_thawed(member) for member in members]


@lru_cache(maxsize=256)
def _known(keys: tuple[object, ...]) -> Namespaces:
    found = GS1
    for key in keys:
        found = found.within(_thawed(key))
    return found


def _parts(context: object) -> Iterable[object]:
    if context is None:
        return ()
    return context if isinstance(context, list | tuple) else (context,)


def _declared(part: Mapping[Any, Any]) -> dict[str, str]:
    declared: dict[str, str] = {}
    for prefix, value in part.items():
        target = value.get("@id") if isinstance(value, Mapping) else value
        if isinstance(target, str) and not prefix.startswith("@"):
            declared[prefix] = target
    return declared


def forget() -> None:
    """Empty the caches of contexts."""
    _last[0] = (None, GS1)
    _known.cache_clear()
