"""Evidence from a real log on a real chain: whole it carries credit, and any change in the store ends that."""

import random
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.crypto import P256Private
from core.identifiers import canonical
from core.message import issue, open_message, split
from finance.assess import LogEvidence
from finance.policy import Policy, load_policy
from finance.provenance import Evidence, grounds
from ledger import findings, store
from ledger.database import Database, open_database, upgrade
from ledger.followers import LoggedEvent, run_all
from ledger.history import events_of
from ledger.itemmap import ProofMap
from ledger.keys import keys_of
from ledger.log import Sequencer
from ledger.state import views
from ledger.tables import messages
from tests.ledger.world import time_text
from tests.story import AUD, CHECKPOINT_KEY, NOW, ORIGIN, Story, tell

POLICY = load_policy()
EVENT_ID = "urn:uuid:7f3c3bde-0000-4000-8000-000000000001"


def patient() -> Policy:
    # The story is logged at once, so that what is dated twenty days back is anchored twenty days late.
    confidence = {**POLICY.data["confidence"], "anchor_sla_s": 30 * 86_400}
    return replace(POLICY, data={**POLICY.data, "confidence": confidence})


def reader(story: Story, policy: Policy | None = None) -> LogEvidence:
    return LogEvidence(story.maps, story.place, story.chain, threading.Lock(), policy or patient())


def assessed(story: Story, database: Database, item: str | None = None, policy: Policy | None = None) -> Evidence:
    with database.reading() as tx:
        return reader(story, policy)(tx, item or story.highlight("pallet"), NOW)


def codes(evidence: Evidence) -> set[str]:
    return {reason.code for reason in grounds(evidence, POLICY).knock_outs}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    database = open_database(f"sqlite:///{folder / 'log.db'}")
    upgrade(database)
    yield tell(database, folder)
    database.close()


