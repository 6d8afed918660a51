"""What a history shows to a lender: when goods left, how long they were on their way, and fewer than the book says.

Bad news counts as soon as it is logged; what would take it back counts once it is proven.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from core.epcis.vocabulary import biz_step
from core.errors import TracebondError
from core.identifiers import canonical, class_of
from finance.proving import Place, Proof, Story
from ledger.followers import LoggedEvent

LEAVING: Final = frozenset({"shipping", "departing"})
ARRIVED: Final = frozenset({"arriving", "receiving", "accepting", "unloading", "storing", "stocking"})
COUNTING: Final = frozenset({"cycle_counting", "stock_taking"})


@dataclass(frozen=True)
class Count:
    """What the newest count of the goods found.

    Attributes:
        least: by the class where most is missing the units counted; None when nothing is missing.
        short: (leaf, event) of counts that found fewer units than the book holds.
    """

    least: Fraction | None = None
    short: list[str] = field(default_factory=list)


def late_arrivals(story: Story, proof: Proof, as_of_s: int, most_s: int) -> list[str]:
    """Departures of the goods that no arrival followed within ``most_s``, as ``leaf:event``."""
    left: tuple[int, str] | None = None
    late: list[str] = []
    for event in _events(story):
        step, at_s = biz_step(str(event.clear.get("bizStep", ""))), event.device_ms // 1_000
        if step in LEAVING:
            left = left or (at_s, _id(event))
        elif step in ARRIVED and left is not None and proof.is_good((event.leaf, event.number)):
            if at_s - left[0] > most_s:
                late.append(left[1])
            left = None
    if left is not None and as_of_s - left[0] > most_s:
        late.append(left[1])
    return late


def departures(story: Story) -> list[tuple[int, str]]:
    """(unix seconds, event) of each time the goods themselves left a place."""
    left = [e for e in _events(story) if biz_step(str(e.clear.get("bizStep", ""))) in LEAVING]
    return [(event.device_ms // 1_000, _id(event)) for event in left]


def count(story: Story, proof: Proof) -> Count:
    """Compare the newest count of the goods with what the book says is packed in them, class by class.

    A count is an observation of the goods, or of what they are in, whose ``quantityList`` tells units of a class.
    """
    book = Counter(name for thing in story.things if (name := class_of(thing)) is not None)
    newest: dict[str, tuple[Fraction, str]] = {}
    for event in _events(story):
        if biz_step(str(event.clear.get("bizStep", ""))) not in COUNTING:
            continue
        for name, quantity in _counted(event).items():
            if name not in book:
                continue
            # A count that finds all of them heals an earlier one only when it is proven.
            if quantity < book[name] or proof.is_good((event.leaf, event.number)):
                newest[name] = (quantity, _id(event))
    short = {name: found for name, found in newest.items() if found[0] < book[name]}
    if not short:
        return Count()
    return Count(min(quantity for quantity, _ in short.values()), sorted({ident for _, ident in short.values()}))


def _events(story: Story) -> list[LoggedEvent]:
    """The events at hand that nobody took back, by the device's time."""
    log = story.log
    found: list[LoggedEvent] = []
    for place in story.at_hand():
        event = log.event(place)
        if event is not None and place[0] not in log.suspects and "errorDeclaration" not in event.clear:
            found.append(event)
    return sorted(found, key=lambda event: (event.device_ms, event.leaf, event.number))


def _counted(event: LoggedEvent) -> Mapping[str, Fraction]:
    found: dict[str, Fraction] = {}
    rows: Any = event.event.get("quantityList")
    for row in rows if isinstance(rows, list) else []:
        try:
            name = canonical(str(row["epcClass"]))
            quantity = Fraction(str(row["quantity"]))
        except (TracebondError, KeyError, TypeError, ValueError, ZeroDivisionError):
            continue
        if row.get("uom") not in (None, "EA", "C62", "H87"):
            continue
        own = class_of(name) or name
        found[own] = found.get(own, Fraction(0)) + quantity
    return found


def _id(event: LoggedEvent) -> str:
    place: Place = (event.leaf, event.number)
    return f"{place[0]}:{place[1]}"
