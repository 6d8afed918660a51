"""Exports, messages, price and credit files, the end of day and the regulator's report, over HTTP."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from fastapi.testclient import TestClient

from api.identity import Role
from finance.casetables import payment_exceptions
from finance.exports import KINDS
from finance.tables import loans, quotes
from ledger.database import Database
from tests.api.conftest import Site
from tests.api.test_bank import Desk
from tests.chain_fixtures import built_in_world
from tests.finance.test_credit import pledged
from tests.finance.test_eod import DAY
from tests.finance.test_iso_notifications import notice, paid
from tests.finance.test_prices_file import file, row
from tests.finance.world import BORROWER, OTHER_BANK, FinanceWorld, build

PAGE = {"accept": "text/html", "accept-language": "en"}


class Office:
    """A bank with one drawn loan, its desk, a rival, and a regulator."""

    def __init__(self, site: Site, world: FinanceWorld) -> None:
        from finance import lending
        from finance.eod import put

        self.desk, self.site, self.world = Desk(site, world), site, world
        self.facility = pledged(world)["facility"]
        self.loan = world.do(lending.draw, BORROWER, facility=self.facility, amount="20000.00")["loan"]
        self.regulator = site.signed_in(
            site.user("inspector", Role.REGULATOR, org="https://id.gs1.org/417/9521321000063")
        )
        self.put = put

    def business_date(self, day: str) -> None:
        with self.world.database.transaction() as tx:
            self.put(tx, "business_date", day)


@pytest.fixture
def office(make_site: Callable[..., Site], sqlite_database: Database, tmp_path: Path) -> Office:
    world = build(sqlite_database, built_in_world(tmp_path / "chain"))
    site = make_site(finance=world.ctx)
    site.clock.now_ms = world.clock * 1000
    return Office(site, world)


def table(answer: Any) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))


def test_the_desk_takes_its_tables_and_messages_away(office: Office) -> None:
    officer, rival = office.desk.officer, office.desk.rival

    for kind in KINDS:
        rows = table(officer.get(f"/bank/exports/{kind}.csv"))
        book = officer.get(f"/bank/exports/{kind}.xlsx")
        assert openpyxl.load_workbook(io.BytesIO(book.content)).active.max_row == len(rows) + 1
        assert book.headers["content-disposition"] == f'attachment; filename="{kind}.xlsx"'
    assert [one["Principal (CNY)"] for one in table(officer.get("/bank/exports/loans.csv"))] == ["20000.00"]
    assert table(rival.get("/bank/exports/loans.csv")) == []
    assert officer.get("/bank/exports/salaries.csv").status_code == 404
    assert office.desk.owner.get("/bank/exports/loans.csv").status_code == 403
    order = officer.get(f"/bank/messages/draw/{office.loan}")
    assert '<InstdAmt Ccy="CNY">20000.00</InstdAmt>' in order.text
    assert rival.get(f"/bank/messages/draw/{office.loan}").status_code == 404
    for path in ("draw/none", "margin-return/1", "surplus/x", "margin-call/x", "proposal/x", "substitution/x", "tea/x"):
        assert officer.get(f"/bank/messages/{path}").status_code == 404, path


def test_a_checker_ends_the_day_that_was_seen_and_nobody_else(office: Office) -> None:
    desk = office.desk
    today = desk.checker.get("/bank/reports").json()["day_end"]["business_date"]

    desk.post(desk.officer, "/bank/end-of-day", status=403, day=today)
    desk.post(desk.checker, "/bank/end-of-day", status=409, day="2020-01-01")
    desk.post(desk.checker, "/bank/end-of-day", status=422, day="2026-02-30")
    done = desk.post(desk.checker, "/bank/end-of-day", day=today, key="night")
    again = desk.post(desk.checker, "/bank/end-of-day", day=today, key="night")
    after = desk.checker.get("/bank/reports").json()

    assert (done["closed"], done["loans"], done["agrees"]) == (today, 1, True)
    assert (again["business_date"], again["loans"]) == (done["business_date"], 0)
    assert after["day_end"]["business_date"] == done["business_date"] > today
    assert (after["books"]["total"], after["books"]["differences"]) == (0, {})
    # The next day has not begun, so it cannot end.
    assert desk.post(desk.checker, "/bank/end-of-day", status=409, day=done["business_date"])["code"] == "day_not_begun"
    names = [one["Command"] for one in table(desk.checker.get("/bank/exports/command-log.csv"))]
    assert "request_end_of_day" in names


def test_notifications_are_booked_and_what_waits_is_resolved(office: Office) -> None:
    desk = office.desk
    xml = notice(paid("R1", "1000.00", office.loan), paid("R2", "5.00", "=cmd()")).decode()

    done = desk.post(desk.officer, "/bank/notifications", xml=xml)
    hostile = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'
    refused = desk.post(desk.officer, "/bank/notifications", status=422, xml=hostile)
    [waiting] = done["waiting"]
    desk.post(desk.officer, f"/bank/exceptions/{waiting}/resolution", status=403, action="dismiss")
    desk.post(desk.rival, f"/bank/exceptions/{waiting}/resolution", status=404, action="dismiss")
    shown = desk.checker.get("/bank/reports", headers=PAGE)
    desk.post(desk.checker, f"/bank/exceptions/{waiting}/resolution", action="book", loan=office.loan)

    assert (done["booked"], done["exceptions"], refused["code"]) == (1, 1, "dtd_refused")
    assert "unknown loan" in shown.text
    [loan], [exception] = office.world.query(loans), office.world.query(payment_exceptions)
    assert (loan.balance + loan.interest_due, exception.state) == (1_899_500, "BOOKED")


def test_a_price_file_is_previewed_then_taken(office: Office) -> None:
    desk, officer = office.desk, office.desk.officer
    office.business_date(DAY.isoformat())
    good, bad = file(row()).decode(), file(row(), row(price="0")).decode()
    before = len(office.world.query(quotes))

    seen = desk.post(officer, "/bank/prices", file=bad)
    refused = desk.post(officer, "/bank/prices", status=409, file=bad, apply=True)
    unchanged = len(office.world.query(quotes))
    desk.post(officer, "/bank/prices", file=good, apply=True)
    form = {"file": bad, "reason": "look", "csrf": officer.headers["X-CSRF-Token"]}
    page = officer.post("/bank/prices", data=form, headers=PAGE)

    assert [one["code"] for one in seen["rows"]] == ["", "zero_price"]
    assert (refused["code"], unchanged, len(office.world.query(quotes))) == ("bad_rows", before, before + 1)
    assert "1 rows are refused" in page.text


def test_the_regulator_reads_credit_in_both_languages_and_changes_nothing(office: Office) -> None:
    regulator: TestClient = office.regulator
    office.desk.post(
        office.desk.owner, "/factory/applications", status=409, lender=OTHER_BANK,
        goods_item="(00)095213210000000018", amount="1000.00", tenor_days=30, purpose="again",
    )  # fmt: skip

    english = regulator.get("/regulator/credit", headers=PAGE)
    chinese = regulator.get("/regulator/credit?lang=zh-CN", headers={"accept": "text/html"})
    parts = {part["name"]: part for part in regulator.get("/regulator/credit").json()["parts"]}
    book = openpyxl.load_workbook(io.BytesIO(regulator.get("/regulator/credit.xlsx").content))

    assert "Double pledges refused" in english.text
    assert "被拒绝的重复质押" in chinese.text
    assert parts["exposures"]["rows"][0]["balance"] == {"minor": 2_000_000, "currency": "CNY"}
    assert parts["refused"]["rows"][0]["attempts"] == 1
    assert len(book.worksheets) == 6
    assert all(sheet.freeze_panes == "A2" for sheet in book.worksheets)
    for name, part in parts.items():
        assert len(table(regulator.get(f"/regulator/credit/{name}.csv"))) == len(part["rows"])
    assert regulator.get("/regulator/credit/salaries.csv").status_code == 404
    assert office.desk.checker.get("/regulator/credit").status_code == 403
    assert regulator.get("/bank/reports").status_code == 403


def test_the_reports_page_speaks_both_languages(office: Office) -> None:
    english = office.desk.checker.get("/bank/reports", headers=PAGE)
    chinese = office.desk.checker.get("/bank/reports?lang=zh-CN", headers={"accept": "text/html"})

    assert "Debits equal credits" in english.text
    assert "/bank/exports/command-log.xlsx" in english.text
    assert "借贷相等" in chinese.text
    assert "request_end_of_day" not in english.text
