"""Proof bundles out of the ledger: an item's whole history as of the last final anchor, for one kind of reader."""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, canonical_bytes
from core.errors import Conflict
from core.identifiers import class_of
from core.merkle import inclusion_proof, leaf_hash
from core.message import Signed, read_entry
from core.prefixmap import MapProof, map_key
from core.proofs import INPUTS, LOT, ROLE_UP_MAX, TRANSFORMATION
from core.records import Record, read_record
from ledger import tiles
from ledger.chain_logs import chain_logs
from ledger.chain_tx_tables import deployments
from ledger.cosignatures import cosigned_note
from ledger.database import Tx, fetch_among
from ledger.disclosure import Reader, may_name, may_see
from ledger.history import steps
from ledger.itemmap import ProofMap
from ledger.store import split_disclosures, split_items
from ledger.tables import checkpoints, orgs

HISTORIES_MAX = 400
ENTRIES_MAX = 4_000
_PART = 400


@dataclass(frozen=True)
class LogPlace:
    """Where the log is anchored; a bundle names it and a verifier pins the contract."""

    contract: str
    registry: str
    log_id: int
    chain_id: int
    genesis: str


@dataclass
class _Loaded:
    """One entry that the bundle needs."""

    data: bytes
    signed: Signed | None = None
    record: Record | None = None
    items: list[list[bytes]] = field(default_factory=list)
    ids: list[list[str]] = field(default_factory=list)
    wanted: dict[int, set[bytes]] = field(default_factory=dict)


def build_bundle(tx: Tx, maps: ProofMap, place: LogPlace, item: str, *, reader: Reader) -> bytes:
    """The RFC 8785 bytes of the item's proof bundle (docs/proof-bundle.md).

    Related histories are followed breadth first; what passes 400 histories or 4,000 entries is left out, and the
    verifier counts it as not covered.

    Args:
        maps: the item map at the last final anchored size; the bundle stands on that size.
        item: canonical identifier; unknown ones give a proof of absence.

    Raises:
        Conflict: ``not_anchored`` when nothing is final on the chain yet.
    """
    size = maps.size
    checkpoint = tx.execute(sa.select(checkpoints).where(checkpoints.c.size == size)).first()
    if size == 0 or checkpoint is None:
        raise Conflict("Nothing is final on the chain yet; try again in a minute.", code="not_anchored")
    note, cosigners = cosigned_note(tx, size) or (checkpoint.note, ())
    walk = _Walk(tx, size, reader, place.registry)
    walk.follow(item)
    walk.add_signers()
    histories = [_history(key, name, found, maps.prove(key)) for key, (name, found) in sorted(walk.histories.items())]
    paths = _Paths(tx, {*walk.loaded, size - 1}, size)
    before = _predecessors(tx, place.log_id)
    log = {"contract": place.contract, "registry": place.registry, "id": place.log_id}
    log |= {"chain_id": place.chain_id, "genesis": place.genesis}
    bundle = {
        "v": 1,
        "log": log | ({"before": before} if before else {}),
        "item": item,
        "size": size,
        "state": {"leaf": bytes(checkpoint.state).decode(), "path": paths.of(size - 1)},
        "checkpoint": note,
        "cosigners": list(cosigners),
        "histories": histories,
        "entries": [_entry(paths.of(leaf), leaf, loaded, reader) for leaf, loaded in sorted(walk.loaded.items())],
    }
    return canonical_bytes(bundle)


def _predecessors(tx: Tx, log_id: int) -> list[int]:
    """The frozen logs that a log goes on from, nearest first."""
    query = sa.select(chain_logs.c.log_id, chain_logs.c.predecessor).join(
        deployments, deployments.c.id == chain_logs.c.deployment
    )
    known = {row.log_id: row.predecessor for row in tx.execute(query.where(deployments.c.is_current))}
    before: list[int] = []
    number = known.get(log_id)
    while number is not None:
        before.append(number)
        number = known.get(number)
    return before


@dataclass(frozen=True)
class _Link:
    """A thing that another rests on: its key and identifier, and its role in the event that says so."""

    key: bytes
    identifier: str
    role: int


