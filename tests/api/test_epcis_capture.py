"""Capture over HTTP: jobs, results of each event, receipts, duplicates, refusals."""

import hashlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes, dump_json, unb64u
from core.epcis.xml_out import document_xml
from core.message import issue, open_message, read_entry, split
from core.receipts import open_receipt
from ledger.database import Database
from ledger.followers import LoggedMessage, read_log
from ledger.tables import messages
from tests.api.capture_rig import CONTEXT, RECEIPT_KEY, CaptureRig, document, make_rig
from tests.conformance_data import files, needs_data
from tests.core.test_epcis_validate import FAULTS
from tests.core.test_epcis_xml import IGNORED, NOT_SHARED
from tests.ledger.world import AUD, CARRIER, MAKER, OPERATOR, seen

AT = 1_794_000_000


@pytest.fixture
def rig(sqlite_database: Database) -> CaptureRig:
    return make_rig(sqlite_database)


def stored(rig: CaptureRig) -> int:
    with rig.database.reading() as tx:
        return int(tx.execute(sa.select(sa.func.count()).select_from(messages)).scalar_one())


def logged(rig: CaptureRig) -> list[Any]:
    """The events in the log, as a follower reads them."""
    rig.world.now = rig.clock.now_ms // 1000
    rig.world.step()
    with rig.database.reading() as tx:
        entries = read_log(tx, 0, 10_000)
    return [event for entry in entries if isinstance(entry, LoggedMessage) for event in entry.events]


@needs_data
@pytest.mark.parametrize("path", files("epcis/valid", "*.json"), ids=lambda path: path.stem)
def test_every_valid_document_is_captured_with_every_event(rig: CaptureRig, path: Path) -> None:
    body = path.read_bytes()
    sent = json.loads(body)["epcisBody"]["eventList"]

    job = rig.partner("dairy").capture(body)

    assert (job["success"], job["errors"]) == (True, [])
    assert [result["status"] for result in job["results"]] == ["accepted"] * len(sent)
    found = logged(rig)
    assert len(found) == len(sent)
    for event, given in zip(found, sent, strict=True):
        assert {name: json.loads(dump_json(event.event[name])) for name in given if name != "@context"} == {
            name: value for name, value in given.items() if name != "@context"
        }


@needs_data
@pytest.mark.parametrize("path", files("epcis/invalid", "*.json"), ids=lambda path: path.stem)
def test_every_invalid_document_is_refused_whole_with_pointers(rig: CaptureRig, path: Path) -> None:
    job = rig.partner("dairy").capture(path.read_bytes())

    assert job["success"] is False
    assert {error["type"] for error in job["errors"]} == {"epcisException:ValidationException"}
    assert {error["pointer"] for error in job["errors"]} >= set(FAULTS[path.stem])
    assert {result["status"] for result in job["results"]} <= {"rejected", "rolled_back"}
    assert stored(rig) == 0


def test_a_capture_is_signed_by_the_gateway_on_behalf_of_the_partner(rig: CaptureRig) -> None:
    body = json.dumps(document(seen("A", at=AT), seen("B", at=AT))).encode()

    job = rig.partner("dairy").capture(body)

    first = logged(rig)[0]
    assert (first.org, first.use) == (MAKER, "gateway")
    with rig.database.reading() as tx:
        signed = read_entry(tx.execute(sa.select(messages.c.jwt)).scalar_one())
    assert signed.org == OPERATOR
    assert signed.on_behalf_of == {
        "org": MAKER,
        "client": "partner/1/key/1",
        "body": b64u(hashlib.sha256(body).digest()),
        "part": 0,
        "parts": 1,
    }
    assert job["bodyHash"] == b64u(hashlib.sha256(body).digest())


