"""What an operator watches, at a live server: one id from broker to chain, every metric the alerts name, readiness."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from core.canonical import b64u
from ledger.database import open_database
from ledger.tables import messages
from tests.journeys.conftest import ROOT, Told, free_port, run

MONITORING = ROOT / "docs" / "monitoring"
RULES = yaml.safe_load((MONITORING / "tracebond-alerts.yml").read_text(encoding="utf-8"))["groups"]
DASHBOARD = json.loads((MONITORING / "tracebond-dashboard.json").read_text(encoding="utf-8"))
DURATION = re.compile(r"(?:\d+(?:ms|s|m|h|d))+\Z")
# What stands in a PromQL text beside names of metrics: functions, keywords and labels of ours.
WORDS = {
    "max", "min", "sum", "rate", "increase", "deriv", "by", "or", "and", "min_over_time", "histogram_quantile",
    "stage", "code", "account", "follower", "le", "state", "job", "up",
}  # fmt: skip
SUFFIXES = re.compile(r"(?:_bucket|_sum|_count)\Z")


def expressions() -> list[str]:
    rules = [rule["expr"] for group in RULES for rule in group["rules"]]
    return rules + [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def names(expression: str) -> set[str]:
    """Every identifier of a PromQL text outside of quotes and durations."""
    bare = re.sub(r'"[^"]*"', "", re.sub(r"\[[^\]]*\]", "", expression))
    return {word for word in re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare) if word not in WORDS}


@pytest.fixture(scope="module")
def live(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path, Any]]:
    """``tracebond up`` on a copy of the demo's folder, JSON lines in ``up.log``."""
    data = tmp_path_factory.mktemp("live") / "var"
    shutil.copytree(told.data, data)
    port = free_port()
    command = [sys.executable, "-m", "tracebond", "up", "--data", str(data), "--port", str(port)]
    environment = {**os.environ, "TRACEBOND_LOG_FORMAT": "json", "TRACEBOND_ANCHOR_S": "1"}
    with (data / "up.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    try:
        until(lambda: is_ready(client), process, data)
        yield client, data, process
    finally:
        client.close()
        process.terminate()
        process.wait(60)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def until(holds: Callable[[], object], process: Any, data: Path) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert (process.poll() is None, time.monotonic() < deadline) == (True, True), tail(data)
        time.sleep(0.1)


def tail(data: Path) -> str:
    return (data / "up.log").read_text()[-3_000:]


def test_alert_rules_have_the_form_that_prometheus_takes() -> None:
    rules = [rule for group in RULES for rule in group["rules"]]

    assert len({rule["alert"] for rule in rules}) == len(rules) >= 12
    for group in RULES:
        assert set(group) == {"name", "interval", "rules"}
        assert DURATION.match(group["interval"])
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", rule["alert"])
        assert DURATION.match(rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
    for expression in expressions():
        for left, right in ("()", "[]", "{}"):
            assert expression.count(left) == expression.count(right), expression
        assert all(DURATION.match(span) for span in re.findall(r"\[([^\]]*)\]", expression))


def test_every_metric_of_dashboard_and_alerts_is_exported(live: tuple[httpx.Client, Path, Any]) -> None:
    text = live[0].get("/metrics").text
    exported = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    # A counter's type line names it with its suffix in the classic text form.
    exported |= {name + "_total" for name in exported} | {name.removesuffix("_total") for name in exported}

    wanted = {SUFFIXES.sub("", name) for one in expressions() for name in names(one)}

    assert {name for name in wanted if name.startswith("tracebond_")} == wanted
    assert wanted - exported == set()
    for stage in ("stored", "sequenced", "anchored", "final"):
        assert f'tracebond_stage_entries{{stage="{stage}"}}' in text


def test_trace_tells_the_whole_way_of_a_message(live: tuple[httpx.Client, Path, Any]) -> None:
    _, data, _ = live
    database = open_database(f"sqlite:///{data / 'tracebond.db'}")
    with database.reading() as tx:
        raw_id = tx.execute(sa.select(messages.c.id).order_by(messages.c.arrival).limit(1)).scalar_one()
    database.close()

    told = run("log", "trace", "--data", str(data), "--json", "--", b64u(bytes(raw_id)))

    stops = [json.loads(line) for line in told.stdout.splitlines()]
    assert [stop["stage"] for stop in stops] == ["stored", "sequenced", "anchored", "sent", "mined", "final"]
    assert {stop["message"] for stop in stops} == {b64u(bytes(raw_id))}
    assert len({stop["tx_hash"] for stop in stops if "tx_hash" in stop}) == 1
    secrets = json.loads((data / "broker" / "secrets.json").read_text()).values()
    assert [one for one in secrets if one in (data / "up.log").read_text()] == []


def test_readiness_goes_red_while_the_broker_is_away(live: tuple[httpx.Client, Path, Any]) -> None:
    client, data, process = live
    pid = int((data / "broker" / "mosquitto.pid").read_text())

    os.kill(pid, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        until(lambda: client.get("/readyz").status_code == 503, process, data)
        parts = client.get("/readyz").json()["parts"]
    finally:
        until(lambda: is_ready(client), process, data)

    assert parts["database"] == parts["chain"] == "ok"
    assert parts["broker"] != "ok"
