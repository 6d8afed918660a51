"""Closing periods, the case file, and what the chain refused, over HTTP as the bank's people do it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.canonical import b64u, sha256
from finance import enforcement
from finance.case import sign_case
from finance.case_check import check_case
from finance.eod import put
from finance.journal import closed_until
from finance.tables import command_log
from ledger.database import Database, Tx
from tests.api.conftest import Site
from tests.api.test_bank import Desk
from tests.chain_fixtures import built_in_world
from tests.finance.test_case_file import Office
from tests.finance.test_chain_refusals import enforce, pause, pledge_of
from tests.finance.test_monitoring import defaulted, state
from tests.finance.world import BANK, CHECKER, FinanceWorld, build
from tests.ledger.world import OPERATOR

PAGE = {"accept": "text/html", "accept-language": "en"}


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> FinanceWorld:
    return build(sqlite_database, built_in_world(tmp_path / "chain"))


@pytest.fixture
def desk(make_site: Callable[..., Site], world: FinanceWorld) -> Desk:
    site = make_site(finance=world.ctx)
    site.clock.now_ms = world.clock * 1000
    return Desk(site, world)


def test_two_persons_close_the_books_on_their_page(desk: Desk) -> None:
    from finance.commandlog import business_date

    with desk.world.database.transaction() as tx:
        today = business_date(tx, desk.world.clock)
        put(tx, "business_date", today.isoformat())
    until = (today - timedelta(days=1)).isoformat()

    asked = desk.post(desk.officer, "/bank/periods/proposals", until=until)
    waiting = desk.checker.get("/bank/books").json()
    page = desk.checker.get("/bank/books", headers=PAGE)
    values = {"until": until, "request": asked["request"], "proposal": asked["proposal"]}
    desk.post(desk.officer, "/bank/periods/close", status=403, **values)
    done = desk.post(desk.checker, "/bank/periods/close", **values)

    assert [row["until"] for row in waiting["proposals"]] == [until]
    assert f"Close to {until}" in page.text
    assert done == {"closed_until": until, "entries": 0}
    assert desk.officer.get("/bank/books").json()["closed_until"] == until
    assert desk.officer.get("/bank/books").json()["proposals"] == []
    assert desk.rival.get("/bank/books").json()["closed_until"] is None
    assert f"{until}" in desk.officer.get("/bank/reports").text
    desk.post(desk.officer, "/bank/periods/proposals", status=422, until=today.isoformat())
    with desk.world.database.reading() as tx:
        assert closed_until(tx, BANK) == today - timedelta(days=1)


def test_a_case_file_is_taken_by_its_bank_alone_and_proves_itself(
    make_site: Callable[..., Site], world: FinanceWorld
) -> None:
    office = Office(world)

    def sign(tx: Tx, application: str, lender: str, now: int) -> bytes:
        return sign_case(
            tx, application, lender=lender, operator=OPERATOR, key=office.key, log=office.verifier, now=now
        )

    site = make_site(finance=world.ctx)
    site.clock.now_ms = world.clock * 1000
    site.app.state.services = replace(site.app.state.services, sign_case=sign)
    desk = Desk(site, world)

    answer = desk.officer.get(f"/bank/applications/{office.application}/case")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jose")
    report = check_case(answer.content, key=office.key.thumbprint(), log=office.verifier.encode())
    assert (report.application, report.waiting, report.is_pinned) == (office.application, 0, True)
    # What the command line would write at that moment; only the signature is made anew.
    assert answer.content.split(b".")[:2] == office.file.split(b".")[:2]
    with world.database.reading() as tx:
        row = tx.execute(sa.select(command_log).where(command_log.c.name == "export_case")).one()
    assert b64u(sha256(answer.content)) in row.result
    assert desk.rival.get(f"/bank/applications/{office.application}/case").status_code == 404
    assert desk.owner.get(f"/bank/applications/{office.application}/case").status_code == 403
    assert desk.officer.get("/bank/applications/none/case").status_code == 404


def test_a_process_without_the_operator_s_key_signs_no_case(desk: Desk) -> None:
    assert desk.officer.get("/bank/applications/any/case").status_code == 503


def test_what_the_chain_refused_is_shown_and_sent_again(desk: Desk) -> None:
    world = desk.world
    facility = defaulted(world)
    pause(world)
    enforce(world, facility)
    world.settle()
    page = desk.checker.get("/bank/books", headers=PAGE)
    assert [case["purpose"] for case in desk.checker.get("/bank/books").json()["cases"]] == ["enforce"]
    assert "paused" in page.text
    assert desk.rival.get("/bank/books").json()["cases"] == []
    path = f"/bank/pledges/{pledge_of(world).id}/retry"
    desk.post(desk.officer, path, status=403)
    desk.post(desk.rival, path, status=404)
    pause(world, is_paused=False)

    desk.post(desk.checker, path)
    world.settle()

    assert (pledge_of(world).state, state(world)) == ("ENFORCING", "ENFORCING")
    desk.post(desk.checker, path, status=409)
    assert desk.keeper.get("/factory/chain-cases").json() == {"cases": []}
    world.do(enforcement.book_sale, CHECKER, facility=facility, costs="0.00",
             bids=[{"bidder": "a", "amount": "40000.00"}])  # fmt: skip
    world.settle()
    assert state(world) == "CLOSED"
    desk.post(desk.checker, f"/bank/facilities/{facility}/cure", status=409)