@pytest.fixture
def copy(story: Story, tmp_path: Path) -> Iterator[Database]:
    """The story's database once more, without what makes it refuse changes."""
    source = sqlite3.connect(str(story.database.url).removeprefix("sqlite:///"))
    target = sqlite3.connect(tmp_path / "copy.db")
    source.backup(target)
    for (trigger,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        target.execute(f"DROP TRIGGER {trigger}")
    target.commit()
    source.close()
    target.close()
    database = open_database(f"sqlite:///{tmp_path / 'copy.db'}")
    yield database
    database.close()


def send(story: Story, database: Database, device: str, event: dict[str, Any], *, back: int = 0) -> None:
    """One more message of a device, sequenced and read by the followers; ``back`` 1 signs its last seq again."""
    key = P256Private.from_secret(b"device " + device.encode())
    spec = next(one for one in story.plan.cast.devices if one.name == device)
    with database.transaction() as tx:
        key_no = next(info.key_no for info in keys_of(tx, use="device") if info.kid == key.thumbprint())
        query = sa.select(messages.c.seq, messages.c.id).where(messages.c.key_no == key_no)
        last = tx.execute(query.order_by(messages.c.seq.desc())).all()[back]
        raw = issue(
            [event], aud=AUD, org=story.plan.cast.organisation(spec.org).id, iss=story.plan.cast.iss(device),
            iat=NOW, seq=last.seq + 1, prev=bytes(last.id), key=key, salts=lambda: random.Random(5).randbytes(16),
        )  # fmt: skip
        store.admit(tx, [open_message(split(raw), key.public)], now_ms=NOW * 1000)
    Sequencer(database, CHECKPOINT_KEY, ORIGIN).step(NOW + 10)
    run_all(database, views())
    findings.run_all(database)


def seen(item: str, step: str, disposition: str, **more: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"type": "ObjectEvent", "action": "OBSERVE", "bizStep": step}
    event |= {"eventTime": time_text(NOW - 5)}
    event |= {"eventTimeZoneOffset": "+00:00", "disposition": disposition, "epcList": [item]}
    return event | more


def history(story: Story, item: str) -> list[LoggedEvent]:
    with story.database.reading() as tx:
        return events_of(tx, item)


def dispositions(story: Story, item: str) -> set[str]:
    return {str(event.clear.get("disposition")) for event in history(story, item)}


def sold_pallet_entered_as_damaged(story: Story) -> str:
    for step in story.plan.steps:
        for event in step.events:
            if "errorDeclaration" in event:
                return canonical(event["epcList"][0])
    raise RuntimeError("the story declares no error")


def withdrawn(story: Story, item: str) -> set[str]:
    events = history(story, item)
    wrong = {event.event["eventID"] for event in events if "errorDeclaration" in event.clear}
    return {f"{event.leaf}:{event.number}" for event in events if event.event["eventID"] in wrong}


def leaf_of(evidence: Evidence, stage: str) -> int:
    return int(next(event.id for event in evidence.events if event.stage == stage).partition(":")[0])


def test_every_event_of_a_good_pallet_is_signed_and_proven_on_both_databases(
    database: Database, tmp_path: Path
) -> None:
    story = tell(database, tmp_path / "chain")

    evidence = assessed(story, database)

    assert {event.stage for event in evidence.events} >= {"production", "inspection", "inventory", "logistics"}
    assert all(event.is_signed and event.is_proven and event.is_in_time for event in evidence.events)
    assert (evidence.findings, evidence.quality, evidence.gaps) == ((), "1", 0)
    assert evidence.custody_s == NOW  # the climate logger of its zone reads at the story's end
    assert evidence.life is not None
    assert 0.97 < evidence.life < 0.98  # some 17 of 730 days are gone
    assert grounds(evidence, POLICY).confidence(POLICY).is_eligible


def test_events_anchored_later_than_the_policy_allows_are_not_in_time(story: Story) -> None:
    evidence = assessed(story, story.database, policy=POLICY)

    assert all(event.is_proven for event in evidence.events)
    assert not grounds(evidence, POLICY).confidence(POLICY).is_eligible


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            "UPDATE messages SET jwt = CAST(substr(jwt, 1, 300) || CASE substr(jwt, 301, 1) WHEN CAST('A' AS BLOB)"
            " THEN 'B' ELSE 'A' END || substr(jwt, 302) AS BLOB) WHERE arrival = :a",
            id="a byte of the message",
        ),
        pytest.param("UPDATE messages SET jwt = x'00' WHERE arrival = :a", id="the whole message"),
        pytest.param(
            "UPDATE disclosures SET texts = CAST(replace(texts, 'a', 'b') AS BLOB) WHERE arrival = :a",
            id="a disclosure",
        ),
        pytest.param("UPDATE disclosures SET texts = CAST(replace(texts, '~', '') AS BLOB) WHERE arrival = :a",
                     id="disclosures run together"),
        pytest.param("UPDATE disclosures SET texts = CAST(substr(texts, 1 + instr(texts, '~')) AS BLOB)"
                     " WHERE arrival = :a", id="a disclosure taken away"),
        pytest.param("UPDATE messages SET item_ids = CAST(replace(item_ids, 'id.gs1.org', 'id.gs1.com') AS BLOB)"
                     " WHERE arrival = :a", id="the name of an item"),
        pytest.param("UPDATE messages SET items = CAST(substr(items, 1, length(items) - 1) || x'00' AS BLOB)"
                     " WHERE arrival = :a", id="the key of an item"),
        pytest.param("DELETE FROM disclosures WHERE arrival = :a", id="the message cannot be joined"),
        pytest.param("DELETE FROM entries WHERE arrival = :a", id="the entry is gone"),
        pytest.param("DELETE FROM item_steps WHERE leaf = :l", id="its steps are left out of the index"),
        pytest.param("UPDATE checkpoints SET state = CAST(replace(state, 'map_root', 'map-root') AS BLOB)",
                     id="the state leaf"),
    ],
)  # fmt: skip
def test_a_change_in_the_store_fails_the_proof(story: Story, copy: Database, change: str) -> None:
    leaf = leaf_of(assessed(story, story.database), "production")
    with copy.transaction() as tx:
        arrival = tx.execute(sa.text("SELECT arrival FROM entries WHERE leaf = :l"), {"l": leaf}).scalar_one()
        bound = {name: value for name, value in {"a": arrival, "l": leaf}.items() if f":{name}" in change}
        assert tx.execute(sa.text(change), bound).rowcount

    evidence = assessed(story, copy)

    assert "proof_failed" in codes(evidence)
    assert not grounds(evidence, POLICY).confidence(POLICY).is_eligible


def test_a_changed_message_is_named_and_neither_signed_nor_proven(story: Story, copy: Database) -> None:
    leaf = leaf_of(assessed(story, story.database), "production")
    with copy.transaction() as tx:
        change = "UPDATE messages SET jwt = CAST(replace(jwt, 'a', 'b') AS BLOB) WHERE arrival = "
        tx.execute(sa.text(change + "(SELECT arrival FROM entries WHERE leaf = :l)"), {"l": leaf})

    evidence = assessed(story, copy)

    changed = [event for event in evidence.events if event.id.startswith(f"{leaf}:")]
    assert changed
    assert not any(event.is_signed or event.is_proven for event in changed)
    assert all(event.is_proven for event in evidence.events if event not in changed)
    assert all(name.startswith(f"{leaf}:") for name in dict(evidence.findings)["proof_failed"])


