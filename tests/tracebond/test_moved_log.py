"""Bundles out of a real data folder whose contracts were deployed anew, and of a log that goes on from a frozen one."""

from pathlib import Path

import pytest

from core.crypto import generate_p256
from core.errors import Conflict
from core.proofs import Policy, Report, questions
from ledger.anchor import last_final_anchor
from ledger.followers import run_all
from ledger.itemmap import ProofMap
from ledger.proofs import build_bundle
from ledger.state import views
from tests.tracebond.test_chain_cli import Service, call, data, seeded, service, sizes
from tests.vectors.test_mutated_bundles import Log, expected_of, in_node, in_python, told
from tracebond.enrol import OrganisationSpec
from tracebond.loops import now_s
from tracebond.new_chain import register_again
from tracebond.verify import render

__all__ = ["data", "seeded"]
GLN = "9521234500032"
KEY = generate_p256()
PLACE = "https://id.gs1.org/414/9521234500049"
LATER = "https://id.gs1.org/414/9521234500056"


def record(running: Service, subject: str) -> None:
    org = OrganisationSpec(GLN, "Master", "maker")
    running.enrolment.organisations([org], {GLN: KEY})
    running.enrolment.master(org.id, KEY, [(subject, "place", {"name": "x"})])
    running.sequencer.step(now_s())
    running.anchor()


def bundle_of(running: Service, item: str) -> tuple[Log, bytes]:
    parts, maps = running.parts, ProofMap()
    run_all(parts.db, views())
    with parts.db.reading() as tx:
        final = last_final_anchor(tx)
        assert final is not None
        maps.advance(tx, final.size)
        made = build_bundle(tx, maps, parts.place, item, reader="regulator")
    known = {
        f"{q.to} {q.data}": "0x" + parts.chain.call(q.to, bytes.fromhex(q.data[2:])).hex() for q in questions(made)
    }
    return Log(item, known, parts.place.chain_id, parts.place.genesis, Policy(parts.place.contract)), made


def verified(*cases: tuple[Log, bytes]) -> list[Report]:
    reports = []
    for (log, made), result in zip(cases, in_node(list(cases)), strict=True):
        report = in_python(log, made)
        assert isinstance(report, Report), report
        assert told(result["report"]) == expected_of(report)
        reports.append(report)
    return reports


def test_a_bundle_made_after_a_new_chain_verifies_for_records_of_before_and_after(data: Path) -> None:
    with service(data) as running:
        record(running, PLACE)
    for path in data.glob("chain.db*"):
        path.unlink()

    with service(data, new_chain=True) as running:
        running.anchorer.check_start(now_ms=now_s() * 1000)
        running.anchor()
        with pytest.raises(Conflict) as raised:
            bundle_of(running, PLACE)
        running.enrolment.operator()
        register_again(running.parts, running.enrolment)
        running.sequencer.step(now_s())
        record(running, LATER)
        before, after = bundle_of(running, PLACE), bundle_of(running, LATER)
        reports = verified(before, after)

    assert raised.value.code == "not_anchored"
    assert [report.coverage for report in reports] == ["whole", "whole"]
    # The older record rests on old and new org records of operator and maker; the later one on the new ones alone.
    assert [made.count(b'"index":') for _, made in (before, after)] == [5, 3]


def test_a_successors_bundle_says_up_to_where_it_covers_its_predecessor(data: Path) -> None:
    with service(data) as running:
        record(running, PLACE)
    last = sizes(data)[-1]
    call(data, "log", "freeze", "--last-good", str(last), "--reason", "a drill", "--yes")
    call(data, "log", "successor", "--keep-publisher")
    with service(data) as running:
        running.anchorer.check_start(now_ms=now_s() * 1000)
        record(running, LATER)
        (report,) = verified(bundle_of(running, PLACE))

    assert (report.predecessors, report.other_logs) == (((0, last),), 0)
    assert f"goes on from log 0, which was frozen: its history is covered up to size {last}" in render(
        report, as_json=False
    )
