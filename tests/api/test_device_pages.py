"""The factory engineer's pages and commands: what each shows, and that no organisation sees another's."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from api.identity import Role
from ingest import quarantine
from ingest.quarantine import Fault
from ingest.source import Delivery
from ledger.database import Database
from ledger.keys import key_info
from tests.api.device_rig import CARRIER, MAKER, Rig, make_rig
from tests.ledger.world import OPERATOR

HTML = {"accept": "text/html"}
JSON = {"accept": "application/json"}
GTIN = "https://id.gs1.org/01/09521000123458"
EVENT: dict[str, Any] = {
    "type": "ObjectEvent",
    "action": "ADD",
    "eventTime": "2025-10-09T08:00:00Z",
    "eventTimeZoneOffset": "+00:00",
    "epcList": [f"{GTIN}/21/1"],
    "bizStep": "commissioning",
}
READINGS = [
    {
        "sensorReport": [
            {"type": "Temperature", "value": 4, "uom": "CEL"},
            {"type": "https://tracebond.org/voc/firmware", "stringValue": "2.4.1"},
            {"type": "https://tracebond.org/voc/battery", "value": 87, "uom": "P1"},
        ]
    }
]


@pytest.fixture
def rig(sqlite_database: Database, tmp_path: Path) -> Rig:
    """Line 1 tells messages 0 and 3, press 1 forks, press 2 is ended, the truck is the carrier's."""
    rig = make_rig(sqlite_database, tmp_path)
    world = rig.world
    for name in ("press-1", "press-2"):
        world.enroll(name, MAKER)
    rig.step()
    first = world.send("line-1", EVENT)
    world.chains["line-1"] = (3, first.id)
    world.send("line-1", {**EVENT, "sensorElementList": READINGS})
    for serial in (7, 8):
        world.admit(world.message("press-1", [{**EVENT, "epcList": [f"{GTIN}/21/{serial}"]}], keep=False))
    rig.desk.end(world.devices["press-2"].thumbprint(), reason="scrapped")
    rig.step()
    with rig.database.transaction() as tx:
        for gln, device in ((MAKER[-13:], "9521000line-1"), (CARRIER[-13:], "9521000truck-1")):
            delivery = Delivery(f"tb/1/{gln}/{device}/events", b"garbage of " + device.encode(), None)
            fault = Fault(delivery, "bad_form", "A message is a JWT.", gln=gln, device=device)
            quarantine.put(tx, [fault], now_ms=rig.clock.now_ms)
    return rig


def kid(rig: Rig, name: str = "line-1") -> str:
    return rig.world.devices[name].thumbprint()


def post(client: Any, path: str, **fields: str) -> Any:
    """What a page's form sends."""
    body = urlencode({"csrf": client.headers["X-CSRF-Token"], **fields})
    return client.post(path, content=body, headers={**HTML, "content-type": "application/x-www-form-urlencoded"})


