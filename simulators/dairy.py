"""From the pasture to the pallet: raw milk, powder, tins of infant formula, laboratory, packing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

from core.errors import Rejected
from simulators import dairy_cast as cast
from simulators.keys import Key, sscc
from simulators.scribe import Ledger, Quantity, decimal
from simulators.signals import Route

HOUR = 3_600
DAY = 86_400
TINS_PER_BOX = 6
BOXES_PER_PALLET = 10
PALLETS_PER_LOT_MAX = 12
UNITS_MIN = 24
NET_KG = Decimal("0.9")
# Our own figures, of the right order for whole milk: solids left by the dryer, and powder in the recipe.
SOLIDS = Decimal("0.125")
FILLING_YIELD = Decimal("0.985")
RECIPE = {"powder": Decimal("0.55"), "lactose": Decimal("0.42"), "premix": Decimal("0.03")}
_STEP = Decimal("0.1")
_CRONOBACTER = "https://www.ncbi.nlm.nih.gov/taxonomy/28141"


@dataclass(frozen=True)
class Box:
    """A box of tins."""

    key: Key
    tins: tuple[Key, ...]


@dataclass(frozen=True)
class Pallet:
    """A pallet of boxes, all of one lot; ``ready_at`` is when it was packed."""

    key: Key
    boxes: tuple[Box, ...]
    lot: str
    ready_at: int

    @property
    def tins(self) -> tuple[Key, ...]:
        """All tins on it."""
        return tuple(tin for box in self.boxes for tin in box.tins)


@dataclass(frozen=True)
class Lot:
    """A lot of tins.

    Attributes:
        fate: what becomes of it: stored, sold, recalled or rejected.
        made_at, expires: unix seconds of filling and the expiry date.
    """

    name: str
    key: Key
    fate: str
    made_at: int
    expires: str
    tins: tuple[Key, ...]
    pallets: tuple[Pallet, ...]


@dataclass(frozen=True)
class LotSize:
    """How a lot is to be made: its fate and the tins of each box of each pallet."""

    fate: str
    pallets: tuple[tuple[int, ...], ...]

    @property
    def tins(self) -> int:
        """How many tins it has."""
        return sum(sum(boxes) for boxes in self.pallets)


def lot_sizes(units: int) -> tuple[LotSize, ...]:
    """Deal so many tins to lots: one rejected, one recalled, three tenths sold, the rest stored.

    Raises:
        Rejected: ``too_few_units`` below 24, which cannot show every stage.
    """
    if units < UNITS_MIN:
        raise Rejected(f"The story needs at least {UNITS_MIN} tins.", code="too_few_units", pointer="units")
    boxes = [TINS_PER_BOX] * (units // TINS_PER_BOX) + ([units % TINS_PER_BOX] if units % TINS_PER_BOX else [])
    count = max(4, len(boxes) // BOXES_PER_PALLET)
    pallets = [tuple(boxes[start::count]) for start in range(count)]
    rejected, recalled, sold = (max(1, min(PALLETS_PER_LOT_MAX, count * share // 10)) for share in (1, 2, 3))
    sold = max(sold, count * 3 // 10)
    wanted = [("recalled", recalled), ("rejected", rejected), ("sold", sold)]
    wanted.insert(0, ("stored", count - rejected - recalled - sold))
    sizes: list[LotSize] = []
    for fate, number in wanted:
        part, pallets = pallets[:number], pallets[number:]
        for start in range(0, number, PALLETS_PER_LOT_MAX):
            sizes.append(LotSize(fate, tuple(part[start : start + PALLETS_PER_LOT_MAX])))
    return tuple(sizes)


class Maker:
    """Plays farm, dairy and laboratory.

    Args:
        ledger: where the steps go.
        begin: unix seconds of the story's first event.
    """

    def __init__(self, ledger: Ledger, begin: int) -> None:
        self._ledger = ledger
        self._begin = begin
        self._drbg = ledger.drbg.child("maker")
        self._logistic = self._drbg.below(9_000) * 100_000

    def make(self, sizes: Sequence[LotSize]) -> tuple[Lot, ...]:
        """The whole way from milk to packed and released lots, about six days."""
        tins = sum(size.tins for size in sizes)
        mass = (tins * NET_KG / FILLING_YIELD).quantize(_STEP) + 1
        milk_kg = int(mass * RECIPE["powder"] / SOLIDS / 6) + 2
        milk = [lot for trip in range(3) for lot in self._collect(trip, milk_kg)]
        powders = [
            self._dry(1, milk[:4], milk_kg, self._begin + 44 * HOUR),
            self._dry(2, milk[4:], milk_kg, self._begin + 52 * HOUR),
        ]
        others = self._take_ingredients(mass)
        slot = min(8 * HOUR, 32 * HOUR // len(sizes))
        start = self._begin + 72 * HOUR
        return tuple(
            self._fill(number, size, powders, others, start + number * slot, slot) for number, size in enumerate(sizes)
        )

    def _collect(self, trip: int, kg: int) -> list[Key]:
        """One round of the tanker: milk of both farms reaches the dairy and is tested."""
        begin = self._begin + trip * 16 * HOUR
        stops = [self._ledger.cast.place(name).coordinates for name in ("north-farm", "south-farm", "factory")]
        first, second = Route((stops[0], stops[1]), 55), Route((stops[1], stops[2]), 55)
        loaded = begin + 3 * HOUR
        reloaded = loaded + first.duration_s + 30 * 60
        arrived = reloaded + second.duration_s
        north = self._milk("tank-north", "N", trip, kg, begin, loaded)
        south = self._milk("tank-south", "S", trip, kg, reloaded - 3 * HOUR, reloaded)
        tanker = self._ledger.scribe("tanker")
        for at, load, route in ((loaded, [north], first), (reloaded, [north, south], second)):
            cargo = [Quantity(lot, Decimal(kg), "KGM") for lot in load]
            point = f"geo:{route.stops[0][0]:.4f},{route.stops[0][1]:.4f}"
            tanker.write(at, tanker.object(at, "loading", "in_transit", quantities=cargo[-1:], point=point))
            for fix in route.fixes(at, every_s=45 * 60):
                look = tanker.reading([self._celsius(4.4 + self._drbg.noise(0.2))], end=fix.at)
                seen = tanker.object(
                    fix.at, "transporting", "in_transit", quantities=cargo, point=fix.uri, sensorElementList=look
                )
                tanker.write(fix.at, seen)
        for number, lot in enumerate((north, south)):
            self._receive_milk(lot, kg, arrived + number * 20 * 60)
        return [north, south]

    def _milk(self, device: str, letter: str, trip: int, kg: int, begin: int, ready: int) -> Key:
        tank = self._ledger.scribe(device)
        lot = cast.MILK.lot(f"{letter}{self._date(begin)}{trip + 1}")
        amount = [Quantity(lot, Decimal(kg), "KGM")]
        ilmd = {"cbvmda:lotNumber": lot.path.rsplit("/", 1)[1], "cbvmda:countryOfOrigin": "CN"}
        made = tank.object(
            begin, "creating_class_instance", "active", action="ADD", quantities=amount, ilmd=ilmd,
            location=self._ledger.cast.place("north-farm" if letter == "N" else "south-farm").key,
        )  # fmt: skip
        tank.write(begin, made)
        for at in range(begin + HOUR, ready, HOUR):
            look = tank.reading([self._celsius(3.8 + self._drbg.noise(0.2))], start=at - HOUR, end=at)
            tank.write(at, tank.object(at, "storing", "in_progress", quantities=amount, sensorElementList=look))
        hand_over = tank.transfer(cast.FARM.key, cast.CARRIER.key) | {
            "papers": {"bol": f"https://pastures.example/collection/{ilmd['cbvmda:lotNumber']}"}
        }
        tank.write(ready, tank.object(ready, "shipping", "in_transit", quantities=amount, **hand_over))
        return lot

    def _receive_milk(self, lot: Key, kg: int, at: int) -> None:
        intake = self._ledger.scribe("intake")
        amount = [Quantity(lot, Decimal(kg), "KGM")]
        site = self._ledger.cast.place("factory").key
        owners = intake.transfer(cast.FARM.key, cast.DAIRY.key, kind="owning_party")
        came = intake.object(at, "receiving", "in_progress", quantities=amount, location=site, **owners)
        tests = [
            self._celsius(4.6 + self._drbg.noise(0.2)),
            {"type": "MassConcentration", "value": decimal(33.5 + self._drbg.noise(0.6), 1), "uom": "GL",
             "component": "https://tracebond.example/voc/protein"},
            {"type": "MassConcentration", "value": decimal(39.0 + self._drbg.noise(0.8), 1), "uom": "GL",
             "component": "https://tracebond.example/voc/fat"},
        ]  # fmt: skip
        done = at + 15 * 60
        look = intake.reading(tests, end=done)
        passed = intake.object(
            done, "inspecting", "conformant", quantities=amount, location=site, sensorElementList=look
        )
        intake.write(done, came, passed)

    def _dry(self, number: int, milk: Sequence[Key], kg: int, at: int) -> tuple[Key, Decimal]:
        dryer = self._ledger.scribe("dryer")
        lot = cast.POWDER.lot(f"P{self._date(at)}{number}")
        amount = (kg * len(milk) * SOLIDS).quantize(_STEP, ROUND_DOWN)
        end = at + 5 * HOUR
        look = dryer.reading([self._celsius(182 + self._drbg.noise(1.5))], start=at, end=end)
        site = self._ledger.cast.place("factory").key
        made = dryer.transformation(
            end, "active", name=f"dryer-{lot.path.rsplit('/', 1)[1]}",
            inputs=[Quantity(each, Decimal(kg), "KGM") for each in milk],
            outputs=[Quantity(lot, amount, "KGM")], sensorElementList=look, location=site,
            ilmd={"cbvmda:lotNumber": lot.path.rsplit("/", 1)[1],
                  "cbvmda:itemExpirationDate": self._expiry(end, 365)},
        )  # fmt: skip
        dryer.write(end, made)
        return lot, amount

    def _take_ingredients(self, mass: Decimal) -> list[tuple[Key, str]]:
        """Bought ingredients: their lots enter the story when the dairy receives them."""
        intake = self._ledger.scribe("intake")
        at = self._begin + 40 * HOUR
        site = self._ledger.cast.place("factory").key
        taken: list[tuple[Key, str]] = []
        for number, (gtin, name) in enumerate(((cast.LACTOSE, "lactose"), (cast.PREMIX, "premix"))):
            lot = gtin.lot(f"{name[0].upper()}{self._date(at)}")
            amount = (mass * RECIPE[name] * Decimal("1.1")).quantize(_STEP) + 1
            came = intake.object(
                at + number * 600, "receiving", "in_progress", action="ADD",
                quantities=[Quantity(lot, amount, "KGM")], location=site,
                ilmd={"cbvmda:lotNumber": lot.path.rsplit("/", 1)[1]},
                papers={"po": f"https://dairy.example/po/{name}-{self._date(at)}"},
            )  # fmt: skip
            intake.write(at + number * 600, came)
            taken.append((lot, name))
        return taken

    def _fill(
        self,
        number: int,
        size: LotSize,
        powders: Sequence[tuple[Key, Decimal]],
        others: Sequence[tuple[Key, str]],
        at: int,
        slot: int,
    ) -> Lot:
        """One lot on the line: blending, filling, coding, weighing, sampling, packing."""
        name = f"F{self._date(at)}{chr(65 + number % 26)}{number // 26 or ''}"
        key = cast.FORMULA.lot(name)
        expires = self._expiry(at, 730)
        used = size.tins * NET_KG / FILLING_YIELD
        total = sum((amount for _, amount in powders), Decimal(0))
        inputs = [
            Quantity(lot, (used * RECIPE["powder"] * amount / total).quantize(_STEP, ROUND_DOWN), "KGM")
            for lot, amount in powders
        ]
        inputs += [Quantity(lot, (used * RECIPE[kind]).quantize(_STEP), "KGM") for lot, kind in others]
        filler = self._ledger.scribe("filler")
        ilmd = {"cbvmda:lotNumber": name, "cbvmda:itemExpirationDate": expires, "cbvmda:countryOfOrigin": "CN"}
        line = self._ledger.cast.place("line-1").key
        blended = filler.transformation(
            at, "active", name=f"line-1-{name}", inputs=inputs,
            outputs=[Quantity(key, Decimal(size.tins))], ilmd=ilmd, location=line,
        )  # fmt: skip
        filler.write(at, blended)
        tins: list[Key] = []
        pallets: list[Pallet] = []
        pace = 0.7 * slot / size.tins
        for boxes in size.pallets:
            packed: list[Box] = []
            for count in boxes:
                done = at + 60 + round(pace * (len(tins) + count))
                fresh = tuple(cast.FORMULA.item(self._drbg.serial()) for _ in range(count))
                self._code(fresh, ilmd, done, pace, is_light=size.fate == "rejected")
                tins += fresh
                if size.fate != "rejected":
                    packed.append(Box(self._sscc(0), fresh))
            if packed:
                pallets.append(self._pack(packed, name, at + 60 + round(pace * len(tins))))
        self._sample(key, at + slot - 600, fate=size.fate, tins=tins)
        return Lot(name, key, size.fate, at, expires, tuple(tins), tuple(pallets))

    def _code(self, tins: Sequence[Key], ilmd: dict[str, str], done: int, pace: float, *, is_light: bool) -> None:
        """Serial numbers for the tins of a box, then each one's weight."""
        coder, weigher = self._ledger.scribe("coder"), self._ledger.scribe("checkweigher")
        line = self._ledger.cast.place("line-1").key
        coded, weighed = [], []
        for place, tin in enumerate(tins):
            at = done - round(pace * (len(tins) - 1 - place))
            coded.append(
                coder.object(at, "commissioning", "active", action="ADD", items=[tin], ilmd=ilmd, location=line)
            )
            grams = (896 if is_light else 903) + self._drbg.noise(1.5)
            look = weigher.reading([{"type": "Mass", "value": decimal(grams, 1), "uom": "GRM"}], end=at + 20)
            weighed.append(weigher.object(at + 20, "inspecting", "in_progress", items=[tin], sensorElementList=look))
        coder.write(done, *coded)
        weigher.write(done + 20, *weighed)

    def _pack(self, boxes: Sequence[Box], lot: str, at: int) -> Pallet:
        packer, stacker = self._ledger.scribe("packer"), self._ledger.scribe("palletiser")
        line, factory = (self._ledger.cast.place(name).key for name in ("line-1", "factory"))
        closed = [
            packer.aggregation(
                at + 60 + number, "packing", "in_progress", action="ADD", parent=box.key, children=box.tins,
                location=line,
            )
            for number, box in enumerate(boxes)
        ]  # fmt: skip
        packer.write(at + 60 + len(boxes), *closed)
        pallet = Pallet(self._sscc(3), tuple(boxes), lot, at + 600)
        stacked = stacker.aggregation(
            at + 600, "packing", "in_progress", action="ADD", parent=pallet.key,
            children=[box.key for box in boxes], location=factory,
        )  # fmt: skip
        stacker.write(at + 600, stacked)
        return pallet

    def _sample(self, lot: Key, at: int, *, fate: str, tins: Sequence[Key]) -> None:
        """Samples go to the independent laboratory; its result releases or stops the lot."""
        quality, bench = self._ledger.scribe("quality"), self._ledger.scribe("bench")
        sample = [Quantity(lot, Decimal(2))]
        name = lot.path.rsplit("/", 1)[1]
        order = f"https://dairy.example/sample/{name}"
        factory = self._ledger.cast.place("factory").key
        quality.write(at, quality.object(at, "sampling", "in_progress", quantities=sample, papers={"testprd": order}))
        if fate == "rejected":
            held = quality.object(
                at + 300, "holding", "non_sellable_other", quantities=[Quantity(lot, Decimal(len(tins)))],
                location=factory,
            )  # fmt: skip
            quality.write(at + 300, held)
        came, done = at + 10 * HOUR, at + 26 * HOUR
        bench.write(came, bench.object(came, "receiving", "in_progress", quantities=sample, papers={"testprd": order}))
        is_bad = fate == "rejected"
        tests: list[dict[str, Any]] = [
            {"type": "MassConcentration", "value": decimal(13.4 + self._drbg.noise(0.2), 2), "uom": "GL",
             "component": "https://tracebond.example/voc/protein"},
            {"type": "MassConcentration", "value": decimal(35.8 + self._drbg.noise(0.3), 2), "uom": "GL",
             "component": "https://tracebond.example/voc/fat"},
            {"type": "Count", "value": Decimal(3 if is_bad else 0), "microorganism": _CRONOBACTER},
        ]  # fmt: skip
        if is_bad:
            tests[2]["exception"] = "ALARM_CONDITION"
        look = bench.reading(tests, start=came, end=done)
        more: dict[str, Any] = {} if is_bad else {"certificationInfo": [f"https://lab.example/certificate/{name}"]}
        found = bench.object(
            done, "inspecting", "non_conformant" if is_bad else "conformant", quantities=sample,
            sensorElementList=look, papers={"testres": f"https://lab.example/report/{name}"}, **more,
        )  # fmt: skip
        bench.write(done, found)
        if is_bad:
            self._destroy(tins, self._begin + 9 * DAY)

    def _destroy(self, tins: Sequence[Key], at: int) -> None:
        quality = self._ledger.scribe("quality")
        for start in range(0, len(tins), 30):
            group, moment = tins[start : start + 30], at + start * 20
            gone = quality.object(moment, "destroying", "destroyed", action="DELETE", items=group)
            quality.write(moment, gone)

    def _celsius(self, value: float) -> dict[str, Any]:
        return {"type": "Temperature", "value": decimal(value, 1), "uom": "CEL"}

    def _sscc(self, extension: int) -> Key:
        self._logistic += 1
        return sscc(cast.DAIRY.prefix, extension, self._logistic)

    @staticmethod
    def _date(at: int) -> str:
        return datetime.fromtimestamp(at, UTC).strftime("%y%m%d")

    @staticmethod
    def _expiry(at: int, days: int) -> str:
        return (datetime.fromtimestamp(at, UTC) + timedelta(days=days)).strftime("%Y-%m-%d")
