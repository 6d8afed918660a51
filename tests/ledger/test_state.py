"""The state of things: places, containers, custody, sale, recall; late and void events."""

import random
from typing import Any

import pytest
import sqlalchemy as sa

from ledger import followers, state, tables
from ledger.database import Database
from tests.ledger.world import CARRIER, MAKER, NOW, PLANT, STORE, World, packed, seen, sgtin, sgtin_id, sscc, time_text

PLANT_ID = "https://id.gs1.org/414/9521000000018"
STORE_ID = "https://id.gs1.org/414/9521000000025"


def sscc_id(serial: int) -> str:
    from core.identifiers import canonical

    return canonical(sscc(serial))


def run(world: World) -> None:
    world.step()
    followers.run_all(world.database, state.views())


def about(database: Database, item_id: str) -> state.Standing:
    with database.reading() as tx:
        found = state.item_state(tx, item_id)
    assert found is not None
    return found


def test_a_new_unit_is_where_it_was_made_and_held_by_its_maker(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(1, step="commissioning", action="ADD", disposition="active"))
    run(world)

    unit = about(database, sgtin_id(1))

    assert (unit.place, unit.custodian, unit.owner) == (PLANT_ID, MAKER, MAKER)
    assert (unit.own.product, unit.own.disposition) == ("https://id.gs1.org/01/09521000123458", "active")
    assert (unit.is_sold, unit.is_recalled, unit.is_decommissioned) == (False, False, False)


def test_a_unit_moves_with_its_container_and_stays_where_it_was_unpacked(database: Database) -> None:
    world = World(database).start()
    case, pallet = sscc(1), sscc(2)
    moved = seen(at=NOW + 30, step="receiving", place=STORE) | {"epcList": [pallet]}
    world.send("line-1", seen(1, step="commissioning", action="ADD"))
    world.send("line-1", packed(case, [sgtin(1)], at=NOW + 10), packed(pallet, [case], at=NOW + 20))
    world.send("truck-1", moved)
    run(world)

    inside = about(database, sgtin_id(1))
    with database.reading() as tx:
        nested = state.contents(tx, sscc_id(2), is_recursive=True)
        flat = state.contents(tx, sscc_id(2))
    world.send("line-1", packed(pallet, [case], at=NOW + 40, action="DELETE"))
    run(world)
    outside = about(database, sgtin_id(1))

    assert (inside.place, inside.custodian) == (STORE_ID, CARRIER)
    assert inside.containers == (sscc_id(1), sscc_id(2))
    assert nested == [sscc_id(1), sgtin_id(1)]
    assert flat == [sscc_id(1)]
    assert outside.containers == (sscc_id(1),)


