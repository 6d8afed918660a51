"""Many threads of four banks race for the same goods on PostgreSQL and a real Anvil: one winner each, never two."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from contracts.clients import OrganisationRegistryClient, Role
from core.errors import TracebondError, Unavailable
from core.identifiers import canonical, gln_of, lot_id, org_id, sgtin_id, sscc_id
from core.prefixmap import map_key
from finance import applications, consents, pledges, receipts
from finance.model import Actor
from finance.tables import claims, goods
from finance.tables import pledges as pledges_table
from finance.tables import receipts as receipts_table
from ledger.chain_book import enqueue, enqueue_funding, state_of
from ledger.database import Tx, open_database
from tests.chain_fixtures import anvil_world
from tests.conftest import PostgresServer
from tests.finance.world import BORROWER, CUSTODIAN, FEATURES, GTIN, MAKER, OWNER, PLACE, FinanceWorld, actor, build

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
GOODS = 1_000 if IS_CAMPAIGN else 8
THREADS = 32
PACKED_IN = 4
TRIES = 40
BANKS = [org_id(gln) for gln in ("9521321000018", "9521321000025", "9521321000063", "9521321000070")]
FACTORY = actor(MAKER, "maker", "factory")


def unit(number: int) -> str:
    return sgtin_id(GTIN, f"R{number}")


def case(number: int) -> str:
    digits = f"09521321{number:09d}"
    check = (10 - sum(int(digit) * (3 if place % 2 == 0 else 1) for place, digit in enumerate(digits))) % 10
    return sscc_id(f"{digits}{check}")


# Every fourth thing is a case with four tins in it; a lender may name the case or any tin, in any spelling.
CASES = {case(number): [unit(number * 10 + place) for place in range(PACKED_IN)] for number in range(0, GOODS, 4)}
THINGS = [case(number) if number % 4 == 0 else unit(number * 10) for number in range(GOODS)]


def parts(things: Sequence[Any], size: int = 50) -> list[Sequence[Any]]:
    return [things[start : start + size] for start in range(0, len(things), size)]


def spelled(item: str, turn: int) -> str:
    if "/00/" in item:
        digits = item[-18:]
        urn = f"urn:epc:id:sscc:9521321.{digits[0]}{digits[8:17]}"
        names = [item, urn, f"https://bank{turn}.example/00/{digits}", f"(00){digits}"]
        names += [spelled(CASES[item][turn % PACKED_IN], turn + 1)]
        return names[turn % len(names)]
    serial = item.rpartition("/")[2]
    return [
        item, f"urn:epc:id:sgtin:9521321.000001.{serial}", f"https://bank{turn}.example/01/{GTIN}/21/{serial}",
        f"(01){GTIN}(21){serial}", item.replace("/21/R", "/21/%52"),
    ][turn % 5]  # fmt: skip


@dataclass
class Race:
    world: FinanceWorld
    officers: dict[str, tuple[Actor, Actor]]
    lock: threading.Lock


def contents(tx: Tx, item: str) -> Sequence[str]:
    return CASES.get(item, [])


@pytest.fixture
def race(postgres_server: PostgresServer, postgres_template: str, tmp_path: Path) -> Iterator[Race]:
    url = postgres_server.create(postgres_template)
    database = open_database(url)
    with anvil_world(tmp_path / "chain") as chain:
        world = build(database, chain)
        world.ctx = replace(world.ctx, contents=contents)
        enrol(world)
        officers = {
            bank: (actor(bank, f"m{place}", "bank_maker"), actor(bank, f"c{place}", "bank_checker"))
            for place, bank in enumerate(BANKS)
        }
        for bank, (maker, _) in officers.items():
            world.do(consents.grant_consent, BORROWER, lender=bank, purpose="credit", days=300,
                     sources=list(consents.SOURCES))  # fmt: skip
            world.do(applications.record_borrower, maker, borrower=OWNER, controller="controller", has_account=True,
                     features=FEATURES)  # fmt: skip
            world.do(applications.record_quote, maker, product=f"https://id.gs1.org/01/{GTIN}", unit="EA",
                     category="infant_formula", price="20000", cost="20000", source="exchange",
                     median="20000")  # fmt: skip
        yield Race(world, officers, threading.Lock())
    database.close()
    postgres_server.drop(url)


def enrol(world: FinanceWorld) -> None:
    """The two banks that the small world has not got."""
    registry = OrganisationRegistryClient(world.chain.chain, world.chain.deployment.organisations)
    with world.database.transaction() as tx:
        for bank in BANKS[2:]:
            address = world.chain.signer.address(world.ctx.account(bank))
            data = registry.set_organisation_call(
                map_key("org", bank), record_key=map_key("key", bank), account=address, roles=Role.LENDER
            )
            enqueue(tx, account="admin", to=registry.address, data=data, purpose="org", reference=bank, now_ms=1)
            enqueue_funding(tx, address=address, value=10**18, reference=bank, now_ms=1)
    settle(world)


def settle(world: FinanceWorld) -> None:
    """Until nothing is on its way: Anvil's blocks become final two later."""
    for turn in range(2_000):
        world.chain.mine(3)
        if world.sender.step(world.clock * 1_000 + turn).is_idle and turn > 2:
            break
    world.settle()


