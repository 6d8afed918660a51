"""EPCIS XML (2.0 and 1.2) read as the JSON-LD document that says the same; no DTD, no entities, bounded depth.

Source: GS1 EPCIS 2.0.1, sections 10 (XML binding) and 12 (JSON/JSON-LD binding).
"""

import xml.parsers.expat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from core.epcis import vocabulary
from core.epcis.items import EVENT_TYPES
from core.errors import Rejected

BYTES_MAX = 8 * 1024 * 1024  # ours: the size of a large capture
DEPTH_MAX = 32  # ours: twice what our JSON takes, since XML wraps lists in elements
GS1_CONTEXT = "https://ref.gs1.org/standards/epcis/epcis-context.jsonld"
_SEPARATOR = " "
_WRAPPERS = ("extension", "baseExtension")
_NUMBERS = frozenset(
    ("quantity", "value", "minValue", "maxValue", "meanValue", "sDev", "percRank", "percValue")
)  # fmt: skip


@dataclass(slots=True)
class _Element:
    """One element: namespace IRI ("" for none), local name, attributes by (IRI, name), children and own text."""

    iri: str
    name: str
    attributes: dict[tuple[str, str], str]
    children: list["_Element"] = field(default_factory=list)
    text: str = ""

    def members(self) -> Iterator["_Element"]:
        """The children, those inside extension wrappers of EPCIS 1.2 as if they stood here."""
        for child in self.children:
            if child.iri == "" and child.name in _WRAPPERS:
                yield from child.members()
            else:
                yield child


def read_xml(data: bytes, *, bytes_max: int = BYTES_MAX) -> dict[str, Any]:
    """The EPCIS document in JSON-LD that an XML document says, ready for ``document_problems``.

    Args:
        data: UTF-8 XML of an EPCISDocument or EPCISQueryDocument.
        bytes_max: the largest size taken.

    Raises:
        Rejected: ``too_large``, ``too_deep``, ``bad_xml``, ``dtd_refused``, or ``not_epcis``.
    """
    if len(data) > bytes_max:
        raise Rejected(f"The XML text has {len(data)} bytes; at most {bytes_max} are taken.", code="too_large")
    root, prefixes = _parse(data)
    if root.name not in ("EPCISDocument", "EPCISQueryDocument"):
        raise Rejected(f"<{root.name}> is no EPCIS document.", code="not_epcis")
    writer = _Writer(prefixes)
    events = [writer.event(element) for element in _events(root)]
    document: dict[str, Any] = {"@context": [GS1_CONTEXT, writer.declared], "type": "EPCISDocument"}
    for name in ("schemaVersion", "creationDate"):
        if ("", name) in root.attributes:
            document[name] = root.attributes["", name]
    kinds = [{"type": kind} for kind in _vocabularies(root)]
    if kinds:
        document["epcisHeader"] = {"epcisMasterData": {"vocabularyList": kinds}}
    return {**document, "epcisBody": {"eventList": events}}


def _vocabularies(root: _Element) -> list[str]:
    """The kinds of master data in the document's header; what it says of each thing is not read, for it is not kept."""
    level = [child for child in root.children if child.name == "EPCISHeader"]
    for name in ("EPCISMasterData", "VocabularyList", "Vocabulary"):
        inner = [child for element in level for child in element.children]
        inner += [deeper for child in inner if child.name == "extension" for deeper in child.children]
        level = [child for child in inner if child.name == name]
    return [element.attributes["", "type"] for element in level if ("", "type") in element.attributes]


def _parse(data: bytes) -> tuple[_Element, dict[str, str]]:
    parser = xml.parsers.expat.ParserCreate("utf-8", _SEPARATOR)
    parser.buffer_text = True
    stack = [_Element("", "", {})]
    prefixes: dict[str, str] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(stack) > DEPTH_MAX:
            raise Rejected(f"The XML nests deeper than {DEPTH_MAX}.", code="too_deep")
        element = _Element(*_split(name), {_split(key): value for key, value in attributes.items()})
        stack[-1].children.append(element)
        stack.append(element)

    def text(part: str) -> None:
        stack[-1].text += part

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _name: stack.pop()
    parser.CharacterDataHandler = text
    parser.StartNamespaceDeclHandler = lambda prefix, iri: prefixes.setdefault(iri, prefix or "")
    # Refused before any entity could be declared, so nothing can be expanded or fetched.
    parser.StartDoctypeDeclHandler = _refuse_dtd
    try:
        parser.Parse(data.decode("utf-8-sig"), True)
    except (UnicodeDecodeError, xml.parsers.expat.ExpatError) as error:
        raise Rejected(f"Not XML: {error}.", code="bad_xml") from error
    return stack[0].children[0], prefixes


def _refuse_dtd(*_args: object) -> NoReturn:
    raise Rejected("A document type declaration is not taken.", code="dtd_refused")


def _split(name: str) -> tuple[str, str]:
    iri, _, local = name.rpartition(_SEPARATOR)
    return iri, local


def _events(root: _Element) -> Iterator[_Element]:
    for child in root.members():
        if child.name == "EventList":
            yield from child.members()
        elif child.iri == "" or child.name in ("QueryResults", "resultsBody"):
            yield from _events(child)


