"""The request by which the owner of data asks for its erasure: a JWS of its own inside the ``erasure`` record."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.canonical import canonical_bytes, parse_json
from core.crypto import P256Private, P256Public
from core.errors import Rejected
from core.jws import sign_jws, split_jws

TYP = "tb-erasure+jwt"
REQUEST_BYTES_MAX = 16_000
NAMES_MAX = 200
_MEMBERS = {"v", "aud", "log", "org", "message", "leaf", "event", "names", "iat", "reason"}
_BOUND = ("v", "aud", "log", "org", "leaf", "event", "names")


def sign_request(
    key: P256Private,
    *,
    aud: str,
    log: str,
    org: str,
    message: str,
    leaf: int,
    event: int,
    names: Sequence[str],
    iat: int,
    reason: str,
) -> str:
    """The owner's JWS that asks for the erasure of the disclosures ``names`` of one event.

    Args:
        key: the organisation's record-signing key.
        message: id of the message (base64url). leaf: where it stands in the log. iat: unix seconds.
        reason: why, without personal data: it stays in the log for ever.
    """
    if not 0 < len(reason) <= 500:
        raise Rejected("The reason is 1 to 500 characters.", code="bad_request", pointer="/reason")
    payload = {
        "v": 1,
        "aud": aud,
        "log": log,
        "org": org,
        "message": message,
        "leaf": leaf,
        "event": event,
        "names": sorted(set(names)),
        "iat": iat,
        "reason": reason,
    }
    return sign_jws(canonical_bytes(payload), typ=TYP, key=key).decode("ascii")


def read_request(text: str) -> Mapping[str, Any]:
    """The payload of a request by form; its signature is not yet checked.

    Raises:
        Rejected: ``bad_request`` or a form code.
    """
    jws = split_jws(text.encode(), typ=TYP, bytes_max=REQUEST_BYTES_MAX)
    payload = parse_json(jws.payload, bytes_max=REQUEST_BYTES_MAX)
    if not isinstance(payload, dict) or set(payload) != _MEMBERS or payload["v"] != 1:
        raise Rejected(f"An erasure request is {', '.join(sorted(_MEMBERS))}.", code="bad_request")
    names = payload["names"]
    if not isinstance(names, list) or not 0 < len(names) <= NAMES_MAX or not all(isinstance(n, str) for n in names):
        raise Rejected(f"names is a list of 1 to {NAMES_MAX} member names.", code="bad_request", pointer="/names")
    return payload


def check_request(record: Mapping[str, Any], owner: P256Public) -> Mapping[str, Any]:
    """The owner's request inside an ``erasure`` record, when it is signed by ``owner`` and asks for exactly this.

    Args:
        record: the record's payload. owner: the record-signing key of the organisation it names.

    Raises:
        Rejected: ``bad_request``, ``bad_signature`` or ``wrong_request``.
    """
    text = record["owner"].get("jws")
    if not isinstance(text, str):
        raise Rejected("owner.jws is the owner's request.", code="bad_request", pointer="/owner/jws")
    payload = read_request(text)
    split_jws(text.encode(), typ=TYP, bytes_max=REQUEST_BYTES_MAX).check(owner)
    if any(payload[name] != record[name] for name in _BOUND):
        raise Rejected("The owner asked for the erasure of something else.", code="wrong_request", pointer="/owner/jws")
    return payload
