"""PledgeRegistry: the atomic pledge over two EIP-712 signatures, and its ends."""

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from tests.contracts.harness import AnvilNode, refused
from tests.contracts.test_pledge_receipts import DELIVERED, PALLET, PLEDGED, SEALED, TIN
from tests.contracts.world import (
    ADMIN,
    CUSTODIAN,
    CUSTODIAN_ROLE,
    FIRST_BANK,
    LENDER_ROLE,
    NOBODY,
    ORG_OF,
    OTHER_CUSTODIAN,
    OTHER_OWNER,
    OWNER,
    PAUSER,
    REGULATOR,
    RETAILER_ROLE,
    SECOND_BANK,
    SECOND_SPARE,
    SPARE,
    STRANGER,
    ZERO,
    World,
    h,
    make_world,
    number,
)

TERMS = h("terms")
ACTIVE, ENFORCING, RELEASED, SETTLED = range(1, 5)
# The order of secp256k1 (SEC 2, section 2.4.1).
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
def receipt(world: World) -> bytes:
    return world.sealed(1, {PALLET: 1, TIN: 1})


def signed(
    world: World, receipt: bytes, deadline: int, *, bank: str = FIRST_BANK, nonce: int = 0
) -> tuple[bytes, bytes]:
    owner, custodian = (
        world.signature(signer, receipt, bank, TERMS, deadline=deadline, nonce=nonce) for signer in (OWNER, CUSTODIAN)
    )
    return owner, custodian


# ------------------------------------------------------------------------ the happy way


def test_a_pledge_binds_the_receipt_to_one_lender(world: World, receipt: bytes) -> None:
    deadline = world.node.now() + 3600

    mined = world.pledges.pledge(receipt, TERMS, deadline, *signed(world, receipt, deadline), sender=FIRST_BANK)

    assert mined.events == [("Pledged", {"receipt": receipt, "pledgee": FIRST_BANK, "terms_hash": TERMS, "nonce": 0})]
    assert world.pledges.pledge_of(receipt) == (FIRST_BANK, TERMS, ACTIVE, 1)
    assert world.pledges.receipt_at(receipt)[3] == PLEDGED
    assert world.pledges.nonce_of(receipt) == 1


def test_no_second_lender_while_a_pledge_lives(world: World, receipt: bytes) -> None:
    world.pledge(receipt, FIRST_BANK)

    for nonce in (0, 1):
        for bank in (SECOND_BANK, FIRST_BANK):
            with refused("pledged", world.pledges):
                world.pledge(receipt, bank, nonce=nonce)
    world.pledges.enforce(receipt, sender=FIRST_BANK)
    with refused("pledged", world.pledges):
        world.pledge(receipt, SECOND_BANK, nonce=1)

    assert world.pledges.pledge_of(receipt)[0] == FIRST_BANK


def test_pledged_goods_stay_in_the_warehouse(world: World, receipt: bytes) -> None:
    world.pledge(receipt)

    for name in ("cancel", "deliver"):
        with refused("pledged", world.pledges):
            getattr(world.pledges, name)(receipt, sender=CUSTODIAN)
    with refused("over capacity", world.pledges):
        world.pledges.register(number(2), OWNER, [TIN], [1], sender=CUSTODIAN)


def test_a_released_receipt_is_pledged_anew_with_the_next_nonce(world: World, receipt: bytes) -> None:
    deadline = world.node.now() + 3600
    old = signed(world, receipt, deadline)
    world.pledges.pledge(receipt, TERMS, deadline, *old, sender=FIRST_BANK)

    mined = world.pledges.release(receipt, sender=FIRST_BANK)

    assert mined.events == [("Released", {"receipt": receipt, "pledgee": FIRST_BANK})]
    assert world.pledges.pledge_of(receipt) == (FIRST_BANK, TERMS, RELEASED, 1)
    assert world.pledges.receipt_at(receipt)[3] == SEALED
    with refused("bad owner signature", world.pledges):
        world.pledges.pledge(receipt, TERMS, deadline, *old, sender=FIRST_BANK)
    world.pledge(receipt, SECOND_BANK, nonce=1)
    assert world.pledges.pledge_of(receipt) == (SECOND_BANK, TERMS, ACTIVE, 2)