def test_taking_all_out_of_a_container_needs_no_list_of_children(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", packed(sscc(1), [sgtin(1), sgtin(2)], at=NOW))
    emptied = packed(sscc(1), [], at=NOW + 10, action="DELETE")
    del emptied["childEPCs"]
    world.send("line-1", emptied)
    run(world)

    with database.reading() as tx:
        assert state.contents(tx, sscc_id(1)) == []


def test_a_sale_a_return_and_a_decommissioning_are_seen(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(1, 2, 3, step="commissioning", action="ADD"))
    world.send("line-1", seen(1, 2, step="retail_selling", at=NOW + 1, disposition="retail_sold"))
    world.send("line-1", seen(2, step="receiving", at=NOW + 2, disposition="returned"))
    world.send("line-1", seen(3, step="decommissioning", at=NOW + 3, action="DELETE", disposition="inactive"))
    run(world)

    assert about(database, sgtin_id(1)).is_sold
    assert not about(database, sgtin_id(2)).is_sold
    assert about(database, sgtin_id(3)).is_decommissioned


def test_a_recalled_lot_recalls_its_units(database: Database) -> None:
    world = World(database).start()
    made = seen(1, step="commissioning", action="ADD", ilmd={"cbvmda:lotNumber": "L1"})
    made["@context"] = [{"cbvmda": "urn:epcglobal:cbv:mda:"}]
    lot = "https://id.gs1.org/01/09521000123458/10/L1"
    recall = {
        "type": "ObjectEvent",
        "action": "OBSERVE",
        "eventTime": time_text(NOW + 5),
        "eventTimeZoneOffset": "+00:00",
        "bizStep": "holding",
        "disposition": "recalled",
        "quantityList": [{"epcClass": "urn:epc:class:lgtin:9521000.012345.L1"}],
    }
    world.send("line-1", made)
    run(world)
    before = about(database, sgtin_id(1))
    world.send("line-1", recall)
    run(world)
    after = about(database, sgtin_id(1))

    assert before.own.lot == lot
    assert (before.is_recalled, after.is_recalled, after.own.is_recalled) == (False, True, False)
    with database.reading() as tx:
        assert [one.id for one in state.items_of_lot(tx, lot)] == [sgtin_id(1)]


def test_inspection_takes_no_custody_and_readings_are_kept(database: Database) -> None:
    from decimal import Decimal

    world = World(database).start()

    def reading(value: str, at: int) -> dict[str, Any]:
        report = {"type": "gs1:Temperature", "value": Decimal(value), "uom": "CEL"}
        return seen(1, step="inspecting", at=at, sensorElementList=[{"sensorReport": [report]}])

    world.send("line-1", seen(1, step="commissioning", action="ADD"))
    world.send("truck-1", reading("4.5", NOW + 1))
    world.send("truck-1", reading("7.25", NOW + 2))
    world.send("truck-1", reading("5.0", NOW + 3))
    run(world)

    unit = about(database, sgtin_id(1))
    assert unit.custodian == MAKER
    temperature = next(iter(unit.own.sensors.values()))
    assert (temperature["value"], temperature["min"], temperature["max"]) == ("5.0", "4.5", "7.25")


def test_an_error_declaration_takes_the_event_back(database: Database) -> None:
    world = World(database).start()
    sold = seen(1, step="retail_selling", at=NOW + 5, eventID="urn:uuid:7d5c1d0e-1111-4222-8333-444455556666")
    world.send("line-1", seen(1, step="commissioning", action="ADD"))
    world.send("line-1", sold)
    run(world)
    before = about(database, sgtin_id(1))
    declared = sold | {"errorDeclaration": {"declarationTime": time_text(NOW + 9), "reason": "did_not_occur"}}
    world.send("line-1", declared)
    run(world)

    assert before.is_sold
    assert not about(database, sgtin_id(1)).is_sold


def test_ownership_records_and_destinations_name_the_owner(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(1, 2, step="commissioning", action="ADD"))
    ends = [{"type": "owning_party", "destination": "urn:epc:id:pgln:9521000.00002"}]
    world.send("line-1", seen(2, step="shipping", at=NOW + 1, destinationList=ends))
    world.master(MAKER, sgtin_id(1), "ownership", {"owner": CARRIER})
    run(world)

    assert about(database, sgtin_id(1)).owner == CARRIER
    assert about(database, sgtin_id(2)).owner == CARRIER


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_arrival_gives_the_same_states(sqlite_database: Database, seed: int) -> None:
    rng = random.Random(seed)
    plan = [seen(*range(8), step="commissioning", action="ADD", at=NOW)]
    at = NOW
    for _ in range(25):
        at += rng.randint(1, 50)
        unit, case = rng.randrange(8), sscc(rng.randrange(3))
        plan.append(
            rng.choice(
                [
                    packed(case, [sgtin(unit)], at=at),
                    packed(case, [sgtin(unit)], at=at, action="DELETE"),
                    seen(unit, step="shipping", at=at, place=rng.choice([PLANT, STORE])),
                    seen(unit, step="retail_selling", at=at),
                    seen(unit, step="receiving", at=at, disposition="returned"),
                ]
            )
        )
    in_order, shuffled = World(sqlite_database).start(), None
    sent = [in_order.message("line-1", [event]) for event in plan]
    rng.shuffle(sent)
    for position in range(0, len(sent), 5):
        in_order.admit(*sent[position : position + 5])
        run(in_order)
    with sqlite_database.reading() as tx:
        rows = tx.execute(sa.select(tables.item_states).order_by(tables.item_states.c.id)).mappings().all()
        shuffled = {row["id"]: _plain(row) for row in rows}

    expected = _by_hand(plan)
    assert {name: row for name, row in shuffled.items() if name in expected} == expected


def _plain(row: Any) -> tuple[Any, ...]:
    return row["container"], bool(row["is_sold"]), row["last_ms"], row["events"]


def _by_hand(plan: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    from datetime import datetime

    held: dict[str, tuple[Any, ...]] = {}
    for event in plan:
        names = event.get("epcList") or event.get("childEPCs")
        for name in names:
            unit = sgtin_id(name.rpartition(".")[2])
            container, is_sold, _, count = held.get(unit, (None, False, 0, 0))
            if event["type"] == "AggregationEvent":
                from core.identifiers import canonical

                parent = canonical(event["parentID"])
                if event["action"] == "ADD":
                    container = parent
                elif container == parent:
                    container = None
            if event["bizStep"] == "retail_selling":
                is_sold = True
            if event.get("disposition") == "returned":
                is_sold = False
            ms = int(datetime.fromisoformat(event["eventTime"]).timestamp() * 1000)
            held[unit] = (container, is_sold, ms, count + 1)
    return held
