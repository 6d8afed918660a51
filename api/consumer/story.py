"""Records to the rows of a timeline: names in the reader's language, quiet runs folded, corrections beside; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from api.consumer.model import Correction, Hidden, Step
from api.consumer.readings import place_id, position, temperatures
from api.consumer.seen import Seen, withdrawn
from api.drawing.route_map import Stop
from api.drawing.temperature import Series
from api.words import has_words, say
from core.epcis.vocabulary import local_name

Names = Mapping[str, Mapping[str, Any]]

# Steps that devices repeat by themselves: a run of them is one row.
_QUIET: Final = frozenset({"transporting", "sensor_reporting", "cycle_counting"})
# A record that reached us more than an hour after it was made is shown as late (our own choice).
_LATE_S: Final = 3_600


def name_in(facts: Names, identifier: str, lang: str) -> str:
    """The registered name of a party, place or product in a language, "" where none is registered."""
    fact = facts.get(identifier) or {}
    return str(fact.get(f"name_{lang}") or fact.get("name_en") or "")


def steps_of(records: Sequence[Seen], lang: str, *, parties: Names, places: Names, series: Series) -> list[Step]:
    """The rows in time order, numbered from 1; error declarations are corrections, not rows."""
    wrong = withdrawn(records)
    rows: list[Step] = []
    kinds: list[tuple[str, str]] = []
    for record in records:
        if record.declaration is not None:
            continue
        row = _row(record, lang, parties=parties, places=places, series=series, is_withdrawn=record.name in wrong)
        kind = (record.step, record.org)
        if rows and record.step in _QUIET and kinds[-1] == kind and not (row.is_withdrawn or rows[-1].is_withdrawn):
            rows[-1] = _folded(rows[-1], row)
        else:
            rows.append(row)
            kinds.append(kind)
    return [replace(row, number=number) for number, row in enumerate(rows, start=1)]


def corrections_of(records: Sequence[Seen], lang: str, *, parties: Names) -> list[Correction]:
    """What was taken back, by whom and why."""
    found: list[Correction] = []
    for record in records:
        declaration = record.declaration
        if declaration is None:
            continue
        reason = local_name(str(declaration.get("reason", "")), "reason")
        found.append(
            Correction(
                at_ms=record.received_ms,
                offset=_offset(record),
                who=name_in(parties, record.org, lang) or say("journey.someone", lang),
                what=_what(record, lang),
                reason=say(f"reason.{reason}", lang) if has_words(f"reason.{reason}") else reason,
            )
        )
    return found


def hidden_of(records: Sequence[Seen], lang: str) -> list[Hidden]:
    """The kinds of members that are recorded but not shown, most frequent first."""
    counts: dict[str, int] = {}
    for record in records:
        for name in record.hidden:
            key = f"field.{name}" if has_words(f"field.{name}") else "field.other"
            counts[key] = counts.get(key, 0) + 1
        if record.erased:
            counts["field.erased"] = counts.get("field.erased", 0) + record.erased
    return [Hidden(say(key, lang), count) for key, count in sorted(counts.items(), key=lambda row: (-row[1], row[0]))]


def series_of(records: Sequence[Seen], product: Mapping[str, Any]) -> Series:
    """All temperature readings in time order, with the band of the product where one is registered."""
    wrong = withdrawn(records)
    readings = [
        reading
        for record in records
        if record.name not in wrong
        for reading in temperatures(record.event, record.device_ms // 1_000)
    ]
    low, high = product.get("temperature_min"), product.get("temperature_max")
    return Series(
        tuple(sorted(readings, key=lambda reading: reading.at_s)),
        None if low is None else Decimal(str(low)),
        None if high is None else Decimal(str(high)),
    )


def stops_of(records: Sequence[Seen], lang: str, *, places: Names) -> tuple[tuple[Stop, ...], tuple[int, ...]]:
    """The registered places of the journey, one for each town, and the route between them."""
    stops: list[Stop] = []
    route: list[int] = []
    for record in records:
        fact = places.get(place_id(record.event))
        if fact is None or record.declaration is not None or "lat" not in fact or "lon" not in fact:
            continue
        latitude, longitude = float(fact["lat"]), float(fact["lon"])
        at = next((i for i, stop in enumerate(stops) if _is_near(stop, latitude, longitude)), None)
        if at is None:
            at = len(stops)
            stops.append(Stop(name_in(places, place_id(record.event), lang), latitude, longitude))
        if not route or route[-1] != at:
            route.append(at)
    return tuple(stops), tuple(route)


def _row(record: Seen, lang: str, *, parties: Names, places: Names, series: Series, is_withdrawn: bool) -> Step:
    place = place_id(record.event)
    point = position(place)
    where = name_in(places, place, lang) or (f"{point[0]:.2f}, {point[1]:.2f}" if point else "")
    readings = temperatures(record.event, record.device_ms // 1_000)
    disposition = f"disposition.{record.disposition}"
    late_s = (record.received_ms - record.device_ms) // 1_000
    return Step(
        number=0,
        at_ms=record.device_ms,
        offset=_offset(record),
        what=_what(record, lang),
        disposition=say(disposition, lang) if has_words(disposition) else "",
        who=name_in(parties, record.org, lang),
        where=where,
        signed_by=record.signed_by,
        device=record.device,
        leaf=record.leaf,
        via=record.via,
        container=record.container.rpartition("/")[2],
        low=str(min(reading.low for reading in readings)) if readings else "",
        high=str(max(reading.high for reading in readings)) if readings else "",
        is_outside=any(series.is_outside(reading) for reading in readings),
        is_withdrawn=is_withdrawn,
        is_suspect=record.is_suspect,
        is_pending=record.is_pending,
        late_s=late_s if late_s > _LATE_S else 0,
        until_ms=record.device_ms,
    )


def _folded(first: Step, more: Step) -> Step:
    values = [Decimal(text) for text in (first.low, first.high, more.low, more.high) if text]
    return replace(
        first,
        count=first.count + 1,
        until_ms=more.until_ms,
        where=first.where if first.where == more.where else "",
        low=str(min(values)) if values else "",
        high=str(max(values)) if values else "",
        is_outside=first.is_outside or more.is_outside,
        is_pending=first.is_pending or more.is_pending,
        is_suspect=first.is_suspect or more.is_suspect,
        late_s=max(first.late_s, more.late_s),
    )


def _what(record: Seen, lang: str) -> str:
    if record.step:
        key = f"step.{record.step}"
        return say(key, lang) if has_words(key) else record.step.replace("_", " ")
    return say("step.transformation" if record.whole.get("type") == "TransformationEvent" else "step.none", lang)


def _offset(record: Seen) -> str:
    return str(record.whole.get("eventTimeZoneOffset", "+00:00"))


def _is_near(stop: Stop, latitude: float, longitude: float) -> bool:
    return abs(stop.latitude - latitude) < 0.05 and abs(stop.longitude - longitude) < 0.05