def tried(call: Callable[[], Any]) -> tuple[str, str]:
    """The code and words of the answer; like a server's caller, it asks again when the database says so."""
    for _ in range(TRIES):
        try:
            call()
        except Unavailable:
            continue
        except TracebondError as error:
            return error.code, error.message
        return "done", ""
    return "unavailable", ""


def do(race: Race, command: Callable[..., dict[str, Any]], who: Actor, key: str, **arguments: Any) -> dict[str, Any]:
    with race.world.database.transaction() as tx:
        return command(tx, race.world.ctx, who, key=key, reason="race", now=race.world.clock, **arguments)


def compete(race: Race, thread: int, things: Sequence[str], found: list[tuple[str, str, str, str]]) -> None:
    """One thread of one bank goes for every thing: application, two approvals, acceptance, in one breath each."""
    bank = BANKS[thread % len(BANKS)]
    maker, checker = race.officers[bank]
    for place in range(len(things)):
        item = things[(place + thread) % len(things)]
        key = f"{thread}-{item[-18:]}"

        def go(key: str = key, name: str = spelled(item, thread // 4 + place)) -> None:
            asked = do(race, applications.submit_application, BORROWER, f"s{key}", lender=bank, goods_item=name,
                       amount="1500.00", tenor_days=30, purpose="milk")  # fmt: skip
            if asked["state"] == "IN_REVIEW":
                for who in (maker, checker):
                    do(race, applications.approve_application, who, f"{who.person}{key}", is_approved=True,
                       application=asked["application"], terms_hash=asked["terms_hash"])  # fmt: skip
            do(race, applications.accept_offer, BORROWER, f"a{key}", application=asked["application"],
               terms_hash=asked["terms_hash"])  # fmt: skip

        code, message = tried(go)
        with race.lock:
            found.append((item, bank, code, message))


def test_each_thing_has_one_winner_and_losers_learn_no_name(race: Race) -> None:
    world = race.world
    for batch in parts(THINGS):
        for item in batch:
            world.do(receipts.register_receipt, CUSTODIAN, item=item, owner=OWNER, place=PLACE)
        settle(world)
    assert {row.state for row in world.query(receipts_table)} == {"SEALED"}

    found: list[tuple[str, str, str, str]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(compete, race, thread, THINGS, found) for thread in range(THREADS)]:
            done.result()

    winners = Counter(item for item, _, code, _ in found if code == "done")
    assert winners == Counter(THINGS)
    losers = [(code, message) for _, _, code, message in found if code != "done"]
    assert {code for code, _ in losers} == {"already_pledged"}
    assert len(losers) == GOODS * (THREADS - 1)
    assert not any(bank in message or gln_of(bank) in message for _, message in losers for bank in BANKS)
    finish(race)


def finish(race: Race) -> None:
    """Sign and send what was won; database and contract then show one lender for each receipt, the same one."""
    world = race.world
    for batch in parts(world.query(pledges_table)):
        for row in batch:
            for side in (BORROWER, CUSTODIAN):
                world.do(pledges.sign_pledge, side, pledge=row.id)
            world.do(pledges.send_pledge, race.officers[row.lender][0], pledge=row.id)
        settle(world)
    live = world.query(pledges_table)
    assert len(live) == len({bytes(row.receipt) for row in live}) == GOODS
    for row in live:
        shown = world.ctx.registry.pledge_of(bytes(row.receipt))
        account = world.chain.signer.address(world.ctx.account(row.lender))
        assert (row.state, shown.state, shown.pledgee.lower()) == ("ACTIVE", "active", account.lower())


def test_two_banks_nodes_that_know_nothing_of_each_other_meet_on_the_chain(race: Race) -> None:
    """Each bank's database is its own; the contract alone decides, and the loser's transaction reverts."""
    world = race.world
    done = world.do(receipts.register_receipt, CUSTODIAN, item=THINGS[0], owner=OWNER, place=PLACE)
    settle(world)
    receipt = world.query(receipts_table)[0].id
    sent = []
    with world.database.transaction() as tx:
        for bank in BANKS:
            account = world.chain.signer.address(world.ctx.account(bank))
            typed = world.ctx.registry.typed_pledge(
                bytes(receipt), pledgee=account, terms_hash=b"t" * 32, nonce=0, deadline=world.clock + 86_400 * 365
            )
            signatures = [
                world.chain.signer.sign_typed(world.ctx.account(org), typed) for org in (OWNER, CUSTODIAN.org)
            ]
            data = world.ctx.registry.pledge_call(
                bytes(receipt), terms_hash=b"t" * 32, deadline=world.clock + 86_400 * 365, owner_sig=signatures[0],
                custodian_sig=signatures[1],
            )  # fmt: skip
            sent.append(enqueue(tx, account=world.ctx.account(bank), to=world.ctx.registry.address, data=data,
                                purpose="pledge", reference=bank, gas=400_000, now_ms=1))  # fmt: skip
    settle(world)

    with world.database.reading() as tx:
        ends = [state_of(tx, one) for one in sent]
    states = Counter(one.state for one in ends)
    assert states == {"final": 1, "reverted": 3}, [one.reason for one in ends]
    assert done["claims"] == 1 + PACKED_IN
    assert world.ctx.registry.pledge_of(bytes(receipt)).state == "active"


def test_a_lot_is_never_claimed_beyond_its_quantity_by_a_crowd(race: Race) -> None:
    world = race.world
    lot, made = lot_id(GTIN, "CROWD"), GOODS // 2
    world.ctx = replace(world.ctx, lots=lambda tx, units: dict.fromkeys(units, lot))
    world.do(receipts.set_lot_capacity, FACTORY, lot=lot, quantity=made)
    settle(world)
    tins = [unit(100_000 + number) for number in range(GOODS)]
    found: list[str] = []

    def claim(thread: int) -> None:
        for place in range(GOODS // 4):
            item = tins[(place * 4 + thread) % GOODS]

            def go(key: str = f"l{thread}-{place}", name: str = spelled(item, thread + place)) -> None:
                do(race, receipts.register_receipt, CUSTODIAN, key, item=name, owner=OWNER, place=PLACE)

            code, _ = tried(go)
            with race.lock:
                found.append(code)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(claim, thread) for thread in range(THREADS)]:
            done.result()
    settle(world)

    assert Counter(found) == {"done": made, "already_claimed": len(found) - made}
    key = world.ctx.goods_key(lot)
    with world.database.reading() as tx:
        row = tx.execute(sa.select(goods).where(goods.c.goods_key == key)).one()
        live = tx.execute(sa.select(sa.func.sum(claims.c.quantity)).where(claims.c.goods_key == key, claims.c.is_live))
        assert row.claimed == row.capacity == live.scalar_one() == made * 10**6
    assert world.ctx.registry.claimed(key) == made * 10**6
    assert {row.state for row in world.query(receipts_table)} == {"SEALED"}


def test_spellings_of_the_race_are_the_same_things() -> None:
    registry_key = [len({map_key("item", canonical(spelled(item, turn))) for turn in range(4)}) for item in THINGS[:8]]

    assert registry_key == [1] * 8
