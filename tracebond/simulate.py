"""``tracebond simulate --document``: the events of a document, signed and sent by a gateway device of its own."""

import time
from collections.abc import Callable
from pathlib import Path

from core.crypto import generate_p256
from core.errors import Rejected, Unavailable
from core.identifiers import giai_id
from ingest.access import BrokerAccess
from ingest.topics import device_name
from simulators.connection import Fleet
from simulators.devices import Device, DeviceConfig
from simulators.documents import send_document
from tracebond.enrol import Enrolment, OrganisationSpec
from tracebond.loops import now_s
from tracebond.parts import Parts, open_parts
from tracebond.running import broker_access, broker_url
from tracebond.settings import Settings

# A made-up partner under the demonstration prefix, whose documents are sent.
SENDER = OrganisationSpec("9529999000019", "Document sender (simulated)", "maker")
DEVICE = "document-sender"


def send_file(
    settings: Settings, document: Path, *, timeout_s: float, say: Callable[[str], None], folder: Path | None = None
) -> int:
    """Sign and send the events of a document; a line a message. 0 when all were accepted, 1 when one was refused.

    Args:
        folder: of an enrolled device that sends them; None for a made-up sender, enrolled here.

    A server must be running on the same data folder: it carries out the enrolment and gives the receipts.

    Raises:
        Rejected: the document cannot be read at all. Unavailable: no server, or no receipt in time.
    """
    data = document.read_bytes()
    parts = open_parts(settings)
    try:
        device = _device(parts) if folder is None else Device.open(folder)
        sent = send_document(data, device, now_s())
        if not sent.entries and not sent.too_large:
            raise Rejected("The document holds no events.", code="no_events")
        _drain(parts, device, timeout_s)
        by_seq = {entry.seq: entry for entry in device.outbox.entries(device.config.name)}
        is_refused = bool(sent.too_large)
        for entry in sent.entries:
            now = by_seq[entry.seq]
            is_refused |= now.state == "refused"
            code = f" ({now.code})" if now.code else ""
            say(f"message {entry.seq}: {now.state}{code}")
        for event in sent.too_large:
            say(f"an event is too large for a message: {event}")
        device.close()
        return 1 if is_refused else 0
    finally:
        parts.close()


def _device(parts: Parts) -> Device:
    folder = parts.settings.data.absolute() / "devices" / DEVICE
    iss = giai_id(SENDER.gln[:7] + "SENDER1")
    if not (folder / "key.pem").exists():
        config = DeviceConfig.of(
            DEVICE,
            aud=parts.settings.service_id,
            org=SENDER.id,
            iss=iss,
            receipt_keys=(parts.keyfiles.receipt.jwk(),),
        )
        Device.create(folder, config, generate_p256()).close()
    device = Device.open(folder)
    enrolment, org_key = Enrolment(parts), parts.keyfiles.organisation(SENDER.gln)
    enrolment.organisations([SENDER], {SENDER.gln: org_key})
    enrolment.key(SENDER.id, org_key, device.key.jwk(), iss=iss, use="device", scope={})
    enrolment.wait_sequenced([device.kid])
    access = broker_access(parts.settings)
    if access is not None and not device.config.username:
        _let_in(access, device, folder)
    return device


def _let_in(access: BrokerAccess, device: Device, folder: Path) -> None:
    name = device_name(device.config.org, device.config.iss)
    config = DeviceConfig.of(
        device.config.name, aud=device.config.aud, org=device.config.org, iss=device.config.iss,
        receipt_keys=device.config.receipt_keys, username=name.username, password=access.add(name),
    )  # fmt: skip
    device.configure(folder, config)


def _drain(parts: Parts, device: Device, timeout_s: float) -> None:
    fleet = Fleet([device], broker_url(parts.settings))
    fleet.start()
    deadline = time.monotonic() + timeout_s
    while fleet.pending:
        if time.monotonic() > deadline:
            fleet.stop()
            raise Unavailable(
                f"{fleet.pending} messages have no receipt yet; they stay in the outbox. Is `tracebond up` running?",
                code="no_receipt",
            )
        time.sleep(0.05)
    fleet.stop()
