"""Token buckets per device and organisation, before any signature is checked: a flood delays itself, nobody else."""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

DEFERRED_DEVICE_MAX = 200
NAMES_MAX = 100_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rate:
    """Messages a second in the long run, and how many may come at once."""

    per_s: float
    burst: float


DEVICE = Rate(1_000, 5_000)
STRANGER = Rate(20, 200)
ORG = Rate(20_000, 100_000)
# What a delivery that went to quarantine costs, in messages: garbage slows its sender more than work does.
FAULT_COST = 10


def scope_rate(scope: Mapping[str, Any] | None) -> Rate:
    """The rate in a key's scope, or the one for known or unknown keys."""
    if scope is None:
        return STRANGER
    found = scope.get("rate")
    if not isinstance(found, Mapping):
        return DEVICE
    per_s, burst = found.get("per_s"), found.get("burst")
    chosen = float(per_s) if isinstance(per_s, int) and per_s > 0 else DEVICE.per_s
    return Rate(chosen, max(float(burst) if isinstance(burst, int) else chosen, 1.0))


class Buckets:
    """Token buckets by name; the least used are forgotten (a forgotten bucket is a full one)."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, rate: Rate, now_s: float, cost: float = 1.0) -> bool:
        """Whether the bucket has tokens for ``cost``; they are taken if so."""
        left = self.left(name, rate, now_s)
        is_allowed = left >= cost
        self._put(name, left - cost if is_allowed else left, now_s)
        return is_allowed

    def left(self, name: str, rate: Rate, now_s: float) -> float:
        """How many tokens are in the bucket."""
        left, then = self._buckets.get(name, (rate.burst, now_s))
        return min(rate.burst, left + max(0.0, now_s - then) * rate.per_s)

    def charge(self, name: str, cost: float) -> None:
        """Take tokens afterwards, into debt if need be."""
        if name in self._buckets:
            left, then = self._buckets[name]
            self._buckets[name] = (left - cost, then)

    def _put(self, name: str, left: float, now_s: float) -> None:
        self._buckets[name] = (left, now_s)
        self._buckets.move_to_end(name)
        if len(self._buckets) > NAMES_MAX:
            self._buckets.popitem(last=False)


class Ticket(NamedTuple, Generic[T]):
    """One delivery in line: who sent it, at which rate it may send, and the work itself."""

    device: str
    org: str
    rate: Rate
    work: T


class FairQueue(Generic[T]):
    """Lets through what the buckets allow, in each device's own order, and holds the rest back.

    Args:
        deferred_max: how many are held back in all. What a device sends beyond its own part (200) or beyond this is
            shed: it is not stored and gets no receipt, so it stays in the device's outbox and comes again.
    """

    def __init__(self, deferred_max: int) -> None:
        self._buckets = Buckets()
        self._lines: dict[str, deque[Ticket[T]]] = {}
        self._deferred_max = deferred_max
        self.deferred = 0

    def admit(self, tickets: Sequence[Ticket[T]], now_s: float) -> tuple[list[T], list[T]]:
        """What goes on now (held-back work first), and what is shed."""
        ready: list[T] = []
        shed: list[T] = []
        for device in list(self._lines):
            line = self._lines[device]
            while line and self._allows(line[0], now_s):
                ready.append(line.popleft().work)
                self.deferred -= 1
            if not line:
                del self._lines[device]
        if not self._lines and self._allows_all(tickets, now_s):
            return ready + [ticket.work for ticket in tickets], shed
        for ticket in tickets:
            if ticket.device not in self._lines and self._allows(ticket, now_s):
                ready.append(ticket.work)
                continue
            line = self._lines.setdefault(ticket.device, deque())
            if len(line) >= DEFERRED_DEVICE_MAX or self.deferred >= self._deferred_max:
                shed.append(ticket.work)
                continue
            line.append(ticket)
            self.deferred += 1
        return ready, shed

    def _allows_all(self, tickets: Sequence[Ticket[T]], now_s: float) -> bool:
        """Whether every bucket has enough for all of its tickets at once; nothing is taken otherwise."""
        devices: dict[str, int] = {}
        orgs: dict[str, int] = {}
        rates: dict[str, Rate] = {}
        for ticket in tickets:
            if rates.setdefault(ticket.device, ticket.rate) != ticket.rate:
                return False
            devices[ticket.device] = devices.get(ticket.device, 0) + 1
            orgs[ticket.org] = orgs.get(ticket.org, 0) + 1
        if not all(self._buckets.left(name, rates[name], now_s) >= cost for name, cost in devices.items()):
            return False
        if not all(self._buckets.left(name, ORG, now_s) >= cost for name, cost in orgs.items()):
            return False
        for name, cost in devices.items():
            self._buckets.take(name, rates[name], now_s, cost)
        for name, cost in orgs.items():
            self._buckets.take(name, ORG, now_s, cost)
        return True

    def charge(self, device: str) -> None:
        """Make a device pay for a delivery that went to quarantine."""
        self._buckets.charge(device, FAULT_COST)

    def _allows(self, ticket: Ticket[T], now_s: float) -> bool:
        if not self._buckets.take(ticket.device, ticket.rate, now_s):
            return False
        # The organisation's bucket is asked second, so that a device in excess does not drain it for its sisters.
        return self._buckets.take(ticket.org, ORG, now_s)