@dataclass(frozen=True)
class _Org:
    """An org record of a record key: where it stands, what it says of whom, and its place on a chain."""

    leaf: int
    said: tuple[str, int, str]
    place: dict[str, Any]


class _Walk:
    """Collects the histories and entries of a bundle."""

    def __init__(self, tx: Tx, size: int, reader: Reader, registry: str) -> None:
        self._tx = tx
        self._size = size
        self._reader = reader
        self._registry = registry
        self._orgs: dict[str, list[_Org]] = {}
        self.histories: dict[bytes, tuple[tuple[str, str] | None, list[tuple[int, int]]]] = {}
        self.loaded: dict[int, _Loaded] = {}

    def follow(self, item: str) -> None:
        """The item's own history, its class's, and every up-link from there."""
        links: dict[bytes, list[_Link]] = {}
        names: dict[bytes, str] = {}
        queue = deque([item])
        product = class_of(item)
        if product is not None and product != item:
            queue.append(product)
        told = {map_key("item", identifier) for identifier in queue}
        while queue and len(self.histories) < HISTORIES_MAX:
            identifier = queue.popleft()
            key = map_key("item", identifier)
            if key in self.histories:
                continue
            found = self._steps(key)
            if len(self.loaded) + len(found) > ENTRIES_MAX:
                continue
            names[key] = identifier
            self._add(key, None, found)
            links[key] = self._up_links(key, found)
            queue.extend(link.identifier for link in links[key] if link.key not in self.histories)
        for key in self._told(told, links):
            if key in self.histories:
                self.histories[key] = (("item", names[key]), self.histories[key][1])

    def _told(self, start: set[bytes], links: dict[bytes, list["_Link"]]) -> set[bytes]:
        """The keys whose names the reader may learn: a way leads there on which no link is hidden from it."""
        told, waiting = set(start), list(start)
        while waiting:
            for link in links.get(waiting.pop(), []):
                if link.key not in told and may_name(self._reader, link.role):
                    told.add(link.key)
                    waiting.append(link.key)
        return told

    def add_signers(self) -> None:
        """The key histories of all signers, and the org records they rest on."""
        kids = {loaded.signed.kid for loaded in self.loaded.values() if loaded.signed is not None}
        for kid in sorted(kids):
            key = map_key("key", kid)
            self._add(key, ("key", kid), self._steps(key))
        waiting = [(leaf, loaded.record) for leaf, loaded in self.loaded.items() if loaded.record is not None]
        while waiting:
            for leaf in self._rests_on(*waiting.pop()):
                if leaf not in self.loaded:
                    self._load([leaf])
                    record = self.loaded[leaf].record
                    if record is not None:
                        waiting.append((leaf, record))

    def _rests_on(self, leaf: int, record: Record) -> list[int]:
        """The org records that a record rests on: its signer's, and where that is of an old registry, the present one.

        Raises:
            Conflict: ``not_anchored`` while the organisation's record of the present registry is not final.
        """
        kid = record.jws.kid
        if kid not in self._orgs:
            query = sa.select(orgs.c.leaf, orgs.c.org, orgs.c.roles, orgs.c.account, orgs.c.place)
            found = self._tx.execute(query.where(orgs.c.kid == kid, orgs.c.leaf < self._size).order_by(orgs.c.leaf))
            self._orgs[kid] = [_Org(r.leaf, (r.org, r.roles, r.account), json.loads(r.place)) for r in found]
        known = self._orgs[kid]
        here = [one for one in known if one.place["registry"] == self._registry]
        if not here:
            raise Conflict("The organisations are not final on the new chain yet; try again.", code="not_anchored")
        if here[0].leaf <= leaf:
            return [here[0].leaf]
        before = next((one for one in known if one.leaf < here[0].leaf and one.said == here[0].said), here[0])
        return [before.leaf, here[0].leaf]

    def _steps(self, key: bytes) -> list[tuple[int, int]]:
        return [(step.leaf, step.event) for step in steps(self._tx, key, self._size)]

    def _add(self, key: bytes, name: tuple[str, str] | None, found: list[tuple[int, int]]) -> None:
        self._load([leaf for leaf, _ in found])
        self.histories[key] = (name, found)
        for leaf, event in found:
            self.loaded[leaf].wanted.setdefault(event, set()).add(key)

    def _up_links(self, key: bytes, found: list[tuple[int, int]]) -> list["_Link"]:
        links: list[_Link] = []
        for leaf, event in found:
            loaded = self.loaded[leaf]
            if loaded.signed is None:
                continue
            named = [
                _Link(item[1:], name, item[0])
                for item, name in zip(loaded.items[event], loaded.ids[event], strict=True)
            ]
            roles = {one.role for one in named if one.key == key}
            if any(role > ROLE_UP_MAX for role in roles):
                links += [one for one in named if one.role <= ROLE_UP_MAX and one.key != key]
            elif roles & {LOT, TRANSFORMATION}:
                links += [one for one in named if one.role in INPUTS and one.key != key]
        return links

    def _load(self, leaves: list[int]) -> None:
        missing = sorted(set(leaves) - set(self.loaded))
        for start in range(0, len(missing), _PART):
            part = missing[start : start + _PART]
            for leaf, jwt, items, ids, blob in fetch_among(self._tx, _MESSAGES, part):
                texts = split_disclosures(blob)
                signed = read_entry(jwt, [text for event in texts for text in event])
                self.loaded[leaf] = _Loaded(signed.jwt, signed, None, split_items(items), json.loads(ids))
            rest = [leaf for leaf in part if leaf not in self.loaded]
            for leaf, raw in fetch_among(self._tx, _RECORDS, rest):
                record = read_record(raw)
                self.loaded[leaf] = _Loaded(record.raw, None, record)


