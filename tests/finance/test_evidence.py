"""Evidence read from a real log: whole, it carries credit; with one changed byte it does not."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from contracts.clients import TransparencyLogClient
from finance.evidence import LedgerEvidence
from finance.policy import Policy, load_policy
from finance.provenance import Evidence, grounds
from ledger.database import Database, open_database
from tests.story import NOW, Story, tell

FIRST = load_policy()
# The story is logged at its events' own times and anchored once at its end, twenty days later.
PATIENT = FIRST.data["confidence"] | {"anchor_sla_s": 30 * 86_400}
POLICY = Policy("v1", FIRST.digest, dict(FIRST.data) | {"confidence": PATIENT})


@pytest.fixture(scope="module")
def story(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    shutil.copy(sqlite_template, folder / "log.db")
    database = open_database(f"sqlite:///{folder / 'log.db'}")
    yield tell(database, folder)
    database.close()


def assessed(story: Story, database: Database | None = None, *, item: str = "", policy: Policy = POLICY) -> Evidence:
    log = TransparencyLogClient(story.chain, story.deployment.log_contract)
    reader = LedgerEvidence(policy, lambda size: log.root_at(story.deployment.log_id, size))
    with (database or story.database).reading() as tx:
        return reader(tx, item or story.plan.collateral[0].sscc, NOW)


def copied(story: Story, folder: Path) -> Database:
    target = folder / "copy.db"
    source = sqlite3.connect(str(story.database.url).removeprefix("sqlite:///"))
    with sqlite3.connect(target) as copy:
        source.backup(copy)
    source.close()
    return open_database(f"sqlite:///{target}")


def test_palletised_goods_of_the_story_are_eligible(story: Story) -> None:
    evidence = assessed(story)

    got = grounds(evidence, POLICY).confidence(POLICY)
    assert {event.stage for event in evidence.events} >= {"production", "inspection", "inventory"}
    assert got.is_eligible, got.reasons


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE messages SET jwt = CAST(substr(jwt, 1, 200) || 'A' || substr(jwt, 202) AS BLOB) WHERE arrival = :a",
        "UPDATE disclosures SET texts = CAST(replace(texts, 'a', 'b') AS BLOB) WHERE arrival = :a",
        "UPDATE messages SET item_ids = CAST(replace(item_ids, '952', '953') AS BLOB) WHERE arrival = :a",
    ],
)
def test_one_changed_byte_in_the_store_makes_the_goods_ineligible(story: Story, tmp_path: Path, change: str) -> None:
    leaf = int(next(e.id for e in assessed(story).events if e.stage == "production").partition(":")[0])
    database = copied(story, tmp_path)
    with database.transaction() as tx:
        for trigger in tx.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            tx.execute(sa.text(f"DROP TRIGGER {trigger}"))
        arrival = tx.execute(sa.text("SELECT arrival FROM entries WHERE leaf = :leaf"), {"leaf": leaf}).scalar_one()
        tx.execute(sa.text(change), {"a": arrival})

    got = grounds(assessed(story, database), POLICY).confidence(POLICY)

    database.close()
    assert not got.is_eligible
    assert got.reasons[0].code == "proof_failed"
    assert f"{leaf}:" in got.reasons[0].events[0]


def test_a_root_that_the_contract_does_not_know_proves_nothing(story: Story) -> None:
    reader = LedgerEvidence(POLICY, lambda size: bytes(32))

    with story.database.reading() as tx:
        evidence = reader(tx, story.plan.collateral[0].sscc, NOW)

    assert not any(event.is_proven for event in evidence.events)
    assert not grounds(evidence, POLICY).confidence(POLICY).is_eligible


def test_an_anchor_that_comes_too_late_costs_points_until_none_are_left(story: Story) -> None:
    got = grounds(assessed(story, policy=FIRST), FIRST).confidence(FIRST)

    assert got.reasons[0].code == "proofs_below_floor"
    assert not got.is_eligible


def test_what_was_sold_or_recalled_is_no_cover(story: Story) -> None:
    recalled = next(lot for lot in story.plan.lots if lot.fate == "recalled")

    codes = {reason.code for reason in grounds(assessed(story, item=recalled.id), POLICY).knock_outs}

    assert "recalled" in codes
