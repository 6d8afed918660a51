"""Schemathesis on our OpenAPI: no 5xx, no undocumented status, no answer beside its schema, no bad input accepted.

A short run here; TRACEBOND_CAMPAIGN=1 (make soak) takes a hundred times as many examples.
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import integers, one_of

from api.app import create_app
from api.auth import partners
from api.auth.throttle import Throttle
from api.epcis.worker import CaptureWorker
from api.identity import Role
from api.services import Services, WebSettings
from contracts.clients import PledgeRegistryClient
from contracts.signer import Signer
from core.canonical import sha256
from core.crypto import P256Private
from core.identifiers import org_id
from core.notes import Verifier
from core.records import common, key_members, sign_record
from finance.assess import LogEvidence
from finance.case import sign_case
from finance.model import Context
from ingest.claims import ClaimDesk
from ingest.devicedesk import DeviceDesk
from ingest.doors import Doors
from ingest.gateway import Gateway
from ingest.partner_messages import MessageDesk
from ingest.pipeline import service_of
from ingest.quarantine_desk import QuarantineDesk
from ingest.receipts import Terms
from ingest.recorddesk import RecordDesk
from ledger.database import Database, Tx, open_database
from ledger.followers import run_all
from ledger.keyfiles import KeyFiles
from ledger.log import Sequencer
from ledger.queryindex import QueryIndex
from ledger.state import views
from ledger.store import admit_record
from tests.api.capture_rig import GATEWAY_KEY, RECEIPT_KEY
from tests.api.conftest import Clock, Random, Site
from tests.api.device_rig import Broker
from tests.story import AUD, CHECKPOINT_KEY, NOW, ORIGIN, Story, tell

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
    )


EXAMPLES = 200 if os.environ.get("TRACEBOND_CAMPAIGN") else 3
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
KINDS = ("public", "partner", "regulator", "bank", "goods", "operator")
ROLES = {
    "regulator": (Role.REGULATOR,),
    "bank": (Role.BANK_MAKER, Role.BANK_CHECKER),
    "goods": (Role.FACTORY, Role.CUSTODIAN, Role.BORROWER),
    "operator": (Role.OPERATOR,),
}
GLNS = {"partner": "9526002000011", "bank": "9526008000015", "goods": "9526002000011",
        "regulator": "9526010000010", "operator": "9526011000019"}  # fmt: skip
# It ends the session under test.
LEFT_OUT = ("/logout",)


@dataclass
class Running:
    """The application with every part at work: chain, finance, proofs, gateway and capture worker."""

    site: Site
    story: Story
    worker: CaptureWorker
    sequencer: Sequencer

    def catch_up(self) -> None:
        """Do what the process' threads would have done meanwhile."""
        while self.worker.run_once():
            pass
        self.sequencer.step(NOW + 10)
        run_all(self.site.database, views())
        run_all(self.site.database, QueryIndex())


