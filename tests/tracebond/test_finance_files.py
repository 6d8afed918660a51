"""The files of ``tracebond finance`` by the command line, on a data folder as a server has it."""

import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from finance.eod import put
from ledger.database import open_database, upgrade
from tests.finance.test_eod import DAY, lend
from tests.finance.test_iso_notifications import notice, paid
from tests.finance.test_prices_file import file, row
from tests.finance.world import BANK
from tracebond.finance_cli import finance
from tracebond.settings import load_settings

GLN = BANK.rpartition("/")[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TRACEBOND_DATABASE", raising=False)
    folder = tmp_path / "var"
    folder.mkdir()
    database = open_database(load_settings(data=folder).database)
    upgrade(database)
    lend(database, "a", principal=1_000_000, days=90)
    with database.transaction() as tx:
        put(tx, "business_date", DAY.isoformat())
    database.close()
    return folder


def run(data: Path | None, *words: str | Path) -> Result:
    where = ["--data", str(data)] if data is not None else []
    return CliRunner().invoke(finance, [str(words[0]), *where, *map(str, words[1:])])


def test_a_table_is_written_whole_or_not_at_all(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "loans.csv"

    done = run(data, "export", "loans", "--lender", GLN, "--format", "csv", "--out", out)
    book = run(data, "export", "journal", "--lender", GLN, "--format", "xlsx", "--out", tmp_path / "j.xlsx")
    refused = run(data, "export", "loans", "--lender", "1234", "--format", "csv", "--out", tmp_path / "no.csv")

    assert (done.exit_code, book.exit_code) == (0, 0), done.output
    rows = list(csv.DictReader(io.StringIO(out.read_bytes().decode("utf-8-sig"))))
    assert [one["Principal (CNY)"] for one in rows] == ["10000.00"]
    assert refused.exit_code != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j.xlsx", "loans.csv", "var"]


def test_prices_are_looked_at_before_they_are_taken(data: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_bytes(file(row()))
    bad.write_bytes(file(row(), row(price="0")))

    seen, taken = run(data, "prices", good, "--lender", GLN), run(data, "prices", good, "--lender", GLN, "--apply")
    refused = run(data, "prices", bad, "--lender", GLN, "--apply")

    assert "taken" not in seen.output
    assert (seen.exit_code, taken.exit_code) == (0, 0), taken.output
    assert "1 prices were taken" in taken.output
    assert refused.exit_code == 1
    assert "line 3: refused, zero_price" in refused.output


def test_messages_go_out_and_credits_come_in(data: Path, tmp_path: Path) -> None:
    order, credits_file = tmp_path / "order.xml", tmp_path / "camt.xml"
    credits_file.write_bytes(notice(paid("R1", "4000.00"), paid("R2", "1.00", "none")))

    sent = run(data, "message", "draw", "a-L1", "--lender", GLN, "--out", order)
    booked = run(data, "notifications", credits_file, "--lender", GLN)

    assert sent.exit_code == 0, sent.output
    assert '<InstdAmt Ccy="CNY">10000.00</InstdAmt>' in order.read_text(encoding="utf-8")
    assert '"booked": 1' in booked.output
    assert '"exceptions": 1' in booked.output


def test_a_file_that_is_no_case_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "case"
    path.write_text("a.b.c")

    assert run(None, "check-case", path).exit_code != 0
    assert run(data, "case", "none", "--lender", GLN, "--out", tmp_path / "out").exit_code != 0
