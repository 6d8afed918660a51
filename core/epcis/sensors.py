"""The form of sensor elements: metadata and reports.

Source: GS1 EPCIS 2.0.1, sections 7.3.7 and 12.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from core.epcis.checks import (
    Walk,
    check_boolean,
    check_extension,
    check_list,
    check_number,
    check_object,
    check_required,
    check_string,
    check_term,
    check_time,
    check_uri,
    escaped,
)
from core.epcis.units import fits
from core.epcis.vocabulary import COMPONENTS, MEASUREMENTS, SENSOR_ALERTS, local_name

_HEX = re.compile(r"[A-Fa-f0-9]+\Z")
_Check = Callable[[Walk, Any, str], object]


def check_sensor_elements(walk: Walk, value: object, place: str) -> None:
    """The value must be a list of sensor elements."""
    if check_list(value, walk, place):
        for number, element in enumerate(value):
            _check_element(walk, element, f"{place}/{number}")


def _check_element(walk: Walk, value: object, place: str) -> None:
    if not check_object(value, walk, place):
        return
    check_required(walk, value, place, ("sensorReport",))
    for name, member in value.items():
        inner = f"{place}/{escaped(name)}"
        if name == "sensorMetadata":
            if check_object(member, walk, inner):
                _check_fields(walk, member, inner, _METADATA)
        elif name == "sensorReport":
            if check_list(member, walk, inner, items_min=1):
                for number, report in enumerate(member):
                    _check_report(walk, report, f"{inner}/{number}")
        else:
            check_extension(walk, name, member, inner)


def _check_report(walk: Walk, value: object, place: str) -> None:
    if not check_object(value, walk, place):
        return
    check_required(walk, value, place, ("type",))
    _check_fields(walk, value, place, _REPORT)
    measured, uom = value.get("type"), value.get("uom")
    if isinstance(measured, str) and isinstance(uom, str) and not fits(local_name(measured, "type"), uom):
        walk.add(f"{place}/uom", "wrong_unit", f"{uom} is no unit of {measured}.")


def _check_fields(walk: Walk, value: Mapping[str, Any], place: str, fields: Mapping[str, _Check]) -> None:
    for name, member in value.items():
        check = fields.get(name)
        inner = f"{place}/{escaped(name)}"
        if check is None:
            check_extension(walk, name, member, inner)
        else:
            check(walk, member, inner)


def _check_hex(walk: Walk, value: object, place: str) -> None:
    if not isinstance(value, str) or _HEX.match(value) is None:
        walk.add(place, "bad_hex", "Hexadecimal digits are needed here.")


def _check_measurement(walk: Walk, value: object, place: str) -> None:
    check_term(walk, value, place, MEASUREMENTS, is_web=True)


def _check_alert(walk: Walk, value: object, place: str) -> None:
    check_term(walk, value, place, SENSOR_ALERTS, is_web=True)


def _check_component(walk: Walk, value: object, place: str) -> None:
    check_term(walk, value, place, COMPONENTS)


_URIS = ("deviceID", "deviceMetadata", "rawData", "dataProcessingMethod", "bizRules")
_METADATA: Mapping[str, _Check] = {
    **dict.fromkeys(("time", "startTime", "endTime"), check_time),
    **dict.fromkeys(_URIS, check_uri),
}
_REPORT: Mapping[str, _Check] = {
    "type": _check_measurement,
    "exception": _check_alert,
    "component": _check_component,
    "time": check_time,
    "stringValue": check_string,
    "booleanValue": check_boolean,
    "hexBinaryValue": _check_hex,
    "uom": check_string,
    **dict.fromkeys(
        (*_URIS, "microorganism", "chemicalSubstance", "coordinateReferenceSystem", "uriValue"),
        check_uri,
    ),
    **dict.fromkeys(
        ("value", "minValue", "maxValue", "meanValue", "sDev", "percRank", "percValue"),
        check_number,
    ),
}
