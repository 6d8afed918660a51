"""Organisations and devices by the command line, on a running server with its own broker and chain."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from core.crypto import generate_p256
from core.errors import Rejected
from tracebond.device_cli import device_end
from tracebond.devices import read_csv, read_jwk, scope_of

GLN = "9521234000013"
EVENT = {
    "type": "ObjectEvent",
    "action": "OBSERVE",
    "eventTime": "2026-01-05T08:00:00Z",
    "eventTimeZoneOffset": "+08:00",
    "epcList": ["urn:epc:id:sgtin:9521234.012345.7"],
    "bizStep": "commissioning",
}


def tracebond(*arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tracebond", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=timeout)


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
    organisation = tracebond("org", "add", GLN, "--data", server, "--name", "Dairy Works", "--role", "maker")
    assert organisation.returncode == 0, organisation.stderr
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


def test_devices_of_a_csv_file_are_enrolled_after_a_preview(server: Path, tmp_path: Path) -> None:
    assert tracebond("org", "add", GLN, "--data", server, "--name", "Dairy Works", "--role", "maker").returncode == 0
    jwk = json.dumps(generate_p256().jwk()).replace('"', '""')
    file = tmp_path / "devices.csv"
    file.write_text(f'gln,giai,jwk,steps\n{GLN},9521234C1,"{jwk}",packing\n{GLN},9521234C2,,\n')

    preview = tracebond("device", "import", file, "--data", server)
    assert preview.returncode == 0
    assert preview.stdout.count("would enrol") == 2
    done = tracebond("device", "import", file, "--data", server, "--out", tmp_path / "c", "--apply")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
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
