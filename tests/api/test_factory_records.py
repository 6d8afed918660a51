"""Records that organisations sign themselves, handed in over HTTP."""

import json
from pathlib import Path

import pytest

from api.auth import partners
from core.canonical import b64u, sha256, unb64u
from core.crypto import P256Private
from core.receipts import open_receipt
from core.records import key_members
from ledger.database import Database
from ledger.keys import key_info
from tests.api.device_rig import CARRIER, MAKER, RECEIPT, Rig, make_rig

KEY = P256Private.from_secret(b"a new device")
PLACE = "https://id.gs1.org/414/9521000000056"
PRODUCT = "https://id.gs1.org/01/09521000123458"


@pytest.fixture
def rig(sqlite_database: Database, tmp_path: Path) -> Rig:
    return make_rig(sqlite_database, tmp_path)


def refused(rig: Rig, raw: bytes | str) -> tuple[int, str, str]:
    """Status, code and pointer of a refusal, after which nothing waits for the log."""
    answer = rig.client().post("/factory/records", content=raw, headers={"content-type": "application/jose"})
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert rig.world.step() is None
    body = answer.json()
    return answer.status_code, body["code"], body.get("pointer", "")


@pytest.mark.parametrize("form", ["application/jose", "list"])
def test_a_signed_key_record_is_taken_and_counts_from_its_place_in_the_log(rig: Rig, form: str) -> None:
    raw = rig.key_record(KEY, "press-1")
    client = rig.client()

    if form == "list":
        answer = client.post("/factory/records", json={"records": [raw.decode()]})
    else:
        answer = client.post("/factory/records", content=raw, headers={"content-type": form})

    assert answer.status_code == 201, answer.text
    body = answer.json()["records"][0] if form == "list" else answer.json()
    assert body["id"] == b64u(sha256(raw.rpartition(b".")[0]))
    assert body["leaf_hash"] == b64u(sha256(b"\0" + raw))
    receipt = open_receipt(json.dumps(body["receipt"]).encode(), RECEIPT.public)
    assert (receipt.message, receipt.sent) == (unb64u(body["id"]), sha256(raw))
    state = client.get(f"/factory/records/{body['id']}").json()
    assert (state["state"], state["leaf"]) == ("waiting", None)
    with rig.database.reading() as tx:
        assert key_info(tx, KEY.thumbprint()) is None
    rig.step()
    assert client.get(f"/factory/records/{body['id']}").json()["state"] == "in_checkpoint"
    with rig.database.reading() as tx:
        assert key_info(tx, KEY.thumbprint()) is not None


def test_the_same_bytes_again_give_the_same_answer_and_no_second_entry(rig: Rig) -> None:
    raw = rig.key_record(KEY, "press-1")
    first = rig.client().post("/factory/records", content=raw).json()
    rig.step()
    rig.clock.now_ms += 90_000

    second = rig.client().post("/factory/records", content=raw)

    assert second.status_code == 201
    assert second.json()["receipt"]["receipt"] == first["receipt"]["receipt"]
    assert rig.world.step() is None


def test_the_same_record_under_another_signature_is_no_repeat(rig: Rig) -> None:
    first = rig.key_record(KEY, "press-1")
    head = first.rpartition(b".")[0]
    other = next(one for one in (rig.key_record(KEY, "press-1") for _ in range(9)) if one != first)
    rig.client().post("/factory/records", content=first)
    rig.step()

    assert refused(rig, other)[:2] == (409, "record_exists")
    assert refused(rig, head + b"." + b"A" * 86)[:2] == (409, "record_exists")


def test_a_second_key_or_end_record_of_a_kid_is_a_conflict(rig: Rig) -> None:
    kid = rig.world.devices["line-1"].thumbprint()
    end = {"kid": kid, "last": None, "seq": -1, "reason": "sold"}
    assert refused(rig, rig.key_record(rig.world.devices["line-1"], "line-2")) == (409, "key_exists", "/kid")

    assert rig.client().post("/factory/records", content=rig.record("end", end)).status_code == 201
    rig.step()

    assert refused(rig, rig.record("end", end | {"reason": "lost"})) == (409, "already_ended", "/kid")


def test_an_end_record_shuts_the_device_out_of_the_broker(rig: Rig) -> None:
    rig.desk.doors.let_in(MAKER, rig.world.iss("line-1"))
    rig.desk.doors.let_in(CARRIER, rig.world.iss("truck-1"))
    kid = rig.world.devices["line-1"].thumbprint()

    rig.client().post(
        "/factory/records", content=rig.record("end", {"kid": kid, "last": None, "seq": -1, "reason": "x"})
    )

    assert [name.gln for name in rig.broker.devices()] == [CARRIER[-13:]]


