"""``tracebond audit``: everything recomputed from stored bytes and compared with the chain."""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import sqlalchemy as sa

from contracts.clients import OrganisationRegistryClient, TransparencyLogClient
from core.prefixmap import map_key
from core.receipts import PROMISE_S
from ingest.tables import promises
from ledger.anchor import Anchor, anchors_between
from ledger.audit import Chain, Finding, Progress, audit
from ledger.audit_findings import OnChain
from ledger.audit_memory import last_full
from ledger.chain_logs import holder, log_lines
from ledger.database import Tx
from tracebond.parts import Parts, open_parts
from tracebond.settings import Settings

ANCHORS_MAX = 1_000_000


def run_audit(settings: Settings, *, is_full: bool, say: Callable[[str], None]) -> int:
    """Audit and name each record that differs; 0 when everything agrees, else 1.

    Args:
        is_full: check every leaf; otherwise go on behind the last run that found nothing.
    """
    parts = open_parts(settings)
    try:
        return _run(parts, is_full=is_full, say=say)
    finally:
        parts.close()


def _run(parts: Parts, *, is_full: bool, say: Callable[[str], None]) -> int:
    with parts.db.reading() as tx:
        anchors = [one for one in anchors_between(tx, limit=ANCHORS_MAX) if one.state == "final"]
        terms = _terms(tx)
    started = time.monotonic()
    count, last = 0, Progress(0, 0, 0)
    for result in _audit(parts, anchors, terms, is_full=is_full):
        if isinstance(result, Finding):
            count += 1
            say(f"DIFFERS  {describe(result, anchors)}")
        else:
            last = result
            say(progress(result, time.monotonic() - started))
    with parts.db.reading() as tx:
        full = last_full(tx)
    if last.start:
        say(f"leaves before {last.start} were counted and sampled; {_full_text(full.audited_s if full else None)}")
    say(f"{count} differences" if count else f"all agrees with the chain; {len(anchors)} anchors compared")
    return 1 if count else 0


def _audit(
    parts: Parts, anchors: list[Anchor], terms: Callable[[int], int], *, is_full: bool
) -> Iterator[Finding | Progress]:
    client = TransparencyLogClient(parts.chain, parts.deployment.log_contract)
    with parts.db.reading() as tx:
        # After a succession the anchors below its start stand in the frozen log.
        lines = log_lines(tx)
    chain = Chain(
        root_at=lambda size: client.root_at(holder(lines, size), size),
        tip=client.log_at(parts.deployment.log_id).size,
        organisation_at=organisations(OrganisationRegistryClient(parts.chain, parts.deployment.organisations)),
    )
    return audit(
        parts.db,
        origin=parts.settings.origin,
        checkpoint_key=parts.keyfiles.checkpoint.public,
        anchored=[one.size for one in anchors],
        chain=chain,
        promise_s=terms,
        is_full=is_full,
        # An insider must not know beforehand which rows are looked at.
        chance=random.Random(secrets.randbits(256)),
        now_s=int(time.time()),
    )


def organisations(registry: OrganisationRegistryClient) -> Callable[[str, int], OnChain | None]:
    """Asks the registry what a version of an organisation says."""

    def ask(org: str, version: int) -> OnChain | None:
        key = map_key("org", org)
        if registry.version_count(key) <= version:
            return None
        found = registry.organisation_at(key, version)
        return found.record_key, found.account, int(found.roles), found.block_number

    return ask


def progress(one: Progress, elapsed_s: float) -> str:
    """One line: how far, how fast, how long to go."""
    done, todo = one.leaves - one.start, one.size - one.leaves
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    rest = f", about {todo / rate:.0f} s to go" if rate and todo else ""
    share = 100 * one.leaves // one.size if one.size else 100
    return (
        f"checked  {one.leaves} of {one.size} leaves, {share} %, {rate:.0f} a second{rest}, {one.findings} differences"
    )


def describe(finding: Finding, anchors: list[Anchor] | None = None) -> str:
    """One line that names the record, since when it is fixed, and what is wrong with it."""
    parts = [finding.code, finding.message]
    if finding.leaf is not None:
        parts.append(f"leaf {finding.leaf}")
    if finding.message_id is not None:
        parts.append(f"message {finding.message_id}")
    for name, value in (("org", finding.org), ("device", finding.device), ("seq", finding.seq)):
        if value is not None:
            parts.append(f"{name} {value}")
    if finding.since_size is not None and finding.since_time_s is not None:
        parts.append(f"fixed since the checkpoint of size {finding.since_size} of {_utc(finding.since_time_s)}")
    anchor = next((one for one in anchors or [] if finding.leaf is not None and one.size > finding.leaf), None)
    if anchor is not None:
        parts.append(f"and the anchor of size {anchor.size} in block {anchor.block_number}")
    return "; ".join(parts)


def _terms(tx: Tx) -> Callable[[int], int]:
    """What receipts promised when, as ingest noted it."""
    query = sa.select(promises.c.from_s, promises.c.promise_s).order_by(promises.c.from_s.desc())
    rows = [(row[0], row[1]) for row in tx.execute(query)]
    return lambda accepted_s: next((promised for from_s, promised in rows if from_s <= accepted_s), PROMISE_S)


def _full_text(audited_s: int | None) -> str:
    return "no full audit yet: run it with --full" if audited_s is None else f"last full audit {_utc(audited_s)}"


def _utc(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["describe", "organisations", "progress", "run_audit"]
