"""``tracebond epcis``: problems and hashes of a document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.canonical import parse_json
from core.epcis.hashes import event_hash, prehash
from core.epcis.items import document_events
from core.epcis.report import check
from core.epcis.xml import read_xml

DOCUMENT_BYTES_MAX = 100_000_000


def read_document(file: Path) -> Any:
    """The document in a file, JSON-LD or EPCIS XML.

    Raises:
        Rejected: it is neither.
    """
    data = file.read_bytes()
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return read_xml(data)
    return parse_json(data, bytes_max=DOCUMENT_BYTES_MAX)


def check_file(file: Path, *, say: Callable[[str], None]) -> int:
    """Print each problem as pointer, code and sentence; 0 when there is none, else 1."""
    problems = check(read_document(file))
    for problem in problems:
        say(f"{problem.pointer or '/'}\t{problem.code}\t{problem.message}")
    return 1 if problems else 0


def hash_file(file: Path, *, profile: str, is_prehash: bool, say: Callable[[str], None]) -> None:
    """Print the GS1 hash, or the pre-hash string, of each event in order."""
    make = prehash if is_prehash else event_hash
    for event in document_events(read_document(file)):
        say(make(event, profile=profile))
