"""Followers, the history index, chains of keys, and journeys through containers."""

from collections.abc import Sequence

import pytest

from core.canonical import b64u
from core.errors import Unavailable
from core.prefixmap import map_key
from ledger import chains, followers, history, state
from ledger.database import Database, Tx
from ledger.itemmap import ProofMap
from tests.ledger.world import MAKER, NOW, World, packed, seen, sgtin, sgtin_id, sscc


def run(world: World) -> None:
    world.step()
    followers.run_all(world.database, state.views(), limit=7)


def test_the_history_of_a_key_has_as_many_steps_as_the_map_counts_and_the_same_head(database: Database) -> None:
    from core.prefixmap import HEAD_START, step_head

    world = World(database).start()
    for number in range(5):
        world.send("line-1", seen(1, number + 2), seen(1))
        world.send("truck-1", packed(sscc(1), [sgtin(1)]))
        world.step()
    world.master(MAKER, sgtin_id(1), "ownership", {"owner": MAKER})
    run(world)
    maps = ProofMap()
    keys = [map_key("item", sgtin_id(1)), map_key("device", world.iss("line-1")), map_key("org", MAKER)]
    keys += [map_key("key", world.devices["truck-1"].thumbprint()), map_key("item", "https://nobody.example")]

    with database.reading() as tx:
        maps.advance(tx, world.sequencer.size)
        for key in keys:
            head, count = HEAD_START, 0
            for step in history.steps(tx, key, maps.size):
                head, count = step_head(head, step.leaf, step.event, step.leaf_hash), count + 1
            assert maps.get(key) == ((count, head) if count else None)


def test_events_come_back_whole_and_in_log_order(database: Database) -> None:
    world = World(database).start()
    sent = seen(1, 2, place="urn:epc:id:sgln:9521000.00001.0", step="commissioning", action="ADD")
    message = world.send("line-1", seen(9), sent)
    run(world)

    with database.reading() as tx:
        found = history.events_of(tx, sgtin_id(1))

    assert len(found) == 1
    assert found[0].event == sent
    assert (found[0].number, found[0].message_id, found[0].org, found[0].use) == (1, message.id, MAKER, "device")
    assert found[0].roles_of(sgtin_id(1)) == [6]
    assert found[0].device_ms == NOW * 1000


def test_a_history_that_is_not_indexed_yet_is_unavailable(database: Database) -> None:
    world = World(database).start()

    with pytest.raises(Unavailable, match="history_behind"), database.reading() as tx:
        history.steps(tx, b"k" * 32, world.sequencer.size)


def test_a_follower_sees_each_entry_once_and_a_crash_repeats_nothing(database: Database) -> None:
    world = World(database).start()
    seen_leaves: list[int] = []

    class Fragile:
        name = "fragile"
        fails = True

        def apply(self, tx: Tx, entries: Sequence[followers.Entry]) -> None:
            if self.fails:
                self.fails = False
                raise OSError("power cut")
            seen_leaves.extend(entry.leaf for entry in entries)

    follower = Fragile()
    with pytest.raises(OSError, match="power cut"):
        followers.run_once(database, follower, limit=3)
    total = followers.run_all(database, follower, limit=3)

    assert seen_leaves == list(range(world.sequencer.size))
    assert total == world.sequencer.size
    assert followers.run_once(database, follower) == 0


def test_gaps_are_reported_and_filled_by_backfill(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(8)]
    kid = world.devices["line-1"].thumbprint()

    world.admit(sent[0], sent[3], sent[7])
    run(world)
    with database.reading() as tx:
        early = chains.gaps(tx)
    world.admit(*sent[1:3], *sent[4:7])
    run(world)
    with database.reading() as tx:
        late = chains.gaps(tx)

    assert early == [chains.Gap(kid, 1, 2), chains.Gap(kid, 4, 6)]
    assert late == []


def test_the_later_of_two_equal_seqs_and_its_descendants_are_no_evidence(database: Database) -> None:
    world = World(database).start()
    root = world.send("line-1", seen(1))
    honest = world.message("line-1", [seen(2)])
    world.chains["line-1"] = (1, root.id)
    thief = world.message("line-1", [seen(3)])
    child = world.message("line-1", [seen(4)])
    world.admit(honest, thief)
    world.admit(child)
    run(world)

    with database.reading() as tx:
        judged = {unit: history.events_of(tx, sgtin_id(unit))[0].suspect for unit in (1, 2, 3, 4)}
        known = state.item_states_of(tx, [sgtin_id(unit) for unit in (1, 2, 3, 4)])

    assert judged == {1: None, 2: None, 3: "equivocation", 4: "descendant"}
    assert set(known) == {sgtin_id(1), sgtin_id(2)}
    assert thief.id != honest.id


