"""The proof bundle as data: its exact shape, and the chain questions that it raises.

The format is documented in ``docs/proof-bundle.md``.
"""

from dataclasses import dataclass
from typing import Any

from core.canonical import canonical_bytes, parse_json, sha256, unb64u
from core.errors import Rejected
from core.prefixmap import MapProof, map_key
from core.records import Record, entry_kind, read_record

BUNDLE_BYTES_MAX = 32_000_000
ENTRIES_MAX = 20_000
HISTORIES_MAX = 2_000

LOG_AT = "4bc43391"
ROOT_AT = "dfe4bf36"
LOG_COUNT = "28874705"
ORGANISATIONS = "abf0e71f"
ORGANISATION_AT = "38a5b111"
# The predecessor of a log that has none, and the bytes of an answer about a log.
NO_LOG = 2**256 - 1
LOG_BYTES = 7 * 32
BEFORE_MAX = 64


@dataclass(frozen=True)
class Step:
    """One step of a key: the entry's leaf index and the event's number in it."""

    leaf: int
    event: int


@dataclass(frozen=True)
class History:
    """All steps of one map key, with the proof of its place in the map. ``name`` is (kind, id) where it may be told."""

    key: bytes
    name: tuple[str, str] | None
    steps: tuple[Step, ...]
    proof: MapProof


@dataclass(frozen=True)
class ItemLeaf:
    """One thing an event names, by its place in the event's item tree."""

    index: int
    role: int
    key: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Entry:
    """A log entry with its inclusion path; disclosures and item leaves stand per event number."""

    index: int
    data: bytes
    path: tuple[bytes, ...]
    disclosures: tuple[str, ...]
    items: dict[int, tuple[ItemLeaf, ...]]

    @property
    def kind(self) -> str:
        """message, record or state."""
        return entry_kind(self.data)


@dataclass(frozen=True)
class Bundle:
    """A parsed bundle; nothing in it is verified yet.

    Attributes:
        before: the numbers of the frozen logs that this log goes on from, nearest first.
    """

    contract: str
    registry: str
    log_id: int
    before: tuple[int, ...]
    chain_id: int
    genesis: str
    item: str
    size: int
    state_leaf: bytes
    state_path: tuple[bytes, ...]
    checkpoint: str
    cosigners: tuple[str, ...]
    histories: dict[bytes, History]
    entries: dict[int, Entry]

    def organisations(self) -> list[Record]:
        """The entries that read as ``org`` records of this registry, in log order; not yet known to be in the log."""
        found = (_as_record(entry) for _, entry in sorted(self.entries.items()))
        named = (record for record in found if record is not None and record.t == "org")
        return [record for record in named if record.payload["place"]["registry"] == self.registry]


@dataclass(frozen=True)
class Question:
    """One ``eth_call``: address and calldata, both 0x lower-case hex."""

    to: str
    data: str


@dataclass(frozen=True)
class Answers:
    """What a node said: its chain id, the hash of its block 0, and the returned bytes of each question in order."""

    chain_id: int
    genesis: str
    calls: tuple[bytes, ...]


def read_bundle(data: bytes) -> Bundle:
    """The bundle in its RFC 8785 bytes.

    Raises:
        Rejected: ``not_canonical``, ``bad_bundle`` with the member at fault, or a JSON code.
    """
    value = parse_json(data, bytes_max=BUNDLE_BYTES_MAX)
    if canonical_bytes(value) != data:
        raise Rejected("A bundle is its RFC 8785 bytes; these are others.", code="not_canonical")
    top = _object(value, {"v", "log", "item", "size", "state", "checkpoint", "cosigners", "histories", "entries"}, "")
    if top["v"] != 1 or type(top["v"]) is not int:
        raise _bad("this verifier knows version 1", "/v")
    by_succession = {"before"} & _members(top["log"], "/log")
    log = _object(top["log"], {"contract", "registry", "id", "chain_id", "genesis"} | by_succession, "/log")
    before = tuple(_count(number, "/log/before") for number in _list(log.get("before", []), BEFORE_MAX))
    if by_succession and not before:
        raise _bad("an empty member is left out", "/log/before")
    state = _object(top["state"], {"leaf", "path"}, "/state")
    histories = [_history(h, f"/histories/{i}") for i, h in enumerate(_list(top["histories"], HISTORIES_MAX))]
    entries = [_entry(e, f"/entries/{i}") for i, e in enumerate(_list(top["entries"], ENTRIES_MAX))]
    if [h.key for h in histories] != sorted({h.key for h in histories}):
        raise _bad("histories stand in the order of their keys, each once", "/histories")
    if [e.index for e in entries] != sorted({e.index for e in entries}):
        raise _bad("entries stand in log order, each once", "/entries")
    return Bundle(
        contract=_address(log["contract"], "/log/contract"),
        registry=_address(log["registry"], "/log/registry"),
        log_id=_count(log["id"], "/log/id"),
        before=before,
        chain_id=_count(log["chain_id"], "/log/chain_id"),
        genesis=_text(log["genesis"], "/log/genesis"),
        item=_text(top["item"], "/item"),
        size=_count(top["size"], "/size"),
        state_leaf=_text(state["leaf"], "/state/leaf").encode(),
        state_path=_hashes(state["path"], "/state/path"),
        checkpoint=_text(top["checkpoint"], "/checkpoint"),
        cosigners=tuple(_text(c, "/cosigners") for c in _list(top["cosigners"], 64)),
        histories={history.key: history for history in histories},
        entries={entry.index: entry for entry in entries},
    )


