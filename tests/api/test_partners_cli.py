"""``tracebond partner`` as people call it."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from api.auth import partners
from ledger.database import open_database
from tracebond.cli import cli
from tracebond.partner_cli import partner

cli.add_command(partner)
GLN = "9526001000005"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.delenv("TRACEBOND_DATABASE_URL", raising=False)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["partner", *arguments, "--data", str(tmp_path)])

    return run


def test_create_prints_one_key_that_works_and_list_never_shows_it(call, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made = call("create", "dairy", "--org", GLN, "--scope", "capture", "--scope", "query")

    key = made.output.strip()
    db = open_database(f"sqlite:///{tmp_path / 'tracebond.db'}")
    with db.reading() as tx:
        found = partners.caller_by_key(tx, key, now_ms=1)
    db.close()
    assert made.exit_code == 0
    assert found is not None
    assert (found[0].name, found[0].scopes) == ("dairy", {"capture", "query"})
    listed = call("list").output
    assert key[:9] in listed
    assert key not in listed


def test_rotate_revoke_and_disable_end_what_they_name(call) -> None:  # type: ignore[no-untyped-def]
    call("create", "dairy", "--scope", "capture")
    new = call("rotate", "1", "--overlap-hours", "0")
    assert new.output.startswith("tb_")

    assert call("revoke", "2").exit_code == 0
    assert call("disable", "dairy").exit_code == 0

    assert call("list").output.count("ended") == 2
    assert "disabled" in call("list").output


def test_what_cannot_be_is_refused_in_one_line(call) -> None:  # type: ignore[no-untyped-def]
    call("create", "dairy", "--scope", "capture")

    for arguments, code in (
        (("create", "dairy", "--scope", "capture"), "partner_exists"),
        (("create", "other", "--org", "9526001000006", "--scope", "capture"), "bad_check_digit"),
        (("revoke", "99"), "unknown_key"),
        (("key", "nobody", "--scope", "capture"), "unknown_partner"),
    ):
        answer = call(*arguments)
        assert answer.exit_code == 1
        assert code in answer.output
    assert call("create", "other", "--scope", "fly").exit_code == 2