def test_a_step_left_out_of_the_item_map_is_noticed(story: Story) -> None:
    lock, key = threading.Lock(), []

    class Shorter:
        size = story.maps.size
        root = staticmethod(story.maps.root)

        @staticmethod
        def get(one: bytes) -> tuple[int, bytes] | None:
            held = story.maps.get(one)
            key.append(one)
            return held if len(key) != 1 or held is None else (held[0] - 1, held[1])

    evidence_of = LogEvidence(Shorter(), story.place, story.chain, lock, patient())  # type: ignore[arg-type]
    with story.database.reading() as tx:
        evidence = evidence_of(tx, story.highlight("pallet"), NOW)

    assert all(event.is_proven for event in evidence.events)
    assert "proof_failed" in codes(evidence)


def test_a_tin_that_only_the_database_calls_packed_fails_the_proof(story: Story, copy: Database) -> None:
    with copy.transaction() as tx:
        move = "UPDATE item_states SET container = :box WHERE id = :tin"
        tx.execute(sa.text(move), {"box": story.highlight("box"), "tin": story.highlight("unsold_tin")})

    assert "proof_failed" in codes(assessed(story, copy))


@pytest.mark.parametrize(
    ("thing", "code"),
    [("sold_tin", "sold"), ("recalled_tin", "recalled"), ("recalled_lot", "recalled"), ("rejected_tin", "qc_reject"),
     ("rejected_tin", "decommissioned"), ("returned_tin", "qc_reject")],
)  # fmt: skip
def test_what_befell_the_goods_knocks_them_out(story: Story, thing: str, code: str) -> None:
    evidence = assessed(story, story.database, story.highlight(thing))

    assert code in codes(evidence)
    assert "proof_failed" not in codes(evidence)


def test_good_news_newer_than_the_anchor_is_left_out_and_bad_news_counts(story: Story, copy: Database) -> None:
    pallet, before = story.highlight("pallet"), assessed(story, copy)
    send(story, copy, "handheld", seen(pallet, "storing", "sellable_not_accessible"))
    after_good = assessed(story, copy)

    send(story, copy, "handheld", seen(pallet, "holding", "recalled"))
    after_bad = assessed(story, copy)

    assert after_good.events == before.events
    assert (codes(after_good), codes(after_bad)) == (set(), {"recalled"})


def test_a_declared_error_is_taken_back_once_the_declaration_is_anchored(story: Story) -> None:
    wrong = sold_pallet_entered_as_damaged(story)

    evidence = assessed(story, story.database, wrong)

    assert evidence.quality == "1"
    assert "damaged" in dispositions(story, wrong)
    assert not {event.id for event in evidence.events} & withdrawn(story, wrong)


def test_a_declaration_newer_than_the_anchor_takes_nothing_bad_back(story: Story, copy: Database) -> None:
    harm = seen(story.highlight("pallet"), "inspecting", "damaged", eventID=EVENT_ID)
    send(story, copy, "warehouse-dock", harm)
    declared: dict[str, Any] = {"declarationTime": time_text(NOW - 1), "reason": "incorrect_data"}

    send(story, copy, "warehouse-dock", harm | {"errorDeclaration": declared | {"correctiveEventIDs": []}})

    assert assessed(story, copy).quality == "reject"


def test_a_device_that_signed_two_stories_about_the_goods_knocks_them_out(story: Story, copy: Database) -> None:
    send(story, copy, "logger-a", seen(story.highlight("pallet"), "sensor_reporting", "in_progress"), back=1)

    assert codes(assessed(story, copy)) == {"equivocation"}


def test_nothing_is_evidence_before_the_first_anchor(story: Story) -> None:
    with story.database.reading() as tx:
        unanchored = LogEvidence(ProofMap(), story.place, story.chain, threading.Lock())
        evidence = unanchored(tx, story.highlight("pallet"), NOW)

    assert codes(evidence) == {"no_production_event", "no_custody_event"}


def test_contents_and_lots_are_those_of_the_plan(story: Story) -> None:
    pallet = story.plan.collateral[0]
    with story.database.reading() as tx:
        inside = reader(story).contents(tx, pallet.sscc)
        lots = reader(story).lots(tx, pallet.tins)

    assert set(pallet.tins) < set(inside)
    assert lots == dict.fromkeys(pallet.tins, pallet.lot)


def test_how_late_a_record_reached_us_moves_no_score(story: Story, copy: Database) -> None:
    with copy.reading() as tx:
        before = grounds(reader(story)(tx, story.highlight("pallet"), NOW), POLICY)

    with copy.transaction() as tx:
        late = tx.execute(messages.update().values(received_ms=messages.c.received_ms + 6 * 3_600_000))
    with copy.reading() as tx:
        after = grounds(reader(story)(tx, story.highlight("pallet"), NOW), POLICY)

    assert late.rowcount > 10
    assert all(before.components[:2])
    assert after == before
