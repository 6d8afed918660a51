"""``tracebond bench ingest``: signed messages through a real Mosquitto, the worker and the database.

In one run, on one broker and one database: the broker alone, a signature alone, the database alone, and a *bare
pipeline* (verify, parse, hash, commit, acknowledge; one table, no disclosures, no items, no receipts). Beside them our
worker with everything it does, receipts too, while the sequencer makes a checkpoint a second. Anchoring is not part of
this run: ``bench anchor`` measures it. Publishers run in a process of their own; all share the machine's cores.
PostgreSQL where TRACEBOND_DATABASE_URL names one (an empty one) or its programs are installed, else SQLite.
"""

import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from core.canonical import sha256
from core.crypto import Ed25519Private, P256Private
from core.errors import Unavailable
from core.message import issue, split
from core.records import common, key_members, sign_record
from ingest import pipeline
from ingest.broker import EmbeddedBroker
from ingest.pipeline import Worker, service_of
from ingest.source import MqttSource
from ingest.topics import DeviceName, device_name
from ledger import store
from ledger.database import Database, is_sqlite, open_database, raw, run_many, upgrade
from ledger.log import Sequencer
from ledger.tables import messages
from tracebond.bench.databases import has_postgres, postgres_database, sqlite_database
from tracebond.bench.report import Row, Say

AUD, ORIGIN = "https://bench.example", "bench.example/log"
ORG = "https://id.gs1.org/417/9521000000001"
DEVICES = 8
MESSAGES, MESSAGES_QUICK = 30_000, 2_000
EVENTS = {1: 5_000, 10: 10_000, 50: 15_000}
NAIVE = 400
BATCH = 500
QUIET_S = 60.0
_OPERATOR, _RECEIPTS = P256Private.from_secret(b"bench operator"), P256Private.from_secret(b"bench receipts")


@dataclass(frozen=True)
class Line:
    """A device's login and what it publishes, in order."""

    name: DeviceName
    password: str
    payloads: list[bytes]


class Fleet:
    """Devices that sign ahead of time; each goes on where it ended."""

    def __init__(self) -> None:
        self._random = random.Random(4117)
        self._heads: list[tuple[int, bytes | None]] = [(0, None)] * DEVICES
        self.keys = [P256Private.from_secret(b"bench device %d" % number) for number in range(DEVICES)]
        self.names = [device_name(ORG, f"https://id.gs1.org/8004/9521000b{number}") for number in range(DEVICES)]
        self.passwords: dict[DeviceName, str] = {}
        self._unit = 0

    def sign(self, count: int, events: int) -> list[Line]:
        """``count`` messages of ``events`` events each, spread over the devices."""
        payloads: list[list[bytes]] = [[] for _ in range(DEVICES)]
        for number in range(count):
            device = number % DEVICES
            seq, prev = self._heads[device]
            raw_message = issue(
                [self._event() for _ in range(events)], aud=AUD, org=ORG, iss=self.names[device].iss,
                iat=int(time.time()), seq=seq, prev=prev, key=self.keys[device],
                salts=lambda: self._random.randbytes(16),
            )  # fmt: skip
            self._heads[device] = (seq + 1, split(raw_message).id)
            payloads[device].append(raw_message)
        return [Line(name, self.passwords[name], sent) for name, sent in zip(self.names, payloads, strict=True) if sent]

    def _event(self) -> dict[str, Any]:
        self._unit += 1
        return {
            "type": "ObjectEvent",
            "action": "OBSERVE",
            "eventTime": "2026-11-01T00:00:00Z",
            "eventTimeZoneOffset": "+00:00",
            "bizStep": "inspecting",
            "epcList": [f"urn:epc:id:sgtin:9521000.012345.{self._unit}"],
            "readPoint": {"id": "urn:epc:id:sgln:9521000.00001.0"},
        }


