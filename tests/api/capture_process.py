"""A capture worker in a process of its own that dies at a named point: arguments URL and POINT."""

import os
import signal
import sys

from ledger.database import open_database
from tests.api.capture_rig import make_worker


def main(url: str, point: str) -> None:
    """Work until the point comes."""

    def at(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    worker = make_worker(open_database(url), at=at)[1]
    while worker.run_once():
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
