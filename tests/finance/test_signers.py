"""Who signed weighs: a device testifies, the platform only passes on what somebody told it."""

import pytest

from core.crypto import generate_p256
from core.message import issue, read_entry, signed_by
from finance.policy import load_policy
from finance.provenance import Evidence, EvidenceEvent, grounds

pytestmark = pytest.mark.unit
STEPS = ("commissioning", "packing", "inspecting", "storing", "sensor_reporting")
ORG = "https://id.gs1.org/417/9521321000018"


def evidence(*signers: str) -> Evidence:
    events = tuple(
        EvidenceEvent(f"{number}:0", f"org-{number % 2}", step, 1_000 + number, signed_by=signer)
        for number, (step, signer) in enumerate(zip(STEPS, signers, strict=True))
    )
    return Evidence("item", 2_000, events, custody_s=1_900)


def test_goods_of_which_no_device_testified_are_not_eligible() -> None:
    policy = load_policy()

    assert grounds(evidence(*["device"] * 5), policy).confidence(policy).is_eligible
    told = grounds(evidence(*["gateway"] * 5), policy).confidence(policy)
    assert not told.is_eligible
    assert any(reason.code == "signatures_below_floor" for reason in told.reasons)


def test_one_event_in_five_told_over_http_is_taken_with_fewer_points() -> None:
    policy = load_policy()

    mixed = grounds(evidence("device", "device", "device", "device", "gateway"), policy)

    # (4 * 1 + 0.90) / 5, by the weights of the policy.
    assert str(mixed.components[1]) == "49/50"
    assert mixed.confidence(policy).is_eligible


def test_a_gateway_s_own_word_and_its_word_for_another_are_told_apart() -> None:
    key = generate_p256()
    event = {"type": "ObjectEvent", "action": "OBSERVE", "eventTime": "2026-01-05T08:00:00Z",
             "eventTimeZoneOffset": "+08:00", "epcList": ["urn:epc:id:sgtin:9521234.012345.7"]}  # fmt: skip
    common = {"aud": "a", "org": ORG, "iss": "https://id.gs1.org/8004/9521321G", "iat": 1, "seq": 0, "prev": None}
    behalf = {"org": ORG, "client": "erp", "body": "A" * 43, "part": 0, "parts": 1}
    own = issue([event], **common, key=key, salts=lambda: bytes(16))
    other = issue([event], **common, key=key, salts=lambda: bytes(16), on_behalf_of=behalf)

    def read(raw: bytes) -> object:
        jwt, *texts = raw.split(b"~")
        return read_entry(jwt, [text.decode() for text in texts if text])

    assert signed_by("device", read(own)) == "device"  # type: ignore[arg-type]
    assert signed_by("gateway", read(own)) == "partner"  # type: ignore[arg-type]
    assert signed_by("gateway", read(other)) == "gateway"  # type: ignore[arg-type]
