"""The three contracts as Python: reads at a block, and calldata for whoever sends."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError

from contracts.chain import BlockTag, Chain, Reverted, to_address
from contracts.compiler import load_artifact
from core.errors import Broken, Rejected

NO_LOG = 2**256 - 1
# Measured 71,000-100,000; what is not used is not paid.
ANCHOR_GAS = 180_000
KEYS_PER_CALL = 200

_STATES = ("none", "registering", "sealed", "pledged", "splitting", "split", "cancelled", "delivered")
_PLEDGES = ("none", "active", "enforcing", "released", "settled")


class Role(IntFlag):
    """What an organisation may do; the bits of OrganisationRegistry."""

    OPERATOR = 1
    MAKER = 2
    INSPECTOR = 4
    CUSTODIAN = 8
    CARRIER = 16
    RETAILER = 32
    LENDER = 64
    REGULATOR = 128


@dataclass(frozen=True)
class LogHead:
    """A log as the contract knows it; of a frozen log size and root of the last good anchor."""

    origin_hash: bytes
    checkpoint_key: bytes
    predecessor: int | None
    size: int
    root: bytes
    is_frozen: bool
    last_good: int


@dataclass(frozen=True)
class OrganisationVersion:
    """One version of an organisation's entry: SHA-256 thumbprint of its record key, EVM account, roles, block."""

    record_key: bytes
    account: str
    roles: Role
    block_number: int


@dataclass(frozen=True)
class WarehouseReceipt:
    """A list of claims. ``state``: none registering sealed pledged splitting split cancelled delivered."""

    custodian: str
    owner: str
    parent: bytes
    state: str
    holds: int
    singles: int
    lots: int


@dataclass(frozen=True)
class Pledge:
    """The last pledge of a receipt. ``state``: none active enforcing released settled; ``count`` of all so far."""

    pledgee: str
    terms_hash: bytes
    state: str
    count: int


class Client:
    """A contract at an address; ABI encoding and decoding."""

    name = ""

    def __init__(self, chain: Chain, address: str) -> None:
        self.chain, self.address = chain, to_address(address)

    def calldata(self, function: str, *arguments: Any) -> bytes:
        """The bytes that call a function.

        Raises:
            Rejected: ``bad_argument``.
        """
        selector, inputs, _ = _functions(self.name)[function]
        try:
            return selector + encode(inputs, arguments)
        except (EncodingError, ValueError, TypeError) as error:
            raise Rejected(f"{function} does not take this: {error}", code="bad_argument") from error

    def read(self, function: str, *arguments: Any, block: BlockTag = "latest") -> Any:
        """What a view returns: one value or a tuple.

        Raises:
            Reverted: the contract refused.
            Broken: ``wrong_code`` when what came back is not this contract's.
            Unavailable: no answer.
        """
        data = self.chain.call(self.address, self.calldata(function, *arguments), block)
        _, _, outputs = _functions(self.name)[function]
        try:
            values = decode(outputs, data)
        except (DecodingError, ValueError, OverflowError) as error:
            raise Broken(f"{self.address} does not answer like {self.name}.", code="wrong_code") from error
        return values[0] if len(values) == 1 else values

    def admin(self) -> str:
        """The admin's account."""
        return to_address(self.read("admin"))

    def pauser(self) -> str:
        """The pauser's account."""
        return to_address(self.read("pauser"))

    def paused(self, *, block: BlockTag = "latest") -> bool:
        """Whether a pause is on."""
        return bool(self.read("paused", block=block))

    def set_pauser_call(self, account: str) -> bytes:
        """Admin."""
        return self.calldata("set_pauser", account)

    def pause_call(self) -> bytes:
        """Pauser."""
        return self.calldata("pause")

    def unpause_call(self) -> bytes:
        """Pauser."""
        return self.calldata("unpause")

    def offer_admin_call(self, account: str) -> bytes:
        """Admin."""
        return self.calldata("offer_admin", account)

    def accept_admin_call(self) -> bytes:
        """The offered account."""
        return self.calldata("accept_admin")


