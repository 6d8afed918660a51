"""What becomes of good and bad messages, on both databases."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from core.canonical import b64u, sha256
from core.crypto import P256Private
from core.errors import Unavailable
from core.message import split
from ingest import admitter, quarantine
from ingest.quarantine import QuarantineRow
from tests.ingest.rig import Rig
from tests.ledger.world import MAKER, NOW, seen

DEVICE = "line-1"


def held(rig: Rig) -> list[QuarantineRow]:
    with rig.database.reading() as tx:
        return quarantine.search(tx, state=None, limit=500)


def test_good_message_is_stored_acknowledged_and_promised(rig: Rig) -> None:
    publish = rig.sign(DEVICE, seen("A"), seen("B"))

    rig.send(DEVICE, publish)
    rig.run()

    [receipt] = rig.receipts()
    assert rig.stored() == [split(publish).id] == [receipt.message]
    assert (receipt.sent, receipt.refused, receipt.accepted_at) == (sha256(publish), None, NOW)
    assert rig.source.unacknowledged == {}
    assert held(rig) == []


def test_replayed_message_changes_nothing_and_gets_the_same_receipt(rig: Rig) -> None:
    publish = rig.sign(DEVICE)
    rig.send(DEVICE, publish)
    rig.run()
    [first] = rig.receipts()

    rig.clock_ms += 3_600_000
    rig.send(DEVICE, publish)
    rig.send(DEVICE, publish)
    rig.run()

    again = rig.receipts()
    assert [receipt.payload for receipt in again] == [first.payload, first.payload]
    assert len(rig.stored()) == 1


def test_receipt_keeps_the_promise_that_was_in_force(rig: Rig) -> None:
    from ingest.pipeline import service_of
    from tests.ledger.world import AUD, LOG

    publish = rig.sign(DEVICE)
    rig.send(DEVICE, publish)
    rig.run()
    [first] = rig.receipts()
    rig.clock_ms += 60_000
    later = rig.new_worker()
    later._admitter._service = service_of(aud=AUD, log=LOG, promise_s=5, heartbeat_s=100)

    rig.send(DEVICE, publish)
    rig.send(DEVICE, rig.sign(DEVICE))
    later.run_once()

    again, second = rig.receipts()
    assert again.payload == first.payload
    assert (second.payload["promise_s"], second.payload["heartbeat_s"]) == (5, 100)


def _flipped_signature(rig: Rig) -> bytes:
    head, _, rest = rig.sign(DEVICE).partition(b"~")
    start, signature = head.rsplit(b".", 1)
    raw = bytearray(base64.urlsafe_b64decode(signature + b"=="))
    raw[5] ^= 1
    return start + b"." + b64u(bytes(raw)).encode() + b"~" + rest


def _forged_payload(text: str) -> Callable[[Rig], bytes]:
    """A message whose payload the device really signed, with ``text`` put in place of its iat."""

    def make(rig: Rig) -> bytes:
        head, _, rest = rig.sign(DEVICE).partition(b"~")
        header, payload, _ = head.split(b".")
        plain = base64.urlsafe_b64decode(payload + b"==").replace(b'"iat":%d' % NOW, text.encode())
        signing_input = header + b"." + b64u(plain).encode()
        signature = rig.world.devices[DEVICE].sign(signing_input)
        return signing_input + b"." + b64u(signature).encode() + b"~" + rest

    return make


def _other_header(header: dict[str, Any]) -> Callable[[Rig], bytes]:
    def make(rig: Rig) -> bytes:
        head, _, rest = rig.sign(DEVICE).partition(b"~")
        payload = head.split(b".")[1]
        kid = rig.world.devices[DEVICE].thumbprint()
        text = json.dumps({"alg": "ES256", "typ": "epcis+sd-jwt", "kid": kid} | header, separators=(",", ":"))
        signing_input = b64u(text.encode()).encode() + b"." + payload
        signature = rig.world.devices[DEVICE].sign(signing_input)
        return signing_input + b"." + b64u(signature).encode() + b"~" + rest

    return make


def _without_a_disclosure(rig: Rig) -> bytes:
    parts = rig.sign(DEVICE).split(b"~")
    return b"~".join([parts[0], *parts[2:]])


UNANSWERED: dict[str, tuple[str, Callable[[Rig], bytes]]] = {
    "wrong signature": ("bad_signature", _flipped_signature),
    "unknown key": ("unknown_key", lambda rig: rig.sign(DEVICE, key=P256Private.from_secret(b"stranger"))),
    "another device's key": ("wrong_device", lambda rig: rig.sign(DEVICE, key=rig.world.devices["truck-1"])),
    "wrong algorithm": ("wrong_algorithm", _other_header({"alg": "HS256"})),
    "no algorithm": ("wrong_algorithm", _other_header({"alg": "none"})),
    "header with more": ("bad_header", _other_header({"jku": "https://thief.example"})),
    "wrong service": ("wrong_audience", lambda rig: rig.sign(DEVICE, aud="https://other.test")),
    "wrong organisation": ("wrong_device", lambda rig: rig.sign(DEVICE, org="https://id.gs1.org/417/9521000000025")),
    "oversized": ("too_large", lambda rig: rig.sign(DEVICE) + b"A" * 262_144 + b"~"),
    "oversized token": ("too_large", _forged_payload('"iat":1' + " " * 50_000)),
    "deep": ("too_deep", _forged_payload('"iat":' + "[" * 20 + "]" * 20)),
    "NaN": ("bad_number", _forged_payload('"iat":NaN')),
    "large integer": ("bad_number", _forged_payload('"iat":9007199254740993')),
    "duplicate keys": ("duplicate_key", _forged_payload(f'"iat":{NOW},"iat":{NOW}')),
    "missing disclosure": ("missing_disclosure", _without_a_disclosure),
    "not a message": ("bad_form", lambda rig: b"\x00\xff hello"),
    "empty": ("bad_form", lambda rig: b""),
}


@pytest.mark.parametrize("fault", UNANSWERED)
def test_what_is_not_authentic_gets_no_answer_and_is_quarantined(rig: Rig, fault: str) -> None:
    code, make = UNANSWERED[fault]
    publish = make(rig)

    rig.send(DEVICE, publish)
    rig.run()

    [row] = held(rig)
    assert (row.code, row.topic, row.is_authentic) == (code, rig.topic(DEVICE), False)
    assert row.sentence.endswith(".")
    with rig.database.reading() as tx:
        assert quarantine.load(tx, row.id).raw == publish
    assert rig.stored() == []
    assert rig.receipts() == []
    assert rig.logged("refusal") == []
    assert rig.source.unacknowledged == {}


ANSWERED: dict[str, tuple[str, dict[str, Any]]] = {
    "bad check digit": ("bad_check_digit", seen("A", epcList=["https://id.gs1.org/01/09521000123459/21/A"])),
    "far future": ("event_in_future", seen("A", at=NOW + 301)),
    "no such time": ("", seen("A") | {"eventTime": "2025-02-30T00:00:00Z"}),
    "no event type": ("", seen("A") | {"type": "PartyEvent"}),
    "no action": ("", seen("A", action="WATCH")),
}


@pytest.mark.parametrize("fault", ANSWERED)
def test_authentic_message_is_refused_once_and_for_all(rig: Rig, fault: str) -> None:
    code, event = ANSWERED[fault]
    publish = rig.sign(DEVICE, event)

    rig.send(DEVICE, publish)
    rig.run()

    [receipt] = rig.receipts()
    [row] = held(rig)
    [record] = rig.logged("refusal")
    assert code in ("", row.code)
    assert receipt.refused == row.code == record["code"]
    assert (receipt.message, receipt.sent) == (split(publish).id, sha256(publish))
    assert (record["message"], record["seq"], record["prev"]) == (b64u(split(publish).id), 0, None)
    assert row.is_authentic
    assert rig.stored() == []

    rig.clock_ms += 86_400_000
    rig.send(DEVICE, publish)
    rig.run()
    [again] = rig.receipts()
    assert again.payload == receipt.payload
    assert len(rig.logged("refusal")) == 1
    assert rig.stored() == []


def test_next_message_may_name_the_refused_one_as_its_predecessor(rig: Rig) -> None:
    rig.send(DEVICE, rig.sign(DEVICE, seen("A", at=NOW + 86_400)))
    following = rig.sign(DEVICE, seen("B"))
    rig.send(DEVICE, following)

    rig.run()

    assert rig.stored() == [split(following).id]


def test_event_five_minutes_ahead_is_taken(rig: Rig) -> None:
    rig.send(DEVICE, rig.sign(DEVICE, seen("A", at=NOW + 300)))

    rig.run()

    assert len(rig.stored()) == 1


def test_message_on_the_topic_of_another_device_gets_no_answer(rig: Rig) -> None:
    publish = rig.sign(DEVICE)
    rig.source.send(rig.topic("truck-1"), publish)
    rig.source.send("tb/1/952/x/events", publish)
    rig.run()

    assert sorted(row.code for row in held(rig)) == ["bad_topic", "wrong_topic"]
    assert rig.receipts() == []

    rig.send(DEVICE, publish)
    rig.run()
    assert [receipt.refused for receipt in rig.receipts()] == [None]


def test_retained_publish_is_refused(rig: Rig) -> None:
    rig.source.send(rig.topic(DEVICE), rig.sign(DEVICE), is_retained=True)

    rig.run()

    assert [row.code for row in held(rig)] == ["retained"]
    assert rig.stored() == []


def test_same_sequence_with_another_content_is_logged_as_equivocation(rig: Rig) -> None:
    first = rig.sign(DEVICE, seen("A"), keep=False)
    second = rig.sign(DEVICE, seen("B"))
    rig.send(DEVICE, first)
    rig.run()

    rig.send(DEVICE, second)
    rig.run()

    ids = [split(first).id, split(second).id]
    assert rig.stored() == ids
    assert [receipt.refused for receipt in rig.receipts()] == [None, None]
    [record] = rig.logged("equivocation")
    assert record["ids"] == [b64u(found) for found in ids]
    assert (record["seq"], record["iss"], record["org"]) == (0, rig.world.iss(DEVICE), MAKER)


def test_gap_in_the_sequence_is_taken_and_filled_later(rig: Rig) -> None:
    first, second, third = (rig.sign(DEVICE, seen(serial)) for serial in "ABC")
    rig.send(DEVICE, first)
    rig.send(DEVICE, third)
    rig.send(DEVICE, second)

    rig.run()

    assert rig.stored() == [split(publish).id for publish in (first, third, second)]
    assert held(rig) == []


def test_key_counts_up_to_its_end(rig: Rig) -> None:
    messages = [rig.sign(DEVICE, seen(serial)) for serial in "ABCD"]
    other_last = rig.sign(DEVICE, seen("X"), seq=2, prev=split(messages[1]).id, keep=False)
    rig.send(DEVICE, messages[0])
    rig.send(DEVICE, messages[2])
    rig.run()
    rig.world.end(DEVICE, last=b64u(split(messages[2]).id), seq=2)
    rig.receipts()

    for publish in (messages[1], messages[2], messages[3], other_last):
        rig.send(DEVICE, publish)
    rig.run()

    lower, same, higher, equal = rig.receipts()
    assert (lower.refused, same.refused, higher.refused, equal.refused) == (None, None, "key_ended", None)
    assert len(rig.logged("equivocation")) == 1
    assert [split(publish).id for publish in (messages[0], messages[2], messages[1], other_last)] == rig.stored()


def test_message_stored_before_its_key_ended_keeps_its_promise(rig: Rig) -> None:
    first, second = rig.sign(DEVICE, seen("A")), rig.sign(DEVICE, seen("B"))
    rig.send(DEVICE, first)
    rig.send(DEVICE, second)
    rig.run()
    _, promised = rig.receipts()
    rig.world.end(DEVICE, last=b64u(split(first).id), seq=0)

    rig.send(DEVICE, second)
    rig.run()

    [again] = rig.receipts()
    assert again.payload == promised.payload
    assert rig.logged("refusal") == []
    assert held(rig) == []


def test_key_that_ends_between_decision_and_commit_is_seen(rig: Rig) -> None:
    publish = rig.sign(DEVICE)
    calls: list[str] = []

    def end_it(point: str) -> None:
        if point == "before_commit" and not calls:
            calls.append(point)
            rig.world.end(DEVICE, last=None, seq=-1)

    rig.worker = rig.new_worker(at=end_it)
    rig.send(DEVICE, publish)
    rig.run()

    assert [receipt.refused for receipt in rig.receipts()] == ["key_ended"]
    assert rig.stored() == []


SCOPES: dict[str, tuple[dict[str, Any], bool]] = {
    "none": ({}, True),
    "type": ({"types": ["ObjectEvent"]}, True),
    "other type": ({"types": ["AggregationEvent"]}, False),
    "step": ({"steps": ["inspecting"]}, True),
    "other step": ({"steps": ["shipping"]}, False),
    "product": ({"products": ["https://id.gs1.org/01/09521000123458"]}, True),
    "other product": ({"products": ["https://id.gs1.org/01/09521000987654"]}, False),
    "place": ({"places": ["https://id.gs1.org/414/9521000000018"]}, True),
    "other place": ({"places": ["https://id.gs1.org/414/9521000000025"]}, False),
}


@pytest.mark.parametrize("kind", SCOPES)
def test_scope_of_a_key_holds(small_rig: Rig, kind: str) -> None:
    from core.records import common, key_members
    from tests.ledger.world import AUD, LOG

    rig, (scope, is_taken) = small_rig, SCOPES[kind]
    world = rig.world
    key = world.devices["scoped"] = P256Private.from_secret(b"scoped")
    world.owners["scoped"] = MAKER
    members = key_members(key.jwk(), iss=world.iss("scoped"), use="device", scope=scope)
    world.record(common(t="key", aud=AUD, log=LOG, org=MAKER, iat=NOW) | members, signer=MAKER)
    world.step()

    rig.send("scoped", rig.sign("scoped", seen("A")))
    rig.run()

    assert [receipt.refused for receipt in rig.receipts()] == [None if is_taken else "out_of_scope"]
    assert len(rig.stored()) == int(is_taken)


def test_one_poisonous_message_in_many_is_set_aside(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    publishes = [rig.sign(DEVICE, seen(number)) for number in range(200)]
    poison = split(publishes[77]).id
    judge = admitter.judge

    def judged(prepared: Any, *arguments: Any, **more: Any) -> Any:
        if prepared.envelope.id == poison:
            raise ZeroDivisionError("inside our own code")
        return judge(prepared, *arguments, **more)

    monkeypatch.setattr(admitter, "judge", judged)
    for publish in publishes:
        rig.send(DEVICE, publish)
    rig.run()

    assert len(rig.stored()) == 199
    [row] = held(rig)
    assert row.code == "poison"
    assert "ZeroDivisionError" in row.detail
    assert rig.worker.metrics.poison._value.get() == 1


def test_message_that_breaks_the_store_is_set_aside(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    publishes = [rig.sign(DEVICE, seen(number)) for number in range(20)]
    poison = split(publishes[7]).id
    admit = admitter.admit

    def breaks(tx: Any, incoming: Any, **more: Any) -> Any:
        if any(message.id == poison for message in incoming):
            raise OverflowError("a column cannot hold it")
        return admit(tx, incoming, **more)

    monkeypatch.setattr(admitter, "admit", breaks)
    for publish in publishes:
        rig.send(DEVICE, publish)
    rig.run()

    assert len(rig.stored()) == 19
    assert [row.code for row in held(rig)] == ["poison"]
    assert len(rig.receipts()) == 19


class Crash(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("point", ["before_commit", "after_commit", "after_ack"])
def test_crash_at_any_point_loses_and_doubles_nothing(rig: Rig, point: str) -> None:
    publishes = [rig.sign(DEVICE, seen(number)) for number in range(5)]
    refused = rig.sign("truck-1", seen("Z", at=NOW + 999))

    def crash(reached: str) -> None:
        if reached == point:
            raise Crash

    rig.worker = rig.new_worker(at=crash)
    for publish in publishes:
        rig.send(DEVICE, publish)
    rig.send("truck-1", refused)
    with pytest.raises(Crash):
        rig.run()
    assert rig.receipts() == []
    assert (rig.source.unacknowledged == {}) == (point == "after_ack")

    rig.worker = rig.new_worker()
    rig.source.reconnect()
    if point == "after_ack":
        for publish in publishes:
            rig.send(DEVICE, publish)
        rig.send("truck-1", refused)
    rig.run()

    assert rig.stored() == [split(publish).id for publish in publishes]
    assert sorted(str(receipt.refused) for receipt in rig.receipts()) == ["None"] * 5 + ["event_in_future"]
    assert len(rig.logged("refusal")) == 1


def test_nothing_is_acknowledged_while_the_database_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise Unavailable("away", code="database_away")

    for name in ("transaction", "reading"):
        rig.monotonic += 5
        rig.send(DEVICE, rig.sign(DEVICE))
        with monkeypatch.context() as patched:
            patched.setattr(rig.database, name, away)
            for _ in range(3):
                with pytest.raises(Unavailable):
                    rig.worker.run_once()
        assert len(rig.source.unacknowledged) == 1
        rig.worker.run_once()
        assert rig.source.unacknowledged == {}

    assert len(rig.stored()) == 2


def test_all_spellings_of_a_step_are_one_step() -> None:
    from ingest.scope import local_name

    spellings = ("shipping", "urn:epcglobal:cbv:bizstep:shipping", "https://ref.gs1.org/cbv/BizStep-shipping")

    assert {local_name(text) for text in spellings} == {"shipping"}
