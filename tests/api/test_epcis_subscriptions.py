"""Subscriptions: webhooks to a real receiver, WebSocket to a real client, schedules, and addresses that are refused."""

# ruff: noqa: E501 (a table of cases reads best with one case a line)

import asyncio
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
import uvicorn
import websockets

from api.auth import partners
from api.auth.partner_tables import PARTNER_KEY
from api.epcis.subscriptions_schedule import BadSchedule, read_schedule
from api.epcis.webhooks import DEADLINE_MS, Reporter, wait_ms
from api.epcis.webhooks_target import BadTarget, is_public, post, read_target
from core.canonical import sha256
from ledger.database import Database
from tests.api.conftest import NOW_MS
from tests.api.epcis_corpus import index_all, send_events
from tests.api.test_epcis_queries import Desk
from tests.ledger.world import CARRIER, MAKER, NOW, World, seen

SECRET = "13df38d8275b13f05704629e5f1cf3d45d6132d5"


class Receiver:
    """A real HTTP receiver that answers as it is told and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers.items()), body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Keep the tests quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/callback?from=tracebond"

    def ids(self) -> list[list[str]]:
        """The eventIDs of every document received."""
        return [
            [event["eventID"] for event in json.loads(body)["epcisBody"]["queryResults"]["resultsBody"]["eventList"]]
            for _, body in self.got
        ]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Scene:
    """A desk with one named query, its subscription, and the reporter that the process runs in a loop."""

    def __init__(self, database: Database) -> None:
        self.world = World(database).start()
        self.desk = Desk(database)
        self.maker = self.desk.partner(MAKER)
        self.reporter = Reporter(database, self.desk.random, may_be_private=True)
        self.now_ms = NOW_MS
        body = {"name": "receipts", "query": {"EQ_bizStep": ["receiving"]}}
        assert self.maker.post("/epcis/queries", json=body).status_code == 201

    def subscribe(self, receiver: Receiver, **more: Any) -> dict[str, Any]:
        body = {
            "dest": receiver.url,
            "signatureToken": SECRET,
            **({"stream": True} if "schedule" not in more else {}),
            **more,
        }
        answer = self.maker.post("/epcis/queries/receipts/subscriptions", json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        assert answer.headers["location"].endswith(found["subscriptionID"])
        return found

    def happen(self, *ids: str, device: str = "line-1", step: str = "receiving") -> None:
        send_events(self.world, [seen(one, step=step, eventID=f"urn:x:{one}") for one in ids], device=device)
        index_all(self.world)

    def report(self, after_ms: int = 0) -> None:
        self.now_ms += after_ms
        self.desk.clock.now_ms = self.now_ms
        for _ in range(20):
            if not self.reporter.step(self.now_ms):
                return


@pytest.fixture
def scene(sqlite_database: Database) -> Scene:
    return Scene(sqlite_database)


def test_a_stream_reports_each_new_match_once_and_signed(scene: Scene, receiver: Receiver) -> None:
    scene.happen("before")
    made = scene.subscribe(receiver)

    scene.happen("a", "b")
    scene.happen("packed", step="packing")
    scene.happen("foreign", device="truck-1")
    scene.report()
    scene.happen("c")
    scene.report()
    scene.report()

    assert receiver.ids() == [["urn:x:a", "urn:x:b"], ["urn:x:c"]]
    headers, body = receiver.got[0]
    stamp, signature = (part.partition("=")[2] for part in headers["GS1-Signature"].split(","))
    text = f"{stamp}.{headers['GS1-Delivery-ID']}.".encode() + body
    assert hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest() == signature
    results = json.loads(body)["epcisBody"]["queryResults"]
    assert (results["queryName"], results["subscriptionID"]) == ("receipts", made["subscriptionID"])
    again = scene.maker.get(f"/epcis/queries/receipts/subscriptions/{made['subscriptionID']}").json()
    assert "lastNotifiedAt" in again
    assert SECRET not in json.dumps(again)


def test_on_postgresql_and_sqlite_a_restart_repeats_and_loses_nothing(database: Database, receiver: Receiver) -> None:
    scene = Scene(database)
    scene.subscribe(receiver)
    scene.happen("a")
    scene.report()
    scene.happen("b")
    scene.reporter.make(scene.now_ms)

    scene.reporter = Reporter(database, scene.desk.random, may_be_private=True)
    scene.report()

    assert receiver.ids() == [["urn:x:a"], ["urn:x:b"]]


def test_a_receiver_that_fails_is_tried_again_in_order_with_the_same_id(scene: Scene, receiver: Receiver) -> None:
    scene.subscribe(receiver)
    receiver.answers = [500, 302, 200]
    scene.happen("a")
    scene.report()
    scene.happen("b")
    scene.report()
    assert len(receiver.got) == 1

    scene.report(wait_ms(1))
    scene.report(wait_ms(2))

    assert receiver.ids() == [["urn:x:a"], ["urn:x:a"], ["urn:x:a"], ["urn:x:b"]]
    assert len({headers["GS1-Delivery-ID"] for headers, _ in receiver.got[:3]}) == 1
    assert wait_ms(1) < wait_ms(2) < wait_ms(20) == wait_ms(99)


def test_after_the_deadline_a_report_is_given_up_and_can_be_replayed(scene: Scene, receiver: Receiver) -> None:
    made = scene.subscribe(receiver)
    path = f"/epcis/queries/receipts/subscriptions/{made['subscriptionID']}"
    receiver.answers = [500, 500]
    scene.happen("a")
    scene.report()
    scene.report(DEADLINE_MS)
    assert [one["state"] for one in scene.maker.get(path + "/deliveries").json()] == ["failed"]

    answer = scene.maker.post(path + "/replay", json={"failed": True})
    scene.report()

    assert answer.status_code == 200, answer.text
    assert receiver.ids()[-1] == ["urn:x:a"]
    assert [one["state"] for one in scene.maker.get(path + "/deliveries").json()] == ["delivered"]


def test_everything_since_a_time_is_replayed_under_new_ids(scene: Scene, receiver: Receiver) -> None:
    made = scene.subscribe(receiver)
    path = f"/epcis/queries/receipts/subscriptions/{made['subscriptionID']}"
    scene.happen("a")
    scene.report()
    scene.happen("b")
    scene.report()

    answer = scene.maker.post(path + "/replay", json={"since": "2020-01-01T00:00:00Z"})
    scene.report()

    assert answer.status_code == 200, answer.text
    assert receiver.ids() == [["urn:x:a"], ["urn:x:b"], ["urn:x:a", "urn:x:b"]]
    assert len({headers["GS1-Delivery-ID"] for headers, _ in receiver.got}) == 3


def test_a_receiver_that_asks_for_less_gets_halves_in_order(scene: Scene, receiver: Receiver) -> None:
    scene.subscribe(receiver)
    receiver.answers = [413]
    scene.happen("a", "b", "c", "d")
    scene.report()

    assert receiver.ids() == [[f"urn:x:{one}" for one in "abcd"], ["urn:x:a", "urn:x:b"], ["urn:x:c", "urn:x:d"]]


def test_a_receiver_that_is_gone_ends_the_subscription(scene: Scene, receiver: Receiver) -> None:
    made = scene.subscribe(receiver)
    receiver.answers = [410]
    scene.happen("a")
    scene.report()
    scene.happen("b")
    scene.report(10**7)

    assert len(receiver.got) == 1
    shown = scene.maker.get(f"/epcis/queries/receipts/subscriptions/{made['subscriptionID']}").json()
    assert shown["state"] == "stopped"


def test_a_schedule_reports_when_its_time_comes_and_empty_if_asked(scene: Scene, receiver: Receiver) -> None:
    scene.subscribe(receiver, schedule={"second": "0"}, reportIfEmpty=True)
    scene.happen("a")
    scene.report()
    assert receiver.got == []

    scene.report(60_000)
    scene.report(60_000)

    assert receiver.ids() == [["urn:x:a"], []]


def test_a_schedule_without_the_wish_is_silent_when_nothing_is_new(scene: Scene, receiver: Receiver) -> None:
    scene.subscribe(receiver, schedule={"second": "0"})

    scene.report(120_000)

    assert receiver.got == []


def test_an_initial_record_time_reports_what_was_there_before(scene: Scene, receiver: Receiver) -> None:
    scene.happen("old")
    scene.subscribe(receiver, initialRecordTime="2020-01-01T00:00:00Z")

    scene.report()

    assert receiver.ids() == [["urn:x:old"]]


def test_a_subscription_belongs_to_its_owner_and_ends_with_its_query(scene: Scene, receiver: Receiver) -> None:
    made = scene.subscribe(receiver)
    path = "/epcis/queries/receipts/subscriptions"
    carrier = scene.desk.partner(CARRIER)

    assert carrier.get(path).status_code == 404
    assert carrier.delete(f"{path}/{made['subscriptionID']}").status_code == 404
    assert [one["subscriptionID"] for one in scene.maker.get(path).json()] == [made["subscriptionID"]]
    assert scene.maker.delete(f"{path}/{made['subscriptionID']}").status_code == 204
    assert scene.maker.get(path).json() == []
    scene.subscribe(receiver)
    assert scene.maker.delete("/epcis/queries/receipts").status_code == 204
    scene.happen("a")
    scene.report()
    assert receiver.got == []


def test_a_wrong_subscription_is_refused_in_the_standards_words(scene: Scene) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"stream": True}, "QueryValidationException"),
        ({"dest": "https://client.example/x"}, "SubscriptionControlsException"),
        (
            {"dest": "https://client.example/x", "stream": True, "schedule": {"hour": "1"}},
            "SubscriptionControlsException",
        ),
        ({"dest": "https://client.example/x", "schedule": {"hour": "24"}}, "SubscriptionControlsException"),
        (
            {"dest": "https://client.example/x", "schedule": {"dayOfMonth": "31", "month": "2"}},
            "SubscriptionControlsException",
        ),
        ({"dest": "ftp://client.example/x", "stream": True}, "InvalidURIException"),
        ({"dest": "https://client.example/x", "stream": True, "initialRecordTime": "now"}, "QueryValidationException"),
        ({"dest": "https://client.example/x", "stream": True, "more": 1}, "QueryValidationException"),
    ]
    for body, name in cases:
        answer = scene.maker.post("/epcis/queries/receipts/subscriptions", json=body)

        assert answer.status_code == 400, body
        assert answer.json()["type"] == f"epcisException:{name}"
    assert scene.maker.get("/epcis/queries/receipts/subscriptions").json() == []


@pytest.mark.unit
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1",
        "2001:db8::1", "nonsense",
    ],
)  # fmt: skip
def test_an_address_inside_any_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.unit
@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.unit
@pytest.mark.parametrize(
    "url",
    [
        "http://client.example/", "https://127.0.0.1/", "https://[::1]/", "https://localhost/", "https://a.localhost/",
        "https://2130706433/", "https://0x7f000001/", "https://127.1/", "https://client.example:22/", "https://u:p@c.example/",
        "https://client.example/#f", "https:///path", "file:///etc/passwd", "gopher://client.example/", "https://client.example\\@127.0.0.1/",
        "https://client.example/ x", "https://[::ffff:10.0.0.1]/", "https://printer.local/", "https://client.example:99999/",
        "https://cliént.example/", "https://client.example/" + "x" * 2_100,
    ],
)  # fmt: skip
def test_a_target_that_is_no_public_https_address_is_refused(url: str) -> None:
    with pytest.raises(BadTarget):
        read_target(url, may_be_private=False)


@pytest.mark.unit
def test_a_public_https_address_is_a_target() -> None:
    target = read_target("https://client.example:8443/queryCallback?a=b", may_be_private=False)

    assert (target.is_tls, target.host, target.port, target.path) == (
        True,
        "client.example",
        8443,
        "/queryCallback?a=b",
    )


def test_a_public_name_with_a_private_address_gets_nothing(receiver: Receiver) -> None:
    target = read_target(f"http://client.example:{receiver.port}/", may_be_private=True)

    mixed = post(target, b"{}", {}, may_be_private=False, resolver=lambda host, port: ["93.184.215.14", "127.0.0.1"])
    none = post(target, b"{}", {}, may_be_private=False, resolver=lambda host, port: [])

    assert receiver.got == []
    assert mixed == none
    assert mixed.status == 0


def test_the_name_is_resolved_once_and_the_connection_goes_there(receiver: Receiver) -> None:
    target = read_target(f"http://client.example:{receiver.port}/", may_be_private=True)
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    answer = post(target, b"{}", {"X": "y"}, may_be_private=True, resolver=resolver)

    assert answer.is_good
    assert asked == ["client.example"]
    assert receiver.got[0][0]["Host"] == f"client.example:{receiver.port}"


def test_a_receiver_that_drips_its_answer_is_left_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200:
                if stop.wait(0.05):
                    return
                try:
                    connection.send(bytes([byte]))
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    target = read_target(f"http://127.0.0.1:{listener.getsockname()[1]}/", may_be_private=True)

    answer = post(target, b"{}", {}, may_be_private=True, total_s=0.5)

    stop.set()
    listener.close()
    assert answer.status == 0


@pytest.mark.unit
@pytest.mark.parametrize(
    ("fields", "start", "expected"),
    [
        ({"hour": "1", "minute": "5"}, "2026-11-25T00:00:00", "2026-11-25T01:05:00"),
        ({"hour": "1", "minute": "5"}, "2026-11-25T01:05:00", "2026-11-26T01:05:00"),
        ({"second": "0/30"}, "2026-11-25T00:00:01", "2026-11-25T00:00:30"),
        ({"minute": "[10-12],50"}, "2026-11-25T00:12:00", "2026-11-25T00:50:00"),
        ({"dayOfWeek": "1", "hour": "8"}, "2026-11-25T00:00:00", "2026-11-30T08:00:00"),
        ({"dayOfMonth": "29", "month": "2"}, "2026-11-25T00:00:00", "2028-02-29T00:00:00"),
        ({"hour": "*", "minute": "*/15"}, "2026-11-25T23:50:00", "2026-11-26T00:00:00"),
        ({"month": "1"}, "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
    ],
)
def test_a_schedule_comes_when_a_calendar_says(fields: dict[str, str], start: str, expected: str) -> None:
    def ms(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)

    assert read_schedule(fields).after(ms(start)) == ms(expected)


@pytest.mark.unit
@pytest.mark.parametrize(
    "fields",
    [{}, {"day": "1"}, {"hour": "24"}, {"hour": "[3-1]"}, {"minute": "x"}, {"second": "[1-2"}, {"hour": ""}, {"dayOfWeek": "0"}, {"minute": "*/0"}, {"dayOfMonth": "30", "month": "2"}, {"hour": True}, "daily"],
)  # fmt: skip
def test_a_schedule_that_never_comes_is_refused(fields: Any) -> None:
    with pytest.raises(BadSchedule):
        read_schedule(fields)


@contextmanager
def served(desk: Desk) -> Iterator[str]:
    """The application behind a real server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(desk.app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def hear(url: str, key: str, happen: Callable[[], None], count: int) -> list[dict[str, Any]]:
    """What a real WebSocket client hears after it connected and things happened."""

    async def listen() -> list[dict[str, Any]]:
        async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {key}"}) as connection:
            await asyncio.sleep(0.2)
            await asyncio.to_thread(happen)
            return [json.loads(await asyncio.wait_for(connection.recv(), 10)) for _ in range(count)]

    return asyncio.run(listen())


def ids_of(document: dict[str, Any]) -> list[str]:
    return [event["eventID"] for event in document["epcisBody"]["queryResults"]["resultsBody"]["eventList"]]


def test_a_websocket_hears_new_matches_that_its_caller_may_see(scene: Scene) -> None:
    scene.happen("before")
    key = scene.desk.key(MAKER)

    def happen() -> None:
        scene.happen("foreign", device="truck-1")
        scene.happen("a", "b")

    with served(scene.desk) as host:
        heard = hear(f"ws://{host}/epcis/queries/receipts/events?stream=true", key, happen, 1)
        earlier = hear(
            f"ws://{host}/epcis/queries/receipts/events?stream=true&initialRecordTime=2020-01-01T00:00:00Z",
            key,
            lambda: None,
            1,
        )

    assert ids_of(heard[0]) == ["urn:x:a", "urn:x:b"]
    assert ids_of(earlier[0]) == ["urn:x:before", "urn:x:a", "urn:x:b"]


def test_a_websocket_with_wrong_controls_or_without_key_is_refused(scene: Scene) -> None:
    key = scene.desk.key(MAKER)
    with served(scene.desk) as host:
        told = hear(f"ws://{host}/epcis/queries/receipts/events?stream=true&hour=1", key, lambda: None, 1)
        missing = hear(f"ws://{host}/epcis/queries/none/events?stream=true", key, lambda: None, 1)
        with pytest.raises(websockets.InvalidStatus) as refusal:
            hear(f"ws://{host}/epcis/queries/receipts/events?stream=true", "tb_wrong", lambda: None, 1)

    assert told[0]["type"] == "epcisException:SubscriptionControlsException"
    assert missing[0]["type"] == "epcisException:NoSuchNameException"
    assert refusal.value.response.status_code in (401, 403)


def test_a_websocket_is_closed_when_its_query_is_deleted(scene: Scene) -> None:
    key = scene.desk.key(MAKER)

    async def listen(url: str) -> int:
        async with websockets.connect(url, additional_headers={"X-API-Key": key}) as connection:
            await asyncio.sleep(0.2)
            await asyncio.to_thread(scene.maker.delete, "/epcis/queries/receipts")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(connection.recv(), 10)
            return closed.value.rcvd.code if closed.value.rcvd is not None else 0

    with served(scene.desk) as host:
        assert asyncio.run(listen(f"ws://{host}/epcis/queries/receipts/events?stream=true")) == 1001


def closed_with(scene: Scene, key: str, happen: Callable[[], None]) -> int:
    """The code that a listening connection is closed with after something happened; nothing is told before."""

    async def listen(url: str) -> int:
        async with websockets.connect(url, additional_headers={"X-API-Key": key}) as connection:
            await asyncio.sleep(0.2)
            await asyncio.to_thread(happen)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(connection.recv(), 10)
            return closed.value.rcvd.code if closed.value.rcvd is not None else 0

    with served(scene.desk) as host:
        return asyncio.run(listen(f"ws://{host}/epcis/queries/receipts/events?stream=true"))


def test_a_websocket_is_closed_when_its_key_is_revoked_before_it_hears_more(scene: Scene) -> None:
    key = scene.desk.key(MAKER)

    def revoke() -> None:
        with scene.desk.database.transaction() as tx:
            number = tx.execute(sa.select(PARTNER_KEY.c.id).where(PARTNER_KEY.c.key_hash == sha256(key.encode())))
            partners.revoke_key(tx, number.scalar_one(), now_ms=NOW * 1000)
        scene.happen("too-late")

    assert closed_with(scene, key, revoke) == 1008


def test_a_websocket_is_closed_when_its_partner_is_shut_out_or_its_key_expires(scene: Scene) -> None:
    first, second = scene.desk.key(MAKER), scene.desk.key(MAKER)

    def expire() -> None:
        with scene.desk.database.transaction() as tx:
            change = sa.update(PARTNER_KEY).where(PARTNER_KEY.c.key_hash == sha256(first.encode()))
            tx.execute(change.values(expires_ms=1))

    def shut_out() -> None:
        with scene.desk.database.transaction() as tx:
            owner = sa.select(PARTNER_KEY.c.partner_id).where(PARTNER_KEY.c.key_hash == sha256(second.encode()))
            partners.disable_partner(tx, tx.execute(owner).scalar_one(), now_ms=NOW * 1000)

    assert closed_with(scene, first, expire) == 1008
    assert closed_with(scene, second, shut_out) == 1008
