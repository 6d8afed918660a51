"""Alarm rules on readings: each kind one series that raises and one that does not; figures from outside."""

from decimal import Decimal
from typing import Any

import pytest

from core.errors import Rejected
from ingest.alarms_rules import Episode, Reading, degree_minutes, episodes, mean_kinetic, read_rule

pytestmark = pytest.mark.unit
ORG = "https://id.gs1.org/417/9521000000018"
MINUTE = 60_000


def series(*values: object, every: int = MINUTE) -> list[Reading]:
    return [Reading(place * every, Decimal(str(value))) for place, value in enumerate(values)]


def rule(kind: str, **given: Any) -> Any:
    return read_rule("r1", ORG, {"kind": kind, "name": "a rule", "clear_s": 60, **given})


def found(of: Any, readings: list[Reading], now_ms: int = 0) -> list[Episode]:
    return episodes(of, readings, now_ms)


def test_a_threshold_counts_only_when_it_lasts() -> None:
    limit = rule("threshold", above="8", for_s=120)

    assert found(limit, series(5, 9, 9, 5, 5, 9, 5, 5)) == []
    (episode,) = found(limit, series(5, 9, 10, 9, 5, 5, 5))
    assert (episode.start_ms, episode.raised_ms, episode.end_ms) == (MINUTE, 3 * MINUTE, 4 * MINUTE)
    assert episode.peak == 10


def test_one_that_flaps_is_one_alarm() -> None:
    limit = rule("threshold", above="8", clear_s=300)

    (episode,) = found(limit, series(9, 7, 9, 7, 9, 7, 9, 7))

    assert (episode.start_ms, episode.end_ms) == (0, None)


def test_late_readings_are_judged_by_device_time() -> None:
    limit = rule("threshold", above="8", for_s=120)
    whole = series(5, 9, 9, 9, 5, 5, 5)

    assert found(limit, whole[::-1]) == found(limit, whole)
    assert found(limit, [one for one in whole if one.value == 5]) == []


def test_silence_depends_on_the_present_that_is_given() -> None:
    quiet = rule("silence", for_s=600)
    readings = series(5, 5)

    assert found(quiet, readings, 11 * MINUTE) == []
    (open_one,) = found(quiet, readings, 12 * MINUTE)
    (closed,) = found(quiet, [*readings, Reading(30 * MINUTE, Decimal(5))], 31 * MINUTE)
    assert (open_one.start_ms, open_one.raised_ms, open_one.end_ms) == (MINUTE, 11 * MINUTE, None)
    assert closed.end_ms == 30 * MINUTE


def test_an_excursion_weighs_degrees_and_minutes() -> None:
    cold = rule("excursion", low="2", high="8", degree_minutes_max="15")

    assert found(cold, series(5, 10, 10, 10, 5, 5, 5)) == []
    (episode,) = found(cold, series(5, *[12] * 10, 5, 5, 5))
    # Four degrees above 8 for nine minutes, then a line from 12 down to 5 within a minute: 4 x 4 / (2 x 7) = 1.14.
    assert episode.degree_minutes == Decimal("37.1")
    assert episode.raised_ms == 5 * MINUTE


def test_a_geofence_is_left_by_positions_beyond_its_radius() -> None:
    fence = rule("geofence", lat="31.23", lon="121.47", radius_km="50")
    inside = Reading(0, Decimal("31.30"), Decimal("121.50"))
    outside = Reading(MINUTE, Decimal("39.90"), Decimal("116.41"))

    assert found(fence, [inside]) == []
    (episode,) = found(fence, [inside, outside])
    # Shanghai to Beijing is about 1,067 km on the great circle.
    assert episode.peak is not None
    assert 1000 < episode.peak < 1030


def test_degree_minutes_follow_straight_lines_between_readings() -> None:
    # From 6 to 10 in two minutes: above 8 for the second minute, a triangle of height 2: one degree-minute.
    assert degree_minutes(series(6, 10, every=2 * MINUTE), low=None, high=Decimal(8)) == 1
    assert degree_minutes(series(5, 5), low=Decimal(2), high=Decimal(8)) == 0
    # Nobody measured for seven hours: nothing is claimed of them.
    assert degree_minutes(series(20, 20, every=7 * 60 * MINUTE), low=None, high=Decimal(8)) == 0


def test_the_mean_kinetic_temperature_is_that_of_the_standard() -> None:
    # USP <1079.2> with 83.144 kJ/mol and R = 8.3144 J/(mol K): computed with 40 digits by decimal arithmetic.
    warm, cold = Decimal("303.15"), Decimal("293.15")
    rate = ((Decimal(-10_000) / cold).exp() + (Decimal(-10_000) / warm).exp()) / 2
    expected = Decimal(10_000) / -rate.ln() - Decimal("273.15")

    assert mean_kinetic(series(20, 30)) == expected.quantize(Decimal("0.01"))
    assert mean_kinetic(series(25, 25, 25)) == 25
    assert mean_kinetic([]) is None


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"kind": "guess"}, "/kind"),
        ({"kind": "threshold"}, "/above"),
        ({"kind": "excursion", "low": "8", "high": "2"}, "/low"),
        ({"kind": "excursion", "high": "warm"}, "/high"),
        ({"kind": "silence"}, "/for_s"),
        ({"kind": "geofence", "lat": "31"}, "/lat"),
        ({"kind": "threshold", "above": "8", "for_s": "-1"}, "/for_s"),
        ({"kind": "threshold", "above": "8", "name": ""}, "/name"),
    ],
)
def test_a_rule_that_says_nothing_is_refused_with_the_field(given: dict[str, str], pointer: str) -> None:
    with pytest.raises(Rejected) as refusal:
        read_rule("r1", ORG, {"name": "a rule", **given})

    assert refusal.value.pointer == pointer
