"""The processes: all in one, or one part each for several processes on one database."""

import secrets
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.registry import Collector

from api.app import create_app
from api.epcis.webhooks import Reporter
from api.epcis.worker import CaptureWorker
from api.services import Services, WebSettings
from contracts.clients import PledgeRegistryClient
from core.canonical import b64u
from core.errors import Unavailable
from core.records import common, sign_record
from finance.assess import LogEvidence
from finance.commandlog import mark_audited, waiting_audits
from finance.model import Context
from finance.monitoring import Watch
from finance.reconcile import reconcile
from finance.tokens import close_tokens
from ingest.access import BrokerAccess
from ingest.alarms import prune
from ingest.alarms_told import log_events
from ingest.broker import EmbeddedBroker
from ingest.gateway import Gateway
from ingest.metrics import IngestMetrics
from ingest.partner_messages import MessageDesk
from ingest.pipeline import Brake, Worker, service_of
from ingest.pressure import backlog_brake, chain_brake, disk_brake
from ingest.resend import Resender
from ingest.source import Source
from ingest.sources import open_source
from ingest.stages import StageMetrics
from ingest.topics import DeviceName, device_name
from ledger import findings, findings_policy
from ledger.anchor import Anchorer, AnchorSettings
from ledger.chain_logs import check_present
from ledger.chain_metrics import ChainMetrics
from ledger.followers import run_once
from ledger.itemmap import ProofMap
from ledger.keys import keys_of
from ledger.log import Block, Sequencer
from ledger.queryindex import QueryIndex
from ledger.state import views
from ledger.store import admit_record
from tracebond.alarm_run import alarm_step
from tracebond.desks import device_desk, quarantine_desk
from tracebond.enrol import GATEWAY, Enrolment
from tracebond.finance_files import case_signer
from tracebond.logs import configure
from tracebond.loops import Loops, calm_collector, now_ms, now_s
from tracebond.new_chain import register_again
from tracebond.parts import Parts, open_parts
from tracebond.proof_map import Proofs
from tracebond.running import broker_access
from tracebond.settings import Settings
from tracebond.way import tell_anchor, tell_chain_txs, tell_checkpoint

AUDITS_MAX = 200
_log = structlog.get_logger(__name__)


