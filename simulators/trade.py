"""From the factory dock to the till: trucks, bonded warehouse, shops, a recall and a return."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from simulators import dairy_cast as cast
from simulators.cast import CITIES
from simulators.dairy import DAY, HOUR, Lot, Pallet
from simulators.keys import Key
from simulators.scribe import Ledger, Quantity, decimal
from simulators.signals import Room, Route, daily, door_openings, spread

TRUCKS = ("truck-1", "truck-2", "truck-3")
LIMIT_CELSIUS = 25.0  # ours: the storage limit printed on the tin
SOLD_SHARE = 0.65
SOLD_BEFORE_RECALL_SHARE = 0.4
ITEMS_PER_EVENT_MAX = 60
READINGS_S = 3 * HOUR
_ROUTES = {
    "bonded": ("Harbin", "Changchun", "Shenyang", "Tangshan", "Tianjin"),
    "stores": ("Tianjin", "Jinan", "Xuzhou", "Nanjing", "Shanghai"),
    "market": ("Tianjin", "Beijing"),
}
_ACCEPTANCE = ("phone_flash", "qr_code", "card_flash")


@dataclass
class Stay:
    """A pallet in the warehouse: zone a or b, from ``put_at`` to ``left_at`` (unix seconds)."""

    pallet: Pallet
    zone: str
    put_at: int
    left_at: int


@dataclass(frozen=True)
class Delivery:
    """Pallets that one truck brings to one shop."""

    pallets: tuple[Pallet, ...]
    shop: str
    truck: str
    leaves_at: int
    is_warm: bool
    is_recalled: bool


@dataclass
class Outcome:
    """What became of the tins in the shops."""

    sold: list[Key] = field(default_factory=list)
    on_shelf: list[Key] = field(default_factory=list)
    recalled_sold: list[Key] = field(default_factory=list)
    warm: list[Key] = field(default_factory=list)
    returned: list[Key] = field(default_factory=list)


class Trade:
    """Plays carrier, warehouse and shops.

    Args:
        ledger: where the steps go.
        begin: unix seconds of the story's first event.
        now: unix seconds of its end.
    """

    def __init__(self, ledger: Ledger, begin: int, now: int) -> None:
        self._ledger = ledger
        self._begin = begin
        self._now = now
        self._drbg = ledger.drbg.child("trade")
        self._stays: list[Stay] = []
        self._outcome = Outcome()

    def play(self, lots: Sequence[Lot]) -> Outcome:
        """Everything from the first truck to the story's end."""
        pallets = [pallet for lot in lots for pallet in lot.pallets]
        self._bring(pallets, next(lot.pallets[0] for lot in lots if lot.fate == "sold"))
        for delivery in self._deliveries(lots):
            self._deliver(delivery)
        self._watch()
        self._count()
        self._recall(next(lot for lot in lots if lot.fate == "recalled"))
        return self._outcome

    def _bring(self, pallets: Sequence[Pallet], misjudged: Pallet) -> None:
        """Trucks from the factory to the bonded warehouse, starting after six days."""
        load = max(4, -(-len(pallets) // len(TRUCKS)))
        for number, start in enumerate(range(0, len(pallets), load)):
            cargo, truck = pallets[start : start + load], TRUCKS[number]
            leaves = self._begin + 6 * DAY + number * 3 * HOUR
            keys = [pallet.key for pallet in cargo]
            papers = {"desadv": f"https://dairy.example/desadv/{leaves // HOUR}", **self._po(leaves)}
            dock = self._ledger.scribe("factory-dock")
            hand_over = dock.transfer(cast.DAIRY.key, cast.WAREHOUSE.key)
            sent = dock.object(leaves, "shipping", "in_transit", items=keys, papers=papers, **hand_over)
            dock.write(leaves, sent)
            arrived = self._drive(truck, "bonded", leaves, keys, is_warm=False)
            self._store(cargo, arrived, papers)
            if misjudged in cargo:
                self._misjudge(misjudged, arrived + 25 * 60)

    def _drive(self, truck: str, to: str, leaves: int, keys: Sequence[Key], *, is_warm: bool) -> int:
        """Loading, positions with temperature each half hour, arrival; gives the time of arrival."""
        route = Route(tuple(CITIES[city] for city in _ROUTES[to]), 60)
        scribe = self._ledger.scribe(truck)
        start, end = (f"geo:{at[0]:.4f},{at[1]:.4f}" for at in (route.stops[0], route.stops[-1]))
        scribe.write(leaves, scribe.object(leaves, "loading", "in_transit", items=keys, point=start))
        leaves += 20 * 60
        # The fault of the story: the cooling stops for three hours in the middle of the way.
        broken = leaves + route.duration_s // 3
        for fix in route.fixes(leaves, every_s=30 * 60):
            outside = daily(fix.at, low=14, high=29)
            inside = 19.0 + 0.15 * (outside - 19.0) + self._drbg.noise(0.3)
            if is_warm and broken <= fix.at < broken + 3 * HOUR:
                inside = 31.5 - abs(fix.at - broken - 90 * 60) / 2_000 + self._drbg.noise(0.3)
            look = scribe.reading([self._celsius(inside)], start=fix.at - 30 * 60, end=fix.at)
            seen = scribe.object(
                fix.at, "transporting", "in_transit", items=keys, point=fix.uri, sensorElementList=look
            )
            scribe.write(fix.at, seen)
        arrived = leaves + route.duration_s
        scribe.write(arrived, scribe.object(arrived, "arriving", "in_transit", items=keys, point=end))
        return arrived + 10 * 60

    def _store(self, cargo: Sequence[Pallet], at: int, papers: dict[str, str]) -> None:
        dock, handheld = self._ledger.scribe("warehouse-dock"), self._ledger.scribe("handheld")
        site = self._ledger.cast.place("bonded").key
        keys = [pallet.key for pallet in cargo]
        hand_over = dock.transfer(cast.DAIRY.key, cast.WAREHOUSE.key)
        came = dock.object(at, "receiving", "in_progress", items=keys, location=site, papers=papers, **hand_over)
        dock.write(at, came)
        for number, pallet in enumerate(cargo):
            checked, put = at + (number + 1) * 300, at + HOUR + number * 300
            passed = dock.object(checked, "inspecting", "conformant", items=[pallet.key], location=site)
            dock.write(checked, passed)
            zone = "ab"[len(self._stays) % 2]
            spot = self._ledger.cast.place(f"zone-{zone}").key
            stored = handheld.object(put, "storing", "sellable_not_accessible", items=[pallet.key], location=spot)
            handheld.write(put, stored)
            self._stays.append(Stay(pallet, zone, put, self._now + 1))

    def _misjudge(self, pallet: Pallet, at: int) -> None:
        """A pallet is entered as damaged by mistake; the entry is declared wrong and corrected."""
        dock = self._ledger.scribe("warehouse-dock")
        site = self._ledger.cast.place("bonded").key
        wrong_id, right_id = self._drbg.uuid(), self._drbg.uuid()
        wrong = dock.object(at, "inspecting", "damaged", items=[pallet.key], location=site, event_id=wrong_id)
        dock.write(at, wrong)
        seen = at + 2 * HOUR
        right = dock.object(at, "inspecting", "conformant", items=[pallet.key], location=site, event_id=right_id)
        declared = wrong | {
            "errorDeclaration": {
                "declarationTime": dock.time(seen), "reason": "incorrect_data", "correctiveEventIDs": [right_id]
            }
        }  # fmt: skip
        dock.write(seen, declared, right)

    def _deliveries(self, lots: Sequence[Lot]) -> list[Delivery]:
        """Sold lots go out in up to three trucks, half of the recalled lot in one more."""
        sold = [pallet for lot in lots if lot.fate == "sold" for pallet in lot.pallets]
        bad = next(lot for lot in lots if lot.fate == "recalled").pallets
        size = -(-len(sold) // min(3, len(sold)))
        waves = [tuple(sold[start : start + size]) for start in range(0, len(sold), size)]
        planned = [
            Delivery(wave, ("stores", "market", "stores")[number], TRUCKS[number],
                     self._begin + 10 * DAY + number * 8 * HOUR, number == 0, False)
            for number, wave in enumerate(waves)
        ]  # fmt: skip
        half = bad[: -(-len(bad) // 2)]
        planned.append(Delivery(half, "market", "truck-2", self._begin + 12 * DAY, False, True))
        return planned

    def _deliver(self, delivery: Delivery) -> None:
        """Picking, shipping, the drive, unpacking, shelves and sales of one delivery."""
        leaves = delivery.leaves_at
        keys = [pallet.key for pallet in delivery.pallets]
        handheld, dock = self._ledger.scribe("handheld"), self._ledger.scribe("warehouse-dock")
        buyer = self._ledger.cast.organisation(delivery.shop)
        picked = leaves - 2 * HOUR
        handheld.write(picked, handheld.object(picked, "picking", "in_progress", items=keys))
        for stay in self._stays:
            if stay.pallet in delivery.pallets:
                stay.left_at = picked
        staged = leaves - HOUR
        dock.write(staged, dock.object(staged, "staging_outbound", "in_progress", items=keys))
        hand_over = dock.transfer(cast.WAREHOUSE.key, buyer.key)
        owners = dock.transfer(cast.DAIRY.key, buyer.key, kind="owning_party")
        for side in ("sourceList", "destinationList"):
            hand_over[side] += owners[side]
        papers = {"desadv": f"https://bonded.example/desadv/{leaves // HOUR}", **self._po(leaves)}
        sent = dock.object(leaves, "shipping", "in_transit", items=keys, papers=papers, **hand_over)
        dock.write(leaves, sent)
        arrived = self._drive(delivery.truck, delivery.shop, leaves, keys, is_warm=delivery.is_warm)
        shelved = self._unpack(delivery, arrived, papers)
        self._sell(delivery, shelved)

    def _unpack(self, delivery: Delivery, at: int, papers: dict[str, str]) -> int:
        """Receiving and unpacking down to the tins on the shelf; gives the time of the last tin."""
        scribe = self._ledger.scribe(f"{delivery.shop}-handheld")
        site = self._site(delivery.shop)
        owners = scribe.transfer(cast.DAIRY.key, self._ledger.cast.organisation(delivery.shop).key, kind="owning_party")
        keys = [pallet.key for pallet in delivery.pallets]
        came = scribe.object(at, "receiving", "in_progress", items=keys, location=site, papers=papers, **owners)
        scribe.write(at, came)
        moment = at + HOUR
        for pallet in delivery.pallets:
            opened = [
                scribe.aggregation(
                    moment, "unpacking", "in_progress", action="DELETE", parent=pallet.key,
                    children=[box.key for box in pallet.boxes], location=site,
                )
            ]  # fmt: skip
            shelved = []
            for number, box in enumerate(pallet.boxes, start=1):
                opened.append(
                    scribe.aggregation(
                        moment + number * 40, "unpacking", "in_progress", action="DELETE", parent=box.key,
                        children=box.tins, location=site,
                    )
                )  # fmt: skip
                shelved.append(
                    scribe.object(
                        moment + 600 + number * 40, "stocking", "sellable_accessible", items=box.tins, location=site
                    )
                )
            moment += 600 + (len(pallet.boxes) + 1) * 40
            scribe.write(moment - 600, *opened)
            scribe.write(moment, *shelved)
        return moment

    def _sell(self, delivery: Delivery, shelved_at: int) -> None:
        tins = self._drbg.shuffled([tin for pallet in delivery.pallets for tin in pallet.tins])
        share = SOLD_BEFORE_RECALL_SHARE if delivery.is_recalled else SOLD_SHARE
        end = self._begin + 18 * DAY if delivery.is_recalled else self._now - 60
        count = max(2, round(len(tins) * share))
        till = self._ledger.scribe(f"{delivery.shop}-pos")
        site = self._site(delivery.shop)
        first = shelved_at + 1_800
        moments = sorted(first + self._drbg.below(end - first) for _ in range(count))
        for number, (tin, at) in enumerate(zip(tins, moments, strict=False)):
            papers = {"inv": f"https://{delivery.shop}.example/sale/{self._drbg.take(8).hex()}"}
            sold = till.object(
                at, "retail_selling", "retail_sold", items=[tin], papers=papers, location=site,
                demo={"acceptance": _ACCEPTANCE[number % 3]},
            )  # fmt: skip
            till.write(at, sold)
        outcome, left = self._outcome, tins[count:]
        if delivery.is_recalled:
            outcome.recalled_sold += tins[:count]
            self._pull(delivery.shop, left)
            return
        if delivery.is_warm:
            outcome.warm += left or tins[-1:]
            self._take_back(delivery.shop, tins[0], moments[0])
        else:
            outcome.on_shelf += left
        outcome.sold += tins[1:count] if delivery.is_warm else tins[:count]

    def _take_back(self, shop: str, tin: Key, sold_at: int) -> None:
        """The first buyer of the warm delivery brings the tin back after two days."""
        scribe = self._ledger.scribe(f"{shop}-handheld")
        at = min(sold_at + 2 * DAY, self._now - 900)
        came = scribe.object(at, "receiving", "returned", items=[tin], location=self._site(shop))
        held = scribe.object(at + 300, "holding", "non_sellable_other", items=[tin], location=self._site(shop))
        scribe.write(at + 300, came, held)
        self._outcome.returned.append(tin)

    def _pull(self, shop: str, tins: Sequence[Key]) -> None:
        """The shop takes the recalled tins off the shelf."""
        scribe = self._ledger.scribe(f"{shop}-handheld")
        at = self._begin + 18 * DAY + 20 * HOUR
        for start in range(0, len(tins), ITEMS_PER_EVENT_MAX):
            group = tins[start : start + ITEMS_PER_EVENT_MAX]
            held = scribe.object(at, "holding", "recalled", items=group, location=self._site(shop))
            scribe.write(at, held)

    def _recall(self, lot: Lot) -> None:
        """The maker recalls the lot; the warehouse holds what it still has of it."""
        at = self._begin + 18 * DAY + 12 * HOUR
        quality, handheld = self._ledger.scribe("quality"), self._ledger.scribe("handheld")
        notice = {"notice": f"https://dairy.example/recall/{lot.name}"}
        whole = [Quantity(lot.key, Decimal(len(lot.tins)))]
        quality.write(at, quality.object(at, "holding", "recalled", quantities=whole, demo=notice))
        for stay in self._stays:
            if stay.pallet.lot == lot.name and stay.left_at > at:
                spot = self._ledger.cast.place(f"zone-{stay.zone}").key
                held = handheld.object(at + 2 * HOUR, "holding", "recalled", items=[stay.pallet.key], location=spot)
                handheld.write(at + 2 * HOUR, held)

    def _watch(self) -> None:
        """Both climate loggers: a summary each three hours, the last one at the story's end."""
        first = self._begin + 6 * DAY + 12 * HOUR
        for zone in "ab":
            doors = door_openings(self._drbg, start=first - DAY, end=self._now, per_day=6)
            room = Room(19.5, 0.12, 1.6, 1_200, doors)
            logger = self._ledger.scribe(f"logger-{zone}")
            for end in range(self._now, first, -READINGS_S):
                start = end - READINGS_S
                seen = [
                    room.temperature(at, outdoor=daily(at, low=14, high=29)) + self._drbg.noise(0.1)
                    for at in range(start, end, 900)
                ]
                low, high, mean = spread(seen)
                reports = [
                    {"type": "Temperature", "minValue": decimal(low, 1), "maxValue": decimal(high, 1),
                     "meanValue": decimal(mean, 1), "value": decimal(seen[-1], 1), "uom": "CEL"},
                    {"type": "RelativeHumidity", "value": decimal(52 + self._drbg.noise(3), 1), "uom": "P1"},
                ]  # fmt: skip
                keys = [s.pallet.key for s in self._stays if s.zone == zone and s.put_at <= start and end < s.left_at]
                look = logger.reading(reports, start=start, end=end)
                # The readings are about the pallets that stand there; without any, about the zone alone.
                logger.write(
                    end,
                    logger.object(
                        end, "sensor_reporting", "in_progress", items=keys, sensorElementList=look,
                        location=self._ledger.cast.place(f"zone-{zone}").key,
                    ),
                )  # fmt: skip

    def _count(self) -> None:
        """The daily count: each evening the hand scanner reads every pallet in place."""
        handheld = self._ledger.scribe("handheld")
        for day in range(7, 20):
            at = self._begin + day * DAY + 12 * HOUR
            for zone in "ab":
                keys = [s.pallet.key for s in self._stays if s.zone == zone and s.put_at <= at < s.left_at]
                if keys:
                    spot = self._ledger.cast.place(f"zone-{zone}").key
                    seen = handheld.object(at, "cycle_counting", "in_progress", items=keys, location=spot)
                    handheld.write(at, seen)

    def _site(self, shop: str) -> Key:
        return self._ledger.cast.place({"stores": "stores-shanghai", "market": "market-beijing"}[shop]).key

    @staticmethod
    def _po(at: int) -> dict[str, str]:
        return {"po": f"https://dairy.example/po/{at // HOUR}"}

    @staticmethod
    def _celsius(value: float) -> dict[str, Any]:
        report: dict[str, Any] = {"type": "Temperature", "value": decimal(value, 1), "uom": "CEL"}
        return report | ({"exception": "ALARM_CONDITION"} if value > LIMIT_CELSIUS else {})
