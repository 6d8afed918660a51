"""The table of capture jobs."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from ledger.tables import metadata

_ID = BigInteger().with_variant(Integer(), "sqlite")

# `body` is what was sent; it goes when the job is done, its SHA-256 stays. `state` is waiting or done. `result` is the
# deflated JSON of the job's own members. `idempotency_key` belongs to the partner.
CAPTURE_JOB: Final = Table(
    "capture_job",
    metadata,
    Column("number", _ID, primary_key=True, autoincrement=True),
    Column("id", String(30), nullable=False, unique=True),
    Column("partner_id", ForeignKey("partner.id"), nullable=False),
    Column("org", String(200), nullable=False),
    Column("client", String(200), nullable=False),
    Column("media", String(20), nullable=False),
    Column("behaviour", String(10), nullable=False),
    Column("state", String(10), nullable=False),
    Column("is_success", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("finished_ms", BigInteger),
    Column("body_hash", LargeBinary(32), nullable=False),
    Column("body_bytes", Integer, nullable=False),
    Column("body", LargeBinary),
    Column("result", LargeBinary),
    Column("idempotency_key", String(200)),
    Index("capture_job_by_partner", "partner_id", "number"),
    Index("capture_job_by_state", "state", "number"),
    Index("capture_job_by_key", "partner_id", "idempotency_key", unique=True),
)
TABLES: Final = (CAPTURE_JOB,)
