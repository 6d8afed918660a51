"""``tracebond bench epcis``: event hash and capture, each beside its ceiling and the naive way.

The query rows come from ``tracebond/bench/epcis_query.py``.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

from api.auth import partners
from api.epcis import jobs
from api.epcis.bodies import read_document
from api.epcis.worker import CaptureWorker
from core.canonical import parse_json
from core.crypto import Ed25519Private, P256Private
from core.epcis import context, hashes
from core.epcis.items import document_events
from core.identifiers import parse
from core.records import common, key_members, sign_record
from core.sealing import conceal, packed, seal
from ingest.gateway import Gateway, Speaker, Submitted
from ingest.partner_messages import MessageDesk
from ingest.pipeline import service_of
from ledger.database import Database
from ledger.log import Sequencer
from ledger.store import admit, admit_record, set_identity
from tracebond.bench.databases import has_postgres, postgres_database, sqlite_database
from tracebond.bench.report import Row, Say

AUD = "bench.tracebond.local"
ORIGIN = "bench.tracebond.local/log"
ORG = "https://id.gs1.org/417/9526011000019"
ISS = "https://id.gs1.org/8004/9526011GWbench"
NOW = 1_795_000_000
DOCUMENT_EVENTS = 1_000
HASH_TARGET = 20_000.0
CAPTURE_TARGET = 5_000.0
_OPERATOR = P256Private.from_secret(b"bench operator")
_GATEWAY = P256Private.from_secret(b"bench gateway")


def run(quick: bool, say: Say) -> list[Row]:
    """Measure; ``quick`` takes some thousand events, else a million are captured, indexed and asked for."""
    rows = [_hash(5_000 if quick else 40_000, say)]
    documents = 3 if quick else 1_000
    with sqlite_database() as database:
        rows += _capture(database, "SQLite", documents, say)
    if has_postgres():
        with postgres_database() as database:
            rows += _capture(database, "PostgreSQL", documents, say)
    else:
        say("PostgreSQL is not installed here: its rows are left out")
    if importlib.util.find_spec("tracebond.bench.epcis_query") is not None:
        rows += importlib.import_module("tracebond.bench.epcis_query").run(quick, say)
    rows += importlib.import_module("tracebond.bench.epcis_items").rows(quick, say)
    return rows


def document(number: int, events: int = DOCUMENT_EVENTS, *, is_rich: bool = False) -> bytes:
    """A capture document with events in the shape of the example of the GS1 OpenAPI description.

    Args:
        is_rich: events with a third serial, a lot with a quantity, a place and an extension besides.
    """
    chance = random.Random(number)
    return json.dumps(
        {
            "@context": [
                "https://ref.gs1.org/standards/epcis/epcis-context.jsonld",
                {"example": "https://ns.example.com/epcis/"},
            ],
            "type": "EPCISDocument",
            "schemaVersion": "2.0",
            "creationDate": "2026-11-11T00:00:00Z",
            "epcisBody": {"eventList": [_event(number * events + one, chance, is_rich) for one in range(events)]},
        }
    ).encode()


def _event(number: int, chance: random.Random, is_rich: bool) -> dict[str, Any]:
    moment = f"2026-10-{1 + number // 86_400 % 28:02}T{number // 3_600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"
    event: dict[str, Any] = {
        "eventID": f"urn:uuid:{chance.getrandbits(128):032x}",
        "type": "ObjectEvent",
        "action": "OBSERVE",
        "bizStep": "shipping",
        "disposition": "in_transit",
        "epcList": [f"urn:epc:id:sgtin:9526011.000001.{number}-{unit}" for unit in range(3 if is_rich else 2)],
        "eventTime": f"{moment}.116000-06:00",
        "eventTimeZoneOffset": "-06:00",
        "readPoint": {"id": "urn:epc:id:sgln:9526011.00001.1234"},
        "bizTransactionList": [{"type": "po", "bizTransaction": f"http://transaction.acme.com/po/{number // 100}"}],
    }
    if is_rich:
        lot = f"urn:epc:class:lgtin:9526011.000001.L{number // 500}"
        event["quantityList"] = [{"epcClass": lot, "quantity": 12.5, "uom": "KGM"}]
        event["bizLocation"] = {"id": "urn:epc:id:sgln:9526011.00001.0"}
        event["example:dock"] = "7"
    return event


def _hash(count: int, say: Say) -> Row:
    say(f"event hash over {count} events")
    events = [
        event
        for number in range(max(1, count // DOCUMENT_EVENTS))
        for event in document_events(parse_json(document(number), bytes_max=10_000_000))
    ]
    ours = len(events) / _seconds(lambda: [hashes.event_hash(event) for event in events])
    texts = [hashes.prehash(event) for event in events]
    ceiling = len(texts) / _seconds(lambda: [hashlib.sha256(text.encode()).hexdigest() for text in texts])
    few = events[: len(events) // 10]
    naive = len(few) / _seconds(lambda: [_naive_hash(event) for event in few])
    return Row(
        "event hash, gs1-cbv2.0-2023, one core", ours, "events/s", ceiling=ceiling, naive=naive, target=HASH_TARGET
    )


def _naive_hash(event: dict[str, Any]) -> str:
    """Each event by itself, as an implementation does that keeps nothing from one event to the next."""
    parse.cache_clear()
    context.forget()
    hashes.forget()
    return hashes.event_hash(json.loads(json.dumps(event, default=str)))


class _Dock:
    """A repository that takes captures: operator, gateway, one partner."""

    def __init__(self, database: Database) -> None:
        self.database = database
        service = service_of(aud=AUD, log=ORIGIN, promise_s=60, heartbeat_s=86_400)
        self.sequencer = Sequencer(database, Ed25519Private(bytes(32)), ORIGIN)
        place = {"chain_id": 1, "number": 1, "registry": "0x" + "00" * 20}
        org = {"name": "bench", "roles": 3, "account": "0x" + "11" * 20, "jwk": _OPERATOR.jwk(), "version": 0}
        with database.transaction() as tx:
            set_identity(tx, aud=AUD, log=ORIGIN)
            for payload in (
                common(t="org", aud=AUD, log=ORIGIN, org=ORG, iat=NOW) | org | {"place": place},
                common(t="key", aud=AUD, log=ORIGIN, org=ORG, iat=NOW)
                | key_members(_GATEWAY.jwk(), iss=ISS, use="gateway", scope={}),
            ):
                admit_record(tx, sign_record(payload, _OPERATOR), now_ms=NOW * 1000)
            number = partners.create_partner(tx, name="bench", gln=None, is_regulator=False, now_ms=NOW * 1000)
            key = partners.create_key(tx, number, scopes=["capture"], now_ms=NOW * 1000, secret=os.urandom(32))
            found = partners.caller_by_key(tx, key, now_ms=NOW * 1000)
        if found is None:
            raise LookupError("the partner's key does not work")
        self.caller = found[0]
        self.sequencer.step(NOW + 1)
        self.gateway = Gateway(
            database,
            key=_GATEWAY,
            receipt_key=_OPERATOR,
            aud=AUD,
            log=ORIGIN,
            terms=service.terms,
            now_ms=lambda: NOW * 1000,
            random=os.urandom,
        )
        desk = MessageDesk(database, service, operator_key=_OPERATOR, receipt_key=_OPERATOR, now_ms=lambda: NOW * 1000)
        self.worker = CaptureWorker(database, self.gateway, desk, now_ms=lambda: NOW * 1000)

    def post(self, body: bytes) -> None:
        """What POST /epcis/capture does with a body: read it, store the job."""
        document = read_document(body, "json")
        with self.database.transaction() as tx:
            job, _ = jobs.open_job(
                tx, self.caller, body, media="json", behaviour="rollback", now_ms=NOW * 1000, random=os.urandom(16)
            )
        self.worker.call(job.number, document)

    def capture(self, bodies: list[bytes]) -> None:
        """Documents from the body to the stored, signed and receipted events."""
        for body in bodies:
            self.post(body)
            while self.worker.run_once():
                pass


def _capture(database: Database, engine: str, documents: int, say: Say) -> list[Row]:
    say(f"capture of {documents} documents of {DOCUMENT_EVENTS} events into {engine}")
    dock = _Dock(database)
    dock.capture([document(1_000_000, 50)])
    rates = [_rate(dock, document(number)) for number in range(documents)]
    first, last = rates[: max(1, documents // 3)], rates[-max(1, documents // 3) :]
    rate = documents / sum(1 / one for one in rates)
    rows = [
        Row(
            f"capture, {DOCUMENT_EVENTS}-event documents, {engine}",
            rate,
            "events/s",
            ceiling=_ceiling(dock, documents),
            naive=_one_by_one(dock, 100),
            target=CAPTURE_TARGET,
        )
    ]
    rich = [document(4_000_000 + number, is_rich=True) for number in range(2 if documents < 10 else 6)]
    rate = len(rich) * DOCUMENT_EVENTS / _seconds(lambda: dock.capture(rich))
    rows.append(Row(f"capture, events with quantities and extensions, {engine}", rate, "events/s"))
    if documents >= 10:
        kept = (sum(last) / len(last)) / (sum(first) / len(first))
        rows.append(Row(f"capture rate kept from the first to the last third, {engine}", kept, "share", target=0.8))
    return rows


def _rate(dock: _Dock, body: bytes) -> float:
    """Events a second of one document; each is made just before, so that memory does not grow with their number."""
    return DOCUMENT_EVENTS / _seconds(lambda: dock.capture([body]))


def _ceiling(dock: _Dock, documents: int) -> float:
    """Storing messages that are signed already, which no way of capturing can leave out."""
    events = document_events(parse_json(document(2_000_000), bytes_max=10_000_000))
    sealed = [
        seal(part, aud=AUD, org=ORG, iss=ISS, iat=NOW, seq=10_000_000 + place, prev=bytes(32), key=_GATEWAY)
        for place, part in enumerate(packed([conceal(event, os.urandom) for event in events]))
    ]

    def store() -> None:
        with dock.database.transaction() as tx:
            admit(tx, [one.message for one in sealed], now_ms=NOW * 1000)

    return len(events) / _seconds(store)


def _one_by_one(dock: _Dock, count: int) -> float:
    """Each event in a message and a transaction of its own."""
    events = document_events(parse_json(document(3_000_000, count), bytes_max=10_000_000))
    speaker = Speaker(ORG, "bench", bytes(32))

    def store() -> None:
        for event in events:
            dock.gateway.capture([Submitted(event)], speaker)

    return count / _seconds(store)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
