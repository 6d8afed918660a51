"""Signals with the shape of real ones: daily temperature, door openings, machine cycles, truck routes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simulators.randomness import Drbg

EARTH_RADIUS_KM = 6371.0088  # mean radius (IUGG)
DAY_S = 86_400
CHINA_OFFSET_S = 8 * 3_600


def distance_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The great-circle distance between two points of latitude and longitude in degrees (haversine)."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    half = math.sin((lat_b - lat_a) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin(math.radians(b[1] - a[1]) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(half))


def daily(at: int, *, low: float, high: float, offset_s: int = CHINA_OFFSET_S) -> float:
    """The outdoor temperature of a fair day: lowest at 5, highest at 15 o'clock local time."""
    hour = ((at + offset_s) % DAY_S) / 3_600
    share = (hour - 5) / 10 if 5 <= hour < 15 else ((hour - 15) % 24) / 14
    rising = 5 <= hour < 15
    wave = (1 - math.cos(math.pi * share)) / 2
    return low + (high - low) * (wave if rising else 1 - wave)


@dataclass(frozen=True)
class Room:
    """A cooled room: a set point, a share of the outdoor swing, and doors that let warmth in.

    Attributes:
        set_point: degrees Celsius that the plant holds.
        leak: share of the outdoor difference that comes through.
        door_gain: degrees that one opening adds; they decay with ``recovery_s``.
        openings: unix seconds of door openings, ascending.
    """

    set_point: float
    leak: float
    door_gain: float
    recovery_s: float
    openings: tuple[int, ...] = ()

    def temperature(self, at: int, *, outdoor: float) -> float:
        """Degrees Celsius inside at ``at``."""
        warm = sum(
            self.door_gain * math.exp(-(at - opened) / self.recovery_s)
            for opened in self.openings
            if 0 <= at - opened < 6 * self.recovery_s
        )
        return self.set_point + self.leak * (outdoor - self.set_point) + warm


def door_openings(drbg: Drbg, *, start: int, end: int, per_day: int) -> tuple[int, ...]:
    """Openings between 7 and 19 o'clock local time, about ``per_day`` a day."""
    opened: list[int] = []
    first_day = (start + CHINA_OFFSET_S) // DAY_S
    for day in range(first_day, (end + CHINA_OFFSET_S) // DAY_S + 1):
        morning = day * DAY_S - CHINA_OFFSET_S + 7 * 3_600
        opened += [morning + drbg.below(12 * 3_600) for _ in range(per_day)]
    return tuple(sorted(at for at in opened if start <= at <= end))


@dataclass(frozen=True)
class Fix:
    """Where a truck is: unix seconds, latitude and longitude in degrees, kilometres driven."""

    at: int
    latitude: float
    longitude: float
    driven_km: float

    @property
    def uri(self) -> str:
        """The position as a ``geo:`` URI (RFC 5870) with four decimals, about ten metres."""
        return f"geo:{self.latitude:.4f},{self.longitude:.4f}"


@dataclass(frozen=True)
class Route:
    """A drive through cities at a steady speed.

    Attributes:
        stops: points of latitude and longitude in degrees, first to last.
        speed_km_h: measured along the great circles, so lower than on the clock of the truck.
    """

    stops: tuple[tuple[float, float], ...]
    speed_km_h: float

    @property
    def length_km(self) -> float:
        """The whole length."""
        return sum(distance_km(a, b) for a, b in zip(self.stops, self.stops[1:], strict=False))

    @property
    def duration_s(self) -> int:
        """Seconds from the first stop to the last."""
        return round(self.length_km / self.speed_km_h * 3_600)

    def at(self, seconds: float) -> tuple[float, float]:
        """The point reached after so many seconds; before the start and after the end, the end points."""
        left = max(0.0, seconds) / 3_600 * self.speed_km_h
        for a, b in zip(self.stops, self.stops[1:], strict=False):
            leg = distance_km(a, b)
            if left <= leg and leg > 0:
                share = left / leg
                return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
            left -= leg
        return self.stops[-1]

    def fixes(self, start: int, *, every_s: int) -> Iterator[Fix]:
        """The truck's fixes on the way, the two ends left out."""
        for seconds in range(every_s, self.duration_s, every_s):
            latitude, longitude = self.at(seconds)
            yield Fix(start + seconds, latitude, longitude, seconds / 3_600 * self.speed_km_h)


def cycle(at: int, *, period_s: int, idle: float, busy: float, duty: float) -> float:
    """A machine's load: ``busy`` for the first ``duty`` share of each period, then ``idle``."""
    return busy if (at % period_s) < duty * period_s else idle


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lowest, highest and mean of some readings."""
    return min(values), max(values), sum(values) / len(values)
