"""Nights and the reconciler leave rows in the command log like any person (V10)."""

import hashlib
import json
from base64 import urlsafe_b64encode
from datetime import timedelta

import pytest

from finance import eod
from finance.tables import audit_outbox, command_log
from ledger.database import Database
from tests.finance.test_credit import pledged
from tests.finance.test_eod import DAY, NOW, POLICY, lend, nights
from tests.finance.world import BANK, FinanceWorld


def log(database: Database, name: str) -> list[tuple[str, dict[str, object], dict[str, object]]]:
    with database.reading() as tx:
        rows = tx.execute(command_log.select().where(command_log.c.name == name).order_by(command_log.c.number)).all()
        waiting = {bytes(row.row_hash) for row in tx.execute(audit_outbox.select())}
    assert all(bytes(row.row_hash) in waiting for row in rows)
    return [(row.org, json.loads(row.body), json.loads(row.result)) for row in rows]


def test_a_night_is_a_row_for_each_part_and_one_for_its_end(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eod, "CHUNK", 2)
    for name in ("a", "b", "c"):
        lend(sqlite_database, name, principal=1_000_000, days=1 if name == "a" else 90)
    nights(sqlite_database, 2)

    rows = log(sqlite_database, "end_of_day")

    first, second = (rows[place : place + 3] for place in (0, 3))
    assert [(org, body["step"]) for org, body, _ in first] == [(BANK, "grow"), (BANK, "grow"), ("tracebond", "close")]
    assert [(body["first"], body["last"]) for _, body, _ in first[:2]] == [("a-L1", "b-L1"), ("c-L1", "c-L1")]
    assert [result.get("moved") for _, _, result in first + second] == [0, 0, None, 1, 0, None]
    # The hash binds which loans moved: RFC 8785 of [[id, before, after], ...].
    moved = hashlib.sha256(b'[["a-L1","ACTIVE","OVERDUE"]]').digest()
    assert second[0][2]["moved_hash"] == urlsafe_b64encode(moved).rstrip(b"=").decode()
    assert second[2][2]["next"] == (DAY + timedelta(days=2)).isoformat()


def test_a_night_that_is_ended_twice_leaves_no_second_row(sqlite_database: Database) -> None:
    lend(sqlite_database, "a", principal=1_000_000, days=90)
    nights(sqlite_database, 1)

    eod.end_of_day(sqlite_database, POLICY, DAY, now=NOW + 5)

    assert len(log(sqlite_database, "end_of_day")) == 2


def test_what_became_final_on_the_chain_is_one_row_each(sqlite_world: FinanceWorld) -> None:
    offer = pledged(sqlite_world)
    sqlite_world.settle()

    rows = log(sqlite_world.database, "reconcile")

    assert [(body["from"], [move[0::2] for move in result["moved"]]) for _, body, result in rows] == [  # type: ignore[attr-defined]
        ("REGISTERING", [["receipt", "SEALED"]]),
        ("CHAIN_PENDING", [["pledge", "ACTIVE"], ["facility", "ACTIVE"]]),
    ]  # fmt: skip
    assert rows[1][1]["subject"] == offer["pledge"]
