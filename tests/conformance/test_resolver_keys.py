"""Every GS1 key path, known by events or by a master record: page, links, walk-up, methods, bad check digits."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from api.app import create_app
from api.services import Services, WebSettings
from ledger.database import open_database
from ledger.followers import run_all
from ledger.state import views
from tests.api.conftest import Clock, Random, Site
from tests.conformance_data import DATA, needs_data
from tests.ledger.world import MAKER, World, seen

pytestmark = needs_data

BASE = "https://id.example.org"
# Key paths with check digits by hand (weights 3 and 1); the GMN is the example of the GS1 General Specifications.
ITEMS = (
    "/00/340123451111111111", "/01/09521000123458", "/01/09521000123458/10/L1", "/01/09521000123458/21/S%2F1",
    "/253/9521000000018DOC1", "/255/95210000000180001", "/401/9521000CONS", "/402/95210000000000124",
    "/414/9521000000018", "/414/9521000000018/254/bay1", "/417/9521000000018", "/8003/09521000000018SER1",
    "/8004/9521000ASSET", "/8006/095210001234580102/21/S1", "/8010/9521000CPID/8011/77", "/8017/952100000000000018",
    "/8018/952100000000000018",
)  # fmt: skip
# What names no EPC: known by master records alone.
OTHERS = ("/8013/1987654Ad4X4bL5ttr2310c2K", "/415/9521000000018/8020/REF1", "/01/09521000123458/235/TPX1")
# A key with a finer qualifier that nothing was recorded of, and where it leads to.
FINER = {
    "/414/9521000000018/254/unknown": "/414/9521000000018",
    "/01/09521000123458/22/2A/10/L1/21/NEW": "/01/09521000123458",
    "/8018/952100000000000018/8019/12": "/8018/952100000000000018",
    "/417/9521000000018/7040/1ABC": "/417/9521000000018",
}
WRONG = (
    "/00/340123451111111112", "/01/09521000123459/10/L1", "/253/9521000000019DOC1", "/255/95210000000190001",
    "/402/95210000000000125", "/414/9521000000019/254/bay1", "/417/9521000000019", "/8003/09521000000019SER1",
    "/8006/095210001234590102/21/S1", "/8017/952100000000000019", "/8018/952100000000000019/8019/1",
    "/8013/1987654Ad4X4bL5ttr2310c2L", "/415/9521000000019/8020/REF1",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("keys") / "keys.db"
    shutil.copy(sqlite_template, path)
    database = open_database(f"sqlite:///{path}")
    world = World(database).start()
    for item in ITEMS:
        named = {"readPoint": {"id": f"https://id.gs1.org{item}"}} if item.startswith("/41") else {}
        link = f"https://any.example{item}"
        is_class = item.startswith("/01/") and "/21/" not in item
        things = {"quantityList": [{"epcClass": link, "quantity": 5}]} if is_class else {"epcList": [link]}
        world.send("line-1", {**seen(), **things, **named})
    for item in OTHERS:
        world.master(MAKER, f"https://id.gs1.org{item}", "product", {"name_en": "Thing", "name_zh": "物品"})
    world.step()
    run_all(database, views())
    settings = WebSettings(base_url=BASE, is_demo=True)
    yield Site(create_app(Services(db=database, settings=settings, now_ms=Clock(), random=Random())), database, Clock(),
               Random())  # fmt: skip
    database.close()


@pytest.fixture(scope="module")
def schema() -> Any:
    text = (DATA / "gs1" / "gs1-linkset-schema.json").read_text(encoding="utf-8")
    return jsonschema_rs.validator_for(json.loads(text))


@pytest.mark.parametrize("path", [*ITEMS, *OTHERS])
def test_a_key_path_leads_people_to_its_page_and_programs_to_its_links(site: Site, schema: Any, path: str) -> None:
    program, person = site.client(Accept="*/*"), site.client(Accept="text/html")

    default, page = program.get(path), person.get(path)
    linkset, every = program.get(path + "?linkType=gs1:linkset"), program.get(path + "?linkType=all")
    accepted = site.client(Accept="application/linkset+json").get(path)
    head, options = program.head(path), program.options(path)
    follow = person.get(default.headers["Location"].removeprefix(BASE))

    assert (default.status_code, default.headers["Location"]) == (307, f"{BASE}/page{path}")
    assert page.status_code == follow.status_code == 200
    assert linkset.status_code == every.status_code == accepted.status_code == 200
    assert linkset.headers["Content-Type"] == "application/linkset+json"
    assert linkset.json() == every.json() == accepted.json()
    assert list(schema.iter_errors(linkset.json())) == []
    assert linkset.json()["linkset"][0]["anchor"] == BASE + path
    assert (head.status_code, head.headers["Location"], head.content) == (307, default.headers["Location"], b"")
    assert (options.status_code, options.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    for answer in (default, page, linkset, head, options):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert 'rel="linkset"' in default.headers["Link"]


def test_the_page_of_a_code_that_only_master_data_describe_says_so(site: Site) -> None:
    described = site.client(Accept="text/html").get(OTHERS[2] + "?lang=en")
    unknown = site.client(Accept="text/html").get("/01/09521000123458/235/OTHER?lang=en")

    assert 'data-verdict="described"' in described.text
    assert "Thing" in described.text
    assert unknown.status_code == 404


@pytest.mark.parametrize(("path", "expected"), FINER.items())
def test_a_finer_key_walks_up_to_what_is_known(site: Site, path: str, expected: str) -> None:
    answer = site.client(Accept="application/json").get(path)
    linkset = site.client().get(path + "?linkType=linkset")

    assert answer.status_code == 307
    assert expected in answer.headers["Location"].replace("%2F", "/").replace("%3A", ":")
    assert [one["anchor"] for one in linkset.json()["linkset"]][-1].startswith(BASE + expected)


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_check_digit_is_refused_whoever_asks(site: Site, path: str) -> None:
    for accept in ("text/html", "application/json", "application/linkset+json"):
        assert site.client(Accept=accept).get(path).status_code == 400, accept
    assert site.client().head(path).status_code == 400


def test_the_language_of_the_reader_chooses_the_page_and_the_link(site: Site) -> None:
    path = ITEMS[1]
    chinese = site.client(**{"Accept": "*/*", "Accept-Language": "zh-CN,zh;q=0.9,en;q=0.5"})
    english = site.client(**{"Accept": "*/*", "Accept-Language": "en-GB,en;q=0.8,zh;q=0.3"})

    assert chinese.get(path).headers["Location"].endswith("?lang=zh-CN")
    assert english.get(path).headers["Location"].endswith("?lang=en")
    assert 'lang="zh' in chinese.get(path, headers={"Accept": "text/html"}).text
    assert 'lang="en' in english.get(path, headers={"Accept": "text/html"}).text
    assert 'lang="en' in chinese.get(path + "?lang=en", headers={"Accept": "text/html"}).text
