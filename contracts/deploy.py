"""The contracts put on a chain once, described in ``deployment.json``, and checked at every start."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from contracts.chain import DEVELOPMENT_KEY, Chain, WrongChain
from contracts.clients import PledgeRegistryClient, TransparencyLogClient
from contracts.compiler import load_artifact
from contracts.inorder import InOrder, replace_file
from contracts.signer import Signer
from core.bundle import origin_hash
from core.errors import Broken, Conflict, Rejected

DEPLOYMENT_FILE = "deployment.json"
JOURNAL_FILE = "deployment.steps.json"
ETHER = 10**18
ADMIN_WEI = 100 * ETHER
ACCOUNT_WEI = 2 * ETHER
_CREATED = 3
_LOG_OPENED = keccak(b"LogOpened(uint256,bytes32,bytes32,uint256,uint64,bytes32)")


@dataclass(frozen=True)
class Deployment:
    """Where the contracts stand.

    Attributes:
        block: number of the block in which the log was opened.
        code_hashes: keccak-256 of the code at each contract, immutables included.
        nonces: per account the next nonce after the deployment.
        publisher_account: name of the publisher's key in the signer; another one after a theft.
    """

    chain_id: int
    genesis_hash: str
    organisations: str
    pledges: str
    log_contract: str
    log_id: int
    origin: str
    checkpoint_key: str
    k_check: str
    admin: str
    publisher: str
    pauser: str
    block: int
    code_hashes: dict[str, str]
    nonces: dict[str, int]
    publisher_account: str = "publisher"

    def to_json(self) -> str:
        """Its JSON text."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Deployment":
        """Read it back.

        Raises:
            Broken: ``bad_deployment``.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise Broken(f"The description of the deployment cannot be read: {error}", code="bad_deployment") from error


def load_deployment(data_dir: Path) -> Deployment | None:
    """The recorded deployment; None when nothing was deployed from this folder."""
    path = data_dir / DEPLOYMENT_FILE
    return Deployment.from_json(path.read_bytes()) if path.exists() else None


def deploy(
    chain: Chain,
    signer: Signer,
    data_dir: Path,
    *,
    origin: str,
    checkpoint_key: bytes,
    k_check: bytes,
    is_new_chain: bool = False,
    wait_s: float = 300.0,
) -> Deployment:
    """The deployment of this folder: what is recorded, checked, or a new one.

    It may be killed anywhere and started again: every chain_tx is on the disk before it is sent. On a development chain
    the well-known account pays; elsewhere the operator funds ``admin``, ``publisher`` and ``pauser``.

    Args:
        chain: where to.
        signer: holds the accounts admin, publisher and pauser.
        data_dir: holds ``deployment.json``.
        origin: the log's origin line.
        checkpoint_key: raw Ed25519 public key of the log, 32 bytes.
        k_check: check value of the goods key secret, 32 bytes.
        is_new_chain: the recorded chain is gone for good; keep its description aside and deploy again.
        wait_s: how long each step may take.

    Raises:
        WrongChain: another chain or other code than recorded, without ``is_new_chain``.
        Conflict: ``already_deployed``, ``admin_used``, ``other_contents``.
        Rejected: ``same_key`` when two accounts have one key.
        NoFunds: an account cannot pay.
        Unavailable: the chain is away or slow; start again to go on.
    """
    recorded = load_deployment(data_dir)
    if recorded is not None:
        try:
            check_deployment(chain, recorded)
        except WrongChain:
            if not is_new_chain:
                raise
            _put_aside(data_dir, recorded)
        else:
            if is_new_chain:
                raise Conflict(
                    "The recorded contracts stand on this very chain; there is nothing to start over.",
                    code="already_deployed",
                )
            asked = (origin, checkpoint_key.hex(), k_check.hex())
            if asked != (recorded.origin, recorded.checkpoint_key, recorded.k_check):
                raise Conflict(
                    "This folder's contracts were deployed for another log or goods key secret; a second deployment "
                    "is refused.",
                    code="already_deployed",
                )
            return recorded
    if len(checkpoint_key) != 32 or len(k_check) != 32:
        raise Rejected("The checkpoint key and the check value have 32 bytes each.", code="bad_key")
    deployment = _deploy(chain, signer, data_dir, origin, checkpoint_key, k_check, wait_s)
    save_deployment(data_dir, deployment)
    return deployment


def save_deployment(data_dir: Path, deployment: Deployment) -> None:
    """Write ``deployment.json`` whole or not at all."""
    replace_file(data_dir / DEPLOYMENT_FILE, deployment.to_json().encode())


def check_deployment(chain: Chain, deployment: Deployment) -> None:
    """Return if this is the recorded chain and it holds the recorded code.

    Raises:
        WrongChain: ``wrong_chain`` for another chain, ``wrong_code`` for other code or none.
        Unavailable: no answer.
    """
    chain.check_identity(chain_id=deployment.chain_id, genesis_hash=deployment.genesis_hash)
    for address, expected in deployment.code_hashes.items():
        if f"0x{keccak(chain.code(address)).hex()}" != expected:
            raise WrongChain(
                f"The code at {address} is not the recorded one. If the chain was started over, start once with "
                "--new-chain.",
                code="wrong_code",
            )


def _deploy(
    chain: Chain, signer: Signer, data_dir: Path, origin: str, checkpoint_key: bytes, k_check: bytes, wait_s: float
) -> Deployment:
    journal = data_dir / JOURNAL_FILE
    admin, publisher, pauser = (signer.address(name) for name in ("admin", "publisher", "pauser"))
    # Regulators and all others too: one key in two places would be one person in two roles.
    names = signer.names()
    if len({signer.address(name) for name in names}) != len(names):
        raise Rejected(
            "Two accounts have one key; admin, publisher, pauser and all others need their own.", code="same_key"
        )
    steps = InOrder(chain, signer, journal, wait_s=wait_s)
    if not steps.nonces().get("admin") and chain.nonce(admin) > 0:
        raise Conflict(
            f"The admin account {admin} has sent chain_txs before, but {DEPLOYMENT_FILE} is not here: put it back. A "
            "second deployment is refused.",
            code="admin_used",
        )
    if chain.is_development:
        signer.put("development", DEVELOPMENT_KEY)
        steps.run("fund admin", "development", admin, b"", value=ADMIN_WEI)
    for number in range(_CREATED * len(list(data_dir.glob("deployment.0x*.json")))):
        # An address follows from sender and nonce. Verifiers pin it, so that on a new chain it must be another one.
        steps.run(f"apart {number}", "admin", admin, b"")
    organisations = _create(steps, chain, "OrganisationRegistry", encode(["address"], [admin]))
    pledges = _create(
        steps, chain, "PledgeRegistry", encode(["address", "address", "bytes32"], [admin, organisations, k_check])
    )
    log_contract = _create(
        steps, chain, "TransparencyLog", encode(["address", "address", "address"], [admin, organisations, pledges])
    )
    _check_bound(chain, organisations, pledges, log_contract, k_check)
    if chain.is_development:
        for name, address in (("publisher", publisher), ("pauser", pauser)):
            steps.run(f"fund {name}", "admin", address, b"", value=ACCOUNT_WEI)
    log = TransparencyLogClient(chain, log_contract)
    steps.run("publisher", "admin", log_contract, log.set_publisher_call(publisher))
    for contract in (organisations, pledges, log_contract):
        steps.run(f"pauser of {contract}", "admin", contract, log.set_pauser_call(pauser))
    steps.run("log", "admin", log_contract, log.open_log_call(origin_hash(origin), checkpoint_key))
    opened = steps.finish()["log"]
    log_ids = [int.from_bytes(entry.topics[1]) for entry in opened.logs if entry.topics[0] == _LOG_OPENED]
    if len(log_ids) != 1:
        raise Broken("Opening the log left no trace on the chain.", code="wrong_code")
    return Deployment(
        chain_id=chain.chain_id,
        genesis_hash=chain.genesis_hash,
        organisations=organisations,
        pledges=pledges,
        log_contract=log_contract,
        log_id=log_ids[0],
        origin=origin,
        checkpoint_key=checkpoint_key.hex(),
        k_check=k_check.hex(),
        admin=admin,
        publisher=publisher,
        pauser=pauser,
        block=opened.block_number,
        code_hashes={a: f"0x{keccak(chain.code(a)).hex()}" for a in (organisations, pledges, log_contract)},
        nonces=steps.nonces(),
    )


def _create(steps: InOrder, chain: Chain, name: str, arguments: bytes) -> str:
    artifact = load_artifact(name)
    receipt = steps.run(f"create {name}", "admin", None, bytes.fromhex(artifact["bytecode"][2:]) + arguments)
    if receipt.contract is None:
        raise Broken(f"Creating {name} gave no address.", code="wrong_code")
    runtime = bytes.fromhex(artifact["runtime_bytecode"][2:])
    code = chain.code(receipt.contract)
    # The immutables follow the code; what they say is asked through the views.
    if code[: len(runtime)] != runtime or len(code) != len(runtime) + artifact["immutables_bytes"]:
        raise Broken(f"The code at {receipt.contract} is not {name}.", code="wrong_code")
    return receipt.contract


def _check_bound(chain: Chain, organisations: str, pledges: str, log_contract: str, k_check: bytes) -> None:
    log, registry = TransparencyLogClient(chain, log_contract), PledgeRegistryClient(chain, pledges)
    is_bound = (log.organisations(), log.pledges()) == (organisations, pledges)
    if not is_bound or registry.organisations() != organisations or registry.k_check() != k_check:
        raise Broken("The contracts are not bound to one another.", code="wrong_code")


def _put_aside(data_dir: Path, recorded: Deployment) -> None:
    name = f"deployment.0x{recorded.genesis_hash[2:14]}.{recorded.log_contract[2:10]}.json"
    os.replace(data_dir / DEPLOYMENT_FILE, data_dir / name)
    (data_dir / JOURNAL_FILE).unlink(missing_ok=True)
