"""The operator's quarantine: search, the rule in words, decoded bytes, replay, retention."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from api.app import create_app
from api.identity import Role
from core.crypto import P256Private
from core.records import key_members
from ingest import quarantine
from ingest.pipeline import service_of
from ingest.quarantine import Fault
from ingest.quarantine_desk import DAY_MS, QuarantineDesk
from ingest.source import Delivery
from ledger.database import Database
from tests.api.device_rig import MAKER, Rig, make_rig
from tests.ledger.world import AUD, LOG, OPERATOR, seen

HTML = {"accept": "text/html"}
JSON = {"accept": "application/json"}
LATE = P256Private.from_secret(b"late")


@pytest.fixture
def rig(sqlite_database: Database, tmp_path: Path) -> Rig:
    """Two messages of a key that nobody has enrolled yet, and one piece of garbage."""
    rig = make_rig(sqlite_database, tmp_path)
    service = service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400)
    key = rig.world.orgs[OPERATOR]
    desk = QuarantineDesk(sqlite_database, service, operator_key=key, now_ms=rig.clock, days=30)
    rig.app = create_app(replace(rig.app.state.services, quarantine=desk))
    rig.world.devices["late"], rig.world.owners["late"] = LATE, MAKER
    faults = []
    for item in ("A", "B"):
        message = rig.world.message("late", [seen(item)])
        raw = message.jwt + b"~" + b"".join(text.encode() + b"~" for event in message.disclosures for text in event)
        faults.append(_fault(raw, "unknown_key", message.id))
    with rig.database.transaction() as tx:
        quarantine.put(tx, faults, now_ms=rig.clock.now_ms)
        garbage = Delivery("tb/1/9521000000018/9521000x/events", b"\xff garbage", None)
        quarantine.put(tx, [Fault(garbage, "bad_form", "No tilde here.", pointer="/x")], now_ms=rig.clock.now_ms)
    return rig


def _fault(raw: bytes, code: str, message_id: bytes) -> Fault:
    delivery = Delivery("tb/1/9521000000018/9521000late/events", raw, None)
    return Fault(
        delivery, code, "No key record of this key is in the log.", gln="9521000000018", device="9521000late",
        kid=LATE.thumbprint(), message_id=message_id,
    )  # fmt: skip


def operator(rig: Rig) -> Any:
    return rig.engineer(OPERATOR, Role.OPERATOR)


def rows(client: Any, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/operator/quarantine?{query}", headers=JSON).json()["held"]
    return found


def enrol(rig: Rig) -> None:
    members = key_members(LATE.jwk(), iss=rig.world.iss("late"), use="device", scope={})
    rig.client().post("/factory/records", content=rig.record("key", members))
    rig.step()


def test_search_finds_by_reason_device_text_key_and_time(rig: Rig) -> None:
    client = operator(rig)

    assert len(rows(client)) == 3
    assert [row["code"] for row in rows(client, "code=bad_form")] == ["bad_form"]
    assert len(rows(client, "device=9521000late")) == 2
    assert [row["code"] for row in rows(client, "text=TILDE")] == ["bad_form"]
    assert rows(client, "text=100%25") == []
    assert len(rows(client, f"kid={LATE.thumbprint()}")) == 2
    assert rows(client, "until=2001-01-01T00:00") == []
    assert len(rows(client, "since=2001-01-01T00:00")) == 3
    assert client.get("/operator/quarantine?since=yesterday", headers=JSON).status_code == 422
    assert client.get("/operator/quarantine?message=x", headers=JSON).status_code == 422


def test_a_row_tells_the_rule_in_both_languages_and_its_bytes_decoded(rig: Rig) -> None:
    client = operator(rig)
    [garbage] = rows(client, "code=bad_form")
    late = rows(client, "code=unknown_key")[0]

    english = client.get(f"/operator/quarantine/{late['id']}?lang=en", headers=HTML).text
    chinese = client.get(f"/operator/quarantine/{late['id']}?lang=zh", headers=HTML).text
    odd = client.get(f"/operator/quarantine/{garbage['id']}?lang=en", headers=HTML).text
    raw = client.get(f"/operator/quarantine/{garbage['id']}/bytes")

    assert "Enrol the device; once its record is in the log, replay." in english
    assert "请先登记设备" in chinese
    assert "epcis+sd-jwt" in english
    assert "epcList" in english
    assert "ff 20 67 61" in odd
    assert raw.content == b"\xff garbage"
    assert client.get("/operator/quarantine/999", headers=JSON).status_code == 404


def test_a_replay_before_the_fix_changes_nothing_and_after_it_takes_the_same_bytes(rig: Rig) -> None:
    client = operator(rig)
    first = min(row["id"] for row in rows(client, "code=unknown_key"))

    before = client.post(f"/operator/quarantine/{first}/replay", json={})
    enrol(rig)
    body = urlencode({"csrf": client.headers["X-CSRF-Token"]})
    form = {**HTML, "content-type": "application/x-www-form-urlencoded"}
    after = client.post(f"/operator/quarantine/{first}/replay", content=body, headers=form)
    rest = client.post("/operator/quarantine/replay", json={"code": "unknown_key"})

    assert before.json() == {"result": "unknown_key"}
    assert after.headers["location"] == f"/operator/quarantine/{first}?result=accepted"
    assert "accepted" in client.get(after.headers["location"] + "&lang=en", headers=HTML).text
    assert rest.json() == {"results": {"accepted": 1}}
    rig.step()
    engineer = rig.engineer().get(f"/factory/devices/{LATE.thumbprint()}", headers=JSON).json()
    assert sorted(row["seq"] for row in engineer["messages"]) == [0, 1]
    assert [row["state"] for row in rows(client, "state=accepted")] == ["accepted", "accepted"]


def test_rows_are_dismissed_and_purged(rig: Rig) -> None:
    client = operator(rig)
    [garbage] = rows(client, "code=bad_form")

    assert client.post(f"/operator/quarantine/{garbage['id']}/dismiss", json={}).status_code == 200
    assert client.post(f"/operator/quarantine/{garbage['id']}/dismiss", json={}).status_code == 409
    assert client.post("/operator/quarantine/purge", json={"days": 0}).status_code == 422
    assert client.post("/operator/quarantine/purge", json={"days": 10}).json() == {"removed": 0}
    rig.clock.now_ms += 11 * DAY_MS
    client = operator(rig)
    assert client.post("/operator/quarantine/purge", json={"days": 10}).json() == {"removed": 3}
    assert rows(client, "state=all") == []
    with rig.database.reading() as tx:
        assert quarantine.fill(tx, rows_max=1) == 0


def test_an_authentic_message_shows_its_refusal_record(rig: Rig) -> None:
    enrol(rig)
    client = operator(rig)
    future = {**seen("C"), "eventTime": "2099-01-01T00:00:00Z"}
    message = rig.world.message("late", [future])
    raw = message.jwt + b"~" + b"".join(text.encode() + b"~" for event in message.disclosures for text in event)
    with rig.database.transaction() as tx:
        quarantine.put(tx, [_fault(raw, "unknown_key", message.id)], now_ms=rig.clock.now_ms)
    newest = max(row["id"] for row in rows(client))

    client.post(f"/operator/quarantine/{newest}/replay", json={})
    rig.step()

    shown = client.get(f"/operator/quarantine/{newest}", headers=JSON).json()
    assert (shown["row"]["code"], shown["row"]["is_authentic"]) == ("event_in_future", True)
    assert shown["refusal"]["code"] == "event_in_future"
    assert isinstance(shown["refusal"]["leaf"], int)
