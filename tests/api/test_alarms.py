"""Alarms from reading to clearance: webhook, event in the log, page, JSON; on both databases and with real HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.auth import sessions, users
from api.identity import Role
from core.canonical import sha256
from ingest import alarms as following
from ingest import alarms_book as book
from ingest.alarms_rules import read_rule
from ingest.alarms_tables import sensor_readings
from ingest.alarms_told import Hooks, log_events
from ingest.broker import EmbeddedBroker
from ingest.pipeline import Worker, service_of
from ingest.source import MqttSource
from ingest.topics import device_name
from ledger import followers, state
from ledger.database import Database
from simulators.connection import Fleet
from simulators.devices import Device, DeviceConfig
from tests.api.capture_rig import RECEIPT_KEY, CaptureRig, make_rig
from tests.api.conftest import NOW_MS, TestClient
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, World, seen, sgtin_id, time_text
from tracebond.alarm_run import sender

START = NOW_MS // 1000 - 7_200


class Receiver:
    """A partner's server that takes webhooks, and refuses the first when told so."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.refusals = 1
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if mine.refusals:
                    mine.refusals -= 1
                    self.send_response(503)
                else:
                    mine.taken.append((dict(self.headers), body))
                    self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/alarms"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()


def reading(minute: int, value: int, *serials: object) -> dict[str, Any]:
    at = START + minute * 60
    look = [
        {
            "sensorMetadata": {"time": time_text(at)},
            "sensorReport": [{"type": "Temperature", "value": Decimal(value), "uom": "CEL"}],
        }
    ]
    return seen(*serials, step="sensor_reporting", at=at, sensorElementList=look)


def warm(world: World, minute: int, value: int, *serials: object) -> Any:
    world.now = START + minute * 60
    return world.send("line-1", reading(minute, value, *serials))


def follow(database: Database, world: World) -> None:
    world.step()
    followers.run_all(database, state.views())
    following.run_all(database)


def staff(rig: CaptureRig, login: str, role: Role, org: str = MAKER) -> Any:
    with rig.database.transaction() as tx:
        person = users.create_person(tx, name=login, now_ms=NOW_MS)
        user = users.create_user(tx, person_id=person, login=login, org=org, roles=[role], now_ms=NOW_MS, password=None)
        token = sessions.create_one_time_login(tx, user, now_ms=rig.clock.now_ms, token=sha256(login.encode()))
    client = TestClient(rig.app, base_url="http://testserver", follow_redirects=False)
    client.headers["X-CSRF-Token"] = client.post("/login/once", json={"token": token}).json()["csrf"]
    return client


def test_a_warm_hour_is_raised_told_seen_and_cleared(database: Database, receiver: Receiver) -> None:
    rig = make_rig(database)
    rig.app.state.services = replace(
        rig.app.state.services, settings=replace(rig.app.state.services.settings, webhook_private=True)
    )
    keeper = staff(rig, "keeper", Role.FACTORY)
    made = keeper.post(
        "/factory/alarms/rules",
        json={"kind": "excursion", "name": "Cold room", "high": "8", "low": "2", "for_s": 600, "hook": receiver.url},
    )
    assert made.status_code == 200, made.text
    for minute, value in enumerate((5, 9, 12, 14, 13)):
        warm(rig.world, minute * 5, value, 1)
    follow(database, rig.world)
    hooks = Hooks(database, sender(may_be_private=True), lambda attempts: 1_000)
    hooks.step(NOW_MS)
    hooks.step(NOW_MS + 2_000)

    (row,) = keeper.get("/factory/alarms").json()["alarms"]
    headers, body = receiver.taken[0]
    told = json.loads(body)

    assert (row["state"], row["peak"], row["goods"]) == ("raised", "14", [sgtin_id(1)])
    assert (told["what"], told["alarm"]["id"]) == ("alarm.raised", row["id"])
    assert is_signed(made.json()["secret"], headers, body)

    assert log_events(database, rig.gateway) == 1
    assert log_events(database, rig.gateway) == 0
    follow(database, rig.world)
    item = keeper.get(f"/items/{sgtin_id(1).replace('/', '%2F').replace(':', '%3A')}").json()
    assert [(one["exception"], one["value"]) for one in item["alarms"]] == [("ALARM_CONDITION", 14)]
    assert [one["signed_by"] for one in item["journey"]].count("gateway") == 1

    seen_it = keeper.post(f"/factory/alarms/{row['id']}/ack", json={"note": "door was open"}).json()
    for minute, value in enumerate((5, 5, 5), start=6):
        warm(rig.world, minute * 5, value, 1)
    follow(database, rig.world)
    ended = keeper.get(f"/factory/alarms/{row['id']}").json()
    hooks.step(NOW_MS + 4_000)

    assert seen_it["state"] == "acknowledged"
    assert [one["who"] for one in ended["alarm"]["history"]] == ["rule", "keeper", "rule"]
    assert ended["alarm"]["state"] == "cleared"
    assert [json.loads(body)["what"] for _, body in receiver.taken] == ["alarm.raised", "alarm.cleared"]
    assert log_events(database, rig.gateway) == 1


