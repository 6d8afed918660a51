"""The query routes of the EPCIS interface: forms, paging, resources, named queries, and who sees what."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest
import sqlalchemy as sa

from api.app import create_app
from api.auth.partners import create_key, create_partner
from api.epcis.forgetting import forget_reports
from api.epcis.query_tables import deliveries
from api.services import Services, WebSettings
from core.canonical import b64u
from core.epcis.hashes import event_hash
from core.epcis.xml import read_xml
from ledger import erasure
from ledger.database import Database, open_database, upgrade
from ledger.erasure_request import sign_request
from ledger.followers import read_messages
from tests.api.conftest import NOW_MS, Clock, Random, TestClient
from tests.api.epcis_corpus import generated_events, index_all, log_events, send_events, shared_events
from tests.conformance_data import DATA, needs_data
from tests.ledger.world import AUD, CARRIER, LOG, MAKER, NOW, OPERATOR, World, packed, seen, sgtin, time_text

pytestmark = needs_data
Event = dict[str, Any]
STRANGER = "https://id.gs1.org/417/9521000000087"


class Desk:
    """An application over a corpus, and clients of partners."""

    def __init__(self, database: Database, *, base_url: str = "") -> None:
        self.database = database
        self.random, self.clock = Random(), Clock()
        settings = WebSettings(base_url=base_url, webhook_private=True)
        self.app = create_app(Services(db=database, settings=settings, now_ms=self.clock, random=self.random))

    def key(
        self, org: str | None, *, is_regulator: bool = False, scopes: tuple[str, ...] = ("query", "subscribe")
    ) -> str:
        gln = None if org is None else org.rpartition("/")[2]
        with self.database.transaction() as tx:
            name = f"partner {self.random(4).hex()}"
            partner = create_partner(tx, name=name, gln=gln, is_regulator=is_regulator, now_ms=NOW_MS)
            return create_key(tx, partner, scopes=scopes, now_ms=NOW_MS, secret=self.random(32))

    def partner(self, org: str | None, **options: Any) -> TestClient:
        headers = {"Authorization": f"Bearer {self.key(org, **options)}"}
        return TestClient(self.app, headers=headers, raise_server_exceptions=True)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, World, list[Event]]]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('queries') / 'tracebond.db'}")
    upgrade(database)
    events = [*shared_events(), *generated_events(60, seed=11)]
    world = log_events(database, events)
    yield Desk(database, base_url="https://trace.example"), world, events
    database.close()


@pytest.fixture
def desk(sqlite_database: Database) -> tuple[Desk, World]:
    """Three organisations' events: the maker's own, one that ships to the carrier, one with a trade document."""
    world = World(sqlite_database).start()
    to_carrier = {"destinationList": [{"type": "possessing_party", "destination": CARRIER}]}
    order = {"bizTransactionList": [{"type": "po", "bizTransaction": "urn:x:secret-order"}]}
    send_events(world, [seen(1, step="commissioning", action="ADD", eventID="urn:x:own")])
    send_events(world, [seen(2, step="shipping", eventID="urn:x:shipped", **to_carrier, **order)])
    send_events(
        world,
        [seen(3, step="receiving", eventID="urn:x:carried", place="urn:epc:id:sgln:9521000.00009.0")],
        device="truck-1",
    )
    index_all(world)
    return Desk(sqlite_database), world


def events_in(answer: Any) -> list[Event]:
    assert answer.status_code == 200, answer.text
    found: list[Event] = answer.json()["epcisBody"]["queryResults"]["resultsBody"]["eventList"]
    return found


def ids_in(answer: Any) -> list[str]:
    return sorted(event["eventID"] for event in events_in(answer))


def test_answers_fit_the_official_schema(told: tuple[Desk, World, list[Event]]) -> None:
    desk, _, events = told
    schema = json.loads((DATA / "epcis" / "epcis-json-schema-2.0.1.json").read_text(encoding="utf-8"))
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)

    answer = desk.partner(MAKER).get(
        "/epcis/events", params={"perPage": 1000}, headers={"GS1-EPC-Format": "Never_Translates"}
    )

    assert len(events_in(answer)) == len(events)
    assert list(validator.iter_errors(answer.json())) == []
    assert answer.headers["GS1-EPCIS-Version"] == "2.0"


def test_every_event_comes_back_with_the_hash_it_went_in_with(told: tuple[Desk, World, list[Event]]) -> None:
    desk, _, events = told
    client = desk.partner(MAKER)

    kept = client.get("/epcis/events", params={"perPage": 1000}, headers={"GS1-EPC-Format": "Never_Translates"})
    links = client.get("/epcis/events", params={"perPage": 1000})

    expected = sorted(event_hash(event) for event in events)
    for answer in (kept, links):
        context = answer.json()["@context"]
        assert sorted(event_hash({"@context": context} | event) for event in events_in(answer)) == expected


def test_xml_answers_say_the_same_as_json(told: tuple[Desk, World, list[Event]]) -> None:
    desk, _, _ = told
    client = desk.partner(MAKER)
    query = {"EQ_bizStep": "shipping", "perPage": 1000}

    answer = client.get("/epcis/events", params=query, headers={"Accept": "application/xml"})

    document = read_xml(answer.content)
    assert answer.headers["content-type"].startswith("application/xml")
    assert b"EPCISQueryDocument" in answer.content
    as_json = client.get("/epcis/events", params=query)
    assert len(events_in(as_json)) > 0
    hashes = [
        sorted(event_hash({"@context": context} | event) for event in events)
        for context, events in (
            (document["@context"], document["epcisBody"]["eventList"]),
            (as_json.json()["@context"], events_in(as_json)),
        )
    ]
    assert hashes[0] == hashes[1]


def test_pages_are_linked_and_hold_every_event_once(told: tuple[Desk, World, list[Event]]) -> None:
    desk, _, events = told
    client = desk.partner(MAKER)
    url, found = "/epcis/events?perPage=17&orderBy=eventTime", []
    for _ in range(20):
        answer = client.get(url)
        found += [json.dumps(event) for event in events_in(answer)]
        if "link" not in answer.headers:
            break
        assert "GS1-Next-Page-Token-Expires" in answer.headers
        url = re.match(r'<https://trace\.example(.*)>; rel="next"', answer.headers["link"])[1]  # type: ignore[index]

    assert len(found) == len(events)


def test_a_page_token_ends_by_time_by_deletion_and_fits_its_query_alone(desk: tuple[Desk, World]) -> None:
    client = desk[0].partner(MAKER)
    link = client.get("/epcis/events?perPage=1").headers["link"]
    token = re.search(r"nextPageToken=([^>]+)>", link)[1]  # type: ignore[index]

    fits = client.get(f"/epcis/events?perPage=1&nextPageToken={token}")
    other = client.get(f"/epcis/events?EQ_action=ADD&nextPageToken={token}")
    dropped = client.delete(f"/epcis/nextPageToken/{token}")
    again = client.get(f"/epcis/events?perPage=1&nextPageToken={token}")
    junk = [client.get(f"/epcis/events?nextPageToken={text}") for text in ("abc", "W10", "", "bnVsbA", "é")]

    assert (fits.status_code, other.status_code, dropped.status_code, again.status_code) == (200, 400, 204, 404)
    assert [answer.status_code for answer in junk] == [404] * len(junk)
    assert again.json()["type"] == "epcisException:NoSuchNameException"
    assert other.json()["type"] == "epcisException:QueryParameterException"


def test_wrong_requests_are_told_in_the_standards_words(desk: tuple[Desk, World]) -> None:
    client = desk[0].partner(MAKER)
    for path, status, name in (
        ("/epcis/events?EQ_unknown=1", 400, "QueryParameterException"),
        ("/epcis/events?perPage=0", 400, "QueryParameterException"),
        ("/epcis/events?maxEventCount=1", 413, "QueryTooLargeException"),
        ("/epcis/events?EQ_eventID=" + "x" * 9_000, 414, "URITooLongException"),
        ("/epcis/events/urn:x:none", 404, "NoSuchNameException"),
        ("/epcis/epcs/urn:x:none", 404, "NoSuchNameException"),
        ("/epcis/bizSteps/nowhere/events", 404, "NoSuchNameException"),
        ("/epcis/queries/none", 404, "NoSuchNameException"),
    ):
        answer = client.get(path)
        assert answer.status_code == status, path
        assert answer.json()["type"] == f"epcisException:{name}"
    assert client.get("/epcis/events", headers={"Accept": "text/html;q=0.5, image/png"}).status_code == 406
    assert client.get("/epcis/events", headers={"GS1-EPCIS-Min": "3.0"}).status_code == 406
    assert TestClient(desk[0].app).get("/epcis/events").status_code == 401
    assert desk[0].partner(MAKER, scopes=("capture",)).get("/epcis/events").status_code == 403
    assert client.get("/epcis/events?maxEventCount=2").status_code == 200


def test_event_count_limit_ends_after_that_many_events_over_pages(told: tuple[Desk, World, list[Event]]) -> None:
    client = told[0].partner(MAKER)

    first = client.get("/epcis/events?orderBy=eventTime&eventCountLimit=5&perPage=3")
    second = client.get(re.match(r"<https://trace\.example(.*)>", first.headers["link"])[1])  # type: ignore[index]

    assert (len(events_in(first)), len(events_in(second))) == (3, 2)
    assert "link" not in second.headers


def test_one_event_is_found_by_its_id_in_any_escaping(told: tuple[Desk, World, list[Event]]) -> None:
    desk, _, events = told
    client = desk.partner(MAKER)
    hashed = next(event["eventID"] for event in events if event.get("eventID", "").startswith("ni:"))

    escaped = client.get("/epcis/events/" + quote(hashed, safe=""))
    plain = client.get("/epcis/events/" + hashed)

    assert {event["eventID"] for event in events_in(escaped)} == {hashed}
    assert events_in(plain) == events_in(escaped)


def test_an_error_declaration_is_shown_beside_the_event_it_names(desk: tuple[Desk, World]) -> None:
    site, world = desk
    wrong = {"declarationTime": time_text(NOW), "reason": "did_not_occur"}
    send_events(world, [seen(1, step="commissioning", action="ADD", eventID="urn:x:own", errorDeclaration=wrong)])
    index_all(world)

    found = events_in(site.partner(MAKER).get("/epcis/events/urn:x:own"))

    assert ["errorDeclaration" in event for event in found] == [False, True]


def test_a_partner_sees_its_own_events_and_those_it_is_party_to(desk: tuple[Desk, World]) -> None:
    site, _ = desk

    assert ids_in(site.partner(MAKER).get("/epcis/events")) == ["urn:x:own", "urn:x:shipped"]
    assert ids_in(site.partner(CARRIER).get("/epcis/events")) == ["urn:x:carried", "urn:x:shipped"]
    assert ids_in(site.partner(STRANGER).get("/epcis/events")) == []
    assert ids_in(site.partner(None).get("/epcis/events")) == []
    regulator = site.partner(None, is_regulator=True)
    assert ids_in(regulator.get("/epcis/events")) == ["urn:x:carried", "urn:x:own", "urn:x:shipped"]


def test_a_hidden_member_shows_in_no_answer_hit_or_count(desk: tuple[Desk, World]) -> None:
    site, _ = desk
    maker, carrier = site.partner(MAKER), site.partner(CARRIER)
    query = {"EQ_bizTransaction_po": "urn:x:secret-order"}

    assert "bizTransactionList" in events_in(maker.get("/epcis/events", params=query))[0]
    assert events_in(carrier.get("/epcis/events", params=query)) == []
    assert all("bizTransactionList" not in event for event in events_in(carrier.get("/epcis/events")))
    for parameters in (query | {"maxEventCount": "1"}, query | {"orderBy": "eventTime", "eventCountLimit": "1"}):
        answer = carrier.get("/epcis/events", params=parameters)
        assert events_in(answer) == []
        assert "link" not in answer.headers


def test_an_event_id_that_hashes_a_hidden_member_is_withheld_with_it(desk: tuple[Desk, World]) -> None:
    site, world = desk
    to_carrier = {"destinationList": [{"type": "possessing_party", "destination": CARRIER}]}
    order = {"bizTransactionList": [{"type": "po", "bizTransaction": "urn:x:other-order"}]}
    event = seen(7, step="shipping", **to_carrier, **order)
    event["eventID"] = event_hash(event)
    send_events(world, [event])
    index_all(world)
    item = {"MATCH_epc": sgtin(7)}

    assert events_in(site.partner(MAKER).get("/epcis/events", params=item))[0]["eventID"] == event["eventID"]
    assert "eventID" not in events_in(site.partner(CARRIER).get("/epcis/events", params=item))[0]
    assert site.partner(CARRIER).get("/epcis/events/" + quote(event["eventID"], safe="")).status_code == 404


def test_top_level_resources_name_what_the_caller_may_see(desk: tuple[Desk, World]) -> None:
    site, _ = desk
    maker, carrier, stranger = site.partner(MAKER), site.partner(CARRIER), site.partner(STRANGER)

    def members(client: TestClient, name: str) -> list[str]:
        answer = client.get(f"/epcis/{name}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["type"] == "Collection"
        return list(answer.json()["member"])

    product = "https://id.gs1.org/01/09521000123458/21/"
    assert members(maker, "epcs") == [product + "1", product + "2"]
    assert members(carrier, "epcs") == [product + "2", product + "3"]
    assert members(stranger, "epcs") == []
    assert members(maker, "bizSteps") == ["commissioning", "shipping"]
    assert members(carrier, "readPoints") == [
        "https://id.gs1.org/414/9521000000018",
        "https://id.gs1.org/414/9521000000094",
    ]
    assert members(stranger, "dispositions") == members(maker, "bizLocations") == []
    assert len(members(stranger, "eventTypes")) == 5
    assert "epcs" in members(stranger, "")
    assert carrier.get("/epcis/epcs/" + quote(product + "1", safe="")).status_code == 404
    assert maker.get("/epcis/epcs/" + quote(sgtin(1), safe="")).json()["member"] == ["events"]
    assert ids_in(maker.get(f"/epcis/epcs/{sgtin(1)}/events")) == ["urn:x:own"]
    assert ids_in(maker.get("/epcis/bizSteps/urn:epcglobal:cbv:bizstep:shipping/events?EQ_action=OBSERVE")) == [
        "urn:x:shipped"
    ]
    assert maker.get("/epcis/bizSteps/shipping/events?EQ_bizStep=packing").status_code == 400
    assert ids_in(maker.get("/epcis/eventTypes/ObjectEvent/events")) == ["urn:x:own", "urn:x:shipped"]
    assert events_in(maker.get("/epcis/eventTypes/TransactionEvent/events")) == []


def test_a_list_of_epcs_goes_on_over_pages(told: tuple[Desk, World, list[Event]]) -> None:
    client = told[0].partner(MAKER)
    whole = client.get("/epcis/epcs?perPage=1000").json()["member"]
    url, found = "/epcis/epcs?perPage=7", []
    for _ in range(60):
        answer = client.get(url)
        found += answer.json()["member"]
        if "link" not in answer.headers:
            break
        url = re.match(r"<https://trace\.example(.*)>", answer.headers["link"])[1]  # type: ignore[index]

    assert found == whole
    assert len(set(whole)) == len(whole) > 7


def test_identifiers_come_in_the_form_asked_for(desk: tuple[Desk, World]) -> None:
    client = desk[0].partner(MAKER)

    link = events_in(client.get("/epcis/events?EQ_action=ADD"))[0]
    urn = events_in(client.get("/epcis/events?EQ_action=ADD", headers={"GS1-EPC-Format": "Always_EPC_URN"}))[0]
    kept = events_in(client.get("/epcis/events?EQ_action=ADD", headers={"GS1-EPC-Format": "Never_Translates"}))[0]

    assert link["epcList"] == ["https://id.gs1.org/01/09521000123458/21/1"]
    assert urn["epcList"][0].startswith("urn:epc:id:sgtin:")
    assert kept["epcList"] == [sgtin(1)]


def test_a_named_query_is_made_asked_and_ended_by_its_owner(desk: tuple[Desk, World]) -> None:
    site, _ = desk
    maker, carrier = site.partner(MAKER), site.partner(CARRIER)
    body = {"name": "shipped", "query": {"EQ_bizStep": ["shipping"], "eventType": ["ObjectEvent"]}}

    made = maker.post("/epcis/queries", json=body)

    assert made.status_code == 201, made.text
    assert made.headers["location"].endswith("/epcis/queries/shipped")
    assert maker.post("/epcis/queries", json=body).json()["type"] == "epcisException:ResourceAlreadyExistsException"
    assert maker.get("/epcis/queries").json() == [body]
    assert maker.get("/epcis/queries/shipped").json() == body
    assert ids_in(maker.get("/epcis/queries/shipped/events")) == ["urn:x:shipped"]
    assert maker.get("/epcis/queries/shipped/events").json()["epcisBody"]["queryResults"]["queryName"] == "shipped"
    assert carrier.get("/epcis/queries").json() == []
    assert carrier.get("/epcis/queries/shipped").status_code == 404
    assert carrier.post("/epcis/queries", json=body).status_code == 201
    assert maker.delete("/epcis/queries/shipped").status_code == 204
    assert maker.delete("/epcis/queries/shipped").status_code == 404
    assert ids_in(carrier.get("/epcis/queries/shipped/events")) == ["urn:x:shipped"]


def test_a_named_query_is_checked_when_it_is_made(desk: tuple[Desk, World]) -> None:
    client = desk[0].partner(MAKER)
    names = ("epcisException:QueryValidationException", "epcisException:QueryParameterException")
    cases: list[tuple[Any, int]] =[
        ({"name": "a b", "query": {}}, 400), ({"name": "a"}, 400), ({"query": {}}, 400), ([], 400),
        ({"name": "a", "query": {"EQ_nothing": ["x"]}}, 400), ({"name": "a", "query": {"perPage": 3}}, 400),
        ({"name": "a", "query": {"EQ_bizStep": []}}, 400), ({"name": "a", "query": {"EQ_bizStep": [{}]}}, 400),
        ({"name": "a", "query": {"@context": 3}}, 400), ({"name": "a", "query": {}, "more": 1}, 400),
        ({"name": "all", "query": {}}, 201), ({"name": "b", "query": {"EQ_quantity": [5, 12.5]}}, 201),
        ({"name": "c", "query": {"@context": {"own": "https://own.example/"}, "EQ_own:field": ["x"]}}, 201),
    ]  # fmt: skip
    for body, status in cases:
        answer = client.post("/epcis/queries", json=body)

        assert answer.status_code == status, answer.text
        assert status == 201 or answer.json()["type"] in names


def test_options_name_methods_and_versions_of_every_path(desk: tuple[Desk, World]) -> None:
    client = desk[0].partner(MAKER)
    for path, methods in (
        ("", "GET"), ("/events", "GET"), ("/events/urn:x:own", "GET"), ("/eventTypes", "GET"), ("/epcs", "GET"),
        ("/epcs/urn:x:y", "GET"), ("/epcs/urn:x:y/events", "GET"), ("/bizSteps", "GET"), ("/bizLocations", "GET"),
        ("/readPoints", "GET"), ("/dispositions/active", "GET"), ("/queries", "GET POST"), ("/queries/a", "DELETE GET"),
        ("/queries/a/events", "GET"), ("/queries/a/subscriptions", "GET POST"),
        ("/queries/a/subscriptions/b", "DELETE GET"), ("/nextPageToken/x", "DELETE"),
    ):  # fmt: skip
        answer = client.options("/epcis" + path)
        assert answer.status_code == 204, path
        assert set(methods.split()) <= set(answer.headers["allow"].split(", ")), path
        assert answer.headers["GS1-EPCIS-Min"] == answer.headers["GS1-EPCIS-Max"] == "2.0"


def test_what_was_erased_is_found_no_more(desk: tuple[Desk, World]) -> None:
    site, world = desk
    maker = site.partner(MAKER)
    query = {"EQ_bizTransaction_po": "urn:x:secret-order"}
    assert len(events_in(maker.get("/epcis/events", params=query))) == 1

    erase_from(world, "urn:x:shipped", ["bizTransactionList", "readPoint"])
    index_all(world)

    assert events_in(maker.get("/epcis/events", params=query)) == []
    assert all("bizTransactionList" not in event for event in events_in(maker.get("/epcis/events")))
    assert ids_in(maker.get("/epcis/events")) == ["urn:x:own", "urn:x:shipped"]


def test_a_waiting_report_of_what_was_erased_is_dropped_and_others_stay(desk: tuple[Desk, World]) -> None:
    _, world = desk
    with world.database.transaction() as tx:
        for name in ("urn:x:shipped", "urn:x:own"):
            times = dict.fromkeys(("created_ms", "deadline_ms", "next_ms", "attempts"), 0)
            row = {"id": name, "subscription": "s", "events": 1, "body": f'{{"eventID":"{name}"}}'.encode()}
            tx.execute(deliveries.insert().values(**row, **times, state="waiting", answer=""))
        [(leaf, _)] = erasure.find_event(tx, "urn:x:shipped")
        message = read_messages(tx, [leaf])[leaf].message_id

        dropped = forget_reports(tx, message)

        assert (dropped, list(tx.execute(sa.select(deliveries.c.id)).scalars())) == (1, ["urn:x:own"])


def erase_from(world: World, event_id: str, names: list[str]) -> None:
    """The owner asks for it, the operator does it."""
    with world.database.reading() as tx:
        [(leaf, number)] = erasure.find_event(tx, event_id)
        message = read_messages(tx, [leaf])[leaf]
    given: dict[str, Any] = {"names": names, "message": b64u(message.message_id), "leaf": leaf, "log": LOG, "aud": AUD}
    given |= {"org": MAKER, "event": number, "iat": world.now, "reason": "a person's data"}
    with world.database.transaction() as tx:
        erasure.carry_out(
            tx, sign_request(world.orgs[MAKER], **given), operator=world.orgs[OPERATOR], now_ms=world.now * 1000
        )


def test_an_aggregation_is_found_by_parent_and_child(desk: tuple[Desk, World]) -> None:
    site, world = desk
    pallet = "urn:epc:id:sscc:9521000.0000000001"
    send_events(world, [packed(pallet, [sgtin(1), sgtin(2)], eventID="urn:x:packed")])
    index_all(world)
    maker = site.partner(MAKER)

    assert ids_in(maker.get("/epcis/events", params={"MATCH_parentID": pallet})) == ["urn:x:packed"]
    assert ids_in(maker.get("/epcis/events", params={"MATCH_epc": f"{sgtin(2)}"})) == ["urn:x:packed", "urn:x:shipped"]
    assert ids_in(maker.get("/epcis/events", params={"MATCH_epc": pallet})) == []
