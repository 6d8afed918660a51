"""Alarm rules and the episodes they make of readings: pure, by device time; the present comes in as an argument."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from math import exp, log
from typing import Any, Final

from core.errors import Rejected
from ledger.findings_rules import distance_km

KINDS: Final = ("threshold", "excursion", "silence", "geofence")
POSITION: Final = "position"
TEMPERATURE: Final = "Temperature"
# Readings further apart say nothing about the time between them. Our choice, as in the consumer's picture.
GAP_MS: Final = 6 * 3_600_000
CLEAR_S: Final = 300  # our choice: goods are back only after five good minutes, so that a rule does not flap
DAY_S: Final = 86_400
# Activation energy over the gas constant, in kelvin: 83.144 kJ/mol over 8.3144 J/(mol K).
# Source: USP <1079.2> Mean Kinetic Temperature in the Evaluation of Temperature Excursions; ICH Q1A(R2), glossary.
ACTIVATION_K: Final = 10_000.0
ZERO_CELSIUS_K: Final = 273.15
_NUMBERS: Final = {
    "threshold": ("above", "below", "hysteresis"),
    "excursion": ("low", "high", "hysteresis", "degree_minutes_max", "mkt_max"),
    "silence": (),
    "geofence": ("lat", "lon", "radius_km"),
}


@dataclass(frozen=True)
class Rule:
    """A rule of an organisation about its devices.

    Attributes:
        devices, places: whom it concerns; empty means all.
        measurement: local name of the GS1 measurement type.
        for_s: how long the condition holds before it is an alarm; silence: how long nothing may come.
        clear_s: how long it must be over before the alarm clears itself (flapping).
        numbers: bounds by kind.
    """

    id: str
    org: str
    name: str
    kind: str
    measurement: str = TEMPERATURE
    devices: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    for_s: int = 0
    clear_s: int = CLEAR_S
    numbers: Mapping[str, Decimal] = field(default_factory=dict)
    hook: str = ""

    def concerns(self, device: str, place: str) -> bool:
        """Whether a reading of this device in this place is its business."""
        return (not self.devices or device in self.devices) and (not self.places or place in self.places)

    def definition(self) -> str:
        """JSON text for the store."""
        value = {
            "measurement": self.measurement, "devices": list(self.devices), "places": list(self.places),
            "for_s": self.for_s, "clear_s": self.clear_s,
            "numbers": {name: str(number) for name, number in sorted(self.numbers.items())},
        }  # fmt: skip
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Reading:
    """A measurement at a device time; a position has its longitude in ``second``."""

    at_ms: int
    value: Decimal
    second: Decimal = Decimal(0)
    place: str = ""


@dataclass(frozen=True)
class Episode:
    """A time during which a rule's condition held long enough.

    Attributes:
        start_ms: the first reading beyond. raised_ms: when it became an alarm. end_ms: None while it lasts.
        peak: the reading furthest beyond. value: the one by which it became an alarm.
        degree_minutes, mkt: of a cold chain, None elsewhere.
    """

    start_ms: int
    raised_ms: int
    end_ms: int | None
    peak: Decimal | None = None
    degree_minutes: Decimal | None = None
    mkt: Decimal | None = None
    readings: int = 0
    value: Decimal | None = None

    def details(self) -> dict[str, Any]:
        """The figures as JSON, decimals as text."""
        found = {"readings": self.readings}
        named = {"value": self.value, "peak": self.peak, "degree_minutes": self.degree_minutes, "mkt": self.mkt}
        return found | {name: str(value) for name, value in named.items() if value is not None}


def read_rule(rule_id: str, org: str, given: Mapping[str, Any]) -> Rule:
    """The rule of a form or JSON body.

    Raises:
        Rejected: ``bad_alarm_rule``; the pointer names the member.
    """
    kind, name = str(given.get("kind", "")), str(given.get("name", "")).strip()
    if kind not in KINDS:
        raise _bad(f"kind is one of {', '.join(KINDS)}.", "kind")
    if not 1 <= len(name) <= 100:
        raise _bad("name has 1 to 100 characters.", "name")
    numbers = {one: _number(given[one], one) for one in _NUMBERS[kind] if given.get(one) not in (None, "")}
    for_s = _seconds(given.get("for_s", 0), "for_s")
    clear_s = _seconds(given.get("clear_s", CLEAR_S), "clear_s")
    if kind == "threshold" and not {"above", "below"} & numbers.keys():
        raise _bad("A threshold needs above or below.", "above")
    if kind == "excursion" and not {"low", "high"} & numbers.keys():
        raise _bad("An excursion needs low or high.", "high")
    if kind == "silence" and for_s < 1:
        raise _bad("Silence needs for_s, the seconds within which something must come.", "for_s")
    if kind == "geofence" and len(numbers) < 3:
        raise _bad("A geofence needs lat, lon and radius_km.", "lat")
    low, high = numbers.get("low"), numbers.get("high")
    if low is not None and high is not None and low >= high:
        raise _bad("low is below high.", "low")
    if numbers.get("radius_km", Decimal(1)) <= 0 or abs(numbers.get("lat", Decimal(0))) > 90:
        raise _bad("radius_km is above 0, and lat between -90 and 90.", "radius_km")
    measurement = str(given.get("measurement") or TEMPERATURE)
    if kind == "geofence":
        measurement = POSITION
    return Rule(
        rule_id, org, name, kind, measurement, _names(given.get("devices"), "devices"),
        _names(given.get("places"), "places"), for_s, clear_s, numbers, str(given.get("hook", "")),
    )  # fmt: skip


def stored_rule(row: Any) -> Rule:
    """The rule of a row."""
    value = json.loads(row.definition)
    numbers = {name: Decimal(number) for name, number in value["numbers"].items()}
    return Rule(
        row.id, row.org, row.name, row.kind, value["measurement"], tuple(value["devices"]), tuple(value["places"]),
        value["for_s"], value["clear_s"], numbers, row.hook,
    )  # fmt: skip


def episodes(rule: Rule, readings: Sequence[Reading], now_ms: int) -> list[Episode]:
    """The alarms that a rule makes of one device's readings in the order of device time.

    Args:
        now_ms: the present, for silence only: what readings say does not depend on when one looks.
    """
    ordered = sorted(readings, key=lambda one: one.at_ms)
    if rule.kind == "silence":
        return _silences(rule, ordered, now_ms)
    found: list[Episode] = []
    run: list[Reading] = []
    good_since: int | None = None
    for reading in ordered:
        if run and good_since is not None and reading.at_ms - good_since >= rule.clear_s * 1000:
            found += _episode(rule, run, good_since)
            run, good_since = [], None
        beyond = _beyond(rule, reading)
        if beyond > 0:
            run.append(reading)
            good_since = None
        elif run:
            run.append(reading)
            if _is_back(rule, reading) and good_since is None:
                good_since = reading.at_ms
    if run and good_since is not None and ordered[-1].at_ms - good_since >= rule.clear_s * 1000:
        return found + _episode(rule, run, good_since)
    return found + (_episode(rule, run, None) if run else [])


def _episode(rule: Rule, run: Sequence[Reading], end_ms: int | None) -> list[Episode]:
    """The alarm of one run of readings, none if it does not last or weigh enough."""
    within = [one for one in run if end_ms is None or one.at_ms <= end_ms]
    raised_ms = _raised_ms(rule, within, end_ms)
    if raised_ms is None:
        return []
    peak = max(within, key=lambda one: _beyond(rule, one))
    weighed, mkt = None, None
    if rule.kind == "excursion":
        low, high = rule.numbers.get("low"), rule.numbers.get("high")
        weighed, mkt = degree_minutes(within, low=low, high=high), mean_kinetic(within)
    value = _beyond(rule, peak) if rule.kind == "geofence" else peak.value
    first = next(one for one in within if one.at_ms == raised_ms)
    told = _beyond(rule, first) if rule.kind == "geofence" else first.value
    return [Episode(within[0].at_ms, raised_ms, end_ms, value, weighed, mkt, len(within), told)]


def _raised_ms(rule: Rule, run: Sequence[Reading], end_ms: int | None) -> int | None:
    """When the run became an alarm: by its length, or for a cold chain by its degree-minutes or its MKT."""
    most = rule.numbers.get("degree_minutes_max")
    kinetic = rule.numbers.get("mkt_max")
    low, high = rule.numbers.get("low"), rule.numbers.get("high")
    by_length = most is None and kinetic is None
    weighed, before = Decimal(0), run[0]
    for place, reading in enumerate(run, start=1):
        is_long = (by_length or rule.for_s > 0) and reading.at_ms - run[0].at_ms >= rule.for_s * 1000
        if is_long and _beyond(rule, reading) > 0:
            return reading.at_ms
        weighed += degree_minutes([before, reading], low=low, high=high) if most is not None else 0
        if most is not None and weighed > most:
            return reading.at_ms
        if kinetic is not None and reading.value > kinetic and (mean_kinetic(run[:place]) or kinetic) > kinetic:
            return reading.at_ms
        before = reading
    return None


def _silences(rule: Rule, ordered: Sequence[Reading], now_ms: int) -> list[Episode]:
    found, limit = [], rule.for_s * 1000
    for one, following in itertools.pairwise(ordered):
        if following.at_ms - one.at_ms > limit:
            found.append(Episode(one.at_ms, one.at_ms + limit, following.at_ms, readings=0))
    if ordered and now_ms - ordered[-1].at_ms > limit:
        found.append(Episode(ordered[-1].at_ms, ordered[-1].at_ms + limit, None, readings=0))
    return found


def _beyond(rule: Rule, reading: Reading) -> Decimal:
    """By how much a reading lies beyond what the rule allows; 0 or less for within."""
    numbers = rule.numbers
    if rule.kind == "geofence":
        centre = float(numbers["lat"]), float(numbers["lon"])
        way = Decimal(str(round(distance_km(centre, (float(reading.value), float(reading.second))), 3)))
        return way - numbers["radius_km"]
    high = numbers.get("above", numbers.get("high"))
    low = numbers.get("below", numbers.get("low"))
    over = reading.value - high if high is not None else Decimal("-Infinity")
    under = low - reading.value if low is not None else Decimal("-Infinity")
    return max(over, under)


def _is_back(rule: Rule, reading: Reading) -> bool:
    return _beyond(rule, reading) <= -rule.numbers.get("hysteresis", Decimal(0))


def degree_minutes(readings: Sequence[Reading], *, low: Decimal | None, high: Decimal | None) -> Decimal:
    """How far and how long readings lay outside a band, in degrees times minutes, straight lines between readings."""
    total = Decimal(0)
    for one, following in itertools.pairwise(readings):
        span = following.at_ms - one.at_ms
        if 0 < span <= GAP_MS:
            if high is not None:
                total += _area(one.value - high, following.value - high) * span
            if low is not None:
                total += _area(low - one.value, low - following.value) * span
    return (total / 60_000).quantize(Decimal("0.1"))


def _area(start: Decimal, end: Decimal) -> Decimal:
    """The part above zero of a straight line from ``start`` to ``end`` over a unit of time."""
    if start <= 0 and end <= 0:
        return Decimal(0)
    if start >= 0 and end >= 0:
        return (start + end) / 2
    above = max(start, end)
    return above * above / (2 * (above - min(start, end)))


def mean_kinetic(readings: Sequence[Reading]) -> Decimal | None:
    """The mean kinetic temperature in degrees Celsius, each reading weighted by the time that it stands for.

    Source: USP <1079.2>: T_K = (dH/R) / -ln(sum(t_i exp(-dH/(R T_i))) / sum(t_i)), dH = 83.144 kJ/mol.
    """
    if not readings:
        return None
    weights = [0.0] * len(readings)
    for place, (one, following) in enumerate(itertools.pairwise(readings)):
        half = min(max(following.at_ms - one.at_ms, 0), GAP_MS) / 2
        weights[place] += half
        weights[place + 1] += half
    if not sum(weights):
        weights = [1.0] * len(readings)
    kelvin = [float(one.value) + ZERO_CELSIUS_K for one in readings]
    if min(kelvin) <= 0:
        return None
    rate = sum(weight * exp(-ACTIVATION_K / one) for weight, one in zip(weights, kelvin, strict=True)) / sum(weights)
    if rate <= 0:
        return None
    return Decimal(str(ACTIVATION_K / -log(rate) - ZERO_CELSIUS_K)).quantize(Decimal("0.01"))


def _number(value: Any, name: str) -> Decimal:
    try:
        found = Decimal(str(value))
    except InvalidOperation as error:
        raise _bad(f"{name} is a number.", name) from error
    if not found.is_finite() or abs(found) > 10**6:
        raise _bad(f"{name} is a number between -1,000,000 and 1,000,000.", name)
    return found


def _seconds(value: Any, name: str) -> int:
    try:
        found = int(str(value))
    except ValueError as error:
        raise _bad(f"{name} is a whole number of seconds.", name) from error
    if not 0 <= found <= 30 * DAY_S:
        raise _bad(f"{name} is between 0 and {30 * DAY_S} seconds.", name)
    return found


def _names(value: Any, name: str) -> tuple[str, ...]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value or ()
    if not isinstance(parts, list | tuple) or len(parts) > 200 or not all(isinstance(one, str) for one in parts):
        raise _bad(f"{name} lists at most 200 ids.", name)
    return tuple(parts)


def _bad(sentence: str, pointer: str) -> Rejected:
    return Rejected(sentence, code="bad_alarm_rule", pointer=f"/{pointer}")