class TransparencyLogClient(Client):
    """Anchored heads of logs."""

    name = "TransparencyLog"

    def organisations(self) -> str:
        """Address of the OrganisationRegistry."""
        return to_address(self.read("organisations"))

    def pledges(self) -> str:
        """Address of the PledgeRegistry."""
        return to_address(self.read("pledges"))

    def publisher(self) -> str:
        """The account that may anchor."""
        return to_address(self.read("publisher"))

    def log_count(self, *, block: BlockTag = "latest") -> int:
        """How many logs were opened."""
        return int(self.read("log_count", block=block))

    def log_at(self, log_id: int, *, block: BlockTag = "latest") -> LogHead:
        """What is recorded of a log; Reverted ``no_such_log``."""
        origin, key, predecessor, size, root, is_frozen, last_good = self.read("log_at", log_id, block=block)
        before = None if predecessor == NO_LOG else int(predecessor)
        return LogHead(bytes(origin), bytes(key), before, int(size), bytes(root), bool(is_frozen), int(last_good))

    def root_at(self, log_id: int, size: int, *, block: BlockTag = "latest") -> bytes | None:
        """The root anchored at a size; None when there is none."""
        root = bytes(self.read("root_at", log_id, size, block=block))
        return root if any(root) else None

    def check_inclusion(
        self,
        log_id: int,
        size: int,
        index: int,
        leaf_hash: bytes,
        proof: Sequence[bytes],
        *,
        block: BlockTag = "latest",
    ) -> bool:
        """Whether the contract finds the leaf at the index of an anchored tree."""
        return bool(self.read("check_inclusion", log_id, size, index, leaf_hash, list(proof), block=block))

    def verify_consistency(self, size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes) -> bool:
        """The contract's own check of a consistency proof."""
        return bool(self.read("verify_consistency", size1, size2, list(proof), root1, root2))

    def anchor_call(self, log_id: int, *, prev_size: int, size: int, root: bytes, proof: Sequence[bytes]) -> bytes:
        """Publisher."""
        return self.calldata("anchor", log_id, prev_size, size, root, list(proof))

    def open_log_call(self, origin_hash: bytes, checkpoint_key: bytes, predecessor: int | None = None) -> bytes:
        """Admin."""
        return self.calldata("open_log", origin_hash, checkpoint_key, NO_LOG if predecessor is None else predecessor)

    def freeze_call(self, log_id: int, last_good: int) -> bytes:
        """Admin."""
        return self.calldata("freeze", log_id, last_good)

    def set_publisher_call(self, account: str) -> bytes:
        """Admin."""
        return self.calldata("set_publisher", account)


class OrganisationRegistryClient(Client):
    """Organisations by their ``org`` key (32 bytes), append-only."""

    name = "OrganisationRegistry"

    def version_count(self, org: bytes, *, block: BlockTag = "latest") -> int:
        """How many versions there are; 0 for an unknown organisation."""
        return int(self.read("version_count", org, block=block))

    def organisation_at(self, org: bytes, version: int, *, block: BlockTag = "latest") -> OrganisationVersion:
        """One version, from 0; Reverted when there is none."""
        return _organisation(self.read("organisation_at", org, version, block=block))

    def current(self, org: bytes, *, block: BlockTag = "latest") -> OrganisationVersion | None:
        """The last version; None for an unknown organisation."""
        try:
            return _organisation(self.read("current", org, block=block))
        except Reverted as error:
            if error.code == "no_such_organisation":
                return None
            raise

    def organisation_of(self, account: str, *, block: BlockTag = "latest") -> bytes | None:
        """The ``org`` key an account belongs to, for ever."""
        org = bytes(self.read("organisation_of", account, block=block))
        return org if any(org) else None

    def current_account(self, account: str, *, block: BlockTag = "latest") -> str:
        """The account that acts now for the organisation of this account."""
        return to_address(self.read("current_account", account, block=block))

    def has_role(self, account: str, role: Role, *, block: BlockTag = "latest") -> bool:
        """Whether the account acts now for an organisation with this role."""
        return bool(self.read("has_role", account, int(role), block=block))

    def set_organisation_call(self, org: bytes, *, record_key: bytes, account: str, roles: Role | int) -> bytes:
        """Admin; appends a version."""
        return self.calldata("set_organisation", org, record_key, account, int(roles))


