"""Records: signed log entries about organisations, keys, master data and exceptions; and the state leaf."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.canonical import b64u, canonical_bytes, parse_json, sha256, unb64u
from core.crypto import Jwk, P256Private, P256Public, thumbprint
from core.errors import Rejected
from core.jws import Jws, sign_jws, split_jws
from core.merkle import leaf_hash
from core.prefixmap import map_key

TYP = "tb-record+jwt"
RECORD_BYTES_MAX = 60_000
STATE_BYTES_MAX = 2_000
COMMON = {"v", "t", "aud", "log", "org", "iat"}
MEMBERS: dict[str, set[str]] = {
    "org": {"name", "roles", "account", "jwk", "version", "place"},
    "key": {"kid", "jwk", "iss", "use", "scope"},
    "end": {"kid", "last", "seq", "reason"},
    "master": {"subject", "fact", "value"},
    "equivocation": {"kid", "iss", "seq", "ids"},
    "refusal": {"message", "kid", "iss", "seq", "prev", "code"},
    "erasure": {"leaf", "event", "names", "owner"},
    "audit": {"row"},
}
BY_OPERATOR = frozenset({"org", "equivocation", "refusal", "erasure", "audit"})
USES = frozenset({"device", "gateway", "receipt", "mirror"})
FACTS = frozenset({"party", "place", "product", "ownership"})
ROLES = {
    "operator": 1,
    "maker": 2,
    "inspector": 4,
    "custodian": 8,
    "carrier": 16,
    "retailer": 32,
    "lender": 64,
    "regulator": 128,
}


@dataclass(frozen=True)
class Record:
    """A record whose form is right; ``jws.check`` tells whether its signer is who it must be."""

    jws: Jws
    payload: Mapping[str, Any]

    @property
    def raw(self) -> bytes:
        """The log entry's bytes."""
        return self.jws.raw

    @property
    def t(self) -> str:
        """The kind of record."""
        return str(self.payload["t"])

    @property
    def id(self) -> bytes:
        """SHA-256 of the signing input: equal records have equal ids."""
        return sha256(self.jws.signing_input)

    @property
    def leaf_hash(self) -> bytes:
        """The leaf hash of the log entry."""
        return leaf_hash(self.jws.raw)


def sign_record(payload: Mapping[str, Any], key: P256Private) -> bytes:
    """The log entry of a record: a JWS over the payload's RFC 8785 bytes.

    Raises:
        Rejected: ``bad_record``.
    """
    check_payload(payload)
    return sign_jws(canonical_bytes(dict(payload)), typ=TYP, key=key)


def read_record(raw: bytes) -> Record:
    """A record by form; its signature is not yet checked.

    Raises:
        Rejected: ``too_large``, ``bad_form``, ``bad_header`` or ``bad_record``.
    """
    jws = split_jws(raw, typ=TYP, bytes_max=RECORD_BYTES_MAX)
    payload = parse_json(jws.payload, bytes_max=RECORD_BYTES_MAX)
    check_payload(payload)
    if canonical_bytes(payload) != jws.payload:
        raise Rejected("A record's payload is its RFC 8785 bytes.", code="bad_record")
    return Record(jws, payload)


def open_record(raw: bytes, public: P256Public) -> Record:
    """A record that ``public`` signed.

    Raises:
        Rejected: as ``read_record``, and ``bad_signature``.
    """
    record = read_record(raw)
    record.jws.check(public)
    return record


def check_payload(payload: Any) -> None:
    """Return if the payload is a record's.

    Raises:
        Rejected: ``bad_record`` with the member at fault.
    """
    if not isinstance(payload, Mapping) or not isinstance(payload.get("t"), str) or payload["t"] not in MEMBERS:
        raise Rejected(f"t is one of {', '.join(MEMBERS)}.", code="bad_record", pointer="/t")
    expected = COMMON | MEMBERS[payload["t"]]
    if set(payload) != expected:
        odd = ", ".join(sorted(set(payload) ^ expected))
        raise Rejected(f"A record {payload['t']} has other members: {odd}.", code="bad_record")
    if payload["v"] != 1 or type(payload["v"]) is not int:
        raise Rejected("v is 1.", code="bad_record", pointer="/v")
    for name in ("aud", "log", "org"):
        if not isinstance(payload[name], str) or not payload[name]:
            raise Rejected(f"{name} is a string.", code="bad_record", pointer=f"/{name}")
    if type(payload["iat"]) is not int:
        raise Rejected("iat is unix seconds.", code="bad_record", pointer="/iat")
    _CHECKS[payload["t"]](payload)


