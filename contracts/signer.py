"""Signatures of named Ethereum accounts, checked before they leave; keys in keystore files or in a PKCS#11 token."""

import json
import os
import re
import secrets
import threading
from pathlib import Path
from typing import Any, Protocol

import rlp
from coincurve import PrivateKey, PublicKey
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from contracts.chain import to_address
from core.errors import Broken, Rejected

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}\Z")
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_OWN_FILE = "keystore.passphrase"
# Scrypt slows down guessing. A passphrase of a person gets eth-account's usual cost; our own of 256 random bits cannot
# be guessed, and twenty accounts at a second each would keep everyone waiting.
_SCRYPT_PERSON = 2**18
_SCRYPT_RANDOM = 2**12
_TX_MEMBERS = {"chainId", "nonce", "to", "value", "data", "gas", "maxFeePerGas", "maxPriorityFeePerGas"}


class Keys(Protocol):
    """A back end: keeps secp256k1 keys under names and signs with them; what it gives is checked by :class:`Signer`."""

    def address(self, name: str) -> str:
        """The account's address; its key is made the first time."""

    def names(self) -> list[str]:
        """The accounts that have a key here, sorted."""

    def put(self, name: str, key: bytes) -> None:
        """Store a given key under a name that has none yet; a name that has one keeps it."""

    def sign(self, name: str, digest: bytes) -> bytes:
        """A 64-byte ``r || s`` over 32 bytes; s may be high."""


