"""Expired goods inside a unit that is shipped: by own date, by the lot's, by shelf life, at any depth, in any order."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.identifiers import canonical
from ledger import findings, followers, state
from ledger.database import Database, open_database, upgrade
from ledger.findings_book import Row, rows_where
from tests.ledger.orders import STORM, told_in_any_order
from tests.ledger.world import MAKER, NOW, World, packed, seen, sgtin, sgtin_id, sscc, time_text

DAY = 86_400
LOT = "urn:epc:class:lgtin:9521000.012345.L1"
GTIN_ID = sgtin_id(1).partition("/21/")[0]
UNIT, PALLET = sscc(1), sscc(2)


def day(days: int) -> int:
    return NOW + days * DAY


def text(days: int) -> str:
    return time_text(day(days))[:10]


def made(serial: object = 1, at: int = NOW, **ilmd: str) -> dict[str, Any]:
    more = {"ilmd": {f"cbvmda:{name}": value for name, value in ilmd.items()}} if ilmd else {}
    return seen(serial, step="commissioning", action="ADD", disposition="active", at=at, **more)


def lot(at: int = NOW, **more: Any) -> dict[str, Any]:
    event = seen(at=at, step="commissioning", action="ADD", **more)
    del event["epcList"]
    return event | {"quantityList": [{"epcClass": LOT, "quantity": 100}]}


def dated_lot(days: int, at: int = NOW) -> dict[str, Any]:
    return lot(at, ilmd={"cbvmda:expirationDate": text(days)})


def shipped(unit: str, at: int, **more: Any) -> dict[str, Any]:
    return seen(step="shipping", at=at, **more) | {"epcList": [unit]}


def poured(unit: str, at: int, action: str = "ADD") -> dict[str, Any]:
    return packed(unit, [], action=action, at=at) | {"childQuantityList": [{"epcClass": LOT, "quantity": 5}]}


def inside(at: int = NOW + 60) -> dict[str, Any]:
    return packed(UNIT, [sgtin(1)], at=at)


def judge(world: World, limit: int = 500) -> None:
    world.now = max(world.now, day(40))
    world.step()
    followers.run_all(world.database, state.views())
    findings.run_all(world.database, limit=limit)


def told(database: Database, standing: str = "open") -> list[Row]:
    with database.reading() as tx:
        rows = rows_where(tx, "state = ? AND code = ?", (standing, "expired_shipped"))
    return sorted(rows, key=lambda row: (row.ev, row.subject))


FOUND: dict[str, tuple[list[dict[str, Any]], int]] = {
    "own date": ([made(itemExpirationDate=text(1)), inside(), shipped(UNIT, day(3))], 2),
    "date of the lot, told first": ([dated_lot(1), made(lotNumber="L1"), inside(), shipped(UNIT, day(3))], 2),
    "date of the lot, told last": ([made(lotNumber="L1"), inside(), shipped(UNIT, day(3)), dated_lot(1)], 2),
    "shelf life": ([made(), inside(), shipped(UNIT, day(30))], 9),
    "two units deep": (
        [made(itemExpirationDate=text(1)), inside(), packed(PALLET, [UNIT], at=day(1)), shipped(PALLET, day(3))], 2,
    ),
    "dated when the unit was on the pallet already": (
        [made(), inside(), packed(PALLET, [UNIT], at=day(1)), made(itemExpirationDate=text(1), at=NOW + 90),
         shipped(PALLET, day(3))], 2,
    ),
    "packing told after the shipping": ([made(itemExpirationDate=text(1)), shipped(UNIT, day(3)), inside()], 2),
}  # fmt: skip
FINE: dict[str, list[dict[str, Any]]] = {
    "on its last day": [made(itemExpirationDate=text(3)), inside(), shipped(UNIT, day(3))],
    "its own date goes before the lot's": [
        dated_lot(1), made(itemExpirationDate=text(9), lotNumber="L1"), inside(), shipped(UNIT, day(3)),
    ],
    "taken out before": [
        made(itemExpirationDate=text(1)), inside(), packed(UNIT, [sgtin(1)], action="DELETE", at=day(2)),
        shipped(UNIT, day(3)),
    ],
    "the unit was emptied before": [
        made(itemExpirationDate=text(1)), inside(), packed(UNIT, [], action="DELETE", at=day(2)), shipped(UNIT, day(3)),
    ],
    "destroyed inside": [
        made(itemExpirationDate=text(1)), inside(),
        seen(1, step="destroying", action="DELETE", disposition="destroyed", at=day(2)), shipped(UNIT, day(3)),
    ],
    "only stored": [made(itemExpirationDate=text(1)), inside(), seen(step="storing", at=day(3)) | {"epcList": [UNIT]}],
    "packed after it had been shipped": [made(itemExpirationDate=text(1)), shipped(UNIT, day(3)), inside(day(4))],
    "the case was taken off the pallet": [
        made(itemExpirationDate=text(1)), inside(), packed(PALLET, [UNIT], at=day(1)),
        packed(PALLET, [UNIT], action="DELETE", at=day(2)), shipped(PALLET, day(3)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("limit", [1, 500])
@pytest.mark.parametrize("name", FOUND)
def test_expired_goods_inside_a_shipped_unit_are_found(sqlite_database: Database, name: str, limit: int) -> None:
    events, days = FOUND[name]
    world = World(sqlite_database).start()
    world.master(MAKER, GTIN_ID, "product", {"name_en": "Milk", "shelf_life_days": 21})
    world.step()
    ids = [world.send("line-1", event).id for event in events]
    judge(world, limit)

    (row,) = told(sqlite_database)

    shipping = next(ids[place] for place, event in enumerate(events) if event["bizStep"].endswith("shipping"))
    with sqlite_database.reading() as tx:
        assert followers.read_messages(tx, [row.ev // 1024])[row.ev // 1024].message_id == shipping
    assert (row.subject, row.details) == (sgtin_id(1), {"days": days, "inside": canonical(UNIT)})


@pytest.mark.parametrize("name", FINE)
def test_goods_that_did_not_leave_expired_are_not_found(sqlite_database: Database, name: str) -> None:
    world = World(sqlite_database).start()
    for event in FINE[name]:
        world.send("line-1", event)
    judge(world)

    assert told(sqlite_database) == []


def test_what_no_longer_follows_is_taken_back_with_its_cause(database: Database) -> None:
    world = World(database).start()
    identity = {"eventID": "urn:uuid:1b4e28ba-2fa1-41d2-883f-0016d3cca427"}
    wrong = shipped(UNIT, day(3), **identity)
    world.send("line-1", made(itemExpirationDate=text(1)), inside(), wrong, shipped(UNIT, day(5)))
    judge(world)
    first = len(told(database))
    declaration = {"declarationTime": time_text(day(6)), "reason": "did_not_occur"}
    world.send("line-1", wrong | {"errorDeclaration": declaration})
    judge(world)
    second = len(told(database))
    world.send("line-1", packed(UNIT, [], action="DELETE", at=day(4)))
    judge(world)

    assert (first, second, told(database)) == (2, 1, [])
    assert [row.cause for row in told(database, "withdrawn")] == ["declared_in_error", "late_event"]


def test_a_lot_that_is_packed_by_quantity_is_found_at_the_unit(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    world.send("line-1", dated_lot(1), poured(UNIT, NOW + 60), packed(PALLET, [UNIT], at=NOW + 90))
    world.send("line-1", shipped(PALLET, day(3)), poured(UNIT, day(4), "DELETE"), shipped(PALLET, day(5)))
    judge(world)

    (row,) = told(sqlite_database)

    assert (row.subject, row.details["days"], row.details["lots"]) == (canonical(UNIT), 2, [canonical(LOT)])


# A story: what happens (step, item, unit, days), six hours apart. Units 0 and 1 are cases, 2 and 3 pallets.
STEPS = ("made", "made of the lot", "lot dated", "packed", "packed", "unpacked", "emptied", "stacked", "taken off",
         "poured", "shipped", "shipped", "item shipped", "ended")  # fmt: skip
STORIES = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 1), st.integers(0, 3), st.integers(0, 2)), min_size=3, max_size=14
)
Step = tuple[str, int, int, int]
Seen = set[tuple[str, int]]
SHELF = 2
PACE_S = 21_600


class Names:
    """The names of one run's goods."""

    def __init__(self, run: int) -> None:
        self.lot = f"R{run}"
        self.lot_class = f"urn:epc:class:lgtin:9521000.012345.R{run}"
        self.items = [f"r{run}x{item}" for item in (0, 1)]
        self.units = [sscc(run * 10 + unit) for unit in range(4)]
        self.of = {sgtin_id(name): f"item {number}" for number, name in enumerate(self.items)}
        self.of |= {canonical(unit): f"unit {number}" for number, unit in enumerate(self.units)}


