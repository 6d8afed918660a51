"""Events made into signed messages of bounded size, without opening again what was just signed.

``core.message.issue`` gives the bytes of one message; a gateway also needs to know beforehand how many events fit, and
needs the message in its opened form to store it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from core.canonical import b64u, b64u_bytes, b64u_each, dump_parsed, sha256
from core.crypto import P256Private
from core.errors import Rejected
from core.merkle import HASH_BYTES
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

_CLEAR: Final = frozenset((*CLEAR, "errorDeclaration"))
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
    concealed = conceal_each([event], random)[0]
    if isinstance(concealed, Rejected):
        raise concealed
    return concealed


def conceal_each(events: Sequence[Mapping[str, Any]], random: Callable[[int], bytes]) -> list[Concealed | Rejected]:
    """:func:`conceal` of many events, with the fault in place of an event that it would refuse."""
    # One kind of work at a time over all events: its code and tables stay in the processor's nearest memory.
    named = [_items(event) for event in events]
    roots = [b"" if isinstance(items, Rejected) else items_root(items) for items in named]
    shown = [_clear(event) for event in events]
    hidden = [pair for _, pairs in shown for pair in pairs]
    drawn = random(SALT_BYTES * len(hidden))
    salts = b64u_each([drawn[start : start + SALT_BYTES] for start in range(0, len(drawn), SALT_BYTES)], SALT_BYTES)
    texts = [
        b64u_bytes(b'["%b",%b,%b]' % (salt.encode("ascii"), _name(name), dump_parsed(value)))
        for salt, (name, value) in zip(salts, hidden, strict=True)
    ]
    digests = b64u_each([hashlib.sha256(text).digest() for text in texts], HASH_BYTES)
    found = [
        Disclosure(text.decode("ascii"), name, value, digest)
        for text, (name, value), digest in zip(texts, hidden, digests, strict=True)
    ]
    concealed: list[Concealed | Rejected] = []
    end = 0
    for event, items, root, (clear, pairs) in zip(events, named, roots, shown, strict=True):
        start, end = end, end + len(pairs)
        concealed.append(items if isinstance(items, Rejected) else _whole(event, items, root, clear, found[start:end]))
    return concealed


def _items(event: Mapping[str, Any]) -> tuple[EventItem, ...] | Rejected:
    try:
        return event_items(event)
    except Rejected as error:
        return error


def _clear(event: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """What of an event stands in clear, and the members that do not."""
    clear: dict[str, Any] = {name: event[name] for name in CLEAR if name in event}
    hidden = [pair for pair in event.items() if pair[0] not in _CLEAR]
    declaration = event.get("errorDeclaration")
    if declaration is not None:
        clear["errorDeclaration"] = {name: declaration[name] for name in ERROR_CLEAR if name in declaration}
        rest = {name: value for name, value in declaration.items() if name not in ERROR_CLEAR}
        if rest:
            hidden.append((ERROR_REST, rest))
    return clear, hidden


def _whole(
    event: Mapping[str, Any],
    items: tuple[EventItem, ...],
    root: bytes,
    clear: dict[str, Any],
    disclosures: list[Disclosure],
) -> Concealed | Rejected:
    disclosures.sort(key=_DIGEST)
    clear["items"] = {"n": len(items), "root": b64u(root)}
    clear["_sd"] = [digest for _, _, _, digest in disclosures]
    disclosed = sum([len(text) for text, _, _, _ in disclosures]) + len(disclosures)
    text = dump_parsed(clear)
    if _is_full(len(text) + 1, disclosed):
        sentence = f"The event is too large for a message of {PUBLISH_BYTES_MAX} bytes; say it in several events."
        return Rejected(sentence, code="event_too_large")
    return Concealed(event, clear, text, tuple(disclosures), items, root, disclosed)


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
