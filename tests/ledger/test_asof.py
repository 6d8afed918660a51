"""The state of a thing as of any time, and as it was known at any time."""

import random
from dataclasses import replace
from typing import Any

import pytest

from core.identifiers import canonical
from ledger import asof, followers, state
from ledger.asof import Book, Moment
from ledger.database import Database
from ledger.itemfacts import facts_of
from tests.ledger.world import CARRIER, MAKER, NOW, STORE, World, packed, seen, sgtin, sgtin_id, sscc

STORE_ID = "https://id.gs1.org/414/9521000000025"
PLANT_ID = "https://id.gs1.org/414/9521000000018"


def run(world: World) -> None:
    world.step()
    followers.run_all(world.database, state.views())


def about(database: Database, item_id: str, moment: Moment = asof.NOW) -> state.Standing:
    with database.reading() as tx:
        found = asof.standing(Book(tx, moment), item_id, tx)
    assert found is not None
    return found


def at(seconds: int) -> Moment:
    return Moment(at_ms=(NOW + seconds) * 1000)


def known(seconds: int) -> Moment:
    return Moment(known_ms=(NOW + seconds) * 1000)


def moved(unit: str, time: int, **more: Any) -> dict[str, Any]:
    return seen(at=NOW + time, step="receiving", place=STORE, **more) | {"epcList": [unit]}


def test_a_unit_is_told_as_it_stood_at_each_time(database: Database) -> None:
    world = World(database).start()
    world.now = NOW + 100
    world.send("line-1", seen(1, at=NOW + 10, step="commissioning", action="ADD", disposition="active"))
    world.send("line-1", packed(sscc(1), [sgtin(1)], at=NOW + 20))
    world.send("truck-1", moved(sscc(1), 30))
    world.send("line-1", packed(sscc(1), [sgtin(1)], at=NOW + 40, action="DELETE"))
    run(world)

    told = {second: about(database, sgtin_id(1), at(second)) for second in (10, 25, 35, 45)}

    with database.reading() as tx:
        assert asof.standing(Book(tx, at(9)), sgtin_id(1), tx) is None
    assert [told[s].containers for s in (10, 25, 35, 45)] == [(), (canonical(sscc(1)),), (canonical(sscc(1)),), ()]
    assert (told[25].place, told[25].custodian) == (PLANT_ID, MAKER)
    assert (told[35].place, told[35].custodian) == (STORE_ID, CARRIER)
    assert told[45].place == PLANT_ID


def test_a_late_event_changes_the_past_only_once_it_is_known(database: Database) -> None:
    world = World(database).start()
    world.now = NOW + 100
    world.send("line-1", seen(1, at=NOW + 10, step="commissioning", action="ADD"))
    world.step()
    world.now = NOW + 500
    world.send("truck-1", moved(sgtin(1), 20))
    run(world)

    before = about(database, sgtin_id(1), Moment(at_ms=(NOW + 30) * 1000, known_ms=(NOW + 200) * 1000))
    after = about(database, sgtin_id(1), at(30))
    with database.reading() as tx:
        left_out = Book(tx, known(200)).later(sgtin_id(1))

    assert (before.place, after.place) == (PLANT_ID, STORE_ID)
    assert (left_out.unknown, left_out.after, left_out.corrections) == (1, 0, 0)


def test_an_error_declaration_counts_from_when_it_was_known(database: Database) -> None:
    world = World(database).start()
    world.now = NOW + 100
    world.send("line-1", seen(1, at=NOW + 10, step="commissioning", action="ADD", eventID="urn:uuid:1"))
    wrong = moved(sgtin(1), 20, eventID="urn:uuid:2", disposition="recalled")
    world.send("truck-1", wrong)
    world.step()
    world.now = NOW + 500
    declared = {"declarationTime": "2025-10-09T08:55:00Z", "reason": "incorrect_data"}
    world.send("truck-1", wrong | {"errorDeclaration": declared})
    run(world)

    then, now = about(database, sgtin_id(1), known(200)), about(database, sgtin_id(1))
    early = about(database, sgtin_id(1), at(15))
    with database.reading() as tx:
        events = Book(tx).events(sgtin_id(1))

    assert (then.is_recalled, then.place) == (True, STORE_ID)
    assert (now.is_recalled, now.place) == (False, PLANT_ID)
    assert early.place == PLANT_ID
    assert [asof.is_declaration(event) for event in events] == [False, False, True]


