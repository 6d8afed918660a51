"""The history of a thing: the steps of its map key, the events behind them, its journey through containers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.errors import Unavailable
from core.prefixmap import map_key
from core.records import read_record, record_keys
from ledger.chains import suspects_at
from ledger.database import Tx, fetch, fetch_among, is_sqlite, raw
from ledger.followers import Entry, LoggedEvent, LoggedMessage, LoggedRecord, cursor, read_messages
from ledger.itemmap import iss_reader
from ledger.store import split_items

VIEWS = "views"
DEPTH_MAX = 10
PARENT, CHILD = 1, 7
INPUTS = (2, 3)
OUTPUTS = (8, 11)


@dataclass(frozen=True)
class Step:
    """One step of a map key: leaf index, event number, leaf hash."""

    leaf: int
    event: int
    leaf_hash: bytes


@dataclass(frozen=True)
class Stay:
    """The time a thing spent inside a container; an end of None means that it is still inside."""

    container: str
    from_ms: int
    to_ms: int | None
    from_leaf: int
    to_leaf: int | None


@dataclass(frozen=True)
class Travelled:
    """An event of a journey; ``via`` is the container whose event it is, None for the thing's own."""

    event: LoggedEvent
    via: str | None


class History:
    """Keeps the index from map keys to steps; run it under the shared cursor ``views``."""

    name = "history"

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Index the steps of new entries (device steps of messages follow from the messages themselves)."""
        rows: list[tuple[int, int, int]] = []
        iss_of = iss_reader(tx)
        for entry in entries:
            if isinstance(entry, LoggedMessage):
                for number, items in enumerate(entry.items):
                    rows += [(_key64(key), entry.leaf, number) for key in {item.key for item in items}]
            elif isinstance(entry, LoggedRecord):
                rows += [(_key64(key), entry.leaf, 0) for key in record_keys(entry.record.payload, iss_of)]
        rows.sort()
        mark = "?" if is_sqlite(tx) else "%s"
        statement = f"INSERT INTO item_steps (key64, leaf, event) VALUES ({mark},{mark},{mark})"  # noqa: S608
        if rows:
            raw(tx).cursor().executemany(statement, list(dict.fromkeys(rows)))


def steps(tx: Tx, key: bytes, size: int) -> list[Step]:
    """All steps of a map key at the log's ``size``, in the order in which the map took them.

    Raises:
        Unavailable: ``history_behind`` when the index has not reached ``size`` yet.
    """
    reached = fetch(tx, "SELECT next_leaf FROM followers WHERE name = ?", (VIEWS,))
    if size and (not reached or reached[0][0] < size):
        raise Unavailable("The history index is still behind the log; try again.", code="history_behind")
    found = _device_steps(tx, key, size)
    of_key = (_key64(key), size)
    for leaf, number, hashed, items in fetch(tx, _STEPS.format("messages", "items"), of_key):
        # Eight bytes of the key may collide; the whole key decides.
        if any(item[1:] == key for item in split_items(items)[number]):
            found.append(Step(leaf, number, hashed))
    for leaf, _, hashed, data in fetch(tx, _STEPS.format("records", "raw"), of_key):
        if key in record_keys(read_record(data).payload, iss_reader(tx)):
            found.append(Step(leaf, 0, hashed))
    return sorted(found, key=lambda step: (step.leaf, step.event))


_STEPS = (
    "SELECT s.leaf, s.event, t.leaf_hash, t.{1} FROM item_steps s JOIN entries e ON e.leaf = s.leaf "
    "JOIN {0} t ON t.arrival = e.arrival WHERE s.key64 = ? AND s.leaf < ?"
)


def events_of(tx: Tx, item_id: str, size: int | None = None) -> list[LoggedEvent]:
    """The events that name a thing (canonical id), in log order, as far as the index has come.

    Args:
        size: leave out what stands at or above this leaf.
    """
    limit = cursor(tx, VIEWS) if size is None else size
    found = steps(tx, map_key("item", item_id), limit)
    loaded = read_messages(tx, [step.leaf for step in found])
    judged = suspects_at(tx, list(loaded))
    return [
        replace(loaded[step.leaf].events[step.event], suspect=judged.get(step.leaf))
        for step in found
        if step.leaf in loaded
    ]


def stays(events: Sequence[LoggedEvent], item_id: str) -> list[Stay]:
    """The times a thing spent inside containers, from its own events by device time."""
    found: list[Stay] = []
    inside: dict[str, LoggedEvent] = {}
    for event in _by_time(events):
        if event.clear.get("type") != "AggregationEvent" or CHILD not in event.roles_of(item_id):
            continue
        for container in event.names(PARENT):
            if event.clear.get("action") == "DELETE":
                start = inside.pop(container, None)
                if start is not None:
                    found.append(_stay(container, start, event))
            else:
                inside.setdefault(container, event)
    return found + [_stay(container, start, None) for container, start in inside.items()]


def journey(tx: Tx, item_id: str, size: int | None = None) -> list[Travelled]:
    """The thing's own events and those of its containers for the time inside, by device time, then leaf.

    The time inside is by device time or by log order, whichever is wider.
    """
    found: dict[tuple[int, int], Travelled] = {}
    _travel(tx, item_id, size, found, via=None, within=None, depth=0)
    return sorted(found.values(), key=lambda one: (one.event.device_ms, one.event.leaf, one.event.number))


def made_of(tx: Tx, item_id: str, size: int | None = None) -> list[str]:
    """The inputs (things and lots) of the transformations that put this thing out."""
    found: dict[str, None] = {}
    for event in events_of(tx, item_id, size):
        if event.suspect is None and set(event.roles_of(item_id)) & set(OUTPUTS):
            found |= dict.fromkeys(event.names(*INPUTS))
    return list(found)


def made_into(tx: Tx, item_id: str, size: int | None = None) -> list[str]:
    """The outputs of the transformations that took this thing in."""
    found: dict[str, None] = {}
    for event in events_of(tx, item_id, size):
        if event.suspect is None and set(event.roles_of(item_id)) & set(INPUTS):
            found |= dict.fromkeys(event.names(*OUTPUTS))
    return list(found)


def _travel(
    tx: Tx,
    item_id: str,
    size: int | None,
    found: dict[tuple[int, int], Travelled],
    *,
    via: str | None,
    within: Stay | None,
    depth: int,
) -> None:
    own = events_of(tx, item_id, size)
    for event in own:
        if within is None or is_within(event, within):
            found.setdefault((event.leaf, event.number), Travelled(event, via))
    if depth == DEPTH_MAX:
        return
    for stay in stays([event for event in own if event.suspect is None], item_id):
        part = narrowed(stay, within)
        if part is not None:
            _travel(tx, stay.container, size, found, via=stay.container, within=part, depth=depth + 1)


def is_within(event: LoggedEvent, stay: Stay) -> bool:
    """Whether an event falls into a stay by device time or by log order, whichever is wider."""
    by_time = stay.from_ms <= event.device_ms and (stay.to_ms is None or event.device_ms <= stay.to_ms)
    by_log = stay.from_leaf <= event.leaf and (stay.to_leaf is None or event.leaf <= stay.to_leaf)
    return by_time or by_log


def narrowed(stay: Stay, within: Stay | None) -> Stay | None:
    """The part of a stay inside an outer one; None where they do not meet."""
    if within is None:
        return stay
    to_ms = min((t for t in (stay.to_ms, within.to_ms) if t is not None), default=None)
    to_leaf = min((t for t in (stay.to_leaf, within.to_leaf) if t is not None), default=None)
    from_ms, from_leaf = max(stay.from_ms, within.from_ms), max(stay.from_leaf, within.from_leaf)
    if to_ms is not None and from_ms > to_ms and to_leaf is not None and from_leaf > to_leaf:
        return None
    return Stay(stay.container, from_ms, to_ms, from_leaf, to_leaf)


def _stay(container: str, start: LoggedEvent, end: LoggedEvent | None) -> Stay:
    to_ms, to_leaf = (None, None) if end is None else (end.device_ms, end.leaf)
    return Stay(container, start.device_ms, to_ms, start.leaf, to_leaf)


def _by_time(events: Sequence[LoggedEvent]) -> list[LoggedEvent]:
    return sorted(events, key=lambda event: (event.device_ms, event.leaf, event.number))


def _device_steps(tx: Tx, key: bytes, size: int) -> list[Step]:
    numbers = [number for (number,) in fetch(tx, "SELECT key_no FROM keys WHERE device_key = ?", (key,))]
    query = "SELECT e.leaf, m.leaf_hash FROM messages m JOIN entries e ON e.arrival = m.arrival WHERE m.key_no AMONG"
    return [Step(leaf, 0, hashed) for leaf, hashed in fetch_among(tx, query, numbers) if leaf < size]


def _key64(key: bytes) -> int:
    return int.from_bytes(key[:8], signed=True)
