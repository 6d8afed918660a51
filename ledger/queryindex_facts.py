"""What an EPCIS event says, as terms and numbers that queries ask for: pure, the same for index and subscriptions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from core.epcis.context import GS1_PREFIXES, Namespaces, namespaces
from core.epcis.conversion import base_unit, in_base_unit
from core.epcis.vocabulary import local_name as _local_name
from core.errors import Rejected
from core.identifiers import class_of as _class_of
from ledger.queryindex_terms import decimal_text, field_name, identity, number_of, term, time_of, value_terms

local_name = lru_cache(maxsize=65_536)(_local_name)
PARTY_KINDS: Final = frozenset({"owning_party", "possessing_party"})
CLASS_MARK: Final = "@class"
DEPTH_MAX: Final = 16
_EPCS: Final = (
    ("epcList", "epc"),
    ("childEPCs", "epc"),
    ("inputEPCList", "inputEPC"),
    ("outputEPCList", "outputEPC"),
)
_QUANTITIES: Final = (
    ("quantityList", "epcClass"),
    ("childQuantityList", "epcClass"),
    ("inputQuantityList", "inputEPCClass"),
    ("outputQuantityList", "outputEPCClass"),
)
_SENSOR_IDS: Final = ("deviceID", "dataProcessingMethod", "microorganism", "chemicalSubstance", "bizRules", "uriValue")
_SENSOR_TIMES: Final = ("time", "startTime", "endTime")
_MEASURED: Final = ("value", "minValue", "maxValue", "meanValue", "sDev", "percValue")
_STANDARD_SENSOR: Final = frozenset(
    {*_SENSOR_IDS, *_SENSOR_TIMES, *_MEASURED, "type", "exception", "deviceMetadata", "rawData", "component"}
    | {"stringValue", "booleanValue", "hexBinaryValue", "coordinateReferenceSystem", "percRank", "uom"}
)
_SHORT: Final = 256  # ours: longer texts are not kept in memory
_STANDARD_ERROR: Final = frozenset({"declarationTime", "reason", "correctiveEventIDs"})


@dataclass
class Facts:
    """What one event says.

    Attributes:
        terms: everything a query may ask to be equal to something, and the existence of fields.
        numbers: (name, value) of everything that can be compared; times as unix seconds.
        names: (kind, name) for the top-level resources: epc, class, bizStep, disposition, readPoint, bizLocation,
            eventType, and prefix for the namespaces the event declares.
        parties: organisations named as owning or possessing party.
        places: canonical ids of read point and business location.
    """

    terms: set[str] = field(default_factory=set)
    numbers: list[tuple[str, Fraction]] = field(default_factory=list)
    names: set[tuple[str, str]] = field(default_factory=set)
    parties: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)

    def numbers_of(self, name: str) -> Iterator[Fraction]:
        """The values under one name."""
        return (value for known, value in self.numbers if known == name)


@lru_cache(maxsize=100_000)
def class_of(identifier: str) -> str | None:
    """The GTIN id of a serialised item or a lot, None for anything else."""
    try:
        return _class_of(identifier)
    except Rejected:
        return None


def facts_of(event: Mapping[str, Any]) -> Facts:
    """The facts of an event, however much of it is disclosed."""
    facts = Facts()
    for name, value in event.items():
        reader = _READERS.get(name)
        if reader is not None:
            reader(facts, value)
    has_places = any(len(event.get(name) or ()) > 1 for name in ("readPoint", "bizLocation"))
    if has_places or not _PLAIN.issuperset(event) or _has_words(event):
        _fields(facts, event)
    return facts


def organisation_of(text: str) -> str:
    """The organisation's id behind a party or a place: one GLN, one organisation."""
    return identity(text).replace("/414/", "/417/").split("/254/")[0]


def _word(name: str, vocabulary: str) -> Callable[[Facts, Any], None]:
    def read(facts: Facts, value: Any) -> None:
        if isinstance(value, str):
            word = local_name(value, vocabulary)
            facts.terms.add(term(name, word))
            if vocabulary:
                facts.names.add((name, word))

    return read


