"""The mutation corpus: no message with any byte changed is taken. TRACEBOND_CAMPAIGN=1 takes all 200 messages."""

import os
import random
from datetime import UTC, datetime

import pytest

from core.crypto import P256Private
from core.message import issue
from ingest.decisions import Accepted, decide
from ingest.source import Delivery
from ingest.topics import device_name
from ledger.keys import KeyInfo

AUD, ORG = "https://tracebond.test", "https://id.gs1.org/417/9521000000018"
ISS = "https://id.gs1.org/8004/9521000line-1"
NOW = 1_760_000_000
MESSAGES = 200 if os.environ.get("TRACEBOND_CAMPAIGN") else 8
KEY = P256Private.from_secret(b"line-1")
INFO = KeyInfo(
    key_no=1,
    kid=KEY.thumbprint(),
    public=KEY.public,
    org=ORG,
    iss=ISS,
    use="device",
    scope={},
    leaf=1,
    is_ended=False,
    last=None,
    last_seq=None,
    end_leaf=None,
)
pytestmark = pytest.mark.unit


class OneKey:
    def lookup(self, kid: str) -> KeyInfo | None:
        return INFO if kid == INFO.kid else None


def message(seed: int) -> bytes:
    source = random.Random(seed)
    event = {
        "type": "ObjectEvent",
        "action": "OBSERVE",
        "eventTime": datetime.fromtimestamp(NOW - seed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventTimeZoneOffset": "+08:00",
        "bizStep": "inspecting",
        "epcList": [f"urn:epc:id:sgtin:9521000.012345.{source.randrange(10**6)}"],
    }
    return issue(
        [event], aud=AUD, org=ORG, iss=ISS, iat=NOW, seq=0, prev=None, key=KEY, salts=lambda: source.randbytes(16)
    )


def is_taken(publish: bytes) -> bool:
    delivery = Delivery(device_name(ORG, ISS).events, publish, None)
    return isinstance(decide(delivery, OneKey(), aud=AUD, now=NOW), Accepted)


@pytest.mark.parametrize("seed", range(MESSAGES))
def test_no_byte_of_a_signed_message_can_be_changed(seed: int) -> None:
    publish = message(seed)
    assert is_taken(publish)
    source = random.Random(seed + 1_000)

    for position in range(len(publish)):
        changed = bytearray(publish)
        changed[position] ^= 1 << source.randrange(8)
        assert not is_taken(bytes(changed)), f"seed {seed}, byte {position}"


def test_nothing_can_be_cut_off_or_added() -> None:
    publish = message(1)

    for length in range(len(publish)):
        assert not is_taken(publish[:length])
    for more in (b"~", b"A", b"WyJhIl0~", publish):
        assert not is_taken(publish + more)
