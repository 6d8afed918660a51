"""Where Mosquitto is, and how to get it without rights."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from core.errors import Unavailable

PACKAGES = ("mosquitto", "libmosquitto1", "libcjson1", "libdlt2", "libwrap0")
_PLUGIN = "mosquitto_dynamic_security.so"
_HOW = (
    "Install Mosquitto 2.0 or later with its dynamic security plugin (as root: apt-get install mosquitto), "
    "or name a broker of your own with TRACEBOND_BROKER_URL."
)


@dataclass(frozen=True)
class MosquittoParts:
    """The program, its access plugin, and the folder of its libraries when they are not the system's."""

    program: Path
    plugin: Path
    libraries: Path | None

    def environment(self) -> dict[str, str]:
        """The environment to start it in."""
        found = {"PATH": os.environ.get("PATH", os.defpath)}
        if self.libraries is not None:
            found["LD_LIBRARY_PATH"] = str(self.libraries)
        return found


def find_parts(data_dir: Path) -> MosquittoParts | None:
    """Mosquitto in PATH, in /usr/sbin, or unpacked under ``data_dir/parts``; None when it is nowhere."""
    installed = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if installed:
        for root in (Path("/usr/lib"), Path("/usr/local/lib")):
            plugin = _plugin_under(root)
            if plugin is not None:
                return MosquittoParts(Path(installed), plugin, None)
    unpacked = data_dir / "parts"
    program = unpacked / "usr/sbin/mosquitto"
    plugin = _plugin_under(unpacked / "usr/lib")
    if program.exists() and plugin is not None:
        return MosquittoParts(program, plugin, plugin.parent)
    return None


def install_parts(data_dir: Path) -> MosquittoParts:
    """Mosquitto, fetched from Debian and unpacked under ``data_dir/parts`` when the machine has none.

    Raises:
        Unavailable: it can neither be found nor fetched; the sentence says what to install.
    """
    found = find_parts(data_dir)
    if found is not None:
        return found
    target = data_dir / "parts"
    downloads = target / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", *PACKAGES], downloads)
    for package in sorted(downloads.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(target)], target)
    found = find_parts(data_dir)
    if found is None:
        raise Unavailable(f"The packages from Debian hold no usable Mosquitto. {_HOW}", code="no_broker")
    return found


def _plugin_under(root: Path) -> Path | None:
    return next(iter([*root.glob(_PLUGIN), *root.glob(f"*/{_PLUGIN}")]), None)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} could not be run: {error}. {_HOW}", code="no_broker") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unavailable(f"{command[0]} failed: {last}. {_HOW}", code="no_broker")