class Signer:
    """Signs for accounts by name: admin, publisher, pauser, regulator, org-<gln> and so on."""

    def __init__(self, folder: Path, passphrase: str | None = None, *, keys: Keys | None = None) -> None:
        """Sign with keystores in ``folder``, or with the keys of another back end.

        Args:
            folder: holds ``<name>.keystore.json``, mode 600, and, when no passphrase is given, a random one beside.
            passphrase: opens and locks the files.
            keys: another back end, see :func:`open_signer`.
        """
        self._keys: Keys = keys if keys is not None else KeystoreKeys(folder, passphrase)

    def address(self, name: str) -> str:
        """The account's address; its key is made the first time.

        Raises:
            Rejected: ``bad_name``.
            Broken: ``bad_keystore`` when the key is damaged or cannot be opened.
            Unavailable: the token that holds it is away.
        """
        return self._keys.address(checked_name(name))

    def names(self) -> list[str]:
        """The accounts that have a key here."""
        return self._keys.names()

    def put(self, name: str, key: bytes) -> str:
        """Store a given key under a name, once; gives its address.

        Raises:
            Rejected: ``name_taken`` by another key.
        """
        self._keys.put(checked_name(name), key)
        if self.address(name) != _address_of(PrivateKey(key).public_key.format(compressed=False)):
            raise Rejected(f"The account {name} has another key.", code="name_taken")
        return self.address(name)

    def sign_tx(self, name: str, tx: dict[str, Any]) -> bytes:
        """The raw bytes of an EIP-1559 chain_tx, checked to be this account's.

        Args:
            tx: chainId, nonce, to (0x hex, None to create a contract), value, data (bytes), gas, maxFeePerGas,
                maxPriorityFeePerGas.
        """
        if set(tx) != _TX_MEMBERS:
            raise Rejected(f"A chain_tx has exactly {', '.join(sorted(_TX_MEMBERS))}.", code="bad_chain_tx")
        to = bytes.fromhex(to_address(tx["to"])[2:]) if tx["to"] else b""
        fields = [
            tx["chainId"], tx["nonce"], tx["maxPriorityFeePerGas"], tx["maxFeePerGas"], tx["gas"], to, tx["value"],
            tx["data"], [],
        ]  # fmt: skip
        r, s, parity = self._sign(name, keccak(b"\x02" + rlp.encode(fields)))
        raw: bytes = b"\x02" + rlp.encode([*fields, parity, r, s])
        if Account.recover_transaction(raw).lower() != self.address(name):
            raise Broken("A signed chain_tx does not lead back to its sender.", code="bad_signature")
        return raw

    def sign_digest(self, name: str, digest: bytes) -> bytes:
        """A 65-byte ``r || s || v`` (v 27 or 28) over 32 bytes, as contracts check it."""
        if len(digest) != 32:
            raise Rejected("A digest has 32 bytes.", code="bad_digest")
        r, s, parity = self._sign(name, digest)
        return r.to_bytes(32) + s.to_bytes(32) + bytes([27 + parity])

    def sign_typed(self, name: str, typed: dict[str, Any]) -> bytes:
        """The same over EIP-712 typed data (members domain, types, primaryType, message)."""
        message = encode_typed_data(full_message=typed)
        return self.sign_digest(name, keccak(b"\x19" + message.version + message.header + message.body))

    def _sign(self, name: str, digest: bytes) -> tuple[int, int, int]:
        """r, low s and the parity; no signature leaves that does not lead back to the account."""
        address = self.address(name)
        signature = self._keys.sign(name, digest)
        if len(signature) != 64:
            raise Broken(f"The key of {name} gave a signature of another form.", code="bad_signature")
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        # A token knows nothing of Ethereum's rule (EIP-2) that only the lower of the two valid s counts.
        s = min(s, _ORDER - s)
        if not (0 < r < _ORDER and 0 < s <= _ORDER // 2):
            raise Broken(f"The key of {name} gave a signature out of range.", code="bad_signature")
        for parity in (0, 1):
            if _recovered(r, s, parity, digest) == address:
                return r, s, parity
        raise Broken(f"A signature by {name} does not lead back to its account.", code="bad_signature")


class KeystoreKeys:
    """Keys in encrypted keystore files, one for each account, in memory once opened."""

    def __init__(self, folder: Path, passphrase: str | None = None) -> None:
        """Keep keystores in ``folder``; see :class:`Signer`."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._scrypt = _SCRYPT_PERSON if passphrase else _SCRYPT_RANDOM
        self._passphrase = passphrase or _own_passphrase(folder / _OWN_FILE)
        self._keys: dict[str, PrivateKey] = {}
        self._addresses: dict[str, str] = {}
        self._lock = threading.Lock()

    def address(self, name: str) -> str:
        """The account's address; its keystore is made the first time."""
        self._key(name)
        return self._addresses[name]

    def names(self) -> list[str]:
        """The accounts that have a keystore here."""
        return sorted(path.name.removesuffix(".keystore.json") for path in self._folder.glob("*.keystore.json"))

    def put(self, name: str, key: bytes) -> None:
        """Write a given key's keystore unless the name has one."""
        with self._lock:
            path = self._path(name)
            if not path.exists():
                self._write(path, key)

    def sign(self, name: str, digest: bytes) -> bytes:
        """``r || s`` over 32 bytes, deterministic (RFC 6979)."""
        return self._key(name).sign_recoverable(digest, hasher=None)[:64]

    def _key(self, name: str) -> PrivateKey:
        with self._lock:
            if name in self._keys:
                return self._keys[name]
            path = self._path(name)
            if not path.exists():
                self._write(path, _new_key())
            key = PrivateKey(self._read(path))
            self._keys[name], self._addresses[name] = key, _address_of(key.public_key.format(compressed=False))
            return key

    def _path(self, name: str) -> Path:
        return self._folder / f"{checked_name(name)}.keystore.json"

    def _write(self, path: Path, key: bytes) -> None:
        keystore = Account.encrypt(key, self._passphrase, kdf="scrypt", iterations=self._scrypt)
        write_once(path, json.dumps(keystore).encode())

    def _read(self, path: Path) -> bytes:
        try:
            return bytes(Account.decrypt(json.loads(path.read_bytes()), self._passphrase))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Broken(
                f"The keystore {path.name} cannot be opened: damaged, or another passphrase.", code="bad_keystore"
            ) from error


def open_signer(
    folder: Path, passphrase: str | None = None, *, module: str = "", token: str = "", pin_file: Path | None = None
) -> Signer:
    """The signer over a PKCS#11 token when ``module`` names one, else over keystore files.

    Args:
        folder: of the keystores; with a token, of the file that keeps two processes from making one key twice.
        module: path of the PKCS#11 library; empty for keystores.
        token: label of the token in it.
        pin_file: holds the user's PIN, mode 600.

    Raises:
        Rejected: ``bad_setting``, ``no_pkcs11``, ``no_token``, ``bad_pin``.
        Unavailable: ``token_away``.
    """
    if not module:
        return Signer(folder, passphrase)
    from contracts.token_keys import TokenKeys

    return Signer(folder, keys=TokenKeys(folder, module=module, token=token, pin_file=pin_file))


def checked_name(name: str) -> str:
    """The name of an account, if it is one.

    Raises:
        Rejected: ``bad_name``.
    """
    if not _NAME.match(name):
        raise Rejected("An account's name has a-z, 0-9 and - only, begins with a letter, at most 64.", code="bad_name")
    return name


def _address_of(public: bytes) -> str:
    """The address of an uncompressed public key of 65 bytes."""
    return f"0x{keccak(public[1:])[-20:].hex()}"


def _recovered(r: int, s: int, parity: int, digest: bytes) -> str | None:
    try:
        public = PublicKey.from_signature_and_message(
            r.to_bytes(32) + s.to_bytes(32) + bytes([parity]), digest, hasher=None
        )
    except ValueError:
        # No point of the curve has this r with this parity.
        return None
    return _address_of(public.format(compressed=False))


def write_once(path: Path, data: bytes) -> None:
    """Put a file in place whole, mode 600 and on the disk; a file that is there already stays."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Bring a folder's names onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new_key() -> bytes:
    while True:
        key = secrets.token_bytes(32)
        if 0 < int.from_bytes(key) < _ORDER:
            return key


def _own_passphrase(path: Path) -> str:
    if not path.exists():
        write_once(path, secrets.token_hex(32).encode())
    return path.read_text("ascii").strip()
