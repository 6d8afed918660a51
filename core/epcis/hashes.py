"""The GS1 event hash, an identifier for exchange and never evidence: its text has no separators.

Three functions are in use; each is what its reference vectors show. In all of them comments and error declarations do
not count, and an apostrophe in a key is written as it is.

- ``gs1-cbv2.0-2023``: vectors of 2023 to 2025. certificationInfo counts, extensions stand where they were.
- ``gs1-cbv2.0-2026``: vectors of 2026 under the same label. certificationInfo does not count, sensor elements have no
  list around them, extensions inside standard fields follow behind all standard fields, and the GS1 web vocabulary
  stands at https://ref.gs1.org/voc/.
- ``gs1-cbv2.1-draft``: as 2026, but with the list of sensor elements, and extensions where they were.

Source: GS1 CBV 2.0, section 8.9; the examples of the reference implementation for CBV 2.0 and 2.1.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from core.epcis.checks import instant
from core.epcis.context import Namespaces, declares, namespaces
from core.epcis.vocabulary import CBV, VOC, WEB_LISTS, local_name
from core.errors import Rejected
from core.identifiers import parse

ALGORITHMS = {
    "sha-256": hashlib.sha256, "sha3-256": hashlib.sha3_256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512,
}  # fmt: skip
_SHORT = 256  # ours: longer texts are not kept in memory
_ID = frozenset(("id",))
_IN_SENSOR = frozenset(("sensorMetadata", "sensorReport"))
_REF_VOC = "https://ref.gs1.org/voc/"
_REF_NAMESPACES = {VOC: _REF_VOC, "urn:epcglobal:cbv:mda:": "urn:epcglobal:cbv:mda"}
_REF_PREFIXES = {"gs1": _REF_VOC, "cbv": CBV, "epcis": "https://ref.gs1.org/epcis/"}
_MARKS = {"%21": "!", "%28": "(", "%29": ")", "%2A": "*"}
_ESCAPED_MARK = re.compile("|".join(_MARKS))
_CANONICAL = "https://id.gs1.org/"
_IS_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,38}\.?[0-9]{0,38}|\.[0-9]{1,38})(?:[eE][+-]?[0-9]{1,2})?\Z").match
_COMMENT = "http://www.w3.org/2000/01/rdf-schema#comment"
_LEFT_OUT = frozenset(("@context", "type", "recordTime", "eventID", "errorDeclaration", "id", "isA"))

_IS_WRITTEN_SO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z\Z", re.ASCII).match
_HALF_MS = timedelta(microseconds=500)
_Write = Callable[["_Scope", Any], str]


class _Profile(NamedTuple):
    """What tells one function from the others.

    Attributes:
        version: the label in the hash. voc: where the GS1 web vocabulary stands.
        is_first: the function of 2023: with certificationInfo, and CURIEs inside extensions as they are.
        has_list: sensor elements stand in a named list.
        is_inline: extensions inside a standard field stand there, not behind all standard fields.
    """

    version: str
    voc: str
    is_first: bool
    has_list: bool
    is_inline: bool


_PROFILES: Mapping[str, _Profile] = {
    "gs1-cbv2.0-2023": _Profile("CBV2.0", VOC, is_first=True, has_list=True, is_inline=True),
    "gs1-cbv2.0-2026": _Profile("CBV2.0", _REF_VOC, is_first=False, has_list=False, is_inline=False),
    "gs1-cbv2.1-draft": _Profile("CBV2.1", _REF_VOC, is_first=False, has_list=True, is_inline=True),
}
PROFILES = tuple(_PROFILES)


class _Scope:
    """What a field's text depends on besides its value: profile, namespaces in force, extension names to leave out."""

    __slots__ = ("_contexts", "_ignored", "_namespaces", "key", "profile")

    def __init__(self, profile: _Profile, contexts: tuple[object, ...], ignored: Collection[str]) -> None:
        self.profile = profile
        self.key = _key if profile.is_first else _ref_key
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
    scope = _Scope(_profile(profile), (context, event.get("@context")), ignored)
    names = tuple([name for name in event if name in _STANDARD])
    text = f"eventType={_event_type(event.get('type'))}"
    for name, write in _in_order(names):
        text += write(scope, event[name])
    if not scope.profile.is_inline:
        text += _moved(scope, event)
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
    return f"ni:///{algorithm};{digest}?ver={_PROFILES[profile].version}"


def _profile(name: str) -> _Profile:
    found = _PROFILES.get(name)
    if found is None:
        raise Rejected(
            f"No profile {name!r} of the event hash is known: {', '.join(PROFILES)}.", code="unknown_profile"
        )
    return found


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


