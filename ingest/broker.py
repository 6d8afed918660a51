"""Mosquitto as a child process of ours, and the same configuration for one that stands alone."""

import getpass
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from core.errors import Broken, Unavailable
from core.message import PUBLISH_BYTES_MAX
from ingest.access import (
    ADMIN,
    INGEST,
    BrokerAccess,
    Document,
    add_devices,
    initial_document,
    new_password,
    remove_devices,
)
from ingest.files import TlsFiles, write_private
from ingest.parts import MosquittoParts, install_parts
from ingest.topics import BrokerAddress, DeviceName

INFLIGHT_MAX = 4_000
QUEUE_BYTES_MAX = 512 * 1024 * 1024
# Slightly more than a message may have, so that one that is too large arrives, is named and is quarantined.
SIZE_HEADROOM = 8_192
_LOG_BYTES_MAX = 10_000_000
_START_S = 10.0
_RESTART_S_MAX = 5.0

_log = structlog.get_logger(__name__)


def mosquitto_config(
    *,
    folder: Path,
    plugin: Path,
    host: str,
    port: int,
    user: str,
    tls: TlsFiles | None = None,
    is_saved_on_change: bool = False,
) -> str:
    """The text of mosquitto.conf: nobody anonymous, nothing retained, and a queue bounded by bytes alone.

    Args:
        is_saved_on_change: write the queue to disk after each change; False writes it once a second.
    """
    saving = "true" if is_saved_on_change else "false"
    lines = [
        f"user {user}",
        "per_listener_settings false",
        f"plugin {plugin}",
        f"plugin_opt_config_file {folder / 'dynamic-security.json'}",
        "allow_anonymous false",
        "allow_zero_length_clientid false",
        "",
        "# A queue limited by count drops silently. A limit in bytes protects the machine; what it drops has no",
        "# receipt yet and is sent again by its device.",
        "max_queued_messages 0",
        f"max_queued_bytes {QUEUE_BYTES_MAX}",
        f"max_inflight_messages {INFLIGHT_MAX}",
        f"message_size_limit {PUBLISH_BYTES_MAX + SIZE_HEADROOM}",
        "retain_available false",
        "queue_qos0_messages false",
        "persistent_client_expiration 14d",
        "set_tcp_nodelay true",
        "sys_interval 0",
        "",
        "# Saving at each change costs most of the rate, the more the longer the queue; saving each second loses at",
        "# most two seconds after kill -9. Either way a device keeps all of it until it has a receipt.",
        "persistence true",
        f"persistence_location {folder / 'state'}/",
        "autosave_interval 1",
        f"autosave_on_changes {saving}",
        "",
        f"pid_file {folder / 'mosquitto.pid'}",
        f"log_dest file {folder / 'mosquitto.log'}",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        "connection_messages false",
        "",
        f"listener {port} {host}",
    ]
    if tls is not None:
        lines += [f"cafile {tls.authority}", f"certfile {tls.certificate}", f"keyfile {tls.key}", "tls_version tlsv1.2"]
        if tls.clients:
            lines += [
                "# A certificate of the authority and, besides, the device's own name and password.",
                "require_certificate true",
            ]
    return "\n".join(lines) + "\n"


def write_config(
    folder: Path,
    *,
    plugin: Path,
    program: Path,
    host: str = "0.0.0.0",  # noqa: S104
    port: int = 8883,
    tls: TlsFiles | None,
    libraries: Path | None = None,
    devices: Mapping[DeviceName, str] | None = None,
    is_saved_on_change: bool = False,
) -> BrokerAddress:
    """Write a broker's configuration, access state and start script into ``folder``; gives the workers' address.

    Passwords of ``tb-admin`` and ``tb-ingest`` are in ``secrets.json`` (mode 600). What is there already is kept,
    so that writing again changes no password.

    Args:
        libraries: folder of the program's libraries where they are not the system's.
        devices: the devices that may connect, with their passwords; others are taken out of the access state. None
            leaves it as it is.
        is_saved_on_change: see ``mosquitto_config``.
    """
    passwords = _prepare(folder)
    text = mosquitto_config(
        folder=folder,
        plugin=plugin,
        host=host,
        port=port,
        user=getpass.getuser(),
        tls=tls,
        is_saved_on_change=is_saved_on_change,
    )
    write_private(folder / "mosquitto.conf", text)
    if devices is not None:
        _only_devices(folder / "dynamic-security.json", devices)
    found = "" if libraries is None else f'export LD_LIBRARY_PATH="{libraries}"\n'
    start = f'#!/bin/sh\nset -eu\n{found}exec "{program}" -c "{folder / "mosquitto.conf"}"\n'
    write_private(folder / "start.sh", start, mode=0o755)
    return BrokerAddress(host, port, INGEST, passwords[INGEST], "mqtts" if tls else "mqtt")


