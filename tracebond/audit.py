"""``tracebond audit``: everything recomputed from stored bytes and compared with the chain."""

from collections.abc import Callable

from contracts.clients import TransparencyLogClient
from ledger.anchor import anchors_between
from ledger.audit import Finding, audit
from tracebond.parts import open_parts
from tracebond.settings import Settings

ANCHORS_MAX = 1_000_000


def run_audit(settings: Settings, *, is_full: bool, say: Callable[[str], None]) -> int:
    """Audit and name each record that differs; 0 when everything agrees, else 1.

    Every run checks everything; ``is_full`` stands for that already.
    """
    parts = open_parts(settings)
    try:
        client = TransparencyLogClient(parts.chain, parts.deployment.log_contract)
        log_id = parts.deployment.log_id
        with parts.db.reading() as tx:
            found = anchors_between(tx, limit=ANCHORS_MAX)
        sizes = [anchor.size for anchor in found if anchor.state == "final"]
        tip = client.log_at(log_id).size
        count = 0
        for result in audit(
            parts.db,
            origin=settings.origin,
            checkpoint_key=parts.keyfiles.checkpoint.public,
            anchored=sizes,
            root_at=lambda size: client.root_at(log_id, size),
            tip=tip,
        ):
            if isinstance(result, Finding):
                count += 1
                say(f"DIFFERS  {describe(result)}")
            else:
                say(f"checked  {result.leaves} of {result.size} leaves")
        say(f"{count} differences" if count else f"all agrees with the chain; {len(sizes)} anchors compared")
        return 1 if count else 0
    finally:
        parts.close()


def describe(finding: Finding) -> str:
    """One line that names the record, since when, and what is wrong with it."""
    parts = [finding.code, finding.message]
    if finding.leaf is not None:
        parts.append(f"leaf {finding.leaf}")
    if finding.message_id is not None:
        parts.append(f"message {finding.message_id}")
    for name, value in (("org", finding.org), ("device", finding.device), ("seq", finding.seq)):
        if value is not None:
            parts.append(f"{name} {value}")
    if finding.since_size is not None:
        parts.append(f"since the checkpoint of size {finding.since_size}")
    return "; ".join(parts)
