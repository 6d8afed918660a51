"""The built-in chain: eth-tester's PyEVM backend on a py-evm database in SQLite, so that it survives restarts.

Crash safety: one chain_tx and its block are one SQLite transaction (WAL, synchronous FULL). Several threads share one
lock; several processes share SQLite's write lock, and each reads the head anew before it adds a block.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eth.abc import BlockHeaderAPI, StateAPI
from eth.chains.base import MiningChain
from eth.constants import POST_MERGE_DIFFICULTY, POST_MERGE_MIX_HASH, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.exceptions import CanonicalHeadNotFound, HeaderNotFound, PyEVMError, TransactionNotFound
from eth.vm.forks.prague import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_tester.backends.pyevm import PyEVMBackend
from eth_typing import Address, BlockNumber
from eth_utils.exceptions import ValidationError
from rlp.exceptions import DecodingError, DeserializationError

from contracts.chain import (
    DEVELOPMENT_ACCOUNT,
    TESTER_CHAIN_ID,
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
from contracts.tester_db import SqliteNodes
from core.errors import Rejected, Unavailable

# Twice the gas of a main-net block of 2021: a warehouse receipt registers 200 goods keys in one call.
BLOCK_GAS = 60_000_000
DEVELOPMENT_WEI = 10**27


class PersistentChain(MiningChain):
    """A chain that goes on where its database ends; only an empty database gets a genesis."""

    chain_id = TESTER_CHAIN_ID
    vm_configuration = ((BlockNumber(0), PragueVM),)

    @classmethod
    def from_genesis(cls, base_db: Any, genesis_params: Any, genesis_state: Any = None) -> Any:
        """The stored chain, or a new one from this genesis."""
        try:
            cls.get_chaindb_class()(base_db).get_canonical_head()
        except CanonicalHeadNotFound:
            return super().from_genesis(base_db, genesis_params, genesis_state)
        return cls(base_db)

    def create_header_from_parent(self, parent_header: Any, **header_params: Any) -> Any:
        """The next header; the gas limit stays as it was at genesis."""
        return super().create_header_from_parent(
            parent_header, **{**header_params, "gas_limit": parent_header.gas_limit}
        )

    def get_transaction_builder(self) -> Any:
        """What decodes chain_txs."""
        return self.get_vm().get_transaction_builder()


class PersistentBackend(PyEVMBackend):  # type: ignore[misc] # eth-tester carries no types
    """eth-tester's backend over :class:`PersistentChain`."""

    def __init__(self, nodes: SqliteNodes, *, time_s: int, salt: bytes) -> None:
        self._nodes, self._time_s, self._salt = nodes, time_s, salt
        super().__init__()

    def reset_to_genesis(self, *_: Any, **__: Any) -> None:
        """Open the chain; the first time this makes its genesis."""
        self.account_keys = ()
        params = {
            "coinbase": b"\x00" * 20,
            "difficulty": POST_MERGE_DIFFICULTY,
            "extra_data": self._salt,
            "gas_limit": BLOCK_GAS,
            "mix_hash": POST_MERGE_MIX_HASH,
            "nonce": POST_MERGE_NONCE,
            "timestamp": self._time_s,
        }
        account = bytes.fromhex(DEVELOPMENT_ACCOUNT[2:])
        state = {account: {"balance": DEVELOPMENT_WEI, "storage": {}, "code": b"", "nonce": 0}}
        self.chain = PersistentChain.from_genesis(AtomicDB(self._nodes), params, state)


