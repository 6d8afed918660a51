"""The three contracts deployed, with every role and one organisation of each kind."""

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.address import to_canonical_address

from contracts.compiler import Artifact, load_artifact
from tests.contracts.harness import ADDRESSES, KEY_OF, Contract, Node, deploy

NO_LOG = 2**256 - 1
ZERO = b"\x00" * 32
NOBODY = "0x" + "00" * 20

ADMIN, PUBLISHER, PAUSER, MAKER, CUSTODIAN, OTHER_CUSTODIAN, OWNER, OTHER_OWNER = ADDRESSES[:8]
FIRST_BANK, SECOND_BANK, REGULATOR, OTHER_REGULATOR, STRANGER, SPARE, SECOND_SPARE, NEXT_ADMIN = ADDRESSES[8:16]

OPERATOR_ROLE, MAKER_ROLE, INSPECTOR_ROLE, CUSTODIAN_ROLE = 1, 2, 4, 8
CARRIER_ROLE, RETAILER_ROLE, LENDER_ROLE, REGULATOR_ROLE = 16, 32, 64, 128


def h(text: str) -> bytes:
    """A 32-byte value that stands for something named."""
    return sha256(text.encode()).digest()


ORGANISATIONS = {
    MAKER: ("maker", MAKER_ROLE),
    CUSTODIAN: ("custodian", CUSTODIAN_ROLE),
    OTHER_CUSTODIAN: ("other custodian", CUSTODIAN_ROLE),
    OWNER: ("owner", RETAILER_ROLE),
    OTHER_OWNER: ("other owner", RETAILER_ROLE),
    FIRST_BANK: ("first bank", LENDER_ROLE),
    SECOND_BANK: ("second bank", LENDER_ROLE),
    REGULATOR: ("regulator", REGULATOR_ROLE),
    OTHER_REGULATOR: ("other regulator", REGULATOR_ROLE),
}
ORG_OF = {account: h(name) for account, (name, _) in ORGANISATIONS.items()}


def number(count: int, custodian: str = CUSTODIAN) -> bytes:
    """A receipt number of a custodian: its account, then twelve bytes of its own choice."""
    return bytes(to_canonical_address(custodian)) + count.to_bytes(12, "big")


@dataclass
class World:
    """A chain with the contracts on it."""

    node: Node
    organisations: Contract
    pledges: Contract
    log: Contract

    def signature(
        self,
        signer: str,
        receipt: bytes,
        pledgee: str,
        terms: bytes,
        *,
        deadline: int,
        nonce: int = 0,
        chain_id: int | None = None,
        contract: str | None = None,
    ) -> bytes:
        """The EIP-712 signature of a Pledge, made by eth-account and not by code of ours."""
        message = encode_typed_data(
            domain_data={
                "name": "Tracebond PledgeRegistry",
                "version": "1",
                "chainId": self.node.chain_id() if chain_id is None else chain_id,
                "verifyingContract": contract or self.pledges.address,
            },
            message_types={
                "Pledge": [
                    {"name": "receipt", "type": "bytes32"},
                    {"name": "pledgee", "type": "address"},
                    {"name": "termsHash", "type": "bytes32"},
                    {"name": "nonce", "type": "uint256"},
                    {"name": "deadline", "type": "uint256"},
                ]
            },
            message_data={
                "receipt": receipt,
                "pledgee": pledgee,
                "termsHash": terms,
                "nonce": nonce,
                "deadline": deadline,
            },
        )
        return bytes(Account.sign_message(message, KEY_OF[signer]).signature)

    def pledge(
        self,
        receipt: bytes,
        bank: str = FIRST_BANK,
        terms: bytes = h("terms"),
        *,
        nonce: int = 0,
        owner: str = OWNER,
        custodian: str = CUSTODIAN,
        in_s: int = 3600,
    ) -> None:
        """Pledge with two good signatures."""
        deadline = self.node.now() + in_s
        signatures = [
            self.signature(signer, receipt, bank, terms, deadline=deadline, nonce=nonce)
            for signer in (owner, custodian)
        ]
        self.pledges.pledge(receipt, terms, deadline, *signatures, sender=bank)

    def sealed(self, count: int, goods: dict[bytes, int], *, custodian: str = CUSTODIAN, owner: str = OWNER) -> bytes:
        """A sealed receipt that claims these goods."""
        receipt = number(count, custodian)
        self.pledges.register(receipt, owner, list(goods), list(goods.values()), sender=custodian)
        self.pledges.seal(receipt, sender=custodian)
        return receipt


def _artifact(name: str) -> Artifact:
    """The checked-in artifact, or the one that a campaign of mutants puts in its place."""
    mutant = Path(os.environ.get("TRACEBOND_TEST_ARTIFACTS", "/nonexistent")) / f"{name}.json"
    if mutant.exists():
        found: Artifact = json.loads(mutant.read_bytes())
        return found
    return load_artifact(name)


def make_world(node: Node, artifacts: dict[str, Artifact] | None = None) -> World:
    """Deploy the contracts and set them up.

    Args:
        artifacts: by name, in place of the checked-in ones.
    """
    chosen = artifacts or {}

    def made(name: str, *values: object) -> Contract:
        return deploy(node, chosen.get(name) or _artifact(name), *values, sender=ADMIN)

    organisations = made("OrganisationRegistry", ADMIN)
    pledges = made("PledgeRegistry", ADMIN, organisations.address, h("k-check"))
    log = made("TransparencyLog", ADMIN, organisations.address, pledges.address)
    for contract in (organisations, pledges, log):
        contract.set_pauser(PAUSER, sender=ADMIN)
    log.set_publisher(PUBLISHER, sender=ADMIN)
    for account, (name, roles) in ORGANISATIONS.items():
        organisations.set_organisation(h(name), h(f"{name}'s key"), account, roles, sender=ADMIN)
    return World(node, organisations, pledges, log)
