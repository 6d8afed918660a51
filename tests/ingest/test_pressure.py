"""Brakes: intake stops before a promise would be broken."""

from pathlib import Path

from ingest.pressure import backlog_brake, disk_brake
from tests.ingest.rig import Rig
from tests.ledger.world import seen


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
