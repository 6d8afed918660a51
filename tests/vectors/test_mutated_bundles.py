"""Two verifiers that share no code, over one corpus of forged bundles: all refused, both for the same reason."""

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.bundle import Answers
from core.canonical import b64u, sha256
from core.crypto import Ed25519Private
from core.errors import Rejected
from core.notes import COSIGNATURE, Verifier, cosign
from core.prefixmap import map_key
from core.proofs import Policy, Report, questions, verify
from tests.core.test_proofs import BOX, GTIN, LOT, OTHER, PALLET, TIN, observed, packed
from tests.small_log import (
    CONTRACT,
    DEVICE_ISS,
    DEVICE_KEY,
    GENESIS,
    MAKER,
    MIRROR,
    OPERATOR_KEY,
    SmallLog,
    answered,
    encoded,
)
from tests.vectors import mutations

SCRIPT = Path(__file__).parent / "verify_corpus.mjs"
MILK = "https://id.gs1.org/01/09521234543220/10/M1"
PER_KIND = 2
EXPECTED = {
    "bad_answer", "bad_base64url", "bad_bundle", "bad_checkpoint", "bad_disclosure", "bad_inclusion_proof",
    "bad_item_leaves", "bad_json", "bad_kind", "bad_map_proof", "bad_note", "bad_number", "bad_signature",
    "bad_state_leaf", "bad_verifier_key", "duplicate_key", "foreign_step", "hidden_up_link", "missing_entry",
    "missing_history", "missing_key_history", "not_anchored", "not_canonical", "stray_history", "too_deep",
    "unknown_signer", "wrong_chain", "wrong_contract", "wrong_log", "wrong_registry",
}  # fmt: skip
FIELDS: tuple[str, ...] = (
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
FIELDS += ("unnamed", "other_logs")


@dataclass
class Log:
    """What a node knows of one log."""

    name: str
    known: dict[str, str]
    chain_id: int
    genesis: str
    policy: Policy

    def answers(self, data: bytes) -> Answers:
        return Answers(self.chain_id, self.genesis, answered(self.known, questions(data)))

    def head(self) -> dict[str, Any]:
        return {"log": self.name, "known": self.known, "chain_id": self.chain_id, "genesis": self.genesis}


@dataclass
class Source:
    """A good bundle, another of the same log, and the log."""

    log: Log
    bundle: dict[str, Any]
    other: dict[str, Any]


def made_of_milk() -> dict[str, Any]:
    return {
        "type": "TransformationEvent",
        "eventTime": "2026-11-01T07:00:00.000Z",
        "eventTimeZoneOffset": "+08:00",
        "bizStep": "creating_class_instance",
        "inputQuantityList": [{"epcClass": MILK, "quantity": 10}],
        "outputEPCList": [TIN, OTHER],
        "ilmd": {"cbvmda:lotNumber": "L1"},
    }


def small(name: str, log: SmallLog) -> Log:
    policy = Policy(CONTRACT, (MIRROR.encode(),))
    return Log(name, log.known(), 7, GENESIS, policy)


def whole_story() -> SmallLog:
    log = SmallLog()
    milk = {"quantityList": [{"epcClass": MILK, "quantity": 10}]}
    log.message(observed(bizStep="receiving", **milk) | {"epcList": []})
    log.message(made_of_milk())
    log.message(packed(BOX, TIN, OTHER), packed(PALLET, BOX))
    log.message(observed(PALLET, bizStep="shipping"), observed(OTHER))
    log.message(observed(TIN, bizStep="retail_selling", disposition="retail_sold"))
    return log


def cosigned_twice(bundle: dict[str, Any]) -> dict[str, Any]:
    key = Ed25519Private(sha256(b"second mirror"))
    second = Verifier("second.example", key.public, COSIGNATURE)
    text = bundle["checkpoint"].rpartition("\n\n")[0] + "\n"
    bundle["cosigners"].append(second.encode())
    bundle["checkpoint"] += cosign(text, second.name, key, time=1_700_000_300)
    return bundle


def sources() -> list[Source]:
    """Items of several kinds, with an ended key, an equivocation, an erasure and cosigners."""
    plain = whole_story()
    plain.close()
    tin = cosigned_twice(plain.bundle(TIN, [GTIN, LOT, BOX, PALLET, MILK], is_cosigned=True))
    lot = plain.bundle(LOT, [GTIN, MILK])
    pallet = plain.bundle(PALLET)
    ended = whole_story()
    last = ended.prev
    ended.message(observed(TIN, bizStep="inspecting"))
    ended.end(DEVICE_KEY, last, ended.seq - 2)
    erased = {"leaf": 4, "event": 0, "names": ["ilmd"], "owner": {"jws": "x", "items": [b64u(map_key("item", TIN))]}}
    ended.record("erasure", MAKER, erased, OPERATOR_KEY)
    ended.close()
    forked = whole_story()
    ids = sorted([b64u(bytes(32)), b64u(b"\1" * 32)])
    twice = {"kid": DEVICE_KEY.thumbprint(), "iss": DEVICE_ISS, "seq": 3, "ids": ids}
    forked.record("equivocation", MAKER, twice, OPERATOR_KEY)
    forked.close()
    first, second, third = small("plain", plain), small("ended", ended), small("forked", forked)
    withheld = ended.bundle(TIN, [GTIN, LOT, BOX, PALLET, MILK])
    for entry in withheld["entries"]:
        if entry["index"] == 4:
            entry["disclosures"] = entry["disclosures"][:1]
    return [
        Source(first, tin, plain.bundle(OTHER, [GTIN, LOT, BOX, PALLET, MILK])),
        Source(first, lot, tin),
        Source(first, pallet, lot),
        Source(second, withheld, ended.bundle(OTHER, [GTIN, LOT, BOX, PALLET, MILK])),
        Source(third, forked.bundle(TIN, [GTIN, LOT, BOX, PALLET, MILK]), forked.bundle(BOX, [PALLET])),
    ]


def in_python(log: Log, data: bytes) -> Report | str:
    try:
        return verify(data, log.answers(data), log.policy)
    except Rejected as error:
        return error.code


def in_node(cases: list[tuple[Log, bytes]]) -> list[dict[str, Any]]:
    heads = {log.name: log.head() for log, _ in cases}
    lines = [json.dumps(head) for head in heads.values()]
    for log, data in cases:
        policy = {"log_contract": log.policy.log_contract, "mirrors": list(log.policy.mirrors), "mirrors_min": 1}
        lines.append(json.dumps({"log": log.name, "bundle": base64.b64encode(data).decode(), "policy": policy}))
    done = subprocess.run(
        ["node", str(SCRIPT)], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=170, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def told(report: dict[str, Any]) -> tuple[Any, ...]:
    return (*(report[name] for name in FIELDS), report["mirrors"], report["cosigners"])


def expected_of(report: Report) -> tuple[Any, ...]:
    return (*(getattr(report, name) for name in FIELDS), list(report.mirrors), list(report.cosigners))


@pytest.mark.timeout(180)
def test_every_mutant_is_refused_by_both_verifiers_for_the_same_reason() -> None:
    corpus = [
        (source.log, name, data)
        for number, source in enumerate(sources())
        for name, data in mutations.refused(source.bundle, source.other, seed=number, per_kind=PER_KIND)
    ]

    codes = [in_python(log, data) for log, _, data in corpus]
    results = in_node([(log, data) for log, _, data in corpus])

    assert len(corpus) > 2_000
    accepted = [name for (_, name, _), code in zip(corpus, codes, strict=True) if isinstance(code, Report)]
    assert accepted == []
    differ = [
        (log.name, name, code, result)
        for (log, name, _), code, result in zip(corpus, codes, results, strict=True)
        if result != {"refused": code}
    ]
    assert differ == []
    # Each way of refusing that a forged bundle can reach is reached.
    assert {str(code) for code in codes} >= EXPECTED


def test_what_may_be_left_out_is_told_by_both_verifiers_alike() -> None:
    cases = [(source, name, data) for source in sources() for name, data in mutations.weaker(source.bundle)]

    results = in_node([(source.log, data) for source, _, data in cases])

    assert len(cases) > 40
    for (source, name, data), result in zip(cases, results, strict=True):
        good, less = in_python(source.log, encoded(source.bundle)), in_python(source.log, data)
        assert isinstance(good, Report)
        assert isinstance(less, Report), (name, less)
        assert told(result["report"]) == expected_of(less), name
        shown_less = (less.hidden + less.hidden_related, less.unnamed, -len(less.cosigners))
        assert shown_less > (good.hidden + good.hidden_related, good.unnamed, -len(good.cosigners)), name


def test_a_history_left_out_is_refused_or_told_as_not_covered() -> None:
    cases = [(source, name, data) for source in sources() for name, data in mutations.omitted(source.bundle)]

    results = in_node([(source.log, data) for source, _, data in cases])

    covered = []
    for (source, name, data), result in zip(cases, results, strict=True):
        less = in_python(source.log, data)
        if isinstance(less, Report):
            assert told(result["report"]) == expected_of(less), name
            assert (less.coverage, less.completeness) in (("partial", "operator"), ("own", "operator"))
            covered.append(less.uncovered)
        else:
            assert result == {"refused": less}, name
    assert covered
    assert min(covered) > 0
