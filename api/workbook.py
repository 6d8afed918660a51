"""The regulator's workbook: the events of a trace as FSMA 204 asks, holders, mass balance, evidence of each row.

Times are real dates, heads are frozen and filtered, and no cell can become a formula: texts are written as texts, and
those that a spreadsheet might read as a formula carry its quote prefix; in CSV an apostrophe stands before them.

Source: 21 CFR 1.1455(c)(3), the electronic sortable spreadsheet of FSMA section 204.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import xlsxwriter

from api.words import say

Cell = str | int | Decimal | datetime | None

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
ROWS_MAX: Final = 200_000  # ours: far below the 1,048,576 rows of a sheet
_TEXT_MAX: Final = 32_767  # characters of a cell
_WIDTH_MAX: Final = 60


@dataclass(frozen=True)
class Sheet:
    """One sheet: its name, the heads of its columns, its rows."""

    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def workbook(sheets: Iterable[Sheet], *, title: str, made_at: datetime) -> bytes:
    """The XLSX file of these sheets."""
    buffer = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    book = xlsxwriter.Workbook(buffer, options)
    book.set_properties({"title": title, "created": made_at})
    forms = {
        "head": book.add_format({"bold": True, "bg_color": "#E8EFF6", "border": 1, "text_wrap": True, "valign": "top"}),
        "text": book.add_format({"valign": "top"}),
        "quoted": book.add_format({"valign": "top", "quote_prefix": True}),
        "time": book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss", "valign": "top"}),
        "number": book.add_format({"num_format": "General", "valign": "top"}),
    }
    for sheet in sheets:
        _write(book.add_worksheet(sheet.name[:31]), sheet, forms)
    book.close()
    return buffer.getvalue()


def csv_file(sheet: Sheet) -> bytes:
    """The sheet as CSV in UTF-8 with its mark, so that spreadsheets read Chinese; formulas neutralised."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([neutral(head) for head in sheet.heads])
    writer.writerows([[_plain(cell) for cell in row] for row in sheet.rows])
    return b"\xef\xbb\xbf" + buffer.getvalue().encode()


def neutral(text: str) -> str:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def moment(at_ms: int) -> datetime:
    """Unix ms as the date that a cell holds: UTC without its zone, which spreadsheets do not know."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).replace(tzinfo=None, microsecond=at_ms % 1000 * 1000)


def words(lang: str, *keys: str) -> list[str]:
    """The heads of columns in a language."""
    return [say(key, lang) for key in keys]


def _write(sheet: Any, data: Sheet, forms: Mapping[str, Any]) -> None:
    widths = [len(head) + 4 for head in data.heads]
    for column, head in enumerate(data.heads):
        sheet.write_string(0, column, head, forms["head"])
    for number, row in enumerate(data.rows[:ROWS_MAX], start=1):
        for column, cell in enumerate(row):
            if cell is None or cell == "":
                continue
            if isinstance(cell, datetime):
                sheet.write_datetime(number, column, cell, forms["time"])
                widths[column] = max(widths[column], 20)
            elif isinstance(cell, str):
                form = forms["quoted"] if cell.startswith(FORMULA_STARTS) else forms["text"]
                sheet.write_string(number, column, cell[:_TEXT_MAX], form)
                widths[column] = max(widths[column], min(_WIDTH_MAX, len(cell) + 2))
            else:
                sheet.write_number(number, column, cell, forms["number"])
    for column, width in enumerate(widths):
        sheet.set_column(column, column, min(width, _WIDTH_MAX))
    sheet.freeze_panes(1, 0)
    if data.rows:
        sheet.autofilter(0, 0, min(len(data.rows), ROWS_MAX), max(0, len(data.heads) - 1))
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)
    sheet.repeat_rows(0)


def _plain(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="seconds") + "Z"
    return neutral(cell) if isinstance(cell, str) else str(cell)
