"""A signing device: key, disk outbox, sequence; it sends the same bytes until it holds a receipt for them."""

import json
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from core.canonical import parse_json
from core.crypto import Jwk, P256Private, P256Public
from core.errors import Rejected, Unavailable
from core.identifiers import giai_id, gln_of
from core.message import SALT_BYTES, issue, split
from core.receipts import open_receipt, publish_hash
from simulators.outbox import ACCEPTED, REFUSED, Entry, Outbox, Settled

KEY_FILE, CONFIG_FILE, OUTBOX_FILE = "key.pem", "device.json", "outbox.db"
# Our own figures: a receipt comes within a second on a healthy system, and a window of 32 keeps a device at
# hundreds of messages a second even then.
IN_FLIGHT_MAX = 32
WAITING_MAX = 100_000
RESEND_S, RESEND_S_MAX = 20.0, 300.0
# A message that gets no answer so often (it is quarantined) no longer holds up those behind it.
PATIENCE = 3
COMMAND_BYTES_MAX = 4_096

Publish = Callable[[str, bytes], bool]
"""Hands bytes for a topic to the network; False when it takes no more at present."""


@dataclass(frozen=True)
class DeviceConfig:
    """What a device knows about itself and whom it trusts.

    Attributes:
        name: short handle, unique in one outbox.
        aud: the service its messages are for.
        org, giai: its organisation's Digital Link (AI 417) and its own GIAI without markup.
        receipt_keys: public keys by which the service signs receipts.
        username, password: for the broker; empty where the broker asks nobody.
    """

    name: str
    aud: str
    org: str
    giai: str
    receipt_keys: tuple[Jwk, ...] = ()
    username: str = ""
    password: str = ""

    @property
    def iss(self) -> str:
        """The device's Digital Link (AI 8004)."""
        return giai_id(self.giai)

    @property
    def path(self) -> str:
        """Its two topic levels, GLN and escaped GIAI: also its MQTT client id."""
        # Clustered brokers turn "/" into ".", so a dot may not stand in a level either.
        level = quote(self.giai, safe="-_").replace(".", "%2E").replace("~", "%7E")
        return f"{gln_of(self.org)}/{level}"

    def topic(self, kind: str) -> str:
        """Its topic for events, receipts or commands."""
        return f"tb/1/{self.path}/{kind}"

    @classmethod
    def of(cls, name: str, *, aud: str, org: str, iss: str, **more: Any) -> "DeviceConfig":
        """The configuration of a device named by its Digital Link (AI 8004)."""
        giai = unquote(iss.rsplit("/8004/", 1)[-1])
        return cls(name=name, aud=aud, org=org, giai=giai, **more)


@dataclass
class _Flight:
    due: float
    attempts: int
    sent_at: float


