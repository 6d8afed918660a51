"""Faults on demand, seeded: a bad network between device and broker, and devices that lie or are attacked."""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.canonical import b64u, dump_json, parse_json, sha256, unb64u
from core.crypto import P256Private
from core.errors import Rejected
from core.message import JWT_BYTES_MAX, PUBLISH_BYTES_MAX, TYP
from simulators.connection import Wire
from simulators.devices import Device
from simulators.outbox import WAITING, Entry, Outbox, Settled
from simulators.randomness import Drbg

KEPT_FOR_REPLAY = 64
_MEMORY = Path(":memory:")
_TIMES = frozenset({"eventTime", "time", "startTime", "endTime"})
_READINGS = frozenset({"value", "minValue", "maxValue", "meanValue"})
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Rates:
    """How often, per publish, each network fault happens: 0 never, 1 always.

    Attributes:
        duplicate: the bytes go twice.
        reorder: they go after the next publish of the same device.
        delay: they go after ``delay_s`` seconds.
        drop: they do not go; the device sends them again when no receipt comes.
        replay: some older bytes go as well.
        flip: a copy with one flipped bit goes as well.
    """

    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    drop: float = 0.0
    replay: float = 0.0
    flip: float = 0.0
    delay_s: float = 1.0


@dataclass
class Made:
    """What the faults did, to reconcile with what the service reports.

    Attributes:
        counts: how often each fault happened.
        hostile: SHA-256 of each publish that nobody may accept.
    """

    counts: Counter[str] = field(default_factory=Counter)
    hostile: set[bytes] = field(default_factory=set)


class BadNetwork:
    """Makes faulty wires; give ``wrap`` to ``Fleet`` or ``Connection``.

    Args:
        rates: how often each fault happens.
        seed: equal seeds and publishes give equal faults.
        clock: seconds that never go back, for delays.
    """

    def __init__(self, rates: Rates, *, seed: int | str, clock: Callable[[], float]) -> None:
        self.rates = rates
        self.made = Made()
        self._seed = seed
        self._clock = clock

    def wrap(self, device: Device, wire: Wire) -> Wire:
        """A wire with faults for one device; faults of one device do not depend on those of another."""
        return _FaultyWire(self, wire, Drbg.of(self._seed, "network", device.kid))

    @property
    def now(self) -> float:
        """The clock."""
        return self._clock()


class _FaultyWire:
    def __init__(self, network: BadNetwork, wire: Wire, drbg: Drbg) -> None:
        self._network = network
        self._wire = wire
        self._drbg = drbg
        self._held: deque[tuple[float, str, bytes]] = deque()
        self._old: deque[tuple[str, bytes]] = deque(maxlen=KEPT_FOR_REPLAY)

    def __call__(self, topic: str, payload: bytes) -> bool:
        rates, counts = self._network.rates, self._network.made.counts
        now = self._network.now
        due = [held for held in self._held if held[0] <= now]
        self._held = deque(held for held in self._held if held[0] > now)
        sent = True
        if self._drbg.chance(rates.drop):
            counts["drop"] += 1
        elif self._drbg.chance(rates.delay):
            counts["delay"] += 1
            self._held.append((now + rates.delay_s, topic, payload))
        elif self._drbg.chance(rates.reorder):
            counts["reorder"] += 1
            self._held.append((0.0, topic, payload))
        else:
            sent = self._wire(topic, payload)
        for _, old_topic, old in due:
            # What the network refuses now is lost for this time; the device sends it again.
            self._wire(old_topic, old)
        if not sent:
            return False
        if self._drbg.chance(rates.duplicate):
            counts["duplicate"] += 1
            self._wire(topic, payload)
        self._add_hostile(topic, payload)
        self._old.append((topic, payload))
        return True

    def _add_hostile(self, topic: str, payload: bytes) -> None:
        rates, made = self._network.rates, self._network.made
        if self._old and self._drbg.chance(rates.replay):
            made.counts["replay"] += 1
            self._wire(*self._drbg.choice(self._old))
        if self._drbg.chance(rates.flip):
            made.counts["flip"] += 1
            flipped = flip(payload, self._drbg.below(8 * len(payload)))
            made.hostile.add(sha256(flipped))
            self._wire(topic, flipped)


def flip(raw: bytes, bit: int) -> bytes:
    """The bytes with one bit turned over."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def equivocation(device: Device, events: Sequence[Mapping[str, Any]], now: int) -> Entry:
    """Another message at the place of the device's last one: both are signed, one is a lie.

    Raises:
        Rejected: ``nothing_recorded`` when the device has said nothing yet.
    """
    seq, _ = device.outbox.head(device.config.name)
    last = device.outbox.at(device.config.name, seq - 1)
    if last is None:
        raise Rejected("A device that said nothing cannot contradict itself.", code="nothing_recorded")
    return device.sign(events, now, seq=last.seq, prev=last.prev)


def clone(device: Device, outbox: Outbox) -> Device:
    """A second device with the same key and the same past, from a stolen disk; they contradict each other soon.

    Args:
        outbox: an empty one for the clone.
    """
    name = device.config.name
    past = device.outbox.entries(name)
    outbox.append(name, [replace(entry, raw=entry.raw or b"-") for entry in past])
    gone = [Settled(each.seq, each.state, each.code, b"-") for each in past if each.state != WAITING]
    outbox.settle(name, gone)
    return Device(device.config, device.key, outbox)


def under_wrong_key(device: Device, key: P256Private, events: Sequence[Mapping[str, Any]], now: int) -> Entry:
    """The device's next message, signed by somebody else who names his own key."""
    seq, prev = device.outbox.head(device.config.name)
    return Device(device.config, key, Outbox(_MEMORY)).sign(events, now, seq=seq, prev=prev)


