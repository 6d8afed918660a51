"""A refused message is not in the log, but it keeps its place in its key's chain."""

from core.canonical import b64u
from core.message import Message
from core.records import common
from ledger import chains, followers, history, state
from ledger.database import Database
from tests.ledger.world import AUD, LOG, OPERATOR, World, seen, sgtin_id


def run(world: World) -> None:
    world.step()
    followers.run_all(world.database, state.views(), limit=7)


def refuse(world: World, message: Message) -> None:
    """What ingest says of an authentic message that it does not take."""
    signed = message.signed
    members = {"message": b64u(signed.id), "kid": signed.kid, "iss": signed.iss, "seq": signed.seq, "code": "bad_uri"}
    members["prev"] = None if signed.prev is None else b64u(signed.prev)
    world.record(common(t="refusal", aud=AUD, log=LOG, org=signed.org, iat=world.now) | members, signer=OPERATOR)


def gaps(world: World) -> list[tuple[int, int]]:
    with world.database.reading() as tx:
        return [(gap.first, gap.last) for gap in chains.gaps(tx)]


def standing(world: World) -> tuple[int, int]:
    with world.database.reading() as tx:
        row = tx.execute(chains.chains.select()).one()
    return row.highest, row.distinct


def test_it_leaves_no_gap(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(7)]
    world.admit(sent[0], sent[2], sent[5])
    run(world)
    assert gaps(world) == [(1, 1), (3, 4)]

    refuse(world, sent[1])
    refuse(world, sent[3])
    run(world)

    assert gaps(world) == [(4, 4)]
    assert standing(world) == (5, 5)


def test_one_beyond_the_last_message_shows_what_is_missing_before_it(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(5)]
    world.admit(sent[0])
    refuse(world, sent[3])
    run(world)

    assert gaps(world) == [(1, 2)]
    world.admit(sent[4], sent[1], sent[2])
    run(world)
    assert gaps(world) == []
    assert standing(world) == (4, 5)


def test_a_message_taken_after_all_is_counted_once(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(3)]
    refuse(world, sent[1])
    world.admit(sent[0], sent[2])
    run(world)
    world.admit(sent[1])
    run(world)

    assert standing(world) == (2, 3)
    with database.reading() as tx:
        assert history.events_of(tx, sgtin_id(1))[0].suspect is None


def test_the_walk_back_from_the_last_good_message_passes_it(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(6)]
    for number in (2, 3):
        refuse(world, sent[number])
    world.admit(sent[0], sent[1], sent[4], sent[5])
    run(world)
    world.end("line-1", last=b64u(sent[4].id), seq=4)
    run(world)

    with database.reading() as tx:
        judged = {unit: history.events_of(tx, sgtin_id(unit))[0].suspect for unit in (0, 1, 4, 5)}
    assert judged == {0: None, 1: None, 4: None, 5: "after_last"}


def test_what_follows_a_suspect_through_it_is_a_descendant(database: Database) -> None:
    world = World(database).start()
    world.send("line-1", seen(0))
    honest = world.message("line-1", [seen(1)], keep=False)
    thief = world.message("line-1", [seen(2)])
    lost = [world.message("line-1", [seen(number)]) for number in (3, 4)]
    child = world.message("line-1", [seen(5)])
    world.admit(honest, thief)
    for one in lost:
        refuse(world, one)
    run(world)
    world.admit(child)
    run(world)

    with database.reading() as tx:
        judged = {unit: history.events_of(tx, sgtin_id(unit))[0].suspect for unit in (1, 2, 5)}
    assert judged == {1: None, 2: "equivocation", 5: "descendant"}


def test_records_from_before_get_their_places_once(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(4)]
    refuse(world, sent[1])
    world.admit(sent[0], sent[2], sent[3])
    run(world)
    with database.reading() as tx:
        log = followers.read_log(tx, 0, 1_000)
    told = [one.record.payload for one in log if isinstance(one, followers.LoggedRecord) and one.record.t == "refusal"]

    for _ in range(2):
        with database.transaction() as tx:
            chains.take_refusals(tx, told)

    assert standing(world) == (3, 4)
    assert gaps(world) == []


def test_gaps_of_a_long_chain_are_found_without_reading_it_here(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(60)]
    kept = [one for number, one in enumerate(sent) if number % 3]
    world.admit(*kept)
    run(world)

    assert gaps(world) == [(number, number) for number in range(0, 60, 3)]


def test_a_record_of_a_key_that_is_not_in_the_log_gives_no_place(database: Database) -> None:
    world = World(database).start()
    sent = world.message("line-1", [seen(0)])
    refuse(world, sent)
    run(world)
    with database.reading() as tx:
        log = followers.read_log(tx, 0, 1_000)
    (told,) = [
        one.record.payload for one in log if isinstance(one, followers.LoggedRecord) and one.record.t == "refusal"
    ]

    with database.transaction() as tx:
        chains.take_refusals(tx, [{**told, "kid": "A" * 43, "message": "A" * 43}])

    assert standing(world) == (0, 1)