def test_the_list_tells_each_devices_state_gaps_battery_and_firmware(rig: Rig) -> None:
    client = rig.engineer()

    body = client.get("/factory/devices", headers=JSON).json()

    rows = {row["giai"]: row for row in body["devices"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "9521000line-1": "active",
        "9521000press-1": "suspect",
        "9521000press-2": "ended",
    }
    line = rows["9521000line-1"]
    assert (line["messages"], line["missing"], line["told"]["battery"], line["told"]["firmware"]) == (
        2,
        2,
        "87 %",
        "2.4.1",
    )
    assert body["counts"] == {"active": 1, "suspect": 1, "ended": 1}
    found = client.get("/factory/devices?q=PRESS&state=ended", headers=JSON).json()["devices"]
    assert [row["giai"] for row in found] == ["9521000press-2"]


def test_the_list_has_pages(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.consoles import device_rows

    with rig.database.reading() as tx:
        first, after = device_rows.devices(tx, MAKER, limit=2)
        rest, end = device_rows.devices(tx, MAKER, limit=2, after=after)

    assert [row.giai for row in [*first, *rest]] == ["9521000line-1", "9521000press-1", "9521000press-2"]
    assert end == ""


def test_a_devices_page_shows_its_gap_fork_readings_and_what_was_rejected(rig: Rig) -> None:
    client = rig.engineer()

    body = client.get(f"/factory/devices/{kid(rig)}", headers=JSON).json()
    fork = client.get(f"/factory/devices/{kid(rig, 'press-1')}", headers=JSON).json()
    pages = [client.get(f"/factory/devices/{kid(rig)}?lang={lang}", headers=HTML) for lang in ("zh", "en")]

    assert [(gap["first"], gap["last"]) for gap in body["keys"][0]["gaps"]] == [(1, 2)]
    assert body["messages"][0]["seq"] == 3
    assert {reading["type"]: reading["value"] for reading in body["device"]["told"]["readings"]}["Temperature"] == "4"
    assert [row["code"] for row in body["held"]] == ["bad_form"]
    assert fork["keys"][0]["forks"] == 1
    assert [page.status_code for page in pages] == [200, 200]
    assert "缺口" in pages[0].text
    assert "Ask again" in pages[1].text


def test_no_page_shows_or_changes_what_is_another_organisations(rig: Rig) -> None:
    code = rig.code(CARRIER)
    mine, theirs = rig.engineer(MAKER), rig.engineer(CARRIER)
    truck = kid(rig, "truck-1")
    with rig.database.reading() as tx:
        held = {row.gln: row.id for row in quarantine.search(tx)}
    [code_row] = theirs.get("/factory/devices/codes", headers=JSON).json()["codes"]

    assert code_row["hint"] == code[:6]
    assert mine.get("/factory/devices/codes", headers=JSON).json()["codes"] == []
    listed = mine.get("/factory/devices", headers=JSON).json()["devices"]
    assert "9521000truck-1" not in {row["giai"] for row in listed}
    rows = mine.get("/factory/quarantine?state=all&gln=9521000000025", headers=JSON).json()["held"]
    assert [row["gln"] for row in rows] == [MAKER[-13:]]
    refused = [
        mine.get(f"/factory/devices/{truck}", headers=JSON),
        mine.get(f"/factory/quarantine/{held[CARRIER[-13:]]}", headers=JSON),
        mine.get(f"/factory/quarantine/{held[CARRIER[-13:]]}/bytes", headers=JSON),
        mine.post(f"/factory/devices/{truck}/end", json={"reason": "sabotage"}),
        mine.post(f"/factory/devices/{truck}/rotate", json={}),
        mine.post(f"/factory/devices/{truck}/password", json={}),
        mine.post(f"/factory/devices/{truck}/resend", json={"first": 0, "last": 1}),
        mine.post(f"/factory/devices/codes/{code_row['id']}/revoke", json={}),
    ]
    assert [answer.status_code for answer in refused] == [404] * 8
    with rig.database.reading() as tx:
        key = key_info(tx, truck)
    assert key is not None
    assert not key.is_ended
    assert theirs.get("/factory/devices/codes", headers=JSON).json()["codes"][0]["state"] == "open"


def test_only_the_factory_role_writes(rig: Rig) -> None:
    custodian = rig.engineer(MAKER, Role.CUSTODIAN)

    assert custodian.get("/factory/devices", headers=JSON).status_code == 200
    assert custodian.post("/factory/devices/codes", json={"count": 1}).status_code == 403
    assert custodian.post(f"/factory/devices/{kid(rig)}/end", json={"reason": "x"}).status_code == 403


def test_codes_made_on_the_page_are_shown_once_and_work(rig: Rig) -> None:
    page = post(rig.engineer(), "/factory/devices/codes", count="2", hours="2", steps="packing")

    codes = [part.split("<")[0] for part in page.text.split('<td class="code">')[1:]]
    assert len(codes) == 2
    from core.crypto import P256Private

    rig.desk.claims.claim(rig.claim(P256Private.from_secret(b"new"), codes[0], giai="9521000new-1"))
    states = [row["state"] for row in rig.engineer().get("/factory/devices/codes", headers=JSON).json()["codes"]]
    assert sorted(states) == ["open", "used"]
    assert codes[1] not in rig.engineer().get("/factory/devices/codes", headers=HTML).text


def test_a_file_is_previewed_row_by_row_and_imported_whole_or_not_at_all(rig: Rig) -> None:
    client = rig.engineer()
    head = "giai,jwk,steps,rate_per_s\n"
    bad = head + "9521000A1,,packing,5\n9521000A2,{},,\n9521000A1,,,\n9521000A3,,,many\n"

    preview = client.post("/factory/devices/import", json={"csv": bad}).json()
    page = post(client, "/factory/devices/import", csv=bad)
    applied = client.post("/factory/devices/import", json={"csv": bad, "apply": True})
    good = client.post("/factory/devices/import", json={"csv": head + "9521000A1,,packing,5\n", "apply": True}).json()

    faults = [(fault["line"], fault["column"]) for fault in preview["rows"]["faults"]]
    assert faults == [(3, "jwk"), (4, "giai"), (5, "rate_per_s")]
    assert page.status_code == 200
    assert page.text.count("<code>twice</code>") == 1
    assert (applied.status_code, applied.json()["pointer"]) == (422, "/lines/3")
    assert [(one["giai"], one["kid"] is None, len(one["code"])) for one in good["made"]] == [("9521000A1", True, 30)]
    assert len(client.get("/factory/devices/codes", headers=JSON).json()["codes"]) == 1


def test_a_device_is_enrolled_by_key_rotated_and_ended_on_its_pages(rig: Rig) -> None:
    from core.crypto import P256Private

    client, first, second = rig.engineer(), P256Private.from_secret(b"one"), P256Private.from_secret(b"two")
    import json

    enrolled = post(client, "/factory/devices", giai="9521000new-1", jwk=json.dumps(first.jwk()), steps="packing")
    assert enrolled.status_code == 303
    rig.step()
    rotated = client.post(f"/factory/devices/{first.thumbprint()}/rotate", json={"jwk": json.dumps(second.jwk())})
    assert rotated.json() == {"kid": second.thumbprint()}
    rig.step()
    ended = post(client, f"/factory/devices/{second.thumbprint()}/end", reason="sold")
    assert ended.status_code == 303
    rig.step()

    rows = client.get(f"/factory/devices/{second.thumbprint()}", headers=JSON).json()["keys"]
    assert [(row["kid"], row["is_ended"], row["scope"]) for row in rows] == [
        (second.thumbprint(), True, {"steps": ["packing"]}),
        (first.thumbprint(), True, {"steps": ["packing"]}),
    ]
    assert client.get(f"/factory/devices/{first.thumbprint()}", headers=HTML).status_code == 200


def test_master_data_told_on_the_page_is_a_signed_record(rig: Rig) -> None:
    client = rig.engineer()

    told = post(
        client, "/factory/master", fact="place", subject="urn:epc:id:sgln:9521000.00005.0", name_en="Plant",
        lat="31.2", lon="121.4",
    )  # fmt: skip
    wrong = client.post("/factory/master", json={"fact": "place", "subject": GTIN, "name_en": "x"})
    odd = client.post("/factory/master", json={"fact": "party", "lat": "1", "lon": "1"})
    rig.step()

    assert told.status_code == 303
    [row] = client.get("/factory/master", headers=JSON).json()["rows"]
    assert row["subject"] == "https://id.gs1.org/414/9521000000056"
    assert row["value"] == {"name_en": "Plant", "lat": "31.2", "lon": "121.4"}
    assert (wrong.json()["code"], odd.json()["code"]) == ("bad_subject", "bad_fact")
    assert rig.engineer(CARRIER).get("/factory/master", headers=JSON).json()["rows"] == []


def test_where_the_organisation_keeps_its_key_its_pages_sign_nothing(rig: Rig) -> None:
    client = rig.engineer(CARRIER)

    ended = client.post(f"/factory/devices/{kid(rig, 'truck-1')}/end", json={"reason": "sold"})
    told = client.post("/factory/master", json={"fact": "party", "name_en": "Carrier"})

    assert [(one.status_code, one.json()["code"]) for one in (ended, told)] == [(409, "foreign_key")] * 2


def test_the_operator_is_no_engineer_of_anybody(rig: Rig) -> None:
    operator = rig.engineer(OPERATOR, Role.OPERATOR)

    assert operator.get("/factory/devices", headers=JSON).status_code == 403
