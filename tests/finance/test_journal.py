"""The journal balances by construction and by the database's own check, and nothing in it changes."""

from datetime import date

import pytest
import sqlalchemy as sa

from core.errors import Conflict, Rejected
from core.money import Money
from finance.commandlog import row_hash, waiting_audits
from finance.journal import DEPOSITS, INCOME, LOANS, Entry, post, trial_balance
from finance.tables import command_log, entries, postings, settings
from finance.triggers import APPEND_ONLY
from ledger.database import Database, Tx

TODAY = date(2026, 11, 24)


def book(tx: Tx, reference: str = "r1", day: date = TODAY) -> int:
    entry = Entry("draw", reference, {LOANS: Money(100)}, {DEPOSITS: Money(60), INCOME: Money(40)})
    return post(tx, entry, lender="bank", business_date=day, today=TODAY, now=1)


def test_an_entry_is_booked_and_the_trial_balance_is_zero(database: Database) -> None:
    with database.transaction() as tx:
        book(tx)
        books = trial_balance(tx, "bank")

    assert books == {LOANS: Money(100), DEPOSITS: Money(-60), INCOME: Money(-40)}
    assert sum(value.minor for value in books.values()) == 0


@pytest.mark.parametrize(
    ("debits", "credits_", "code"),
    [
        ({LOANS: 100}, {DEPOSITS: 99}, "unbalanced"),
        ({LOANS: 0}, {DEPOSITS: 0}, "bad_amount"),
        ({LOANS: -1}, {DEPOSITS: -1}, "bad_amount"),
        ({LOANS: 1}, {LOANS: 1}, "unbalanced"),
        ({}, {}, "bad_amount"),
    ],
)
def test_what_does_not_balance_is_no_entry(debits: dict[str, int], credits_: dict[str, int], code: str) -> None:
    with pytest.raises(Rejected) as caught:
        Entry("x", "r", {k: Money(v) for k, v in debits.items()}, {k: Money(v) for k, v in credits_.items()})

    assert caught.value.code == code


def unbalanced(database: Database, credit: int) -> None:
    with database.transaction() as tx:
        number = book(tx) + 1
        tx.execute(
            entries.insert().values(
                number=number, lender="bank", kind="x", reference="r2", currency="CNY", business_date=TODAY, at_s=1,
                debit_minor=100, credit_minor=100,
            )
        )  # fmt: skip
        for line, (debit, other) in enumerate(((100, 0), (0, credit)), start=1):
            row = {"entry": number, "line": line, "lines": 2, "account": LOANS}
            tx.execute(postings.insert().values(row | {"debit_minor": debit, "credit_minor": other}))


@pytest.mark.parametrize("credit", [99, 101])
def test_the_database_itself_refuses_an_unbalanced_entry(database: Database, credit: int) -> None:
    with pytest.raises(Conflict, match="unbalanced"):
        unbalanced(database, credit)

    with database.reading() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one() == 0


@pytest.mark.parametrize("table", ["fin_entries", "fin_postings"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET debit_minor = 7", "DELETE FROM {}"])
def test_entries_are_never_changed(database: Database, table: str, statement: str) -> None:
    assert table in APPEND_ONLY
    with database.transaction() as tx:
        book(tx)

    with pytest.raises(Conflict, match="append-only"), database.transaction() as tx:
        tx.execute(sa.text(statement.format(table)))

    with database.reading() as tx:
        assert trial_balance(tx, "bank")[LOANS] == Money(100)


def test_nothing_is_booked_twice_after_today_or_in_a_closed_period(sqlite_database: Database) -> None:
    with sqlite_database.transaction() as tx:
        book(tx)
        tx.execute(settings.insert().values(name="closed_until/bank", value="2026-10-31"))

    with pytest.raises(Conflict, match="constraint"), sqlite_database.transaction() as tx:
        book(tx)
    with pytest.raises(Rejected, match="future_date"), sqlite_database.transaction() as tx:
        book(tx, "r2", date(2026, 11, 25))
    with pytest.raises(Conflict, match="closed_period"), sqlite_database.transaction() as tx:
        book(tx, "r3", date(2026, 10, 31))
    with sqlite_database.transaction() as tx:
        book(tx, "r4", date(2026, 11, 1))


def test_each_command_has_one_row_whose_hash_waits_for_the_log(sqlite_world) -> None:  # type: ignore[no-untyped-def]
    from finance.applications import record_borrower
    from tests.finance.world import MAKER_OF_BANK, OWNER

    world = sqlite_world
    given = {"borrower": OWNER, "controller": "c", "has_account": True, "features": {}, "key": "once"}
    world.do(record_borrower, MAKER_OF_BANK, **given)
    world.do(record_borrower, MAKER_OF_BANK, **given)

    with world.database.reading() as tx:
        rows = tx.execute(sa.select(command_log)).mappings().all()
        assert len(rows) == 1
        assert waiting_audits(tx) == [(rows[0]["number"], row_hash(rows[0]))]
