"""The histories behind goods, read in bulk, and their proof against the contract's root; what is read is not believed.

Of every thing concerned the whole history is recomputed and compared with the anchored item map, and of every entry the
inclusion, the signature, the item list and the disclosures are checked again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from core.canonical import b64u
from core.crypto import P256Public
from core.errors import TracebondError
from core.identifiers import class_of
from core.jws import split_jws
from core.merkle import leaf_hash, tree_root, verify_inclusion
from core.message import JWT_BYTES_MAX, TYP
from core.prefixmap import HEAD_START, map_key, step_head
from core.records import Record, read_record, record_keys
from ledger import tiles
from ledger.chains import suspects_at
from ledger.database import Tx
from ledger.followers import LoggedEvent, LoggedMessage, read_messages
from ledger.history import DEPTH_MAX, Stay, stays
from ledger.itemfacts import Fact, ItemState, facts_of, fold
from ledger.tables import entries, item_steps, records

SIGNATURES_MAX: Final = 100_000
_PART: Final = 400
# What reading bytes that somebody changed may raise.
UNREADABLE: Final = (TracebondError, KeyError, ValueError, TypeError, IndexError, AttributeError)

Place = tuple[int, int]


@dataclass
class Entry:
    """What stands at a leaf, as far as it can be read; ``fault`` tells what does not hold."""

    leaf: int
    message: LoggedMessage | None = None
    record: Record | None = None
    hash: bytes = b""
    kid: str = ""
    events: tuple[LoggedEvent, ...] = ()
    fault: str = ""
    is_signed: bool = False
    is_proven: bool = False

    def has_key(self, key: bytes, number: int) -> bool:
        """Whether the stored entry steps this map key at this event."""
        try:
            if self.record is not None:
                return number == 0 and key in record_keys(self.record.payload)
            return self.message is not None and any(item.key == key for item in self.message.items[number])
        except UNREADABLE:
            return False


class Log:
    """Steps by map key and the entries behind them, read in bulk; nothing is believed yet."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.steps: dict[bytes, list[Place]] = {}
        self.entries: dict[int, Entry] = {}
        self.suspects: dict[int, str] = {}
        self._facts: dict[Place, dict[str, Fact]] = {}

    def follow(self, keys: Iterable[bytes]) -> None:
        """Read the steps of these map keys and their entries."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self.steps]
        by_number: dict[int, list[bytes]] = {}
        for key in wanted:
            self.steps[key] = []
            by_number.setdefault(int.from_bytes(key[:8], signed=True), []).append(key)
        numbers, found = sorted(by_number), []
        for start in range(0, len(numbers), _PART):
            query = sa.select(item_steps).where(item_steps.c.key64.in_(numbers[start : start + _PART]))
            found += [(row.leaf, row.event, row.key64) for row in self.tx.execute(query)]
        self._load({leaf for leaf, _, _ in found})
        for leaf, number, key64 in sorted(found):
            entry = self.entries[leaf]
            for key in by_number[key64]:
                # Eight bytes of the key may collide; in an entry that cannot be read, the step stands and fails.
                if entry.fault or entry.has_key(key, number):
                    self.steps[key].append((leaf, number))

    def places(self, name: str) -> list[Place]:
        """(leaf, event) of a thing's events, in log order; records are none."""
        return [place for place in self.steps[map_key("item", name)] if self.entries[place[0]].record is None]

    def events(self, name: str) -> list[LoggedEvent]:
        """A thing's events that can be read and are not suspect."""
        found = (self.event(place) for place in self.places(name) if place[0] not in self.suspects)
        return [event for event in found if event is not None]

    def event(self, place: Place) -> LoggedEvent | None:
        """The event at a place, None when it cannot be read."""
        events = self.entries[place[0]].events
        return events[place[1]] if place[1] < len(events) else None

    def facts(self, event: LoggedEvent) -> dict[str, Fact]:
        """What an event says about each thing."""
        place = (event.leaf, event.number)
        if place not in self._facts:
            self._facts[place] = facts_of(event)
        return self._facts[place]

    def fold(self, name: str, *, below: int | None = None) -> ItemState | None:
        """The state of a thing by its events, all of them or those below a leaf."""
        events = [event for event in self.events(name) if below is None or event.leaf < below]
        return fold(name, [fact for event in events if (fact := self.facts(event).get(name)) is not None])

    def _load(self, leaves: set[int]) -> None:
        missing = sorted(leaves - set(self.entries))
        messages = self._messages(missing)
        self.suspects |= suspects_at(self.tx, missing)
        self.entries |= {leaf: _read(leaf, message) for leaf, message in messages.items()}
        for start in range(0, len(missing), _PART):
            query = sa.select(entries.c.leaf, records.c.raw).join(records, records.c.arrival == entries.c.arrival)
            for leaf, raw in self.tx.execute(query.where(entries.c.leaf.in_(missing[start : start + _PART]))):
                self.entries[leaf] = _read_record(leaf, bytes(raw))
        for leaf in missing:
            self.entries.setdefault(leaf, Entry(leaf, fault="it is gone from the store"))

    def _messages(self, leaves: list[int]) -> dict[int, LoggedMessage]:
        try:
            return read_messages(self.tx, leaves)
        except UNREADABLE:
            if len(leaves) == 1:
                return {}
            half = len(leaves) // 2
            return self._messages(leaves[:half]) | self._messages(leaves[half:])