def test_after_an_end_only_the_last_good_message_and_its_ancestors_are_evidence(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(6)]
    world.admit(sent[0], sent[2], sent[4])
    run(world)
    world.end("line-1", last=b64u(sent[2].id), seq=2)
    world.step()
    world.admit(sent[1], sent[5])
    run(world)

    with database.reading() as tx:
        judged = {unit: history.events_of(tx, sgtin_id(unit))[0].suspect for unit in (0, 1, 2, 4, 5)}
        known = state.item_states_of(tx, [sgtin_id(unit) for unit in range(6)])

    # Number 2 reaches number 1 by prev once the backfill is there, and number 0 through it.
    assert judged[1] is None
    assert judged[2] is None
    assert judged[4] == "after_last"
    assert judged[5] in ("after_end", "descendant")
    assert sgtin_id(4) not in known
    assert sgtin_id(5) not in known


def test_an_end_without_last_makes_everything_of_the_key_suspect(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(1))
    run(world)
    world.end("line-1", last=None, seq=-1)
    run(world)

    with database.reading() as tx:
        assert history.events_of(tx, sgtin_id(1))[0].suspect == "after_last"
        assert state.item_state(tx, sgtin_id(1)) is None


def test_a_journey_takes_in_the_containers_for_the_time_inside(database: Database) -> None:
    world = World(database).start()
    case, pallet = sscc(1), sscc(2)
    moved = {"type": "ObjectEvent", "action": "OBSERVE", "eventTimeZoneOffset": "+00:00", "bizStep": "shipping"}

    def pallet_seen(at: int, step: str) -> dict:  # type: ignore[type-arg]
        from tests.ledger.world import time_text

        return moved | {"eventTime": time_text(at), "bizStep": step, "epcList": [pallet]}

    world.send("line-1", seen(1, at=NOW, step="commissioning", action="ADD"))
    world.send("line-1", pallet_seen(NOW + 5, "commissioning"))
    world.send("line-1", packed(case, [sgtin(1)], at=NOW + 10))
    world.send("line-1", packed(pallet, [case], at=NOW + 20))
    world.send("truck-1", pallet_seen(NOW + 30, "shipping"))
    world.send("truck-1", packed(pallet, [case], at=NOW + 40, action="DELETE"))
    world.send("truck-1", pallet_seen(NOW + 50, "receiving"))
    world.send("line-1", packed(case, [sgtin(1)], at=NOW + 60, action="DELETE"))
    world.send("line-1", seen(1, at=NOW + 70, step="retail_selling"))
    run(world)

    with database.reading() as tx:
        found = history.journey(tx, sgtin_id(1))

    told = [(one.event.device_ms // 1000 - NOW, one.event.clear["bizStep"], one.via and one.via[-4:]) for one in found]
    assert [entry[0] for entry in told] == [0, 10, 20, 30, 40, 60, 70]
    assert told[3][1] == "shipping"
    assert told[3][2] is not None


def test_what_a_thing_was_made_of_is_found_in_both_directions(database: Database) -> None:
    from tests.ledger.world import time_text

    world = World(database).start()
    milk = "urn:epc:class:lgtin:9521000.012346.MILK1"
    world.send(
        "line-1",
        {
            "type": "TransformationEvent",
            "eventTime": time_text(NOW),
            "eventTimeZoneOffset": "+00:00",
            "inputQuantityList": [{"epcClass": milk, "quantity": 5}],
            "outputEPCList": [sgtin(1), sgtin(2)],
        },
    )
    run(world)

    with database.reading() as tx:
        inputs = history.made_of(tx, sgtin_id(1))
        outputs = history.made_into(tx, inputs[0])

    assert inputs == ["https://id.gs1.org/01/09521000123465/10/MILK1"]
    assert outputs == [sgtin_id(1), sgtin_id(2)] or set(outputs) == {sgtin_id(1), sgtin_id(2)}
