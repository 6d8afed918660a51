"""Devices that lie or are attacked, for a whole fleet and on demand: by share or rate, seeded, counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.canonical import sha256
from core.crypto import P256Private
from core.errors import Rejected
from simulators.connection import Wire, Wrap
from simulators.devices import Device
from simulators.faults import (
    BadNetwork,
    DriftedClock,
    Made,
    Rates,
    clone,
    equivocation,
    tampered_sensor,
    under_wrong_key,
)
from simulators.fleet_scenario import FleetDevice, FleetPlan, Source
from simulators.outbox import Entry, Outbox
from simulators.randomness import Drbg

_MEMORY = Path(":memory:")
# Where a drifted clock stands at first: behind, ahead within what is taken, ahead beyond it (refused), and far back.
OFFSETS_S = (-7_200, 120, 3_600, -400 * 86_400)
DRIFT_PPM = 50.0
TAMPERED_BY = Decimal(-6)


@dataclass(frozen=True)
class Misbehaviour:
    """How often each fault happens; 0 never, 1 always.

    Attributes:
        network: what happens between device and broker, per publish.
        drifted_clock, tampered_sensor: share of the devices.
        wrong_key, equivocation, clone: per publish, one more message of that kind goes with it.
    """

    network: Rates = field(default_factory=Rates)
    drifted_clock: float = 0.0
    tampered_sensor: float = 0.0
    wrong_key: float = 0.0
    equivocation: float = 0.0
    clone: float = 0.0


def faults() -> list[str]:
    """The names of all faults, as ``read_faults`` takes them."""
    own = [each.name for each in fields(Misbehaviour) if each.name != "network"]
    return sorted(name.replace("_", "-") for name in [*own, *(each.name for each in fields(Rates))])


def read_faults(texts: Mapping[str, str]) -> Misbehaviour:
    """The faults named by ``name=value``: a rate or share from 0 to 1, for ``delay-s`` seconds.

    Raises:
        Rejected: ``bad_fault``.
    """
    values: dict[str, float] = {}
    for name, text in texts.items():
        member = name.replace("-", "_")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name not in faults() or not 0 <= value <= (3_600 if member == "delay_s" else 1):
            raise Rejected(
                f"A fault is NAME=RATE with a rate from 0 to 1; names are {', '.join(faults())}.",
                code="bad_fault",
                pointer=name,
            )
        values[member] = value
    of_network = {each.name for each in fields(Rates)}
    rates = Rates(**{name: value for name, value in values.items() if name in of_network})
    return Misbehaviour(rates, **{name: value for name, value in values.items() if name not in of_network})


class Troublemaker:
    """Lets a fleet misbehave: ``plan`` changes what devices say, ``wrap`` what goes over their wires.

    Args:
        seed: equal seeds choose the same devices and make the same faults at the same publishes.
        now: unix seconds by which lies are signed. clock: seconds that never go back, for delays.
    """

    def __init__(
        self,
        asked: Misbehaviour,
        *,
        seed: int | str,
        start: int,
        now: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._asked = asked
        self._drbg = Drbg.of(seed, "misbehaviour")
        self._seed, self._start, self._now = seed, start, now
        self._network = BadNetwork(asked.network, seed=seed, clock=clock)
        self._said: dict[str, list[Mapping[str, Any]]] = {}
        self.drifted: dict[str, int] = {}
        self.tampered: set[str] = set()

    @property
    def made(self) -> Made:
        """What was done so far, to reconcile with what the service reports."""
        return self._network.made

    def plan(self, plan: FleetPlan) -> FleetPlan:
        """The fleet with drifted clocks and tampered sensors."""
        return replace(plan, devices=tuple(self._turned(device) for device in plan.devices))

    def wrap(self, device: Device, wire: Wire) -> Wire:
        """A wire with a bad network behind it and lies beside what the device says."""
        behind: Wrap = self._network.wrap
        return _LyingWire(self, device, behind(device, wire), self._drbg.child("wire", device.config.name))

    def _turned(self, device: FleetDevice) -> FleetDevice:
        drbg, name = self._drbg.child("device", device.name), device.name
        source = device.source
        if drbg.chance(self._asked.tampered_sensor):
            self.tampered.add(name)
            source = _tampered(source)
        if drbg.chance(self._asked.drifted_clock):
            offset_s = drbg.choice(OFFSETS_S)
            self.drifted[name] = offset_s
            source = _drifted(source, DriftedClock(self._start, offset_s, DRIFT_PPM))
        return replace(device, source=self._remembering(name, source))

    def _remembering(self, name: str, source: Source) -> Source:
        def remembering(at: int) -> list[Any]:
            events = source(at)
            if events:
                self._said[name] = list(events)
            return events

        return remembering

    def lies(self, device: Device, drbg: Drbg) -> list[bytes]:
        """What goes beside the next publish of a device."""
        asked, events = self._asked, self._said.get(device.config.name)
        if not events:
            return []
        told, now = [], self._now()
        if drbg.chance(asked.wrong_key):
            lie = under_wrong_key(device, P256Private.from_secret(drbg.take(32)), events, now)
            self.made.hostile.add(sha256(lie.raw))
            told.append(self._count("wrong_key", lie))
        if drbg.chance(asked.equivocation):
            told.append(self._count("equivocation", equivocation(device, events, now)))
        if drbg.chance(asked.clone):
            thief = clone(device, Outbox(_MEMORY))
            told.append(self._count("clone", thief.record(events, now)))
            thief.outbox.close()
        return told

    def _count(self, name: str, entry: Entry) -> bytes:
        self.made.counts[name] += 1
        return entry.raw


class _LyingWire:
    def __init__(self, maker: Troublemaker, device: Device, wire: Wire, drbg: Drbg) -> None:
        self._maker, self._device, self._wire, self._drbg = maker, device, wire, drbg

    def __call__(self, topic: str, payload: bytes) -> bool:
        if not self._wire(topic, payload):
            return False
        for lie in self._maker.lies(self._device, self._drbg):
            self._wire(topic, lie)
        return True


def _tampered(source: Source) -> Source:
    return lambda at: [tampered_sensor(event, offset=TAMPERED_BY) for event in source(at)]


def _drifted(source: Source, clock: DriftedClock) -> Source:
    return lambda at: [clock.event(event, at) for event in source(at)]
