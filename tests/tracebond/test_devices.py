"""Organisations and devices by the command line, on a running server with its own broker and chain."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from core.crypto import generate_p256
from core.errors import Rejected
from tracebond.cli import cli
from tracebond.device_cli import device, device_end, org
from tracebond.devices import read_csv, read_jwk, scope_of
from tracebond.master_cli import master
from tracebond.quarantine_cli import quarantine
from tracebond.simulate_cli import simulate
from tracebond.user_cli import user

GLN = "9521234000013"
EVENT = {
    "type": "ObjectEvent",
    "action": "OBSERVE",
    "eventTime": "2026-01-05T08:00:00Z",
    "eventTimeZoneOffset": "+08:00",
    "epcList": ["urn:epc:id:sgtin:9521234.012345.7"],
    "bizStep": "commissioning",
}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def tracebond(*arguments: object) -> Done:
    """The command in this process: its start costs more than its work."""
    for command in (device, master, org, quarantine, simulate, user):
        cli.add_command(command)
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("server")
    with (data / "output").open("w") as output:
        program = [sys.executable, "-m", "tracebond", "up", "--data", str(data), "--port", "0"]
        process = subprocess.Popen(program, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while "serving" not in (data / "output").read_text():
            assert process.poll() is None, (data / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        added = tracebond("org", "add", GLN, "--data", data, "--name", "Dairy Works", "--role", "maker")
        assert added.returncode == 0, added.stderr
        yield data
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.json"
    body = {"type": "EPCISDocument", "schemaVersion": "2.0", "creationDate": "2026-01-05T08:00:00Z",
            "epcisBody": {"eventList": [EVENT]}}  # fmt: skip
    path.write_text(json.dumps(body))
    return path


def test_a_device_is_enrolled_publishes_is_rotated_and_ended(server: Path, document: Path, tmp_path: Path) -> None:
    first = json.loads(tracebond("device", "enrol", GLN, "9521234L7", "--data", server, "--out", tmp_path / "a").stdout)

    sent = tracebond("simulate", "--data", server, "--document", document, "--device", first["folder"])
    assert sent.stdout == "message 0: accepted\n"

    second = json.loads(tracebond("device", "rotate", first["kid"], "--data", server, "--out", tmp_path / "b").stdout)
    late = tracebond(
        "simulate", "--data", server, "--document", document, "--device", first["folder"], "--timeout", "3"
    )
    assert late.returncode != 0
    sent = tracebond("simulate", "--data", server, "--document", document, "--device", second["folder"])
    assert sent.stdout == "message 0: accepted\n"
    assert tracebond("device", "end", second["kid"], "--data", server, "--reason", "scrapped").returncode == 0
    twice = tracebond("device", "end", second["kid"], "--data", server, "--reason", "scrapped")
    assert "key_ended" in twice.stderr
    rows = [
        json.loads(line)
        for line in tracebond("device", "list", "--data", server, "--org", GLN, "--json").stdout.splitlines()
    ]
    assert [(row["kid"], row["is_ended"], row["messages"]) for row in rows] == [
        (first["kid"], True, 1),
        (second["kid"], True, 1),
    ]


class Guided:
    """The device of docs/device-guide.md, run as its reader runs it."""

    def __init__(self, folder: Path, server: Path) -> None:
        text = (Path(__file__).parents[2] / "docs" / "device-guide.md").read_text(encoding="utf-8")
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert len(blocks) == 1
        folder.mkdir()
        self.file = folder / "device.py"
        self.file.write_text(blocks[0], encoding="utf-8")
        found = re.search(r"url.*?(http://127\.0\.0\.1:\d+)", (server / "output").read_text())
        assert found is not None
        self.url = found[1]

    def run(self, *arguments: str, home: str = "device", timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        # Outside the repository and without its path: the page alone must do.
        environment = {"PATH": os.environ["PATH"], "DEVICE_HOME": home, "TIMEOUT_S": str(timeout_s)}
        program = [sys.executable, str(self.file), *arguments]
        return subprocess.run(
            program, capture_output=True, text=True, timeout=90, cwd=self.file.parent, env=environment
        )


def check_the_quarantine(server: Path, tmp_path: Path) -> None:
    """What the guide's device was refused is listed, shown and replayed from the command line."""
    listed = tracebond("quarantine", "list", "--data", server, "--reason", "event_in_future", "--json")
    [row] = map(json.loads, listed.stdout.splitlines())
    assert (row["is_authentic"], row["device"]) == (True, "9521234GUIDE1")

    shown = tracebond("quarantine", "show", row["id"], "--data", server, "--out", tmp_path / "bytes")
    assert "five minutes ahead" in shown.stdout
    assert '"2099-01-05T08:00:00Z"' in shown.stdout
    assert (tmp_path / "bytes").stat().st_size == row["bytes"] or row["bytes"] is None
    again = tracebond("quarantine", "replay", row["id"], "--data", server)
    # Its key has ended meanwhile: the same bytes are refused by another rule.
    assert (again.returncode, again.stdout.split()[1]) == (1, "key_ended")
    assert tracebond("quarantine", "purge", "--data", server, "--older", "1d").stdout == "0 removed\n"


