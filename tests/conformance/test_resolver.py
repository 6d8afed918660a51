"""The statements of the GS1-Conformant Resolver Standard 1.0, one test each, in the order of the criteria file."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema_rs
import pytest

from api.app import create_app
from api.services import Services, WebSettings
from ledger.database import open_database
from ledger.followers import run_all
from ledger.state import views
from tests.api.conftest import Clock, Random, Site
from tests.conformance_data import DATA, files, needs_data
from tests.ledger.world import MAKER, World, packed, seen, sscc

pytestmark = needs_data

BASE = "https://id.example.org"
GTIN = "09521000123458"
SERIAL = f"/01/{GTIN}/10/L1/21/A1"
CERTIFICATE = "https://certificates.example.org/haccp/17"
VOC = "https://gs1.org/voc/"
CRITERIA = DATA / "gs1" / "resolver-criteria-1.0.txt"
# Made with the GS1 toolkit's own algorithm by the PyPI package gs1-compression 0.1.3 (Apache 2.0).
PACKED = {"ARHKVAdpQg": "/01/09780345418913", "ABeRcNWtKMPA": "/00/106141412345678908"}
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
PACKED_WITH_DATA = "AQnYUc1gmiERBhQ0ytiyZuAGOLc1TXgpNWCv1"


@pytest.fixture(scope="module")
def site(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("resolver") / "resolver.db"
    shutil.copy(sqlite_template, path)
    database = open_database(f"sqlite:///{path}")
    world = World(database).start()
    links = [
        {"rel": "gs1:hasRetailers", "href": "https://maker.example.org/shops", "title": "Shops", "hreflang": ["en"],
         "type": "text/html"},
        {"rel": "gs1:instructions", "href": "https://maker.example.org/cn", "title": "使用说明", "hreflang": ["zh"],
         "type": "application/pdf", "context": ["CN"]},
        {"rel": "gs1:instructions", "href": "https://maker.example.org/fr", "title": "Notice", "hreflang": ["fr"],
         "type": "application/pdf", "context": ["FR"]},
        {"rel": "gs1:instructions", "href": "javascript:alert(1)", "title": "never"},
    ]  # fmt: skip
    product = {"name_en": "Formula", "name_zh": "配方乳粉", "links": links}
    world.master(MAKER, f"https://id.gs1.org/01/{GTIN}", "product", product)
    for path in ("01/09780345418913", "00/106141412345678908", "01/05412345000013"):
        world.master(MAKER, f"https://id.gs1.org/{path}", "product", {"name_en": "Thing", "name_zh": "物品"})
    lot = {"cbvmda:lotNumber": "L1"}
    world.send("line-1", seen("A1", step="commissioning", action="ADD", ilmd=lot, certificationInfo=CERTIFICATE))
    world.send("line-1", packed(sscc(1), ["urn:epc:id:sgtin:9521000.012345.A1"]))
    world.step()
    run_all(database, views())
    settings = WebSettings(base_url=BASE, is_demo=True)
    services = Services(db=database, settings=settings, now_ms=Clock(), random=Random())
    yield Site(create_app(services), database, Clock(), Random())
    database.close()


def get(site: Site, path: str, **headers: str) -> Any:
    return site.client(**headers).get(path)


def linkset(site: Site, path: str = SERIAL) -> list[dict[str, Any]]:
    answer = get(site, path + "?linkType=linkset")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["linkset"]
    return found


def every_link(site: Site) -> Iterator[tuple[str, dict[str, Any]]]:
    for context in linkset(site):
        for rel, rows in context.items():
            if rel not in ("anchor", "itemDescription"):
                for row in rows:
                    yield rel, row


def dictionary() -> dict[str, list[list[str]]]:
    """Primary keys with the orders of their qualifiers, as the GS1 syntax dictionary lists them."""
    keys: dict[str, list[list[str]]] = {}
    for line in (DATA / "gs1" / "gs1-syntax-dictionary.txt").read_text().splitlines():
        found = re.match(r"(\d+)\s.*\bdlpkey(?:=(\S+))?", line.partition("#")[0])
        if found:
            keys[found[1]] = [order.split(",") for order in (found[2] or "").split("|") if order]
    return keys


VALUES = {
    "00": "106141412345678908", "01": GTIN, "253": "9521000000018DOC", "255": "95210000000180123", "401": "9521000CONS",
    "402": "95210000000000013", "414": "9521000000018", "415": "9521000000018", "417": "9521000000018",
    "8003": "09521000000018AB", "8004": "9521000A1", "8006": GTIN + "0102", "8010": "9521000PART",
    "8013": "9521000MODELX",
    "8017": "952100000000000016", "8018": "952100000000000016",
    "10": "L1", "21": "S1", "22": "2A", "235": "TPX1", "254": "X1", "7040": "1ABC", "8011": "12",
    "8019": "1", "8020": "R1",
}  # fmt: skip


def valued(ai: str) -> str:
    from core.gs1 import check_digit, check_pair

    value = VALUES[ai]
    if ai == "8013":
        return value + check_pair(value)
    if ai in ("402", "8017", "8018"):
        return value[:-1] + check_digit(value[:-1])
    return value


def c01(site: Site) -> None:
    keys = dictionary()
    assert len(keys) == 16
    for key, orders in keys.items():
        for order in [[], *([one] for o in orders for one in o), *orders]:
            path = f"/{key}/{valued(key)}" + "".join(f"/{ai}/{valued(ai)}" for ai in order)
            assert get(site, path).status_code in (307, 404), path
        for order in orders:
            if len(order) > 1:
                path = f"/{key}/{valued(key)}" + "".join(f"/{ai}/{valued(ai)}" for ai in reversed(order))
                assert get(site, path).status_code == 400, path


def c02(site: Site) -> None:
    client = site.client()
    assert client.get(SERIAL).status_code == 307
    assert client.head(SERIAL).status_code == 307
    assert client.head(SERIAL).content == b""
    for path in (SERIAL, "/ARHKVAdpQg", "/gtin/09780345418913"):
        options = client.options(path)
        assert options.status_code == 204
        assert {"GET", "HEAD", "OPTIONS"} <= set(options.headers["allow"].split(", "))


def c03(site: Site) -> None:
    from fastapi.testclient import TestClient

    answer = TestClient(site.app, base_url="https://testserver", follow_redirects=False).get(SERIAL)
    assert "max-age" in answer.headers["strict-transport-security"]
    assert all(link["href"].startswith("https://") for _, link in every_link(site))


def c04(site: Site) -> None:
    for path in (
        SERIAL,
        "/ARHKVAdpQg",
        "/01/123",
        "/gtin/09780345418913",
        "/01/00000000000000",
        SERIAL + "?linkType=all",
    ):
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = site.client(origin="https://elsewhere.example").request(method, path)
            assert answer.headers["access-control-allow-origin"] == "*", (method, path)
    assert "Link" in get(site, SERIAL).headers["access-control-expose-headers"]


def c05(site: Site) -> None:
    wrong = (
        "/01/09521000123459", "/01/123", f"/01/{GTIN}/99/x", f"/01/{GTIN}/21/", f"/01/{GTIN}/21/A%ZZ",
        f"/01/{GTIN}/21/A1/10/L1", f"/01/{GTIN}/21/123456789012345678901", "/00/1", "/8003/19521000000018AB",
        f"/01/{GTIN}/21/%E4%B8%AD", "/ARHKVAdpQgAA",
        f"{SERIAL}?17=269931", f"{SERIAL}?02=09521000123459", f"{SERIAL}?9999=1", f"{SERIAL}?3103=12",
    )  # fmt: skip
    for path in wrong:
        answer = get(site, path)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), path
    assert get(site, f"{SERIAL}?17=261231&3103=000500&color=red").status_code == 307


def c06(site: Site) -> None:
    for path in (f"/01/{GTIN}/21/NOSUCH", "/01/09521000999994?linkType=linkset", "/01/1", "/nowhere", "/items/x"):
        assert get(site, path, accept="text/html").status_code >= 400
    assert get(site, "/01/00614141123452").status_code == 404


def c07(site: Site) -> None:
    for text, path in PACKED.items():
        assert urlsplit(get(site, "/" + text).headers["location"]).path == "/page" + path
    # Partly compressed: the key in clear; packed are (21), encoding 3, two characters, S and 1.
    bits = "001000010110001001001011010100"
    packed_serial = "".join(BASE64[int(bits[at : at + 6], 2)] for at in range(0, len(bits), 6))
    assert f'<{BASE}/01/{GTIN}/21/S1>; rel="owl:sameAs"' in get(site, f"/01/{GTIN}/{packed_serial}").headers["link"]


def c08(site: Site) -> None:
    for text, path in PACKED.items():
        assert get(site, "/" + text).headers["location"] != BASE + path


def c09(site: Site) -> None:
    for text, path in PACKED.items():
        assert f'<{BASE}{path}>; rel="owl:sameAs"' in get(site, "/" + text).headers["link"]


def c10(site: Site) -> None:
    """No redirect leads to another resolver: every link of the linkset is an end, and none is packed."""
    answer = get(site, "/ARHKVAdpQg")
    assert answer.headers["location"].startswith(BASE + "/page/01/")
    assert "ARHKVAdpQg" not in answer.headers["location"]


def c11(site: Site) -> None:
    asked = get(site, SERIAL + "?linkType=linkset")
    accepted = get(site, SERIAL, accept="application/linkset+json")
    every = get(site, SERIAL + "?linkType=all")
    for answer in (asked, accepted, every):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/linkset+json"
        assert answer.json() == asked.json()
        for schema in files("gs1", "gs1-linkset-schema.json"):
            jsonschema_rs.validator_for(json.loads(schema.read_bytes())).validate(answer.json())


def c12(site: Site) -> None:
    anchors = [context["anchor"] for context in linkset(site)]
    assert anchors == [f"{BASE}/01/{GTIN}/10/L1/21/A1", f"{BASE}/01/{GTIN}/10/L1", f"{BASE}/01/{GTIN}"]
    retailers = [context.get(VOC + "hasRetailers") for context in linkset(site)]
    assert retailers[-1] is not None
    assert retailers[-1][0]["href"] == "https://maker.example.org/shops"


def c13(site: Site) -> None:
    for text, path in PACKED.items():
        assert linkset(site, "/" + text)[0]["anchor"] == BASE + path


def c14(site: Site) -> None:
    for rel, link in every_link(site):
        assert rel.startswith(VOC)
        assert urlsplit(link["href"]).scheme == "https"
        assert link["title"]
    with_language = [link for rel, link in every_link(site) if rel in (VOC + "pip", VOC + "traceability")]
    assert all(link["hreflang"] for link in with_language)


def c15(site: Site) -> None:
    registered = {"text/html", "application/json", "application/ld+json", "application/pdf"}
    assert {link["type"] for _, link in every_link(site) if "type" in link} <= registered


def c16(site: Site) -> None:
    for context in linkset(site):
        described = {
            link["href"]
            for rel, rows in context.items()
            if rel.startswith(VOC) and not rel.startswith(VOC + "defaultLink")
            for link in rows
        }
        for rel in ("defaultLink", "defaultLinkMulti"):
            assert {link["href"] for link in context[VOC + rel]} <= described


def c17(site: Site) -> None:
    header = get(site, SERIAL).headers["link"]
    found = re.search(r'<([^>]+)>; rel="http://www.w3.org/ns/json-ld#context"; type="application/ld\+json"', header)
    assert found is not None
    answer = get(site, found[1].removeprefix(BASE))
    assert answer.headers["content-type"] == "application/ld+json"
    assert "@context" in answer.json()


def c18(site: Site) -> None:
    for context in linkset(site):
        assert [set(link) for link in context[VOC + "defaultLink"]] == [{"href", "title"}]


def c19(site: Site) -> None:
    assert get(site, SERIAL).headers["location"] == f"{BASE}/page{SERIAL}"
    better = get(site, SERIAL, accept="application/json").headers["location"]
    assert better.startswith(f"{BASE}/items/")


def c20(site: Site) -> None:
    """An unknown serial of a known lot leads to the lot, of a known product to the product; else there is nothing."""
    assert get(site, f"/01/{GTIN}/10/L1/21/NEW").headers["location"] == f"{BASE}/page/01/{GTIN}/10/L1"
    assert get(site, f"/01/{GTIN}/21/NEW").headers["location"] == f"{BASE}/page/01/{GTIN}"
    assert get(site, "/01/00614141123452/21/NEW").status_code == 404


def c21(site: Site) -> None:
    expected = {
        "gs1:pip": f"{BASE}/page{SERIAL}", "gs1:traceability": f"{BASE}/page{SERIAL}",
        "gs1:recallStatus": f"{BASE}/page{SERIAL}", VOC + "epcis": f"{BASE}/epcis/events",
        "gs1:certificationInfo": CERTIFICATE, "gs1:hasRetailers": "https://maker.example.org/shops",
    }  # fmt: skip
    for link_type, target in expected.items():
        answer = site.client().get(SERIAL, params={"linkType": link_type})
        assert answer.status_code == 307, link_type
        assert answer.headers["location"].startswith(target), link_type


def c22(site: Site) -> None:
    for link_type in ("gs1:nosuchtype", "gs1:quickStartGuide", "schema:about"):
        assert get(site, f"{SERIAL}?linkType={link_type}").status_code == 404


def c23(site: Site) -> None:
    query = "17=261231&a=1&a=2&empty=&linkType=gs1:hasRetailers"
    passed = parse_qsl(urlsplit(get(site, f"{SERIAL}?{query}").headers["location"]).query, keep_blank_values=True)
    assert passed == parse_qsl(query, keep_blank_values=True)
    unpacked = urlsplit(get(site, f"/{PACKED_WITH_DATA}?b=3").headers["location"])
    assert unpacked.path == "/page/01/05412345000013"
    assert parse_qsl(unpacked.query) == [("b", "3"), ("7003", "1903061658"), ("k1", "v1")]


def c24(site: Site) -> None:
    def location(path: str, **headers: str) -> str:
        return str(get(site, path, **headers).headers["location"])

    assert "lang=zh-CN" in location(SERIAL, **{"accept-language": "fr;q=0.9, zh-CN;q=0.8"})
    assert "lang=en" in location(SERIAL + "?linkType=gs1:pip", **{"accept-language": "en-GB"})
    assert "/items/" in location(SERIAL + "?linkType=gs1:traceability", accept="application/json")
    manual = SERIAL + "?linkType=gs1:instructions"
    assert location(manual, **{"accept-language": "fr"}).startswith("https://maker.example.org/fr")
    assert location(manual + "&context=CN", **{"accept-language": "fr"}).startswith("https://maker.example.org/cn")


def c25(site: Site) -> None:
    answer = get(site, "/.well-known/gs1resolver")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    jsonschema_rs.validator_for(DESCRIPTION).validate(answer.json())


def c26(site: Site) -> None:
    assert get(site, "/.well-known/gs1resolver").json()["supportedPrimaryKeys"] == sorted(dictionary())


def c27(site: Site) -> None:
    place = get(site, "/.well-known/gs1resolver").json()["jsonLdContextLocation"]
    assert get(site, place.removeprefix(BASE)).headers["content-type"] == "application/ld+json"
    answer = get(site, SERIAL + "?linkType=linkset", accept="application/ld+json")
    assert answer.headers["content-type"] == "application/ld+json"
    assert answer.json()["@context"] == place


def c28(site: Site) -> None:
    """Nothing is handed on by company prefix: each answer is our own, so no link says gs1:handledBy."""
    for path in (SERIAL, "/ARHKVAdpQg", "/417/9521000000018", "/01/00614141123452"):
        answer = get(site, path)
        assert "handledBy" not in answer.headers.get("link", "") + answer.text
    assert not any(rel == VOC + "handledBy" for rel, _ in every_link(site))


def c29(site: Site) -> None:
    assert get(site, SERIAL + "/").headers["location"] == get(site, SERIAL).headers["location"]
    assert get(site, SERIAL + "/?linkType=linkset").json() == get(site, SERIAL + "?linkType=linkset").json()


def c30(site: Site) -> None:
    for path in (SERIAL, SERIAL + "?linkType=gs1:pip", "/ARHKVAdpQg"):
        header = get(site, path).headers["link"]
        found = re.search(r'<([^>]+)>; rel="linkset"; type="application/linkset\+json"', header)
        assert found is not None
        assert get(site, found[1].removeprefix(BASE)).headers["content-type"] == "application/linkset+json"


def c37(site: Site) -> None:
    described = get(site, "/.well-known/gs1resolver").json()["supportedLinkType"]
    assert [row["namespace"] for row in described] == [VOC]
    rels = {rel for rel, _ in every_link(site)}
    assert {VOC + name for name in ("pip", "traceability", "recallStatus", "epcis", "certificationInfo")} <= rels


# The members that the standard names for the description file, with what it says of each (section 6).
DESCRIPTION: dict[str, Any] = {
    "type": "object",
    "required": ["resolverRoot", "supportedPrimaryKeys"],
    "properties": {
        "name": {"type": "string"},
        "resolverRoot": {"type": "string", "pattern": "^https?://[^/]+(/.*)?[^/]$"},
        "supportedPrimaryKeys": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": "^(all|[0-9]+)$"},
        },
        "linkTypeDefaultCanBeLinkset": {"type": "boolean"},
        "jsonLdContextLocation": {"type": "string", "format": "uri"},
        "supportedLinkType": {
            "type": "array",
            "items": {"type": "object", "required": ["namespace", "prefix"]},
        },
        "activeLinkTypes": {"type": "object"},
        "contact": {"type": "object"},
    },
}

# The second part of the file says again, for resolvers of one link per item, what the first says.
TESTS: list[Callable[[Site], None]] = [
    c01, c02, c03, c04, c05, c06, c07, c08, c09, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21, c22, c23,
    c24, c25, c26, c27, c28, c29, c30, c18, c14, c19, c21, c23, c25, c37, c28, c29,
]  # fmt: skip


def statements() -> list[str]:
    lines = [line.strip(" -\t") for line in CRITERIA.read_text().splitlines()] if CRITERIA.is_file() else []
    return [line for line in lines if re.search(r"SHALL|SHOULD|should", line)]


@pytest.mark.parametrize("number", range(1, len(TESTS) + 1))
def test_the_resolver_meets_statement(site: Site, number: int) -> None:
    assert statements()[number - 1]

    TESTS[number - 1](site)


def test_every_statement_of_the_file_has_its_test() -> None:
    assert len(statements()) == len(TESTS)


def test_a_data_attribute_of_a_compressed_link_is_checked_like_one_in_the_query(site: Site) -> None:
    assert get(site, f"/{PACKED_WITH_DATA}?9999=1").status_code == 400
