"""Lots are claimed by quantity: never beyond what their maker registered, in the database and on the chain."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from core.errors import TracebondError
from core.identifiers import lot_id
from finance import receipts
from finance.tables import goods
from tests.finance.world import CUSTODIAN, GTIN, MAKER, OWNER, PALLET, PLACE, TINS, FinanceWorld, actor

LOT = lot_id(GTIN, "L1")
FACTORY = actor(MAKER, "maker", "factory")


def with_lots(world: FinanceWorld) -> None:
    def lots(tx: object, units: Sequence[str]) -> dict[str, str]:
        return {unit: LOT for unit in units if unit in TINS}

    world.ctx = replace(world.ctx, lots=lots)


def refused(code: str, world: FinanceWorld, item: str) -> None:
    with pytest.raises(TracebondError) as caught:
        world.do(receipts.register_receipt, CUSTODIAN, item=item, owner=OWNER, place=PLACE)
    assert caught.value.code == code


def test_a_lot_is_claimed_with_the_number_of_its_units(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    with_lots(world)
    refused("lot_without_capacity", world, PALLET)
    world.do(receipts.set_lot_capacity, FACTORY, lot=f"urn:epc:class:lgtin:{_urn()}", quantity=6)
    refused("capacity_not_final", world, PALLET)
    world.settle()

    world.do(receipts.register_receipt, CUSTODIAN, item=PALLET, owner=OWNER, place=PLACE)
    world.settle()

    key = world.ctx.goods_key(LOT)
    assert world.ctx.registry.claimed(key) == world.ctx.registry.capacity(key) == 6_000_000
    assert next(row.claimed for row in world.query(goods) if bytes(row.goods_key) == key) == 6_000_000


def test_a_lot_is_never_claimed_beyond_what_was_made(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    with_lots(world)
    world.do(receipts.set_lot_capacity, FACTORY, lot=LOT, quantity=1)
    world.settle()
    world.do(receipts.register_receipt, CUSTODIAN, item=TINS[0], owner=OWNER, place=PLACE)

    refused("already_claimed", world, TINS[1])

    key = world.ctx.goods_key(LOT)
    assert next(row.claimed for row in world.query(goods) if bytes(row.goods_key) == key) == 1_000_000


def test_a_capacity_is_set_once_by_a_maker_for_a_lot(sqlite_world: FinanceWorld) -> None:
    world = sqlite_world
    world.do(receipts.set_lot_capacity, FACTORY, lot=LOT, quantity=6)

    for who, lot, code in (
        (FACTORY, LOT, "capacity_set"),
        (CUSTODIAN, LOT, "not_allowed"),
        (FACTORY, TINS[0], "not_a_lot"),
    ):
        with pytest.raises(TracebondError) as caught:
            world.do(receipts.set_lot_capacity, who, lot=lot, quantity=7)
        assert caught.value.code == code


def _urn() -> str:
    return f"{GTIN[1:8]}.{GTIN[0]}{GTIN[8:13]}.L1"
