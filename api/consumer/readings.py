"""Out of EPCIS events: temperatures, times and places, as far as the reader may see them; pure."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from api.drawing.temperature import Reading
from core.epcis.vocabulary import local_name
from core.errors import Rejected
from core.identifiers import canonical

_GEO = re.compile(r"geo:(-?\d{1,2}(?:\.\d+)?),(-?\d{1,3}(?:\.\d+)?)")
_TENTH: Final = Decimal("0.1")
_ABSOLUTE_ZERO: Final = Decimal("273.15")


def temperatures(event: Mapping[str, Any], device_s: int) -> list[Reading]:
    """The temperature readings of an event, in degrees Celsius."""
    found: list[Reading] = []
    for element in _objects(event.get("sensorElementList")):
        metadata = element.get("sensorMetadata")
        about = metadata if isinstance(metadata, Mapping) else {}
        time = about.get("time") or about.get("endTime") or about.get("startTime")
        for report in _objects(element.get("sensorReport")):
            if local_name(str(report.get("type", "")), "measurement").rpartition("/")[2] != "Temperature":
                continue
            low, mean, high = (_celsius(report, names) for names in _KINDS)
            if low is None or mean is None or high is None:
                continue
            at_s = seconds_of(str(report.get("time") or time or "")) or device_s
            is_alarm = str(report.get("exception", "")).rpartition("/")[2].endswith("ALARM_CONDITION")
            found.append(Reading(at_s, low, mean, high, is_alarm))
    return found


def seconds_of(text: str) -> int | None:
    """Unix seconds of an ISO time with its zone, None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else int(moment.timestamp())


def place_id(event: Mapping[str, Any]) -> str:
    """The place an event names: its business location, else its read point; "" where it shows neither."""
    for name in ("bizLocation", "readPoint"):
        value = event.get(name)
        if isinstance(value, Mapping) and isinstance(value.get("id"), str):
            return _canonical(value["id"])
    return ""


def position(place: str) -> tuple[float, float] | None:
    """Latitude and longitude of a ``geo:`` URI (RFC 5870)."""
    match = _GEO.match(place)
    if match is None:
        return None
    latitude, longitude = float(match[1]), float(match[2])
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def ilmd(event: Mapping[str, Any], name: str) -> str:
    """A member of the instance and lot data by its bare name, whatever prefix it was given."""
    data = event.get("ilmd")
    if not isinstance(data, Mapping):
        return ""
    return next((str(value) for key, value in data.items() if re.split(r"[:/#]", str(key))[-1] == name), "")


def _canonical(place: str) -> str:
    """The one spelling under which a place is registered; what is no identifier stays as it is."""
    try:
        return canonical(place)
    except Rejected:
        return place


_KINDS: Final = (
    ("minValue", "value", "meanValue"),
    ("meanValue", "value", "minValue"),
    ("maxValue", "value", "meanValue"),
)


def _celsius(report: Mapping[str, Any], names: Iterable[str]) -> Decimal | None:
    value = next((report[name] for name in names if name in report), None)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    number = Decimal(value)
    unit = report.get("uom", "CEL")
    if unit == "FAH":
        return ((number - 32) * 5 / 9).quantize(_TENTH)
    if unit == "KEL":
        return number - _ABSOLUTE_ZERO
    return number if unit == "CEL" else None


def _objects(value: Any) -> list[Mapping[str, Any]]:
    members = value if isinstance(value, list) else [value]
    return [member for member in members if isinstance(member, Mapping)]