def _ref_key(value: object) -> str:
    """As :func:`_key`, with the marks as they are that a web browser's encodeURIComponent leaves."""
    text = _key(value)
    return _ESCAPED_MARK.sub(lambda found: _MARKS[found[0]], text) if text.startswith(_CANONICAL) else text


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
    voc = scope.profile.voc
    if text.startswith("gs1:"):
        return voc + text[4:] if scope.is_gs1_declared or not scope.profile.is_first else text
    return text if ":" in text else voc + text


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _sorted(parts: list[str]) -> str:
    return "".join(sorted(parts)) if len(parts) > 1 else "".join(parts)


def _leaf(name: str, form: Callable[[Any], str]) -> _Write:
    head = name + "="
    return lambda _scope, value: head + form(value)


def _plain(value: object) -> str:
    return _number(value) if not isinstance(value, str) else value.strip()


def _keyed(name: str) -> _Write:
    head = name + "="
    return lambda scope, value: head + scope.key(value)


def _vocabulary(name: str, field: str) -> _Write:
    head = name + "="
    return lambda _scope, value: head + _term(value, field)


def _epcs(name: str) -> _Write:
    def write(scope: _Scope, value: Any) -> str:
        return f"{name}epc={'epc='.join(sorted(map(scope.key, value)))}" if value else ""

    return write


def _quantities(name: str) -> _Write:
    def one(scope: _Scope, element: Mapping[str, Any]) -> str:
        text = f"quantityElementepcClass={scope.key(element['epcClass'])}"
        if "quantity" in element:
            text += f"quantity={_number(element['quantity'])}"
        return text + (f"uom={element['uom'].strip()}" if "uom" in element else "")

    return lambda scope, value: name + _sorted([one(scope, element) for element in value]) if value else ""


def _place(name: str) -> _Write:
    def write(scope: _Scope, value: Mapping[str, Any]) -> str:
        text = f"{name}id={scope.key(value['id'])}"
        return text + _extensions(scope, value, _ID) if len(value) > 1 and scope.profile.is_inline else text

    return write


def _typed(name: str, member: str, field: str) -> _Write:
    def one(scope: _Scope, element: Mapping[str, Any]) -> str:
        if "type" in element:
            return f"type={_term(element['type'], field)}{member}={scope.key(element[member])}"
        return f"{member}={scope.key(element[member])}"

    return lambda scope, value: name + _sorted([one(scope, element) for element in value]) if value else ""


def _persistent(_scope: _Scope, value: Mapping[str, Any]) -> str:
    parts = [
        _sorted([f"{name}={_term(word, 'disposition')}" for word in _texts(value[name])])
        for name in ("set", "unset")
        if name in value
    ]
    return "persistentDisposition" + "".join(parts)


def _certification(scope: _Scope, value: Any) -> str:
    if not scope.profile.is_first:
        return ""
    return _sorted([f"certificationInfo={_key(member)}" for member in _texts(value)])


def _sensors(scope: _Scope, value: Any) -> str:
    text = _sorted([_sensor(scope, element) for element in value])
    return "sensorElementList" + text if value and scope.profile.has_list else text


def _sensor(scope: _Scope, element: Mapping[str, Any]) -> str:
    text = "sensorElement"
    if "sensorMetadata" in element:
        inner = _fields(scope, element["sensorMetadata"], _METADATA)
        text += "sensorMetadata" + inner if inner or scope.profile.is_inline else ""
    reports = element.get("sensorReport", ())
    text += _sorted(["sensorReport" + _fields(scope, report, _REPORT) for report in reports])
    return text + _extensions(scope, element, _IN_SENSOR) if scope.profile.is_inline else text


def _moved(scope: _Scope, event: Mapping[str, Any]) -> str:
    """The extensions inside standard fields, for a profile that writes them behind all standard fields."""
    text = ""
    for name in ("readPoint", "bizLocation"):
        if len(event.get(name) or ()) > 1:
            text += _named(name, _extensions(scope, event[name], _ID))
    parts: list[str] = []
    for element in event.get("sensorElementList") or ():
        part = _named("sensorMetadata", _extensions(scope, element.get("sensorMetadata") or {}, _IN_METADATA))
        reports = [_extensions(scope, report, _IN_REPORT) for report in element.get("sensorReport", ())]
        part += _sorted([_named("sensorReport", report) for report in reports])
        parts.append(_named("sensorElement", part + _extensions(scope, element, _IN_SENSOR)))
    return text + _sorted(parts)


def _named(name: str, text: str) -> str:
    return name + text if text else ""


