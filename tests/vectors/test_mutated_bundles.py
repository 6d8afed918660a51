"""Two verifiers that share no code, over one corpus of forged bundles: all refused, both for the same reason."""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.bundle import Answers
from core.canonical import b64u, sha256, unb64u
from core.crypto import Ed25519Private
from core.errors import Rejected
from core.notes import COSIGNATURE, Verifier, cosign
from core.prefixmap import map_key
from core.proofs import Policy, Report, questions, verify
from core.records import sign_record
from tests.core.test_proofs import BOX, GTIN, LOT, OTHER, PALLET, TIN, observed, packed
from tests.small_log import (
    CONTRACT,
    DEVICE_ISS,
    DEVICE_KEY,
    GENESIS,
    MAKER,
    MAKER_KEY,
    MIRROR,
    OLD_REGISTRY,
    OPERATOR,
    OPERATOR_KEY,
    REGISTRY,
    Entry,
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
RELATED = [GTIN, LOT, BOX, PALLET, MILK]


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


def whole_story(log: SmallLog | None = None) -> SmallLog:
    log = log or SmallLog()
    milk = {"quantityList": [{"epcClass": MILK, "quantity": 10}]}
    log.message(observed(bizStep="receiving", **milk) | {"epcList": []})
    log.message(made_of_milk())
    log.message(packed(BOX, TIN, OTHER), packed(PALLET, BOX))
    log.message(observed(PALLET, bizStep="shipping"), observed(OTHER))
    log.message(observed(TIN, bizStep="retail_selling", disposition="retail_sold"))
    return log


def moved_log(*, maker: dict[str, Any] | None = None, before: Sequence[tuple[int, int]] = ()) -> SmallLog:
    """A log whose contracts were deployed anew: each organisation has a record of the old registry and one of the new.

    Args:
        maker: what the maker's old record says otherwise.
    """
    log = SmallLog(OLD_REGISTRY, before)
    if maker is not None:
        payload = json.loads(unb64u(log.entries[1].data.split(b".")[1].decode())) | maker
        log.entries[1] = Entry(sign_record(payload, OPERATOR_KEY), log.entries[1].steps)
    log.registry = REGISTRY
    log.organisation(OPERATOR, OPERATOR_KEY, roles=1)
    log.organisation(MAKER, MAKER_KEY, roles=2)
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
    moved = whole_story(moved_log(before=[(1, 9), (0, 7)]))
    moved.close()
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
        Source(small("moved", moved), moved.bundle(TIN, [GTIN, LOT, BOX, PALLET, MILK]), moved.bundle(BOX, [PALLET])),
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
    return (*(report[name] for name in FIELDS), report["predecessors"], report["mirrors"], report["cosigners"])


def expected_of(report: Report) -> tuple[Any, ...]:
    before = [list(one) for one in report.predecessors]
    return (*(getattr(report, name) for name in FIELDS), before, list(report.mirrors), list(report.cosigners))


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


def without(bundle: dict[str, Any], *leaves: int) -> dict[str, Any]:
    return bundle | {"entries": [entry for entry in bundle["entries"] if entry["index"] not in leaves]}


def test_after_a_new_chain_an_old_org_record_counts_beside_the_one_that_the_contract_confirms() -> None:
    log = whole_story(moved_log())
    log.close()
    late = SmallLog(OLD_REGISTRY)
    late.registry = REGISTRY
    late.organisation(OPERATOR, OPERATOR_KEY, roles=1)
    late.organisation(MAKER, MAKER_KEY, roles=2)
    late.entries.append(late.entries.pop(2))
    late.org_leaves = [2, 3]
    whole_story(late).close()

    cases = [(small("moved", log), log.bundle(TIN, RELATED)), (small("late", late), late.bundle(TIN, RELATED))]
    results = in_node([(one, encoded(bundle)) for one, bundle in cases])

    for (one, bundle), result in zip(cases, results, strict=True):
        report = in_python(one, encoded(bundle))
        assert isinstance(report, Report), report
        assert told(result["report"]) == expected_of(report)
        assert (report.coverage, report.other_logs) == ("whole", 0)
    # The key's record stands before the new org records in one log, behind them in the other.
    assert [[e["index"] for e in bundle["entries"]][:3] for _, bundle in cases] == [[0, 1, 2], [2, 3, 4]]


def test_an_old_org_record_that_nothing_confirms_is_refused_by_both_for_the_same_reason() -> None:
    def moved(change: dict[str, Any] | None = None) -> SmallLog:
        log = whole_story(moved_log(maker=change))
        log.close()
        return log

    def twice(registry: str) -> SmallLog:
        log = SmallLog(OLD_REGISTRY)
        for log.registry in (registry, REGISTRY):
            log.organisation(OPERATOR, OPERATOR_KEY, roles=1)
            log.organisation(MAKER, MAKER_KEY, roles=2)
        whole_story(log).close()
        return log

    early = SmallLog()
    early.registry = OLD_REGISTRY
    early.organisation(MAKER, MAKER_KEY, roles=2)
    whole_story(early).close()
    good, reordered = moved(), early.bundle(TIN, RELATED)
    wholes = {
        "other account": (moved({"account": "0x" + "77" * 20}), "wrong_organisation"),
        "other roles": (moved({"roles": 3}), "wrong_organisation"),
        "other organisation": (moved({"org": "https://id.gs1.org/417/9521234500015"}), "wrong_organisation"),
        "two of the old registry": (twice(OLD_REGISTRY), "bad_bundle"),
        "one each of two old registries": (twice("0x" + "66" * 20), "bad_bundle"),
    }
    cases = [(name, small(name, log), log.bundle(TIN, RELATED), code) for name, (log, code) in wholes.items()]
    # Entries 0 and 1 are the old records of operator and maker, 3 and 4 the new ones.
    forged = {
        "later one missing": (without(good.bundle(TIN, RELATED), 4), "wrong_organisation"),
        "operator's later one missing": (without(good.bundle(TIN, RELATED), 3), "wrong_organisation"),
        "earlier one missing": (without(good.bundle(TIN, RELATED), 1), "wrong_signer"),
    }
    cases += [(name, small("good", good), bundle, code) for name, (bundle, code) in forged.items()]
    cases.append(("old one behind the new", small("early", early), reordered, "wrong_organisation"))
    beside = without(early.bundle(TIN, RELATED), 3)
    cases.append(("none of an old registry", small("early", early), beside, "ok"))

    results = in_node([(log, encoded(bundle)) for _, log, bundle, _ in cases])

    for (name, log, bundle, code), result in zip(cases, results, strict=True):
        found = in_python(log, encoded(bundle))
        assert ("ok" if isinstance(found, Report) else found) == code, name
        assert result.get("refused", "ok") == code, name


def test_a_successor_covers_its_predecessors_up_to_their_last_good_sizes() -> None:
    log = whole_story(SmallLog(before=[(1, 9), (0, 400)]))
    log.close()
    bundle = log.bundle(TIN, RELATED)

    def named(*numbers: int) -> bytes:
        place = {name: value for name, value in bundle["log"].items() if name != "before"}
        return encoded(bundle | {"log": place | ({"before": list(numbers)} if numbers else {})})

    cases = [(small("after", log), named(*numbers)) for numbers in [(1, 0), (1,), (), (0,), (0, 1), (1, 0, 0)]]
    results = in_node(cases)

    report = in_python(*cases[0])
    assert isinstance(report, Report)
    # What a predecessor held above the last good size of the one after it was never copied.
    assert report.predecessors == ((1, 9), (0, 9))
    assert report.other_logs == 0
    assert told(results[0]["report"]) == expected_of(report)
    assert [in_python(*case) for case in cases[1:]] == ["wrong_log"] * 5
    assert [result["refused"] for result in results[1:]] == [in_python(*case) for case in cases[1:]]
