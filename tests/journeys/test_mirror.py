"""The demo's mirror as people run it: its cosignature in bundles and pages, and the command against a server."""

import shutil
from pathlib import Path

import pytest

from tests.journeys.conftest import Told, run, server

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("journeys")]


def test_a_pinned_mirror_makes_it_complete_and_the_command_replays_from_zero(told: Told, tmp_path: Path) -> None:
    key = told.summary["mirror"]
    shutil.copytree(told.data / "mirror" / "keys", tmp_path / "mirror" / "keys")
    file = tmp_path / "bundle.json"
    with server(told.data) as client:
        file.write_bytes(client.get(f"/items/{told.summary['highlights']['sold_tin']}/proof").content)
        url = str(client.base_url).rstrip("/")
        place = ("--rpc", f"{url}/rpc", "--log-contract", told.contract)
        pinned = run("verify", str(file), *place, "--mirror", key)
        unpinned = run("verify", str(file), *place)
        page = client.get("/mirrors", headers={"accept": "text/html"})
        mirror = ("mirror", "--url", url, *place, "--once", "--data")
        again = run(*mirror, str(tmp_path / "mirror"), "--name", key.split("+")[0])
        stranger = run(*mirror, str(tmp_path / "stranger"))
        shown = client.get("/mirrors").json()["mirrors"][0]
    status = run("mirror", "status", "--data", str(tmp_path / "mirror"))

    assert "complete as of" in pinned.stdout, pinned.stdout + pinned.stderr
    assert "cosigned by mirror.regulator.example" in pinned.stdout
    assert "complete according to the operator" in unpinned.stdout
    assert key in page.text
    assert (again.returncode, status.returncode) == (0, 0), again.stdout + again.stderr
    assert "every one of" in again.stdout
    assert (shown["refusal"], shown["size"] > 0) == (None, True)
    assert stranger.returncode == 1
    assert "No mirror is registered under this key" in stranger.stderr
