"""The audit's memory of how far it has checked."""

from alembic import op

from ledger.audit_tables import TABLES

revision = "audit_0001"
down_revision = None
branch_labels = ("audit",)
depends_on = ("ledger_0002_chain_tx",)


def upgrade() -> None:
    """Create the tables."""
    for table in TABLES:
        table.create(op.get_bind())
