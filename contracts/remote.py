"""A chain by the address of a node: web3's HTTP provider, with our own limits, retries and errors."""

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import requests
from web3 import HTTPProvider
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint

from contracts.chain import (
    ANVIL_CHAIN_ID,
    ZERO_ADDRESS,
    Block,
    BlockTag,
    Chain,
    ChainLog,
    ChainReceipt,
    Fees,
    FeeTooLow,
    MaybeSent,
    NoFunds,
    Reverted,
    revert_reason,
)
from core.errors import Conflict, Rejected, Unavailable

READ_TRIES = 3
READ_PAUSE_S = 0.15
SETTLE_MAX = 256
_MAYBE_SENT = (
    "already known",
    "already imported",
    "nonce too low",
    "underpriced",
    "known transaction",
    "nonce is too low",
)


class RemoteChain(Chain):
    """A chain behind one node; :func:`contracts.opening.open_chain` opens it."""

    def __init__(self, url: str, *, finality_depth: int | None, timeout_s: float) -> None:
        self.description = f"the chain at {urlsplit(url).hostname}:{urlsplit(url).port or ''}".rstrip(":")
        self._depth = finality_depth
        self._provider = HTTPProvider(url, request_kwargs={"timeout": timeout_s}, exception_retry_configuration=None)
        self.chain_id = _int(self._read("eth_chainId", []))
        genesis = self.block(0)
        if genesis is None:
            raise Unavailable("The node has no block 0.", code="chain_away")
        self.genesis_hash = genesis.hash
        # Anvil with its defaults makes a block for each chain_tx and none in between.
        self.mines_on_demand = self.chain_id == ANVIL_CHAIN_ID and self._mines_on_demand()

    def block(self, tag: BlockTag) -> Block | None:
        """The head of a block; None above the latest."""
        answer = self._read("eth_getBlockByNumber", [_tag(tag), False])
        if answer is None:
            return None
        try:
            return Block(
                _int(answer["number"]), answer["hash"].lower(), answer["parentHash"].lower(), _int(answer["timestamp"])
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise _nonsense(error) from error

    def final_block_number(self) -> int:
        """The node's ``finalized`` block, or the latest less the depth that was set."""
        if self._depth is not None:
            return max(0, self.block_number() - self._depth)
        block = self.block("finalized")
        if block is None:
            raise Unavailable("The node names no finalized block; set a finality depth.", code="no_finality")
        return block.number

    def code(self, address: str) -> bytes:
        """The code at an address."""
        return _bytes(self._read("eth_getCode", [address, "latest"]))

    def call(self, to: str, data: bytes, block: BlockTag = "latest", *, sender: str = ZERO_ADDRESS) -> bytes:
        """What the contract returns."""
        call = {"from": sender, "to": to, "data": f"0x{data.hex()}"}
        return _bytes(self._read("eth_call", [call, _tag(block)]))

    def estimate_gas(self, sender: str, to: str | None, data: bytes, value: int = 0) -> int:
        """The node's estimate at the latest block."""
        call: dict[str, str] = {"from": sender, "data": f"0x{data.hex()}", "value": hex(value)}
        if to is not None:
            call["to"] = to
        return _int(self._read("eth_estimateGas", [call]))

    def nonce(self, address: str, block: BlockTag = "latest") -> int:
        """The account's nonce."""
        return _int(self._read("eth_getTransactionCount", [address, _tag(block)]))

    def balance(self, address: str) -> int:
        """Wei of the account."""
        return _int(self._read("eth_getBalance", [address, "latest"]))

    def fees(self) -> Fees:
        """The latest block's base fee and the node's usual tip; both 0 on a chain without fees."""
        answer = self._read("eth_getBlockByNumber", ["latest", False])
        base = answer.get("baseFeePerGas") if isinstance(answer, dict) else None
        try:
            priority = _int(self._read("eth_maxPriorityFeePerGas", []))
        except Rejected:
            priority = max(0, _int(self._read("eth_gasPrice", [])) - (_int(base) if base else 0))
        return Fees(base=_int(base) if base else 0, priority=priority)

    def send_raw(self, raw: bytes) -> str:
        """Hand the bytes over once; whether to send them again is for ``ledger.chain_tx`` to decide."""
        answer = self._post("eth_sendRawTransaction", [f"0x{raw.hex()}"])
        error = answer.get("error")
        if error is not None:
            raise _send_error(_message(error))
        return str(answer.get("result", "")).lower()

    def receipt(self, tx_hash: str) -> ChainReceipt | None:
        """The receipt, when the node has one."""
        answer = self._read("eth_getTransactionReceipt", [tx_hash])
        if answer is None:
            return None
        try:
            return None if answer["blockHash"] is None else _receipt(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _nonsense(error) from error

    def settle(self, number: int) -> None:
        """Ask an on-demand Anvil for the empty blocks that are missing above ``number``."""
        if not self.mines_on_demand or self._depth == 0:
            return
        missing = number - self.final_block_number()
        if 0 < missing <= SETTLE_MAX:
            self._read("anvil_mine", [hex(missing)])

    def _mines_on_demand(self) -> bool:
        try:
            return self._read("anvil_getAutomine", []) is True
        except (Rejected, Unavailable):
            return False

    def _read(self, method: str, params: Sequence[Any]) -> Any:
        """Ask; a read may be asked again, since it changes nothing."""
        for attempt in range(READ_TRIES):
            try:
                answer = self._post(method, params)
            except Unavailable:
                if attempt == READ_TRIES - 1:
                    raise
                time.sleep(READ_PAUSE_S * 2**attempt)
                continue
            error = answer.get("error")
            if error is not None:
                raise _read_error(method, error)
            return answer.get("result")
        raise Unavailable("The node does not answer.", code="chain_away")

    def _post(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        try:
            answer = self._provider.make_request(RPCEndpoint(method), list(params))
        except (requests.RequestException, OSError) as error:
            raise Unavailable(f"The node does not answer: {type(error).__name__}.", code="chain_away") from error
        except (Web3Exception, ValueError, TypeError, RecursionError) as error:
            raise _nonsense(error) from error
        if not isinstance(answer, dict):
            raise _nonsense(TypeError("no object"))
        return dict(answer)


def _message(error: Any) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return str(text)[:400]


def _send_error(text: str) -> MaybeSent | NoFunds | FeeTooLow | Rejected | Unavailable:
    low = text.lower()
    if any(words in low for words in _MAYBE_SENT):
        return MaybeSent(text)
    if "insufficient funds" in low or "insufficient balance" in low:
        return NoFunds(text)
    if "less than block base fee" in low or "fee cap" in low or "max fee per gas" in low:
        return FeeTooLow(text)
    if "rate limit" in low or "too many" in low or "timeout" in low or "timed out" in low:
        return Unavailable(text, code="chain_away")
    return Rejected(text, code="chain_refused")


def _read_error(method: str, error: Any) -> Conflict | Unavailable | Rejected:
    text = _message(error)
    low = text.lower()
    data = error.get("data") if isinstance(error, dict) else None
    if isinstance(data, dict):
        data = data.get("data")
    if "revert" in low or (isinstance(error, dict) and error.get("code") == 3):
        reason = ""
        if isinstance(data, str) and data.startswith("0x"):
            reason = revert_reason(_bytes(data))
        if not reason and ":" in text:
            reason = text.partition(":")[2].strip().strip("'\"")
        return Reverted(reason)
    if isinstance(error, dict) and error.get("code") == -32601:
        return Rejected(f"The node does not know {method}.", code="method_unknown")
    if "insufficient funds" in low:
        return NoFunds(text)
    if "out of gas" in low or "opcode" in low or "gas required exceeds" in low:
        return Reverted(text)
    return Unavailable(f"The node cannot answer {method}: {text}", code="chain_away")


def _receipt(answer: dict[str, Any]) -> ChainReceipt:
    contract = answer.get("contractAddress")
    return ChainReceipt(
        tx_hash=answer["transactionHash"].lower(),
        block_number=_int(answer["blockNumber"]),
        block_hash=answer["blockHash"].lower(),
        is_success=_int(answer["status"]) == 1,
        gas_used=_int(answer["gasUsed"]),
        fee_per_gas=_int(answer.get("effectiveGasPrice") or "0x0"),
        contract=contract.lower() if contract else None,
        logs=tuple(
            ChainLog(log["address"].lower(), tuple(_bytes(t) for t in log["topics"]), _bytes(log["data"]))
            for log in answer.get("logs", ())
        ),
    )


def _tag(tag: BlockTag) -> str:
    return hex(tag) if isinstance(tag, int) else tag


def _int(value: Any) -> int:
    if isinstance(value, int):
        return value
    try:
        return int(value, 16)
    except (TypeError, ValueError) as error:
        raise _nonsense(error) from error


def _bytes(value: Any) -> bytes:
    try:
        if not value.startswith("0x"):
            raise ValueError("no 0x")
        return bytes.fromhex(value[2:])
    except (AttributeError, ValueError) as error:
        raise _nonsense(error) from error


def _nonsense(error: Exception) -> Unavailable:
    return Unavailable(f"The node's answer makes no sense: {error}", code="chain_nonsense")
