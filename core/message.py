"""The signed message: an SD-JWT (RFC 9901) of EPCIS events, issued by one device."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

from core.canonical import b64u, b64u_each, dump_json, parse_json, sha256, unb64u
from core.crypto import P256Private, P256Public
from core.epcis.items import item_pairs
from core.errors import Rejected
from core.jws import Jws, split_jws
from core.merkle import HASH_BYTES, leaf_hash, tree_root
from core.prefixmap import map_key

TYP = "epcis+sd-jwt"
PUBLISH_BYTES_MAX = 262_144
JWT_BYTES_MAX = 60_000
EVENTS_MAX = 500
DISCLOSURES_MAX = 20_000
SALT_BYTES = 16
CLEAR = ("type", "action", "eventTime", "eventTimeZoneOffset", "bizStep", "disposition")
ERROR_CLEAR = ("declarationTime", "reason", "correctiveEventIDs")
ERROR_REST = "tb:errorDeclaration"
_ITEMS = {"n", "root"}
_EVENT_MEMBERS = {*CLEAR, "errorDeclaration", "items", "_sd"}
_PAYLOAD_MEMBERS = {"v", "aud", "org", "iss", "iat", "seq", "prev", "_sd_alg", "events"}
_GATEWAY_MEMBERS = {"org", "client", "body", "part", "parts"}
# 32 bytes, and 16 bytes or more, in the one spelling that base64url has for them.
_HASH = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]\Z").match
_SALT = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]\Z").match
_ROLES = tuple(bytes([role]) for role in range(256))
_tree_order = itemgetter(0, 2)


class EventItem(NamedTuple):
    """One thing an event names: its role (1 to 12), canonical id and 32-byte map key."""

    role: int
    id: str
    key: bytes

    @property
    def leaf(self) -> bytes:
        """The 33 bytes that stand in the event's item tree."""
        return _ROLES[self.role] + self.key


class Disclosure(NamedTuple):
    """One disclosed member of an event: its text as sent, name, value and digest (base64url)."""

    text: str
    name: str
    value: Any
    digest: str


@dataclass(frozen=True)
class Envelope:
    """A publish taken apart, nothing verified yet."""

    raw: bytes
    jws: Jws
    disclosures: tuple[str, ...]

    @cached_property
    def id(self) -> bytes:
        """The message id: SHA-256 of the JWS signing input."""
        return sha256(self.jws.signing_input)

    @property
    def kid(self) -> str:
        """The thumbprint of the key that claims to have signed."""
        return self.jws.kid


@dataclass(frozen=True)
class Signed:
    """An authentic message: the key signed it, its form is right, every digest has its disclosure.

    Attributes:
        id: message id, 32 bytes.
        jwt: the log entry's bytes.
        clear: per event the object that stands in the JWT.
        disclosures: per event the disclosures, in the order of ``_sd``.
        prev: id of this key's message before, or None for its first.
    """

    id: bytes
    jwt: bytes
    kid: str
    aud: str
    org: str
    iss: str
    iat: int
    seq: int
    prev: bytes | None
    on_behalf_of: Mapping[str, Any] | None
    clear: tuple[dict[str, Any], ...]
    disclosures: tuple[tuple[Disclosure, ...], ...]

    @property
    def leaf_hash(self) -> bytes:
        """The leaf hash of the log entry."""
        return leaf_hash(self.jwt)


class MessageEvent(NamedTuple):
    """One event of a message: what stands in clear, the whole EPCIS event, and the things it names (tree order)."""

    clear: dict[str, Any]
    event: dict[str, Any]
    items: tuple[EventItem, ...]
    root: bytes


@dataclass(frozen=True)
class Message:
    """A message whose events are re-assembled and whose item lists agree with the signed roots."""

    signed: Signed
    events: tuple[MessageEvent, ...]

    @property
    def id(self) -> bytes:
        """The message id."""
        return self.signed.id

    @property
    def jwt(self) -> bytes:
        """The log entry's bytes."""
        return self.signed.jwt

    @property
    def disclosures(self) -> tuple[tuple[str, ...], ...]:
        """Per event the disclosure texts as sent."""
        return tuple(tuple(d.text for d in event) for event in self.signed.disclosures)


