"""A storm against a clean run: the same messages duplicated, reordered, dropped, sent again, hostile ones between.

A thousand messages here; with TRACEBOND_CAMPAIGN=1 a hundred thousand. The stream and its faults follow from one seed.
"""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.message import issue, split
from ingest.tables import quarantine
from ledger.chains import gaps
from ledger.database import Database, open_database
from ledger.followers import run_once
from ledger.state import item_states_of, views
from ledger.tables import chains, entries, item_states, keys, messages
from simulators.devices import Device, DeviceConfig
from simulators.faults import hostile_messages
from simulators.outbox import Outbox
from simulators.randomness import Drbg
from tests.ingest.rig import Rig
from tests.ledger.world import AUD, MAKER, NOW, seen, sgtin_id

SEED = 4117
COUNT = 100_000 if os.environ.get("TRACEBOND_CAMPAIGN") else 1_000
DEVICES = 20
# Shares of the stream; what is never sent at all makes the gaps that both runs must report.
DUPLICATED = REORDERED = DROPPED = 0.10
HOSTILE = 0.01
NEVER = 0.003
STEPS = ("commissioning", "inspecting", "storing", "shipping", "receiving", "cycle_counting")


@dataclass
class Stream:
    """What devices have to say, and what happens to it on the way."""

    clean: list[tuple[str, bytes]] = field(default_factory=list)
    stormy: list[tuple[str, bytes]] = field(default_factory=list)
    hostile: set[bytes] = field(default_factory=set)
    gaps: dict[str, set[int]] = field(default_factory=dict)
    items: list[str] = field(default_factory=list)
    made: dict[str, int] = field(default_factory=dict)


def names() -> list[str]:
    return [f"storm-{number}" for number in range(DEVICES)]


