"""What rules found about goods, as finance counts it."""

from dataclasses import replace

from finance.policy import load_policy
from finance.provenance import Evidence, grounds, with_findings
from ledger.findings_read import Finding

FOUND = Finding("f", "sold_twice", "serious", "item", "org", ("3:0", "9:0"), {}, "open", "", 9, 9)


def evidence() -> Evidence:
    return Evidence(item="item", as_of_s=100, events=(), custody_s=None)


def test_an_open_finding_that_the_policy_names_knocks_the_goods_out_with_its_events() -> None:
    policy = load_policy()

    found = grounds(with_findings(evidence(), [FOUND], policy), policy).knock_outs

    assert ("sold_twice", ("3:0", "9:0")) in [(reason.code, reason.events) for reason in found]


def test_a_finding_taken_back_and_a_policy_without_findings_count_nothing() -> None:
    taken_back = with_findings(evidence(), [replace(FOUND, state="withdrawn")], load_policy())
    before = with_findings(evidence(), [FOUND], load_policy("v1"))

    assert (taken_back, before) == (evidence(), evidence())


def test_an_impossible_movement_costs_continuity_and_knocks_nothing_out() -> None:
    found = with_findings(evidence(), [replace(FOUND, code="implausible_speed")], load_policy())

    assert (found.findings, found.gaps) == ((), 2)
