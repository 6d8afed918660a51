"""What the receipt auditor reads from outside: the log's public routes, and a node of the reader's choice."""

import http.client
import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from api.machine import tile_path
from contracts.rpc import ask
from core.bundle import LOG_AT, LOG_COUNT, ORGANISATION_AT, ORGANISATIONS, Question
from core.canonical import b64u
from core.errors import Rejected, Unavailable
from core.prefixmap import map_key

TIMEOUT_S = 15
RESPONSE_BYTES_MAX = 32_000_000
LOGS_MAX = 1_000


class HttpSource:
    """The log's bytes from the public routes of a service."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise Rejected("The log's address is http(s)://host.", code="bad_url", pointer="--log-url")
        self._url = url.rstrip("/")

    def tile(self, number: int, width: int) -> bytes:
        """A level-0 hash tile."""
        found = self._get(f"/log/tile/0/{tile_path(number)}" + (f".p/{width}" if width < 256 else ""))
        if found is None:
            raise Rejected(f"The service has no tile 0/{number} of {width}.", code="no_such_tile")
        return found

    def states(self, below: int) -> list[bytes]:
        """State leaves below a leaf, newest first."""
        return (self._get(f"/log/states?below={below}") or b"").splitlines()

    def receipt_keys(self) -> list[tuple[int, bytes]]:
        """The records that receipt keys rest on."""
        rows = _parsed(self._get("/log/receipt-keys") or b"[]")
        if not isinstance(rows, list):
            raise Rejected("The service's receipt keys are no list.", code="bad_answer")
        return [_entry(row) for row in rows]

    def refusal(self, message: bytes) -> tuple[int, bytes] | None:
        """A message's refusal record."""
        found = self._get(f"/log/refusals/{b64u(message)}")
        return None if found is None else _entry(_parsed(found))

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(self._url + path, timeout=TIMEOUT_S) as answer:  # noqa: S310 - http(s) only
                data: bytes = answer.read(RESPONSE_BYTES_MAX + 1)
        except urllib.error.HTTPError as error:
            if error.code == http.client.NOT_FOUND:
                return None
            raise Unavailable(f"The log answered HTTP {error.code} at {path}.", code="log_away") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"The log at {self._url} does not answer: {error}", code="log_away") from error
        if len(data) > RESPONSE_BYTES_MAX:
            raise Unavailable(f"The log's answer at {path} is too large.", code="log_away")
        return data


class RpcContract:
    """The contracts, asked at the last final block of a node."""

    def __init__(self, rpc: str, contract: str) -> None:
        self._rpc, self._contract = rpc, contract.lower()

    def head(self, origin: bytes) -> tuple[int, bytes]:
        """Size and root of the newest log of this origin."""
        [answer] = self._ask([Question(self._contract, f"0x{LOG_COUNT}")])
        count = min(int.from_bytes(answer), LOGS_MAX)
        heads = self._ask([Question(self._contract, f"0x{LOG_AT}{number:064x}") for number in range(count)])
        for head in reversed(heads):
            if head[:32] == origin and len(head) == 7 * 32:
                return int.from_bytes(head[96:128]), head[128:160]
        raise Rejected("The contract keeps no log of this origin.", code="wrong_log")

    def organisation(self, org: str, version: int) -> tuple[bytes, int] | None:
        """Thumbprint and roles of an organisation's version."""
        [registry] = self._ask([Question(self._contract, f"0x{ORGANISATIONS}")])
        key = map_key("org", org).hex()
        try:
            [found] = self._ask([Question(f"0x{registry[12:].hex()}", f"0x{ORGANISATION_AT}{key}{version:064x}")])
        except Rejected:
            return None
        return (found[:32], int.from_bytes(found[64:96])) if len(found) == 4 * 32 else None

    def _ask(self, questions: Sequence[Question]) -> tuple[bytes, ...]:
        return ask(self._rpc, questions).calls if questions else ()


def read_receipts(paths: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(name, receipt) out of files, folders, JSON lines and device outboxes (SQLite).

    A file holds one receipt (a JWS or the bulk form) or one a line.

    Raises:
        Rejected: ``bad_outbox`` when a SQLite file is no outbox.
    """
    for path in paths:
        if path.is_dir():
            yield from read_receipts(sorted(one for one in path.iterdir() if _is_receipt_file(one)))
        elif path.read_bytes()[:16] == b"SQLite format 3\0":
            yield from _outbox(path)
        else:
            lines = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
            for number, line in enumerate(lines, start=1):
                yield (str(path) if len(lines) == 1 else f"{path}:{number}"), line


def _is_receipt_file(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and not path.name.endswith(("-wal", "-shm")))


def _outbox(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=TIMEOUT_S)) as connection:
            rows = connection.execute("SELECT device, seq, receipt FROM message WHERE receipt IS NOT NULL").fetchall()
    except sqlite3.Error as error:
        raise Rejected(f"{path} is no device's outbox: {error}", code="bad_outbox") from error
    for device, seq, receipt in rows:
        yield f"{path}#{device}/{seq}", bytes(receipt)


def _entry(row: Any) -> tuple[int, bytes]:
    if not isinstance(row, dict) or type(row.get("leaf")) is not int or not isinstance(row.get("entry"), str):
        raise Rejected("The service's record is not leaf and entry.", code="bad_answer")
    return row["leaf"], row["entry"].encode()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise Rejected("The service's answer is not JSON.", code="bad_answer") from error
