"""Findings after a storm: what stands open depends on the events, not on the order in which they came."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import findings, followers, state
from ledger.database import Database
from ledger.findings_book import rows_where
from tests.ledger.orders import STORM, told_in_any_order
from tests.ledger.world import NOW, World, packed, seen, sgtin, sscc

STEPS = ("made", "ended", "sold", "returned", "seen", "packed", "unpacked", "emptied", "wrong")
# What happens (step, item 0 or 1, unit 0 or 1), once a minute.
STORIES = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=9
)  # fmt: skip
Told = list[tuple[str, int, int]]


class Bench:
    """One log for all examples: each tells its story about goods of its own."""

    def __init__(self, database: Database) -> None:
        self.world = World(database).start()
        self.count = 0

    def tell(self, story: Told, order: list[int]) -> set[tuple[str, int, tuple[int, ...]]]:
        """Log the story in an order; gives the open findings as code, item and places in the story."""
        self.count += 1
        events = [event(self.count, at, *one) for at, one in enumerate(story)]
        messages = [self.world.message("line-1", [one]) for one in events]
        for place in order:
            self.world.admit(messages[place])
        self.world.now += 60 * len(events)
        self.world.step()
        followers.run_all(self.world.database, state.views())
        findings.run_all(self.world.database, limit=1 + self.count % 7)
        by_id = {message.id: place for place, message in enumerate(messages)}
        with self.world.database.reading() as tx:
            rows = rows_where(tx, "state = 'open'", ())
            leaves = followers.read_messages(tx, [ev // 1024 for row in rows for ev in row.events])
        found = set()
        for row in rows:
            places = [by_id.get(leaves[ev // 1024].message_id) for ev in row.events]
            if None not in places:
                item = int(row.subject.rpartition("i")[2])
                found.add((row.code, item, tuple(sorted(place for place in places if place is not None))))
        return found


def event(run: int, at: int, step: str, item: int, unit: int) -> dict[str, Any]:
    name, box, when = f"r{run}i{item}", sscc(run * 10 + unit), NOW + 60 * at
    identity = {"eventID": f"urn:uuid:00000000-0000-4000-8000-{run:08d}{at:04d}"}
    if step == "packed":
        return packed(box, [sgtin(name)], at=when, **identity)
    if step in ("unpacked", "emptied"):
        return packed(box, [sgtin(name)] if step == "unpacked" else [], action="DELETE", at=when, **identity)
    more: dict[str, Any] = {
        "made": {"step": "commissioning", "action": "ADD"},
        "ended": {"step": "decommissioning", "action": "DELETE"},
        "sold": {"step": "retail_selling", "disposition": "retail_sold"},
        "returned": {"step": "receiving", "disposition": "returned"},
        "seen": {"step": "storing"},
        "wrong": {"step": "retail_selling"},
    }[step]
    return seen(name, at=when, **more, **identity)


def expected(story: Told) -> set[tuple[str, int, tuple[int, ...]]]:
    """The rules told naively: for each thing, look back over everything that happened before."""
    found: set[tuple[str, int, tuple[int, ...]]] = set()
    for item in (0, 1):
        mine = [(at, step, unit) for at, (step, one, unit) in enumerate(story) if one == item or step == "emptied"]
        told: set[tuple[str, int]] = set()
        for place, (at, step, unit) in enumerate(mine):
            if step == "emptied":
                continue
            past = [one for one in mine[:place] if one[1] != "emptied"]
            births = [one[0] for one in past if one[1] == "made"]
            ends = [one[0] for one in past if one[1] == "ended"]
            if step == "made" and births:
                found.add(("commissioned_twice", item, (births[0], at)))
            elif ends and step != "ended" and ("end", ends[0]) not in told:
                told.add(("end", ends[0]))
                found.add(("observed_after_decommissioning", item, (ends[0], at)))
            sale = last_sale(past)
            if sale is not None and step in ("sold", "wrong") and ("twice", sale) not in told:
                told.add(("twice", sale))
                found.add(("sold_twice", item, (sale, at)))
            if sale is not None and step in ("made", "seen", "packed", "unpacked") and ("after", sale) not in told:
                told.add(("after", sale))
                found.add(("observed_after_sale", item, (sale, at)))
            stay = inside(mine[:place])
            if step == "packed" and stay is not None and stay[1] != unit:
                found.add(("packed_while_packed", item, (stay[0], at)))
            if step == "unpacked" and (stay is None or stay[1] != unit):
                found.add(("unpacked_not_inside", item, (at,) if stay is None else (stay[0], at)))
    return found


def last_sale(past: list[tuple[int, str, int]]) -> int | None:
    sale = None
    for at, step, _ in past:
        if step == "returned":
            sale = None
        elif step in ("sold", "wrong") and sale is None:
            sale = at
    return sale


def inside(past: list[tuple[int, str, int]]) -> tuple[int, int] | None:
    stay: tuple[int, int] | None = None
    for at, step, unit in past:
        if step == "packed":
            stay = (at, unit)
        elif stay is not None and step in ("unpacked", "emptied") and unit == stay[1]:
            stay = None
    return stay


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    from ledger.database import open_database, upgrade

    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('storm') / 'log.db'}")
    upgrade(database)
    yield Bench(database)
    database.close()


@settings(STORM, max_examples=12)
@given(story=STORIES, seed=st.integers(0, 2**16))
def test_a_storm_ends_with_the_findings_of_the_clean_run_and_of_a_naive_reading(
    bench: Bench, story: Told, seed: int
) -> None:
    assert told_in_any_order(bench.tell, story, seed) == expected(story)
