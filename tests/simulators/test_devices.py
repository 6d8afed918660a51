"""Devices: sign once, keep on disk, send the same bytes until a true receipt comes."""

import itertools
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core.canonical import canonical_bytes
from core.crypto import P256Private
from core.errors import Broken, Rejected, Unavailable
from core.message import open_message, split
from core.receipts import promise, publish_hash, refusal, sign_receipts
from simulators import devices
from simulators.connection import Fleet
from simulators.devices import Device, DeviceConfig
from simulators.outbox import Entry, Outbox
from simulators.scenario import infant_formula
from tests.simulators.conftest import AUD, LOG, ORG, RECEIPT_KEY, Broker, ReceiptGiver, an_event, config, memory_device

NOW = 1_795_555_555


class Network:
    """Takes what a device publishes."""

    def __init__(self, room: int = 10_000) -> None:
        self.sent: list[bytes] = []
        self.room = room

    def __call__(self, topic: str, payload: bytes) -> bool:
        if len(self.sent) >= self.room:
            return False
        self.sent.append(payload)
        return True


def receipt(entry: Entry, *, key: P256Private = RECEIPT_KEY, aud: str = AUD, code: str = "", **more: Any) -> bytes:
    known: dict[str, Any] = {"aud": aud, "log": LOG, "message": entry.id, "publish": publish_hash(entry.raw)} | more
    payload = refusal(**known, code=code) if code else promise(**known, leaf=bytes(32), accepted_at=NOW)
    return sign_receipts([payload], key, aud=aud, log=LOG)[0]


def test_a_message_names_the_one_before_and_its_signature_fits() -> None:
    device = memory_device()

    first, second = device.record([an_event("A1")], NOW), device.record([an_event("A2")], NOW + 1)

    opened = open_message(split(second.raw), device.key.public)
    assert (opened.signed.seq, opened.signed.prev, opened.signed.iat) == (1, first.id, NOW + 1)
    assert (first.seq, first.prev) == (0, None)
    assert (opened.signed.org, opened.signed.aud) == (ORG, AUD)
    assert opened.signed.iss == "https://id.gs1.org/8004/9526002SCANNER"


def test_the_key_file_is_for_its_owner_alone_and_a_folder_holds_one_device(tmp_path: Path) -> None:
    Device.create(tmp_path / "d", config(), P256Private.from_secret(b"d")).close()

    assert stat.S_IMODE((tmp_path / "d" / "key.pem").stat().st_mode) == 0o600
    with pytest.raises(Rejected) as refused:
        Device.create(tmp_path / "d", config(), P256Private.from_secret(b"e"))
    assert refused.value.code == "device_exists"
    with pytest.raises(Rejected) as absent:
        Device.open(tmp_path / "nobody")
    assert absent.value.code == "no_device"


def test_a_device_goes_on_in_its_chain_after_a_restart(tmp_path: Path) -> None:
    device = Device.create(tmp_path / "d", config(), P256Private.from_secret(b"d"))
    entries = [device.record([an_event(f"A{n}")], NOW) for n in range(3)]
    device.outbox.close()  # no farewell: what was recorded is on disk already

    again = Device.open(tmp_path / "d")
    network = Network()
    fourth = again.record([an_event("A3")], NOW)
    again.pump(network, 0.0)

    assert (fourth.seq, fourth.prev) == (3, entries[2].id)
    assert network.sent == [entry.raw for entry in [*entries, fourth]]
    assert again.config == config()


def test_a_receipt_for_the_kept_bytes_lets_a_message_go() -> None:
    device = memory_device()
    entry = device.record([an_event()], NOW)
    device.pump(Network(), 0.0)

    given = receipt(entry)
    assert device.take_receipt(given)
    device.flush()

    assert device.pending == 0
    kept = device.outbox.entries("scanner")[0]
    assert (kept.state, kept.raw) == ("accepted", b"")
    assert device.outbox.receipt("scanner", 0) == given


def test_a_receipt_from_anyone_else_or_for_other_bytes_changes_nothing() -> None:
    device = memory_device()
    entry = device.record([an_event()], NOW)
    good = receipt(entry)
    bad = [
        receipt(entry, key=P256Private.from_secret(b"someone")),
        receipt(entry, publish=bytes(32)),
        receipt(entry, message=bytes(32)),
        receipt(entry, aud="other.example"),
        good[:-5] + b"AAAA}",
        b"",
        b"{}",
        canonical_bytes({"receipt": 1, "index": 0, "path": [], "jws": "a.b.c"}),
    ]

    taken = [device.take_receipt(raw) for raw in bad]
    device.flush()

    assert taken == [False] * len(bad)
    assert (device.pending, device.ignored) == (1, len(bad))
    assert device.outbox.entries("scanner")[0].raw == entry.raw