class Running:
    """One process: open parts, worker threads, and what has to be closed at the end."""

    def __init__(self, parts: Parts, on_failure: Callable[[], None] = lambda: None) -> None:
        self.parts = parts
        self.loops = Loops(on_failure)
        self.proofs = Proofs(ProofMap(), threading.Lock())
        self.broker: EmbeddedBroker | None = None
        self.source: Source | None = None
        self.gateway: Gateway | None = None
        self.capture_worker: CaptureWorker | None = None
        self.devices = device_desk(parts, self._access)
        self.quarantine = quarantine_desk(parts)
        self._closing: list[Callable[[], object]] = []
        self._is_watching = False
        self.finance = self._finance()

    def add_sequencer(self) -> None:
        """Sequencer, anchorer and sender of chain_txs."""
        parts, settings = self.parts, self.parts.settings
        sequencer = Sequencer(
            parts.db,
            parts.keyfiles.checkpoint,
            settings.origin,
            block=lambda: newest_block(parts),
            heartbeat_s=settings.heartbeat_s // 2,
        )
        sequencer.open()
        anchoring = AnchorSettings(interval_ms=int(settings.anchor_s * 1_000), leaves=settings.anchor_leaves)
        anchorer = Anchorer(parts.db, parts.chain, anchoring)
        anchorer.check_start(now_ms=now_ms())
        sender = parts.sender()

        def sequence() -> bool:
            made = sequencer.step(now_s())
            if made is not None:
                tell_checkpoint(parts.db, made, names_messages=settings.log_messages)
            return made is not None and made.has_more

        def chain() -> bool:
            self._sign_audits()
            anchored = anchorer.step(now_ms())
            if anchored is not None:
                tell_anchor(parts.db, anchored, names_messages=settings.log_messages)
            report = sender.step(now_ms())
            tell_chain_txs(parts.db, report, names_messages=settings.log_messages)
            return not report.is_idle or anchored is not None

        self.loops.add("sequencer", sequence, idle_s=settings.checkpoint_s)
        self.loops.add("anchorer", chain, idle_s=0.25)
        metrics = ChainMetrics(parts.db, parts.chain, now_ms)
        self._export(metrics)
        self._watch_stages()
        self.loops.add("chain-metrics", metrics.refresh, idle_s=15.0)

    def _brakes(self) -> list[Brake]:
        settings, db = self.parts.settings, self.parts.db
        return [
            disk_brake(settings.data, free_bytes_min=settings.disk_free_min_mb * 1_048_576),
            backlog_brake(db),
            chain_brake(db, now_ms, heartbeat_s=settings.heartbeat_s),
        ]

    def serve_metrics(self) -> None:
        """Answer ``/metrics`` on the port of the settings, for a process without web pages."""
        settings = self.parts.settings
        self._watch_stages()
        if settings.metrics_port:
            server, thread = start_http_server(settings.metrics_port, settings.host)
            self._closing += [server.shutdown, server.server_close, thread.join]

    def _watch_stages(self) -> None:
        if not self._is_watching:
            self._is_watching = True
            settings = self.parts.settings
            stages = StageMetrics(self.parts.db, now_ms, folder=settings.data, promise_s=settings.promise_s)
            self._export(stages)

    def _export(self, collector: Collector) -> None:
        REGISTRY.register(collector)
        self._closing.append(lambda: REGISTRY.unregister(collector))

    def add_ingest(self, client_id: str) -> None:
        """The broker (a child when none is set, nor another source) and one ingest worker."""
        parts, settings = self.parts, self.parts.settings
        url = settings.source or settings.broker_url
        if not url:
            self.broker = EmbeddedBroker(settings.data)
            url = self.broker.start()
        self.source = open_source(url, client_id, authority=settings.broker_ca or None)
        service = service_of(
            aud=settings.service_id,
            log=settings.origin,
            promise_s=settings.promise_s,
            heartbeat_s=settings.heartbeat_s,
        )
        worker = Worker(
            self.source,
            parts.db,
            service,
            operator_key=parts.keyfiles.operator,
            receipt_key=parts.keyfiles.receipt,
            metrics=IngestMetrics(REGISTRY),
            names_messages=settings.log_messages,
            brakes=self._brakes(),
        )
        self._closing.append(worker.close)
        self.loops.add("ingest", worker.run_once, idle_s=0.01)
        if settings.resend_s:
            resender = Resender(parts.db, self.source.publish, after_s=settings.resend_s)
            self.loops.add("resend", lambda: resender.step(now_ms()) and None, idle_s=5.0)

    def add_followers(self) -> None:
        """State and history, then finance's reconciler and the monitoring of running facilities."""
        parts, follower = self.parts, views()

        def follow() -> bool:
            return run_once(parts.db, follower) > 0

        def settle() -> bool:
            steps = reconcile(parts.db, self.finance, now=now_s())
            return bool(steps.moved)

        chosen = parts.settings.findings_policy
        rules = findings.Findings(findings_policy.choose(Path(chosen) if chosen else None))
        index, reporter = QueryIndex(), Reporter(parts.db, secrets.token_bytes, parts.settings.webhook_private)
        self.loops.add("followers", follow, idle_s=0.3)
        self.loops.add("findings", lambda: findings.run_once(parts.db, rules) > 0, idle_s=0.3)
        self.loops.add("query-index", lambda: run_once(parts.db, index) > 0, idle_s=0.3)
        self.loops.add("subscriptions", lambda: reporter.step(now_ms()), idle_s=0.5)
        may_be_private = parts.settings.webhook_private
        self.loops.add("alarms", alarm_step(parts.db, now_ms, may_be_private=may_be_private), idle_s=0.5)
        watch = Watch(parts.db, self.finance)
        self.loops.add("old-readings", lambda: prune(parts.db, now_ms()) < 0, idle_s=3_600.0)
        self.loops.add("finance", settle, idle_s=0.5)
        self.loops.add("monitoring", lambda: watch.step(now_s()), idle_s=10)
        self.loops.add("tokens", self._close_tokens, idle_s=60)

    def _close_tokens(self) -> bool:
        """Payment tokens whose time is over, or that are used up for good, end with a row of the command log."""
        with self.parts.db.transaction() as tx:
            return bool(close_tokens(tx, self.finance, now=now_s()))

    def add_capture(self) -> None:
        """The gateway that signs what partners capture over HTTP, and the worker of capture jobs."""
        parts, settings = self.parts, self.parts.settings
        service = service_of(
            aud=settings.service_id,
            log=settings.origin,
            promise_s=settings.promise_s,
            heartbeat_s=settings.heartbeat_s,
        )
        self.gateway = Gateway(
            parts.db,
            key=parts.keyfiles.gateway(GATEWAY),
            receipt_key=parts.keyfiles.receipt,
            aud=settings.service_id,
            log=settings.origin,
            terms=service.terms,
            now_ms=now_ms,
            random=secrets.token_bytes,
            brakes=self._brakes(),
        )
        desk = MessageDesk(
            parts.db,
            service,
            operator_key=parts.keyfiles.operator,
            receipt_key=parts.keyfiles.receipt,
            now_ms=now_ms,
        )
        worker = self.capture_worker = CaptureWorker(parts.db, self.gateway, desk, now_ms=now_ms)

        def capture() -> bool:
            if not worker.run_once():
                worker.wait(0.25)
            return True

        gateway = self.gateway
        self.loops.add("capture", capture, idle_s=0.0)
        self.loops.add("alarm-events", lambda: log_events(parts.db, gateway) > 0, idle_s=1.0)

    def add_doors(self) -> None:
        """Shuts devices out at the broker whose keys have all ended, and lets old rows of the quarantine go."""
        self.loops.add("doors", self.devices.doors.tidy, idle_s=5.0)
        self.loops.add("retention", lambda: self.quarantine.purge() < 0, idle_s=3_600.0)

    def add_proofs(self) -> None:
        """The map that proofs are made from."""

        def advance() -> bool:
            check_present(self.parts.db, self.parts.deployment)
            return self.proofs.advance(self.parts)

        self.loops.add("proofs", advance, idle_s=0.3)

    def web(self, url: str, *, is_demo: bool = False) -> FastAPI:
        """The web application over these parts."""
        self._watch_stages()
        parts, settings = self.parts, self.parts.settings
        shown = WebSettings(
            base_url=settings.public_url.rstrip("/") or url,
            service=settings.service_id,
            origin=settings.origin,
            log_contract=parts.deployment.log_contract,
            chain_id=parts.deployment.chain_id,
            log_id=parts.deployment.log_id,
            is_demo=is_demo,
            is_own_chain=parts.chain.is_development,
            webhook_private=settings.webhook_private,
            mirror_keys=tuple(settings.mirror_keys.split()),
        )
        return create_app(
            Services(
                db=parts.db,
                settings=shown,
                chain=parts.chain,
                maps=self.proofs.maps,
                place=parts.place,
                proof_lock=self.proofs.lock,
                finance=self.finance,
                gateway=self.gateway,
                capture_worker=self.capture_worker,
                devices=self.devices,
                quarantine=self.quarantine,
                publish=None if self.source is None else self.source.publish,
                sign_case=case_signer(settings, parts.keyfiles),
                broker_problem=None if self.source is None else self._broker_problem,
            )
        )

    def admit_devices(self, names: Iterable[DeviceName]) -> dict[DeviceName, str]:
        """Let devices in at the child broker; passwords of those that are new. Another broker is its operator's."""
        if self.broker is None:
            return {}
        with self.parts.db.reading() as tx:
            known = {device_name(key.org, key.iss) for key in keys_of(tx, use="device") if not key.is_ended}
        return self.broker.access.sync({*known, *names})

    def close(self) -> None:
        """End threads, source and broker, in this order."""
        self.loops.stop()
        for close in self._closing:
            close()
        if self.source is not None:
            self.source.close()
        if self.broker is not None:
            self.broker.stop()
        self.parts.close()

    def _finance(self) -> Context:
        parts = self.parts
        evidence = LogEvidence(self.proofs.maps, parts.place, parts.chain, self.proofs.lock)
        return Context(
            k=parts.goods_secret,
            registry=PledgeRegistryClient(parts.chain, parts.deployment.pledges),
            signer=parts.signer,
            assess=evidence,
            contents=evidence.contents,
            lots=evidence.lots,
        )

    def _sign_audits(self) -> None:
        """Rows of the command log become ``audit`` records of the operator."""
        parts, settings = self.parts, self.parts.settings
        with parts.db.reading() as tx:
            waiting = waiting_audits(tx, AUDITS_MAX)
        if not waiting:
            return
        with parts.db.transaction() as tx:
            for number, row_hash in waiting:
                payload = common(
                    t="audit", aud=settings.service_id, log=settings.origin, org=parts.operator, iat=now_s()
                ) | {"row": b64u(row_hash)}
                admit_record(tx, sign_record(payload, parts.keyfiles.operator), now_ms=now_ms())
                mark_audited(tx, number, now=now_s())

    def _access(self) -> BrokerAccess | None:
        return broker_access(self.parts.settings) if self.broker is None else self.broker.access

    def _broker_problem(self) -> str:
        state = None if self.source is None else self.source.state
        return "" if state is None or state.is_connected else state.sentence


