"""What ``tracebond broker config --cluster`` writes, read as RabbitMQ reads it; how it runs: test_cluster.py."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from core.errors import Rejected
from ingest.cluster import device_definitions, plan_nodes
from ingest.topics import DeviceName, read_broker_urls, to_routing_key
from tracebond.broker_cli import broker

FIRST = DeviceName("9520000000004", "first")
SECOND = DeviceName("9520000000004", "first%2E2")
pytestmark = pytest.mark.unit


def written(folder: Path, *options: str) -> Path:
    arguments = ["config", "--cluster", "--data", str(folder / "data"), "--out", str(folder / "out"), *options]
    done = CliRunner().invoke(broker, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder / "out"


def test_three_nodes_share_a_secret_cookie_and_a_quorum_queue(tmp_path: Path) -> None:
    out = written(tmp_path)

    assert (out / ".erlang.cookie").stat().st_mode & 0o777 == 0o600
    assert (out / "enabled_plugins").read_text() == "[rabbitmq_mqtt].\n"
    texts = [(out / name / "rabbitmq.conf").read_text() for name in ("r1", "r2", "r3")]
    for text in texts:
        for line in (
            "mqtt.exchange = amq.topic",
            "mqtt.allow_anonymous = false",
            "cluster_formation.peer_discovery_backend = classic_config",
            "cluster_formation.classic_config.nodes.3 = r3@localhost",
            "cluster_partition_handling = pause_minority",
            "listeners.tcp = none",
            "mqtt.listeners.tcp = none",
        ):
            assert line in text.splitlines()
    ports = re.findall(r"listeners\.ssl\.1 = .*:(\d+)", "\n".join(texts))
    assert len(ports) == len(set(ports)) == 6
    queue = json.loads((out / "queue.json").read_text())
    assert [each["arguments"]["x-queue-type"] for each in queue["queues"]] == ["quorum"]
    assert queue["queues"][0]["durable"] is True
    assert [(each["source"], each["destination"]) for each in queue["bindings"]] == [("amq.topic", "tb-events")]
    urls = read_broker_urls((out / "source.url").read_text().strip())
    assert [url.scheme for url in urls] == ["amqps"] * 3


def test_secrets_are_hidden_and_kept(tmp_path: Path) -> None:
    out = written(tmp_path)
    before = {name: (out / name).read_text() for name in (".erlang.cookie", "secrets.json", "source.url")}

    written(tmp_path)

    assert {name: (out / name).read_text() for name in before} == before
    secret = ["devices.json", "queue.json", "device-passwords.json", "r1/rabbitmq.conf", "tls/broker.key", *before]
    for name in secret:
        assert (out / name).stat().st_mode & 0o077 == 0, name


def test_scripts_are_plain_sh_and_the_runbook_names_the_trap(tmp_path: Path) -> None:
    out = written(tmp_path)

    for script in sorted(out.glob("*.sh")):
        assert script.stat().st_mode & 0o111
        assert subprocess.run(["sh", "-n", str(script)], capture_output=True).returncode == 0, script.name
    runbook = (out / "RUNBOOK.md").read_text()
    assert "coordination" in runbook
    assert "@" + "FOLDER@" not in runbook
    assert {"start.sh", "start-node.sh", "declare.sh", "stop.sh", "recover.sh"} == {
        path.name for path in out.glob("*.sh")
    }


def test_each_device_writes_its_events_and_reads_its_answers_alone() -> None:
    found = device_definitions({FIRST: "one", SECOND: "two"})

    for rights in found["topic_permissions"]:
        own = FIRST if rights["user"] == FIRST.username else SECOND
        other = SECOND if own is FIRST else FIRST
        writes = [to_routing_key(topic) for topic in (own.events,)]
        reads = [to_routing_key(topic) for topic in (own.receipts, own.commands)]
        foreign = [to_routing_key(topic) for topic in (other.events, other.receipts, other.commands)]
        wild = ["#", "tb.1.*.*.events", "tb.1.#", f"tb.1.{own.gln}.{own.device}.*", f"{writes[0]}.more"]
        assert all(re.search(rights["write"], key) for key in writes)
        assert all(re.search(rights["read"], key) for key in reads)
        assert not any(re.search(rights["write"], key) for key in [*reads, *foreign, *wild])
        assert not any(re.search(rights["read"], key) for key in [*writes, *foreign, *wild])
    for rights in found["permissions"]:
        assert not re.search(rights["read"], "tb-events")
        assert not re.search(rights["configure"], "amq.topic")


def test_passwords_are_kept_as_rabbitmq_keeps_them() -> None:
    [user] = device_definitions({FIRST: "a password"})["users"]

    raw = base64.b64decode(user["password_hash"])
    assert raw[4:] == hashlib.sha256(raw[:4] + b"a password").digest()


@pytest.mark.parametrize("hosts", [("a", "b"), ("a", "b", "c", "d"), ()])
def test_a_quorum_needs_an_odd_number_of_nodes(hosts: tuple[str, ...]) -> None:
    with pytest.raises(Rejected) as refused:
        plan_nodes(hosts, amqp=1, mqtt=10, dist=20)

    assert refused.value.code == "bad_cluster"


def test_nodes_on_machines_of_their_own_listen_to_the_network(tmp_path: Path) -> None:
    out = written(tmp_path, "--node", "a.example", "--node", "b.example", "--node", "c.example")

    assert "mqtt.listeners.ssl.1 = 0.0.0.0:8883" in (out / "r2" / "rabbitmq.conf").read_text()
    assert 'RABBITMQ_USE_LONGNAME="true"' in (out / "r2" / "env.sh").read_text()
    assert "mqtts://a.example:8883,b.example:8883,c.example:8883" in (out / "RUNBOOK.md").read_text()
