"""Poison: whatever bytes arrive, signed or not, the worker sets them aside and goes on."""

import random

import pytest

from core.canonical import b64u
from core.crypto import P256Private
from core.message import split
from tests.ingest.rig import Rig
from tests.ledger.world import seen

DEVICE = "line-1"
HEADS = {"v": "1", "aud": '"x"', "iat": "1", "seq": "0", "prev": "null", "_sd_alg": '"sha-256"'}


def signed(key: P256Private, payload: bytes, header: bytes | None = None, tail: bytes = b"~") -> bytes:
    """A publish whose signature is right, whatever stands in it."""
    head = header or b'{"alg":"ES256","typ":"epcis+sd-jwt","kid":"%b"}' % key.thumbprint().encode()
    signing_input = f"{b64u(head)}.{b64u(payload)}".encode()
    return signing_input + b"." + b64u(key.sign(signing_input)).encode() + tail


def payloads() -> list[bytes]:
    """What a broken or hostile device with a right key may sign."""
    members = ",".join(f'"{name}":{value}' for name, value in HEADS.items())
    return [
        b"",
        b"\x00",
        b"\xff\xfe\x00",
        b"null",
        b"[" * 20_000,
        b"[" * 15_000 + b"]" * 15_000,
        b'{"a":' * 9_000,
        ('{"v":1e400,' + members + "}").encode(),
        ('{"v":1,' + members + "}").encode(),
        ('{"seq":0,"seq":1,' + members + "}").encode(),
        ("{" + members + ',"org":"\\ud800","iss":"x","events":[{}]}').encode(),
        ("{" + members + ',"org":"x\\u0000","iss":"\\u0000","events":[{"items":{"n":0,"root":""},"_sd":[]}]}').encode(),
        ("{" + members + ',"org":1,"iss":[],"events":{}}').encode(),
        ("{" + members + ',"org":"x","iss":"y","events":[' + ",".join(["{}"] * 501) + "]}").encode(),
        b'{"v":NaN}',
        b'{"v":12345678901234567890123456789012345678901234567890}',
        b'{"v":1' + b"0" * 5_000 + b"}",
    ]


@pytest.mark.parametrize("seed", [4117])
def test_no_bytes_stop_a_worker(rig: Rig, seed: int) -> None:
    source = random.Random(seed)
    key = rig.world.devices[DEVICE]
    good = rig.sign(DEVICE, seen("before"))
    hostile = [signed(key, payload) for payload in payloads()]
    hostile += [
        signed(key, b"{}", header=head) for head in (b"", b"\x00", b"[]", b"[" * 300, b'{"alg":1,"alg":"ES256"}')
    ]
    hostile += [good + tail for tail in (b"\x00~", b"~~", b"WyJ\xff~", b"W10~", (b64u(b"[" * 9_000) + "~").encode())]
    hostile += [source.randbytes(source.randrange(0, 400)) for _ in range(60)]
    hostile += [b"", b"~", b".~", b"..~", b"...~", b"a" * 300_000, b"~" * 20_001, "\u202e.é.~".encode()]
    for _ in range(60):
        broken = bytearray(good)
        for _ in range(source.randrange(1, 4)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        hostile.append(bytes(broken))
    hostile = [one for one in dict.fromkeys(hostile) if one != good]
    wild_topics = ["tb/1/9521000000001/x/events/", "tb/1/\x00/x/events", "tb/1//x/events", "", "/" * 500]

    for start in range(0, len(hostile), 15):
        rig.monotonic += 3_600
        for number, one in enumerate(hostile[start : start + 15]):
            rig.source.send(rig.topic(DEVICE), one)
            rig.source.send(wild_topics[number % len(wild_topics)], one)
        rig.worker.run_once()
    rig.monotonic += 3_600
    last = rig.sign(DEVICE, seen("after"))
    rig.send(DEVICE, good)
    rig.send(DEVICE, last)
    rig.monotonic += 3_600
    rig.run()

    assert rig.source.unacknowledged == {}, f"seed {seed}"
    assert rig.stored() == [split(good).id, split(last).id], f"seed {seed}"
    assert {receipt.message for receipt in rig.receipts()} == {split(good).id, split(last).id}
