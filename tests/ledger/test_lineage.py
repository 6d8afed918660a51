"""Where goods came from and what became of them, with balances worked by hand."""

from decimal import Decimal
from typing import Any

import pytest

from core.identifiers import canonical
from ledger import followers, lineage, state
from ledger.asof import Book, Moment
from ledger.database import Database
from ledger.massbalance import Amount, Balance, balances
from tests.ledger.world import CARRIER, MAKER, NOW, PLANT, STORE, World, packed, seen, sgtin, sgtin_id, sscc, time_text

MILK = ["urn:epc:class:lgtin:9521000.000001.M1", "urn:epc:class:lgtin:9521000.000001.M2"]
POWDER = "urn:epc:class:lgtin:9521000.000002.P1"
TINS = "urn:epc:class:lgtin:9521000.012345.T1"
PROCESS = "https://maker.example/process/7"


def amount(lot: str, quantity: str, uom: str = "KGM") -> dict[str, Any]:
    row: dict[str, Any] = {"epcClass": lot, "quantity": Decimal(quantity)}
    return row | ({"uom": uom} if uom else {})


def transformed(at: int, inputs: list[Any], outputs: list[Any], **more: Any) -> dict[str, Any]:
    event = {
        "type": "TransformationEvent", "eventTime": time_text(NOW + at), "eventTimeZoneOffset": "+00:00",
        "bizStep": "commissioning", "bizLocation": {"id": PLANT}, "inputQuantityList": inputs,
        "outputQuantityList": outputs, **more,
    }  # fmt: skip
    return {name: value for name, value in event.items() if value != []}


def created(at: int, lot: str, quantity: str) -> dict[str, Any]:
    event = seen(at=NOW + at, step="commissioning", action="ADD")
    del event["epcList"]
    return event | {"quantityList": [amount(lot, quantity)]}


def coded(at: int, *serials: int) -> dict[str, Any]:
    return seen(*serials, at=NOW + at, step="commissioning", action="ADD", ilmd={"cbvmda:lotNumber": "T1"})


def run(world: World) -> None:
    world.step()
    followers.run_all(world.database, state.views())


@pytest.fixture
def world(database: Database) -> World:
    """Two lots of milk, dried in one process told by two events, filled, packed, shipped to the store, one tin sold."""
    world = World(database).start()
    world.now = NOW + 1000
    world.send("line-1", created(1, MILK[0], "100"), created(2, MILK[1], "60.5"))
    world.send("line-1", transformed(10, [amount(MILK[0], "80")], [], transformationID=PROCESS))
    world.send(
        "line-1",
        transformed(11, [amount(MILK[1], "60.5")], [amount(POWDER, "17500", "GRM")], transformationID=PROCESS),
    )
    world.send("line-1", transformed(20, [amount(POWDER, "3.2")], [amount(TINS, "4", "")]))
    world.send("line-1", coded(21, 1, 2), coded(22, 3))
    world.send("line-1", packed(sscc(1), [sgtin(1), sgtin(2)], at=NOW + 30), packed(sscc(2), [sscc(1)], at=NOW + 31))
    world.send("truck-1", seen(at=NOW + 40, step="receiving", place=STORE) | {"epcList": [sscc(2)]})
    world.send("truck-1", packed(sscc(1), [sgtin(2)], at=NOW + 50, action="DELETE", bizLocation={"id": STORE}))
    world.send("truck-1", seen(2, at=NOW + 51, step="retail_selling", disposition="retail_sold", place=STORE))
    run(world)
    return world


def traced(world: World, start: str, direction: lineage.Direction, moment: Moment | None = None, **bounds: int) -> Any:
    with world.database.reading() as tx:
        return lineage.trace(tx, Book(tx, moment or Moment()), canonical(start), direction, **bounds)


def ids(found: Any) -> set[str]:
    return {thing.id for thing in found.things}


def test_back_from_a_serial_reaches_the_raw_lots(world: World) -> None:
    found = traced(world, sgtin(2), "back")

    assert ids(found) == {sgtin_id(2), *map(canonical, [TINS, POWDER, *MILK])}
    assert (found.truncated, found.unexplored) == ("", 0)
    assert [thing.depth for thing in found.things] == [0, 1, 2, 3, 3]


def test_forward_from_raw_milk_reaches_every_tin_and_its_units(world: World) -> None:
    found = traced(world, MILK[0], "forward")

    expected = {canonical(MILK[0]), canonical(POWDER), canonical(TINS), *map(sgtin_id, (1, 2, 3))}
    assert ids(found) == expected | {canonical(sscc(1)), canonical(sscc(2))}
    assert {thing.id for thing in found.things if thing.is_carrier} == {canonical(sscc(1)), canonical(sscc(2))}


def test_a_unit_on_the_way_does_not_drag_in_its_other_contents(world: World) -> None:
    world.send("line-1", seen(77, at=NOW + 60, step="commissioning", action="ADD"))
    world.send("line-1", packed(sscc(1), [sgtin(77)], at=NOW + 61))
    run(world)

    assert sgtin_id(77) not in ids(traced(world, MILK[0], "forward"))
    assert sgtin_id(77) in ids(traced(world, sscc(2), "forward"))
    assert sgtin_id(77) in ids(traced(world, sscc(2), "back"))


