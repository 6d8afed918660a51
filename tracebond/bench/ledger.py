"""``tracebond bench ledger``: sequencer, item map, opening, proofs and bundles on a log that is really there.

A log of a million leaves with a million keys (50,000 with ``--quick``) is sequenced by the real sequencer from prepared
entries (``ledger/prepared.py``: rows as admission writes them, without signatures); thirty real, signed messages about
one item lie scattered in it, and its bundle is made from them. The ceiling of a pass are its own hashes, counted in one
step and computed alone in a bare loop of ``hashlib``. Set TRACEBOND_BENCH_TEN_MILLION=1 for the figure at ten million
keys too: it takes about 7 GB of memory and ten minutes more.
"""

import ctypes
import hashlib
import multiprocessing
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core import merkle
from core.crypto import Ed25519Private, P256Private
from core.errors import Broken
from core.message import issue, open_message, split
from core.records import common, key_members, sign_record
from ledger import flatmap, itemmap, log, mapbuckets, store, tables, tiles
from ledger.database import Database, open_database
from ledger.followers import read_log
from ledger.history import VIEWS, History
from ledger.itemmap import ProofMap, open_map
from ledger.log import Sequencer
from ledger.prepared import Load, prepare_devices, prepare_messages
from ledger.proofs import LogPlace, build_bundle
from tracebond.bench.databases import sqlite_database
from tracebond.bench.report import Row, Say

KEYS, KEYS_QUICK, KEYS_LARGE = 1_000_000, 50_000, 10_000_000
BATCH, BATCHES, BATCHES_QUICK = 5_000, 8, 3
ITEM_EVENTS = 30
REPLAYED_SHARE = 10
TEN_MILLION = "TRACEBOND_BENCH_TEN_MILLION"
AUD, ORIGIN = "https://bench.example", "bench.example/log"
ORG = "https://id.gs1.org/417/9521000000001"
ISS = "https://id.gs1.org/8004/9521000bench"
ITEM = "https://id.gs1.org/01/09521000123458/21/bench"
NOW = 1_795_000_000
REGISTRY = "0x" + "33" * 20
_HASHING = (flatmap, mapbuckets, log, tiles, merkle)
_SIGNER, _DEVICE = P256Private.from_secret(b"bench operator"), P256Private.from_secret(b"bench device")


