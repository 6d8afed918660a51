"""Events made into signed messages of bounded size, without opening again what was just signed.

``core.message.issue`` gives the bytes of one message; a gateway also needs to know beforehand how many events fit, and
needs the message in its opened form to store it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from core.canonical import b64u, b64u_bytes, b64u_hashes, dump_parsed, sha256
from core.crypto import P256Private
from core.errors import Rejected
from core.message import (
    CLEAR,
    ERROR_CLEAR,
    ERROR_REST,
    EVENTS_MAX,
    JWT_BYTES_MAX,
    PUBLISH_BYTES_MAX,
    SALT_BYTES,
    TYP,
    Disclosure,
    EventItem,
    Message,
    MessageEvent,
    Signed,
    event_items,
    items_root,
)

_DIGEST: Final = itemgetter(3)
# Bytes kept free for header, the payload's other members and the signature; on_behalf_of is the longest of them.
_FRAME_BYTES: Final = 3_000


class Concealed(NamedTuple):
    """One event ready to be signed: what will stand in clear, and the disclosures in the order of their digests.

    Attributes:
        disclosed_bytes: how many bytes of a publish the disclosures take.
    """

    event: Mapping[str, Any]
    clear: dict[str, Any]
    text: bytes
    disclosures: tuple[Disclosure, ...]
    items: tuple[EventItem, ...]
    root: bytes
    disclosed_bytes: int


class Sealed(NamedTuple):
    """A signed message: the bytes as published, and the message as a receiver opens it."""

    raw: bytes
    message: Message


def conceal(event: Mapping[str, Any], random: Callable[[int], bytes]) -> Concealed:
    """An event with a disclosure for each member that does not stand in clear.

    Args:
        event: a valid EPCIS event. random: gives so many random bytes.

    Raises:
        Rejected: an identifier is wrong, or ``too_large`` when no message can hold the event.
    """
    clear: dict[str, Any] = {name: event[name] for name in CLEAR if name in event}
    hidden = [(name, value) for name, value in event.items() if name not in CLEAR and name != "errorDeclaration"]
    declaration = event.get("errorDeclaration")
    if declaration is not None:
        clear["errorDeclaration"] = {name: declaration[name] for name in ERROR_CLEAR if name in declaration}
        rest = {name: value for name, value in declaration.items() if name not in ERROR_CLEAR}
        if rest:
            hidden.append((ERROR_REST, rest))
    items = event_items(event)
    root = items_root(items)
    texts: list[bytes] = []
    salts = random(SALT_BYTES * len(hidden))
    start = 0
    for name, value in hidden:
        salt = b64u_bytes(salts[start : start + SALT_BYTES])
        start += SALT_BYTES
        texts.append(b64u_bytes(b'["%b",%b,%b]' % (salt, _name(name), dump_parsed(value))))
    digests = b64u_hashes([hashlib.sha256(text).digest() for text in texts])
    found = [
        Disclosure(text.decode("ascii"), name, value, digest)
        for text, (name, value), digest in zip(texts, hidden, digests, strict=True)
    ]
    found.sort(key=_DIGEST)
    digests.sort()
    clear["items"] = {"n": len(items), "root": b64u(root)}
    clear["_sd"] = digests
    disclosed = sum(map(len, texts)) + len(texts)
    concealed = Concealed(event, clear, dump_parsed(clear), tuple(found), items, root, disclosed)
    if _is_full(len(concealed.text) + 1, disclosed):
        raise Rejected(
            f"The event is too large for a message of {PUBLISH_BYTES_MAX} bytes; say it in several events.",
            code="event_too_large",
        )
    return concealed


def packed(events: Sequence[Concealed]) -> list[list[Concealed]]:
    """The events in order, in as few parts as fit into messages one after the other."""
    parts: list[list[Concealed]] = []
    clear_bytes = disclosed = 0
    for one in events:
        clear_bytes += len(one.text) + 1
        disclosed += one.disclosed_bytes
        if not parts or len(parts[-1]) == EVENTS_MAX or _is_full(clear_bytes, disclosed):
            parts.append([])
            clear_bytes, disclosed = len(one.text) + 1, one.disclosed_bytes
        parts[-1].append(one)
    return parts


def seal(
    events: Sequence[Concealed],
    *,
    aud: str,
    org: str,
    iss: str,
    iat: int,
    seq: int,
    prev: bytes | None,
    key: P256Private,
    on_behalf_of: Mapping[str, Any] | None = None,
) -> Sealed:
    """One message over events that fit into it (see :func:`packed`); arguments as of ``core.message.issue``."""
    kid = key.thumbprint()
    head: dict[str, Any] = {"v": 1, "aud": aud, "org": org, "iss": iss, "iat": iat, "seq": seq}
    head |= {"prev": None if prev is None else b64u(prev), "_sd_alg": "sha-256"}
    tail = b"" if on_behalf_of is None else b',"on_behalf_of":' + dump_parsed(dict(on_behalf_of))
    payload = dump_parsed(head)[:-1] + b',"events":[' + b",".join(one.text for one in events) + b"]" + tail + b"}"
    header = dump_parsed({"alg": "ES256", "typ": TYP, "kid": kid})
    signing_input = b64u_bytes(header) + b"." + b64u_bytes(payload)
    jwt = signing_input + b"." + b64u_bytes(key.sign(signing_input))
    texts = "".join([f"{disclosure.text}~" for one in events for disclosure in one.disclosures])
    raw = jwt + b"~" + texts.encode("ascii")
    if len(jwt) > JWT_BYTES_MAX or len(raw) > PUBLISH_BYTES_MAX:
        raise Rejected("The message is too large; send fewer events in it.", code="too_large")
    signed = Signed(
        id=sha256(signing_input),
        jwt=jwt,
        kid=kid,
        aud=aud,
        org=org,
        iss=iss,
        iat=iat,
        seq=seq,
        prev=prev,
        on_behalf_of=None if on_behalf_of is None else dict(on_behalf_of),
        clear=tuple(one.clear for one in events),
        disclosures=tuple(one.disclosures for one in events),
    )
    opened = tuple(MessageEvent(one.clear, dict(one.event), one.items, one.root) for one in events)
    return Sealed(raw, Message(signed, opened))


@lru_cache(maxsize=1_024)
def _name(name: str) -> bytes:
    return dump_parsed(name)


def _is_full(clear_bytes: int, disclosed_bytes: int) -> bool:
    jwt = (clear_bytes + _FRAME_BYTES) * 4 // 3
    return jwt > JWT_BYTES_MAX or jwt + disclosed_bytes > PUBLISH_BYTES_MAX