def test_a_simulated_device_at_a_real_broker_raises_an_alarm(
    sqlite_database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    rig = make_rig(sqlite_database)
    receiver.refusals = 0
    with sqlite_database.transaction() as tx:
        cold = {"kind": "excursion", "name": "Cold room", "high": "8", "degree_minutes_max": "10", "hook": receiver.url}
        book.add_rule(tx, read_rule("r1", MAKER, cold), secret="s", who="keeper", now_ms=START * 1000)
    world, broker = rig.world, EmbeddedBroker(tmp_path / "broker")
    broker.start()
    try:
        name = device_name(MAKER, world.iss("line-1"))
        password = broker.access.sync([name])[name]
        config = DeviceConfig.of(
            "line-1", aud=AUD, org=MAKER, iss=world.iss("line-1"), receipt_keys=(RECEIPT_KEY.public.jwk(),),
            username=name.username, password=password,
        )  # fmt: skip
        device = Device.create(tmp_path / "device", config, world.devices["line-1"])
        for minute, value in enumerate((5, 9, 12, 14)):
            device.record([reading(minute * 5, value, 1)], START + minute * 300)
        source = MqttSource(broker.url, "ingest-1")
        service = service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400)
        worker = Worker(
            source, sqlite_database, service, operator_key=world.orgs[OPERATOR], receipt_key=RECEIPT_KEY,
            now_ms=rig.clock,
        )  # fmt: skip
        fleet = Fleet([device], broker.url)
        deadline = time.monotonic() + 60
        while fleet.pending and time.monotonic() < deadline:
            fleet.turn()
            worker.run_once()
        fleet.stop()
        worker.close()
        source.close()
    finally:
        broker.stop()
    world.now = NOW_MS // 1000
    follow(sqlite_database, world)
    Hooks(sqlite_database, sender(may_be_private=True), lambda attempts: 1_000).step(NOW_MS)
    with sqlite_database.reading() as tx:
        (row,) = book.alarms_of(tx, org=MAKER)

    assert fleet.pending == 0
    assert (row.state, json.loads(row.goods)) == ("raised", [sgtin_id(1)])
    # Five minutes from 1 to 4 degrees above the bound, and five from 4 to 6: 12.5 and 25.
    assert json.loads(row.details)["degree_minutes"] == "37.5"
    assert [json.loads(body)["what"] for _, body in receiver.taken] == ["alarm.raised"]
    assert log_events(sqlite_database, rig.gateway) == 1


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver checks it: HMAC-SHA-256 over time, delivery id and body."""
    import hashlib
    import hmac

    parts = dict(part.split("=") for part in headers["GS1-Signature"].split(","))
    text = f"{parts['t']}.{headers['GS1-Delivery-ID']}.".encode() + body
    return hmac.compare_digest(parts["v1"], hmac.new(secret.encode(), text, hashlib.sha256).hexdigest())


def test_only_one_alarm_stands_per_rule_and_device_and_others_do_not_see_it(database: Database) -> None:
    rig = make_rig(database)
    with database.transaction() as tx:
        book.add_rule(tx, rule(), secret="", who="keeper", now_ms=START * 1000)
    for minute, value in enumerate((9, 5, 9, 5, 9, 9)):
        warm(rig.world, minute, value, 1)
    follow(database, rig.world)
    neighbour = staff(rig, "neighbour", Role.FACTORY, org="https://id.gs1.org/417/9521000000025")
    operator = staff(rig, "watch", Role.OPERATOR, org="https://id.gs1.org/417/9521000000001")

    (row,) = operator.get("/factory/alarms").json()["alarms"]

    assert row["state"] == "raised"
    assert neighbour.get("/factory/alarms").json()["alarms"] == []
    assert neighbour.get(f"/factory/alarms/{row['id']}").status_code == 404
    assert neighbour.post(f"/factory/alarms/{row['id']}/clear", json={}).status_code == 404
    assert operator.post(f"/factory/alarms/{row['id']}/clear", json={}).json()["cleared_by"] == "watch"


def rule(**given: Any) -> Any:
    return read_rule("r1", MAKER, {"kind": "threshold", "name": "Warm", "above": "8"} | given)


def test_the_order_of_arrival_does_not_change_an_alarm(database: Database) -> None:
    rig = make_rig(database)
    with database.transaction() as tx:
        book.add_rule(tx, rule(for_s=120), secret="", who="keeper", now_ms=START * 1000)
    for minute, value in ((5, 5), (3, 9), (1, 9), (2, 9), (0, 5), (15, 5)):
        warm(rig.world, minute, value, 1)
        rig.world.now = START + 3_600
        follow(database, rig.world)

    with database.reading() as tx:
        (row,) = book.alarms_of(tx, org=MAKER)

    assert (row.start_ms, row.raised_ms, row.end_ms) == tuple((START + 60 * minute) * 1000 for minute in (1, 3, 5))
    assert row.state == "cleared"


def test_silence_is_raised_by_the_present_and_ends_with_the_next_word(database: Database) -> None:
    rig = make_rig(database)
    quiet = {"kind": "silence", "for_s": 600, "above": ""}
    with database.transaction() as tx:
        book.add_rule(tx, rule(**quiet), secret="", who="keeper", now_ms=START * 1000)
    warm(rig.world, 0, 5, 1)
    follow(database, rig.world)
    early = following.listen_for_silence(database, (START + 600) * 1000)
    late = following.listen_for_silence(database, (START + 601) * 1000)
    again = following.listen_for_silence(database, (START + 900) * 1000)
    with database.reading() as tx:
        (raised,) = book.alarms_of(tx, org=MAKER)
    warm(rig.world, 20, 5, 1)
    follow(database, rig.world)

    with database.reading() as tx:
        (ended,) = book.alarms_of(tx, org=MAKER)

    assert (early, late, again) == (0, 1, 0)
    assert (raised.state, ended.state) == ("raised", "cleared")


def test_readings_beyond_the_year_go_and_the_log_keeps_them(database: Database) -> None:
    world = World(database).start()
    for minute, value in ((0, 4), (10, 5)):
        warm(world, minute, value, 1)
    follow(database, world)
    second_ms = (START + 600) * 1000

    dropped = following.prune(database, second_ms + following.KEPT_MS)
    again = following.prune(database, second_ms + following.KEPT_MS)

    assert (dropped, again) == (1, 0)
    with database.reading() as tx:
        assert tx.execute(sa.select(sensor_readings.c.at_ms)).scalars().all() == [second_ms]
        assert followers.read_log(tx, 0, 1_000)[-1].leaf >= 2