def issue(
    events: Sequence[Mapping[str, Any]],
    *,
    aud: str,
    org: str,
    iss: str,
    iat: int,
    seq: int,
    prev: bytes | None,
    key: P256Private,
    salts: Callable[[], bytes],
    on_behalf_of: Mapping[str, Any] | None = None,
) -> bytes:
    """A whole publish: the signed JWT and its disclosures.

    An event with an identifier that cannot be read is signed all the same, with an empty item list, so that the
    receiver can name the fault; nothing is repaired on the way.

    Args:
        events: EPCIS events; decimals as ``Decimal``, never float.
        iat: unix seconds. seq: 0 for a key's first message, then one more each.
        prev: id of the key's message before, None for the first.
        salts: gives 16 random bytes a call.

    Raises:
        Rejected: ``too_many_events``, ``too_large``, or a value JSON cannot hold.
    """
    if not 1 <= len(events) <= EVENTS_MAX:
        raise Rejected(f"A message holds 1 to {EVENTS_MAX} events.", code="too_many_events")
    clear: list[dict[str, Any]] = []
    disclosures: list[str] = []
    for event in events:
        members, texts = _conceal(event, salts)
        clear.append(members)
        disclosures += texts
    payload: dict[str, Any] = {"v": 1, "aud": aud, "org": org, "iss": iss, "iat": iat, "seq": seq}
    payload |= {"prev": None if prev is None else b64u(prev), "_sd_alg": "sha-256", "events": clear}
    if on_behalf_of is not None:
        payload["on_behalf_of"] = dict(on_behalf_of)
    header = dump_json({"alg": "ES256", "typ": TYP, "kid": key.thumbprint()})
    signing_input = f"{b64u(header)}.{b64u(dump_json(payload))}".encode("ascii")
    jwt = signing_input + b"." + b64u(key.sign(signing_input)).encode("ascii")
    raw = jwt + b"~" + "".join(text + "~" for text in disclosures).encode("ascii")
    if len(jwt) > JWT_BYTES_MAX or len(raw) > PUBLISH_BYTES_MAX:
        raise Rejected("The message is too large; send fewer events in it.", code="too_large")
    return raw


def split(raw: bytes) -> Envelope:
    """Take a publish apart by size and form alone; cheap, nothing is verified.

    Raises:
        Rejected: ``too_large``, ``bad_form``, ``wrong_algorithm`` or ``bad_header``.
    """
    if len(raw) > PUBLISH_BYTES_MAX:
        raise Rejected(f"A publish has at most {PUBLISH_BYTES_MAX} bytes.", code="too_large")
    if not raw.isascii() or b"~" not in raw or not raw.endswith(b"~"):
        raise Rejected("A message is a JWT and disclosures, each followed by a tilde.", code="bad_form")
    jwt, *texts = raw[:-1].split(b"~")
    if len(texts) > DISCLOSURES_MAX:
        raise Rejected(f"A message has at most {DISCLOSURES_MAX} disclosures.", code="too_large")
    jws = split_jws(jwt, typ=TYP, bytes_max=JWT_BYTES_MAX)
    return Envelope(raw, jws, tuple([text.decode("ascii") for text in texts]))


def open_signed(envelope: Envelope, public: P256Public) -> Signed:
    """The authentic message: signature first, over the raw bytes, then form, then every disclosure.

    Raises:
        Rejected: ``bad_signature``, ``bad_payload``, ``bad_disclosure``, ``missing_disclosure`` or a JSON code.
    """
    envelope.jws.check(public)
    return _read(envelope.jws, envelope.disclosures, envelope.id, is_whole=True)


def read_entry(jwt: bytes, disclosures: Sequence[str] = ()) -> Signed:
    """A stored message without checking its signature; disclosures may be missing (hidden or erased).

    Raises:
        Rejected: the bytes are no message, or a disclosure is none of its own.
    """
    jws = split_jws(jwt, typ=TYP, bytes_max=JWT_BYTES_MAX)
    return _read(jws, disclosures, sha256(jws.signing_input), is_whole=False)


def assemble(signed: Signed) -> Message:
    """The message with whole events and item lists that agree with the signed roots.

    Raises:
        Rejected: ``wrong_item_root``, or the identifier's own code with its pointer.
    """
    events: list[MessageEvent] = []
    for number, (clear, disclosures) in enumerate(zip(signed.clear, signed.disclosures, strict=True)):
        event = rebuild_event(clear, disclosures)
        try:
            items = event_items(event)
        except Rejected as error:
            pointer = f"/events/{number}{error.pointer}"
            raise Rejected(error.message, code=error.code, pointer=pointer) from error
        root = items_root(items)
        claimed = clear["items"]
        if claimed["n"] != len(items) or claimed["root"] != b64u(root):
            raise Rejected(
                "The signed item list is not the one the event names.",
                code="wrong_item_root",
                pointer=f"/events/{number}/items",
            )
        events.append(MessageEvent(clear, event, items, root))
    return Message(signed, tuple(events))


def open_message(envelope: Envelope, public: P256Public) -> Message:
    """``assemble(open_signed(envelope, public))``."""
    return assemble(open_signed(envelope, public))