def test_whoever_has_only_read_the_guide_enrols_publishes_rotates_and_ends(server: Path, tmp_path: Path) -> None:
    guided = Guided(tmp_path / "guide", server)
    event = json.dumps({**EVENT, "epcList": ["https://id.gs1.org/01/09521234123453/21/A1"]})
    wrong = json.dumps({**json.loads(event), "eventTime": "2099-01-05T08:00:00Z"})
    code = tracebond("device", "claim-code", "--org", GLN, "--data", server, "--expires", "1h").stdout.strip()

    claimed = guided.run("claim", guided.url, code, "9521234GUIDE1")
    assert claimed.returncode == 0, claimed.stderr
    kid = claimed.stdout.split()[1]
    assert "claim_code_used" in guided.run("claim", guided.url, code, "9521234GUIDE2", home="other").stderr
    sent = guided.run("send", event, wrong)
    assert sorted(sent.stdout.splitlines()) == ["message 0 accepted", "message 1 refused event_in_future"], sent.stderr

    code = tracebond("device", "claim-code", "--org", GLN, "--device", "9521234GUIDE1", "--data", server).stdout.strip()
    second = guided.run("claim", guided.url, code, home="device-2")
    assert second.returncode == 0, second.stderr
    assert guided.run("send", event, timeout_s=3).returncode != 0
    assert guided.run("connect", guided.url).stderr.startswith("409")
    assert guided.run("send", event, home="device-2").stdout == "message 0 accepted\n"
    new = second.stdout.split()[1]
    assert tracebond("device", "end", new, "--data", server, "--reason", "scrapped").returncode == 0
    assert guided.run("send", event, home="device-2", timeout_s=3).returncode != 0

    listed = tracebond("device", "list", "--data", server, "--org", GLN, "--json").stdout.splitlines()
    rows = {row["kid"]: row for row in map(json.loads, listed)}
    assert [(rows[one]["is_ended"], rows[one]["messages"]) for one in (kid, new)] == [(True, 1), (True, 1)]
    check_the_quarantine(server, tmp_path)


def test_staff_sign_in_by_a_link_and_master_data_is_told(server: Path) -> None:
    link = tracebond("user", "add", "lin", "--org", GLN, "--name", "Lin", "--role", "factory", "--data", server)
    assert "/login/once/" in link.stdout, link.stderr
    assert f"lin  {GLN}  factory  Lin" in tracebond("user", "list", "--data", server).stdout
    told = tracebond(
        "master", "set", GLN, "place", "9521234000020", "name_en=Cold store", "lat=31.2", "lon=121.4", "--data", server
    )
    assert len(told.stdout.strip()) == 43, told.stderr
    wrong = tracebond("master", "set", GLN, "place", "9521234000020", "lat=99", "lon=0", "--data", server)
    assert "bad_fact" in wrong.stderr


def test_devices_of_a_csv_file_are_enrolled_after_a_preview(server: Path, tmp_path: Path) -> None:
    jwk = json.dumps(generate_p256().jwk()).replace('"', '""')
    file = tmp_path / "devices.csv"
    file.write_text(f'gln,giai,jwk,steps\n{GLN},9521234C1,"{jwk}",packing\n{GLN},9521234C2,,\n')

    preview = tracebond("device", "import", file, "--data", server)
    assert preview.returncode == 0
    assert preview.stdout.count("would enrol") == 2
    done = tracebond("device", "import", file, "--data", server, "--out", tmp_path / "c", "--apply")

    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["client_id"] for row in rows] == [f"{GLN}/9521234C1", f"{GLN}/9521234C2"]
    assert [("folder" in row) for row in rows] == [False, True]


def test_a_device_of_an_unknown_organisation_is_refused(server: Path, tmp_path: Path) -> None:
    done = tracebond("device", "enrol", "9521234000020", "9521234X", "--data", server, "--out", tmp_path)

    assert done.returncode == 1
    assert "unknown_organisation" in done.stderr


@pytest.mark.unit
def test_bad_rows_are_named_by_line_and_column() -> None:
    text = f"gln,giai,rate_per_s\n{GLN},9521234A,5\n9521234000014,9521234B,\n{GLN},9521234A,\n{GLN},9521234D,x\n"

    wanted, wrong = read_csv(text)

    assert [device.giai for device in wanted] == ["9521234A"]
    assert [sentence.split(":")[0] for sentence in wrong] == ["line 3, gln", "line 4, giai", "line 5, rate_per_s"]


@pytest.mark.unit
def test_an_unknown_column_refuses_the_file() -> None:
    with pytest.raises(Rejected, match="first line"):
        read_csv("gln,giai,colour\n")


@pytest.mark.unit
def test_a_private_key_is_refused() -> None:
    jwk = generate_p256().jwk() | {"d": "AAAA"}

    with pytest.raises(Rejected, match="public key"):
        read_jwk(json.dumps(jwk))


@pytest.mark.unit
def test_a_scope_holds_canonical_identifiers() -> None:
    assert scope_of(products=["(01)09521234123453"], rate_per_s=2) == {
        "products": ["https://id.gs1.org/01/09521234123453"],
        "rate": {"per_s": 2, "burst": 10},
    }


@pytest.mark.unit
def test_a_kid_that_begins_with_a_hyphen_is_no_option() -> None:
    kid, last = "-" + "A" * 42, "-" + "B" * 42
    context = click.Context(device_end)

    device_end.parse_args(context, [kid, "--reason", "sold", "--last", last])

    assert (context.params["kid"], context.params["last"], context.params["reason"]) == (kid, last, "sold")
