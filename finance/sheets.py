"""Tables of a bank as CSV and XLSX: real dates, exact amounts, and no cell that a spreadsheet runs as a formula.

An amount becomes a number with two decimals as long as it has at most 15 digits, which is what a spreadsheet keeps
exactly (IEEE 754 binary64); a longer one stays text, since a wrong fen is worse than a cell that does not add up.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import IO, Any, Final

import xlsxwriter

from core.errors import Rejected
from core.money import Money

Cell = str | int | Money | date | datetime | None

# OWASP's list, and the full-width signs that East Asian spreadsheets read as the same operators.
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
DIGITS_MAX: Final = 15
ROWS_MAX: Final = 1_048_575  # of an XLSX sheet, below its head
_TEXT_MAX: Final = 32_767  # characters of an XLSX cell
_CUT: Final = " [cut here; the CSV file has the whole text]"
_WIDTH_MIN, _WIDTH_MAX = 12, 48


@dataclass(frozen=True)
class Sheet:
    """One table: its name, the heads of its columns, its rows (read once)."""

    name: str
    heads: Sequence[str]
    rows: Iterable[Sequence[Cell]]


def write_xlsx(sheets: Iterable[Sheet], file: IO[bytes], *, title: str, made_at: datetime) -> None:
    """Write these tables as one XLSX file, each sheet with a frozen head and filters.

    Args:
        made_at: UTC without its zone, which spreadsheets do not know.

    Raises:
        Rejected: ``too_many_rows``: more than a sheet holds.
    """
    options = {
        "constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False,
    }  # fmt: skip
    book = xlsxwriter.Workbook(file, options)
    book.set_properties({"title": title, "created": made_at})
    forms = {
        "head": book.add_format({"bold": True, "bg_color": "#E8EFF6", "border": 1, "text_wrap": True}),
        "text": book.add_format({}),
        "quoted": book.add_format({"quote_prefix": True}),
        "date": book.add_format({"num_format": "yyyy-mm-dd"}),
        "time": book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
        "number": book.add_format({"num_format": "0"}),
        "amount": book.add_format({"num_format": "#,##0.00"}),
    }
    for sheet in sheets:
        _fill(book.add_worksheet(sheet.name[:31]), sheet, forms)
    book.close()


def write_csv(sheet: Sheet, file: IO[bytes]) -> None:
    """Write the table as CSV in UTF-8 with its mark, so that spreadsheets read Chinese."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        writer.writerow([neutral(head) for head in sheet.heads])
        for row in sheet.rows:
            writer.writerow([csv_text(cell) for cell in row])
        text.flush()
    finally:
        text.detach()


def neutral(text: str) -> str:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def csv_text(cell: Cell) -> str:
    """A cell as CSV says it: amounts with two decimals, dates in ISO 8601, texts that are no formula."""
    if cell is None:
        return ""
    if isinstance(cell, Money):
        return cell.text()
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="seconds") + "Z"
    if isinstance(cell, date):
        return cell.isoformat()
    return neutral(cell) if isinstance(cell, str) else str(cell)


def _fill(sheet: Any, data: Sheet, forms: Mapping[str, Any]) -> None:
    # Rows are on their way to the disk when the next one is written, so widths come from the heads.
    for column, head in enumerate(data.heads):
        sheet.set_column(column, column, min(_WIDTH_MAX, max(_WIDTH_MIN, len(head) + 6)))
    sheet.freeze_panes(1, 0)
    for column, head in enumerate(data.heads):
        sheet.write_string(0, column, head, forms["head"])
    count = 0
    for count, row in enumerate(data.rows, start=1):
        if count > ROWS_MAX:
            raise Rejected(f"A sheet holds {ROWS_MAX} rows; export as CSV.", code="too_many_rows", pointer="format")
        for column, cell in enumerate(row):
            _put(sheet, count, column, cell, forms)
    sheet.autofilter(0, 0, count, max(0, len(data.heads) - 1))
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)
    sheet.repeat_rows(0)


def _put(sheet: Any, row: int, column: int, cell: Cell, forms: Mapping[str, Any]) -> None:
    if cell is None or cell == "":
        return
    if isinstance(cell, Money):
        if len(str(abs(cell.minor))) <= DIGITS_MAX:
            sheet.write_number(row, column, Decimal(cell.text()), forms["amount"])
        else:
            sheet.write_string(row, column, cell.text(), forms["text"])
    elif isinstance(cell, datetime):
        sheet.write_datetime(row, column, cell, forms["time"])
    elif isinstance(cell, date):
        sheet.write_datetime(row, column, cell, forms["date"])
    elif isinstance(cell, str):
        shown = cell if len(cell) <= _TEXT_MAX else cell[: _TEXT_MAX - len(_CUT)] + _CUT
        sheet.write_string(row, column, shown, forms["quoted" if cell.startswith(FORMULA_STARTS) else "text"])
    elif len(str(abs(cell))) <= DIGITS_MAX:
        sheet.write_number(row, column, cell, forms["number"])
    else:
        sheet.write_string(row, column, str(cell), forms["text"])
