"""A finance world for state machines: copied from one that is set up once, with all that a machine needs to act."""

import functools
import shutil
import sqlite3
import weakref
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contracts.clients import PledgeRegistryClient
from contracts.opening import open_chain
from core.errors import TracebondError
from core.identifiers import lot_id, sgtin_id, sscc_id
from finance import applications, consents, receipts
from finance.commandlog import shanghai_date
from finance.eod import put
from finance.model import Actor, Context
from ledger.chain_tx import ChainSender
from ledger.database import Database, Tx, open_database
from tests.chain_fixtures import ChainWorld, built_in_world
from tests.finance.world import (
    BANK,
    BORROWER,
    FEATURES,
    GTIN,
    MAKER,
    NOW,
    OTHER_BANK,
    OWNER,
    FinanceWorld,
    actor,
    build,
    history,
)

PRODUCT = f"https://id.gs1.org/01/{GTIN}"
UNITS = [sgtin_id(GTIN, f"T{number}") for number in range(8)]
PALLETS = [sscc_id("095213210000000018"), sscc_id("095213210000000025")]
CONTAINER = sscc_id("095213210000000032")
LOT = lot_id(GTIN, "L1")
# By hand: the first three tins on the first pallet, the next three on the second, both in the container; two loose.
PACKED = {PALLETS[0]: UNITS[:3], PALLETS[1]: UNITS[3:6], CONTAINER: PALLETS}
LOT_UNITS = frozenset(UNITS[4:])
LOT_CAPACITY = 3
SPELLINGS: dict[str, tuple[str, ...]] = {
    **{
        unit: (
            unit,
            f"urn:epc:id:sgtin:9521321.000001.T{number}",
            f"https://shop.example/01/{GTIN}/21/T{number}",
            f"(01){GTIN}(21)T{number}",
        )
        for number, unit in enumerate(UNITS)
    },
    **{
        item: (item, f"urn:epc:id:sscc:9521321.000000000{digit}", f"https://other.example/00/{item[-18:]}")
        for digit, item in zip("123", [*PALLETS, CONTAINER], strict=True)
    },
}
ITEMS = [*UNITS, *PALLETS, CONTAINER]
BANKS = (BANK, OTHER_BANK)
FACTORY = actor(MAKER, "maker", "factory")


def officers(bank: str) -> dict[str, Actor]:
    """A bank's people: two with one role each, one with both, and a second user of the first."""
    tail = bank[-2:]
    return {
        "maker": actor(bank, f"officer{tail}", "bank_maker"),
        "checker": actor(bank, f"checker{tail}", "bank_checker"),
        "both": actor(bank, f"both{tail}", "bank_maker", "bank_checker"),
        "twin": actor(bank, f"officer{tail}", "bank_checker"),
    }


OFFICERS = {bank: officers(bank) for bank in BANKS}


def inside(item: str) -> set[str]:
    """A thing and everything packed in it, by the table above."""
    found = {item}
    for child in PACKED.get(item, ()):
        found |= inside(child)
    return found


def canonical_contents(tx: Tx, item: str) -> Sequence[str]:
    return sorted(inside(item) - {item})


def lots(tx: Tx, units: Sequence[str]) -> dict[str, str]:
    return {unit: LOT for unit in units if unit in LOT_UNITS}


@dataclass
class Template:
    """A world that was set up once: its files, and its keys, which are slow to open."""

    folder: Path
    chain: ChainWorld

    def copy(self, folder: Path) -> FinanceWorld:
        """A world of one's own with the template's chain and database."""
        shutil.copytree(self.folder, folder)
        return self.open(folder)

    def open(self, folder: Path) -> FinanceWorld:
        """The world whose files lie in a folder, as a process finds it when it starts."""
        database = open_database(f"sqlite:///{folder / 'finance.db'}")
        chain = open_chain(None, folder / "chain", genesis_salt=b"test")
        own = replace(self.chain, chain=chain, folder=folder / "chain")
        change: dict[str, Any] = {}
        ctx = context(own, change)
        return FinanceWorld(database, own, ctx, ChainSender(database, chain, own.signer), dict(PACKED), change)


