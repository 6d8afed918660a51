"""What the attack tests share: a told operator on a real chain, its mirror, and everyone who may notice something."""

import json
import random
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from contracts import rpc
from contracts.clients import OrganisationRegistryClient, TransparencyLogClient
from core.canonical import canonical_bytes, sha256
from core.crypto import P256Private
from core.proofs import Policy, Report, questions, verify
from core.receipts import promise, sign_receipts
from core.records import common, key_members
from ledger.audit import Chain, Finding, audit
from ledger.chain_book import enqueue
from ledger.database import Tx
from ledger.log import Sequencer
from ledger.proofs import build_bundle
from ledger.receipt_audit import Verdict, judge, load
from ledger.receipt_source import DatabaseSource
from ledger.tables import STATE, entries, metadata, waiting
from tests.chain_fixtures import CHECKPOINT_KEY
from tests.ledger.test_log import without_triggers
from tests.ledger.test_mirror import Case
from tests.ledger.world import AUD, LOG, OPERATOR
from tests.mirror_rig import Operator
from tracebond.audit import organisations
from tracebond.receipts_chain import ChainContract

RECEIPT_KEY = P256Private.from_secret(b"receipts")
DERIVED = ("tiles", "checkpoints", "map_deltas", "map_chunks", "keys", "orgs", "masters", "entries")


@dataclass(frozen=True)
class Row:
    """One line of the table: what was tried, who noticed, how soon."""

    attack: str
    by: str
    when: str


class Table:
    """Collects what the tests saw."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def note(self, attack: str, by: str, when: str) -> None:
        self.rows.append(Row(attack, by, when))

    def text(self) -> str:
        cells = [("attack", "detected by", "how fast"), *((r.attack, r.by, r.when) for r in self.rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(3)]
        lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([lines[0], "-+-".join("-" * width for width in widths), *lines[1:]])


class Attacked:
    """The scene of one attack."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.operator: Operator = case.operator
        self.log = TransparencyLogClient(self.operator.chain, self.operator.deployment.log_contract)
        self.log_id = self.operator.deployment.log_id

    def restarted(self) -> "Attacked":
        """The scene after the operator's process was started again on its folder."""
        case, folder = self.case, self.operator.folder
        case._open.close()
        case._open, case._url = ExitStack(), ""
        case.operator = Operator(folder)
        return Attacked(case)

    def audit(self, *, is_full: bool = True) -> list[Finding]:
        head = self.log.log_at(self.log_id)
        registry = OrganisationRegistryClient(self.operator.chain, self.operator.deployment.organisations)
        chain = Chain(lambda size: self.log.root_at(self.log_id, size), head.size, organisations(registry))
        found = audit(
            self.operator.database,
            origin=LOG,
            checkpoint_key=CHECKPOINT_KEY.public,
            chain=chain,
            is_full=is_full,
            chance=random.Random(1),
        )
        return [one for one in found if isinstance(one, Finding)]

    def bundle(self, item: str) -> dict[str, Any]:
        maps = self.operator.bundle_maps()
        with self.operator.database.reading() as tx:
            found: dict[str, Any] = json.loads(build_bundle(tx, maps, self.operator.place, item, reader="regulator"))
        return found

    def verified(self, bundle: dict[str, Any]) -> Report:
        data = canonical_bytes(bundle)
        with self.operator.serving() as url:
            answers = rpc.ask(f"{url}/rpc", questions(data))
        return verify(data, answers, Policy(self.operator.deployment.log_contract))

    def receipts_start(self) -> None:
        members = key_members(RECEIPT_KEY.jwk(), iss=OPERATOR, use="receipt", scope={})
        head = common(t="key", aud=AUD, log=LOG, org=OPERATOR, iat=self.operator.now)
        self.operator.record(head | members, signer=OPERATOR)

    def receipt(self, message: Any) -> bytes:
        payload = promise(
            aud=AUD,
            log=LOG,
            message=message.id,
            leaf=message.signed.leaf_hash,
            publish=sha256(b""),
            accepted_at=self.operator.now,
        )
        return sign_receipts([payload], RECEIPT_KEY, aud=AUD, log=LOG)[0]

    def judged(self, raw: bytes) -> Verdict:
        source = DatabaseSource(self.operator.database)
        registry = OrganisationRegistryClient(self.operator.chain, self.operator.deployment.organisations)
        log = load(source, ChainContract(self.log, registry), origin=LOG)
        return judge(log, source, "receipt", raw, now_s=self.operator.now)

    def admin(self, call: bytes, reference: str) -> None:
        """Send a chain_tx of the admin and wait until it is settled."""
        with self.operator.database.transaction() as tx:
            enqueue(
                tx, account="admin", to=self.log.address, data=call, purpose="attack", reference=reference,
                now_ms=self.operator.now * 1000,
            )  # fmt: skip
        self.operator._drain()

    def publisher(self, call: bytes) -> None:
        """What a thief of the publisher's key sends."""
        chain, signer = self.operator.chain, self.operator.signer
        address = signer.address("publisher")
        fees = chain.fees()
        raw = signer.sign_tx(
            "publisher",
            {
                "to": self.log.address,
                "data": call,
                "nonce": chain.nonce(address),
                "gas": 300_000,
                "value": 0,
                "chainId": chain.chain_id,
                "maxFeePerGas": 2 * fees.base + fees.priority,
                "maxPriorityFeePerGas": fees.priority,
            },
        )
        chain.send_raw(raw)


def unprotected(operator: Operator, tables: Any = None) -> None:
    """What a superuser of the database can do: take every trigger away."""
    for name in tables or metadata.tables:
        without_triggers(operator.database, name)


def log_again(operator: Operator) -> None:
    """The insider's best: every Merkle table, map, checkpoint and note made anew from the stored entries."""
    unprotected(operator)
    with operator.database.transaction() as tx:
        plan = _plan(tx)
        for name in DERIVED:
            tx.execute(metadata.tables[name].delete())
        tx.execute(waiting.delete())
    sequencer = Sequencer(operator.database, CHECKPOINT_KEY, LOG, block=operator._block)
    for time_s, arrivals in plan:
        with operator.database.transaction() as tx:
            tx.execute(waiting.insert(), [{"arrival": arrival, "kind": kind} for arrival, kind in arrivals])
        sequencer.step(time_s)


def _plan(tx: Tx) -> list[tuple[int, list[tuple[int, int]]]]:
    """Per checkpoint its time and the arrivals in it."""
    checkpoints = metadata.tables["checkpoints"]
    times = dict(tx.execute(sa.select(checkpoints.c.size, checkpoints.c.time_s)).all())
    plan, part = [], []
    for row in tx.execute(sa.select(entries).order_by(entries.c.leaf)):
        if row.kind == STATE:
            plan.append((times[row.leaf + 1], part))
            part = []
        else:
            part.append((row.arrival, row.kind))
    return plan


def without(bundle: dict[str, Any], leaf: int) -> dict[str, Any]:
    """The bundle as an operator would give it who withholds an entry: neither its steps nor its bytes."""
    histories = [one | {"steps": [step for step in one["steps"] if step[0] != leaf]} for one in bundle["histories"]]
    return bundle | {"histories": histories, "entries": [one for one in bundle["entries"] if one["index"] != leaf]}