def _read(leaf: int, message: LoggedMessage) -> Entry:
    entry = Entry(leaf, message, hash=leaf_hash(message.jwt))
    try:
        entry.kid = split_jws(message.jwt, typ=TYP, bytes_max=JWT_BYTES_MAX).kid
        entry.events = message.events
        for clear, items in zip(message.signed.clear, message.items, strict=True):
            listed = [bytes([item.role]) + item.key for item in items]
            root = b64u(tree_root([leaf_hash(one) for one in listed]))
            if clear["items"] != {"n": len(listed), "root": root}:
                entry.fault = "its item list is another one"
            if any(map_key("item", item.id) != item.key for item in items):
                entry.fault = "an item of it has another name"
    except UNREADABLE as error:
        entry.events, entry.fault = (), str(error) or "it cannot be read"
    return entry


def _read_record(leaf: int, raw: bytes) -> Entry:
    entry = Entry(leaf, hash=leaf_hash(raw), is_signed=True)
    try:
        entry.record = read_record(raw)
    except UNREADABLE as error:
        entry.fault = str(error) or "it cannot be read"
    return entry


@dataclass
class Story:
    """Which histories concern the goods.

    Attributes:
        things: the goods and what is packed in them. outer: containers with the times inside, each a way of stays.
        lots, classes: of the things. spots: where they stand, with the unix ms since when.
    """

    log: Log
    root: str
    things: list[str]
    outer: dict[str, list[tuple[Stay, ...]]] = field(default_factory=dict)
    lots: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    spots: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def gather(log: Log, root: str, things: list[str]) -> "Story":
        """Follow the things, what they were packed in, their lots and products, and the keys that signed."""
        story = Story(log, root, things)
        story._follow(things)
        story._containers()
        folded = [own for name in things if (own := log.fold(name)) is not None]
        story.lots = sorted({own.lot for own in folded if own.lot is not None} - set(things))
        story._follow(story.lots)
        story.classes = sorted({name for one in (*things, *story.lots) if (name := class_of(one))} - set(things))
        story._follow(story.classes)
        story._place()
        log.follow(map_key("key", kid) for kid in sorted({e.kid for e in log.entries.values() if e.kid}))
        return story

    def places(self) -> set[Place]:
        """(leaf, event) of all events that are evidence about the goods if they hold."""
        found = {place for name in (*self.things, *self.lots) for place in self.log.places(name)}
        return found | self._outside()

    def at_hand(self) -> set[Place]:
        """Those that saw the goods themselves or a container of theirs, not merely their lot."""
        found = {place for name in self.things for place in self.log.places(name)} | self._outside()
        for spot, since_ms in self.spots.items():
            found |= {(e.leaf, e.number) for e in self.log.events(spot) if e.device_ms >= since_ms}
        return found

    def around(self) -> list[str]:
        """The containers in which the goods are now."""
        return [name for name, ways in self.outer.items() if any(all(s.to_ms is None for s in way) for way in ways)]

    def _outside(self) -> set[Place]:
        found: set[Place] = set()
        for name, ways in self.outer.items():
            for place in self.log.places(name):
                event = self.log.event(place)
                # An event that cannot be read has no time: it is kept, and fails.
                if event is None or any(all(_is_within(event, stay) for stay in way) for way in ways):
                    found.add(place)
        return found

    def _follow(self, names: Iterable[str]) -> None:
        self.log.follow(map_key("item", name) for name in names)

    def _containers(self) -> None:
        level: dict[tuple[str, tuple[Stay, ...]], None] = {(name, ()): None for name in self.things}
        inside = set(self.things)
        for _ in range(DEPTH_MAX):
            further: dict[tuple[str, tuple[Stay, ...]], None] = {}
            for name, way in level:
                for stay in stays(self.log.events(name), name):
                    if stay.container not in inside and all(stay.container != s.container for s in way):
                        further[stay.container, (*way, stay)] = None
            if not further:
                return
            self._follow(name for name, _ in further)
            for name, way in further:
                self.outer.setdefault(name, []).append(way)
            level = further

    def _place(self) -> None:
        seen = sorted(self.log.events(self.root), key=lambda e: (e.device_ms, e.leaf, e.number), reverse=True)
        spot, since_ms = None, 0
        for event in seen:
            at = facts.place if (facts := self.log.facts(event).get(self.root)) is not None else None
            if at is not None and spot not in (None, at):
                break
            spot, since_ms = spot or at, event.device_ms
        if spot is not None:
            self.spots[spot] = since_ms
            self._follow([spot])


def _is_within(event: LoggedEvent, stay: Stay) -> bool:
    by_time = stay.from_ms <= event.device_ms and (stay.to_ms is None or event.device_ms <= stay.to_ms)
    by_log = stay.from_leaf <= event.leaf and (stay.to_leaf is None or event.leaf <= stay.to_leaf)
    return by_time or by_log


