"""After an erasure a stranger's proof still verifies, shows less, and carries the record that says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from core.canonical import b64u, unb64u
from core.errors import Broken
from ingest import quarantine
from ingest.source import Delivery
from ledger import erasure as ledger_erasure
from ledger.database import Database
from ledger.erasure_request import sign_request
from tests.attacks.scene import Attacked
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, seen, sgtin_id
from tests.mirror_rig import Operator
from tracebond import erasure_cli

PERSON = "https://example.org/Q7ZW-person-13800138000"


def test_proofs_verify_and_say_what_was_erased(tmp_path: Path) -> None:
    operator = Operator(tmp_path).first()
    sent = operator.send("line-1", seen("p1", at=operator.now, place=PERSON))
    operator.anchor()
    scene = Attacked.__new__(Attacked)
    scene.operator = operator
    before = Attacked.verified(scene, Attacked.bundle(scene, sgtin_id("p1")))
    with operator.database.reading() as tx:
        leaf = ledger_erasure.find(tx, message=sent.id)
    text = sign_request(
        operator.orgs[MAKER], aud=AUD, log=LOG, org=MAKER, message=b64u(sent.id), leaf=leaf, event=0,
        names=["readPoint"], iat=operator.now, reason="a person's data",
    )  # fmt: skip
    with operator.database.transaction() as tx:
        ledger_erasure.carry_out(tx, text, operator=operator.orgs[OPERATOR], now_ms=operator.now * 1000)
    operator.anchor()

    bundle = Attacked.bundle(scene, sgtin_id("p1"))
    after = Attacked.verified(scene, bundle)

    assert before.events[0].event["readPoint"] == {"id": PERSON}
    assert "readPoint" not in after.events[0].event
    assert (before.events[0].hidden, after.events[0].hidden, after.coverage) == (0, 1, before.coverage)
    payloads = [json.loads(unb64u(entry["data"].split(".")[1])) for entry in bundle["entries"]]
    [record] = [one for one in payloads if one.get("t") == "erasure"]
    assert (record["leaf"], record["event"], record["names"]) == (leaf, 0, ["readPoint"])
    assert PERSON not in json.dumps(bundle)
    operator.close()


def test_the_quarantines_copies_go_and_its_fill_with_them(sqlite_database: Database) -> None:
    message = bytes([7]) * 32
    deliveries = [Delivery(f"tb/1/1/{number}/events", b"copy" * 10, None, False) for number in range(3)]
    with sqlite_database.transaction() as tx:
        for number, delivery in enumerate(deliveries):
            ident = message if number < 2 else bytes(32)
            quarantine.put(tx, [quarantine.Fault(delivery, "x", "x", message_id=ident)], now_ms=1)
        full = quarantine.fill(tx, rows_max=10, bytes_max=1_000_000)

        gone = erasure_cli.forget_quarantined(tx, message)

        assert (gone, full, quarantine.fill(tx, rows_max=10, bytes_max=1_000_000)) == (2, 0.3, 0.1)


class Parts:
    """The parts of a process, over a test's operator."""

    def __init__(self, operator: Operator) -> None:
        self.db = operator.database
        self.keyfiles = type("Keys", (), {"operator": operator.orgs[OPERATOR]})

    def close(self) -> None:
        """The test closes them."""


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "data").mkdir()
    made = Operator(tmp_path / "data").first()
    monkeypatch.setattr(erasure_cli, "open_parts", lambda settings: Parts(made))
    yield made
    made.close()


def run(*arguments: str, answer: str = "") -> Any:
    return CliRunner().invoke(erasure_cli.erasure, arguments, input=answer, catch_exceptions=True)


def test_the_command_previews_signs_and_erases(operator: Operator, tmp_path: Path) -> None:
    sent = operator.send("line-1", seen("p1", at=operator.now, place=PERSON, eventID="urn:uuid:0a1b2c3d-1"))
    operator.anchor()
    (tmp_path / "owner.pem").write_bytes(operator.orgs[MAKER].to_pem())
    [text] = [one.text.encode() for one in sent.signed.disclosures[0] if one.name == "readPoint"]
    place = ["--message", b64u(sent.id), "--name", "readPoint"]

    shown = run("preview", "--event-id", "urn:uuid:0a1b2c3d-1", "--name", "readPoint")
    signed = run(
        "request", *place, "--key", str(tmp_path / "owner.pem"), "--reason", "a person", "--out", str(tmp_path / "r")
    )
    declined = run("carry-out", str(tmp_path / "r"), answer="n\n")
    still = files_with(operator.folder, text)
    done = run("carry-out", str(tmp_path / "r"), answer="y\n")

    assert f'goes   readPoint = {{"id": "{PERSON}"}}' in shown.output
    assert "stays  epcList" in shown.output
    assert signed.exit_code == 0, signed.output
    assert (declined.exit_code, bool(still)) == (1, True)
    assert done.exit_code == 0, done.output
    assert "erased 1 disclosures and 0 copies" in done.output
    assert files_with(operator.folder, text) == []


def test_the_command_says_when_something_is_left(operator: Operator, tmp_path: Path, monkeypatch: Any) -> None:
    sent = operator.send("line-1", seen("p1", at=operator.now, place=PERSON))
    operator.anchor()
    (tmp_path / "owner.pem").write_bytes(operator.orgs[MAKER].to_pem())
    run(
        "request", "--message", b64u(sent.id), "--name", "readPoint", "--key", str(tmp_path / "owner.pem"),
        "--reason", "a person", "--out", str(tmp_path / "r"),
    )  # fmt: skip
    monkeypatch.setattr(ledger_erasure, "erase", lambda *given, **more: 0)

    done = run("carry-out", str(tmp_path / "r"), "--yes")

    assert isinstance(done.exception, Broken)
    assert "still there: disclosure in disclosures.texts" in done.output


def files_with(folder: Path, needle: bytes) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes())
