"""Brakes and back-pressure: intake stops before a promise would be broken, and what is full or slow loses nothing."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.errors import Unavailable
from core.message import split
from ingest.pressure import CHAIN_SHARE, backlog_brake, chain_brake, disk_brake
from ledger.chain_tx_tables import anchors, deployments
from ledger.database import raw
from tests.ingest.rig import Rig
from tests.ledger.world import seen

HEARTBEAT_S = 86_400


def test_nearly_full_disk_stops_intake(tmp_path: Path) -> None:
    assert disk_brake(tmp_path, free_bytes_min=1)() is None
    assert "MiB free" in str(disk_brake(tmp_path, free_bytes_min=2**62)())


def test_backlog_of_the_sequencer_stops_intake_until_it_is_worked_off(small_rig: Rig) -> None:
    rig = small_rig
    rig.worker = rig.new_worker(brakes=[backlog_brake(rig.database, waiting_max=2)])
    for number in range(3):
        rig.send("line-1", rig.sign("line-1", seen(number)))
    rig.run()
    rig.send("line-1", rig.sign("line-1", seen("more")))

    rig.monotonic += 2
    assert rig.worker.run_once() == 0
    assert rig.worker.held == "3 messages wait for the sequencer."
    rig.world.step()
    rig.run()

    assert len(rig.stored()) == 4


def test_full_disk_is_waited_for_and_loses_nothing(small_rig: Rig) -> None:
    rig = small_rig
    publishes = [rig.sign("line-1", seen(number)) for number in range(40)]
    for publish in publishes:
        rig.send("line-1", publish)
    with rig.database.transaction() as tx:
        pages = raw(tx).execute("PRAGMA page_count").fetchone()[0]
        # The very answer of a full disk (SQLITE_FULL), by the engine's own quota.
        raw(tx).execute(f"PRAGMA max_page_count={pages}")

    for _ in range(3):
        rig.monotonic += 2
        with pytest.raises(Unavailable, match="full"):
            rig.worker.run_once()
    assert (rig.stored(), len(rig.source.unacknowledged), rig.receipts()) == ([], 40, [])
    with rig.database.transaction() as tx:
        raw(tx).execute("PRAGMA max_page_count=1000000")
    rig.worker.run_once()

    assert rig.stored() == [split(publish).id for publish in publishes]
    assert (rig.source.unacknowledged, len(rig.receipts())) == ({}, 40)


def test_slow_database_makes_the_worker_wait_and_nothing_is_acknowledged_meanwhile(rig: Rig) -> None:
    # One writer holds what the worker needs, for as long as the test says.
    holds, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with rig.database.transaction() as tx:
            tx.execute(sa.text("UPDATE counters SET value = value WHERE name = 'register'"))
            holds.set()
            let_go.wait(20)

    holder = threading.Thread(target=hold)
    rig.send("line-1", rig.sign("line-1", seen("A")))
    rig.worker.run_once()
    holder.start()
    holds.wait(20)
    rig.send("line-1", rig.sign("line-1", seen("B")))
    worker = threading.Thread(target=rig.worker.run_once)
    worker.start()
    worker.join(0.5)
    assert (worker.is_alive(), len(rig.source.unacknowledged)) == (True, 1)
    let_go.set()
    worker.join(20)
    holder.join(20)

    assert (len(rig.stored()), rig.source.unacknowledged) == (2, {})


def test_chain_that_is_away_for_most_of_a_heartbeat_stops_intake_until_it_anchors(small_rig: Rig) -> None:
    rig = small_rig
    brake = chain_brake(rig.database, lambda: rig.clock_ms, heartbeat_s=HEARTBEAT_S)
    rig.worker = rig.new_worker(brakes=[brake])
    rig.send("line-1", rig.sign("line-1", seen("A")))
    rig.run()
    rig.world.step()
    assert brake() is None

    rig.clock_ms += int(HEARTBEAT_S * CHAIN_SHARE * 1000) + 2_000_000
    rig.monotonic += 2
    rig.send("line-1", rig.sign("line-1", seen("B")))
    assert rig.worker.run_once() == 0
    assert "anchor on the chain" in str(rig.worker.held)
    anchored(rig)
    rig.monotonic += 2
    rig.run()

    assert (rig.worker.held, len(rig.stored())) == (None, 2)


def anchored(rig: Rig) -> None:
    """As if the chain had answered: everything is under a final anchor."""
    with rig.database.transaction() as tx:
        size = tx.execute(sa.text("SELECT max(size) FROM checkpoints")).scalar_one()
        place = {"chain_id": 1, "genesis_hash": "0x", "log_contract": "0x", "description": "{}", "is_current": True}
        tx.execute(deployments.insert().values(id=1, recorded_ms=0, **place))
        row = {"prev_size": 0, "size": size, "root": b"r", "proof": b"", "frontier": b"", "state": "final"}
        tx.execute(anchors.insert().values(deployment=1, created_ms=0, **row))
