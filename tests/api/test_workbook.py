"""Spreadsheets: real types, frozen heads, filters, and no cell that becomes a formula."""

import csv
import io
from datetime import datetime
from decimal import Decimal
from xml.etree import ElementTree
from zipfile import ZipFile

import openpyxl
import pytest

from api.workbook import Sheet, csv_file, moment, workbook

pytestmark = pytest.mark.unit

MADE = datetime(2026, 11, 24, 8, 0, 0)
EVIL = ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "https://example.org/x", "007"]
SHEET = Sheet("Data", ["When", "Text", "Amount"], [[MADE, text, Decimal("1.5")] for text in EVIL])


def test_no_text_becomes_a_formula_a_link_or_a_number() -> None:
    data = workbook([SHEET], title="t", made_at=MADE)

    cells = openpyxl.load_workbook(io.BytesIO(data)).active
    assert [row[1].value for row in cells.iter_rows(min_row=2)] == EVIL
    assert {row[1].data_type for row in cells.iter_rows(min_row=2)} == {"s"}
    assert [row[1].quotePrefix for row in cells.iter_rows(min_row=2)] == [True] * 5 + [False] * 2
    with ZipFile(io.BytesIO(data)) as parts:
        tree = ElementTree.fromstring(parts.read("xl/worksheets/sheet1.xml"))
    assert not [element for element in tree.iter() if element.tag.endswith("}f") or element.tag.endswith("}hyperlink")]


def test_times_are_dates_amounts_are_numbers_and_the_head_is_frozen_and_filtered() -> None:
    cells = openpyxl.load_workbook(io.BytesIO(workbook([SHEET], title="t", made_at=MADE))).active

    assert cells["A2"].value == MADE
    assert cells["A2"].is_date
    assert cells["C2"].value == 1.5
    assert (cells.freeze_panes, cells.auto_filter.ref) == ("A2", "A1:C8")


def test_csv_puts_an_apostrophe_before_what_a_spreadsheet_would_run() -> None:
    table = list(csv.reader(io.StringIO(csv_file(SHEET).decode("utf-8-sig"))))

    assert [row[1] for row in table[1:]] == ["'" + text for text in EVIL[:5]] + EVIL[5:]
    assert table[1][0] == "2026-11-24T08:00:00Z"


def test_a_moment_is_utc() -> None:
    assert moment(1_795_000_000_250) == datetime(2026, 11, 18, 11, 6, 40, 250_000)
