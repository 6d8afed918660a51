"""Checking a case file offline: signature, hashes, four eyes, the decision computed again, and each row in the log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.canonical import b64u, canonical_bytes, parse_json, sha256, unb64u
from core.crypto import P256Public
from core.errors import Rejected
from core.jws import split_jws
from core.merkle import leaf_hash, verify_inclusion
from core.money import parse_money
from core.notes import open_note, read_checkpoint, read_verifier
from core.records import open_record
from finance.case import CASE_TYP, evidence_of
from finance.decision import replay
from finance.policy import read_policy

BYTES_MAX: Final = 64 * 1024 * 1024
_HASHED: Final = ("org", "key", "name", "person", "user", "reason", "policy", "at_s", "body", "result", "business_date")


@dataclass(frozen=True)
class CaseReport:
    """What a case file proves.

    Attributes:
        signer: the operator's organisation as the file says it; ``key`` is the RFC 7638 thumbprint of the key that
            signed, to compare with the operator's entry in the contract.
        is_pinned: whether the reader had named the key beforehand.
        waiting: commands whose ``audit`` record was not under a checkpoint yet when the file was made.
        log: origin and size of the checkpoint that the rows stand under; None when there is none.
    """

    application: str
    state: str
    outcome: str
    signer: str
    key: str
    is_pinned: bool
    commands: int
    waiting: int
    approvals: int
    evidence: int
    log: tuple[str, int] | None


def check_case(data: bytes, *, key: str | None = None, log: str | None = None) -> CaseReport:
    """Everything that a case file says, checked against itself and the keys that the reader trusts.

    Args:
        key: the thumbprint of the operator's record key, known from the contract; None takes the file's own.
        log: the log's verifier key (name+hash+base64); None takes the file's own.

    Raises:
        Rejected: the file is malformed, changed, or signed by another key. Conflict: ``not_reproducible``.
    """
    case, signer = _opened(data, key)
    try:
        return _checked(case, signer, is_pinned=key is not None, log=log)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _bad(f"The file is signed but malformed: {error!r}.", "") from error


def _checked(case: Mapping[str, Any], signer: P256Public, *, is_pinned: bool, log: str | None) -> CaseReport:
    terms, application = case["terms"], case["application"]
    _same(sha256(canonical_bytes(terms)), application["terms_hash"], "terms")
    _same(sha256(canonical_bytes(case["decision"])), terms["decision"], "decision")
    for name in ("lender", "borrower", "receipt", "amount", "tenor_days"):
        if terms[name] != application[name]:
            raise _bad(f"The application's {name} is not that of its terms.", name)
    policy = read_policy(case["policy"]["source"].encode("utf-8"))
    _same(policy.digest, terms["policy_hash"], "policy")
    replay(case["inputs"], case["decision"], policy)
    if case["evidence"] != evidence_of(case):
        raise _bad("The list of evidence is not what inputs and decision cite.", "evidence")
    for command in case["commands"]:
        _check_command(command)
    _check_approvals(case)
    _check_books(case.get("facility"))
    head, waiting = _check_log(case, signer, log)
    return CaseReport(
        application["id"], application["state"], case["decision"]["outcome"], case["signer"]["org"],
        signer.thumbprint(), is_pinned, len(case["commands"]), waiting, len(case["approvals"]),
        len(case["evidence"]), head,
    )  # fmt: skip


def _opened(data: bytes, key: str | None) -> tuple[dict[str, Any], P256Public]:
    jws = split_jws(data.strip(), typ=CASE_TYP, bytes_max=BYTES_MAX)
    case = parse_json(jws.payload, bytes_max=BYTES_MAX)
    needed = {"v", "made_s", "application", "terms", "inputs", "decision", "evidence", "policy", "approvals",
              "facility", "commands", "log", "signer"}  # fmt: skip
    if not isinstance(case, dict) or set(case) != needed or case["v"] != 1:
        raise _bad("This is no case file of version 1.", "v")
    signer = P256Public.from_jwk(case["signer"]["jwk"])
    if jws.kid != signer.thumbprint() or (key is not None and key != jws.kid):
        raise Rejected("Another key signed this file than the one expected.", code="wrong_key", pointer="signer")
    jws.check(signer)
    return case, signer


def _check_command(command: Mapping[str, Any]) -> None:
    _same(sha256(canonical_bytes({name: command[name] for name in _HASHED})), command["row_hash"], "commands")


def _check_approvals(case: Mapping[str, Any]) -> None:
    """Nobody approves an own command, and each approval stands over a hash that a command shows."""
    subject = f"application/{case['application']['id']}"
    seen: set[tuple[str, str, str]] = set()
    logged = {(c["person"], c["at_s"]) for c in case["commands"]}
    for one in case["approvals"]:
        if one["maker"] == one["checker"]:
            raise _bad("A person approved an own command.", "approvals")
        mark = (one["subject"], one["seen_hash"], one["checker"])
        if mark in seen:
            raise _bad("A person approved twice.", "approvals")
        seen.add(mark)
        if one["subject"] == subject and one["seen_hash"] != case["application"]["terms_hash"]:
            raise _bad("An approval was given over other terms.", "approvals")
        if (one["checker"], one["at_s"]) not in logged:
            raise _bad("An approval has no row in the command log.", "approvals")


def _check_books(facility: Mapping[str, Any] | None) -> None:
    for loan in (facility or {}).get("loans", ()):
        for entry in loan["entries"]:
            sides = [_sum(entry["postings"], place) for place in (1, 2)]
            if sides[0] != sides[1]:
                raise _bad(f"Entry {entry['number']} does not balance.", "facility")


def _sum(postings: Sequence[Sequence[str]], place: int) -> int:
    return sum(parse_money(posting[place], is_zero_allowed=True).minor for posting in postings)


def _check_log(case: Mapping[str, Any], signer: P256Public, log: str | None) -> tuple[tuple[str, int] | None, int]:
    waiting = sum(command["audit"] is None for command in case["commands"])
    note = case["log"]["checkpoint"]
    if note is None:
        return None, waiting
    text, _ = open_note(note, [read_verifier(case["log"]["verifier"] if log is None else log)])
    head = read_checkpoint(text)
    for command in case["commands"]:
        place = command["audit"]
        if place is None:
            continue
        raw = place["record"].encode("ascii")
        record = open_record(raw, signer)
        if record.t != "audit" or record.payload["row"] != command["row_hash"]:
            raise _bad("An audit record speaks of another row.", "commands")
        path = [unb64u(node, length=32) for node in place["path"]]
        verify_inclusion(place["leaf"], head.size, leaf_hash(raw), path, head.root)
    return (head.origin, head.size), waiting


def _same(found: bytes, told: str, pointer: str) -> None:
    if b64u(found) != told:
        raise _bad(f"The hash of {pointer} is not the one that was signed over.", pointer)


def _bad(message: str, pointer: str) -> Rejected:
    return Rejected(message, code="bad_case", pointer=pointer)


def report_text(report: CaseReport) -> str:
    """The report in sentences for a person."""
    where = "no checkpoint yet" if report.log is None else f"log {report.log[0]} at size {report.log[1]}"
    pinned = "the key you named" if report.is_pinned else "compare this key with the operator's entry in the contract"
    lines = [
        f"Case {report.application}: {report.state}, decided {report.outcome}.",
        f"Signed by {report.signer} with key {report.key} ({pinned}).",
        "The decision was computed again from its inputs and policy: the same, bit for bit.",
        f"{report.commands} commands, {report.commands - report.waiting} proven in {where}, {report.waiting} waiting.",
        f"{report.approvals} approvals, none by its own maker; {report.evidence} events cited.",
    ]
    return "\n".join(lines)


def report_json(report: CaseReport) -> str:
    """The report for programs."""
    return json.dumps(report.__dict__, ensure_ascii=False, indent=1)
