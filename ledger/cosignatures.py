"""What registered mirrors confirm or refuse, kept by the operator: cosignatures by size, and reports of refusals."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text

from core.errors import Conflict, Rejected
from core.notes import Verifier, open_note, read_checkpoint, split_note
from ledger.database import Tx
from ledger.keys import keys_of
from ledger.mirror_auth import MirrorKey, NotAMirror, mirror_of
from ledger.tables import checkpoints, metadata

# A mirror's clock may run ahead of ours by this much.
AHEAD_S_MAX = 300
REPORTS_MAX = 1_000
_TEXTS = {"kind": 20, "entry_id": 100, "code": 60, "message": 2_000}

_BIG = BigInteger().with_variant(Integer(), "sqlite")

cosignatures: Final = Table(
    "cosignatures",
    metadata,
    Column("size", _BIG, primary_key=True, autoincrement=False),
    Column("kid", Text, primary_key=True),
    Column("line", Text, nullable=False),
    Column("time_s", _BIG, nullable=False),
    Column("received_ms", _BIG, nullable=False),
    Index("cosignatures_kid", "kid", "size"),
)
reports: Final = Table(
    "mirror_reports",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("kid", Text, nullable=False, index=True),
    Column("received_ms", _BIG, nullable=False),
    Column("size", _BIG, nullable=False),
    Column("leaf", _BIG),
    Column("kind", Text, nullable=False),
    Column("entry_id", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
)
TABLES: Final = (cosignatures, reports)


@dataclass(frozen=True)
class Report:
    """A difference that a mirror says it found: the entry, the rule's code, a sentence."""

    size: int
    leaf: int | None
    kind: str
    entry_id: str
    code: str
    message: str
    received_ms: int = 0


@dataclass(frozen=True)
class Standing:
    """A registered mirror and what it last said.

    Attributes:
        size: the largest size it cosigned, 0 before the first. lag: leaves of the log beyond it.
        refusal: its report, when that came after its last cosignature.
    """

    kid: str
    org: str
    org_name: str
    name: str
    verifier: str
    size: int
    time_s: int
    lag: int
    refusal: Report | None


def mirrors(tx: Tx) -> list[MirrorKey]:
    """The registered mirrors whose keys count now, in order of registration; of two with one name, the first."""
    found: dict[str, MirrorKey] = {}
    for info in keys_of(tx, use="mirror"):
        try:
            mirror = mirror_of(tx, info)
        except NotAMirror:
            continue
        found.setdefault(mirror.verifier.name, mirror)
    return list(found.values())


def take(tx: Tx, mirror: MirrorKey, note: str, *, now_ms: int) -> int:
    """Store a mirror's cosignature of one of our checkpoints; gives the size. Sending it again changes nothing.

    Args:
        note: the checkpoint's text and at least the mirror's signature line.

    Raises:
        Rejected: ``bad_note``, ``bad_checkpoint``, ``bad_signature``, ``unsigned_note`` or ``bad_time``.
        Conflict: ``other_checkpoint``: we have not signed this checkpoint.
    """
    text, signers = open_note(note, [mirror.verifier])
    time_s = signers[mirror.verifier.name]
    head = read_checkpoint(text)
    query = sa.select(checkpoints.c.root, checkpoints.c.note).where(checkpoints.c.size == head.size)
    row = tx.execute(query).first()
    if row is None or bytes(row.root) != head.root or split_note(row.note)[0] != text:
        raise Conflict(f"Our checkpoint of {head.size} leaves is another one.", code="other_checkpoint")
    if not 0 < time_s <= now_ms // 1000 + AHEAD_S_MAX:
        raise Rejected("The cosignature's time lies in the future: set the mirror's clock.", code="bad_time")
    place = (cosignatures.c.size == head.size) & (cosignatures.c.kid == mirror.kid)
    if tx.execute(sa.select(cosignatures.c.size).where(place)).first() is None:
        line = next(_line(name, raw) for name, raw in split_note(note)[1] if _is_by(name, raw, mirror.verifier))
        row_of = {"size": head.size, "kid": mirror.kid, "line": line, "time_s": time_s, "received_ms": now_ms}
        tx.execute(cosignatures.insert().values(row_of))
    return head.size


