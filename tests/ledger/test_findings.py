"""Findings by rule: each rule one story that raises it and one that does not, in both databases."""

from typing import Any

import pytest

from ledger import findings, followers, state
from ledger.database import Database
from ledger.findings_book import Row, rows_where
from tests.ledger.world import MAKER, NOW, PLANT, STORE, World, packed, seen, sgtin, sscc, time_text

HOUR = 3_600
PLANT_ID = "https://id.gs1.org/414/9521000000018"
STORE_ID = "https://id.gs1.org/414/9521000000025"
BEIJING = {"name_en": "Plant", "name_zh": "工厂", "lat": "39.9042", "lon": "116.4074"}
SHANGHAI = {"name_en": "Store", "name_zh": "门店", "lat": "31.2304", "lon": "121.4737"}
LOT = "urn:epc:class:lgtin:9521000.012345.L1"
GTIN = "urn:epc:idpat:sgtin:9521000.012345.*"
Events = list[dict[str, Any]]


def made(*serials: object, at: int = NOW, **more: Any) -> dict[str, Any]:
    return seen(*serials, step="commissioning", action="ADD", disposition="active", at=at, **more)


def ended(serial: object, at: int) -> dict[str, Any]:
    return seen(serial, step="decommissioning", action="DELETE", disposition="inactive", at=at)


def sold(serial: object, at: int) -> dict[str, Any]:
    return seen(serial, step="retail_selling", disposition="retail_sold", at=at, place=STORE)


def quantities(at: int, name: str = LOT, amount: int = 10, **more: Any) -> dict[str, Any]:
    event = seen(at=at, **more) | {"quantityList": [{"epcClass": name, "quantity": amount}]}
    del event["epcList"]
    return event


def transformed(into_kg: int, out_kg: int, at: int = NOW) -> dict[str, Any]:
    raw, whole = "urn:epc:class:lgtin:9521000.054321.R1", "urn:epc:class:lgtin:9521000.012345.L1"
    return {
        "type": "TransformationEvent", "eventTime": time_text(at), "eventTimeZoneOffset": "+00:00",
        "bizStep": "commissioning", "readPoint": {"id": PLANT}, "transformationID": "https://maker.example/run/1",
        "inputQuantityList": [{"epcClass": raw, "quantity": into_kg, "uom": "KGM"}],
        "outputQuantityList": [{"epcClass": whole, "quantity": out_kg, "uom": "KGM"}],
    }  # fmt: skip


def boxed(amount: int, action: str, at: int) -> dict[str, Any]:
    return packed(sscc(1), [], action=action, at=at) | {"childQuantityList": [{"epcClass": LOT, "quantity": amount}]}


def expiring(at: int = NOW) -> dict[str, Any]:
    return made(1, at=at, ilmd={"cbvmda:itemExpirationDate": time_text(NOW + 86_400)[:10]})


def _day(days: int) -> int:
    return NOW + days * 86_400