class PledgeRegistryClient(Client):
    """Claims on goods, warehouse receipts and pledges."""

    name = "PledgeRegistry"

    def organisations(self) -> str:
        """Address of the OrganisationRegistry."""
        return to_address(self.read("organisations"))

    def k_check(self) -> bytes:
        """The check value of the registry's goods key secret."""
        return bytes(self.read("k_check"))

    def capacity(self, goods_key: bytes, *, block: BlockTag = "latest") -> int:
        """How much of the goods there is to claim: 1, or what the maker set for a lot."""
        return int(self.read("capacity", goods_key, block=block))

    def claimed(self, goods_key: bytes, *, block: BlockTag = "latest") -> int:
        """How much of the goods is claimed by live receipts."""
        return int(self.read("claimed", goods_key, block=block))

    def claim_of(self, receipt: bytes, goods_key: bytes, *, block: BlockTag = "latest") -> int:
        """How much of the goods one receipt claims."""
        return int(self.read("claim_of", receipt, goods_key, block=block))

    def holder(self, goods_key: bytes, *, block: BlockTag = "latest") -> bytes | None:
        """The receipt that claims a single unit."""
        receipt = bytes(self.read("holder", goods_key, block=block))
        return receipt if any(receipt) else None

    def receipt_at(self, receipt: bytes, *, block: BlockTag = "latest") -> WarehouseReceipt:
        """A warehouse receipt; state ``none`` when unknown."""
        custodian, owner, parent, state, holds, singles, lots = self.read("receipt_at", receipt, block=block)
        return WarehouseReceipt(
            to_address(custodian), to_address(owner), bytes(parent), _STATES[state], int(holds), int(singles), int(lots)
        )

    def pledge_of(self, receipt: bytes, *, block: BlockTag = "latest") -> Pledge:
        """The last pledge of a receipt."""
        pledgee, terms_hash, state, count = self.read("pledge_of", receipt, block=block)
        return Pledge(to_address(pledgee), bytes(terms_hash), _PLEDGES[state], int(count))

    def nonce_of(self, receipt: bytes, *, block: BlockTag = "latest") -> int:
        """The nonce that the next pledge's signatures must name."""
        return int(self.read("nonce_of", receipt, block=block))

    def hold_of(self, receipt: bytes, org: bytes, *, block: BlockTag = "latest") -> bytes | None:
        """The reason hash of a regulator's hold."""
        reason = bytes(self.read("hold_of", receipt, org, block=block))
        return reason if any(reason) else None

    def typed_hash(self, receipt: bytes, *, pledgee: str, terms_hash: bytes, deadline: int) -> bytes:
        """The digest that owner and custodian sign, as the contract makes it; compare it with your own."""
        return bytes(self.read("typed_hash", receipt, pledgee, terms_hash, deadline))

    def typed_pledge(
        self, receipt: bytes, *, pledgee: str, terms_hash: bytes, nonce: int, deadline: int
    ) -> dict[str, Any]:
        """The EIP-712 data that owner and custodian sign, made without asking the contract."""
        return {
            "domain": {
                "name": "Tracebond PledgeRegistry",
                "version": "1",
                "chainId": self.chain.chain_id,
                "verifyingContract": self.address,
            },
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                "Pledge": [
                    {"name": "receipt", "type": "bytes32"},
                    {"name": "pledgee", "type": "address"},
                    {"name": "termsHash", "type": "bytes32"},
                    {"name": "nonce", "type": "uint256"},
                    {"name": "deadline", "type": "uint256"},
                ],
            },
            "primaryType": "Pledge",
            "message": {
                "receipt": receipt,
                "pledgee": pledgee,
                "termsHash": terms_hash,
                "nonce": nonce,
                "deadline": deadline,
            },
        }

    def set_capacity_call(self, goods_key: bytes, quantity: int) -> bytes:
        """Maker, once per lot, before it is claimed."""
        return self.calldata("set_capacity", goods_key, quantity)

    def register_call(self, receipt: bytes, owner: str, claims: Sequence[tuple[bytes, int]]) -> bytes:
        """Custodian; at most 200 claims a call."""
        goods, quantities = [key for key, _ in claims], [quantity for _, quantity in claims]
        return self.calldata("register", receipt, owner, goods, quantities)

    def seal_call(self, receipt: bytes) -> bytes:
        """Custodian."""
        return self.calldata("seal", receipt)

    def split_call(self, receipt: bytes, child: bytes, claims: Sequence[tuple[bytes, int]]) -> bytes:
        """Custodian; moves claims to one child."""
        return self.calldata("split", receipt, child, [key for key, _ in claims], [q for _, q in claims])

    def cancel_call(self, receipt: bytes) -> bytes:
        """Custodian."""
        return self.calldata("cancel", receipt)

    def deliver_call(self, receipt: bytes) -> bytes:
        """Custodian."""
        return self.calldata("deliver", receipt)

    def pledge_call(
        self, receipt: bytes, *, terms_hash: bytes, deadline: int, owner_sig: bytes, custodian_sig: bytes
    ) -> bytes:
        """Pledgee."""
        return self.calldata("pledge", receipt, terms_hash, deadline, owner_sig, custodian_sig)

    def release_call(self, receipt: bytes) -> bytes:
        """Pledgee."""
        return self.calldata("release", receipt)

    def enforce_call(self, receipt: bytes) -> bytes:
        """Pledgee."""
        return self.calldata("enforce", receipt)

    def cure_call(self, receipt: bytes) -> bytes:
        """Pledgee."""
        return self.calldata("cure", receipt)

    def settle_call(self, receipt: bytes) -> bytes:
        """Pledgee."""
        return self.calldata("settle", receipt)

    def hold_call(self, receipt: bytes, reason_hash: bytes) -> bytes:
        """Regulator."""
        return self.calldata("hold", receipt, reason_hash)

    def lift_call(self, receipt: bytes) -> bytes:
        """The regulator that holds."""
        return self.calldata("lift", receipt)


def claims_gas(claims: int) -> int:
    """A gas limit for ``register`` and ``split`` of so many keys, for chain_txs that are sent in a row unestimated."""
    return 200_000 + 75_000 * claims


@cache
def _functions(name: str) -> dict[str, tuple[bytes, list[str], list[str]]]:
    artifact = load_artifact(name)
    # Some identifiers are written without their leading zeros.
    selectors = {key.partition("(")[0]: int(v, 16).to_bytes(4) for key, v in artifact["method_identifiers"].items()}
    return {
        entry["name"]: (
            selectors[entry["name"]],
            [item["type"] for item in entry["inputs"]],
            [item["type"] for item in entry["outputs"]],
        )
        for entry in artifact["abi"]
        if entry["type"] == "function"
    }


def _organisation(values: Any) -> OrganisationVersion:
    record_key, account, roles, block_number = values
    return OrganisationVersion(bytes(record_key), to_address(account), Role(int(roles)), int(block_number))
