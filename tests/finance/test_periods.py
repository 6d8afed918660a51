"""Books are closed by two persons of the bank, over the figures that both saw, and stay closed."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import Conflict, TracebondError
from core.money import Money
from finance.commandlog import row_hash, waiting_audits
from finance.journal import DEPOSITS, LOANS, Entry, closed_until, post
from finance.periods import close_period, propose_close_period
from finance.policy import load_policy
from finance.tables import command_log
from ledger.database import Database, Tx
from tests.finance.test_eod import DAY, NOW, lend, nights
from tests.finance.world import BANK, CHECKER, MAKER_OF_BANK, OTHER_BANK, actor

UNTIL = DAY + timedelta(days=1)


class Ctx:
    policy = load_policy()


def do(database: Database, command: Any, who: Any, key: str, **arguments: Any) -> dict[str, Any]:
    with database.transaction() as tx:
        done: dict[str, Any] = command(tx, Ctx(), who, key=key, reason="month end", now=NOW, **arguments)
    return done


def refused(code: str, *arguments: Any, **named: Any) -> None:
    with pytest.raises(TracebondError) as caught:
        do(*arguments, **named)
    assert caught.value.code == code


def proposed(database: Database, key: str = "ask", until: str = UNTIL.isoformat()) -> dict[str, Any]:
    asked = do(database, propose_close_period, MAKER_OF_BANK, key, until=until)
    return {"until": until, "request": asked["request"], "proposal": asked["proposal"]}


def late(tx: Tx, lender: str = BANK, reference: str = "late") -> None:
    entry = Entry("correction", reference, {LOANS: Money(1)}, {DEPOSITS: Money(1)})
    post(tx, entry, lender=lender, business_date=DAY, today=DAY + timedelta(days=3), now=NOW)


def test_nothing_is_booked_into_a_closed_period(database: Database) -> None:
    lend(database, "a", principal=3_000_000, days=90)
    nights(database, 3)

    done = do(database, close_period, CHECKER, "close", **proposed(database))

    assert done["closed_until"] == UNTIL.isoformat()
    with pytest.raises(Conflict, match="closed_period"), database.transaction() as tx:
        late(tx)
    with database.transaction() as tx:
        # Another bank's books are its own.
        late(tx, OTHER_BANK)
        assert (closed_until(tx, BANK), closed_until(tx, OTHER_BANK)) == (UNTIL, None)
        rows = [row for row in tx.execute(sa.select(command_log)).mappings() if row["name"] == "close_period"]
        assert len(rows) == 1
        assert (rows[0]["number"], row_hash(dict(rows[0]))) in waiting_audits(tx)


def test_nobody_closes_alone_or_over_other_figures_or_twice(sqlite_database: Database) -> None:
    database = sqlite_database
    lend(database, "a", principal=3_000_000, days=90)
    nights(database, 3)
    both = actor(BANK, MAKER_OF_BANK.person, "bank_maker", "bank_checker")
    asked = proposed(database)

    refused("own_command", database, close_period, both, "k1", **asked)
    refused("not_allowed", database, close_period, MAKER_OF_BANK, "k2", **asked)
    refused("no_such_proposal", database, close_period, CHECKER, "k3", **(asked | {"request": "other"}))
    refused("no_such_proposal", database, close_period, actor(OTHER_BANK, "c", "bank_checker"), "k4", **asked)
    for until, code in (("2026-03-05", "future_date"), ("2026-02-30", "bad_date")):
        refused(code, database, propose_close_period, MAKER_OF_BANK, f"p{until}", until=until)
    with database.transaction() as tx:
        # As something that was booked into the period after it was proposed.
        late(tx)
        late(tx, reference="late 2")
    refused("books_differ", database, close_period, CHECKER, "k5", **asked)
    with database.transaction() as tx:
        for reference in ("back", "back 2"):
            entry = Entry("correction", reference, {DEPOSITS: Money(1)}, {LOANS: Money(1)})
            post(tx, entry, lender=BANK, business_date=DAY, today=DAY + timedelta(days=3), now=NOW)
    refused("changed_since_seen", database, close_period, CHECKER, "k6", **asked)

    asked = proposed(database, "ask again")
    do(database, close_period, CHECKER, "close", **asked)

    assert do(database, close_period, CHECKER, "close", **asked)["closed_until"] == UNTIL.isoformat()
    refused("closed_period", database, propose_close_period, MAKER_OF_BANK, "third", until=UNTIL.isoformat())
