"""``tracebond alarm``: rules from a file, the list, acknowledge and clear."""

import json
from pathlib import Path

import sqlalchemy as sa
from click.testing import CliRunner

from ingest.alarms_tables import alarm_rules, alarms
from ledger.database import open_database
from tracebond.alarm_cli import alarm

GLN = "9521000000018"
MAKER = f"https://id.gs1.org/417/{GLN}"


def run(data: Path, *arguments: str) -> str:
    done = CliRunner().invoke(alarm, [arguments[0], "--data", str(data), *arguments[1:]], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_rule_is_added_and_an_alarm_acknowledged_and_cleared(tmp_path: Path) -> None:
    rule = tmp_path / "rule.json"
    rule.write_text(json.dumps({"kind": "threshold", "name": "Warm", "above": "8", "hook": "https://example.org/h"}))
    added, secret = run(tmp_path, "rules", "--org", GLN, "--add", str(rule)).splitlines()
    database = open_database(f"sqlite:///{tmp_path.absolute() / 'tracebond.db'}")
    row = {
        "id": "a1", "rule": added, "device": "d", "org": MAKER, "place": "", "state": "raised", "start_ms": 1,
        "raised_ms": 1, "end_ms": None, "cleared_by": "", "details": '{"readings":1}', "goods": "[]",
        "history": "[]", "changed_ms": 1, "raise_event": "", "clear_event": "",
    }  # fmt: skip
    with database.transaction() as tx:
        tx.execute(alarms.insert().values(row))
        stored = tx.execute(sa.select(alarm_rules.c.secret)).scalar_one()

    listed = json.loads(run(tmp_path, "list", "--json"))
    run(tmp_path, "ack", "a1", "--by", "keeper", "--note", "on it")
    run(tmp_path, "clear", "a1", "--by", "keeper")
    after = json.loads(run(tmp_path, "list", "--all", "--json"))
    database.close()

    assert secret.endswith(stored)
    assert (listed["id"], listed["state"]) == ("a1", "raised")
    assert [(one["state"], one["who"]) for one in after["history"]] == [
        ("acknowledged", "keeper"),
        ("cleared", "keeper"),
    ]
    assert run(tmp_path, "list") == "no alarms\n"
    assert "Warm" in run(tmp_path, "rules")
    run(tmp_path, "rules", "--end", added)
    assert run(tmp_path, "rules") == "no rules\n"
