"""Chains: one behaviour for the built-in chain and for Anvil, and the built-in one survives kill -9."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from web3 import Web3

from contracts.chain import (
    DEVELOPMENT_ACCOUNT,
    DEVELOPMENT_KEY,
    Chain,
    FeeTooLow,
    MaybeSent,
    NoFunds,
    Reverted,
    WrongChain,
    revert_reason,
    to_address,
)
from contracts.clients import TransparencyLogClient
from contracts.opening import open_chain
from contracts.remote import RemoteChain
from contracts.signer import Signer
from core.errors import Broken, Rejected, Unavailable
from tests.chain_fixtures import ChainWorld, anvil_world, built_in_world
from tests.rpc_proxy import RpcProxy

ROOT = Path(__file__).parents[2]
SINK = "0x" + "11" * 20


@pytest.fixture(scope="module", params=["eth-tester", "anvil"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainWorld]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "eth-tester":
        yield built_in_world(folder)
        return
    with anvil_world(folder) as found:
        yield found


def transfer(
    chain: Chain, signer: Signer, *, name: str = "development", nonce: int | None = None, **more: Any
) -> bytes:
    fees = chain.fees()
    address = signer.address(name)
    tx = {
        "chainId": chain.chain_id,
        "nonce": chain.nonce(address) if nonce is None else nonce,
        "to": SINK,
        "value": 5,
        "data": b"",
        "gas": 21_000,
        "maxFeePerGas": fees.base * 2 + fees.priority,
        "maxPriorityFeePerGas": fees.priority,
    } | more
    return signer.sign_tx(name, tx)


def settled(world: ChainWorld, tx_hash: str) -> Any:
    for _ in range(400):
        receipt = world.chain.receipt(tx_hash)
        if receipt is not None:
            world.chain.settle(receipt.block_number)
            return receipt
    raise AssertionError("not mined")


def test_a_transfer_gives_a_receipt_in_a_block_of_the_chain(deployed: ChainWorld) -> None:
    chain, before = deployed.chain, deployed.chain.balance(SINK)
    raw = transfer(chain, deployed.signer)

    tx_hash = chain.send_raw(raw)

    receipt = settled(deployed, tx_hash)
    assert tx_hash == f"0x{keccak(raw).hex()}"
    assert receipt.is_success
    assert receipt.gas_used == 21_000
    assert chain.block_hash(receipt.block_number) == receipt.block_hash
    assert chain.balance(SINK) == before + 5
    assert receipt.block_number <= chain.final_block_number()
    assert chain.block(chain.block_number() + 1000) is None
    assert chain.receipt("0x" + "77" * 32) is None


def test_a_second_use_of_a_nonce_is_maybe_sent_and_a_poor_sender_has_no_funds(deployed: ChainWorld) -> None:
    chain, signer = deployed.chain, deployed.signer

    with pytest.raises(MaybeSent):
        chain.send_raw(transfer(chain, signer, nonce=0))
    with pytest.raises(NoFunds):
        chain.send_raw(transfer(chain, signer, name="poor", maxFeePerGas=10**12, maxPriorityFeePerGas=10**9))
    with pytest.raises((FeeTooLow, Rejected)):
        chain.send_raw(transfer(chain, signer, maxFeePerGas=0, maxPriorityFeePerGas=0))
    for junk in (b"", b"\x02", b"\x02\xc0", os.urandom(80), transfer(chain, signer, chainId=1)):
        with pytest.raises(Rejected):
            chain.send_raw(junk)


def test_a_contracts_refusal_is_a_conflict_with_its_own_word(deployed: ChainWorld) -> None:
    log = TransparencyLogClient(deployed.chain, deployed.deployment.log_contract)

    with pytest.raises(Reverted) as raised:
        deployed.chain.call(log.address, log.pause_call())
    assert (raised.value.reason, raised.value.code) == ("not pauser", "not_pauser")
    with pytest.raises(Reverted, match="not pauser"):
        deployed.chain.estimate_gas(DEVELOPMENT_ACCOUNT, log.address, log.pause_call())
    assert deployed.chain.call(log.address, log.pause_call(), sender=deployed.deployment.pauser) == b""


def test_calls_at_an_earlier_block_see_the_state_of_then(deployed: ChainWorld) -> None:
    log = TransparencyLogClient(deployed.chain, deployed.deployment.log_contract)

    assert log.log_count(block=deployed.deployment.block) == 1
    assert log.log_count(block=deployed.deployment.block - 1) == 0
    with pytest.raises(Unavailable):
        log.log_count(block=deployed.chain.block_number() + 10_000)


def test_gas_estimates_suffice(deployed: ChainWorld) -> None:
    log = TransparencyLogClient(deployed.chain, deployed.deployment.log_contract)
    data = log.anchor_call(0, prev_size=0, size=9, root=b"\x01" * 32, proof=[])
    publisher = deployed.deployment.publisher

    gas = deployed.chain.estimate_gas(publisher, log.address, data)

    raw = transfer(deployed.chain, deployed.signer, name="publisher", to=log.address, data=data, gas=gas, value=0)
    assert settled(deployed, deployed.chain.send_raw(raw)).is_success


def test_receipts_and_codes_agree_with_an_independent_reader(tmp_path: Path) -> None:
    with anvil_world(tmp_path) as world:
        assert world.anvil is not None
        other = Web3(Web3.HTTPProvider(world.anvil.url))
        receipt = world.chain.receipt(world.chain.send_raw(transfer(world.chain, world.signer)))
        for _ in range(100):
            receipt = receipt or world.chain.receipt(f"0x{other.eth.get_block('latest').transactions[0].hex()}")

        theirs = other.eth.get_transaction_receipt(receipt.tx_hash)  # type: ignore[union-attr]
        assert receipt is not None
        assert receipt.block_hash == f"0x{theirs['blockHash'].hex()}"
        assert receipt.gas_used == theirs["gasUsed"]
        address = Web3.to_checksum_address(world.deployment.pledges)
        assert world.chain.code(world.deployment.pledges) == bytes(other.eth.get_code(address))


def test_the_well_known_account_is_the_one_that_anvil_prints() -> None:
    assert Account.from_key(DEVELOPMENT_KEY).address.lower() == DEVELOPMENT_ACCOUNT


def test_a_closed_and_opened_chain_goes_on_where_it_was(tmp_path: Path) -> None:
    world = built_in_world(tmp_path)
    head, genesis = world.chain.block("latest"), world.chain.genesis_hash
    world.chain.close()

    again = open_chain(None, tmp_path, genesis_salt=b"another salt changes nothing now")

    assert again.block("latest") == head
    assert again.genesis_hash == genesis
    log = TransparencyLogClient(again, world.deployment.log_contract)
    assert log.log_at(0).checkpoint_key.hex() == world.deployment.checkpoint_key
    again.send_raw(transfer(again, world.signer))
    assert again.block_number() == (head.number if head else 0) + 1


def test_a_chain_started_over_is_another_chain(tmp_path: Path) -> None:
    one, two = open_chain(None, tmp_path / "a"), open_chain(None, tmp_path / "b")

    assert one.genesis_hash != two.genesis_hash
    with pytest.raises(WrongChain, match="--new-chain"):
        two.check_identity(chain_id=one.chain_id, genesis_hash=one.genesis_hash)


_WRITER = """
import sys
from pathlib import Path
from contracts.opening import open_chain
from contracts.signer import Signer
from tests.contracts.test_chain import transfer
folder = Path(sys.argv[1])
chain, signer = open_chain(None, folder), Signer(folder / "keys")
while True:
    print(chain.send_raw(transfer(chain, signer)), flush=True)
