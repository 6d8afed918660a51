"""The chain's settings reach it: finality depth, fee cap, and keys in a PKCS#11 token, all on a real Anvil."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from contracts.clients import TransparencyLogClient
from core.errors import Rejected
from ledger.anchor import Anchorer, AnchorSettings, last_final_anchor
from ledger.chain_alarms import open_alarms
from ledger.chain_tx_tables import chain_tx_attempt
from ledger.log import Sequencer
from tests.contracts.harness import AnvilNode
from tests.contracts.softhsm import make_token
from tracebond.enrol import Enrolment
from tracebond.loops import now_ms, now_s
from tracebond.parts import Parts, open_parts
from tracebond.settings import Settings, load_settings


@pytest.fixture(scope="module")
def anvil() -> Iterator[AnvilNode]:
    node = AnvilNode()
    yield node
    node.stop()


def settings(data: Path, anvil: AnvilNode, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in ({"CHAIN_URL": anvil.url} | environment).items():
        monkeypatch.setenv(f"TRACEBOND_{name}", value)
    return load_settings(data=data)


def anchored(parts: Parts) -> int:
    """Register the operator, anchor, and give the last final size."""
    sequencer = Sequencer(parts.db, parts.keyfiles.checkpoint, parts.settings.origin)
    sender, anchorer = parts.sender(), Anchorer(parts.db, parts.chain, AnchorSettings(interval_ms=1))

    def step() -> None:
        sender.step(now_ms())
        sequencer.step(now_s())

    Enrolment(parts, step).operator()
    for _ in range(5):
        step()
        anchorer.step(now_ms())
    with parts.db.reading() as tx:
        final = last_final_anchor(tx)
    return 0 if final is None else final.size


def test_everything_is_signed_in_the_token_and_final_at_the_depth_that_was_set(
    tmp_path: Path, anvil: AnvilNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = make_token()
    token.empty()
    given = settings(
        tmp_path, anvil, monkeypatch, FINALITY_DEPTH="5", PKCS11_MODULE=token.module, PKCS11_TOKEN=token.label,
        PKCS11_PIN_FILE=str(token.pin_file),
    )  # fmt: skip
    parts = open_parts(given)
    try:
        size = anchored(parts)

        log = TransparencyLogClient(parts.chain, parts.deployment.log_contract)
        assert size > 0
        assert log.log_at(0).size >= size
        assert parts.chain.final_block_number() == parts.chain.block_number() - 5
        assert {"admin", "publisher", "pauser"} <= set(parts.signer.names())
        assert log.publisher() == parts.signer.address("publisher")
    finally:
        parts.close()
    assert list((tmp_path / "keys").glob("*.keystore.json")) == []


def test_nothing_is_offered_above_the_fee_cap_that_was_set(
    tmp_path: Path, anvil: AnvilNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = open_parts(settings(tmp_path, anvil, monkeypatch, FEE_CAP_GWEI="1", FINALITY_DEPTH="1"))
    try:
        anvil.ask("anvil_setNextBlockBaseFeePerGas", hex(3 * 10**9))
        anvil.ask("anvil_mine", "0x1")
        sequencer = Sequencer(parts.db, parts.keyfiles.checkpoint, parts.settings.origin)
        sender = parts.sender()
        with parts.db.transaction() as tx:
            from ledger.chain_book import enqueue_funding

            enqueue_funding(tx, address=parts.deployment.pauser, value=1, reference="cap", now_ms=1)
        sender.step(now_ms())
        sequencer.step(now_s())

        with parts.db.reading() as tx:
            assert [alarm.code for alarm in open_alarms(tx)] == ["fee_cap"]
            assert tx.execute(sa.select(sa.func.count()).select_from(chain_tx_attempt)).scalar_one() == 0
    finally:
        parts.close()


@pytest.mark.unit
def test_settings_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FINALITY_DEPTH", "-1"), ("FINALITY_DEPTH", "many"), ("FEE_CAP_GWEI", "0")):
        monkeypatch.setenv(f"TRACEBOND_{name}", value)
        with pytest.raises(Rejected, match=f"TRACEBOND_{name}"):
            load_settings()
        monkeypatch.delenv(f"TRACEBOND_{name}")