def _only_devices(path: Path, devices: Mapping[DeviceName, str]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    present = {DeviceName(*one["username"].split("/", 1)) for one in document["clients"] if "/" in one["username"]}
    remove_devices(document, present - devices.keys())
    add_devices(document, {name: devices[name] for name in sorted(devices.keys() - present)})
    write_private(path, json.dumps(document))


class EmbeddedBroker:
    """A Mosquitto that lives and dies with this process, started again when it dies alone.

    Args:
        data_dir: keeps port, passwords, access state, sessions and log in its folder ``broker``.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.resolve()
        self._folder = self._data_dir / "broker"
        self._parts: MosquittoParts | None = None
        self._passwords: dict[str, str] = {}
        self._port = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._editing = threading.Lock()
        self._fault: Exception | None = None
        self.restarts = 0

    @property
    def address(self) -> BrokerAddress:
        """Where it listens, without credentials: what a device is told."""
        return BrokerAddress("127.0.0.1", self._port)

    @property
    def url(self) -> str:
        """The address with the name and password of the ingest workers."""
        return BrokerAddress("127.0.0.1", self._port, INGEST, self._passwords[INGEST]).url

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    @property
    def is_running(self) -> bool:
        """Whether the child is alive."""
        return self.pid is not None

    @property
    def access(self) -> BrokerAccess:
        """Adds and removes devices."""
        admin = BrokerAddress("127.0.0.1", self._port, ADMIN, self._passwords[ADMIN])
        return BrokerAccess(admin, offline=self._edit)

    def start(self) -> str:
        """Start it, wait until it answers, and give the workers' URL.

        Raises:
            Unavailable: no Mosquitto here and none to be had, or it does not come up; the reason is in the log file.
        """
        if self._thread is not None:
            raise Broken("The embedded broker was started twice.", code="broker_started_twice")
        self._parts = install_parts(self._data_dir)
        self._passwords = _prepare(self._folder)
        _stop_left_over(self._folder)
        self._port = _kept_port(self._folder / "port")
        self._write_conf()
        # PR_SET_PDEATHSIG fires when the *thread* that made the child ends: so the supervisor makes it, not the caller.
        self._thread = threading.Thread(target=self._supervise, name="broker-supervisor", daemon=True)
        self._thread.start()
        self._wait_until_it_answers()
        return self.url

    def stop(self) -> None:
        """End the child; it saves its sessions and queue first."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=20)
            self._thread = None

    def _write_conf(self) -> None:
        parts = self._need_parts()
        text = mosquitto_config(
            folder=self._folder, plugin=parts.plugin, host="127.0.0.1", port=self._port, user=getpass.getuser()
        )
        write_private(self._folder / "mosquitto.conf", text)

    def _need_parts(self) -> MosquittoParts:
        if self._parts is None:
            raise Broken("The embedded broker was not started.", code="broker_not_started")
        return self._parts

    def _supervise(self) -> None:
        pause_s = 0.1
        try:
            while not self._stopping.is_set():
                with self._editing:
                    self._child = self._spawn()
                born = time.monotonic()
                self._started.set()
                while self._child.poll() is None and not self._stopping.wait(0.05):
                    pass
                if self._stopping.is_set():
                    break
                self.restarts += 1
                _log.warning("broker_ended", code=self._child.returncode, restarts=self.restarts)
                pause_s = 0.1 if time.monotonic() - born > 5 else min(pause_s * 2, _RESTART_S_MAX)
                self._stopping.wait(pause_s)
        except OSError as error:
            self._fault = error
            self._started.set()
        finally:
            _end(self._child)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        log = self._folder / "mosquitto.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        parts = self._need_parts()
        # setpriv, not a preexec_fn: Python code between fork and exec is unsafe in a process with threads.
        conf = str(self._folder / "mosquitto.conf")
        command = ["setpriv", "--pdeathsig", "TERM", "--", str(parts.program), "-c", conf]
        with (self._folder / "mosquitto.out").open("wb") as output:
            return subprocess.Popen(
                command, env=parts.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._fault is not None:
                break
            if self._started.is_set() and self.is_running and _listens(self._port):
                return
            time.sleep(0.02)
        self.stop()
        raise Unavailable(
            f"Mosquitto does not come up ({self._fault or 'no answer'}); see {self._folder / 'mosquitto.log'} "
            f"and mosquitto.out beside it.",
            code="broker_away",
        )

    def _edit(self, change: Callable[[Document], None]) -> None:
        with self._editing:
            _end(self._child)
            path = self._folder / "dynamic-security.json"
            document = json.loads(path.read_text(encoding="utf-8"))
            change(document)
            write_private(path, json.dumps(document))
        deadline = time.monotonic() + _START_S
        while not (self.is_running and _listens(self._port)):
            if time.monotonic() > deadline:
                raise Unavailable("Mosquitto did not come back after its access file changed.", code="broker_away")
            time.sleep(0.02)


def _prepare(folder: Path) -> dict[str, str]:
    (folder / "state").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    secrets_file = folder / "secrets.json"
    if secrets_file.exists():
        passwords: dict[str, str] = json.loads(secrets_file.read_text(encoding="utf-8"))
    else:
        passwords = {ADMIN: new_password(), INGEST: new_password()}
        write_private(secrets_file, json.dumps(passwords))
    access_file = folder / "dynamic-security.json"
    if not access_file.exists():
        write_private(access_file, json.dumps(initial_document(passwords)))
    return passwords


def _kept_port(path: Path) -> int:
    if path.exists():
        port = int(path.read_text(encoding="ascii"))
        if _is_free(port):
            return port
        _log.warning("broker_port_taken", port=port)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path.write_text(str(port), encoding="ascii")
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False


def _stop_left_over(folder: Path) -> None:
    """End a Mosquitto of this very folder that outlived its parent (killed before the death signal was set)."""
    path = folder / "mosquitto.pid"
    if not path.exists():
        return
    text = path.read_text(encoding="ascii").strip()
    line = Path("/proc") / text / "cmdline"
    if text.isdigit() and line.exists() and str(folder / "mosquitto.conf").encode() in line.read_bytes().split(b"\0"):
        _log.warning("broker_left_over", pid=int(text))
        os.kill(int(text), signal.SIGTERM)
        for _ in range(100):
            if not line.exists():
                break
            time.sleep(0.05)
    path.unlink(missing_ok=True)


def _end(child: "subprocess.Popen[bytes] | None") -> None:
    if child is None or child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
