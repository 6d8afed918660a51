"""The configuration of the clustered broker: three RabbitMQ nodes, one quorum queue, and every device's rights.

What was tried and measured is told in docs/operations.md. Files are whole and may be written again at any time: names,
ports and passwords that are there already are kept.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import Rejected
from core.message import PUBLISH_BYTES_MAX
from ingest.access import ADMIN, INGEST, new_password
from ingest.cluster_scripts import RUNBOOK, SCRIPTS
from ingest.files import TlsFiles, write_private
from ingest.source_amqp import EXCHANGE, QUEUE
from ingest.topics import BrokerAddress, DeviceName

VHOST = "/"
NODES = 3
SIZE_HEADROOM = 8_192
# Below this much free disk a node stops reading from those who publish: nothing is dropped, everything waits.
DISK_FREE_BYTES = 2_000_000_000
# Not tb.1.#: receipts and commands go through the same exchange and must not come back as messages.
EVENTS_KEY = "tb.1.*.*.events"
_TOOLS_STEP = 100
_LOCAL = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Node:
    """One node of the cluster: its name, the host it runs on, and its ports."""

    name: str
    host: str
    amqp: int
    mqtt: int
    dist: int

    @property
    def full(self) -> str:
        """The Erlang name."""
        return f"{self.name}@{self.host}"


def plan_nodes(hosts: Sequence[str], *, amqp: int, mqtt: int, dist: int) -> tuple[Node, ...]:
    """Nodes r1, r2, r3 on these hosts; those on one host get ports that follow one another.

    Raises:
        Rejected: ``bad_cluster``; a quorum queue needs an odd number of nodes, three or more.
    """
    if len(hosts) < NODES or len(hosts) % 2 == 0:
        raise Rejected("A quorum needs three nodes, or another odd number above.", code="bad_cluster", pointer="node")
    found = []
    for number, host in enumerate(hosts):
        step = hosts[:number].count(host)
        found.append(Node(f"r{number + 1}", host, amqp + step, mqtt + step, dist + step))
    return tuple(found)


def write_cluster(
    folder: Path,
    nodes: Sequence[Node],
    *,
    programs: Path,
    tls: TlsFiles | None,
    passwords: Mapping[DeviceName, str],
    epmd: int = 4369,
) -> tuple[BrokerAddress, ...]:
    """Write the cluster's configuration into ``folder``; gives the addresses of the workers, name and password in them.

    Args:
        programs: folder of ``rabbitmq-server`` and ``rabbitmqctl``, not of the wrappers that change the user.
        tls: certificate for all nodes; None listens on this machine alone, without encryption.
        passwords: of every device that may connect.
        epmd: port of Erlang's port mapper.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    own = _own_passwords(folder / "secrets.json")
    cookie = folder / ".erlang.cookie"
    if not cookie.exists():
        write_private(cookie, secrets.token_hex(24), mode=0o400)
    cookie.chmod(0o600)
    write_private(folder / "enabled_plugins", "[rabbitmq_mqtt].\n", mode=0o644)
    for node in nodes:
        home = folder / node.name
        home.mkdir(exist_ok=True)
        write_private(home / "rabbitmq.conf", node_config(node, nodes, tls=tls, admin_password=own[ADMIN]))
        write_private(home / "env.sh", _environment(node, folder, programs, epmd))
    write_private(folder / "queue.json", json.dumps(queue_definitions(own[INGEST]), indent=1) + "\n")
    write_private(folder / "devices.json", json.dumps(device_definitions(passwords), indent=1) + "\n")
    write_private(folder / "devices.txt", "".join(f"{name.username}\n" for name in sorted(passwords)))
    write_private(folder / "nodes.txt", "".join(f"{node.name} {node.full}\n" for node in nodes), mode=0o644)
    for name, text in SCRIPTS.items():
        write_private(folder / name, text, mode=0o755)
    scheme = "amqps" if tls else "amqp"
    addresses = tuple(BrokerAddress(_dial(node), node.amqp, INGEST, own[INGEST], scheme) for node in nodes)
    devices = "mqtts" if tls else "mqtt"
    shown = {
        "@WORKERS@": ",".join(f"{_dial(node)}:{node.amqp}" for node in nodes),
        "@DEVICES@": f"{devices}://" + ",".join(f"{_dial(node)}:{node.mqtt}" for node in nodes),
        "@AMQP@": scheme,
        "@FOLDER@": str(folder),
    }
    text = RUNBOOK
    for mark, value in shown.items():
        text = text.replace(mark, value)
    write_private(folder / "RUNBOOK.md", text, mode=0o644)
    write_private(folder / "source.url", workers_url(addresses) + "\n")
    return addresses