def test_what_an_end_record_takes_back_was_evidence_before(database: Database) -> None:
    world = World(database).start()
    world.now = NOW + 100
    good = world.send("line-1", seen(1, at=NOW + 10, step="commissioning", action="ADD"))
    world.send("line-1", seen(1, at=NOW + 20, step="inspecting", disposition="recalled"))
    world.step()
    world.now = NOW + 500
    from core.canonical import b64u

    world.end("line-1", last=b64u(good.id), seq=0)
    run(world)

    assert about(database, sgtin_id(1), known(200)).is_recalled is True
    assert about(database, sgtin_id(1)).is_recalled is False


def test_an_owner_holds_from_the_stated_time_and_from_when_it_was_known(database: Database) -> None:
    world = World(database).start()
    world.now = NOW + 50
    world.send("line-1", seen(1, at=NOW + 10, step="commissioning", action="ADD"))
    world.now = NOW + 300
    world.master(MAKER, sgtin_id(1), "ownership", {"owner": CARRIER})
    run(world)

    owners = [about(database, sgtin_id(1), moment).owner for moment in (asof.NOW, at(100), known(100), at(301))]

    assert owners == [CARRIER, MAKER, MAKER, CARRIER]


def test_a_recall_of_the_lot_recalls_its_items_from_then(database: Database) -> None:
    world = World(database).start()
    world.now = NOW + 100
    lot = {"cbvmda:lotNumber": "L7"}
    world.send("line-1", seen(1, at=NOW + 10, step="commissioning", action="ADD", ilmd=lot))
    recall = seen(at=NOW + 60, step="holding", disposition="recalled")
    del recall["epcList"]
    recall["quantityList"] = [{"epcClass": "urn:epc:class:lgtin:9521000.012345.L7", "quantity": 1}]
    world.send("line-1", recall)
    run(world)

    assert about(database, sgtin_id(1), at(50)).is_recalled is False
    assert about(database, sgtin_id(1), at(60)).is_recalled is True
    with database.reading() as tx:
        assert [event.clear["bizStep"] for event in Book(tx).of_lot("https://id.gs1.org/01/09521000123458/10/L7")] == [
            "holding"
        ]


def test_a_unit_that_is_emptied_at_once_ends_every_stay(database: Database) -> None:
    world = World(database).start()
    world.now = NOW + 200
    world.send("line-1", seen(1, 2, at=NOW + 1, step="commissioning", action="ADD"))
    world.send("line-1", packed(sscc(1), [sgtin(1)], at=NOW + 10))
    emptied = packed(sscc(1), [], at=NOW + 30, action="DELETE")
    del emptied["childEPCs"]
    world.send("line-1", emptied)
    world.send("line-1", packed(sscc(1), [sgtin(2)], at=NOW + 40))
    world.send("truck-1", moved(sscc(1), 50))
    run(world)

    first, second = about(database, sgtin_id(1)), about(database, sgtin_id(2))
    with database.reading() as tx:
        book = Book(tx)
        steps = [one.event.clear["bizStep"] for one in asof.journey(book, sgtin_id(1))]
        inside = [asof.contents(Book(tx, at(s)), canonical(sscc(1)))[0] for s in (20, 35, 45)]

    assert (first.containers, first.place) == ((), PLANT_ID)
    assert (second.containers, second.place) == ((canonical(sscc(1)),), STORE_ID)
    assert steps == ["commissioning", "packing", "unpacking"]
    assert inside == [[sgtin_id(1)], [], [sgtin_id(2)]]


