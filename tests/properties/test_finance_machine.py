"""Whatever people, markets, goods and time do to credit, V1-V16 hold: a state machine over the real commands."""

import json
import os
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from core.canonical import b64u, unb64u
from core.errors import TracebondError
from finance import (
    chaincases,
    corrections,
    enforcement,
    freezing,
    lending,
    margin,
    periods,
    pledges,
    receipts,
)
from finance.decision import decide
from finance.eod import end_of_day
from finance.monitoring import monitor
from finance.policy import load_policy
from finance.reconcile import reconcile
from ledger.chain_book import enqueue
from tests.finance.world import BORROWER, CUSTODIAN, actor
from tests.properties import finance_rules as check
from tests.properties.finance_machine import CreditMachine, banks, people, places, sizes
from tests.properties.finance_world import (
    BANKS,
    OFFICERS,
    PACKED,
    UNITS,
    Done,
    Template,
    is_changed,
    make_template,
    rows,
)

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
STEPS_WANTED = 20_000 if IS_CAMPAIGN else 150
POLICY = load_policy()
DAY_S = 86_400
DEEP = {
    "fin_receipts:DELIVERED", "fin_receipts:CANCELLED", "fin_applications:DECLINED", "fin_pledges:RELEASED",
    "fin_pledges:VOID", "fin_pledges:REALISED", "fin_facilities:FROZEN", "fin_facilities:WRITTEN_OFF",
    "fin_facilities:CLOSED", "fin_loans:REPAID", "fin_loans:OVERPAID", "fin_loans:WRITTEN_OFF",
    "fin_margin_calls:CURED", "fin_margin_calls:BREACHED", "fin_receipts:SPLIT",
}  # fmt: skip


