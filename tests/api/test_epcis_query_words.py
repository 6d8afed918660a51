"""Queries in every spelling of a word, and over what master records say of places and products."""

from collections.abc import Iterator

import pytest

from ledger.database import Database, open_database, upgrade
from tests.api.epcis_corpus import index_all, send_events
from tests.api.test_epcis_queries import Desk, ids_in
from tests.ledger.world import MAKER, World, seen

PLANT = "https://id.gs1.org/414/9521000000018"
HALL, SHELF, OTHER = (f"https://id.gs1.org/414/9521000000018/254/{name}" for name in ("hall", "shelf", "9"))
EX = {"@context": ["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld", {"ex": "https://ex.example/w/"}]}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    database: Database = open_database(f"sqlite:///{tmp_path_factory.mktemp('words') / 'tracebond.db'}")
    upgrade(database)
    world = World(database).start()
    world.master(MAKER, PLANT, "place", {"name_en": "Plant", "children": [HALL], "cold": True})
    world.master(MAKER, SHELF, "place", {"parent": "urn:epc:id:sgln:9521000.00001.hall", "cbvmda:site": "7"})
    world.master(MAKER, "https://id.gs1.org/01/09521000123458", "product", {"descriptionShort": "Tin"})
    world.step()
    party = [{"type": "owning_party", "source": MAKER}]
    send_events(world, [
        seen(1, eventID="urn:x:plant", place=PLANT, step="shipping", disposition="in_transit", sourceList=party),
        seen(2, eventID="urn:x:hall", place=HALL, step="ex:waxing", persistentDisposition={"set": ["damaged"]}, **EX),
        seen(3, eventID="urn:x:shelf", place=SHELF, step="https://ex.example/w/waxing"),
        seen(4, eventID="urn:x:other", place=OTHER, errorDeclaration={
            "declarationTime": "2026-01-01T00:00:00Z", "reason": "incorrect_data"}),
    ])  # fmt: skip
    index_all(world)
    yield Desk(database)
    database.close()


def words(field: str, prefix: str, urn: str, word: str) -> list[tuple[str, str]]:
    spellings = (
        word,
        f"cbv:{prefix}-{word}",
        f"urn:epcglobal:cbv:{urn}:{word}",
        f"https://ref.gs1.org/cbv/{prefix}-{word}",
    )
    return [(field, spelling) for spelling in spellings]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *((name, value, ["plant"]) for name, value in words("EQ_bizStep", "BizStep", "bizstep", "shipping")),
        *((name, value, ["plant"]) for name, value in words("EQ_disposition", "Disp", "disp", "in_transit")),
        *((name, value, ["hall"])
          for name, value in words("EQ_persistentDisposition_set", "Disp", "disp", "damaged")),
        *((name, value, ["other"]) for name, value in words("EQ_errorReason", "ER", "er", "incorrect_data")),
        *((f"EQ_source_{kind}", MAKER, ["plant"]) for _, kind in words("", "SDT", "sdt", "owning_party")),
        ("EQ_bizStep", "ex:waxing", ["hall", "shelf"]),
        ("EQ_bizStep", "https://ex.example/w/waxing", ["hall", "shelf"]),
        ("eventType", "https://ref.gs1.org/epcis/ObjectEvent", ["hall", "other", "plant", "shelf"]),
        ("eventType", "epcis:AggregationEvent", []),
        ("EQ_readPoint", PLANT, ["plant"]),
        ("WD_readPoint", "urn:epc:id:sgln:9521000.00001.0", ["hall", "plant", "shelf"]),
        ("WD_readPoint", HALL, ["hall", "shelf"]),
        ("WD_readPoint", SHELF, ["shelf"]),
        ("WD_bizLocation", PLANT, []),
        ("HASATTR_readPoint", "urn:epcglobal:cbv:mda:site", ["shelf"]),
        ("HASATTR_readPoint", "cbvmda:site", ["shelf"]),
        ("HASATTR_readPoint", "https://ns.gs1.org/cbvmda/site", ["shelf"]),
        ("EQATTR_readPoint_urn:epcglobal:cbv:mda:site", "7", ["shelf"]),
        ("EQATTR_readPoint_cbvmda:site", "8|9", []),
        ("EQATTR_readPoint_cold", "true", ["plant"]),
        ("HASATTR_epc", "cbvmda:descriptionShort", ["hall", "other", "plant", "shelf"]),
        ("EQATTR_epc_cbvmda:descriptionShort", "Tin", ["hall", "other", "plant", "shelf"]),
        ("HASATTR_epcClass", "cbvmda:descriptionShort", []),
        ("HASATTR_bizStep", "cbvmda:descriptionShort", []),
    ],
)  # fmt: skip
def test_a_word_is_found_in_every_spelling(desk: Desk, name: str, value: str, expected: list[str]) -> None:
    answer = desk.partner(MAKER).get("/epcis/events", params={name: value})

    assert ids_in(answer) == [f"urn:x:{one}" for one in expected]


def test_a_word_bound_to_another_namespace_by_the_request_is_another_word(desk: Desk) -> None:
    client = desk.partner(MAKER)

    answer = client.get(
        "/epcis/events",
        params={"EQ_bizStep": "my:waxing"},
        headers={"GS1-Extensions": "my=https://ex.example/w/"},
    )
    foreign = client.get(
        "/epcis/events",
        params={"EQ_bizStep": "my:waxing"},
        headers={"GS1-Extensions": "my=https://other.example/"},
    )

    assert ids_in(answer) == ["urn:x:hall", "urn:x:shelf"]
    assert ids_in(foreign) == []


def test_a_refused_method_is_told_with_all_methods_of_the_path(desk: Desk) -> None:
    client = desk.partner(MAKER)

    refused = client.put("/epcis/events", json={})
    token = client.get("/epcis/nextPageToken/abc")

    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD, POST, OPTIONS")
    assert refused.json()["type"].startswith("epcisException:")
    assert (token.status_code, token.headers["Allow"]) == (405, "DELETE, OPTIONS")
    assert client.get("/epcis/nothing").status_code == 404
