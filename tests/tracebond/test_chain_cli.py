"""The operator's commands on a real data folder: status, alarms, accounts, freeze, successor, and a new chain."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, generate_latest

from contracts.chain import WrongChain
from contracts.clients import OrganisationRegistryClient, Role, TransparencyLogClient
from core.canonical import unb64u
from core.crypto import generate_p256
from core.errors import Broken
from core.prefixmap import map_key
from ledger.anchor import Anchorer, AnchorSettings, anchors_between, last_final_anchor
from ledger.chain_alarms import open_alarms, raise_alarm
from ledger.chain_book import current_deployment
from ledger.chain_logs import check_present
from ledger.chain_metrics import ChainMetrics
from ledger.chain_tx import ChainSender
from ledger.chain_tx_tables import anchors
from ledger.keys import org_info
from ledger.log import Sequencer
from tracebond.audit import run_audit
from tracebond.chain_cli import chain
from tracebond.cli import cli
from tracebond.enrol import Enrolment, OrganisationSpec
from tracebond.log_cli import log
from tracebond.loops import now_ms, now_s
from tracebond.new_chain import register_again, unregistered
from tracebond.parts import Parts, open_parts
from tracebond.settings import load_settings

GLN = "9521234500001"


cli.add_command(chain)
cli.add_command(log)


def call(data: Path, *arguments: str) -> Result:
    group, command, *rest = arguments
    return CliRunner().invoke(cli, [group, command, "--data", str(data), *rest])


class Service:
    """Sequencer, anchorer and sender over a data folder, stepped by hand."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.sequencer = Sequencer(parts.db, parts.keyfiles.checkpoint, parts.settings.origin)
        self.anchorer = Anchorer(parts.db, parts.chain, AnchorSettings(interval_ms=1))
        self.sender = ChainSender(parts.db, parts.chain, parts.signer)
        self.enrolment = Enrolment(parts, self.step)

    def step(self) -> None:
        self.sender.step(now_ms())
        self.sequencer.step(now_s())

    def anchor(self) -> None:
        for _ in range(4):
            self.anchorer.step(now_ms())
            self.sender.step(now_ms())


