"""Ethereum keys that never leave a PKCS#11 token: an HSM in production, SoftHSM2 in the tests.

The key pairs are made inside the token (CKM_EC_KEY_PAIR_GEN on secp256k1), sensitive and not extractable, under the
account's name as label; CKM_ECDSA signs the 32-byte digest. Source: PKCS #11 version 2.40 and 3.0, OASIS.
"""

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from coincurve import PrivateKey
from eth_utils.crypto import keccak

from core.errors import Broken, Rejected, TracebondError, Unavailable

# SEC 2, section 2.4.1: secp256k1 is the curve 1.3.132.0.10, here as a DER object identifier.
SECP256K1 = bytes.fromhex("06052b8104000a")
_LOCK_FILE = "token.lock"
_POINT_BYTES = 65
_Result = TypeVar("_Result")


class TokenKeys:
    """Keys in one token, by label."""

    def __init__(self, folder: Path, *, module: str, token: str, pin_file: Path | None) -> None:
        """Open the token and log in.

        Args:
            folder: keeps a lock file, so that two processes do not make one account's key twice.
            module: path of the PKCS#11 library.
            token: the token's label.
            pin_file: holds the user's PIN.

        Raises:
            Rejected: ``bad_setting``, ``no_pkcs11``, ``no_token``, ``bad_pin``.
            Unavailable: ``token_away``.
        """
        if not token or pin_file is None:
            raise Rejected(
                "A PKCS#11 module needs the token's label and the file with its PIN: set TRACEBOND_PKCS11_TOKEN and "
                "TRACEBOND_PKCS11_PIN_FILE.",
                code="bad_setting",
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._pkcs11 = _library()
        self._lock_file = folder / _LOCK_FILE
        self._module, self._token, self._pin = module, token, _read_pin(pin_file)
        self._lock = threading.RLock()
        self._session: Any = None
        self._addresses: dict[str, str] = {}
        self._ask(lambda session: None)

    def address(self, name: str) -> str:
        """The account's address; its key pair is made in the token the first time."""
        with self._lock:
            if name not in self._addresses:
                point = self._ask(lambda session: self._public(session, name))
                if point is None:
                    with self._alone():
                        point = self._ask(lambda session: self._public(session, name) or self._make(session, name))
                self._addresses[name] = f"0x{keccak(point[1:])[-20:].hex()}"
            return self._addresses[name]

    def names(self) -> list[str]:
        """The labels of the token's secp256k1 keys."""
        attribute, found = self._pkcs11.Attribute, self._pkcs11.ObjectClass.PUBLIC_KEY
        query = {attribute.CLASS: found, attribute.EC_PARAMS: SECP256K1}
        return self._ask(lambda session: sorted({str(key.label) for key in session.get_objects(query)}))

    def put(self, name: str, key: bytes) -> None:
        """Store a given key in the token unless the name has one; tokens that take none refuse.

        Raises:
            Rejected: ``no_import``.
        """
        with self._lock, self._alone():
            self._ask(lambda session: self._public(session, name) or self._import(session, name, key))

    def sign(self, name: str, digest: bytes) -> bytes:
        """``r || s`` over 32 bytes, made in the token."""
        pkcs11 = self._pkcs11
        self.address(name)

        def sign(session: Any) -> bytes:
            private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=name)
            return bytes(private.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))

        return self._ask(sign)

    def _public(self, session: Any, name: str) -> bytes | None:
        """The uncompressed public point of an account, None when the token has no such key."""
        attribute = self._pkcs11.Attribute
        query = {attribute.CLASS: self._pkcs11.ObjectClass.PUBLIC_KEY, attribute.LABEL: name}
        found = list(session.get_objects(query))
        if not found:
            return None
        if len(found) > 1 or found[0][attribute.EC_PARAMS] != SECP256K1:
            raise Broken(
                f"The token {self._token} has several keys called {name}, or one of another curve; leave one alone.",
                code="bad_keystore",
            )
        return _point(bytes(found[0][attribute.EC_POINT]))

    def _make(self, session: Any, name: str) -> bytes:
        pkcs11 = self._pkcs11
        attribute = pkcs11.Attribute
        domain = session.create_domain_parameters(pkcs11.KeyType.EC, {attribute.EC_PARAMS: SECP256K1}, local=True)
        public, _ = domain.generate_keypair(
            store=True,
            label=name,
            id=name.encode(),
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            private_template={attribute.SENSITIVE: True, attribute.EXTRACTABLE: False},
        )
        return _point(bytes(public[attribute.EC_POINT]))

    def _import(self, session: Any, name: str, key: bytes) -> bytes:
        attribute, kind = self._pkcs11.Attribute, self._pkcs11.ObjectClass
        point = PrivateKey(key).public_key.format(compressed=False)
        common = {
            attribute.KEY_TYPE: self._pkcs11.KeyType.EC,
            attribute.TOKEN: True,
            attribute.LABEL: name,
            attribute.ID: name.encode(),
            attribute.EC_PARAMS: SECP256K1,
        }
        private = {attribute.CLASS: kind.PRIVATE_KEY, attribute.VALUE: key, attribute.SIGN: True}
        private |= {attribute.PRIVATE: True, attribute.SENSITIVE: True, attribute.EXTRACTABLE: False}
        public = {attribute.CLASS: kind.PUBLIC_KEY, attribute.EC_POINT: b"\x04\x41" + point, attribute.VERIFY: True}
        try:
            session.create_object(common | private)
            session.create_object(common | public)
        except self._pkcs11.exceptions.PKCS11Error as error:
            raise Rejected(f"The token does not take the key of {name} from outside.", code="no_import") from error
        return point

    def _ask(self, work: Callable[[Any], _Result]) -> _Result:
        """Do something with the open session; after an error of the token the next call opens it anew."""
        with self._lock:
            try:
                if self._session is None:
                    self._session = self._open()
                return work(self._session)
            except TracebondError:
                raise
            except (self._pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
                self._session = None
                raise Unavailable(
                    f"The token {self._token} does not answer: {type(error).__name__}.", code="token_away"
                ) from error

    def _open(self) -> Any:
        errors = self._pkcs11.exceptions
        try:
            token = self._pkcs11.lib(self._module).get_token(token_label=self._token)
        except (errors.NoSuchToken, errors.MultipleTokensReturned) as error:
            raise Rejected(
                f"The PKCS#11 module has no token {self._token}, or several; check TRACEBOND_PKCS11_TOKEN.",
                code="no_token",
            ) from error
        except (errors.PKCS11Error, RuntimeError, OSError) as error:
            raise Rejected(
                f"{self._module} cannot be used as PKCS#11 module; check TRACEBOND_PKCS11_MODULE.", code="no_pkcs11"
            ) from error
        try:
            return token.open(rw=True, user_pin=self._pin)
        except errors.UserAlreadyLoggedIn:
            # Another session of this process did: the login is the process's.
            return token.open(rw=True)
        except (errors.PinIncorrect, errors.PinInvalid, errors.PinLenRange, errors.PinLocked) as error:
            raise Rejected(
                f"The token {self._token} refuses the PIN: {type(error).__name__}.", code="bad_pin"
            ) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock_file.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _library() -> ModuleType:
    try:
        import pkcs11
        import pkcs11.exceptions
    except ImportError as error:
        raise Rejected(
            "Keys in a PKCS#11 token need the package python-pkcs11: pip install 'tracebond[hsm]'.", code="no_pkcs11"
        ) from error
    return pkcs11


def _read_pin(path: Path) -> str:
    try:
        pin = path.read_text("utf-8").strip()
    except OSError as error:
        raise Rejected(
            f"The file with the token's PIN cannot be read: {error.strerror}; check TRACEBOND_PKCS11_PIN_FILE.",
            code="bad_setting",
        ) from error
    if not pin:
        raise Rejected("The file with the token's PIN is empty.", code="bad_setting")
    return pin


def _point(value: bytes) -> bytes:
    """An uncompressed point: PKCS#11 wraps it into a DER octet string, some tokens do not."""
    point = value[2:] if value[:2] == b"\x04\x41" else value
    if len(point) != _POINT_BYTES or point[0] != 4:
        raise Broken("The token gave a public key of another form.", code="bad_keystore")
    return point