def test_the_balance_counts_both_events_of_one_process_in_one_unit(world: World) -> None:
    drying, filling = traced(world, sgtin(2), "back").transformations

    assert drying.id == PROCESS
    # 80 + 60.5 kg of milk gave 17,500 g of powder.
    assert drying.balance == (Balance("KGM", Decimal("140.5"), Decimal("17.5"), Decimal("123.0")),)
    assert drying.balance[0].loss_share == Decimal("0.8754")
    # Kilograms in, pieces out: nobody told what a tin holds, so no loss is claimed.
    assert {(row.uom, row.inputs, row.outputs, row.loss) for row in filling.balance} == {
        ("KGM", Decimal("3.2"), 0, None),
        ("EA", 0, Decimal(4), None),
    }


def test_net_content_of_master_data_weighs_the_pieces(world: World) -> None:
    world.master(MAKER, "https://id.gs1.org/01/09521000123458", "product", {
        "name_en": "Tin", "net_content": {"value": "750", "uom": "GRM"}})  # fmt: skip
    run(world)

    filling = traced(world, sgtin(2), "back").transformations[-1]

    # 4 tins of 750 g are 3 kg out of 3.2 kg.
    assert filling.balance == (Balance("KGM", Decimal("3.2"), Decimal(3), Decimal("0.2")),)


def test_made_and_used_amounts_of_a_lot_are_summed(world: World) -> None:
    things = {thing.id: thing for thing in traced(world, MILK[0], "forward").things}

    assert things[canonical(MILK[0])].made == Amount(canonical(MILK[0]), Decimal(100), "KGM")
    assert things[canonical(MILK[0])].used == Amount(canonical(MILK[0]), Decimal(80), "KGM")
    assert things[canonical(POWDER)].used == Amount(canonical(POWDER), Decimal("3.2"), "KGM")


def test_holders_are_told_for_a_recall(world: World) -> None:
    with world.database.reading() as tx:
        book = Book(tx)
        rows = lineage.holdings(tx, book, lineage.trace(tx, book, canonical(TINS), "forward"))

    told = {(row.org, row.place.rpartition("/")[2], row.state): row.items for row in rows}
    assert told == {
        (CARRIER, "9521000000025", "held"): (sgtin_id(1),),
        (CARRIER, "9521000000025", "sold"): (sgtin_id(2),),
        (MAKER, "9521000000018", "held"): (sgtin_id(3),),
    }


def test_a_declared_error_stays_visible_and_is_not_followed(world: World) -> None:
    wrong = transformed(20, [amount("urn:epc:class:lgtin:9521000.000003.X", "1")], [amount(TINS, "4", "")])
    wrong["eventID"] = "urn:uuid:9"
    world.now = NOW + 2000
    world.send("line-1", wrong)
    world.now = NOW + 3000
    world.send("line-1", wrong | {"errorDeclaration": {"declarationTime": time_text(NOW + 2500)}})
    run(world)

    now = traced(world, TINS, "back")
    then = traced(world, TINS, "back", Moment(known_ms=(NOW + 2000) * 1000))

    stray = canonical("urn:epc:class:lgtin:9521000.000003.X")
    assert stray not in ids(now)
    assert [link.is_withdrawn for link in now.links if link.source == stray] == [True]
    assert stray in ids(then)
    assert not any(link.is_withdrawn for link in then.links)


def test_as_of_an_earlier_time_later_steps_are_not_there(world: World) -> None:
    found = traced(world, MILK[0], "forward", Moment(at_ms=(NOW + 21) * 1000))

    assert ids(found) == {canonical(MILK[0]), canonical(POWDER), canonical(TINS), sgtin_id(1), sgtin_id(2)}


def test_bounds_are_told(world: World) -> None:
    by_depth = traced(world, MILK[0], "forward", depth_max=1)
    by_size = traced(world, MILK[0], "forward", things_max=5)

    assert (by_depth.truncated, by_depth.unexplored, len(by_depth.things)) == ("depth", 1, 2)
    assert (by_size.truncated, by_size.unexplored, len(by_size.things)) == ("size", 1, 5)


def test_association_is_followed_like_packing(world: World) -> None:
    sensor = "urn:epc:id:giai:9521000.S1"
    joined = packed(sscc(9), [sensor], at=NOW + 70) | {"type": "AssociationEvent"}
    world.send("line-1", joined)
    run(world)

    found = traced(world, sensor, "forward")

    assert [(link.kind, link.target) for link in found.links] == [("association", canonical(sscc(9)))]


@pytest.mark.unit
def test_units_that_do_not_compare_give_no_loss() -> None:
    found = balances([Amount("a", Decimal(1), "LTR")], [Amount("b", Decimal(1), "KGM")], {})

    assert [row.loss for row in found] == [None, None]
    assert balances([Amount("a", None)], [], {}) == ()
