"""The seeded story of infant formula: pure data, from raw milk twenty days ago to the till today."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulators.cast import Cast, Ownership
from simulators.dairy import DAY, Lot, Maker, lot_sizes
from simulators.dairy_cast import FORMULA, dairy_cast
from simulators.randomness import Drbg
from simulators.scribe import Ledger, Step
from simulators.trade import Outcome, Trade

__all__ = ["Collateral", "LotFacts", "Plan", "Step", "infant_formula"]

STORY_DAYS = 20
UNITS = 600


@dataclass(frozen=True)
class Collateral:
    """A pallet that stays in the warehouse and can secure a loan.

    Attributes:
        sscc: canonical id of the pallet.
        owner, warehouse: handles of the organisations that own and keep it.
        place: canonical id of the warehouse.
        lot: canonical id of the lot its tins belong to.
        tins: canonical ids of the tins on it.
    """

    sscc: str
    owner: str
    warehouse: str
    place: str
    product: str
    lot: str
    tins: tuple[str, ...]


@dataclass(frozen=True)
class LotFacts:
    """A lot of tins: canonical id, number of tins, expiry date, and fate (stored, sold, recalled, rejected)."""

    id: str
    product: str
    tins: int
    made_at: int
    expires: str
    fate: str


@dataclass(frozen=True)
class Plan:
    """A whole story.

    Attributes:
        cast: whom and what to register first.
        steps: what each device signs, by time.
        collateral: pallets that stay in the warehouse.
        lots: every lot of finished goods.
        highlights: things worth a look, by what they show; canonical ids.
    """

    cast: Cast
    steps: tuple[Step, ...]
    collateral: tuple[Collateral, ...]
    lots: tuple[LotFacts, ...]
    highlights: Mapping[str, str]

    @property
    def events(self) -> int:
        """How many events the steps hold."""
        return sum(len(step.events) for step in self.steps)


def infant_formula(*, seed: int | str, now: int, units: int = UNITS) -> Plan:
    """The story with so many tins; equal arguments give an equal plan.

    Args:
        seed: any number or text; serial numbers and readings follow from it.
        now: unix seconds at which the story ends; it begins twenty days before.
        units: tins of infant formula, at least 24.

    Raises:
        Rejected: ``too_few_units``.
    """
    sizes = lot_sizes(units)
    ledger = Ledger(dairy_cast(), Drbg.of(seed, "infant formula"))
    begin = now - STORY_DAYS * DAY
    lots = Maker(ledger, begin).make(sizes)
    outcome = Trade(ledger, begin, now).play(lots)
    collateral = _collateral(ledger.cast, lots)
    goods = [Ownership(pallet.key.id, "dairy") for lot in lots for pallet in lot.pallets if lot.fate == "stored"]
    return Plan(
        cast=dairy_cast(tuple(goods)),
        steps=ledger.ordered(),
        collateral=collateral,
        lots=tuple(_facts(lot) for lot in lots),
        highlights=_highlights(lots, outcome),
    )


def _collateral(cast: Cast, lots: Sequence[Lot]) -> tuple[Collateral, ...]:
    return tuple(
        Collateral(
            sscc=pallet.key.id,
            owner="dairy",
            warehouse="warehouse",
            place=cast.place("bonded").id,
            product=FORMULA.kind().id,
            lot=lot.key.id,
            tins=tuple(tin.id for tin in pallet.tins),
        )
        for lot in lots
        if lot.fate == "stored"
        for pallet in lot.pallets
    )


def _facts(lot: Lot) -> LotFacts:
    return LotFacts(lot.key.id, FORMULA.kind().id, len(lot.tins), lot.made_at, lot.expires, lot.fate)


def _highlights(lots: Sequence[Lot], outcome: Outcome) -> dict[str, str]:
    by_fate = {fate: next(lot for lot in lots if lot.fate == fate) for fate in ("stored", "recalled", "rejected")}
    stored = by_fate["stored"].pallets[0]
    return {
        "sold_tin": outcome.sold[-1].id,
        "unsold_tin": (outcome.on_shelf or outcome.warm)[0].id,
        "stored_tin": stored.tins[0].id,
        "recalled_tin": outcome.recalled_sold[0].id,
        "excursion_tin": outcome.warm[0].id,
        "returned_tin": outcome.returned[0].id,
        "rejected_tin": by_fate["rejected"].tins[0].id,
        "pallet": stored.key.id,
        "box": stored.boxes[0].key.id,
        "lot": by_fate["stored"].key.id,
        "recalled_lot": by_fate["recalled"].key.id,
    }