def _type(facts: Facts, value: Any) -> None:
    facts.terms.add(term("eventType", str(value)))
    facts.names.add(("eventType", str(value)))


def _identifier(name: str) -> Callable[[Facts, Any], None]:
    def read(facts: Facts, value: Any) -> None:
        if isinstance(value, str):
            facts.terms.add(term(name, identity(value)))

    return read


def _epcs(role: str) -> Callable[[Facts, Any], None]:
    def read(facts: Facts, value: Any) -> None:
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str):
                _thing(facts, role, text, "epc")

    return read


def _quantities(role: str) -> Callable[[Facts, Any], None]:
    def read(facts: Facts, value: Any) -> None:
        for element in _objects(value):
            if isinstance(element.get("epcClass"), str):
                _thing(facts, role, element["epcClass"], "class")
            amount = element.get("quantity")
            if isinstance(amount, int | Decimal) and not isinstance(amount, bool):
                facts.numbers.append(("quantity", Fraction(amount)))
                uom = str(element.get("uom", ""))
                if uom:
                    facts.numbers.append((f"quantity:{base_unit(uom)}", in_base_unit(amount, uom)))

    return read


def _thing(facts: Facts, role: str, text: str, kind: str) -> None:
    if len(text) <= _SHORT:
        terms, names = _known_thing(role, text, kind)
    else:
        terms, names = _known_thing.__wrapped__(role, text, kind)
    facts.terms.update(terms)
    facts.names.update(names)


