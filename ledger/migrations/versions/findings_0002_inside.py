"""Expiry inside units: more is kept of events and things, so the findings are made again from the log."""

from alembic import op

from ledger.findings import FINDINGS
from ledger.findings_tables import TABLES
from ledger.tables import followers

revision = "findings_0002"
down_revision = "findings_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forget what was derived; the follower begins again at leaf 0."""
    for table in TABLES:
        op.execute(table.delete())
    op.execute(followers.delete().where(followers.c.name == FINDINGS))
