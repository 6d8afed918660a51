"""The witness port of a mirror: ``POST /add-checkpoint`` by C2SP tlog-witness, on the standard library's server."""

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import structlog

from core.errors import Conflict, Rejected, TracebondError, Unavailable
from core.notes import NOTE_BYTES_MAX, Checkpoint, Verifier, open_note, read_checkpoint
from ledger.mirror import Mirror

PROOF_LINES_MAX = 63
BODY_BYTES_MAX = NOTE_BYTES_MAX + 64 * PROOF_LINES_MAX
SOCKET_TIMEOUT_S = 20
CONNECTIONS_MAX = 32

_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})\Z")
_log = structlog.get_logger(__name__)

Answer = tuple[int, str, str]


def add_checkpoint(mirror: Mirror, body: bytes, now: int) -> Answer:
    """Status, content type and body for one add-checkpoint request.

    The mirror cosigns nothing that it has not replayed: within one call it replays what is missing (up to 50,000
    leaves), beyond that it answers 503 and its own rounds go on.
    """
    try:
        old, proof, note = _read(body)
        origin = note.split("\n", 1)[0]
    except Rejected as error:
        return 400, _TEXT, error.message + "\n"
    if origin != mirror.pinned().origin:
        return 404, _TEXT, "This origin is not mirrored here.\n"
    try:
        head = _verified(mirror, note)
    except Rejected as error:
        return 403, _TEXT, error.message + "\n"
    if old > head.size:
        return 400, _TEXT, "The old size is larger than the checkpoint's.\n"
    try:
        return 200, _TEXT, mirror.cosign_handed(old, proof, head, note, now)
    except Conflict as error:
        last = mirror.last_cosigned()
        size = last.size if last is not None else 0
        return 409, _SIZE if error.code == "wrong_old_size" else _TEXT, f"{size}\n"
    except Rejected as error:
        return 422, _TEXT, error.message + "\n"


_TEXT = "text/plain; charset=utf-8"
_SIZE = "text/x.tlog.size"


class WitnessServer:
    """Serves the witness port in threads of its own."""

    def __init__(self, mirror: Mirror, host: str, port: int, *, now: Callable[[], float] = time.time) -> None:
        class Bound(_Handler):
            pass

        Bound.mirror, Bound.clock = mirror, (now,)
        Bound.slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._server = ThreadingHTTPServer((host, port), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="witness", daemon=True)

    @property
    def url(self) -> str:
        """The submission prefix."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    mirror: ClassVar[Mirror]
    clock: ClassVar[tuple[Callable[[], float]]]
    slots: ClassVar[threading.BoundedSemaphore]
    protocol_version = "HTTP/1.1"
    server_version = "tracebond-mirror"
    sys_version = ""
    timeout = SOCKET_TIMEOUT_S

    def do_POST(self) -> None:
        """One request; too many at once are asked to come again."""
        if not self.slots.acquire(blocking=False):
            self._answer(503, _TEXT, "Too many requests at once.\n", is_last=True)
            return
        try:
            self._post()
        finally:
            self.slots.release()

    def _post(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) > BODY_BYTES_MAX:
            self._answer(413 if length.isdigit() else 411, _TEXT, "A body of stated and small size.\n", is_last=True)
            return
        body = self.rfile.read(int(length))
        if self.path != "/add-checkpoint":
            self._answer(404, _TEXT, "There is nothing here.\n")
            return
        try:
            self._answer(*add_checkpoint(self.mirror, body, int(self.clock[0]())))
        except Unavailable as error:
            self._answer(503, _TEXT, error.message + "\n")
        except TracebondError as error:
            _log.error("witness request failed", code=error.code, reason=error.message)
            self._answer(500, _TEXT, "An internal check failed.\n")

    def _answer(self, status: int, kind: str, text: str, *, is_last: bool = False) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status == 503:
            self.send_header("Retry-After", "5")
        if is_last:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Requests are told through structlog, at debug."""
        _log.debug("witness", line=format % args)


def _read(body: bytes) -> tuple[int, list[bytes], str]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("The body is not UTF-8.", code="bad_request") from error
    head, separator, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    match = _OLD.match(first)
    if match is None or not separator or not note:
        raise Rejected("A request is an old size line, proof lines, an empty line, a checkpoint.", code="bad_request")
    if len(lines) > PROOF_LINES_MAX:
        raise Rejected(f"At most {PROOF_LINES_MAX} proof lines.", code="bad_request")
    proof = []
    for line in lines:
        try:
            node = base64.b64decode(line, validate=True)
        except binascii.Error as error:
            raise Rejected("A proof line is base64.", code="bad_request") from error
        if len(node) != 32 or base64.b64encode(node).decode() != line:
            raise Rejected("A proof line is one hash.", code="bad_request")
        proof.append(node)
    return int(match[1]), proof, note


def _verified(mirror: Mirror, note: str) -> Checkpoint:
    verifier: Verifier = mirror.log_verifier()
    text, _ = open_note(note, [verifier])
    head = read_checkpoint(text)
    if head.text() != text:
        raise Rejected("This log's checkpoints have no extension lines.", code="bad_checkpoint")
    return head