def open_tester(path: Path, salt: bytes | None = None, *, time_s: int | None = None) -> "BuiltInChain":
    """The built-in chain in one SQLite file.

    Args:
        path: the file; made when it is not there.
        salt: up to 32 bytes for the genesis of a new chain; random when None.
        time_s: block time of a new genesis; the wall clock when None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    salt = os.urandom(32) if salt is None else salt
    return BuiltInChain(path, salt=salt, time_s=int(time.time()) if time_s is None else time_s)


class BuiltInChain(Chain):
    """The built-in chain; use :func:`open_tester`. Each chain_tx is mined at once and final at once."""

    is_tester = True
    chain_id = TESTER_CHAIN_ID

    def __init__(self, path: Path, *, salt: bytes, time_s: int) -> None:
        self.description = f"the built-in chain in {path.name}"
        self._lock = threading.RLock()
        self._nodes = SqliteNodes(path)
        with self._lock, self._nodes.writing():
            self.backend = PersistentBackend(self._nodes, time_s=time_s, salt=salt)
        self.genesis_hash = self._block(self._evm.get_canonical_block_header_by_number(0)).hash

    def block(self, tag: BlockTag) -> Block | None:
        """The head of a block; None above the latest."""
        with self._reading():
            header = self._header(tag)
            return None if header is None else self._block(header)

    def final_block_number(self) -> int:
        """The latest block: nothing can undo it but a lost file."""
        return self.block_number()

    def code(self, address: str) -> bytes:
        """The code at an address at the latest block."""
        with self._reading():
            return bytes(self._state("latest").get_code(_raw(address)))

    def call(self, to: str, data: bytes, block: BlockTag = "latest", *, sender: str = ZERO_ADDRESS) -> bytes:
        """What the contract returns, at no cost to ``sender``."""
        with self._reading():
            computation, _ = self._run(sender, to, data, 0, block)
        return bytes(computation.output)

    def estimate_gas(self, sender: str, to: str | None, data: bytes, value: int = 0) -> int:
        """Gas used before refunds, a tenth more, and never below the calldata floor (EIP-7623)."""
        with self._reading():
            computation, intrinsic = self._run(sender, to, data, value, "latest")
            used = int(computation.get_gas_used() + computation.get_gas_refund())
        return max(intrinsic + used + used // 10, 21_000 + 40 * len(data))

    def nonce(self, address: str, block: BlockTag = "latest") -> int:
        """The account's nonce."""
        with self._reading():
            return int(self._state(block).get_nonce(_raw(address)))

    def balance(self, address: str) -> int:
        """Wei of the account."""
        with self._reading():
            return int(self._state("latest").get_balance(_raw(address)))

    def fees(self) -> Fees:
        """The base fee of the next block, and a tip of one wei: nobody competes here."""
        with self._reading():
            head = self._evm.get_canonical_head()
            return Fees(base=int(self._evm.create_header_from_parent(head).base_fee_per_gas), priority=1)

    def send_raw(self, raw: bytes) -> str:
        """Run the chain_tx and add its block, in one SQLite transaction."""
        with self._lock:
            try:
                with self._nodes.writing():
                    self._evm.header = self._evm.ensure_header()
                    # py-evm runs what was signed for another chain; no other node does.
                    if self._evm.get_transaction_builder().decode(raw).chain_id != self.chain_id:
                        raise Rejected("This chain_tx was signed for another chain.", code="bad_chain_tx")
                    tx_hash = self.backend.send_raw_transaction(raw)
                    self.backend.mine_blocks(1)
                return "0x" + bytes(tx_hash).hex()
            except ValidationError as error:
                raise _refused(str(error)) from error
            except (DecodingError, DeserializationError, PyEVMError, ValueError, TypeError, IndexError) as error:
                raise Rejected(f"The chain cannot read this chain_tx: {error}", code="bad_chain_tx") from error
            finally:
                with self._nodes.reading():
                    self._evm.header = self._evm.ensure_header()

    def receipt(self, tx_hash: str) -> ChainReceipt | None:
        """The receipt of a chain_tx."""
        with self._reading():
            try:
                number, index = self._evm.get_canonical_transaction_index(bytes.fromhex(tx_hash[2:]))
            except TransactionNotFound:
                return None
            header = self._evm.get_canonical_block_header_by_number(number)
            receipt = self._evm.get_transaction_receipt_by_index(number, index)
            before = self._evm.get_transaction_receipt_by_index(number, index - 1).gas_used if index else 0
            transaction = self._evm.get_canonical_transaction_by_index(number, index)
        return _receipt(tx_hash, header, receipt, transaction, before)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._nodes.close()

    @property
    def _evm(self) -> Any:
        return self.backend.chain

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._nodes.reading():
            yield

    def _header(self, tag: BlockTag) -> BlockHeaderAPI | None:
        if tag in ("latest", "finalized", "safe"):
            return self._evm.get_canonical_head()  # type: ignore[no-any-return]
        try:
            number = 0 if tag == "earliest" else int(tag)
            return self._evm.get_canonical_block_header_by_number(number)  # type: ignore[no-any-return]
        except HeaderNotFound:
            return None

    @staticmethod
    def _block(header: Any) -> Block:
        return Block(header.block_number, f"0x{header.hash.hex()}", f"0x{header.parent_hash.hex()}", header.timestamp)

    def _state(self, tag: BlockTag) -> StateAPI:
        header = self._header(tag)
        if header is None:
            raise Unavailable(f"The chain has no block {tag} yet.", code="block_unknown")
        # A base fee of nothing lets an account without a balance ask questions.
        return self._evm.get_vm(header.copy(base_fee_per_gas=0)).state  # type: ignore[no-any-return]

    def _run(self, sender: str, to: str | None, data: bytes, value: int, tag: BlockTag) -> tuple[Any, int]:
        state = self._state(tag)
        account = _raw(sender)
        unsigned = self._evm.get_transaction_builder().new_unsigned_dynamic_fee_transaction(
            chain_id=self.chain_id,
            nonce=state.get_nonce(account),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=0,
            gas=BLOCK_GAS,
            to=bytes.fromhex(to[2:]) if to else b"",
            value=value,
            data=data,
            access_list=(),
        )
        try:
            intrinsic = int(unsigned.intrinsic_gas)
            spoofed: Any = SpoofTransaction(unsigned, from_=account)
            computation = state.apply_transaction(spoofed)
        except ValidationError as error:
            raise _refused(str(error)) from error
        if computation.is_error:
            raise Reverted(revert_reason(bytes(computation.output)))
        return computation, intrinsic


