"""Fraud stories over the real evidence path: each ends in a refusal or a freeze, and says why (reliability T13).

One story is told once: devices sign, the log is anchored, finance reads nothing but that. Each case works on a copy.
"""

import random
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from contracts.clients import PledgeRegistryClient
from contracts.opening import open_chain
from contracts.signer import Signer
from core.crypto import P256Private
from core.errors import TracebondError
from core.identifiers import class_of
from core.message import issue, open_message, split
from finance import applications, consents, lending, pledges, receipts
from finance.assess import LogEvidence
from finance.commandlog import shanghai_date
from finance.model import Actor, Context
from finance.monitoring import monitor
from finance.policy import load_policy
from finance.provenance import grounds
from finance.tables import command_log, facilities
from ledger import store
from ledger.chain_book import enqueue_funding
from ledger.chain_tx import ChainSender
from ledger.database import open_database, upgrade
from ledger.itemmap import ProofMap
from ledger.log import Sequencer
from tests.chain_fixtures import ChainWorld
from tests.finance.test_assess import patient, seen, send
from tests.finance.world import FEATURES, FinanceWorld, actor
from tests.ledger.world import time_text
from tests.story import AUD, CHECKPOINT_KEY, NOW, ORIGIN, Story, _anchor, tell

DAY_S = 86_400
AMOUNT = "2000.00"


@dataclass
class Scene:
    """A copy of the story with a bank in it, and who acts."""

    story: Story
    world: FinanceWorld
    owner: Actor
    keeper: Actor
    maker: Actor
    checker: Actor
    rival: Actor
    factory: Actor

    @property
    def pallet(self) -> Any:
        return self.story.plan.collateral[0]

    def tell(self, step: str, disposition: str = "in_progress", *, device: str = "warehouse-dock", at: int = NOW - 5,
             **more: Any) -> None:  # fmt: skip
        """One more message about the pallet; newer than the anchor, so that only bad news counts."""
        event = seen(self.pallet.sscc, step, disposition, **more) | {"eventTime": time_text(at)}
        send(self.story, self.world.database, device, event)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, Path]:
    folder = tmp_path_factory.mktemp("fraud") / "story"
    folder.mkdir()
    database = open_database(f"sqlite:///{folder / 'log.db'}")
    upgrade(database)
    story = tell(database, folder)
    database.close()
    story.chain.close()
    return story, folder


@pytest.fixture
def scene(told: tuple[Story, Path], tmp_path: Path) -> Iterator[Scene]:
    story, folder = told
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    database = open_database(f"sqlite:///{own / 'log.db'}")
    chain = open_chain(None, own, genesis_salt=b"story")
    signer = Signer(own / "keys")
    story = replace(story, database=database, chain=chain)
    evidence = LogEvidence(story.maps, story.place, chain, threading.Lock(), patient())
    registry = PledgeRegistryClient(chain, story.deployment.pledges)
    ctx = Context(bytes(32), registry, signer, evidence, evidence.contents, evidence.lots)
    world = FinanceWorld(
        database,
        ChainWorld(chain, signer, story.deployment, own),
        ctx,
        ChainSender(database, chain, signer),
        {},
        {},
        NOW,
    )
    pallet, cast = story.plan.collateral[0], story.plan.cast
    org = {one.name: one.id for one in cast.organisations}
    maker_org = next(one.id for one in cast.organisations if one.role == "maker")
    done = Scene(
        story,
        world,
        actor(org[pallet.owner], "owner", "borrower"),
        actor(org[pallet.warehouse], "keeper", "custodian"),
        actor(org["first-bank"], "officer", "bank_maker"),
        actor(org["first-bank"], "checker", "bank_checker"),
        actor(org["second-bank"], "rival", "bank_maker"),
        actor(maker_org, "maker", "factory"),
    )
    prepare(done)
    yield done
    database.close()
    chain.close()


def prepare(scene: Scene) -> None:
    world = scene.world
    with world.database.transaction() as tx:
        for org in {scene.owner.org, scene.keeper.org, scene.maker.org, scene.rival.org, scene.factory.org}:
            address = world.chain.signer.address(world.ctx.account(org))
            enqueue_funding(tx, address=address, value=10**18, reference=org, now_ms=1)
    world.do(receipts.set_lot_capacity, scene.factory, lot=scene.pallet.lot, quantity=1_000)
    day = shanghai_date(NOW).isoformat()
    features = {name: value | {"as_of": day} if isinstance(value, dict) else value for name, value in FEATURES.items()}
    for bank in (scene.maker, scene.rival):
        world.do(consents.grant_consent, scene.owner, lender=bank.org, purpose="credit", days=300,
                 sources=list(consents.SOURCES))  # fmt: skip
        world.do(applications.record_borrower, bank, borrower=scene.owner.org, controller="c", has_account=True,
                 features=features)  # fmt: skip
        quote(scene, bank)
    world.settle()


