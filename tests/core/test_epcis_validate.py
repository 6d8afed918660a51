"""EPCIS documents: everything the normative schema refuses is refused, and the rules it does not have."""

import copy
import os
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from core.canonical import parse_json
from core.epcis.report import check, render
from core.epcis.units import fits
from core.epcis.validate import document_events, document_problems, event_problems, event_warnings

DATA = Path(os.environ.get("CONFORMANCE_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "epcis"
VALID = sorted((DATA / "valid").glob("*.json")) + sorted((DATA / "hash-vectors").glob("*.jsonld"))
needs_data = pytest.mark.skipif(not VALID, reason=f"no EPCIS documents at {DATA}")
LIST = "/epcisBody/eventList"
# Where each refused document is wrong; read off the documents by hand.
FAULTS = {
    "Combination_of_events_with_missing_mandatory_fields": [
        f"{LIST}/0/action",
        f"{LIST}/1/eventTimeZoneOffset",
        f"{LIST}/1/action",
    ],
    "Combination_of_non_standard_bizStep_and_disposition": [f"{LIST}/0/bizStep", f"{LIST}/1/disposition"],
    "ObjectEvent_with_ilmd_field_without_namespace": [f"{LIST}/0/ilmd/materialType"],
    "ObjectEvent_with_invalid_certificationInfo": [f"{LIST}/0/certificationInfo/0", f"{LIST}/0/certificationInfo/1"],
    "ObjectEvent_with_non_standard_bizStep": [f"{LIST}/0/bizStep"],
    "ObjectEvent_with_non_standard_disposition": [f"{LIST}/0/disposition"],
    "ObjectEvent_with_unknown_field_in_quantityList": [f"{LIST}/0/quantityList/0/weight"],
    "ObjectEvent_without_identifier_list": [f"{LIST}/0/epcList"],
}
# Rules of our own, which the schema does not have. A mutation may break these where the schema is content.
STRICTER = {
    "bad_check_digit", "bad_identifier", "compressed_link", "not_positive", "nothing_named", "missing_parent",
    "wrong_unit", "undeclared_namespace", "bad_time", "duplicate_value",
}  # fmt: skip
CLASS = "https://id.gs1.org/01/09521141012345"
ITEM = "https://id.gs1.org/01/09521141012345/21/2017"
EVENT: dict[str, Any] = {
    "@context": ["https://ref.gs1.org/standards/epcis/epcis-context.jsonld", {"ex": "https://example.com/"}],
    "type": "ObjectEvent",
    "eventTime": "2026-07-22T06:45:00+02:00",
    "eventTimeZoneOffset": "+02:00",
    "action": "ADD",
    "epcList": [ITEM],
}


def _load(path: Path) -> Any:
    return parse_json(path.read_bytes(), bytes_max=1_000_000)


@needs_data
@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_right_document_has_no_problem(path: Path) -> None:
    document = _load(path)

    assert document_problems(document) == []
    assert [problem for event in document_events(document) for problem in event_problems(event)] == []


@pytest.mark.skipif(not (DATA / "invalid").is_dir(), reason=f"no EPCIS documents at {DATA}")
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_wrong_document_has_its_problems_at_their_places(name: str) -> None:
    document = _load(DATA / "invalid" / f"{name}.json")

    assert [problem.pointer for problem in document_problems(document)] == FAULTS[name]
    assert all(event_problems(event) for event in document_events(document))


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, "", "x", [], {}, ["x"], [1], {"a": 1}, "2020-01-01", "2020-01-01T00:00:00", "ext:x", "a b:c",
    "urn:epcglobal:cbv:bizstep:shipping", "https://ns.gs1.org/cbv/x", "é:x", "http://a b", "http://[::1]/x",
    "http://a:b/",
    "a:", "1:2", "urn:x?y#z",
    "2020-02-30T00:00:00Z", "2020-01-01T00:00:00+25:00", "2020-01-01t00:00:00z", "+14:00", "14:00",
    "abc", "KGMX", "OBSERVE", "ADD", "DELETE", "gs1:x", "https://gs1.org/voc/Mass", "%zz:", "a:%zz", "a:{}", "x:y",
    "ObjectEvent", "TransformationEvent", "AggregationEvent", "TransactionEvent", "AssociationEvent", "ex:OwnEvent",
)  # fmt: skip


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield from _places(member, (*place, name))


def _mutants(document: Any, chance: random.Random) -> Iterator[Any]:
    """The document with each field in turn left out, renamed, doubled, added to, and given other values."""
    for place in list(_places(document))[1:]:
        for kind in ("drop", "rename", "double", "add", "set", "set", "set"):
            mutant = copy.deepcopy(document)
            holder = mutant
            for name in place[:-1]:
                holder = holder[name]
            last = place[-1]
            if kind == "drop":
                del holder[last]
            elif kind == "rename" and isinstance(last, str):
                holder["foo"] = holder.pop(last)
            elif kind == "double" and isinstance(holder[last], list):
                holder[last] += holder[last][:1]
            elif kind == "add" and isinstance(holder[last], dict):
                holder[last]["foo"] = 1
            else:
                holder[last] = chance.choice(VALUES)
            yield mutant


@needs_data
@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_every_mutation_that_the_normative_schema_refuses_is_refused(path: Path) -> None:
    schema = parse_json((DATA / "epcis-json-schema-2.0.1.json").read_bytes(), bytes_max=1_000_000, depth_max=40)
    oracle = jsonschema_rs.validator_for(schema, validate_formats=True)
    seed = 2026
    document = parse_json(path.read_bytes(), bytes_max=1_000_000)

    for mutant in _mutants(_floats(document), random.Random(seed)):
        problems = document_problems(mutant)
        if oracle.is_valid(mutant):
            assert {problem.code for problem in problems} <= STRICTER, (seed, problems, mutant)
        else:
            assert problems, (seed, mutant)


def _floats(value: Any) -> Any:
    """The oracle does not know Decimal."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_floats(member) for member in value]
    return {name: _floats(member) for name, member in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    "change",
    [
        {"bizStep": "shipping", "disposition": "cbv:Disp-own", "persistentDisposition": {"set": ["recalled"]}},
        {"bizStep": "https://example.com/steps/drying"},
        {"quantityList": [{"epcClass": CLASS, "quantity": Decimal("0.001"), "uom": "KGM"}]},
        {"epcList": [], "quantityList": [{"epcClass": "https://id.gs1.org/01/09521141012345/10/L1"}]},
        {
            "epcList": [],
            "sensorElementList": [{"sensorReport": [{"type": "Temperature", "value": 4, "uom": "CEL"}]}],
            "readPoint": {"id": "https://id.gs1.org/414/4012345000054"},
        },
        {"ilmd": {"cbvmda:lotNumber": "L1", "ex:grade": {"ex:deep": [1, {"ex:more": True}]}}},
        {"ilmd": {"https://example.org/voc/grade": "A"}},
        {"ex:part": {"@context": {"in": "https://in.example.com/"}, "in:side": 1}},
        {"certificationInfo": ["https://example.com/c/1", "https://example.com/c/2"]},
        {"errorDeclaration": {"declarationTime": "2026-07-23T00:00:00Z", "reason": "did_not_occur", "ex:who": "7"}},
        {"@context": "https://example.com/context.jsonld", "unseen:field": 1},
        {"type": "ex:DryingEvent", "ex:kiln": 4},
        {"eventID": "ni:///sha-256;aa49daa1fe0b773e0437e546078dc87de9c864d5b9babe84488f31478887fdf3?ver=CBV2.0"},
        {"bizTransactionList": [{"bizTransaction": "urn:epcglobal:cbv:bt:0614141073467:1152"}]},
    ],
)
def test_right_event_has_no_problem(change: dict[str, Any]) -> None:
    assert event_problems({**EVENT, **change}) == []
    assert document_problems({**EVENT, **change}) == []


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"epcList": ["https://id.gs1.org/01/09521141012346/21/2017"]}, "/epcList/0", "bad_check_digit"),
        ({"epcList": ["urn:epc:id:sgtin:0614141.7346.2017"]}, "/epcList/0", "bad_identifier"),
        ({"epcList": ["https://id.gs1.org/ARFKk4XB0CDKWcnpq"]}, "/epcList/0", "compressed_link"),
        ({"epcList": [ITEM, ITEM]}, "/epcList", "duplicate_value"),
        ({"epcList": ["(01)09521141012345(21)7"]}, "/epcList/0", "bad_uri"),
        ({"epcList": []}, "/epcList", "nothing_named"),
        ({"readPoint": {"id": "https://id.gs1.org/414/4012345000055"}}, "/readPoint/id", "bad_check_digit"),
        ({"quantityList": [{"epcClass": ITEM, "quantity": 0}]}, "/quantityList/0/quantity", "not_positive"),
        ({"quantityList": [{"epcClass": ITEM, "quantity": -1}]}, "/quantityList/0/quantity", "not_positive"),
        ({"quantityList": [{"epcClass": ITEM, "quantity": "5"}]}, "/quantityList/0/quantity", "wrong_type"),
        ({"quantityList": [{"epcClass": ITEM, "uom": "kg"}]}, "/quantityList/0/uom", "bad_uom"),
        ({"eventTime": "2026-07-22T06:45:00"}, "/eventTime", "bad_time"),
        ({"eventTime": "2026-02-30T06:45:00Z"}, "/eventTime", "bad_time"),
        ({"eventTime": "2026-07-22"}, "/eventTime", "bad_time"),
        ({"eventTimeZoneOffset": "+15:00"}, "/eventTimeZoneOffset", "bad_offset"),
        ({"action": "add"}, "/action", "unknown_action"),
        ({"action": "OBSERVE", "ilmd": {}}, "/ilmd", "ilmd_not_allowed"),
        ({"bizStep": "urn:epcglobal:cbv:bizstep:shipping"}, "/bizStep", "standard_term_as_uri"),
        ({"weight": 5}, "/weight", "unknown_field"),
        ({"other:field": 5}, "/other:field", "undeclared_namespace"),
        ({"ex:field": [{"other:field": 5}]}, "/ex:field/0/other:field", "undeclared_namespace"),
        ({"ilmd": {"other:field": 5}}, "/ilmd/other:field", "undeclared_namespace"),
        ({"persistentDisposition": {}}, "/persistentDisposition", "missing_field"),
        ({"type": "DryingEvent"}, "/type", "unknown_event_type"),
        ({"@context": [7]}, "/@context/0", "bad_context"),
        ({"errorDeclaration": {"reason": "incorrect_data"}}, "/errorDeclaration/declarationTime", "missing_field"),
        ({"sensorElementList": [{"sensorReport": []}]}, "/sensorElementList/0/sensorReport", "empty_list"),
        (
            {"sensorElementList": [{"sensorReport": [{"type": "Mass", "uom": "CDL"}]}]},
            "/sensorElementList/0/sensorReport/0/uom",
            "wrong_unit",
        ),
        (
            {"sensorElementList": [{"sensorReport": [{"type": "Heat"}]}]},
            "/sensorElementList/0/sensorReport/0/type",
            "unknown_term",
        ),
        (
            {"sensorElementList": [{"sensorReport": [{"type": "Mass", "deviceID": "scale"}]}]},
            "/sensorElementList/0/sensorReport/0/deviceID",
            "bad_uri",
        ),
    ],
)
def test_wrong_event_is_refused_at_its_place(change: dict[str, Any], pointer: str, code: str) -> None:
    problems = event_problems({**EVENT, **change})

    assert [(problem.pointer, problem.code) for problem in problems] == [(pointer, code)]


PARENT = {"parentID": "https://id.gs1.org/00/340123451111111111"}
FAMILY = {name: EVENT[name] for name in ("@context", "eventTime", "eventTimeZoneOffset", "action")}


@pytest.mark.parametrize(
    ("event", "codes"),
    [
        ({"type": "AggregationEvent", **PARENT, "childEPCs": [ITEM]}, []),
        ({"type": "AggregationEvent", "action": "OBSERVE", "childEPCs": [ITEM]}, []),
        ({"type": "AggregationEvent", **PARENT, "action": "DELETE"}, []),
        ({"type": "AggregationEvent", **PARENT}, ["nothing_named"]),
        ({"type": "AggregationEvent", "childEPCs": [ITEM]}, ["missing_parent"]),
        ({"type": "AssociationEvent", **PARENT, "childEPCs": [ITEM]}, []),
        ({"type": "AssociationEvent", "childEPCs": [ITEM]}, ["missing_field"]),
        ({"type": "TransactionEvent", "bizTransactionList": [{"bizTransaction": "urn:x:1"}], "epcList": [ITEM]}, []),
        ({"type": "TransactionEvent", "bizTransactionList": [], "epcList": [ITEM]}, ["empty_list"]),
        ({"type": "TransactionEvent", "bizTransactionList": [{"bizTransaction": "urn:x:1"}]}, ["nothing_named"]),
    ],
)
def test_each_event_type_names_what_it_must(event: dict[str, Any], codes: list[str]) -> None:
    assert [problem.code for problem in event_problems({**FAMILY, **event})] == codes


@pytest.mark.parametrize(
    ("lists", "count"),
    [
        ({"inputEPCList": [ITEM], "outputEPCList": [ITEM]}, 0),
        ({"inputEPCList": [ITEM], "transformationID": "urn:x:1"}, 0),
        ({"transformationID": "urn:x:1"}, 1),
        ({"inputEPCList": [ITEM]}, 1),
        ({}, 2),
    ],
)
def test_transformation_names_inputs_and_outputs_or_its_id(lists: dict[str, Any], count: int) -> None:
    event = {name: EVENT[name] for name in ("@context", "eventTime", "eventTimeZoneOffset")}

    problems = event_problems({**event, "type": "TransformationEvent", **lists})

    assert [problem.code for problem in problems] == ["nothing_named"] * count


def test_single_event_needs_its_context_and_a_list_is_checked_one_by_one() -> None:
    bare = {name: value for name, value in EVENT.items() if name != "@context"}

    assert [problem.pointer for problem in document_problems([EVENT, bare])] == ["/1/@context"]
    assert document_problems("x")[0].code == "wrong_type"
    assert render(check(EVENT)) == "No problems found."
    assert "/@context  missing_field" in render(check(bare))


def test_odd_sensor_times_are_warned_of_but_not_refused() -> None:
    metadata = {"time": "2026-07-22T05:00:00Z", "startTime": "2026-07-22T03:00:00Z", "endTime": "2026-07-22T02:00:00Z"}
    event = {**EVENT, "sensorElementList": [{"sensorMetadata": metadata, "sensorReport": [{"type": "Mass"}]}]}

    assert event_problems(event) == []
    assert [warning.code for warning in event_warnings(event)] == ["sensor_after_event", "backward_span"]


@pytest.mark.parametrize(
    ("measurement", "uom", "is_right"),
    [
        ("Temperature", "CEL", True),
        ("Temperature", "KGM", False),
        ("Mass", "CDL", False),
        ("Dimensionless", "C35", True),
        ("AbsoluteHumidity", "A93", True),
        ("RelativeHumidity", "P1", True),
        ("Speed", "KMH", True),
        ("Mass", "ZZ9", True),
    ],
)
def test_unit_must_measure_the_quantity(measurement: str, uom: str, is_right: bool) -> None:
    assert fits(measurement, uom) == is_right