class _Writer:
    """Elements become JSON members; the prefixes that extensions need are declared along the way."""

    def __init__(self, prefixes: dict[str, str]) -> None:
        self.declared: dict[str, str] = {
            prefix: iri for iri, prefix in prefixes.items() if iri in (vocabulary.VOC, vocabulary.CBV) and prefix
        }
        self._prefixes = prefixes
        self._handlers: dict[str, Callable[[_Element], Any]] = {
            **dict.fromkeys(("epcList", "childEPCs", "inputEPCList", "outputEPCList"), _texts),
            **dict.fromkeys(
                ("quantityList", "childQuantityList", "inputQuantityList", "outputQuantityList"),
                lambda e: [_quantity(child) for child in e.children],
            ),
            **dict.fromkeys(("readPoint", "bizLocation"), self._open),
            "bizTransactionList": lambda e: [_typed(child, "bizTransaction") for child in e.children],
            "sourceList": lambda e: [_typed(child, "sourceDest") for child in e.children],
            "destinationList": lambda e: [_typed(child, "sourceDest") for child in e.children],
            "persistentDisposition": _persistent,
            "sensorElementList": lambda e: [self._sensor(child) for child in e.children],
            "errorDeclaration": self._error,
            "ilmd": self._open,
            "bizStep": lambda e: _term(e.text, "bizStep"),
            "disposition": lambda e: _term(e.text, "disposition"),
        }

    def event(self, element: _Element) -> dict[str, Any]:
        """The event an element says."""
        kind = (
            element.name if element.iri == "" and element.name in EVENT_TYPES else self.name(element.iri, element.name)
        )
        event: dict[str, Any] = {"type": kind}
        for child in element.members():
            if child.iri or child.name not in self._handlers:
                _put(event, self.name(child.iri, child.name), self.value(child))
            else:
                event[child.name] = self._handlers[child.name](child)
        return event

    def name(self, iri: str, local: str) -> str:
        """A member's name: bare without namespace, else a CURIE whose prefix is declared."""
        if not iri:
            return local
        prefix = next((name for name, known in self.declared.items() if known == iri), None)
        if prefix is None:
            prefix = self._prefixes.get(iri) or f"ns{len(self.declared)}"
            while prefix in self.declared:
                prefix += "x"
            self.declared[prefix] = iri
        return f"{prefix}:{local}"

    def value(self, element: _Element) -> Any:
        """What stands in an extension: text, or an object of its attributes and children."""
        if not element.children and not element.attributes:
            return element.text.strip()
        members = {self.name(*key): value for key, value in element.attributes.items()}
        for child in element.children:
            _put(members, self.name(child.iri, child.name), self.value(child))
        return members

    def _open(self, element: _Element) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for child in element.members():
            _put(members, self.name(child.iri, child.name), self.value(child))
        return members

    def _sensor(self, element: _Element) -> dict[str, Any]:
        sensor: dict[str, Any] = {}
        reports: list[dict[str, Any]] = []
        for child in element.members():
            if child.iri == "" and child.name == "sensorMetadata":
                sensor["sensorMetadata"] = self._attributes(child)
            elif child.iri == "" and child.name == "sensorReport":
                reports.append(self._attributes(child))
            else:
                _put(sensor, self.name(child.iri, child.name), self.value(child))
        return {**sensor, "sensorReport": reports}

    def _attributes(self, element: _Element) -> dict[str, Any]:
        found = {
            self.name(iri, name): text if iri else _attribute(name, text)
            for (iri, name), text in element.attributes.items()
        }
        if self._prefixes.get(vocabulary.VOC) == "gs1":
            # Where the prefix is declared, the word alone says the same.
            for name in ("type", "exception"):
                word = str(found.get(name, "")).removeprefix("gs1:")
                if word in vocabulary.MEASUREMENTS or word in vocabulary.SENSOR_ALERTS:
                    found[name] = word
        return found

    def _error(self, element: _Element) -> dict[str, Any]:
        declaration: dict[str, Any] = {}
        for child in element.members():
            if child.iri == "" and child.name == "correctiveEventIDs":
                declaration[child.name] = _texts(child)
            elif child.iri == "" and child.name == "reason":
                declaration[child.name] = _term(child.text, "reason")
            else:
                _put(declaration, self.name(child.iri, child.name), self.value(child))
        return declaration


def _put(members: dict[str, Any], name: str, value: Any) -> None:
    if name not in members:
        members[name] = value
    elif isinstance(members[name], list):
        members[name].append(value)
    else:
        members[name] = [members[name], value]


def _texts(element: _Element) -> list[str]:
    return [child.text.strip() for child in element.children]


def _quantity(element: _Element) -> dict[str, Any]:
    return {child.name: _attribute(child.name, child.text.strip()) for child in element.children}


def _typed(element: _Element, field_name: str) -> dict[str, str]:
    typed = {element.name: element.text.strip()}
    if ("", "type") in element.attributes:
        typed["type"] = _term(element.attributes["", "type"], field_name)
    return typed


def _persistent(element: _Element) -> dict[str, list[str]]:
    changes: dict[str, list[str]] = {}
    for child in element.children:
        changes.setdefault(child.name, []).append(_term(child.text, "disposition"))
    return changes


def _term(text: str, field_name: str) -> str:
    """The bare word that JSON uses for a term of the standard, any other term as it is."""
    word = vocabulary.local_name(text.strip(), field_name)
    return word if word in vocabulary.WORDS[field_name] else text.strip()


def _attribute(name: str, text: str) -> Any:
    if name in _NUMBERS:
        try:
            number = Decimal(text.strip())
        except InvalidOperation:
            return text
        return number if number.is_finite() else text
    if name == "booleanValue" and text in ("true", "false", "1", "0"):
        return text in ("true", "1")
    if name in ("type", "exception"):
        bare = text.removeprefix(vocabulary.VOC)
        return bare if bare in vocabulary.MEASUREMENTS or bare in vocabulary.SENSOR_ALERTS else text
    return _term(text, "component") if name == "component" else text
