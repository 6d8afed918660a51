"""What a mirror fetches from the operator over HTTP, every answer limited in size and time, every request signed."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from core.canonical import canonical_bytes
from core.crypto import P256Private
from core.errors import Conflict, Rejected, Unavailable
from core.notes import NOTE_BYTES_MAX
from ledger.mirror_auth import sign_request

TIMEOUT_S = 30.0
# 256 entries of 60,000 bytes, and room for the longest item lists.
ANSWER_BYTES_MAX = 64_000_000
WIDTH = 256
HASH_BYTES = 32


class Withheld(Rejected):
    """The operator does not serve what its own checkpoint covers; ``served`` entries of the tile came."""

    code = "withheld"

    def __init__(self, message: str, *, served: int) -> None:
        super().__init__(message)
        self.served = served


class LogSource:
    """One operator's log by its address.

    Args:
        log: the origin, which signed requests name.
        now: the clock for request signatures.
    """

    def __init__(
        self,
        url: str,
        key: P256Private,
        log: str = "",
        *,
        now: Callable[[], float] = time.time,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise Rejected("The operator is named by an http(s) address without a user name.", code="bad_url")
        self._prefix = parts.path.rstrip("/")
        self._client = httpx.Client(base_url=f"{parts.scheme}://{parts.netloc}", timeout=timeout_s)
        self._key = key
        self.log = log
        self._now = now

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def checkpoint(self, size: int | None = None) -> str | None:
        """The newest checkpoint's note, or the one of ``size``; None when there is none."""
        data = self._get("/log/checkpoint" if size is None else f"/log/checkpoint/{size}", bytes_max=NOTE_BYTES_MAX)
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Rejected("The checkpoint is not UTF-8.", code="bad_note") from error

    def hashes(self, number: int, width: int) -> list[bytes]:
        """The first ``width`` leaf hashes under level-0 tile ``number``.

        Raises:
            Withheld: fewer came.
        """
        data = self._get(f"/log/tile/0/{tile_path(number, width)}") or b""
        if len(data) != width * HASH_BYTES:
            raise Withheld(f"Hash tile 0/{number} is not served whole.", served=len(data) // HASH_BYTES)
        return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]

    def entries(self, number: int, width: int) -> list[bytes]:
        """The first ``width`` entries under tile ``number``.

        Raises:
            Withheld: fewer came.
        """
        return self._parts("entries", 2, number, width)

    def items(self, number: int, width: int) -> list[bytes]:
        """Per entry its item lists, empty for records and state leaves.

        Raises:
            Withheld: fewer came.
        """
        return self._parts("items", 4, number, width)

    def send_cosignature(self, note: str) -> None:
        """Hand a cosigned checkpoint to the operator."""
        self._post("/log/cosignature", note.encode(), "text/plain; charset=utf-8")

    def send_refusal(self, said: dict[str, Any]) -> None:
        """Tell the operator which entry is refused, and why."""
        self._post("/log/refusal", canonical_bytes(said), "application/json")

    def _parts(self, kind: str, length_bytes: int, number: int, width: int) -> list[bytes]:
        data = self._get(f"/log/tile/{kind}/{tile_path(number, width)}", is_signed=True) or b""
        parts: list[bytes] = []
        position = 0
        while len(parts) < width and position + length_bytes <= len(data):
            start = position + length_bytes
            position = start + int.from_bytes(data[position:start])
            if position > len(data):
                break
            parts.append(data[start:position])
        if len(parts) != width or position != len(data):
            raise Withheld(f"{kind.capitalize()} of tile {number} are not served whole.", served=len(parts))
        return parts

    def _get(self, path: str, *, is_signed: bool = False, bytes_max: int = ANSWER_BYTES_MAX) -> bytes | None:
        full = self._prefix + path
        headers = self._signed("GET", full, b"") if is_signed else {}
        chunks: list[bytes] = []
        total = 0
        try:
            with self._client.stream("GET", full, headers=headers) as answer:
                for chunk in answer.iter_bytes():
                    total += len(chunk)
                    if total > bytes_max:
                        raise Rejected(f"The operator's answer to {path} is too large.", code="too_large")
                    chunks.append(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"The operator does not answer: {error}", code="operator_away") from error
        if answer.status_code == 404:
            return None
        self._check(answer.status_code, path, b"".join(chunks))
        return b"".join(chunks)

    def _post(self, path: str, body: bytes, kind: str) -> None:
        full = self._prefix + path
        headers = {"Content-Type": kind, **self._signed("POST", full, body)}
        try:
            answer = self._client.post(full, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"The operator does not answer: {error}", code="operator_away") from error
        self._check(answer.status_code, path, answer.content)

    def _signed(self, method: str, path: str, body: bytes) -> dict[str, str]:
        now = int(self._now())
        return {"Authorization": sign_request(self._key, log=self.log, method=method, path=path, body=body, now=now)}

    def _check(self, status: int, path: str, body: bytes) -> None:
        if status == 200:
            return
        said = body[:300].decode("utf-8", "replace")
        if status in (401, 403):
            raise Rejected(f"The operator does not take this mirror's key: {said}", code="not_registered")
        if status == 409:
            raise Conflict(f"The operator refused {path}: {said}", code="operator_refused")
        if status == 429 or status >= 500:
            raise Unavailable(f"The operator answered HTTP {status} to {path}.", code="operator_away")
        raise Rejected(f"The operator answered HTTP {status} to {path}: {said}", code="operator_refused")


def tile_path(number: int, width: int = WIDTH) -> str:
    """A tile's number as C2SP tlog-tiles writes it, with ``.p/width`` for a partial one."""
    groups = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups) + ("" if width == WIDTH else f".p/{width}")
