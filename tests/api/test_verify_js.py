"""The browser's verifier against the Python one: same bundles, same verdicts, no shared code."""

import base64
import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core.bundle import Answers
from core.canonical import b64u
from core.crypto import P256Private
from core.errors import Rejected
from core.proofs import Policy, questions, verify
from tests.core.test_proofs import (
    ELSEWHERE,
    GTIN,
    LOG,
    LOT,
    OTHER,
    PALLET,
    TIN,
    WHOLE,
    add_a_stranger,
    claim_absence,
    claim_another_item,
    claim_another_size,
    cut_step,
    drop_key_history,
    drop_organisation,
    hide_parent,
    observed,
)
from tests.small_log import CONTRACT, DEVICE_KEY, MIRROR, SmallLog, encoded

SCRIPT = Path(__file__).parent / "verify_cases.mjs"
POLICY = Policy(CONTRACT)
NUMBERS: tuple[str, ...] = (
    "item",
    "origin",
    "size",
    "time",
    "coverage",
    "uncovered",
    "completeness",
    "hidden",
    "hidden_related",
)
NUMBERS += ("unnamed", "other_logs")


def case(data: bytes, answers: Answers, policy: Policy = POLICY) -> dict[str, Any]:
    return {
        "bundle": base64.b64encode(data).decode(),
        "answers": {
            "chain_id": answers.chain_id,
            "genesis": answers.genesis,
            "calls": ["0x" + call.hex() for call in answers.calls],
        },
        "policy": {
            "log_contract": policy.log_contract,
            "mirrors": list(policy.mirrors),
            "mirrors_min": policy.mirrors_min,
        },
    }


def in_node(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps(each) for each in cases) + "\n"
    done = subprocess.run(["node", str(SCRIPT)], input=lines, capture_output=True, text=True, timeout=110, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def in_python(data: bytes, answers: Answers, policy: Policy = POLICY) -> str:
    try:
        verify(data, answers, policy)
    except Rejected as error:
        return error.code
    return "accepted"


def test_both_verifiers_report_the_same_of_bundles_that_hold() -> None:
    pinned = Policy(CONTRACT, (MIRROR.encode(),))
    suspects = SmallLog()
    first = suspects.message(observed(TIN))
    suspects.message(observed(TIN, bizStep="shipping"))
    suspects.end(DEVICE_KEY, first.id, 0)
    suspects.close()
    bundles = [
        (LOG, LOG.bundle(TIN, WHOLE), POLICY),
        (LOG, LOG.bundle(TIN, [GTIN, LOT]), POLICY),
        (LOG, LOG.bundle(TIN), POLICY),
        (LOG, LOG.bundle(PALLET), POLICY),
        (LOG, LOG.bundle(ELSEWHERE, [GTIN]), POLICY),
        (LOG, LOG.bundle(TIN, WHOLE, is_cosigned=True), pinned),
        (suspects, suspects.bundle(TIN), POLICY),
    ]
    good = [(encoded(bundle), log.answers_to(bundle), policy) for log, bundle, policy in bundles]

    results = in_node([case(*each) for each in good])

    for (data, answers, policy), result in zip(good, results, strict=True):
        expected, report = verify(data, answers, policy), result["report"]
        for name in NUMBERS:
            assert report[name] == getattr(expected, name)
        assert report["root"] == b64u(expected.root)
        assert report["mirrors"] == list(expected.mirrors)
        assert report["cosigners"] == list(expected.cosigners)
        assert [
            (e["leaf"], e["number"], e["org"], e["kid"], e["hidden"], e["is_suspect"]) for e in report["events"]
        ] == [(e.leaf, e.number, e.org, e.kid, e.hidden, e.is_suspect) for e in expected.events]
        assert result["asked"] == [{"to": q.to, "data": q.data} for q in questions(data)]


FORGERIES = (
    cut_step,
    hide_parent,
    drop_key_history,
    drop_organisation,
    claim_absence,
    claim_another_item,
    claim_another_size,
    add_a_stranger,
)


def test_both_verifiers_refuse_forged_bundles_for_the_same_reason() -> None:
    forged: list[tuple[bytes, Answers, Policy]] = []
    for forge in FORGERIES:
        bundle = copy.deepcopy(LOG.bundle(TIN, WHOLE))
        forge(bundle)
        forged.append((encoded(bundle), LOG.answers_to(bundle), POLICY))
    data, answers = encoded(LOG.bundle(TIN)), LOG.answers()
    calls = answers.calls
    late = SmallLog()
    late.end(DEVICE_KEY, None, -1)
    late.message(observed(TIN))
    late.close()
    early = SmallLog()
    early.entries.pop()
    early.message(observed(TIN))
    early.key(DEVICE_KEY)
    early.close()
    stranger = SmallLog()
    stranger.message(observed(TIN), key=P256Private.from_secret(b"stranger"))
    stranger.close()
    forged += [
        (data, answers, Policy("0x" + "99" * 20)),
        (data, Answers(8, answers.genesis, calls), POLICY),
        (data, Answers(7, answers.genesis, (calls[0], bytes(32), *calls[2:])), POLICY),
        (data, Answers(7, answers.genesis, (*calls[:5], bytes(128))), POLICY),
        (data.replace(b'"v":1', b'"v": 1', 1), answers, POLICY),
        (data.replace(b'"v":1', b'"v":1,"v":1', 1), answers, POLICY),
        (b"[]", answers, POLICY),
        (b"\xff", answers, POLICY),
        (encoded(LOG.bundle("https://example.com" + TIN.removeprefix("https://id.gs1.org"))), answers, POLICY),
        (encoded(LOG.bundle(TIN.replace("3213/", "3214/"))), answers, POLICY),
        (encoded(late.bundle(TIN)), late.answers(), POLICY),
        (encoded(early.bundle(TIN)), early.answers(), POLICY),
        (encoded(stranger.bundle(TIN)), stranger.answers(), POLICY),
    ]

    results = in_node([case(*each) for each in forged])

    expected = [in_python(*each) for each in forged]
    assert "accepted" not in expected
    assert [result.get("refused") for result in results] == expected


@pytest.mark.timeout(120)
def test_the_browser_refuses_every_changed_byte() -> None:
    data = encoded(LOG.bundle(TIN, [GTIN, LOT], is_cosigned=True))
    answers = LOG.answers()
    cases = []
    for position in range(0, len(data), 29):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 7)
        cases.append(case(bytes(changed), answers))

    results = in_node(cases)

    assert len(results) == len(cases) > 300
    assert [r for r in results if "report" in r or r["refused"].startswith("crash")] == []


def test_another_item_of_the_same_lot_is_no_proof_of_this_one() -> None:
    bundle = LOG.bundle(OTHER, [GTIN, LOT])

    assert in_node([case(encoded(bundle), LOG.answers())])[0]["report"]["item"] == OTHER
