"""Receipts held against the log from outside: over HTTP and a node, from ingest's own receipts, refusals and forks."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, generate_latest

from core.canonical import b64u
from core.message import issue, split
from core.receipts import open_receipt
from core.records import common, key_members
from ingest.pipeline import Worker, service_of
from ingest.topics import device_name
from simulators.outbox import Entry, Outbox, Settled
from tests.attacks.scene import Attacked
from tests.ingest.rig import RECEIPT_KEY, FakeSource
from tests.ledger.world import AUD, LOG, OPERATOR, seen, sgtin_id
from tests.mirror_rig import Operator
from tracebond.receipts_cli import receipts
from tracebond.receipts_source import HttpSource, RpcContract, read_receipts
from tracebond.receipts_watch import Metrics, Watch, percentile, run_watch


class Intake:
    """A worker in front of the operator's database; devices send and get receipts."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.source = FakeSource()
        self.worker = Worker(
            self.source,
            operator.database,
            service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400),
            operator_key=operator.orgs[OPERATOR],
            receipt_key=RECEIPT_KEY,
            now_ms=lambda: operator.now * 1000,
        )

    def send(self, name: str, event: dict[str, Any], *, keep: bool = True) -> bytes:
        """The device's next publish; gives the receipt."""
        operator = self.operator
        seq, prev = operator.chains.get(name, (0, None))
        publish = issue(
            [event], aud=AUD, org=operator.owners[name], iss=operator.iss(name), iat=operator.now, seq=seq, prev=prev,
            key=operator.devices[name], salts=lambda: operator.random.randbytes(16),
        )  # fmt: skip
        if keep:
            operator.chains[name] = (seq + 1, split(publish).id)
        self.source.send(device_name(operator.owners[name], operator.iss(name)).events, publish)
        while self.source.waiting:
            self.worker.run_once()
        [(_, receipt)] = self.source.published
        self.source.published = []
        return receipt


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Ingest has answered a good message, a refused one and a fork; all is anchored."""
    operator = Operator(tmp_path_factory.mktemp("receipts")).first()
    members = key_members(RECEIPT_KEY.jwk(), iss=OPERATOR, use="receipt", scope={})
    operator.record(common(t="key", aud=AUD, log=LOG, org=OPERATOR, iat=operator.now) | members, signer=OPERATOR)
    operator.step()
    intake = Intake(operator)
    made: dict[str, Any] = {"operator": operator}
    made["good"] = intake.send("line-1", seen("g1", at=operator.now))
    made["fork"] = intake.send("truck-1", seen("f1", at=operator.now), keep=False)
    made["other"] = intake.send("truck-1", seen("f2", at=operator.now))
    made["child"] = intake.send("truck-1", seen("f3", at=operator.now))
    future = seen("x1", at=operator.now + 4_000)
    made["refused"] = intake.send("line-1", future)
    operator.anchor()
    yield made
    operator.close()


def check(url: str, operator: Operator, *arguments: str) -> Result:
    given = ["check", *arguments, "--log-url", url, "--log-contract", operator.deployment.log_contract]
    return CliRunner().invoke(receipts, given)


def test_anyone_checks_receipts_over_http_and_a_node(told: dict[str, Any], tmp_path: Path) -> None:
    operator = told["operator"]
    for name in ("good", "fork", "other", "refused"):
        (tmp_path / name).write_bytes(told[name])
    (tmp_path / "lines.jsonl").write_bytes(told["good"] + b"\n" + told["child"] + b"\n")

    with operator.serving() as url:
        done = check(url, operator, str(tmp_path), "--all")

    assert done.exit_code == 0, done.output
    assert "6 receipts against the log of" in done.output
    assert "6 kept, 0 pending, 0 broken, 0 not authentic" in done.output
    assert "refused (future_event" in done.output or "refused (" in done.output


def test_a_devices_outbox_is_read(told: dict[str, Any], tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.append("line-1", [Entry(0, bytes(32), None, b"publish"), Entry(1, bytes([1]) * 32, bytes(32), b"later")])
    outbox.settle("line-1", [Settled(0, "accepted", "", told["good"])])

    found = list(read_receipts([tmp_path / "outbox.db"]))

    assert [(name.rpartition("#")[2], raw) for name, raw in found] == [("line-1/0", told["good"])]


def test_a_foreign_receipt_is_named_and_the_exit_is_1(told: dict[str, Any], tmp_path: Path) -> None:
    operator = told["operator"]
    (tmp_path / "good").write_bytes(told["good"])
    (tmp_path / "bad").write_bytes(told["good"].replace(b'"heartbeat_s":86400', b'"heartbeat_s":86401'))

    with operator.serving() as url:
        done = check(url, operator, str(tmp_path))

    assert done.exit_code == 1
    assert "1 kept, 0 pending, 0 broken, 1 not authentic" in done.output
    assert str(tmp_path / "bad") in done.output


def test_a_service_that_hides_its_tiles_is_refused(told: dict[str, Any], tmp_path: Path) -> None:
    operator = told["operator"]
    (tmp_path / "good").write_bytes(told["good"])
    operator.rewrite = lambda path, status, body: (404, b"") if "/tile/0/" in path else (status, body)
    try:
        with operator.serving() as url:
            done = check(url, operator, str(tmp_path))
    finally:
        operator.rewrite = lambda path, status, body: (status, body)

    assert done.exit_code != 0
    assert getattr(done.exception, "code", "") == "no_such_tile"


def test_a_file_that_is_no_outbox_is_refused(tmp_path: Path) -> None:
    from core.errors import Rejected

    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()

    with pytest.raises(Rejected, match="bad_outbox"):
        list(read_receipts([tmp_path / "other.db"]))


def test_the_watch_measures_delays_and_raises_the_alarm(told: dict[str, Any]) -> None:
    operator = told["operator"]
    receipt = json.loads(told["good"])["receipt"]
    registry = CollectorRegistry()
    said: list[str] = []
    with operator.serving() as url:
        contract = RpcContract(f"{url}/rpc", operator.deployment.log_contract)
        watch = Watch(HttpSource(url), contract, LOG, Metrics(registry), operator.now)
        pile = [("good", told["good"])]
        quiet = run_watch(
            watch,
            lambda: pile,
            now_s=lambda: operator.now,
            sleep=lambda s: None,
            say=said.append,
            interval_s=1,
            turns=2,
        )
        intake = Intake(operator)
        pile.append(("later", intake.send("line-1", seen("g2", at=operator.now))))
        before = watch.look(pile, now_s=operator.now)
        operator.anchor()
        after = watch.look(pile, now_s=operator.now + 7)

    assert (quiet, before, after) == (0, [], [])
    assert "1 receipts; 1 kept" in said[0]
    first = watch.verdicts["good"]
    assert first.delay_s == watch.checkpoint_s[0] or first.delay_s in watch.checkpoint_s
    assert len(watch.checkpoint_s) == 2
    assert watch.final_s == [operator.now + 7 - json.loads(pile[1][1])["receipt"]["accepted_at"]]
    assert receipt["accepted_at"] > 0
    text = generate_latest(registry).decode()
    assert "tracebond_receipt_checkpoint_seconds_count 2.0" in text
    assert "tracebond_receipt_final_seconds_count 1.0" in text
    assert 'tracebond_receipts{status="kept"} 2.0' in text


def test_the_watch_ends_with_1_when_a_promise_is_broken(told: dict[str, Any]) -> None:
    scene = Attacked.__new__(Attacked)
    operator = told["operator"]
    scene.operator = operator
    lost = operator.message("line-1", [seen("lost", at=operator.now)], keep=False)
    raw = Attacked.receipt(scene, lost)
    operator.now += 61
    operator.send("truck-1", seen("tick", at=operator.now))
    operator.anchor()
    said: list[str] = []

    with operator.serving() as url:
        contract = RpcContract(f"{url}/rpc", operator.deployment.log_contract)
        watch = Watch(HttpSource(url), contract, LOG, Metrics(CollectorRegistry()), operator.now)
        code = run_watch(
            watch, lambda: [("lost", raw)], now_s=lambda: operator.now, sleep=lambda s: None, say=said.append,
            interval_s=1, turns=1,
        )  # fmt: skip

    assert code == 1
    assert said[0].startswith("ALARM  promise broken  lost")


@pytest.mark.parametrize(("quantile", "expected"), [(50, 2), (99, 4), (100, 4), (1, 1)])
def test_percentiles_are_by_nearest_rank(quantile: int, expected: int) -> None:
    assert percentile([1, 2, 3, 4], quantile) == expected


@pytest.mark.parametrize("item", ["f1", "f2", "f3", "0"])
def test_every_bundle_of_a_forked_key_shows_the_fork(told: dict[str, Any], item: str) -> None:
    operator = told["operator"]
    scene = Attacked.__new__(Attacked)
    scene.operator = operator

    bundle = Attacked.bundle(scene, sgtin_id(item))
    report = Attacked.verified(scene, bundle)

    kid = operator.devices["truck-1"].thumbprint()
    told_of = [entry for entry in bundle["entries"] if _payload(entry).get("t") == "equivocation"]
    assert [_payload(entry)["kid"] for entry in told_of] == [kid]
    suspect = [event.is_suspect for event in report.events if event.kid == kid]
    assert suspect
    # The message logged before the fork keeps its weight: its seq is below the forked one.
    assert all(suspect) == (item != "0")


def test_the_refusal_record_says_what_the_receipt_says(told: dict[str, Any]) -> None:
    receipt = open_receipt(told["refused"], RECEIPT_KEY.public)
    operator = told["operator"]
    with operator.serving() as url:
        found = HttpSource(url).refusal(receipt.message)
        none = HttpSource(url).refusal(bytes(32))

    assert found is not None
    assert none is None
    payload = json.loads(_decoded(found[1].decode()))
    assert (payload["t"], payload["message"], payload["code"]) == ("refusal", b64u(receipt.message), receipt.refused)


def _payload(entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_decoded(entry["data"]))
    return found


def _decoded(jws: str) -> bytes:
    from core.canonical import unb64u

    return unb64u(jws.split(".")[1])
