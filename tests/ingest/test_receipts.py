"""Receipts signed in bulk: one signature, one tree, and a path for each device."""

import pytest

from core.canonical import canonical_bytes, parse_json, unb64u
from core.merkle import inclusion_proof, leaf_hash
from core.receipts import open_receipt
from ingest.receipts import Promises, Terms, promised, sign_answers
from ingest.topics import DeviceName
from tests.ingest.rig import RECEIPT_KEY

pytestmark = pytest.mark.unit
HISTORY = Promises([(0, Terms(60, 86_400)), (1_000, Terms(5, 100))])


def answers(count: int) -> list[tuple[str, bytes]]:
    made = [
        promised(
            DeviceName("9521000000018", f"d{number}"),
            aud="https://tracebond.test",
            log="tracebond.test/log",
            message_id=bytes([number]) * 32,
            leaf_hash=b"\1" * 32,
            publish=b"\2" * 32,
            accepted_ms=999_999 + number,
            history=HISTORY,
        )
        for number in range(count)
    ]
    return sign_answers(made, RECEIPT_KEY, aud="https://tracebond.test", log="tracebond.test/log")


@pytest.mark.parametrize("count", [1, 2, 3, 8, 33])
def test_each_device_gets_its_own_path_under_one_signature(count: int) -> None:
    signed = answers(count)

    parsed = [parse_json(data, bytes_max=20_000) for _, data in signed]
    leaves = [leaf_hash(canonical_bytes(value["receipt"])) for value in parsed]
    for index, ((topic, data), value) in enumerate(zip(signed, parsed, strict=True)):
        assert topic == f"tb/1/9521000000018/d{index}/receipts"
        assert open_receipt(data, RECEIPT_KEY.public).message == bytes([index]) * 32
        assert [unb64u(node) for node in value["path"]] == inclusion_proof(leaves, index)
        assert canonical_bytes(value) == data
    assert len({value["jws"] for value in parsed}) == 1


def test_terms_are_those_in_force_when_the_message_was_accepted() -> None:
    before, after = (open_receipt(data, RECEIPT_KEY.public).payload for _, data in answers(2))

    assert (before["accepted_at"], before["promise_s"]) == (999, 60)
    assert (after["accepted_at"], after["promise_s"]) == (1_000, 5)
