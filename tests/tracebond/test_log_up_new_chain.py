"""``tracebond up`` on a folder whose chain is gone: refused; with ``--new-chain`` all stands again."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from ledger.anchor import last_final_anchor
from ledger.keys import all_orgs
from tests.tracebond.test_chain_cli import seeded
from tracebond.new_chain import unregistered
from tracebond.parts import open_parts
from tracebond.settings import load_settings

__all__ = ["seeded"]
ROOT = Path(__file__).parents[2]


def start(data: Path, *options: str) -> tuple["subprocess.Popen[str]", str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tracebond", "up", "--data", str(data), "--port", str(port), *options]
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TRACEBOND_ANCHOR_S": "1"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    return child, f"http://127.0.0.1:{port}"


def figures(url: str) -> dict[str, float]:
    try:
        text = httpx.get(f"{url}/metrics", timeout=5).text
    except httpx.TransportError:
        return {}
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_up_refuses_a_chain_that_was_started_over_and_new_chain_brings_everything_back(seeded: Path) -> None:
    before = load_settings(data=seeded)
    for path in seeded.glob("chain.db*"):
        path.unlink()

    refused, _ = start(seeded)
    said = refused.communicate(timeout=60)[0]
    child, url = start(seeded, "--new-chain")
    try:
        deadline = time.monotonic() + 90
        found: dict[str, float] = {}
        while found.get("tracebond_chain_final_anchor_size", 0) < 5 or "tracebond_ingest_is_held" not in found:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
            found = figures(url)
        assert httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    finally:
        child.terminate()
        told = child.communicate(timeout=30)[0]

    assert refused.returncode != 0
    assert "--new-chain" in said
    assert "registering 2 organisations again on the new chain" in told
    assert found["tracebond_chain_credit_stopped"] == 0
    parts = open_parts(before)
    try:
        with parts.db.reading() as tx:
            assert len(all_orgs(tx)) == 3
            assert unregistered(parts, tx) == []
            assert last_final_anchor(tx) is not None
    finally:
        parts.close()
