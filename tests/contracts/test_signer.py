"""One behaviour on both back ends: keys in keystores and in a PKCS#11 token sign what leads back to their account."""

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_utils.crypto import keccak

from contracts.signer import KeystoreKeys, Signer, open_signer
from core.errors import Broken, Rejected, Unavailable
from tests.contracts.softhsm import Token, make_token

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


Open = Callable[[], Signer]


@pytest.fixture
def token() -> Token:
    """A SoftHSM token."""
    return make_token()


@pytest.fixture(params=[pytest.param("keystore", marks=pytest.mark.unit), "pkcs11"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens a signer again and again over the same keys; a fresh set for each test."""
    if request.param == "keystore":
        return lambda: Signer(tmp_path)
    found: Token = request.getfixturevalue("token")
    found.empty()
    return lambda: open_signer(tmp_path, module=found.module, token=found.label, pin_file=found.pin_file)


class TestSigner:
    """What every back end does."""

    def test_a_key_is_made_once_and_found_again(self, opened: Open) -> None:
        address = opened().address("org-9521000000001")

        again = opened()

        assert again.address("org-9521000000001") == address
        assert again.names() == ["org-9521000000001"]

    def test_names_have_keys_of_their_own(self, opened: Open) -> None:
        signer = opened()

        found = {signer.address(name) for name in ("admin", "publisher", "pauser", "regulator")}

        assert len(found) == 4
        assert signer.names() == ["admin", "pauser", "publisher", "regulator"]

    def test_a_signed_chain_tx_leads_back_to_its_account_by_eth_account(self, opened: Open) -> None:
        signer = opened()
        address = signer.address("publisher")

        for nonce in range(16):
            raw = signer.sign_tx("publisher", {**TX, "nonce": nonce})

            assert Account.recover_transaction(raw).lower() == address

    def test_a_given_key_is_kept_and_another_one_refused(self, opened: Open) -> None:
        signer = opened()

        address = signer.put("admin", b"\x05" * 32)

        assert address == Account.from_key(b"\x05" * 32).address.lower()
        assert signer.put("admin", b"\x05" * 32) == opened().address("admin") == address
        with pytest.raises(Rejected, match="another key") as raised:
            signer.put("admin", b"\x06" * 32)
        assert raised.value.code == "name_taken"
        assert opened().address("admin") == address

    def test_digest_signatures_have_low_s_and_recover_to_the_account(self, opened: Open) -> None:
        signer = opened()
        address = signer.address("org-1")

        for number in range(64):
            digest = keccak(bytes([number]))
            signature = signer.sign_digest("org-1", digest)

            assert len(signature) == 65
            assert int.from_bytes(signature[32:64]) <= HALF
            assert signature[64] in (27, 28)
            recovered = Signature(signature[:64] + bytes([signature[64] - 27])).recover_public_key_from_msg_hash(digest)
            assert recovered.to_address() == address

    def test_typed_data_is_signed_as_eip_712_says(self, opened: Open) -> None:
        signer = opened()
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
        assert Account.recover_message(encode_typed_data(full_message=typed), signature=signature).lower() == (
            signer.address("cow")
        )

    def test_bad_names_and_odd_chain_txs_are_refused(self, opened: Open) -> None:
        signer = opened()

        for name in ("", "../admin", "Admin", "a" * 65, "a/b"):
            with pytest.raises(Rejected):
                signer.address(name)
        with pytest.raises(Rejected):
            signer.sign_tx("admin", {**TX, "gasPrice": 1})
        with pytest.raises(Rejected):
            signer.sign_digest("admin", b"short")
        assert signer.names() == []


@pytest.mark.unit
def test_keystores_and_their_passphrase_are_for_their_owner_alone(tmp_path: Path) -> None:
    Signer(tmp_path).address("admin")

    for name in ("admin.keystore.json", "keystore.passphrase"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


@pytest.mark.unit
def test_the_keystore_opens_with_eth_account_and_its_passphrase(tmp_path: Path) -> None:
    address = Signer(tmp_path, "a passphrase").address("admin")

    keystore = json.loads((tmp_path / "admin.keystore.json").read_text())

    key = Account.decrypt(keystore, "a passphrase")
    assert Account.from_key(key).address.lower() == address
    assert keystore["crypto"]["kdfparams"]["n"] == 2**18
    with pytest.raises(Broken, match="passphrase"):
        Signer(tmp_path, "another").address("admin")


@pytest.mark.unit
def test_a_signed_chain_tx_is_what_eth_account_signs_from_the_same_key(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    key = b"\x05" * 32
    signer.put("admin", key)

    raw = signer.sign_tx("admin", TX)

    theirs = Account.sign_transaction({**TX, "type": 2, "accessList": []}, key)
    assert raw == bytes(theirs.raw_transaction)
    assert Account.recover_transaction(raw).lower() == signer.address("admin")


@pytest.mark.unit
def test_a_chain_tx_that_creates_a_contract_has_no_receiver(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    key = b"\x06" * 32
    signer.put("admin", key)

    raw = signer.sign_tx("admin", {**TX, "to": None})

    theirs = {name: value for name, value in TX.items() if name != "to"} | {"type": 2, "accessList": []}
    assert raw == bytes(Account.sign_transaction(theirs, key).raw_transaction)


@pytest.mark.unit
def test_a_keystore_signs_what_eip_712_prints_for_its_example(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    signer.put("cow", keccak(b"cow"))

    # EIP-712, "Test cases": the digest of Example.js and its signature.
    digest = bytes.fromhex("be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2")

    assert signer.sign_digest("cow", digest).hex() == (
        "4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d"
        "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b91562"
        "1c"
    )


@pytest.mark.unit
def test_a_damaged_keystore_is_refused(tmp_path: Path) -> None:
    Signer(tmp_path).address("admin")
    (tmp_path / "admin.keystore.json").write_text("{}")

    with pytest.raises(Broken):
        Signer(tmp_path).address("admin")


class Bent(KeystoreKeys):
    """A back end that signs in a way of its own."""

    bend: Callable[[bytes, bytes], bytes]

    def sign(self, name: str, digest: bytes) -> bytes:
        return self.bend(super().sign(name, digest), digest)


@pytest.mark.unit
def test_a_high_s_is_made_low_and_a_signature_that_leads_elsewhere_never_leaves(tmp_path: Path) -> None:
    keys = Bent(tmp_path)
    signer = Signer(tmp_path, keys=keys)
    digest = keccak(b"digest")
    honest = Signer(tmp_path).sign_digest("admin", digest)

    keys.bend = lambda made, _: made[:32] + (2 * HALF + 1 - int.from_bytes(made[32:])).to_bytes(32)
    assert signer.sign_digest("admin", digest) == honest

    other = Signer(tmp_path).sign_digest("pauser", digest)[:64]
    for wrong in (other, honest[:63], bytes(64), b"\xff" * 64, honest[:32] + bytes(32), honest[1:65]):
        keys.bend = lambda made, _, wrong=wrong: wrong
        with pytest.raises(Broken) as raised:
            signer.sign_digest("admin", digest)
        assert raised.value.code == "bad_signature"


def test_a_private_key_made_in_the_token_does_not_leave_it(tmp_path: Path, token: Token) -> None:
    token.empty()
    open_signer(tmp_path, module=token.module, token=token.label, pin_file=token.pin_file).address("admin")

    shown = token.attributes("admin")

    assert shown == {"SENSITIVE": True, "EXTRACTABLE": False, "ALWAYS_SENSITIVE": True, "NEVER_EXTRACTABLE": True}


def test_two_processes_make_one_key_of_a_name(tmp_path: Path, token: Token) -> None:
    token.empty()
    program = (
        "import sys; from pathlib import Path; from contracts.signer import open_signer;"
        "s = open_signer(Path(sys.argv[1]), module=sys.argv[2], token=sys.argv[3], pin_file=Path(sys.argv[4]));"
        "print(s.address('admin'))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path), token.module, token.label, str(token.pin_file)]
    root = Path(__file__).parents[2]
    children = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]

    said = [child.communicate(timeout=60)[0].strip() for child in children]

    assert said[0] == said[1]
    assert len(said[0]) == 42


def test_a_token_that_is_not_there_a_wrong_pin_and_missing_settings_are_refused(tmp_path: Path, token: Token) -> None:
    wrong_pin = tmp_path / "pin"
    wrong_pin.write_text("999999")
    good = {"module": token.module, "token": token.label, "pin_file": token.pin_file}

    # A process of its own: in this one the token may be open already, and a login is the process's.
    program = (
        "import sys; from pathlib import Path; from contracts.signer import open_signer\n"
        "try: open_signer(Path(sys.argv[1]), module=sys.argv[2], token=sys.argv[3], pin_file=Path(sys.argv[4]))\n"
        "except Exception as error: print(error.code)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), token.module, token.label, str(wrong_pin)],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert said.stdout.strip() == "bad_pin"
    for change, code in [
        ({"token": "nobody's"}, "no_token"),
        ({"module": str(tmp_path / "no.so")}, "no_pkcs11"),
        ({"token": ""}, "bad_setting"),
        ({"pin_file": None}, "bad_setting"),
        ({"pin_file": tmp_path / "none"}, "bad_setting"),
    ]:
        with pytest.raises(Rejected) as raised:
            open_signer(tmp_path, **{**good, **change})
        assert raised.value.code == code


def test_a_key_that_vanished_from_the_token_is_unavailable_and_never_made_anew(tmp_path: Path, token: Token) -> None:
    token.empty()
    signer = open_signer(tmp_path, module=token.module, token=token.label, pin_file=token.pin_file)
    signer.address("admin")
    token.empty()

    with pytest.raises(Unavailable):
        signer.sign_digest("admin", bytes(32))

    assert signer.names() == []


@pytest.mark.unit
def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    pin = tmp_path / "pin"
    pin.write_text("1234")

    with pytest.raises(Rejected, match=r"pip install 'tracebond\[hsm\]'") as raised:
        open_signer(tmp_path, module="/usr/lib/any.so", token="any", pin_file=pin)

    assert raised.value.code == "no_pkcs11"