def test_a_released_receipt_can_be_delivered(world: World, receipt: bytes) -> None:
    world.pledge(receipt)
    world.pledges.release(receipt, sender=FIRST_BANK)

    world.pledges.deliver(receipt, sender=CUSTODIAN)

    assert world.pledges.claimed(TIN) == 0
    with refused("not sealed", world.pledges):
        world.pledge(receipt, nonce=1)


# ------------------------------------------------------------------------ who and when


def test_only_a_lender_pledges(world: World, receipt: bytes) -> None:
    for sender in (OWNER, CUSTODIAN, ADMIN, REGULATOR, STRANGER):
        with refused("not lender", world.pledges):
            world.pledge(receipt, sender)


def test_a_lender_whose_role_was_taken_cannot_pledge_but_can_release(world: World, receipt: bytes) -> None:
    other = world.sealed(2, {h("second pallet"): 1})
    world.pledge(receipt, FIRST_BANK)
    world.organisations.set_organisation(ORG_OF[FIRST_BANK], h("key"), FIRST_BANK, 0, sender=ADMIN)

    with refused("not lender", world.pledges):
        world.pledge(other, FIRST_BANK)
    world.pledges.release(receipt, sender=FIRST_BANK)

    assert world.pledges.pledge_of(receipt)[2] == RELEASED


def test_another_bank_that_sees_the_signatures_cannot_use_them(world: World, receipt: bytes) -> None:
    """A front-runner copies the call out of the pool; the pledge is still the first bank's to make."""
    deadline = world.node.now() + 3600
    signatures = signed(world, receipt, deadline, bank=FIRST_BANK)

    with refused("bad owner signature", world.pledges):
        world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=SECOND_BANK)

    world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=FIRST_BANK)


def test_of_two_banks_with_good_signatures_the_first_wins(world: World, receipt: bytes) -> None:
    world.pledge(receipt, SECOND_BANK)

    with refused("pledged", world.pledges):
        world.pledge(receipt, FIRST_BANK)


def test_the_deadline_is_the_last_second_that_counts(world: World, receipt: bytes) -> None:
    deadline = world.node.now() + 1000
    signatures = signed(world, receipt, deadline)
    mark = world.node.snapshot()
    world.node.next_block_at(deadline + 1)
    with refused("too late", world.pledges):
        world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=FIRST_BANK)
    world.node.revert(mark)

    world.node.next_block_at(deadline)
    world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=FIRST_BANK)

    assert world.node.now() == deadline


@pytest.mark.parametrize("deadline", [0, 1, 1_000_000_000])
def test_a_deadline_in_the_past_is_refused(world: World, receipt: bytes, deadline: int) -> None:
    with refused("too late", world.pledges):
        world.pledges.pledge(receipt, TERMS, deadline, *signed(world, receipt, deadline), sender=FIRST_BANK)


def test_only_a_sealed_receipt_is_pledged(world: World) -> None:
    world.pledges.register(number(2), OWNER, [TIN], [1], sender=CUSTODIAN)

    for receipt in (number(2), number(3), ZERO):
        with refused("not sealed", world.pledges):
            world.pledge(receipt)
    world.pledges.cancel(number(2), sender=CUSTODIAN)
    with refused("not sealed", world.pledges):
        world.pledge(number(2))


def test_terms_are_needed(world: World, receipt: bytes) -> None:
    with refused("no terms", world.pledges):
        world.pledge(receipt, terms=ZERO)


# -------------------------------------------------------------------------- signatures


def test_the_typed_hash_is_that_of_eth_account(world: World, receipt: bytes) -> None:
    """Domain, struct and final hash against an implementation that is not ours."""
    message = encode_typed_data(
        domain_data={
            "name": "Tracebond PledgeRegistry",
            "version": "1",
            "chainId": world.node.chain_id(),
            "verifyingContract": world.pledges.address,
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
            "pledgee": FIRST_BANK,
            "termsHash": TERMS,
            "nonce": 0,
            "deadline": 2**40,
        },
    )

    assert world.pledges.DOMAIN_SEPARATOR() == message.header
    assert world.pledges.typed_hash(receipt, FIRST_BANK, TERMS, 2**40) == keccak(
        b"\x19\x01" + message.header + message.body
    )


