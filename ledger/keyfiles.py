"""Private keys of the platform as files: created on first use, readable by their owner alone."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from core.canonical import b64u, unb64u
from core.crypto import Ed25519Private, P256Private, generate_ed25519, generate_p256
from core.errors import Broken

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,80}\Z")


class KeyFiles:
    """The folder of private keys.

    Args:
        folder: created with mode 700 when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Ed25519Private:
        """The key that signs checkpoints."""
        return self.ed25519("checkpoint")

    @property
    def operator(self) -> P256Private:
        """The operator's record-signing key."""
        return self.p256("operator")

    @property
    def receipt(self) -> P256Private:
        """The key that signs receipts; its record says ``use: receipt``."""
        return self.p256("receipt")

    def gateway(self, worker: str) -> P256Private:
        """The key by which one gateway worker signs what partners capture over HTTP."""
        return self.p256(f"gateway-{worker}")

    def organisation(self, gln: str) -> P256Private:
        """The record-signing key of an organisation whose keys the platform keeps."""
        return self.p256(f"org-{gln}")

    def p256(self, name: str) -> P256Private:
        """The P-256 key of this name."""
        return P256Private.from_pem(self._file(f"{_checked(name)}.pem", lambda: generate_p256().to_pem()))

    def ed25519(self, name: str) -> Ed25519Private:
        """The Ed25519 key of this name."""
        text = self._file(f"{_checked(name)}.ed25519", lambda: b64u(generate_ed25519().raw).encode() + b"\n")
        return Ed25519Private(unb64u(text.decode("ascii").strip(), length=32))

    def has(self, name: str) -> bool:
        """Whether a key of this name was created before."""
        return any((self.folder / f"{_checked(name)}{end}").exists() for end in (".pem", ".ed25519"))

    def _file(self, name: str, create: Callable[[], bytes]) -> bytes:
        path = self.folder / name
        if not path.exists():
            # The key is whole on the disk before it has its name, and whoever links first wins: two processes that
            # start together then use one key.
            handle, temporary = tempfile.mkstemp(dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(create())
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return path.read_bytes()
            finally:
                os.unlink(temporary)
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        if path.stat().st_mode & 0o077:
            raise Broken(f"The key file {path.name} can be read by others; set mode 600.", code="key_file_mode")
        return path.read_bytes()


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise Broken(f"{name!r} is no name of a key file.", code="bad_setting")
    return name
