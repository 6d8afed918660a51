"""Three RabbitMQ nodes on this machine, from the configuration that ``tracebond broker config --cluster`` writes."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ingest.cluster import plan_nodes, workers_url, write_cluster
from ingest.files import TlsFiles
from ingest.topics import DeviceName
from tests.conftest import free_port

PROGRAMS = Path("/usr/lib/rabbitmq/bin")


def has_rabbitmq() -> bool:
    return (PROGRAMS / "rabbitmq-server").exists()


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on, below those that clients get."""
    for start in range(20_000 + os.getpid() % 5_000, 32_000, 151):
        probes = [socket.socket() for _ in range(count)]
        try:
            for port, probe in enumerate(probes, start):
                probe.bind(("127.0.0.1", port))
            return start
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise RuntimeError("no free ports")


class Cluster:
    """Nodes r1, r2, r3 (or one alone for what needs no more), started by the written scripts."""

    def __init__(
        self, folder: Path, passwords: Mapping[DeviceName, str], *, tls: TlsFiles | None = None, count: int = 3
    ) -> None:
        self.folder, self.tls = folder, tls
        self.passwords = dict(passwords)
        self.epmd = free_port()
        # The tools' own ports follow a hundred above those of the nodes.
        first = free_ports(130)
        self.nodes = plan_nodes(("localhost",) * 3, amqp=first, mqtt=first + 10, dist=first + 20)[:count]
        self.write()

    def write(self) -> None:
        addresses = write_cluster(
            self.folder, self.nodes, programs=PROGRAMS, tls=self.tls, passwords=self.passwords, epmd=self.epmd
        )
        self.url = workers_url(addresses)
        scheme = "mqtts" if self.tls else "mqtt"
        self.devices_url = f"{scheme}://" + ",".join(f"127.0.0.1:{node.mqtt}" for node in self.nodes)

    @property
    def authority(self) -> str | None:
        return None if self.tls is None else str(self.tls.authority)

    def run(self, script: str, *arguments: str, timeout_s: float = 280) -> str:
        command: Sequence[str] = [str(self.folder / script), *arguments]
        # Three virtual machines on two cores must not spin while they wait.
        calm = "+sbwt none +sbwtdcpu none +sbwtdio none"
        environment = {**os.environ, "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": calm}
        # Output goes to a file: the node that a script leaves behind would hold a pipe open.
        with (self.folder / "script.out").open("w+b") as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, timeout=timeout_s, cwd=self.folder, env=environment
            )
            output.seek(0)
            text = output.read().decode(errors="replace")
        assert done.returncode == 0, f"{script}: {text}"
        return text

    def pid(self, node: str) -> int:
        return int((self.folder / node / "pid").read_text())

    def kill(self, node: str) -> None:
        """kill -9, as a power cut of one machine."""
        os.kill(self.pid(node), signal.SIGKILL)

    def close(self) -> None:
        for node in self.nodes:
            try:
                os.kill(self.pid(node.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, ValueError):
                continue
        time.sleep(0.5)
        environment = {**os.environ, "ERL_EPMD_PORT": str(self.epmd)}
        subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)
