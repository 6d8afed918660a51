"""One product's life, end to end: told, proven, kept over a restart, and every change noticed."""

import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts import rpc
from core.errors import Rejected
from core.proofs import Policy, questions, verify
from tests.conformance_data import files, needs_data
from tests.journeys.conftest import Told, run, server

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("journeys")]


def bundle_of(client: httpx.Client, item: str) -> bytes:
    answer = client.get(f"/items/{item}/proof")
    assert answer.status_code == 200, answer.text[:500]
    return answer.content


def copied(told: Told, folder: Path) -> Path:
    copy = folder / "copy"
    shutil.copytree(told.data, copy, ignore=shutil.ignore_patterns("*.log", "mosquitto.pid", "port"))
    return copy


def test_the_demo_tells_a_loan_and_what_was_refused(told: Told) -> None:
    steps = [step for step, _ in told.summary["loan_steps"]]
    refused = dict(told.summary["refused"])

    assert steps.index("approval") < steps.index("pledge") < steps.index("draw-down") < steps.index("repayment")
    assert steps[-1] == "draw-down"
    assert refused["second bank, the same pallet"].startswith("already_pledged")
    assert refused["second bank, a tin inside it, as EPC URN"].startswith("already_pledged")
    assert refused["second receipt over a pledged tin, straight to the contract"].startswith("over_capacity")
    assert refused["device message: wrong signature"].startswith("bad_signature")
    assert refused["device message: not a number"].startswith("bad_number")
    assert told.summary["anchors"] >= 1


def test_bundles_verify_offline_and_no_changed_byte_does(told: Told, tmp_path: Path) -> None:
    with server(told.data) as client:
        item = told.summary["highlights"]["sold_tin"]
        data = bundle_of(client, item)
        file = tmp_path / "bundle.json"
        file.write_bytes(data)
        node = f"{str(client.base_url).rstrip('/')}/rpc"
        good = run("verify", str(file), "--rpc", node, "--log-contract", told.contract)
        file.write_bytes(data[:-900] + bytes([data[-900] ^ 1]) + data[-899:])
        bad = run("verify", str(file), "--rpc", node, "--log-contract", told.contract)
        other = run("verify", str(file), "--rpc", node, "--log-contract", "0x" + "12" * 20)
        answers = rpc.ask(node, questions(data))

    assert good.returncode == 0, good.stderr
    assert "whole history" in good.stdout
    assert (bad.returncode, other.returncode) == (1, 1)
    accepted = []
    for position in range(0, len(data), max(1, len(data) // 400)):
        changed = bytearray(data)
        changed[position] ^= 1
        try:
            verify(bytes(changed), answers, Policy(told.contract))
            accepted.append(position)
        except Rejected:
            continue
    assert accepted == []


def test_after_a_restart_everything_is_still_there_pledges_included(told: Told) -> None:
    pledged = [loan["pledge"] for loan in told.summary["loans"]]
    with server(told.data) as client:
        head = client.get("/log/checkpoint").text.split("\n")
        page = client.get(
            told.summary["highlights"]["sold_tin"].removeprefix("https://id.gs1.org"), headers={"accept": "text/html"}
        )

    assert int(head[1]) >= told.summary["log_size"]
    assert page.status_code == 200
    for word in ("pledge", "loan", "borrower", "yuan"):
        assert word not in page.text.lower()
    store = sqlite3.connect(f"file:{told.data / 'tracebond.db'}?mode=ro", uri=True)
    states = dict(store.execute("SELECT id, state FROM fin_pledges").fetchall())
    store.close()
    assert states[pledged[0]] == "RELEASED"
    assert states[pledged[-1]] == "ACTIVE"


def test_an_untouched_folder_passes_the_audit(told: Told) -> None:
    done = run("audit", "--full", "--data", str(told.data))

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "all agrees with the chain" in done.stdout


def tamper(data: Path, column: str = "jwt") -> None:
    """An insider with the file in hand changes one byte of the newest-but-some message."""
    store = sqlite3.connect(data / "tracebond.db")
    triggers = store.execute("SELECT name FROM sqlite_master WHERE type='trigger' AND tbl_name='messages'").fetchall()
    for (name,) in triggers:
        store.execute(f"DROP TRIGGER {name}")
    arrival, value = store.execute(
        f"SELECT arrival, {column} FROM messages ORDER BY arrival LIMIT 1 OFFSET 20"
    ).fetchone()
    changed = bytearray(value)
    changed[len(changed) // 2] ^= 1
    store.execute(f"UPDATE messages SET {column} = ? WHERE arrival = ?", (bytes(changed), arrival))
    store.commit()
    store.close()


@pytest.mark.parametrize("column", ["jwt", "items"])
def test_one_byte_changed_in_a_stored_message_is_named_by_the_audit(told: Told, tmp_path: Path, column: str) -> None:
    data = copied(told, tmp_path)
    tamper(data, column)

    done = run("audit", "--full", "--data", str(data))

    assert done.returncode == 1
    assert "DIFFERS" in done.stdout
    assert "leaf" in done.stdout


@needs_data
def test_documents_of_others_arrive_or_are_named_in_quarantine(told: Told, tmp_path: Path) -> None:
    data = copied(told, tmp_path)
    good = files("epcis/valid", "AggregationEvent.json") + files("epcis/valid", "epcisDocWithAllGS1Keys.json")
    bad = files("epcis/invalid", "ObjectEvent_without_identifier_list.json")
    with server(data) as client:
        results = {file.name: run("simulate", "--data", str(data), "--document", str(file)) for file in good + bad}
        verified = _wait_for_bundle(client, "https://id.gs1.org/01/10614141073464/21/2017", told.contract)

    assert [results[file.name].returncode for file in good] == [0, 0], [r.stderr for r in results.values()]
    assert results[bad[0].name].returncode == 1
    assert "refused" in results[bad[0].name].stdout
    assert {event.event["type"] for event in verified.events} == {"AggregationEvent"}


def _wait_for_bundle(client: httpx.Client, item: str, contract: str) -> Any:
    """A bundle over a size that was anchored after the documents came."""
    before = int(client.get("/log/checkpoint").text.split("\n")[1])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        answer = client.get(f"/items/{item}/proof")
        if answer.status_code == 200:
            report = verify(
                answer.content,
                rpc.ask(f"{str(client.base_url).rstrip('/')}/rpc", questions(answer.content)),
                Policy(contract),
            )
            if report.size >= before and report.events:
                return report
        time.sleep(1)
    raise AssertionError(f"{item} was not anchored in two minutes")
