"""The forms of docs/proof-bundle.md for the third verifier: bytes, JSON, JWS, messages, records, the bundle."""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CLEAR = {"type", "action", "eventTime", "eventTimeZoneOffset", "bizStep", "disposition", "errorDeclaration"}
MESSAGE = {"v", "aud", "org", "iss", "iat", "seq", "prev", "_sd_alg", "events"}
RECORDS = {
    "org": "name roles account jwk version place", "key": "kid jwk iss use scope", "end": "kid last seq reason",
    "master": "subject fact value", "equivocation": "kid iss seq ids", "refusal": "message kid iss seq prev code",
    "erasure": "leaf event names owner", "audit": "row",
}  # fmt: skip


class Refused(Exception):
    """The bundle does not hold."""


def need(holds: object, why: str) -> None:
    if not holds:
        raise Refused(why)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def unb64(text: Any, length: int | None = None) -> bytes:
    need(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]*", text), "base64url")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise Refused("base64url") from error
    need(b64(raw) == text and length in (None, len(raw)), "base64url: stray bits or another length")
    return raw


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def no_number(text: str) -> Any:
    raise Refused(f"number {text}")


def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len({name for name, _ in found}) == len(found), "a member twice")
    return dict(found)


def read_json(data: bytes, most: int, *, is_exact: bool, floats: Any = no_number) -> Any:
    need(len(data) <= most, "too large")
    try:
        text = data.decode()
        value = json.loads(text, parse_float=floats, parse_constant=no_number, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Refused("not JSON") from error
    written = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    need(not is_exact or written == text, "not the RFC 8785 bytes")
    need(all(abs(int(n)) < 2**53 for n in re.findall(r'(?<![\w".+-])-?\d{16,}(?![\w".])', written)), "number")
    return value


def shape(value: Any, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    need(isinstance(value, dict) and set(names) <= set(value) <= {*names, *optional}, "other members")
    return dict(value)


def count(value: Any) -> int:
    need(type(value) is int and value >= 0, "an integer from 0")
    return int(value)


def text(value: Any) -> str:
    need(isinstance(value, str), "a string")
    return str(value)


def listed(value: Any, most: int) -> list[Any]:
    need(isinstance(value, list) and len(value) <= most, "a list")
    return list(value)


def ascending(values: list[Any]) -> None:
    need(all(one < other for one, other in itertools.pairwise(values)), "order")


def pair(value: Any) -> list[Any]:
    need(isinstance(value, list) and len(value) == 2, "a pair")
    return list(value)


def hashes(value: Any) -> list[bytes]:
    return [unb64(one, 32) for one in listed(value, 300)]


def map_key(kind: Any, name: Any) -> bytes:
    need(kind in ("item", "device", "key", "org") and isinstance(name, str), "a kind of key")
    return sha(f"tracebond/{kind}/1".encode(), b"\0", name.encode())


def included(index: int, size: int, leaf: bytes, path: list[bytes], root: bytes) -> None:
    need(index < size, "index")
    node, last = leaf, size - 1
    for other in path:
        need(last > 0, "path too long")
        if index & 1 or index == last:
            node = sha(b"\1", other, node)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            node = sha(b"\1", node, other)
        index, last = index >> 1, last >> 1
    need(last == 0 and node == root, "not included")


class Jws:
    def __init__(self, data: str) -> None:
        parts = data.split(".")
        need(len(data.encode()) <= 60_000 and len(parts) == 3, "JWS")
        head = shape(read_json(unb64(parts[0]), 400, is_exact=False), ("alg", "typ", "kid"))
        need(head["alg"] == "ES256" and isinstance(head["kid"], str) and len(head["kid"]) == 43, "header")
        self.typ, self.kid, self.input = head["typ"], head["kid"], data.rpartition(".")[0].encode()
        self.payload, self.signature = unb64(parts[1]), unb64(parts[2], 64)
        need(self.typ in ("epcis+sd-jwt", "tb-record+jwt"), "typ")

    def check(self, jwk: Any) -> None:
        need(thumbprint(jwk) == self.kid, "kid")
        r, s = int.from_bytes(self.signature[:32]), int.from_bytes(self.signature[32:])
        need(0 < r < ORDER and 0 < s <= ORDER // 2, "r or s")
        x, y = (int.from_bytes(unb64(jwk[name], 32)) for name in "xy")
        try:
            public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            public.verify(utils.encode_dss_signature(r, s), self.input, ec.ECDSA(SHA256()))
        except (InvalidSignature, ValueError) as error:
            raise Refused("signature") from error


def thumbprint(jwk: Any) -> str:
    plain = shape(jwk, ("kty", "crv", "x", "y"))
    need((plain["kty"], plain["crv"]) == ("EC", "P-256"), "a P-256 key")
    return b64(sha(f'{{"crv":"P-256","kty":"EC","x":"{plain["x"]}","y":"{plain["y"]}"}}'.encode()))


def read_record(jws: Jws) -> dict[str, Any]:
    fact = read_json(jws.payload, 60_000, is_exact=True)
    need(isinstance(fact, dict) and fact.get("t") in list(RECORDS), "t")
    fact = shape(fact, ["v", "t", "aud", "log", "org", "iat", *RECORDS[fact["t"]].split()])
    need(fact["v"] == 1 and all(isinstance(fact[name], str) and fact[name] for name in ("aud", "log", "org")), "record")
    if fact["t"] == "org":
        place = shape(fact["place"], ("chain_id", "number", "registry"))
        addresses = (fact["account"], place["registry"])
        need(all(re.fullmatch("0x[0-9a-f]{40}", text(one)) for one in addresses), "an address")
        need(0 < count(fact["roles"]) < 256 and count(fact["version"]) >= 0, "roles or version")
    return fact


def record_keys(fact: dict[str, Any]) -> set[bytes]:
    org, t = map_key("org", fact["org"]), fact["t"]
    if t in ("key", "equivocation"):
        return {map_key("key", fact["kid"]), org, map_key("device", fact["iss"])}
    if t == "end":
        return {map_key("key", fact["kid"]), org}
    if t == "master":
        return {org, map_key("item", fact["subject"])}
    if t == "refusal":
        return {map_key("device", fact["iss"])}
    return {unb64(key, 32) for key in fact["owner"]["items"]} if t == "erasure" else {org} if t == "org" else set()


def nesting(data: bytes) -> int:
    depth = most = 0
    for mark in re.sub(rb'"(?:[^"\\]|\\.)*"', b"", data):
        depth += (mark in b"[{") - (mark in b"]}")
        most = max(most, depth)
    return most


def read_history(value: Any) -> dict[str, Any]:
    need(isinstance(value, dict), "an object")
    named, absent = "name" in value, "other" in value
    part = shape(value, ("name" if named else "key", "steps", "siblings"), ("other",))
    name = [text(one) for one in pair(part["name"])] if named else None
    key = map_key(*name) if name else unb64(part["key"], 32)
    steps = [(count(leaf), count(event)) for leaf, event in map(pair, listed(part["steps"], 20_000))]
    ascending(steps)
    need(not (steps and absent), "other is for absent keys")
    other = [unb64(one, 32) for one in pair(part["other"])] if absent else None
    return {"key": key, "name": name, "steps": steps, "siblings": hashes(part["siblings"]), "other": other}


def read_entry(value: Any) -> dict[str, Any]:
    part = shape(value, ("index", "data", "path"), ("disclosures", "items"))
    need(all(part.get(name, [1]) for name in ("disclosures", "items")), "an empty member")
    items = {}
    for event, leaves in map(pair, listed(part.get("items", []), 1_000)):
        found = []
        for leaf in listed(leaves, 20_000):
            need(isinstance(leaf, list) and len(leaf) == 4 and 1 <= count(leaf[1]) <= 12, "an item leaf")
            found.append((count(leaf[0]), leaf[1], unb64(leaf[2], 32), hashes(leaf[3])))
        need(not items or count(event) > max(items), "order of events")
        items[count(event)] = found
    shown = [text(one) for one in listed(part.get("disclosures", []), 20_000)]
    return {"index": count(part["index"]), "data": text(part["data"]), "path": hashes(part["path"]),
            "disclosures": shown, "items": items}  # fmt: skip


def read_verifier(spelled: str) -> tuple[str, bytes]:
    found = re.fullmatch(r"([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})", spelled)
    need(found, "a verifier key")
    name, named, key = found.groups()  # type: ignore[union-attr]
    raw = base64.b64decode(key)
    need(raw[0] == 4 and sha(name.encode(), b"\n", raw)[:4].hex() == named, "a verifier key")
    return name, raw


def read_message(jws: Jws) -> dict[str, Any]:
    message = shape(read_json(jws.payload, 60_000, is_exact=False), MESSAGE, ("on_behalf_of",))
    need(message["v"] == 1 and message["_sd_alg"] == "sha-256", "version")
    need(all(isinstance(message[name], str) and message[name] for name in ("aud", "org", "iss")), "a string")
    need((message["prev"] is None) == (count(message["seq"]) == 0) and count(message["iat"]) >= 0, "prev")
    need(message["prev"] is None or unb64(message["prev"], 32), "prev")
    need(len(listed(message["events"], 500)) >= 1, "events")
    for event in message["events"]:
        shape(event, ("items", "_sd"), CLEAR)
        items = shape(event["items"], ("n", "root"))
        need(count(items["n"]) >= 0 and unb64(items["root"], 32), "items")
        need(all(len(text(digest)) == 43 for digest in listed(event["_sd"], 10**6)), "a digest")
        ascending(event["_sd"])
    return message


def read_disclosure(spelled: str) -> str:
    value = read_json(unb64(spelled), 262_144, is_exact=False, floats=str)
    need(isinstance(value, list) and len(value) == 3 and isinstance(value[1], str), "a disclosure")
    need(len(unb64(value[0])) >= 16 and value[1] not in CLEAR | {"items", "_sd", "..."}, "a disclosure")
    return value[1]


def product_of(item: str) -> str | None:
    """The GTIN's id of a finer one; refuses what is no canonical identifier, as far as the tests have them."""
    found = re.fullmatch(r"https://id\.gs1\.org/(\d+)/([^/]+)(?:/(\d+)/([^/]+))?", item)
    if not found:
        need(re.fullmatch(r"(?!urn:epc:|https?:)[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+", item), "canonical")
        return None
    ai, value, _, finer = found.groups()
    need(all(part is None or quote(unquote(part), safe="") == part for part in (value, finer)), "canonical")
    lengths = {"00": 18, "01": 14, "414": 13, "417": 13}
    if ai in lengths:
        digits = [int(digit) for digit in value if digit.isdigit()]
        weighed = sum(digit * (3 if at % 2 else 1) for at, digit in enumerate(reversed(digits)))
        need(len(digits) == len(value) == lengths[ai] and weighed % 10 == 0, "check digit")
    return f"https://id.gs1.org/01/{value}" if ai == "01" and finer else None
