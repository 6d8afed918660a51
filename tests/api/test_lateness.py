"""A clock that drifts, and what waited on the way, are shown; no rule holds them against the goods."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from api.identity import Role
from ledger import findings
from ledger.database import Database
from tests.api.device_rig import MAKER, Rig, make_rig
from tests.ledger.test_findings import BEIJING, PLANT_ID, SHANGHAI, STORE_ID, made
from tests.ledger.world import NOW, STORE, seen, sgtin_id

HTML = {"accept": "text/html"}
JSON = {"accept": "application/json"}
PATH = sgtin_id(1).removeprefix("https://id.gs1.org")
HOUR = 3_600


@pytest.fixture
def rig(database: Database, tmp_path: Path) -> Rig:
    """Plant and store have coordinates: whoever took times of receipt for times of events would find leaps."""
    rig = make_rig(database, tmp_path)
    rig.world.master(MAKER, PLANT_ID, "place", BEIJING)
    rig.world.master(MAKER, STORE_ID, "place", SHANGHAI)
    rig.step()
    return rig


def tell(rig: Rig, *events: dict[str, Any], received: int, signed: int | None = None) -> None:
    """Messages of one event each, signed by the device's clock and received by ours."""
    for event in events:
        rig.world.now = received if signed is None else signed
        message = rig.world.message("line-1", [event])
        rig.world.now = received
        rig.world.admit(message)
    rig.step()
    findings.run_all(rig.database)
    rig.clock.now_ms = rig.world.now * 1_000


def shown_device(rig: Rig) -> tuple[int, str, str]:
    """The clock's deviation, and the device's own page and the list as the engineer reads them."""
    client = rig.engineer()
    kid = rig.world.devices["line-1"].thumbprint()
    one = client.get(f"/factory/devices/{kid}", headers=JSON).json()["device"]
    page = client.get(f"/factory/devices/{kid}?lang=en", headers=HTML).text
    return one["told"]["skew_s"], page, client.get("/factory/devices?lang=en", headers=HTML).text


def read(rig: Rig) -> dict[str, Any]:
    regulator = rig.signed_in(rig.user("inspector", Role.REGULATOR))
    return dict(regulator.get(f"/items/{quote(sgtin_id(1), safe='')}").json())


def consumer_page(rig: Rig) -> str:
    return str(rig.client(Accept="text/html").get(PATH, params={"lang": "en"}).text)


def test_what_arrived_hours_later_is_shown_with_both_times_and_finds_nothing(rig: Rig) -> None:
    tell(rig, made(1, at=NOW), seen(1, step="storing", at=NOW + 2 * HOUR, place=STORE), received=NOW + 9 * HOUR)

    item, page = read(rig), consumer_page(rig)
    steps = [(one["time"], one["received_ms"]) for one in item["journey"]]

    assert {received for _, received in steps} == {(NOW + 9 * HOUR) * 1_000}
    assert sorted(_seconds(time) for time, _ in steps) == [NOW, NOW + 2 * HOUR]
    assert page.count("late: received") == 2
    assert item["findings"] == []


@pytest.mark.parametrize(("ahead_s", "words"), [(-12 * 60, "12 min slow or late"), (4 * 60, "4 min fast")])
def test_a_clock_that_drifts_is_shown_at_the_device_and_finds_nothing(rig: Rig, ahead_s: int, words: str) -> None:
    start, now = NOW + HOUR, NOW + 3 * HOUR
    tell(rig, made(1, at=start + ahead_s), received=start, signed=start + ahead_s)
    tell(rig, seen(1, step="storing", at=now + ahead_s, place=STORE), received=now, signed=now + ahead_s)

    skew_s, page, listed = shown_device(rig)

    assert skew_s == ahead_s
    assert words in page
    assert words in listed
    assert read(rig)["findings"] == []


def test_a_clock_in_step_is_not_called_late(rig: Rig) -> None:
    tell(rig, made(1, at=NOW), seen(1, step="storing", at=NOW + HOUR), received=NOW + HOUR)

    skew_s, page, _ = shown_device(rig)

    assert skew_s == 0
    assert "slow or late" not in page
    assert "late: received" not in consumer_page(rig)


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