@contextmanager
def service(data: Path, *, new_chain: bool = False) -> Iterator[Service]:
    parts = open_parts(load_settings(data=data), new_chain=new_chain)
    try:
        yield Service(parts)
    finally:
        parts.close()


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an operator and a maker, three anchors on the chain."""
    data = tmp_path_factory.mktemp("seeded")
    with service(data) as running:
        running.enrolment.operator()
        running.sequencer.step(now_s())
        running.anchor()
        spec = OrganisationSpec(GLN, "Maker", "maker")
        running.enrolment.organisations([spec], {GLN: generate_p256()})
        running.sequencer.step(now_s())
        running.anchor()
        running.enrolment.organisations(
            [OrganisationSpec("9521234500018", "Second", "custodian")], {"9521234500018": generate_p256()}
        )
        running.sequencer.step(now_s())
        running.anchor()
    return data


@pytest.fixture
def data(seeded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    copy = tmp_path / "var"
    shutil.copytree(seeded, copy)
    return copy


def sizes(data: Path) -> list[int]:
    with service(data) as running, running.parts.db.reading() as tx:
        return [one.size for one in anchors_between(tx)]


def test_status_accounts_and_alarms_show_what_is_there(data: Path) -> None:
    status, accounts, alarms = (call(data, "chain", name) for name in ("status", "accounts", "alarms"))

    last = sizes(data)[-1]
    assert f"final         size {last}" in status.output
    assert f"contract      size {last}" in status.output
    assert "backlog       0 leaves" in status.output
    with service(data) as running:
        for name in ("admin", "publisher", "pauser"):
            assert running.parts.signer.address(name) in accounts.output
    assert alarms.output == "No alarm is open.\n"


def test_an_alarm_is_shown_cleared_once_and_a_foreign_nonce_is_for_resume(data: Path) -> None:
    with service(data) as running, running.parts.db.transaction() as tx:
        deployment, _ = current_deployment(tx)
        raise_alarm(tx, deployment, "finality_broken", detail="two are gone", now_ms=now_ms())
        raise_alarm(tx, deployment, "foreign_nonce", account="admin", detail="a nonce", now_ms=now_ms())

    shown = call(data, "chain", "alarms").output
    stopped = call(data, "chain", "status").output
    cleared = call(data, "chain", "clear", "finality_broken")
    again = call(data, "chain", "clear", "finality_broken")
    wrong = call(data, "chain", "clear", "foreign_nonce")
    resumed = call(data, "chain", "resume", "admin")

    assert "* finality_broken" in shown
    assert "2 open, new credit is stopped" in stopped
    assert cleared.exit_code == 0
    assert (again.exit_code, wrong.exit_code) == (1, 1)
    assert "chain resume admin" in wrong.output
    assert "goes on from nonce" in resumed.output
    assert call(data, "chain", "alarms").output == "No alarm is open.\n"
    assert call(data, "chain", "resume", "nobody").exit_code == 1


def test_admin_funds_an_account_that_has_a_key_here(data: Path) -> None:
    with service(data) as running:
        before = running.parts.chain.balance(running.parts.signer.address("pauser"))

    funded = call(data, "chain", "fund", "pauser", "--ether", "0.5")
    refused = call(data, "chain", "fund", "stranger")

    assert funded.exit_code == 0, funded.output
    assert (refused.exit_code, "no account stranger" in refused.output) == (1, True)
    with service(data) as running:
        assert running.parts.chain.balance(running.parts.signer.address("pauser")) == before + 5 * 10**17
        assert "stranger" not in running.parts.signer.names()


def test_freeze_and_successor_by_command_and_running_processes_of_the_old_log_end(data: Path) -> None:
    first, second, last = sizes(data)
    with service(data) as running:
        old = running.parts.deployment
        unanchored = call(data, "log", "freeze", "--last-good", str(last + 1), "--reason", "a drill", "--yes")
        asked = CliRunner().invoke(
            cli, ["log", "freeze", "--data", str(data), "--last-good", str(second), "--reason", "a drill"], input="n\n"
        )
        early = call(data, "log", "successor")
        frozen = call(data, "log", "freeze", "--last-good", str(second), "--reason", "a drill", "--yes")
        check_present(running.parts.db, old)
        went_on = call(data, "log", "successor")

        assert [one.exit_code for one in (unanchored, asked, early)] == [1, 1, 1]
        assert frozen.exit_code == 0, frozen.output
        assert f"sizes {last}" in frozen.output
        assert went_on.exit_code == 0, went_on.output
        with pytest.raises(Broken) as raised:
            check_present(running.parts.db, old)
        assert raised.value.code == "log_succeeded"

    with service(data) as running:
        running.anchorer.check_start(now_ms=now_ms())
        running.anchor()
        parts = running.parts
        assert parts.deployment.log_id == 1
        assert parts.place.log_id == 1
        contract = TransparencyLogClient(parts.chain, parts.deployment.log_contract)
        assert contract.log_at(1).predecessor == 0
        assert contract.log_at(1).size == last
        assert contract.root_at(0, last) is None
        assert contract.root_at(0, first) is not None
        assert contract.publisher() == parts.signer.address("publisher-2")
        with parts.db.reading() as tx:
            assert open_alarms(tx) == []
    assert "log 0 at size" in call(data, "chain", "status").output
    assert run_audit(load_settings(data=data), is_full=True, say=lambda text: None) == 0


def test_a_folder_whose_file_is_older_than_the_succession_goes_on_with_the_successor(data: Path) -> None:
    before = (data / "deployment.json").read_bytes()
    second = sizes(data)[1]
    call(data, "log", "freeze", "--last-good", str(second), "--reason", "a drill", "--yes")
    call(data, "log", "successor", "--keep-publisher")
    (data / "deployment.json").write_bytes(before)

    with service(data) as running:
        assert running.parts.deployment.log_id == 1

    assert b'"log_id": 1' in (data / "deployment.json").read_bytes()


def test_a_backup_from_before_the_succession_is_refused_by_name(data: Path, seeded: Path) -> None:
    second = sizes(data)[1]
    call(data, "log", "freeze", "--last-good", str(second), "--reason", "a drill", "--yes")
    call(data, "log", "successor")
    for path in data.glob("tracebond.db*"):
        path.unlink()
    shutil.copy(seeded / "tracebond.db", data / "tracebond.db")

    with pytest.raises(WrongChain, match="old backup was restored"), service(data):
        pass


def test_a_new_chain_is_deployed_registered_and_anchored_again_and_says_so(data: Path) -> None:
    with service(data) as running:
        old = running.parts.deployment
        with running.parts.db.reading() as tx:
            maker = org_info(tx, OrganisationSpec(GLN, "Maker", "maker").id)
    for path in data.glob("chain.db*"):
        path.unlink()
    with pytest.raises(WrongChain, match="--new-chain"), service(data):
        pass
    said: list[str] = []

    with service(data, new_chain=True) as running:
        running.anchorer.check_start(now_ms=now_ms())
        with running.parts.db.reading() as tx:
            assert len(unregistered(running.parts, tx)) == 3
        running.enrolment.operator()
        count = register_again(running.parts, running.enrolment, said.append)
        running.sequencer.step(now_s())
        running.anchor()
        again = register_again(running.parts, running.enrolment, said.append)

        parts = running.parts
        new = parts.deployment
        registry = OrganisationRegistryClient(parts.chain, new.organisations)
        with parts.db.reading() as tx:
            final = last_final_anchor(tx)
            moved = org_info(tx, maker.org) if maker else None
        assert (new.genesis_hash != old.genesis_hash, new.log_id) == (True, 0)
        # A verifier that pinned an old contract must not take a new one for it.
        assert {new.organisations, new.pledges, new.log_contract}.isdisjoint(
            {old.organisations, old.pledges, old.log_contract}
        )
        assert (count, again, said) == (2, 0, ["registering 2 organisations again on the new chain"])
        assert maker is not None
        assert moved is not None
        assert (moved.kid, moved.account, moved.roles) == (maker.kid, maker.account, maker.roles)
        assert moved.place["registry"] == new.organisations
        current = registry.current(map_key("org", maker.org))
        assert current is not None
        assert current.record_key == unb64u(maker.kid, length=32)
        assert registry.has_role(maker.account, Role.MAKER)
        assert final is not None
        contract = TransparencyLogClient(parts.chain, new.log_contract)
        assert contract.root_at(0, final.size) == final.root
        assert contract.log_at(0).size == final.size
        assert final.size > sizes_before(parts)
    with service(data) as running:
        assert running.parts.deployment == new


def sizes_before(parts: Parts) -> int:
    """The size that the old chain held."""
    with parts.db.reading() as tx:
        return int(tx.execute(sa.select(sa.func.max(anchors.c.size)).where(anchors.c.deployment == 1)).scalar_one())


def test_metrics_name_backlog_anchors_balance_and_alarms(data: Path) -> None:
    with service(data) as running:
        parts = running.parts
        with parts.db.transaction() as tx:
            deployment, _ = current_deployment(tx)
            raise_alarm(tx, deployment, "root_mismatch", account="publisher", detail="a root", now_ms=1)
        running.enrolment.organisations(
            [OrganisationSpec("9521234500025", "Third", "carrier")], {"9521234500025": generate_p256()}
        )
        running.sequencer.step(now_s())
        with parts.db.reading() as tx:
            final = last_final_anchor(tx)
        assert final is not None
        registry = CollectorRegistry()
        metrics = ChainMetrics(parts.db, parts.chain, lambda: now_ms() + 60_000)
        registry.register(metrics)
        metrics.refresh()

        lines = generate_latest(registry).decode().splitlines()

        figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert float(figures["tracebond_chain_final_anchor_size"]) == final.size
        assert float(figures["tracebond_chain_backlog_leaves"]) >= 2
        assert float(figures["tracebond_chain_unfinal_anchors"]) == 0
        assert 60 <= float(figures["tracebond_chain_final_anchor_age_seconds"]) < 600
        assert float(figures['tracebond_chain_alarm{account="publisher",code="root_mismatch"}']) == 1
        assert float(figures["tracebond_chain_credit_stopped"]) == 1
        wei = parts.chain.balance(parts.signer.address("publisher"))
        assert float(figures['tracebond_chain_balance_ether{account="publisher"}']) == pytest.approx(wei / 10**18)
        assert float(figures["tracebond_chain_block_number"]) == parts.chain.block_number()
