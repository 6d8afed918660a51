"""Proof bundles against a log built by the naive definitions: accepted as they are, refused in every changed byte."""

import copy
from typing import Any

import pytest

from contracts.compiler import ARTIFACTS
from core import bundle as shape
from core.canonical import b64u
from core.crypto import P256Private
from core.errors import Rejected
from core.proofs import Policy, Report, questions, verify
from tests.small_log import CONTRACT, DEVICE_KEY, MIRROR, SmallLog, encoded

pytestmark = pytest.mark.unit

TIN = "https://id.gs1.org/01/09521234543213/21/T1"
OTHER = "https://id.gs1.org/01/09521234543213/21/T2"
GTIN = "https://id.gs1.org/01/09521234543213"
LOT = "https://id.gs1.org/01/09521234543213/10/L1"
BOX = "https://id.gs1.org/00/095212345000000018"
PALLET = "https://id.gs1.org/00/095212345000000025"
ELSEWHERE = "https://id.gs1.org/01/09521234543213/21/T3"
POLICY = Policy(CONTRACT)


def observed(*items: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "ObjectEvent",
        "action": "OBSERVE",
        "eventTime": "2026-11-01T08:00:00.000Z",
        "eventTimeZoneOffset": "+08:00",
        "bizStep": "storing",
        "epcList": list(items),
        **more,
    }


def packed(parent: str, *children: str) -> dict[str, Any]:
    return {
        "type": "AggregationEvent",
        "action": "ADD",
        "eventTime": "2026-11-01T09:00:00.000Z",
        "eventTimeZoneOffset": "+08:00",
        "bizStep": "packing",
        "parentID": parent,
        "childEPCs": list(children),
    }


def story() -> SmallLog:
    log = SmallLog()
    log.message(observed(TIN, OTHER, action="ADD", bizStep="commissioning", ilmd={"cbvmda:lotNumber": "L1"}))
    log.message(packed(BOX, TIN, OTHER), packed(PALLET, BOX))
    log.message(observed(PALLET, bizStep="shipping"), observed(OTHER))
    log.message(observed(TIN, bizStep="retail_selling"))
    log.close()
    return log


LOG = story()
WHOLE = [GTIN, LOT, BOX, PALLET]


def checked(bundle: dict[str, Any], policy: Policy = POLICY) -> Report:
    return verify(encoded(bundle), LOG.answers_to(bundle), policy)


def test_a_whole_history_is_shown_as_whole() -> None:
    report = checked(LOG.bundle(TIN, WHOLE))

    assert [event.event["bizStep"] for event in report.events] == ["commissioning", "packing", "retail_selling"]
    assert (report.coverage, report.uncovered, report.completeness) == ("whole", 0, "operator")
    assert not any(event.is_suspect for event in report.events)


def test_a_history_left_out_is_counted_by_the_verifier() -> None:
    assert checked(LOG.bundle(TIN, [GTIN, LOT, BOX])).coverage == "partial"
    assert checked(LOG.bundle(TIN)).coverage == "own"
    assert checked(LOG.bundle(TIN, [GTIN, LOT])).uncovered == 1


def test_a_pinned_mirror_makes_it_complete_as_of_its_checkpoint() -> None:
    bundle = LOG.bundle(TIN, WHOLE, is_cosigned=True)

    assert checked(bundle, Policy(CONTRACT, (MIRROR.encode(),))).completeness == "cosigned"
    assert checked(bundle, Policy(CONTRACT, (MIRROR.encode(),), mirrors_min=2)).completeness == "operator"
    assert checked(bundle).completeness == "operator"


def test_an_item_that_was_never_named_is_proven_absent() -> None:
    report = checked(LOG.bundle(ELSEWHERE, [GTIN]))

    assert report.events == ()


def test_every_changed_byte_is_refused() -> None:
    data = encoded(LOG.bundle(TIN, WHOLE, is_cosigned=True))
    answers = LOG.answers()
    accepted = []

    for position in range(0, len(data), 23):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 7)
        try:
            verify(bytes(changed), answers, POLICY)
            accepted.append(position)
        except Rejected:
            continue

    assert accepted == []


def cut_step(bundle: dict[str, Any]) -> None:
    history = next(h for h in bundle["histories"] if h["name"][1] == TIN)
    leaf = history["steps"].pop(1)[0]
    assert leaf >= 0


def hide_parent(bundle: dict[str, Any]) -> None:
    entry = next(
        e for e in bundle["entries"] if any(leaf[1] == 1 for _, leaves in e.get("items", []) for leaf in leaves)
    )
    entry["items"][0][1] = [leaf for leaf in entry["items"][0][1] if leaf[1] != 1]