"""


def test_every_chain_tx_that_was_answered_survives_kill_minus_nine(tmp_path: Path) -> None:
    chain = open_chain(None, tmp_path)
    Signer(tmp_path / "keys").put("development", DEVELOPMENT_KEY)
    chain.close()
    answered: list[str] = []
    for round_number in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert child.stdout is not None
        answered.extend(child.stdout.readline().strip() for _ in range(8 + 5 * round_number))
        child.send_signal(signal.SIGKILL)
        child.wait()
        # What was printed before the kill counts too; half a line does not.
        answered.extend(line.strip() for line in child.stdout if line.endswith("\n"))
        child.stdout.close()

    again = open_chain(None, tmp_path)

    assert len(answered) >= 8 + 13 + 18
    receipts = [again.receipt(tx_hash) for tx_hash in answered]
    assert all(receipt is not None and receipt.is_success for receipt in receipts)
    assert len({receipt.block_number for receipt in receipts if receipt}) == len(answered)
    assert again.nonce(DEVELOPMENT_ACCOUNT) in (len(answered), len(answered) + 1, len(answered) + 2, len(answered) + 3)
    assert again.balance(SINK) == 5 * again.nonce(DEVELOPMENT_ACCOUNT)


def test_threads_may_read_while_another_sends(tmp_path: Path) -> None:
    world = built_in_world(tmp_path)
    log = TransparencyLogClient(world.chain, world.deployment.log_contract)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(30):
                assert log.log_count() == 1
                assert world.chain.block("latest") is not None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        world.chain.send_raw(transfer(world.chain, world.signer))
    for thread in threads:
        thread.join()

    assert failures == []


def test_two_openings_of_one_file_build_one_chain(tmp_path: Path) -> None:
    world = built_in_world(tmp_path)
    other = open_chain(None, tmp_path)
    start = other.block_number()

    for number in range(6):
        chain = (world.chain, other)[number % 2]
        chain.send_raw(transfer(chain, world.signer))

    assert world.chain.block("latest") == other.block("latest")
    assert other.block_number() == start + 6
    for number in range(start + 1, start + 7):
        block = other.block(number)
        assert block is not None
        assert block.parent_hash == other.block_hash(number - 1)


def test_a_node_that_is_away_or_speaks_nonsense_is_unavailable(tmp_path: Path) -> None:
    with anvil_world(tmp_path) as world:
        assert world.anvil is not None
        proxy = RpcProxy(world.anvil.url)
        chain = RemoteChain(proxy.url, finality_depth=2, timeout_s=1)
        assert chain.final_block_number() == chain.block_number() - 2
        proxy.lie = lambda method, params, result: "nonsense"
        for ask in (chain.block_number, chain.fees, lambda: chain.code(SINK), lambda: chain.receipt("0x" + "01" * 32)):
            with pytest.raises(Unavailable):
                ask()
        proxy.down = True
        with pytest.raises(Unavailable):
            chain.balance(SINK)
        proxy.calls.clear()
        with pytest.raises(Unavailable):
            chain.send_raw(b"\x02")
        # A chain_tx is handed over once; only reads are asked again.
        assert proxy.calls == ["eth_sendRawTransaction"]
        proxy.stop()
    with pytest.raises(Unavailable):
        open_chain(world.anvil.url, tmp_path, timeout_s=1)
    with pytest.raises(Broken):
        open_chain("ftp://example.org", tmp_path)


def test_reasons_are_read_from_what_contracts_return() -> None:
    # Solidity documentation, "Error handling": Error(string) "Not enough Ether provided."
    text = (
        "08c379a0"
        "0000000000000000000000000000000000000000000000000000000000000020"
        "000000000000000000000000000000000000000000000000000000000000001a"
        "4e6f7420656e6f7567682045746865722070726f76696465642e000000000000"
    )

    assert revert_reason(bytes.fromhex(text)) == "Not enough Ether provided."
    assert revert_reason(bytes.fromhex("4e487b71" + "11".rjust(64, "0"))) == "panic 17"
    assert revert_reason(b"") == ""
    assert Reverted("over capacity").code == "over_capacity"
    with pytest.raises(Rejected):
        to_address("0x123")