def signed_by(use: str, signed: Signed) -> str:
    """Who stands behind a signature, by the use of its key: ``device``, ``partner`` (a system of the organisation
    itself), or ``gateway`` (the platform, for somebody who told it over HTTP).
    """
    if use != "gateway":
        return "device"
    return "partner" if signed.on_behalf_of is None else "gateway"


def event_items(event: Mapping[str, Any]) -> tuple[EventItem, ...]:
    """The distinct things an event names, in tree order.

    Raises:
        Rejected: an identifier is wrong; the pointer names it.
    """
    items = [EventItem(role, id_, map_key("item", id_)) for role, id_ in item_pairs(event)]
    if len(items) > 1:
        items.sort(key=_tree_order)
    return tuple(items)


def items_root(items: Sequence[EventItem]) -> bytes:
    """The RFC 9162 tree head over the items' 33-byte strings."""
    hashed = [hashlib.sha256(b"\x00" + _ROLES[role] + key).digest() for role, _, key in items]
    return hashed[0] if len(hashed) == 1 else tree_root(hashed)


def rebuild_event(clear: Mapping[str, Any], disclosures: Sequence[Disclosure]) -> dict[str, Any]:
    """The EPCIS event as far as it is disclosed: members in clear and disclosed ones."""
    event = {name: clear[name] for name in CLEAR if name in clear}
    declaration = dict(clear["errorDeclaration"]) if "errorDeclaration" in clear else None
    for _, name, value, _ in disclosures:
        if name == ERROR_REST:
            declaration = {**(declaration or {}), **value}
        else:
            event[name] = value
    if declaration is not None:
        event["errorDeclaration"] = declaration
    return event


def _conceal(event: Mapping[str, Any], salts: Callable[[], bytes]) -> tuple[dict[str, Any], list[str]]:
    clear: dict[str, Any] = {name: event[name] for name in CLEAR if name in event}
    hidden = [(name, value) for name, value in event.items() if name not in CLEAR and name != "errorDeclaration"]
    declaration = event.get("errorDeclaration")
    if isinstance(declaration, Mapping):
        clear["errorDeclaration"] = {name: declaration[name] for name in ERROR_CLEAR if name in declaration}
        rest = {name: value for name, value in declaration.items() if name not in ERROR_CLEAR}
        if rest:
            hidden.append((ERROR_REST, rest))
    elif "errorDeclaration" in event:
        hidden.append((ERROR_REST, {"value": declaration}))
    try:
        items = event_items(event)
    except Rejected:
        items = ()
    texts = [b64u(dump_json([b64u(salts()), name, value])) for name, value in hidden]
    clear["items"] = {"n": len(items), "root": b64u(items_root(items))}
    clear["_sd"] = sorted(b64u(sha256(text.encode("ascii"))) for text in texts)
    return clear, texts


def _read(jws: Jws, texts: Sequence[str], id_: bytes, *, is_whole: bool) -> Signed:
    payload = parse_json(jws.payload, bytes_max=JWT_BYTES_MAX)
    if not isinstance(payload, dict) or not _PAYLOAD_MEMBERS <= set(payload) <= _PAYLOAD_MEMBERS | {"on_behalf_of"}:
        raise _bad_payload("its members are v, aud, org, iss, iat, seq, prev, _sd_alg and events", "")
    if type(payload["v"]) is not int or payload["v"] != 1 or payload["_sd_alg"] != "sha-256":
        raise _bad_payload("v is 1 and _sd_alg is sha-256", "/v")
    for name in ("aud", "org", "iss"):
        if not isinstance(payload[name], str) or not payload[name]:
            raise _bad_payload(f"{name} is a string", f"/{name}")
    for name in ("iat", "seq"):
        if type(payload[name]) is not int or payload[name] < 0:
            raise _bad_payload(f"{name} is an integer from 0", f"/{name}")
    prev = payload["prev"]
    if (prev is None) != (payload["seq"] == 0):
        raise _bad_payload("prev is null in the first message (seq 0) and only there", "/prev")
    if prev is not None and not isinstance(prev, str):
        raise _bad_payload("prev is a message id", "/prev")
    events = payload["events"]
    if not isinstance(events, list) or not 1 <= len(events) <= EVENTS_MAX:
        raise _bad_payload(f"events is a list of 1 to {EVENTS_MAX}", "/events")
    for number, event in enumerate(events):
        _check_event(event, f"/events/{number}")
    return Signed(
        id=id_,
        jwt=jws.raw,
        kid=jws.kid,
        aud=payload["aud"],
        org=payload["org"],
        iss=payload["iss"],
        iat=payload["iat"],
        seq=payload["seq"],
        prev=None if prev is None else unb64u(prev, length=32),
        on_behalf_of=_gateway(payload.get("on_behalf_of"), "on_behalf_of" in payload),
        clear=tuple(events),
        disclosures=_match(events, list(map(_disclosure, texts, _digests(texts))), is_whole=is_whole),
    )


