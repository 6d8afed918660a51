"""The query index as a follower of the log, on both databases."""

# ruff: noqa: E501 (a table of cases reads best with one case a line)

from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import pytest
import sqlalchemy as sa

from core.epcis.conversion import base_unit, in_base_unit
from ledger.database import Database
from ledger.followers import LoggedMessage, read_log, run_all, run_once
from ledger.queryindex import QueryIndex, decode
from ledger.queryindex_facts import facts_of
from ledger.queryindex_query import AnyOf, Compared, Order, Query
from ledger.queryindex_search import TooComplex, Viewer, newest, search
from ledger.queryindex_tables import query_events, query_postings
from ledger.queryindex_terms import plain, term, time_of
from tests.ledger.world import CARRIER, MAKER, NOW, World, packed, seen, sgtin, sgtin_id, sscc, time_text

ALL = Viewer("", sees_all=True, reader="regulator")


def found(database: Database, *conditions: AnyOf | Compared, viewer: Viewer = ALL, **more: Any) -> list[str]:
    """The eventIDs of an answer."""
    with database.reading() as tx:
        page = search(tx, Query(tuple(conditions), **more), viewer, limit=100, top=newest(tx))
    return [str(one.event.get("eventID")) for one in page.events]


def about(serial: object) -> AnyOf:
    return AnyOf(frozenset({term("epc", sgtin_id(serial))}))


def test_events_are_found_by_item_time_and_number_on_both_databases(database: Database) -> None:
    world = World(database).start()
    sensor = [{"sensorReport": [{"type": "Temperature", "value": Decimal("4.5"), "uom": "CEL"}]}]
    world.send(
        "line-1",
        seen(1, at=NOW - 50, eventID="urn:x:1", sensorElementList=sensor),
        seen(2, at=NOW - 90, eventID="urn:x:2"),
    )
    world.send("truck-1", seen(1, at=NOW - 70, eventID="urn:x:3"))
    world.step()

    run_all(database, QueryIndex())

    assert found(database, about(1)) == ["urn:x:1", "urn:x:3"]
    assert found(database, about(1), order=Order("eventTime")) == ["urn:x:3", "urn:x:1"]
    assert found(database, order=Order("eventTime")) == ["urn:x:2", "urn:x:3", "urn:x:1"]
    assert found(database, order=Order("recordTime", is_descending=True))[0] == "urn:x:3"
    assert found(database, Compared(("value:temperature",), "GT", (Fraction("277.6"),))) == ["urn:x:1"]
    assert found(database, Compared(("value:temperature",), "GT", (Fraction("277.65"),))) == []
    assert found(database, Compared(("eventTime",), "LT", (Fraction(NOW - 70),))) == ["urn:x:2"]
    assert found(database, about(9)) == []


def test_the_index_does_not_depend_on_how_many_entries_come_at_once(database: Database) -> None:
    world = World(database).start()
    for number in range(12):
        world.send("line-1", seen(number % 3, eventID=f"urn:x:{number}"))
    world.step()
    one_by_one = QueryIndex()
    while run_once(database, one_by_one, 1):
        pass

    assert found(database, about(0)) == [f"urn:x:{number}" for number in range(0, 12, 3)]


@pytest.mark.parametrize("by", ["recordTime", "eventTime"])
@pytest.mark.parametrize("count", [60, 70])
def test_pages_of_an_items_events_are_whole_whether_few_or_many(
    database: Database, count: int, by: Literal["recordTime", "eventTime"]
) -> None:
    world = World(database).start()
    for start in range(0, count, 10):
        numbers = range(start, start + 10)
        events = [seen(1, at=NOW - 1_000 + number * 37 % 100, eventID=f"urn:x:{number}") for number in numbers]
        world.send("line-1", *events)
    world.send("truck-1", seen(2, eventID="urn:x:other"))
    world.step()
    run_all(database, QueryIndex())
    query = Query((about(1),), order=Order(by, is_descending=True))

    got: list[str] = []
    after: tuple[Any, ...] | None = None
    with database.reading() as tx:
        while True:
            page = search(tx, query, Viewer(MAKER), limit=25, top=newest(tx), after=after)
            got += [str(one.event["eventID"]) for one in page.events]
            after = page.next
            if after is None:
                break
        nobody = search(tx, query, Viewer("https://id.gs1.org/417/9521999000008"), limit=25, top=newest(tx))

    times = {number: number * 37 % 100 if by == "eventTime" else 0 for number in range(count)}
    expected = sorted(range(count), key=lambda number: (times[number], number), reverse=True)
    assert got == [f"urn:x:{number}" for number in expected]
    assert nobody.events == []


