"""The query language against a naive filter over the same events, and its rules one by one."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from api.epcis.query_language import BadParameter, read_query
from api.epcis.query_lookup import DatabaseLookup
from core.canonical import dump_json
from core.errors import Rejected
from core.identifiers import canonical
from ledger.database import Database, open_database, upgrade
from ledger.queryindex_search import Viewer, newest, search
from tests.api.epcis_corpus import generated_events, index_all, log_events, send_events, shared_events
from tests.conformance_data import needs_data
from tests.ledger.world import MAKER, NOW, World, time_text

REGULATOR = Viewer("https://id.gs1.org/417/9521000000094", sees_all=True, reader="regulator")
EX = {"ex": "https://ex.example/ns/"}
Event = dict[str, Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, list[Event]]]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('corpus') / 'tracebond.db'}")
    upgrade(database)
    events = [*shared_events(), *generated_events(240, seed=5)]
    log_events(database, events)
    yield database, events
    database.close()


def ask(database: Database, *parameters: tuple[str, Any], viewer: Viewer = REGULATOR, limit: int = 1000) -> list[Event]:
    """The events of one answer, in its order."""
    with database.reading() as tx:
        query = read_query(parameters, DatabaseLookup(tx), EX)
        return [found.event for found in search(tx, query, viewer, limit=limit, top=newest(tx)).events]


# The naive filter: one straight reading of the standard's table per parameter, over plain JSON.


def same(one: str, other: str) -> bool:
    return canonical(one) == canonical(other)


def word(text: str) -> str:
    return text.replace("https://ref.gs1.org/cbv/BizStep-", "").replace("https://ref.gs1.org/cbv/Disp-", "")


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def listed(event: Event, *names: str) -> list[Any]:
    return [member for name in names for member in event.get(name, [])]


def epcs(event: Event, field: str) -> list[str]:
    names = {"epc": ("epcList", "childEPCs"), "inputEPC": ("inputEPCList",), "outputEPC": ("outputEPCList",)}
    if field == "parentID":
        return [event["parentID"]] if "parentID" in event else []
    if field == "anyEPC":
        return [epc for one in ("epc", "parentID", "inputEPC", "outputEPC") for epc in epcs(event, one)]
    return listed(event, *names[field])


def quantities(event: Event, field: str = "anyEPCClass") -> list[Event]:
    names = {
        "epcClass": ("quantityList", "childQuantityList"),
        "inputEPCClass": ("inputQuantityList",),
        "outputEPCClass": ("outputQuantityList",),
    }
    names["anyEPCClass"] = tuple(name for some in names.values() for name in some)
    return listed(event, *names[field])


def reports(event: Event) -> list[Event]:
    return [report for element in listed(event, "sensorElementList") for report in element["sensorReport"]]


def sensor_parts(event: Event) -> list[Event]:
    return reports(event) + [element.get("sensorMetadata", {}) for element in listed(event, "sensorElementList")]


def celsius(report: Event, name: str) -> Fraction | None:
    if name not in report or report.get("uom") not in ("CEL", "FAH"):
        return None
    value = Fraction(report[name])
    return value if report["uom"] == "CEL" else (value - 32) * 5 / 9


def kilograms(element: Event) -> Fraction | None:
    scale = {"KGM": Fraction(1), "GRM": Fraction(1, 1000)}.get(element.get("uom", ""))
    return Fraction(element["quantity"]) * scale if scale is not None and "quantity" in element else None


def inner(value: Any, name: str) -> list[Any]:
    if isinstance(value, list):
        return [found for member in value for found in inner(member, name)]
    if not isinstance(value, dict):
        return []
    found = [value[name]] if name in value else []
    return found + [one for member in value.values() for one in inner(member, name)]


def text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def in_pattern(epc: str, start: str) -> bool:
    """Whether an identifier belongs to the company 9521000 in the key that ``start`` names."""
    path = canonical(epc).removeprefix("https://id.gs1.org/")
    skipped = {"01/": 1, "00/": 1, "8003/": 1}.get(start, 0)
    return path.startswith(start) and path[len(start) + skipped :].startswith("9521000")


THINGS = [
    "urn:epc:id:sgtin:9521000.012341.4",
    "https://any.example/00/095210000000000032",
    *(f"urn:epc:id:grai:9521000.0000{number % 2}.{number}" for number in range(8)),
]
CASES: list[tuple[str, str, Callable[[Event], bool]]] = [
    ("eventType", "ObjectEvent|TransformationEvent", lambda e: e["type"] in ("ObjectEvent", "TransformationEvent")),
    ("GE_eventTime", time_text(NOW - 6000), lambda e: seconds(e["eventTime"]) >= NOW - 6000),
    ("LT_eventTime", time_text(NOW - 6000), lambda e: seconds(e["eventTime"]) < NOW - 6000),
    ("EQ_action", "ADD|DELETE", lambda e: e.get("action") in ("ADD", "DELETE")),
    (
        "EQ_bizStep",
        "shipping|urn:epcglobal:cbv:bizstep:packing",
        lambda e: word(e.get("bizStep", "")) in ("shipping", "packing"),
    ),
    ("EQ_disposition", "in_transit", lambda e: word(e.get("disposition", "")) == "in_transit"),
    (
        "EQ_persistentDisposition_set",
        "completeness_verified",
        lambda e: "completeness_verified" in e.get("persistentDisposition", {}).get("set", []),
    ),
    (
        "EQ_persistentDisposition_unset",
        "completeness_inferred",
        lambda e: "completeness_inferred" in e.get("persistentDisposition", {}).get("unset", []),
    ),
    (
        "EQ_readPoint",
        "https://id.gs1.org/414/9521000000018",
        lambda e: "readPoint" in e and same(e["readPoint"]["id"], "urn:epc:id:sgln:9521000.00001.0"),
    ),
    (
        "WD_readPoint",
        "urn:epc:id:sgln:9521000.00002.0",
        lambda e: "readPoint" in e and same(e["readPoint"]["id"], "https://id.gs1.org/414/9521000000025"),
    ),
    (
        "EQ_bizLocation",
        "urn:epc:id:sgln:9521000.00003.7",
        lambda e: "bizLocation" in e and same(e["bizLocation"]["id"], "urn:epc:id:sgln:9521000.00003.7"),
    ),
    (
        "WD_bizLocation",
        "urn:epc:id:sgln:9521000.00001.0",
        lambda e: "bizLocation" in e and same(e["bizLocation"]["id"], "urn:epc:id:sgln:9521000.00001.0"),
    ),
    (
        "EQ_bizTransaction_po",
        "urn:x:b1|urn:x:b2",
        lambda e: any(
            t.get("type") == "po" and t["bizTransaction"] in ("urn:x:b1", "urn:x:b2")
            for t in listed(e, "bizTransactionList")
        ),
    ),
    (
        "EQ_source_owning_party",
        "https://id.gs1.org/417/9521000000018",
        lambda e: any(
            t.get("type") == "owning_party" and same(t["source"], "urn:epc:id:pgln:9521000.00001")
            for t in listed(e, "sourceList")
        ),
    ),
    (
        "EQ_destination_possessing_party",
        "urn:epc:id:pgln:9521000.00002",
        lambda e: any(
            t.get("type") == "possessing_party" and same(t["destination"], "https://id.gs1.org/417/9521000000025")
            for t in listed(e, "destinationList")
        ),
    ),
    ("EQ_transformationID", "urn:x:t1|urn:x:t2", lambda e: e.get("transformationID") in ("urn:x:t1", "urn:x:t2")),
    *(
        (
            f"MATCH_{field}",
            "|".join(THINGS),
            lambda e, f=field: any(same(epc, one) for epc in epcs(e, f) for one in THINGS),
        )
        for field in ("epc", "parentID", "inputEPC", "outputEPC", "anyEPC")
    ),
    (
        "MATCH_anyEPC",
        "urn:epc:idpat:sgtin:9521000.*.*",
        lambda e: any(in_pattern(epc, "01/") for epc in epcs(e, "anyEPC")),
    ),
    ("MATCH_epc", "urn:epc:idpat:sscc:9521000.*", lambda e: any(in_pattern(epc, "00/") for epc in epcs(e, "epc"))),
    ("MATCH_epc", "urn:epc:idpat:grai:9521000.*.*", lambda e: any(in_pattern(epc, "8003/") for epc in epcs(e, "epc"))),
    (
        "MATCH_epc",
        "urn:epc:idpat:sgtin:9521000.012342.*",
        lambda e: any("/01/09521000123427/21/" in canonical(epc) for epc in epcs(e, "epc")),
    ),
    *(
        (
            f"MATCH_{field}",
            "https://id.gs1.org/01/09521000123410/10/L1",
            lambda e, f=field: any(
                same(q["epcClass"], "urn:epc:class:lgtin:9521000.012341.L1") for q in quantities(e, f)
            ),
        )
        for field in ("epcClass", "inputEPCClass", "anyEPCClass")
    ),
    (
        "MATCH_outputEPCClass",
        "urn:epc:class:lgtin:9521000.012341.L1",
        lambda e: any(
            same(q["epcClass"], "urn:epc:class:lgtin:9521000.012341.L1") for q in quantities(e, "outputEPCClass")
        ),
    ),
    ("EQ_quantity", "12.5", lambda e: any(q.get("quantity") == Decimal("12.5") for q in quantities(e))),
    ("GT_quantity", "12.5", lambda e: any(q.get("quantity", 0) > Decimal("12.5") for q in quantities(e))),
    ("GE_quantity", "12.5", lambda e: any(q.get("quantity", 0) >= Decimal("12.5") for q in quantities(e))),
    ("LT_quantity", "5", lambda e: any(q.get("quantity", 99) < 5 for q in quantities(e))),
    ("LE_quantity", "5", lambda e: any(q.get("quantity", 99) <= 5 for q in quantities(e))),
    ("EQ_quantity_GRM", "5000", lambda e: any(kilograms(q) == 5 for q in quantities(e))),
    ("GT_quantity_KGM", "0.5", lambda e: any((kilograms(q) or 0) > Fraction(1, 2) for q in quantities(e))),
    (
        "EQ_eventID",
        "urn:uuid:00000000-0000-4000-8000-000000000007",
        lambda e: e.get("eventID") == "urn:uuid:00000000-0000-4000-8000-000000000007",
    ),
    ("EXISTS_errorDeclaration", "true", lambda e: "errorDeclaration" in e),
    (
        "GE_errorDeclarationTime",
        time_text(NOW - 50),
        lambda e: "errorDeclaration" in e and seconds(e["errorDeclaration"]["declarationTime"]) >= NOW - 50,
    ),
    (
        "LT_errorDeclaration_Time",
        time_text(NOW - 50),
        lambda e: "errorDeclaration" in e and seconds(e["errorDeclaration"]["declarationTime"]) < NOW - 50,
    ),
    ("EQ_errorReason", "did_not_occur", lambda e: e.get("errorDeclaration", {}).get("reason") == "did_not_occur"),
    ("EXISTS_ERROR_DECLARATION_ex:note", "1", lambda e: "ex:note" in e.get("errorDeclaration", {})),
    ("EQ_ERROR_DECLARATION_ex:note", "n1", lambda e: e.get("errorDeclaration", {}).get("ex:note") == "n1"),
    ("EXISTS_sensorElementList", "", lambda e: bool(e.get("sensorElementList"))),
    (
        "EQ_type",
        "Temperature",
        lambda e: any(r.get("type") in ("Temperature", "gs1:Temperature", "gs1:MT-Temperature") for r in reports(e)),
    ),
    (
        "EQ_deviceID",
        "urn:epc:id:giai:9521000.2",
        lambda e: any(
            "deviceID" in p and same(p["deviceID"], "https://id.gs1.org/8004/95210002") for p in sensor_parts(e)
        ),
    ),
    (
        "EQ_microorganism",
        "https://www.ncbi.nlm.nih.gov/taxonomy/1126011",
        lambda e: any(
            p.get("microorganism") == "https://www.ncbi.nlm.nih.gov/taxonomy/1126011" for p in sensor_parts(e)
        ),
    ),
    (
        "EQ_bizRules",
        "https://x.example/r",
        lambda e: any(p.get("bizRules") == "https://x.example/r" for p in sensor_parts(e)),
    ),
    (
        "EQ_chemicalSubstance",
        "https://identifiers.org/inchikey:CZMRCDWAGMRECN-UGDNZRGBSA-N",
        lambda e: any(
            p.get("chemicalSubstance") == "https://identifiers.org/inchikey:CZMRCDWAGMRECN-UGDNZRGBSA-N"
            for p in sensor_parts(e)
        ),
    ),
    (
        "EQ_dataProcessingMethod",
        "https://example.com/253/4012345000054987",
        lambda e: any(
            "dataProcessingMethod" in p and same(p["dataProcessingMethod"], "https://example.com/253/4012345000054987")
            for p in sensor_parts(e)
        ),
    ),
    (
        "EQ_uriValue",
        "https://id.gs1.org/8004/4000001111",
        lambda e: any(p.get("uriValue") == "https://id.gs1.org/8004/4000001111" for p in sensor_parts(e)),
    ),
    ("EQ_stringValue", "s", lambda e: any(r.get("stringValue") == "s" for r in reports(e))),
    ("EQ_booleanValue", "false", lambda e: any(r.get("booleanValue") is False for r in reports(e))),
    ("EQ_hexBinaryValue", "f0F0", lambda e: any(r.get("hexBinaryValue", "").lower() == "f0f0" for r in reports(e))),
    (
        "GE_time",
        time_text(NOW - 60),
        lambda e: any("time" in p and seconds(p["time"]) >= NOW - 60 for p in sensor_parts(e)),
    ),
    (
        "LT_time",
        time_text(NOW - 60),
        lambda e: any("time" in p and seconds(p["time"]) < NOW - 60 for p in sensor_parts(e)),
    ),
    (
        "GE_startTime",
        time_text(NOW - 90),
        lambda e: any("startTime" in p and seconds(p["startTime"]) >= NOW - 90 for p in sensor_parts(e)),
    ),
    (
        "LT_endTime",
        time_text(NOW - 30),
        lambda e: any("endTime" in p and seconds(p["endTime"]) < NOW - 30 for p in sensor_parts(e)),
    ),
    ("GE_percRank", "50", lambda e: any(r.get("percRank", 0) >= 50 for r in reports(e))),
    ("LT_percRank", "50", lambda e: any(r.get("percRank", 99) < 50 for r in reports(e))),
    (
        "GE_value_CEL",
        "10",
        lambda e: any((celsius(r, "value") or 0) >= 10 for r in reports(e) if r.get("type") == "Temperature"),
    ),
    ("LT_value_FAH", "32", lambda e: any((celsius(r, "value") or 0) < 0 for r in reports(e))),
    ("EQ_minValue_FAH", "20", lambda e: any(celsius(r, "minValue") == Fraction(-20, 3) for r in reports(e))),
    ("EXISTS_ex:count", "true", lambda e: "ex:count" in e),
    ("EQ_ex:count", "2", lambda e: "ex:count" in e and str(e["ex:count"]) == "2"),
    ("GT_ex:count", "1", lambda e: "ex:count" in e and str(e["ex:count"]) in ("2", "2.50")),
    ("LE_ex:count", "2", lambda e: "ex:count" in e and str(e["ex:count"]) in ("1", "2")),
    ("EQ_INNER_ex:level", "3", lambda e: "ex:deep" in e and e["ex:deep"]["ex:level"] == 3),
    (
        "GE_INNER_ex:since",
        time_text(NOW - 4),
        lambda e: "ex:deep" in e and seconds(e["ex:deep"]["ex:since"]) >= NOW - 4,
    ),
    ("EXISTS_INNER_ex:level", "", lambda e: "ex:deep" in e),
    ("EQ_ILMD_ex:origin", "CN", lambda e: e.get("ilmd", {}).get("ex:origin") == "CN"),
    ("EXISTS_ILMD_ex:box", "", lambda e: "ex:box" in e.get("ilmd", {})),
    ("EQ_INNER_ILMD_ex:weight", "2", lambda e: 2 in inner(list(e.get("ilmd", {}).values()), "ex:weight")),
    (
        "LT_INNER_ILMD_ex:weight",
        "2",
        lambda e: any(found < 2 for found in inner(list(e.get("ilmd", {}).values()), "ex:weight")),
    ),
    ("EXISTS_INNER_ILMD_ex:weight", "", lambda e: bool(inner(list(e.get("ilmd", {}).values()), "ex:weight"))),
    (
        "EQ_SENSORELEMENT_ex:mount",
        "wall",
        lambda e: any(s.get("ex:mount") == "wall" for s in listed(e, "sensorElementList")),
    ),
    (
        "EQ_SENSORMETADATA_ex:probe",
        "p",
        lambda e: any(s.get("sensorMetadata", {}).get("ex:probe") == "p" for s in listed(e, "sensorElementList")),
    ),
    ("GE_SENSORREPORT_ex:raw", "7", lambda e: any(r.get("ex:raw", 0) >= 7 for r in reports(e))),
    ("EQ_readPoint_ex:gate", "2", lambda e: e.get("readPoint", {}).get("ex:gate") == 2),
]


@needs_data
def test_each_parameter_finds_what_a_naive_filter_finds(corpus: tuple[Database, list[Event]]) -> None:
    database, events = corpus
    for name, value, holds in CASES:
        expected = [event for event in events if holds(event)]

        found = ask(database, (name, value))

        assert keys(found) == keys(expected), (name, value)
        assert 0 < len(found) < len(events), f"{name} must have a hit and a miss"


@needs_data
def test_parameters_together_find_what_fulfils_all(corpus: tuple[Database, list[Event]]) -> None:
    database, events = corpus
    chance = random.Random(20261125)
    for _ in range(120):
        chosen = {case[0]: case for case in chance.sample(CASES, chance.randrange(2, 4))}.values()
        expected = [event for event in events if all(holds(event) for _, _, holds in chosen)]
        order = chance.choice([(), (("orderBy", "eventTime"),), (("orderBy", "recordTime"), ("orderDirection", "ASC"))])

        found = ask(database, *((name, value) for name, value, _ in chosen), *order)

        assert keys(found) == keys(expected), list(chosen)


def _key(event: Event) -> str:
    # A decimal without fraction comes back as an integer of the same value.
    return json.dumps(json.loads(dump_json(event), parse_float=str, parse_int=str), sort_keys=True)


def keys(events: list[Event]) -> list[str]:
    return sorted(_key(event) for event in events)


@needs_data
def test_order_by_event_time_is_the_order_of_event_times(corpus: tuple[Database, list[Event]]) -> None:
    database, events = corpus

    up = ask(database, ("orderBy", "eventTime"), ("orderDirection", "ASC"))
    down = ask(database, ("orderBy", "eventTime"))

    times = [seconds(event["eventTime"]) for event in up]
    assert times == sorted(seconds(event["eventTime"]) for event in events)
    assert [seconds(event["eventTime"]) for event in down] == sorted(times, reverse=True)


@needs_data
def test_order_by_an_extension_field_is_the_order_of_its_values(corpus: tuple[Database, list[Event]]) -> None:
    database, events = corpus

    found = ask(database, ("orderBy", "ex:count"), ("orderDirection", "ASC"), ("GE_ex:count", "0"))

    values = [Decimal(str(event["ex:count"])) for event in found]
    assert values == sorted(values)
    assert len(values) == len([event for event in events if str(event.get("ex:count", "a")) != "a"])


@needs_data
@pytest.mark.parametrize("order", [(), (("orderBy", "eventTime"),), (("orderBy", "ex:count"),)])
def test_pages_hold_every_event_once_while_others_arrive(
    corpus: tuple[Database, list[Event]], order: tuple[tuple[str, str], ...]
) -> None:
    database, _ = corpus
    expected = ask(database, ("EXISTS_ex:count", ""), *order)
    world = _world_again(database)
    found: list[Event] = []
    with database.reading() as tx:
        query = read_query([("EXISTS_ex:count", ""), *order], DatabaseLookup(tx), EX)
        top, place = newest(tx), None
    for turn in range(100):
        with database.reading() as tx:
            page = search(tx, query, REGULATOR, limit=7, top=top, after=place)
        found += [one.event for one in page.events]
        if turn == 1:
            send_events(world, [event | {"ex:count": 2} for event in generated_events(5, seed=turn)], device="late")
            index_all(world)
        if page.next is None:
            break
        place = page.next

    assert found == expected


_worlds: dict[int, World] = {}


def _world_again(database: Database) -> World:
    if id(database) not in _worlds:
        world = World(database)
        world.sequencer.open() if hasattr(world.sequencer, "open") else None
        world.now += 1_000
        world.enroll("late", MAKER)
        world.step()
        _worlds[id(database)] = world
    return _worlds[id(database)]


@needs_data
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EQ_nothing", "x"), ("eventtype", "ObjectEvent"), ("EQ_action", "MOVE"), ("eventType", "Event"),
        ("GE_eventTime", "2020-01-01T00:00:00"), ("GE_eventTime", "yesterday"),
        ("GT_eventTime", "2020-01-01T00:00:00Z"),
        ("MATCH_epc", "abc"), ("MATCH_epc", "https://id.gs1.org/01/09521000123459/21/1"), ("MATCH_thing", "urn:x:y"),
        ("MATCH_epc", "urn:epc:idpat:sgtin:*.012345.1"), ("EQ_readPoint", "nowhere"), ("WD_item", "urn:x:y"),
        ("GE_quantity", "many"), ("EQ_booleanValue", "perhaps"), ("EXISTS_nothing", ""), ("EQ_bizStep", ""),
        ("eventCountLimit", "3"), ("maxEventCount", "0"), ("orderBy", "bizStep"), ("orderDirection", "UP"),
        ("GE_value", "3"), ("LT_ex:count", "abc"), ("", "x"), ("EQ_", "x"), ("EXISTS_errorDeclaration", "maybe"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_by_name(corpus: tuple[Database, list[Event]], name: str, value: str) -> None:
    with pytest.raises(BadParameter) as refusal:
        ask(corpus[0], (name, value))

    assert refusal.value.pointer == name


@needs_data
def test_event_count_limit_and_max_event_count_exclude_one_another(corpus: tuple[Database, list[Event]]) -> None:
    with pytest.raises(BadParameter):
        ask(corpus[0], ("orderBy", "eventTime"), ("eventCountLimit", "1"), ("maxEventCount", "1"))


@needs_data
def test_a_pattern_over_too_many_values_is_too_complex(corpus: tuple[Database, list[Event]]) -> None:
    with pytest.raises(Rejected) as refusal:
        ask(corpus[0], ("EQ_eventID", [f"urn:x:{number}" for number in range(1_001)]))

    assert refusal.value.code == "query_too_complex"


@needs_data
def test_json_texts_and_numbers_are_told_apart(corpus: tuple[Database, list[Event]]) -> None:
    database, _ = corpus

    number = ask(database, ("EQ_ex:count", Decimal("2.5")))
    other = ask(database, ("EQ_ex:count", "2.500x"))

    assert number
    assert all(event["ex:count"] == Decimal("2.50") for event in number)
    assert other == []