class FinanceMachine(CreditMachine):
    """The second half: money, enforcement, corrections, time, the chain's refusals, and what holds after each step."""

    # Money

    @rule(place=places, amount=sizes)
    def draw(self, place: int, amount: str) -> None:
        found = self.pick(
            "SELECT id, lender, limit_minor FROM fin_facilities ORDER BY state <> 'ACTIVE', id",
            place % 4,
        )
        if found is None:
            return
        done = self.hands.do(lending.draw, BORROWER, facility=found.id, amount=amount)
        if done is None:
            return
        # V3: by hand from prices and tins; 20 % haircut, 60 % category cap, 70 % advance rate of grade A.
        price, day = self.prices[found.lender]
        assert (self.today() - day).days <= 30
        own = "FROM fin_receipts r JOIN fin_pledges p ON p.receipt = r.id WHERE p.facility = :f AND p.state = 'ACTIVE'"
        receipt = rows(self.world.database, f"SELECT r.id {own}", f=found.id)[0][0]
        tins = len(
            [unit for unit, _ in rows(self.world.database, check.CLAIMED, receipt=bytes(receipt)) if unit in UNITS]
        )
        base = tins * min(price, 20_000) * 100 * 8 // 10 * 6 // 10 * 7 // 10
        owes = self.owed(found.id)
        assert owes <= min(found.limit_minor, base)
        stored = json.loads(rows(self.world.database, "SELECT base FROM fin_loans WHERE id = :l", l=done["loan"])[0][0])
        assert stored["inputs"]["today"] == self.today().isoformat()
        assert self.world.change in ({}, {"gaps": 0})
        # V8: the chain itself shows the pledge at this moment.
        shown = self.world.ctx.registry.pledge_of(bytes(receipt))
        account = self.world.chain.signer.address(self.world.ctx.account(found.lender))
        assert (shown.state, shown.pledgee.lower()) == ("active", account.lower())

    def owed(self, facility: str) -> int:
        owes = "SELECT COALESCE(SUM(balance + interest_due + suspended), 0) FROM fin_loans WHERE facility = :f"
        return int(rows(self.world.database, f"{owes} AND state <> 'WRITTEN_OFF'", f=facility)[0][0])

    @rule(place=places, amount=sizes, whole=st.booleans())
    def repay(self, place: int, amount: str, whole: bool) -> None:
        found = self.pick(
            "SELECT id, facility FROM fin_loans ORDER BY CASE WHEN balance > 0 THEN 0 ELSE 1 END, id", place
        )
        if found is None:
            return
        if whole:
            with self.world.database.reading() as tx:
                amount = lending.owed(tx, found.id, on=self.today()).text()
        if amount != "0.00":
            self.hands.do(lending.repay, BORROWER, loan=found.id, amount=amount, reference=f"r{self.hands.count}")

    @rule(place=places, who=people)
    def ask_release(self, place: int, who: str) -> None:
        found = self.pick("SELECT id, lender, facility FROM fin_pledges WHERE state = 'ACTIVE' ORDER BY id", place)
        if found is None:
            return
        owes = self.owed(found.facility)
        done = self.hands.do(pledges.request_release, OFFICERS[found.lender][who], pledge=found.id)
        if done is not None:
            assert owes == 0  # V9
            maker = OFFICERS[found.lender][who].person
            seen = {
                "pledge": found.id,
                "request": done["request"],
                "maker": maker,
                "release_hash": done["release_hash"],
            }
            self.asked.append(("release", found.lender, seen, pledges.approve_release))

    @rule(place=places, price=st.sampled_from([6_000, 10_000]), bid=st.sampled_from([None, "1000.00", "40000.00"]))
    def bad_way(self, place: int, price: int, bid: str | None) -> None:
        """A fallen price, a call that nobody answers, default and enforcement, so that their ends are reached often."""
        found = self.pick("SELECT DISTINCT f.id, f.lender FROM fin_facilities f JOIN fin_loans l ON l.facility = f.id "
                          "WHERE f.state IN ('ACTIVE', 'WATCH') AND l.balance > 0 ORDER BY f.id", place)  # fmt: skip
        if found is None:
            return
        maker, checker = OFFICERS[found.lender]["maker"], OFFICERS[found.lender]["checker"]
        self.quote(found.lender, price)
        self.judge()
        self.nights(5)
        self.nights(2)
        self.judge()
        steps = [(enforcement.propose_enforcement, enforcement.enforce)]
        if bid != "40000.00":
            steps.append((enforcement.propose_write_off, enforcement.write_off))
        for number, (ask, act) in enumerate(steps):
            asked = self.hands.do(ask, maker, facility=found.id)
            if asked is None:
                return
            proof = {"request": asked["request"], "proposal": asked["proposal"]}
            self.hands.do(act, checker, facility=found.id, **proof)
            self.settle()
            if number == 0 and bid is not None:
                self.hands.do(enforcement.book_sale, checker, facility=found.id, costs="10.00",
                              bids=[{"bidder": "a", "amount": bid}])  # fmt: skip
                self.settle()

    @rule(place=places, who=people, what=st.sampled_from([
        (freezing.propose_unfreeze, freezing.unfreeze, ("FROZEN",)),
        (enforcement.propose_enforcement, enforcement.enforce, ("DEFAULTED",)),
        (enforcement.propose_write_off, enforcement.write_off, ("ENFORCING",)),
    ]))  # fmt: skip
    def propose(self, place: int, who: str, what: Any) -> None:
        command, then, (state,) = what
        found = self.pick("SELECT id, lender FROM fin_facilities WHERE state = :s ORDER BY id", place, s=state)
        if found is None:
            return
        done = self.hands.do(command, OFFICERS[found.lender][who], facility=found.id)
        if done is not None:
            self.asked.append((state, found.lender, {"facility": found.id, "request": done["request"],
                                                     "proposal": done["proposal"]}, then))  # fmt: skip

    @rule(place=places, who=people)
    def approve_proposal(self, place: int, who: str) -> None:
        if not self.asked:
            return
        _, bank, arguments, command = self.asked[place % len(self.asked)]
        approver = OFFICERS[bank][who]
        done = self.hands.do(command, approver, **arguments)
        if done is None:
            return
        asked = rows(
            self.world.database,
            "SELECT person FROM fin_command_log WHERE org = :o AND key = :k",
            o=bank,
            k=arguments["request"],
        )
        assert asked[0][0] != approver.person  # V7
        if "pledge" in arguments:
            assert self.owed(arguments["pledge"][:16]) == 0  # V9

    @rule(place=places, proceeds=st.sampled_from(["1000.00", "40000.00"]))
    def sell(self, place: int, proceeds: str) -> None:
        found = self.pick("SELECT id, lender FROM fin_facilities WHERE state = 'ENFORCING' ORDER BY id", place)
        if found is not None:
            self.hands.do(enforcement.book_sale, OFFICERS[found.lender]["checker"], facility=found.id, costs="10.00",
                          bids=[{"bidder": "a", "amount": proceeds}])  # fmt: skip

    @rule(place=places)
    def recover(self, place: int) -> None:
        found = self.pick("SELECT id, lender FROM fin_facilities WHERE state = 'WRITTEN_OFF' ORDER BY id", place)
        if found is not None:
            self.hands.do(enforcement.recover, OFFICERS[found.lender]["maker"], facility=found.id, amount="7.00",
                          reference=f"x{self.hands.count}")  # fmt: skip

    @rule(place=places, who=people, act=st.sampled_from(["freeze", "hold", "lift", "margin", "return"]), amount=sizes)
    def tend(self, place: int, who: str, act: str, amount: str) -> None:
        found = self.pick("SELECT id, lender FROM fin_facilities ORDER BY id", place)
        if found is None:
            return
        officer = OFFICERS[found.lender][who]
        if act == "freeze" and place % 3 == 0:
            self.hands.do(freezing.freeze, officer, facility=found.id)
        elif act in ("hold", "lift"):
            self.hands.do(margin.set_dispute, officer, facility=found.id, is_disputed=act == "hold" and place % 4 == 0)
        elif act == "margin":
            self.hands.do(
                margin.post_margin, officer, facility=found.id, amount=amount, reference=f"c{self.hands.count}"
            )
        elif act == "return":
            self.hands.do(margin.return_margin, officer, facility=found.id, amount=amount)

    # Time, chain, machinery

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.world.settle()
        self.is_settled = True

    @rule()
    def chain_step(self) -> None:
        self.world.sender.step(self.world.clock * 1_000)

    @rule()
    def reconcile_alone(self) -> None:
        assert reconcile(self.world.database, self.world.ctx, now=self.world.clock).mismatches == []

    @rule()
    def judge(self) -> None:
        monitor(self.world.database, self.world.ctx, now=self.world.clock)

    @rule(seconds=st.sampled_from([1, 600, 7_300]))
    def wait(self, seconds: int) -> None:
        self.world.clock += seconds

    @rule(nights=st.sampled_from([1, 1, 2, 5, 40] if IS_CAMPAIGN else [1, 1, 2, 5]))
    def nights(self, nights: int) -> None:
        for _ in range(nights):
            done = end_of_day(self.world.database, POLICY, self.today(), now=self.world.clock)
            assert done.differences == {}
            self.world.clock += DAY_S

    @rule(days=st.integers(0, 3), bank=banks, who=people)
    def close_books(self, days: int, bank: str, who: str) -> None:
        until = (self.today() - timedelta(days=days)).isoformat()
        asked = self.hands.do(periods.propose_close_period, OFFICERS[bank]["maker"], until=until)
        if asked is None:
            assert days == 0 or until <= self.closed.get(bank, ("", 0))[0]
            return
        values = {"until": until, "request": asked["request"], "proposal": asked["proposal"]}
        if self.hands.do(periods.close_period, OFFICERS[bank][who], **values) is not None:
            assert OFFICERS[bank][who].person != OFFICERS[bank]["maker"].person
            self.closed[bank] = (until, self.entries_until(bank, until))

    # The chain refuses

    @rule(is_paused=st.sampled_from([True, False, False]))
    def pause_contract(self, is_paused: bool) -> None:
        registry = self.world.ctx.registry
        if self.is_paused == is_paused:
            return
        self.is_paused, self.pauses = is_paused, self.pauses + 1
        data = registry.pause_call() if is_paused else registry.unpause_call()
        with self.world.database.transaction() as tx:
            enqueue(tx, account="pauser", to=registry.address, data=data, purpose="pause", now_ms=1,
                    reference=str(self.pauses))  # fmt: skip

    @rule(place=places, who=people)
    def retry(self, place: int, who: str) -> None:
        """A person sees to a case: sends it again, or finds that it has to be asked for anew."""
        org = [*BANKS, CUSTODIAN.org][place % 3]
        with self.world.database.reading() as tx:
            found = chaincases.chain_cases(tx, org)
        if not found:
            return
        case = found[place % len(found)]
        FinanceMachine.reached[f"case:{case.purpose}"] += 1
        if case.kind == "receipt":
            self.hands.do(chaincases.retry_receipt, CUSTODIAN, receipt=case.subject)
        else:
            self.hands.do(chaincases.retry_pledge, OFFICERS[org][who], pledge=case.subject)

    @rule(place=places, who=people)
    def cure(self, place: int, who: str) -> None:
        found = self.pick(
            "SELECT id, lender, state FROM fin_facilities WHERE state IN ('ENFORCING', 'WRITTEN_OFF') ORDER BY id",
            place,
        )
        if found is None:
            return
        done = self.hands.do(enforcement.cure_enforcement, OFFICERS[found.lender][who], facility=found.id)
        assert done is None or found.state == "WRITTEN_OFF" or self.owed(found.id) == 0

    @rule(place=places)
    def split(self, place: int) -> None:
        """Into a container and each thing directly in it; each claim goes with the innermost (V2)."""
        found = self.pick("SELECT id, item FROM fin_receipts WHERE state = 'SEALED' ORDER BY issued_s, id", place)
        if found is None or found.item not in PACKED:
            return
        parts = [found.item, *PACKED[found.item]]
        done = self.hands.do(receipts.split_receipt, CUSTODIAN, receipt=b64u(bytes(found.id)), parts=parts)
        if done is not None:
            whole = rows(self.world.database, check.CLAIMED, receipt=bytes(found.id))
            children = [
                row
                for child in done["children"].values()
                for row in rows(self.world.database, check.CLAIMED, receipt=unb64u(child, length=32))
            ]
            summed: Counter[str] = Counter()
            for item, quantity in children:
                summed[item] += quantity
            assert summed == Counter(dict(whole))

    @rule(place=places, act=st.sampled_from(["reverse", "refund", "surplus"]))
    def correct(self, place: int, act: str) -> None:
        if act == "reverse":
            found = self.pick("SELECT lender, reference FROM fin_payments ORDER BY reference DESC", place % 3)
            if found is not None:
                self.hands.do(corrections.reverse_payment, OFFICERS[found.lender]["checker"],
                              reference=found.reference)  # fmt: skip
        elif act == "refund":
            found = self.pick("SELECT l.id, f.lender FROM fin_loans l JOIN fin_facilities f ON f.id = l.facility "
                              "WHERE l.overpaid > 0 ORDER BY l.id", place)  # fmt: skip
            if found is not None:
                self.hands.do(corrections.refund_overpayment, OFFICERS[found.lender]["checker"], loan=found.id)
        else:
            found = self.pick("SELECT s.id, f.lender FROM fin_sales s JOIN fin_facilities f ON f.id = s.facility "
                              "ORDER BY s.id", place)  # fmt: skip
            if found is not None:
                self.hands.do(corrections.pay_surplus, OFFICERS[found.lender]["checker"], sale=found.id)

    def entries_until(self, bank: str, day: str) -> int:
        counted = "SELECT COUNT(*) FROM fin_entries WHERE lender = :bank AND business_date <= :day"
        return int(rows(self.world.database, counted, bank=bank, day=day)[0][0])

    @rule(place=st.integers(0, 10_000), is_other=st.booleans())
    def say_again(self, place: int, is_other: bool) -> None:
        """V11: a command said twice has one effect; another command under its key is refused."""
        if not self.hands.done:
            return
        done: Done = self.hands.done[place % len(self.hands.done)]
        before, size = check.states(self.world.database), self.log_size()
        who, values = done.who, done.arguments
        if is_other:
            who = actor(who.org, who.person + "2", *who.roles)
        try:
            with self.world.database.transaction() as tx:
                again = done.command(tx, self.world.ctx, who, **values)
            assert not is_other
            assert again == done.result
        except TracebondError as error:
            # Proposals look at the present before they look at their key: then the present may forbid them.
            if not (is_other and error.code == "idempotency_key_reused") and "propose_" not in done.command.__name__:
                raise
        assert (check.states(self.world.database), self.log_size()) == (before, size)

    @rule(table=st.sampled_from(check.APPEND_ONLY), verb=st.sampled_from(["UPDATE", "DELETE"]))
    def tamper(self, table: str, verb: str) -> None:
        check.check_append_only(self.world.database, table, verb)

    # What holds after each of them

    @invariant()
    def holds(self) -> None:
        FinanceMachine.steps += 1
        database = self.world.database
        if not is_changed(database, self.seen) and not self.is_settled:
            # Nothing was committed since the last step, so all that held still holds.
            return
        after = check.states(database)
        logged = check.check_command_log(database, self.logged)
        check.check_every_change_is_logged(self.before, after, logged, database)
        self.reached.update({f"{table}:{state}" for (table, _), state in after.items()})
        self.before, self.logged = after, self.log_size()
        check.check_claims(self.world)
        check.check_books(database)
        check.check_control_accounts(database)
        check.check_schedules(database)
        check.check_payments(database)
        check.check_four_eyes(database)
        check.check_cover(database)
        for bank, (until, count) in self.closed.items():
            assert self.entries_until(bank, until) == count
        head = self.world.chain.chain.block_hash(self.world.chain.chain.block_number()) or ""
        if head != self.head:
            self.head = head
            check.check_claims_on_chain(self.world)
        if self.is_settled:
            check.check_chain_agrees(self.world)
            self.is_settled = False

    @invariant()
    def decisions_replay(self) -> None:
        """V16: the stored inputs give the stored decision again."""
        for table, column in (("fin_applications", "decision"), ("fin_loans", "base")):
            for (text,) in rows(self.world.database, f"SELECT {column} FROM {table}"):
                if hash(text) in self.replayed:
                    continue
                self.replayed.add(hash(text))
                stored = json.loads(text)
                again = decide(stored["inputs"], load_policy(stored["decision"]["policy"]))
                assert json.loads(json.dumps(again)) == stored["decision"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Template:
    return make_template(tmp_path_factory.mktemp("machine") / "template", sqlite_template)


def test_any_sequence_of_commands_keeps_money_and_pledges_right(
    template: Template, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(text: str) -> None:
        if IS_CAMPAIGN:
            with capsys.disabled():
                sys.stdout.write(f"\n{text}")
                sys.stdout.flush()

    FinanceMachine.template, FinanceMachine.steps = template, 0
    FinanceMachine.reached.clear()
    turn, began = 0, time.process_time()
    while FinanceMachine.steps < STEPS_WANTED:
        turn += 1
        machine = seed(turn)(FinanceMachine)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=25 if IS_CAMPAIGN else 5,
                stateful_step_count=100 if IS_CAMPAIGN else 40,
                deadline=None,
                print_blob=True,
                database=None,
                # On a real chain a step is slow: a failing run is replayed by its seed, not made smaller.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
        say(f"{FinanceMachine.steps} steps, seeds 1 to {turn}, {time.process_time() - began:.0f} s of processor time")
    assert FinanceMachine.steps >= STEPS_WANTED
    say(f"reached: {dict(sorted(FinanceMachine.reached.items()))}")
    if IS_CAMPAIGN:
        # A campaign that never came to these states would show little.
        assert set(FinanceMachine.reached) >= DEEP
