"""The signed message: both ways with the reference SD-JWT library, and every byte of it counts."""

import itertools
import json
from decimal import Decimal
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwcrypto.jwk import JWK
from sd_jwt.common import SDObj
from sd_jwt.issuer import SDJWTIssuer
from sd_jwt.verifier import SDJWTVerifier

from core.canonical import b64u, sha256, unb64u
from core.crypto import P256Private
from core.errors import Rejected
from core.message import CLEAR, Message, event_items, issue, items_root, open_message, read_entry, split

pytestmark = pytest.mark.unit

DEVICE = P256Private.from_secret(b"message device")
STRANGER = P256Private.from_secret(b"another device")
ORG = "https://id.gs1.org/417/9521234500008"
ISS = "https://id.gs1.org/8004/952123450000A1"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
EVENT: dict[str, Any] = {
    "type": "ObjectEvent",
    "action": "OBSERVE",
    "eventTime": "2026-11-01T08:00:00.000Z",
    "eventTimeZoneOffset": "+08:00",
    "bizStep": "storing",
    "epcList": ["urn:epc:id:sgtin:9521234.054321.2017", "https://example.com/01/09521234543213/21/2018"],
    "readPoint": {"id": "https://id.gs1.org/414/9521234500008"},
    "sensorElementList": [{"sensorReport": [{"type": "Temperature", "value": Decimal("4.10"), "uom": "CEL"}]}],
    "errorDeclaration": {"declarationTime": "2026-11-02T08:00:00Z", "reason": "did_not_occur", "example:note": "x"},
}


def salts() -> Any:
    counter = itertools.count()
    return lambda: sha256(next(counter).to_bytes(4, "big"))[:16]


def published(events: list[dict[str, Any]] | None = None, **changes: Any) -> bytes:
    fields: dict[str, Any] = {"aud": "service", "org": ORG, "iss": ISS, "iat": 1_700_000_000, "seq": 0, "prev": None}
    return issue(events or [EVENT], key=DEVICE, salts=salts(), **{**fields, **changes})


def opened(raw: bytes) -> Message:
    return open_message(split(raw), DEVICE.public)


def test_an_event_comes_back_whole_with_its_decimals_as_given() -> None:
    message = opened(published([EVENT, {**EVENT, "bizStep": "shipping"}]))

    assert message.events[0].event == EVENT
    assert str(message.events[0].event["sensorElementList"][0]["sensorReport"][0]["value"]) == "4.10"
    assert message.events[1].clear["bizStep"] == "shipping"
    assert set(message.events[0].clear) == {*CLEAR[:5], "errorDeclaration", "items", "_sd"}
    assert set(message.events[0].clear["errorDeclaration"]) == {"declarationTime", "reason"}


def test_two_spellings_of_one_thing_are_one_item() -> None:
    event = {
        **EVENT,
        "epcList": ["urn:epc:id:sgtin:9521234.054321.2017", "https://x.example/a/01/09521234543213/21/2017"],
    }

    items = opened(published([event])).events[0].items

    assert [item.id for item in items] == ["https://id.gs1.org/01/09521234543213/21/2017"]


def test_the_message_id_is_the_hash_of_the_signing_input() -> None:
    raw = published()
    signing_input = raw.split(b"~")[0].rsplit(b".", 1)[0]

    assert split(raw).id == opened(raw).id == sha256(signing_input)


def test_what_we_issue_the_reference_library_verifies() -> None:
    raw = published()

    verifier = SDJWTVerifier(raw.decode(), lambda issuer, header: JWK(**DEVICE.jwk()))
    payload = verifier.get_verified_payload()

    assert payload["events"][0]["epcList"] == EVENT["epcList"]
    assert payload["events"][0]["sensorElementList"][0]["sensorReport"][0]["value"] == 4.1
    assert payload["seq"] == 0


def test_what_the_reference_library_issues_we_verify() -> None:
    event = {name: value for name, value in EVENT.items() if name not in ("errorDeclaration", "sensorElementList")}
    items = event_items(event)
    shown = {name: value for name, value in event.items() if name in CLEAR}
    hidden = {SDObj(name): value for name, value in event.items() if name not in CLEAR}
    root = {"n": len(items), "root": b64u(items_root(items))}
    claims = {"v": 1, "aud": "service", "org": ORG, "iss": ISS, "iat": 5, "seq": 0, "prev": None}
    private = JWK.from_pem(DEVICE.to_pem())

    issuer = SDJWTIssuer(
        {**claims, "events": [{**shown, "items": root, **hidden}]},
        private,
        extra_header_parameters={"typ": "epcis+sd-jwt", "kid": DEVICE.thumbprint()},
    )
    jwt, *rest = issuer.sd_jwt_issuance.split("~")
    signing_input, _, signature = jwt.rpartition(".")
    normalised = f"{signing_input}.{b64u(low_s(unb64u(signature)))}"
    message = opened("~".join([normalised, *rest]).encode())

    assert message.events[0].event == event