def _check_event(event: Any, pointer: str) -> None:
    if not isinstance(event, dict) or not ("items" in event and "_sd" in event and event.keys() <= _EVENT_MEMBERS):
        raise _bad_payload("an event holds only the members in clear, items and _sd", pointer)
    items, digests = event["items"], event["_sd"]
    if not isinstance(items, dict) or items.keys() != _ITEMS or type(items["n"]) is not int or items["n"] < 0:
        raise _bad_payload("items is a count n and a root", pointer + "/items")
    if not isinstance(items["root"], str):
        raise _bad_payload("items/root is a hash", pointer + "/items/root")
    if not _HASH(items["root"]):
        unb64u(items["root"], length=32)
    if not isinstance(digests, list) or [one for one in digests if type(one) is not str or len(one) != 43]:
        raise _bad_payload("_sd is a list of digests", pointer + "/_sd")
    if sorted(set(digests)) != digests:
        raise _bad_payload("_sd is sorted and holds each digest once", pointer + "/_sd")
    if "errorDeclaration" not in event:
        return
    declaration = event["errorDeclaration"]
    if not isinstance(declaration, dict) or not set(declaration) <= set(ERROR_CLEAR):
        raise _bad_payload("only time, reason and corrective ids stand in clear", pointer + "/errorDeclaration")


def _gateway(value: Any, is_present: bool) -> Mapping[str, Any] | None:
    if not is_present:
        return None
    if not isinstance(value, dict) or set(value) != _GATEWAY_MEMBERS:
        raise _bad_payload("on_behalf_of is org, client, body, part and parts", "/on_behalf_of")
    if not all(isinstance(value[name], str) for name in ("org", "client", "body")):
        raise _bad_payload("org, client and body are strings", "/on_behalf_of")
    part, parts = value["part"], value["parts"]
    if type(part) is not int or type(parts) is not int or not 0 <= part < parts:
        raise _bad_payload("part is from 0 and below parts", "/on_behalf_of/part")
    unb64u(value["body"], length=32)
    return value


def _digests(texts: Sequence[str]) -> list[str]:
    """The digest (base64url) of each disclosure; one that is no base64url is refused when it is read."""
    return b64u_each([hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts], HASH_BYTES)


def _disclosure(text: str, digest: str) -> Disclosure:
    try:
        value = parse_json(unb64u(text), bytes_max=PUBLISH_BYTES_MAX)
    except Rejected as error:
        code = error.code if error.code != "bad_base64url" else "bad_disclosure"
        raise Rejected(f"A disclosure cannot be read: {error.message}", code=code) from error
    if type(value) is not list or len(value) != 3 or type(value[0]) is not str or type(value[1]) is not str:
        raise Rejected("A disclosure is a list of salt, name and value.", code="bad_disclosure")
    salt, name, member = value
    if not _SALT(salt) and len(unb64u(salt)) < SALT_BYTES:
        raise Rejected("A salt has at least 128 bits.", code="bad_disclosure")
    if name in _EVENT_MEMBERS or name == "...":
        raise Rejected(f"The member {name!r} is never disclosed.", code="bad_disclosure")
    if name == ERROR_REST and (not isinstance(member, dict) or set(member) & set(ERROR_CLEAR)):
        raise Rejected(f"{ERROR_REST} holds the rest of an error declaration.", code="bad_disclosure")
    return Disclosure(text, name, member, digest)


def _match(
    events: Sequence[Mapping[str, Any]], disclosures: Sequence[Disclosure], *, is_whole: bool
) -> tuple[tuple[Disclosure, ...], ...]:
    by_digest = {disclosure[3]: disclosure for disclosure in disclosures}
    if len(by_digest) != len(disclosures):
        raise Rejected("A disclosure stands twice.", code="bad_disclosure")
    matched: list[tuple[Disclosure, ...]] = []
    for number, event in enumerate(events):
        found = tuple([by_digest.pop(digest) for digest in event["_sd"] if digest in by_digest])
        if is_whole and len(found) != len(event["_sd"]):
            raise Rejected("A digest has no disclosure.", code="missing_disclosure", pointer=f"/events/{number}/_sd")
        if len({disclosure[1] for disclosure in found}) != len(found):
            raise Rejected("One member is disclosed twice.", code="bad_disclosure", pointer=f"/events/{number}")
        matched.append(found)
    if by_digest:
        raise Rejected("A disclosure belongs to no event.", code="bad_disclosure")
    return tuple(matched)


def _bad_payload(why: str, pointer: str) -> Rejected:
    return Rejected(f"The payload is not a message: {why}.", code="bad_payload", pointer=pointer)
