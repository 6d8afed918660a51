"""Receipts: our signed promise to a device, or a signed refusal, one JWS for many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.canonical import b64u, b64u_bytes, canonical_bytes, parse_json, sha256, unb64u
from core.crypto import P256Private, P256Public
from core.errors import Rejected
from core.jws import sign_jws, split_jws
from core.merkle import leaf_hash, node_hash, verify_inclusion

TYP = "tb-receipt+jwt"
RECEIPT_BYTES_MAX = 16_000
PROMISE_S = 60
HEARTBEAT_S = 86_400
_PROMISE = {"v", "aud", "log", "message", "leaf", "bytes", "accepted_at", "promise_s", "heartbeat_s"}
_REFUSAL = {"v", "aud", "log", "message", "bytes", "refused"}


@dataclass(frozen=True)
class Receipt:
    """A receipt whose signature fits.

    Attributes:
        message: the message id it answers.
        sent: SHA-256 of the publish it answers; a device compares it with the bytes it holds.
        refused: the refusal's code, or None where inclusion is promised.
        accepted_at: unix seconds, 0 for a refusal.
    """

    payload: Mapping[str, Any]
    kid: str
    message: bytes
    sent: bytes
    refused: str | None
    accepted_at: int


def promise(
    *,
    aud: str,
    log: str,
    message: bytes,
    leaf: bytes,
    publish: bytes,
    accepted_at: int,
    promise_s: int = PROMISE_S,
    heartbeat_s: int = HEARTBEAT_S,
) -> dict[str, Any]:
    """The payload that promises inclusion of ``leaf`` within ``promise_s`` of ``accepted_at`` (unix seconds).

    ``publish`` is the SHA-256 of the bytes that were published.
    """
    return {
        "v": 1,
        "aud": aud,
        "log": log,
        "message": b64u(message),
        "leaf": b64u(leaf),
        "bytes": b64u(publish),
        "accepted_at": accepted_at,
        "promise_s": promise_s,
        "heartbeat_s": heartbeat_s,
    }


def refusal(*, aud: str, log: str, message: bytes, publish: bytes, code: str) -> dict[str, Any]:
    """The payload that refuses an authentic message for good."""
    return {
        "v": 1,
        "aud": aud,
        "log": log,
        "message": b64u(message),
        "bytes": b64u(publish),
        "refused": code,
    }


def sign_receipts(payloads: Sequence[Mapping[str, Any]], key: P256Private, *, aud: str, log: str) -> list[bytes]:
    """One message for each payload, in order, all under one signature over their RFC 9162 tree."""
    if not payloads:
        return []
    texts = [canonical_bytes(dict(payload)) for payload in payloads]
    root, paths = _proofs([leaf_hash(text) for text in texts])
    head = {"v": 1, "aud": aud, "log": log, "n": len(texts), "root": b64u(root)}
    jws = sign_jws(canonical_bytes(head), typ=TYP, key=key)
    # RFC 8785 bytes put together by hand: the members stand in order, and each part is canonical by itself.
    return [
        b'{"index":%d,"jws":"%b","path":[%b],"receipt":%b}' % (index, jws, b",".join(path), text)
        for index, (path, text) in enumerate(zip(paths, texts, strict=True))
    ]


def _proofs(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """The root and the inclusion proof of every leaf as JSON strings, each node hashed and written once."""
    if len(leaves) == 1:
        return leaves[0], [[]]
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    left, left_paths = _proofs(leaves[:middle])
    right, right_paths = _proofs(leaves[middle:])
    left_text, right_text = b'"%b"' % b64u_bytes(left), b'"%b"' % b64u_bytes(right)
    for path in left_paths:
        path.append(right_text)
    for path in right_paths:
        path.append(left_text)
    return node_hash(left, right), left_paths + right_paths


def open_receipt(raw: bytes, public: P256Public) -> Receipt:
    """The receipt in either form (a JWS of its own, or one leaf of a bulk signature) that ``public`` signed.

    Raises:
        Rejected: ``bad_receipt``, ``bad_signature`` or a JSON code.
    """
    if not raw.startswith(b"{"):
        jws = split_jws(raw, typ=TYP, bytes_max=RECEIPT_BYTES_MAX)
        jws.check(public)
        return _receipt(parse_json(jws.payload, bytes_max=RECEIPT_BYTES_MAX), jws.kid)
    outer = parse_json(raw, bytes_max=RECEIPT_BYTES_MAX)
    if set(outer) != {"receipt", "index", "path", "jws"} or not isinstance(outer["jws"], str):
        raise Rejected("A bulk receipt is receipt, index, path and jws.", code="bad_receipt")
    jws = split_jws(outer["jws"].encode(), typ=TYP, bytes_max=RECEIPT_BYTES_MAX)
    jws.check(public)
    head = parse_json(jws.payload, bytes_max=RECEIPT_BYTES_MAX)
    receipt = _receipt(outer["receipt"], jws.kid)
    if not isinstance(head, dict) or set(head) != {"v", "aud", "log", "n", "root"}:
        raise Rejected("The signed head is v, aud, log, n and root.", code="bad_receipt")
    if (head["aud"], head["log"]) != (receipt.payload["aud"], receipt.payload["log"]):
        raise Rejected("The receipt and its signed head name other logs.", code="bad_receipt")
    if not isinstance(outer["path"], list) or type(outer["index"]) is not int or type(head["n"]) is not int:
        raise Rejected("path is a list, index and n are integers.", code="bad_receipt")
    verify_inclusion(
        outer["index"],
        head["n"],
        leaf_hash(canonical_bytes(outer["receipt"])),
        [unb64u(str(node), length=32) for node in outer["path"]],
        unb64u(str(head["root"]), length=32),
    )
    return receipt


def publish_hash(raw: bytes) -> bytes:
    """The SHA-256 of a publish, the ``bytes`` of its receipt."""
    return sha256(raw)


def _receipt(payload: Any, kid: str) -> Receipt:
    if not isinstance(payload, dict) or set(payload) not in (_PROMISE, _REFUSAL) or payload["v"] != 1:
        raise Rejected("The payload is neither a promise nor a refusal.", code="bad_receipt")
    refused = payload.get("refused")
    if refused is not None and not isinstance(refused, str):
        raise Rejected("refused is a code.", code="bad_receipt")
    accepted_at = payload.get("accepted_at", 0)
    if type(accepted_at) is not int:
        raise Rejected("accepted_at is unix seconds.", code="bad_receipt")
    return Receipt(
        payload=payload,
        kid=kid,
        message=unb64u(str(payload["message"]), length=32),
        sent=unb64u(str(payload["bytes"]), length=32),
        refused=refused,
        accepted_at=accepted_at,
    )
