"""The whole product as a person runs it: the command in a process of its own, on embedded parts."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str, timeout_s: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the ``tracebond`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tracebond", *arguments], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(data: Path) -> Iterator[httpx.Client]:
    """``tracebond up`` on a data folder, ready."""
    port = free_port()
    command = [sys.executable, "-m", "tracebond", "up", "--data", str(data), "--port", str(port)]
    with (data / "up.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((data / "up.log").read_text())
            time.sleep(0.2)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(60)


@dataclass(frozen=True)
class Told:
    """A data folder in which the demo was told, and its summary."""

    data: Path
    summary: dict[str, Any]

    @property
    def contract(self) -> str:
        return str(self.summary["log_contract"])


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The demo, small, told once for all tests of this folder; they must leave it as it is, or copy it."""
    data = tmp_path_factory.mktemp("demo")
    summary = data / "summary.json"
    done = run("demo", "--exit", "--units", "48", "--seed", "7", "--data", str(data), "--json", str(summary))
    assert done.returncode == 0, done.stderr[-4000:]
    return Told(data, json.loads(summary.read_text()))