def questions_of(bundle: Bundle) -> list[Question]:
    """The ``eth_call``s whose answers the bundle must agree with, in a fixed order."""
    number = f"{bundle.log_id:064x}"
    asked = [
        Question(bundle.contract, f"0x{LOG_AT}{number}"),
        Question(bundle.contract, f"0x{ROOT_AT}{number}{bundle.size:064x}"),
        Question(bundle.contract, f"0x{LOG_COUNT}"),
        Question(bundle.contract, f"0x{ORGANISATIONS}"),
        *(Question(bundle.contract, f"0x{LOG_AT}{before:064x}") for before in bundle.before),
    ]
    for record in bundle.organisations():
        key = map_key("org", record.payload["org"]).hex()
        asked.append(Question(bundle.registry, f"0x{ORGANISATION_AT}{key}{record.payload['version']:064x}"))
    return asked


def _as_record(entry: Entry) -> Record | None:
    # An entry that cannot be read raises no question; its check comes after its inclusion, with the reason.
    try:
        return read_record(entry.data) if entry.kind == "record" else None
    except Rejected:
        return None


def origin_hash(origin: str) -> bytes:
    """The 32 bytes by which the contract names a log's origin: SHA-256 of its text."""
    return sha256(origin.encode())


def _history(value: Any, pointer: str) -> History:
    members = _members(value, pointer)
    by_name = "name" in members
    expected = {"name" if by_name else "key", "steps", "siblings"} | ({"other"} & members)
    top = _object(value, expected, pointer)
    name = None
    if by_name:
        kind, identifier = (_text(part, pointer + "/name") for part in _pair(top["name"], pointer + "/name"))
        name = (kind, identifier)
        key = map_key(kind, identifier)
    else:
        key = _hash(top["key"], pointer + "/key")
    steps = []
    for part in _list(top["steps"], ENTRIES_MAX):
        leaf, event = (_count(number, pointer + "/steps") for number in _pair(part, pointer + "/steps"))
        steps.append(Step(leaf, event))
    if steps != sorted(set(steps), key=lambda step: (step.leaf, step.event)) or (steps and "other" in top):
        raise _bad("steps stand in log order, each once; other is for absent keys", pointer)
    other = None
    if "other" in top:
        first, second = (_hash(part, pointer + "/other") for part in _pair(top["other"], pointer + "/other"))
        other = (first, second)
    return History(key, name, tuple(steps), MapProof(_hashes(top["siblings"], pointer + "/siblings"), other))


def _entry(value: Any, pointer: str) -> Entry:
    members = _members(value, pointer)
    optional = {"disclosures", "items"} & members
    top = _object(value, {"index", "data", "path"} | optional, pointer)
    items: dict[int, tuple[ItemLeaf, ...]] = {}
    for part in _list(top.get("items", []), 1_000):
        event, leaves = _pair(part, pointer + "/items")
        number = _count(event, pointer + "/items")
        if items and number <= max(items):
            raise _bad("events stand in order, each once", pointer + "/items")
        items[number] = tuple(_item(leaf, pointer + "/items") for leaf in _list(leaves, ENTRIES_MAX))
    for name in optional:
        if not top[name]:
            raise _bad("an empty member is left out", f"{pointer}/{name}")
    return Entry(
        index=_count(top["index"], pointer + "/index"),
        data=_text(top["data"], pointer + "/data").encode(),
        path=_hashes(top["path"], pointer + "/path"),
        disclosures=tuple(_text(d, pointer + "/disclosures") for d in _list(top.get("disclosures", []), 20_000)),
        items=items,
    )


def _item(value: Any, pointer: str) -> ItemLeaf:
    if not isinstance(value, list) or len(value) != 4:
        raise _bad("an item leaf is index, role, key and path", pointer)
    role = _count(value[1], pointer)
    if not 1 <= role <= 12:
        raise _bad("a role is 1 to 12", pointer)
    return ItemLeaf(_count(value[0], pointer), role, _hash(value[2], pointer), _hashes(value[3], pointer))


def _members(value: Any, pointer: str) -> set[str]:
    if not isinstance(value, dict):
        raise _bad("an object belongs here", pointer)
    return set(value)


def _object(value: Any, members: set[str], pointer: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != members:
        raise _bad(f"an object of {', '.join(sorted(members))} belongs here", pointer)
    return value


def _list(value: Any, length_max: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > length_max:
        raise _bad(f"a list of at most {length_max} belongs here", "")
    return value


def _pair(value: Any, pointer: str) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise _bad("a pair belongs here", pointer)
    return value[0], value[1]


def _text(value: Any, pointer: str) -> str:
    if not isinstance(value, str):
        raise _bad("a string belongs here", pointer)
    return value


def _count(value: Any, pointer: str) -> int:
    if type(value) is not int or value < 0:
        raise _bad("an integer from 0 belongs here", pointer)
    return value


def _hash(value: Any, pointer: str) -> bytes:
    return unb64u(_text(value, pointer), length=32)


def _hashes(value: Any, pointer: str) -> tuple[bytes, ...]:
    return tuple(_hash(part, pointer) for part in _list(value, 300))


def _address(value: Any, pointer: str) -> str:
    text = _text(value, pointer)
    if len(text) != 42 or text[:2] != "0x" or not all(char in "0123456789abcdef" for char in text[2:]):
        raise _bad("an address is 0x and 40 lower-case hex digits", pointer)
    return text


def _bad(why: str, pointer: str) -> Rejected:
    return Rejected(f"This is no proof bundle: {why}.", code="bad_bundle", pointer=pointer)