WRONG_KEYS = [
    ({"aud": "https://elsewhere.test"}, (422, "wrong_log", "/aud")),
    ({"log": "elsewhere.test/log"}, (422, "wrong_log", "/log")),
    ({"org": CARRIER}, (422, "unknown_signer", "/org")),
    ({"org": "https://id.gs1.org/417/9521000000032"}, (422, "unknown_signer", "/org")),
    ({"use": "receipt"}, (422, "use_not_allowed", "/use")),
    ({"use": "gateway"}, (422, "use_not_allowed", "/use")),
    ({"use": "friend"}, (422, "bad_record", "/use")),
    ({"iss": "urn:epc:id:giai:9521000.1"}, (422, "not_canonical", "/iss")),
    ({"iss": PRODUCT}, (422, "bad_device_name", "/iss")),
    ({"iss": "https://id.gs1.org/8004/9521000truck-1"}, (409, "device_of_other_org", "/iss")),
    ({"scope": {"colour": ["red"]}}, (422, "bad_scope", "/scope/colour")),
    ({"scope": {"steps": "packing"}}, (422, "bad_scope", "/scope/steps")),
    ({"scope": {"products": ["urn:epc:idpat:sgtin:9521000.012345.*"]}}, (422, "bad_scope", "/scope/products/0")),
    ({"scope": {"places": [PLACE, PRODUCT]}}, (422, "bad_scope", "/scope/places/1")),
    ({"scope": {"rate": {"per_s": 0}}}, (422, "bad_scope", "/scope/rate/per_s")),
    ({"scope": {"types": ["Event"]}}, (422, "bad_scope", "/scope/types/0")),
]


def test_a_wrong_key_record_is_refused_with_its_place(rig: Rig) -> None:
    for change, expected in WRONG_KEYS:
        members = key_members(KEY.jwk(), iss=rig.world.iss("press-1"), use="device", scope={})
        if change.get("use") == "friend":
            good = rig.record("key", members)
            head, payload, _ = good.split(b".")
            forged = b64u(unb64u(payload.decode()).replace(b'"use":"device"', b'"use":"friend"')).encode()
            raw = head + b"." + forged + b"." + good.rpartition(b".")[2]
        else:
            raw = rig.record("key", members | change, signer=MAKER)
        assert refused(rig, raw) == expected, change


def test_a_scope_that_ingest_understands_is_taken(rig: Rig) -> None:
    scope = {
        "types": ["ObjectEvent"], "steps": ["packing", "shipping"], "products": [PRODUCT], "places": [PLACE],
        "rate": {"per_s": 5, "burst": 20},
    }  # fmt: skip

    answer = rig.client().post("/factory/records", content=rig.key_record(KEY, "press-1", scope=scope))

    assert answer.status_code == 201


def test_a_flipped_bit_is_refused_and_a_stranger_signs_for_nobody(rig: Rig) -> None:
    good = rig.key_record(KEY, "press-1")
    flipped = good[:-6] + (b"A" if good[-6:-5] != b"A" else b"B") + good[-5:]
    stranger = P256Private.from_secret(b"stranger")
    rig.world.orgs["stranger"] = stranger

    assert refused(rig, flipped)[:2] == (422, "bad_signature")
    members = key_members(KEY.jwk(), iss=rig.world.iss("press-1"), use="device", scope={})
    assert refused(rig, rig.record("key", members, signer="stranger"))[:2] == (422, "unknown_signer")
    assert refused(rig, b"no record at all")[:2] == (422, "bad_form")
    assert refused(rig, b"")[0] == 422


def test_the_operators_kinds_of_record_are_not_taken_from_organisations(rig: Rig) -> None:
    assert refused(rig, rig.record("audit", {"row": b64u(bytes(32))}))[:2] == (422, "wrong_kind")


