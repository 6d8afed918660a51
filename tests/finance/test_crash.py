"""The process dies by SIGKILL at each arrow of pledge, draw-down and release; after a restart all is as if it had not.

A child of this process works on files of its own and kills itself at the k-th commit or chain call, before or after it.
The parent then starts anew on these files: first the reconciler alone, then everybody asks again under the same keys.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import TracebondError
from finance import applications, lending, pledges, receipts
from finance.model import Actor
from ledger.chain_book import open_txs
from tests.finance.world import BANK, BORROWER, CUSTODIAN, OWNER, PLACE, FinanceWorld
from tests.properties import finance_rules as check
from tests.properties.finance_world import OFFICERS, PALLETS, Template, make_template, rows

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
STRIDE = 1 if IS_CAMPAIGN else 9
AMOUNT = "6000.00"
MAKER, CHECKER = OFFICERS[BANK]["maker"], OFFICERS[BANK]["checker"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Template:
    return make_template(tmp_path_factory.mktemp("crash") / "template", sqlite_template)


def do(world: FinanceWorld, key: str, command: Callable[..., dict[str, Any]], who: Actor, **arguments: Any) -> Any:
    with world.database.transaction() as tx:
        return command(tx, world.ctx, who, key=key, reason="crash", now=world.clock, **arguments)


def live(world: FinanceWorld) -> None:
    """From the warehouse to the release, each command under its own key: said again, it is the same command."""
    do(world, "receipt", receipts.register_receipt, CUSTODIAN, item=PALLETS[0], owner=OWNER, place=PLACE)
    world.settle()
    asked = do(world, "apply", applications.submit_application, BORROWER, lender=BANK, goods_item=PALLETS[0],
               amount=AMOUNT, tenor_days=90, purpose="milk")  # fmt: skip
    seen = {"application": asked["application"], "terms_hash": asked["terms_hash"]}
    if asked["state"] == "IN_REVIEW":
        for who in (MAKER, CHECKER):
            do(world, f"approve {who.person}", applications.approve_application, who, is_approved=True, **seen)
    offer = do(world, "accept", applications.accept_offer, BORROWER, **seen)
    do(world, "owner", pledges.sign_pledge, BORROWER, pledge=offer["pledge"])
    do(world, "custodian", pledges.sign_pledge, CUSTODIAN, pledge=offer["pledge"])
    do(world, "send", pledges.send_pledge, MAKER, pledge=offer["pledge"])
    world.settle()
    loan = do(world, "draw", lending.draw, BORROWER, facility=offer["facility"], amount=AMOUNT)
    do(world, "repay", lending.repay, BORROWER, loan=loan["loan"], amount=AMOUNT, reference="r1")
    free = do(world, "ask", pledges.request_release, MAKER, pledge=offer["pledge"])
    do(world, "release", pledges.approve_release, CHECKER, pledge=offer["pledge"], request=free["request"],
       maker=MAKER.person, release_hash=free["release_hash"])  # fmt: skip
    world.settle()


class Points:
    """Counts the moments at which a crash matters, and dies at one of them."""

    def __init__(self, world: FinanceWorld, at: int | None) -> None:
        self.count, self.at = 0, at
        # The writer alone: a commit that is about to come, and the time after it when the next begins.
        for name in ("commit", "begin"):
            sa.event.listen(world.database._write, name, lambda _: self.pass_by())
        chain: Any = world.chain.chain
        send = chain.send_raw

        def sent(*arguments: Any) -> Any:
            self.pass_by()
            answer = send(*arguments)
            self.pass_by()
            return answer

        chain.send_raw = sent

    def pass_by(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at(template: Template, folder: Path, point: int) -> None:
    """A child that starts on ``folder`` and kills itself at ``point``."""
    child = os.fork()
    if child == 0:
        try:
            world = template.open(folder)
            Points(world, point)
            live(world)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), point
    assert os.WTERMSIG(status) == signal.SIGKILL, point


def check_all(world: FinanceWorld) -> None:
    for rule in (check.check_books, check.check_control_accounts, check.check_schedules, check.check_payments,
                 check.check_four_eyes, check.check_cover):  # fmt: skip
        rule(world.database)
    check.check_claims(world)
    check.check_claims_on_chain(world)
    check.check_command_log(world.database, 0)


def check_end(world: FinanceWorld) -> None:
    """As by hand: one draw, one repayment, the goods free again in both places, and nothing on its way."""
    database = world.database
    assert rows(database, "SELECT kind, debit_minor FROM fin_entries ORDER BY number") == [
        ("draw", 600_000), ("repayment", 600_000),
    ]  # fmt: skip
    states = sorted(check.states(database).items())
    assert [(table, state) for (table, _), state in states] == [
        ("fin_applications", "CONTRACTED"), ("fin_facilities", "CLOSED"), ("fin_loans", "REPAID"),
        ("fin_pledges", "RELEASED"), ("fin_receipts", "SEALED"),
    ]  # fmt: skip
    receipt = bytes(rows(database, "SELECT id FROM fin_receipts")[0][0])
    assert world.ctx.registry.pledge_of(receipt).state == "released"
    assert world.ctx.registry.nonce_of(receipt) == 1
    account = world.chain.signer.address(world.ctx.account(BANK))
    assert world.chain.chain.nonce(account) == 2
    with database.reading() as tx:
        assert open_txs(tx, world.sender._deployment) == []


def test_a_life_without_a_crash_passes_all_arrows(template: Template, tmp_path: Path) -> None:
    world = template.copy(tmp_path / "world")
    points = Points(world, None)
    live(world)

    check_all(world)
    check_end(world)
    assert points.count > 60


def test_a_crash_at_each_arrow_leaves_money_and_pledges_agreeing(template: Template, tmp_path: Path) -> None:
    counted = template.copy(tmp_path / "counted")
    points = Points(counted, None)
    live(counted)
    for point in range(1, points.count + 1, STRIDE):
        folder = tmp_path / f"at {point}"
        template.copy(folder).database.close()
        die_at(template, folder, point)
        world = template.open(folder)
        # The reconciler alone, before anybody asks again: whatever was on its way comes to its end.
        world.settle()
        world.settle()
        check_all(world)
        check.check_chain_agrees(world)
        live(world)
        check_all(world)
        check.check_chain_agrees(world)
        check_end(world)
        world.database.close()
        world.chain.chain.close()


def test_a_draw_is_not_paid_twice_by_another_request_for_the_same_money(template: Template, tmp_path: Path) -> None:
    """The borrower that lost its answer asks under a new key: what is left of the line decides, not hope."""
    world = template.copy(tmp_path / "world")
    do(world, "receipt", receipts.register_receipt, CUSTODIAN, item=PALLETS[0], owner=OWNER, place=PLACE)
    world.settle()
    asked = do(world, "apply", applications.submit_application, BORROWER, lender=BANK, goods_item=PALLETS[0],
               amount=AMOUNT, tenor_days=90, purpose="milk")  # fmt: skip
    seen = {"application": asked["application"], "terms_hash": asked["terms_hash"]}
    if asked["state"] == "IN_REVIEW":
        for who in (MAKER, CHECKER):
            do(world, f"approve {who.person}", applications.approve_application, who, is_approved=True, **seen)
    offer = do(world, "accept", applications.accept_offer, BORROWER, **seen)
    for side in (BORROWER, CUSTODIAN):
        do(world, f"sign {side.person}", pledges.sign_pledge, side, pledge=offer["pledge"])
    do(world, "send", pledges.send_pledge, MAKER, pledge=offer["pledge"])
    world.settle()
    do(world, "draw", lending.draw, BORROWER, facility=offer["facility"], amount=AMOUNT)

    with pytest.raises(TracebondError, match="above_availability"):
        do(world, "draw again", lending.draw, BORROWER, facility=offer["facility"], amount=AMOUNT)
