"""The GS1 event hash, an identifier for exchange and never evidence: its text has no separators.

The profile ``gs1-cbv2.0-2023`` is the function that the 2023 to 2025 reference vectors show: certificationInfo counts,
comments and error declarations do not, and an apostrophe in a key is written as it is.

Source: GS1 CBV 2.0, section 8.9.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from core.epcis.checks import instant
from core.epcis.context import Namespaces, declares, namespaces
from core.epcis.vocabulary import CBV, VOC, WEB_LISTS, local_name
from core.errors import Rejected
from core.identifiers import parse

PROFILES = ("gs1-cbv2.0-2023",)
ALGORITHMS = {
    "sha-256": hashlib.sha256, "sha3-256": hashlib.sha3_256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512,
}  # fmt: skip
_SHORT = 256  # ours: longer texts are not kept in memory
_ID = frozenset(("id",))
_COMMENT = "http://www.w3.org/2000/01/rdf-schema#comment"
_LEFT_OUT = frozenset(("@context", "type", "recordTime", "eventID", "errorDeclaration", "id", "isA"))

_IS_WRITTEN_SO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z\Z", re.ASCII).match
_HALF_MS = timedelta(microseconds=500)
_Write = Callable[["_Scope", Any], str]


class _Scope:
    """What a field's text depends on besides its value: namespaces in force and extension names to leave out."""

    __slots__ = ("_contexts", "_ignored", "_namespaces")

    def __init__(self, contexts: tuple[object, ...], ignored: Collection[str]) -> None:
        self._contexts = contexts
        self._ignored = ignored
        self._namespaces: Namespaces | None = None

    @property
    def namespaces(self) -> Namespaces:
        """The namespaces in force, worked out when a first extension asks for them."""
        if self._namespaces is None:
            self._namespaces = namespaces(*self._contexts)
        return self._namespaces

    @property
    def is_gs1_declared(self) -> bool:
        """Whether the document itself, not only the GS1 context, declares the prefix gs1."""
        return any(declares(context, "gs1") for context in self._contexts)

    def is_ignored(self, iri: str) -> bool:
        """Whether the caller asked to leave this extension out."""
        return bool(self._ignored) and any(self.namespaces.expand(name) == iri for name in self._ignored)


def prehash(
    event: Mapping[str, Any],
    profile: str = "gs1-cbv2.0-2023",
    context: object = None,
    *,
    ignored: Collection[str] = (),
) -> str:
    """The text whose digest is the event's hash.

    Args:
        event: a valid EPCIS event as JSON-LD, numbers as int or Decimal.
        profile: the name of the function; one label in the hash covers several.
        context: the ``@context`` of the document around it.
        ignored: extension fields to leave out, agreed beforehand; a list that came inside a document is never obeyed.

    Raises:
        Rejected: ``unknown_profile``, or ``bad_time`` for a time without zone.
    """
    if profile not in PROFILES:
        raise Rejected(f"No profile {profile!r} of the event hash is known.", code="unknown_profile")
    scope = _Scope((context, event.get("@context")), ignored)
    names = tuple([name for name in event if name in _STANDARD])
    text = f"eventType={_event_type(event.get('type'))}"
    for name, write in _in_order(names):
        text += write(scope, event[name])
    return text if len(names) == len(event) else text + _extensions(scope, event, _STANDARD)


def event_hash(
    event: Mapping[str, Any],
    profile: str = "gs1-cbv2.0-2023",
    context: object = None,
    *,
    algorithm: str = "sha-256",
    ignored: Collection[str] = (),
) -> str:
    """The event's hash as a URI: ``ni:///sha-256;<hex>?ver=CBV2.0``.

    Args:
        event: see ``prehash``, as are profile, context and ignored.
        algorithm: sha-256, sha3-256, sha-384 or sha-512.

    Raises:
        Rejected: as ``prehash``; ``unknown_algorithm``.
    """
    if algorithm not in ALGORITHMS:
        raise Rejected(f"The event hash is not made by {algorithm!r}.", code="unknown_algorithm")
    text = prehash(event, profile, context, ignored=ignored)
    digest = ALGORITHMS[algorithm](text.encode("utf-8")).hexdigest()
    return f"ni:///{algorithm};{digest}?ver=CBV2.0"


@lru_cache(maxsize=1_024)
def _in_order(names: tuple[str, ...]) -> tuple[tuple[str, _Write], ...]:
    """Name and writer of those standard fields that count, in their canonical order."""
    return tuple(_ORDER[place] for place in sorted(_PLACES[name] for name in names if name in _PLACES))


def _event_type(value: object) -> str:
    return value.rpartition("/")[2] if isinstance(value, str) and "://" in value else str(value)


