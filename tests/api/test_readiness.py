"""``/readyz`` goes red for each part that is really away, and names it; green again when it is back."""

import shutil
from pathlib import Path
from types import SimpleNamespace

from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.machine import readyz
from contracts.opening import open_chain
from ledger.database import Database, open_database
from tests.conftest import start_postgres
from tests.contracts.harness import AnvilNode


def test_readiness_names_each_part_that_is_away(tmp_path: Path) -> None:
    server, anvil = start_postgres(), AnvilNode()
    broker = [""]
    try:
        database = open_database(server.create())
        chain = open_chain(anvil.url, tmp_path, timeout_s=5)
        app = FastAPI()
        app.add_api_route("/readyz", readyz)
        app.state.services = SimpleNamespace(db=database, chain=chain, broker_problem=lambda: broker[0])
        client = TestClient(app)
        assert red(client) == set()

        broker[0] = "The broker cannot be reached."
        assert red(client) == {"broker"}
        broker[0] = ""
        server.stop("immediate")
        assert red(client) == {"database"}
        server.start()
        assert red(client) == set()
        anvil.stop()
        assert red(client) == {"chain"}
        database.close()
    finally:
        anvil.stop()
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def test_a_process_without_a_worker_says_nothing_of_a_broker(sqlite_database: Database, tmp_path: Path) -> None:
    chain = open_chain("", tmp_path)
    app = FastAPI()
    app.add_api_route("/readyz", readyz)
    app.state.services = SimpleNamespace(db=sqlite_database, chain=chain, broker_problem=None)

    answer = TestClient(app).get("/readyz")

    assert answer.json() == {"status": "ok", "parts": {"database": "ok", "chain": "ok"}}


def red(client: TestClient) -> set[str]:
    answer = client.get("/readyz")
    parts = {name for name, state in answer.json()["parts"].items() if state != "ok"}
    assert answer.status_code == (503 if parts else 200)
    assert answer.headers["cache-control"] == "no-store"
    return parts
