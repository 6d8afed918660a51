"""A capture that dies half-way leaves all of its events or none, and its job goes on at the next start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from ledger.database import Database
from ledger.tables import messages
from tests.api.capture_rig import document, make_rig, make_worker
from tests.ledger.world import seen

ROOT = Path(__file__).parents[2]
AT = 1_794_000_000
EVENTS = 150


@pytest.mark.parametrize(
    ("point", "is_stored"), [("before_commit", False), ("in_commit", False), ("after_commit", True)]
)
def test_a_killed_capture_leaves_all_or_nothing_and_resumes(
    database: Database, database_url: str, point: str, is_stored: bool
) -> None:
    rig = make_rig(database)
    caller = rig.partner("dairy")
    given = document(*(seen(number, at=AT + number) for number in range(EVENTS)))
    place = caller.post(given).headers["Location"]

    dead = subprocess.run(
        [sys.executable, "-m", "tests.api.capture_process", database_url, point],
        cwd=ROOT, capture_output=True, timeout=120, check=False,
    )  # fmt: skip

    assert dead.returncode == -9, dead.stderr.decode()
    after_crash = caller.client.get(place).json()
    assert after_crash["running"] is not is_stored
    assert (stored_events(database) == EVENTS) is is_stored
    assert stored_events(database) in (0, EVENTS)

    # The start after the crash is the normal start.
    worker = make_worker(database)[1]
    while worker.run_once():
        pass

    job = caller.client.get(place).json()
    assert (job["running"], job["success"]) == (False, True)
    assert [result["status"] for result in job["results"]] == ["accepted"] * EVENTS
    assert stored_events(database) == EVENTS
    assert chain(database) == list(range(len(job["receipts"])))


def test_a_job_that_two_workers_take_counts_once(sqlite_database: Database) -> None:
    rig = make_rig(sqlite_database)
    place = rig.partner("dairy").post(document(seen("A", at=AT))).headers["Location"]
    done: list[bool] = []

    def other_worker_first(point: str) -> None:
        if point == "before_commit" and not done:
            done.append(True)
            rig.work()

    late = make_worker(sqlite_database, at=other_worker_first)[1]

    late.run_once()

    assert done
    assert stored_events(sqlite_database) == 1
    assert chain(sqlite_database) == [0]
    assert place


def test_while_a_brake_is_on_jobs_wait_and_nothing_is_lost(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ["The disk is nearly full."]
    monkeypatch.setattr("api.epcis.worker._HELD_S", 0.0)
    rig = make_rig(sqlite_database, brakes=[lambda: held[0] if held else None])
    caller = rig.partner("dairy")
    place = caller.post(document(seen("A", at=AT))).headers["Location"]

    rig.work()
    assert caller.client.get(place).json()["running"] is True
    assert caller.event(seen("B", at=AT)).status_code == 503
    held.clear()
    rig.work()

    assert json.loads(caller.client.get(place).text)["success"] is True


def stored_events(database: Database) -> int:
    with database.reading() as tx:
        return int(tx.execute(sa.select(sa.func.coalesce(sa.func.sum(messages.c.event_count), 0))).scalar_one())


def chain(database: Database) -> list[int]:
    with database.reading() as tx:
        return list(tx.execute(sa.select(messages.c.seq).order_by(messages.c.seq)).scalars())