# By code: events that raise it, and events that come close and do not.
STORIES: dict[str, tuple[Events, Events]] = {
    "implausible_speed": (
        [made(1), seen(1, at=NOW + HOUR // 2, place=STORE)],
        [made(1), seen(1, at=NOW + 2 * HOUR, place=STORE)],
    ),
    "two_places_at_once": (
        [made(1), seen(1, at=NOW + 30, place=STORE)],
        [made(1), seen(2, at=NOW + 30, place=STORE), seen(1, at=NOW + 30)],
    ),
    "commissioned_twice": ([made(1), made(1, at=NOW + HOUR)], [made(1), made(2, at=NOW + HOUR)]),
    "observed_after_decommissioning": (
        [made(1), ended(1, NOW + HOUR), seen(1, at=NOW + 2 * HOUR)],
        [made(1), seen(1, at=NOW + HOUR), ended(1, NOW + 2 * HOUR)],
    ),
    "observed_after_consumption": (
        [made(1), transformed(1, 1, NOW + HOUR) | {"inputEPCList": [sgtin(1)]}, seen(1, at=NOW + 2 * HOUR)],
        [made(1), seen(1, at=NOW + 60), transformed(1, 1, NOW + HOUR) | {"inputEPCList": [sgtin(1)]}],
    ),
    "sold_twice": (
        [made(1), sold(1, NOW + 3 * HOUR), sold(1, NOW + 5 * HOUR)],
        [
            made(1), sold(1, NOW + 3 * HOUR),
            seen(1, step="receiving", disposition="returned", at=NOW + 4 * HOUR, place=STORE), sold(1, NOW + 5 * HOUR),
        ],
    ),
    "observed_after_sale": (
        [made(1), sold(1, NOW + 3 * HOUR), seen(1, step="storing", at=NOW + 9 * HOUR, place=STORE)],
        [
            made(1), seen(1, step="storing", at=NOW + 2 * HOUR + 60, place=STORE), sold(1, NOW + 3 * HOUR),
            seen(1, step="holding", disposition="recalled", at=NOW + 9 * HOUR, place=STORE),
        ],
    ),
    "packed_while_packed": (
        [made(1), packed(sscc(1), [sgtin(1)], at=NOW + 60), packed(sscc(2), [sgtin(1)], at=NOW + 120)],
        [
            made(1), packed(sscc(1), [sgtin(1)], at=NOW + 60), packed(sscc(1), [], action="DELETE", at=NOW + 90),
            packed(sscc(2), [sgtin(1)], at=NOW + 120),
        ],
    ),
    "unpacked_not_inside": (
        [made(1), packed(sscc(1), [sgtin(1)], action="DELETE", at=NOW + 60)],
        [made(1), packed(sscc(1), [sgtin(1)], at=NOW + 30), packed(sscc(1), [sgtin(1)], action="DELETE", at=NOW + 60)],
    ),
    "unpacked_more_than_packed": (
        [boxed(5, "ADD", NOW), boxed(6, "DELETE", NOW + 60)],
        [boxed(5, "ADD", NOW), boxed(5, "DELETE", NOW + 60)],
    ),
    "packed_more_than_made": (
        [quantities(NOW, step="commissioning", action="ADD", amount=10), boxed(11, "ADD", NOW + 60)],
        [quantities(NOW, step="commissioning", action="ADD", amount=10), boxed(10, "ADD", NOW + 60)],
    ),
    "output_exceeds_input": ([transformed(100, 101)], [transformed(1000, 1004)]),
    "unexplained_loss": ([transformed(100, 80)], [transformed(100, 90)]),
    "stock_below_book": (
        [
            quantities(NOW, GTIN, 10, step="receiving", place=STORE),
            quantities(NOW + HOUR, GTIN, 9, step="cycle_counting", place=STORE),
        ],
        [
            quantities(NOW, GTIN, 10, step="receiving", place=STORE),
            quantities(NOW + 60, GTIN, 1, step="retail_selling", place=STORE),
            quantities(NOW + HOUR, GTIN, 9, step="cycle_counting", place=STORE),
        ],
    ),
    "stock_above_book": (
        [
            quantities(NOW, GTIN, 10, step="receiving", place=STORE),
            quantities(NOW + HOUR, GTIN, 12, step="stock_taking", place=STORE),
        ],
        [
            quantities(NOW, GTIN, 10, step="receiving", place=STORE),
            seen(step="receiving", place=STORE, at=NOW + 60) | {"epcList": [sscc(1)]},
            quantities(NOW + HOUR, GTIN, 12, step="stock_taking", place=STORE),
        ],
    ),
    "expired_shipped": (
        [expiring(), seen(1, step="shipping", at=_day(3))],
        [expiring(), seen(1, step="shipping", at=_day(1)), seen(1, step="inspecting", at=_day(3))],
    ),
}  # fmt: skip


def placed(database: Database) -> World:
    world = World(database).start()
    world.master(MAKER, PLANT_ID, "place", BEIJING)
    world.master(MAKER, STORE_ID, "place", SHANGHAI)
    world.step()
    return world


def judge(world: World, limit: int = 500) -> None:
    world.now = max(world.now, NOW + 40 * 86_400)
    world.step()
    followers.run_all(world.database, state.views())
    findings.run_all(world.database, limit=limit)


def rows(database: Database, state_name: str = "open") -> list[Row]:
    with database.reading() as tx:
        return sorted(rows_where(tx, "state = ?", (state_name,)), key=lambda row: (row.code, row.ev))


def codes(database: Database, state_name: str = "open") -> list[str]:
    return [row.code for row in rows(database, state_name)]


def of_its_own(value: Any, number: int) -> Any:
    """The same events about other goods, so that all stories stand in one log."""
    if isinstance(value, str):
        value = value.replace("9521000.012345", f"9521000.01{number:02d}45").replace("054321", f"05{number:02d}21")
        return value.replace("sscc:9521000.000", f"sscc:9521000.0{number:02d}").replace("run/1", f"run/{number}")
    if isinstance(value, list):
        return [of_its_own(one, number) for one in value]
    return {name: of_its_own(one, number) for name, one in value.items()} if isinstance(value, dict) else value


def test_each_rule_finds_what_cannot_be_and_names_the_event(database: Database) -> None:
    world = placed(database)
    last: dict[str, bytes] = {}
    for number, (code, (raising, _)) in enumerate(STORIES.items()):
        for event in raising:
            last[code] = world.send("line-1", of_its_own(event, number)).id
    judge(world)

    by_code = {row.code: row for row in rows(database)}

    assert sorted(codes(database)) == sorted(STORIES)
    with database.reading() as tx:
        shown = followers.read_messages(tx, [row.ev // 1024 for row in by_code.values()])
    assert {code: shown[row.ev // 1024].message_id for code, row in by_code.items()} == last


def test_no_rule_finds_anything_in_stories_that_come_close(sqlite_database: Database) -> None:
    world = placed(sqlite_database)
    for number, (_, fine) in enumerate(STORIES.values()):
        for event in fine:
            world.send("line-1", of_its_own(event, number))
    judge(world)

    assert codes(sqlite_database) == []


def test_an_event_declared_wrong_takes_its_findings_back_and_the_history_stays(sqlite_database: Database) -> None:
    world = placed(sqlite_database)
    wrong = made(1, at=NOW + HOUR, eventID="urn:uuid:1b4e28ba-2fa1-41d2-883f-0016d3cca427")
    world.send("line-1", made(1), wrong)
    judge(world)
    before = codes(sqlite_database)
    declared = wrong | {"errorDeclaration": {"declarationTime": time_text(NOW + 2 * HOUR), "reason": "did_not_occur"}}
    world.send("line-1", declared)
    judge(world)

    (row,) = rows(sqlite_database, "withdrawn")

    assert before == ["commissioned_twice"]
    assert codes(sqlite_database) == []
    assert (row.code, row.cause) == ("commissioned_twice", "declared_in_error")
    assert [change[1] for change in row.history] == ["open", "withdrawn"]


def test_a_late_event_that_explains_takes_the_finding_back(database: Database) -> None:
    world = placed(database)
    world.send("line-1", made(1), sold(1, NOW + 3 * HOUR), sold(1, NOW + 9 * HOUR))
    judge(world)
    before = codes(database)
    world.send("line-1", seen(1, step="receiving", disposition="returned", at=NOW + 5 * HOUR, place=STORE))
    judge(world)

    assert before == ["sold_twice"]
    assert codes(database) == []
    assert [row.cause for row in rows(database, "withdrawn")] == ["late_event"]


def test_what_an_ended_key_said_after_its_last_good_message_finds_nothing_any_more(sqlite_database: Database) -> None:
    world = placed(sqlite_database)
    good = world.send("line-1", made(1))
    world.send("line-1", seen(1, at=NOW + 30, place=STORE))
    judge(world)
    before = codes(sqlite_database)
    from core.canonical import b64u

    world.end("line-1", last=b64u(good.id), seq=0)
    judge(world)

    assert before == ["two_places_at_once"]
    assert codes(sqlite_database) == []
    assert [row.cause for row in rows(sqlite_database, "withdrawn")] == ["key_ended"]


def test_a_means_of_transport_that_is_stated_sets_the_ceiling(sqlite_database: Database) -> None:
    world = placed(sqlite_database)
    by_road = {"@context": {"ex": "https://example.org/"}, "ex:transportMode": "3"}
    world.send("line-1", made(1), seen(1, at=NOW + 2 * HOUR, place=STORE, **by_road))
    judge(world)

    (row,) = rows(sqlite_database)

    # The great circle from Beijing to Shanghai is 1,067 km (computed with the haversine formula elsewhere).
    assert (row.code, row.details["km"], row.details["most"]) == ("implausible_speed", 1067, 140)


@pytest.mark.parametrize("limit", [1, 3])
def test_findings_do_not_depend_on_where_runs_begin_and_end(sqlite_database: Database, limit: int) -> None:
    world = placed(sqlite_database)
    for raising, _ in STORIES.values():
        for event in raising:
            world.send("line-1", event)
    judge(world)
    whole = snapshot(sqlite_database)
    with sqlite_database.transaction() as tx:
        findings.forget_all(tx)
    findings.run_all(sqlite_database, limit=limit)

    assert snapshot(sqlite_database) == whole
    assert len(whole) > 10


def snapshot(sqlite_database: Database) -> list[tuple[Any, ...]]:
    with sqlite_database.reading() as tx:
        return sorted(row.stored() for row in rows_where(tx, "1 = 1", ()))


def test_a_policy_file_changes_bounds_and_severities_and_refuses_unknown_rules(tmp_path: Any) -> None:
    from core.errors import Rejected
    from ledger.findings_policy import load_policy

    file = tmp_path / "policy.toml"
    file.write_text('[severity]\nsold_twice = "notice"\n[speed_kmh]\nroad = 90\n')
    bad = tmp_path / "bad.toml"
    bad.write_text('[severity]\nno_such_rule = "serious"\n')

    policy = load_policy(file)

    assert (policy.severity_of("sold_twice"), policy.severity_of("commissioned_twice")) == ("notice", "serious")
    assert (policy.speed_kmh["road"], policy.speed_kmh["air"]) == (90, 1000)
    with pytest.raises(Rejected, match="no_such_rule"):
        load_policy(bad)
