"""The one way to talk to a chain: the persistent eth-tester chain by default, any other by URL.

Every error is one of ``core.errors``; no exception of web3, eth-tester or py-evm leaves this package. Addresses and
hashes are 0x lower-case hex text, as in our JSON.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from core.errors import Broken, Conflict, Rejected, Unavailable

BlockTag = int | Literal["latest", "finalized", "safe", "earliest"]

TESTER_CHAIN_ID = 131277322940537
ANVIL_CHAIN_ID = 31337
ZERO_ADDRESS = "0x" + "00" * 20
# The first account of the "test test ... junk" mnemonic, which Anvil and Hardhat print at every start: a secret of
# nobody. Our own development chain funds the same account, so that both are used alike.
DEVELOPMENT_KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
DEVELOPMENT_ACCOUNT = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"

_ERROR_STRING = bytes.fromhex("08c379a0")
_PANIC = bytes.fromhex("4e487b71")
_ADDRESS = re.compile(r"0x[0-9a-f]{40}\Z")
_HASH = re.compile(r"0x[0-9a-f]{64}\Z")


class Reverted(Conflict):
    """The contract refused the call; ``reason`` is its own word, ``code`` the same in snake_case."""

    code = "reverted"

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        slug = re.sub(r"[^a-z0-9]+", "_", reason.lower()).strip("_")[:64]
        super().__init__(f"The contract refused: {reason or 'no reason given'}.", code=slug or "reverted")


class MaybeSent(Conflict):
    """The node did not take the bytes as new; they, or another attempt of that nonce, may be on their way already."""

    code = "maybe_sent"


class NoFunds(Rejected):
    """The sending account cannot pay for this chain_tx."""

    code = "insufficient_funds"


class FeeTooLow(Rejected):
    """The offered fee is below what the next block asks."""

    code = "fee_too_low"


class WrongChain(Broken):
    """The chain is not the one that was recorded; ``--new-chain`` starts over on this one, and says so."""

    code = "wrong_chain"


@dataclass(frozen=True)
class Block:
    """The head of a block; ``time_s`` is the chain's own clock and never compared with ours."""

    number: int
    hash: str
    parent_hash: str
    time_s: int


@dataclass(frozen=True)
class ChainLog:
    """What a contract emitted."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True)
class ChainReceipt:
    """What became of a chain_tx in the block that holds it."""

    tx_hash: str
    block_number: int
    block_hash: str
    is_success: bool
    gas_used: int
    fee_per_gas: int
    contract: str | None
    logs: tuple[ChainLog, ...]


@dataclass(frozen=True)
class Fees:
    """Wei per gas: what the next block burns, and the tip that is usual."""

    base: int
    priority: int


class Chain(ABC):
    """A chain; safe to use from several threads.

    Attributes:
        chain_id: EIP-155 number.
        genesis_hash: hash of block 0; with ``chain_id`` it tells chains apart.
        is_tester: the built-in chain, which mines each chain_tx at once and knows no second pending nonce.
        description: its address for people, without secrets.
    """

    chain_id: int
    genesis_hash: str
    is_tester: bool = False
    description: str = ""

    @property
    def is_development(self) -> bool:
        """Whether the well-known development account may pay for everything here."""
        return self.chain_id in (TESTER_CHAIN_ID, ANVIL_CHAIN_ID)

    @abstractmethod
    def block(self, tag: BlockTag) -> Block | None:
        """The head of a block; None when the chain has none there."""

    @abstractmethod
    def final_block_number(self) -> int:
        """The highest block that is called final; nothing above it may be relied on."""

    @abstractmethod
    def code(self, address: str) -> bytes:
        """The code at an address; empty when there is none."""

    @abstractmethod
    def call(self, to: str, data: bytes, block: BlockTag = "latest", *, sender: str = ZERO_ADDRESS) -> bytes:
        """What the contract returns.

        Raises:
            Reverted: the contract refused.
            Unavailable: no answer, or the node has not that block.
        """

    @abstractmethod
    def estimate_gas(self, sender: str, to: str | None, data: bytes, value: int = 0) -> int:
        """Gas that the call would take at the latest block; raises as :meth:`call`."""

    @abstractmethod
    def nonce(self, address: str, block: BlockTag = "latest") -> int:
        """How many chain_txs of the account the chain holds."""

    @abstractmethod
    def balance(self, address: str) -> int:
        """Wei of the account at the latest block."""

    @abstractmethod
    def fees(self) -> Fees:
        """What a chain_tx must offer now."""

    @abstractmethod
    def send_raw(self, raw: bytes) -> str:
        """Hand a signed chain_tx to the node; gives its hash.

        Raises:
            MaybeSent: already known, nonce too low, replacement underpriced: never a failure.
            NoFunds, FeeTooLow: not taken now.
            Rejected: not taken for another reason.
            Unavailable: no answer, so it may have been taken.
        """

    @abstractmethod
    def receipt(self, tx_hash: str) -> ChainReceipt | None:
        """The receipt, when the chain_tx stands in a block of the present chain."""

    def block_number(self) -> int:
        """Number of the latest block."""
        head = self.block("latest")
        if head is None:
            raise Unavailable("The chain has no latest block.", code="chain_away")
        return head.number

    def block_hash(self, number: int) -> str | None:
        """The hash at a height of the present chain, None above its head."""
        block = self.block(number)
        return None if block is None else block.hash

    def settle(self, number: int) -> None:  # noqa: B027 - only development nodes need it
        """Let time pass on a development node that makes blocks only on demand, until block ``number`` is final there.

        Without it an idle Anvil would never call anything final. Any other chain does nothing here.
        """

    def check_identity(self, *, chain_id: int, genesis_hash: str) -> None:
        """Return if this is the recorded chain.

        Raises:
            WrongChain: another id or genesis.
        """
        if (self.chain_id, self.genesis_hash) != (chain_id, genesis_hash):
            raise WrongChain(
                f"Recorded is chain {chain_id} with genesis {genesis_hash}, but {self.description} is chain "
                f"{self.chain_id} with genesis {self.genesis_hash}. If that is meant, start once with --new-chain."
            )

    def close(self) -> None:  # noqa: B027 - most chains have nothing to give back
        """Give back files and connections."""


def revert_reason(output: bytes) -> str:
    """The word in what a refused call returned: the string of ``Error(string)``, the number of a panic, else ""."""
    if output[:4] == _ERROR_STRING and len(output) >= 68:
        length = int.from_bytes(output[36:68])
        return output[68 : 68 + min(length, 512)].decode("utf-8", "replace")
    if output[:4] == _PANIC and len(output) >= 36:
        return f"panic {int.from_bytes(output[4:36])}"
    return ""


def to_address(value: str | bytes) -> str:
    """An address as 0x lower-case hex.

    Raises:
        Rejected: ``bad_address``.
    """
    text = "0x" + value.hex() if isinstance(value, bytes) else value.lower()
    if not _ADDRESS.match(text):
        raise Rejected("An address is 0x and 40 hexadecimal digits.", code="bad_address")
    return text


def to_hash(value: str | bytes) -> str:
    """A 32-byte hash as 0x lower-case hex.

    Raises:
        Rejected: ``bad_hash``.
    """
    text = "0x" + value.hex() if isinstance(value, bytes) else value.lower()
    if not _HASH.match(text):
        raise Rejected("A hash is 0x and 64 hexadecimal digits.", code="bad_hash")
    return text
