"""Readings and last states of sensors, rules, alarms, and their webhooks."""

from alembic import op

from ingest.alarms_tables import TABLES

revision = "alarms_0001"
down_revision = None
branch_labels = ("alarms",)
depends_on = ("ledger_0002_chain_tx",)


def upgrade() -> None:
    """Create the tables."""
    for table in TABLES:
        table.create(op.get_bind())


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        table.drop(op.get_bind())
