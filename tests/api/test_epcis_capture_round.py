"""Captured and queried back: every valid document comes back equal in meaning, as JSON and as XML, in every form."""

from pathlib import Path
from typing import Any

import pytest

from core.canonical import parse_json
from core.epcis.content import content_digest
from core.epcis.hashes import event_hash
from core.epcis.items import document_events
from core.epcis.xml import read_xml
from ledger.database import Database
from ledger.followers import run_all
from ledger.queryindex import QueryIndex
from tests.api.capture_rig import Caller, CaptureRig, make_rig
from tests.conformance_data import files, needs_data

FORMS = ("Never_Translates", "Always_GS1_Digital_Link", "Always_EPC_URN")


@pytest.fixture
def rig(sqlite_database: Database) -> CaptureRig:
    return make_rig(sqlite_database)


def asked(rig: CaptureRig, caller: Caller, accept: str, form: str) -> list[dict[str, Any]]:
    rig.world.now = rig.clock.now_ms // 1000
    rig.world.step()
    run_all(rig.database, QueryIndex())
    answer = caller.client.get("/epcis/events", headers={"Accept": accept, "GS1-EPC-Format": form})
    assert answer.status_code == 200, answer.text
    body = answer.content
    return document_events(read_xml(body) if "xml" in accept else parse_json(body, bytes_max=10_000_000))


@needs_data
@pytest.mark.parametrize("path", files("epcis/valid", "*.json"), ids=lambda path: path.stem)
def test_a_captured_document_is_queried_back_equal_in_meaning(rig: CaptureRig, path: Path) -> None:
    sent = document_events(parse_json(path.read_bytes(), bytes_max=10_000_000))
    caller = rig.partner("dairy", "capture", "query")
    assert caller.capture(path.read_bytes())["success"] is True

    whole = asked(rig, caller, "application/json", "Never_Translates")

    assert sorted(map(content_digest, whole)) == sorted(map(content_digest, sent))
    wanted = sorted(map(event_hash, sent))
    for accept in ("application/json", "application/xml"):
        for form in FORMS:
            found = asked(rig, caller, accept, form)
            assert sorted(map(event_hash, found)) == wanted, (accept, form)


@needs_data
@pytest.mark.parametrize("path", files("epcis/hash-vectors", "*.xml"), ids=lambda path: path.stem)
def test_a_captured_xml_document_is_queried_back_with_its_hashes(rig: CaptureRig, path: Path) -> None:
    sent = document_events(read_xml(path.read_bytes()))
    caller = rig.partner("dairy", "capture", "query")
    job = caller.capture(path.read_bytes(), content_type="application/xml")

    found = asked(rig, caller, "application/xml", "Never_Translates")

    assert sorted(set(map(event_hash, found))) == sorted(set(map(event_hash, sent)))
    assert job["errors"] == []
