"""The index that EPCIS queries read."""

from alembic import op

from ledger.queryindex_tables import TABLES

revision = "queries_0001"
down_revision = None
branch_labels = ("queries",)
depends_on = ("ledger_0002_chain_tx",)


def upgrade() -> None:
    """Create the tables."""
    for table in TABLES:
        table.create(op.get_bind())


def downgrade() -> None:
    """Drop the tables: all of it follows from the log."""
    for table in reversed(TABLES):
        table.drop(op.get_bind())
