"""The store: once each, verbatim, in order of arrival; records only from those who may sign them."""

import threading

import pytest
import sqlalchemy as sa

from core.crypto import P256Private
from core.errors import Conflict, Rejected
from core.records import common, sign_record
from ledger import keys, masterdata, store, tables
from ledger.database import Database
from tests.ledger.world import AUD, CARRIER, LOG, MAKER, OPERATOR, World, seen


def count(database: Database, table: sa.Table) -> int:
    with database.reading() as tx:
        return tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_a_message_is_stored_verbatim_and_once(database: Database) -> None:
    world = World(database).start()
    first, second = world.message("line-1", [seen(1), seen(2)]), world.message("line-1", [seen(3)])

    admitted = world.admit(first, second, first)
    world.now += 60
    again = world.admit(second, first)

    assert [one.status for one in admitted] == ["stored", "stored", "duplicate"]
    assert [one.status for one in again] == ["duplicate", "duplicate"]
    assert [one.received_ms for one in again] == [admitted[1].received_ms, admitted[0].received_ms]
    assert count(database, tables.messages) == 2
    with database.reading() as tx:
        row = tx.execute(sa.select(tables.messages).where(tables.messages.c.id == first.id)).one()
        texts = tx.execute(sa.select(tables.disclosures.c.texts).where(tables.disclosures.c.arrival == row.arrival))
        assert bytes(row.jwt) == first.jwt
        assert tuple(tuple(event) for event in store.split_disclosures(texts.scalar_one())) == first.disclosures
        items = [[item.leaf for item in event.items] for event in first.events]
        assert store.split_items(bytes(row.items)) == items


def test_messages_keep_the_order_in_which_they_were_given(database: Database) -> None:
    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(50)]

    world.admit(*sent)

    with database.reading() as tx:
        ids = tx.execute(sa.select(tables.messages.c.id).order_by(tables.messages.c.arrival)).scalars().all()
    assert [bytes(found) for found in ids] == [message.id for message in sent]


def test_two_messages_under_one_seq_are_both_kept_and_the_later_is_equivocation(database: Database) -> None:
    world = World(database).start()
    first = world.message("line-1", [seen(1)], keep=False)
    other = world.message("line-1", [seen(2)])

    one = world.admit(first)
    two = world.admit(other)

    assert [a.status for a in one + two] == ["stored", "equivocation"]
    assert count(database, tables.messages) == 2


def test_equivocation_inside_one_bulk_is_seen(database: Database) -> None:
    world = World(database).start()
    first = world.message("line-1", [seen(1)], keep=False)
    other = world.message("line-1", [seen(2)])

    admitted = world.admit(first, other)

    assert [a.status for a in admitted] == ["stored", "equivocation"]


def test_two_workers_at_once_do_not_miss_an_equivocation(database: Database) -> None:
    world = World(database).start()
    first = world.message("line-1", [seen(1)], keep=False)
    other = world.message("line-1", [seen(2)])
    found: list[str] = []

    def second_worker() -> None:
        with database.transaction() as tx:
            found.extend(one.status for one in store.admit(tx, [other], now_ms=world.now * 1_000))

    thread = threading.Thread(target=second_worker)
    with database.transaction() as tx:
        assert store.admit(tx, [first], now_ms=world.now * 1_000)[0].status == "stored"
        thread.start()
        # Long enough for the other to have come past its checks, were it not made to wait.
        thread.join(0.5)
    thread.join(20)

    assert found == ["equivocation"]


def test_a_message_of_an_unregistered_key_is_refused_and_nothing_is_stored(database: Database) -> None:
    world = World(database).start()
    world.devices["ghost"] = P256Private.from_secret(b"ghost")
    world.owners["ghost"] = MAKER
    good, bad = world.message("line-1", [seen(1)]), world.message("ghost", [seen(2)])

    with pytest.raises(Rejected, match="unknown_key"):
        world.admit(good, bad)

    assert count(database, tables.messages) == 0


def test_a_key_counts_only_when_its_record_is_sequenced(database: Database) -> None:
    world = World(database).start()
    register = keys.KeyRegister(database)
    world.enroll("line-2", MAKER)
    kid = world.devices["line-2"].thumbprint()

    before = register.lookup(kid)
    world.step()
    after = register.lookup(kid)

    assert before is None
    assert after is not None
    assert (after.org, after.iss, after.use, after.is_ended) == (MAKER, world.iss("line-2"), "device", False)


def test_an_end_counts_from_its_arrival_and_comes_once(database: Database) -> None:
    world = World(database).start()
    register = keys.KeyRegister(database)
    kid = world.devices["line-1"].thumbprint()
    assert register.lookup(kid).is_ended is False  # type: ignore[union-attr]

    world.end("line-1", last=None, seq=-1)

    found = register.lookup(kid)
    assert found is not None
    assert (found.is_ended, found.last, found.last_seq, found.end_leaf) == (True, None, -1, None)
    world.now += 1
    with pytest.raises(Rejected, match="already_ended"):
        world.end("line-1", last=None, seq=-1)
    world.step()
    assert register.lookup(kid).end_leaf is not None  # type: ignore[union-attr]


