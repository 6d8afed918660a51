"""Whether an EPCIS document or event is well said: form, vocabulary, identifiers and meaning.

The form is that of the normative JSON Schema 2.0.1. Beyond it we refuse wrong check digits and malformed GS1 keys,
quantities that are not above zero, events that name nothing, units that cannot measure the quantity, an aggregation
without its parent, times that do not exist, and names whose prefix nobody declared.

Source: GS1 EPCIS 2.0.1 and CBV 2.0; rules of our own as listed above.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from core.epcis.checks import (
    Problem,
    Walk,
    check_list,
    check_names,
    check_object,
    check_required,
    check_string,
    check_time,
    check_uri,
    instant,
)
from core.epcis.events import check_context, check_event
from core.epcis.items import document_events

__all__ = [
    "Problem",
    "capture_events",
    "document_events",
    "document_problems",
    "envelope_problems",
    "event_problems",
    "event_warnings",
]

_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*\Z")


def event_problems(event: Mapping[str, Any], *, context: object = None, pointer: str = "") -> list[Problem]:
    """Everything that is wrong with one event; empty when it may be stored.

    Args:
        event: an EPCIS event as JSON-LD, numbers as int or Decimal.
        context: the ``@context`` of the document around it.
        pointer: the JSON pointer of the event, before each problem's own.
    """
    problems: list[Problem] = []
    if not isinstance(event, Mapping):
        return [Problem(pointer, "wrong_type", "An event is an object.")]
    check_event(Walk((context, event.get("@context")), problems), event, pointer)
    return problems


def event_warnings(event: Mapping[str, Any], *, pointer: str = "") -> list[Problem]:
    """What is odd but not wrong: sensor times after the event, time spans and ranges that run backwards."""
    found: list[Problem] = []
    elements = event.get("sensorElementList")
    if not elements:
        return found
    event_time = instant(event.get("eventTime"))
    for number, element in enumerate(elements if isinstance(elements, list) else ()):
        place = f"{pointer}/sensorElementList/{number}"
        metadata = element.get("sensorMetadata") if isinstance(element, Mapping) else None
        if isinstance(metadata, Mapping):
            for name in ("time", "startTime", "endTime"):
                time = instant(metadata.get(name))
                if time is not None and event_time is not None and time > event_time:
                    sentence = "The sensor's time lies after the event."
                    found.append(Problem(f"{place}/sensorMetadata/{name}", "sensor_after_event", sentence))
            start, end = instant(metadata.get("startTime")), instant(metadata.get("endTime"))
            if start is not None and end is not None and start > end:
                sentence = "The time span runs backwards."
                found.append(Problem(f"{place}/sensorMetadata/endTime", "backward_span", sentence))
    return found


def document_problems(document: object) -> list[Problem]:
    """Everything that is wrong with an EPCIS document, query document, single event or list of these."""
    if isinstance(document, list):
        return [
            problem._replace(pointer=f"/{number}{problem.pointer}")
            for number, part in enumerate(document)
            for problem in document_problems(part)
        ]
    problems: list[Problem] = []
    if not isinstance(document, Mapping):
        return [Problem("", "wrong_type", "An EPCIS document is an object.")]
    context = document.get("@context")
    walk = Walk((context,), problems)
    kind = document.get("type")
    if kind == "EPCISDocument":
        _check_document(walk, document)
    elif kind == "EPCISQueryDocument":
        _check_query_document(walk, document)
    else:
        check_required(walk, document, "", ("@context",))
        if "type" not in document:
            walk.add("/type", "missing_field", "The document does not say its type.")
        else:
            check_event(walk, document, "")
    return problems


def capture_events(document: Mapping[str, Any]) -> tuple[list[Any], str]:
    """The events of a document or query document as they stand in it, and the JSON pointer of their list.

    Call it when :func:`envelope_problems` found nothing.
    """
    if document.get("type") == "EPCISQueryDocument":
        place = "/epcisBody/queryResults/resultsBody/eventList"
        return list(document["epcisBody"]["queryResults"]["resultsBody"]["eventList"]), place
    return list(document["epcisBody"]["eventList"]), "/epcisBody/eventList"


def envelope_problems(document: object) -> list[Problem]:
    """Everything that is wrong with a document or query document around its events; the events are not looked into."""
    if not isinstance(document, Mapping):
        return [Problem("", "wrong_type", "An EPCIS document is an object.")]
    kind = document.get("type")
    if kind not in ("EPCISDocument", "EPCISQueryDocument"):
        sentence = "A capture is an EPCISDocument or an EPCISQueryDocument; send a single event to /epcis/events."
        return [Problem("/type", "not_a_document", sentence)]
    bare = dict(document)
    path = ("epcisBody",) if kind == "EPCISDocument" else ("epcisBody", "queryResults", "resultsBody")
    inner: Any = bare
    for name in path:
        if not isinstance(inner.get(name), Mapping):
            return document_problems(document)
        inner[name] = dict(inner[name])
        inner = inner[name]
    if isinstance(inner.get("eventList"), list):
        inner["eventList"] = []
    return document_problems(bare)


def _check_document(walk: Walk, document: Mapping[str, Any]) -> None:
    _check_fields(walk, document, "", _DOCUMENT)
    check_required(walk, document, "", ("@context", "schemaVersion", "creationDate", "epcisBody"))


def _check_query_document(walk: Walk, document: Mapping[str, Any]) -> None:
    _check_fields(walk, document, "", _QUERY_DOCUMENT)
    check_required(walk, document, "", ("@context", "epcisBody"))


def _check_fields(
    walk: Walk, value: Mapping[str, Any], place: str, fields: Mapping[str, Callable[[Walk, Any, str], object]]
) -> None:
    check_names(walk, value, place, fields)
    for name, check in fields.items():
        if name in value:
            check(walk, value[name], f"{place}/{name}")


def _check_type(_walk: Walk, _value: object, _place: str) -> None:
    """The type was read already."""


def _check_version(walk: Walk, value: object, place: str) -> None:
    if not isinstance(value, str) or _VERSION.match(value) is None:
        walk.add(place, "bad_version", "A schema version is numbers between dots, as in 2.0.")


def _check_header(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        _check_fields(walk, value, place, _HEADER)


def _check_master_data(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place) and "vocabularyList" in value:
        _check_vocabularies(walk, value["vocabularyList"], f"{place}/vocabularyList")


def _check_vocabularies(walk: Walk, value: object, place: str) -> None:
    if not check_list(value, walk, place):
        return
    for number, vocabulary in enumerate(value):
        inner = f"{place}/{number}"
        if check_object(vocabulary, walk, inner):
            check_required(walk, vocabulary, inner, ("type",))
            if "type" in vocabulary:
                check_uri(walk, vocabulary["type"], f"{inner}/type")
            elements = vocabulary.get("vocabularyElementList", [])
            if check_list(elements, walk, f"{inner}/vocabularyElementList"):
                for position, element in enumerate(elements):
                    _check_element(walk, element, f"{inner}/vocabularyElementList/{position}")


def _check_element(walk: Walk, value: object, place: str) -> None:
    if not check_object(value, walk, place):
        return
    check_required(walk, value, place, ("id",))
    if "id" in value:
        check_uri(walk, value["id"], f"{place}/id")
    attributes = value.get("attributes", [])
    if check_list(attributes, walk, f"{place}/attributes"):
        for number, attribute in enumerate(attributes):
            _check_attribute(walk, attribute, f"{place}/attributes/{number}")
    children = value.get("children", [])
    if check_list(children, walk, f"{place}/children"):
        for number, child in enumerate(children):
            check_uri(walk, child, f"{place}/children/{number}")


def _check_attribute(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        check_required(walk, value, place, ("id",))
        if "id" in value:
            check_uri(walk, value["id"], f"{place}/id")
        attribute = value.get("attribute", "")
        if attribute is None or isinstance(attribute, bool | list):
            walk.add(f"{place}/attribute", "wrong_type", "An attribute is a string, a number or an object.")


def _check_body(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        check_required(walk, value, place, ("eventList",))
        if "eventList" in value:
            _check_event_list(walk, value["eventList"], f"{place}/eventList")


def _check_query_body(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        check_required(walk, value, place, ("queryResults",))
        _check_fields(walk, value, place, {"queryResults": _check_results})


def _check_results(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        check_required(walk, value, place, ("queryName", "resultsBody"))
        _check_fields(walk, value, place, _RESULTS)


def _check_results_body(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        check_required(walk, value, place, ("eventList",))
        _check_fields(walk, value, place, _RESULTS_BODY)


def _check_event_list(walk: Walk, value: object, place: str) -> None:
    if not check_list(value, walk, place):
        return
    outer = walk.contexts
    for number, event in enumerate(value):
        inner = f"{place}/{number}"
        if check_object(event, walk, inner):
            scope = walk if "@context" not in event else Walk((*outer, event["@context"]), walk.problems)
            check_event(scope, event, inner)


_DOCUMENT: Mapping[str, Callable[[Walk, Any, str], object]] = {
    "@context": check_context,
    "id": check_uri,
    "type": _check_type,
    "schemaVersion": _check_version,
    "creationDate": check_time,
    "instanceIdentifier": check_string,
    "sender": check_string,
    "receiver": check_string,
    "epcisHeader": _check_header,
    "epcisBody": _check_body,
}
_QUERY_DOCUMENT: Mapping[str, Callable[[Walk, Any, str], object]] = {
    "@context": check_context,
    "id": check_uri,
    "type": _check_type,
    "schemaVersion": _check_version,
    "creationDate": check_time,
    "epcisBody": _check_query_body,
}
_HEADER = {"epcisMasterData": _check_master_data}
_RESULTS: Mapping[str, Callable[[Walk, Any, str], object]] = {
    "queryName": check_string,
    "subscriptionID": check_string,
    "resultsBody": _check_results_body,
}
_RESULTS_BODY = {"eventList": _check_event_list, "vocabularyList": _check_vocabularies}
