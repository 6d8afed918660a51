"""Fleets from TOML: three industries, repeatable, valid, held back by receipts."""

import itertools
import time
from pathlib import Path

import pytest

from core.canonical import sha256
from core.epcis.validate import event_problems
from core.errors import Rejected, Unavailable
from core.message import open_signed, split
from simulators import fleet as fleets
from simulators.cast import CITIES
from simulators.faults import BadNetwork, Rates
from simulators.fleet import Generator, Progress, players, run_fleet
from simulators.fleet_scenario import FleetPlan, load_fleet, scenarios
from simulators.outbox import Outbox
from simulators.signals import distance_km
from tests.simulators.conftest import AUD, RECEIPT_KEY, Broker, ReceiptGiver

NOON = 1_795_579_200  # 2026-11-25, noon in Shanghai


def generated(plan: FleetPlan, seconds: int) -> tuple[Generator, Outbox]:
    outbox = Outbox(Path(":memory:"))
    found = players(plan, outbox, aud=AUD, receipt_keys=[RECEIPT_KEY.jwk()], seed=1)
    generator = Generator(plan, found, outbox, start=NOON)
    while generator.at < NOON + seconds:
        generator.advance(NOON + seconds)
    return generator, outbox


def test_three_industries_come_with_the_program() -> None:
    assert {"copper", "dairy", "vaccines"} <= set(scenarios())


@pytest.mark.parametrize("scenario", ["copper", "dairy", "vaccines"])
def test_every_event_of_a_fleet_is_valid_and_in_its_devices_scope(scenario: str) -> None:
    plan = load_fleet(scenario, seed=1, start=NOON)
    kinds = set()

    for device in plan.devices:
        scope = plan.cast.scope(device.name)
        for at in range(NOON, NOON + 6 * device.group.every_s, device.group.every_s):
            for event in device.source(at):
                kinds.add(event["bizStep"])
                assert event_problems(event) == []
                assert event["bizStep"] in scope["steps"]

    assert len(kinds) >= 4
    assert len({plan.cast.iss(device.name) for device in plan.devices}) == len(plan.devices) > 100


def test_one_seed_repeats_a_fleet_to_the_message_id() -> None:
    def ids(seed: int) -> list[bytes]:
        plan = load_fleet("vaccines", seed=seed, start=NOON, devices=20)
        outbox = generated(plan, 300)[1]
        return [entry.id for device in plan.devices for entry in outbox.entries(device.name)]

    assert ids(4) == ids(4)
    assert not set(ids(4)) & set(ids(5))


def test_generated_messages_form_chains_under_each_devices_key() -> None:
    plan = load_fleet("dairy", seed=1, start=NOON, devices=30)

    generator, outbox = generated(plan, 900)

    total = 0
    for device in plan.devices:
        prev = None
        for seq, entry in enumerate(outbox.entries(device.name)):
            signed = open_signed(split(entry.raw), device.key.public)
            assert (signed.seq, signed.prev) == (seq, prev)
            prev = signed.id
            total += 1
    assert total == generator.messages > 30


def test_doors_and_days_show_in_a_cold_room() -> None:
    plan = load_fleet("dairy", seed=1, start=NOON)
    room = next(device for device in plan.devices if device.group.kind == "room")

    values = [
        float(room.source(at)[0]["sensorElementList"][0]["sensorReport"][0]["value"])
        for at in range(NOON, NOON + 86_400, 300)
    ]

    night, day = values[120:200], values[:70]  # 22:00 to 4:40, and noon to 17:50
    assert max(day) - max(night) > 1.0
    assert 3.0 < min(values) < max(values) < 15.0


def test_a_truck_drives_there_and_back_at_its_speed() -> None:
    plan = load_fleet("copper", seed=1, start=NOON)
    truck = next(device for device in plan.devices if device.group.kind == "truck")
    points = []
    for at in range(NOON, NOON + 86_400, 180):
        latitude, longitude = truck.source(at)[0]["readPoint"]["id"][4:].split(",")
        points.append((float(latitude), float(longitude)))

    legs = [distance_km(a, b) for a, b in itertools.pairwise(points)]
    assert max(legs) <= 55 * 180 / 3_600 + 0.1
    for city in ("Nanjing", "Shanghai"):
        assert min(distance_km(point, CITIES[city]) for point in points) < 3


