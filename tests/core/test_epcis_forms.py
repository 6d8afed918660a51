"""Other spellings of an event keep its meaning: Digital Links and URNs, JSON and XML, web addresses and URNs."""

import os
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from core.canonical import parse_json
from core.epcis.content import content_digest
from core.epcis.forms import CompanyPrefixes, cbv_term, digital_link, epc_urn, translated
from core.epcis.hashes import event_hash
from core.epcis.items import document_events
from core.epcis.validate import document_problems
from core.epcis.xml import read_xml
from core.epcis.xml_out import document_xml

DATA = Path(os.environ.get("CONFORMANCE_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "epcis"
JSON = sorted((DATA / "valid").glob("*.json")) + sorted((DATA / "hash-vectors").glob("*.jsonld"))
XML = sorted((DATA / "hash-vectors").glob("*.xml"))
needs_data = pytest.mark.skipif(not JSON, reason=f"no EPCIS documents at {DATA}")
CREATED = "2026-11-24T00:00:00Z"
NS = {"q": "urn:epcglobal:epcis-query:xsd:2"}


def events_of(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return document_events(read_xml(data) if path.suffix == ".xml" else parse_json(data, bytes_max=1_000_000))


@needs_data
@pytest.mark.parametrize("cbv_format", ["Always_Web_URI", "Always_URN", "Never_Translates"])
@pytest.mark.parametrize("path", [*JSON, *XML], ids=lambda path: path.name)
def test_an_event_written_as_xml_and_read_again_is_valid_and_has_its_hash(path: Path, cbv_format: Any) -> None:
    events = events_of(path)

    again = read_xml(document_xml(events, created=CREATED, query_name="all", cbv_format=cbv_format))

    assert document_problems(again) == []
    assert [event_hash(event) for event in document_events(again)] == [event_hash(event) for event in events]


@needs_data
@pytest.mark.parametrize("form", ["Always_GS1_Digital_Link", "Always_EPC_URN", "Never_Translates", "No_Preference"])
@pytest.mark.parametrize("path", [*JSON, *XML], ids=lambda path: path.name)
def test_an_event_in_another_form_has_the_same_hash(path: Path, form: Any) -> None:
    for event in events_of(path):
        assert event_hash(translated(event, form)) == event_hash(event)


def test_a_query_document_says_its_query_and_keeps_the_order_of_elements() -> None:
    event = {
        "disposition": "in_transit", "bizStep": "shipping", "action": "OBSERVE", "type": "ObjectEvent",
        "epcList": ["urn:epc:id:sscc:4012345.0111111111"], "eventTimeZoneOffset": "+01:00",
        "eventTime": "2026-11-24T00:00:00Z",
    }  # fmt: skip

    root = ElementTree.fromstring(
        document_xml([event], created=CREATED, query_name="mine", subscription_id="7", cbv_format="Always_URN")
    )

    results = root.find("EPCISBody/q:QueryResults", NS)
    assert root.tag == "{urn:epcglobal:epcis-query:xsd:2}EPCISQueryDocument"
    assert results is not None
    assert (results.findtext("queryName"), results.findtext("subscriptionID")) == ("mine", "7")
    written = results.find("resultsBody/EventList/ObjectEvent")
    assert written is not None
    # The order of the standard's schema, not of the JSON.
    assert [child.tag for child in written] == [
        "eventTime", "eventTimeZoneOffset", "epcList", "action", "bizStep", "disposition",
    ]  # fmt: skip
    assert written.findtext("bizStep") == "urn:epcglobal:cbv:bizstep:shipping"


@pytest.mark.parametrize(
    "value",
    ["a & b < c > \"d\" 'e'", "\u0000\u0001", "]]>", "  padded  ", Decimal("0.10"), True, None, [1, [2, 3]], {}, "é漢"],
)
def test_any_value_of_an_extension_makes_well_formed_xml(value: Any) -> None:
    event = {
        "@context": {"ex": "https://ex.example/"}, "type": "ObjectEvent", "ex:a b/c": value, "un:declared": value,
        "https://x.example/y#z": {"ex:in": value, "@type": "T"}, "ex:1": value, "xml:lang": "de",
    }  # fmt: skip

    ElementTree.fromstring(document_xml([event], created=CREATED))


# Pairs out of the GS1 EPC Tag Data Standard 2.1 and the Digital Link examples of CBV 2.0.
PAIRS = [
    ("urn:epc:id:sgtin:0614141.812345.6789", "https://id.gs1.org/01/80614141123458/21/6789"),
    ("urn:epc:class:lgtin:4012345.012345.998877", "https://id.gs1.org/01/04012345123456/10/998877"),
    ("urn:epc:idpat:sgtin:4012345.012345.*", "https://id.gs1.org/01/04012345123456"),
    ("urn:epc:id:sscc:0614141.1234567890", "https://id.gs1.org/00/106141412345678908"),
    ("urn:epc:id:sgln:0614141.12345.400", "https://id.gs1.org/414/0614141123452/254/400"),
    ("urn:epc:id:sgln:0614141.12345.0", "https://id.gs1.org/414/0614141123452"),
    ("urn:epc:id:grai:0614141.12345.400", "https://id.gs1.org/8003/00614141123452400"),
    ("urn:epc:id:giai:0614141.12345400", "https://id.gs1.org/8004/061414112345400"),
    ("urn:epc:id:gsrn:0614141.1234567890", "https://id.gs1.org/8018/061414112345678902"),
    ("urn:epc:id:gdti:0614141.12345.400", "https://id.gs1.org/253/0614141123452400"),
    ("urn:epc:id:ginc:0614141.xyz47%2F11", "https://id.gs1.org/401/0614141xyz47%2F11"),
    ("urn:epc:id:gsin:0614141.123456789", "https://id.gs1.org/402/06141411234567890"),
    ("urn:epc:id:pgln:1234567.89012", "https://id.gs1.org/417/1234567890128"),
]


@pytest.mark.parametrize(("urn", "link"), PAIRS)
def test_urn_and_digital_link_become_one_another_where_the_company_prefix_is_known(urn: str, link: str) -> None:
    known = CompanyPrefixes(["0614141", "4012345", "1234567"])

    assert digital_link(urn) == link
    assert epc_urn(link, known.length) == urn
    assert epc_urn(link, lambda digits: None) == link


def test_a_wrong_prefix_length_never_makes_another_identifier() -> None:
    for length in range(13):
        made = epc_urn("https://id.gs1.org/01/80614141123458/21/6789", lambda digits, n=length: n)  # type: ignore[misc]
        assert digital_link(made) == "https://id.gs1.org/01/80614141123458/21/6789"


def test_other_urls_and_urns_stay_as_they_are() -> None:
    event = {"type": "ObjectEvent", "epcList": ["https://example.com/things/1", "urn:uuid:1", "urn:epc:id:sgtin:bad"]}

    assert translated(event, "Always_GS1_Digital_Link") == event
    assert translated(event, "Always_EPC_URN", lambda digits: 7) == event


@pytest.mark.parametrize(
    ("term", "form", "written"),
    [
        ("shipping", "Always_URN", "urn:epcglobal:cbv:bizstep:shipping"),
        ("https://ref.gs1.org/cbv/BizStep-shipping", "Always_URN", "urn:epcglobal:cbv:bizstep:shipping"),
        ("urn:epcglobal:cbv:bizstep:shipping", "Always_Web_URI", "https://ref.gs1.org/cbv/BizStep-shipping"),
        ("urn:epcglobal:cbv:bizstep:shipping", "Never_Translates", "urn:epcglobal:cbv:bizstep:shipping"),
        ("shipping", "Never_Translates", "https://ref.gs1.org/cbv/BizStep-shipping"),
        ("https://example.com/steps/drying", "Always_URN", "https://example.com/steps/drying"),
    ],
)
def test_a_term_is_written_in_the_form_asked_for(term: str, form: Any, written: str) -> None:
    assert cbv_term(term, "bizStep", form) == written


def test_the_content_digest_passes_over_spelling_and_sees_every_other_change() -> None:
    event: dict[str, Any] = {
        "@context": {"ex": "https://ex.example/"}, "type": "ObjectEvent", "eventTime": "2026-01-01T01:00:00+01:00",
        "ex:weight": Decimal("1.50"), "epcList": ["urn:a:1", "urn:a:2"], "errorDeclaration": {"reason": "x"},
    }  # fmt: skip
    same = [
        dict(reversed(event.items())),
        event | {"eventTime": "2026-01-01T00:00:00Z"},
        event | {"ex:weight": Decimal("1.5")},
        event | {"recordTime": "2026-01-02T00:00:00Z"},
        {"@context": {"other": "https://ex.example/"}, "other:weight": Decimal("1.5")}
        | {name: value for name, value in event.items() if name not in ("@context", "ex:weight")},
    ]
    other = [
        event | {"eventTime": "2026-01-01T00:00:00.001Z"},
        event | {"ex:weight": "1.5"},
        event | {"epcList": ["urn:a:1"]},
        event | {"errorDeclaration": {"reason": "y"}},
        {name: value for name, value in event.items() if name != "errorDeclaration"},
    ]

    assert {content_digest(one) for one in same} == {content_digest(event)}
    assert len({content_digest(one) for one in [event, *other]}) == 1 + len(other)
