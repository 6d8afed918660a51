"""What sensors measured, out of EPCIS events: pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, NamedTuple

from core.canonical import sha256
from core.epcis.vocabulary import local_name
from core.errors import Rejected
from core.identifiers import canonical
from ingest.alarms_rules import POSITION
from ledger.findings_facts import point
from ledger.followers import LoggedEvent
from ledger.queryindex import event_key

GOODS: Final = (1, 2, 6, 7, 8)
_VALUES: Final = ("value", "meanValue", "maxValue", "minValue")


class Measured(NamedTuple):
    """One reading with where it stands in the log."""

    device: str
    measurement: str
    at_ms: int
    ev: int
    number: int
    org: str
    place: str
    value: Decimal
    second: Decimal
    uom: str
    name64: int

    def row(self) -> tuple[Any, ...]:
        """The values of a row of ``sensor_readings``."""
        return (*self[:7], str(self.value), str(self.second), self.uom, self.name64)


def measured(event: LoggedEvent) -> list[Measured]:
    """The readings of an event, and where its device was; temperatures in degrees Celsius."""
    body = event.event
    ev, place, name64 = event_key(event.leaf, event.number), _place(body), name_key(event.org, body)
    found: list[Measured] = []
    for report, metadata in _reports(body):
        value = _value(report)
        if value is None or "type" not in report:
            continue
        kind = local_name(str(report["type"]), "measurement")
        number, uom = _common(value, str(report.get("uom", "")))
        device = _id(report.get("deviceID") or metadata.get("deviceID")) or event.iss
        at = report.get("time") or metadata.get("time") or metadata.get("endTime")
        at_ms = _ms(at) if isinstance(at, str) else event.device_ms
        row = Measured(device, kind, at_ms, ev, len(found), event.org, place, number, Decimal(0), uom, name64)
        found.append(row)
    where = _position(body)
    if where is not None:
        found.append(
            Measured(
                event.iss, POSITION, event.device_ms, ev, len(found), event.org, place, where[0], where[1], "DD", name64
            )
        )
    return found


def name_key(org: str, body: Mapping[str, Any]) -> int:
    """The hash of who speaks and the event's id, 0 where it has none."""
    name = body.get("eventID")
    return 0 if not name else int.from_bytes(sha256(f"{org}\x00{name}".encode())[:8], signed=True)


def _reports(body: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for element in body.get("sensorElementList") or ():
        if not isinstance(element, Mapping):
            continue
        metadata = element.get("sensorMetadata")
        for report in element.get("sensorReport") or ():
            if isinstance(report, Mapping):
                yield report, metadata if isinstance(metadata, Mapping) else {}


def _value(report: Mapping[str, Any]) -> Decimal | None:
    for name in _VALUES:
        value = report.get(name)
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            return Decimal(value)
    return None


def _common(value: Decimal, uom: str) -> tuple[Decimal, str]:
    """Degrees Celsius for temperatures (UN/ECE Recommendation 20: FAH, KEL), anything else as it is."""
    if uom == "FAH":
        return ((value - 32) * 5 / 9).quantize(Decimal("0.001")), "CEL"
    return (value - Decimal("273.15"), "CEL") if uom == "KEL" else (value, uom)


def _position(body: Mapping[str, Any]) -> tuple[Decimal, Decimal] | None:
    read = body.get("readPoint")
    text = read.get("id") if isinstance(read, Mapping) else None
    if not isinstance(text, str) or not text.startswith("geo:"):
        return None
    parts = text[4:].partition(";")[0].split(",")
    if len(parts) < 2 or point(parts[0], parts[1]) is None:
        return None
    try:
        return Decimal(parts[0]), Decimal(parts[1])
    except InvalidOperation:
        return None


def _place(body: Mapping[str, Any]) -> str:
    for name in ("bizLocation", "readPoint"):
        place = body.get(name)
        if isinstance(place, Mapping) and isinstance(place.get("id"), str) and not place["id"].startswith("geo:"):
            return _id(place["id"])
    return ""


@lru_cache(maxsize=10_000)
def _canonical(text: str) -> str:
    try:
        return canonical(text)
    except Rejected:
        return text


def _id(text: Any) -> str:
    return _canonical(text) if isinstance(text, str) else ""


def _ms(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0