def newest_block(parts: Parts) -> Block | None:
    """The newest final block, for state leaves; None while the chain is away, so that the log goes on."""
    try:
        number = parts.chain.final_block_number()
        block_hash = parts.chain.block_hash(number)
    except Unavailable:
        return None
    return None if block_hash is None else (parts.chain.chain_id, number, block_hash)


def prepare_process(settings: Settings) -> None:
    """What a long-running process needs before it opens anything: its logs, and a calm cycle collector."""
    calm_collector()
    configure(settings.log_level, settings.log_format)


def all_in_one(
    settings: Settings, *, new_chain: bool = False, on_failure: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda text: None,
) -> Running:  # fmt: skip
    """Everything in one process, started: the operator is registered and devices may connect."""
    parts = open_parts(settings, new_chain=new_chain, say=say)
    running = Running(parts, on_failure)
    running.add_sequencer()
    running.loops.start()
    say("registering the operator")
    enrolment = Enrolment(parts)
    enrolment.operator()
    enrolment.wait_sequenced([parts.keyfiles.receipt.thumbprint()])
    register_again(parts, enrolment, say)
    say("starting the broker")
    running.add_ingest("ingest-1")
    running.add_capture()
    running.add_followers()
    running.add_proofs()
    running.add_doors()
    running.loops.start()
    running.admit_devices(())
    return running


