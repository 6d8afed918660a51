"""What a capture may be written in, and how it is read: JSON-LD, EPCIS XML, or ready signed messages."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.requests import HTTPConnection

from api.epcis.headers import CAPTURE_BYTES_MAX, CAPTURE_EVENTS_MAX, NotAcceptable
from core.canonical import parse_json
from core.epcis.validate import capture_events, envelope_problems
from core.epcis.xml import read_xml
from core.errors import Rejected
from core.message import PUBLISH_BYTES_MAX
from ingest.gateway import Fault, Submitted

Media = Literal["json", "xml", "sd-jwt"]
# Deeper than a message's own JSON: a document wraps its events in five levels more.
DEPTH_MAX: Final = 24
MESSAGES_MAX: Final = 1_000
_MEDIA: Final[Mapping[str, Media]] = {
    "application/json": "json",
    "application/ld+json": "json",
    "application/xml": "xml",
    "text/xml": "xml",
    "application/epcis+sd-jwt": "sd-jwt",
}


class UnsupportedMediaType(Rejected):
    """The body is in no form that is taken here."""

    code = "unsupported_media_type"


@dataclass(frozen=True)
class Document:
    """A capture taken apart: its events, each with its place, and what is odd about the document around them."""

    events: tuple[Submitted, ...]
    warnings: tuple[Fault, ...] = ()


def media_of(connection: HTTPConnection, *, allowed: tuple[Media, ...]) -> Media:
    """The form of the body.

    Raises:
        UnsupportedMediaType: none of ``allowed``, or a text that is not UTF-8.
    """
    kind, *parameters = (part.strip() for part in connection.headers.get("content-type", "").lower().split(";"))
    media = _MEDIA.get(kind)
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMediaType(f"The body is in {value}; send UTF-8.", pointer="Content-Type")
    if media is None or media not in allowed:
        known = ", ".join(name for name, one in _MEDIA.items() if one in allowed)
        raise UnsupportedMediaType(f"A body here is one of {known}.", pointer="Content-Type")
    return media


def answer_media(connection: HTTPConnection, *offered: str) -> str:
    """The first offered media type that the client accepts.

    Raises:
        NotAcceptable: it accepts none.
    """
    ranges = [part.strip().lower() for part in connection.headers.get("accept", "*/*").split(",")]
    accepted = {kind.split(";")[0].strip() for kind in ranges if not kind.replace(" ", "").endswith(";q=0")}
    for kind in offered:
        if not accepted.isdisjoint((kind, kind.split("/")[0] + "/*", "*/*")) or accepted == {""}:
            return kind
    raise NotAcceptable(f"Answers here are {' or '.join(offered)}.", pointer="Accept")


@contextmanager
def collected_later() -> Iterator[None]:
    """A capture makes many objects and no cycles among them; looking for cycles meanwhile takes a third of its time.

    It is bounded by the limits of a capture, and the collector goes on with its end.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_document(body: bytes, media: Media) -> Document:
    """The events of a capture document, nothing checked but the document around them.

    Raises:
        Rejected: no JSON or XML, a fault of the document (its pointer names the place), or too many events.
    """
    with collected_later():
        return _document(body, media)


def _document(body: bytes, media: Media) -> Document:
    document = read_xml(body, bytes_max=CAPTURE_BYTES_MAX) if media == "xml" else _json(body)
    problems = envelope_problems(document)
    if problems:
        first = problems[0]
        raise Rejected(first.message, code=first.code, pointer=first.pointer)
    events, place = capture_events(document)
    if len(events) > CAPTURE_EVENTS_MAX:
        raise Rejected(f"A capture holds at most {CAPTURE_EVENTS_MAX} events; send more captures.", code="too_large")
    context = document.get("@context")
    submitted = tuple([Submitted(event, context, f"{place}/{number}") for number, event in enumerate(events)])
    return Document(submitted, tuple(_oddities(document)))


def read_event(body: bytes) -> Mapping[str, Any]:
    """The single event of a body.

    Raises:
        Rejected: no JSON, no object, or a document.
    """
    event = _json(body)
    if not isinstance(event, Mapping):
        raise Rejected("An event is a JSON object.", code="wrong_type")
    if event.get("type") in ("EPCISDocument", "EPCISQueryDocument"):
        raise Rejected(
            "One event is taken here; send a document to /epcis/capture.", code="not_an_event", pointer="/type"
        )
    if "@context" not in event:
        raise Rejected("The event does not say its @context.", code="missing_field", pointer="/@context")
    return event


def read_messages(body: bytes) -> list[bytes]:
    """The signed messages of a body, one a line.

    Raises:
        Rejected: ``too_large`` or ``bad_form``.
    """
    messages = [line.strip() for line in body.split(b"\n") if line.strip()]
    if not messages:
        raise Rejected("The body holds no message; send one a line.", code="bad_form")
    if len(messages) > MESSAGES_MAX or any(len(message) > PUBLISH_BYTES_MAX for message in messages):
        raise Rejected(
            f"At most {MESSAGES_MAX} messages of {PUBLISH_BYTES_MAX} bytes each are taken at once.", code="too_large"
        )
    return messages


def _json(body: bytes) -> Any:
    return parse_json(body, bytes_max=CAPTURE_BYTES_MAX, depth_max=DEPTH_MAX)


def _oddities(document: Mapping[str, Any]) -> list[Fault]:
    header = document.get("epcisHeader")
    if isinstance(header, Mapping) and header.get("epcisMasterData"):
        sentence = "Master data in a document's header is not stored; register it with the operator."
        return [Fault("/epcisHeader/epcisMasterData", "master_data_not_stored", sentence)]
    return []
