"""Whatever people, markets, goods and time do to credit, V1-V16 hold: a state machine over the real commands."""

import json
import os
import shutil
import tempfile
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from core.errors import TracebondError
from finance import applications, enforcement, freezing, lending, margin, pledges, receipts
from finance.decision import decide
from finance.eod import close_period, end_of_day
from finance.monitoring import monitor
from finance.policy import load_policy
from finance.reconcile import reconcile
from tests.finance.world import BORROWER, CUSTODIAN, OWNER, PLACE, FinanceWorld, actor
from tests.properties import finance_rules as check
from tests.properties.finance_world import (
    BANKS,
    CONTAINER,
    ITEMS,
    OFFICERS,
    PALLETS,
    PRODUCT,
    SPELLINGS,
    UNITS,
    Done,
    Hands,
    Template,
    inside,
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
    "fin_margin_calls:CURED", "fin_margin_calls:BREACHED",
}  # fmt: skip
banks = st.sampled_from(BANKS)
people = st.sampled_from(["maker", "checker", "both", "twin"])
sizes = st.sampled_from(["1.00", "500.00", "2999.99", "6000.00", "15000.00", "29000.00"])
places = st.integers(0, 50)


class FinanceMachine(RuleBasedStateMachine):
    """One world; every rule is one or some commands of a person, or something that happens to the world."""

    template: Template
    steps: int = 0
    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tb-machine-"))
        self.world: FinanceWorld = self.template.copy(self.folder / "world")
        self.hands = Hands(self.world)
        self.prices: dict[str, tuple[int, date]] = dict.fromkeys(BANKS, (20_000, self.today()))
        self.closed: tuple[str, int] | None = None
        self.asked: list[tuple[str, str, dict[str, Any], Any]] = []
        self.head, self.is_settled = "", False
        self.before = check.states(self.world.database)
        self.logged = self.log_size()

    def teardown(self) -> None:
        for state in {f"{table}:{state}" for (table, _), state in check.states(self.world.database).items()}:
            FinanceMachine.reached[state] += 1
        self.world.database.close()
        self.world.chain.chain.close()
        shutil.rmtree(self.folder)

    # Looking

    def today(self) -> date:
        return check.as_date(
            rows(self.world.database, "SELECT value FROM fin_settings WHERE name = 'business_date'")[0][0]
        )

    def log_size(self) -> int:
        return int(rows(self.world.database, "SELECT COALESCE(MAX(number), 0) FROM fin_command_log")[0][0])

    def pick(self, sql: str, place: int, **values: Any) -> Any:
        found = rows(self.world.database, sql, **values)
        return found[place % len(found)] if found else None

    # Goods, prices, evidence

    @rule(item=st.sampled_from([*ITEMS, CONTAINER, *PALLETS]), spelling=places)
    def register(self, item: str, spelling: int) -> None:
        spelled = SPELLINGS[item][spelling % len(SPELLINGS[item])]
        before = rows(
            self.world.database, "SELECT item FROM fin_receipts WHERE state NOT IN ('CANCELLED', 'DELIVERED')"
        )
        done = self.hands.do(receipts.register_receipt, CUSTODIAN, item=spelled, owner=OWNER, place=PLACE)
        taken = set().union(*(inside(other) for (other,) in before)) if before else set()
        if done is not None:
            assert not taken & inside(item)

    @rule(place=places, deliver=st.booleans())
    def end_receipt(self, place: int, deliver: bool) -> None:
        found = self.pick("SELECT id FROM fin_receipts ORDER BY issued_s, id", place)
        if found is None:
            return
        live = rows(
            self.world.database, f"SELECT 1 FROM fin_pledges WHERE receipt = :r AND state IN {check.LIVE}", r=found.id
        )
        text = check.b64u(bytes(found.id))
        done = self.hands.do(receipts.end_receipt, CUSTODIAN, receipt=text, deliver=deliver)
        assert done is None or not live  # V6: nothing leaves under a live pledge.

    @rule(bank=banks, price=st.sampled_from([20_000, 20_000, 26_000, 15_000, 10_000, 6_000]))
    def quote(self, bank: str, price: int) -> None:
        self.hands.do(applications.record_quote, OFFICERS[bank]["maker"], product=PRODUCT, category="infant_formula",
                      unit="EA", price=str(price), cost="20000", source="exchange", median=str(price))  # fmt: skip
        self.prices[bank] = (price, self.today())

    @rule(
        change=st.sampled_from(
            [{}, {}, {}, {"findings": (("recalled", ("5:0",)),)}, {"quality": "reject"}, {"gaps": 2}]
        )
    )
    def goods_testify(self, change: dict[str, Any]) -> None:
        self.world.change.clear()
        self.world.change.update(change)

    # Application to pledge

    @rule(bank=banks, place=places, amount=sizes, kind=st.sampled_from(["bullet", "equal_instalment", "interest_only"]),
          tenor=st.sampled_from([1, 3, 30, 90]))  # fmt: skip
    def apply(self, bank: str, place: int, amount: str, kind: str, tenor: int) -> None:
        found = self.pick("SELECT item FROM fin_receipts WHERE state = 'SEALED' ORDER BY id", place)
        item = found.item if found is not None and place % 5 else UNITS[place % len(UNITS)]
        spelled = SPELLINGS[item][place % len(SPELLINGS[item])]
        self.hands.do(applications.submit_application, BORROWER, lender=bank, goods_item=spelled, amount=amount,
                      tenor_days=tenor, purpose="milk", repayment=kind)  # fmt: skip

    @rule(
        place=places,
        who=people,
        is_approved=st.sampled_from([True, True, True, False]),
        is_true=st.sampled_from([True, True, False]),
    )
    def approve(self, place: int, who: str, is_approved: bool, is_true: bool) -> None:
        found = self.pick(
            "SELECT id, lender, terms_hash FROM fin_applications WHERE state = 'IN_REVIEW' ORDER BY id", place
        )
        if found is None:
            return
        seen = check.b64u(bytes(found.terms_hash) if is_true else bytes(32))
        done = self.hands.do(applications.approve_application, OFFICERS[found.lender][who], application=found.id,
                             terms_hash=seen, is_approved=is_approved)  # fmt: skip
        assert done is None or is_true

    @rule(place=places)
    def accept(self, place: int) -> None:
        found = self.pick(
            "SELECT id, terms_hash FROM fin_applications WHERE state IN ('APPROVED', 'IN_REVIEW') ORDER BY state, id",
            place,
        )
        if found is not None:
            self.hands.do(
                applications.accept_offer,
                BORROWER,
                application=found.id,
                terms_hash=check.b64u(bytes(found.terms_hash)),
            )

    @rule(place=places, by_owner=st.booleans())
    def sign(self, place: int, by_owner: bool) -> None:
        found = self.pick("SELECT id FROM fin_pledges WHERE state IN ('RESERVED', 'SIGNED') ORDER BY id", place)
        if found is not None:
            self.hands.do(pledges.sign_pledge, BORROWER if by_owner else CUSTODIAN, pledge=found.id)

    @rule(place=places, is_void=st.sampled_from([False, False, False, True]))
    def send(self, place: int, is_void: bool) -> None:
        found = self.pick(
            "SELECT id, lender FROM fin_pledges WHERE state IN ('SIGNED', 'RESERVED') ORDER BY state DESC, id", place
        )
        if found is not None:
            command = pledges.void_pledge if is_void else pledges.send_pledge
            self.hands.do(command, OFFICERS[found.lender]["maker"], pledge=found.id)

    @rule(
        bank=banks,
        item=st.sampled_from([*PALLETS, CONTAINER]),
        amount=st.sampled_from(["6000.00", "15000.00", "30000.00"]),
        kind=st.sampled_from(["bullet", "equal_instalment"]),
        tenor=st.sampled_from([1, 3, 90]),
    )
    def whole_way(self, bank: str, item: str, amount: str, kind: str, tenor: int) -> None:
        """All of it at once, so that what comes after the pledge is reached often."""
        self.hands.do(receipts.register_receipt, CUSTODIAN, item=item, owner=OWNER, place=PLACE)
        self.settle()
        done = self.hands.do(applications.submit_application, BORROWER, lender=bank, goods_item=item, amount=amount,
                             tenor_days=tenor, purpose="milk", repayment=kind)  # fmt: skip
        if done is None:
            return
        for who in ("maker", "checker"):
            self.hands.do(applications.approve_application, OFFICERS[bank][who], application=done["application"],
                          terms_hash=done["terms_hash"], is_approved=True)  # fmt: skip
        offer = self.hands.do(
            applications.accept_offer, BORROWER, application=done["application"], terms_hash=done["terms_hash"]
        )
        if offer is None:
            return
        for side in (BORROWER, CUSTODIAN):
            self.hands.do(pledges.sign_pledge, side, pledge=offer["pledge"])
        self.hands.do(pledges.send_pledge, OFFICERS[bank]["maker"], pledge=offer["pledge"])
        self.settle()
        self.draw(0, amount)

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
        receipt, item = rows(self.world.database, f"SELECT r.id, r.item {own}", f=found.id)[0]
        tins = len([unit for unit in inside(item) if unit in UNITS])
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

    @rule(days=st.integers(0, 3))
    def close_books(self, days: int) -> None:
        until = self.today() - timedelta(days=days)
        try:
            with self.world.database.transaction() as tx:
                close_period(tx, until, now=self.world.clock)
        except TracebondError:
            assert days == 0
            return
        if self.closed is None or until.isoformat() > self.closed[0]:
            self.closed = (until.isoformat(), self.entries_until(until.isoformat()))

    def entries_until(self, day: str) -> int:
        return int(
            rows(self.world.database, "SELECT COUNT(*) FROM fin_entries WHERE business_date <= :day", day=day)[0][0]
        )

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
        after = check.states(database)
        logged = check.check_command_log(database, self.logged)
        check.check_every_change_is_logged(self.before, after, logged, database)
        self.before, self.logged = after, self.log_size()
        check.check_claims(self.world)
        check.check_books(database)
        check.check_control_accounts(database)
        check.check_schedules(database)
        check.check_payments(database)
        check.check_four_eyes(database)
        check.check_cover(database)
        if self.closed is not None:
            assert self.entries_until(self.closed[0]) == self.closed[1]
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
            for (text,) in rows(self.world.database, f"SELECT {column} FROM {table} ORDER BY id DESC LIMIT 2"):
                stored = json.loads(text)
                again = decide(stored["inputs"], load_policy(stored["decision"]["policy"]))
                assert json.loads(json.dumps(again)) == stored["decision"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Template:
    return make_template(tmp_path_factory.mktemp("machine") / "template", sqlite_template)


def test_any_sequence_of_commands_keeps_money_and_pledges_right(template: Template) -> None:
    FinanceMachine.template, FinanceMachine.steps = template, 0
    turn = 0
    while FinanceMachine.steps < STEPS_WANTED:
        turn += 1
        machine = seed(turn)(FinanceMachine)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=50 if IS_CAMPAIGN else 5,
                stateful_step_count=100 if IS_CAMPAIGN else 40,
                deadline=None,
                print_blob=True,
                database=None,
                # On a real chain a step is slow: a failing run is replayed by its seed, not made smaller.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    if IS_CAMPAIGN:
        # A campaign that never came to these states would show little.
        assert set(FinanceMachine.reached) >= DEEP