class Device:
    """One device. Any thread may record; one thread pumps and takes receipts.

    Args:
        config: who it is.
        key: its signing key.
        outbox: where its messages stay until a receipt comes; may be shared with other devices.
        salts: gives 16 random bytes a call.
    """

    def __init__(
        self,
        config: DeviceConfig,
        key: P256Private,
        outbox: Outbox,
        *,
        salts: Callable[[], bytes] | None = None,
        in_flight_max: int = IN_FLIGHT_MAX,
        resend_s: float = RESEND_S,
    ) -> None:
        self.config = config
        self.key = key
        self.outbox = outbox
        self.ignored = 0
        self._salts = salts or (lambda: secrets.token_bytes(SALT_BYTES))
        self._receipt_keys = [P256Public.from_jwk(jwk) for jwk in config.receipt_keys]
        self._in_flight_max = in_flight_max
        self._resend_s = resend_s
        self._lock = threading.Lock()
        self._next_seq, self._prev = outbox.head(config.name)
        self._waiting = outbox.counts(config.name)["waiting"]
        self._flights: OrderedDict[int, _Flight] = OrderedDict()
        self._next_due = self._now = self._latency_s = 0.0
        self._offered = -1
        self._settled: dict[int, Settled] = {}

    @classmethod
    def create(cls, folder: Path, config: DeviceConfig, key: P256Private, **more: Any) -> "Device":
        """A new device in its own folder: key file of mode 600, configuration, outbox.

        Raises:
            Rejected: ``device_exists``; a device never gets a second key in the same outbox.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / KEY_FILE).exists():
            raise Rejected(f"There is a device in {folder.name} already.", code="device_exists")
        _write_private(folder / KEY_FILE, key.to_pem())
        _write_private(folder / CONFIG_FILE, json.dumps(asdict(config), indent=1, ensure_ascii=False).encode())
        return cls(config, key, Outbox(folder / OUTBOX_FILE), **more)

    @classmethod
    def open(cls, folder: Path, **more: Any) -> "Device":
        """The device in a folder, going on where it stopped.

        Raises:
            Rejected: ``no_device`` when the folder holds none, ``bad_key`` when its key cannot be read.
        """
        try:
            key = P256Private.from_pem((folder / KEY_FILE).read_bytes())
            members = parse_json((folder / CONFIG_FILE).read_bytes(), bytes_max=100_000)
        except FileNotFoundError as error:
            raise Rejected(f"There is no device in {folder.name}.", code="no_device") from error
        members["receipt_keys"] = tuple(members.get("receipt_keys", ()))
        return cls(DeviceConfig(**members), key, Outbox(folder / OUTBOX_FILE), **more)

    @property
    def kid(self) -> str:
        """The thumbprint of its key."""
        return self.key.thumbprint()

    @property
    def pending(self) -> int:
        """How many messages still wait for a receipt."""
        return self._waiting

    @property
    def has_settled(self) -> bool:
        """Whether receipts were taken that are not yet written."""
        return bool(self._settled)

    def configure(self, folder: Path, config: DeviceConfig) -> None:
        """Take other receipt keys or credentials, and keep them in the folder."""
        _write_private(folder / CONFIG_FILE, json.dumps(asdict(config), indent=1, ensure_ascii=False).encode())
        self._receipt_keys = [P256Public.from_jwk(jwk) for jwk in config.receipt_keys]
        self.config = config

    def record(self, events: Sequence[Mapping[str, Any]], now: int, **more: Any) -> Entry:
        """Sign events once and keep the message on disk, in one commit; it is sent by ``pump``.

        Args:
            events: EPCIS events, valid or not: the receiver judges them.
            now: unix seconds by the device's clock.

        Raises:
            Rejected: ``too_large`` or ``too_many_events``: split them.
            Unavailable: the outbox is full or the disk away; nothing was recorded.
        """
        with self._lock:
            entry = self.sign(events, now, seq=self._next_seq, prev=self._prev, **more)
            if self._waiting >= WAITING_MAX:
                raise Unavailable("The outbox is full; wait for receipts.", code="outbox_full")
            self.outbox.append(self.config.name, [entry])
            self.recorded(entry)
        return entry

    def sign(
        self, events: Sequence[Mapping[str, Any]], now: int, *, seq: int, prev: bytes | None, **more: Any
    ) -> Entry:
        """A message at a place in the chain, signed but not kept; ``more`` as for ``core.message.issue``."""
        raw = issue(
            events,
            aud=self.config.aud,
            org=self.config.org,
            iss=self.config.iss,
            iat=now,
            seq=seq,
            prev=prev,
            key=self.key,
            salts=self._salts,
            **more,
        )
        return Entry(seq, split(raw).id, prev, raw)

    def sign_next(self, events: Sequence[Mapping[str, Any]], now: int) -> Entry:
        """The next message of the chain, signed; a fleet stores many in one commit, then calls ``recorded``."""
        return self.sign(events, now, seq=self._next_seq, prev=self._prev)

    def recorded(self, entry: Entry) -> None:
        """Note that a message is on disk now: the chain goes on from it, whatever becomes of it."""
        self._next_seq, self._prev = entry.seq + 1, entry.id
        self._waiting += 1

    def is_due(self, now: float) -> bool:
        """Whether ``pump`` has something to do."""
        self._now = now
        return bool(self._settled) or self._has_news() or (bool(self._flights) and self._next_due <= now)

    def pump(self, publish: Publish, now: float) -> int:
        """Send what is due: new messages within the window, then those whose receipt is late.

        Args:
            publish: puts bytes on a topic.
            now: seconds of a clock that never goes back.

        Returns:
            How many messages were handed to ``publish``.
        """
        self._now = now
        self.flush()
        sent = self._send_late(publish, now)
        sent += self._send_new(publish, now)
        self._next_due = min((flight.due for flight in self._flights.values()), default=0.0)
        return sent

    def _send_late(self, publish: Publish, now: float) -> int:
        topic, sent = self.config.topic("events"), 0
        late = [seq for seq, flight in self._flights.items() if flight.due <= now]
        for seq in late[: self._in_flight_max]:
            entry = self.outbox.at(self.config.name, seq)
            if entry is None or entry.state != "waiting":
                del self._flights[seq]
                continue
            if not publish(topic, entry.raw):
                return sent
            self._in_flight(seq, now)
            sent += 1
        return sent

    def _send_new(self, publish: Publish, now: float) -> int:
        if not self._has_news():
            return 0
        topic, sent = self.config.topic("events"), 0
        room = self._in_flight_max - sum(flight.attempts <= PATIENCE for flight in self._flights.values())
        for entry in self.outbox.waiting(self.config.name, after=self._offered, limit=max(0, room)):
            if not publish(topic, entry.raw):
                return sent
            self._offered = entry.seq
            self._in_flight(entry.seq, now)
            sent += 1
        return sent

    def reconnected(self) -> None:
        """A new connection: everything sent on the old one is due again at once."""
        for flight in self._flights.values():
            flight.due = 0.0
        self._next_due = 0.0

    def take_receipt(self, raw: bytes) -> bool:
        """Let a message go if this is a true receipt for the very bytes that are kept.

        A forged receipt, one for other bytes, one of another service: each is counted and ignored.
        """
        for key in self._receipt_keys:
            try:
                receipt = open_receipt(raw, key)
            except Rejected:
                continue
            entry = self.outbox.find(self.config.name, receipt.message)
            if receipt.payload["aud"] != self.config.aud or entry is None:
                break
            if entry.state != "waiting" or entry.seq in self._settled:
                return True
            if receipt.sent != publish_hash(entry.raw):
                break
            state = ACCEPTED if receipt.refused is None else REFUSED
            self._settled[entry.seq] = Settled(entry.seq, state, receipt.refused or "", raw)
            self._landed(self._flights.pop(entry.seq, None))
            return True
        self.ignored += 1
        return False

    def take_command(self, raw: bytes) -> bool:
        """Obey ``{"v":1,"t":"resend","kid":..,"from":seq,"to":seq}``: messages of that range are due at once.

        What holds a receipt is not sent again: the service has it and has promised to keep it. Without ``kid`` the
        command is for the present key.
        """
        try:
            command = parse_json(raw, bytes_max=COMMAND_BYTES_MAX)
        except Rejected:
            command = None
        if not isinstance(command, dict) or command.get("t") != "resend":
            self.ignored += 1
            return False
        first, last = command.get("from"), command.get("to")
        if type(first) is not int or type(last) is not int or command.get("kid", self.kid) != self.kid:
            self.ignored += 1
            return False
        for seq, flight in self._flights.items():
            if first <= seq <= last:
                flight.due = self._next_due = 0.0
        return True

    def flush(self) -> None:
        """Write the receipts taken since the last time, in one commit."""
        flush_all([self])

    def close(self) -> None:
        """Write what is left and close the outbox."""
        self.flush()
        self.outbox.close()

    @property
    def settled(self) -> list[Settled]:
        """The receipts taken and not yet written."""
        return list(self._settled.values())

    def written(self) -> None:
        """Note that all receipts taken are on disk."""
        with self._lock:
            self._waiting -= len(self._settled)
        self._settled.clear()

    def _has_news(self) -> bool:
        if self._offered >= self._next_seq - 1:
            return False
        return sum(flight.attempts <= PATIENCE for flight in self._flights.values()) < self._in_flight_max

    def _in_flight(self, seq: int, now: float) -> None:
        before = self._flights.pop(seq, None)
        attempts = before.attempts if before else 0
        # A slow service is not helped by sending twice: wait several times as long as receipts take at present.
        base = max(self._resend_s, 4 * self._latency_s)
        # Back-off, each message by its own share, so that a fleet does not come back in one wave.
        wait = min(base * 2**attempts, max(base, RESEND_S_MAX)) * (1 + (seq * 37 % 25) / 100)
        self._flights[seq] = _Flight(now + wait, attempts + 1, now)

    def _landed(self, flight: _Flight | None) -> None:
        # Only messages sent once tell how long a receipt takes (Karn's rule).
        if flight is not None and flight.attempts == 1:
            self._latency_s += (max(0.0, self._now - flight.sent_at) - self._latency_s) / 8


def flush_all(devices: Iterable[Device]) -> None:
    """Write the receipts that devices have taken: one commit for each outbox they share."""
    taken: dict[Outbox, list[Device]] = {}
    for device in devices:
        if device.has_settled:
            taken.setdefault(device.outbox, []).append(device)
    for outbox, theirs in taken.items():
        outbox.settle_all([(device.config.name, settled) for device in theirs for settled in device.settled])
        for device in theirs:
            device.written()


def _write_private(path: Path, data: bytes) -> None:
    """Replace a file as a whole, readable by its owner alone."""
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