@lru_cache(maxsize=32_768)
def _known_thing(role: str, text: str, kind: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Terms and names of a thing in a role."""
    name = identity(text)
    product = class_of(name)
    if product is not None:
        return (term(role, name), term(role + CLASS_MARK, product)), ((kind, name), ("class", product))
    if kind == "epc" and name.startswith("https://id.gs1.org/"):
        return (term(role, name), term(role + "^", key_stem(name))), ((kind, name),)
    return (term(role, name),), ((kind, name),)


def key_stem(name: str) -> str:
    """The part of a canonical id that a pattern over a company prefix always fixes: key and six digits.

    The first character of an SSCC is its extension digit, that of a GRAI a zero: both stand before the prefix.
    """
    ai, _, value = name.removeprefix("https://id.gs1.org/").partition("/")
    start = 1 if ai in ("00", "01", "8003", "8006") else 0
    return f"{ai}/{value[start : start + 6]}"


def _place(name: str) -> Callable[[Facts, Any], None]:
    def read(facts: Facts, value: Any) -> None:
        if isinstance(value, Mapping) and isinstance(value.get("id"), str):
            place = identity(value["id"])
            facts.terms.add(term(name, place))
            facts.names.add((name, place))
            facts.places.add(place)

    return read


def _transactions(facts: Facts, value: Any) -> None:
    for element in _objects(value):
        if isinstance(element.get("bizTransaction"), str):
            kind = local_name(str(element.get("type", "")), "bizTransaction")
            facts.terms.add(term(f"bizTransaction:{kind}", identity(element["bizTransaction"])))


def _ends(name: str) -> Callable[[Facts, Any], None]:
    def read(facts: Facts, value: Any) -> None:
        for element in _objects(value):
            text = element.get(name)
            if isinstance(text, str):
                kind = local_name(str(element.get("type", "")), "sourceDest")
                facts.terms.add(term(f"{name}:{kind}", identity(text)))
                if kind in PARTY_KINDS:
                    facts.parties.add(organisation_of(text))

    return read


def _persistent(facts: Facts, value: Any) -> None:
    if isinstance(value, Mapping):
        for part in ("set", "unset"):
            for text in value.get(part) or ():
                facts.terms.add(term(f"persistentDisposition:{part}", local_name(str(text), "disposition")))


def _declaration(facts: Facts, value: Any) -> None:
    if not isinstance(value, Mapping):
        return
    facts.terms.add(term("errorDeclaration", ""))
    _time(facts, "errorDeclarationTime", value.get("declarationTime"))
    if isinstance(value.get("reason"), str):
        facts.terms.add(term("errorReason", local_name(value["reason"], "reason")))
    for text in value.get("correctiveEventIDs") or ():
        facts.terms.add(term("correctiveEventID", str(text)))


def _event_time(facts: Facts, value: Any) -> None:
    _time(facts, "eventTime", value)


def _sensors(facts: Facts, value: Any) -> None:
    elements = list(_objects(value))
    if elements:
        facts.terms.add(term("sensorElementList", ""))
    for element in elements:
        metadata = element.get("sensorMetadata")
        if isinstance(metadata, Mapping):
            _sensor(facts, metadata)
        for report in _objects(element.get("sensorReport")):
            _sensor(facts, report)
            _report(facts, report)


def _sensor(facts: Facts, part: Mapping[str, Any]) -> None:
    for name in _SENSOR_IDS:
        if isinstance(part.get(name), str):
            facts.terms.add(term(name, identity(part[name])))
    for name in _SENSOR_TIMES:
        _time(facts, name, part.get(name))


def _report(facts: Facts, report: Mapping[str, Any]) -> None:
    if isinstance(report.get("type"), str):
        facts.terms.add(term("type", local_name(report["type"], "measurement")))
    if isinstance(report.get("stringValue"), str):
        facts.terms.add(term("stringValue", report["stringValue"]))
    if isinstance(report.get("hexBinaryValue"), str):
        facts.terms.add(term("hexBinaryValue", report["hexBinaryValue"].upper()))
    if isinstance(report.get("booleanValue"), bool):
        facts.terms.add(term("booleanValue", "true" if report["booleanValue"] else "false"))
    rank = report.get("percRank")
    if isinstance(rank, int | Decimal) and not isinstance(rank, bool):
        facts.numbers.append(("percRank", Fraction(rank)))
    uom = str(report.get("uom", ""))
    for name in _MEASURED:
        value = report.get(name)
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            facts.numbers.append((f"{name}:{base_unit(uom)}", in_base_unit(value, uom)))


def _time(facts: Facts, name: str, value: Any) -> None:
    if isinstance(value, str) and (time := time_of(value)) is not None:
        facts.numbers.append((name, time))


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    return (element for element in value if isinstance(element, Mapping)) if isinstance(value, list) else iter(())


def _fields(facts: Facts, event: Mapping[str, Any]) -> None:
    """Extension fields at every extension point."""
    extensions = [name for name in event if ":" in name]
    scoped = [
        name for name in ("ilmd", "errorDeclaration", "sensorElementList", "readPoint", "bizLocation") if name in event
    ]
    has_words = _has_words(event)
    if not extensions and not scoped and not has_words:
        return
    context = event.get("@context")
    spaces = namespaces(context)
    is_named = extensions or has_words or "ilmd" in event or "sensorElementList" in event
    for prefix, iri in spaces.prefixes.items() if is_named else ():
        if GS1_PREFIXES.get(prefix) != iri:
            facts.names.add(("prefix", f"{prefix}\x1f{iri}"))
    if extensions:
        _members(facts, "", {name: event[name] for name in extensions}, spaces)
    if isinstance(event.get("ilmd"), Mapping):
        _members(facts, "ILMD", event["ilmd"], spaces)
    if isinstance(event.get("errorDeclaration"), Mapping):
        _members(facts, "ERROR_DECLARATION", event["errorDeclaration"], spaces, _STANDARD_ERROR)
    for name in ("readPoint", "bizLocation"):
        if isinstance(event.get(name), Mapping) and len(event[name]) > 1:
            _members(facts, name, event[name], spaces, frozenset({"id"}))
    for element in _objects(event.get("sensorElementList")):
        _members(facts, "SENSORELEMENT", element, spaces, frozenset({"sensorMetadata", "sensorReport"}))
        metadata = element.get("sensorMetadata")
        if isinstance(metadata, Mapping):
            _members(facts, "SENSORMETADATA", metadata, spaces, _STANDARD_SENSOR)
        for report in _objects(element.get("sensorReport")):
            _members(facts, "SENSORREPORT", report, spaces, _STANDARD_SENSOR)


def _has_words(event: Mapping[str, Any]) -> bool:
    """Whether an event states a word by a prefix of its own context."""
    return "@context" in event and (_is_curie(event.get("bizStep")) or _is_curie(event.get("disposition")))


def _is_curie(text: Any) -> bool:
    return isinstance(text, str) and ":" in text and not text.startswith(("http:", "https:", "urn:", "cbv:"))


def _members(
    facts: Facts, scope: str, value: Mapping[str, Any], spaces: Namespaces, known: frozenset[str] = frozenset()
) -> None:
    for name, member in value.items():
        if name not in known and not name.startswith("@"):
            _field(facts, scope, spaces, name, member, depth=0)


def _field(facts: Facts, scope: str, spaces: Namespaces, name: str, value: Any, *, depth: int) -> None:
    full = field_name(scope, spaces.expand(name), is_inner=depth > 0)
    facts.terms.add(term(full + "?", ""))
    _value(facts, scope, spaces, full, value, depth=depth)


def _value(facts: Facts, scope: str, spaces: Namespaces, full: str, value: Any, *, depth: int) -> None:
    if depth > DEPTH_MAX:
        return
    if isinstance(value, Mapping):
        inside = spaces.within(value["@context"]) if "@context" in value else spaces
        if "@value" in value:
            _value(facts, scope, spaces, full, value["@value"], depth=depth + 1)
        for name, member in value.items():
            if not name.startswith("@"):
                _field(facts, scope, inside, name, member, depth=depth + 1)
    elif isinstance(value, list):
        for member in value:
            _value(facts, scope, spaces, full, member, depth=depth)
    elif value is not None:
        _leaf(facts, full, _text(value))


def _leaf(facts: Facts, full: str, text: str) -> None:
    facts.terms.update(value_terms(full, text))
    number = number_of(text)
    if number is not None:
        facts.numbers.append((full + "#", number))
    elif (time := time_of(text)) is not None:
        facts.numbers.append((full + "@", time))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return decimal_text(value) if isinstance(value, int | Decimal) else str(value)


# Fields that hold no extension, but places may.
_PLAIN: Final = frozenset(
    {
        "type",
        "action",
        "eventTime",
        "eventTimeZoneOffset",
        "recordTime",
        "bizStep",
        "disposition",
        "eventID",
        "@context",
    }
    | {"persistentDisposition", "transformationID", "parentID", "readPoint", "bizLocation", "bizTransactionList"}
    | {"sourceList", "destinationList", "certificationInfo"}
    | {name for name, _ in (*_EPCS, *_QUANTITIES)}
)
_READERS: Final[Mapping[str, Callable[[Facts, Any], None]]] = {
    "type": _type,
    "action": _word("action", ""),
    "eventTime": _event_time,
    "bizStep": _word("bizStep", "bizStep"),
    "disposition": _word("disposition", "disposition"),
    "persistentDisposition": _persistent,
    "eventID": lambda facts, value: facts.terms.add(term("eventID", str(value))),
    "transformationID": _identifier("transformationID"),
    "parentID": _epcs("parentID"),
    "readPoint": _place("readPoint"),
    "bizLocation": _place("bizLocation"),
    "bizTransactionList": _transactions,
    "sourceList": _ends("source"),
    "destinationList": _ends("destination"),
    "errorDeclaration": _declaration,
    "sensorElementList": _sensors,
    **{name: _epcs(role) for name, role in _EPCS},
    **{name: _quantities(role) for name, role in _QUANTITIES},
}