def test_a_refused_message_keeps_its_place_in_the_chain() -> None:
    device = memory_device()
    first = device.record([an_event()], NOW)

    assert device.take_receipt(receipt(first, code="bad_check_digit"))
    device.flush()
    second = device.record([an_event()], NOW)

    assert (second.seq, second.prev) == (1, first.id)
    kept = device.outbox.entries("scanner")[0]
    assert (kept.state, kept.code) == ("refused", "bad_check_digit")


def test_a_device_sends_the_same_bytes_again_later_and_later() -> None:
    device = memory_device(resend_s=10.0)
    entry = device.record([an_event()], NOW)
    network = Network()
    sent_at = []

    for second in range(400):
        if device.pump(network, float(second)):
            sent_at.append(second)

    assert sent_at == [0, 10, 30, 70, 150, 310]
    assert set(network.sent) == {entry.raw}


def test_a_new_connection_sends_at_once_what_has_no_receipt() -> None:
    device = memory_device()
    entry = device.record([an_event()], NOW)
    network = Network()
    device.pump(network, 0.0)

    device.reconnected()

    assert device.is_due(0.1)
    device.pump(network, 0.1)
    assert network.sent == [entry.raw] * 2


def test_no_more_than_a_window_is_on_its_way() -> None:
    device = memory_device(in_flight_max=4)
    entries = [device.record([an_event(f"A{n}")], NOW) for n in range(10)]
    network = Network()

    device.pump(network, 0.0)
    device.pump(network, 0.1)
    assert network.sent == [entry.raw for entry in entries[:4]]

    device.take_receipt(receipt(entries[1]))
    device.pump(network, 0.2)
    assert network.sent == [entry.raw for entry in entries[:5]]


def test_a_message_that_is_never_answered_does_not_stop_the_others() -> None:
    device = memory_device(in_flight_max=2, resend_s=1.0)
    entries = [device.record([an_event(f"A{n}")], NOW) for n in range(4)]
    network = Network()

    for second in range(40):
        device.pump(network, float(second))

    assert {entry.raw for entry in entries} == set(network.sent)
    assert device.pending == 4


def test_a_network_that_takes_no_more_gets_the_rest_later() -> None:
    device = memory_device()
    entries = [device.record([an_event(f"A{n}")], NOW) for n in range(3)]
    narrow = Network(room=1)
    device.pump(narrow, 0.0)
    wide = Network()

    device.pump(wide, 0.1)

    assert narrow.sent + wide.sent == [entry.raw for entry in entries]


def test_a_resend_command_makes_its_range_due_and_others_are_ignored() -> None:
    device = memory_device()
    entries = [device.record([an_event(f"A{n}")], NOW) for n in range(3)]
    network = Network()
    device.pump(network, 0.0)
    network.sent.clear()

    assert device.take_command(canonical_bytes({"v": 1, "t": "resend", "from": 1, "to": 2}))
    assert not device.take_command(b"[1]")
    assert not device.take_command(canonical_bytes({"v": 1, "t": "resend", "kid": "other", "from": 0, "to": 0}))
    assert not device.take_command(canonical_bytes({"v": 1, "t": "resend", "from": "1", "to": None}))
    device.pump(network, 0.1)

    assert network.sent == [entry.raw for entry in entries[1:]]


def test_a_full_outbox_refuses_and_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "WAITING_MAX", 1)
    device = memory_device()
    device.record([an_event()], NOW)

    with pytest.raises(Unavailable) as full:
        device.record([an_event()], NOW)

    assert full.value.code == "outbox_full"
    assert device.outbox.head("scanner")[0] == 1


def test_two_programs_cannot_run_one_device(tmp_path: Path) -> None:
    one = Device.create(tmp_path / "d", config(), P256Private.from_secret(b"d"))
    other = Device.open(tmp_path / "d")
    kept = one.record([an_event("A1")], NOW)

    with pytest.raises(Broken) as clash:
        other.record([an_event("A2")], NOW)

    assert clash.value.code == "seq_taken"
    assert [entry.id for entry in one.outbox.entries("scanner")] == [kept.id]


def test_topics_escape_what_brokers_would_read_as_levels() -> None:
    odd = DeviceConfig.of("odd", aud=AUD, org=ORG, iss="https://id.gs1.org/8004/9526002A.B%2FC")

    assert odd.topic("events") == "tb/1/9526002000011/9526002A%2EB%2FC/events"
    assert odd.iss == "https://id.gs1.org/8004/9526002A.B%2FC"


def test_new_receipt_keys_are_kept_in_the_folder(tmp_path: Path) -> None:
    device = Device.create(tmp_path / "d", config(), P256Private.from_secret(b"d"))
    fresh = P256Private.from_secret(b"another receipt key")

    device.configure(tmp_path / "d", DeviceConfig(**{**vars(config()), "receipt_keys": (fresh.jwk(),)}))

    entry = device.record([an_event()], NOW)
    assert not device.take_receipt(receipt(entry))
    assert device.take_receipt(receipt(entry, key=fresh))
    assert Device.open(tmp_path / "d").config.receipt_keys == (fresh.jwk(),)


