"""Runs a fleet as a load generator: simulated time, one commit a round, back-pressure, a progress line."""

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.crypto import Jwk
from simulators.connection import Fleet, Wrap
from simulators.devices import RESEND_S, Device, DeviceConfig
from simulators.fleet_scenario import FleetPlan
from simulators.outbox import Entry, Outbox
from simulators.randomness import Drbg

# Our own figures: enough per commit to make it cheap, little enough that receipts are not left waiting.
MESSAGES_PER_ROUND = 200
WAITING_MAX = 20_000
PROGRESS_S = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        elapsed_s: seconds since the start of the run; at: simulated unix seconds.
        devices, connected: how many there are and how many have a connection.
        messages, events: signed and on disk so far; receipts: messages let go; waiting: those that are not.
        is_held: the fleet waits for receipts before it says more.
    """

    elapsed_s: float
    at: int
    devices: int
    connected: int
    messages: int
    events: int
    receipts: int
    waiting: int
    is_held: bool

    def line(self) -> str:
        """One line for a person."""
        rate = self.receipts / self.elapsed_s if self.elapsed_s else 0.0
        held = ", waiting for receipts" if self.is_held else ""
        return (
            f"{self.connected}/{self.devices} devices, {self.messages:,} messages, {self.events:,} events, "
            f"{self.receipts:,} receipts ({rate:,.0f}/s), {self.waiting:,} open{held}"
        )


class Generator:
    """What a fleet says, in order of simulated time; pure but for the outbox it writes to.

    Args:
        plan: the fleet.
        players: its devices by handle.
        outbox: the one they share.
        start: simulated unix seconds of the first moment.
    """

    def __init__(self, plan: FleetPlan, players: Mapping[str, Device], outbox: Outbox, *, start: int) -> None:
        self.messages = 0
        self.events = 0
        self.at = start
        self._devices = {device.name: device for device in plan.devices}
        self._players = players
        self._outbox = outbox
        self._queue: list[tuple[int, int, str]] = []
        for number, device in enumerate(plan.devices):
            # Devices of one group are not in step: each has its own place in the interval.
            offset = number * 7_919 % device.group.every_s
            heapq.heappush(self._queue, (start + 1 + offset, number, device.name))

    def advance(self, until: int, *, messages_max: int = MESSAGES_PER_ROUND) -> int:
        """Sign what falls due up to ``until`` and store it in one commit.

        Returns:
            How many messages were made; ``messages_max`` when more are due.
        """
        made: list[tuple[str, Entry]] = []
        taken: set[str] = set()
        while self._queue and self._queue[0][0] <= until and len(made) < messages_max:
            at, number, name = self._queue[0]
            if name in taken:
                break  # its next message needs the stored one as predecessor
            heapq.heapreplace(self._queue, (at + self._devices[name].group.every_s, number, name))
            self.at = at
            events = self._devices[name].source(at)
            if not events:
                continue
            made.append((name, self._players[name].sign_next(events, at)))
            taken.add(name)
            self.events += len(events)
        self._outbox.append_all(made)
        for name, entry in made:
            self._players[name].recorded(entry)
        self.messages += len(made)
        if len(made) < messages_max and not (self._queue and self._queue[0][0] <= until):
            self.at = until
        return len(made)

    @property
    def next_at(self) -> int:
        """The simulated time of the next message."""
        return self._queue[0][0]


def players(
    plan: FleetPlan,
    outbox: Outbox,
    *,
    aud: str,
    receipt_keys: Sequence[Jwk],
    passwords: Mapping[str, str] | None = None,
    seed: int | str | None = None,
    resend_s: float = RESEND_S,
) -> dict[str, Device]:
    """The signing devices of a fleet, by handle, all with one outbox.

    Args:
        passwords: for the broker, by the device's path ``{GLN}/{device}``; none where nobody is asked.
        seed: makes the salts repeatable; None for the system's randomness.
        resend_s: seconds after which a message without a receipt goes again, at first.
    """
    found = {}
    for device in plan.devices:
        org = plan.cast.organisation(device.group.org).id
        config = DeviceConfig.of(
            device.name, aud=aud, org=org, iss=plan.cast.iss(device.name), receipt_keys=tuple(receipt_keys)
        )
        if passwords is not None:
            # The client id is the user name.
            login = {"username": config.path, "password": passwords.get(config.path, "")}
            config = DeviceConfig(**{**vars(config), **login})
        salts = None if seed is None else _salts(Drbg.of(seed, "salts", device.name))
        found[device.name] = Device(config, device.key, outbox, salts=salts, resend_s=resend_s)
    return found


def run_fleet(
    plan: FleetPlan,
    *,
    folder: Path,
    url: str,
    aud: str,
    receipt_keys: Sequence[Jwk],
    start: int,
    duration_s: float,
    speed: float = 1.0,
    messages_max: int | None = None,
    passwords: Mapping[str, str] | None = None,
    wrap: Wrap | None = None,
    ca_file: str | None = None,
    drain_s: float = 60.0,
    resend_s: float = RESEND_S,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Run a fleet for ``duration_s`` seconds, then wait for the last receipts.

    Args:
        folder: where the shared outbox is kept; a later run with the same folder and plan goes on in each chain.
        start: simulated unix seconds of the first moment.
        speed: simulated seconds per second; a large figure gives as many messages as the machine can make.
        messages_max: stop after so many messages.
        wrap: puts faults between devices and network.
        drain_s: seconds to wait for receipts at the end.
        progress: is told every second.

    Raises:
        Unavailable: ``no_receipt``; messages stay in the outbox for the next run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outbox = Outbox(folder / "fleet.db")
    found = players(plan, outbox, aud=aud, receipt_keys=receipt_keys, passwords=passwords, resend_s=resend_s)
    fleet = Fleet(found.values(), url, wrap=wrap, ca_file=ca_file, clock=clock)
    run = _Run(Generator(plan, found, outbox, start=start), fleet, start=start, clock=clock)
    told = clock()
    try:
        while run.elapsed_s < duration_s and (messages_max is None or run.generator.messages < messages_max):
            run.round(speed, messages_max)
            if progress is not None and clock() - told >= PROGRESS_S:
                told = clock()
                progress(run.progress())
        fleet.drain(drain_s)
        return run.progress()
    finally:
        fleet.stop()
        outbox.close()


class _Run:
    """One run: says what is due, serves the network, and counts."""

    def __init__(self, generator: Generator, fleet: Fleet, *, start: int, clock: Callable[[], float]) -> None:
        self.generator = generator
        self._fleet = fleet
        self._start = start
        self._clock = clock
        self._begun = clock()
        self._before = fleet.pending
        self._is_held = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._begun

    def round(self, speed: float, messages_max: int | None) -> None:
        """Make what is due by now, unless too much waits: a fleet never outruns its receipts."""
        self._is_held = self._fleet.pending >= WAITING_MAX
        room = MESSAGES_PER_ROUND
        if messages_max is not None:
            room = min(room, messages_max - self.generator.messages)
        due = self._start + int(self.elapsed_s * speed)
        made = 0 if self._is_held else self.generator.advance(due, messages_max=room)
        self._fleet.turn(0.0 if made else 0.01)

    def progress(self) -> Progress:
        """How far the run is."""
        waiting = self._fleet.pending
        return Progress(
            elapsed_s=self.elapsed_s,
            at=self.generator.at,
            devices=len(self._fleet.devices),
            connected=sum(connection.is_ready for connection in self._fleet.connections),
            messages=self.generator.messages,
            events=self.generator.events,
            receipts=self.generator.messages + self._before - waiting,
            waiting=waiting,
            is_held=self._is_held,
        )


def _salts(drbg: Drbg) -> Callable[[], bytes]:
    return lambda: drbg.take(16)
