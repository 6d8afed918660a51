"""The audit's memory: where the last run without findings stopped, and how that is held against what is stored now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.errors import Broken, Rejected
from core.merkle import Frontier, leaf_hash, verify_inclusion
from core.notes import Checkpoint, Verifier, open_note, read_checkpoint
from core.records import StateLeaf, read_state_leaf
from ledger import tiles
from ledger.audit_tables import audit_points
from ledger.database import Tx
from ledger.tables import MESSAGE, RECORD, STATE, checkpoints, disclosures, entries, messages, records

KEEP = 1_000


@dataclass(frozen=True)
class Point:
    """How far an audit without findings came, and the roots that it computed itself.

    Attributes:
        arrival: the highest arrival among the entries. kind: ``full`` or ``incremental``.
    """

    size: int
    root: bytes
    map_root: bytes
    frontier: Frontier
    arrival: int
    kind: str
    audited_s: int


def newest(tx: Tx) -> Point | None:
    """The point to go on from, None before the first audit without findings."""
    row = tx.execute(sa.select(audit_points).order_by(audit_points.c.number.desc()).limit(1)).first()
    return None if row is None else _point(row)


def last_full(tx: Tx) -> Point | None:
    """The newest point that a full audit reached."""
    query = sa.select(audit_points).where(audit_points.c.kind == "full")
    row = tx.execute(query.order_by(audit_points.c.number.desc()).limit(1)).first()
    return None if row is None else _point(row)


def remember(tx: Tx, point: Point) -> None:
    """Keep a point; the newest 1,000 stay."""
    row = {"size": point.size, "root": point.root, "map_root": point.map_root, "kind": point.kind}
    row |= {"frontier": b"".join(point.frontier.nodes), "arrival": point.arrival, "audited_s": point.audited_s}
    number = tx.execute(audit_points.insert().values(row).returning(audit_points.c.number)).scalar_one()
    tx.execute(audit_points.delete().where(audit_points.c.number <= number - KEEP, audit_points.c.kind != "full"))


def problems(tx: Tx, point: Point, verifier: Verifier, origin: str) -> list[tuple[str, str]]:
    """Why the point cannot be gone on from: it, the checkpoint and the tiles must give one root."""
    if point.frontier.root() != point.root:
        return [("memory_differs", "The audit's own memory of its last run was changed; this run checks everything.")]
    row = tx.execute(sa.select(checkpoints).where(checkpoints.c.size == point.size)).first()
    if row is None:
        return [("checkpoint_missing", f"The checkpoint of {point.size}, audited before, is gone.")]
    try:
        text, _ = open_note(row.note, [verifier])
        is_signed = read_checkpoint(text) == Checkpoint(origin, point.size, point.root)
    except Rejected:
        is_signed = False
    if not is_signed or bytes(row.root) != point.root:
        return [("checkpoint_differs", f"The checkpoint of {point.size} is not the one audited before.")]
    try:
        proof = tiles.inclusion_proof(tx, point.size - 1, point.size)
        verify_inclusion(point.size - 1, point.size, leaf_hash(bytes(row.state)), proof, point.root)
        read_state_leaf(bytes(row.state))
        is_same = tiles.root(tx, point.size) == point.root
    except (Broken, Rejected):
        is_same = False
    if not is_same:
        return [
            ("tile_differs", f"Tiles and state leaf do not give the root of {point.size} any more, audited before.")
        ]
    return []


def state_at(tx: Tx, point: Point) -> StateLeaf:
    """The state leaf that ends the checkpoint of the point, which :func:`problems` has found whole."""
    query = sa.select(checkpoints.c.state).where(checkpoints.c.size == point.size)
    return read_state_leaf(bytes(tx.execute(query).scalar_one()))


def counted(tx: Tx, point: Point) -> Iterator[tuple[str, str]]:
    """Rows below the point that are gone: each leaf has its entry, each entry its bytes."""
    below = entries.c.leaf < point.size
    total = tx.execute(sa.select(sa.func.count()).select_from(entries).where(below)).scalar_one()
    if total != point.size:
        yield "entry_missing", f"{point.size - total} entries audited before are gone."
    for kind, table, name in ((MESSAGE, messages, "messages"), (RECORD, records, "records")):
        wanted = sa.select(sa.func.count()).select_from(entries).where(below, entries.c.kind == kind)
        joined = entries.join(table, table.c.arrival == entries.c.arrival)
        query = sa.select(sa.func.count()).select_from(joined).where(below, entries.c.kind == kind)
        missing = tx.execute(wanted).scalar_one() - tx.execute(query).scalar_one()
        if missing:
            yield "entry_missing", f"{missing} {name} audited before are gone."
    joined = entries.join(disclosures, disclosures.c.arrival == entries.c.arrival)
    query = sa.select(sa.func.count()).select_from(joined).where(below, entries.c.kind == MESSAGE)
    wanted = sa.select(sa.func.count()).select_from(entries).where(below, entries.c.kind == MESSAGE)
    missing = tx.execute(wanted).scalar_one() - tx.execute(query).scalar_one()
    if missing:
        yield "disclosure_missing", f"The disclosures of {missing} messages audited before are gone."
    wanted = sa.select(sa.func.count()).select_from(entries).where(below, entries.c.kind == STATE)
    query = sa.select(sa.func.count()).select_from(checkpoints).where(checkpoints.c.size <= point.size)
    missing = tx.execute(wanted).scalar_one() - tx.execute(query).scalar_one()
    if missing:
        yield "checkpoint_missing", f"{missing} checkpoints audited before are gone."


def sampled(tx: Tx, point: Point, leaves: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Entries below the point whose bytes, with the tiles, do not lead to the root computed then."""
    for leaf in leaves:
        try:
            data = tiles.entry(tx, leaf).data
            proof = tiles.inclusion_proof(tx, leaf, point.size)
            verify_inclusion(leaf, point.size, leaf_hash(data), proof, point.root)
        except Broken as error:
            yield leaf, error.code, error.message
        except Rejected:
            yield leaf, "bytes_differ", f"What is stored at leaf {leaf} is not what was audited before."


def _point(row: Any) -> Point:
    blob = bytes(row.frontier)
    nodes = [blob[at : at + 32] for at in range(0, len(blob), 32)]
    frontier = Frontier(row.size, nodes)
    return Point(
        size=row.size,
        root=bytes(row.root),
        map_root=bytes(row.map_root),
        frontier=frontier,
        arrival=row.arrival,
        kind=row.kind,
        audited_s=row.audited_s,
    )
