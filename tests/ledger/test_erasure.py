"""Erasure: the plain data is gone from every file, the proofs and the audit still hold, and nothing brings it back."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.canonical import b64u
from core.errors import Conflict, Rejected
from core.message import open_message, split
from core.prefixmap import map_key
from core.records import read_record
from ledger import erasure, history, state, store, tables
from ledger.database import Database, open_database
from ledger.erasure_derived import purge
from ledger.erasure_request import sign_request
from ledger.followers import run_all
from ledger.queryindex import QueryIndex
from tests.ledger.test_audit import findings
from tests.ledger.world import AUD, CARRIER, LOG, MAKER, OPERATOR, World, packed, seen, sgtin_id

PERSON = "Q7ZWXKWANGXIAOMINGPHONE13800138000"
NOW_MS = 1_760_000_900_000


def told(database: Database) -> tuple[World, Any]:
    """A message in which a person's data got into a reading's place, among others."""
    world = World(database).start()
    world.send("line-1", seen(1, 2))
    place = f"https://example.org/{PERSON}"
    sent = world.send("line-1", seen(3, 4, place=place, bizLocation={"id": place}), seen(5))
    world.send("line-1", seen(6))
    world.step()
    run_all(database, state.views())
    run_all(database, QueryIndex())
    return world, sent


def request(world: World, sent: Any, *, org: str = MAKER, event: int = 0, **more: Any) -> str:
    with world.database.reading() as tx:
        leaf = erasure.find(tx, message=sent.id)
    given: dict[str, Any] = {"names": ["bizLocation", "readPoint"], "message": b64u(sent.id), "leaf": leaf, "log": LOG}
    given |= {"aud": AUD, "org": org, "event": event, "iat": world.now, "reason": "a person's data"} | more
    return sign_request(world.orgs[org], **given)


def erased(world: World, text: str, **more: Any) -> erasure.Erased:
    with world.database.transaction() as tx:
        return erasure.carry_out(tx, text, operator=world.orgs[OPERATOR], now_ms=NOW_MS, **more)


def files_with(folder: Path, needle: bytes) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes())


def test_the_preview_says_what_goes_and_what_stays(database: Database) -> None:
    _, sent = told(database)

    with database.reading() as tx:
        leaf = erasure.find(tx, message=sent.id)
        found = erasure.plan(tx, leaf=leaf, event=0, names=["readPoint"])

    assert (found.org, found.names, found.stay) == (MAKER, ("readPoint",), ("bizLocation", "epcList"))
    assert found.values == {"readPoint": {"id": f"https://example.org/{PERSON}"}}
    assert set(found.items) >= {b64u(map_key("item", sgtin_id(3))), b64u(map_key("item", sgtin_id(4)))}


def test_erased_data_is_gone_and_everything_still_verifies(database: Database) -> None:
    world, sent = told(database)
    texts = [one.text for one in sent.signed.disclosures[0] if one.name in ("bizLocation", "readPoint")]

    done = erased(world, request(world, sent))
    world.step()
    run_all(database, state.views())

    assert (done.disclosures, done.is_new) == (2, True)
    assert erasure.leftovers(database, texts, [PERSON]) == []
    assert findings(world) == []
    with database.reading() as tx:
        event = history.events_of(tx, sgtin_id(3))[0]
        standing = state.item_state(tx, sgtin_id(3))
        other = history.events_of(tx, sgtin_id(5))[0]
    assert "readPoint" not in event.event
    assert [name["epcList"] for name in (event.event,)]
    assert standing is not None
    assert standing.place is None
    assert other.event["readPoint"]


def test_the_query_index_forgets_at_once(sqlite_database: Database) -> None:
    world, sent = told(sqlite_database)
    found = [line for line in erasure.leftovers(sqlite_database, [], [PERSON]) if "query_" in line]

    erased(world, request(world, sent))

    assert found != []
    assert erasure.leftovers(sqlite_database, [], [PERSON]) == []


def test_the_items_history_shows_the_erasure(database: Database) -> None:
    world, sent = told(database)
    done = erased(world, request(world, sent))
    world.step()

    with database.reading() as tx:
        raw = tx.execute(sa.select(tables.records.c.raw).where(tables.records.c.id == done.record)).scalar_one()
        leaf = erasure.find(tx, message=sent.id)
    record = read_record(bytes(raw))

    assert (record.payload["leaf"], record.payload["names"]) == (leaf, ["bizLocation", "readPoint"])
    assert b64u(map_key("item", sgtin_id(4))) in record.payload["owner"]["items"]


def test_no_file_of_sqlite_holds_the_plain_bytes(sqlite_database: Database, tmp_path: Path) -> None:
    world, sent = told(sqlite_database)
    needles = [one.text.encode() for one in sent.signed.disclosures[0] if one.name != "epcList"] + [PERSON.encode()]
    before = [files_with(tmp_path, needle) for needle in needles]

    erased(world, request(world, sent))
    world.step()
    run_all(sqlite_database, state.views())
    purge(sqlite_database)

    assert all(before)
    assert [files_with(tmp_path, needle) for needle in needles] == [[], [], []]


def test_no_dump_of_postgresql_holds_the_plain_bytes(postgres_server: Any, postgres_template: str) -> None:
    database = open_database(postgres_server.create(postgres_template))
    world, sent = told(database)
    needles = [one.text for one in sent.signed.disclosures[0] if one.name != "epcList"]
    needles += [PERSON.encode().hex(), PERSON] + [text.encode().hex() for text in needles]
    name = str(sa.make_url(database.url).database)
    before = _dump(postgres_server, name)

    erased(world, request(world, sent))
    purge(database)

    after = _dump(postgres_server, name)
    database.close()
    assert any(needle in before for needle in needles)
    assert [needle for needle in needles if needle in after] == []


def _dump(server: Any, name: str) -> str:
    command = [*server.prefix, str(server.binaries / "pg_dump"), "-h", "127.0.0.1", "-p", str(server.port)]
    done = subprocess.run([*command, "-U", "postgres", name], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_device_sending_again_restores_nothing(database: Database) -> None:
    world, sent = told(database)
    erased(world, request(world, sent))

    [admission] = world.admit(sent)

    assert admission.status == "duplicate"
    gone = [one.text for one in sent.signed.disclosures[0] if one.name in ("bizLocation", "readPoint")]
    assert erasure.leftovers(database, gone, [PERSON]) == []


def test_followers_made_anew_do_not_bring_it_back(database: Database) -> None:
    world, sent = told(database)
    erased(world, request(world, sent))
    world.step()
    run_all(database, state.views())
    with database.reading() as tx:
        kept = tx.execute(sa.select(tables.item_states).order_by(tables.item_states.c.id)).all()
        facts = tx.execute(sa.select(tables.item_facts)).all()

    with database.transaction() as tx:
        for table in ("followers", "item_steps", "chains", "suspects", "item_states", "item_facts"):
            tx.execute(tables.metadata.tables[table].delete())
    run_all(database, state.views())

    with database.reading() as tx:
        assert tx.execute(sa.select(tables.item_states).order_by(tables.item_states.c.id)).all() == kept
        assert set(tx.execute(sa.select(tables.item_facts)).all()) == set(facts)
    assert erasure.leftovers(database, [], [PERSON]) == []


def test_a_repetition_erases_what_came_back_and_adds_no_record(sqlite_database: Database) -> None:
    world, sent = told(sqlite_database)
    text = request(world, sent)
    first = erased(world, text)
    world.step()
    with sqlite_database.transaction() as tx:
        arrival = tx.execute(sa.select(tables.messages.c.arrival).where(tables.messages.c.id == sent.id)).scalar_one()
        whole = store.join_disclosures(sent.disclosures)
        tx.execute(tables.disclosures.update().where(tables.disclosures.c.arrival == arrival).values(texts=whole))
    undone = findings(world)

    again = erased(world, text)

    assert {one.code for one in undone} == {"erasure_undone"}
    assert (again.record, again.is_new, again.disclosures) == (first.record, False, 2)
    assert findings(world) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"names": ["telephone"]}, "no_such_member"),
        ({"event": 2}, "no_such_event"),
        ({"leaf": 0}, "no_such_leaf"),
        ({"log": "other.example/log"}, "wrong_log"),
        ({"message": b64u(bytes(32))}, "wrong_request"),
        ({"org": CARRIER}, "wrong_request"),
    ],
)
def test_a_request_that_does_not_fit_changes_nothing(
    sqlite_database: Database, change: dict[str, Any], code: str
) -> None:
    world, sent = told(sqlite_database)
    org = change.pop("org", MAKER)
    text = request(world, sent, org=org, **change)

    with pytest.raises(Rejected) as refused:
        erased(world, text)

    assert refused.value.code == code
    assert erasure.leftovers(sqlite_database, [], [PERSON]) != []


def test_only_the_owners_key_asks_for_an_erasure(sqlite_database: Database) -> None:
    world, sent = told(sqlite_database)
    world.orgs[MAKER], stolen = world.orgs[CARRIER], world.orgs[MAKER]
    text = request(world, sent)
    world.orgs[MAKER] = stolen

    with pytest.raises(Rejected, match="bad_signature"):
        erased(world, text)

    assert erasure.leftovers(sqlite_database, [], [PERSON]) != []


def test_an_event_id_that_is_a_hash_goes_with_what_it_hashes(sqlite_database: Database) -> None:
    world = World(sqlite_database).start()
    sent = world.send("line-1", seen(1, eventID="ni:///sha-256;" + "ab" * 32 + "?ver=CBV2.0"), packed("urn:a:1", []))
    world.step()

    with sqlite_database.reading() as tx:
        found = erasure.plan(tx, leaf=erasure.find(tx, message=sent.id), event=0, names=["readPoint"])
    with pytest.raises(Conflict, match="eventID"):
        erased(world, request(world, sent, names=["readPoint"]))
    done = erased(world, request(world, sent, names=["eventID", "readPoint"]))

    assert found.added == ("eventID",)
    assert done.disclosures == 2


def test_copies_of_other_parts_go_in_the_same_transaction(sqlite_database: Database) -> None:
    world, sent = told(sqlite_database)
    asked: list[bytes] = []

    def copies(tx: Any, message: bytes) -> int:
        asked.append(message)
        return 3

    done = erased(world, request(world, sent), copies=[copies])

    assert (asked, done.copies) == ([sent.id], 3)


def test_a_backup_made_after_holds_nothing(sqlite_database: Database, tmp_path: Path) -> None:
    import sqlite3

    world, sent = told(sqlite_database)
    erased(world, request(world, sent))
    purge(sqlite_database)
    (tmp_path / "backup").mkdir()

    with sqlite3.connect(tmp_path / "tracebond.db") as source, sqlite3.connect(tmp_path / "backup" / "b.db") as target:
        source.backup(target)
    shutil.copy(tmp_path / "tracebond.db", tmp_path / "backup" / "copy.db")

    assert files_with(tmp_path / "backup", PERSON.encode()) == []
    assert (
        open_message(
            split(
                sent.signed.jwt + b"~" + b"".join(text.encode() + b"~" for event in sent.disclosures for text in event)
            ),
            world.devices["line-1"].public,
        ).id
        == sent.id
    )
