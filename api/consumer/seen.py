"""The records of a thing as a kind of reader sees them, out of the ledger's history."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.epcis.vocabulary import local_name
from core.identifiers import parse
from core.message import ERROR_CLEAR
from ledger.asof import Book, journey
from ledger.database import Tx, fetch
from ledger.disclosure import Reader, may_see
from ledger.followers import LoggedEvent
from ledger.history import Travelled

_CLEAR: Final = frozenset(
    {"type", "action", "eventTime", "eventTimeZoneOffset", "bizStep", "disposition", "errorDeclaration"}
)

_FINAL: Final = (
    "SELECT max(a.size) FROM anchors a JOIN deployments d ON d.id = a.deployment AND d.is_current WHERE a.state = ?"
)


@dataclass(frozen=True)
class Seen:
    """One record of the journey.

    Attributes:
        event: the EPCIS event, only members that the reader may see.
        whole: the event with everything that is kept, for decisions here, never for output.
        hidden: names of members that were recorded and are not shown.
        erased: how many members were erased and are known by their digest alone.
        via: "" for the thing itself, ``inside`` with ``container``, or ``lot``.
    """

    leaf: int
    number: int
    org: str
    device_id: str
    signed_by: str
    device_ms: int
    received_ms: int
    event: Mapping[str, Any]
    whole: Mapping[str, Any]
    hidden: tuple[str, ...]
    erased: int
    via: str
    container: str
    is_pending: bool
    is_suspect: bool

    @property
    def device(self) -> str:
        """The device's short name: the value of its GIAI."""
        return self.device_id.rpartition("/")[2]

    @property
    def step(self) -> str:
        """The business step's local name, "" where there is none."""
        return local_name(str(self.whole.get("bizStep", "")), "bizStep")

    @property
    def disposition(self) -> str:
        """The disposition's local name, "" where there is none."""
        return local_name(str(self.whole.get("disposition", "")), "disposition")

    @property
    def declaration(self) -> Mapping[str, Any] | None:
        """The error declaration, where this record takes an earlier one back."""
        value = self.whole.get("errorDeclaration")
        return value if isinstance(value, Mapping) else None

    @property
    def event_id(self) -> str:
        """The event's own id, "" where it has none or it was erased."""
        return str(self.whole.get("eventID", ""))

    @property
    def name(self) -> tuple[str, str]:
        """Who speaks and the event's id: only the same organisation can take an event back."""
        return self.org, self.event_id


def records_of(book: Book, item_id: str, reader: Reader, *, lot: str | None = None, tx: Tx) -> list[Seen]:
    """The records of a thing, of what it was in, and of its lot as a whole, by device time, then leaf."""
    final_size = final_anchored_size(tx)
    travelled = travel(book, item_id)
    found = [_seen(one.event, reader, final_size, via=_via(one.via), container=one.via) for one in travelled]
    if lot is not None and lot != item_id:
        seen = {(record.leaf, record.number) for record in found}
        found += [
            _seen(event, reader, final_size, via="lot", container=lot)
            for event in book.of_lot(lot)
            if (event.leaf, event.number) not in seen
        ]
        found.sort(key=lambda record: (record.device_ms, record.leaf, record.number))
    return found


def travel(book: Book, item_id: str) -> list[Travelled]:
    """The journey; of a lot, the events about it as a whole, not those that name it for single items."""
    if parse(item_id).kind in ("lgtin", "litip"):
        whole = [Travelled(event, None) for event in book.of_lot(item_id)]
        if whole:
            return whole
    return journey(book, item_id)


def withdrawn(records: Iterable[Seen]) -> set[tuple[str, str]]:
    """Organisation and id of events that a record of the same organisation declared wrong."""
    return {record.name for record in records if record.declaration is not None and record.event_id}


def final_anchored_size(tx: Tx) -> int:
    """The largest size that is final on the present chain, 0 before the first."""
    rows = fetch(tx, _FINAL, ("final",))
    return int(rows[0][0] or 0)


def _seen(event: LoggedEvent, reader: Reader, final_size: int, *, via: str, container: str | None) -> Seen:
    whole = event.event
    members = [name for name in whole if name not in _CLEAR]
    declaration = whole.get("errorDeclaration")
    rest = isinstance(declaration, Mapping) and not set(declaration) <= set(ERROR_CLEAR)
    shown = {name: value for name, value in whole.items() if name in _CLEAR or may_see(reader, name)}
    return Seen(
        leaf=event.leaf,
        number=event.number,
        org=event.org,
        device_id=event.iss,
        signed_by=event.signed_by,
        device_ms=event.device_ms,
        received_ms=event.received_ms,
        event=shown,
        whole=whole,
        hidden=tuple(name for name in members if name not in shown),
        erased=max(0, len(event.clear.get("_sd", ())) - len(members) - rest),
        via=via,
        container=container or "",
        is_pending=event.leaf >= final_size,
        is_suspect=event.suspect is not None,
    )


def _via(container: str | None) -> str:
    return "" if container is None else "inside"
