"""The views in small and in large runs, built again from the log, and against a plain walk through the log."""

import random
from typing import Any

import pytest
import sqlalchemy as sa

from core.canonical import b64u, unb64u
from ledger import followers, state, tables
from ledger.database import Database
from tests.ledger.world import NOW, World, packed, seen, sgtin, sscc

DERIVED = (tables.item_steps, tables.chains, tables.suspects, tables.item_states, tables.item_facts)


def tell(world: World, seed: int) -> None:
    """Two devices: gaps filled late, messages twice under one seq, descendants of both, an end with more behind it."""
    rng = random.Random(seed)
    held: list[Any] = []
    ids: dict[str, list[tuple[int, bytes]]] = {"line-1": [], "truck-1": []}
    for number in range(40):
        name = rng.choice(["line-1", "truck-1"])
        unit = rng.randint(1, 6)
        event = seen(unit, at=NOW + rng.randint(-50, 50))
        if rng.random() < 0.3:
            event = packed(
                sscc(rng.randint(1, 2)), [sgtin(unit)], action=rng.choice(["ADD", "DELETE"]), at=NOW + number
            )
        before = world.chains.get(name, (0, None))
        message = world.message(name, [event])
        ids[name].append((before[0], message.id))
        if rng.random() < 0.15:
            held.append(message)
        else:
            world.admit(message)
        if rng.random() < 0.15:
            after = world.chains[name]
            world.chains[name] = before
            world.admit(world.message(name, [seen(unit + 1)], keep=rng.random() < 0.5))
            if rng.random() < 0.5:
                world.chains[name] = after
        if number == 25:
            # Gaps before the end are filled before it: what an end cuts off is judged by what is stored by then.
            world.admit(*held)
            held.clear()
            seq, last = rng.choice(ids["line-1"])
            world.end("line-1", last=b64u(last), seq=seq)
        if rng.random() < 0.3:
            world.step()
            followers.run_once(world.database, state.views(), limit=rng.choice([1, 3, 50]))
    world.admit(*held)
    world.step()


def rows(database: Database) -> dict[str, list[Any]]:
    with database.reading() as tx:
        found = {table.name: [tuple(row) for row in tx.execute(sa.select(table))] for table in DERIVED}
    return {name: sorted(map(repr, held)) for name, held in found.items()}


def walk(database: Database) -> tuple[dict[int, str], dict[str, tuple[int, int, int]]]:
    """Suspects by leaf, and (highest, distinct, equivocations) by kid, as architecture.md section 2 says them."""
    with database.reading() as tx:
        log = followers.read_log(tx, 0, 10_000)
    messages = [one for one in log if isinstance(one, followers.LoggedMessage)]

    prevs = {one.message_id: one.prev for one in messages}

    def ancestors(last: str | None) -> set[bytes]:
        good: set[bytes] = set()
        found = None if last is None else unb64u(last)
        while found is not None:
            good.add(found)
            found = prevs.get(found)
        return good

    suspects: dict[bytes, str] = {}
    ends: dict[str, Any] = {}
    earlier: list[followers.LoggedMessage] = []
    for one in log:
        if isinstance(one, followers.LoggedRecord) and one.record.t == "end":
            payload = one.record.payload
            ends[payload["kid"]] = payload
            good = ancestors(payload["last"])
            for old in earlier:
                if old.signed.kid == payload["kid"] and old.message_id not in good:
                    suspects.setdefault(old.message_id, "after_last")
        elif isinstance(one, followers.LoggedMessage):
            kid = one.signed.kid
            end = ends.get(kid)
            if any(old.signed.kid == kid and old.seq == one.seq for old in earlier):
                suspects[one.message_id] = "equivocation"
            elif one.prev in suspects:
                suspects[one.message_id] = "descendant"
            elif end is not None and (one.seq > end["seq"] or one.message_id not in ancestors(end["last"])):
                suspects[one.message_id] = "after_end"
            earlier.append(one)
    counts: dict[str, tuple[int, int, int]] = {}
    for kid in {one.signed.kid for one in messages}:
        numbers = [one.seq for one in messages if one.signed.kid == kid]
        counts[kid] = (max(numbers), len(set(numbers)), len(numbers) - len(set(numbers)))
    return {one.leaf: suspects[one.message_id] for one in messages if one.message_id in suspects}, counts


@pytest.mark.parametrize("seed", [2, 4])
def test_views_agree_with_a_plain_walk_and_do_not_depend_on_the_size_of_runs(database: Database, seed: int) -> None:
    world = World(database).start()
    tell(world, seed)
    followers.run_all(database, state.views(), limit=7)
    gradually = rows(database)
    suspects, counts = walk(database)

    with database.transaction() as tx:
        for table in (*DERIVED, tables.followers):
            tx.execute(table.delete())
    followers.run_all(database, state.views())

    assert rows(database) == gradually
    with database.reading() as tx:
        stored = dict(tx.execute(sa.select(tables.suspects.c.leaf, tables.suspects.c.reason)).all())
        query = sa.select(tables.keys.c.kid, tables.chains).join(
            tables.chains, tables.chains.c.key_no == tables.keys.c.key_no
        )
        chains = {row.kid: (row.highest, row.distinct, row.equivocations) for row in tx.execute(query)}
    assert stored == suspects
    assert suspects, f"seed {seed} makes no suspects"
    assert chains == counts
