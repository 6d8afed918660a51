"""The JSON of items and traces over the whole story: shapes, moments, and what each reader sees."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest

from api.app import create_app
from api.identity import Role
from api.items_schema import ITEM_SCHEMA, TRACE_SCHEMA
from api.services import Services, WebSettings
from core.canonical import parse_json
from ledger.database import open_database
from tests.api.conftest import Clock, Random, Site
from tests.story import NOW, Story, tell


@pytest.fixture(scope="module")
def story(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("items")
    shutil.copy(sqlite_template, folder / "story.db")
    database = open_database(f"sqlite:///{folder}/story.db")
    yield tell(database, folder)
    database.close()


@pytest.fixture(scope="module")
def site(story: Story) -> Site:
    clock = Clock()
    clock.now_ms = NOW * 1_000 + 5_000
    settings = WebSettings(base_url="https://trace.example", is_demo=True)
    services = Services(db=story.database, settings=settings, now_ms=clock, random=Random())
    return Site(create_app(services), story.database, clock, Random())


@pytest.fixture(scope="module")
def regulator(site: Site) -> Any:
    return site.signed_in(site.user("items-regulator", Role.REGULATOR))


def url(item: str, end: str = "") -> str:
    return f"/items/{quote(item, safe='')}{end}"


def fetched(client: Any, address: str, schema: dict[str, Any], **query: Any) -> dict[str, Any]:
    answer = client.get(address, params=query or None)
    assert answer.status_code == 200, answer.text
    document = parse_json(answer.content, bytes_max=10_000_000, depth_max=40)
    jsonschema_rs.validator_for(schema).validate(json.loads(answer.content))
    assert isinstance(document, dict)
    return document


def iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def test_an_items_json_has_its_documented_shape_for_every_reader(site: Site, story: Story, regulator: Any) -> None:
    for item in story.plan.highlights.values():
        for client in (site.client(), regulator):
            fetched(client, url(item), ITEM_SCHEMA)


def test_an_item_is_told_as_of_a_time(site: Site, story: Story, regulator: Any) -> None:
    item = story.highlight("sold_tin")
    now = fetched(regulator, url(item), ITEM_SCHEMA)
    sold_at = max(row["event"]["eventTime"] for row in now["journey"] if row["event"]["bizStep"] == "retail_selling")
    before = datetime.fromisoformat(sold_at).timestamp() - 1

    then = fetched(regulator, url(item), ITEM_SCHEMA, at=iso(before))

    same = fetched(regulator, url(item), ITEM_SCHEMA, asOf=iso(before))
    unclear = regulator.get(url(item), params={"at": iso(before), "asOf": iso(before + 60)})

    assert (now["state"]["is_sold"], then["state"]["is_sold"]) == (True, False)
    assert same == then
    assert (unclear.status_code, unclear.json()["code"]) == (400, "bad_time")
    assert then["as_of"]["at"] == iso(before).replace("+00:00", ".000Z")
    assert then["as_of"]["later"]["happened_after_at"] >= 1
    assert {row["leaf"] for row in then["journey"]} < {row["leaf"] for row in now["journey"]}


def test_what_was_not_known_then_is_not_told(site: Site, story: Story) -> None:
    item = story.highlight("sold_tin")

    for name in ("known", "knownAt"):
        answer = site.client().get(url(item), params={name: iso(NOW - 365 * 86_400)})

        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_item")


@pytest.mark.parametrize("text", ["yesterday", "2026-11-24", "2026-11-24T08:00:00", "99999-01-01T00:00:00Z"])
def test_a_time_without_its_zone_is_refused(site: Site, story: Story, text: str) -> None:
    answer = site.client().get(url(story.highlight("lot")), params={"at": text})

    assert (answer.status_code, answer.json()["code"], answer.json()["pointer"]) == (400, "bad_time", "at")


def test_sensor_exceptions_are_alarms(regulator: Any, story: Story) -> None:
    found = fetched(regulator, url(story.highlight("excursion_tin")), ITEM_SCHEMA)["alarms"]

    assert {(row["exception"], row["type"], row["uom"]) for row in found} == {("ALARM_CONDITION", "Temperature", "CEL")}
    assert fetched(regulator, url(story.highlight("stored_tin")), ITEM_SCHEMA)["alarms"] == []


def test_back_from_a_tin_reaches_the_milk(regulator: Any, story: Story) -> None:
    found = fetched(regulator, url(story.highlight("sold_tin"), "/trace"), TRACE_SCHEMA, direction="back")

    names = {thing["name"] for thing in found["things"]}
    assert any("milk" in (name or "").lower() for name in names)
    assert found["truncated"]["is_truncated"] is False
    milk = {thing["id"] for thing in found["things"] if thing["depth"] == 3}
    assert len(milk) == 6
    drying = [row for row in found["transformations"] if "dryer" in row["id"]]
    assert len(drying) == 2
    for row in drying:
        (balance,) = row["balance"]
        assert balance["inputs"] - balance["outputs"] == balance["unexplained_loss"]


def test_forward_from_a_lot_reaches_every_holder(regulator: Any, story: Story) -> None:
    lot = next(one for one in story.plan.lots if one.fate == "sold")

    found = fetched(regulator, url(lot.id, "/trace"), TRACE_SCHEMA, direction="forward")

    assert sum(row["count"] for row in found["holders"]) == lot.tins
    assert len({item for row in found["holders"] for item in row["items"]}) == lot.tins


def test_pages_of_a_trace_make_the_whole(regulator: Any, story: Story) -> None:
    address = url(story.highlight("lot"), "/trace")
    whole = fetched(regulator, address, TRACE_SCHEMA, direction="forward", limit=1000)

    parts, links, following = [], [], f"{address}?direction=forward&limit=7"
    while following:
        part = fetched(regulator, following, TRACE_SCHEMA)
        parts += part["things"]
        links += part["links"]
        following = part["page"]["next"]

    assert parts == whole["things"]
    assert sorted(map(str, links)) == sorted(map(str, whole["links"]))


def test_a_depth_limit_is_told(regulator: Any, story: Story) -> None:
    found = fetched(regulator, url(story.highlight("sold_tin"), "/trace"), TRACE_SCHEMA, depth=1)

    assert found["truncated"]["because"] == "depth"
    assert found["truncated"]["unexplored"] >= 1
    assert "Not the whole" in found["truncated"]["sentence"]


def test_a_consumer_sees_no_recipe_no_amounts_and_no_other_items(site: Site, story: Story) -> None:
    client = site.client()

    back = fetched(client, url(story.highlight("sold_tin"), "/trace"), TRACE_SCHEMA)
    forward = fetched(client, url(story.highlight("lot"), "/trace"), TRACE_SCHEMA, direction="forward")

    assert {thing["id"] for thing in back["things"]} == {story.highlight("sold_tin"), back["things"][-1]["id"]}
    assert back["hidden"] > 0
    assert all("/21/" not in thing["id"] for thing in forward["things"])
    for document in (back, forward):
        assert "quantity" not in json.dumps(document["things"], default=str).replace('"quantity": null', "")
        assert all(not row["balance"] and not row["inputs"] for row in document["transformations"])


def test_a_serial_number_may_be_the_word_trace(site: Site) -> None:
    answer = site.client().get("/items/01/09526002000103/21/trace")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_item")


def test_a_partners_key_sees_as_a_partner_what_it_took_part_in(site: Site, story: Story) -> None:
    from api.auth.partners import create_key, create_partner

    item = story.highlight("sold_tin")
    shown = {}
    for name, gln in (("maker", "9526002000011"), ("stranger", "9521000000018")):
        with site.database.transaction() as tx:
            partner = create_partner(tx, name=name, gln=gln, is_regulator=False, now_ms=0)
            key = create_key(
                tx, partner, scopes=["query"], now_ms=0, secret=gln.encode().ljust(32, b"x"), expires_ms=None
            )
        shown[name] = fetched(site.client(authorization=f"Bearer {key}"), url(item), ITEM_SCHEMA)

    assert "owner" in shown["maker"]["state"]
    assert "owner" not in shown["stranger"]["state"]