def test_messages_reach_a_real_broker_and_receipts_come_back(service: ReceiptGiver, broker: Broker) -> None:
    many = [memory_device(f"d{n}") for n in range(12)]
    service.know(*many)
    for device in many:
        for number in range(20):
            device.record([an_event(f"A{number}")], NOW)
    fleet = Fleet(many, broker.url)

    fleet.drain(20)
    fleet.stop()

    assert len(service.messages) == 240
    assert fleet.pending == 0
    assert {topic for topic, _ in service.raw} == {device.config.topic("events") for device in many}


def test_a_restart_in_mid_stream_loses_nothing_and_keeps_the_chain(
    tmp_path: Path, service: ReceiptGiver, broker: Broker
) -> None:
    device = Device.create(tmp_path / "d", config(), P256Private.from_secret(b"d"), in_flight_max=8)
    service.know(device)
    ids = [device.record([an_event(f"A{n}")], NOW).id for n in range(60)]
    fleet = Fleet([device], broker.url)
    for _ in range(200):
        fleet.turn()
        if len(service.messages) > 10:
            break
    for connection in fleet.connections:
        connection.drop()
    device.outbox.close()

    again = Device.open(tmp_path / "d", in_flight_max=8)
    ids += [again.record([an_event(f"B{n}")], NOW).id for n in range(10)]
    fleet = Fleet([again], broker.url)
    fleet.drain(20)
    fleet.stop()

    assert set(service.messages) == set(ids)
    entries = again.outbox.entries("scanner")
    assert [(entry.seq, entry.prev) for entry in entries] == [(n, ids[n - 1] if n else None) for n in range(70)]
    assert {entry.state for entry in entries} == {"accepted"}


def test_a_killed_broker_costs_nothing(service: ReceiptGiver, broker: Broker) -> None:
    device = memory_device(in_flight_max=4, resend_s=0.5)
    service.know(device)
    fleet = Fleet([device], broker.url)
    fleet.start()
    for number in range(20):
        device.record([an_event(f"A{number}")], NOW)
    broker.kill()
    for number in range(20):
        device.record([an_event(f"B{number}")], NOW)
    time.sleep(0.3)
    broker.start()

    fleet.drain(30)
    fleet.stop()

    assert len(service.messages) == 40


def test_silence_is_named_when_the_time_is_up(service: ReceiptGiver, broker: Broker) -> None:
    service.is_silent = True
    device = memory_device()
    device.record([an_event()], NOW)
    fleet = Fleet([device], broker.url)

    with pytest.raises(Unavailable) as waiting:
        fleet.drain(0.5)
    fleet.stop()

    assert waiting.value.code == "no_receipt"
    assert device.pending == 1


def test_the_whole_story_goes_through_the_wire(tmp_path: Path, service: ReceiptGiver, broker: Broker) -> None:
    plan = infant_formula(seed=5, now=NOW, units=24)
    cast = plan.cast
    outbox = Outbox(tmp_path / "outbox.db")
    players = {}
    for spec in cast.devices:
        its = DeviceConfig.of(
            spec.name, aud=AUD, org=cast.organisation(spec.org).id, iss=cast.iss(spec.name),
            receipt_keys=(RECEIPT_KEY.jwk(),),
        )  # fmt: skip
        players[spec.name] = Device(its, P256Private.from_secret(spec.name.encode()), outbox)
    service.know(*players.values())
    fleet = Fleet(players.values(), broker.url)
    fleet.start()

    for step in plan.steps:
        players[step.device].record(step.events, step.at)
    fleet.drain(30)
    fleet.stop()

    assert len(service.messages) == len(plan.steps)
    assert sum(len(message.events) for message in service.messages.values()) == plan.events
    assert service.refused == service.unanswered == []


def test_many_threads_may_record_at_once() -> None:
    device = memory_device()
    threads = [threading.Thread(target=lambda: [device.record([an_event()], NOW) for _ in range(25)]) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    entries = device.outbox.entries("scanner")
    assert [entry.seq for entry in entries] == list(range(100))
    assert all(late.prev == early.id for early, late in itertools.pairwise(entries))


def test_a_slow_service_is_not_sent_everything_twice() -> None:
    device = memory_device(resend_s=10.0, in_flight_max=2)
    network = Network()
    entries = [device.record([an_event(f"A{n}")], NOW) for n in range(22)]

    # Each receipt takes 8 seconds; then, at 25 seconds without one, the device still waits.
    for number, entry in enumerate(entries[:20]):
        device.pump(network, number * 4.0)
        device.is_due(number * 4.0 + 8.0)
        device.take_receipt(receipt(entry))
    device.pump(network, 100.0)
    device.pump(network, 125.0)

    assert len(network.sent) == len(set(network.sent)) == 22
