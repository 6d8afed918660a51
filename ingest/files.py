"""Files that hold secrets, and those of an encrypted listener."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsFiles:
    """PEM files for an encrypted listener: the authority, the broker's certificate, and its key.

    Attributes:
        clients: whether a client must show a certificate of that authority too.
    """

    authority: Path
    certificate: Path
    key: Path
    clients: bool = False


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file as a whole, durably, with exactly this mode from its first byte on."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