def quote(scene: Scene, bank: Actor) -> None:
    scene.world.do(applications.record_quote, bank, product=class_of(scene.pallet.tins[0]), category="infant_formula",
                   unit="EA", price="3000", cost="3000", source="exchange",
                   median="3000")  # fmt: skip


def stored(scene: Scene) -> None:
    scene.world.do(receipts.register_receipt, scene.keeper, item=scene.pallet.sscc, owner=scene.owner.org,
                   place=scene.pallet.place)  # fmt: skip
    scene.world.settle()


def asked(scene: Scene, bank: Actor | None = None) -> dict[str, Any]:
    return scene.world.do(applications.submit_application, scene.owner, lender=(bank or scene.maker).org,
                          goods_item=scene.pallet.sscc, amount=AMOUNT, tenor_days=30, purpose="milk")  # fmt: skip


def lent(scene: Scene) -> str:
    stored(scene)
    done = asked(scene)
    assert done["state"] != "DECLINED", done["reasons"]
    seen_terms = {"application": done["application"], "terms_hash": done["terms_hash"]}
    if done["state"] == "IN_REVIEW":
        for who in (scene.maker, scene.checker):
            scene.world.do(applications.approve_application, who, is_approved=True, **seen_terms)
    offer = scene.world.do(applications.accept_offer, scene.owner, **seen_terms)
    for side in (scene.owner, scene.keeper):
        scene.world.do(pledges.sign_pledge, side, pledge=offer["pledge"])
    scene.world.do(pledges.send_pledge, scene.maker, pledge=offer["pledge"])
    scene.world.settle()
    scene.world.do(lending.draw, scene.owner, facility=offer["facility"], amount="1000.00")
    return str(offer["facility"])


def declined(scene: Scene) -> list[str]:
    done = asked(scene)
    assert done["state"] == "DECLINED", done
    assert all(reason["message"] for reason in done["reasons"])
    return [reason["code"] for reason in done["reasons"]]


def frozen(scene: Scene, code: str) -> None:
    """The next judgement freezes the facility, with the reason in the log, and not a cent is paid any more."""
    events = dict(monitor(scene.world.database, scene.world.ctx, now=scene.world.clock))
    row = scene.world.query(facilities)[0]
    assert "freeze" in events[row.id]
    assert row.state == "FROZEN"
    assert any(f'"{code}"' in one.body for one in scene.world.query(command_log) if one.name == "monitor")
    with pytest.raises(TracebondError, match="facility_not_active"):
        scene.world.do(lending.draw, scene.owner, facility=row.id, amount="1.00")


def test_honest_goods_are_lent_on_and_nothing_freezes(scene: Scene) -> None:
    facility = lent(scene)

    assert monitor(scene.world.database, scene.world.ctx, now=scene.world.clock) == []
    assert scene.world.query(facilities)[0].id == facility


def test_the_same_goods_on_two_receipts_are_refused(scene: Scene) -> None:
    lent(scene)
    register = {"owner": scene.owner.org, "place": scene.pallet.place}

    for item in (scene.pallet.sscc, scene.pallet.tins[0]):
        with pytest.raises(TracebondError, match="already_pledged"):
            scene.world.do(receipts.register_receipt, scene.keeper, item=item, **register)
    with pytest.raises(TracebondError, match="already_pledged") as caught:
        asked(scene, scene.rival)

    assert scene.maker.org not in caught.value.message


def counted(scene: Scene, tins: int) -> dict[str, Any]:
    return {"quantityList": [{"epcClass": scene.pallet.lot, "quantity": tins}]}


def test_a_book_above_what_is_counted_is_refused(scene: Scene) -> None:
    stored(scene)
    scene.tell("cycle_counting", **counted(scene, len(scene.pallet.tins) - 1))

    assert declined(scene)[0] == "book_above_sensor"


