"""The journey on a map: coast lines and dots only, no borders."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from markupsafe import Markup

from api.drawing.svg import path_of, picture, tag
from api.words import say

_EAST_ASIA: Final = (68.0, -10.0, 152.0, 56.0)
_Point = tuple[float, float]


@dataclass(frozen=True)
class Stop:
    """A place of the journey; ``numbers`` are the steps of the timeline that happened there."""

    name: str
    latitude: float
    longitude: float
    numbers: tuple[int, ...] = ()


def draw(stops: Sequence[Stop], route: Sequence[int], lang: str, *, width: int, height: int) -> Markup:
    """The map of the stops with the route between them.

    Args:
        stops: distinct places.
        route: indices into ``stops`` in the order of the journey.
    """
    if not stops:
        return Markup("")
    frame = _Frame.around(stops, width, height)
    content = [tag("rect", x=0, y=0, width=width, height=height, class_="map-sea")]
    content += [tag("path", d=path_of(ring, is_closed=True), class_="map-land") for ring in frame.land()]
    line = [frame.place(stops[index].longitude, stops[index].latitude) for index in route]
    if len(set(line)) > 1:
        content.append(tag("path", d=path_of(line), class_="map-route-under"))
        content.append(tag("path", d=path_of(line), class_="map-route"))
    content += _dots(stops, frame, width, height)
    names = ", ".join(stop.name for stop in stops)
    return picture(width, height, say("map.title", lang), say("map.described", lang, places=names), content, "map")


def _dots(stops: Sequence[Stop], frame: "_Frame", width: int, height: int) -> list[Markup]:
    marks: list[Markup] = []
    taken: list[tuple[float, float, float, float]] = []
    places = [frame.place(stop.longitude, stop.latitude) for stop in stops]
    taken += [(x - 8, y - 8, x + 8, y + 8) for x, y in places]
    for number, (stop, (x, y)) in enumerate(zip(stops, places, strict=True), start=1):
        marks.append(tag("circle", cx=x, cy=y, r=8.5, class_="map-dot"))
        marks.append(tag("text", str(number), x=x, y=y + 3.6, text_anchor="middle", class_="map-number"))
        label = _place_label(stop.name, x, y, taken, width, height)
        if label is not None:
            anchor, text_x, text_y, box = label
            taken.append(box)
            marks.append(tag("text", stop.name, x=text_x, y=text_y, text_anchor=anchor, class_="map-label"))
    return marks


def _place_label(
    name: str, x: float, y: float, taken: list[tuple[float, float, float, float]], width: int, height: int
) -> tuple[str, float, float, tuple[float, float, float, float]] | None:
    """The first free place beside a dot; a label without one is left to the list below the map."""
    length = sum(12.0 if ord(letter) > 0x2E80 else 6.6 for letter in name)
    tries = (
        ("start", x + 13, y + 4, (x + 11, y - 8, x + 15 + length, y + 8)),
        ("end", x - 13, y + 4, (x - 15 - length, y - 8, x - 11, y + 8)),
        ("middle", x, y - 14, (x - length / 2, y - 26, x + length / 2, y - 11)),
        ("middle", x, y + 24, (x - length / 2, y + 12, x + length / 2, y + 28)),
    )
    for anchor, text_x, text_y, box in tries:
        is_inside = box[0] >= 2 and box[1] >= 2 and box[2] <= width - 2 and box[3] <= height - 2
        if is_inside and not any(_overlap(box, other) for other in taken if other != (x - 8, y - 8, x + 8, y + 8)):
            return anchor, text_x, text_y, box
    return None


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class _Frame:
    """An equirectangular window, its longitudes narrowed by the cosine of its middle latitude."""

    west: float
    south: float
    scale: float
    narrow: float
    width: int
    height: int

    @classmethod
    def around(cls, stops: Sequence[Stop], width: int, height: int) -> "_Frame":
        latitudes = [stop.latitude for stop in stops]
        longitudes = [stop.longitude for stop in stops]
        middle = (min(latitudes) + max(latitudes)) / 2
        narrow = max(0.2, math.cos(math.radians(middle)))
        span_x = max((max(longitudes) - min(longitudes)) * narrow * 1.45, 4.0)
        span_y = max((max(latitudes) - min(latitudes)) * 1.5, 3.0)
        scale = min(width / span_x, height / span_y)
        return cls(
            west=(min(longitudes) + max(longitudes)) / 2 - width / scale / narrow / 2,
            south=middle - height / scale / 2,
            scale=scale,
            narrow=narrow,
            width=width,
            height=height,
        )

    def place(self, longitude: float, latitude: float) -> _Point:
        x = (longitude - self.west) * self.narrow * self.scale
        return round(x, 1), round(self.height - (latitude - self.south) * self.scale, 1)

    def land(self) -> list[list[_Point]]:
        east = self.west + self.width / self.scale / self.narrow
        north = self.south + self.height / self.scale
        box = _EAST_ASIA
        is_east_asia = self.west > box[0] and self.south > box[1] and east < box[2] and north < box[3]
        rings: list[list[_Point]] = []
        for ring in _coast()["east_asia" if is_east_asia else "world"]:
            points = _clip(ring, (self.west, self.south, east, north))
            if len(points) > 2:
                rings.append([self.place(*point) for point in points])
        return rings


@lru_cache(maxsize=1)
def _coast() -> dict[str, list[list[_Point]]]:
    stored = json.loads((Path(__file__).parent / "coast.json").read_bytes())
    return {name: [_unpack(ring) for ring in stored[name]] for name in ("east_asia", "world")}


def _unpack(steps: list[int]) -> list[_Point]:
    x = y = 0
    points: list[_Point] = []
    for dx, dy in zip(steps[::2], steps[1::2], strict=True):
        x, y = x + dx, y + dy
        points.append((x / 100, y / 100))
    return points


def _clip(points: list[_Point], box: tuple[float, float, float, float]) -> list[_Point]:
    """The ring within a rectangle, a little larger than seen, so that its cut edges are out of sight.

    Source: Sutherland and Hodgman, 1974.
    """
    margin_x, margin_y = (box[2] - box[0]) * 0.05, (box[3] - box[1]) * 0.05
    edges = (
        (0, box[0] - margin_x, 1),
        (0, box[2] + margin_x, -1),
        (1, box[1] - margin_y, 1),
        (1, box[3] + margin_y, -1),
    )
    for axis, limit, sign in edges:
        kept: list[_Point] = []
        for before, here in zip([points[-1], *points[:-1]], points, strict=True):
            is_before_in, is_in = (before[axis] - limit) * sign >= 0, (here[axis] - limit) * sign >= 0
            if is_before_in != is_in:
                part = (limit - before[axis]) / (here[axis] - before[axis])
                kept.append((before[0] + part * (here[0] - before[0]), before[1] + part * (here[1] - before[1])))
            if is_in:
                kept.append(here)
        points = kept
        if not points:
            return []
    return points
