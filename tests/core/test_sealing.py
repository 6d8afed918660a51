"""A sealed message is what its receiver opens: compared with the plain reader of messages."""

from random import Random

import pytest

from core.crypto import P256Private
from core.errors import Rejected
from core.message import open_message, split
from core.sealing import conceal, conceal_each, packed, seal

pytestmark = pytest.mark.unit

EVENT = {
    "type": "ObjectEvent",
    "action": "OBSERVE",
    "eventTime": "2026-11-11T00:00:00Z",
    "eventTimeZoneOffset": "+00:00",
    "epcList": ["https://id.gs1.org/01/09521000123458/21/one"],
    "readPoint": {"id": "https://id.gs1.org/414/9521000000001"},
    "example:note": 'a "quoted" \u00fc\n',
    "errorDeclaration": {"declarationTime": "2026-11-11T00:00:00Z", "reason": "did_not_occur", "example:why": "x"},
}


def test_what_is_sealed_is_what_the_plain_reader_opens() -> None:
    key = P256Private.from_secret(b"sealing")
    concealed = [conceal(EVENT | {"example:number": number}, Random(number).randbytes) for number in range(5)]

    (part,) = packed(concealed)
    sealed = seal(part, aud="a", org="o", iss="i", iat=1, seq=1, prev=bytes(32), key=key)

    opened = open_message(split(sealed.raw), key.public)
    assert opened == sealed.message
    assert all(event.event["errorDeclaration"] == EVENT["errorDeclaration"] for event in opened.events)
    texts = [disclosure.text for one in concealed for disclosure in one.disclosures]
    assert sum(one.disclosed_bytes for one in concealed) == sum(len(text) + 1 for text in texts)
    assert sealed.raw.endswith(b"~" + "~".join(texts).encode() + b"~")
    assert opened.signed.prev == bytes(32)


def test_of_many_events_one_that_cannot_be_signed_stands_out_and_the_others_are_as_alone() -> None:
    wrong = {**EVENT, "epcList": ["urn:epc:id:sgtin:12.34.5"]}
    drawn: list[int] = []

    def random(count: int) -> bytes:
        drawn.append(count)
        return bytes(count)

    found = conceal_each([EVENT, wrong, EVENT], random)

    alone = conceal(EVENT, random)
    assert found[0] == found[2] == alone
    assert isinstance(found[1], Rejected)
    assert found[1].pointer == "/epcList/0"
    assert drawn[0] % 16 == 0