FACTS = [
    (PLACE, "place", {"name_en": "Cold store", "lat": "31.2304", "lon": "121.4737"}, None),
    (PRODUCT, "product", {"name_en": "Milk", "category": "dairy", "shelf_life_days": 21}, None),
    (MAKER, "party", {"name_en": "Maker"}, None),
    (f"{PRODUCT}/21/1", "ownership", {"owner": CARRIER}, None),
    ("urn:epc:id:sgln:9521000.00005.0", "place", {}, (422, "not_canonical", "/subject")),
    (PRODUCT, "place", {}, (422, "bad_subject", "/subject")),
    (CARRIER, "party", {}, (422, "bad_subject", "/subject")),
    (PLACE, "place", {"lat": "91", "lon": "0"}, (422, "bad_fact", "/value/lat")),
    (PLACE, "place", {"lat": "31.2"}, (422, "bad_fact", "/value/lat")),
    (PRODUCT, "product", {"shelf_life_days": 0}, (422, "bad_fact", "/value/shelf_life_days")),
    (PRODUCT, "product", {"name_en": ["Milk"]}, (422, "bad_fact", "/value/name_en")),
    (f"{PRODUCT}/21/1", "ownership", {}, (422, "bad_fact", "/value/owner")),
    (f"{PRODUCT}/21/1", "ownership", {"owner": PLACE}, (422, "bad_fact", "/value/owner")),
]


def test_master_records_say_what_can_be_understood(rig: Rig) -> None:
    for subject, fact, value, expected in FACTS:
        raw = rig.record("master", {"subject": subject, "fact": fact, "value": value})
        if expected is None:
            assert rig.client().post("/factory/records", content=raw).status_code == 201, subject
            rig.step()
        else:
            assert refused(rig, raw) == expected, subject


def test_another_organisation_does_not_rewrite_facts_or_take_goods(rig: Rig) -> None:
    item = f"{PRODUCT}/21/1"
    for fact, subject, value in (("place", PLACE, {"name_en": "Ours"}), ("ownership", item, {"owner": MAKER})):
        members = {"subject": subject, "fact": fact, "value": value}
        assert rig.client().post("/factory/records", content=rig.record("master", members)).status_code == 201
    event = {
        "type": "ObjectEvent", "action": "ADD", "eventTime": "2025-10-09T08:00:00Z",
        "eventTimeZoneOffset": "+00:00", "epcList": [item], "bizStep": "commissioning",
    }  # fmt: skip
    rig.world.send("line-1", event)
    rig.step()

    place = rig.record("master", {"subject": PLACE, "fact": "place", "value": {"name_en": "Mine"}}, org=CARRIER)
    taken = rig.record("master", {"subject": item, "fact": "ownership", "value": {"owner": CARRIER}}, org=CARRIER)

    assert refused(rig, place) == (409, "subject_of_other_org", "/subject")
    assert refused(rig, taken) == (409, "not_owner", "/subject")


def test_of_several_records_all_are_stored_or_none(rig: Rig) -> None:
    good = rig.key_record(KEY, "press-1").decode()
    bad = rig.key_record(P256Private.from_secret(b"other"), "press-2", use="receipt").decode()

    answer = rig.client().post("/factory/records", json={"records": [good, bad]})

    assert (answer.status_code, answer.json()["pointer"]) == (422, "/records/1/use")
    assert rig.world.step() is None


def test_a_session_or_key_of_another_organisation_hands_in_nothing_for_this_one(rig: Rig) -> None:
    raw = rig.key_record(KEY, "press-1")
    with rig.database.transaction() as tx:
        partner = partners.create_partner(tx, name="carrier", gln=CARRIER[-13:], is_regulator=False, now_ms=1)
        text = partners.create_key(tx, partner, scopes=["capture"], now_ms=1, secret=rig.random(32))

    by_session = rig.engineer(CARRIER).post("/factory/records", content=raw)
    by_key = rig.client(authorization=f"Bearer {text}").post("/factory/records", content=raw)
    by_wrong_key = rig.client(authorization="Bearer tb_nothing").post("/factory/records", content=raw)

    assert [by_session.json()["code"], by_key.json()["code"]] == ["other_organisation"] * 2
    assert by_wrong_key.status_code == 401
    assert rig.engineer(MAKER).post("/factory/records", content=raw).status_code == 201


def test_an_organisation_sees_its_own_records_only(rig: Rig) -> None:
    raw = rig.key_record(KEY, "press-1")
    record_id = rig.client().post("/factory/records", content=raw).json()["id"]

    mine = rig.engineer(MAKER).get("/factory/records", headers={"accept": "application/json"}).json()["records"]
    theirs = rig.engineer(CARRIER).get("/factory/records", headers={"accept": "application/json"}).json()["records"]

    assert record_id in [row["id"] for row in mine]
    assert record_id not in [row["id"] for row in theirs]
    assert {row["org"] for row in theirs} == {CARRIER}
    assert "record" not in rig.engineer(CARRIER).get(f"/factory/records/{record_id}").json()
