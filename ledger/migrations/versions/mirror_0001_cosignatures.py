"""Cosignatures of registered mirrors, and their reports of differences."""

from alembic import op

from ledger.cosignatures import TABLES

revision = "mirror_0001"
down_revision = None
branch_labels = ("mirror",)
depends_on = ("ledger_0002_chain_tx",)


def upgrade() -> None:
    """Create the tables."""
    for table in TABLES:
        table.create(op.get_bind())
