"""What rules found wrong, and where they stand with each thing."""

from alembic import op

from ledger.findings_tables import TABLES

revision = "findings_0001"
down_revision = None
branch_labels = ("findings",)
depends_on = ("ledger_0002_chain_tx",)


def upgrade() -> None:
    """Create the tables."""
    for table in TABLES:
        table.create(op.get_bind())


def downgrade() -> None:
    """Drop the tables: all of it follows from the log."""
    for table in reversed(TABLES):
        table.drop(op.get_bind())