def said(source: random.Random, number: int) -> dict[str, Any]:
    """The next event: things are handled by several devices, each time a second later than before."""
    serial = source.randrange(1, COUNT // 5)
    step = source.choice(STEPS)
    action = "ADD" if step == "commissioning" else "OBSERVE"
    return seen(f"S{serial}", step=step, action=action, at=NOW - COUNT + number)


def make_stream(rig: Rig) -> Stream:
    """Sign every message once, leave some out for ever, and throw the rest about."""
    source, world, made = random.Random(SEED), rig.world, Stream()
    heads: dict[str, tuple[int, bytes | None]] = dict.fromkeys(names(), (0, None))
    made.gaps = {world.devices[name].thumbprint(): set() for name in names()}
    last = {}
    for number in range(COUNT):
        name = source.choice(names())
        seq, prev = heads[name]
        event = said(source, number)
        raw = issue(
            [event], aud=AUD, org=MAKER, iss=world.iss(name), iat=NOW, seq=seq, prev=prev, key=world.devices[name],
            salts=lambda: source.randbytes(16),
        )  # fmt: skip
        heads[name] = (seq + 1, split(raw).id)
        last[name] = len(made.clean)
        if source.random() < NEVER and number < COUNT - 10 * DEVICES:
            made.gaps[world.devices[name].thumbprint()].add(seq)
            continue
        made.clean.append((rig.topic(name), raw))
    made.items = [sgtin_id(f"S{serial}") for serial in range(1, COUNT // 5)]
    throw(source, rig, made)
    return made


def throw(source: random.Random, rig: Rig, made: Stream) -> None:
    """Give each message its own place in the stream, a later one, or two; put hostile ones between."""
    placed: list[tuple[float, tuple[str, bytes]]] = []
    made.made = dict.fromkeys(("duplicated", "reordered", "dropped", "hostile"), 0)
    for place, message in enumerate(made.clean):
        chance, own = source.random(), float(place)
        if chance < DROPPED:
            # Its receipt does not come, and the device sends it again much later.
            made.made["dropped"] += 1
            own += source.uniform(100, COUNT / 4)
        elif chance < DROPPED + REORDERED:
            made.made["reordered"] += 1
            own += source.uniform(1, 50)
        placed.append((own, message))
        if source.random() < DUPLICATED:
            made.made["duplicated"] += 1
            placed.append((own + source.uniform(0, COUNT / 10), message))
    for topic, raw in hostile(source, rig, round(COUNT * HOSTILE)):
        made.made["hostile"] += 1
        made.hostile.add(raw)
        placed.append((source.uniform(0, COUNT), (topic, raw)))
    made.stormy = [message for _, message in sorted(placed, key=lambda one: one[0])]


def hostile(source: random.Random, rig: Rig, wanted: int) -> Iterator[tuple[str, bytes]]:
    """Publishes that nobody may accept, of every kind in the catalogue, in the names of honest devices."""
    drbg, given = Drbg.of(SEED), set()
    while len(given) < wanted:
        name = source.choice(names())
        config = DeviceConfig.of(name, aud=AUD, org=MAKER, iss=rig.world.iss(name))
        device = Device(config, rig.world.devices[name], Outbox(Path(":memory:")), salts=lambda: source.randbytes(16))
        for raw in hostile_messages(device, seen(f"H{len(given)}"), NOW, drbg).values():
            if raw not in given and len(given) < wanted:
                given.add(raw)
                yield rig.topic(name), raw
        device.close()


def play(rig: Rig, stream: list[tuple[str, bytes]]) -> None:
    """Take a stream through worker, sequencer and followers."""
    follower = views()
    for start in range(0, len(stream), 2_000):
        for topic, raw in stream[start : start + 2_000]:
            rig.source.send(topic, raw)
        idle = 0
        while idle < 3:
            rig.monotonic += 1.0
            idle = 0 if rig.worker.run_once() or rig.source.waiting else idle + 1
        follow(rig, follower)


def follow(rig: Rig, follower: Any) -> None:
    while True:
        made = rig.world.step()
        if made is None or not made.has_more:
            break
    while run_once(rig.database, follower):
        pass


def outcome(rig: Rig, stream: Stream) -> dict[str, Any]:
    """All that must not depend on the order of arrival: places in the log are told by message id."""
    with rig.database.reading() as tx:
        query = sa.select(keys.c.kid, messages.c.seq, messages.c.id).join(messages, messages.c.key_no == keys.c.key_no)
        logged = tx.execute(query.join(entries, entries.c.arrival == messages.c.arrival)).all()
        walks = tx.execute(
            sa.select(keys.c.kid, chains.c.highest, chains.c.distinct, chains.c.equivocations).join(
                keys, keys.c.key_no == chains.c.key_no
            )
        ).all()
        holes = [(gap.kid, gap.first, gap.last) for gap in gaps(tx)]
        leaves = sa.select(entries.c.leaf, messages.c.id).join(messages, messages.c.arrival == entries.c.arrival)
        at = {row.leaf: bytes(row.id) for row in tx.execute(leaves)}
        states = {}
        for start in range(0, len(stream.items), 500):
            for item, state in item_states_of(tx, stream.items[start : start + 500]).items():
                shown = {**vars(state)} if hasattr(state, "__dict__") else state._asdict()
                when = shown.pop("last")
                states[item] = (shown, when.device_ms, at[when.leaf])
        count = tx.execute(sa.select(sa.func.count()).select_from(item_states)).scalar_one()
    return {
        "log": sorted((kid, seq, bytes(ident)) for kid, seq, ident in logged),
        "chains": sorted(tuple(row) for row in walks),
        "gaps": sorted(holes),
        "items": states,
        "count": count,
    }


def quarantined(rig: Rig) -> set[bytes]:
    with rig.database.reading() as tx:
        return {bytes(raw) for raw in tx.execute(sa.select(quarantine.c.raw)).scalars()}


def new_rig(template: Path, folder: Path, name: str) -> Rig:
    path = folder / f"{name}.db"
    shutil.copy(template, path)
    database: Database = open_database(f"sqlite:///{path}")
    rig = Rig(database)
    for device in names():
        rig.world.enroll(device, MAKER)
    rig.world.step()
    return rig


@pytest.mark.timeout(3_600)
def test_a_storm_ends_in_the_state_of_the_clean_run(sqlite_template: Path, tmp_path: Path) -> None:
    clean, stormy = (new_rig(sqlite_template, tmp_path, name) for name in ("clean", "stormy"))
    stream = make_stream(clean)
    gap_at_half = half_way(stream, clean)

    play(clean, stream.clean)
    half = len(stream.stormy) // 2
    play(stormy, stream.stormy[:half])
    reported_at_half = open_gaps(stormy)
    play(stormy, stream.stormy[half:])

    calm, after = outcome(clean, stream), outcome(stormy, stream)
    for part in ("log", "chains", "gaps", "items", "count"):
        assert after[part] == calm[part], f"seed {SEED}: {part}"
    assert len(after["log"]) == len(stream.clean)
    assert open_gaps(stormy) == {kid: seqs for kid, seqs in stream.gaps.items() if seqs}
    assert reported_at_half == gap_at_half
    assert sum(len(seqs) for seqs in reported_at_half.values()) > sum(map(len, stream.gaps.values()))
    assert quarantined(stormy) == stream.hostile
    assert quarantined(clean) == set()
    sys.stdout.write(f"seed {SEED}: {len(stream.stormy)} deliveries of {len(stream.clean)} messages, {stream.made}\n")
    for rig in (clean, stormy):
        rig.database.close()


def half_way(stream: Stream, rig: Rig) -> dict[str, set[int]]:
    """By hand: which places are open after the first half of the stormy stream has come."""
    from core.canonical import parse_json, unb64u

    there: dict[str, set[int]] = {}
    for _, raw in stream.stormy[: len(stream.stormy) // 2]:
        if raw in stream.hostile:
            continue
        _, payload, _ = raw.split(b"~")[0].split(b".")
        kid = split(raw).kid
        there.setdefault(kid, set()).add(parse_json(unb64u(payload.decode()), bytes_max=60_000)["seq"])
    found = {kid: set(range(max(seqs))) - seqs for kid, seqs in there.items()}
    return {kid: seqs for kid, seqs in found.items() if seqs}


def open_gaps(rig: Rig) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    with rig.database.reading() as tx:
        for kid in tx.execute(sa.select(keys.c.kid).join(chains, chains.c.key_no == keys.c.key_no)).scalars().all():
            for gap in gaps(tx, kid):
                found.setdefault(kid, set()).update(range(gap.first, gap.last + 1))
    return found
