"""A worker over a real database with an in-memory broker in front, and devices that sign."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from core.crypto import P256Private
from core.message import issue
from core.receipts import Receipt, open_receipt
from core.records import read_record
from ingest.pipeline import Worker, service_of
from ingest.source import Delivery, SourceState, Token
from ingest.topics import device_name
from ledger.database import Database
from ledger.tables import messages, records
from tests.ledger.world import AUD, LOG, NOW, OPERATOR, World, seen

RECEIPT_KEY = P256Private.from_secret(b"receipts")


class FakeSource:
    """The twin of a broker: what is not acknowledged comes again after a reconnect."""

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []
        self.unacknowledged: dict[int, Delivery] = {}
        self.published: list[tuple[str, bytes]] = []
        self.is_connected = True
        self._next = 0

    @property
    def state(self) -> SourceState:
        return SourceState(self.is_connected, "")

    def send(self, topic: str, payload: bytes, *, is_retained: bool = False) -> None:
        self._next += 1
        delivery = Delivery(topic, payload, Token(0, self._next), is_retained)
        self.waiting.append(delivery)
        self.unacknowledged[self._next] = delivery

    def reconnect(self) -> None:
        self.waiting = list(self.unacknowledged.values())

    def receive(self, deliveries_max: int, timeout_s: float) -> list[Delivery]:
        taken, self.waiting = self.waiting[:deliveries_max], self.waiting[deliveries_max:]
        return taken

    def ack(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            self.unacknowledged.pop(token.number, None)

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> int:
        if not self.is_connected:
            return 0
        self.published += messages
        return len(messages)

    def close(self) -> None:
        """Nothing to leave."""


class Rig:
    """The world of the ledger's tests with a worker at its door. The clock stands still unless moved."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.world = World(database).start()
        self.source = FakeSource()
        self.clock_ms = NOW * 1000
        self.monotonic = 0.0
        self.heads: dict[str, tuple[int, bytes | None]] = {}
        self.worker = self.new_worker()

    def new_worker(self, *, at: Callable[[str], None] = lambda point: None, **more: Any) -> Worker:
        return Worker(
            self.source,
            self.database,
            service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400),
            operator_key=self.world.orgs[OPERATOR],
            receipt_key=RECEIPT_KEY,
            now_ms=lambda: self.clock_ms,
            monotonic_s=lambda: self.monotonic,
            sleep=self._sleep,
            at=at,
            **more,
        )

    def _sleep(self, seconds: float) -> None:
        self.monotonic += seconds

    def topic(self, name: str) -> str:
        return device_name(self.world.owners[name], self.world.iss(name)).events

    def sign(self, name: str, *events: dict[str, Any], keep: bool = True, **members: Any) -> bytes:
        """The device's next publish; ``members`` replace what it would say about itself."""
        from core.message import split

        seq, prev = self.heads.get(name, (0, None))
        said = {
            "aud": AUD,
            "org": self.world.owners[name],
            "iss": self.world.iss(name),
            "iat": NOW,
            "seq": seq,
            "prev": prev,
            "key": self.world.devices[name],
        }
        publish = issue(events or (seen("A"),), salts=lambda: self.world.random.randbytes(16), **said | members)
        if keep:
            self.heads[name] = (seq + 1, split(publish).id)
        return publish

    def send(self, name: str, publish: bytes) -> None:
        self.source.send(self.topic(name), publish)

    def run(self) -> None:
        """Work until nothing waits."""
        while self.source.waiting:
            self.monotonic += 0.01
            self.worker.run_once()

    def receipts(self) -> list[Receipt]:
        """The answers published since the last call."""
        found = [open_receipt(data, RECEIPT_KEY.public) for _, data in self.source.published]
        self.source.published = []
        return found

    def stored(self) -> list[bytes]:
        """Ids of the stored messages, in order of arrival."""
        with self.database.reading() as tx:
            return [
                bytes(found) for found in tx.execute(sa.select(messages.c.id).order_by(messages.c.arrival)).scalars()
            ]

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """Payloads of the records of one kind."""
        with self.database.reading() as tx:
            query = sa.select(records.c.raw).where(records.c.t == kind).order_by(records.c.arrival)
            return [dict(read_record(bytes(raw)).payload) for raw in tx.execute(query).scalars()]
