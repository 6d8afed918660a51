"""Whatever JSON or XML comes, it is refused by our own error or it is valid: nothing else is ever raised."""

import contextlib
import copy
import os
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.canonical import parse_json
from core.epcis.content import content_digest
from core.epcis.forms import translated
from core.epcis.hashes import event_hash
from core.epcis.validate import document_problems, envelope_problems, event_problems, event_warnings
from core.epcis.xml import read_xml
from core.epcis.xml_out import document_xml
from core.errors import Rejected
from core.message import event_items
from tests.core.test_epcis_validate import STRICTER, VALUES, _floats

DATA = Path(os.environ.get("CONFORMANCE_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "epcis"
SAMPLES = sorted((DATA / "valid").glob("*.json"))
needs_data = pytest.mark.skipif(not SAMPLES, reason=f"no EPCIS documents at {DATA}")
NAMES = (
    "type", "@context", "action", "epcList", "eventTime", "eventTimeZoneOffset", "bizStep", "readPoint", "id", "ilmd",
    "quantityList", "epcClass", "quantity", "uom", "sensorElementList", "sensorReport", "sensorMetadata", "value",
    "errorDeclaration", "declarationTime", "reason", "correctiveEventIDs", "persistentDisposition", "set", "unset",
    "bizTransactionList", "bizTransaction", "sourceList", "source", "parentID", "childEPCs", "certificationInfo",
    "epcisBody", "eventList", "schemaVersion", "creationDate", "epcisHeader", "ex:field", "cbvmda:lotNumber",
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10), st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.text(max_size=8), st.sampled_from([value for value in VALUES if isinstance(value, str)]),
    st.sampled_from(["urn:epc:id:sgtin:0614141.112345.1", "https://id.gs1.org/00/106141412345678908"]),
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), inner, max_size=6)
    ),
    max_leaves=25,
)
EVENTS = st.builds(
    lambda kind, more: {**more, "type": kind},
    st.sampled_from(
        ["ObjectEvent", "AggregationEvent", "TransactionEvent", "TransformationEvent", "AssociationEvent", "ex:Own", 7]
    ),
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=10),
)
quiet = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@quiet
@given(JSON)
@example({"type": "EPCISDocument", "epcisBody": []})
@example({"type": "EPCISQueryDocument", "epcisBody": {"queryResults": []}})
def test_any_json_gets_problems_and_never_an_error(document: Any) -> None:
    for find in (document_problems, envelope_problems):
        problems = find(document)
        assert all(problem.code and isinstance(problem.pointer, str) for problem in problems)


@quiet
@given(EVENTS)
def test_any_event_is_judged_and_what_is_valid_can_be_hashed_written_and_named(event: dict[str, Any]) -> None:
    problems = event_problems(event)
    event_warnings(event)

    if not problems:
        event_hash(event)
        content_digest(event)
        event_items(event)
        for form in ("Always_GS1_Digital_Link", "Always_EPC_URN"):
            translated(event, form)  # type: ignore[arg-type]
        read_xml(document_xml([event], created="2026-01-01T00:00:00Z"))


@quiet
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"<a>" * 100)
@example(b"<EPCISDocument/>")
@example(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
def test_any_bytes_are_refused_or_read_as_xml_and_json(data: bytes) -> None:
    for read in (read_xml, lambda text: parse_json(text, bytes_max=1_000)):
        with contextlib.suppress(Rejected):
            read(data)


@needs_data
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_several_mutations_make_is_never_taken_where_the_normative_schema_refuses(data: st.DataObject) -> None:
    document = parse_json(data.draw(st.sampled_from(SAMPLES)).read_bytes(), bytes_max=1_000_000)
    mutant = copy.deepcopy(_floats(document))
    for _ in range(data.draw(st.integers(2, 4))):
        _mutate(mutant, data)

    problems = document_problems(mutant)

    if ORACLE.is_valid(mutant):
        assert {problem.code for problem in problems} <= STRICTER, (problems, mutant)
    else:
        assert problems, mutant


def _mutate(document: Any, data: st.DataObject) -> None:
    holder, name = document, "epcisBody"
    for _ in range(data.draw(st.integers(1, 6))):
        below = holder[name]
        keys = list(below) if isinstance(below, dict) else list(range(len(below))) if isinstance(below, list) else []
        if not keys:
            break
        holder, name = below, data.draw(st.sampled_from(keys))
    match data.draw(st.sampled_from(["drop", "value", "rename"])):
        case "drop":
            del holder[name]
        case "rename" if isinstance(holder, dict):
            holder[data.draw(st.sampled_from(NAMES))] = holder.pop(name)
        case _:
            holder[name] = data.draw(st.sampled_from(VALUES))
    if holder is document and "epcisBody" not in document:
        document["epcisBody"] = {"eventList": []}


def _oracle() -> Any:
    path = DATA / "epcis-json-schema-2.0.1.json"
    if not path.exists():
        return None
    schema = parse_json(path.read_bytes(), bytes_max=1_000_000, depth_max=40)
    return jsonschema_rs.validator_for(schema, validate_formats=True)


ORACLE = _oracle()
