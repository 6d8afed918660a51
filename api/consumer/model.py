"""What the consumer page shows, as frozen values, and the verdict: pure, so that every case is a test."""

from dataclasses import dataclass, field
from enum import StrEnum

from api.consumer.cache import Rests
from api.drawing.route_map import Stop
from api.drawing.temperature import Series


class Verdict(StrEnum):
    """The one sentence at the top of the page; the value is its catalogue key."""

    RECALLED = "recalled"
    NOT_SOLD = "not_sold"
    SOLD_FIRST_LOOK = "sold_first_look"
    SOLD_BEFORE = "sold_before"
    OUT_OF_USE = "out_of_use"
    UNIT = "unit"
    CLASS = "class"
    DESCRIBED = "described"
    UNKNOWN = "unknown"
    UNKNOWN_SERIAL = "unknown_serial"


TONE = {
    Verdict.RECALLED: "bad",
    Verdict.NOT_SOLD: "calm",
    Verdict.SOLD_FIRST_LOOK: "good",
    Verdict.SOLD_BEFORE: "warn",
    Verdict.OUT_OF_USE: "warn",
    Verdict.UNIT: "calm",
    Verdict.CLASS: "calm",
    Verdict.DESCRIBED: "calm",
    Verdict.UNKNOWN: "warn",
    Verdict.UNKNOWN_SERIAL: "warn",
}


@dataclass(frozen=True)
class Looks:
    """Earlier looks at a code since a moment; the present visitor's own are not counted."""

    count: int = 0
    first_ms: int | None = None


@dataclass(frozen=True)
class Sale:
    """When and through whom an item was sold, as recorded by the shop's device."""

    at_ms: int
    channel: str


@dataclass(frozen=True)
class Step:
    """One record of the journey.

    Attributes:
        signed_by: device, partner or gateway.
        via: "" for the item itself, ``inside`` with ``container``, or ``lot``.
        count: how many records of the same kind this row stands for, until ``until_ms``.
    """

    number: int
    at_ms: int
    offset: str
    what: str
    disposition: str
    who: str
    where: str
    signed_by: str
    device: str
    leaf: int | None = None
    via: str = ""
    container: str = ""
    low: str = ""
    high: str = ""
    is_outside: bool = False
    is_withdrawn: bool = False
    is_suspect: bool = False
    is_pending: bool = False
    late_s: int = 0
    count: int = 1
    until_ms: int = 0


@dataclass(frozen=True)
class Correction:
    """A later declaration that an earlier record was wrong."""

    at_ms: int
    offset: str
    who: str
    what: str
    reason: str


@dataclass(frozen=True)
class Hidden:
    """A field that was recorded but is not shown to this reader, and how often."""

    name: str
    count: int


@dataclass(frozen=True)
class Gap:
    """Messages of a device that have not arrived."""

    device: str
    count: int


@dataclass(frozen=True)
class Lifecycle:
    """The facts that decide the verdict.

    Attributes:
        is_known: events name it.
        is_described: no event does, but a master record tells what this very code names.
    """

    kind: str
    is_known: bool
    is_product_known: bool = False
    is_described: bool = False
    is_recalled: bool = False
    is_out_of_use: bool = False
    sale: Sale | None = None
    looks: Looks = Looks()


@dataclass(frozen=True)
class ItemView:
    """Everything on the page of an item."""

    id: str
    path: str
    kind: str
    lifecycle: Lifecycle
    name: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    steps: tuple[Step, ...] = ()
    organisations: int = 0
    stops: tuple[Stop, ...] = ()
    route: tuple[int, ...] = ()
    series: Series = field(default_factory=lambda: Series(()))
    corrections: tuple[Correction, ...] = ()
    hidden: tuple[Hidden, ...] = ()
    gaps: tuple[Gap, ...] = ()
    findings: tuple[str, ...] = ()
    contents: int = 0
    out_of_use: str = ""
    is_anchored: bool = False
    rests: Rests = field(default_factory=lambda: Rests(()))

    @property
    def verdict(self) -> Verdict:
        """The verdict for this item."""
        return verdict_of(self.lifecycle)

    @property
    def last(self) -> Step | None:
        """The latest record that was not withdrawn."""
        return next((step for step in self.steps if not step.is_withdrawn), None)


def verdict_of(life: Lifecycle) -> Verdict:
    """The verdict by the state of the item; a recall comes before everything else."""
    if life.is_recalled:
        return Verdict.RECALLED
    if life.is_described:
        return Verdict.DESCRIBED
    if not life.is_known:
        is_serial = life.kind in ("sgtin", "sitip") and life.is_product_known
        return Verdict.UNKNOWN_SERIAL if is_serial else Verdict.UNKNOWN
    if life.kind == "sscc":
        return Verdict.UNIT
    if life.kind in ("gtin", "lgtin", "litip", "itip"):
        return Verdict.CLASS
    if life.sale is not None:
        return Verdict.SOLD_FIRST_LOOK if life.looks.count == 0 else Verdict.SOLD_BEFORE
    if life.is_out_of_use:
        return Verdict.OUT_OF_USE
    return Verdict.NOT_SOLD
