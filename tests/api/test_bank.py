"""A loan's life over HTTP, as staff live it: maker and checker, stale screens, other banks, double pledges."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.identity import Role
from ledger.database import Database
from tests.api.conftest import Site
from tests.chain_fixtures import built_in_world
from tests.finance.world import (
    BANK,
    FEATURES,
    GTIN,
    OTHER_BANK,
    OWNER,
    PALLET,
    PLACE,
    TINS,
    WAREHOUSE,
    FinanceWorld,
    build,
)

_keys = itertools.count()


class Desk:
    """The site with a finance world behind it, and its people."""

    def __init__(self, site: Site, world: FinanceWorld) -> None:
        self.site, self.world = site, world
        self.officer = self.person("officer", BANK, Role.BANK_MAKER)
        self.checker = self.person("checker", BANK, Role.BANK_CHECKER)
        self.second_checker = self.person("second-checker", BANK, Role.BANK_CHECKER)
        self.rival = self.person("rival", OTHER_BANK, Role.BANK_MAKER, Role.BANK_CHECKER)
        self.owner = self.person("owner", OWNER, Role.BORROWER)
        self.keeper = self.person("keeper", WAREHOUSE, Role.CUSTODIAN)

    def person(self, name: str, org: str, *roles: Role) -> TestClient:
        return self.site.signed_in(self.site.user(name, *roles, org=org))

    def post(self, who: TestClient, path: str, *, status: int = 200, **body: Any) -> dict[str, Any]:
        key = body.pop("key", f"key-{next(_keys)}")
        body.setdefault("reason", "test")
        answer = who.post(path, json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == status, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def prepare(self) -> str:
        """Receipt, file, price and application; gives the application's id."""
        self.post(self.keeper, "/factory/receipts", item=PALLET, owner=OWNER, place=PLACE)
        self.world.settle()
        self.post(
            self.owner, "/factory/consents", lender=BANK, purpose="credit", days=300,
            sources=["account", "tax", "credit_bureau", "sales"],
        )  # fmt: skip
        self.post(
            self.officer, "/bank/borrowers", borrower=OWNER, controller="p-9", has_account=True, features=FEATURES
        )
        self.post(
            self.officer, "/bank/quotes", product=f"https://id.gs1.org/01/{GTIN}", category="infant_formula",
            unit="EA", price="50000", cost="48000", source="exchange",
        )  # fmt: skip
        return str(self.apply(self.owner)["application"])

    def apply(self, who: TestClient, *, lender: str = BANK, goods: str = PALLET, status: int = 200) -> dict[str, Any]:
        return self.post(
            who, "/factory/applications", lender=lender, goods_item=goods, amount="60000.00", tenor_days=90,
            purpose="stock", status=status,
        )  # fmt: skip

    def seen(self, who: TestClient, ident: str) -> dict[str, Any]:
        answer = who.get(f"/bank/applications/{ident}")
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def decide(self, who: TestClient, ident: str, *, status: int = 200, **change: Any) -> dict[str, Any]:
        page = self.seen(self.officer, ident)
        body = {"seen": page["seen"], "terms_hash": page["terms_hash"], "reason_code": "evidence_sufficient"}
        return self.post(
            who, f"/bank/applications/{ident}/decision", status=status, **(body | {"decision": "approve"} | change)
        )


@pytest.fixture
def desk(make_site: Callable[..., Site], sqlite_database: Database, tmp_path: Path) -> Desk:
    world = build(sqlite_database, built_in_world(tmp_path / "chain"))
    site = make_site(finance=world.ctx, chain=world.chain.chain)
    # The built-in chain's blocks carry its own time: deadlines of pledges are compared with it.
    newest = world.chain.chain.block("latest")
    assert newest is not None
    world.clock = newest.time_s
    site.clock.now_ms = world.clock * 1_000
    return Desk(site, world)