@dataclass(frozen=True)
class DriftedClock:
    """A clock that was wrong by ``offset_s`` at ``set_at`` and gains ``ppm`` millionths since."""

    set_at: int
    offset_s: int = 0
    ppm: float = 0.0

    def at(self, true: int) -> int:
        """What it shows at the true time, unix seconds."""
        return true + self.offset_s + round((true - self.set_at) * self.ppm / 1e6)

    def event(self, event: Mapping[str, Any], true: int) -> dict[str, Any]:
        """The event as a device with this clock would time it, sensor times included."""
        shift = timedelta(seconds=self.at(true) - true)
        moved: dict[str, Any] = _shifted(event, shift)
        return moved


def tampered_sensor(event: Mapping[str, Any], *, offset: Decimal) -> dict[str, Any]:
    """The event with every reading of its sensors moved: a lie before signing, which no signature shows."""
    changed = dict(event)
    if "sensorElementList" not in event:
        return changed
    changed["sensorElementList"] = [
        element
        | {
            "sensorReport": [
                {name: value + offset if name in _READINGS else value for name, value in report.items()}
                for report in element["sensorReport"]
            ]
        }
        for element in event["sensorElementList"]
    ]
    return changed


def hostile_messages(device: Device, event: Mapping[str, Any], now: int, drbg: Drbg) -> dict[str, bytes]:
    """Publishes that nobody may accept, by the name of their fault; the device itself is honest.

    Args:
        device: whose identity is abused; its chain is not touched.
        event: a good event with at least one disclosed member.
        now: unix seconds.
    """
    seq, prev = device.outbox.head(device.config.name)
    good = device.sign([event], now, seq=seq, prev=prev).raw
    jwt, *texts = good[:-1].split(b"~")
    header, payload, signature = jwt.split(b".")
    content = parse_json(unb64u(payload.decode()), bytes_max=JWT_BYTES_MAX)
    other = P256Private.from_secret(drbg.take(32))
    text = dump_json(content)

    def signed(payload_bytes: bytes, *, key: P256Private = device.key, **members: str) -> bytes:
        head = {"alg": "ES256", "typ": TYP, "kid": device.kid} | members
        signing = f"{b64u(dump_json(head))}.{b64u(payload_bytes)}".encode()
        return _join(signing + b"." + b64u(key.sign(signing)).encode(), texts)

    raw_signature = unb64u(signature.decode())
    high_s = raw_signature[:32] + (_P256_ORDER - int.from_bytes(raw_signature[32:])).to_bytes(32)
    salt, name, value = parse_json(unb64u(texts[0].decode()), bytes_max=PUBLISH_BYTES_MAX)
    lie = b64u(dump_json([salt, name, [value, "changed"]])).encode()
    return {
        "unknown_key": under_wrong_key(device, other, [event], now).raw,
        "wrong_signature": signed(text, key=other),
        "wrong_algorithm": signed(text, alg="none"),
        "wrong_type": signed(text, typ="JWT"),
        "high_s": _join(header + b"." + payload + b"." + b64u(high_s).encode(), texts),
        "no_signature": _join(header + b"." + payload + b".", texts),
        "changed_payload": _join(
            header + b"." + b64u(dump_json(content | {"iat": now + 1})).encode() + b"." + signature, texts
        ),
        "changed_disclosure": _join(jwt, [lie, *texts[1:]]),
        "missing_disclosure": _join(jwt, texts[1:]),
        "doubled_disclosure": _join(jwt, [*texts, texts[0]]),
        "decoy_disclosure": _join(jwt, [*texts, b64u(dump_json([b64u(drbg.take(16)), "demo:x", 1])).encode()]),
        "padded": _join(jwt + b"=", texts),
        "other_audience": signed(dump_json(content | {"aud": "elsewhere.example"})),
        "other_organisation": signed(dump_json(content | {"org": "https://id.gs1.org/417/9526099000015"})),
        "other_device": signed(dump_json(content | {"iss": "https://id.gs1.org/8004/9526099X"})),
        "not_a_number": signed(text.replace(b'"iat":%d' % now, b'"iat":NaN')),
        "doubled_key": signed(text.replace(b'{"v":1', b'{"v":1,"v":1', 1)),
        "large_integer": signed(text.replace(b'"iat":%d' % now, b'"iat":9007199254740993')),
        "too_deep": signed(text.replace(b'"events":[', b'"events":[' + b"[" * 40 + b"]" * 40 + b",", 1)),
        "negative_seq": signed(dump_json(content | {"seq": -1})),
        "first_with_prev": signed(dump_json(content | {"seq": 0, "prev": b64u(bytes(32))})),
        "too_large": good + b"x" * (PUBLISH_BYTES_MAX + 1 - len(good)),
        "noise": drbg.take(400),
        "empty": b"",
    }


def _join(jwt: bytes, texts: Sequence[bytes]) -> bytes:
    return b"".join(itertools.chain((jwt, b"~"), *((text, b"~") for text in texts)))


def _shifted(value: Any, shift: timedelta, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _shifted(member, shift, key) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_shifted(member, shift, name) for member in value]
    if name in _TIMES and isinstance(value, str):
        moved = datetime.fromisoformat(value) + shift
        return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value
