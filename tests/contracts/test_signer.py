"""Keys in keystores and signatures that lead back to their account."""

import json
import stat
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_utils.crypto import keccak

from contracts.signer import Signer
from core.errors import Broken, Rejected

pytestmark = pytest.mark.unit

HALF = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
TX = {
    "chainId": 31337,
    "nonce": 7,
    "to": "0x" + "22" * 20,
    "value": 3,
    "data": b"\x01\x02",
    "gas": 50_000,
    "maxFeePerGas": 2_000,
    "maxPriorityFeePerGas": 100,
}


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    address = Signer(tmp_path).address("org-9521000000001")

    again = Signer(tmp_path)

    assert again.address("org-9521000000001") == address
    assert again.names() == ["org-9521000000001"]
    for name in ("org-9521000000001.keystore.json", "keystore.passphrase"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_keystore_opens_with_eth_account_and_its_passphrase(tmp_path: Path) -> None:
    address = Signer(tmp_path, "a passphrase").address("admin")

    keystore = json.loads((tmp_path / "admin.keystore.json").read_text())

    key = Account.decrypt(keystore, "a passphrase")
    assert Account.from_key(key).address.lower() == address
    assert keystore["crypto"]["kdfparams"]["n"] == 2**18
    with pytest.raises(Broken, match="passphrase"):
        Signer(tmp_path, "another").address("admin")


def test_a_signed_chain_tx_is_what_eth_account_signs_from_the_same_key(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    key = b"\x05" * 32
    signer.put("admin", key)

    raw = signer.sign_tx("admin", TX)

    theirs = Account.sign_transaction({**TX, "type": 2, "accessList": []}, key)
    assert raw == bytes(theirs.raw_transaction)
    assert Account.recover_transaction(raw).lower() == signer.address("admin")


def test_a_chain_tx_that_creates_a_contract_has_no_receiver(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    key = b"\x06" * 32
    signer.put("admin", key)

    raw = signer.sign_tx("admin", {**TX, "to": None})

    theirs = {name: value for name, value in TX.items() if name != "to"} | {"type": 2, "accessList": []}
    assert raw == bytes(Account.sign_transaction(theirs, key).raw_transaction)


def test_digest_signatures_have_low_s_and_recover_to_the_account(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    address = signer.address("org-1")

    for number in range(64):
        digest = keccak(bytes([number]))
        signature = signer.sign_digest("org-1", digest)

        assert len(signature) == 65
        assert int.from_bytes(signature[32:64]) <= HALF
        assert signature[64] in (27, 28)
        recovered = Signature(signature[:64] + bytes([signature[64] - 27])).recover_public_key_from_msg_hash(digest)
        assert recovered.to_address() == address


def test_typed_data_is_signed_as_eip_712_says(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    # EIP-712, "Test cases": Example.js of the standard, key keccak256("cow").
    signer.put("cow", keccak(b"cow"))
    typed = {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Person": [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}],
            "Mail": [
                {"name": "from", "type": "Person"},
                {"name": "to", "type": "Person"},
                {"name": "contents", "type": "string"},
            ],
        },
        "primaryType": "Mail",
        "domain": {
            "name": "Ether Mail",
            "version": "1",
            "chainId": 1,
            "verifyingContract": "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC",
        },
        "message": {
            "from": {"name": "Cow", "wallet": "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},
            "to": {"name": "Bob", "wallet": "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},
            "contents": "Hello, Bob!",
        },
    }

    signature = signer.sign_typed("cow", typed)

    assert signer.address("cow") == "0xcd2a3d9f938e13cd947ec05abc7fe734df8dd826"
    assert signature.hex() == (
        "4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d"
        "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b91562"
        "1c"
    )
    assert Account.recover_message(encode_typed_data(full_message=typed), signature=signature).lower() == (
        signer.address("cow")
    )


def test_bad_names_other_keys_damaged_files_and_odd_chain_txs_are_refused(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    signer.put("admin", b"\x05" * 32)

    for name in ("", "../admin", "Admin", "a" * 65, "a/b"):
        with pytest.raises(Rejected):
            signer.address(name)
    with pytest.raises(Rejected, match="another key"):
        signer.put("admin", b"\x06" * 32)
    with pytest.raises(Rejected):
        signer.sign_tx("admin", {**TX, "gasPrice": 1})
    with pytest.raises(Rejected):
        signer.sign_digest("admin", b"short")
    (tmp_path / "admin.keystore.json").write_text("{}")
    with pytest.raises(Broken):
        Signer(tmp_path).address("admin")