def event(names: Names, place: int, story: Step) -> dict[str, Any]:
    step, number, unit, days = story
    at, item, case = NOW + place * PACE_S, names.items[number], names.units[unit]
    if step in ("made", "made of the lot"):
        return made(item, at, **({"itemExpirationDate": text(days)} if step == "made" and days else {}),
                    **({"lotNumber": names.lot} if step != "made" else {}))  # fmt: skip
    if step == "lot dated":
        body = dated_lot(days, at)
        return body | {"quantityList": [{"epcClass": names.lot_class, "quantity": 9}]}
    if step in ("packed", "unpacked"):
        return packed(case, [sgtin(item)], action="ADD" if step == "packed" else "DELETE", at=at)
    if step in ("stacked", "taken off"):
        pallet = names.units[2 + unit % 2]
        return packed(pallet, [names.units[number]], action="ADD" if step == "stacked" else "DELETE", at=at)
    if step == "emptied":
        return packed(case, [], action="DELETE", at=at)
    if step == "poured":
        return packed(case, [], at=at) | {"childQuantityList": [{"epcClass": names.lot_class, "quantity": 5}]}
    if step == "ended":
        return seen(item, step="destroying", action="DELETE", at=at)
    return shipped(case, at) if step == "shipped" else seen(item, step="shipping", at=at)