def workers_url(addresses: Sequence[BrokerAddress]) -> str:
    """One URL for all addresses of a cluster, what ``TRACEBOND_SOURCE`` takes."""
    more = ",".join(f"{address.host}:{address.port}" for address in addresses[1:])
    return addresses[0].url + (f",{more}" if more else "")


def node_config(node: Node, nodes: Sequence[Node], *, tls: TlsFiles | None, admin_password: str) -> str:
    """The text of a node's rabbitmq.conf."""
    lines = [
        "# No user guest: this one is made at the first start instead.",
        f"default_user = {ADMIN}",
        f"default_pass = {admin_password}",
        "default_user_tags.administrator = true",
        "",
        "mqtt.allow_anonymous = false",
        f"mqtt.vhost = {VHOST}",
        f"mqtt.exchange = {EXCHANGE}",
        "mqtt.prefetch = 200",
        "# Nothing retained is kept for anybody.",
        "mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_noop",
        "# A message has at most 256 KiB; slightly more arrives, is named and is quarantined.",
        f"max_message_size = {PUBLISH_BYTES_MAX + SIZE_HEADROOM}",
        "# Full disk or memory stops those who publish; nothing is dropped.",
        f"disk_free_limit.absolute = {DISK_FREE_BYTES}",
        "vm_memory_high_watermark.relative = 0.4",
        "",
        "cluster_formation.peer_discovery_backend = classic_config",
        *(f"cluster_formation.classic_config.nodes.{number} = {each.full}" for number, each in enumerate(nodes, 1)),
        f"cluster_formation.target_cluster_size_hint = {len(nodes)}",
        "# The side of a partition that has no majority stops, and joins again by itself.",
        "cluster_partition_handling = pause_minority",
        "",
        "log.file.level = info",
        "log.console = false",
    ]
    bind = "127.0.0.1" if tls is None or node.host in _LOCAL else "0.0.0.0"  # noqa: S104
    if tls is None:
        lines += [f"listeners.tcp.1 = {bind}:{node.amqp}", f"mqtt.listeners.tcp.1 = {bind}:{node.mqtt}"]
    else:
        lines += [
            "listeners.tcp = none",
            "mqtt.listeners.tcp = none",
            f"listeners.ssl.1 = {bind}:{node.amqp}",
            f"mqtt.listeners.ssl.1 = {bind}:{node.mqtt}",
            f"ssl_options.cacertfile = {tls.authority}",
            f"ssl_options.certfile = {tls.certificate}",
            f"ssl_options.keyfile = {tls.key}",
            f"ssl_options.verify = {'verify_peer' if tls.clients else 'verify_none'}",
            f"ssl_options.fail_if_no_peer_cert = {'true' if tls.clients else 'false'}",
            "ssl_options.versions.1 = tlsv1.3",
            "ssl_options.versions.2 = tlsv1.2",
        ]
    return "\n".join(lines) + "\n"


def queue_definitions(ingest_password: str) -> dict[str, Any]:
    """The queue, its binding and the workers' user, as ``rabbitmqctl import_definitions`` takes them."""
    return {
        "vhosts": [{"name": VHOST}],
        "users": [_user(INGEST, ingest_password)],
        "permissions": [_rights(INGEST, configure="^$", write=r"^amq\.topic$", read=f"^{QUEUE}$")],
        "topic_permissions": [
            _topics(INGEST, write=r"^tb\.1\.[0-9]{13}\.[^.]+\.(receipts|commands)$", read="^$"),
        ],
        "queues": [
            {
                "name": QUEUE,
                "vhost": VHOST,
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-queue-type": "quorum", "x-quorum-initial-group-size": NODES},
            }
        ],
        "bindings": [
            {
                "source": EXCHANGE,
                "vhost": VHOST,
                "destination": QUEUE,
                "destination_type": "queue",
                "routing_key": EVENTS_KEY,
                "arguments": {},
            }
        ],
    }


