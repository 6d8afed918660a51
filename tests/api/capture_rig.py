"""A web application that takes captures: partners with keys, a gateway in the log, and a worker at hand."""

import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

from api.app import create_app
from api.auth import partners
from api.epcis.worker import CaptureWorker
from api.services import Services, WebSettings
from core.crypto import P256Private
from ingest.gateway import Gateway
from ingest.partner_messages import MessageDesk
from ingest.pipeline import service_of
from ledger.database import Database
from tests.api.conftest import NOW_MS, Clock, TestClient
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, World

RECEIPT_KEY = P256Private.from_secret(b"receipts")
GATEWAY_KEY = P256Private.from_secret(b"gateway-1")
CONTEXT = "https://ref.gs1.org/standards/epcis/epcis-context.jsonld"
MAKER_GLN = MAKER[-13:]


@dataclass
class CaptureRig:
    """The application over one database, with its clock standing still."""

    database: Database
    world: World
    clock: Clock
    random: Callable[[int], bytes]
    app: FastAPI
    gateway: Gateway
    worker: CaptureWorker
    keys: dict[str, str] = field(default_factory=dict)

    def partner(self, name: str, *scopes: str, gln: str | None = MAKER_GLN) -> "Caller":
        """A client of a new partner with these scopes."""
        with self.database.transaction() as tx:
            number = partners.create_partner(tx, name=name, gln=gln, is_regulator=False, now_ms=NOW_MS)
            key = partners.create_key(tx, number, scopes=scopes or ("capture",), now_ms=NOW_MS, secret=self.random(32))
        client = TestClient(self.app, base_url="http://testserver", follow_redirects=False)
        client.headers["Authorization"] = f"Bearer {key}"
        return Caller(client, self)

    def work(self) -> None:
        """Do every waiting job."""
        while self.worker.run_once():
            pass


@dataclass
class Caller:
    """A partner's program."""

    client: Any
    rig: CaptureRig

    def post(self, document: Any, **headers: str) -> httpx.Response:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        named = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        answer: httpx.Response = self.client.post("/epcis/capture", content=body, headers=named)
        return answer

    def capture(self, document: Any, **headers: str) -> dict[str, Any]:
        """The finished job of a document."""
        answer = self.post(document, **headers)
        assert answer.status_code == 202, answer.text
        self.rig.work()
        job: dict[str, Any] = self.client.get(answer.headers["Location"]).json()
        assert job["running"] is False
        return job

    def event(self, event: Mapping[str, Any]) -> httpx.Response:
        answer: httpx.Response = self.client.post("/epcis/events", json={"@context": CONTEXT, **event})
        return answer


def make_rig(database: Database, **gateway: Any) -> CaptureRig:
    """Operator, maker and a gateway in the log, and the application over it."""
    world = World(database)
    world.now = NOW_MS // 1000 - 60
    world.start()
    world.enroll("gateway-1", OPERATOR, use="gateway")
    world.step()
    made, worker, clock, draw = make_worker(database, **gateway)
    settings = WebSettings(base_url="https://trace.example", service=AUD, origin=LOG)
    app = create_app(
        Services(db=database, settings=settings, now_ms=clock, random=draw, gateway=made, capture_worker=worker)
    )
    return CaptureRig(database, world, clock, draw, app, made, worker)


def make_worker(database: Database, **gateway: Any) -> tuple[Gateway, CaptureWorker, Clock, Callable[[int], bytes]]:
    """Gateway and worker over a database that :func:`make_rig` began, also in another process."""
    clock = Clock()
    draw = random.Random(os.getpid()).randbytes
    service = service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400)
    made = Gateway(
        database,
        key=GATEWAY_KEY,
        receipt_key=RECEIPT_KEY,
        aud=AUD,
        log=LOG,
        terms=service.terms,
        now_ms=clock,
        random=draw,
        **gateway,
    )
    operator = P256Private.from_secret(OPERATOR.encode())
    desk = MessageDesk(database, service, operator_key=operator, receipt_key=RECEIPT_KEY, now_ms=clock)
    return made, CaptureWorker(database, made, desk, now_ms=clock), clock, draw


def document(*events: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An EPCIS document."""
    return {
        "@context": [CONTEXT, {"example": "https://example.com/"}],
        "type": "EPCISDocument",
        "schemaVersion": "2.0",
        "creationDate": "2026-11-01T00:00:00Z",
        **more,
        "epcisBody": {"eventList": list(events)},
    }


RigMaker = Callable[[], CaptureRig]
