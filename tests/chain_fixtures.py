"""Chains with deployed contracts for tests above ``contracts``: the built-in one, and a real Anvil of one's own."""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.chain import Chain
from contracts.deploy import Deployment, deploy
from contracts.opening import open_chain
from contracts.remote import RemoteChain
from contracts.signer import Signer
from core.crypto import Ed25519Private
from ledger.chain_tx import record_deployment
from ledger.database import Database
from tests.contracts.harness import AnvilNode

ORIGIN = "tracebond.test/log"
CHECKPOINT_KEY = Ed25519Private(bytes(range(32)))
K_CHECK = bytes(range(1, 33))


@dataclass
class ChainWorld:
    """A chain, its keys and its contracts."""

    chain: Chain
    signer: Signer
    deployment: Deployment
    folder: Path
    anvil: AnvilNode | None = None

    def record(self, database: Database, *, now_ms: int = 1) -> None:
        with database.transaction() as tx:
            record_deployment(tx, self.deployment, now_ms=now_ms)

    def mine(self, blocks: int = 1) -> None:
        if self.anvil is not None:
            self.anvil.ask("anvil_mine", hex(blocks))

    def ask(self, method: str, *params: Any) -> Any:
        assert self.anvil is not None
        return self.anvil.ask(method, *params)


def deployed(chain: Chain, folder: Path, anvil: AnvilNode | None = None) -> ChainWorld:
    signer = Signer(folder / "keys")
    deployment = deploy(
        chain, signer, folder, origin=ORIGIN, checkpoint_key=CHECKPOINT_KEY.public.raw, k_check=K_CHECK, wait_s=30
    )
    return ChainWorld(chain, signer, deployment, folder, anvil)


def new_built_in_world(folder: Path) -> ChainWorld:
    """A built-in chain with contracts and keys of its own."""
    return deployed(open_chain(None, folder, genesis_salt=b"test"), folder)


def built_in_world(folder: Path) -> ChainWorld:
    """A built-in chain with contracts: a copy of the one that this process deployed once, keys included."""
    if not (folder / "chain.db").exists():
        shutil.copytree(_deployed_once(), folder, dirs_exist_ok=True)
    return new_built_in_world(folder)


@functools.cache
def _deployed_once() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tb-chain-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    new_built_in_world(folder).chain.close()
    return folder


@contextmanager
def anvil_world(folder: Path, *options: str) -> Iterator[ChainWorld]:
    """An Anvil whose ``finalized`` block is two behind the latest, with the contracts; it mines at once."""
    anvil = AnvilNode("--slots-in-an-epoch", "1", *options)
    try:
        chain = open_chain(anvil.url, folder, timeout_s=5)
        yield deployed(chain, folder, anvil)
        chain.close()
    finally:
        anvil.stop()


def by_hand(world: ChainWorld) -> RemoteChain:
    """The world's Anvil as a chain that is not helped along: blocks come only from the test."""
    assert world.anvil is not None
    world.ask("evm_setAutomine", False)
    return RemoteChain(world.anvil.url, finality_depth=None, timeout_s=5)
