"""The frame of a chart over time: where a reading stands, lines of the grid, and the times below."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from markupsafe import Markup

from api.drawing.svg import path_of, tag
from api.language import show_clock

_STEPS = (1, 2, 5, 10, 20, 50, 100, 500, 1_000, 10_000)


@dataclass(frozen=True)
class Axes:
    """The frame in pixels, and what it spans: values from low to high, unix seconds from start to end."""

    left: float
    right: float
    top: float
    bottom: float
    low: float
    high: float
    start: int
    end: int

    def x(self, at_s: float) -> float:
        """Where a time stands; one outside the span stands at its edge."""
        at_s = min(max(at_s, self.start), self.end)
        return self.left + (at_s - self.start) / (self.end - self.start) * (self.right - self.left)

    def y(self, value: Decimal | float) -> float:
        """Where a value stands."""
        return self.bottom - (float(value) - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def grid(self, unit: str) -> list[Markup]:
        """At most seven lines across, each with its round value."""
        step = next((one for one in _STEPS if (self.high - self.low) / one <= 6), 100_000)
        first = int(self.low // step) * step
        marks: list[Markup] = []
        for value in range(first, int(self.high) + step, step):
            if self.low < value < self.high:
                y = self.y(value)
                marks.append(tag("path", d=path_of([(self.left, y), (self.right, y)]), class_="chart-grid"))
                words = f"{value} {unit}"
                marks.append(tag("text", words, x=self.left - 6, y=y + 4, text_anchor="end", class_="chart-label"))
        return marks

    def times(self, show_day: Callable[[int], str]) -> list[Markup]:
        """The base line with three or five times below it: the clock within two days, else the day (of ms)."""
        count = 3 if self.right < 500 else 5
        marks: list[Markup] = []
        is_short = self.end - self.start < 2 * 86_400
        for place in range(count):
            at_ms = (self.start + (self.end - self.start) * place // (count - 1)) * 1_000
            words = show_clock(at_ms) if is_short else show_day(at_ms)
            anchor = "start" if place == 0 else "end" if place == count - 1 else "middle"
            where = {"x": self.x(at_ms // 1_000), "y": self.bottom + 18}
            marks.append(tag("text", words, text_anchor=anchor, class_="chart-label", **where))
        base = path_of([(self.left, self.bottom), (self.right, self.bottom)])
        return [tag("path", d=base, class_="chart-axis"), *marks]