def test_devices_of_all_groups_can_be_scaled_to_thousands() -> None:
    begun = time.process_time()

    plan = load_fleet("vaccines", seed=1, start=NOON, devices=3_000)

    assert 2_900 <= len(plan.devices) <= 3_000
    assert time.process_time() - begun < 60


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name = ", "TOML"),
        ("", "at least one group"),
        ("[[group]]\nname='a'\n", "members"),
        ("[[group]]\nname='a'\norg='x'\nkind='room'\ncount=1\nevery_s=1\n", "no org"),
        ("[[group]]\nname='a'\norg='x'\nkind='rocket'\ncount=1\nevery_s=1\n", "kind"),
        ("[[group]]\nname='a'\norg='x'\nkind='room'\ncount='1'\nevery_s=1\n", "count"),
        ("[[group]]\nname='a'\norg='x'\nkind='room'\ncount=1\nevery_s=1\nsurprise=1\n", "members"),
        ("[[place]]\nname='p'\norg='nobody'\n", "organisation"),
        ("[[organisation]]\nname='o'\nprefix='1234567'\nrole='maker'\nname_en=''\nname_zh=''\n", "952"),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_reason(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)

    with pytest.raises(Rejected, match=word) as refused:
        load_fleet(path, seed=1, start=NOON)

    assert refused.value.code == "bad_scenario"


def test_too_many_devices_are_refused() -> None:
    with pytest.raises(Rejected) as refused:
        load_fleet("dairy", seed=1, start=NOON, devices=1_000_000)

    assert refused.value.code == "too_many_devices"


def test_a_fleet_runs_through_a_bad_network_and_goes_on_in_a_second_run(
    tmp_path: Path, service: ReceiptGiver, broker: Broker
) -> None:
    plan = load_fleet("vaccines", seed=1, start=NOON, devices=40)
    service.publics |= {device.key.thumbprint(): device.key.public for device in plan.devices}
    network = BadNetwork(Rates(duplicate=0.1, reorder=0.1, flip=0.02), seed=2, clock=time.monotonic)
    told: list[Progress] = []

    def run(start: int) -> Progress:
        return run_fleet(
            plan, folder=tmp_path, url=broker.url, aud=AUD, receipt_keys=[RECEIPT_KEY.jwk()], start=start,
            duration_s=30, speed=500, messages_max=400, wrap=network.wrap, progress=told.append, drain_s=30,
            resend_s=0.3,
        )  # fmt: skip

    first, second = run(NOON), run(NOON + 86_400)

    assert (first.messages, first.receipts, first.waiting) == (400, 400, 0)
    assert second.messages == 400
    assert len(service.messages) == 800
    assert service.refused == []
    seen = {sha256(raw) for _, raw in service.raw}
    assert len(service.unanswered) == len(network.made.hostile & seen)
    assert "400 messages" in first.line()


def test_a_fleet_without_receipts_holds_its_time_and_keeps_everything(
    tmp_path: Path, service: ReceiptGiver, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "WAITING_MAX", 100)
    service.is_silent = True
    plan = load_fleet("copper", seed=1, start=NOON, devices=10)

    with pytest.raises(Unavailable) as waiting:
        run_fleet(
            plan, folder=tmp_path, url=broker.url, aud=AUD, receipt_keys=[RECEIPT_KEY.jwk()], start=NOON,
            duration_s=1.0, speed=1e6, drain_s=0.2,
        )  # fmt: skip

    assert waiting.value.code == "no_receipt"
    outbox = Outbox(tmp_path / "fleet.db")
    kept = sum(outbox.counts(device.name)["waiting"] for device in plan.devices)
    assert 100 <= kept < 100 + fleets.MESSAGES_PER_ROUND