def run(quick: bool, say: Say) -> list[Row]:
    """Ceilings, the bare pipeline, and our worker for messages of 1, 10 and 50 events."""
    count = MESSAGES_QUICK if quick else MESSAGES
    with _database() as database, _broker() as broker:
        kind = "PostgreSQL" if database.kind == "postgresql" else "SQLite (no PostgreSQL here)"
        fleet = Fleet()
        fleet.passwords = broker.access.sync(fleet.names)
        _enrol(database, fleet)
        say(f"signing {count:,} messages ...")
        lines = fleet.sign(count, 1)
        sample = [payload for line in lines for payload in line.payloads]
        say("broker, signature and database alone ...")
        ceiling = {
            "broker in and out, QoS 1, acknowledged at once": _drain(broker, lines, lambda got: None),
            "P-256 signature checked": _signatures(sample, fleet),
            f"row of {len(sample[0])} bytes committed in batches of {BATCH}, {kind}": _rows_alone(database, sample),
        }
        rows = [Row(f"alone: {name}", value, "messages/s") for name, value in ceiling.items()]
        say("the bare pipeline ...")
        bare = _drain(broker, lines, _bare(database, fleet))
        rows.append(Row(f"bare pipeline on {kind}", bare, "messages/s", ceiling=min(ceiling.values())))
        for events, target in EVENTS.items():
            say(f"our worker, {events} events a message ...")
            sent = lines if events == 1 else fleet.sign(max(8, count // events), events)
            value = _worker(database, broker, sent) * events
            naive = None
            if events == 1:
                with _batches_of_one():
                    naive = _worker(database, broker, fleet.sign(NAIVE, 1))
            name = f"worker with receipts and sequencer, {events} event(s) a message, {kind}"
            rows.append(Row(name, value, "events/s", ceiling=bare * events, naive=naive, target=target))
            if events == 1:
                share = f"{name}: share of the bare pipeline"
                rows.append(Row(share, value, "events/s", ceiling=bare, naive=naive, target=0.40, is_share_target=True))
    return rows


def _worker(database: Database, broker: EmbeddedBroker, lines: list[Line]) -> float:
    """Messages a second from the first delivery to the last commit and receipt."""
    wanted = sum(len(line.payloads) for line in lines)
    worker = Worker(
        MqttSource(broker.url, "bench-worker"),
        database,
        service_of(aud=AUD, log=ORIGIN, promise_s=60, heartbeat_s=86_400),
        operator_key=_OPERATOR,
        receipt_key=_RECEIPTS,
        threads=2,
    )
    before = _stored(database)
    done, started = 0, 0.0
    with _sequencing(database), _publishing(broker, lines):
        quiet = time.monotonic() + QUIET_S
        while done < wanted:
            taken = worker.run_once()
            now = time.monotonic()
            if taken:
                started, quiet = started or now - 1e-9, now + QUIET_S
                done = _stored(database) - before
            elif now > quiet:
                raise Unavailable(f"Only {done} of {wanted} messages came through.", code="bench_stalled")
        finished = time.monotonic()
    worker.close()
    first = min(BATCH, wanted // 2)
    return (wanted - first) / (finished - started)


def _drain(broker: EmbeddedBroker, lines: list[Line], take: Callable[[list[bytes]], None]) -> float:
    """Messages a second through the broker into ``take`` and acknowledged."""
    wanted = sum(len(line.payloads) for line in lines)
    source = MqttSource(broker.url, "bench-worker")
    done, first, started = 0, 0, 0.0
    with _publishing(broker, lines):
        quiet = time.monotonic() + QUIET_S
        while done < wanted:
            got = source.receive(BATCH, 0.2)
            if not got:
                if time.monotonic() > quiet:
                    raise Unavailable(f"Only {done} of {wanted} messages came through.", code="bench_stalled")
                continue
            take([delivery.payload for delivery in got])
            source.ack([delivery.token for delivery in got if delivery.token is not None])
            done += len(got)
            if not started:
                first, started = done, time.monotonic()
        finished = time.monotonic()
    source.close()
    return (wanted - first) / (finished - started)


def _bare(database: Database, fleet: Fleet) -> Callable[[list[bytes]], None]:
    keys = {key.thumbprint(): key.public for key in fleet.keys}
    _table(database)

    def take(got: list[bytes]) -> None:
        rows = []
        for payload in got:
            envelope = split(payload)
            envelope.jws.check(keys[envelope.kid])
            msgspec.json.decode(envelope.jws.payload)
            rows.append((sha256(envelope.jws.signing_input), payload))
        with database.transaction() as tx:
            _insert(tx, rows)

    return take


def _table(database: Database) -> None:
    kind = "BLOB" if database.kind == "sqlite" else "BYTEA"
    with database.transaction() as tx:
        tx.execute(sa.text(f"CREATE TABLE IF NOT EXISTS bench_bare (id {kind} PRIMARY KEY, body {kind} NOT NULL)"))


def _insert(tx: Any, rows: list[tuple[bytes, bytes]]) -> None:
    if is_sqlite(tx):
        run_many(tx, "INSERT INTO bench_bare (id, body) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
        return
    with raw(tx).cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE IF NOT EXISTS bench_in (id BYTEA, body BYTEA) ON COMMIT DELETE ROWS")
        with cursor.copy("COPY bench_in (id, body) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(("bytea", "bytea"))
            for row in rows:
                copy.write_row(row)
        cursor.execute("INSERT INTO bench_bare SELECT id, body FROM bench_in ON CONFLICT DO NOTHING")


def _rows_alone(database: Database, payloads: list[bytes]) -> float:
    _table(database)
    rows = [(sha256(b"alone" + payload), payload) for payload in payloads]
    started = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        with database.transaction() as tx:
            _insert(tx, rows[start : start + BATCH])
    return len(rows) / (time.perf_counter() - started)


def _signatures(payloads: list[bytes], fleet: Fleet) -> float:
    keys = {key.thumbprint(): key.public for key in fleet.keys}
    envelopes = [split(payload) for payload in payloads[:2_000]]
    started = time.perf_counter()
    for envelope in envelopes:
        envelope.jws.check(keys[envelope.kid])
    return len(envelopes) / (time.perf_counter() - started)


def _stored(database: Database) -> int:
    with database.reading() as tx:
        return tx.execute(sa.select(sa.func.count()).select_from(messages)).scalar_one()


def _enrol(database: Database, fleet: Fleet) -> None:
    now = int(time.time())
    place = {"chain_id": 1, "number": 1, "registry": "0x" + "00" * 20}
    org = {"name": "bench", "roles": 3, "account": "0x" + "11" * 20, "jwk": _OPERATOR.jwk(), "version": 0}
    payloads = [common(t="org", aud=AUD, log=ORIGIN, org=ORG, iat=now) | org | {"place": place}]
    scope = {"rate": {"per_s": 100_000, "burst": 1_000_000}}
    for key, name in zip(fleet.keys, fleet.names, strict=True):
        members = key_members(key.jwk(), iss=name.iss, use="device", scope=scope)
        payloads.append(common(t="key", aud=AUD, log=ORIGIN, org=ORG, iat=now) | members)
    with database.transaction() as tx:
        store.set_identity(tx, aud=AUD, log=ORIGIN)
        for payload in payloads:
            store.admit_record(tx, sign_record(payload, _OPERATOR), now_ms=now * 1000)
    Sequencer(database, Ed25519Private(bytes(32)), ORIGIN).step(now)


@contextmanager
def _sequencing(database: Database) -> Iterator[None]:
    """A sequencer that makes a checkpoint a second, as in the all-in-one process."""
    sequencer = Sequencer(database, Ed25519Private(bytes(32)), ORIGIN)
    ending = threading.Event()

    def loop() -> None:
        while not ending.wait(1):
            sequencer.step(int(time.time()))

    thread = threading.Thread(target=loop, name="sequencer")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


@contextmanager
def _publishing(broker: EmbeddedBroker, lines: list[Line]) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=publish, args=(broker.address.host, broker.address.port, lines), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.join(5)
        if process.is_alive():
            process.terminate()


def publish(host: str, port: int, lines: list[Line]) -> None:
    """Publish each line in order at QoS 1, all lines at once; runs in a process of its own."""
    clients = []
    for line in lines:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, line.name.username, protocol=mqtt.MQTTv5)
        client.username_pw_set(line.name.username, line.password)
        client.max_inflight_messages_set(100)
        client.connect(host, port)
        client.loop_start()
        clients.append(client)
    sent = [
        client.publish(line.name.events, one, 1)
        for client, line in zip(clients, lines, strict=True)
        for one in line.payloads
    ]
    for info in sent:
        info.wait_for_publish(QUIET_S)
    for client in clients:
        client.disconnect()
        client.loop_stop()


@contextmanager
def _batches_of_one() -> Iterator[None]:
    """The naive way: one message, one commit, one acknowledgement."""
    usual = pipeline.BATCH_MAX
    pipeline.BATCH_MAX = 1
    try:
        yield
    finally:
        pipeline.BATCH_MAX = usual


@contextmanager
def _database() -> Iterator[Database]:
    url = os.environ.get("TRACEBOND_DATABASE_URL")
    if url:
        database = open_database(url)
        try:
            upgrade(database)
            yield database
        finally:
            database.close()
        return
    with postgres_database() if has_postgres() else sqlite_database() as database:
        yield database


@contextmanager
def _broker() -> Iterator[EmbeddedBroker]:
    with tempfile.TemporaryDirectory(prefix="tracebond-bench-broker-") as folder:
        broker = EmbeddedBroker(Path(folder))
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()
