"""Log lines: one form for all, JSON when asked for, and no secret in any."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tracebond.logs import HIDDEN, configure, without_secrets

SECRETS = {
    "password": "hunter2-hunter2",
    "key_passphrase": "correct horse",
    "url": "postgresql://tracebond:s3cr3t-pw@db.example/tracebond",
    "reason": "mqtt://tb-ingest:Zm9vYmFyMTIz@127.0.0.1:1883 refused us",
    "authorization": "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
    "header": "Authorization: Basic dXNlcjpwYXNzd29yZA==",
    "sent": "X-API-Key: tb_0123456789abcdefABCDEF01",
    "nested": {"pkcs11_pin": "1234", "names": ["mqtts://a:b0b0b0@h"]},
    "pem": "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----",
}
KEPT = ("tracebond:", "db.example", "tb-ingest:", "127.0.0.1:1883", "refused us")
BARE = (
    "hunter2-hunter2", "correct horse", "s3cr3t-pw", "Zm9vYmFyMTIz", "eyJhbGciOiJFUzI1NiJ9", "dXNlcjpwYXNzd29yZA",
    "tb_0123456789abcdefABCDEF01", "1234\"", "b0b0b0", "MIGHAgEAMBMG",
)  # fmt: skip


@pytest.fixture
def usual() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    structlog.reset_defaults()
    for handler in [one for one in root.handlers if getattr(one, "is_ours", False)]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.unit
def test_no_secret_reaches_a_line() -> None:
    text = json.dumps(without_secrets(None, "info", dict(SECRETS)))

    assert [secret for secret in BARE if secret in text] == []
    assert [part for part in KEPT if part not in text] == []
    assert HIDDEN in text


@pytest.mark.unit
def test_message_ids_are_named_whatever_they_look_like() -> None:
    ids = ["tb_0123456789abcdefABCDEF0123456789abcdefABC"]

    assert without_secrets(None, "info", {"messages": ids})["messages"] == ids


@pytest.mark.unit
def test_json_lines_hold_level_time_and_members_of_ours_and_of_libraries(usual: None) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)

    structlog.get_logger("ours").info("messages_stored", messages=["Jx"], url="mqtt://a:secret1@h")
    structlog.get_logger("ours").debug("too detailed")
    logging.getLogger("sqlalchemy.pool").warning("lost postgresql://u:secret2@h")
    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger("ours").error("thread died", exc_info=error)

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines[:2]] == ["messages_stored", f"lost postgresql://u:{HIDDEN}@h"]
    assert lines[0]["messages"] == ["Jx"]
    assert (lines[0]["level"], lines[1]["level"]) == ("info", "warning")
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert "ValueError: broken" in lines[2]["exception"]
    assert "secret" not in stream.getvalue()


@pytest.mark.unit
def test_text_lines_are_for_people(usual: None) -> None:
    stream = io.StringIO()
    configure("warning", "text", stream)

    structlog.get_logger("ours").info("unheard")
    structlog.get_logger("ours").warning("intake_held", reason="The disk has 3 MiB free.")

    assert "unheard" not in stream.getvalue()
    assert "intake_held" in stream.getvalue()
    assert "3 MiB free" in stream.getvalue()
