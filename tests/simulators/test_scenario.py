"""The infant formula story: complete, valid, repeatable."""

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from core.canonical import dump_json
from core.epcis.validate import event_problems
from core.errors import Rejected
from core.identifiers import canonical, class_of, parse
from core.message import event_items
from simulators.scenario import STORY_DAYS, Plan, infant_formula
from simulators.signals import distance_km

NOW = 1_795_555_555
DATA = Path(os.environ.get("CONFORMANCE_DATA", "../shared/data"))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return infant_formula(seed=7, now=NOW)


def events(plan: Plan) -> Iterator[dict[str, Any]]:
    for step in plan.steps:
        yield from step.events


def things(event: dict[str, Any]) -> set[str]:
    return {item.id for item in event_items(event)}


def test_six_hundred_tins_make_at_least_two_thousand_events_in_every_stage(plan: Plan) -> None:
    steps = {event["bizStep"] for event in events(plan)}

    assert plan.events >= 2_000
    assert {"commissioning", "inspecting", "packing", "storing", "shipping", "transporting", "receiving"} <= steps
    assert {"sensor_reporting", "picking", "unpacking", "retail_selling", "holding", "destroying"} <= steps
    assert {event["type"] for event in events(plan)} == {"ObjectEvent", "AggregationEvent", "TransformationEvent"}


@pytest.mark.parametrize("units", [24, 37, 61])
def test_a_small_story_still_shows_every_stage(plan: Plan, units: int) -> None:
    small = infant_formula(seed=3, now=NOW, units=units)

    assert {event["bizStep"] for event in events(small)} == {event["bizStep"] for event in events(plan)}
    assert {lot.fate for lot in small.lots} == {"stored", "sold", "recalled", "rejected"}
    assert sum(lot.tins for lot in small.lots) == units
    assert small.collateral


def test_fewer_than_24_tins_are_refused() -> None:
    with pytest.raises(Rejected) as refusal:
        infant_formula(seed=1, now=NOW, units=23)

    assert refusal.value.code == "too_few_units"


def test_one_seed_repeats_and_another_differs() -> None:
    first = infant_formula(seed="s", now=NOW, units=30)

    assert infant_formula(seed="s", now=NOW, units=30) == first
    assert infant_formula(seed="t", now=NOW, units=30).highlights != first.highlights


def test_the_story_begins_twenty_days_ago_and_ends_now(plan: Plan) -> None:
    assert plan.steps[0].at == NOW - STORY_DAYS * 86_400
    assert plan.steps[-1].at == NOW
    assert [step.at for step in plan.steps] == sorted(step.at for step in plan.steps)


def test_every_event_is_valid_by_the_normative_schema(plan: Plan) -> None:
    schema = DATA / "epcis/epcis-json-schema-2.0.1.json"
    if not schema.exists():
        pytest.skip("shared conformance data is absent (set CONFORMANCE_DATA)")
    validator = jsonschema_rs.validator_for(json.loads(schema.read_text()))

    for event in events(plan):
        validator.validate(json.loads(dump_json(event)))


def test_no_event_breaks_a_rule_that_a_message_alone_decides(plan: Plan) -> None:
    problems = [(event["bizStep"], problem) for event in events(plan) for problem in event_problems(event)]

    assert problems == []


def test_each_tin_is_commissioned_once_under_its_lot_with_an_unpredictable_serial(plan: Plan) -> None:
    made = [e for e in events(plan) if e["bizStep"] == "commissioning" and e["type"] == "ObjectEvent"]
    serials = [canonical(event["epcList"][0]).rsplit("/", 1)[1] for event in made]

    assert len(serials) == len(set(serials)) == 600
    assert {len(serial) for serial in serials} == {20}  # 20 characters of 5 bits: 100 bits
    assert {event["action"] for event in made} == {"ADD"}
    assert all({"cbvmda:lotNumber", "cbvmda:itemExpirationDate"} <= set(event["ilmd"]) for event in made)


def test_organisations_spell_one_pallet_in_more_than_one_way(plan: Plan) -> None:
    sold = plan.highlights["pallet"]
    spellings = {
        spelling
        for event in events(plan)
        for spelling in [*event.get("epcList", []), event.get("parentID", "")]
        if spelling and canonical(spelling) == sold
    }

    assert len(spellings) >= 2


def test_nothing_leaves_a_transformation_that_did_not_enter(plan: Plan) -> None:
    net_kg = Decimal("0.9")
    for event in events(plan):
        if event["type"] != "TransformationEvent":
            continue
        put_in = sum(each["quantity"] for each in event["inputQuantityList"])
        taken_out = sum(each["quantity"] * (1 if "uom" in each else net_kg) for each in event["outputQuantityList"])

        assert taken_out <= put_in


