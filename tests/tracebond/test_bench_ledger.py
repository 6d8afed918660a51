"""``bench ledger`` measures what it says, on small sizes; how fast is never asserted."""

import pytest

from tracebond.bench import ledger


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