def test_the_receipt_of_each_message_promises_its_leaf(rig: CaptureRig) -> None:
    job = rig.partner("dairy").capture(document(*(seen(number, at=AT + number) for number in range(300))))

    with rig.database.reading() as tx:
        leaves = {bytes(row.id): bytes(row.leaf_hash) for row in tx.execute(sa.select(messages))}
    assert len(leaves) > 1
    assert len(job["receipts"]) == len(leaves)
    for message, receipt in job["receipts"].items():
        opened = open_receipt(canonical_bytes(receipt), RECEIPT_KEY.public)
        assert opened.refused is None
        assert opened.message == unb64u(message)
        assert unb64u(str(opened.payload["leaf"])) == leaves[unb64u(message)]
    assert {result["message"] for result in job["results"]} == set(job["receipts"])


def test_the_messages_of_a_capture_hang_together_as_one_chain(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    for start in (0, 300):
        caller.capture(document(*(seen(start + number, at=AT + start + number) for number in range(300))))

    with rig.database.reading() as tx:
        rows = list(tx.execute(sa.select(messages.c.seq, messages.c.prev, messages.c.id).order_by(messages.c.arrival)))
    assert [row.seq for row in rows] == list(range(len(rows)))
    assert [row.prev for row in rows] == [None, *(row.id for row in rows[:-1])]


def test_the_same_capture_again_is_accepted_as_duplicates(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    given = document(seen("A", at=AT), seen("B", at=AT, eventID="urn:uuid:00000000-0000-4000-8000-000000000001"))
    first = caller.capture(given)

    again = caller.capture(given)

    assert again["success"] is True
    assert [result["status"] for result in again["results"]] == ["duplicate", "duplicate"]
    assert [result["message"] for result in again["results"]] == [result["message"] for result in first["results"]]
    assert len(logged(rig)) == 2


def test_an_event_twice_in_one_document_is_stored_once(rig: CaptureRig) -> None:
    job = rig.partner("dairy").capture(document(seen("A", at=AT), seen("A", at=AT)))

    assert [result["status"] for result in job["results"]] == ["accepted", "duplicate"]
    assert job["results"][1]["message"] == job["results"][0]["message"]
    assert len(logged(rig)) == 1


def test_an_event_id_of_another_event_is_refused(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    taken = "urn:uuid:00000000-0000-4000-8000-000000000001"
    caller.capture(document(seen("A", at=AT, eventID=taken)))

    job = caller.capture(document(seen("B", at=AT, eventID=taken)))

    assert job["success"] is False
    assert job["errors"][0]["type"] == "epcisException:ResourceAlreadyExistsException"
    assert job["errors"][0]["pointer"] == "/epcisBody/eventList/0/eventID"
    assert len(logged(rig)) == 1


def test_an_error_declaration_repeats_the_event_id_and_is_stored_beside_it(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    taken = "urn:uuid:00000000-0000-4000-8000-000000000001"
    event = seen("A", at=AT, eventID=taken)
    declared = event | {"errorDeclaration": {"declarationTime": "2026-11-10T00:00:00Z", "reason": "incorrect_data"}}
    caller.capture(document(event))

    first, again = caller.capture(document(declared)), caller.capture(document(declared))

    assert [job["results"][0]["status"] for job in (first, again)] == ["accepted", "duplicate"]
    assert [("errorDeclaration" in event.clear) for event in logged(rig)] == [False, True]


def test_one_partner_cannot_take_the_event_id_of_another(rig: CaptureRig) -> None:
    taken = "urn:uuid:00000000-0000-4000-8000-000000000001"
    rig.partner("dairy").capture(document(seen("A", at=AT, eventID=taken)))

    job = rig.partner("carrier", gln=CARRIER[-13:]).capture(document(seen("B", at=AT, eventID=taken)))

    assert job["success"] is True


def test_two_events_that_share_a_gs1_hash_are_both_stored(rig: CaptureRig) -> None:
    # The pre-hash text has no separators: this pair hashes alike (the design's page on EPCIS, section 3).
    base = {
        "type": "ObjectEvent", "action": "OBSERVE", "eventTime": "2026-10-01T00:00:00Z",
        "eventTimeZoneOffset": "+00:00", "epcList": ["https://id.gs1.org/01/09521141012345/21/1"],
    }  # fmt: skip
    first = base | {
        "bizTransactionList": [
            {"type": "po", "bizTransaction": "urn:x:1"},
            {"type": "inv", "bizTransaction": "urn:x:2"},
        ]
    }
    second = base | {
        "bizTransactionList": [
            {
                "type": "inv",
                "bizTransaction": "urn:x:2type=https://ref.gs1.org/cbv/BTT-pobizTransaction=urn:x:1",
            }
        ]
    }

    job = rig.partner("dairy").capture(document(first, second))
    again = rig.partner("same organisation").capture(document(first, second))

    assert [result["status"] for result in job["results"]] == ["accepted", "accepted"]
    assert job["results"][0]["eventHash"] == job["results"][1]["eventHash"]
    assert job["results"][0]["eventID"] != job["results"][1]["eventID"]
    assert [result["status"] for result in again["results"]] == ["duplicate", "duplicate"]


def test_rollback_stores_nothing_and_proceed_what_is_valid(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    given = document(seen("A", at=AT), seen("B", at=AT) | {"action": "LOOK"}, seen("C", at=AT))

    rolled = caller.capture(given)
    assert [result["status"] for result in rolled["results"]] == ["rolled_back", "rejected", "rolled_back"]
    assert stored(rig) == 0

    proceeded = caller.capture(given, GS1_Capture_Error_Behaviour="proceed")
    assert (proceeded["success"], proceeded["captureErrorBehaviour"]) == (False, "proceed")
    assert [result["status"] for result in proceeded["results"]] == ["accepted", "rejected", "accepted"]
    assert proceeded["results"][1]["errors"][0]["pointer"] == "/epcisBody/eventList/1/action"
    assert len(logged(rig)) == 2


def test_an_event_from_the_future_is_refused(rig: CaptureRig) -> None:
    now = rig.clock.now_ms // 1000
    caller = rig.partner("dairy")

    assert caller.capture(document(seen("A", at=now + 299)))["success"] is True
    job = caller.capture(document(seen("B", at=now + 301)))

    assert job["errors"][0]["code"] == "event_in_future"


def test_a_query_document_is_captured_too(rig: CaptureRig) -> None:
    given = {
        "@context": CONTEXT, "type": "EPCISQueryDocument", "schemaVersion": "2.0",
        "creationDate": "2026-11-01T00:00:00Z",
        "epcisBody": {"queryResults": {"queryName": "x", "resultsBody": {"eventList": [seen("A", at=AT)]}}},
    }  # fmt: skip

    job = rig.partner("dairy").capture(given)

    assert job["success"] is True
    assert job["results"][0]["pointer"] == "/epcisBody/queryResults/resultsBody/eventList/0"


@needs_data
@pytest.mark.parametrize("path", files("epcis/hash-vectors", "*.xml"), ids=lambda path: path.stem)
def test_every_event_of_an_xml_document_is_captured_with_its_hash(rig: CaptureRig, path: Path) -> None:
    published = path.with_suffix(".hashes").read_text().split()
    # A list of fields to leave out that came inside a document is never obeyed.
    published = [] if path.stem in IGNORED else published

    job = rig.partner("dairy").capture(path.read_bytes(), content_type="application/xml")

    assert job["success"] is True, job["errors"]
    for number, wanted in enumerate(published):
        if number not in NOT_SHARED.get(path.stem, ()):
            assert job["results"][number]["eventHash"] == wanted
    assert len(logged(rig)) == job["counts"]["accepted"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "bad_json"),
        (b"[]", "application/json", 400, "wrong_type"),
        (b'{"type":"EPCISDocument"}', "application/json", 400, "missing_field"),
        (b'{"type":"ObjectEvent"}', "application/json", 400, "not_a_document"),
        (b"<x/>", "application/xml", 400, "not_epcis"),
        (b"<!DOCTYPE x []><x/>", "application/xml", 400, "dtd_refused"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "", 415, "unsupported_media_type"),
        (b"{}", "application/json; charset=utf-16", 415, "unsupported_media_type"),
        (b"a~", "application/epcis+sd-jwt", 202, ""),
        (b"", "application/epcis+sd-jwt", 400, "bad_form"),
    ],
)
def test_what_is_no_document_is_refused_at_once(
    rig: CaptureRig, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = rig.partner("dairy").post(body, content_type=kind)

    assert answer.status_code == status
    if status >= 400:
        assert answer.json()["code"] == code
        assert answer.json()["type"].startswith("epcisException:")


def test_more_events_or_bytes_than_the_limits_are_refused_with_the_limits(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = rig.partner("dairy")
    monkeypatch.setattr("api.epcis.bodies.CAPTURE_EVENTS_MAX", 2)

    many = caller.post(document(*(seen(number, at=AT) for number in range(3))))
    large = caller.post(b" " * (16 * 1024 * 1024 + 1))

    for answer in (many, large):
        assert answer.status_code == 413
        assert answer.json()["type"] == "epcisException:CaptureLimitExceededException"
        assert int(answer.headers["GS1-EPCIS-Capture-Limit"]) > 0
        assert int(answer.headers["GS1-EPCIS-Capture-File-Size-Limit"]) == 16 * 1024 * 1024


def test_a_partner_sees_its_own_jobs_alone_page_by_page(rig: CaptureRig) -> None:
    caller, other = rig.partner("dairy"), rig.partner("carrier", gln=CARRIER[-13:])
    places = [caller.post(document(seen(number, at=AT))).headers["Location"] for number in range(5)]
    rig.work()

    pages, address = [], "/epcis/capture?perPage=2"
    while address:
        answer = caller.client.get(address)
        pages.append([f"/epcis/capture/{job['captureID']}" for job in answer.json()])
        address = answer.links["next"]["url"] if "next" in answer.links else ""

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [place for page in pages for place in page] == places[::-1]
    assert other.client.get("/epcis/capture").json() == []
    assert other.client.get(places[0]).status_code == 404
    assert caller.client.get("/epcis/capture?perPage=0").status_code == 400
    assert caller.client.get("/epcis/capture?nextPageToken=x").status_code == 404


def test_a_job_says_running_until_it_is_done(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    place = caller.post(document(seen("A", at=AT))).headers["Location"]

    before = caller.client.get(place).json()
    rig.work()
    after = caller.client.get(place).json()

    assert (before["running"], before["success"], after["running"], after["success"]) == (True, True, False, True)
    assert "finishedAt" not in before
    assert after["finishedAt"] >= after["createdAt"]


def test_a_job_is_told_in_xml_too_and_in_nothing_else(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    place = caller.post(document(seen("A", at=AT) | {"action": "LOOK"})).headers["Location"]
    rig.work()

    answer = caller.client.get(place, headers={"Accept": "application/xml"})

    root = ElementTree.fromstring(answer.text)
    assert root.tag == "{urn:epcglobal:epcis:xsd:2}EPCISCaptureJob"
    assert (root.get("running"), root.get("success")) == ("false", "false")
    assert root.find("errors/pointer").text == "/epcisBody/eventList/0/action"  # type: ignore[union-attr]
    assert caller.client.get(place, headers={"Accept": "text/csv"}).status_code == 406


def test_an_idempotency_key_gives_the_first_job_again(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    given = document(seen("A", at=AT))

    first = caller.post(given, Idempotency_Key="one")
    again = caller.post(given, Idempotency_Key="one")
    other = caller.post(document(seen("B", at=AT)), Idempotency_Key="one")

    assert first.headers["Location"] == again.headers["Location"]
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


def test_a_single_event_is_stored_at_once(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")
    event = seen("A", at=AT, eventID="urn:uuid:00000000-0000-4000-8000-000000000001")

    made, again, other = caller.event(event), caller.event(event), caller.event(event | {"bizStep": "packing"})

    assert made.status_code == 201
    assert made.headers["Location"] == "/epcis/events/urn%3Auuid%3A00000000-0000-4000-8000-000000000001"
    assert made.json() == {"@context": CONTEXT, **event}
    assert (again.status_code, again.headers["Tracebond-Result"]) == (201, "duplicate")
    assert (other.status_code, other.json()["type"]) == (409, "epcisException:ResourceAlreadyExistsException")
    assert len(logged(rig)) == 1
    job = caller.client.get(made.links["monitor"]["url"]).json()
    assert job["results"][0]["status"] == "accepted"


def test_an_event_without_an_id_gets_its_hash_as_one(rig: CaptureRig) -> None:
    answer = rig.partner("dairy").event(seen("A", at=AT))

    assert answer.json()["eventID"] == answer.headers["Tracebond-Event-Hash"]
    assert answer.json()["eventID"].startswith("ni:///sha-256;")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ([], "wrong_type"),
        ({"type": "ObjectEvent"}, "missing_field"),
        ({"@context": CONTEXT, "type": "EPCISDocument"}, "not_an_event"),
        ({"@context": CONTEXT, **seen("A", at=AT), "epcList": []}, "nothing_named"),
    ],
)
def test_what_is_no_event_is_refused(rig: CaptureRig, event: Any, code: str) -> None:
    answer = rig.partner("dairy").client.post("/epcis/events", json=event)

    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert stored(rig) == 0


def test_a_trial_names_every_fault_and_stores_nothing(rig: CaptureRig) -> None:
    caller = rig.partner("dairy")

    good = caller.client.post("/epcis/validate", json=document(seen("A", at=AT)))
    bad = caller.client.post("/epcis/validate", json=document(seen("A", at=AT) | {"action": "LOOK", "bizStep": "fly"}))

    assert good.json()["success"] is True
    assert {error["pointer"].rpartition("/")[2] for error in bad.json()["errors"]} == {"action", "bizStep"}
    assert stored(rig) == 0


@pytest.mark.parametrize("scope", ["capture", "query", "subscribe", "pledge"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/epcis/capture"), ("GET", "/epcis/capture"), ("GET", "/epcis/capture/x"), ("POST", "/epcis/events"),
     ("POST", "/epcis/validate")],
)  # fmt: skip
def test_only_the_scope_capture_captures(rig: CaptureRig, scope: str, method: str, path: str) -> None:
    answer = rig.partner("dairy", scope).client.request(method, path, json={} if method == "POST" else None)

    assert (answer.status_code == 403) is (scope != "capture")


def test_ready_signed_messages_are_admitted_like_those_from_the_broker(rig: CaptureRig) -> None:
    own = raw_message(rig, "line-1", seen("A", at=AT))
    foreign = raw_message(rig, "truck-1", seen("B", at=AT))
    broken = own[:-1] + b"x~"

    job = rig.partner("dairy").capture(
        b"\n".join([own, foreign, broken, b"junk"]), content_type="application/epcis+sd-jwt"
    )

    assert [one["status"] for one in job["results"]] == ["accepted", "rejected", "rejected", "rejected"]
    assert job["results"][1]["errors"][0]["code"] == "wrong_device"
    receipt = open_receipt(canonical_bytes(job["receipts"][job["results"][0]["message"]]), RECEIPT_KEY.public)
    assert receipt.refused is None
    assert [(event.org, event.use) for event in logged(rig)] == [(MAKER, "device")]


def test_master_data_in_the_header_is_told_as_not_stored(rig: CaptureRig) -> None:
    header = {"epcisMasterData": {"vocabularyList": [{"type": "urn:epcglobal:epcis:vtype:BusinessLocation"}]}}

    job = rig.partner("dairy").capture(document(seen("A", at=AT), epcisHeader=header))

    assert job["warnings"][0]["code"] == "master_data_not_stored"


@pytest.mark.parametrize("around", ["{}", "<extension>{}</extension>"])
def test_master_data_in_the_header_of_xml_is_told_as_not_stored(rig: CaptureRig, around: str) -> None:
    kind = "urn:epcglobal:epcis:vtype:BusinessLocation"
    element = '<VocabularyElement id="urn:epc:id:sgln:9521000.00001.0"/>'
    inner = f'<Vocabulary type="{kind}"><VocabularyElementList>{element}</VocabularyElementList></Vocabulary>'
    master = f"<EPCISMasterData><VocabularyList>{inner}</VocabularyList></EPCISMasterData>"
    text = document_xml([seen("A", at=AT)], created="2026-11-20T00:00:00Z").decode()
    text = text.replace("<EPCISBody>", f"<EPCISHeader>{around.format(master)}</EPCISHeader><EPCISBody>", 1)

    partner = rig.partner("dairy")
    sent = partner.client.post("/epcis/capture", content=text, headers={"Content-Type": "application/xml"})
    rig.work()
    job = partner.client.get(sent.headers["Location"]).json()

    assert job["warnings"][0]["code"] == "master_data_not_stored"
    assert job["counts"] == {"accepted": 1}


def test_options_tells_the_limits_of_capture(rig: CaptureRig) -> None:
    answer = rig.partner("dairy").client.options("/epcis/capture")

    assert (answer.status_code, set(answer.headers["Allow"].split(", "))) == (204, {"GET", "HEAD", "OPTIONS", "POST"})
    assert answer.headers["GS1-EPCIS-Capture-Limit"] == "10000"
    assert answer.headers["GS1-Capture-Error-Behaviour"] == "rollback, proceed"


def raw_message(rig: CaptureRig, name: str, event: dict[str, Any]) -> bytes:
    """What a device would publish."""
    world = rig.world
    return issue(
        [event],
        aud=AUD,
        org=world.owners[name],
        iss=world.iss(name),
        iat=AT,
        seq=0,
        prev=None,
        key=world.devices[name],
        salts=lambda: b"s" * 16,
    )


def test_the_same_event_in_another_spelling_is_a_duplicate_and_a_changed_one_is_not(rig: CaptureRig) -> None:
    taken = "urn:uuid:00000000-0000-4000-8000-000000000001"
    event = seen("A", at=AT, eventID=taken) | {"example:weight": 1.5}
    spelled = dict(reversed(event.items())) | {"eventTime": "2026-11-06T22:20:00+01:00"}
    spelled = {name.replace("example:", "other:"): value for name, value in spelled.items()}
    context = [CONTEXT, {"other": "https://example.com/"}]
    caller = rig.partner("dairy")
    caller.capture(document(event))

    same = caller.capture(document(spelled) | {"@context": context})
    other = caller.capture(document(spelled | {"other:weight": 1.6}) | {"@context": context})

    assert same["results"][0]["status"] == "duplicate"
    assert (other["success"], other["errors"][0]["code"]) == (False, "event_id_taken")


def test_a_partner_can_check_what_was_signed_in_its_name(rig: CaptureRig) -> None:
    caller, other = rig.partner("dairy"), rig.partner("carrier", gln=CARRIER[-13:])
    event = seen("A", at=AT, eventID="urn:uuid:00000000-0000-4000-8000-000000000001")
    job = caller.capture(document(event))
    place = f"/epcis/capture/{job['captureID']}/messages"

    lines = caller.client.get(place).content.split(b"\n")

    opened = open_message(split(lines[0]), rig.world.devices["gateway-1"].public)
    assert {name: value for name, value in opened.events[0].event.items() if name != "@context"} == event
    (receipt,) = job["receipts"].values()
    assert receipt["receipt"]["bytes"] == b64u(hashlib.sha256(lines[0]).digest())
    assert other.client.get(place).status_code == 404