def device_definitions(passwords: Mapping[DeviceName, str]) -> dict[str, Any]:
    """Users, permissions and topic permissions of devices: each writes its events, reads its receipts and commands."""
    names = sorted(passwords)
    return {
        "users": [_user(name.username, passwords[name]) for name in names],
        "permissions": [_device_rights(name) for name in names],
        "topic_permissions": [
            _topics(name.username, write=_exactly(name, "events"), read=_exactly(name, "(receipts|commands)"))
            for name in names
        ],
    }


def kept_passwords(path: Path, devices: Iterable[DeviceName]) -> dict[DeviceName, str]:
    """The passwords of ``devices``, those in the file kept, others made; the file is written again, mode 600."""
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {name: known.get(name.username) or new_password() for name in sorted(set(devices))}
    write_private(path, json.dumps({name.username: password for name, password in found.items()}, indent=1) + "\n")
    return found


def _device_rights(name: DeviceName) -> dict[str, str]:
    # The queues of a subscriber are named by its client id, which is its user name.
    queue = f"mqtt-subscription-{name.username}qos[01]"
    return _rights(
        name.username, configure=f"^{queue}$", write=rf"^(amq\.topic|{queue})$", read=rf"^(amq\.topic|{queue})$"
    )


def _exactly(name: DeviceName, kind: str) -> str:
    return rf"^tb\.1\.{name.gln}\.{name.device}\.{kind}$"


def _user(name: str, password: str) -> dict[str, Any]:
    # RabbitMQ's own form: four random bytes, then SHA-256 of them and the password. Ours have 192 random bits.
    salt = secrets.token_bytes(4)
    digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    return {
        "name": name,
        "password_hash": digest,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
        "limits": {},
    }


def _rights(user: str, **rights: str) -> dict[str, str]:
    return {"user": user, "vhost": VHOST, **rights}


def _topics(user: str, **rights: str) -> dict[str, str]:
    return {"user": user, "vhost": VHOST, "exchange": EXCHANGE, **rights}


def _own_passwords(path: Path) -> dict[str, str]:
    if path.exists():
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found
    made = {ADMIN: new_password(), INGEST: new_password()}
    write_private(path, json.dumps(made))
    return made


def _environment(node: Node, folder: Path, programs: Path, epmd: int) -> str:
    home = folder / node.name
    lines = {
        "HOME": folder,
        "RABBITMQ_NODENAME": node.full,
        "RABBITMQ_USE_LONGNAME": "true" if "." in node.host else "false",
        "RABBITMQ_MNESIA_BASE": home / "mnesia",
        "RABBITMQ_LOG_BASE": home / "log",
        "RABBITMQ_PID_FILE": home / "pid",
        "RABBITMQ_CONFIG_FILE": home / "rabbitmq.conf",
        "RABBITMQ_CONF_ENV_FILE": home / "none",
        "RABBITMQ_ADVANCED_CONFIG_FILE": home / "none.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "enabled_plugins",
        "RABBITMQ_DIST_PORT": node.dist,
        # Else the tools may take the very port of a node that is about to start.
        "RABBITMQ_CTL_DIST_PORT_MIN": node.dist + _TOOLS_STEP,
        "RABBITMQ_CTL_DIST_PORT_MAX": node.dist + _TOOLS_STEP + 10,
        "ERL_EPMD_PORT": epmd,
        "ERL_CRASH_DUMP": home / "log" / "erl_crash.dump",
        "PATH": f"{programs}:$PATH",
    }
    if node.host in _LOCAL:
        lines["ERL_EPMD_ADDRESS"] = "127.0.0.1"
    return "".join(f'export {name}="{value}"\n' for name, value in lines.items())


def _dial(node: Node) -> str:
    return "127.0.0.1" if node.host in _LOCAL else node.host
