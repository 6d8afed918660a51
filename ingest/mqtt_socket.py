"""An MQTT client whose socket is read in large pieces and written at once.

paho reads a packet by three system calls or more (a byte, its length, its body) and writes each packet by one of its
own. Every system call lets go of the interpreter's lock, and in a busy process the thread then waits for it again:
half of a worker's time went there.
"""

import contextlib
import ssl
from typing import Any

import paho.mqtt.client as mqtt

_PIECE = 1 << 18
_UNSENT_MAX = 1 << 22
_LAST_WORDS_S = 1.0


class BufferedSocket:
    """A connected socket with room before and behind it, as paho uses one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._data, self._place = b"", 0
        self._unsent = bytearray()
        self.is_dry = False

    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes.

        Raises:
            BlockingIOError, ssl.SSLWantReadError: there is nothing now; ``is_dry`` is set.
        """
        if self._place == len(self._data):
            self._data, self._place = self._arrived(), 0
        start = self._place
        piece = self._data[start : start + size]
        self._place = start + len(piece)
        return piece

    def send(self, data: bytes | bytearray) -> int:
        """Take all of it, to be sent by :meth:`flush`.

        Raises:
            BlockingIOError: the other side does not read, and too much waits already.
        """
        if len(self._unsent) > _UNSENT_MAX:
            raise BlockingIOError
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Send what waits, as far as the other side takes it now. That it is gone shows when we read."""
        while self._unsent:
            try:
                del self._unsent[: self._inner.send(self._unsent)]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self._unsent.clear()

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def close(self) -> None:
        """Send what waits, within a second, and close."""
        with contextlib.suppress(OSError):
            if self._unsent:
                self._inner.settimeout(_LAST_WORDS_S)
                self._inner.sendall(self._unsent)
        self._inner.close()

    def fileno(self) -> int:
        """The inner socket's."""
        return int(self._inner.fileno())

    def setblocking(self, flag: bool) -> None:
        """As the inner socket's."""
        self._inner.setblocking(flag)

    def _arrived(self) -> bytes:
        try:
            return bytes(self._inner.recv(_PIECE))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.is_dry = True
            raise


class BufferedClient(mqtt.Client):
    """A client that is turned by its owner's calls of ``loop_read``, ``loop_write`` and ``loop_misc``."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # With a callback here packets wait for loop_write, each is not written as it is made.
        self.on_socket_register_write = lambda *_: None

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())
