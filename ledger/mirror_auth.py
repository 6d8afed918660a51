"""How a mirror signs its requests to the operator: one short JWS over method, path and body, by its registered key.

A signature is good for one request line and body only, so that one that leaks opens nothing else; five minutes bound
its life. The key is the P-256 key of the mirror's ``key`` record (``use: mirror``); an ``end`` record shuts it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.canonical import b64u, canonical_bytes, parse_json, sha256, unb64u
from core.crypto import Ed25519Private, Jwk, P256Private, P256Public
from core.errors import Rejected
from core.jws import sign_jws, split_jws
from core.notes import COSIGNATURE, Verifier, read_verifier
from ledger.database import Tx
from ledger.keys import KeyInfo, key_info, org_info

TYP = "tb-mirror+jwt"
# Clocks of two organisations differ; a replayed request gives its replayer only what its path names.
AGE_S_MAX = 300
TOKEN_BYTES_MAX = 2_000
REGISTRATION_TYP = "tb-mirror-registration+jwt"
REGISTRATION_BYTES_MAX = 4_000
# A lender or a regulator: the roles that answer for others.
ROLES = 64 | 128
COSIGNER = "cosigner"


@dataclass(frozen=True)
class MirrorKey:
    """A registered mirror: its request key, its organisation, and the verifier key of its cosignatures."""

    kid: str
    org: str
    name: str
    verifier: Verifier


class NotAMirror(Rejected):
    """The request is not signed by a registered mirror."""

    code = "unauthenticated"


def sign_request(key: P256Private, *, log: str, method: str, path: str, body: bytes, now: int) -> str:
    """The value of the Authorization header for one request.

    Args:
        log: origin of the log that the request is for.
        path: path with its query as sent.
    """
    payload = {"v": 1, "log": log, "method": method, "path": path, "body": b64u(sha256(body)), "iat": now}
    return "Bearer " + sign_jws(canonical_bytes(payload), typ=TYP, key=key).decode("ascii")


def check_request(tx: Tx, header: str | None, *, log: str, method: str, path: str, body: bytes, now: int) -> MirrorKey:
    """The mirror that signed this request.

    Raises:
        NotAMirror: no token, a token for something else, an old one, or a key that is not (or no longer) registered.
    """
    if header is None or not header.startswith("Bearer "):
        raise NotAMirror("Entries are served to registered mirrors: sign the request (docs/mirror.md).")
    try:
        jws = split_jws(header.removeprefix("Bearer ").encode(), typ=TYP, bytes_max=TOKEN_BYTES_MAX)
        info = key_info(tx, jws.kid)
        if info is None or info.use != "mirror":
            raise NotAMirror("No mirror is registered under this key; see `tracebond mirror key`.")
        jws.check(info.public)
        payload = parse_json(jws.payload, bytes_max=TOKEN_BYTES_MAX)
    except Rejected as error:
        raise NotAMirror(error.message) from error
    expected = {"v": 1, "log": log, "method": method, "path": path, "body": b64u(sha256(body))}
    if not isinstance(payload, dict) or {n: v for n, v in payload.items() if n != "iat"} != expected:
        raise NotAMirror("The token was signed for another request.")
    if type(payload.get("iat")) is not int or abs(now - payload["iat"]) > AGE_S_MAX:
        raise NotAMirror(f"The token's iat is more than {AGE_S_MAX} seconds from our clock.")
    return mirror_of(tx, info)


def mirror_of(tx: Tx, info: KeyInfo) -> MirrorKey:
    """The mirror behind a key of the register.

    Raises:
        NotAMirror: the key ended, its organisation may not mirror, or its record names no cosigner.
    """
    org = org_info(tx, info.org)
    if info.is_ended:
        raise NotAMirror("This mirror's key has ended.")
    if org is None or not org.roles & ROLES:
        raise NotAMirror("Mirrors are run by lenders and regulators.")
    return MirrorKey(info.kid, info.org, org.name, cosigner_of(info.scope))


def cosigner_of(scope: Mapping[str, Any]) -> Verifier:
    """The verifier key that a mirror's ``key`` record names in its scope.

    Raises:
        NotAMirror: there is none, or it is not one of cosignature/v1.
    """
    try:
        verifier = read_verifier(str(scope.get(COSIGNER, "")))
    except Rejected as error:
        raise NotAMirror(f"The key's record names no cosigner: {error.message}") from error
    if verifier.kind != COSIGNATURE:
        raise NotAMirror("The key's record names a verifier that does not cosign.")
    return verifier


def registration(name: str, cosigner: Ed25519Private, key: P256Private) -> dict[str, Any]:
    """What a mirror hands to its organisation and the operator: both public keys, each signed for by the other.

    Args:
        name: name of the verifier key, a schema-less URL of the mirror.
    """
    text = Verifier(name, cosigner.public, COSIGNATURE).encode()
    payload = {"v": 1, "cosigner": text, "signature": b64u(cosigner.sign(_bound(text, key.thumbprint())))}
    proof = sign_jws(canonical_bytes(payload), typ=REGISTRATION_TYP, key=key).decode("ascii")
    return {"v": 1, "cosigner": text, "jwk": key.jwk(), "proof": proof}


def read_registration(data: bytes) -> tuple[Jwk, Verifier]:
    """The request key and the verifier of a registration whose two keys prove each other.

    Raises:
        Rejected: ``bad_registration``.
    """
    try:
        value = parse_json(data, bytes_max=REGISTRATION_BYTES_MAX, depth_max=3)
        if not isinstance(value, dict) or set(value) != {"v", "cosigner", "jwk", "proof"} or value["v"] != 1:
            raise Rejected("its members are v, cosigner, jwk and proof.")
        public = P256Public.from_jwk(value["jwk"])
        verifier = cosigner_of({COSIGNER: value["cosigner"]})
        jws = split_jws(str(value["proof"]).encode(), typ=REGISTRATION_TYP, bytes_max=REGISTRATION_BYTES_MAX)
        jws.check(public)
        inner = parse_json(jws.payload, bytes_max=REGISTRATION_BYTES_MAX, depth_max=2)
        if not isinstance(inner, dict) or inner.get("cosigner") != value["cosigner"]:
            raise Rejected("its proof is about another cosigner.")
        bound = _bound(verifier.encode(), public.thumbprint())
        verifier.public.verify(bound, unb64u(str(inner.get("signature")), length=64))
    except Rejected as error:
        raise Rejected(f"This is no mirror's registration: {error.message}", code="bad_registration") from error
    return public.jwk(), verifier


def _bound(cosigner: str, kid: str) -> bytes:
    return f"tracebond/mirror-registration/1\n{cosigner}\n{kid}\n".encode()
