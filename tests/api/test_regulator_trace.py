"""The regulator's trace: search, one screen, downloads that prove their rows, and the state of an earlier day."""

import csv
import io
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from api.app import create_app
from api.identity import Role
from api.services import Services, WebSettings
from core.canonical import b64u, unb64u
from core.identifiers import parse
from core.merkle import verify_inclusion
from ledger.database import open_database
from ledger.followers import run_all
from ledger.queryindex import QueryIndex
from ledger.tiles import inclusion_proof, root
from tests.api.conftest import Clock, Random, Site
from tests.story import NOW, Story, tell


@pytest.fixture(scope="module")
def story(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("regulator")
    shutil.copy(sqlite_template, folder / "story.db")
    database = open_database(f"sqlite:///{folder}/story.db")
    told = tell(database, folder)
    run_all(database, QueryIndex())
    yield told
    database.close()


@pytest.fixture(scope="module")
def site(story: Story) -> Site:
    clock = Clock()
    clock.now_ms = NOW * 1_000 + 5_000
    settings = WebSettings(base_url="https://trace.example", log_contract=story.place.contract)
    services = Services(db=story.database, settings=settings, now_ms=clock, random=Random())
    return Site(create_app(services), story.database, clock, Random())


@pytest.fixture(scope="module")
def client(site: Site) -> Any:
    return site.signed_in(site.user("trace-regulator", Role.REGULATOR))


def page(client: Any, code: str, lang: str = "en", **query: str) -> str:
    answer = client.get(
        "/regulator/trace", params={"code": code, "lang": lang, **query}, headers={"accept": "text/html"}
    )
    assert answer.status_code == 200, answer.text
    text: str = answer.text
    return text


def rows(client: Any, path: str, **query: str) -> dict[str, list[tuple[Any, ...]]]:
    answer = client.get(path, params={"lang": "en", **query})
    assert answer.status_code == 200, answer.text
    book = openpyxl.load_workbook(io.BytesIO(answer.content))
    for sheet in book.worksheets:
        assert sheet.freeze_panes == "A2"
    return {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}


def test_one_screen_shows_origin_whereabouts_balance_and_records(client: Any, story: Story) -> None:
    for lang, words in (("en", ("Mass balance", "Raw", "held")), ("zh-CN", ("物料平衡", "持有者", "来源与去向"))):
        html = page(client, story.highlight("recalled_lot"), lang)
        assert "graph-box start" in html
        assert html.count("graph-box raw") >= 4
        assert "graph-edge" in html
        assert all(word in html for word in words)


@pytest.mark.parametrize("spell", ["element", "lot number", "serial number", "sscc digits"])
def test_goods_are_found_by_what_is_at_hand(client: Any, story: Story, spell: str) -> None:
    (_, gtin), (_, serial) = parse(story.highlight("sold_tin")).ai
    lot = dict(parse(story.highlight("lot")).ai)["10"]
    pallet = parse(story.highlight("pallet")).ai[0][1]
    code = {
        "element": f"(01){gtin}(21){serial}", "lot number": lot, "serial number": serial, "sscc digits": pallet,
    }[spell]  # fmt: skip

    assert "graph-box start" in page(client, code)


def test_goods_are_found_by_place_organisation_and_document(client: Any, story: Story) -> None:
    document = "https://lab.example/report/" + dict(parse(story.highlight("lot")).ai)["10"]
    store = next(place for place in story.plan.cast.places if place.name == "warehouse-a" or "store" in place.name)

    assert "Goods named with this document" in page(client, document)
    assert "Goods" in page(client, store.id)
    for org in story.plan.cast.organisations:
        if org.role == "custodian":
            assert "Goods held by this organisation" in page(client, org.gln)


def test_an_unknown_code_says_so(client: Any) -> None:
    assert "No record names it." in page(client, "NOSUCHTHING")
    assert "check digit" in page(client, "(01)09526002000104")


def test_an_earlier_day_is_shown_as_it_was_known(client: Any, story: Story) -> None:
    item = story.highlight("recalled_tin")

    now, then = page(client, item), page(client, item, known="2026-11-02T12:00")

    assert "not recalled" not in now
    assert "not recalled" in then or "No record names it." in then


def test_a_program_gets_the_same_as_json(client: Any, story: Story) -> None:
    document = client.get("/regulator/trace", params={"code": story.highlight("lot")}).json()

    assert document["view"]["item"] == story.highlight("lot")
    assert document["view"]["holders"]


def test_only_regulators_may_ask(site: Site, story: Story) -> None:
    bank = site.signed_in(site.user("trace-bank", Role.BANK_MAKER))

    for path in ("trace", "trace.xlsx", "recall.csv", "recall.xlsx"):
        assert bank.get(f"/regulator/{path}", params={"code": story.highlight("lot")}).status_code == 403


def test_the_workbook_has_real_dates_filters_and_every_event(client: Any, story: Story) -> None:
    sheets = rows(client, "/regulator/trace.xlsx", code=story.highlight("sold_tin"))

    heads, *events = sheets["Traceability"]
    when = heads.index("Event time (UTC)")
    assert all(isinstance(row[when], datetime) for row in events)
    assert [row[when] for row in events] == sorted(row[when] for row in events)
    kinds = {row[heads.index("Critical tracking event")] for row in events}
    assert {"Shipping", "Receiving", "Transformation"} <= kinds
    codes = {row[heads.index("Traceability lot code")] for row in events}
    assert story.highlight("lot") in codes or any("/10/" in str(code) for code in codes)
    assert list(sheets) == ["Traceability", "Holders", "Mass balance", "Evidence", "About"]


def test_each_row_of_the_evidence_sheet_is_proven_by_the_log(client: Any, story: Story) -> None:
    sheets = rows(client, "/regulator/trace.xlsx", code=story.highlight("sold_tin"))

    heads, *evidence = sheets["Evidence"]
    at = {
        name: heads.index(name)
        for name in ("Row", "Leaf index", "Leaf hash", "Anchored size", "Anchored root", "chain_tx")
    }
    assert {row[at["Row"]] for row in evidence} == {row[0] for row in sheets["Traceability"][1:]}
    with story.database.reading() as tx:
        for row in evidence:
            size, leaf = row[at["Anchored size"]], row[at["Leaf index"]]
            anchored = unb64u(row[at["Anchored root"]], length=32)
            assert anchored == root(tx, size)
            proof = inclusion_proof(tx, leaf, size)
            verify_inclusion(leaf, size, unb64u(row[at["Leaf hash"]], length=32), proof, anchored)
            assert row[at["chain_tx"]].startswith("0x")
    assert b64u(anchored) == row[at["Anchored root"]]


def test_the_recall_list_names_every_item_once_in_both_forms(client: Any, story: Story) -> None:
    lot = next(one for one in story.plan.lots if one.fate == "recalled")

    text = client.get("/regulator/recall.csv", params={"code": lot.id, "lang": "en"}).content.decode("utf-8-sig")
    table = list(csv.reader(io.StringIO(text)))
    sheets = rows(client, "/regulator/recall.xlsx", code=lot.id)

    item = table[0].index("Item")
    assert len({row[item].lstrip("'") for row in table[1:]}) == lot.tins
    assert {row[item].lstrip("'") for row in table[1:]} == {row[item] for row in sheets["Holders"][1:]}


def test_chinese_workbooks_have_chinese_heads(client: Any, story: Story) -> None:
    sheets = rows(client, "/regulator/trace.xlsx", code=story.highlight("lot"), lang="zh-CN")

    assert "追溯批次代码" in sheets["追溯事件"][0]


def test_downloads_of_nothing_are_not_found(client: Any) -> None:
    assert client.get("/regulator/trace.xlsx", params={"code": "NOSUCHTHING"}).status_code == 404
