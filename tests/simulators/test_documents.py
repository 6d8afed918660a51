"""Documents that nobody here wrote take the same way, valid or not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.canonical import dump_json, parse_json
from core.epcis.items import document_events
from core.errors import Rejected
from core.message import JWT_BYTES_MAX, PUBLISH_BYTES_MAX, open_message, open_signed, rebuild_event, split
from simulators.connection import Fleet
from simulators.devices import Device
from simulators.documents import read_events, send_document
from tests.simulators.conftest import Broker, ReceiptGiver, an_event, memory_device

NOW = 1_795_555_555
DATA = Path(os.environ.get("CONFORMANCE_DATA", "../shared/data")) / "epcis"


def document(events: list[Any]) -> bytes:
    return dump_json(
        {
            "@context": ["https://ref.gs1.org/standards/epcis/epcis-context.jsonld"],
            "type": "EPCISDocument",
            "schemaVersion": "2.0",
            "creationDate": "2026-11-01T08:00:00Z",
            "epcisBody": {"eventList": events},
        }
    )


def sent_events(device: Device) -> list[dict[str, Any]]:
    events = []
    for entry in device.outbox.entries(device.config.name):
        signed = open_signed(split(entry.raw), device.key.public)
        events += [rebuild_event(*pair) for pair in zip(signed.clear, signed.disclosures, strict=True)]
    return events


def files(folder: str) -> list[Path]:
    found = sorted((DATA / folder).glob("*.json"))
    if not found:
        pytest.skip("shared conformance data is absent (set CONFORMANCE_DATA)")
    return found


@pytest.mark.parametrize("folder", ["valid", "invalid"])
def test_every_event_of_every_published_document_travels_unchanged(folder: str) -> None:
    for path in files(folder):
        device = memory_device()

        sent = send_document(path, device, NOW)

        expected = document_events(parse_json(path.read_bytes(), bytes_max=1_000_000, depth_max=64))
        assert sent.events == len(expected) > 0
        assert sent_events(device) == expected, path.name


def test_published_documents_reach_the_service(service: ReceiptGiver, broker: Broker) -> None:
    device = memory_device()
    service.know(device)
    events = sum(send_document(path, device, NOW).events for path in files("valid"))
    fleet = Fleet([device], broker.url)

    fleet.drain(20)
    fleet.stop()

    assert sum(len(message.events) for message in service.messages.values()) == events
    assert service.refused == service.unanswered == []


def test_a_wrong_check_digit_travels_and_is_named_by_the_receiver() -> None:
    device = memory_device()
    wrong = an_event() | {"epcList": ["https://id.gs1.org/01/09526002000104/21/A1"]}

    send_document(document([wrong]), device, NOW)

    [entry] = device.outbox.entries("scanner")
    with pytest.raises(Rejected) as refused:
        open_message(split(entry.raw), device.key.public)
    assert refused.value.code == "bad_check_digit"


def test_a_large_document_is_split_within_the_limits_and_keeps_its_order() -> None:
    device = memory_device()
    events = [
        an_event(f"A{n}") | {"epcList": [f"https://id.gs1.org/01/09526002000103/21/S{n}-{m}" for m in range(100)]}
        for n in range(120)
    ]

    sent = send_document(document(events), device, NOW)

    assert sent.events == 120
    assert all(len(entry.raw) <= PUBLISH_BYTES_MAX for entry in sent.entries)
    assert all(len(entry.raw.split(b"~")[0]) <= JWT_BYTES_MAX for entry in sent.entries)
    assert [event["epcList"][0] for event in sent_events(device)] == [event["epcList"][0] for event in events]


def test_an_event_that_fits_nowhere_is_named_and_the_others_go() -> None:
    device = memory_device()
    huge = an_event() | {"epcList": [f"https://id.gs1.org/01/09526002000103/21/S{m}" for m in range(6_000)]}

    sent = send_document(document([an_event("A1"), huge, an_event("A2")]), device, NOW)

    assert (sent.events, sent.too_large) == (2, (1,))
    assert [event["epcList"][0][-2:] for event in sent_events(device)] == ["A1", "A2"]


def test_decimals_keep_the_digits_they_were_given_with() -> None:
    device = memory_device()
    text = json.dumps(an_event()).replace(
        '"inspecting"', '"inspecting","quantityList":[{"epcClass":"urn:x:y","quantity":1.500}]'
    )

    send_document(document([parse_json(text.encode(), bytes_max=10_000)]), device, NOW)

    assert str(sent_events(device)[0]["quantityList"][0]["quantity"]) == "1.500"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'{"a":1,"a":2}', b'{"type":"EPCISDocument"}', b"<xml/>"])
def test_what_holds_no_events_is_refused_and_nothing_is_kept(data: bytes) -> None:
    device = memory_device()

    with pytest.raises(Rejected):
        send_document(data, device, NOW)

    assert device.outbox.entries("scanner") == []


def test_single_events_and_lists_are_documents_too() -> None:
    assert read_events(dump_json(an_event())) == [an_event()]
    assert len(read_events(dump_json([an_event("A"), an_event("B")]))) == 2
