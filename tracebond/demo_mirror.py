"""The demo's mirror: the regulator's own replay, a process of its own against the demo's web server."""

import subprocess
import sys
import time
from pathlib import Path

from core.errors import Unavailable
from ledger.cosignatures import standings
from ledger.mirror_auth import COSIGNER
from simulators.cast import Organisation
from tracebond.enrol import Enrolment
from tracebond.mirror_run import Folder
from tracebond.parts import Parts

WAIT_S = 60.0
EVERY_S = 0.5
STOP_S = 10.0


class DemoMirror:
    """Made before the server starts, so that its pages pin the mirror's key; started once its key is in the log.

    In this demo one machine runs everything; a real mirror runs elsewhere and asks a node of its own.
    """

    def __init__(self, data: Path) -> None:
        self._data = data.absolute() / "mirror"
        folder = Folder(self._data, "mirror.regulator.example")
        self.key = folder.verifier.encode()
        self._requests = folder.requests
        folder.close()
        self._process: subprocess.Popen[bytes] | None = None

    def admit(self, parts: Parts, regulator: Organisation) -> None:
        """The regulator's ``key`` record for its mirror, in the log."""
        enrolment = Enrolment(parts)
        enrolment.key(
            regulator.id,
            parts.keyfiles.organisation(regulator.gln),
            self._requests.jwk(),
            iss=regulator.id,
            use="mirror",
            scope={COSIGNER: self.key},
        )
        enrolment.wait_sequenced([self._requests.thumbprint()])

    def start(self, url: str, contract: str) -> None:
        """Begin to replay; the child ends with this process, since its standard input then closes."""
        command = [sys.executable, "-m", "tracebond", "mirror", "--url", url, "--rpc", f"{url}/rpc"]
        command += ["--log-contract", contract, "--data", str(self._data), "--every", str(EVERY_S), "--with-parent"]
        with (self._data / "mirror.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def wait_cosigned(self, parts: Parts, size: int) -> None:
        """Return when the mirror has cosigned the checkpoint of ``size`` leaves.

        Raises:
            Unavailable: it refuses, ended, or needs longer than a minute; its log file says why.
        """
        deadline = time.monotonic() + WAIT_S
        while True:
            with parts.db.reading() as tx:
                found = next((one for one in standings(tx) if one.verifier == self.key), None)
            if found is not None and found.size >= size:
                return
            if found is not None and found.refusal is not None:
                raise Unavailable(f"The mirror refuses the log: {found.refusal.message}", code="mirror_refuses")
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise Unavailable(f"The mirror has not cosigned; see {self._data / 'mirror.log'}.", code="no_mirror")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the child."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)
