"""Faults on demand: the bad network loses nothing, and no hostile message can be opened."""

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.canonical import sha256
from core.crypto import P256Private
from core.errors import Rejected
from core.message import open_message, open_signed, split
from simulators.connection import Fleet
from simulators.faults import (
    BadNetwork,
    DriftedClock,
    Rates,
    clone,
    equivocation,
    flip,
    hostile_messages,
    tampered_sensor,
    under_wrong_key,
)
from simulators.outbox import Outbox
from simulators.randomness import Drbg
from tests.simulators.conftest import AUD, Broker, ReceiptGiver, an_event, memory_device

NOW = 1_795_555_555
WARM: dict[str, Any] = an_event(
    sensorElementList=[
        {
            "sensorMetadata": {"time": "2026-11-01T07:59:00.000Z"},
            "sensorReport": [{"type": "Temperature", "value": Decimal("31.5"), "uom": "CEL"}],
        }
    ]
)


class Recorder:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def __call__(self, topic: str, payload: bytes) -> bool:
        self.sent.append(payload)
        return True


def through(rates: Rates, count: int = 50, *, seed: int = 1) -> tuple[list[bytes], list[bytes], BadNetwork]:
    network = BadNetwork(rates, seed=seed, clock=lambda: 0.0)
    recorder = Recorder()
    wire = network.wrap(memory_device(), recorder)
    given = [f"{n:03} ".encode() + sha256(b"%d" % n) for n in range(count)]
    for payload in given:
        assert wire("t", payload)
    return given, recorder.sent, network


def test_a_network_without_faults_changes_nothing() -> None:
    given, sent, network = through(Rates())

    assert sent == given
    assert not network.made.counts


@pytest.mark.parametrize("fault", ["duplicate", "reorder", "drop", "replay", "flip"])
def test_each_fault_happens_as_often_as_it_is_counted(fault: str) -> None:
    given, sent, network = through(Rates(**{fault: 0.3}))
    made = network.made.counts[fault]

    assert 5 <= made <= 25
    assert set(network.made.counts) == {fault}
    extra = {"duplicate": made, "reorder": 0, "drop": -made, "replay": made, "flip": made}[fault]
    assert len(sent) - len(given) in (extra, extra - (fault == "reorder"))
    hostile = [payload for payload in sent if payload not in given]
    assert {sha256(payload) for payload in hostile} == network.made.hostile
    assert (sent != sorted(sent)) == (fault in ("reorder", "replay", "flip"))


def test_one_seed_makes_the_same_faults_again() -> None:
    rates = Rates(duplicate=0.2, reorder=0.2, drop=0.2, flip=0.2)

    assert through(rates)[1] == through(rates)[1]
    assert through(rates)[1] != through(rates, seed=2)[1]


def test_delayed_bytes_go_when_their_time_has_come() -> None:
    now = [0.0]
    network = BadNetwork(Rates(delay=1.0, delay_s=5.0), seed=1, clock=lambda: now[0])
    recorder = Recorder()
    wire = network.wrap(memory_device(), recorder)

    wire("t", b"first")
    wire("t", b"second")
    assert recorder.sent == []
    now[0] = 5.0
    wire("t", b"third")

    assert recorder.sent == [b"first", b"second"]


def test_a_storm_on_a_real_broker_loses_nothing_and_lets_nothing_hostile_in(
    service: ReceiptGiver, broker: Broker
) -> None:
    rates = Rates(duplicate=0.1, reorder=0.1, delay=0.1, drop=0.1, replay=0.1, flip=0.05, delay_s=0.1)
    network = BadNetwork(rates, seed=11, clock=time.monotonic)
    devices = [memory_device(f"d{n}", resend_s=0.3) for n in range(5)]
    service.know(*devices)
    ids = {device.record([an_event(f"A{n}")], NOW).id for device in devices for n in range(40)}
    fleet = Fleet(devices, broker.url, wrap=network.wrap)

    fleet.drain(30)
    fleet.stop()

    assert set(service.messages) == ids
    assert len(network.made.counts) == 6, network.made.counts
    seen = {sha256(raw) for _, raw in service.raw}
    assert len(service.unanswered) == len(network.made.hostile & seen)
    assert service.refused == []


