"""Anchorers and senders killed with -9 at random, two processes alive: on the chain every anchor stands once (F3)."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contracts.clients import TransparencyLogClient
from core.merkle import tree_root
from ledger.anchor import Anchorer, AnchorSettings, anchors_between, read_leaves
from ledger.chain_alarms import open_alarms
from ledger.chain_tx import ChainSender
from ledger.database import open_database
from tests.chain_fixtures import ChainWorld, anvil_world, built_in_world
from tests.ledger.world import World, seen

ROOT = Path(__file__).parents[2]
KILLS = 125 if os.environ.get("TRACEBOND_CAMPAIGN") else 3
SETTINGS = AnchorSettings(interval_ms=50, unfinal_max=4)
_RUN = """
import sys, time
from pathlib import Path
from contracts.opening import open_chain
from contracts.signer import Signer
from core.errors import Unavailable
from ledger.anchor import Anchorer
from ledger.chain_tx import ChainSender
from ledger.database import open_database
from tests.ledger.test_anchor_kill import SETTINGS
folder, database = Path(sys.argv[1]), open_database(sys.argv[2])
chain, signer = open_chain(sys.argv[3], folder), Signer(folder / "keys")
anchorer, sender = Anchorer(database, chain, SETTINGS), ChainSender(database, chain, signer)
print("ready", flush=True)
while True:
    now_ms = int(time.time() * 1000)
    try:
        anchorer.step(now_ms)
        sender.step(now_ms)
    except Unavailable as error:
        print(error, file=sys.stderr)
    time.sleep(0.01)
"""


@contextmanager
def worker(folder: Path, url: str, chain_url: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(folder), url, chain_url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@pytest.mark.parametrize("kind", ["eth-tester", "anvil"])
def test_random_kills_of_two_anchorers_leave_each_anchor_once(database_url: str, kind: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("TRACEBOND_SEED", "4117"))
    if kind == "eth-tester":
        _campaign(built_in_world(tmp_path), database_url, seed)
        return
    with anvil_world(tmp_path) as chains:
        _campaign(chains, database_url, seed)


def _campaign(chains: ChainWorld, database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    chain_url = chains.anvil.url if chains.anvil else ""
    database = open_database(database_url)
    chains.record(database)
    log = World(database).start()
    count = 0
    with worker(chains.folder, database_url, chain_url):
        for _ in range(KILLS):
            with worker(chains.folder, database_url, chain_url):
                until = time.monotonic() + chance.uniform(0.1, 0.7)
                while time.monotonic() < until:
                    count += 1
                    log.send("line-1", seen(count))
                    log.step()
                    time.sleep(0.02)
    anchorer = Anchorer(database, chains.chain, SETTINGS)
    sender = ChainSender(database, chains.chain, chains.signer)
    later = int(time.time() * 1000)
    for number in range(16):
        anchorer.step(later + number * 4_000)
        sender.step(later + number * 4_000)

    contract = TransparencyLogClient(chains.chain, chains.deployment.log_contract)
    with database.reading() as tx:
        found = anchors_between(tx, limit=10_000)
        leaves = read_leaves(tx, 0, found[-1].size)
        assert open_alarms(tx) == []
    assert len(found) > KILLS
    assert {one.state for one in found} == {"final"}
    assert [one.prev_size for one in found] == [0, *(one.size for one in found[:-1])]
    assert contract.log_at(0).size == found[-1].size
    for one in found:
        assert contract.root_at(0, one.size) == tree_root(leaves[: one.size]) == one.root
    # As many chain_txs of the publisher as anchors: nothing was sent twice under another nonce.
    assert chains.chain.nonce(chains.deployment.publisher) == len(found)
    database.close()