def _raw(address: str) -> Address:
    return Address(bytes.fromhex(address[2:]))


def _refused(text: str) -> MaybeSent | NoFunds | FeeTooLow | Rejected:
    low = text.lower()
    if "invalid transaction nonce" in low:
        return MaybeSent(text, code="bad_nonce")
    if "afford" in low or "enough balance" in low:
        return NoFunds(text)
    if "max fee per gas" in low:
        return FeeTooLow(text)
    return Rejected(text, code="bad_chain_tx")


def _receipt(tx_hash: str, header: Any, receipt: Any, transaction: Any, gas_before: int) -> ChainReceipt:
    from eth._utils.address import generate_contract_address

    ceiling = transaction.max_fee_per_gas
    tip = min(transaction.max_priority_fee_per_gas, ceiling - header.base_fee_per_gas)
    created = generate_contract_address(transaction.sender, transaction.nonce) if not transaction.to else None
    logs = tuple(
        ChainLog(f"0x{log.address.hex()}", tuple(int(t).to_bytes(32) for t in log.topics), bytes(log.data))
        for log in receipt.logs
    )
    return ChainReceipt(
        tx_hash=tx_hash,
        block_number=header.block_number,
        block_hash=f"0x{header.hash.hex()}",
        is_success=receipt.state_root == b"\x01",
        gas_used=receipt.gas_used - gas_before,
        fee_per_gas=header.base_fee_per_gas + tip,
        contract=None if created is None else f"0x{created.hex()}",
        logs=logs,
    )