def run_server(settings: Settings, *, new_chain: bool) -> None:
    """``tracebond up``: uvicorn owns the main thread; a dead worker ends the process with an error."""
    prepare_process(settings)
    server_box: list[uvicorn.Server] = []

    def stop() -> None:
        for server in server_box:
            server.should_exit = True

    running = all_in_one(settings, new_chain=new_chain, on_failure=stop, say=lambda text: _log.info(text))
    try:
        server, socket = web_server(running, settings)
        server_box.append(server)
        server.run(sockets=[socket])
    finally:
        running.close()
    _end(running)


def web_server(running: Running, settings: Settings, *, is_demo: bool = False) -> tuple[uvicorn.Server, Any]:
    """A server and its bound socket; port 0 takes a free one."""
    config = uvicorn.Config(
        FastAPI(), host=settings.host, port=settings.port, log_level="warning", log_config=None, access_log=False,
        server_header=False,
    )  # fmt: skip
    socket = config.bind_socket()
    host, port = socket.getsockname()[:2]
    url = f"http://{host}:{port}"
    config.app = running.web(url, is_demo=is_demo)
    _log.info("serving", url=url)
    return uvicorn.Server(config), socket


def run_ingest(settings: Settings, *, client_id: str) -> None:
    """``tracebond ingest``."""
    running = _one_part(settings)
    running.add_ingest(client_id)
    _run_until_stopped(running)


def run_sequence(settings: Settings) -> None:
    """``tracebond sequence``."""
    running = _one_part(settings)
    running.add_sequencer()
    running.loops.start()
    Enrolment(running.parts).operator()
    _run_until_stopped(running)


def run_follow(settings: Settings) -> None:
    """``tracebond follow``."""
    running = _one_part(settings)
    running.add_proofs()
    running.add_followers()
    _run_until_stopped(running)


def run_serve(settings: Settings) -> None:
    """``tracebond serve``."""
    running = _one_part(settings)
    running.add_proofs()
    running.add_capture()
    running.loops.start()
    try:
        server, socket = web_server(running, settings)
        server.run(sockets=[socket])
    finally:
        running.close()
    _end(running)


def _one_part(settings: Settings) -> Running:
    prepare_process(settings)
    return Running(open_parts(settings))


def _run_until_stopped(running: Running) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: running.loops.ask_to_stop())
    running.serve_metrics()
    running.loops.start()
    running.loops.wait()
    running.close()
    _end(running)


def _end(running: Running) -> None:
    if running.loops.failure is not None:
        raise running.loops.failure