@pytest.mark.parametrize("seed", range(4))
def test_random_histories_match_a_replay_of_what_was_known(sqlite_database: Database, seed: int) -> None:
    chance = random.Random(seed)
    world = World(sqlite_database, seed=seed).start()
    world.now = NOW
    sent: list[tuple[int, dict[str, Any], str]] = []
    for number in range(40):
        world.now += chance.randrange(1, 20)
        time = world.now - chance.choice([0, 0, 0, 5, 60, 200])
        unit = chance.randrange(3)
        kind = chance.choice(["move", "pack", "unpack", "wrong", "look"])
        device = chance.choice(["line-1", "truck-1"])
        event = {
            "move": seen(unit, at=time, step="receiving", place=STORE, eventID=f"urn:uuid:{number}"),
            "look": seen(
                unit, at=time, disposition=chance.choice(["recalled", "active"]), eventID=f"urn:uuid:{number}"
            ),
            "pack": packed(sscc(chance.randrange(2)), [sgtin(unit)], at=time, eventID=f"urn:uuid:{number}"),
            "unpack": packed(sscc(chance.randrange(2)), [sgtin(unit)], at=time, action="DELETE"),
            "wrong": None,
        }[kind]
        if event is None:
            earlier = [(e, d) for _, e, d in sent if "eventID" in e and "errorDeclaration" not in e]
            if not earlier:
                continue
            wrong, device = chance.choice(earlier)
            event = wrong | {"errorDeclaration": {"declarationTime": "2025-10-09T08:55:00Z"}}
        world.send(device, event)
        sent.append((world.now, event, device))
    run(world)

    for _ in range(25):
        at_s, known_s = NOW + chance.randrange(-100, 500), NOW + chance.randrange(500)
        moment = Moment(at_ms=at_s * 1000, known_ms=known_s * 1000)
        for unit in range(3):
            with sqlite_database.reading() as tx:
                found = Book(tx, moment).state(sgtin_id(unit))
                everything = Book(tx).events(sgtin_id(unit))
            assert _plain(found) == _naive(everything, sgtin_id(unit), at_s, known_s), (seed, at_s, known_s, unit)


def _naive(events: list[Any], item_id: str, at_s: int, known_s: int) -> Any:
    """Replay: take what was received by then, drop what was declared wrong by then, sort by device time."""
    heard = [event for event in events if event.received_ms <= known_s * 1000]
    wrong = {(e.org, e.event.get("eventID")) for e in heard if "errorDeclaration" in e.clear}
    lived = [
        event
        for event in heard
        if "errorDeclaration" not in event.clear
        and (event.org, event.event.get("eventID", "")) not in wrong
        and event.device_ms <= at_s * 1000
    ]
    place, container, is_recalled = None, None, False
    for event in sorted(lived, key=lambda one: (one.device_ms, one.leaf, one.number)):
        fact = facts_of(event)[item_id]
        place = fact.place or place
        is_recalled = is_recalled or fact.disposition == "recalled"
        if event.clear["type"] == "AggregationEvent":
            parent = canonical(event.event["parentID"])
            if event.clear["action"] == "ADD":
                container = parent
            elif container == parent:
                container = None
    return (place, container, is_recalled, len(lived)) if lived else None


def _plain(found: Any) -> Any:
    return None if found is None else (found.place, found.container, found.is_recalled, found.events)


def test_now_is_what_the_follower_says(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    world.now = NOW + 100
    world.send("line-1", seen(1, 2, at=NOW + 1, step="commissioning", action="ADD", ilmd={"cbvmda:lotNumber": "L1"}))
    world.send("line-1", packed(sscc(1), [sgtin(1), sgtin(2)], at=NOW + 10), packed(sscc(2), [sscc(1)], at=NOW + 12))
    world.send("truck-1", moved(sscc(2), 30))
    run(world)

    for item in (sgtin_id(1), sgtin_id(2), canonical(sscc(1)), canonical(sscc(2))):
        with sqlite_database.reading() as tx:
            kept = state.item_state(tx, item)
        assert kept is not None
        assert about(sqlite_database, item) == replace(kept)
