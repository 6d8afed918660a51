"""Deployment: once, whole, resumable after a kill at any step, and refused when chain or code is another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from contracts.chain import Chain, NoFunds, WrongChain
from contracts.clients import OrganisationRegistryClient, PledgeRegistryClient, Role, TransparencyLogClient
from contracts.compiler import load_artifact
from contracts.deploy import DEPLOYMENT_FILE, Deployment, check_deployment, deploy, load_deployment
from contracts.opening import open_chain
from contracts.signer import Signer
from contracts.tester import BuiltInChain
from core.bundle import origin_hash
from core.errors import Broken, Conflict, Rejected
from tests.chain_fixtures import CHECKPOINT_KEY, K_CHECK, ORIGIN, ChainWorld, anvil_world, new_built_in_world


def run(chain: Chain, folder: Path, **more: Any) -> Deployment:
    settings: dict[str, Any] = {"origin": ORIGIN, "checkpoint_key": CHECKPOINT_KEY.public.raw, "k_check": K_CHECK}
    return deploy(chain, Signer(folder / "keys"), folder, **(settings | more))


@pytest.fixture(params=["eth-tester", "anvil"])
def deployed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChainWorld]:
    if request.param == "eth-tester":
        yield new_built_in_world(tmp_path)
        return
    with anvil_world(tmp_path) as found:
        yield found


def test_roles_bindings_and_log_are_as_asked(deployed: ChainWorld) -> None:
    found, chain, signer = deployed.deployment, deployed.chain, deployed.signer
    log = TransparencyLogClient(chain, found.log_contract)
    pledges = PledgeRegistryClient(chain, found.pledges)
    organisations = OrganisationRegistryClient(chain, found.organisations)

    head = log.log_at(found.log_id)

    assert (head.origin_hash, head.checkpoint_key) == (origin_hash(ORIGIN), CHECKPOINT_KEY.public.raw)
    assert (head.size, head.predecessor, head.is_frozen) == (0, None, False)
    assert (log.organisations(), log.pledges()) == (found.organisations, found.pledges)
    assert log.publisher() == signer.address("publisher") == found.publisher
    for client in (log, pledges, organisations):
        assert client.admin() == signer.address("admin")
        assert client.pauser() == signer.address("pauser")
        assert not client.paused()
    assert pledges.k_check() == K_CHECK
    assert len({found.admin, found.publisher, found.pauser}) == 3
    assert chain.code(found.log_contract).hex().startswith(load_artifact("TransparencyLog")["runtime_bytecode"][2:])


def test_one_key_in_two_roles_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    chain = open_chain(None, tmp_path, genesis_salt=b"test")
    signer = Signer(tmp_path / "keys")
    signer.put("publisher", b"\x07" * 32)
    signer.put("regulator", b"\x07" * 32)

    with pytest.raises(Rejected) as raised:
        run(chain, tmp_path)

    assert raised.value.code == "same_key"
    assert chain.block_number() == 0
    assert load_deployment(tmp_path) is None
    chain.close()


def test_the_contracts_of_a_new_chain_have_other_addresses_than_the_old_ones(tmp_path: Path) -> None:
    first = run(open_chain(None, tmp_path / "one", genesis_salt=b"one"), tmp_path)
    second = run(open_chain(None, tmp_path / "two", genesis_salt=b"two"), tmp_path, is_new_chain=True)
    third = run(open_chain(None, tmp_path / "three", genesis_salt=b"three"), tmp_path, is_new_chain=True)

    found = [{one.organisations, one.pledges, one.log_contract} for one in (first, second, third)]

    assert len(set.union(*found)) == 9


def test_a_second_deployment_gives_the_first_and_sends_nothing(deployed: ChainWorld) -> None:
    head = deployed.chain.block_number()

    again = run(deployed.chain, deployed.folder)

    assert again == deployed.deployment == load_deployment(deployed.folder)
    assert deployed.chain.block_number() == head


def test_a_deployment_for_another_log_or_without_its_file_is_refused(deployed: ChainWorld) -> None:
    head = deployed.chain.block_number()

    with pytest.raises(Conflict, match="second deployment"):
        run(deployed.chain, deployed.folder, origin="other.example/log")
    with pytest.raises(Conflict, match="nothing to start over"):
        run(deployed.chain, deployed.folder, is_new_chain=True)
    (deployed.folder / DEPLOYMENT_FILE).unlink()
    (deployed.folder / "deployment.steps.json").unlink()
    with pytest.raises(Conflict, match="second deployment"):
        run(deployed.chain, deployed.folder)
    assert deployed.chain.block_number() == head


class Killed(BaseException):
    """As by a signal: no handler of ours sees it."""


def test_a_kill_at_every_step_is_gone_on_from_without_a_second_contract(tmp_path: Path) -> None:
    whole = new_built_in_world(tmp_path / "whole")
    steps = whole.chain.block_number()
    for step in range(steps):
        # Before and after the send in turn, both for the first steps.
        for is_after in (False, True) if step < 3 else (step % 2 == 0,):
            folder = tmp_path / f"{step}-{is_after}"
            chain = open_chain(None, folder, genesis_salt=b"kill")
            assert isinstance(chain, BuiltInChain)
            real, count = chain.send_raw, 0

            def dying(raw: bytes, *, after: bool = is_after, at: int = step, send: Any = real) -> str:
                nonlocal count
                count += 1
                if count == at + 1 and not after:
                    raise Killed
                tx_hash = str(send(raw))
                if count == at + 1:
                    raise Killed
                return tx_hash

            chain.send_raw = dying  # type: ignore[method-assign]
            with pytest.raises(Killed):
                run(chain, folder)
            chain.close()
            again = open_chain(None, folder)

            found = run(again, folder)

            assert again.block_number() == steps
            assert TransparencyLogClient(again, found.log_contract).log_count() == 1
            again.close()


def test_another_chain_is_refused_with_the_name_of_the_switch(tmp_path: Path) -> None:
    world = new_built_in_world(tmp_path)
    world.chain.close()
    (tmp_path / "chain.db").unlink()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"chain.db{suffix}").unlink(missing_ok=True)
    other = open_chain(None, tmp_path)

    with pytest.raises(WrongChain, match="--new-chain") as raised:
        run(other, tmp_path)
    assert raised.value.code == "wrong_chain"
    assert other.block_number() == 0

    found = run(other, tmp_path, is_new_chain=True)
    assert found.genesis_hash == other.genesis_hash != world.deployment.genesis_hash
    assert run(other, tmp_path) == found
    assert len(list(tmp_path.glob("deployment.*.json"))) == 2


def test_other_code_at_a_recorded_address_is_refused(tmp_path: Path) -> None:
    with anvil_world(tmp_path) as world:
        check_deployment(world.chain, world.deployment)
        code = world.chain.code(world.deployment.pledges)
        # One byte of an immutable.
        changed = code[:-1] + bytes([code[-1] ^ 1])
        world.ask("anvil_setCode", world.deployment.pledges, f"0x{changed.hex()}")

        with pytest.raises(WrongChain, match="--new-chain") as raised:
            check_deployment(world.chain, world.deployment)

        assert raised.value.code == "wrong_code"
        assert world.deployment.code_hashes[world.deployment.pledges] == f"0x{keccak(code).hex()}"


def test_on_a_foreign_chain_the_operator_must_fund_the_admin(tmp_path: Path) -> None:
    with anvil_world(tmp_path / "a", "--chain-id", "31337") as world:
        chain = world.chain
        folder = tmp_path / "b"
        signer = Signer(folder / "keys")
        type(chain).is_development.fget  # noqa: B018 - the property exists

        class Foreign(type(chain)):  # type: ignore[misc]
            is_development = False

        chain.__class__ = Foreign
        with pytest.raises((NoFunds, Rejected)):
            run(chain, folder)
        world.ask("anvil_setBalance", signer.address("admin"), hex(10**20))

        assert run(chain, folder).admin == signer.address("admin")


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    world = new_built_in_world(tmp_path)
    (tmp_path / DEPLOYMENT_FILE).write_text('{"chain_id": 1}')

    with pytest.raises(Broken):
        run(world.chain, tmp_path)


def test_organisations_and_pledges_are_read_as_the_contracts_keep_them(deployed: ChainWorld) -> None:
    chain, signer, found = deployed.chain, deployed.signer, deployed.deployment
    organisations = OrganisationRegistryClient(chain, found.organisations)
    pledges = PledgeRegistryClient(chain, found.pledges)
    org, receipt = b"\x21" * 32, bytes.fromhex(found.publisher[2:]) + b"\x01" * 12
    account = signer.address("org-1")
    data = organisations.set_organisation_call(
        org, record_key=b"\x31" * 32, account=account, roles=Role.CUSTODIAN | Role.MAKER
    )
    fees = chain.fees()
    raw = signer.sign_tx(
        "admin",
        {
            "chainId": chain.chain_id, "nonce": chain.nonce(found.admin), "to": organisations.address, "value": 0,
            "data": data, "gas": 300_000, "maxFeePerGas": fees.base * 2 + fees.priority,
            "maxPriorityFeePerGas": fees.priority,
        },
    )  # fmt: skip
    tx_hash = chain.send_raw(raw)
    while chain.receipt(tx_hash) is None:
        pass

    version = organisations.current(org)

    assert version == organisations.organisation_at(org, 0)
    assert version is not None
    assert (version.record_key, version.account) == (b"\x31" * 32, account)
    assert version.roles == Role.CUSTODIAN | Role.MAKER
    assert organisations.version_count(org) == 1
    assert organisations.organisation_of(account) == org
    assert organisations.current_account(account) == account
    assert organisations.has_role(account, Role.MAKER)
    assert not organisations.has_role(account, Role.LENDER)
    assert organisations.current(b"\x22" * 32) is None
    assert organisations.organisation_of("0x" + "99" * 20) is None
    assert pledges.receipt_at(receipt).state == "none"
    assert pledges.pledge_of(receipt).state == "none"
    assert (pledges.capacity(b"\x01" * 32), pledges.claimed(b"\x01" * 32)) == (1, 0)
    assert pledges.holder(b"\x01" * 32) is None


def test_typed_pledge_data_has_the_hash_that_the_contract_makes(deployed: ChainWorld) -> None:
    from eth_account.messages import encode_typed_data

    pledges = PledgeRegistryClient(deployed.chain, deployed.deployment.pledges)
    receipt, lender, terms = b"\x44" * 32, "0x" + "55" * 20, b"\x66" * 32

    typed = pledges.typed_pledge(receipt, pledgee=lender, terms_hash=terms, nonce=0, deadline=99)

    message = encode_typed_data(full_message=typed)
    assert keccak(b"\x19" + message.version + message.header + message.body) == pledges.typed_hash(
        receipt, pledgee=lender, terms_hash=terms, deadline=99
    )
