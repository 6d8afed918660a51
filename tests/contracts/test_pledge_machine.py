"""PledgeRegistry against its model: random moves by random parties, state compared after each."""

import copy
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.contracts.harness import Reverted
from tests.contracts.pledge_model import LIVE, PLEDGE_STATES, STATES, Model, Refused
from tests.contracts.world import (
    ADMIN,
    CUSTODIAN,
    CUSTODIAN_ROLE,
    FIRST_BANK,
    MAKER,
    OTHER_CUSTODIAN,
    OTHER_OWNER,
    OTHER_REGULATOR,
    OWNER,
    PAUSER,
    REGULATOR,
    SECOND_BANK,
    SPARE,
    STRANGER,
    World,
    h,
    number,
)

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
SINGLES = [h(f"thing {count}") for count in range(4)]
LOTS = [h(f"lot {count}") for count in range(2)]
CAPACITY = 10
RECEIPTS = [number(count, custodian) for custodian in (CUSTODIAN, OTHER_CUSTODIAN) for count in range(3)]

receipts = st.sampled_from(RECEIPTS)
wrong_parts = st.lists(
    st.tuples(st.sampled_from([*SINGLES, *LOTS]), st.integers(0, CAPACITY + 1)), min_size=0, max_size=3
)
anybody = st.sampled_from([CUSTODIAN, OTHER_CUSTODIAN, SPARE, OWNER, FIRST_BANK, SECOND_BANK, REGULATOR, STRANGER])
banks = st.sampled_from([FIRST_BANK, SECOND_BANK])
regulators = st.sampled_from([REGULATOR, OTHER_REGULATOR])


def new_model() -> Model:
    organisation = {
        MAKER: "maker",
        CUSTODIAN: "custodian",
        SPARE: "custodian",
        OTHER_CUSTODIAN: "other custodian",
        OWNER: "owner",
        OTHER_OWNER: "other owner",
        FIRST_BANK: "first bank",
        SECOND_BANK: "second bank",
        REGULATOR: "regulator",
        OTHER_REGULATOR: "other regulator",
    }
    roles = {
        "maker": {"maker"},
        "custodian": {"custodian"},
        "other custodian": {"custodian"},
        "first bank": {"lender"},
        "second bank": {"lender"},
        "regulator": {"regulator"},
        "other regulator": {"regulator"},
    }
    acting = {name: (account, roles.get(name, set())) for account, name in organisation.items() if account != SPARE}
    return Model(organisation=organisation, acting=acting, pauser=PAUSER)