def test_a_key_has_one_record_for_ever(database: Database) -> None:
    world = World(database).start()
    world.now += 5

    with pytest.raises(Rejected, match="key_exists"):
        world.enroll("line-1", MAKER)


def test_an_equal_record_is_a_duplicate(database: Database) -> None:
    world = World(database).start()
    payload = common(t="master", aud=AUD, log=LOG, org=MAKER, iat=world.now)
    payload |= {"subject": MAKER, "fact": "party", "value": {"name_en": "Dairy"}}

    first = world.record(payload, signer=MAKER)
    second = world.record(payload, signer=MAKER)

    assert (first.status, second.status) == ("stored", "duplicate")


@pytest.mark.parametrize(("t", "signer"), [("master", CARRIER), ("org", MAKER), ("refusal", MAKER), ("key", OPERATOR)])
def test_a_record_by_someone_who_may_not_sign_it_is_refused(database: Database, t: str, signer: str) -> None:
    world = World(database).start()
    stored = count(database, tables.records)
    base = common(t=t, aud=AUD, log=LOG, org=MAKER, iat=world.now)
    device = P256Private.from_secret(b"new")
    payload = {
        "master": base | {"subject": MAKER, "fact": "party", "value": {}},
        "org": world.org_payload(MAKER, roles=2, version=1),
        "refusal": base
        | {"message": "A" * 43, "kid": "A" * 43, "iss": "x", "seq": 0, "prev": None, "code": "bad_check_digit"},
        "key": base | {"kid": device.thumbprint(), "jwk": device.jwk(), "iss": "x", "use": "device", "scope": {}},
    }[t]

    with pytest.raises(Rejected, match="unknown_signer"):
        world.record(payload, signer=signer)

    assert count(database, tables.records) == stored


def test_a_record_for_another_log_is_refused(database: Database) -> None:
    world = World(database).start()
    payload = common(t="master", aud=AUD, log="other/log", org=MAKER, iat=world.now)

    with pytest.raises(Rejected, match="wrong_log"):
        world.record(payload | {"subject": MAKER, "fact": "party", "value": {}}, signer=MAKER)


def test_a_record_with_a_broken_signature_is_refused(database: Database) -> None:
    world = World(database).start()
    payload = common(t="master", aud=AUD, log=LOG, org=MAKER, iat=world.now)
    data = sign_record(payload | {"subject": MAKER, "fact": "party", "value": {}}, world.orgs[MAKER])
    flipped = data[:-2] + (b"AA" if data[-2:] != b"AA" else b"BA")

    with pytest.raises(Rejected), database.transaction() as tx:
        store.admit_record(tx, flipped, now_ms=0)


def test_the_first_org_record_is_the_operators_own(database: Database) -> None:
    world = World(database)

    with pytest.raises(Rejected, match="unknown_signer"):
        world.record(world.org_payload(MAKER, roles=2), signer=MAKER)


def test_a_new_org_record_changes_the_signing_key(database: Database) -> None:
    world = World(database).start()
    old = world.orgs[MAKER]
    world.orgs[MAKER] = P256Private.from_secret(b"second key of the maker")
    world.record(world.org_payload(MAKER, roles=2, version=1), signer=OPERATOR)

    world.master(MAKER, MAKER, "party", {"name_en": "Dairy"})
    world.orgs[MAKER] = old
    with pytest.raises(Rejected, match="unknown_signer"):
        world.master(MAKER, MAKER, "party", {"name_en": "Forged"})

    world.step()
    with database.reading() as tx:
        assert masterdata.party(tx, MAKER) == {"name_en": "Dairy"}


def test_the_newest_master_data_counts(database: Database) -> None:
    world = World(database).start()
    place = "https://id.gs1.org/414/9521000000018"
    world.master(MAKER, place, "place", {"name_en": "Old", "lat": "31.2"})
    world.now += 1
    world.master(MAKER, place, "place", {"name_en": "New", "lat": "31.3"})
    world.step()

    with database.reading() as tx:
        assert masterdata.place(tx, place) == {"name_en": "New", "lat": "31.3"}
        assert masterdata.facts_of(tx, [place, "x"], "place") == {place: {"name_en": "New", "lat": "31.3"}}
        assert masterdata.product(tx, place) is None


def test_a_database_of_another_log_is_refused(database: Database) -> None:
    World(database).start()

    with pytest.raises(Rejected, match="other_log"), database.transaction() as tx:
        store.set_identity(tx, aud=AUD, log="another")


def test_two_writers_with_the_same_messages_store_them_once(database: Database) -> None:
    import threading

    world = World(database).start()
    sent = [world.message("line-1", [seen(number)]) for number in range(200)]
    outcomes: list[str] = []

    def admit(order: list[int]) -> None:
        for start in range(0, 200, 50):
            part = [sent[number] for number in order[start : start + 50]]
            try:
                outcomes.extend(one.status for one in world.admit(*part))
            except Conflict:
                outcomes.append("conflict")

    threads = [threading.Thread(target=admit, args=(order,)) for order in (list(range(200)), list(range(199, -1, -1)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["duplicate"] * 200 + ["stored"] * 200
    assert count(database, tables.messages) == 200
    assert count(database, tables.waiting) == 200
