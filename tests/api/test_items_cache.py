"""A kept page is never shown once anything that it rests on has changed."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from ledger.followers import run_all
from ledger.state import views
from tests.api.conftest import Site
from tests.ledger.world import MAKER, NOW, World, packed, seen, sgtin, sscc

PATH = "/01/09521000123458/21/1"


@pytest.fixture
def world(make_site: Callable[..., Site], sqlite_database: Any) -> World:
    world = World(sqlite_database).start()
    world.master(MAKER, "https://id.gs1.org/01/09521000123458", "product", {"name_en": "Tin", "name_zh": "罐"})
    lot = {"cbvmda:lotNumber": "L1"}
    world.send("line-1", seen(1, 2, step="commissioning", action="ADD", ilmd=lot))
    world.send("line-1", packed(sscc(1), [sgtin(1)], at=NOW + 1))
    run(world)
    return world


@pytest.fixture
def reads(sqlite_database: Any) -> list[str]:
    """The statements that read disclosures: only a page made anew needs them."""
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *more: Any) -> None:
        if "disclosures" in statement:
            found.append(statement)

    sa.event.listen(sqlite_database._read, "before_cursor_execute", note)
    return found


def run(world: World) -> None:
    world.step()
    run_all(world.database, views())


def recall_of(name: str) -> dict[str, Any]:
    event = seen(at=NOW + 5, step="holding", disposition="recalled")
    del event["epcList"]
    return event | {"quantityList": [{"epcClass": name, "quantity": 1}]}


def test_a_second_look_is_answered_from_the_kept_page(site: Site, world: World, reads: list[str]) -> None:
    client = site.client(accept="text/html")

    first = client.get(PATH)
    reads.clear()
    second = client.get(PATH)

    assert (first.status_code, second.text, second.headers["vary"]) == (200, first.text, first.headers["vary"])
    assert reads == []
    assert client.get(PATH, params={"lang": "zh-CN"}).headers["content-language"] == "zh-CN"


@pytest.mark.parametrize(
    "event",
    [
        recall_of("urn:epc:class:lgtin:9521000.012345.L1"),
        recall_of("urn:epc:idpat:sgtin:9521000.012345.*"),
        seen(1, at=NOW + 5, disposition="recalled"),
    ],
    ids=["lot", "product", "item"],
)
def test_a_recall_shows_at_the_very_next_look(site: Site, world: World, event: dict[str, Any]) -> None:
    client = site.client(accept="text/html")
    before = client.get(PATH)
    assert 'data-verdict="not_sold"' in before.text

    world.send("line-1", event)
    run(world)

    assert 'data-verdict="recalled"' in client.get(PATH).text


def test_an_event_of_the_container_and_new_master_data_show_at_once(site: Site, world: World) -> None:
    client = site.client(accept="text/html")
    before = client.get(PATH).text

    world.send(
        "truck-1", seen(at=NOW + 9, step="receiving", place="urn:epc:id:sgln:9521000.00002.0") | {"epcList": [sscc(1)]}
    )
    run(world)
    moved = client.get(PATH).text
    world.master(MAKER, "https://id.gs1.org/01/09521000123458", "product", {"name_en": "New name", "name_zh": "新"})
    run(world)
    renamed = client.get(PATH).text

    assert moved != before
    assert "New name" in renamed
    assert "New name" not in moved


def test_an_end_record_that_takes_evidence_back_shows_at_once(site: Site, world: World) -> None:
    client = site.client(accept="text/html")
    world.send("truck-1", seen(1, at=NOW + 20, step="retail_selling", disposition="retail_sold"))
    run(world)
    assert 'data-verdict="sold' in client.get(PATH).text

    world.end("truck-1", last=None, seq=-1)
    run(world)

    assert 'data-verdict="sold' not in client.get(PATH).text


def test_kept_json_tells_a_recall_at_the_very_next_look(site: Site, world: World) -> None:
    client, path = site.client(), "/items/" + PATH.removeprefix("/").replace("/", "%2F")
    assert client.get(path).json()["state"]["is_recalled"] is False
    assert client.get(path).json()["state"]["is_recalled"] is False

    world.send("line-1", recall_of("urn:epc:class:lgtin:9521000.012345.L1"))
    run(world)

    assert client.get(path).json()["state"]["is_recalled"] is True