def test_a_loan_lives_from_application_to_release_over_http(desk: Desk) -> None:
    ident = desk.prepare()
    if desk.seen(desk.officer, ident)["row"]["state"] == "IN_REVIEW":
        desk.decide(desk.officer, ident)
        desk.decide(desk.checker, ident)
    page = desk.seen(desk.officer, ident)
    assert page["row"]["state"] == "APPROVED"

    pledge = desk.post(desk.owner, f"/factory/applications/{ident}/accept", terms_hash=page["terms_hash"])["pledge"]
    desk.post(desk.owner, f"/factory/pledges/{pledge}/sign")
    desk.post(desk.keeper, f"/factory/pledges/{pledge}/sign")
    desk.post(desk.owner, f"/factory/facilities/{ident}/draws", amount="50000.00", status=409)
    desk.post(desk.officer, f"/bank/pledges/{pledge}/send")
    desk.world.settle()
    drawn = desk.post(desk.owner, f"/factory/facilities/{ident}/draws", amount="50000.00")
    loan = desk.officer.get(f"/bank/loans/{drawn['loan']}").json()["loan"]
    assert loan["balance"] == 5_000_000
    assert sum(line["debit"] for line in loan["journal"]) == sum(line["credit"] for line in loan["journal"]) > 0
    desk.post(desk.owner, f"/factory/loans/{drawn['loan']}/repayments", amount="50000.00", reference="pay-1")

    asked = desk.post(desk.officer, f"/bank/pledges/{pledge}/release-requests", key="ask-1")
    officer = desk.officer.get("/me").json()["person"]
    body = {"request": "ask-1", "maker": str(officer), "release_hash": asked["release_hash"]}
    assert desk.post(desk.officer, f"/bank/pledges/{pledge}/release", status=403, **body)["code"] == "forbidden"
    desk.post(desk.checker, f"/bank/pledges/{pledge}/release", **body)
    desk.world.settle()
    assert desk.officer.get(f"/bank/register?code={TINS[0]}").json()["answer"]["code"] == "free"


def test_goods_that_secure_a_loan_are_pledged_for_the_other_bank_too(desk: Desk) -> None:
    ident = desk.prepare()
    if desk.seen(desk.officer, ident)["row"]["state"] == "IN_REVIEW":
        desk.decide(desk.officer, ident)
        desk.decide(desk.checker, ident)
    terms = desk.seen(desk.officer, ident)["terms_hash"]
    desk.post(desk.owner, f"/factory/applications/{ident}/accept", terms_hash=terms)

    again = desk.apply(desk.owner, lender=OTHER_BANK, goods=TINS[0], status=409)
    asked = desk.rival.get(f"/bank/register?code={TINS[0]}").json()["answer"]

    assert again["code"] == "already_pledged"
    assert BANK not in str(again) + str(asked)
    assert asked["code"] == "elsewhere"
    assert desk.officer.get(f"/bank/register?code={PALLET}").json()["answer"]["code"] == "own"


def test_staff_of_one_bank_never_see_the_other_banks_applications(desk: Desk) -> None:
    ident = desk.prepare()
    page = desk.seen(desk.officer, ident)

    assert desk.rival.get("/bank?state=all").json()["rows"] == []
    assert desk.rival.get(f"/bank/applications/{ident}").status_code == 404
    body = {"seen": page["seen"], "terms_hash": page["terms_hash"], "decision": "approve", "reason_code": "other"}
    assert desk.post(desk.rival, f"/bank/applications/{ident}/decision", status=404, **body)["code"] == "not_found"
    for path in (f"/bank/pledges/{ident}-1/send", f"/bank/pledges/{ident}-1/release-requests"):
        assert desk.rival.post(path, json={"reason": "x", "key": "k"}).status_code in (403, 404)
    assert desk.rival.get("/bank/loans").json()["rows"] == []


def test_a_decision_on_an_older_screen_is_refused(desk: Desk) -> None:
    ident = desk.prepare()

    refused = desk.decide(desk.checker, ident, status=409, seen="A" * 43)

    assert refused["code"] == "stale_view"
    assert desk.seen(desk.checker, ident)["approvals"] == []


def test_a_command_without_a_key_or_with_unknown_fields_is_refused(desk: Desk) -> None:
    body = {"item": PALLET, "owner": OWNER, "place": PLACE, "reason": "x"}

    assert desk.keeper.post("/factory/receipts", json=body).json()["code"] == "missing_key"
    more = desk.keeper.post("/factory/receipts", json=body | {"state": "SEALED", "key": "k"})
    assert (more.status_code, more.json()["code"]) == (422, "invalid_field")


def test_the_same_key_gives_the_same_answer_and_another_body_is_refused(desk: Desk) -> None:
    body = {"item": PALLET, "owner": OWNER, "place": PLACE, "key": "once"}

    first = desk.post(desk.keeper, "/factory/receipts", **dict(body))
    again = desk.post(desk.keeper, "/factory/receipts", **dict(body))
    other = desk.post(desk.keeper, "/factory/receipts", **(body | {"days": 20}), status=422)

    assert first == again
    assert other["code"] == "idempotency_key_reused"


def test_the_pages_of_the_desk_show_what_a_decision_needs(desk: Desk) -> None:
    ident = desk.prepare()
    for who in (desk.officer, desk.checker, desk.owner, desk.keeper):
        who.headers["accept"] = "text/html"

    queue = desk.checker.get("/bank?state=all&lang=en").text
    detail = desk.checker.get(f"/bank/applications/{ident}?lang=zh-CN").text
    borrower = desk.owner.get("/factory?lang=en").text

    assert "60,000.00" in queue
    assert "not pledged" in queue
    assert "可信度构成" in detail
    assert "估值" in detail
    assert ident in borrower
    assert desk.keeper.get("/factory?lang=en").status_code == 200