def test_the_typed_hash_counts_the_pledges(world: World, receipt: bytes) -> None:
    before = world.pledges.typed_hash(receipt, FIRST_BANK, TERMS, 2**40)

    world.pledge(receipt)

    assert world.pledges.typed_hash(receipt, FIRST_BANK, TERMS, 2**40) != before


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("signer", [STRANGER, FIRST_BANK, ADMIN, OTHER_OWNER, OTHER_CUSTODIAN, "other party"])
def test_the_signature_of_anybody_else_is_refused(world: World, receipt: bytes, place: int, signer: str) -> None:
    deadline = world.node.now() + 3600
    if signer == "other party":
        signer = (CUSTODIAN, OWNER)[place]
    signatures = list(signed(world, receipt, deadline))
    signatures[place] = world.signature(signer, receipt, FIRST_BANK, TERMS, deadline=deadline)

    with refused(("bad owner signature", "bad custodian signature")[place], world.pledges):
        world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=FIRST_BANK)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("field", ["receipt", "pledgee", "terms", "deadline", "nonce", "chain_id", "contract"])
def test_a_signature_over_anything_else_is_refused(world: World, receipt: bytes, place: int, field: str) -> None:
    deadline = world.node.now() + 3600
    changed: dict[str, object] = {
        "receipt": number(2),
        "pledgee": SECOND_BANK,
        "terms": h("other terms"),
        "deadline": deadline + 1,
        "nonce": 1,
        "chain_id": world.node.chain_id() + 1,
        "contract": world.log.address,
    }
    values = {"receipt": receipt, "pledgee": FIRST_BANK, "terms": TERMS, "deadline": deadline}
    values[field] = changed[field]  # type: ignore[assignment]
    signatures = list(signed(world, receipt, deadline))
    signatures[place] = world.signature((OWNER, CUSTODIAN)[place], **values)  # type: ignore[arg-type]

    with refused(("bad owner signature", "bad custodian signature")[place], world.pledges):
        world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=FIRST_BANK)


def _forms(good: bytes) -> dict[str, bytes]:
    r, s, v = good[:32], int.from_bytes(good[32:64], "big"), good[64]
    twin = r + (ORDER - s).to_bytes(32, "big") + bytes([55 - v])
    return {
        "high s": twin,
        "high s with the same v": twin[:64] + good[64:],
        "v 0 or 1": good[:64] + bytes([v - 27]),
        "the other v": good[:64] + bytes([55 - v]),
        "v 29": good[:64] + b"\x1d",
        "v 255": good[:64] + b"\xff",
        "r of zero": bytes(32) + good[32:],
        "s of zero": good[:32] + bytes(32) + good[64:],
        "r of the order": ORDER.to_bytes(32, "big") + good[32:],
        "all zero": bytes(65),
        "empty": b"",
        "compact": good[:64],
        "one byte": b"\x1b",
        "flipped bit": bytes([good[0] ^ 1]) + good[1:],
    }


@pytest.mark.parametrize("place", [0, 1])
def test_every_other_form_of_a_signature_is_refused(world: World, receipt: bytes, place: int) -> None:
    deadline = world.node.now() + 3600
    signatures = list(signed(world, receipt, deadline))
    good = signatures[place]
    assert int.from_bytes(good[32:64], "big") <= ORDER // 2

    for form in _forms(good).values():
        signatures[place] = form
        with refused(("bad owner signature", "bad custodian signature")[place], world.pledges):
            world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=FIRST_BANK)

    signatures[place] = good + b"\x00"
    data = world.pledges.calldata("pledge", receipt, TERMS, deadline, *signatures)
    assert world.node.send(FIRST_BANK, world.pledges.address, data)["status"] == 0
    signatures[place] = good
    world.pledges.pledge(receipt, TERMS, deadline, *signatures, sender=FIRST_BANK)


