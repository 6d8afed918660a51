"""The read-only node, asked over HTTP by our standard-library client and by web3."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from web3 import Web3

from contracts.clients import TransparencyLogClient
from contracts.node import BATCH_MAX, answer, answer_bytes
from contracts.rpc import RpcClient, RpcError, ask
from core.bundle import Question
from core.errors import Rejected, Unavailable
from tests.chain_fixtures import ChainWorld, anvil_world, built_in_world


@pytest.fixture(scope="module", params=["eth-tester", "anvil"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainWorld]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "eth-tester":
        yield built_in_world(folder)
        return
    with anvil_world(folder) as found:
        yield found


class Server:
    """Serves a function from body to (status, body)."""

    def __init__(self, serve: Any) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, content = serve(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/rpc"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def node(deployed: ChainWorld) -> Iterator[Server]:
    found = Server(lambda body: (200, answer_bytes(deployed.chain, body)))
    yield found
    found.stop()


def rpc(method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}


def test_the_offline_client_gets_answers_chain_id_and_genesis(deployed: ChainWorld, node: Server) -> None:
    log = TransparencyLogClient(deployed.chain, deployed.deployment.log_contract)
    questions = [Question(log.address, f"0x{log.calldata(name).hex()}") for name in ("log_count", "organisations")] * 40

    answers = ask(node.url, questions)

    assert answers.chain_id == deployed.chain.chain_id
    assert answers.genesis == deployed.deployment.genesis_hash
    assert answers.calls[0] == (1).to_bytes(32)
    assert answers.calls[1][-20:].hex() == deployed.deployment.organisations[2:]
    assert len(answers.calls) == 80


def test_web3_reads_the_same_from_the_node(deployed: ChainWorld, node: Server) -> None:
    other = Web3(Web3.HTTPProvider(node.url))
    address = Web3.to_checksum_address(deployed.deployment.log_contract)

    assert other.eth.chain_id == deployed.chain.chain_id
    assert other.eth.block_number == deployed.chain.block_number()
    assert bytes(other.eth.get_code(address)) == deployed.chain.code(deployed.deployment.log_contract)
    assert f"0x{other.eth.get_block(0)['hash'].hex()}" == deployed.chain.genesis_hash


def test_the_client_reads_blocks_by_number_and_hash_from_a_full_node(tmp_path: Path) -> None:
    with anvil_world(tmp_path) as world:
        assert world.anvil is not None
        client = RpcClient(world.anvil.url)

        block = client.block(3)

        assert block is not None
        assert (block["number"], block["hash"]) == (3, world.chain.block_hash(3))
        assert client.block_by_hash(block["hash"]) == block
        assert client.block_by_hash("0x" + "00" * 32) is None
        assert client.block(10_000) is None
        assert client.has_finalized()


@pytest.mark.parametrize(
    "method",
    [
        "eth_sendRawTransaction", "eth_sendTransaction", "eth_accounts", "eth_getLogs", "anvil_mine", "evm_revert",
        "debug_traceCall", "eth_getStorageAt", "personal_unlockAccount", "",
    ],
)  # fmt: skip
def test_every_other_method_is_refused(deployed: ChainWorld, method: str) -> None:
    found = answer(deployed.chain, rpc(method, "0x"))

    assert found is not None
    assert found["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_chainId", [1]),
        ("eth_getBlockByNumber", []),
        ("eth_getBlockByNumber", ["pending", False]),
        ("eth_getBlockByNumber", ["0x01", False]),
        ("eth_getBlockByNumber", [1, False]),
        ("eth_getBlockByNumber", ["latest", "no"]),
        ("eth_getBlockByNumber", [["latest"], False]),
        ("eth_getBlockByNumber", ["0x" + "f" * 40, False]),
        ("eth_getCode", ["0x12"]),
        ("eth_getCode", [None]),
        ("eth_call", [{}]),
        ("eth_call", [{"to": "0x" + "11" * 20, "data": "0x1"}]),
        ("eth_call", [{"to": "0x" + "11" * 20, "data": "0x" + "00" * 20_000}]),
        ("eth_call", [{"to": "0x" + "11" * 20, "value": "0x1"}]),
        ("eth_call", [{"to": "0x" + "11" * 20}, "latest", {"0x": {}}]),
        ("eth_call", ["0x", "latest"]),
    ],
)
def test_bad_parameters_are_refused(deployed: ChainWorld, method: str, params: list[Any]) -> None:
    found = answer(deployed.chain, rpc(method, *params))

    assert found is not None
    assert found["error"]["code"] == -32602


def test_a_revert_is_an_error_three_with_its_reason(deployed: ChainWorld, node: Server) -> None:
    log = TransparencyLogClient(deployed.chain, deployed.deployment.log_contract)

    with pytest.raises(RpcError, match="no such log"):
        ask(node.url, [Question(log.address, f"0x{log.calldata('log_at', 9).hex()}")])


def test_bodies_that_are_no_requests_are_answered_as_json_rpc_says(deployed: ChainWorld) -> None:
    def code(body: bytes) -> int:
        return int(json.loads(answer_bytes(deployed.chain, body))["error"]["code"])

    assert code(b"{") == -32700
    assert code(b'{"a":NaN}') == -32700
    assert code(b"x" * 300_000) == -32700
    assert code(b"[]") == -32600
    assert code(b"1") == -32600
    assert code(json.dumps([rpc("eth_chainId")] * (BATCH_MAX + 1)).encode()) == -32600
    assert code(b'{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}') == -32600
    assert answer_bytes(deployed.chain, b'{"jsonrpc":"2.0","method":"eth_chainId"}') == b""
    batch = json.loads(answer_bytes(deployed.chain, json.dumps([rpc("eth_chainId"), rpc("eth_mine")]).encode()))
    assert [("result" in one, "error" in one) for one in batch] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (200, b"not json", Rejected),
        (200, b"[]", Rejected),
        (200, b'{"jsonrpc":"2.0","id":1}', Rejected),
        (200, b'{"jsonrpc":"2.0","id":99,"result":"0x1"}', Rejected),
        (200, b'{"jsonrpc":"2.0","id":1,"result":7}', Rejected),
        (200, b'{"jsonrpc":"2.0","id":1,"result":"0xzz"}', Rejected),
        (200, b"x" * 5_000_000, Unavailable),
        (500, b"{}", Unavailable),
    ],
)
def test_the_client_refuses_answers_that_are_none(status: int, content: bytes, error: type[Exception]) -> None:
    server = Server(lambda body: (status, content))
    try:
        with pytest.raises(error):
            RpcClient(server.url, timeout_s=5).chain_id()
    finally:
        server.stop()


def test_the_client_refuses_odd_addresses_and_a_silent_node() -> None:
    for url in ("ftp://example.org", "http://", "http://user:secret@127.0.0.1:1", "no address", "http://[::1"):
        with pytest.raises(Rejected):
            RpcClient(url)
    with pytest.raises(Unavailable):
        RpcClient("http://127.0.0.1:1", timeout_s=1).chain_id()


def test_the_offline_client_drags_in_no_chain_library() -> None:
    code = (
        "import contracts.rpc, sys; print([m for m in ('web3', 'eth', 'requests', 'sqlalchemy') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])

    assert done.stdout.strip() == "[]"
