"""The npm client epcis2.js captures into a running server."""

import json
import subprocess
import threading
from pathlib import Path

import uvicorn

from ledger.database import Database
from tests.api.capture_rig import make_rig

ROOT = Path(__file__).parents[2]


def test_epcis2_js_captures_into_a_running_server(sqlite_database: Database) -> None:
    rig = make_rig(sqlite_database)
    caller = rig.partner("dairy")
    key = caller.client.headers["Authorization"].removeprefix("Bearer ")
    config = uvicorn.Config(rig.app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    try:
        done = subprocess.run(
            ["node", "tests/api/epcis2_client.cjs", f"http://127.0.0.1:{socket.getsockname()[1]}/epcis", key],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        server.should_exit = True
        thread.join(30)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["status"] == 202
    rig.work()
    job = caller.client.get(said["location"]).json()
    assert (job["success"], job["counts"]) == (True, {"accepted": 1})
