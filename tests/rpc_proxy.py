"""A JSON-RPC proxy in front of a real node that misbehaves on demand: stalls, drops, repeats and lies."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import rlp
from eth_account import Account

Lie = Callable[[str, list[Any], Any], Any]


class RpcProxy:
    """Passes everything on; the attributes say what goes wrong.

    Attributes:
        down: answer nothing, close the connection.
        drop_after_send: hand ``eth_sendRawTransaction`` on, then close without an answer; so many times.
        lose_send: say that it was taken, but do not hand it on; so many times.
        stall_s: wait before each answer.
        twice: hand each raw chain_tx on twice, give the second answer.
        status: answer HTTP with this status instead; so many times in ``status_left``.
        lie: (method, params, result) -> the result to give.
        fault: method -> "down", "429", "500", "drop" (done, but not answered) or None, for each request anew.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.down = False
        self.drop_after_send = 0
        self.lose_send = 0
        self.stall_s = 0.0
        self.twice = False
        self.status = 503
        self.status_left = 0
        self.lie: Lie | None = None
        self.fault: Callable[[str], str | None] = lambda method: None
        self.least_bump_percent = 10
        self.calls: list[str] = []
        self._offers: dict[tuple[str, int], tuple[int, int]] = {}
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = proxy.answer(json.loads(body))
                if answer is None:
                    self.close_connection = True
                    return
                status, content = answer
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: Any) -> tuple[int, bytes] | None:
        method = request["method"]
        self.calls.append(method)
        fault = self.fault(method)
        if self.down or fault == "down":
            return None
        if fault in ("429", "500"):
            return int(fault), b"{}"
        if fault == "drop":
            self._ask(request)
            return None
        if self.status_left > 0:
            self.status_left -= 1
            return self.status, b"{}"
        if self.stall_s:
            time.sleep(self.stall_s)
        if method == "eth_sendRawTransaction":
            return self._send(request)
        answer = self._ask(request)
        if self.lie is not None and "result" in answer:
            answer["result"] = self.lie(method, request["params"], answer["result"])
        return 200, json.dumps(answer).encode()

    def _send(self, request: Any) -> tuple[int, bytes] | None:
        refusal = self._underpriced(request["params"][0])
        if refusal:
            error = {"code": -32000, "message": "replacement transaction underpriced"}
            return 200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode()
        if self.lose_send > 0:
            self.lose_send -= 1
            tx_hash = "0x" + "ab" * 32
            return 200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": tx_hash}).encode()
        answer = self._ask(request)
        if self.twice:
            answer = self._ask(request)
        if self.drop_after_send > 0:
            self.drop_after_send -= 1
            return None
        return 200, json.dumps(answer).encode()

    def _underpriced(self, raw: str) -> bool:
        """Whether geth would refuse this as a replacement: both fees must grow by a tenth."""
        fields = rlp.decode(bytes.fromhex(raw[4:]))
        key = (Account.recover_transaction(raw), int.from_bytes(fields[1]))
        offer = (int.from_bytes(fields[2]), int.from_bytes(fields[3]))
        before = self._offers.get(key)
        if before is None or before == offer:
            self._offers[key] = offer
            return False
        factor = 100 + self.least_bump_percent
        if all(new * 100 >= old * factor for new, old in zip(offer, before, strict=True)):
            self._offers[key] = offer
            return False
        return True

    def _ask(self, request: Any) -> Any:
        connection = http.client.HTTPConnection(self.target.hostname or "", self.target.port, timeout=20)
        try:
            connection.request("POST", "/", json.dumps(request), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
