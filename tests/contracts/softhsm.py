"""A SoftHSM2 token of one's own: the real PKCS#11 module over files in a folder."""

import atexit
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PIN, OFFICER = "648219", "73015982"
LABEL = "tracebond-test"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")


@dataclass(frozen=True)
class Token:
    """Where the token is and how to open it."""

    module: str
    label: str
    pin_file: Path

    def _session(self) -> Any:
        import pkcs11

        token = pkcs11.lib(self.module).get_token(token_label=self.label)
        try:
            return token.open(rw=True, user_pin=PIN)
        except pkcs11.exceptions.UserAlreadyLoggedIn:
            return token.open(rw=True)

    def empty(self) -> None:
        """Destroy every key in it."""
        session = self._session()
        for found in list(session.get_objects()):
            found.destroy()

    def attributes(self, name: str) -> dict[str, bool]:
        """What the token says of a private key."""
        import pkcs11

        key = self._session().get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=name)
        names = ("SENSITIVE", "EXTRACTABLE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE")
        return {one: key[pkcs11.Attribute[one]] for one in names}


@cache
def make_token() -> Token:
    """An initialised token, one a process: the module reads SOFTHSM2_CONF when it is first loaded."""
    folder = Path(tempfile.mkdtemp(prefix="softhsm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    module = next((path for path in MODULES if Path(path).exists()), None)
    program = shutil.which("softhsm2-util", path=f"{os.environ['PATH']}:/usr/bin")
    if module is None or program is None:
        raise RuntimeError("These tests need SoftHSM2: apt-get install softhsm2 (scripts/setup.sh test)")
    (folder / "tokens").mkdir()
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(settings)
    made = [program, "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", OFFICER]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    pin_file = folder / "pin"
    pin_file.write_text(PIN + "\n")
    pin_file.chmod(0o600)
    return Token(module, LABEL, pin_file)