_MESSAGES = (
    "SELECT e.leaf, m.jwt, m.items, m.item_ids, d.texts FROM entries e JOIN messages m ON m.arrival = e.arrival "
    "JOIN disclosures d ON d.arrival = m.arrival WHERE e.leaf AMONG"
)
_RECORDS = "SELECT e.leaf, r.raw FROM entries e JOIN records r ON r.arrival = e.arrival WHERE e.leaf AMONG"


def _history(key: bytes, name: tuple[str, str] | None, found: list[tuple[int, int]], proof: MapProof) -> dict[str, Any]:
    history: dict[str, Any] = {
        "steps": [list(step) for step in found],
        "siblings": [b64u(node) for node in proof.siblings],
    }
    history |= {"key": b64u(key)} if name is None else {"name": list(name)}
    if proof.other is not None:
        history["other"] = [b64u(part) for part in proof.other]
    return history


def _entry(path: list[str], leaf: int, loaded: _Loaded, reader: Reader) -> dict[str, Any]:
    entry: dict[str, Any] = {"index": leaf, "data": loaded.data.decode("ascii"), "path": path}
    if loaded.signed is None:
        return entry
    shown = [
        d.text for event in sorted(loaded.wanted) for d in loaded.signed.disclosures[event] if may_see(reader, d.name)
    ]
    if shown:
        entry["disclosures"] = shown
    entry["items"] = [[event, _item_leaves(loaded.items[event], keys)] for event, keys in sorted(loaded.wanted.items())]
    return entry


def _item_leaves(items: list[bytes], keys: set[bytes]) -> list[list[Any]]:
    first_down = next((i for i, item in enumerate(items) if item[0] > ROLE_UP_MAX), len(items) - 1)
    chosen = [i for i, item in enumerate(items) if i <= first_down or item[1:] in keys]
    leaves = [leaf_hash(item) for item in items]
    return [[i, items[i][0], b64u(items[i][1:]), [b64u(node) for node in inclusion_proof(leaves, i)]] for i in chosen]


class _Paths:
    """The inclusion proofs of all entries of a bundle, read together."""

    def __init__(self, tx: Tx, leaves: Iterable[int], size: int) -> None:
        self._found = tiles.inclusion_proofs(tx, leaves, size)
        # Most of a path's upper nodes stand in every other path too.
        self._texts = {node: b64u(node) for path in self._found.values() for node in path}

    def of(self, leaf: int) -> list[str]:
        """The path of a leaf as text, lowest first."""
        return [self._texts[node] for node in self._found[leaf]]