def report(tx: Tx, mirror: MirrorKey, said: Any, *, now_ms: int) -> None:
    """Store a mirror's report of a difference; the newest thousand of each mirror are kept.

    Raises:
        Rejected: ``bad_report``.
    """
    if not isinstance(said, dict) or set(said) != {"size", "leaf", *_TEXTS}:
        raise Rejected("A report is size, leaf, kind, entry_id, code and message.", code="bad_report")
    for name, longest in _TEXTS.items():
        if not isinstance(said[name], str) or len(said[name]) > longest:
            raise Rejected(f"{name} is a text of at most {longest}.", code="bad_report", pointer=f"/{name}")
    for name in ("size", "leaf"):
        if not (type(said[name]) is int and said[name] >= 0) and (name, said[name]) != ("leaf", None):
            raise Rejected(f"{name} counts from 0.", code="bad_report", pointer=f"/{name}")
    tx.execute(reports.insert().values(kid=mirror.kid, received_ms=now_ms, **said))
    kept = sa.select(reports.c.number).where(reports.c.kid == mirror.kid).order_by(reports.c.number.desc())
    oldest = tx.execute(kept.offset(REPORTS_MAX).limit(1)).scalar_one_or_none()
    if oldest is not None:
        tx.execute(reports.delete().where(reports.c.kid == mirror.kid, reports.c.number <= oldest))


def cosigned_note(tx: Tx, size: int) -> tuple[str, tuple[str, ...]] | None:
    """The checkpoint of ``size`` with its cosignatures, and the verifier keys of their mirrors, both ascending.

    None when no checkpoint has this size.
    """
    note = tx.execute(sa.select(checkpoints.c.note).where(checkpoints.c.size == size)).scalar_one_or_none()
    if note is None:
        return None
    lines = dict(
        tx.execute(sa.select(cosignatures.c.kid, cosignatures.c.line).where(cosignatures.c.size == size)).all()
    )
    signed = [mirror for mirror in mirrors(tx) if mirror.kid in lines] if lines else []
    signed.sort(key=lambda mirror: mirror.verifier.encode())
    return note + "".join(lines[one.kid] for one in signed), tuple(one.verifier.encode() for one in signed)


def newest_note(tx: Tx) -> str | None:
    """The newest checkpoint with the cosignatures it has, None on an empty log."""
    size = tx.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one_or_none()
    found = None if size is None else cosigned_note(tx, size)
    return None if found is None else found[0]


def is_awaited(tx: Tx, size: int) -> bool:
    """Whether a mirror that agrees with the log so far has not cosigned this size yet, and nobody else has."""
    following = [one for one in standings(tx) if one.size and one.refusal is None]
    signed = sa.select(cosignatures.c.kid).where(cosignatures.c.size == size)
    return bool(following) and tx.execute(signed.limit(1)).first() is None


def standings(tx: Tx) -> list[Standing]:
    """What each registered mirror last confirmed or refused."""
    log_size = tx.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one_or_none() or 0
    return [_standing(tx, mirror, log_size) for mirror in mirrors(tx)]


def _standing(tx: Tx, mirror: MirrorKey, log_size: int) -> Standing:
    newest = sa.select(cosignatures).where(cosignatures.c.kid == mirror.kid).order_by(cosignatures.c.size.desc())
    last = tx.execute(newest.limit(1)).first()
    query = sa.select(reports).where(reports.c.kid == mirror.kid).order_by(reports.c.number.desc()).limit(1)
    said = tx.execute(query).first()
    is_open = said is not None and (last is None or said.received_ms > last.received_ms)
    refusal = None
    if said is not None and is_open:
        refusal = Report(said.size, said.leaf, said.kind, said.entry_id, said.code, said.message, said.received_ms)
    size = last.size if last is not None else 0
    return Standing(
        kid=mirror.kid,
        org=mirror.org,
        org_name=mirror.name,
        name=mirror.verifier.name,
        verifier=mirror.verifier.encode(),
        size=size,
        time_s=last.time_s if last is not None else 0,
        lag=log_size - size,
        refusal=refusal,
    )


def _is_by(name: str, raw: bytes, verifier: Verifier) -> bool:
    return name == verifier.name and raw[:4] == verifier.key_hash


def _line(name: str, raw: bytes) -> str:
    return f"\u2014 {name} {base64.b64encode(raw).decode()}\n"


def pinned(tx: Tx) -> Sequence[str]:
    """The verifier keys of all registered mirrors, for whoever decides which of them to pin."""
    return [mirror.verifier.encode() for mirror in mirrors(tx)]