def test_a_count_below_the_book_freezes_a_running_facility(scene: Scene) -> None:
    lent(scene)
    scene.tell("cycle_counting", **counted(scene, len(scene.pallet.tins) - 1))

    frozen(scene, "book_above_sensor")


def test_a_count_of_all_of_them_changes_nothing(scene: Scene) -> None:
    lent(scene)
    scene.tell("cycle_counting", **counted(scene, len(scene.pallet.tins)))

    assert monitor(scene.world.database, scene.world.ctx, now=scene.world.clock) == []


def test_goods_that_travel_longer_than_planned_are_refused(scene: Scene) -> None:
    scene.tell("departing", "in_transit")
    scene.world.clock = NOW + 14 * DAY_S - 60
    stored(scene)
    quote(scene, scene.maker)
    assert "transit_too_long" not in [reason["code"] for reason in asked(scene)["reasons"]]
    scene.world.clock = NOW + 14 * DAY_S + 60

    assert declined(scene)[0] == "transit_too_long"


def test_goods_that_leave_the_warehouse_under_a_pledge_freeze_the_facility(scene: Scene) -> None:
    lent(scene)
    scene.tell("departing", "in_transit", at=NOW + 60)

    frozen(scene, "moved_unauthorised")


def test_an_inspection_that_is_overdue_is_refused_and_freezes(scene: Scene) -> None:
    lent(scene)
    with scene.world.database.reading() as tx:
        evidence = scene.world.ctx.assess(tx, scene.pallet.sscc, NOW)
    last = max(event.time_s for event in evidence.events if event.stage == "inspection")
    scene.world.clock = last + 90 * DAY_S
    events = dict(monitor(scene.world.database, scene.world.ctx, now=scene.world.clock))
    assert not any('"inspection_overdue"' in one.body for one in scene.world.query(command_log)), events
    scene.world.clock += 1

    with scene.world.database.reading() as tx:
        evidence = scene.world.ctx.assess(tx, scene.pallet.sscc, scene.world.clock)
    overdue = [r for r in grounds(evidence, scene.world.ctx.policy).knock_outs if r.code == "inspection_overdue"]
    assert [reason.remedy for reason in overdue] == ["Have the goods inspected again."]
    frozen(scene, "inspection_overdue")


def test_an_inspection_by_an_unregistered_device_is_refused_and_the_goods_stay_uninspected(
    tmp_path: Path,
) -> None:
    """Made and stored by known devices, inspected by a key that nobody registered: no inspection, no credit."""
    folder = tmp_path / "own"
    folder.mkdir()
    database = open_database(f"sqlite:///{folder / 'log.db'}")
    upgrade(database)
    story = tell(database, folder)
    tin = story.plan.collateral[0].tins[0].rpartition("/")[0] + "/NEW1"
    send(story, database, "filler", seen(tin, "commissioning", "active") | {"action": "ADD"})
    send(story, database, "handheld", seen(tin, "storing", "sellable_not_accessible"))
    forged = seen(tin, "inspecting", "conformant")
    unknown = P256Private.from_secret(b"nobody's device")
    raw = issue(
        [forged], aud=AUD, org=story.plan.cast.organisation("dairy").id, iss="urn:tracebond:device:none", iat=NOW,
        seq=0, prev=None, key=unknown, salts=lambda: random.Random(5).randbytes(16),
    )  # fmt: skip
    with pytest.raises(TracebondError), database.transaction() as tx:
        store.admit(tx, [open_message(split(raw), unknown.public)], now_ms=NOW * 1000)
    _anchor_again(story, folder)

    evidence_of = LogEvidence(story.maps, story.place, story.chain, threading.Lock(), patient())
    with database.reading() as tx:
        evidence = evidence_of(tx, tin, NOW)
    assert [event.stage for event in evidence.events] == ["production", "inventory"]
    trust = grounds(evidence, load_policy()).confidence(load_policy())
    assert not trust.is_eligible
    assert trust.reasons[0].code == "completeness_below_floor"
    database.close()


def _anchor_again(story: Story, folder: Path) -> None:
    Sequencer(story.database, CHECKPOINT_KEY, ORIGIN).step(NOW + 20)
    maps = ProofMap()
    size = 0
    for _ in range(5):
        size = max(size, _anchor(story.database, story.chain, Signer(folder / "keys")))
    with story.database.reading() as tx:
        maps.advance(tx, size)
        assert tx.execute(sa.text("SELECT COUNT(*) FROM entries")).scalar_one() >= size
    story.maps = maps
