"""The temperature picture: readings as a line, the allowed band, and what left it marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from markupsafe import Markup

from api.drawing.axes import Axes
from api.drawing.svg import path_of, picture, tag
from api.language import show_date, show_time
from api.words import say

POINTS_MAX: Final = 240
_GAP_S: Final = 6 * 3_600


@dataclass(frozen=True)
class Reading:
    """One temperature in degrees Celsius at a device time."""

    at_s: int
    low: Decimal
    mean: Decimal
    high: Decimal
    is_alarm: bool = False


@dataclass(frozen=True)
class Series:
    """The readings of an item in time order with the band that its product allows, if one is known."""

    readings: tuple[Reading, ...]
    band_low: Decimal | None = None
    band_high: Decimal | None = None

    def is_outside(self, reading: Reading) -> bool:
        """Whether any part of a reading lies outside the allowed band, or its device called it an alarm."""
        too_low = self.band_low is not None and reading.low < self.band_low
        return reading.is_alarm or too_low or (self.band_high is not None and reading.high > self.band_high)


@dataclass(frozen=True)
class Summary:
    """What the readings say in a few numbers."""

    low: Decimal
    high: Decimal
    outside_s: int
    outside_count: int
    count: int


def summarise(series: Series) -> Summary | None:
    """Extremes and time outside the band, each reading counting until the next (at most six hours)."""
    readings = series.readings
    if not readings:
        return None
    outside_s = outside_count = 0
    for position, reading in enumerate(readings):
        if series.is_outside(reading):
            outside_count += 1
            if position + 1 < len(readings):
                outside_s += min(readings[position + 1].at_s - reading.at_s, _GAP_S)
    return Summary(
        low=min(reading.low for reading in readings),
        high=max(reading.high for reading in readings),
        outside_s=outside_s,
        outside_count=outside_count,
        count=len(readings),
    )


def draw(series: Series, lang: str, *, width: int, height: int) -> Markup:
    """The picture at one size; pages carry a narrow and a wide one, so that its letters stay readable."""
    summary = summarise(series)
    if summary is None:
        return Markup("")
    plot = _Plot(series, summary, width, height)
    axes = plot.axes
    content = [
        *plot.band(lang),
        *axes.grid("°C"),
        *axes.times(lambda at_ms: _short_day(at_ms, lang)),
        *plot.lines(),
        *plot.marks(lang),
    ]
    title = say("temperature.title", lang)
    return picture(width, height, title, describe(series, lang), content, "chart")


def describe(series: Series, lang: str) -> str:
    """The picture in one sentence."""
    summary = summarise(series)
    if summary is None:
        return say("temperature.none", lang)
    key = "temperature.described_in" if summary.outside_count == 0 else "temperature.described_out"
    if series.band_high is None and series.band_low is None and summary.outside_count == 0:
        key = "temperature.described"
    return say(key, lang, low=summary.low, high=summary.high, count=summary.count, outside=summary.outside_count)


class _Plot:
    def __init__(self, series: Series, summary: Summary, width: int, height: int) -> None:
        self.series, self.summary = series, summary
        edges = [summary.low, summary.high, *(e for e in (series.band_low, series.band_high) if e is not None)]
        low, high = float(min(edges)) - 1.5, float(max(edges)) + 1.5
        start, end = series.readings[0].at_s, series.readings[-1].at_s
        if end == start:
            start, end = start - 1_800, end + 1_800
        self.axes = Axes(40.0, width - 12.0, 18.0, height - 30.0, low, high, start, end)

    def band(self, lang: str) -> list[Markup]:
        low, high = self.series.band_low, self.series.band_high
        if low is None and high is None:
            return []
        top = self.axes.y(high) if high is not None else self.axes.top
        bottom = self.axes.y(low) if low is not None else self.axes.bottom
        marks = [
            tag(
                "rect",
                x=self.axes.left,
                y=top,
                width=self.axes.right - self.axes.left,
                height=bottom - top,
                class_="chart-band",
            )
        ]
        for edge, rise in ((high, -5.0), (low, 13.0)):
            if edge is not None:
                line = path_of([(self.axes.left, self.axes.y(edge)), (self.axes.right, self.axes.y(edge))])
                words = say("temperature.limit", lang, value=edge)
                marks.append(tag("path", d=line, class_="chart-limit"))
                place = {"x": self.axes.right, "y": self.axes.y(edge) + rise}
                marks.append(tag("text", words, text_anchor="end", class_="chart-note", **place))
        return marks

    def lines(self) -> list[Markup]:
        marks: list[Markup] = []
        for run in _runs(thin(self.series.readings)):
            if any(reading.low != reading.high for reading in run):
                upper = [(self.axes.x(reading.at_s), self.axes.y(reading.high)) for reading in run]
                lower = [(self.axes.x(reading.at_s), self.axes.y(reading.low)) for reading in reversed(run)]
                marks.append(tag("path", d=path_of(upper + lower, is_closed=True), class_="chart-range"))
            if len(run) > 1:
                line = [(self.axes.x(reading.at_s), self.axes.y(reading.mean)) for reading in run]
                marks.append(tag("path", d=path_of(line), class_="chart-line"))
            else:
                marks.append(
                    tag("circle", cx=self.axes.x(run[0].at_s), cy=self.axes.y(run[0].mean), r=2.5, class_="chart-dot")
                )
        return marks

    def marks(self, lang: str) -> list[Markup]:
        outside = [reading for reading in self.series.readings if self.series.is_outside(reading)]
        marks = [
            tag(
                "circle",
                cx=self.axes.x(reading.at_s),
                cy=self.axes.y(_worst(self.series, reading)),
                r=3.5,
                class_="chart-out",
            )
            for reading in outside[:60]
        ]
        if outside:
            peak = max(outside, key=lambda reading: _distance(self.series, reading))
            value = _worst(self.series, peak)
            x = self.axes.x(peak.at_s)
            words = f"{value} °C"
            if self.axes.right > 500:
                words += f" · {show_time(peak.at_s * 1_000, lang).rsplit(' ', 1)[0]}"
            anchor = "end" if x > (self.axes.left + self.axes.right) / 2 else "start"
            place = {"x": x + (-8 if anchor == "end" else 8), "y": self.axes.y(value) + 4}
            marks.append(tag("text", words, text_anchor=anchor, class_="chart-alert", **place))
        return marks


def thin(readings: Sequence[Reading]) -> list[Reading]:
    """At most a few hundred readings, the extremes of each group kept: a short excursion never vanishes."""
    size = -(-len(readings) // POINTS_MAX)
    if size <= 1:
        return list(readings)
    groups = [readings[start : start + size] for start in range(0, len(readings), size)]
    return [
        Reading(
            at_s=group[len(group) // 2].at_s,
            low=min(reading.low for reading in group),
            mean=sum((reading.mean for reading in group), Decimal(0)) / len(group),
            high=max(reading.high for reading in group),
            is_alarm=any(reading.is_alarm for reading in group),
        )
        for group in groups
    ]


def _runs(readings: Sequence[Reading]) -> list[list[Reading]]:
    """The readings cut where the silence was so long that a line would claim what nobody measured."""
    runs: list[list[Reading]] = []
    for reading in readings:
        if runs and reading.at_s - runs[-1][-1].at_s <= max(_GAP_S, 86_400):
            runs[-1].append(reading)
        else:
            runs.append([reading])
    return runs


def _worst(series: Series, reading: Reading) -> Decimal:
    is_low = series.band_low is not None and reading.low < series.band_low
    return reading.low if is_low else reading.high


def _distance(series: Series, reading: Reading) -> Decimal:
    above = reading.high - series.band_high if series.band_high is not None else Decimal(0)
    below = series.band_low - reading.low if series.band_low is not None else Decimal(0)
    return max(above, below, reading.high if reading.is_alarm and series.band_high is None else Decimal(0))


def _short_day(at_ms: int, lang: str) -> str:
    text = show_date(at_ms, lang)
    return text.split("年")[1] if lang == "zh" else " ".join(text.split(" ")[:2])