@pytest.fixture(scope="module")
def running(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("openapi")
    shutil.copy(sqlite_template, folder / "openapi.db")
    database = open_database(f"sqlite:///{folder / 'openapi.db'}")
    story = tell(database, folder, units=24)
    clock, draw, lock = Clock(), Random(), Lock()
    operator = next(org.id for org in story.plan.cast.organisations if org.role == "operator")
    operator_key = P256Private.from_secret(operator.encode())
    enrol(database, operator, operator_key)
    service = service_of(aud=AUD, log=ORIGIN, promise_s=60, heartbeat_s=86_400)
    gateway = Gateway(
        database, key=GATEWAY_KEY, receipt_key=RECEIPT_KEY, aud=AUD, log=ORIGIN, terms=service.terms, now_ms=clock,
        random=draw,
    )  # fmt: skip
    desk = MessageDesk(database, service, operator_key=operator_key, receipt_key=RECEIPT_KEY, now_ms=clock)
    worker = CaptureWorker(database, gateway, desk, now_ms=clock)
    evidence = LogEvidence(story.maps, story.place, story.chain, lock)
    finance = Context(
        k=sha256(b"story k"),
        registry=PledgeRegistryClient(story.chain, story.deployment.pledges),
        signer=Signer(folder / "keys"),
        assess=evidence,
        contents=evidence.contents,
        lots=evidence.lots,
    )
    settings = WebSettings(
        base_url="https://x.example",
        service=AUD,
        origin=ORIGIN,
        log_contract=story.deployment.log_contract,
        chain_id=story.deployment.chain_id,
        log_id=story.deployment.log_id,
    )

    def sign(tx: Tx, application: str, lender: str, now: int) -> bytes:
        log = Verifier(ORIGIN, CHECKPOINT_KEY.public)
        return sign_case(tx, application, lender=lender, operator=operator, key=operator_key, log=log, now=now)

    services = Services(
        db=database, settings=settings, chain=story.chain, maps=story.maps, place=story.place, proof_lock=lock,
        finance=finance, gateway=gateway, capture_worker=worker, now_ms=clock, random=draw,
        devices=device_desk(database, folder, clock, draw), publish=len, sign_case=sign,
        quarantine=QuarantineDesk(database, service, operator_key=operator_key, now_ms=clock, days=90),
    )  # fmt: skip
    run = Running(
        Site(create_app(services), database, clock, draw), story, worker, Sequencer(database, CHECKPOINT_KEY, ORIGIN)
    )
    run.catch_up()
    yield run
    database.close()


def device_desk(database: Database, folder: Path, clock: Clock, draw: Random) -> DeviceDesk:
    """The desk for records, claims and devices, over a list in place of a broker."""
    keyfiles, broker = KeyFiles(folder / "keys"), Broker()
    records = RecordDesk(database, receipt_key=RECEIPT_KEY, aud=AUD, log=ORIGIN, terms=Terms(), now_ms=clock)
    return DeviceDesk(
        database=database, records=records, claims=ClaimDesk(database, records, keyfiles=keyfiles, now_ms=clock),
        doors=Doors(database, lambda: broker), broker=lambda: "mqtt://broker.test:1883",
        receipt_keys=(RECEIPT_KEY.jwk(),), now_ms=clock, random=draw,
    )  # fmt: skip


def enrol(database: Database, operator: str, operator_key: P256Private) -> None:
    """The keys of receipts and of the gateway, as the operator enrols them."""
    device = "https://id.gs1.org/8004/9526011GW1"
    with database.transaction() as tx:
        for key, use, iss in ((RECEIPT_KEY, "receipt", operator), (GATEWAY_KEY, "gateway", device)):
            payload = common(t="key", aud=AUD, log=ORIGIN, org=operator, iat=NOW - 60)
            payload |= key_members(key.jwk(), iss=iss, use=use, scope={})
            admit_record(tx, sign_record(payload, operator_key), now_ms=(NOW - 60) * 1000)


def headers_of(running: Running, kind: str) -> dict[str, str]:
    site = running.site
    if kind == "public":
        return {}
    if kind == "partner":
        with site.database.transaction() as tx:
            partner = partners.create_partner(tx, name="fuzzer", gln=GLNS[kind], is_regulator=False, now_ms=0)
            key = partners.create_key(tx, partner, scopes=sorted(partners.SCOPES), now_ms=0, secret=b"f" * 32)
        return {"Authorization": f"Bearer {key}"}
    client = site.signed_in(site.user(f"fuzz-{kind}", *ROLES[kind], org=org_id(GLNS[kind])))
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return {"Cookie": cookies, "X-CSRF-Token": client.headers["X-CSRF-Token"]}


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_breaks_a_route_and_every_answer_is_documented(running: Running, kind: str) -> None:
    site = running.site
    schema = schemathesis.openapi.from_asgi("/openapi.json", site.app)
    headers = headers_of(running, kind)
    wrong: dict[str, str] = {}
    for result in schema.get_all_operations():
        operation: Any = result.ok()
        if operation.path in LEFT_OUT:
            continue
        found = attacked(running, operation, headers)
        running.catch_up()
        if found:
            wrong[f"{operation.method.upper()} {operation.path}"] = found

    assert wrong == {}


def attacked(running: Running, operation: Any, headers: dict[str, str]) -> str:
    """The first failure under generated input, valid and invalid, "" for none."""
    found: list[str] = []
    strategies = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
    things = sorted(running.story.plan.highlights.values())

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=one_of(strategies), which=integers(0, 2 * len(things)))
    def attack(case: Any, which: int) -> None:
        # A fuzzer is one address; its unknown codes must not be throttled away.
        running.site.app.state.throttle = Throttle()
        if which < len(things) and case.meta.generation.mode is GenerationMode.POSITIVE:
            point_at(case, things[which])
        try:
            case.call_and_validate(headers=headers, checks=CHECKS)
        except FailureGroup as failures:
            found.append(str(failures.exceptions[0])[:600])

    try:
        attack()
    except Unsatisfiable:
        return ""
    return found[0] if found else ""


def point_at(case: Any, thing: str) -> None:
    """Ask about something that is there, else most generated codes name nothing."""
    ai, path = thing.removeprefix("https://id.gs1.org/").split("/", 1)
    known = {"epc": f"{ai}/{path}", "ai": ai, "path": path}
    for name in case.path_parameters or {}:
        if name in known and case.path_parameters.keys() <= known.keys():
            case.path_parameters[name] = known[name]
    for name in ("code", "epc", "item", "pallet", "MATCH_anyEPC"):
        if name in (case.query or {}):
            case.query[name] = thing
