"""A worker that kills itself at a crash point: ``killed_worker DATABASE_URL BROKER_URL CLIENT_ID [POINT]``."""

import os
import signal
import sys
import time

from core.crypto import P256Private
from core.errors import Unavailable
from ingest.pipeline import Worker, service_of
from ingest.source import MqttSource
from ledger.database import open_database
from tests.ingest.rig import RECEIPT_KEY
from tests.ledger.world import AUD, LOG, OPERATOR


def main(database_url: str, broker_url: str, client_id: str, kill_at: str = "") -> None:
    def at(point: str) -> None:
        if point == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    worker = Worker(
        MqttSource(broker_url, client_id),
        open_database(database_url),
        service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400),
        operator_key=P256Private.from_secret(OPERATOR.encode()),
        receipt_key=RECEIPT_KEY,
        at=at,
    )
    while True:
        try:
            worker.run_once()
        except Unavailable:
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
