"""A gap made is the gap shown: by the command's list, the device's page and the question for a resend alike."""

import json
from pathlib import Path

import pytest

from api.consoles import device_rows
from ingest.resend import Resender
from ledger.database import Database
from ledger.followers import run_all
from ledger.state import views
from simulators.devices import Device, DeviceConfig
from simulators.outbox import Outbox
from tests.ingest.rig import RECEIPT_KEY, Rig
from tests.ledger.world import AUD, MAKER, NOW, seen
from tracebond.devices import listed

BAD = {"bizStep": "no such step"}


@pytest.fixture
def rig(database: Database) -> Rig:
    return Rig(database)


def tell(rig: Rig, *, count: int, refused: set[int], lost: set[int]) -> None:
    """A device signs so many messages; some are refused for good, some get lost on the way."""
    config = DeviceConfig.of(
        "line-1", aud=AUD, org=MAKER, iss=rig.world.iss("line-1"), receipt_keys=(RECEIPT_KEY.jwk(),)
    )
    device = Device(config, rig.world.devices["line-1"], Outbox(Path(":memory:")), resend_s=10_000)
    for number in range(count):
        message = device.record([seen(f"A{number}") | (BAD if number in refused else {})], NOW)
        if number not in lost:
            rig.source.send(rig.topic("line-1"), message.raw)
    rig.run()
    assert len(rig.logged("refusal")) == len(refused - lost)
    rig.world.step()
    run_all(rig.database, views())
    rig.source.published = []


def told(rig: Rig) -> tuple[list[tuple[int, int]], ...]:
    """The gaps by the command's list, by the device's page, and as asked for."""
    with rig.database.reading() as tx:
        [row] = [one for one in listed(tx) if one.key.iss == rig.world.iss("line-1")]
        [key] = device_rows.keys_of_device(tx, MAKER, rig.world.iss("line-1"))
    resender = Resender(rig.database, rig.source.publish, after_s=1)
    resender.step(0)
    resender.step(2_000)
    asked = [json.loads(payload) for topic, payload in rig.source.published if topic.endswith("/commands")]
    return list(row.gaps), [(gap.first, gap.last) for gap in key.gaps], [(one["from"], one["to"]) for one in asked]


def test_a_gap_is_shown_as_made_and_refused_places_are_none(rig: Rig) -> None:
    tell(rig, count=12, refused={1, 4, 5, 9}, lost={3, 6, 7})

    with rig.database.reading() as tx:
        device = device_rows.device(tx, MAKER, rig.world.iss("line-1"))
        [key] = device_rows.keys_of_device(tx, MAKER, rig.world.iss("line-1"))
    assert told(rig) == ([(3, 3), (6, 7)],) * 3
    # Of twelve places four hold a refused message and three nothing.
    assert (device.missing, device.messages, key.messages) == (3, 5, 5)


def test_refusals_alone_are_no_gap_anywhere(rig: Rig) -> None:
    tell(rig, count=6, refused={0, 2, 3, 5}, lost=set())

    with rig.database.reading() as tx:
        device = device_rows.device(tx, MAKER, rig.world.iss("line-1"))
    assert told(rig) == ([],) * 3
    assert (device.missing, device.messages) == (0, 2)