def test_no_lot_gives_more_than_it_received(plan: Plan) -> None:
    stock: dict[str, Decimal] = {}
    for event in events(plan):
        made = event.get("outputQuantityList", [])
        made = made + (event["quantityList"] if event.get("action") == "ADD" and "quantityList" in event else [])
        for each in made:
            stock[canonical(each["epcClass"])] = each["quantity"]
        for each in event.get("inputQuantityList", []):
            stock[canonical(each["epcClass"])] -= each["quantity"]

    assert all(left >= 0 for left in stock.values()), stock


def test_collateral_pallets_are_stored_and_never_leave(plan: Plan) -> None:
    assert len(plan.collateral) >= 3
    for pallet in plan.collateral:
        history = [event for event in events(plan) if pallet.sscc in things(event)]

        assert [e["bizStep"] for e in history if e["bizStep"] in ("storing", "picking", "shipping", "holding")] == [
            "shipping",
            "storing",
        ]
        assert history[-1]["bizStep"] == "sensor_reporting"
        assert {class_of(tin) for tin in pallet.tins} == {pallet.product}


def test_highlights_show_what_they_are_named_after(plan: Plan) -> None:
    def history(name: str) -> list[dict[str, Any]]:
        return [event for event in events(plan) if plan.highlights[name] in things(event)]

    def steps(name: str) -> list[str]:
        return [event["bizStep"] for event in history(name)]

    assert steps("sold_tin")[-1] == "retail_selling"
    assert steps("unsold_tin")[-1] == "stocking"
    assert history("returned_tin")[-2]["disposition"] == "returned"
    assert history("rejected_tin")[-1]["disposition"] == "destroyed"
    assert "retail_selling" in steps("recalled_tin")
    assert any(event["disposition"] == "recalled" for event in history("recalled_lot"))
    assert any(event["disposition"] == "non_conformant" for event in events(plan))
    warm = [e for e in events(plan) for s in e.get("sensorElementList", []) if "exception" in s["sensorReport"][0]]
    boxes = {e["parentID"] for e in history("excursion_tin") if e["type"] == "AggregationEvent"}
    pallets = {
        canonical(e["parentID"])
        for e in events(plan)
        if e["type"] == "AggregationEvent" and boxes & set(e["childEPCs"])
    }
    assert any(pallets & things(event) for event in warm)


def test_an_error_declaration_repeats_its_event_and_names_the_right_one(plan: Plan) -> None:
    declared = [event for event in events(plan) if "errorDeclaration" in event]
    ids = [event["eventID"] for event in events(plan)]

    assert len(declared) == 1
    assert ids.count(declared[0]["eventID"]) == 2
    assert set(declared[0]["errorDeclaration"]["correctiveEventIDs"]) <= set(ids)
    assert len(set(ids)) == len(ids) - 1


def test_no_truck_is_faster_than_a_truck(plan: Plan) -> None:
    last: dict[str, tuple[int, tuple[float, float]]] = {}
    for step in plan.steps:
        for event in step.events:
            point = event.get("readPoint", {}).get("id", "")
            if not point.startswith("geo:"):
                continue
            latitude, longitude = (float(part) for part in point[4:].split(","))
            here = (latitude, longitude)
            if step.device in last:
                before, there = last[step.device]
                assert distance_km(there, here) <= 90 * (step.at - before) / 3_600 + 1, (step.device, event)
            last[step.device] = (step.at, here)


def test_every_device_keeps_to_its_scope(plan: Plan) -> None:
    for step in plan.steps:
        scope = plan.cast.scope(step.device)
        for event in step.events:
            named = [parse(item) for item in things(event)]
            assert event["bizStep"] in scope["steps"], (step.device, event["bizStep"])
            for key in ("readPoint", "bizLocation"):
                if key in event and "places" in scope:
                    assert canonical(event[key]["id"]) in scope["places"]
            if "products" in scope:
                classes = {class_of(each.canonical) for each in named} - {None}
                assert classes <= set(scope["products"]), (step.device, classes)


def test_the_cast_is_made_up_and_its_numbers_are_valid(plan: Plan) -> None:
    for organisation in plan.cast.organisations:
        assert "(demo)" in organisation.name_en
        assert "演示" in organisation.name_zh
        assert organisation.gln.startswith("952")
        assert canonical(organisation.id) == organisation.id
    facts = list(plan.cast.master_facts())
    assert {fact for _, _, fact, _ in facts} == {"party", "place", "product", "ownership"}
    assert all(canonical(subject) == subject for _, subject, _, _ in facts)
    assert len({plan.cast.iss(device.name) for device in plan.cast.devices}) == len(plan.cast.devices) >= 20