def drop_key_history(bundle: dict[str, Any]) -> None:
    bundle["histories"] = [h for h in bundle["histories"] if h["name"][0] != "key"]
    bundle["entries"] = [e for e in bundle["entries"] if e["index"] != 2]


def drop_organisation(bundle: dict[str, Any]) -> None:
    bundle["entries"] = [e for e in bundle["entries"] if e["index"] != 1]


def claim_absence(bundle: dict[str, Any]) -> None:
    history = next(h for h in bundle["histories"] if h["name"][1] == GTIN)
    history["other"] = [b64u(bytes(32)), b64u(bytes(32))]


def claim_another_item(bundle: dict[str, Any]) -> None:
    bundle["item"] = OTHER


def claim_another_size(bundle: dict[str, Any]) -> None:
    bundle["size"] -= 1


def add_a_stranger(bundle: dict[str, Any]) -> None:
    bundle["cosigners"] = [MIRROR.encode()]


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (cut_step, "bad_map_proof"),
        (hide_parent, "hidden_up_link"),
        (drop_key_history, "missing_key_history"),
        (drop_organisation, "unknown_signer"),
        (claim_absence, "bad_map_proof"),
        (claim_another_item, "missing_history"),
        (claim_another_size, "not_anchored"),
        (add_a_stranger, "bad_checkpoint"),
    ],
)
def test_a_forged_bundle_is_refused_for_its_reason(forge: Any, code: str) -> None:
    bundle = copy.deepcopy(LOG.bundle(TIN, WHOLE))
    forge(bundle)

    with pytest.raises(Rejected) as refused:
        checked(bundle)

    assert refused.value.code == code


def test_another_contract_chain_or_root_is_refused() -> None:
    data, answers = encoded(LOG.bundle(TIN)), LOG.answers()

    with pytest.raises(Rejected, match="wrong_contract"):
        verify(data, answers, Policy("0x" + "99" * 20))
    with pytest.raises(Rejected, match="wrong_chain"):
        verify(data, shape.Answers(8, answers.genesis, answers.calls), POLICY)
    unanchored = (answers.calls[0], bytes(32), *answers.calls[2:])
    with pytest.raises(Rejected, match="not_anchored"):
        verify(data, shape.Answers(7, answers.genesis, unanchored), POLICY)
    other_org = (*answers.calls[:5], bytes(128))
    with pytest.raises(Rejected, match="wrong_organisation"):
        verify(data, shape.Answers(7, answers.genesis, other_org), POLICY)


def test_other_bytes_of_the_same_bundle_are_refused() -> None:
    data = encoded(LOG.bundle(TIN))

    with pytest.raises(Rejected, match="not_canonical"):
        verify(data.replace(b'"v":1', b'"v": 1', 1), LOG.answers(), POLICY)
    with pytest.raises(Rejected):
        questions(b"[]")


def test_messages_after_the_last_good_one_are_suspect_and_after_the_end_refused() -> None:
    log = SmallLog()
    first = log.message(observed(TIN))
    log.message(observed(TIN, bizStep="shipping"))
    log.end(DEVICE_KEY, first.id, 0)
    log.close()

    report = verify(encoded(log.bundle(TIN)), log.answers(), POLICY)
    assert [event.is_suspect for event in report.events] == [False, True]

    late = SmallLog()
    late.end(DEVICE_KEY, None, -1)
    late.message(observed(TIN))
    late.close()
    with pytest.raises(Rejected, match="ended_key"):
        verify(encoded(late.bundle(TIN)), late.answers(), POLICY)


def test_a_message_before_the_record_of_its_key_is_refused() -> None:
    log = SmallLog()
    early = P256Private.from_secret(b"early")
    log.entries.pop()
    log.message(observed(TIN))
    log.key(DEVICE_KEY)
    log.close()

    assert early.thumbprint() != DEVICE_KEY.thumbprint()
    with pytest.raises(Rejected, match="unknown_key"):
        verify(encoded(log.bundle(TIN)), log.answers(), POLICY)


def test_the_selectors_are_those_of_the_contracts() -> None:
    log = ARTIFACTS.joinpath("TransparencyLog.json").read_text()
    registry = ARTIFACTS.joinpath("OrganisationRegistry.json").read_text()

    for selector in (shape.LOG_AT, shape.ROOT_AT, shape.LOG_COUNT, shape.ORGANISATIONS):
        assert f'"0x{selector}"' in log
    assert f'"0x{shape.ORGANISATION_AT}"' in registry
