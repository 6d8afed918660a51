"""Records, state leaves and receipts: exact forms, and every other form refused."""

from typing import Any

import pytest

from core.canonical import b64u, canonical_bytes, sha256
from core.crypto import P256Private
from core.errors import Rejected
from core.jws import sign_jws
from core.merkle import leaf_hash
from core.prefixmap import map_key
from core.receipts import open_receipt, promise, refusal, sign_receipts
from core.records import (
    StateLeaf,
    common,
    entry_kind,
    key_members,
    open_record,
    read_record,
    read_state_leaf,
    record_keys,
    sign_record,
)

pytestmark = pytest.mark.unit

ORGANISATION = P256Private.from_secret(b"organisation")
DEVICE = P256Private.from_secret(b"device")
STRANGER = P256Private.from_secret(b"stranger")
ORG = "https://id.gs1.org/417/9521234500008"
ISS = "https://id.gs1.org/8004/952123450000A1"


def key_payload(**changes: Any) -> dict[str, Any]:
    base = common(t="key", aud="service", log="service/log", org=ORG, iat=1_700_000_000)
    return {**base, **key_members(DEVICE.jwk(), iss=ISS, use="device", scope={}), **changes}


def test_a_record_opens_for_its_signer_and_for_nobody_else() -> None:
    raw = sign_record(key_payload(), ORGANISATION)

    record = open_record(raw, ORGANISATION.public)

    assert record.t == "key"
    assert record.leaf_hash == leaf_hash(raw)
    assert entry_kind(raw) == "record"
    with pytest.raises(Rejected, match="bad_signature"):
        open_record(raw, STRANGER.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "master"},
        {"kid": STRANGER.thumbprint()},
        {"v": 2},
        {"v": True},
        {"iat": "now"},
        {"org": ""},
        {"more": 1},
        {"t": "lien"},
        {"scope": []},
        {"jwk": {**DEVICE.jwk(), "y": DEVICE.jwk()["x"]}},
    ],
)
def test_a_record_of_another_form_is_refused_before_it_is_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        sign_record(key_payload(**changes), ORGANISATION)


def test_a_record_in_other_bytes_than_rfc_8785_is_refused() -> None:
    spaced = canonical_bytes(key_payload()).replace(b'":', b'": ', 1)

    with pytest.raises(Rejected, match="RFC 8785"):
        read_record(sign_jws(spaced, typ="tb-record+jwt", key=ORGANISATION))


def test_a_key_record_steps_its_key_its_device_and_its_organisation() -> None:
    expected = {map_key("key", DEVICE.thumbprint()), map_key("device", ISS), map_key("org", ORG)}

    assert set(record_keys(key_payload())) == expected


@pytest.mark.parametrize(
    ("last", "seq", "is_good"),
    [(None, -1, True), (None, 0, False), (b64u(bytes(32)), 3, True), (b64u(bytes(32)), -1, False), ("x", 3, False)],
)
def test_an_end_record_names_its_last_message_or_none(last: str | None, seq: int, is_good: bool) -> None:
    payload = common(t="end", aud="a", log="l", org=ORG, iat=1)
    payload |= {"kid": DEVICE.thumbprint(), "last": last, "seq": seq, "reason": "lost"}

    if is_good:
        assert read_record(sign_record(payload, ORGANISATION)).payload["seq"] == seq
    else:
        with pytest.raises(Rejected):
            sign_record(payload, ORGANISATION)


STATE = StateLeaf("service/log", 9, bytes(32), 4, 5, 1_700_000_000, (1337, 7, "0x" + "ab" * 32))


def test_a_state_leaf_survives_its_bytes() -> None:
    assert read_state_leaf(STATE.encode()) == STATE
    assert entry_kind(STATE.encode()) == "state"


def test_the_bytes_of_a_state_leaf_are_those_of_the_page() -> None:
    first = StateLeaf("o", 1, bytes(32), 0, None, 5, None)
    root = "A" * 43

    assert first.encode().decode() == (
        f'{{"block":null,"keys":0,"log":"o","map_root":"{root}","prev":null,"size":1,"t":"state","time":5,"v":1}}'
    )


@pytest.mark.parametrize(
    "change",
    [(b'"v":1', b'"v":2'), (b'"size":9', b'"size":-9'), (b'"size":9', b'"size": 9'), (b'"keys":4', b'"keys":4.0')],
)
def test_a_state_leaf_in_other_bytes_is_refused(change: tuple[bytes, bytes]) -> None:
    with pytest.raises(Rejected):
        read_state_leaf(STATE.encode().replace(*change))


@pytest.mark.parametrize("data", [b"", b"abc", b"eyJ0eXAiOiJ4In0.e30.x", b"\xff\xff"])
def test_bytes_that_are_no_entry_are_refused(data: bytes) -> None:
    with pytest.raises(Rejected, match="bad_entry"):
        entry_kind(data)


def promised(publish: bytes) -> dict[str, Any]:
    return promise(
        aud="a", log="a/log", message=sha256(publish), leaf=sha256(b"leaf"), publish=sha256(publish), accepted_at=100
    )


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_of_many_receipts_opens_under_one_signature(count: int) -> None:
    publishes = [bytes([number]) for number in range(count)]

    raws = sign_receipts([promised(publish) for publish in publishes], ORGANISATION, aud="a", log="a/log")

    for raw, publish in zip(raws, publishes, strict=True):
        receipt = open_receipt(raw, ORGANISATION.public)
        assert (receipt.sent, receipt.refused, receipt.accepted_at) == (sha256(publish), None, 100)


def test_a_receipt_of_another_message_under_the_same_signature_is_refused() -> None:
    raws = sign_receipts([promised(b"a"), promised(b"b")], ORGANISATION, aud="a", log="a/log")
    forged = raws[0].replace(b64u(sha256(b"a")).encode(), b64u(sha256(b"c")).encode())

    with pytest.raises(Rejected):
        open_receipt(forged, ORGANISATION.public)


def test_a_receipt_by_a_stranger_is_refused() -> None:
    (raw,) = sign_receipts([promised(b"a")], STRANGER, aud="a", log="a/log")

    with pytest.raises(Rejected, match="bad_signature"):
        open_receipt(raw, ORGANISATION.public)


def test_a_receipt_may_be_a_jws_of_its_own() -> None:
    payload = refusal(aud="a", log="a/log", message=bytes(32), publish=sha256(b"p"), code="bad_check_digit")

    receipt = open_receipt(
        sign_jws(canonical_bytes(payload), typ="tb-receipt+jwt", key=ORGANISATION), ORGANISATION.public
    )

    assert receipt.refused == "bad_check_digit"
