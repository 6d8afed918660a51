"""Telling others of alarms: as EPCIS events in the log, signed by the gateway for the organisation, and by webhooks.

An event's id is derived from the alarm, so that the gateway takes it for the same event however often it is captured;
the alarm remembers it in the transaction that stores the event.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

import sqlalchemy as sa
import structlog

from core.canonical import dump_json, sha256
from core.errors import Unavailable
from ingest.alarms import CLIENT
from ingest.alarms_book import CLEARED, rule_of
from ingest.alarms_rules import POSITION, Rule
from ingest.alarms_tables import alarm_deliveries, alarms
from ingest.gateway import Gateway, Outcome, Speaker, Submitted
from ledger.database import Database, Tx

_NAMES: Final = UUID("6f0c8d0e-6a52-5b0e-9c8b-6b2f9d7f1a57")
EVENTS_MAX: Final = 20
SENT_MAX: Final = 20
KEPT_MS: Final = 7 * 86_400_000
# Address, secret, id of the delivery, body, now in seconds -> whether it was taken, and why not.
Send = Callable[[str, str, str, bytes, int], tuple[bool, str]]
Wait = Callable[[int], int]
_log = structlog.get_logger(__name__)


def log_events(database: Database, gateway: Gateway) -> int:
    """Write the events of alarms about goods into the log; returns how many were written."""
    try:
        gateway.check_ready()
    except Unavailable:
        return 0
    with database.reading() as tx:
        waiting = [(row, what, rule_of(tx, row.rule)) for row, what in _waiting(tx)]
    for row, what, rule in waiting:
        event = event_of(row, rule, what)
        column = f"{what}_event"

        def settle(
            tx: Tx, outcome: Outcome, *, name: str = row.id, column: str = column, event: dict[str, Any] = event
        ) -> None:
            # What the gateway finds wrong is found again each time: it is noted, not tried for ever.
            told = event["eventID"] if outcome.is_success else "refused"
            tx.execute(alarms.update().where(alarms.c.id == name).values({column: told}))
            if not outcome.is_success:
                faults = [fault.code for result in outcome.results for fault in result.faults]
                _log.warning("alarm event refused", alarm=name, codes=faults)

        body = dump_json(event)
        gateway.capture([Submitted(event)], Speaker(rule.org, CLIENT, sha256(body)), settle=settle)
    return len(waiting)


def _waiting(tx: Tx) -> list[tuple[Any, str]]:
    raised = sa.select(alarms).where(alarms.c.raise_event == "", alarms.c.goods != "[]")
    found = [(row, "raise") for row in tx.execute(raised.order_by(alarms.c.raised_ms).limit(EVENTS_MAX))]
    told = alarms.c.raise_event.not_in(("", "refused"))
    ended = sa.select(alarms).where(
        alarms.c.clear_event == "", told, alarms.c.state == CLEARED, alarms.c.end_ms.is_not(None)
    )
    return found + [(row, "clear") for row in tx.execute(ended.order_by(alarms.c.end_ms).limit(EVENTS_MAX))]


def event_of(row: Any, rule: Rule, what: str) -> dict[str, Any]:
    """The EPCIS event that tells of an alarm raised or cleared."""
    at = _time(row.raised_ms if what == "raise" else row.end_ms)
    kind = rule.measurement if rule.measurement != POSITION else "Length"
    report: dict[str, Any] = {"type": kind}
    told = json.loads(row.details).get("value")
    if what == "raise" and told is not None and kind in _UOMS:
        # Not the peak: the furthest reading may have come after the moment that this event is about.
        report |= {"value": Decimal(told), "uom": _UOMS[kind]}
    if what == "raise":
        report["exception"] = "ALARM_CONDITION"
    else:
        report["booleanValue"] = False
    metadata = {"time": at, "deviceID": row.device, "bizRules": f"https://id.tracebond.example/alarm-rule/{rule.id}"}
    event: dict[str, Any] = {
        "type": "ObjectEvent",
        "action": "OBSERVE",
        "eventID": f"urn:uuid:{uuid5(_NAMES, f'{row.id}/{what}')}",
        "eventTime": at,
        "eventTimeZoneOffset": "+00:00",
        "bizStep": "sensor_reporting",
        "epcList": [name for name in json.loads(row.goods) if "/10/" not in name or "/21/" in name],
        "sensorElementList": [{"sensorMetadata": metadata, "sensorReport": [report]}],
    }
    if row.place:
        event["readPoint"] = {"id": row.place}
    return event


# Units of UN/ECE Recommendation 20 for the measurements whose unit is one.
_UOMS: Final = {"Temperature": "CEL", "RelativeHumidity": "P1", "Length": "KMT"}


@dataclass(frozen=True)
class Hooks:
    """Sends what waits, tries again until a deadline, and keeps the order per alarm.

    Attributes:
        send: posts a body, signed, to an address that may be a stranger's.
        wait_ms: how long to wait after so many attempts.
    """

    db: Database
    send: Send
    wait_ms: Wait

    def step(self, now_ms: int) -> int:
        """Send what is due; returns how many were sent or tried."""
        with self.db.reading() as tx:
            due = _due(tx, now_ms)
        for row in due:
            is_taken, reason = self.send(row.hook, row.secret, row.id, bytes(row.body), now_ms // 1000)
            with self.db.transaction() as tx:
                self._settle(tx, row, is_taken, reason, now_ms)
            if not is_taken:
                _log.info("alarm webhook not taken", alarm=row.alarm, reason=reason)
        return len(due)

    def _settle(self, tx: Tx, row: Any, is_taken: bool, reason: str, now_ms: int) -> None:
        attempts = row.attempts + 1
        values: dict[str, Any] = {"attempts": attempts, "answer": reason}
        if is_taken:
            values |= {"state": "delivered", "body": b""}
        elif now_ms >= row.deadline_ms:
            values["state"] = "failed"
        else:
            values["next_ms"] = now_ms + self.wait_ms(attempts)
        tx.execute(alarm_deliveries.update().where(alarm_deliveries.c.id == row.id).values(values))
        old = (alarm_deliveries.c.state == "delivered") & (alarm_deliveries.c.created_ms < now_ms - KEPT_MS)
        tx.execute(alarm_deliveries.delete().where(old))


def _due(tx: Tx, now_ms: int) -> list[Any]:
    """The oldest waiting delivery of each alarm that is due, so that a clear never overtakes its raise."""
    query = sa.select(alarm_deliveries).where(alarm_deliveries.c.state == "waiting")
    rows = tx.execute(query.order_by(alarm_deliveries.c.created_ms, alarm_deliveries.c.attempts.desc()).limit(1_000))
    first: dict[str, Any] = {}
    for row in rows:
        before = first.get(row.alarm)
        if before is None or (row.created_ms == before.created_ms and row.what == "raised"):
            first[row.alarm] = row
    return [row for row in first.values() if row.next_ms <= now_ms][:SENT_MAX]


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