@pytest.mark.parametrize("recorded", [0, 3])
def test_no_hostile_message_is_authentic_and_for_this_service(recorded: int) -> None:
    device = memory_device()
    for number in range(recorded):
        device.record([an_event(f"A{number}")], NOW)

    catalogue = hostile_messages(device, an_event(), NOW, Drbg.of(1))

    accepted = []
    for name, raw in catalogue.items():
        try:
            envelope = split(raw)
            if envelope.kid != device.kid:
                continue
            signed = open_signed(envelope, device.key.public)
        except Rejected:
            continue
        if (signed.aud, signed.org, signed.iss) == (AUD, device.config.org, device.config.iss):
            accepted.append(name)
    assert accepted == []
    assert len(set(catalogue.values())) == len(catalogue) >= 20
    assert device.outbox.head("scanner")[0] == recorded


@pytest.mark.parametrize("seed", range(3))
def test_a_message_with_any_flipped_bit_is_refused(seed: int) -> None:
    device = memory_device()
    raw = device.record([an_event()], NOW).raw
    drbg = Drbg.of(seed)

    for _ in range(300):
        bad = flip(raw, drbg.below(8 * len(raw)))
        with pytest.raises(Rejected):
            open_signed(split(bad), device.key.public)


def test_an_equivocation_is_authentic_and_shares_its_place() -> None:
    device = memory_device()
    first = device.record([an_event("A1")], NOW)

    lie = equivocation(device, [an_event("A2")], NOW)

    opened = open_message(split(lie.raw), device.key.public)
    assert (opened.signed.seq, opened.signed.prev) == (first.seq, first.prev)
    assert lie.id != first.id
    assert device.outbox.head("scanner")[0] == 1


def test_who_said_nothing_cannot_contradict_himself() -> None:
    with pytest.raises(Rejected) as refused:
        equivocation(memory_device(), [an_event()], NOW)

    assert refused.value.code == "nothing_recorded"


def test_a_clone_goes_on_from_the_same_past() -> None:
    device = memory_device()
    past = device.record([an_event("A0")], NOW)
    thief = clone(device, Outbox(Path(":memory:")))

    honest, stolen = device.record([an_event("A1")], NOW), thief.record([an_event("A2")], NOW)

    assert (honest.seq, honest.prev) == (stolen.seq, stolen.prev) == (1, past.id)
    assert honest.id != stolen.id
    open_message(split(stolen.raw), device.key.public)


def test_somebody_elses_key_names_itself() -> None:
    device = memory_device()
    other = P256Private.from_secret(b"other")

    raw = under_wrong_key(device, other, [an_event()], NOW).raw

    assert split(raw).kid == other.thumbprint() != device.kid


def test_a_drifted_clock_moves_event_and_sensor_times_alike() -> None:
    clock = DriftedClock(set_at=NOW - 1_000_000, offset_s=3_600, ppm=100)

    moved = clock.event(WARM, NOW)

    assert clock.at(NOW) == NOW + 3_700
    assert moved["eventTime"] == "2026-11-01T09:01:40.000Z"
    assert moved["sensorElementList"][0]["sensorMetadata"]["time"] == "2026-11-01T09:00:40.000Z"
    assert moved["epcList"] == WARM["epcList"]


def test_a_tampered_sensor_lies_in_every_reading_and_in_nothing_else() -> None:
    changed = tampered_sensor(WARM, offset=Decimal("-10"))

    assert changed["sensorElementList"][0]["sensorReport"][0]["value"] == Decimal("21.5")
    assert {**changed, "sensorElementList": WARM["sensorElementList"]} == WARM
    assert tampered_sensor(an_event(), offset=Decimal(1)) == an_event()
