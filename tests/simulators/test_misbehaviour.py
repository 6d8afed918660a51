"""Faults on demand for a whole fleet: named, seeded, counted; and the addresses of a cluster."""

import itertools
import selectors
import socket
import threading
from pathlib import Path

import pytest

from core.canonical import sha256
from core.errors import Rejected
from core.message import open_signed, split
from simulators.connection import Connection
from simulators.devices import Device
from simulators.faults import Rates
from simulators.fleet import Generator, players
from simulators.fleet_scenario import FleetPlan, load_fleet
from simulators.misbehaviour import OFFSETS_S, Misbehaviour, Troublemaker, faults, read_faults
from simulators.outbox import Outbox
from tests.simulators.conftest import AUD, RECEIPT_KEY, Broker, ReceiptGiver, memory_device

NOON = 1_795_579_200


def trouble(asked: Misbehaviour, *, seed: int = 1) -> Troublemaker:
    ticks = itertools.count()
    return Troublemaker(asked, seed=seed, start=NOON, now=lambda: NOON, clock=lambda: float(next(ticks)))


def talked(maker: Troublemaker, scenario: str = "dairy") -> tuple[FleetPlan, list[bytes], dict[str, Device]]:
    """Ten simulated minutes of thirty devices through the troublemaker's wires: what came out at the other end."""
    plan = maker.plan(load_fleet(scenario, seed=1, start=NOON, devices=30))
    outbox = Outbox(Path(":memory:"))
    found = players(plan, outbox, aud=AUD, receipt_keys=[RECEIPT_KEY.jwk()], seed=1)
    generator = Generator(plan, found, outbox, start=NOON)
    out: list[bytes] = []
    wires = {name: maker.wrap(device, lambda _topic, raw: out.append(raw) is None) for name, device in found.items()}
    while generator.at < NOON + 600:
        generator.advance(NOON + 600)
        for name, device in found.items():
            device.pump(wires[name], float(generator.at))
    return plan, out, found


def test_a_fleet_without_faults_says_what_it_always_says() -> None:
    maker = trouble(Misbehaviour())
    _plan, out, found = talked(maker)

    honest = {entry.raw for name, device in found.items() for entry in device.outbox.entries(name)}
    assert set(out) == honest
    assert not maker.made.counts
    assert not maker.drifted
    assert not maker.tampered


@pytest.mark.parametrize("fault", ["wrong-key", "equivocation", "clone"])
def test_lies_go_beside_the_truth_and_are_counted(fault: str) -> None:
    maker = trouble(read_faults({fault: "0.3"}))
    _plan, out, found = talked(maker)
    by_kid = {device.kid: device for device in found.values()}

    honest = {entry.id for name, device in found.items() for entry in device.outbox.entries(name)}
    lies = [raw for raw in out if split(raw).id not in honest]
    assert len(lies) == maker.made.counts[fault.replace("-", "_")] > 5
    assert honest <= {split(raw).id for raw in out}
    if fault == "wrong-key":
        assert {sha256(raw) for raw in lies} == maker.made.hostile
        assert not {split(raw).kid for raw in lies} & set(by_kid)
        return
    assert not maker.made.hostile
    for raw in lies:
        signed = open_signed(split(raw), by_kid[split(raw).kid].key.public)  # authentic, and still a lie
        assert signed.seq >= 0


def test_drifted_clocks_and_tampered_sensors_are_shares_of_the_devices() -> None:
    maker = trouble(read_faults({"drifted-clock": "0.5", "tampered-sensor": "0.5"}))
    honest = load_fleet("vaccines", seed=1, start=NOON, devices=40)
    plan = maker.plan(load_fleet("vaccines", seed=1, start=NOON, devices=40))

    assert 5 < len(maker.drifted) < 35
    assert 5 < len(maker.tampered) < 35
    assert set(maker.drifted.values()) <= set(OFFSETS_S)
    for truth, device in zip(honest.devices, plan.devices, strict=True):
        at = NOON + device.group.every_s
        true, said = truth.source(at), device.source(at)
        is_late = device.name in maker.drifted
        has_sensors = any("sensorElementList" in event for event in true)
        is_tampered = device.name in maker.tampered and has_sensors
        if true:
            assert (true != said) == (is_late or is_tampered)
            assert (true[0]["eventTime"] != said[0]["eventTime"]) == is_late


def test_one_seed_makes_the_same_trouble_again() -> None:
    asked = Misbehaviour(Rates(duplicate=0.2, drop=0.1), clone=0.1, wrong_key=0.1, drifted_clock=0.2)

    first, again, other = (talked(trouble(asked, seed=seed))[1] for seed in (1, 1, 2))

    assert len(first) == len(again)
    assert [sha256(raw) for raw in first if raw] != [sha256(raw) for raw in other if raw]


@pytest.mark.parametrize("fault", [("surprise", "0.1"), ("drop", "2"), ("drop", "x"), ("drop", ""), ("drop", "nan")])
def test_a_wrong_fault_is_refused_with_the_names_of_the_right_ones(fault: tuple[str, str]) -> None:
    with pytest.raises(Rejected, match="tampered-sensor") as refused:
        read_faults(dict([fault]))

    assert refused.value.code == "bad_fault"


def test_every_fault_has_a_name() -> None:
    wanted = "clone delay drifted-clock drop duplicate equivocation flip reorder replay tampered-sensor wrong-key"

    assert set(wanted.split()) <= set(faults())
    assert read_faults({"delay": "0.1", "delay-s": "30"}).network == Rates(delay=0.1, delay_s=30)


def test_a_device_turns_to_the_next_host_of_a_cluster(service: ReceiptGiver, broker: Broker) -> None:
    device = memory_device()
    service.know(device)

    assert becomes_ready(device, f"mqtt://127.0.0.1:1,127.0.0.1:{broker.port},127.0.0.1:2")


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_broker_that_knows_no_mqtt_5_is_spoken_to_in_the_older_language(is_silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=old_broker, args=(server, is_silent), daemon=True).start()

        assert becomes_ready(memory_device(), f"mqtt://127.0.0.1:{server.getsockname()[1]}")


def becomes_ready(device: Device, url: str) -> bool:
    selector = selectors.DefaultSelector()
    connection = Connection(device, url, selector)
    for turn in range(500):
        connection.turn(turn / 2, may_connect=True)
        for key, mask in selector.select(0.02):
            if mask & selectors.EVENT_READ:
                key.data.ready_to_read()
            if mask & selectors.EVENT_WRITE:
                key.data.ready_to_write()
        if connection.is_ready:
            connection.close()
            return True
    return False


def old_broker(server: socket.socket, is_silent: bool) -> None:
    """Answers MQTT 3.1.1 alone: CONNACK and SUBACK as bytes of the standard; to version 5 a code, or nothing."""
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            level = peer.recv(4_096).split(b"MQTT", 1)[1][0]
            if level == 4:
                peer.sendall(b"\x20\x02\x00\x00")
                mid = peer.recv(4_096)
                start = mid.index(b"\x82")
                peer.sendall(b"\x90\x04" + mid[start + 2 : start + 4] + b"\x01\x01")
                peer.recv(4_096)
            elif not is_silent:
                peer.sendall(b"\x20\x02\x00\x01")


@pytest.mark.parametrize("url", ["amqp://a", "mqtt://", "mqtt://a,,b", "mqtt://a:x", "a,b"])
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(Rejected) as refused:
        Connection(memory_device(), url, selectors.DefaultSelector())

    assert refused.value.code == "bad_broker_url"
