"""The whole system that ``tracebond bench ingest`` measures: ``tracebond sequence`` and ``tracebond ingest`` processes.

They are the very commands of a deployment, on one database, one broker and the built-in chain: receipts, sequencing,
the item map and anchoring are all part of what is measured.
"""

import bisect
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import sqlalchemy as sa

from core.crypto import P256Private
from core.errors import Unavailable
from ingest.broker import EmbeddedBroker
from ledger.database import Database
from ledger.store import waiting_count
from ledger.tables import checkpoints, entries, messages
from tracebond.bench.ingest_load import GLN, ORG, QUIET_S, Fleet
from tracebond.enrol import Enrolment, OrganisationSpec
from tracebond.parts import open_parts
from tracebond.settings import load_settings

SERVICE = "bench.example"
STOP_S = 30.0
START_S = 120.0
_POLL_S = 0.05
_ROOT = Path(__file__).resolve().parents[2]


class System:
    """A running deployment without its workers, in ``folder``.

    Args:
        url: of an empty database. fleet: whose keys and logins are registered.
    """

    def __init__(self, folder: Path, url: str, fleet: Fleet, broker: EmbeddedBroker, stack: ExitStack) -> None:
        self._folder = folder
        self.settings = load_settings(
            data=folder / "data", database_url=url, broker_url=broker.url, service_id=SERVICE, log_level="warning"
        )
        parts = open_parts(self.settings)
        stack.callback(parts.close)
        self.database: Database = parts.db
        self.operator, self.receipts = parts.keyfiles.operator, parts.keyfiles.receipt
        self._children = [stack.enter_context(self.process("sequence"))]
        maker = P256Private.from_secret(b"bench maker")
        enrolment = Enrolment(parts, self.check_alive)
        enrolment.wait_sequenced([self.receipts.thumbprint()])
        enrolment.organisations([OrganisationSpec(GLN, "Benchmark", "maker")], {GLN: maker})
        scope = {"rate": {"per_s": 100_000, "burst": 1_000_000}}
        wanted = [(key.jwk(), name.iss, "device", scope) for key, name in zip(fleet.keys, fleet.names, strict=True)]
        enrolment.keys(ORG, maker, wanted)
        enrolment.wait_sequenced([key.thumbprint() for key in fleet.keys])
        fleet.passwords = broker.access.sync(fleet.names)

    @contextmanager
    def process(self, *arguments: str, metrics_port: int = 0) -> Iterator["subprocess.Popen[bytes]"]:
        """A ``tracebond`` command on this deployment, asked to end afterwards."""
        settings = {**self.settings.model_dump(), "metrics_port": metrics_port}
        given = {f"TRACEBOND_{name.upper()}": str(value) for name, value in settings.items()}
        with (self._folder / "processes.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "tracebond", *arguments],
                cwd=_ROOT,
                env={**os.environ, **given},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def check_alive(self) -> None:
        """Return if no process of the system has ended by itself.

        Raises:
            Unavailable: ``bench_stalled`` with the end of its log.
        """
        if any(child.poll() is not None for child in self._children):
            log = (self._folder / "processes.log").read_text(encoding="utf-8", errors="replace")[-800:]
            raise Unavailable(f"A process of the system ended: {log}", code="bench_stalled")

    @contextmanager
    def worker(self, client_id: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A ``tracebond ingest`` process, connected to the broker."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        with self.process("ingest", "--client-id", client_id, metrics_port=port) as child:
            self._children.append(child)
            try:
                self._wait_connected(port)
                yield child
            finally:
                self._children.remove(child)

    def _wait_connected(self, port: int) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
            except httpx.TransportError:
                text = ""
            if "tracebond_ingest_is_connected 1.0" in text:
                return
            time.sleep(_POLL_S)
        raise Unavailable("A worker does not reach the broker.", code="bench_stalled")

    def stored(self) -> int:
        """How many messages are stored."""
        with self.database.reading() as tx:
            return int(tx.execute(sa.select(sa.func.count()).select_from(messages)).scalar_one())

    def wait_sequenced(self) -> None:
        """Return when everything stored has its place in the log, or after a minute."""
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline:
            with self.database.reading() as tx:
                if waiting_count(tx) == 0:
                    return
            time.sleep(_POLL_S)

    def wait_stored(self, wanted: int) -> None:
        """Return when so many messages are stored.

        Raises:
            Unavailable: ``bench_stalled`` when nothing came through for a minute.
        """
        before, quiet = -1, time.monotonic() + QUIET_S
        while (done := self.stored()) < wanted:
            self.check_alive()
            if done > before:
                before, quiet = done, time.monotonic() + QUIET_S
            elif time.monotonic() > quiet:
                log = (self._folder / "processes.log").read_text(encoding="utf-8", errors="replace")[-500:]
                raise Unavailable(f"Only {done} of {wanted} messages came through. {log}", code="bench_stalled")
            time.sleep(_POLL_S * 2)

    def rate(self, after: int, started_s: float) -> float:
        """Messages a second between the first and the last commit of those stored after the first ``after`` ones.

        Where one commit took them all, since ``started_s`` (unix seconds), when the first was published.
        """
        with self.database.reading() as tx:
            query = sa.select(messages.c.received_ms, sa.func.count()).group_by(messages.c.received_ms)
            query = query.where(messages.c.arrival > self._arrival(tx, after)).order_by(messages.c.received_ms)
            batches = [(int(row[0]), int(row[1])) for row in tx.execute(query)]
        if len(batches) < 2:
            return sum(count for _, count in batches) * 1_000 / max(1.0, batches[-1][0] - started_s * 1_000)
        # What the first commit brought was waiting before the clock began to run.
        return sum(count for _, count in batches[1:]) * 1_000 / (batches[-1][0] - batches[0][0])

    def checkpointed(self, ids: dict[bytes, float], seen: "CheckpointWatch") -> list[float]:
        """Seconds from each publish to the first checkpoint seen that holds the message; others are left out."""
        with self.database.reading() as tx:
            query = sa.select(messages.c.id, entries.c.leaf).join(entries, entries.c.arrival == messages.c.arrival)
            leaves = [(bytes(row[0]), int(row[1])) for row in tx.execute(query)]
        found = [(seen.first_over(leaf), ids[one]) for one, leaf in leaves if one in ids]
        return [at - published for at, published in found if at is not None]

    def _arrival(self, tx: sa.Connection, after: int) -> int:
        query = sa.select(messages.c.arrival).order_by(messages.c.arrival).offset(max(0, after - 1)).limit(1)
        return int(tx.execute(query).scalar_one_or_none() or 0) if after else 0


class CheckpointWatch:
    """Notes when each signed checkpoint could first be read, and calls ``each_s`` once a second."""

    def __init__(self, database: Database, each_s: Callable[[], object] = lambda: None) -> None:
        self._database = database
        self._each_s = each_s
        self._seen: list[tuple[int, float]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="checkpoints", daemon=True)

    def __enter__(self) -> "CheckpointWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def first_over(self, leaf: int) -> float | None:
        """When a checkpoint with this leaf was first seen, unix seconds."""
        place = bisect.bisect_right(self._seen, leaf, key=lambda one: one[0])
        return self._seen[place][1] if place < len(self._seen) else None

    @property
    def size(self) -> int:
        """The size of the newest checkpoint seen."""
        return self._seen[-1][0] if self._seen else 0

    def _watch(self) -> None:
        called = 0.0
        while not self._ending.wait(_POLL_S):
            if time.monotonic() >= called + 1:
                called = time.monotonic()
                self._each_s()
            with self._database.reading() as tx:
                size = tx.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one_or_none() or 0
            if size > self.size:
                self._seen.append((int(size), time.time()))


def processor_s(pid: int) -> float:
    """The processor time a process has taken; unlike its rate, hardly moved by what else the machine does."""
    text = (Path("/proc") / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """The resident memory of a process."""
    pages = int((Path("/proc") / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