def low_s(signature: bytes) -> bytes:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    return r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")


def test_a_high_s_is_refused_so_that_a_signature_has_one_spelling() -> None:
    jwt, rest = published().split(b"~", 1)
    signing_input, signature = jwt.rsplit(b".", 1)
    raw = unb64u(signature.decode())
    high = raw[:32] + (ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    public = load_pem_private_key(DEVICE.to_pem(), None).public_key()
    numbers = int.from_bytes(high[:32], "big"), int.from_bytes(high[32:], "big")
    public.verify(encode_dss_signature(*numbers), signing_input, ECDSA(SHA256()))  # the library takes either s

    with pytest.raises(Rejected, match="s must be low"):
        opened(signing_input + b"." + b64u(high).encode() + b"~" + rest)


def test_every_changed_byte_of_a_message_is_refused() -> None:
    raw = published()

    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        with pytest.raises(Rejected):
            opened(bytes(changed))


def test_a_stranger_cannot_sign_for_the_device() -> None:
    raw = issue([EVENT], aud="s", org=ORG, iss=ISS, iat=1, seq=0, prev=None, key=STRANGER, salts=salts())

    with pytest.raises(Rejected, match="bad_signature"):
        opened(raw)


def test_a_stripped_disclosure_is_noticed_and_so_is_one_too_many() -> None:
    parts = published().split(b"~")

    with pytest.raises(Rejected, match="missing_disclosure"):
        opened(b"~".join([parts[0], *parts[2:]]))
    with pytest.raises(Rejected, match="bad_disclosure"):
        opened(b"~".join([*parts[:-1], parts[1], b""]))
    foreign = b64u(json.dumps([b64u(bytes(16)), "x", 1]).encode()).encode()
    with pytest.raises(Rejected, match="bad_disclosure"):
        opened(b"~".join([*parts[:-1], foreign, b""]))


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"alg": "none", "typ": "epcis+sd-jwt"}, "wrong_algorithm"),
        ({"alg": "HS256", "typ": "epcis+sd-jwt"}, "wrong_algorithm"),
        ({"alg": "ES384", "typ": "epcis+sd-jwt"}, "wrong_algorithm"),
        ({"alg": "ES256", "typ": "JWT"}, "bad_header"),
        ({"alg": "ES256", "typ": "epcis+sd-jwt", "jwk": {}}, "bad_header"),
        ({"alg": "ES256", "typ": "epcis+sd-jwt", "crit": ["exp"]}, "bad_header"),
    ],
)
def test_another_header_is_refused(header: dict[str, Any], code: str) -> None:
    jwt, rest = published().split(b"~", 1)
    _, payload, signature = jwt.split(b".")
    spelled = b64u(json.dumps({**header, "kid": DEVICE.thumbprint()}).encode()).encode()

    with pytest.raises(Rejected) as refused:
        split(b".".join([spelled, payload, signature]) + b"~" + rest)

    assert refused.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 1},
        {"prev": bytes(32)},
        {"seq": -1, "prev": bytes(32)},
        {"iat": -1},
        {"aud": ""},
        {"seq": 2**53, "prev": bytes(32)},
    ],
)
def test_a_payload_that_breaks_a_rule_is_refused_though_it_is_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        opened(published(**changes))


def test_an_item_list_that_is_not_the_events_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = event_items
    monkeypatch.setattr("core.message.event_items", lambda event: real(event)[:1])
    raw = published()
    monkeypatch.undo()

    with pytest.raises(Rejected, match="wrong_item_root"):
        opened(raw)


def test_an_event_with_a_wrong_check_digit_travels_and_is_named_by_the_receiver() -> None:
    raw = published([{**EVENT, "epcList": ["https://id.gs1.org/01/09521234543214/21/1"]}])

    with pytest.raises(Rejected) as refused:
        opened(raw)

    assert refused.value.code == "bad_check_digit"
    assert refused.value.pointer.startswith("/events/0/epcList/0")


def test_a_stored_message_opens_with_the_disclosures_that_are_left() -> None:
    jwt, *texts = published().rstrip(b"~").split(b"~")

    signed = read_entry(jwt, [texts[0].decode()])

    assert len(signed.disclosures[0]) == 1
    assert signed.clear[0]["bizStep"] == "storing"


def test_sizes_are_limited() -> None:
    with pytest.raises(Rejected, match="too_large"):
        split(b"a" * 262_145)
    with pytest.raises(Rejected, match="too_large"):
        published([{**EVENT, "example:note": "x" * 262_144}])
    with pytest.raises(Rejected, match="too_many_events"):
        published([EVENT] * 501)
    deep: Any = "x"
    for _ in range(20):
        deep = [deep]
    nested = published([{**EVENT, "example:deep": deep}])
    with pytest.raises(Rejected, match="too_deep"):
        opened(nested)