class Rig:
    """A log under load: one sequencer, prepared messages, one real device."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.random = random.Random(4117)
        self.sequencer = Sequencer(database, Ed25519Private(bytes(32)), ORIGIN)
        self.known: list[bytes] = []
        self.stored = 0
        self.now = NOW
        self._seq = 0
        self._prev: bytes | None = None

    def begin(self) -> None:
        """Register the operator, its device and the keys of the prepared messages."""
        place = {"chain_id": 1, "number": 1, "registry": REGISTRY}
        org = {"name": "bench", "roles": 3, "account": "0x" + "11" * 20, "jwk": _SIGNER.jwk(), "version": 0}
        with self.database.transaction() as tx:
            prepare_devices(tx, Load())
            store.set_identity(tx, aud=AUD, log=ORIGIN)
            for payload in (
                common(t="org", aud=AUD, log=ORIGIN, org=ORG, iat=NOW) | org | {"place": place},
                common(t="key", aud=AUD, log=ORIGIN, org=ORG, iat=NOW)
                | key_members(_DEVICE.jwk(), iss=ISS, use="device", scope={}),
            ):
                store.admit_record(tx, sign_record(payload, _SIGNER), now_ms=NOW * 1000)
        self.step()

    def send(self) -> None:
        """One signed message of the device about the item, admitted as any other."""
        event: dict[str, Any] = {
            "type": "ObjectEvent",
            "action": "OBSERVE",
            "eventTime": "2026-11-25T00:00:00Z",
            "eventTimeZoneOffset": "+00:00",
            "bizStep": "inspecting",
            "readPoint": {"id": "urn:epc:id:sgln:9521000.00001.0"},
            "epcList": ["urn:epc:id:sgtin:9521000.012345.bench"],
        }
        raw = issue(
            [event], aud=AUD, org=ORG, iss=ISS, iat=NOW, seq=self._seq, prev=self._prev, key=_DEVICE,
            salts=lambda: self.random.randbytes(16),
        )  # fmt: skip
        message = open_message(split(raw), _DEVICE.public)
        self._seq, self._prev = self._seq + 1, message.id
        with self.database.transaction() as tx:
            store.admit(tx, [message], now_ms=NOW * 1000)

    def put(self, load: Load, count: int) -> None:
        """Store prepared messages, waiting to be sequenced."""
        with self.database.transaction() as tx:
            prepare_messages(
                tx, load, messages=count, seed=self.stored, known=self.known, start=self.stored, now_ms=NOW * 1000
            )
        self.stored += count

    def step(self) -> None:
        """Sequence all that waits."""
        made = None
        while made is None or made.has_more:
            self.now += 1
            made = self.sequencer.step(self.now)
            if made is None:
                raise Broken("There was nothing to sequence.")

    def fill(self, load: Load, messages: int, *, real: int = 0) -> None:
        """Sequence prepared messages, with real ones scattered among them."""
        done = 0
        every = messages // real if real else messages + 1
        while done < messages:
            part = min(BATCH, messages - done, every)
            self.put(load, part)
            done += part
            if real and done // every > (done - part) // every:
                self.send()
            self.step()


def run(quick: bool, say: Say) -> list[Row]:
    """Every figure of the ledger, on a fresh SQLite database."""
    count = KEYS_QUICK if quick else KEYS
    batches = BATCHES_QUICK if quick else BATCHES
    rows = [Row("SHA-256 of 65 bytes, alone", 1 / _hash_s(Counter({65: 100_000})) * 100_000, "hashes/s")]
    with sqlite_database() as database:
        rig = Rig(database)
        rig.begin()
        say(f"sequencing {count:,} leaves with {count:,} keys ...")
        started = time.perf_counter()
        rig.fill(Load(keys_per_event=1, new_share=1), count, real=ITEM_EVENTS)
        filled = count / (time.perf_counter() - started)
        rows.append(Row(f"storing and sequencing {count:,} prepared messages of one key", filled, "events/s"))
        rows += _opening(rig, count, say)
        rows += _proofs(rig, count, say)
        rows += _passes(rig, f"{count:,} keys", batches, 20_000, say)
        rows.append(_growth(rig, batches, say))
        rows.append(_append(count))
        if quick or not os.environ.get(TEN_MILLION):
            say(f"not measured: ten million keys (set {TEN_MILLION}=1, without --quick; 7 GB, ten minutes more)")
        else:
            say("going on to ten million keys ...")
            rig.fill(Load(keys_per_event=400, new_share=1), (KEYS_LARGE - count) // 400)
            rows += _passes(rig, f"{KEYS_LARGE:,} keys", batches, 17_000, say)
    return rows


def _passes(rig: Rig, name: str, batches: int, target: int, say: Say) -> list[Row]:
    """The sequencer's whole pass: read, hash, tree, tiles, map, state leaf, read back, sign, commit."""
    say(f"sequencing batches of {BATCH:,} at {name} ...")
    load = Load()
    rig.put(load, BATCH)
    with _counted() as hashes:
        rig.step()
    raw, raw_used = _hash_s(hashes) / BATCH, _hash_s(hashes, time.process_time) / BATCH
    wall, cpu = [], []
    for _ in range(batches):
        rig.put(load, BATCH)
        started, used = time.perf_counter(), time.process_time()
        rig.step()
        cpu.append((time.process_time() - used) / BATCH)
        wall.append((time.perf_counter() - started) / BATCH)
    with rig.database.reading() as tx:
        query = sa.select(tables.tiles.c.hashes).where(tables.tiles.c.level == 0).order_by(tables.tiles.c.number)
        leaves = [blob[at : at + 32] for blob in tx.execute(query).scalars() for at in range(0, len(blob), 32)]
    rebuilding = time.process_time()
    naive = _timed(lambda: merkle.tree_root(leaves), 1) / BATCH
    naive_used = (time.process_time() - rebuilding) / BATCH
    median, used = statistics.median(wall), statistics.median(cpu)
    what = f"sequencer at {name}, 2.5 keys an event, 60 % new"
    return [
        Row(what, 1 / median, "events/s", ceiling=1 / raw, naive=1 / (naive + median), target=target),
        Row(
            f"{what}, processor time ({hashes.total() / BATCH:.1f} hashes an event)", used * 1e6, "us/event",
            ceiling=raw_used * 1e6, naive=(naive_used + used) * 1e6, target=0.35,
            is_lower_better=True, is_share_target=True,
        ),
    ]  # fmt: skip


def _opening(rig: Rig, count: int, say: Say) -> list[Row]:
    say(f"opening at {count:,} keys ...")
    url = rig.database.url
    size = rig.sequencer.size
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        seconds, memory, keys = pool.apply(open_in_child, (url, size))
    # What does not grow with the map weighs too much on a small one.
    target = 300 if count >= KEYS else None
    with rig.database.reading() as tx:
        opened = open_map(tx, size)
        rig.known = [row[:32] for row in opened.rows()]
        part = size // REPLAYED_SHARE
        replayed = _timed(lambda: itemmap.replay(tx, part), 1) * REPLAYED_SHARE
    return [
        Row(f"opening at {keys:,} keys, all hashes anew (naive: replay, a tenth of it times ten)", seconds, "s",
            naive=replayed, target=5, is_lower_better=True),
        Row("memory of the opened map", memory / keys, "bytes/key", target=target, is_lower_better=True),
    ]  # fmt: skip