def context(own: ChainWorld, change: dict[str, Any]) -> Context:
    registry = PledgeRegistryClient(own.chain, own.deployment.pledges)

    def assess(tx: Tx, item: str, as_of_s: int) -> Any:
        return history(item, as_of_s, **change)

    return Context(bytes(range(32)), registry, own.signer, assess, canonical_contents, lots)


def make_template(folder: Path, upgraded: Path) -> Template:
    """Set the world up: organisations and funds on the chain, the lot's quantity, borrowers and first prices."""
    folder.mkdir()
    shutil.copy(upgraded, folder / "finance.db")
    database = open_database(f"sqlite:///{folder / 'finance.db'}")
    chain = built_in_world(folder / "chain")
    world = build(database, chain)
    world.ctx = context(chain, {})
    world.do(receipts.set_lot_capacity, FACTORY, lot=LOT, quantity=LOT_CAPACITY, key="lot")
    for bank in BANKS:
        world.do(consents.grant_consent, BORROWER, lender=bank, purpose="credit", sources=list(consents.SOURCES),
                 days=720, key=f"consent {bank}")  # fmt: skip
        world.do(applications.record_borrower, OFFICERS[bank]["maker"], borrower=OWNER, controller="controller",
                 has_account=True, features=FEATURES, key="borrower")  # fmt: skip
        world.do(applications.record_quote, OFFICERS[bank]["maker"], product=PRODUCT, category="infant_formula",
                 unit="EA", price="20000", cost="20000", source="exchange", median="20000", key="quote")  # fmt: skip
    world.settle()
    with database.transaction() as tx:
        put(tx, "business_date", shanghai_date(NOW).isoformat())
    database.close()
    chain.chain.close()
    return Template(folder, chain)


@dataclass
class Done:
    """A command that was carried out: all that is needed to say it again."""

    command: Callable[..., dict[str, Any]]
    who: Actor
    arguments: dict[str, Any]
    result: dict[str, Any]


@dataclass
class Hands:
    """Carries out commands and remembers them; a refusal is an answer, anything else a failure."""

    world: FinanceWorld
    done: list[Done] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def do(self, command: Callable[..., dict[str, Any]], who: Actor, **arguments: Any) -> dict[str, Any] | None:
        self.count += 1
        values = {"key": f"m{self.count}", "reason": "machine", "now": self.world.clock} | arguments
        try:
            with self.world.database.transaction() as tx:
                result = command(tx, self.world.ctx, who, **values)
        except TracebondError as error:
            self.refusals[error.code] = self.refusals.get(error.code, 0) + 1
            return None
        self.done.append(Done(command, who, values, result))
        return result


_READERS: weakref.WeakKeyDictionary[Database, sqlite3.Connection] = weakref.WeakKeyDictionary()


@functools.cache
def _form(names: tuple[str, ...]) -> type[tuple[Any, ...]]:
    return namedtuple("Row", names, rename=True)


def reader(database: Database) -> sqlite3.Connection:
    """A connection of SQLite's own to the database's file: checks read past the product, and quickly."""
    found = _READERS.get(database)
    if found is None:
        found = sqlite3.connect(str(database._write.url.database))
        found.row_factory = lambda cursor, row: _form(tuple(column[0] for column in cursor.description))(*row)
        _READERS[database] = found
        weakref.finalize(database, found.close)
    return found


def rows(database: Database, sql: str, **values: Any) -> list[Any]:
    """Plain SQL, written here."""
    return reader(database).execute(sql, values).fetchall()


def is_changed(database: Database, seen: list[int]) -> bool:
    """Whether anything was committed since the last look, which ``seen`` keeps."""
    version = reader(database).execute("PRAGMA data_version").fetchone()[0]
    if seen and seen[-1] == version:
        return False
    seen[:] = [version]
    return True
