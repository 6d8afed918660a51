"""The supervisor's report against sums by hand over two banks."""

from typing import Any

import pytest

from core.errors import Rejected
from core.money import Money
from finance.commandlog import log_refusal
from finance.eod import end_of_day, put
from finance.model import AlreadyPledged
from finance.policy import load_policy
from finance.reports import Part, Window, credit_report, part_of
from finance.tables import applications, facilities, loans, margin_calls, pledges
from ledger.database import Database
from tests.finance.test_eod import DAY, NOW, lend
from tests.finance.world import BANK, BORROWER, MAKER, MAKER_OF_BANK, OWNER

WINDOW = Window(NOW - 100, NOW + 100)


def report(database: Database, window: Window = WINDOW) -> dict[str, Part]:
    with database.reading() as tx:
        return {part.name: part for part in credit_report(tx, window)}


def rows(part: Part, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in part.rows]


def secure(database: Database, name: str, *lines: tuple[str, str, str]) -> None:
    """A decision with (category, warehouse, net) lines under a live pledge."""
    import json

    inputs = {"lines": [{"id": str(n), "category": c, "warehouse": w} for n, (c, w, _) in enumerate(lines)]}
    decided = {"lines": [{"id": str(n), "net": net} for n, (_, _, net) in enumerate(lines)]}
    with database.transaction() as tx:
        tx.execute(
            applications.insert().values(
                id=name, lender=BANK, borrower=OWNER, receipt=name.encode(), amount=1, tenor_days=90, purpose="x",
                maker="m", state="CONTRACTED", decision=json.dumps({"inputs": inputs, "decision": decided}),
                terms="{}", terms_hash=b"x", created_s=NOW, expires_s=NOW,
            )
        )  # fmt: skip
        tx.execute(
            pledges.insert().values(
                id=f"{name}-1", facility=name, lender=BANK, receipt=name.encode(), terms_hash=b"x", nonce=0,
                deadline_s=NOW, state="ACTIVE", note="", rank=1,
            )
        )  # fmt: skip


def test_exposures_provisions_and_concentration_are_sums_by_hand(database: Database) -> None:
    lend(database, "a", principal=3_000_000, days=90)
    lend(database, "b", principal=1_000_000, days=90, borrower=MAKER)
    secure(database, "a", ("rice", "north", "100.00"), ("copper", "south", "50.00"))
    secure(database, "b", ("rice", "north", "50.00"))
    with database.transaction() as tx:
        tx.execute(loans.update().where(loans.c.id == "b-L1").values({"class": "loss", "suspended": 5}))
        put(tx, "business_date", DAY.isoformat())
    before = report(database)["exposures"]
    end_of_day(database, load_policy(), DAY, now=NOW)

    found = report(database)

    assert rows(before, "lender", "class", "loans", "balance", "exposure") == [
        (BANK, "pass", 1, Money(3_000_000), Money(3_000_000)), (BANK, "loss", 1, Money(1_000_000), Money(1_000_005)),
    ]  # fmt: skip
    # The night judges both loans by their days again: 40,000.00 at 1 %.
    assert rows(found["provisions"], "class", "rate", "provision") == [("pass", "1", Money(40_000))]
    by = {(row["by"], row["name"]): (row["amount"], row["share"]) for row in found["concentration"].rows}
    # A day's interest at 4.35 %: 3.62 (3.625 half even) and 1.21.
    assert by["borrower", OWNER] == (Money(3_000_362), "75.00")
    assert by["borrower", MAKER] == (Money(1_000_126), "25.00")
    assert by["category", "rice"] == (Money(15_000), "75.00")
    assert by["warehouse", "south"] == (Money(5_000), "25.00")


def test_calls_and_freezes_are_listed_by_bank(sqlite_database: Database) -> None:
    lend(sqlite_database, "a", principal=3_000_000, days=90)
    lend(sqlite_database, "b", principal=1_000_000, days=90)
    with sqlite_database.transaction() as tx:
        tx.execute(facilities.update().where(facilities.c.id == "a").values(state="FROZEN"))
        for number, state in enumerate(("CURED", "CURED", "OPEN")):
            tx.execute(
                margin_calls.insert().values(
                    id=f"c{number}", facility="a" if number else "b", version=1, amount=100 + number, opened=DAY,
                    due=DAY, state=state, base="{}",
                )
            )  # fmt: skip

    found = report(sqlite_database)

    assert rows(found["freezes"], "facility", "state", "exposure") == [("a", "FROZEN", Money(3_000_000))]
    assert rows(found["margin_calls"], "state", "calls", "amount", "earliest_due") == [
        ("CURED", 2, Money(201), DAY), ("OPEN", 1, Money(102), DAY),
    ]  # fmt: skip


def test_refused_double_pledges_are_counted_in_their_window(sqlite_database: Database) -> None:
    for at, who in ((NOW, BORROWER), (NOW + 5, BORROWER), (NOW + 100, BORROWER), (NOW, MAKER_OF_BANK)):
        log_refusal(sqlite_database, name="submit_application", actor=who, error=AlreadyPledged(), now=at)
    log_refusal(sqlite_database, name="draw", actor=BORROWER, error=Rejected("x", code="bad_amount"), now=NOW)

    found = report(sqlite_database)["refused"]

    assert rows(found, "org", "command", "attempts") == [
        (OWNER, "submit_application", 2), (BANK, "submit_application", 1),
    ]  # fmt: skip
    with pytest.raises(Rejected, match="unknown_export"):
        part_of([found], "salaries")
