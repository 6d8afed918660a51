"""What an event names, in which role, and the events inside a document."""

from typing import Any

import pytest

from core.epcis.items import ItemRef, document_events, item_refs
from core.errors import Rejected

GTIN = "https://id.gs1.org/01/04012345123456"
FIRST, SECOND = f"{GTIN}/21/1", f"{GTIN}/21/2"
PALLET = "https://id.gs1.org/00/340123451111111111"
PLACE = "https://id.gs1.org/414/4012345000054"
MILK = "https://id.gs1.org/01/04012345222227/10/M7"


def test_each_field_gives_its_role() -> None:
    event = {
        "parentID": "urn:epc:id:sscc:4012345.3111111111",
        "inputEPCList": ["urn:epc:id:sgtin:4012345.012345.1"],
        "inputQuantityList": [{"epcClass": "urn:epc:class:lgtin:4012345.022222.M7"}],
        "transformationID": "urn:epc:id:gdti:4012345.55555.98",
        "epcList": ["https://shop.example.com/01/4012345123456/21/2?x=1"],
        "childEPCs": [PALLET],
        "outputEPCList": [SECOND],
        "quantityList": [{"epcClass": MILK, "quantity": 2}],
        "childQuantityList": [{"epcClass": "urn:epc:idpat:sgtin:4012345.012345.*"}],
        "outputQuantityList": [{"epcClass": GTIN}],
        "readPoint": {"id": PLACE},
    }

    assert set(item_refs(event)) == {
        ItemRef(1, PALLET),
        ItemRef(2, FIRST),
        ItemRef(3, MILK),
        ItemRef(5, "https://id.gs1.org/253/401234555555498"),
        ItemRef(6, SECOND),
        ItemRef(7, PALLET),
        ItemRef(8, SECOND),
        ItemRef(9, MILK),
        ItemRef(10, GTIN),
        ItemRef(11, GTIN),
    }


def test_one_thing_in_two_spellings_is_named_once() -> None:
    event = {"epcList": ["urn:epc:id:sgtin:4012345.012345.1", FIRST]}

    assert item_refs(event) == (ItemRef(6, FIRST),)


def test_places_count_only_when_nothing_else_is_named() -> None:
    places = {"readPoint": {"id": "urn:epc:id:sgln:4012345.00005.0"}, "bizLocation": {"id": PLACE}}

    assert item_refs(places) == (ItemRef(12, PLACE),)
    assert item_refs({**places, "epcList": [FIRST]}) == (ItemRef(6, FIRST),)


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("cbvmda:lotNumber", None),
        ("urn:epcglobal:cbv:mda:lotNumber", None),
        ("m:lotNumber", ["https://ref.gs1.org/standards/epcis/epcis-context.jsonld", {"m": "urn:epcglobal:cbv:mda:"}]),
    ],
)
def test_lot_in_ilmd_names_the_lot_of_each_gtin(name: str, context: object) -> None:
    event: dict[str, Any] = {"epcList": [FIRST, SECOND, PALLET], "ilmd": {name: "L/1"}}
    if context is not None:
        event["@context"] = context

    assert set(item_refs(event)) == {
        ItemRef(6, FIRST),
        ItemRef(6, SECOND),
        ItemRef(6, PALLET),
        ItemRef(4, f"{GTIN}/10/L%2F1"),
    }


@pytest.mark.parametrize("ilmd", [{"ex:lotNumber": "L1"}, {"cbvmda:lotNumber": "a lot with spaces"}, {}, "L1"])
def test_other_ilmd_names_no_lot(ilmd: object) -> None:
    assert item_refs({"epcList": [FIRST], "ilmd": ilmd}) == (ItemRef(6, FIRST),)


@pytest.mark.parametrize(
    ("event", "code", "pointer"),
    [
        ({"epcList": [FIRST, f"{GTIN[:-1]}7/21/1"]}, "bad_check_digit", "/epcList/1"),
        (
            {"quantityList": [{"epcClass": "urn:epc:class:lgtin:4012345.0.M7"}]},
            "bad_identifier",
            "/quantityList/0/epcClass",
        ),
        ({"parentID": 7}, "wrong_type", "/parentID"),
        ({"epcList": FIRST}, "wrong_type", "/epcList"),
        ({"quantityList": [{}]}, "missing_member", "/quantityList/0/epcClass"),
        ({"readPoint": {"id": "https://id.gs1.org/414/4012345000055"}}, "bad_check_digit", "/readPoint/id"),
    ],
)
def test_unreadable_identifier_is_refused_at_its_place(event: dict[str, Any], code: str, pointer: str) -> None:
    with pytest.raises(Rejected) as refusal:
        item_refs(event)

    assert (refusal.value.code, refusal.value.pointer) == (code, pointer)


def test_events_of_a_document_carry_its_context_and_then_their_own() -> None:
    outer, inner = (
        ["https://ref.gs1.org/standards/epcis/epcis-context.jsonld", {"a": "https://a/"}],
        {"b": "https://b/"},
    )
    events = [{"type": "ObjectEvent"}, {"type": "ObjectEvent", "@context": [inner, {"a": "https://a/"}]}]
    document = {"type": "EPCISDocument", "@context": outer, "epcisBody": {"eventList": events}}

    first, second = document_events(document)

    assert first["@context"] == outer
    assert second["@context"] == [*outer, inner]
    assert "@context" not in events[0]


def test_events_come_out_of_query_documents_single_events_and_lists() -> None:
    event = {"type": "ObjectEvent", "epcList": [FIRST]}
    query = {"type": "EPCISQueryDocument", "epcisBody": {"queryResults": {"resultsBody": {"eventList": [event]}}}}

    assert document_events(query) == [event]
    assert document_events(event) == [event]
    assert document_events([event, query]) == [event, event]


@pytest.mark.parametrize(
    "document", [7, {}, {"type": "EPCISDocument"}, {"type": "EPCISDocument", "epcisBody": {"eventList": {}}}]
)
def test_what_holds_no_events_is_refused(document: object) -> None:
    with pytest.raises(Rejected) as refusal:
        document_events(document)

    assert refusal.value.code == "not_epcis"
