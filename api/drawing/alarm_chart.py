"""The picture of an alarm: readings as a line, the bounds of its rule, and the time of the excursion shaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from markupsafe import Markup

from api.drawing.axes import Axes
from api.drawing.svg import path_of, picture, tag
from api.language import show_date
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
    axes = plot.axes
    content = [
        *plot.shade(),
        *axes.grid(chart.unit),
        *axes.times(lambda at_ms: show_date(at_ms, lang)),
        *plot.limits(),
        *plot.line(),
    ]
    return picture(width, height, say("alarm.chart", lang), say("alarm.described", lang, **words), content, "chart")


class _Plot:
    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.chart = chart
        values = [float(value) for _, value in chart.points] + [float(bound) for bound in chart.bounds]
        spare = max(1.0, (max(values) - min(values)) * 0.08)
        start, end = chart.points[0][0], chart.points[-1][0]
        if start == end:
            start, end = start - 900, end + 900
        self.axes = Axes(48.0, width - 12.0, 14.0, height - 30.0, min(values) - spare, max(values) + spare, start, end)

    def shade(self) -> list[Markup]:
        begin, end = self.axes.x(self.chart.shaded[0]), self.axes.x(self.chart.shaded[1])
        return [
            tag("rect", x=begin, y=self.axes.top, width=max(end - begin, 2.0), height=self.axes.bottom - self.axes.top,
                class_="chart-shade"),
        ]  # fmt: skip

    def limits(self) -> list[Markup]:
        marks: list[Markup] = []
        for bound in self.chart.bounds:
            line = path_of([(self.axes.left, self.axes.y(bound)), (self.axes.right, self.axes.y(bound))])
            marks.append(tag("path", d=line, class_="chart-limit"))
            place = {"x": self.axes.right, "y": self.axes.y(bound) - 5}
            marks.append(tag("text", f"{bound} {self.chart.unit}", text_anchor="end", class_="chart-note", **place))
        return marks

    def line(self) -> list[Markup]:
        marks: list[Markup] = []
        run: list[tuple[int, Decimal]] = []
        for point in [*_thin(self.chart.points), None]:
            if point is not None and (not run or point[0] - run[-1][0] <= _GAP_S):
                run.append(point)
                continue
            if len(run) > 1:
                drawn = [(self.axes.x(at_s), self.axes.y(value)) for at_s, value in run]
                marks.append(tag("path", d=path_of(drawn), class_="chart-line"))
            elif run:
                marks.append(
                    tag("circle", cx=self.axes.x(run[0][0]), cy=self.axes.y(run[0][1]), r=2.5, class_="chart-dot")
                )
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
