"""The way of one message, under one id: received, stored, sequenced, checkpoint, anchor, chain_tx, final."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from core.canonical import b64u, unb64u
from core.errors import Rejected
from ingest.tables import quarantine, refusals
from ledger.anchor import Anchor
from ledger.chain_book import state_of
from ledger.chain_tx import StepReport
from ledger.chain_tx_tables import anchors, chain_tx_attempt, deployments
from ledger.database import Database, Tx
from ledger.log import Checkpoint
from ledger.tables import MESSAGE, checkpoints, entries, keys, messages

# Our choice: a line stays one that a collector takes; the rest follows in further lines.
IDS_A_LINE = 500
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Stop:
    """One stage a message came to. ``at_ms`` is None where the stage has no time of its own."""

    stage: str
    at_ms: int | None
    facts: dict[str, Any]


def way_of(tx: Tx, message_id: str) -> list[Stop]:
    """The stages a message came to so far, in order; empty for one that never came.

    Args:
        message_id: base64url, as receipts and log lines name it.

    Raises:
        Rejected: ``bad_message_id``.
    """
    try:
        ident = unb64u(message_id, length=32)
    except Rejected as error:
        raise Rejected("A message id is 43 characters of base64url.", code="bad_message_id") from error
    stops = _quarantined(tx, ident)
    query = sa.select(messages.c.arrival, messages.c.received_ms, messages.c.seq, messages.c.event_count, keys.c.kid)
    query = query.add_columns(keys.c.org, keys.c.iss).join(keys, keys.c.key_no == messages.c.key_no)
    row = tx.execute(query.where(messages.c.id == ident)).one_or_none()
    if row is None:
        return stops
    facts = {"device": row.iss, "org": row.org, "kid": row.kid, "seq": row.seq, "events": row.event_count}
    stops.append(Stop("stored", row.received_ms, facts))
    leaf = tx.execute(sa.select(entries.c.leaf).where(entries.c.arrival == row.arrival)).scalar_one_or_none()
    if leaf is None:
        return stops
    over = sa.select(checkpoints.c.size, checkpoints.c.time_s).where(checkpoints.c.size > leaf)
    signed = tx.execute(over.order_by(checkpoints.c.size).limit(1)).one()
    stops.append(Stop("sequenced", signed.time_s * 1000, {"leaf": leaf, "checkpoint": signed.size}))
    return stops + _on_chain(tx, leaf)


def tell_checkpoint(db: Database, made: Checkpoint, *, names_messages: bool) -> None:
    """A log line for a new checkpoint, with the ids of the messages it is the first to hold."""
    if not names_messages:
        _log.info("checkpoint_signed", checkpoint=made.size, keys=made.keys)
        return
    with db.reading() as tx:
        previous = sa.select(sa.func.max(checkpoints.c.size)).where(checkpoints.c.size < made.size)
        found = _ids_between(tx, int(tx.execute(previous).scalar_one() or 0), made.size)
    for part in _parts(found):
        leaves, ids = [leaf for leaf, _ in part], [ident for _, ident in part]
        _log.info("checkpoint_signed", checkpoint=made.size, keys=made.keys, leaves=leaves, messages=ids)


def tell_anchor(db: Database, anchor: Anchor, *, names_messages: bool) -> None:
    """A log line for an anchor that was fixed: which sizes it covers, and the chain_tx that carries it."""
    facts = {"anchor": anchor.size, "previous": anchor.prev_size, "chain_tx": anchor.chain_tx}
    if not names_messages:
        _log.info("anchor_fixed", **facts)
        return
    with db.reading() as tx:
        found = _ids_between(tx, anchor.prev_size, anchor.size)
    for part in _parts(found):
        _log.info("anchor_fixed", **facts, messages=[ident for _, ident in part])


def tell_chain_txs(db: Database, report: StepReport, *, names_messages: bool) -> None:
    """A log line for each chain_tx that changed, with its transaction hash, and the anchor it carries.

    When it is final, the lines of an anchor's chain_tx name the messages under it.
    """
    if report.is_idle:
        return
    with db.reading() as tx:
        for state in ("sent", "replaced", "mined", "final", "reverted", "back", "lost"):
            for ident in getattr(report, state):
                found = state_of(tx, ident)
                sizes = sa.select(anchors.c.prev_size, anchors.c.size).where(anchors.c.chain_tx == ident)
                covered = tx.execute(sizes).one_or_none()
                facts = {"state": state, "chain_tx": ident, "purpose": found.purpose, "tx_hash": found.tx_hash}
                facts |= {"block": found.block_number, "anchor": None if covered is None else covered.size}
                tell = _log.warning if state in ("reverted", "back", "lost") else _log.info
                if covered is None or state != "final" or not names_messages:
                    tell("chain_tx", **facts)
                    continue
                for part in _parts(_ids_between(tx, covered.prev_size, covered.size)):
                    tell("chain_tx", **facts, messages=[one for _, one in part])


def _ids_between(tx: Tx, start: int, end: int) -> list[tuple[int, str]]:
    """Leaf index and id of the messages from ``start`` on and before ``end``."""
    query = sa.select(entries.c.leaf, messages.c.id).join(messages, messages.c.arrival == entries.c.arrival)
    query = query.where(entries.c.leaf >= start, entries.c.leaf < end, entries.c.kind == MESSAGE)
    return [(int(row.leaf), b64u(bytes(row.id))) for row in tx.execute(query.order_by(entries.c.leaf))]


def _quarantined(tx: Tx, ident: bytes) -> list[Stop]:
    stops = []
    query = sa.select(quarantine.c.first_ms, quarantine.c.state, quarantine.c.code, quarantine.c.id)
    for row in tx.execute(query.where(quarantine.c.message_id == ident).order_by(quarantine.c.id)):
        stops.append(Stop("quarantined", row.first_ms, {"row": row.id, "state": row.state, "code": row.code}))
    refused = tx.execute(sa.select(refusals).where(refusals.c.message_id == ident)).one_or_none()
    if refused is not None:
        facts = {"kid": refused.kid, "seq": refused.seq, "code": refused.code}
        stops.append(Stop("refused", refused.refused_ms, facts))
    return stops


def _on_chain(tx: Tx, leaf: int) -> list[Stop]:
    query = sa.select(anchors).join(deployments, deployments.c.id == anchors.c.deployment)
    query = query.where(deployments.c.is_current, anchors.c.state != "failed", anchors.c.size > leaf)
    anchor = tx.execute(query.order_by(anchors.c.size).limit(1)).one_or_none()
    if anchor is None:
        return []
    facts = {"anchor": anchor.size, "chain_tx": anchor.chain_tx}
    stops = [Stop("anchored", anchor.created_ms, facts)]
    if anchor.chain_tx is None:
        return stops
    carried = state_of(tx, anchor.chain_tx)
    tries = sa.select(chain_tx_attempt.c.tx_hash, chain_tx_attempt.c.sent_ms)
    for row in tx.execute(tries.where(chain_tx_attempt.c.chain_tx == carried.id).order_by(chain_tx_attempt.c.number)):
        if row.sent_ms is not None:
            stops.append(Stop("sent", row.sent_ms, {"tx_hash": row.tx_hash}))
    if carried.block_number is not None:
        stops.append(Stop("mined", None, {"tx_hash": carried.tx_hash, "block": carried.block_number}))
    if anchor.state == "final":
        stops.append(Stop("final", anchor.final_ms, {"block_hash": carried.block_hash}))
    return stops


def _parts(found: Sequence[tuple[int, str]]) -> list[Sequence[tuple[int, str]]]:
    return [found[start : start + IDS_A_LINE] for start in range(0, max(1, len(found)), IDS_A_LINE)]
