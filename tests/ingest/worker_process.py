"""A worker in a process of its own, to be killed: ``worker_process DATABASE_URL SOURCE_URL CLIENT_ID [AUTHORITY]``.

It kills itself at the crash point that the environment names in ``KILL_AT``.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

from core.crypto import P256Private
from core.errors import Unavailable
from ingest.pipeline import Worker, service_of
from ingest.sources import open_source
from ledger.database import open_database
from tests.ingest.rig import RECEIPT_KEY
from tests.ledger.world import AUD, LOG, OPERATOR


def main(database_url: str, source_url: str, client_id: str, authority: str = "") -> None:
    worker = Worker(
        open_source(source_url, client_id, authority=authority or None),
        open_database(database_url),
        service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400),
        operator_key=P256Private.from_secret(OPERATOR.encode()),
        receipt_key=RECEIPT_KEY,
        at=_killed_at(os.environ.get("KILL_AT", "")),
    )
    while True:
        try:
            worker.run_once()
        except Unavailable:
            time.sleep(0.2)


def _killed_at(wanted: str) -> Callable[[str], None]:
    def at(point: str) -> None:
        if point == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


if __name__ == "__main__":
    main(*sys.argv[1:])