class Proof:
    """Verifies entries and histories against the contract's root.

    Args:
        root: the contract's root at ``size``, None when nothing can be proven.
        signatures: leaf hashes of messages whose signature was verified before; the hash binds bytes and key.

    Attributes:
        failed: map keys whose history is another one in the anchored map.
    """

    def __init__(self, log: Log, size: int, root: bytes | None, signatures: set[bytes]) -> None:
        self.log = log
        self.size = size
        self.root = root
        self.failed: set[bytes] = set()
        self._signatures = signatures
        self._keys: dict[str, tuple[int, P256Public] | None] = {}
        self._paths: dict[int, list[bytes]] = {}

    @property
    def is_broken(self) -> bool:
        """An anchor was reached and yet the chain does not bear what is stored."""
        return self.size > 0 and self.root is None

    def check(self, held: Mapping[bytes, tuple[int, bytes] | None]) -> None:
        """Verify every entry, then every history against what the map holds under its key."""
        self._paths = self._inclusion_paths()
        for entry in self.log.entries.values():
            if entry.record is not None:
                self._include(entry)
        for entry in self.log.entries.values():
            if entry.message is not None:
                self._include(entry)
                entry.is_signed = self._is_signed(entry)
                if not entry.is_signed:
                    entry.fault = entry.fault or "its signature does not hold"
        erased = self._erased()
        for entry in self.log.entries.values():
            if not entry.fault and entry.message is not None and not self._is_whole(entry, erased):
                entry.fault = "a disclosure of it is gone"
        for key, steps in self.log.steps.items():
            below = [step for step in steps if step[0] < self.size]
            head = HEAD_START
            for leaf, number in below:
                head = step_head(head, leaf, number, self.log.entries[leaf].hash)
            if (held[key] or (0, HEAD_START)) != (len(below), head):
                self.failed.add(key)

    def history(self, kid: str) -> list[Record]:
        """The records about a signing key, proven or newer than the anchor."""
        found = (self.log.entries[leaf] for leaf, _ in self.log.steps.get(map_key("key", kid), []))
        return [e.record for e in found if e.record is not None and (e.is_proven or e.leaf >= self.size)]

    def is_good(self, place: Place) -> bool:
        """Whether an event is proven, signed and no suspect."""
        entry = self.log.entries[place[0]]
        return entry.is_proven and entry.is_signed and not entry.fault and place[0] not in self.log.suspects

    def _inclusion_paths(self) -> dict[int, list[bytes]]:
        """The inclusion paths of all entries, read together; none where that fails: each is then looked at alone."""
        if self.root is None:
            return {}
        try:
            leaves = [entry.leaf for entry in self.log.entries.values() if entry.leaf < self.size and not entry.fault]
            return tiles.inclusion_proofs(self.log.tx, leaves, self.size)
        except UNREADABLE:
            return {}

    def _include(self, entry: Entry) -> None:
        if entry.fault or self.root is None or entry.leaf >= self.size:
            return
        try:
            path = self._paths.get(entry.leaf) or tiles.inclusion_proof(self.log.tx, entry.leaf, self.size)
            verify_inclusion(entry.leaf, self.size, entry.hash, path, self.root)
        except UNREADABLE:
            entry.fault = "it is not in the anchored tree"
            return
        entry.is_proven = True

    def _is_signed(self, entry: Entry) -> bool:
        """By a key whose record stands in the log before the message."""
        if entry.message is None or not entry.kid:
            return False
        if entry.kid not in self._keys:
            self._keys[entry.kid] = self._key(entry.kid)
        known = self._keys[entry.kid]
        if known is None or known[0] >= entry.leaf:
            return False
        if entry.hash in self._signatures:
            return True
        try:
            split_jws(entry.message.jwt, typ=TYP, bytes_max=JWT_BYTES_MAX).check(known[1])
        except UNREADABLE:
            return False
        if len(self._signatures) >= SIGNATURES_MAX:
            self._signatures.clear()
        self._signatures.add(entry.hash)
        return True

    def _key(self, kid: str) -> tuple[int, P256Public] | None:
        for leaf, _ in self.log.steps.get(map_key("key", kid), []):
            entry = self.log.entries[leaf]
            if entry.record is not None and entry.record.t == "key" and (entry.is_proven or leaf >= self.size):
                # A record's form binds kid to jwk: it is the thumbprint.
                return leaf, P256Public.from_jwk(entry.record.payload["jwk"])
        return None

    def _erased(self) -> set[Place]:
        found = (e.record.payload for e in self.log.entries.values() if e.record is not None and not e.fault)
        return {(payload["leaf"], payload["event"]) for payload in found if payload["t"] == "erasure"}

    def _is_whole(self, entry: Entry, erased: set[Place]) -> bool:
        if entry.message is None:
            return True
        signed = entry.message.signed
        wanted = [number for number, clear in enumerate(signed.clear) if (entry.leaf, number) not in erased]
        return all(len(signed.disclosures[n]) == len(signed.clear[n]["_sd"]) for n in wanted)
