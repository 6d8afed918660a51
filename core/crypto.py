"""P-256 and Ed25519 keys in the exact forms that messages, records and checkpoints use."""

from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from core.canonical import b64u, sha256, unb64u
from core.errors import Rejected

Jwk = dict[str, str]

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ECDSA = ec.ECDSA(hashes.SHA256())


def thumbprint(jwk: Jwk) -> str:
    """The RFC 7638 SHA-256 thumbprint of a P-256 public key, base64url."""
    text = f'{{"crv":"{jwk["crv"]}","kty":"{jwk["kty"]}","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
    return b64u(sha256(text.encode("ascii")))


class P256Public:
    """A P-256 public key that checks raw ``r || s`` signatures with low s."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    @classmethod
    def from_jwk(cls, jwk: Any) -> "P256Public":
        """The key of a JWK with exactly kty EC, crv P-256, x and y.

        Raises:
            Rejected: ``bad_key`` for other members, another curve or a point off the curve.
        """
        if not isinstance(jwk, dict) or set(jwk) != {"kty", "crv", "x", "y"}:
            raise Rejected("A public key is a JWK with kty, crv, x and y.", code="bad_key", pointer="/jwk")
        if jwk["kty"] != "EC" or jwk["crv"] != "P-256":
            raise Rejected("Only P-256 keys (ES256) are taken.", code="bad_key", pointer="/jwk")
        if not isinstance(jwk["x"], str) or not isinstance(jwk["y"], str):
            raise Rejected("x and y are base64url strings.", code="bad_key", pointer="/jwk")
        x, y = unb64u(jwk["x"], length=32), unb64u(jwk["y"], length=32)
        try:
            numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1())
            return cls(numbers.public_key())
        except ValueError as error:
            raise Rejected("The point is not on P-256.", code="bad_key", pointer="/jwk") from error

    def jwk(self) -> Jwk:
        """The public JWK with kty, crv, x and y."""
        numbers = self._key.public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": b64u(numbers.x.to_bytes(32)),
            "y": b64u(numbers.y.to_bytes(32)),
        }

    def thumbprint(self) -> str:
        """The RFC 7638 thumbprint, the ``kid`` of this key."""
        return thumbprint(self.jwk())

    def verify(self, data: bytes, signature: bytes) -> None:
        """Return if ``signature`` (64 bytes, low s) is this key's over ``data``.

        Raises:
            Rejected: ``bad_signature``; a high s is refused so that each signature has one spelling.
        """
        if len(signature) != 64:
            raise Rejected("An ES256 signature has 64 bytes.", code="bad_signature")
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        if not 0 < r < _ORDER or not 0 < s <= _ORDER // 2:
            raise Rejected("The signature's r or s is out of range (s must be low).", code="bad_signature")
        try:
            self._key.verify(encode_dss_signature(r, s), data, _ECDSA)
        except InvalidSignature as error:
            raise Rejected("The signature does not fit the key and the bytes.", code="bad_signature") from error


class P256Private:
    """A P-256 private key that signs with low s."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = P256Public(key.public_key())
        self._thumbprint = self.public.thumbprint()

    @classmethod
    def from_pem(cls, pem: bytes) -> "P256Private":
        """The key in an unencrypted PKCS#8 PEM.

        Raises:
            Rejected: ``bad_key`` when it is something else.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise Rejected("Not an unencrypted PEM private key.", code="bad_key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise Rejected("Not a P-256 private key.", code="bad_key")
        return cls(key)

    @classmethod
    def from_secret(cls, secret: bytes) -> "P256Private":
        """The key whose scalar is derived from 32 secret bytes (for seeded simulations)."""
        scalar = int.from_bytes(sha256(b"tracebond/p256/1\x00" + secret)) % (_ORDER - 1) + 1
        return cls(ec.derive_private_key(scalar, ec.SECP256R1()))

    def to_pem(self) -> bytes:
        """Unencrypted PKCS#8 PEM; keep it in a file of mode 600."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def jwk(self) -> Jwk:
        """The public JWK."""
        return self.public.jwk()

    def thumbprint(self) -> str:
        """The ``kid`` of this key."""
        return self._thumbprint

    def sign(self, data: bytes) -> bytes:
        """The 64-byte ES256 signature ``r || s`` over ``data``, s low."""
        r, s = decode_dss_signature(self._key.sign(data, _ECDSA))
        return r.to_bytes(32) + min(s, _ORDER - s).to_bytes(32)


def generate_p256() -> P256Private:
    """A fresh P-256 key from the operating system's randomness."""
    return P256Private(ec.generate_private_key(ec.SECP256R1()))


class Ed25519Public:
    """An Ed25519 public key."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != 32:
            raise Rejected("An Ed25519 public key has 32 bytes.", code="bad_key")
        self.raw = raw
        self._key = ed25519.Ed25519PublicKey.from_public_bytes(raw)

    def verify(self, data: bytes, signature: bytes) -> None:
        """Return if ``signature`` is this key's over ``data``.

        Raises:
            Rejected: ``bad_signature``.
        """
        try:
            self._key.verify(signature, data)
        except InvalidSignature as error:
            raise Rejected("The Ed25519 signature does not fit.", code="bad_signature") from error


class Ed25519Private:
    """An Ed25519 private key."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != 32:
            raise Rejected("An Ed25519 private key has 32 bytes.", code="bad_key")
        self.raw = raw
        self._key = ed25519.Ed25519PrivateKey.from_private_bytes(raw)
        self.public = Ed25519Public(
            self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        )

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature over ``data``."""
        return self._key.sign(data)


def generate_ed25519() -> Ed25519Private:
    """A fresh Ed25519 key from the operating system's randomness."""
    key = ed25519.Ed25519PrivateKey.generate()
    return Ed25519Private(
        key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    )
