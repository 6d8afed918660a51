"""Messages that a partner's own devices signed, handed in over HTTP: the same admission as from the broker."""

from collections.abc import Callable, Sequence
from typing import Any

from core.canonical import b64u, parse_json
from core.crypto import P256Private
from core.errors import Rejected
from core.message import split
from core.receipts import RECEIPT_BYTES_MAX, publish_hash, sign_receipts
from ingest.admitter import Admitter, Service
from ingest.decisions import Prepared, Refused, prepare
from ingest.metrics import IngestMetrics
from ingest.source import Delivery
from ingest.topics import device_name
from ledger.database import Database
from ledger.keys import KeyInfo


class MessageDesk:
    """Takes ready messages; each gets a receipt or a refusal like one that came over the broker.

    Args:
        operator_key: signs refusal and equivocation records. receipt_key: signs receipts.
    """

    def __init__(
        self,
        database: Database,
        service: Service,
        *,
        operator_key: P256Private,
        receipt_key: P256Private,
        now_ms: Callable[[], int],
        metrics: IngestMetrics | None = None,
    ) -> None:
        self._service, self._receipt_key = service, receipt_key
        self._admitter = Admitter(
            database, service, operator_key=operator_key, metrics=metrics or IngestMetrics(), now_ms=now_ms
        )

    def take(self, publishes: Sequence[bytes], *, org: str) -> dict[str, Any]:
        """Results and receipts of messages that ``org`` hands in.

        A message of another organisation's key is refused without an answer: nobody has a message refused in the name
        of somebody else.

        Raises:
            Unavailable: the database is away; hand them in again.
        """
        results: list[dict[str, Any]] = []
        ready: list[Prepared | Refused] = []
        for number, publish in enumerate(publishes):
            result: dict[str, Any] = {"status": "rejected", "pointer": f"/{number}"}
            try:
                envelope = split(publish)
                result["message"] = b64u(envelope.id)
                topic = self._topic(self._admitter.keys([envelope.kid])[0][envelope.kid], org)
                ready.append(prepare(Delivery(topic, publish, None)))
            except Rejected as error:
                result["errors"] = [{"pointer": error.pointer, "code": error.code, "detail": error.message}]
            results.append(result)
        payloads = [answer.payload for answer in self._admitter.process(ready)] if ready else []
        # By the bytes: somebody may hand in a message twice, once with disclosures that do not fit.
        answers = {payload["bytes"]: payload for payload in payloads}
        for result, publish in zip(results, publishes, strict=True):
            if "errors" not in result:
                self._tell(result, answers.get(b64u(publish_hash(publish))))
        signed = sign_receipts(payloads, self._receipt_key, aud=self._service.aud, log=self._service.log)
        receipts = {
            payload["message"]: parse_json(text, bytes_max=RECEIPT_BYTES_MAX)
            for payload, text in zip(payloads, signed, strict=True)
        }
        return {"results": results, "receipts": receipts}

    @staticmethod
    def _topic(info: KeyInfo | None, org: str) -> str:
        if info is None:
            raise Rejected("No key record of this key is in the log.", code="unknown_key", pointer="/header/kid")
        if info.org != org or info.use != "device":
            raise Rejected(
                "This key is no device key of your organisation.", code="wrong_device", pointer="/header/kid"
            )
        return device_name(info.org, info.iss).events

    @staticmethod
    def _tell(result: dict[str, Any], answer: dict[str, Any] | None) -> None:
        if answer is None:
            sentence = "The message is not authentic: signature, service or a disclosure does not fit."
            result["errors"] = [{"pointer": "", "code": "not_authentic", "detail": sentence}]
        elif "refused" in answer:
            code = str(answer["refused"])
            result["errors"] = [{"pointer": "", "code": code, "detail": f"The message was refused for good: {code}."}]
        else:
            result["status"] = "accepted"
