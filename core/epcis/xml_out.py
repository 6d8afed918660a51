"""EPCIS events written as EPCIS 2.0 XML, so that reading it back gives the same meaning and the same event hash.

Source: GS1 EPCIS 2.0.1, section 10 (XML binding): the order of elements is that of its schema.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from core.epcis.context import Namespaces, declares, namespaces
from core.epcis.forms import CbvFormat, cbv_term
from core.epcis.items import EVENT_TYPES
from core.epcis.vocabulary import MEASUREMENTS, SENSOR_ALERTS, VOC

EPCIS: Final = "urn:epcglobal:epcis:xsd:2"
QUERY: Final = "urn:epcglobal:epcis-query:xsd:2"
_HEAD: Final = ("eventTime", "recordTime", "eventTimeZoneOffset", "eventID", "errorDeclaration", "certificationInfo")
_TAIL: Final = (
    "bizStep", "disposition", "readPoint", "bizLocation", "bizTransactionList", "quantityList", "childQuantityList",
    "sourceList", "destinationList", "sensorElementList", "persistentDisposition", "ilmd",
)  # fmt: skip
_FAMILY: Final = ("parentID", "childEPCs", "action", *_TAIL)
_ORDER: Final[Mapping[str, tuple[str, ...]]] = {
    "ObjectEvent": (*_HEAD, "epcList", "action", *_TAIL),
    "AggregationEvent": (*_HEAD, *_FAMILY),
    "AssociationEvent": (*_HEAD, "parentID", "childEPCs", "childQuantityList", "action", *_TAIL),
    "TransactionEvent": (*_HEAD, "bizTransactionList", "parentID", "epcList", "action", *_TAIL),
    "TransformationEvent": (
        *_HEAD, "inputEPCList", "inputQuantityList", "outputEPCList", "outputQuantityList", "transformationID", *_TAIL,
    ),
}  # fmt: skip
_ALL: Final = tuple(dict.fromkeys(name for names in _ORDER.values() for name in names))
_NOT_WRITTEN: Final = frozenset(("@context", "type", "id", "isA"))
_LOCAL: Final = re.compile(r"[^\W\d][\w.\-]*\Z")
# What XML 1.0 cannot hold, not even escaped.
_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNKNOWN: Final = "urn:tracebond:prefix:"
_KEYWORDS: Final = "http://www.w3.org/ns/json-ld#"


def document_xml(
    events: Sequence[Mapping[str, Any]],
    *,
    created: str,
    query_name: str | None = None,
    subscription_id: str | None = None,
    cbv_format: CbvFormat = "No_Preference",
) -> bytes:
    """An EPCISDocument, or with ``query_name`` an EPCISQueryDocument, of events that carry their own ``@context``.

    Args:
        events: valid events as JSON-LD.
        created: the document's creation time as EPCIS writes times.
        cbv_format: CBV terms as web addresses or as URNs.
    """
    writer = _Writer(cbv_format)
    body = f"<EventList>{''.join(writer.event(event) for event in events)}</EventList>"
    if query_name is None:
        name, body = "epcis:EPCISDocument", f"<EPCISBody>{body}</EPCISBody>"
    else:
        named = "" if subscription_id is None else _element("subscriptionID", subscription_id)
        results = f"{_element('queryName', query_name)}{named}<resultsBody>{body}</resultsBody>"
        name = "epcisq:EPCISQueryDocument"
        body = f"<EPCISBody><epcisq:QueryResults>{results}</epcisq:QueryResults></EPCISBody>"
    own = f' xmlns:epcis="{EPCIS}"' + (f' xmlns:epcisq="{QUERY}"' if query_name is not None else "")
    declared = "".join(f" xmlns:{prefix}={_quoted(iri)}" for iri, prefix in writer.declared.items())
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{own}{declared} schemaVersion="2.0"'
    return f"{head} creationDate={_quoted(created)}>{body}</{name}>\n".encode()


class _Writer:
    """Writes elements and remembers the namespaces they need."""

    def __init__(self, cbv_format: CbvFormat) -> None:
        self.declared: dict[str, str] = {}
        self._form = cbv_format
        self._is_gs1_declared = False
        self._writers: Mapping[str, Callable[[str, Any, Namespaces], str]] = {
            **dict.fromkeys(("epcList", "childEPCs", "inputEPCList", "outputEPCList"), _epcs),
            **dict.fromkeys(("quantityList", "childQuantityList", "inputQuantityList", "outputQuantityList"), _amounts),
            **dict.fromkeys(("readPoint", "bizLocation"), self._place),
            "bizTransactionList": lambda name, value, _: self._typed(name, value, "bizTransaction", "bizTransaction"),
            "sourceList": lambda name, value, _: self._typed(name, value, "source", "sourceDest"),
            "destinationList": lambda name, value, _: self._typed(name, value, "destination", "sourceDest"),
            "persistentDisposition": self._persistent,
            "sensorElementList": self._sensors,
            "errorDeclaration": self._error,
            "certificationInfo": lambda name, value, _: "".join(_element(name, one) for one in _members(value)),
            "ilmd": lambda name, value, spaces: f"<{name}>{self._extensions(value, spaces, ())}</{name}>",
            "bizStep": lambda name, value, _: _element(name, cbv_term(value, "bizStep", self._form)),
            "disposition": lambda name, value, _: _element(name, cbv_term(value, "disposition", self._form)),
        }

    def event(self, event: Mapping[str, Any]) -> str:
        """One event element."""
        kind = str(event.get("type", "")).rpartition("/")[2] if "://" in str(event.get("type")) else event.get("type")
        spaces = namespaces(event.get("@context"))
        self._is_gs1_declared = declares(event.get("@context"), "gs1")
        order = _ORDER.get(str(kind), _ALL)
        name = str(kind) if kind in EVENT_TYPES else self._name(str(kind), spaces)
        written: dict[str, str] = {}
        for member in order:
            if member in event and member not in written:
                write = self._writers.get(member, _simple)
                written[member] = write(member, event[member], spaces)
        rest = [member for member in event if member not in written and member not in _NOT_WRITTEN]
        inner = "".join(written.values()) + self._extensions({one: event[one] for one in rest}, spaces, ())
        return f"<{name}>{inner}</{name}>"

    def _extensions(self, value: Mapping[str, Any], spaces: Namespaces, known: Iterable[str]) -> str:
        if "@context" in value:
            spaces = spaces.within(value["@context"])
        return "".join(
            self._extension(self._name(name, spaces), member, spaces)
            for name, member in value.items()
            if name not in known and name != "@context"
        )

    def _extension(self, name: str, value: Any, spaces: Namespaces) -> str:
        if isinstance(value, list):
            return "".join(self._extension(name, member, spaces) for member in value)
        if isinstance(value, Mapping):
            return f"<{name}>{self._extensions(value, spaces, ())}</{name}>"
        return f"<{name}/>" if value is None else _element(name, value)

    def _name(self, name: str, spaces: Namespaces) -> str:
        """The element's or attribute's name, its namespace declared."""
        if ":" not in name:
            return _local(name) if not name.startswith("@") else self._qualified(_KEYWORDS, name[1:], "ld")
        prefix = name.partition(":")[0]
        found = spaces.split(name)
        if found is None:
            # Declared in a context elsewhere on the web, which is never fetched.
            return self._qualified(_UNKNOWN + prefix, name.partition(":")[2], prefix)
        return self._qualified(found[0], found[1], prefix)

    def _qualified(self, iri: str, local: str, wanted: str) -> str:
        prefix = self.declared.get(iri)
        if prefix is None:
            taken = {"epcis", "epcisq", "xml", "xmlns", *self.declared.values()}
            base = wanted if _LOCAL.match(wanted) and not wanted.lower().startswith("xml") else "ns"
            prefix = base if base not in taken and not base.startswith(("http", "urn")) else ""
            number = len(self.declared)
            while not prefix or prefix in taken:
                prefix = f"ns{number}"
                number += 1
            self.declared[iri] = prefix
        return f"{prefix}:{_local(local)}"

    def _place(self, name: str, value: Mapping[str, Any], spaces: Namespaces) -> str:
        return f"<{name}>{_element('id', value['id'])}{self._extensions(value, spaces, ('id',))}</{name}>"

    def _typed(self, name: str, value: Sequence[Mapping[str, Any]], member: str, field: str) -> str:
        parts = []
        for one in value:
            kind = f" type={_quoted(cbv_term(one['type'], field, self._form))}" if "type" in one else ""
            parts.append(f"<{member}{kind}>{_text(one[member])}</{member}>")
        return f"<{name}>{''.join(parts)}</{name}>"

    def _persistent(self, name: str, value: Mapping[str, Any], _: Namespaces) -> str:
        parts = [
            _element(kind, cbv_term(word, "disposition", self._form))
            for kind in ("set", "unset")
            for word in _members(value.get(kind, []))
        ]
        return f"<{name}>{''.join(parts)}</{name}>"

    def _error(self, name: str, value: Mapping[str, Any], spaces: Namespaces) -> str:
        parts = [_element("declarationTime", value["declarationTime"])] if "declarationTime" in value else []
        if "reason" in value:
            parts.append(_element("reason", cbv_term(value["reason"], "reason", self._form)))
        if "correctiveEventIDs" in value:
            ids = "".join(_element("correctiveEventID", one) for one in value["correctiveEventIDs"])
            parts.append(f"<correctiveEventIDs>{ids}</correctiveEventIDs>")
        known = ("declarationTime", "reason", "correctiveEventIDs")
        return f"<{name}>{''.join(parts)}{self._extensions(value, spaces, known)}</{name}>"

    def _sensors(self, name: str, value: Sequence[Mapping[str, Any]], spaces: Namespaces) -> str:
        return f"<{name}>{''.join(self._sensor(element, spaces) for element in value)}</{name}>"

    def _sensor(self, element: Mapping[str, Any], spaces: Namespaces) -> str:
        parts = []
        if "sensorMetadata" in element:
            parts.append(f"<sensorMetadata{self._attributes(element['sensorMetadata'], spaces)}/>")
        parts += [f"<sensorReport{self._attributes(one, spaces)}/>" for one in element.get("sensorReport", ())]
        known = ("sensorMetadata", "sensorReport")
        return f"<sensorElement>{''.join(parts)}{self._extensions(element, spaces, known)}</sensorElement>"

    def _attributes(self, value: Mapping[str, Any], spaces: Namespaces) -> str:
        if "@context" in value:
            spaces = spaces.within(value["@context"])
        parts = []
        for name, member in value.items():
            if name == "@context":
                continue
            text = self._attribute(name, member, spaces)
            parts.append(f" {self._name(name, spaces)}={_quoted(text)}")
        return "".join(parts)

    def _attribute(self, name: str, value: Any, spaces: Namespaces) -> str:
        text = _plain(value)
        if name in ("type", "exception"):
            if text in MEASUREMENTS or text in SENSOR_ALERTS:
                return VOC + text
            if text.startswith("gs1:") and self._is_gs1_declared:
                self.declared.setdefault(VOC, "gs1")
            return text
        return cbv_term(text, "component", self._form) if name == "component" else text


def _simple(name: str, value: Any, _: Namespaces) -> str:
    return _element(name, value)


def _epcs(name: str, value: Sequence[str], _: Namespaces) -> str:
    return f"<{name}>{''.join(_element('epc', one) for one in value)}</{name}>"


def _amounts(name: str, value: Sequence[Mapping[str, Any]], _: Namespaces) -> str:
    parts = []
    for one in value:
        members = "".join(_element(member, one[member]) for member in ("epcClass", "quantity", "uom") if member in one)
        parts.append(f"<quantityElement>{members}</quantityElement>")
    return f"<{name}>{''.join(parts)}</{name}>"


def _members(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _element(name: str, value: Any) -> str:
    return f"<{name}>{_text(value)}</{name}>"


def _text(value: Any) -> str:
    return escape(_legal(_plain(value)))


def _quoted(value: str) -> str:
    return quoteattr(_legal(value), {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Mapping):
        return _plain(value.get("@value", ""))
    return str(value)


def _legal(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _local(text: str) -> str:
    """A local name; characters that no name has are written as ``_xHHHH_``."""
    if _LOCAL.match(text):
        return text
    made = "".join(one if re.match(r"[\w.\-]", one) else f"_x{ord(one):04X}_" for one in text)
    return made if made and re.match(r"[^\W\d]", made) else f"_{made}"