@pytest.mark.parametrize(("s", "is_taken"), [(ORDER // 2, True), (ORDER // 2 + 1, False)])
def test_the_largest_low_s_is_taken_and_the_next_is_not(world: World, receipt: bytes, s: int, is_taken: bool) -> None:
    """Every r and s is somebody's signature: whoever it recovers to becomes the owner's account."""
    deadline = world.node.now() + 3600
    digest = world.pledges.typed_hash(receipt, FIRST_BANK, TERMS, deadline)
    custodian_sig = signed(world, receipt, deadline)[1]
    form = custodian_sig[:32] + s.to_bytes(32, "big") + b"\x1b"
    account = Account._recover_hash(digest, signature=form)
    world.organisations.set_organisation(ORG_OF[OWNER], h("key"), account, RETAILER_ROLE, sender=ADMIN)

    if is_taken:
        world.pledges.pledge(receipt, TERMS, deadline, form, custodian_sig, sender=FIRST_BANK)
    else:
        with refused("bad owner signature", world.pledges):
            world.pledges.pledge(receipt, TERMS, deadline, form, custodian_sig, sender=FIRST_BANK)


def test_the_owner_with_a_new_key_signs_and_the_old_key_does_not(world: World, receipt: bytes) -> None:
    world.organisations.set_organisation(ORG_OF[OWNER], h("key"), SPARE, RETAILER_ROLE, sender=ADMIN)
    with refused("bad owner signature", world.pledges):
        world.pledge(receipt)

    world.pledge(receipt, owner=SPARE)

    assert world.pledges.receipt_at(receipt)[1] == OWNER


def test_the_custodian_with_a_new_key_signs_and_the_old_key_does_not(world: World, receipt: bytes) -> None:
    world.organisations.set_organisation(ORG_OF[CUSTODIAN], h("key"), SPARE, CUSTODIAN_ROLE, sender=ADMIN)
    with refused("bad custodian signature", world.pledges):
        world.pledge(receipt)

    world.pledge(receipt, custodian=SPARE)


def test_an_owner_without_an_account_signs_nothing(world: World, receipt: bytes) -> None:
    world.organisations.set_organisation(ORG_OF[OWNER], h("key"), NOBODY, RETAILER_ROLE, sender=ADMIN)
    deadline = world.node.now() + 3600

    for form in (signed(world, receipt, deadline)[0], bytes(65), b"\x01" * 64 + b"\x1b"):
        with refused("bad owner signature", world.pledges):
            world.pledges.pledge(receipt, TERMS, deadline, form, signed(world, receipt, deadline)[1], sender=FIRST_BANK)


def test_a_custodian_without_its_role_signs_nothing(world: World, receipt: bytes) -> None:
    world.organisations.set_organisation(ORG_OF[CUSTODIAN], h("key"), CUSTODIAN, 0, sender=ADMIN)

    with refused("not custodian", world.pledges):
        world.pledge(receipt)


def test_a_signature_counts_on_its_own_chain_after_a_split_of_the_chain() -> None:
    """The separator follows the chain id, so a fork's pledges cannot be replayed here, nor ours there."""
    node = AnvilNode("--chain-id", "7001")
    try:
        world = make_world(node)
        receipt = world.sealed(1, {PALLET: 1})
        before = world.pledges.DOMAIN_SEPARATOR()
        deadline = node.now() + 3600
        old = signed(world, receipt, deadline)
        node.ask("anvil_setChainId", 7002)

        assert node.chain_id() == 7002
        assert world.pledges.DOMAIN_SEPARATOR() != before
        # Asked and not sent: Anvil's own accounts go on signing for the old chain id.
        with refused("bad owner signature"):
            world.pledges.ask("pledge", receipt, TERMS, deadline, *old, sender=FIRST_BANK)
        new = signed(world, receipt, deadline)
        world.pledges.ask("pledge", receipt, TERMS, deadline, *new, sender=FIRST_BANK)

        node.ask("anvil_setChainId", 7001)
        assert world.pledges.DOMAIN_SEPARATOR() == before
        with refused("bad owner signature"):
            world.pledges.ask("pledge", receipt, TERMS, deadline, *new, sender=FIRST_BANK)
        world.pledges.pledge(receipt, TERMS, deadline, *old, sender=FIRST_BANK)
    finally:
        node.stop()


# ---------------------------------------------------------- release, enforce, cure, settle


def test_only_the_pledgee_ends_its_pledge(world: World, receipt: bytes) -> None:
    world.pledge(receipt, FIRST_BANK)

    for sender in (SECOND_BANK, OWNER, CUSTODIAN, ADMIN, PAUSER, REGULATOR, STRANGER):
        for name in ("release", "enforce", "cure", "settle"):
            with refused("not pledgee", world.pledges):
                getattr(world.pledges, name)(receipt, sender=sender)

    world.pledges.release(receipt, sender=FIRST_BANK)


def test_not_even_the_admin_puts_another_account_in_the_lenders_place(world: World, receipt: bytes) -> None:
    world.pledge(receipt, FIRST_BANK)

    world.organisations.set_organisation(ORG_OF[FIRST_BANK], h("key"), SPARE, LENDER_ROLE, sender=ADMIN)

    with refused("not pledgee", world.pledges):
        world.pledges.release(receipt, sender=SPARE)
    world.pledges.release(receipt, sender=FIRST_BANK)


def test_there_is_nothing_to_end_without_a_live_pledge(world: World, receipt: bytes) -> None:
    for name in ("release", "enforce", "cure", "settle"):
        with refused("not pledged", world.pledges):
            getattr(world.pledges, name)(receipt, sender=FIRST_BANK)
    world.pledge(receipt)
    world.pledges.release(receipt, sender=FIRST_BANK)

    for name in ("release", "enforce", "cure", "settle"):
        with refused("not pledged", world.pledges):
            getattr(world.pledges, name)(receipt, sender=FIRST_BANK)


def test_enforcement_begins_is_cured_and_begins_again(world: World, receipt: bytes) -> None:
    world.pledge(receipt)
    for name in ("cure", "settle"):
        with refused("not enforcing", world.pledges):
            getattr(world.pledges, name)(receipt, sender=FIRST_BANK)

    begun = world.pledges.enforce(receipt, sender=FIRST_BANK)
    assert world.pledges.pledge_of(receipt) == (FIRST_BANK, TERMS, ENFORCING, 1)
    assert world.pledges.receipt_at(receipt)[3] == PLEDGED
    with refused("enforcing", world.pledges):
        world.pledges.enforce(receipt, sender=FIRST_BANK)
    cured = world.pledges.cure(receipt, sender=FIRST_BANK)

    assert world.pledges.pledge_of(receipt) == (FIRST_BANK, TERMS, ACTIVE, 1)
    world.pledges.enforce(receipt, sender=FIRST_BANK)
    world.pledges.release(receipt, sender=FIRST_BANK)
    assert [begun.events[0][0], cured.events[0][0]] == ["EnforcementBegun", "Cured"]


def test_settled_goods_are_delivered_and_never_pledged_again(world: World, receipt: bytes) -> None:
    world.pledge(receipt)
    world.pledges.enforce(receipt, sender=FIRST_BANK)

    mined = world.pledges.settle(receipt, sender=FIRST_BANK)

    assert mined.events == [("Settled", {"receipt": receipt, "pledgee": FIRST_BANK})]
    assert world.pledges.pledge_of(receipt) == (FIRST_BANK, TERMS, SETTLED, 1)
    assert world.pledges.claimed(TIN) == 1
    with refused("settled", world.pledges):
        world.pledge(receipt, SECOND_BANK, nonce=1)
    with refused("settled", world.pledges):
        world.pledges.split(receipt, number(9), [TIN], [1], sender=CUSTODIAN)
    with refused("not pledged", world.pledges):
        world.pledges.release(receipt, sender=FIRST_BANK)
    world.pledges.deliver(receipt, sender=CUSTODIAN)
    assert world.pledges.receipt_at(receipt)[3] == DELIVERED


def test_a_lender_may_be_a_contract_but_a_signature_is_by_a_key(world: World) -> None:
    """An owner whose account holds code cannot be asked: no code but the registry's is ever called."""
    world.organisations.set_organisation(h("vault"), h("key"), world.log.address, RETAILER_ROLE, sender=ADMIN)
    receipt = number(1)
    world.pledges.register(receipt, world.log.address, [TIN], [1], sender=CUSTODIAN)
    world.pledges.seal(receipt, sender=CUSTODIAN)

    with refused("bad owner signature", world.pledges):
        world.pledge(receipt, owner=SECOND_SPARE)


def test_eth_account_recovers_the_signer_from_the_contracts_own_hash(world: World, receipt: bytes) -> None:
    deadline = world.node.now() + 3600
    digest = world.pledges.typed_hash(receipt, FIRST_BANK, TERMS, deadline)

    for signer, signature in zip((OWNER, CUSTODIAN), signed(world, receipt, deadline), strict=True):
        assert Account._recover_hash(digest, signature=signature) == signer