class PledgeMachine(RuleBasedStateMachine):
    """One example: a fresh world, an empty model, and moves."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.mark = self.world.node.snapshot()
        self.model = new_model()

    @initialize(data=st.data())
    def some_receipts_are_there(self, data: st.DataObject) -> None:
        """A start from which few moves lead everywhere; SPARE is an old account of the custodian."""
        for account in (SPARE, CUSTODIAN):
            self._act_as_custodian(account)
        self.set_capacity(LOTS[0])
        for receipt in (RECEIPTS[0], RECEIPTS[3]):
            self.seal_new(data, receipt)

    def _act_as_custodian(self, account: str) -> None:
        self.world.organisations.set_organisation(h("custodian"), h("key"), account, CUSTODIAN_ROLE, sender=ADMIN)
        self.model.acting["custodian"] = (account, {"custodian"})

    def _do(self, name: str, sender: str, *values: Any, calldata: tuple[Any, ...] | None = None, **more: Any) -> None:
        """One move on both sides: the same outcome, for the same reason, and the same state after it."""
        tried = copy.deepcopy(self.model)
        try:
            getattr(tried, name)(sender, *values, **more)
            expected = None
        except Refused as refusal:
            expected = str(refusal)
        try:
            getattr(self.world.pledges, name)(*(calldata or values), sender=sender)
            found = None
        except Reverted as reverted:
            found = str(reverted)
        assert found == expected, (name, values)
        if expected is None:
            self.model = tried
        self._compare([value for value in (*values, *(calldata or ())) if value in RECEIPTS])

    def _compare(self, touched: list[bytes]) -> None:
        pledges = self.world.pledges
        for key in [*SINGLES, *LOTS]:
            claimed = pledges.claimed(key)
            assert claimed == self.model.claimed(key)
            assert claimed <= self.model.capacity(key)
        for receipt in touched:
            self._compare_receipt(receipt)

    def _compare_receipt(self, receipt: bytes) -> None:
        expected = self.model.receipts.get(receipt)
        custodian, owner, parent, state, holds, singles, lots = self.world.pledges.receipt_at(receipt)
        pledgee, terms, pledge_state, count = self.world.pledges.pledge_of(receipt)
        if expected is None:
            assert (state, holds, singles, lots, pledge_state, count) == (0, 0, 0, 0, 0, 0)
            return
        shown = "pledged" if expected.state == "sealed" and expected.is_pledged else expected.state
        assert (custodian, owner, STATES[state]) == (expected.custodian, expected.owner, shown)
        assert parent == (expected.parent or bytes(32))
        assert holds == len(expected.holds)
        assert lots == len(expected.lots)
        assert singles + lots == len(expected.claims)
        assert count == len(expected.pledges)
        if expected.pledges:
            last = expected.pledges[-1]
            assert (pledgee, terms, PLEDGE_STATES[pledge_state]) == (last.pledgee, last.terms, last.state)
        for key in [*SINGLES, *LOTS]:
            is_live = expected.state in LIVE
            assert self.world.pledges.claim_of(receipt, key) == (expected.claims.get(key, 0) if is_live else 0)

    # ------------------------------------------------------------ moves that should succeed

    def _in(self, *states: str) -> list[bytes]:
        return [key for key, r in self.model.receipts.items() if r.state in states and not r.holds]

    def _custodian(self, receipt: bytes) -> str:
        found = self.model.receipts.get(receipt)
        acting = self.model.account(found.custodian if found else "0x" + receipt[:20].hex())
        return acting or (CUSTODIAN if receipt[:20] == number(0)[:20] else OTHER_CUSTODIAN)

    def _free_part(self, data: st.DataObject) -> list[tuple[bytes, int]]:
        keys = data.draw(st.lists(st.sampled_from([*SINGLES, *LOTS]), min_size=1, max_size=3, unique=True))
        part = []
        for key in keys:
            free = self.model.capacity(key) - self.model.claimed(key)
            if free > 0:
                part.append((key, data.draw(st.integers(1, free)) if key in self.model.capacities else 1))
        return part

    @rule(key=st.sampled_from([*LOTS, *LOTS, *SINGLES]))
    def set_capacity(self, key: bytes) -> None:
        self._do("set_capacity", MAKER, key, CAPACITY)

    def _open_numbers(self) -> list[bytes]:
        return [key for key in RECEIPTS if key not in self.model.receipts] + self._in("registering")

    @precondition(lambda self: self._open_numbers())
    @rule(data=st.data())
    def add_claims(self, data: st.DataObject) -> None:
        self.register(data, data.draw(st.sampled_from(self._open_numbers())))

    def register(self, data: st.DataObject, receipt: bytes) -> None:
        part = self._free_part(data) or [(SINGLES[0], 1)]
        goods, quantities = [key for key, _ in part], [quantity for _, quantity in part]
        self._do("register", self._custodian(receipt), receipt, OWNER, goods, quantities)

    def seal_new(self, data: st.DataObject, receipt: bytes) -> None:
        self.register(data, receipt)
        self._do("seal", self._custodian(receipt), receipt)

    @precondition(lambda self: self._open_numbers())
    @rule(data=st.data())
    def a_sealed_receipt(self, data: st.DataObject) -> None:
        self.seal_new(data, data.draw(st.sampled_from(self._open_numbers())))

    @precondition(lambda self: self._in("registering"))
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        receipt = data.draw(st.sampled_from(self._in("registering")))
        self._do("seal", self._custodian(receipt), receipt)

    @precondition(lambda self: self._in("sealed", "splitting"))
    @rule(data=st.data(), is_whole=st.booleans())
    def split(self, data: st.DataObject, is_whole: bool) -> None:
        receipt = data.draw(st.sampled_from(self._in("sealed", "splitting")))
        same = [key for key in RECEIPTS if key[:20] == receipt[:20] and key != receipt]
        free = [key for key in same if key not in self.model.receipts or self.model.receipts[key].parent == receipt]
        claims = dict(self.model.receipts[receipt].claims)
        if not is_whole:
            key = data.draw(st.sampled_from(sorted(claims)))
            claims = {key: data.draw(st.integers(1, claims[key]))}
        child = data.draw(st.sampled_from(free or same))
        self._do("split", self._custodian(receipt), receipt, child, list(claims), list(claims.values()))

    @precondition(lambda self: self._in("registering", "sealed"))
    @rule(data=st.data(), name=st.sampled_from(["cancel", "deliver"]), luck=st.integers(0, 2))
    def end(self, data: st.DataObject, name: str, luck: int) -> None:
        receipt = data.draw(st.sampled_from(self._in("registering", "sealed")))
        # Receipts must live for a while, or nothing else is ever tried on them.
        if luck == 0:
            self._do(name, self._custodian(receipt), receipt)

    @precondition(lambda self: self._in("sealed"))
    @rule(data=st.data(), bank=banks)
    def pledge(self, data: st.DataObject, bank: str) -> None:
        receipt = data.draw(st.sampled_from(self._in("sealed")))
        self._pledge(receipt, bank, OWNER, self._custodian(receipt), False, 0)
        names = st.sampled_from(["enforce", "release", "cure", "settle"])
        for name in data.draw(st.lists(names, max_size=3)):
            self._do(name, bank, receipt)

    def _pledge(self, receipt: bytes, bank: str, owner: str, custodian: str, is_late: bool, skew: int) -> None:
        terms = h("terms")
        deadline = self.world.node.now() + (-1 if is_late else 100_000)
        expected = self.model.receipts.get(receipt)
        nonce = (len(expected.pledges) if expected else 0) + skew
        signatures = [
            self.world.signature(signer, receipt, bank, terms, deadline=deadline, nonce=nonce)
            for signer in (owner, custodian)
        ]
        self._do(
            "pledge",
            bank,
            receipt,
            terms,
            calldata=(receipt, terms, deadline, *signatures),
            is_late=is_late,
            signers=(owner, custodian),
            nonce=nonce,
        )

    @precondition(lambda self: any(r.is_pledged for r in self.model.receipts.values()))
    @rule(data=st.data(), name=st.sampled_from(["release", "enforce", "enforce", "cure", "settle"]))
    def end_pledge(self, data: st.DataObject, name: str) -> None:
        receipt = data.draw(st.sampled_from([key for key, r in self.model.receipts.items() if r.is_pledged]))
        self._do(name, self.model.receipts[receipt].pledges[-1].pledgee, receipt)

    @rule(receipt=receipts, sender=regulators, luck=st.integers(0, 3))
    def hold(self, receipt: bytes, sender: str, luck: int) -> None:
        if luck == 0:
            self._do("hold", sender, receipt, h("reason"))

    @precondition(lambda self: any(r.holds for r in self.model.receipts.values()))
    @rule(data=st.data(), sender=regulators)
    def lift(self, data: st.DataObject, sender: str) -> None:
        receipt = data.draw(st.sampled_from([key for key, r in self.model.receipts.items() if r.holds]))
        self._do("lift", sender, receipt)

    @rule(account=st.sampled_from([CUSTODIAN, CUSTODIAN, SPARE]))
    def replace_the_custodians_key(self, account: str) -> None:
        self._act_as_custodian(account)

    # ------------------------------------------------------------- moves that may be refused

    @rule(receipt=receipts, child=receipts, part=wrong_parts, sender=anybody, luck=st.booleans())
    def any_claims(self, receipt: bytes, child: bytes, part: list[tuple[bytes, int]], sender: str, luck: bool) -> None:
        goods, quantities = [key for key, _ in part], [quantity for _, quantity in part]
        sender = self._custodian(receipt) if luck else sender
        self._do("register", sender, receipt, OTHER_OWNER, goods, quantities)
        self._do("split", sender, receipt, child, goods, quantities)

    @rule(receipt=receipts, sender=anybody, luck=st.booleans(), data=st.data())
    def any_move(self, receipt: bytes, sender: str, luck: bool, data: st.DataObject) -> None:
        sender = self._custodian(receipt) if luck else sender
        names = ["seal", "deliver", "release", "enforce", "cure", "settle", "lift"]
        self._do(data.draw(st.sampled_from(names)), sender, receipt)

    @rule(
        receipt=receipts,
        sender=anybody,
        signers=st.tuples(st.sampled_from([OWNER, OTHER_OWNER]), anybody),
        is_late=st.booleans(),
        skew=st.integers(0, 1),
    )
    def any_pledge(self, receipt: bytes, sender: str, signers: tuple[str, str], is_late: bool, skew: int) -> None:
        self._pledge(receipt, sender, *signers, is_late, skew)

    @rule(receipt=receipts, sender=anybody, data=st.data())
    def a_paused_moment(self, receipt: bytes, sender: str, data: st.DataObject) -> None:
        self._do("pause", PAUSER)
        self.any_move(receipt, sender, True, data)
        self._do("unpause", PAUSER)

    def teardown(self) -> None:
        try:
            for receipt in RECEIPTS:
                self._compare_receipt(receipt)
            for key in [*SINGLES, *LOTS]:
                assert self.world.pledges.capacity(key) == self.model.capacity(key)
        finally:
            self.world.node.revert(self.mark)


def test_any_sequence_of_moves_gives_what_the_model_gives(world: World) -> None:
    PledgeMachine.world = world
    # eth-tester is ten times slower; both run the same bytes.
    quick, campaign = (15, 1000) if world.node.name == "anvil" else (3, 100)
    examples = campaign if IS_CAMPAIGN else quick
    run_state_machine_as_test(
        PledgeMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60 if IS_CAMPAIGN else 30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
