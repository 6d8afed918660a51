"""``bench ingest`` brings real messages through the whole system, on small sizes; how fast is never asserted."""

import pytest

from core.canonical import b64u
from core.message import open_message, split
from tracebond.bench import ingest
from tracebond.bench.ingest_load import DEVICES, Fleet, percentile, slope


@pytest.mark.unit
def test_the_fleet_signs_what_a_worker_takes() -> None:
    fleet = Fleet("bench.example")
    fleet.passwords = dict.fromkeys(fleet.names, "")

    lines = fleet.sign(DEVICES * 2, 3)

    messages = [open_message(split(raw), fleet.keys[0].public) for raw in lines[0].payloads]
    assert [message.signed.seq for message in messages] == [0, 1]
    assert messages[1].signed.prev == messages[0].id
    assert [len(message.events) for message in messages] == [3, 3]
    assert len({b64u(split(raw).id) for line in lines for raw in line.payloads}) == DEVICES * 2


@pytest.mark.unit
def test_percentile_and_slope_are_those_of_the_textbook() -> None:
    assert percentile(list(range(1, 101)), 0.99) == 100
    assert percentile(list(range(1, 101)), 0.50) == 51
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)


@pytest.mark.timeout(900)
def test_bench_ingest_measures_every_figure_beside_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MESSAGES_QUICK", 80)
    monkeypatch.setattr(ingest, "NAIVE_QUICK", 8)
    monkeypatch.setattr(ingest, "PACE", 100)
    monkeypatch.setattr(ingest, "PACE_QUICK_S", 1.0)

    rows = ingest.run(True, lambda text: None)

    names = [row.name for row in rows]
    for word in (
        "alone: broker", "alone: P-256", "alone: row", "bare pipeline, 1 event", "1 event a message", "10 events",
        "50 events", "two workers", "two workers against one", "receipt p50", "receipt p99", "signed checkpoint p99",
        "without a receipt",
    ):  # fmt: skip
        assert any(word in name for name in names), word
    shares = [row for row in rows if row.name.startswith("whole system, one worker")]
    assert all(row.value > 0 and row.ceiling and row.naive and row.target for row in shares)
    assert [row.target for row in shares if "0 events" in row.name] == [10_000, 15_000]
    assert next(row for row in rows if row.is_share_target).target == 0.40
    assert next(row for row in rows if "without a receipt" in row.name).value == 0
