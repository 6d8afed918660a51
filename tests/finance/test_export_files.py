"""Exports as a spreadsheet program reads them: exact amounts, real dates, frozen heads, no formulas."""

import csv
import io
from datetime import date, datetime
from decimal import Decimal

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Rejected
from core.money import Money
from finance.eod import end_of_day, put
from finance.exports import KINDS, export
from finance.journal import LOANS, trial_balance
from finance.policy import load_policy
from finance.sheets import FORMULA_STARTS, Cell, Sheet, csv_text, write_csv, write_xlsx
from ledger.database import Database
from tests.finance.test_eod import DAY, NOW, lend
from tests.finance.world import BANK, OTHER_BANK

MADE = datetime(2026, 11, 25, 8)


def book(*rows: list[Cell]) -> openpyxl.worksheet.worksheet.Worksheet:
    file = io.BytesIO()
    write_xlsx([Sheet("one", ["a", "b", "c"], rows)], file, title="t", made_at=MADE)
    return openpyxl.load_workbook(io.BytesIO(file.getvalue())).active


def text_of(*rows: list[Cell]) -> str:
    file = io.BytesIO()
    write_csv(Sheet("one", ["a"], rows), file)
    return file.getvalue().decode("utf-8-sig")


def exported(database: Database, kind: str, form: str, lender: str = BANK) -> bytes:
    file = io.BytesIO()
    with database.reading() as tx:
        export(tx, kind, lender, form=form, file=file, now=NOW)
    return file.getvalue()


def rows_of(database: Database, kind: str, lender: str = BANK) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(database, kind, "csv", lender).decode("utf-8-sig"))))


@pytest.mark.unit
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_text_becomes_a_formula(start: str) -> None:
    evil = f'{start}cmd|"/c calc"!A1'

    sheet = book([evil, "plain", None])
    read = list(csv.reader(io.StringIO(text_of([evil]), newline="")))[1]

    assert start in FORMULA_STARTS
    assert sheet["A2"].data_type == "s"
    assert sheet["A2"].quotePrefix
    assert not sheet["B2"].quotePrefix
    assert read == [f"'{evil}"]


@pytest.mark.unit
@given(st.integers(-(10**15) + 1, 10**15 - 1))
@settings(max_examples=60, deadline=None)
def test_an_amount_up_to_fifteen_digits_is_the_number_that_it_was(minor: int) -> None:
    cell = book([Money(minor), None, None])["A2"]

    assert cell.data_type == "n"
    # The shortest decimal that names the stored number is the amount itself.
    assert Decimal(repr(cell.value)) == Decimal(minor) / 100
    assert cell.number_format == "#,##0.00"


@pytest.mark.unit
def test_a_longer_amount_stays_text_and_keeps_its_last_fen() -> None:
    sheet = book([Money(10**15 - 1), Money(10**15), Money(-(10**15) - 1)])

    assert [cell.data_type for cell in sheet[2]] == ["n", "s", "s"]
    assert [cell.value for cell in sheet[2]][1:] == ["10000000000000.00", "-10000000000000.01"]
    assert csv_text(Money(-(10**15) - 1)) == "-10000000000000.01"


@pytest.mark.unit
def test_dates_are_dates_and_heads_are_frozen_and_filtered() -> None:
    sheet = book([date(2026, 2, 28), datetime(2026, 2, 28, 9, 30), 7], [None, None, 8])

    assert (sheet["A2"].value, sheet["A2"].number_format) == (datetime(2026, 2, 28), "yyyy-mm-dd")
    assert sheet["B2"].value == datetime(2026, 2, 28, 9, 30)
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", "A1:C3")


@pytest.mark.unit
def test_a_text_that_a_cell_cannot_hold_says_that_it_was_cut() -> None:
    long = "x" * 40_000

    assert book([long, None, None])["A2"].value.endswith("[cut here; the CSV file has the whole text]")
    assert long in text_of([long])


def test_every_export_opens_in_both_forms(database: Database) -> None:
    lend(database, "a", principal=3_000_000, days=90)
    with database.transaction() as tx:
        put(tx, "business_date", DAY.isoformat())
    end_of_day(database, load_policy(), DAY, now=NOW)

    for kind in KINDS:
        sheet = openpyxl.load_workbook(io.BytesIO(exported(database, kind, "xlsx"))).active
        rows = rows_of(database, kind)
        assert sheet.max_row == len(rows) + 1, kind
        assert sheet.freeze_panes == "A2"
    assert rows_of(database, "loans")[0]["Principal (CNY)"] == "30000.00"
    assert [row["Due"] for row in rows_of(database, "schedule")] == ["2026-05-31"]
    provided = {row["Class"]: row["Provision (CNY)"] for row in rows_of(database, "provisions")}
    assert Decimal(provided["pass"]) == 300


def test_the_exported_journal_balances_and_sums_to_the_trial_balance(database: Database) -> None:
    lend(database, "a", principal=9_007_199_254_740_993, days=90)
    lend(database, "b", principal=1, days=90)

    journal, trial = rows_of(database, "journal"), rows_of(database, "trial-balance")

    debits = sum(Decimal(row["Debit (CNY)"]) for row in journal)
    credit_sum = sum(Decimal(row["Credit (CNY)"]) for row in journal)
    assert debits == credit_sum == Decimal("90071992547409.94")
    assert sum(Decimal(row["Balance (CNY)"]) for row in trial) == 0
    with database.reading() as tx:
        assert trial_balance(tx, BANK)[LOANS].text() == "90071992547409.94"
    assert {row["Account"]: row["Balance (CNY)"] for row in trial}[LOANS] == "90071992547409.94"


def test_a_bank_exports_nothing_of_another(database: Database) -> None:
    lend(database, "a", principal=3_000_000, days=90)

    assert all(rows_of(database, kind, OTHER_BANK) == [] for kind in KINDS)
    with pytest.raises(Rejected, match="unknown_export"):
        exported(database, "salaries", "csv")
    with pytest.raises(Rejected, match="unknown_format"):
        exported(database, "loans", "pdf")
