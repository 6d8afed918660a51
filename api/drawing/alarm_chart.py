"""The picture of an alarm: readings as a line, the bounds of its rule, and the time of the excursion shaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from markupsafe import Markup

from api.drawing.svg import path_of, picture, tag
from api.language import show_clock, show_date
from api.words import say

POINTS_MAX = 600
_GAP_S = 6 * 3_600


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        points: (unix s, value) by device time. bounds: values that the rule allows at most and at least.
        shaded: begin and end of the excursion in unix s.
    """

    points: Sequence[tuple[int, Decimal]]
    bounds: Sequence[Decimal]
    shaded: tuple[int, int]
    unit: str = ""


def draw(chart: Chart, lang: str, *, width: int, height: int) -> Markup:
    """The picture at one size, empty where there is nothing to draw."""
    if not chart.points:
        return Markup("")
    values = [value for _, value in chart.points]
    words = {"count": len(values), "low": min(values), "high": max(values)}
    plot = _Plot(chart, width, height)
    content = [*plot.shade(), *plot.grid(), *plot.times(lang), *plot.limits(), *plot.line()]
    return picture(width, height, say("alarm.chart", lang), say("alarm.described", lang, **words), content, "chart")


class _Plot:
    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.chart = chart
        self.left, self.right, self.top, self.bottom = 48.0, width - 12.0, 14.0, height - 30.0
        values = [float(value) for _, value in chart.points] + [float(bound) for bound in chart.bounds]
        spare = max(1.0, (max(values) - min(values)) * 0.08)
        self.low, self.high = min(values) - spare, max(values) + spare
        self.start, self.end = chart.points[0][0], chart.points[-1][0]
        if self.start == self.end:
            self.start, self.end = self.start - 900, self.end + 900

    def x(self, at_s: float) -> float:
        at_s = min(max(at_s, self.start), self.end)
        return self.left + (at_s - self.start) / (self.end - self.start) * (self.right - self.left)

    def y(self, value: Decimal | float) -> float:
        return self.bottom - (float(value) - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def shade(self) -> list[Markup]:
        begin, end = self.x(self.chart.shaded[0]), self.x(self.chart.shaded[1])
        return [
            tag("rect", x=begin, y=self.top, width=max(end - begin, 2.0), height=self.bottom - self.top,
                class_="chart-shade"),
        ]  # fmt: skip

    def limits(self) -> list[Markup]:
        marks: list[Markup] = []
        for bound in self.chart.bounds:
            line = path_of([(self.left, self.y(bound)), (self.right, self.y(bound))])
            marks.append(tag("path", d=line, class_="chart-limit"))
            place = {"x": self.right, "y": self.y(bound) - 5}
            marks.append(tag("text", f"{bound} {self.chart.unit}", text_anchor="end", class_="chart-note", **place))
        return marks

    def grid(self) -> list[Markup]:
        steps = (1, 2, 5, 10, 20, 50, 100, 500, 1_000, 10_000)
        step = next((one for one in steps if (self.high - self.low) / one <= 6), 100_000)
        first = int(self.low // step) * step
        marks: list[Markup] = []
        for value in range(first, int(self.high) + step, step):
            if self.low < value < self.high:
                y = self.y(value)
                marks.append(tag("path", d=path_of([(self.left, y), (self.right, y)]), class_="chart-grid"))
                words = f"{value} {self.chart.unit}"
                marks.append(tag("text", words, x=self.left - 6, y=y + 4, text_anchor="end", class_="chart-label"))
        return marks

    def times(self, lang: str) -> list[Markup]:
        count = 3 if self.right < 500 else 5
        marks: list[Markup] = []
        is_short = self.end - self.start < 2 * 86_400
        for place in range(count):
            at_s = self.start + (self.end - self.start) * place // (count - 1)
            words = show_clock(at_s * 1_000) if is_short else show_date(at_s * 1_000, lang)
            anchor = "start" if place == 0 else "end" if place == count - 1 else "middle"
            where = {"x": self.x(at_s), "y": self.bottom + 18}
            marks.append(tag("text", words, text_anchor=anchor, class_="chart-label", **where))
        base = path_of([(self.left, self.bottom), (self.right, self.bottom)])
        return [tag("path", d=base, class_="chart-axis"), *marks]

    def line(self) -> list[Markup]:
        marks: list[Markup] = []
        run: list[tuple[int, Decimal]] = []
        for point in [*_thin(self.chart.points), None]:
            if point is not None and (not run or point[0] - run[-1][0] <= _GAP_S):
                run.append(point)
                continue
            if len(run) > 1:
                drawn = [(self.x(at_s), self.y(value)) for at_s, value in run]
                marks.append(tag("path", d=path_of(drawn), class_="chart-line"))
            elif run:
                marks.append(tag("circle", cx=self.x(run[0][0]), cy=self.y(run[0][1]), r=2.5, class_="chart-dot"))
            run = [] if point is None else [point]
        return marks


def _thin(points: Sequence[tuple[int, Decimal]]) -> list[tuple[int, Decimal]]:
    """At most some hundred points; of each group the extremes stay, so that no excursion vanishes."""
    size = -(-len(points) // (POINTS_MAX // 2))
    if size <= 1:
        return list(points)
    kept: list[tuple[int, Decimal]] = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        ends = {min(group, key=lambda one: one[1]), max(group, key=lambda one: one[1])}
        kept += sorted(ends)
    return kept