def test_an_event_keeps_its_decimals_as_given(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    amount = {"epcClass": "urn:epc:class:lgtin:9521000.012345.L1", "quantity": Decimal("12.500"), "uom": "KGM"}
    world.send("line-1", seen(1, quantityList=[amount]))
    world.step()
    run_all(sqlite_database, QueryIndex())

    with sqlite_database.reading() as tx:
        body = bytes(tx.execute(sa.select(query_events.c.body)).scalar_one())

    assert b'"quantity":12.500' in body
    assert decode(body)["quantityList"] == [amount]


def test_the_first_to_describe_a_place_sees_later_events_there_and_nobody_else_does(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    world.send("line-1", seen(1, eventID="urn:x:before"))
    world.master(CARRIER, "https://id.gs1.org/414/9521000000018", "place", {"name_en": "Dock"})
    world.master(
        "https://id.gs1.org/417/9521000000001", "https://id.gs1.org/414/9521000000018", "place", {"name_en": "Mine"}
    )
    world.send("line-1", seen(1, eventID="urn:x:after"))
    world.step()
    run_all(sqlite_database, QueryIndex())

    assert found(sqlite_database, viewer=Viewer(CARRIER)) == ["urn:x:after"]
    assert found(sqlite_database, viewer=Viewer("https://id.gs1.org/417/9521000000001")) == []
    assert found(sqlite_database, viewer=Viewer(MAKER)) == ["urn:x:before", "urn:x:after"]


def test_events_of_a_stolen_key_are_marked_not_hidden(sqlite_database: Database) -> None:
    from ledger.state import views

    world = World(sqlite_database).start()
    first = world.message("line-1", [seen(1, eventID="urn:x:1")])
    twin = world.message("line-1", [seen(2, eventID="urn:x:2")], keep=False)
    other = world.message("line-1", [seen(3, eventID="urn:x:3")], keep=False)
    world.admit(first, twin, other)
    world.step()
    run_all(sqlite_database, views())
    run_all(sqlite_database, QueryIndex())

    with sqlite_database.reading() as tx:
        page = search(tx, Query(), ALL, limit=10, top=newest(tx))

    assert [(one.event["eventID"], one.suspect is None) for one in page.events] == [
        ("urn:x:1", True), ("urn:x:2", True), ("urn:x:3", False),
    ]  # fmt: skip


def test_a_query_that_reads_too_long_is_stopped(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(sqlite_database).start()
    for number in range(40):
        world.send("line-1", *(seen(f"{number}-{one}") for one in range(50)))
    world.step()
    run_all(sqlite_database, QueryIndex())
    monkeypatch.setattr("ledger.queryindex_search.BUDGET_MS", 0)

    with pytest.raises(TooComplex):
        found(sqlite_database, AnyOf(frozenset({term("disposition", "none")}), is_open=True))


def test_every_term_of_an_event_leads_back_to_it(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    event = packed(
        sscc(1), [sgtin(1)], eventID="urn:x:p", **{"ex:a": {"ex:b": 2}, "@context": {"ex": "https://ex.example/"}}
    )
    world.send("line-1", event)
    world.step()
    run_all(sqlite_database, QueryIndex())
    facts = facts_of(event)

    for text in facts.terms:
        assert found(sqlite_database, AnyOf(frozenset({text}))) == ["urn:x:p"], text
    assert term("I::https://ex.example/b#", plain(Fraction(2))) in facts.terms


def test_a_message_of_many_events_keeps_their_order(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    world.send("line-1", *(seen(1, eventID=f"urn:x:{number:03}") for number in range(100)))
    world.step()
    run_all(sqlite_database, QueryIndex())

    ids: list[str] = []
    place = None
    with sqlite_database.reading() as tx:
        top = newest(tx)
        while True:
            page = search(tx, Query((about(1),)), ALL, limit=33, top=top, after=place)
            ids += [one.event["eventID"] for one in page.events]
            if page.next is None:
                break
            place = page.next
        entries = [entry for entry in read_log(tx, 0, 1_000) if isinstance(entry, LoggedMessage)]
        assert tx.execute(sa.select(sa.func.count()).select_from(query_postings)).scalar_one() > 100

    assert ids == [f"urn:x:{number:03}" for number in range(100)]
    assert len(entries) == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("value", "uom", "base", "expected"),
    [
        ("100", "CEL", "temperature", "373.15"), ("212", "FAH", "temperature", "373.15"), ("0", "KEL", "temperature", "0"),
        ("1", "KGM", "mass", "1"), ("1", "LBR", "mass", "0.45359237"), ("500", "GRM", "mass", "0.5"),
        ("36", "KMH", "speed", "10"), ("1", "BAR", "pressure", "100000"), ("50", "P1", "ratio", "0.5"),
        ("1", "INH", "length", "0.0254"), ("2", "HUR", "time", "7200"), ("7", "XYZ", "uom:XYZ", "7"),
    ],
)  # fmt: skip
def test_values_are_compared_in_base_units(value: str, uom: str, base: str, expected: str) -> None:
    assert base_unit(uom) == base
    assert in_base_unit(Decimal(value), uom) == Fraction(expected)


@pytest.mark.unit
def test_times_are_exact_to_their_last_digit() -> None:
    assert time_of("1970-01-01T01:00:00.0000001+01:00") == Fraction(1, 10_000_000)
    assert time_of("1970-01-01T00:00:00") is None
    assert time_of("1970-13-01T00:00:00Z") is None
    assert time_of(time_text(NOW)) == NOW
