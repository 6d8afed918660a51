"""Compact JWS with ES256 and an exact header: the one signature form of messages, records and receipts."""

from dataclasses import dataclass
from functools import lru_cache

from core.canonical import b64u, canonical_bytes, parse_json, unb64u
from core.crypto import P256Private, P256Public
from core.errors import Rejected

HEADER_BYTES_MAX = 400
_HEADERS_MAX = 16_384  # ours: about 10 MB, one for each of so many keys


@dataclass(frozen=True)
class Jws:
    """A compact JWS taken apart, its signature not yet checked.

    Attributes:
        raw: the whole ASCII text.
        kid: the RFC 7638 thumbprint the header names.
        signing_input: ``header.payload``, the bytes that are signed.
        payload: the decoded payload bytes, not yet parsed.
        signature: 64 bytes.
    """

    raw: bytes
    kid: str
    signing_input: bytes
    payload: bytes
    signature: bytes

    def check(self, public: P256Public) -> None:
        """Return if ``public`` signed it. Raises ``Rejected`` (bad_signature) otherwise."""
        public.verify(self.signing_input, self.signature)


def sign_jws(payload: bytes, *, typ: str, key: P256Private) -> bytes:
    """A compact JWS over ``payload`` with header exactly alg, typ and kid."""
    header = canonical_bytes({"alg": "ES256", "kid": key.thumbprint(), "typ": typ})
    signing_input = f"{b64u(header)}.{b64u(payload)}".encode("ascii")
    return signing_input + b"." + b64u(key.sign(signing_input)).encode("ascii")


def split_jws(raw: bytes, *, typ: str, bytes_max: int) -> Jws:
    """Take a compact JWS apart and check its header; the signature is checked by the caller.

    Args:
        raw: ASCII text of three base64url parts.
        typ: the only ``typ`` taken.
        bytes_max: the largest size taken.

    Raises:
        Rejected: ``too_large``, ``bad_form``, ``wrong_algorithm`` or ``bad_header``.
    """
    if len(raw) > bytes_max:
        raise Rejected(f"The JWT has {len(raw)} bytes; at most {bytes_max} are taken.", code="too_large")
    parts = raw.split(b".")
    if len(parts) != 3 or not raw.isascii():
        raise Rejected("A JWT is three base64url parts with dots between.", code="bad_form")
    kid = _kid(parts[0], typ)
    try:
        payload = unb64u(parts[1].decode("ascii"))
        signature = unb64u(parts[2].decode("ascii"))
    except Rejected as error:
        raise Rejected(f"A part of the JWT cannot be read: {error.message}", code="bad_form") from error
    return Jws(raw, kid, raw[: -1 - len(parts[2])], payload, signature)


@lru_cache(maxsize=_HEADERS_MAX)
def _kid(text: bytes, typ: str) -> str:
    """The key that a header names; all messages of one key have the same header."""
    try:
        header = parse_json(unb64u(text.decode("ascii")), bytes_max=HEADER_BYTES_MAX, depth_max=2)
    except Rejected as error:
        raise Rejected(f"A part of the JWT cannot be read: {error.message}", code="bad_form") from error
    if isinstance(header, dict) and header.get("alg") != "ES256":
        raise Rejected("Only ES256 is taken.", code="wrong_algorithm", pointer="/header/alg")
    if not isinstance(header, dict) or set(header) != {"alg", "typ", "kid"} or header["typ"] != typ:
        raise Rejected(f"The header is exactly alg, typ {typ} and kid.", code="bad_header", pointer="/header")
    kid = header["kid"]
    if not isinstance(kid, str) or len(kid) != 43:
        raise Rejected("kid is an RFC 7638 thumbprint.", code="bad_header", pointer="/header/kid")
    return kid
