"""Gaps that stay are asked for on the command topic, and close when the device answers from its outbox."""

import json
from pathlib import Path

import pytest

from core.canonical import parse_json
from ingest import resend
from ingest.resend import Resender
from ledger.chains import gaps
from ledger.followers import run_once
from ledger.state import views
from simulators.devices import Device, DeviceConfig
from simulators.outbox import Outbox
from tests.ingest.rig import RECEIPT_KEY, Rig
from tests.ledger.world import AUD, MAKER, NOW, seen

COMMANDS = "tb/1/9521000000018/9521000line-1/commands"


class Wire:
    """Takes a device's publishes to the worker, but for those that are lost on the way."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.lost = rig, set[bytes]()

    def __call__(self, topic: str, payload: bytes) -> bool:
        if payload not in self.lost:
            self.rig.source.send(topic, payload)
        return True


def a_device(rig: Rig) -> Device:
    config = DeviceConfig.of(
        "line-1", aud=AUD, org=MAKER, iss=rig.world.iss("line-1"), receipt_keys=(RECEIPT_KEY.jwk(),)
    )
    return Device(config, rig.world.devices["line-1"], Outbox(Path(":memory:")), resend_s=10_000)


def work(rig: Rig, device: Device) -> None:
    """The worker, then the log, then its followers; receipts go back to the device."""
    rig.run()
    for topic, payload in rig.source.published:
        if topic.endswith("/receipts"):
            device.take_receipt(payload)
    rig.source.published = [one for one in rig.source.published if one[0].endswith("/commands")]
    device.flush()
    rig.world.step()
    while run_once(rig.database, views()):
        pass


def asked(rig: Rig) -> list[tuple[int, int]]:
    found = [json.loads(payload) for topic, payload in rig.source.published if topic == COMMANDS]
    return [(one["from"], one["to"]) for one in found]


def holes(rig: Rig) -> list[tuple[int, int]]:
    with rig.database.reading() as tx:
        return [(gap.first, gap.last) for gap in gaps(tx)]


def test_a_gap_that_stays_is_asked_for_and_closes(small_rig: Rig) -> None:
    device, wire = a_device(small_rig), Wire(small_rig)
    sent = [device.record([seen(f"A{number}")], NOW) for number in range(6)]
    wire.lost = {sent[1].raw, sent[2].raw, sent[4].raw}
    resender = Resender(small_rig.database, small_rig.source.publish, after_s=30)

    device.pump(wire, 0.0)
    work(small_rig, device)
    assert holes(small_rig) == [(1, 2), (4, 4)]
    assert resender.step(0) == 0
    assert resender.step(29_999) == 0
    assert resender.step(30_000) == 2
    assert asked(small_rig) == [(1, 2), (4, 4)]
    wire.lost = set()
    for _, payload in small_rig.source.published:
        assert device.take_command(payload)
    small_rig.source.published = []
    device.pump(wire, 1.0)
    work(small_rig, device)

    assert holes(small_rig) == []
    assert device.pending == 0
    assert resender.step(10_000_000) == 0


def test_a_device_that_does_not_answer_is_asked_less_and_less(small_rig: Rig) -> None:
    device, wire = a_device(small_rig), Wire(small_rig)
    sent = [device.record([seen(f"A{number}")], NOW) for number in range(3)]
    wire.lost = {sent[1].raw}
    device.pump(wire, 0.0)
    work(small_rig, device)
    resender = Resender(small_rig.database, small_rig.source.publish, after_s=10)

    times = [at for at in range(1_000) if resender.step(at * 1_000)]

    assert times == [10, 30, 70, 150, 310, 630]
    assert asked(small_rig) == [(1, 1)] * 6


def test_the_rate_of_questions_is_bounded(small_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resend, "ASKS_MAX", 3)
    device, wire = a_device(small_rig), Wire(small_rig)
    sent = [device.record([seen(f"A{number}")], NOW) for number in range(21)]
    wire.lost = {entry.raw for entry in sent[1::2]}
    device.pump(wire, 0.0)
    work(small_rig, device)
    resender = Resender(small_rig.database, small_rig.source.publish, after_s=10)

    resender.step(0)
    assert [resender.step(10_000 + number) for number in range(5)] == [3, 3, 3, 1, 0]
    assert sorted(asked(small_rig)) == [(seq, seq) for seq in range(1, 20, 2)]


def test_a_refused_message_and_an_ended_key_are_not_asked_for(small_rig: Rig) -> None:
    device, wire = a_device(small_rig), Wire(small_rig)
    device.record([seen("A0")], NOW)
    device.record([{**seen("A1"), "bizStep": "no such step"}], NOW)
    last = device.record([seen("A2")], NOW)
    lost = device.record([seen("A3")], NOW)
    device.record([seen("A4")], NOW)
    wire.lost = {lost.raw}
    device.pump(wire, 0.0)
    work(small_rig, device)
    resender = Resender(small_rig.database, small_rig.source.publish, after_s=1)

    resender.step(0)
    assert resender.step(2_000) == 1
    assert asked(small_rig) == [(3, 3)]
    small_rig.world.end("line-1", last=None if last is None else _text(last.id), seq=2)
    small_rig.world.step()
    assert resender.step(1_000_000) == 0


def test_nothing_is_counted_as_asked_while_the_broker_is_away(small_rig: Rig) -> None:
    device, wire = a_device(small_rig), Wire(small_rig)
    sent = [device.record([seen(f"A{number}")], NOW) for number in range(3)]
    wire.lost = {sent[1].raw}
    device.pump(wire, 0.0)
    work(small_rig, device)
    resender = Resender(small_rig.database, small_rig.source.publish, after_s=1)
    resender.step(0)

    small_rig.source.is_connected = False
    assert resender.step(1_000) == 0
    small_rig.source.is_connected = True
    assert resender.step(1_001) == 1


def test_the_command_is_small_and_canonical() -> None:
    text = resend.command("k" * 43, 3, 9)

    assert text == b'{"from":3,"kid":"%s","t":"resend","to":9,"v":1}' % (b"k" * 43)
    assert parse_json(text, bytes_max=4_096)["from"] == 3


def _text(raw: bytes) -> str:
    from core.canonical import b64u

    return b64u(raw)
