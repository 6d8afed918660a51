"""A small world for finance: a real chain with contracts, five organisations, goods with a history of our writing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from contracts.clients import OrganisationRegistryClient, PledgeRegistryClient, Role
from core.identifiers import org_id, sgtin_id, sscc_id
from core.prefixmap import map_key
from finance.model import Actor, Context
from finance.provenance import Evidence, EvidenceEvent
from finance.reconcile import Steps, reconcile
from ledger.chain_book import enqueue, enqueue_funding
from ledger.chain_tx import ChainSender
from ledger.database import Database, Tx
from tests.chain_fixtures import ChainWorld

# The contracts compare deadlines with the chain's clock, which no test can set.
NOW = int(time.time())
BANK, OTHER_BANK, OWNER, WAREHOUSE, MAKER = (
    org_id(gln) for gln in ("9521321000018", "9521321000025", "9521321000032", "9521321000049", "9521321000056")
)
GTIN = "09521321000018"
PALLET = sscc_id("095213210000000018")
TINS = [sgtin_id(GTIN, f"T{number}") for number in range(6)]
PLACE = "https://id.gs1.org/414/9521321000049"


def actor(org: str, person: str, *roles: str) -> Actor:
    return Actor(person, f"user-{person}", org, frozenset(roles))


CUSTODIAN = actor(WAREHOUSE, "keeper", "custodian")
BORROWER = actor(OWNER, "owner", "borrower")
MAKER_OF_BANK = actor(BANK, "officer", "bank_maker")
CHECKER = actor(BANK, "checker", "bank_checker")
OTHER_OFFICER = actor(OTHER_BANK, "rival", "bank_maker")
LATELY = (datetime.fromtimestamp(NOW, tz=UTC) - timedelta(days=20)).date().isoformat()
FEATURES = {
    "account": {"value": "0.9", "source": "core bank", "as_of": LATELY},
    "tax": {"value": "0.8", "source": "tax office", "as_of": LATELY},
    "secured": {"value": "0.7", "source": "credit bureau", "as_of": LATELY},
    "sales": {"value": "0.8", "source": "point of sale", "as_of": LATELY},
    "monthly_sales": "500000.00",
    "annual_turnover": "6000000.00",
}


def history(item: str, as_of_s: int, **change: Any) -> Evidence:
    steps = ("commissioning", "packing", "inspecting", "storing", "sensor_reporting")
    events = tuple(
        EvidenceEvent(f"{number}:0", MAKER if number < 2 else WAREHOUSE, step, NOW - 900 + number)
        for number, step in enumerate(steps)
    )
    values: dict[str, Any] = {"events": events, "custody_s": as_of_s - 600} | change
    return Evidence(item, as_of_s, **values)


@dataclass
class FinanceWorld:
    database: Database
    chain: ChainWorld
    ctx: Context
    sender: ChainSender
    packed: dict[str, list[str]]
    change: dict[str, Any] = field(default_factory=dict)
    clock: int = NOW
    _count: int = 0

    def do(self, command: Callable[..., dict[str, Any]], who: Actor, **arguments: Any) -> dict[str, Any]:
        self._count += 1
        values = {"key": f"k{self._count}", "reason": "test", "now": self.clock} | arguments
        with self.database.transaction() as tx:
            return command(tx, self.ctx, who, **values)

    def settle(self) -> Steps:
        """Let the chain catch up, then reconcile."""
        for _ in range(200):
            if self.sender.step(self.clock * 1_000).is_idle:
                break
        return reconcile(self.database, self.ctx, now=self.clock)

    def query(self, table: Any) -> Sequence[Any]:
        import sqlalchemy as sa

        with self.database.reading() as tx:
            return tx.execute(sa.select(table)).all()


def opened(database: Database, chain: ChainWorld) -> FinanceWorld:
    """The world over a database and a chain that :func:`build` has been through."""
    registry = PledgeRegistryClient(chain.chain, chain.deployment.pledges)
    packed = {PALLET: list(TINS)}
    change: dict[str, Any] = {}

    def contents(tx: Tx, item: str) -> Sequence[str]:
        found: list[str] = []
        for child in packed.get(item, []):
            found += [child, *contents(tx, child)]
        return found

    def assess(tx: Tx, item: str, as_of_s: int) -> Evidence:
        return history(item, as_of_s, **change)

    ctx = Context(bytes(range(32)), registry, chain.signer, assess, contents)
    sender = ChainSender(database, chain.chain, chain.signer)
    return FinanceWorld(database, chain, ctx, sender, packed, change)


def build(database: Database, chain: ChainWorld) -> FinanceWorld:
    chain.record(database)
    world = opened(database, chain)
    ctx = world.ctx
    organisations = OrganisationRegistryClient(chain.chain, chain.deployment.organisations)
    roles = {BANK: Role.LENDER, OTHER_BANK: Role.LENDER, OWNER: Role.MAKER, WAREHOUSE: Role.CUSTODIAN,
             MAKER: Role.MAKER}  # fmt: skip
    with database.transaction() as tx:
        for org, role in roles.items():
            address = chain.signer.address(ctx.account(org))
            data = organisations.set_organisation_call(
                map_key("org", org), record_key=map_key("key", org), account=address, roles=role
            )
            enqueue(tx, account="admin", to=organisations.address, data=data, purpose="org", reference=org, now_ms=1)
            enqueue_funding(tx, address=address, value=10**18, reference=org, now_ms=1)
    world.settle()
    return world
