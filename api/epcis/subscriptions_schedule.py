"""When a scheduled query runs: the standard's six fields, in UTC. Pure.

Source: GS1 EPCIS 2.0.1, section 8.2.5.3 (QuerySchedule), and the patterns of its OpenAPI description.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from core.errors import Rejected

# Field, lowest and highest value. Of the day of week 1 is Monday.
FIELDS: Final[Mapping[str, tuple[int, int]]] = {
    "second": (0, 59), "minute": (0, 59), "hour": (0, 23), "dayOfMonth": (1, 31), "month": (1, 12), "dayOfWeek": (1, 7),
}  # fmt: skip
_ELEMENT = re.compile(r"(?:(\*)|\[?(\d{1,2})(?:-(\d{1,2}))?\]?)(?:/(\d{1,2}))?\Z", re.ASCII)
_TEXT_MAX: Final = 200
_YEARS: Final = 8  # the 29th of February comes within eight years, also around a century


class BadSchedule(Rejected):
    """A schedule or trigger cannot be understood, or never comes."""

    code = "subscription_controls"


@dataclass(frozen=True)
class Schedule:
    """The times at which a query runs.

    Attributes:
        given: the fields as they were given.
    """

    given: Mapping[str, str]
    allowed: Mapping[str, frozenset[int]]

    def after(self, ms: int) -> int:
        """The first time behind ``ms`` that fits, unix ms.

        Raises:
            BadSchedule: there is none.
        """
        moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=0) + timedelta(seconds=1)
        last = moment.year + _YEARS
        while moment.year <= last:
            if moment.month not in self.allowed["month"]:
                moment = _next_month(moment)
            elif moment.day not in self.allowed["dayOfMonth"] or moment.isoweekday() not in self.allowed["dayOfWeek"]:
                moment = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0)
            elif moment.hour not in self.allowed["hour"]:
                moment = (moment + timedelta(hours=1)).replace(minute=0, second=0)
            elif moment.minute not in self.allowed["minute"]:
                moment = (moment + timedelta(minutes=1)).replace(second=0)
            elif moment.second not in self.allowed["second"]:
                moment += timedelta(seconds=1)
            else:
                return int(moment.timestamp()) * 1000
        raise BadSchedule("This schedule never comes.", pointer="schedule")


def read_schedule(value: Any) -> Schedule:
    """The schedule of a JSON object with the standard's fields; a field that is left out allows everything.

    A schedule that names a coarser field and leaves the finer ones out runs at their lowest value: ``hour`` 1 alone is
    one o'clock sharp, not 3,600 times.

    Raises:
        BadSchedule: a field is unknown or wrong, none is given, or the schedule never comes.
    """
    if not isinstance(value, Mapping) or not value or not set(value) <= set(FIELDS):
        raise BadSchedule(f"A schedule has some of {', '.join(FIELDS)}.", pointer="schedule")
    given = {name: str(text) for name, text in value.items() if isinstance(text, str | int) and text is not True}
    if len(given) != len(value):
        raise BadSchedule("The fields of a schedule are texts.", pointer="schedule")
    allowed: dict[str, frozenset[int]] = {}
    is_finest = False
    for name, (low, high) in FIELDS.items():
        if name in given:
            allowed[name] = _numbers(name, given[name], low, high)
            is_finest = True
        else:
            is_time = name in ("second", "minute", "hour")
            allowed[name] = frozenset(range(low, high + 1)) if is_finest or not is_time else frozenset({low})
    schedule = Schedule(given, allowed)
    schedule.after(0)
    return schedule


def _numbers(name: str, text: str, low: int, high: int) -> frozenset[int]:
    wrong = BadSchedule(f"{name} is a number from {low} to {high}, a range [a-b], or a list of these.", pointer=name)
    if len(text) > _TEXT_MAX:
        raise wrong
    found: set[int] = set()
    for element in text.replace(" ", "").split(","):
        match = _ELEMENT.match(element)
        if match is None or element.count("[") != element.count("]"):
            raise wrong
        first = low if match[1] else int(match[2])
        last = high if match[1] or (match[4] and not match[3]) else int(match[3] or match[2])
        step = int(match[4] or 1)
        if not low <= first <= last <= high or step == 0:
            raise wrong
        found |= set(range(first, last + 1, step))
    return frozenset(found)


def _next_month(moment: datetime) -> datetime:
    year, month = divmod(moment.year * 12 + moment.month, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)