def record_keys(payload: Mapping[str, Any], iss_of: Callable[[str], str | None] | None = None) -> list[bytes]:
    """The distinct map keys that a record steps, in ascending order, event number 0 each.

    Args:
        iss_of: the device (iss) of a kid, as its ``key`` record in the log says. An ``end`` record steps that device's
            key and does not name it; left out, or where it gives None, only the keys that the record names are given.
    """
    t = payload["t"]
    keys: set[bytes] = set()
    if t in ("key", "end", "equivocation"):
        keys = {map_key("key", payload["kid"]), map_key("org", payload["org"])}
        device = payload["iss"] if t != "end" else iss_of(payload["kid"]) if iss_of is not None else None
        if device is not None:
            keys.add(map_key("device", device))
    elif t == "refusal":
        keys = {map_key("device", payload["iss"])}
    elif t == "org":
        keys = {map_key("org", payload["org"])}
    elif t == "master":
        keys = {map_key("org", payload["org"]), map_key("item", payload["subject"])}
    elif t == "erasure":
        keys = {unb64u(key, length=32) for key in payload["owner"]["items"]}
    return sorted(keys)


def _check_org(p: Mapping[str, Any]) -> None:
    P256Public.from_jwk(p["jwk"])
    if type(p["roles"]) is not int or not 0 < p["roles"] < 256:
        raise Rejected("roles is a sum of role bits.", code="bad_record", pointer="/roles")
    place = p["place"]
    if not isinstance(place, Mapping) or set(place) != {"chain_id", "number", "registry"}:
        raise Rejected("place is chain_id, number and registry.", code="bad_record", pointer="/place")
    if type(p["version"]) is not int or p["version"] < 0:
        raise Rejected("version counts from 0.", code="bad_record", pointer="/version")
    _is_hex(p["account"], 20, "/account")
    _is_hex(place["registry"], 20, "/place/registry")


def _check_key(p: Mapping[str, Any]) -> None:
    P256Public.from_jwk(p["jwk"])
    if thumbprint(p["jwk"]) != p["kid"]:
        raise Rejected("kid is the thumbprint of jwk.", code="bad_record", pointer="/kid")
    if p["use"] not in USES:
        raise Rejected(f"use is one of {', '.join(sorted(USES))}.", code="bad_record", pointer="/use")
    if not isinstance(p["iss"], str) or not isinstance(p["scope"], Mapping):
        raise Rejected("iss is a string and scope an object.", code="bad_record", pointer="/iss")


def _check_end(p: Mapping[str, Any]) -> None:
    _is_kid(p["kid"])
    if (p["last"] is None) != (p["seq"] == -1) or type(p["seq"]) is not int or p["seq"] < -1:
        raise Rejected("last and seq are null and -1, or name a message.", code="bad_record", pointer="/seq")
    if p["last"] is not None:
        _is_hash(p["last"], "/last")
    _is_text(p["reason"], "/reason")


def _check_master(p: Mapping[str, Any]) -> None:
    if p["fact"] not in FACTS or not isinstance(p["value"], Mapping):
        raise Rejected(f"fact is one of {', '.join(sorted(FACTS))}.", code="bad_record", pointer="/fact")
    _is_text(p["subject"], "/subject")


def _check_equivocation(p: Mapping[str, Any]) -> None:
    _is_kid(p["kid"])
    ids = p["ids"]
    if not isinstance(ids, list) or len(ids) < 2:
        raise Rejected("ids are the message ids that share a seq.", code="bad_record", pointer="/ids")
    for value in ids:
        _is_hash(value, "/ids")


def _check_refusal(p: Mapping[str, Any]) -> None:
    _is_kid(p["kid"])
    _is_hash(p["message"], "/message")
    if p["prev"] is not None:
        _is_hash(p["prev"], "/prev")
    _is_text(p["code"], "/code")


def _check_erasure(p: Mapping[str, Any]) -> None:
    if not isinstance(p["names"], list) or type(p["leaf"]) is not int or type(p["event"]) is not int:
        raise Rejected("leaf, event and names tell what is erased.", code="bad_record", pointer="/names")
    if not isinstance(p["owner"], Mapping) or not {"jws", "items"} <= set(p["owner"]):
        raise Rejected("owner is the owner's JWS and the event's item keys.", code="bad_record", pointer="/owner")


def _check_audit(p: Mapping[str, Any]) -> None:
    _is_hash(p["row"], "/row")


_CHECKS = {
    "org": _check_org,
    "key": _check_key,
    "end": _check_end,
    "master": _check_master,
    "equivocation": _check_equivocation,
    "refusal": _check_refusal,
    "erasure": _check_erasure,
    "audit": _check_audit,
}


