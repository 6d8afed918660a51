"""The worker that does capture jobs, in the order they came; what a crash left waiting is done at the next start."""

import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import structlog

from api.epcis import jobs
from api.epcis.bodies import Document, collected_later, read_document, read_messages
from api.epcis.problems import error_body, exception_body
from core.canonical import b64u, dump_parsed
from core.errors import Conflict, Rejected, Unavailable
from ingest.gateway import Fault, Gateway, Outcome, Speaker
from ingest.partner_messages import MessageDesk
from ledger.database import Database, Tx

ERRORS_MAX: Final = 100
# Documents that were read by the request and wait for the worker in memory; others are read again from the job.
AT_HAND_MAX: Final = 4
_HELD_S: Final = 1.0
_FORGET_EVERY_S: Final = 3_600.0
_log = structlog.get_logger(__name__)


class CaptureWorker:
    """Takes waiting jobs one after the other; several workers may run, each job counts once.

    Args:
        gateway: signs what partners say. desk: takes what they signed themselves.
    """

    def __init__(self, database: Database, gateway: Gateway, desk: MessageDesk, *, now_ms: Any) -> None:
        self._database, self._gateway, self._desk, self._now_ms = database, gateway, desk, now_ms
        self._after = 0
        self._forgot_s = float("-inf")
        self._called = threading.Event()
        self._at_hand: OrderedDict[int, Document] = OrderedDict()

    def call(self, number: int, document: Document | None = None) -> None:
        """Say that a job has come, with its document where the caller has read it; after a crash it is read again."""
        if document is not None:
            self._at_hand[number] = document
            while len(self._at_hand) > AT_HAND_MAX:
                self._at_hand.popitem(last=False)
        self._called.set()

    def wait(self, timeout_s: float) -> None:
        """Return when a job has come, or after ``timeout_s``."""
        self._called.wait(timeout_s)
        self._called.clear()

    def run_once(self) -> bool:
        """Do the next job; whether there was one.

        Raises:
            Unavailable: the database is away; the job stays and is taken again.
        """
        self._forget()
        with self._database.reading() as tx:
            number = jobs.next_waiting(tx, after=self._after)
            if number is None:
                # Round again: a job committed late may have a lower number than one that was done.
                self._after = 0
                return False
            job = jobs.load(tx, number, has_body=False)
        try:
            self._gateway.check_ready()
        except Unavailable as held:
            _log.warning("capture_held", reason=held.message)
            time.sleep(_HELD_S)
            return False
        self._after = number
        try:
            with collected_later():
                self._do(job)
        except Conflict as error:
            # Done by another worker, or the gateway's chain is contended: then the job waits and is taken again.
            _log.info("capture_contended", job=job.id, code=error.code)
        except Unavailable:
            raise
        except Rejected as error:
            self._refuse(job, error)
        except Exception as error:  # noqa: BLE001 - whatever one job breaks, the next one is done
            self._fail(job, error)
        return True

    def _do(self, job: jobs.Job) -> None:
        document = self._at_hand.pop(job.number, None)
        body = b"" if document is not None else self._body(job)
        if job.is_done or body is None:
            return
        if job.media == "sd-jwt":
            result = self._desk.take(read_messages(body), org=job.org)
            faults = [fault for one in result["results"] for fault in one.get("errors", ())]
            result["errors"] = [
                exception_body(400, fault["code"], fault["detail"], pointer=fault["pointer"])
                for fault in faults[:ERRORS_MAX]
            ]
            with self._database.transaction() as tx:
                is_success = all(one["status"] in ("accepted", "duplicate") for one in result["results"])
                self._finish(tx, job, result, is_success=is_success)
            return
        if document is None:
            document = read_document(body, "xml" if job.media == "xml" else "json")
        whole = document
        speaker = Speaker(job.org, job.client, job.body_hash)

        def settle(tx: Tx, outcome: Outcome) -> None:
            self._finish(tx, job, as_json(outcome, whole.warnings), is_success=outcome.is_success)

        self._gateway.capture(whole.events, speaker, behaviour=job.behaviour, settle=settle)

    def _body(self, job: jobs.Job) -> bytes | None:
        with self._database.reading() as tx:
            return jobs.body_of(tx, job.number)

    def _finish(self, tx: Tx, job: jobs.Job, result: Mapping[str, Any], *, is_success: bool) -> None:
        jobs.finish(tx, job.number, is_success=is_success, result=dump_parsed(dict(result)), now_ms=self._now_ms())

    def _refuse(self, job: jobs.Job, error: Rejected) -> None:
        fault = error_body(error)
        with self._database.transaction() as tx:
            self._finish(tx, job, {"errors": [fault], "results": [], "receipts": {}}, is_success=False)

    def _fail(self, job: jobs.Job, error: Exception) -> None:
        """A job that our own code cannot do ends with an ImplementationException; nothing of it is stored."""
        _log.error("capture_failed", job=job.id, trace="".join(traceback.format_exception(error)[-3:])[-2_000:])
        fault = exception_body(500, "internal_error", "Our own code failed on this capture; the operator was told.")
        with self._database.transaction() as tx:
            self._finish(tx, job, {"errors": [fault], "results": [], "receipts": {}}, is_success=False)

    def _forget(self) -> None:
        now_s = time.monotonic()
        if now_s < self._forgot_s + _FORGET_EVERY_S:
            return
        self._forgot_s = now_s
        with self._database.transaction() as tx:
            jobs.forget_old(tx, now_ms=self._now_ms())


def as_json(outcome: Outcome, warnings: tuple[Fault, ...] = ()) -> dict[str, Any]:
    """The members of a job that say what became of its events; the first errors also as EPCISExceptions."""
    faults = [fault for result in outcome.results for fault in result.faults]
    errors = [
        exception_body(409 if fault.code == "event_id_taken" else 400, fault.code, fault.message, pointer=fault.pointer)
        for fault in faults[:ERRORS_MAX]
    ]
    counts: dict[str, int] = {}
    for result in outcome.results:
        counts[result.status] = counts.get(result.status, 0) + 1
    return {
        "errors": errors,
        "counts": counts,
        "warnings": [fault.as_json() for fault in warnings],
        "results": [result.as_json() for result in outcome.results],
        "receipts": {b64u(message): dict(receipt) for message, receipt in outcome.receipts.items()},
    }
