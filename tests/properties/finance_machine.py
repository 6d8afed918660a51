"""The first half of the state machine of finance: its world, goods, prices, evidence, and the way to a pledge."""

import shutil
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from core.canonical import b64u
from finance import (
    applications,
    pledges,
    receipts,
)
from tests.finance.world import BORROWER, CUSTODIAN, OWNER, PLACE, FinanceWorld
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
    Hands,
    Template,
    inside,
    rows,
)

banks = st.sampled_from(BANKS)
people = st.sampled_from(["maker", "checker", "both", "twin"])
sizes = st.sampled_from(["1.00", "500.00", "2999.99", "6000.00", "15000.00", "29000.00"])
places = st.integers(0, 50)


class CreditMachine(RuleBasedStateMachine):
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
        self.closed: dict[str, tuple[str, int]] = {}
        self.is_paused, self.pauses = False, 0
        self.seen: list[int] = []
        self.replayed: set[int] = set()
        self.asked: list[tuple[str, str, dict[str, Any], Any]] = []
        self.head, self.is_settled = "", False
        self.before = check.states(self.world.database)
        self.logged = self.log_size()

    def teardown(self) -> None:
        for state in {f"{table}:{state}" for (table, _), state in check.states(self.world.database).items()}:
            self.reached[state] += 1
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
        taken = {name for (name,) in rows(self.world.database, check.LIVE_ITEMS)}
        done = self.hands.do(receipts.register_receipt, CUSTODIAN, item=spelled, owner=OWNER, place=PLACE)
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
        text = b64u(bytes(found.id))
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
        seen = b64u(bytes(found.terms_hash) if is_true else bytes(32))
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
                terms_hash=b64u(bytes(found.terms_hash)),
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

    def draw(self, place: int, amount: str) -> None:
        """Draw money; the second half says what must hold."""
        raise NotImplementedError

    def settle(self) -> None:
        """Let the chain catch up; in the second half."""
        raise NotImplementedError
