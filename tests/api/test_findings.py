"""What rules found, as each reader sees it: JSON, consumer page, regulator's trace."""

from typing import Any
from urllib.parse import quote

from api.identity import Role
from ledger import findings, followers, state
from tests.api.conftest import Site
from tests.ledger.test_findings import made, sold
from tests.ledger.world import MAKER, NOW, STORE, World, seen, sgtin_id

ITEM = sgtin_id(1)


def told(site: Site) -> None:
    world = World(site.database).start()
    world.send("line-1", made(1), sold(1, NOW + 3_600), sold(1, NOW + 7_200))
    world.send("line-1", seen(1, step="storing", at=NOW + 9_000, place=STORE))
    world.now += 20_000
    world.step()
    followers.run_all(site.database, state.views())
    findings.run_all(site.database)


def regulator_of(site: Site) -> Any:
    return site.signed_in(site.user("inspector", Role.REGULATOR))


def test_everybody_reads_serious_findings_and_staff_all_of_them_with_their_events(site: Site) -> None:
    told(site)
    regulator = regulator_of(site)

    for_all = site.client(**{"Accept-Language": "en"}).get(f"/items/{quote(ITEM, safe='')}").json()["findings"]
    for_staff = regulator.get(f"/items/{quote(ITEM, safe='')}", headers={"Accept-Language": "en"}).json()["findings"]

    assert [set(one) for one in for_all] == [{"code", "severity", "text"}]
    assert for_all[0]["code"] == "sold_twice"
    assert [one["code"] for one in for_staff] == ["observed_after_sale", "sold_twice"]
    assert all(event in one["text"] for one in for_staff for event in one["events"])
    assert {one["org"] for one in for_staff} == {MAKER}


def test_the_consumer_page_says_the_contradiction_in_both_languages(site: Site) -> None:
    told(site)
    path = ITEM.removeprefix("https://id.gs1.org")

    english = site.client(Accept="text/html").get(path, params={"lang": "en"}).text
    chinese = site.client(Accept="text/html").get(path, params={"lang": "zh-CN"}).text

    assert "By its records it was sold twice without having been returned." in english
    assert "记录显示它被售出过两次" in chinese
    assert MAKER not in english.split('id="findings"')[1].split("</section>")[0]


def test_the_regulators_trace_shows_findings(site: Site) -> None:
    told(site)
    client = regulator_of(site)

    page = client.get("/regulator/trace", params={"code": ITEM, "lang": "en"}, headers={"Accept": "text/html"}).text

    assert "It was sold twice without a return in between." in page


def test_what_came_late_is_shown_as_late_and_is_no_finding(site: Site) -> None:
    world = World(site.database).start()
    world.send("line-1", made(1, at=NOW - 3 * 86_400))
    world.send("line-1", seen(1, step="storing", at=NOW - 60))
    world.step()
    followers.run_all(site.database, state.views())
    findings.run_all(site.database)
    path = ITEM.removeprefix("https://id.gs1.org")

    page = site.client(Accept="text/html").get(path, params={"lang": "en"}).text
    found = regulator_of(site).get(f"/items/{quote(ITEM, safe='')}").json()["findings"]

    assert page.count("late: received") == 1
    assert found == []