def _moment(value: object) -> str:
    if isinstance(value, str) and _IS_WRITTEN_SO(value):
        # Already as the hash writes it; the parser only says whether such a time exists.
        try:
            datetime.fromisoformat(value)
        except ValueError as error:
            raise Rejected(f"{value!r} is no time with a zone.", code="bad_time") from error
        return value if len(value) == 24 else f"{value[:19]}.000Z"
    moment = instant(value)
    if moment is None:
        raise Rejected(f"{value!r} is no time with a zone.", code="bad_time")
    # Half up to milliseconds; digits behind the sixth cannot change the result.
    try:
        rounded = moment.astimezone(UTC) + _HALF_MS
    except OverflowError as error:
        raise Rejected(f"{value!r} lies outside the years 1 to 9999.", code="bad_time") from error
    return rounded.isoformat(timespec="milliseconds")[:23] + "Z"


def _number(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.strip()
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _key(value: object) -> str:
    text = (value if isinstance(value, str) else str(value)).strip()
    if text[:4].lower() not in ("urn:", "http"):
        return text
    try:
        _, canonical, pairs = parse(text)
    except Rejected:
        return text
    return canonical.replace("%27", "'") if pairs else text


def _term(value: str, field: str) -> str:
    return _known_term(value, field) if len(value) <= _SHORT else _known_term.__wrapped__(value, field)


@lru_cache(maxsize=4_096)
def _known_term(value: str, field: str) -> str:
    text = value.strip()
    word = local_name(text, field)
    is_bare = ":" not in word
    return f"{CBV}{WEB_LISTS[field]}-{word}" if is_bare else text


def _voc(scope: _Scope, value: object) -> str:
    text = str(value).strip()
    if text.startswith("gs1:"):
        return VOC + text[4:] if scope.is_gs1_declared else text
    return text if ":" in text else VOC + text


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _sorted(parts: list[str]) -> str:
    return "".join(sorted(parts)) if len(parts) > 1 else "".join(parts)


def _leaf(name: str, form: Callable[[Any], str]) -> _Write:
    head = name + "="
    return lambda _scope, value: head + form(value)


def _plain(value: object) -> str:
    return _number(value) if not isinstance(value, str) else value.strip()


def _vocabulary(name: str, field: str) -> _Write:
    head = name + "="
    return lambda _scope, value: head + _term(value, field)


def _epcs(name: str) -> _Write:
    def write(_scope: _Scope, value: Any) -> str:
        return f"{name}epc={'epc='.join(sorted(map(_key, value)))}" if value else ""

    return write


def _quantities(name: str) -> _Write:
    def one(element: Mapping[str, Any]) -> str:
        text = f"quantityElementepcClass={_key(element['epcClass'])}"
        if "quantity" in element:
            text += f"quantity={_number(element['quantity'])}"
        return text + (f"uom={element['uom'].strip()}" if "uom" in element else "")

    return lambda _scope, value: name + _sorted([one(element) for element in value]) if value else ""


def _place(name: str) -> _Write:
    def write(scope: _Scope, value: Mapping[str, Any]) -> str:
        text = f"{name}id={_key(value['id'])}"
        return text if len(value) == 1 else text + _extensions(scope, value, _ID)

    return write


def _typed(name: str, member: str, field: str) -> _Write:
    def one(element: Mapping[str, Any]) -> str:
        if "type" in element:
            return f"type={_term(element['type'], field)}{member}={_key(element[member])}"
        return f"{member}={_key(element[member])}"

    return lambda _scope, value: name + _sorted([one(element) for element in value]) if value else ""


def _persistent(_scope: _Scope, value: Mapping[str, Any]) -> str:
    parts = [
        _sorted([f"{name}={_term(word, 'disposition')}" for word in _texts(value[name])])
        for name in ("set", "unset")
        if name in value
    ]
    return "persistentDisposition" + "".join(parts)


def _certification(_scope: _Scope, value: Any) -> str:
    return _sorted([f"certificationInfo={_key(member)}" for member in _texts(value)])


def _sensors(scope: _Scope, value: Any) -> str:
    return "sensorElementList" + _sorted([_sensor(scope, element) for element in value]) if value else ""


def _sensor(scope: _Scope, element: Mapping[str, Any]) -> str:
    text = "sensorElement"
    if "sensorMetadata" in element:
        text += "sensorMetadata" + _fields(scope, element["sensorMetadata"], _METADATA)
    reports = element.get("sensorReport", ())
    text += _sorted(["sensorReport" + _fields(scope, report, _REPORT) for report in reports])
    return text + _extensions(scope, element, frozenset(("sensorMetadata", "sensorReport")))


def _fields(scope: _Scope, value: Mapping[str, Any], order: tuple[tuple[str, _Write], ...]) -> str:
    text = ""
    known = 0
    for name, write in order:
        if name in value:
            text += write(scope, value[name])
            known += 1
    return text if known == len(value) else text + _extensions(scope, value, frozenset(name for name, _ in order))


def _ilmd(scope: _Scope, value: Mapping[str, Any]) -> str:
    return "ilmd" + _extensions(scope, value, frozenset()) if value else ""


def _extensions(scope: _Scope, value: Mapping[str, Any], known: frozenset[str]) -> str:
    found = [
        part
        for name, member in value.items()
        if name not in known
        for part in _extension(scope, name, member, scope.namespaces)
    ]
    return _sorted(found)


def _extension(scope: _Scope, name: str, value: Any, inside: Namespaces) -> Iterable[str]:
    if name == "@context":
        return []
    found = inside.split(name)
    iri = name if found is None else found[0] + found[1]
    if iri == _COMMENT or scope.is_ignored(iri):
        return []
    label = name if found is None else f"{{{found[0]}}}{found[1]}"
    return [_nested(scope, label, member, inside) for member in _texts(value)]


def _nested(scope: _Scope, label: str, value: Any, inside: Namespaces) -> str:
    if type(value) is str:
        return f"{label}={_key(value)}"
    if isinstance(value, Mapping):
        if "@context" in value:
            inside = inside.within(value["@context"])
        return label + _sorted(
            [part for name, member in value.items() for part in _extension(scope, name, member, inside)]
        )
    if isinstance(value, list):
        return label + _sorted([_nested(scope, label, member, inside) for member in value])
    return label if value is None else f"{label}={_key(value) if isinstance(value, str) else _number(value)}"


_KEYED = ("deviceID", "deviceMetadata", "rawData", "dataProcessingMethod")
_METADATA: tuple[tuple[str, _Write], ...] = (
    *((name, _leaf(name, _moment)) for name in ("time", "startTime", "endTime")),
    *((name, _leaf(name, _key)) for name in (*_KEYED, "bizRules")),
)
_REPORT: tuple[tuple[str, _Write], ...] = (
    ("type", lambda scope, value: f"type={_voc(scope, value)}"),
    ("exception", lambda scope, value: f"exception={_voc(scope, value)}"),
    *((name, _leaf(name, _key)) for name in _KEYED),
    ("time", _leaf("time", _moment)),
    *((name, _leaf(name, _key)) for name in ("microorganism", "chemicalSubstance")),
    ("value", _leaf("value", _number)),
    ("component", _vocabulary("component", "component")),
    *((name, _leaf(name, _plain)) for name in ("stringValue", "booleanValue", "hexBinaryValue")),
    ("uriValue", _leaf("uriValue", _key)),
    *((name, _leaf(name, _number)) for name in ("minValue", "maxValue", "meanValue", "sDev", "percRank", "percValue")),
    ("uom", _leaf("uom", _plain)),
    ("coordinateReferenceSystem", _leaf("coordinateReferenceSystem", _plain)),
)
_ORDER: tuple[tuple[str, _Write], ...] = (
    ("eventTime", _leaf("eventTime", _moment)),
    ("eventTimeZoneOffset", _leaf("eventTimeZoneOffset", _plain)),
    ("certificationInfo", _certification),
    ("epcList", _epcs("epcList")),
    ("parentID", _leaf("parentID", _key)),
    ("inputEPCList", _epcs("inputEPCList")),
    ("childEPCs", _epcs("childEPCs")),
    ("quantityList", _quantities("quantityList")),
    ("childQuantityList", _quantities("childQuantityList")),
    ("inputQuantityList", _quantities("inputQuantityList")),
    ("outputEPCList", _epcs("outputEPCList")),
    ("outputQuantityList", _quantities("outputQuantityList")),
    ("action", _leaf("action", _plain)),
    ("transformationID", _leaf("transformationID", _key)),
    ("bizStep", _vocabulary("bizStep", "bizStep")),
    ("disposition", _vocabulary("disposition", "disposition")),
    ("persistentDisposition", _persistent),
    ("readPoint", _place("readPoint")),
    ("bizLocation", _place("bizLocation")),
    ("bizTransactionList", _typed("bizTransactionList", "bizTransaction", "bizTransaction")),
    ("sourceList", _typed("sourceList", "source", "sourceDest")),
    ("destinationList", _typed("destinationList", "destination", "sourceDest")),
    ("sensorElementList", _sensors),
    ("ilmd", _ilmd),
)
_PLACES = {name: place for place, (name, _) in enumerate(_ORDER)}
_STANDARD = frozenset(name for name, _ in _ORDER) | _LEFT_OUT


def forget() -> None:
    """Empty the cache of terms."""
    _known_term.cache_clear()
