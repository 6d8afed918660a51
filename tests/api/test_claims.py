"""Devices that claim their place with a one-time code and a key of their own."""

from pathlib import Path
from typing import Any

import pytest

from core.canonical import canonical_bytes
from core.crypto import P256Private
from core.jws import sign_jws
from ingest import claims
from ingest.claim_tables import claim_codes
from ledger.database import Database
from ledger.keys import key_info
from tests.api.device_rig import CARRIER, MAKER, RECEIPT, Rig, make_rig
from tests.ledger.world import AUD, LOG

KEY = P256Private.from_secret(b"a new device")
OTHER = P256Private.from_secret(b"another device")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.consoles.claims.WAIT_S", 0.0)


@pytest.fixture
def rig(sqlite_database: Database, tmp_path: Path) -> Rig:
    return make_rig(sqlite_database, tmp_path)


def ask(rig: Rig, raw: bytes, where: str = "claim") -> Any:
    return rig.client().post(f"/factory/devices/{where}", content=raw, headers={"content-type": "application/jose"})


def connect(rig: Rig, key: P256Private, **more: Any) -> Any:
    """What the device asks with its key alone."""
    rig.clock.now_ms += 1_000
    payload = {"v": 1, "aud": AUD, "iat": rig.clock.now_ms // 1_000} | more
    return ask(rig, sign_jws(canonical_bytes(payload), typ="tb-claim+jwt", key=key), "credentials")


def test_a_device_with_a_code_gets_its_key_into_the_log_and_its_credentials(rig: Rig) -> None:
    code = rig.code()

    first = ask(rig, rig.claim(KEY, code, giai="9521000press-1"))
    assert (first.status_code, first.json()["state"]) == (202, "waiting")
    rig.step()
    answer = ask(rig, rig.claim(KEY, code.lower().replace("-", " "), giai="9521000press-1"))

    assert answer.status_code == 201, answer.text
    assert answer.json() == {
        "state": "active",
        "broker": "mqtt://broker.test:1883",
        "client_id": "9521000000018/9521000press-1",
        "username": "9521000000018/9521000press-1",
        "password": "password-1",
        "publish": "tb/1/9521000000018/9521000press-1/events",
        "subscribe": ["tb/1/9521000000018/9521000press-1/receipts", "tb/1/9521000000018/9521000press-1/commands"],
        "kid": KEY.thumbprint(),
        "aud": AUD,
        "log": LOG,
        "org": MAKER,
        "iss": "https://id.gs1.org/8004/9521000press-1",
        "receipt_keys": [RECEIPT.jwk()],
    }
    with rig.database.reading() as tx:
        key = key_info(tx, KEY.thumbprint())
    assert key is not None
    assert (key.org, key.use) == (MAKER, "device")


def test_the_scope_of_the_code_becomes_that_of_the_key(rig: Rig) -> None:
    code = rig.code(scope={"steps": ["packing"]})

    ask(rig, rig.claim(KEY, code, giai="9521000press-1"))
    rig.step()

    with rig.database.reading() as tx:
        key = key_info(tx, KEY.thumbprint())
    assert key is not None
    assert key.scope == {"steps": ["packing"]}


def test_a_code_counts_once_and_in_time_and_stands_nowhere_in_clear(rig: Rig) -> None:
    code, late, back = rig.code(), rig.code(life_ms=60_000), rig.code()
    assert ask(rig, rig.claim(KEY, code, giai="9521000press-1")).status_code == 202
    with rig.database.transaction() as tx:
        ids = {row.hint: row.id for row in tx.execute(claim_codes.select())}
        claims.revoke_code(tx, ids[back[:6]], org=MAKER, now_ms=rig.clock.now_ms)
        stored = repr(tx.execute(claim_codes.select()).all())
    rig.clock.now_ms += 70_000

    used = ask(rig, rig.claim(OTHER, code, giai="9521000press-2"))
    expired = ask(rig, rig.claim(OTHER, late, giai="9521000press-2"))
    revoked = ask(rig, rig.claim(OTHER, back, giai="9521000press-2"))

    assert [(one.status_code, one.json()["code"]) for one in (used, expired, revoked)] == [
        (409, "claim_code_used"),
        (409, "claim_code_expired"),
        (422, "bad_claim_code"),
    ]
    assert code not in stored
    assert code.replace("-", "") not in stored


def test_wrong_guesses_are_throttled(rig: Rig) -> None:
    tries = [ask(rig, rig.claim(KEY, f"GUESS-{number}", giai="9521000press-1")) for number in range(12)]

    assert [one.json()["code"] for one in tries] == ["bad_claim_code"] * 10 + ["throttled"] * 2
    assert tries[-1].status_code == 429


def test_a_claim_needs_the_key_it_names(rig: Rig) -> None:
    code = rig.code()
    good = rig.claim(KEY, code, giai="9521000press-1")
    rig.clock.now_ms += 1_000
    payload = {"v": 1, "aud": AUD, "iat": rig.clock.now_ms // 1_000, "code": code, "jwk": KEY.jwk(), "giai": "9521000a"}
    stolen = sign_jws(canonical_bytes(payload), typ="tb-claim+jwt", key=OTHER)
    unsigned = good[:-6] + (b"AAAAAA" if good[-6:] != b"AAAAAA" else b"BBBBBB")

    answers = [ask(rig, stolen), ask(rig, unsigned), ask(rig, good.replace(b".", b"", 1)), ask(rig, b"{}")]

    assert [one.status_code for one in answers] == [422] * 4
    assert [one.json()["code"] for one in answers[:2]] == ["bad_claim", "bad_signature"]
    with rig.database.reading() as tx:
        assert claims.codes_of(tx, MAKER, now_ms=rig.clock.now_ms)[0].state == "open"


def test_old_replayed_and_foreign_requests_are_refused(rig: Rig) -> None:
    code = rig.code()
    raw = rig.claim(KEY, code, giai="9521000press-1")
    assert ask(rig, raw).status_code == 202

    replayed = ask(rig, raw)
    elsewhere = ask(rig, rig.claim(KEY, code, giai="9521000press-1", aud="https://elsewhere.test"))
    old = ask(rig, rig.claim(KEY, code, giai="9521000press-1", iat=rig.clock.now_ms // 1_000 - 4_000))

    assert [one.json()["code"] for one in (replayed, elsewhere, old)] == [
        "stale_request",
        "wrong_audience",
        "stale_request",
    ]


def test_where_the_organisation_keeps_its_key_the_claim_waits_for_its_record(rig: Rig) -> None:
    code = rig.code(CARRIER)

    answer = ask(rig, rig.claim(KEY, code, giai="9521000truck-2"))
    assert (answer.status_code, answer.json()["state"]) == (202, "unsigned")
    payload = answer.json()["record"]
    with rig.database.reading() as tx:
        assert [row.kid for row in claims.unsigned_claims(tx, CARRIER)] == [KEY.thumbprint()]
        assert claims.unsigned_claims(tx, MAKER) == []
    signed = sign_jws(canonical_bytes(payload), typ="tb-record+jwt", key=rig.world.orgs[CARRIER])
    assert rig.client().post("/factory/records", content=signed).status_code == 201
    rig.step()

    done = ask(rig, rig.claim(KEY, code, giai="9521000truck-2"))
    assert (done.status_code, done.json()["client_id"]) == (201, "9521000000025/9521000truck-2")


def test_a_code_for_the_device_rotates_its_key_and_any_other_code_does_not(rig: Rig) -> None:
    old = rig.world.devices["line-1"]
    rig.world.send("line-1", EVENT)
    rig.step()

    taken = ask(rig, rig.claim(KEY, rig.code(), giai="9521000line-1"))
    other = ask(rig, rig.claim(KEY, rig.code(giai="9521000line-1"), giai="9521000line-9"))
    assert [taken.json()["code"], other.json()["code"]] == ["device_exists", "bad_claim_code"]
    code = rig.code(giai="9521000line-1")
    assert ask(rig, rig.claim(KEY, code)).status_code == 202
    rig.step()
    with rig.database.reading() as tx:
        before = key_info(tx, old.thumbprint())
    assert before is not None
    assert not before.is_ended
    assert ask(rig, rig.claim(KEY, code)).status_code == 201
    rig.step()

    with rig.database.reading() as tx:
        ended, new = key_info(tx, old.thumbprint()), key_info(tx, KEY.thumbprint())
    assert ended is not None
    assert (ended.is_ended, ended.last_seq) == (True, 0)
    assert new is not None
    assert (new.iss, new.is_ended) == (rig.world.iss("line-1"), False)
    assert len(rig.broker.devices()) == 1


def test_a_device_whose_key_stands_in_the_log_gets_a_new_password_by_its_key(rig: Rig) -> None:
    key = rig.world.devices["line-1"]

    first, second = connect(rig, key), connect(rig, key)

    assert [first.status_code, second.status_code] == [201, 201]
    assert first.json()["password"] != second.json()["password"]
    assert list(rig.broker.passwords.values()) == [second.json()["password"]]
    assert connect(rig, OTHER).json()["code"] == "unknown_key"
    rig.desk.end(key.thumbprint(), reason="sold")
    ended = connect(rig, key)
    assert (ended.status_code, ended.json()["code"]) == (409, "key_ended")
    assert rig.broker.devices() == set()


def test_anybody_may_ask_for_the_service_and_its_clock(rig: Rig) -> None:
    body = rig.client().get("/factory/devices/claim").json()

    assert (body["aud"], body["log"], body["time"]) == (AUD, LOG, rig.clock.now_ms // 1_000)


def test_two_keys_that_race_for_one_code_leave_one_winner(rig: Rig) -> None:
    code = rig.code()

    answers = [ask(rig, rig.claim(key, code, giai="9521000press-1")) for key in (KEY, OTHER)]

    assert [one.status_code for one in answers] == [202, 409]


EVENT = {
    "type": "ObjectEvent",
    "action": "ADD",
    "eventTime": "2025-10-09T08:00:00Z",
    "eventTimeZoneOffset": "+00:00",
    "epcList": ["https://id.gs1.org/01/09521000123458/21/1"],
    "bizStep": "commissioning",
}