def _fields(scope: _Scope, value: Mapping[str, Any], order: tuple[tuple[str, _Write], ...]) -> str:
    text = ""
    known = 0
    for name, write in order:
        if name in value:
            text += write(scope, value[name])
            known += 1
    if known == len(value) or not scope.profile.is_inline:
        return text
    return text + _extensions(scope, value, frozenset(name for name, _ in order))


def _ilmd(scope: _Scope, value: Mapping[str, Any]) -> str:
    return "ilmd" + _extensions(scope, value, frozenset()) if value else ""


def _extensions(scope: _Scope, value: Mapping[str, Any], known: frozenset[str]) -> str:
    is_open = scope.profile.is_first or not known or known is _STANDARD
    found = [
        part
        for name, member in value.items()
        # Inside standard fields later functions know no name without a namespace.
        if name not in known and (is_open or ":" in name)
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
    if found is not None and not scope.profile.is_first:
        found = _REF_NAMESPACES.get(found[0], found[0]), found[1]
    label = name if found is None else f"{{{found[0]}}}{found[1]}"
    return [_nested(scope, label, member, inside) for member in _texts(value)]


def _nested(scope: _Scope, label: str, value: Any, inside: Namespaces) -> str:
    if isinstance(value, str):
        return f"{label}={_said(scope, value)}"
    if isinstance(value, Mapping):
        if "@context" in value:
            inside = inside.within(value["@context"])
        return label + _sorted(
            [part for name, member in value.items() for part in _extension(scope, name, member, inside)]
        )
    if isinstance(value, list):
        return label + _sorted([_nested(scope, label, member, inside) for member in value])
    return label if value is None else f"{label}={_number(value)}"


def _said(scope: _Scope, value: str) -> str:
    """A text inside an extension: a number as a number, for XML knows no other way to write one."""
    text = value.strip()
    if _IS_NUMBER(text):
        return _number(Decimal(text))
    if not scope.profile.is_first:
        prefix, colon, name = text.partition(":")
        if colon and prefix in _REF_PREFIXES:
            return _REF_PREFIXES[prefix] + name
    return scope.key(text)


_KEYED = ("deviceID", "deviceMetadata", "rawData", "dataProcessingMethod")
_METADATA: tuple[tuple[str, _Write], ...] = (
    *((name, _leaf(name, _moment)) for name in ("time", "startTime", "endTime")),
    *((name, _keyed(name)) for name in (*_KEYED, "bizRules")),
)
_REPORT: tuple[tuple[str, _Write], ...] = (
    ("type", lambda scope, value: f"type={_voc(scope, value)}"),
    ("exception", lambda scope, value: f"exception={_voc(scope, value)}"),
    *((name, _keyed(name)) for name in _KEYED),
    ("time", _leaf("time", _moment)),
    *((name, _keyed(name)) for name in ("microorganism", "chemicalSubstance")),
    ("value", _leaf("value", _number)),
    ("component", _vocabulary("component", "component")),
    *((name, _leaf(name, _plain)) for name in ("stringValue", "booleanValue", "hexBinaryValue")),
    ("uriValue", _keyed("uriValue")),
    *((name, _leaf(name, _number)) for name in ("minValue", "maxValue", "meanValue", "sDev", "percRank", "percValue")),
    ("uom", _leaf("uom", _plain)),
    ("coordinateReferenceSystem", _leaf("coordinateReferenceSystem", _plain)),
)
_ORDER: tuple[tuple[str, _Write], ...] = (
    ("eventTime", _leaf("eventTime", _moment)),
    ("eventTimeZoneOffset", _leaf("eventTimeZoneOffset", _plain)),
    ("certificationInfo", _certification),
    ("epcList", _epcs("epcList")),
    ("parentID", _keyed("parentID")),
    ("inputEPCList", _epcs("inputEPCList")),
    ("childEPCs", _epcs("childEPCs")),
    ("quantityList", _quantities("quantityList")),
    ("childQuantityList", _quantities("childQuantityList")),
    ("inputQuantityList", _quantities("inputQuantityList")),
    ("outputEPCList", _epcs("outputEPCList")),
    ("outputQuantityList", _quantities("outputQuantityList")),
    ("action", _leaf("action", _plain)),
    ("transformationID", _keyed("transformationID")),
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
_IN_METADATA = frozenset(name for name, _ in _METADATA)
_IN_REPORT = frozenset(name for name, _ in _REPORT)
_PLACES = {name: place for place, (name, _) in enumerate(_ORDER)}
_STANDARD = frozenset(name for name, _ in _ORDER) | _LEFT_OUT


def forget() -> None:
    """Empty the cache of terms."""
    _known_term.cache_clear()
