"""Capture jobs, captured events, and the chains of gateway keys."""

from alembic import op

from api.epcis.job_tables import TABLES as JOB_TABLES
from ingest.gateway_tables import TABLES as GATEWAY_TABLES

revision = "epcis_0002"
down_revision = "epcis_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of this revision."""
    for table in (*GATEWAY_TABLES, *JOB_TABLES):
        table.create(op.get_bind())


def downgrade() -> None:
    """Drop the tables of this revision."""
    for table in (*JOB_TABLES, *GATEWAY_TABLES):
        table.drop(op.get_bind())
