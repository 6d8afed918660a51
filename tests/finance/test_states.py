"""Each state machine's whole (state, event) matrix: what is not in the table is a conflict."""

import pytest

from core.errors import Broken, Conflict
from finance.states import LIVE_PLEDGES, MACHINES, events_of, states_of, step

pytestmark = pytest.mark.unit

# By hand from the specification's section 3: every state that a machine may end in, and no other.
ENDS = {
    "application": {"DECLINED", "WITHDRAWN", "CONTRACTED", "EXPIRED"},
    "facility": {"CLOSED"},
    "pledge": {"VOID", "RELEASED", "REALISED"},
    "loan": {"REJECTED"},
    "margin_call": {"CURED", "BREACHED", "WITHDRAWN"},
    "partner": {"OFFBOARDED"},
    "token": {"REVOKED", "EXPIRED", "EXHAUSTED"},
    "receipt": {"SPLIT", "CANCELLED", "DELIVERED"},
    "guarantee": {"REJECTED", "RELEASED"},
    "mortgage": {"REJECTED", "RELEASED"},
    "compensation": {"PAID", "REJECTED"},
}


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_every_pair_is_a_listed_step_or_a_conflict(machine: str) -> None:
    for state in states_of(machine):
        for event in events_of(machine):
            target = MACHINES[machine].get((state, event))
            if target is not None:
                assert step(machine, state, event) == target
                continue
            with pytest.raises(Conflict) as caught:
                step(machine, state, event)
            assert caught.value.code == "illegal_transition"


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_machines_end_only_where_the_specification_says(machine: str) -> None:
    left = {state for state, _ in MACHINES[machine]}

    assert states_of(machine) - left == ENDS[machine]


@pytest.mark.parametrize(
    ("machine", "state", "event"),
    [
        ("application", "APPROVED", "return"), ("application", "APPROVED", "withdraw"),
        ("application", "DRAFT", "approve"),
        ("facility", "PENDING", "freeze"), ("facility", "CLOSED", "conditions_met"), ("facility", "FROZEN", "clear"),
        ("pledge", "RELEASED", "enforce"), ("pledge", "CHAIN_PENDING", "void"), ("pledge", "RESERVED", "send"),
        ("pledge", "ENFORCING", "release_approved"), ("loan", "REPAID", "repaid"), ("loan", "ACTIVE", "write_off"),
        ("margin_call", "CURED", "notice"), ("partner", "OFFBOARDED", "resume"), ("token", "REVOKED", "resume"),
        ("receipt", "PLEDGED", "deliver"), ("receipt", "PLEDGED", "split"), ("receipt", "CANCELLED", "sealed"),
    ],
)  # fmt: skip
def test_steps_that_would_lose_money_or_goods_are_conflicts(machine: str, state: str, event: str) -> None:
    with pytest.raises(Conflict, match="illegal_transition"):
        step(machine, state, event)


def test_the_live_set_of_pledges_is_the_specification_s() -> None:
    assert set(LIVE_PLEDGES) == {"RESERVED", "SIGNED", "CHAIN_PENDING", "ACTIVE", "RELEASING", "ENFORCING"}


def test_an_unknown_machine_is_a_fault_of_ours() -> None:
    with pytest.raises(Broken):
        step("goods", "NEW", "sell")
