"""Writes EPCIS 2.0.1 events as one device of a story does: in its organisation's spelling, at its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from simulators.cast import Cast
from simulators.keys import URN, Key, sscc
from simulators.randomness import Drbg

CONTEXT = "https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld"
DEMO = {"demo": "https://tracebond.example/voc/"}
_CHINA = timezone(timedelta(hours=8))

Event = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What one device signs in one message.

    Attributes:
        device: the device's handle in the cast.
        events: EPCIS 2.0.1 events with their own ``@context``.
        at: unix seconds of signing; no event is later.
    """

    device: str
    events: tuple[Event, ...]
    at: int


@dataclass(frozen=True)
class Quantity:
    """An amount of a class or lot; ``uom`` is a UN/ECE code, "" when pieces are counted."""

    key: Key
    amount: Decimal
    uom: str = ""


def decimal(value: float, places: int) -> Decimal:
    """A reading as the instrument prints it, with a fixed number of decimal places."""
    return Decimal(f"{value:.{places}f}")


@dataclass
class Ledger:
    """The steps written so far; a story's parts append to it in any order of time."""

    cast: Cast
    drbg: Drbg
    steps: list[Step] = field(default_factory=list)

    def scribe(self, device: str) -> "Scribe":
        """The scribe of one device."""
        return Scribe(self, device)

    def ordered(self) -> tuple[Step, ...]:
        """All steps by time; those of one second keep the order in which they were written."""
        return tuple(sorted(self.steps, key=lambda step: step.at))


class Scribe:
    """Writes the events of one device.

    Args:
        ledger: where its steps go.
        device: its handle in the cast.
    """

    def __init__(self, ledger: Ledger, device: str) -> None:
        self._ledger = ledger
        self._device = device
        spec = ledger.cast.device(device)
        self._spelling = ledger.cast.organisation(spec.org).spelling
        self._place = ledger.cast.place(spec.place).key if spec.place else None
        self._giai = ledger.cast.device_key(device)
        self._prefix = ledger.cast.organisation(spec.org).prefix

    def spell(self, key: Key) -> str:
        """The key as the device's organisation writes it."""
        return self._spelling.of(key)

    def unit(self, extension: int, number: int) -> Key:
        """A logistic unit of the device's own organisation."""
        return sscc(self._prefix, extension, number)

    def object(
        self,
        at: int,
        step: str,
        disposition: str,
        *,
        action: str = "OBSERVE",
        items: Sequence[Key] = (),
        quantities: Sequence[Quantity] = (),
        **more: Any,
    ) -> Event:
        """An ObjectEvent; ``more`` as for ``frame``."""
        body: Event = {"action": action}
        if items:
            body["epcList"] = [self.spell(key) for key in items]
        if quantities:
            body["quantityList"] = self._quantities(quantities)
        return self._frame("ObjectEvent", at, step, disposition, body, **more)

    def aggregation(
        self, at: int, step: str, disposition: str, *, action: str, parent: Key, children: Sequence[Key], **more: Any
    ) -> Event:
        """An AggregationEvent that puts children into a parent (ADD) or takes them out (DELETE)."""
        body = {"parentID": self.spell(parent), "childEPCs": [self.spell(key) for key in children], "action": action}
        return self._frame("AggregationEvent", at, step, disposition, body, **more)

    def transformation(
        self,
        at: int,
        disposition: str,
        *,
        name: str,
        inputs: Sequence[Quantity],
        outputs: Sequence[Quantity],
        **more: Any,
    ) -> Event:
        """A TransformationEvent that turns input lots into output lots; ``name`` ends its transformationID."""
        body = {
            "inputQuantityList": self._quantities(inputs),
            "outputQuantityList": self._quantities(outputs),
            "transformationID": f"https://tracebond.example/transformation/{name}",
        }
        return self._frame("TransformationEvent", at, "commissioning", disposition, body, **more)

    def write(self, at: int, *events: Event) -> None:
        """One message of these events, signed at ``at`` (unix seconds)."""
        self._ledger.steps.append(Step(self._device, events, at))

    def reading(
        self, reports: Sequence[Mapping[str, Any]], *, start: int | None = None, end: int, **metadata: Any
    ) -> list[Event]:
        """The sensorElementList of one look at this device's sensors.

        Args:
            reports: sensorReport objects.
            start: unix seconds at which a watched interval begins; None for a look at one moment.
            end: unix seconds of the moment, or of the interval's end.
            metadata: further sensorMetadata.
        """
        times = {"time": self.time(end)} if start is None else {}
        if start is not None:
            times = {"startTime": self.time(start), "endTime": self.time(end)}
        head = {**times, "deviceID": self.spell(self._giai), **metadata}
        return [{"sensorMetadata": head, "sensorReport": [dict(report) for report in reports]}]

    def transfer(self, source: Key, destination: Key, *, kind: str = "possessing_party") -> Event:
        """The sourceList and destinationList of a hand-over between two parties or places."""
        return {
            "sourceList": [{"type": kind, "source": self.spell(source)}],
            "destinationList": [{"type": kind, "destination": self.spell(destination)}],
        }

    def _quantities(self, quantities: Sequence[Quantity]) -> list[Event]:
        return [
            {"epcClass": self.spell(each.key), "quantity": each.amount} | ({"uom": each.uom} if each.uom else {})
            for each in quantities
        ]

    def time(self, at: int) -> str:
        """Unix seconds as this organisation writes a time."""
        # Some systems write UTC, others local time: readers must take both.
        zone = UTC if self._spelling == URN else _CHINA
        return datetime.fromtimestamp(at, zone).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _frame(
        self,
        kind: str,
        at: int,
        step: str,
        disposition: str,
        body: Event,
        *,
        point: str = "",
        location: Key | None = None,
        event_id: str = "",
        papers: Mapping[str, str] | None = None,
        demo: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Event:
        """The whole event.

        Args:
            point: a ``geo:`` URI where the device moves; else its own place is the readPoint.
            location: the bizLocation after the event, when it is not the readPoint.
            papers: business transactions, type to URI.
            demo: extension members, without their prefix.
            fields: further EPCIS members as they are.
        """
        event: Event = {"@context": [CONTEXT, DEMO] if demo else [CONTEXT], "type": kind}
        event["eventID"] = event_id or self._ledger.drbg.uuid()
        event |= {"eventTime": self.time(at), "eventTimeZoneOffset": "+08:00"} | body
        event |= {"bizStep": step, "disposition": disposition}
        if point or self._place:
            event["readPoint"] = {"id": point or self.spell(self._place)}  # type: ignore[arg-type]
        if location:
            event["bizLocation"] = {"id": self.spell(location)}
        if papers:
            event["bizTransactionList"] = [{"type": name, "bizTransaction": uri} for name, uri in papers.items()]
        event |= fields
        event |= {f"demo:{name}": value for name, value in (demo or {}).items()}
        return event
