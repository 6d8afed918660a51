"""The command as people call it: help, settings, tools, and refusals in one line."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.errors import Rejected
from tests.conformance_data import DATA, needs_data
from tracebond.cli import cli
from tracebond.finance_cli import finance
from tracebond.loops import Loops
from tracebond.settings import describe, load_settings
from tracebond.simulate_cli import simulate

pytestmark = pytest.mark.unit
cli.add_command(finance)
cli.add_command(simulate)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_help_names_every_command() -> None:
    text = call("--help").output

    for name in (
        "demo",
        "up",
        "ingest",
        "sequence",
        "follow",
        "serve",
        "simulate",
        "verify",
        "audit",
        "epcis",
        "settings",
    ):
        assert f"  {name}" in text


def test_settings_lists_each_variable_with_its_meaning() -> None:
    text = call("settings").output

    assert all(name in text and meaning in text for name, _, meaning in describe())
    assert "TRACEBOND_DATABASE_URL" in text


def test_a_setting_out_of_range_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEBOND_PORT", "99999")

    with pytest.raises(Rejected, match="TRACEBOND_PORT"):
        load_settings()


def test_day_count_prints_days_and_fraction() -> None:
    assert call("finance", "day-count", "2006-08-20", "2007-02-20", "30/360").output == "180 0.500000000000\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("2007-02-20", "2006-08-20", "30/360"),
        ("2007-02-30", "2007-03-01", "30/360"),
        ("2007-01-01", "2007-03-01", "30/361"),
    ],
)
def test_a_wrong_day_count_ends_with_its_reason(arguments: tuple[str, str, str]) -> None:
    done = call("finance", "day-count", *arguments)

    assert done.exit_code == 1
    assert done.output.startswith("tracebond: ")


def test_a_schedule_is_the_published_one() -> None:
    done = call(
        "finance", "schedule", "--principal", "100", "--rate", "7", "--day-count", "30/360", "--start", "2024-01-01",
        "--periods", "6", "--every", "1M",
    )  # fmt: skip

    lines = done.output.splitlines()
    assert lines[0] == "date,payment,interest,principal,balance"
    assert [line.split(",")[1] for line in lines[1:]] == ["17.01"] * 5 + ["17.00"]


@needs_data
def test_a_bad_document_is_named_with_pointer_and_code() -> None:
    done = call("epcis", "check", str(DATA / "epcis/invalid/ObjectEvent_with_non_standard_bizStep.json"))

    assert done.exit_code == 1
    assert done.output.startswith("/epcisBody/eventList/0/bizStep\tunknown_term\t")
    assert call("epcis", "check", str(DATA / "epcis/valid/ObjectEvent_with_sensorData.json")).exit_code == 0


@needs_data
@pytest.mark.parametrize("name", ["epcisDocWithSingleEvent.jsonld", "ReferenceEventHashAlgorithm2.xml"])
def test_hashes_are_the_published_ones(name: str) -> None:
    folder = DATA / "epcis/hash-vectors"

    done = call("epcis", "hash", str(folder / name))

    assert done.output.split() == (folder / Path(name).with_suffix(".hashes")).read_text().split()


def test_verify_of_a_file_that_is_no_bundle_ends_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text("{}")

    done = call("verify", str(file), "--rpc", "http://127.0.0.1:9", "--log-contract", "0x" + "00" * 20)

    assert done.exit_code == 1
    assert "bad_bundle" in done.output


def test_a_dead_loop_ends_the_others_and_is_told() -> None:
    told: list[str] = []
    loops = Loops(on_failure=lambda: told.append("failed"))

    def die() -> None:
        raise ValueError("broken")

    loops.add("good", lambda: None, idle_s=0.01)
    loops.add("bad", die, idle_s=0.01)
    loops.start()
    loops.wait()
    loops.stop()

    assert isinstance(loops.failure, ValueError)
    assert told == ["failed"]