def expected(story: list[Step]) -> Seen:
    """The rule told naively: at each shipping, walk the story from its start and look at everything inside."""
    dates = [days for step, _, _, days in story if step == "lot dated"]
    found: Seen = set()
    for place, (step, number, unit, _) in enumerate(story):
        today = _day(place)
        before = story[:place]
        where, held = packing(before)
        if step == "item shipped" and is_late(before, number, dates, today):
            found.add((f"item {number}", place))
        if step != "shipped":
            continue
        gone = [thing for thing in where if f"unit {unit}" in chain(where, thing)]
        for item in (0, 1):
            alive = all(one[:2] != ("ended", item) for one in before)
            if f"item {item}" in gone and alive and is_late(before, item, dates, today):
                found.add((f"item {item}", place))
        for other in {f"unit {unit}", *gone} & held:
            if dates and today > min(dates) + _day(0):
                found.add((other, place))
    return found


def packing(before: list[Step]) -> tuple[dict[str, str], set[str]]:
    """What each thing is in after these steps, and which units hold some of the lot."""
    where: dict[str, str] = {}
    held: set[str] = set()
    for step, number, unit, _ in before:
        pallet = f"unit {2 + unit % 2}"
        if step == "packed":
            where[f"item {number}"] = f"unit {unit}"
        elif step == "stacked":
            where[f"unit {number}"] = pallet
        elif step == "unpacked" and where.get(f"item {number}") == f"unit {unit}":
            del where[f"item {number}"]
        elif step == "taken off" and where.get(f"unit {number}") == pallet:
            del where[f"unit {number}"]
        elif step == "emptied":
            where = {thing: outer for thing, outer in where.items() if outer != f"unit {unit}"}
            held.discard(f"unit {unit}")
        elif step == "poured":
            held.add(f"unit {unit}")
    return where, held


def chain(where: dict[str, str], thing: str) -> list[str]:
    found = []
    while thing in where:
        thing = where[thing]
        found.append(thing)
    return found


def is_late(before: list[Step], item: int, lot_dates: list[int], today: int) -> bool:
    births = [(at, step, days) for at, (step, one, _, days) in enumerate(before) if step[:4] == "made" and one == item]
    own = [days for _, step, days in births if step == "made" and days]
    if own:
        return today > min(own) + _day(0)
    if lot_dates and any(step != "made" for _, step, _ in births):
        return today > min(lot_dates) + _day(0)
    return bool(births) and today > _day(births[0][0]) + SHELF


def _day(place: int) -> int:
    return date.fromisoformat(time_text(NOW + place * PACE_S)[:10]).toordinal()


class Bench:
    """One log for all examples: each tells its story about goods of its own."""

    def __init__(self, database: Database) -> None:
        self.world = World(database).start()
        self.world.master(MAKER, GTIN_ID, "product", {"name_en": "Milk", "shelf_life_days": SHELF})
        self.world.step()
        self.count = 0

    def tell(self, story: list[Step], order: list[int]) -> Seen:
        """Log the story in an order; gives what stands open as thing and place in the story."""
        self.count += 1
        names = Names(self.count)
        messages = [self.world.message("line-1", [event(names, at, one)]) for at, one in enumerate(story)]
        for place in order:
            self.world.admit(messages[place])
        self.world.now += 60
        self.world.step()
        followers.run_all(self.world.database, state.views())
        findings.run_all(self.world.database, limit=1 + self.count % 7)
        places = {message.id: place for place, message in enumerate(messages)}
        rows = [row for row in told(self.world.database) if row.subject in names.of]
        with self.world.database.reading() as tx:
            read = followers.read_messages(tx, [row.ev // 1024 for row in rows])
        return {(names.of[row.subject], places[read[row.ev // 1024].message_id]) for row in rows}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('inside') / 'log.db'}")
    upgrade(database)
    yield Bench(database)
    database.close()


LATE = [("made", 0, 0, 1), *[("emptied", 0, 1, 0)] * 7]


@settings(STORM, max_examples=40)
@example(story=[*LATE, ("packed", 0, 0, 0), ("stacked", 0, 2, 0), ("shipped", 0, 2, 0)], seed=1)
@example(story=[("made of the lot", 1, 0, 0), *LATE, ("packed", 1, 1, 0), ("shipped", 0, 1, 0), ("lot dated", 0, 0, 1)],
         seed=3)  # fmt: skip
@given(story=STORIES, seed=st.integers(0, 2**16))
def test_whatever_order_tells_it_what_is_found_is_what_a_naive_reading_finds(
    bench: Bench, story: list[Step], seed: int
) -> None:
    assert told_in_any_order(bench.tell, story, seed) == expected(story)
