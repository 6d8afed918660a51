"""Sends the events of any EPCIS 2.0 JSON-LD document as they are: nothing is checked and nothing repaired."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.canonical import parse_json
from core.epcis.items import document_events
from core.errors import Rejected
from simulators.devices import Device
from simulators.outbox import Entry

DOCUMENT_BYTES_MAX = 64 * 1024 * 1024
# Deeper than a message may be, so that an event that is too deep travels and is named by the receiver.
DEPTH_MAX = 64
EVENTS_PER_MESSAGE = 50  # ours: far from the limits of a message for usual events, and few enough to look at


@dataclass(frozen=True)
class Sent:
    """What became of a document.

    Attributes:
        entries: the messages, in the outbox now.
        events: how many events they hold.
        too_large: positions of events that fit into no message, from 0.
    """

    entries: tuple[Entry, ...]
    events: int
    too_large: tuple[int, ...]


def read_events(data: bytes) -> list[dict[str, Any]]:
    """The events of an EPCIS document, query document, single event or list of events, valid or not.

    Raises:
        Rejected: the bytes are no JSON, or hold no list of events: there is nothing that could be sent.
    """
    return document_events(parse_json(data, bytes_max=DOCUMENT_BYTES_MAX, depth_max=DEPTH_MAX))


def send_document(
    document: Path | bytes, device: Device, now: int, *, events_per_message: int = EVENTS_PER_MESSAGE
) -> Sent:
    """Sign the events of a document and put them into the device's outbox, in order.

    Args:
        document: a file or its bytes.
        device: the device that signs.
        now: unix seconds of signing; event times stay as they are.
        events_per_message: how many events share a message where they fit.

    Raises:
        Rejected: as ``read_events``; nothing is in the outbox then.
    """
    events = read_events(document.read_bytes() if isinstance(document, Path) else document)
    entries: list[Entry] = []
    too_large: list[int] = []
    for start in range(0, len(events), events_per_message):
        _record(device, events[start : start + events_per_message], start, now, entries, too_large)
    return Sent(tuple(entries), len(events) - len(too_large), tuple(too_large))


def _record(
    device: Device, events: Sequence[dict[str, Any]], first: int, now: int, entries: list[Entry], too_large: list[int]
) -> None:
    """One message, or two halves when they do not fit; signing fails before anything is stored."""
    try:
        entries.append(device.record(events, now))
    except Rejected as error:
        if error.code not in ("too_large", "too_many_events"):
            raise
        if len(events) == 1:
            too_large.append(first)
            return
        half = len(events) // 2
        _record(device, events[:half], first, now, entries, too_large)
        _record(device, events[half:], first + half, now, entries, too_large)
