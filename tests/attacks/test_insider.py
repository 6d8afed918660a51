"""An insider with every right on the database: random edits and deletions, each found by the full audit (A10)."""

import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from ledger import audit, tables
from ledger.database import Database
from tests.ledger.test_log import without_triggers
from tests.ledger.world import LOG, MAKER, World, packed, seen, sgtin, sscc

# What a hash, a signature, the chain or a rule of order binds. Not here, because nothing binds them: `received_ms`
# within the promise (devices hold the receipts that do), `epoch` among equal ones, and what followers derive.
COLUMNS = {
    "messages": [
        "id",
        "leaf_hash",
        "key_no",
        "seq",
        "prev",
        "publish_bytes",
        "event_count",
        "jwt",
        "items",
        "item_ids",
    ],
    "disclosures": ["texts"],
    "records": ["id", "leaf_hash", "t", "org", "subject_kid", "raw"],
    "entries": ["kind", "arrival"],
    "tiles": ["hashes"],
    "checkpoints": ["root", "map_root", "keys", "state", "note", "time_s"],
    "keys": ["kid", "org", "iss", "device_key", "use", "scope", "jwk", "leaf"],
    "orgs": ["org", "version", "name", "roles", "account", "kid", "jwk", "place"],
    "masters": ["subject", "fact", "org", "value"],
}
EDITS = int(os.environ.get("INSIDER_EDITS", "60"))
SEED = int(os.environ.get("INSIDER_SEED", "20261125"))


@pytest.fixture
def world(sqlite_database: Database) -> World:
    made = World(sqlite_database).start()
    for number in range(5):
        made.send("line-1", seen(number, number + 1), packed(sscc(1), [sgtin(number)]))
        made.send("truck-1", seen(number))
        made.step()
    made.master(MAKER, MAKER, "party", {"name_en": "Dairy"})
    made.step()
    for table in COLUMNS:
        without_triggers(sqlite_database, table)
    return made


def found(world: World, chain: audit.Chain | None = None) -> list[audit.Finding]:
    results = audit.audit(world.database, origin=LOG, checkpoint_key=world.checkpoint_key.public, chain=chain)
    return [one for one in results if isinstance(one, audit.Finding)]


@contextmanager
def kept(database: Database, name: str) -> Iterator[None]:
    """The table is put back afterwards."""
    table = tables.metadata.tables[name]
    with database.reading() as tx:
        rows = [dict(row._mapping) for row in tx.execute(sa.select(table))]
    try:
        yield
    finally:
        with database.transaction() as tx:
            tx.execute(table.delete())
            tx.execute(table.insert(), rows)


def edited(chance: random.Random, value: Any) -> Any:
    """Another value of the same kind: one byte of bytes, one character of text, another number, bytes for none."""
    if isinstance(value, bytes):
        at = chance.randrange(len(value)) if value else 0
        return value[:at] + bytes([value[at] ^ chance.randrange(1, 256)]) + value[at + 1 :] if value else b"x"
    if isinstance(value, str):
        at = chance.randrange(len(value))
        other = chance.choice([char for char in "abcXYZ019{" if char != value[at]])
        return value[:at] + other + value[at + 1 :]
    if isinstance(value, int):
        return value + chance.choice([-1, 1]) * chance.randrange(1, 100)
    return bytes(32)


def test_every_random_edit_is_found(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    missed: list[str] = []
    times: list[float] = []
    for number in range(EDITS):
        # Each edit from a seed of its own: signatures differ from run to run, and so would all that follows.
        chance = random.Random(SEED + number)
        name = list(COLUMNS)[number % len(COLUMNS)]
        column = chance.choice(COLUMNS[name])
        table = tables.metadata.tables[name]
        with kept(world.database, name):
            with world.database.transaction() as tx:
                row = chance.choice(tx.execute(sa.select(table)).all())
                value = row._mapping[column]
                where = sa.and_(*(one == row._mapping[one.name] for one in table.primary_key.columns))
                change = edited(chance, value)
                try:
                    with tx.begin_nested():
                        tx.execute(table.update().where(where).values({column: change}))
                except sa.exc.IntegrityError:
                    tx.execute(table.delete().where(where))
            started = time.perf_counter()
            if not found(world):
                missed.append(f"edit {number}, {name}.{column}: {value!r} -> {change!r}")
            times.append(time.perf_counter() - started)

    with capsys.disabled():
        median, longest = statistics.median(times), max(times)
        sys.stdout.write(
            f"\n{EDITS - len(missed)} of {EDITS} edits found (seed {SEED}); an audit of {world.sequencer.size} leaves "
            f"took {median:.3f} s in the middle, {longest:.3f} s at most\n"
        )
    assert missed == []
    assert found(world) == []


def deletions(world: World) -> dict[str, dict[str, Any]]:
    """Kinds of deletion: table -> condition."""
    messages, entries = tables.messages, tables.entries
    with world.database.reading() as tx:
        joined = sa.select(entries.c.leaf, messages.c.arrival, messages.c.key_no)
        rows = tx.execute(joined.join(messages, messages.c.arrival == entries.c.arrival).order_by(entries.c.leaf)).all()
        last = tx.execute(sa.select(sa.func.max(tables.checkpoints.c.size))).scalar_one()
        before = tx.execute(
            sa.select(sa.func.max(tables.checkpoints.c.size)).where(tables.checkpoints.c.size < last)
        ).scalar_one()
    device = [row for row in rows if row.key_no == rows[0].key_no]
    part = rows[2:4]

    def both(chosen: list[Any]) -> dict[str, Any]:
        arrivals = [row.arrival for row in chosen]
        return {"messages": messages.c.arrival.in_(arrivals), "entries": entries.c.arrival.in_(arrivals)}

    return {
        "tail": {"entries": entries.c.leaf >= before, "checkpoints": tables.checkpoints.c.size > before},
        "middle": both([rows[len(rows) // 2]]),
        "a whole device": both(device),
        "all of one checkpoint": both(part),
        "the disclosures of a message": {"disclosures": tables.disclosures.c.arrival == rows[1].arrival},
    }


@pytest.mark.parametrize("kind", range(5))
def test_every_kind_of_deletion_is_found(world: World, kind: int) -> None:
    with world.database.reading() as tx:
        root = bytes(
            tx.execute(
                sa.select(tables.checkpoints.c.root).order_by(tables.checkpoints.c.size.desc()).limit(1)
            ).scalar_one()
        )
    chain = audit.Chain(lambda size: root, world.sequencer.size)
    assert found(world, chain) == []
    _, conditions = sorted(deletions(world).items())[kind]
    with world.database.transaction() as tx:
        for name, condition in conditions.items():
            tx.execute(tables.metadata.tables[name].delete().where(condition))

    assert found(world, chain)
