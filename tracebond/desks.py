"""The desks for devices, records and the quarantine over the open parts of a process."""

import secrets
from collections.abc import Callable

from ingest.claims import ClaimDesk
from ingest.devicedesk import DeviceDesk
from ingest.doors import Access, Doors
from ingest.pipeline import service_of
from ingest.pressure import backlog_brake, disk_brake
from ingest.quarantine_desk import QuarantineDesk
from ingest.receipts import Terms
from ingest.recorddesk import RecordDesk
from ingest.topics import BrokerAddress, read_broker_url
from tracebond.loops import now_ms
from tracebond.parts import Parts
from tracebond.running import broker_access, broker_url
from tracebond.settings import Settings


def device_desk(parts: Parts, access: Callable[[], Access | None] | None = None) -> DeviceDesk:
    """The desk.

    Args:
        access: gives the broker's access; left out, that of the server that runs on the same data folder.
    """
    settings = parts.settings
    records = RecordDesk(
        parts.db,
        receipt_key=parts.keyfiles.receipt,
        aud=settings.service_id,
        log=settings.origin,
        terms=Terms(settings.promise_s, settings.heartbeat_s),
        now_ms=now_ms,
        brakes=[disk_brake(settings.data), backlog_brake(parts.db)],
    )
    return DeviceDesk(
        database=parts.db,
        records=records,
        claims=ClaimDesk(parts.db, records, keyfiles=parts.keyfiles, now_ms=now_ms),
        doors=Doors(parts.db, access or (lambda: broker_access(settings))),
        broker=lambda: device_broker_url(settings),
        receipt_keys=(parts.keyfiles.receipt.jwk(),),
        now_ms=now_ms,
        random=secrets.token_bytes,
    )


def quarantine_desk(parts: Parts) -> QuarantineDesk:
    """The desk for what was not taken."""
    settings = parts.settings
    service = service_of(
        aud=settings.service_id, log=settings.origin, promise_s=settings.promise_s, heartbeat_s=settings.heartbeat_s
    )
    return QuarantineDesk(
        parts.db, service, operator_key=parts.keyfiles.operator, now_ms=now_ms, days=settings.quarantine_days
    )


def device_broker_url(settings: Settings) -> str:
    """Where devices connect, without anybody's credentials.

    Raises:
        Unavailable: no server has run on this data folder.
    """
    if settings.device_broker_url:
        return settings.device_broker_url
    address = read_broker_url(broker_url(settings))
    return BrokerAddress(address.host, address.port, scheme=address.scheme).url
