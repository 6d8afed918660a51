"""``bench ledger`` and ``bench ingest`` measure what they say, on small sizes; how fast is never asserted."""

import pytest

from tracebond.bench import ingest, ledger


def test_bench_ledger_measures_every_figure_beside_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEYS_QUICK", 1_500)
    monkeypatch.setattr(ledger, "BATCH", 200)
    monkeypatch.setattr(ledger, "BATCHES_QUICK", 1)
    said: list[str] = []

    rows = ledger.run(True, said.append)

    names = " | ".join(row.name for row in rows)
    for word in (
        "SHA-256",
        "sequencer at",
        "opening at",
        "memory of",
        "bundle of",
        "inclusion",
        "consistency",
        "tiles",
    ):
        assert word in names
    assert all(row.value > 0 for row in rows if "further event" not in row.name)
    passes = [row for row in rows if row.name.startswith("sequencer at")]
    assert all(row.ceiling and row.naive and row.target for row in passes)
    assert any("ten million" in text for text in said)


def test_bench_ingest_brings_every_message_through_a_real_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MESSAGES_QUICK", 100)
    monkeypatch.setattr(ingest, "NAIVE", 16)

    rows = ingest.run(True, lambda text: None)

    assert all(row.value > 0 for row in rows)
    assert [row.target for row in rows if row.name.startswith("worker")] == [5_000, 0.40, 10_000, 15_000]
    assert next(row for row in rows if row.is_share_target).ceiling
