"""A JSON-RPC client of the standard library alone, for whoever checks a proof without trusting our servers."""

import http.client
import json
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from core.bundle import Answers, Question
from core.errors import Rejected, Unavailable

TIMEOUT_S = 15.0
RESPONSE_BYTES_MAX = 4 * 1024 * 1024
QUESTIONS_MAX = 4_096
BATCH = 50


class RpcError(Rejected):
    """The node answered with an error."""

    code = "rpc_error"


def ask(
    url: str, questions: Sequence[Question], *, tag: str | int = "finalized", timeout_s: float = TIMEOUT_S
) -> Answers:
    """What the node at ``url`` answers to each ``eth_call``, with its chain id and genesis.

    Args:
        url: http(s) address of the node, trusted for its answers.
        questions: address and calldata, 0x lower-case hex.
        tag: the block to ask at: a tag or a number. A node without ``finalized`` blocks is asked at ``latest``.

    Raises:
        Unavailable: no answer in time, or too large a one.
        RpcError: the node refused a question.
        Rejected: ``bad_url``, ``too_large``, ``bad_answer``.
    """
    if len(questions) > QUESTIONS_MAX:
        raise Rejected(f"At most {QUESTIONS_MAX} questions are asked.", code="too_large")
    client = RpcClient(url, timeout_s=timeout_s)
    block: str = hex(tag) if isinstance(tag, int) else tag
    if block == "finalized" and not client.has_finalized():
        block = "latest"
    calls = [("eth_call", [{"to": q.to, "data": q.data}, block]) for q in questions]
    results: list[Any] = []
    for start in range(0, len(calls), BATCH):
        results.extend(client.batch(calls[start : start + BATCH]))
    return Answers(client.chain_id(), client.genesis_hash(), tuple(_bytes(result) for result in results))


class RpcClient:
    """Questions to one node; every answer is limited in time and size."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S, bytes_max: int = RESPONSE_BYTES_MAX) -> None:
        self._url = _split(url)
        self._timeout_s = timeout_s
        self._bytes_max = bytes_max
        self._next = 0

    def chain_id(self) -> int:
        """The EIP-155 number."""
        return _number(self.request("eth_chainId", []))

    def genesis_hash(self) -> str:
        """The hash of block 0."""
        block = self.block(0)
        if block is None:
            raise Rejected("The node has no block 0.", code="bad_answer")
        return str(block["hash"])

    def block(self, number: int | str) -> dict[str, Any] | None:
        """A block by number or tag with ``number`` as an integer, ``hash`` and ``parentHash``; None when not there."""
        tag = hex(number) if isinstance(number, int) else number
        return _block(self.request("eth_getBlockByNumber", [tag, False]))

    def block_by_hash(self, block_hash: str) -> dict[str, Any] | None:
        """A block by its hash; None when the node's present chain has none."""
        return _block(self.request("eth_getBlockByHash", [block_hash, False]))

    def has_finalized(self) -> bool:
        """Whether the node knows a ``finalized`` block."""
        try:
            return self.block("finalized") is not None
        except RpcError:
            return False

    def request(self, method: str, params: list[Any]) -> Any:
        """The result of one call."""
        return self.batch([(method, params)], is_single=True)[0]

    def batch(self, calls: Sequence[tuple[str, list[Any]]], *, is_single: bool = False) -> list[Any]:
        """The results of several calls, in order."""
        requests = []
        for method, params in calls:
            self._next += 1
            requests.append({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        answer = self._post(requests[0] if is_single else requests)
        answers = [answer] if isinstance(answer, dict) else answer
        if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
            raise Rejected("The node's answer is not JSON-RPC.", code="bad_answer")
        if not is_single and isinstance(answer, dict):
            _raise(answer)
        by_id = {one.get("id"): one for one in answers}
        return [_result(by_id.get(request["id"])) for request in requests]

    def _post(self, body: Any) -> Any:
        url = self._url
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(url.netloc, timeout=self._timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(url.netloc, timeout=self._timeout_s)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        try:
            connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read(self._bytes_max + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"The node at {url.netloc} does not answer: {error}", code="chain_away") from error
        finally:
            connection.close()
        if len(data) > self._bytes_max:
            raise Unavailable(f"The node's answer is larger than {self._bytes_max} bytes.", code="chain_away")
        if response.status != 200:
            raise Unavailable(f"The node answered HTTP {response.status}.", code="chain_away")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Rejected("The node's answer is not JSON.", code="bad_answer") from error


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise Rejected("This is no http(s) address.", code="bad_url") from error
    if not is_good or parts.username is not None:
        raise Rejected("A node is named by an http(s) address without a user name.", code="bad_url")
    return parts


def _result(answer: dict[str, Any] | None) -> Any:
    if answer is None:
        raise Rejected("The node left a question without an answer.", code="bad_answer")
    if answer.get("error") is not None:
        _raise(answer)
    if "result" not in answer:
        raise Rejected("The node's answer holds neither a result nor an error.", code="bad_answer")
    return answer["result"]


def _raise(answer: dict[str, Any]) -> None:
    error = answer.get("error")
    text = error.get("message") if isinstance(error, dict) else error
    raise RpcError(f"The node refused: {str(text)[:300]}")


def _number(value: Any) -> int:
    try:
        if isinstance(value, str) and value.startswith("0x"):
            return int(value, 16)
    except ValueError:
        pass
    raise Rejected("The node's answer is not a number.", code="bad_answer")


def _bytes(value: Any) -> bytes:
    try:
        if isinstance(value, str) and value.startswith("0x"):
            return bytes.fromhex(value[2:])
    except ValueError:
        pass
    raise Rejected("The node's answer is not hexadecimal.", code="bad_answer")


def _block(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("hash"), str):
        raise Rejected("The node's answer is not a block.", code="bad_answer")
    return {**value, "hash": value["hash"].lower(), "number": _number(value.get("number"))}
