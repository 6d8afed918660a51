"""A case file proves itself without database or chain, and every change to it is found."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from core.canonical import b64u, canonical_bytes, sha256, unb64u
from core.crypto import P256Private
from core.errors import TracebondError
from core.jws import sign_jws
from core.notes import Verifier
from core.records import common
from finance import lending
from finance.case import CASE_TYP, sign_case
from finance.case_check import CaseReport, check_case, report_text
from finance.commandlog import mark_audited, waiting_audits
from ledger.database import Database
from tests.finance.test_credit import pledged
from tests.finance.world import BANK, BORROWER, OTHER_BANK, FinanceWorld
from tests.ledger.world import AUD, LOG, OPERATOR
from tests.ledger.world import World as LogWorld

Case = dict[str, Any]


def audited(database: Database) -> LogWorld:
    """The rows of the command log as sequenced ``audit`` records, the way the process writes them."""
    log = LogWorld(database).start()
    with database.reading() as tx:
        waiting = waiting_audits(tx)
    for number, row in waiting:
        log.record(common(t="audit", aud=AUD, log=LOG, org=OPERATOR, iat=log.now) | {"row": b64u(row)}, signer=OPERATOR)
        with database.transaction() as tx:
            mark_audited(tx, number, now=log.now + 1)
    log.step()
    return log


class Office:
    """A world with one drawn loan, its log, and the case file of its application."""

    def __init__(self, world: FinanceWorld) -> None:
        self.world = world
        offer = pledged(world)
        self.application = str(offer["facility"])
        drawn = world.do(lending.draw, BORROWER, facility=self.application, amount="30000.00")
        world.do(lending.repay, BORROWER, loan=drawn["loan"], amount="10000.00", reference="bank-1")
        self.log = audited(world.database)
        self.key = self.log.orgs[OPERATOR]
        self.verifier = Verifier(LOG, self.log.checkpoint_key.public)
        self.file = self.export()

    def export(self, lender: str = BANK) -> bytes:
        with self.world.database.reading() as tx:
            return sign_case(
                tx, self.application, lender=lender, operator=OPERATOR, key=self.key, log=self.verifier,
                now=self.world.clock,
            )  # fmt: skip

    def case(self) -> Case:
        found: Case = json.loads(unb64u(self.file.decode().split(".")[1]))
        return found

    def check(self, data: bytes) -> CaseReport:
        return check_case(data, key=self.key.thumbprint(), log=self.verifier.encode())


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(TracebondError) as caught:
        call()
    return caught.value.code


def test_a_case_file_is_proven_offline_and_shows_who_did_what(world: FinanceWorld) -> None:
    office = Office(world)

    report = office.check(office.file)

    assert (report.application, report.state, report.outcome) == (office.application, "CONTRACTED", "refer")
    assert (report.approvals, report.waiting, report.is_pinned) == (2, 0, True)
    assert report.log is not None
    assert report.log[0] == LOG
    case = office.case()
    # What persons did; the system's own steps stand between them.
    assert [command["name"] for command in case["commands"] if command["person"] != "tracebond"] == [
        "submit_application", "approve_application", "approve_application", "accept_offer", "sign_pledge",
        "sign_pledge", "send_pledge", "draw", "repay",
    ]  # fmt: skip
    loan = case["facility"]["loans"][0]
    assert (loan["balance"], loan["payments"][0]["amount"]) == ("20000.00", "10000.00")
    assert report_text(report).startswith(f"Case {office.application}: CONTRACTED, decided refer.")


def test_every_change_to_a_case_file_is_found(sqlite_world: FinanceWorld) -> None:
    office = Office(sqlite_world)
    key, stranger = office.key, P256Private.from_secret(b"stranger")

    def signed(change: Callable[[Case], object], by: P256Private = key) -> bytes:
        case = office.case()
        change(case)
        return sign_jws(canonical_bytes(case), typ=CASE_TYP, key=by)

    def forged(case: Case) -> None:
        case["signer"]["jwk"] = dict(stranger.jwk())

    def grade(case: Case) -> None:
        # Whoever holds the operator's key may sign other terms, but not make the policy say another grade.
        case["decision"]["grade"] = "E" if case["decision"]["grade"] == "A" else "A"
        case["terms"]["decision"] = b64u(sha256(canonical_bytes(case["decision"])))
        case["application"]["terms_hash"] = b64u(sha256(canonical_bytes(case["terms"])))

    def row(case: Case) -> None:
        case["commands"][0]["reason"] = "another reason"

    def whole_row(case: Case) -> None:
        row(case)
        names = ("org", "key", "name", "person", "user", "reason", "policy", "at_s", "body", "result", "business_date")
        hashed = sha256(canonical_bytes({name: case["commands"][0][name] for name in names}))
        case["commands"][0]["row_hash"] = b64u(hashed)

    expected = {
        "wrong_key": signed(forged, by=stranger),
        "not_reproducible": signed(grade),
        "bad_inclusion_proof": signed(lambda case: case["commands"][0]["audit"].update(leaf=0)),
        "unsigned_note": signed(lambda case: case["log"].update(checkpoint="x\n1\nAAAA\n\n— x AAAAAAAA\n")),
    }
    half = len(office.file) // 2
    flipped = office.file[:half] + (b"A" if office.file[half : half + 1] != b"A" else b"B") + office.file[half + 1 :]

    assert office.check(signed(lambda case: None)).waiting == 0
    for code, data in expected.items():
        assert code_of(lambda data=data: office.check(data)) == code
    for change in (
        row, whole_row, lambda case: case["approvals"][0].update(checker=case["approvals"][0]["maker"]),
        lambda case: case["approvals"].append(dict(case["approvals"][0])),
        lambda case: case["application"].update(amount="40000.01"), lambda case: case["policy"].update(source="x = 1"),
        lambda case: case["evidence"].pop(), lambda case: case["terms"].update(tenor_days=91),
        lambda case: case["facility"]["loans"][0]["entries"][0]["postings"].pop(),
        lambda case: case["commands"][0].pop("key"), lambda case: case.update(v=2),
    ):  # fmt: skip
        assert code_of(lambda change=change: office.check(signed(change))) in ("bad_case", "bad_policy")
    assert code_of(lambda: office.check(flipped)) in ("bad_signature", "bad_form", "bad_json", "bad_base64")


def test_a_case_of_another_bank_does_not_exist(sqlite_world: FinanceWorld) -> None:
    office = Office(sqlite_world)

    assert code_of(lambda: office.export(OTHER_BANK)) == "no_such_application"


def test_rows_that_are_not_in_the_log_yet_are_counted_as_waiting(sqlite_world: FinanceWorld) -> None:
    office = Office(sqlite_world)
    loan = office.case()["facility"]["loans"][0]["id"]
    sqlite_world.do(lending.repay, BORROWER, loan=loan, amount="1.00", reference="bank-2")

    before = office.check(office.file)

    report = office.check(office.export())

    assert (report.waiting, report.commands) == (1, before.commands + 1)
