"""Pages, JSON, proofs and resolver over a whole story: what is shown, and what never is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest

from api.identity import Role
from api.services import WebSettings
from api.words import CATALOGUE
from core.bundle import Answers
from core.identifiers import parse
from core.proofs import Policy, questions, verify
from ledger.database import open_database, upgrade
from tests.api.conftest import Clock, Random, Site
from tests.conformance_data import files
from tests.story import AUD, NOW, ORIGIN, Story, tell

FINANCE_WORDS = re.compile(
    r"pledg|loan|lender|borrow|credit|collateral|bank\b|interest rate|price|valuation|margin"
    r"|质押|贷款|借款|授信|抵押|银行|利率|估值|价格",
    re.IGNORECASE,
)
PROMISES = re.compile(r"authentic|genuine|正品|真品|保真|假一赔", re.IGNORECASE)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    database = open_database(f"sqlite:///{folder}/story.db")
    upgrade(database)
    yield tell(database, folder)
    database.close()


@pytest.fixture
def site(story: Story) -> Site:
    from api.app import create_app
    from api.services import Services

    clock, chance = Clock(), Random()
    clock.now_ms = NOW * 1_000 + 5_000
    settings = WebSettings(
        base_url="https://trace.example",
        service=AUD,
        origin=ORIGIN,
        log_contract=story.place.contract,
        chain_id=story.place.chain_id,
        is_demo=True,
    )
    services = Services(
        db=story.database,
        settings=settings,
        chain=story.chain,
        maps=story.maps,
        place=story.place,
        now_ms=clock,
        random=chance,
    )
    return Site(create_app(services), story.database, clock, chance)


def path_of(item: str) -> str:
    return item.removeprefix("https://id.gs1.org")


def page(site: Site, item: str, lang: str = "en", **headers: str) -> str:
    answer = site.client(accept="text/html", **headers).get(f"{path_of(item)}?lang={lang}")
    assert answer.status_code == 200, answer.text
    return answer.text


def verdict(html: str) -> str:
    found = re.search(r'data-verdict="([a-z_]+)"', html)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sold_tin", "sold_first_look"),
        ("unsold_tin", "not_sold"),
        ("stored_tin", "not_sold"),
        ("recalled_tin", "recalled"),
        ("returned_tin", "out_of_use"),
        ("pallet", "unit"),
        ("lot", "class"),
    ],
)
def test_the_verdict_follows_the_state_of_the_item(site: Site, story: Story, name: str, expected: str) -> None:
    assert verdict(page(site, story.highlight(name))) == expected


def test_a_later_look_by_somebody_else_is_told_that_it_was_sold_before(site: Site, story: Story) -> None:
    item = story.highlight("sold_tin")

    first = page(site, item, **{"user-agent": "first phone"})
    again = page(site, item, **{"user-agent": "first phone"})
    other = page(site, item, **{"user-agent": "second phone"})

    assert [verdict(html) for html in (first, again, other)] == ["sold_first_look", "sold_first_look", "sold_before"]


def test_scans_keep_no_address_and_the_salt_rotates(site: Site, story: Story) -> None:
    page(site, story.highlight("unsold_tin"), **{"user-agent": "a telling phone"})
    before = site.app.state.scans.visitor("testclient", "a telling phone", now_ms=site.clock.now_ms)
    site.app.state.scans.flush()

    stored = b"".join(
        path.read_bytes() for path in Path(story.database.url.removeprefix("sqlite:///")).parent.glob("story.db*")
    )

    assert b"a telling phone" not in stored
    assert (
        site.app.state.scans.visitor("testclient", "a telling phone", now_ms=site.clock.now_ms + 86_400_000) != before
    )


def test_an_unknown_serial_and_an_unknown_code_say_what_to_do(site: Site, story: Story) -> None:
    known = parse(story.highlight("sold_tin")).ai[0][1]

    serial = site.client(accept="text/html").get(f"/01/{known}/21/NOSUCH")
    code = site.client(accept="text/html").get("/01/09521234543213/21/1")

    assert (serial.status_code, verdict(serial.text)) == (404, "unknown_serial")
    assert (code.status_code, verdict(code.text)) == (404, "unknown")
    assert "ask the shop" in code.text


def test_guessing_serials_is_throttled(site: Site) -> None:
    client = site.client(accept="text/html")

    codes = [client.get(f"/01/09521234543213/21/{serial}").status_code for serial in range(62)]

    assert codes[:60] == [404] * 60
    assert codes[-1] == 429


def test_consumer_pages_and_json_hold_no_word_of_finance_and_no_promise(site: Site, story: Story) -> None:
    for item in story.plan.highlights.values():
        for lang in ("en", "zh-CN"):
            html = page(site, item, lang)
            assert FINANCE_WORDS.search(html) is None, FINANCE_WORDS.search(html)
            assert PROMISES.search(html) is None
        answer = site.client().get(f"/items/{quote(item, safe='')}")
        assert FINANCE_WORDS.search(answer.text) is None, FINANCE_WORDS.search(answer.text)
        assert "bizTransactionList" not in json.dumps([row["event"] for row in answer.json()["journey"]])


def test_the_page_is_whole_without_scripts_in_both_languages(site: Site, story: Story) -> None:
    item = story.highlight("sold_tin")

    english, chinese = page(site, item), page(site, item, "zh-CN")

    assert '<html lang="zh-CN">' in chinese
    assert "Infant formula stage 1, 900 g tin" in english
    assert "婴儿配方乳粉1段 900克罐装" in chinese
    for html in (english, chinese):
        assert html.count("<svg") >= 5
        assert "chart-line" in html
        assert "map-route" in html
        assert "<noscript>" in html
        assert "{" not in re.sub(r"data-words=\"[^\"]*\"", "", html)


def test_the_language_is_chosen_by_query_then_cookie_then_header(site: Site, story: Story) -> None:
    path = path_of(story.highlight("sold_tin"))
    client = site.client(accept="text/html")

    assert '<html lang="zh-CN">' in client.get(path, headers={"accept-language": "fr, zh-CN;q=0.8, en;q=0.5"}).text
    assert '<html lang="en">' in client.get(path + "?lang=en", headers={"accept-language": "zh-CN"}).text
    assert '<html lang="en">' in client.get(path, headers={"accept-language": "zh-CN"}).text
    assert '<html lang="zh-CN">' in client.get(path + "?lang=zh-CN").text


def test_the_excursion_is_marked(site: Site, story: Story) -> None:
    html = page(site, story.highlight("excursion_tin"))

    assert "chart-out" in html
    assert "outside the limit" in html


def test_a_correction_is_shown_beside_what_it_corrects(site: Site, story: Story) -> None:
    pages = [page(site, pallet.sscc) for pallet in story.plan.collateral]
    pages += [page(site, story.highlight(name)) for name in ("sold_tin", "recalled_tin", "excursion_tin")]

    assert any("corrected the record of" in html and "withdrawn by whoever recorded it" in html for html in pages)


@pytest.mark.parametrize("spell", ["plain", "encoded", "urn", "element", "path"])
def test_an_item_answers_under_every_spelling(site: Site, story: Story, spell: str) -> None:
    item = story.highlight("sold_tin")
    (_, gtin), (_, serial) = parse(item).ai
    spelled = {
        "plain": item,
        "encoded": quote(item, safe=""),
        "urn": f"urn:epc:id:sgtin:{gtin[1:8]}.{gtin[0]}{gtin[8:13]}.{serial}",
        "element": quote(f"(01){gtin}(21){serial}"),
        "path": item.removeprefix("https://id.gs1.org/"),
    }[spell]

    document = site.client().get(f"/items/{spelled}").json()

    assert document["item"] == item
    assert document["state"]["is_sold"] is True
    assert document["journey"][-1]["event"]["bizStep"] == "retail_selling"


def test_more_is_disclosed_to_those_who_may_see_more(site: Site, story: Story) -> None:
    url = f"/items/{quote(story.highlight('sold_tin'), safe='')}"
    regulator = site.signed_in(site.user(f"regulator{id(site)}", Role.REGULATOR))

    public, official = site.client().get(url).json(), regulator.get(url).json()

    assert "bizTransactionList" in json.dumps(official)
    assert "bizTransactionList" not in json.dumps([row["event"] for row in public["journey"]])
    assert any("bizTransactionList" in row["not_shown"] for row in public["journey"])


def test_the_proof_verifies_against_the_chain_as_a_reader_asks_it(site: Site, story: Story) -> None:
    client = site.client()
    data = client.get(f"/items/{quote(story.highlight('sold_tin'), safe='')}/proof").content

    calls = []
    for number, question in enumerate(questions(data)):
        body = {
            "jsonrpc": "2.0",
            "id": number,
            "method": "eth_call",
            "params": [{"to": question.to, "data": question.data}, "finalized"],
        }
        calls.append(bytes.fromhex(client.post("/rpc", json=body).json()["result"][2:]))
    answers = Answers(story.place.chain_id, story.place.genesis, tuple(calls))
    report = verify(data, answers, Policy(story.place.contract))

    assert report.item == story.highlight("sold_tin")
    assert report.coverage == "whole"
    assert [event.event["bizStep"] for event in report.events][-1] == "retail_selling"


def test_the_bundle_of_the_public_discloses_no_trade_documents(site: Site, story: Story) -> None:
    url = f"/items/{quote(story.highlight('sold_tin'), safe='')}/proof"
    regulator = site.signed_in(site.user(f"inspector{id(site)}", Role.REGULATOR))

    public, official = site.client().get(url).json(), regulator.get(url).json()

    assert _disclosed(official) > _disclosed(public)
    assert "bizTransactionList" not in _disclosed(public)


def _disclosed(bundle: dict[str, Any]) -> set[str]:
    from core.canonical import unb64u

    return {json.loads(unb64u(text))[1] for entry in bundle["entries"] for text in entry.get("disclosures", [])}


def test_the_log_serves_its_checkpoint_and_tiles(site: Site, story: Story) -> None:
    client = site.client()
    note = client.get("/log/checkpoint").text
    size = int(note.split("\n")[1])

    full = client.get("/log/tile/0/000")
    part = client.get(f"/log/tile/0/{size // 256:03}.p/{size % 256}")

    assert len(full.content) == 256 * 32
    assert "immutable" in full.headers["cache-control"]
    assert len(part.content) == size % 256 * 32
    for wrong in ("0/x000/000", "0/00", "64/000", "0/999", "0/000.p/0", "0/000.p/256", "data/000"):
        assert client.get(f"/log/tile/{wrong}").status_code == 404
    # Entries and item lists are for registered mirrors: who signs no request learns nothing of them.
    assert [client.get(f"/log/tile/{kind}/000").status_code for kind in ("entries", "items")] == [401, 401]


def test_readiness_tests_its_parts_and_metrics_count(site: Site) -> None:
    client = site.client()

    assert client.get("/readyz").json()["parts"] == {"database": "ok", "chain": "ok"}
    assert re.search(r"^tracebond_log_size \d+", client.get("/metrics").text, re.MULTILINE)


def test_the_regulator_traces_and_sees_the_anchors(site: Site, story: Story) -> None:
    client = site.signed_in(site.user(f"tracer{id(site)}", Role.REGULATOR))
    client.headers["accept"] = "text/html"

    trace = client.get(f"/regulator/trace?code={quote(story.highlight('sold_tin'), safe='')}").text
    home = client.get("/regulator").text

    assert "Example Supermarkets" in trace or "Mother" in trace
    assert "final" in home


# The resolver over the story; its standard's statements are in tests/conformance/test_resolver.py.


def test_the_resolver_redirects_to_the_default_link_with_the_query(site: Site, story: Story) -> None:
    path = path_of(story.highlight("sold_tin"))

    answer = site.client().get(f"{path}?a=1&b=2")

    assert answer.status_code == 307
    assert answer.headers["location"] == f"https://trace.example/page{path}?a=1&b=2"
    assert 'rel="linkset"' in answer.headers["link"]
    assert 'rel="owl:sameAs"' in answer.headers["link"]
    assert 'rel="http://www.w3.org/ns/json-ld#context"' in answer.headers["link"]


def test_the_linkset_has_every_level_and_fits_the_schema(site: Site, story: Story) -> None:
    item = story.highlight("sold_tin")
    path = path_of(item)
    lot = next(row["state"]["lot"] for row in [site.client().get(f"/items/{quote(item, safe='')}").json()])
    serial = path.replace("/21/", f"/10/{lot.rpartition('/')[2]}/21/")

    for answer in (
        site.client(accept="application/linkset+json").get(serial),
        site.client().get(f"{serial}?linkType=linkset"),
    ):
        assert answer.headers["content-type"] == "application/linkset+json"
        document = answer.json()
        anchors = [context["anchor"] for context in document["linkset"]]
        assert anchors[0] == f"https://trace.example{serial}"
        assert len(anchors) == 3
        for context in document["linkset"]:
            default = context["https://gs1.org/voc/defaultLink"]
            assert [set(link) for link in default] == [{"href", "title"}]
            assert context["https://gs1.org/voc/traceability"][0]["hreflang"] == ["en"]
        for schema in files("gs1", "gs1-linkset-schema.json"):
            jsonschema_rs.validator_for(json.loads(schema.read_bytes())).validate(document)


def test_a_link_type_is_followed_or_not_found(site: Site, story: Story) -> None:
    path = path_of(story.highlight("sold_tin"))
    client = site.client()

    pip = client.get(f"{path}?linkType=gs1:pip", headers={"accept-language": "zh-CN"})
    data = client.get(f"{path}?linkType=gs1:traceability", headers={"accept": "application/json"})

    assert pip.status_code == 307
    assert "lang=zh-CN" in pip.headers["location"]
    assert "/items/" in data.headers["location"]
    assert client.get(f"{path}?linkType=gs1:nosuchtype").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/01/09521234543214",
        "/01/123",
        "/01/09521234543213/99/x",
        "/01/09521234543213/21/",
        "/00/1",
        "/01/09521234543213/21/a%ZZ",
    ],
)
def test_a_wrong_digital_link_is_400(site: Site, path: str) -> None:
    answer = site.client().get(path)

    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_the_resolver_knows_head_options_cors_and_trailing_slashes(site: Site, story: Story) -> None:
    path = path_of(story.highlight("sold_tin"))
    client = site.client()

    assert client.head(path).status_code == 307
    assert client.get(path + "/").status_code == 307
    options = client.options(path)
    assert options.headers["access-control-allow-origin"] == "*"
    assert {"GET", "HEAD", "OPTIONS"} <= set(options.headers["allow"].split(", "))
    assert client.get(path).headers["access-control-allow-origin"] == "*"


def test_the_resolver_describes_itself(site: Site) -> None:
    description = site.client().get("/.well-known/gs1resolver").json()

    assert description["resolverRoot"] == "https://trace.example"
    assert {"00", "01", "414", "8003"} <= set(description["supportedPrimaryKeys"])
    context = site.client().get(description["jsonLdContextLocation"].removeprefix("https://trace.example"))
    assert context.headers["content-type"] == "application/ld+json"


def test_no_error_ever_answers_200(site: Site) -> None:
    for path in ("/01/09521234543213/21/NOSUCH", "/01/09521234543213?linkType=linkset", "/nowhere", "/items/x"):
        assert site.client(accept="text/html").get(path).status_code >= 400


def test_both_languages_are_complete_and_have_the_same_places() -> None:
    for key, (chinese, english) in CATALOGUE.items():
        places = [sorted(re.findall(r"\{\w+\}", text)) for text in (chinese, english)]
        assert places[0] == places[1], key
        assert bool(chinese) == bool(english), key
        assert not re.search(r"[\u4e00-\u9fff]", english) or key == "app.other_language", key


def test_every_word_that_templates_use_is_in_the_catalogue() -> None:
    folder = Path(__file__).parents[2] / "api" / "templates"
    used = {
        key
        for file in folder.glob("*.html")
        for key in re.findall(r"""\bt\(["']([a-z_.0-9]+)["'][,)]""", file.read_text())
    }

    assert used - set(CATALOGUE) == set()
    assert len(used) > 150