def open_in_child(url: str, size: int) -> tuple[float, int, int]:
    """Seconds to open the map, bytes of memory it keeps, its keys; run in a process of its own."""
    database = open_database(url)
    with database.reading() as tx:
        tx.execute(sa.select(tables.checkpoints.c.size).limit(1)).all()
        before = _resident()
        started = time.perf_counter()
        opened = open_map(tx, size)
        taken = time.perf_counter() - started
    database.close()
    # What the database's cache and the snapshot took is free by now; the allocator gives it back when asked.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return taken, _resident() - before, len(opened)


def _proofs(rig: Rig, count: int, say: Say) -> list[Row]:
    say("making proofs ...")
    database, size = rig.database, rig.sequencer.size
    with database.transaction() as tx:
        # The index of the steps that a bundle needs; the prepared messages are no messages that could be followed.
        real = sa.select(tables.entries.c.leaf)
        real = real.join(tables.messages, tables.messages.c.arrival == tables.entries.c.arrival)
        real = real.join(tables.keys, tables.keys.c.key_no == tables.messages.c.key_no).where(tables.keys.c.iss == ISS)
        leaves = [*tx.execute(real).scalars(), 0, 1]
        for leaf in leaves:
            History().apply(tx, read_log(tx, leaf, leaf + 1))
        tx.execute(tables.followers.insert().values(name=VIEWS, next_leaf=size))
    maps = ProofMap()
    place = LogPlace("0x" + "22" * 20, REGISTRY, 0, 1, "0x" + "44" * 32)
    with database.reading() as tx:
        maps.advance(tx, size)
        bundle = build_bundle(tx, maps, place, ITEM, reader="consumer")
        made = _timed(lambda: build_bundle(tx, maps, place, ITEM, reader="consumer"), 15)
        indexes = [rig.random.randrange(size) for _ in range(300)]
        inclusion = _timed(lambda: [tiles.inclusion_proof(tx, index, size) for index in indexes], 1) / 300
        consistency = _timed(lambda: [tiles.consistency_proof(tx, index + 1, size) for index in indexes], 1) / 300
        query = sa.select(tables.tiles.c.hashes).where(tables.tiles.c.level == 0).order_by(tables.tiles.c.number)
        hashes = [blob[at : at + 32] for blob in tx.execute(query).scalars() for at in range(0, len(blob), 32)][:size]
    rebuilt = _timed(lambda: merkle.inclusion_proof(hashes, indexes[0]), 1)
    name = f"at {count:,} leaves"
    return [
        Row(f"bundle of an item with {ITEM_EVENTS} events {name} ({len(bundle):,} bytes), made", made * 1e3, "ms",
            naive=(made + rebuilt * ITEM_EVENTS) * 1e3, target=10, is_lower_better=True),
        Row(f"inclusion proof {name}, cold tiles", inclusion * 1e3, "ms", naive=rebuilt * 1e3, is_lower_better=True),
        Row(f"consistency proof {name}", consistency * 1e3, "ms", naive=rebuilt * 1e3, is_lower_better=True),
    ]  # fmt: skip


def _growth(rig: Rig, batches: int, say: Say) -> Row:
    say("letting the log grow without new keys ...")
    load = Load(new_share=0)
    rig.put(load, BATCH)
    rig.step()
    before = _resident()
    for _ in range(batches):
        rig.put(load, BATCH)
        rig.step()
    grown = max(0, _resident() - before)
    return Row("memory for each further event that brings no new key", grown / (BATCH * batches), "bytes")


def _append(count: int) -> Row:
    """Tiles alone: leaf hashes into rows of the database, in batches."""
    rng = random.Random(1)
    hashes = [rng.randbytes(32) for _ in range(count)]
    with sqlite_database() as database:
        started = time.perf_counter()
        for start in range(0, count, BATCH):
            with database.transaction() as tx:
                tiles.append(tx, start, hashes[start : start + BATCH])
        taken = (time.perf_counter() - started) / count
    raw = _hash_s(Counter({65: 100_000})) / 100_000
    naive = _timed(lambda: merkle.tree_root(hashes), 1) / BATCH
    return Row("appending leaf hashes to tiles, committed", 1 / taken, "leaves/s", ceiling=1 / raw, naive=1 / naive)


@contextmanager
def _counted() -> Iterator[Counter[int]]:
    """Counts the hashes that the ledger's own code makes meanwhile, by the number of bytes hashed."""
    found: Counter[int] = Counter()

    def counting(data: Any) -> Any:
        found[len(data)] += 1
        return hashlib.sha256(data)

    names: list[Any] = list(_HASHING)
    for module in names:
        module.sha256 = counting
    try:
        yield found
    finally:
        for module in names:
            module.sha256 = hashlib.sha256


def _hash_s(lengths: Counter[int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds, by this clock, that so many hashes of these lengths take in a bare loop."""
    total = 0.0
    for length, count in lengths.items():
        data, sha256 = bytes(length), hashlib.sha256
        started = clock()
        for _ in range(count):
            sha256(data).digest()
        total += clock() - started
    return total


def _timed(call: Callable[[], object], times: int) -> float:
    """Median seconds of one call."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
