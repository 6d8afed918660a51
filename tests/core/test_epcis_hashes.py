"""The GS1 event hash: published vectors, and the rules that vectors do not show."""

import os
from pathlib import Path
from typing import Any

import pytest

from core.canonical import parse_json
from core.epcis.hashes import event_hash, prehash
from core.epcis.items import document_events
from core.errors import Rejected

DATA = Path(os.environ.get("CONFORMANCE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
VECTORS = DATA / "epcis" / "hash-vectors"
# The published pre-hash texts of these are damaged (garbled inside words, cut off at the end); their hashes are whole.
DAMAGED = {"epcisDocWithAllGS1Keys", "epcisDocWithDefaultSchemaInContext"}
# This document asks the reader to leave out fields. We take such a list from the caller alone.
IGNORED = {"epcisQueryDocHavingEventWithIgnoreFields": ("repository-x:hash", "example:captureID")}
FILES = sorted(VECTORS.glob("*.jsonld"))
TEXTS = [file for file in FILES if file.with_suffix(".prehashes").exists() and file.stem not in DAMAGED]
needs_vectors = pytest.mark.skipif(not FILES, reason=f"no event hash vectors at {VECTORS}")

EVENT: dict[str, Any] = {
    "type": "ObjectEvent",
    "eventTime": "2023-02-02T12:04:03.142+01:00",
    "eventTimeZoneOffset": "+01:00",
    "epcList": ["urn:epc:id:sscc:4012345.0111111111"],
    "action": "OBSERVE",
    "bizStep": "shipping",
    "disposition": "in_transit",
    "readPoint": {"id": "urn:epc:id:sgln:4012345.00011.0"},
}


def _events(path: Path) -> list[dict[str, Any]]:
    return document_events(parse_json(path.read_bytes(), bytes_max=1_000_000))


@needs_vectors
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hash_is_that_of_the_published_vector(path: Path) -> None:
    wanted = path.with_suffix(".hashes").read_text().split()

    assert [event_hash(event, ignored=IGNORED.get(path.stem, ())) for event in _events(path)] == wanted


@needs_vectors
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_pre_hash_text_is_that_of_the_published_vector(path: Path) -> None:
    found = [prehash(event, ignored=IGNORED.get(path.stem, ())) for event in _events(path)]

    assert found == path.with_suffix(".prehashes").read_text().splitlines()


def test_hash_of_the_documented_example() -> None:
    # A vector of the reference implementation's documentation.
    assert event_hash(EVENT) == (
        "ni:///sha-256;af7658e711574363633f20b3dadc7bc4c13c6f612cf96d95e03c421c0e58f3c6?ver=CBV2.0"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"eventTime": "2023-02-02T11:04:03.1424Z"},
        {"epcList": ["https://id.gs1.org/00/040123451111111110"]},
        {"epcList": ["https://example.com/x/00/040123451111111110?a=b"]},
        {"bizStep": "https://ref.gs1.org/cbv/BizStep-shipping"},
        {"bizStep": "cbv:BizStep-shipping"},
        {"bizStep": "urn:epcglobal:cbv:bizstep:shipping"},
        {"eventID": "urn:uuid:374d95fc-9457-4a51-bd6a-0bba133845a8"},
        {"recordTime": "2024-01-01T00:00:00Z"},
        {"errorDeclaration": {"declarationTime": "2024-01-01T00:00:00Z"}},
        {"rdfs:comment": "a word to the reader"},
        {"quantityList": []},
    ],
)
def test_spelling_and_left_out_fields_do_not_change_the_hash(change: dict[str, Any]) -> None:
    assert event_hash({**EVENT, **change}) == event_hash(EVENT)


@pytest.mark.parametrize(
    "change",
    [
        {"eventTime": "2023-02-02T11:04:03.1425Z"},
        {"action": "DELETE"},
        {"eventTimeZoneOffset": "+02:00"},
        {"certificationInfo": "https://example.com/c"},
        {"https://example.com/ns/field": "x"},
    ],
)
def test_any_other_change_changes_the_hash(change: dict[str, Any]) -> None:
    assert event_hash({**EVENT, **change}) != event_hash(EVENT)


def test_two_different_events_can_share_one_hash() -> None:
    # Why the hash is never evidence: the text has no separators (known pair).
    first = {**EVENT, "bizTransactionList": [
        {"type": "po", "bizTransaction": "urn:x:1"}, {"type": "inv", "bizTransaction": "urn:x:2"},
    ]}  # fmt: skip
    glued = "urn:x:2type=https://ref.gs1.org/cbv/BTT-pobizTransaction=urn:x:1"
    second = {**EVENT, "bizTransactionList": [{"type": "inv", "bizTransaction": glued}]}

    assert event_hash(first) == event_hash(second)


def test_time_without_zone_and_unknown_profile_are_refused() -> None:
    with pytest.raises(Rejected) as no_zone:
        event_hash({**EVENT, "eventTime": "2023-02-02T12:04:03"})
    with pytest.raises(Rejected) as no_profile:
        event_hash(EVENT, profile="gs1-cbv9.9")

    assert (no_zone.value.code, no_profile.value.code) == ("bad_time", "unknown_profile")