def _is_kid(value: Any) -> None:
    if not isinstance(value, str) or len(value) != 43:
        raise Rejected("kid is a thumbprint.", code="bad_record", pointer="/kid")


def _is_hash(value: Any, pointer: str) -> None:
    if not isinstance(value, str) or len(value) != 43:
        raise Rejected("A hash is 43 base64url characters.", code="bad_record", pointer=pointer)
    unb64u(value, length=32)


def _is_text(value: Any, pointer: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= 2_000:
        raise Rejected("A text of 1 to 2,000 characters.", code="bad_record", pointer=pointer)


def _is_hex(value: Any, length: int, pointer: str) -> None:
    if not isinstance(value, str) or len(value) != 2 + 2 * length or value != value.lower() or value[:2] != "0x":
        raise Rejected(f"0x and {length} bytes in lower-case hex.", code="bad_record", pointer=pointer)


def common(*, t: str, aud: str, log: str, org: str, iat: int) -> dict[str, Any]:
    """The members that every record has; add the kind's own and sign."""
    return {"v": 1, "t": t, "aud": aud, "log": log, "org": org, "iat": iat}


def key_members(jwk: Jwk, *, iss: str, use: str, scope: Mapping[str, Any]) -> dict[str, Any]:
    """The own members of a ``key`` record."""
    return {"kid": thumbprint(jwk), "jwk": jwk, "iss": iss, "use": use, "scope": dict(scope)}


@dataclass(frozen=True)
class StateLeaf:
    """What the last leaf of a published checkpoint says; ``size`` counts the state leaf itself."""

    log: str
    size: int
    map_root: bytes
    keys: int
    prev: int | None
    time: int
    block: tuple[int, int, str] | None

    def encode(self) -> bytes:
        """The leaf's RFC 8785 bytes. ``block`` is (chain id, number, 0x hash)."""
        block = None
        if self.block is not None:
            block = {"chain_id": self.block[0], "number": self.block[1], "hash": self.block[2]}
        return canonical_bytes(
            {
                "t": "state",
                "v": 1,
                "log": self.log,
                "size": self.size,
                "map_root": b64u(self.map_root),
                "keys": self.keys,
                "prev": self.prev,
                "time": self.time,
                "block": block,
            }
        )


def read_state_leaf(data: bytes) -> StateLeaf:
    """The state leaf in an entry's bytes.

    Raises:
        Rejected: ``bad_state_leaf``.
    """
    value = parse_json(data, bytes_max=STATE_BYTES_MAX, depth_max=3)
    members = {"t", "v", "log", "size", "map_root", "keys", "prev", "time", "block"}
    if not isinstance(value, dict) or set(value) != members or value["t"] != "state" or value["v"] != 1:
        raise Rejected("This is no state leaf.", code="bad_state_leaf")
    block = value["block"]
    if block is not None and (not isinstance(block, dict) or set(block) != {"chain_id", "number", "hash"}):
        raise Rejected("block is chain_id, number and hash.", code="bad_state_leaf", pointer="/block")
    numbers = [value["size"], value["keys"], value["time"], 0 if value["prev"] is None else value["prev"]]
    numbers += [block["chain_id"], block["number"]] if block else []
    if any(type(number) is not int or number < 0 for number in numbers) or not isinstance(value["log"], str):
        raise Rejected("Sizes, counts and times are integers from 0.", code="bad_state_leaf")
    if not isinstance(value["map_root"], str) or (block and not isinstance(block["hash"], str)):
        raise Rejected("Hashes are strings.", code="bad_state_leaf")
    leaf = StateLeaf(
        log=value["log"],
        size=value["size"],
        map_root=unb64u(value["map_root"], length=32),
        keys=value["keys"],
        prev=value["prev"],
        time=value["time"],
        block=(block["chain_id"], block["number"], block["hash"]) if block else None,
    )
    if leaf.encode() != data:
        raise Rejected("A state leaf is its RFC 8785 bytes.", code="bad_state_leaf")
    return leaf


def entry_kind(data: bytes) -> str:
    """Whether an entry's bytes are a ``message``, a ``record`` or a ``state`` leaf.

    Raises:
        Rejected: ``bad_entry``.
    """
    if data.startswith(b"{"):
        return "state"
    try:
        header = parse_json(unb64u(data.split(b".", 1)[0].decode("ascii")), bytes_max=400, depth_max=2)
        return {"epcis+sd-jwt": "message", TYP: "record"}[header["typ"]]
    except (Rejected, UnicodeDecodeError, KeyError, TypeError) as error:
        raise Rejected("An entry is a message, a record or a state leaf.", code="bad_entry") from error
